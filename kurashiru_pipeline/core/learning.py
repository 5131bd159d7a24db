"""What behaviour teaches the kernel: the weights of its rules, and a re-ranker over its candidates.

Here: the search for the transitions' and the interest's weights, the blend, the LightGBM re-ranker, the dial.
Not here: what is promoted (gate.py), where the queries come from (candidate.py, evaluation/), the kernel itself.

Everything is learned from queries whose answers came after what the kernel knew then (`Window`). The newest quarter
of the windows is kept for choosing (rounds of boosting, whether the re-ranker is worth having).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.optimize import minimize

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import (
    Bools,
    Floats,
    Ints,
    flat,
    flatten,
    positions,
    starts,
    strings,
    to_numpy,
    vocabulary,
)
from kurashiru_pipeline.core.metrics import Judged, judge, mean_and_error
from kurashiru_pipeline.core.model import BLEND_SCALE, FEATURES, LEARNABLE, feature_values
from kurashiru_pipeline.core.ranking import Ranker, rank
from kurashiru_pipeline.core.scoring import blend_weights, source_values
from kurashiru_pipeline.core.training import Counts, Learned, make_artifact
from kurashiru_pipeline.core.weights import Weights

LENGTH = 10
MIN_QUERIES = 100
"""Fewer answered queries than this teach nothing: the weights of weights.yaml stay."""
SEARCH_QUERIES, BLEND_QUERIES = 4_000, 8_000
"""At most so many queries, evenly chosen, are used where more teach little and cost time."""
MIN_SHOWN_LISTS = 2_000
"""From so many clicked lists on the re-ranker learns from what was really shown."""

_LARGEST, _LARGEST_SUM = 10.0, 32.0  # of the learned blend
_GENTLE = 1e-3  # L2 of the blend
_SEARCHED: Mapping[str, tuple[float, ...]] = {
    "interest.session": (0.0, 0.3, 1.0, 3.0),
    "transitions.reverse_share": (0.2, 0.5, 1.0),
    "transitions.to_power": (0.3, 0.5),
    "interest.newest": (0.0, 0.3, 1.0, 3.0),
    "interest.steady": (0.0, 0.03, 0.1, 0.3),
    "transitions.live_share": (0.0, 1.0, 4.0),
    "interest.recent": (0.0, 0.3, 1.0),
}
"""Weights that no formula finds, with the values tried, one after the other."""
_DIALS = tuple(round(0.03 * nth, 2) for nth in range(1, 21))
_BLOCKS = 4
"""Of windows: each is judged by the blend of the others when the dial is chosen."""
_BOOSTING: Mapping[str, Any] = {
    "objective": "lambdarank",
    "num_leaves": 15,
    "learning_rate": 0.05,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.7,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    "lambdarank_truncation_level": 20,
    "num_threads": 1,  # threads that wait for each other on a busy machine took 15 times as long
    "deterministic": True,
    "seed": 20,
    "verbose": -1,
}
_ROUNDS = (10, 25, 50, 75, 100, 150, 200)
"""Numbers of trees tried: few enough to be told apart by the newest windows."""
_MARGIN = 0.005
"""By so much the best of them must beat the blend, since the same windows chose it."""


@dataclass(frozen=True)
class Window:
    """Queries asked about one moment, with what the kernel knew then.

    Attributes:
        queries: rows of profiles.PROFILE_SCHEMA, `target`, the recipe that came next, and `asked_by`, who asked:
            queries of one user are no independent evidence.
        catalogue: the recipes as known then.
        popularity: live popularity (recipe_id, decayed_count, decayed_at).
        counts: what had been counted before.
        as_of: the moment (UTC).
    """

    queries: pa.Table
    catalogue: Catalogue
    popularity: pa.Table
    counts: Counts
    as_of: datetime


@dataclass(frozen=True)
class ShownLists:
    """Lists that were really shown, one row of `window.queries` each, and what came of them.

    Attributes:
        window: `target` is not looked at.
        recipe_ids, positions, clicked: list columns, one entry a recipe shown: the recipe, its place on the screen (0
            on top), and whether it was clicked.
    """

    window: Window
    recipe_ids: Any
    positions: Any
    clicked: Any


@dataclass(frozen=True)
class _Examples:
    """Candidates of queries, query by query: (N, features) values, (N,) cool-down and label, sizes of the queries."""

    values: Floats
    cool_down: Floats
    label: Floats
    sizes: Ints
    place: Ints

    @property
    def row(self) -> Ints:
        return np.repeat(np.arange(len(self.sizes)), self.sizes)


def learn(
    windows: Sequence[Window],
    weights: Weights,
    *,
    shown: Sequence[ShownLists] = (),
    with_model: bool = True,
    on_step: Callable[[str], None] = lambda _: None,
) -> Learned:
    """Weights and a re-ranker for the kernel.

    1. One after the other, the weights of _SEARCHED take the value with the best NDCG of the blend fitted to it, if it
       is better by more than the standard error of the difference.
    2. The blend is the maximum of the likelihood of the targets among the candidates (multinomial logit: McFadden
       1974), scaled so that `rules` weighs 1.
    3. The re-ranker (LambdaMART: Burges 2010) learns on the shortlists what to add to the blend; positions of shown
       lists are taken out as bias by LightGBM. It is kept only if it foretells the newest windows better.
    4. The dial is turned as far as `diversity.loss_budget` of NDCG goes in windows that the blend has not seen.

    Args:
        windows: in the order of time; the newest quarter is for choosing. None of their queries may be used to judge.
        weights: where learning starts, and which weights it may set.
        shown: lists with clicks; from MIN_SHOWN_LISTS on they teach the re-ranker in the place of the windows.
        with_model: whether to train a re-ranker.
        on_step: told what is being done.

    Returns:
        What was learned; nothing if there are fewer than MIN_QUERIES queries.
    """
    windows = [window for window in windows if len(window.queries)]
    if sum(len(window.queries) for window in windows) < MIN_QUERIES:
        return Learned(figures={"learning_queries": sum(len(window.queries) for window in windows)})
    on_step("searching the weights of transitions and interest")
    values = _search(_thinned(windows, SEARCH_QUERIES), weights)
    on_step("fitting the blend")
    some = _thinned(windows, BLEND_QUERIES)
    _, values = _fit_blend(some, weights, values)
    _, values = _fit_blend(some, weights, values)  # its candidates depend on the blend itself
    figures: dict[str, Any] = {"learning_queries": sum(len(window.queries) for window in windows)}
    on_step("turning the dial")
    dial, told = _choose_dial(some, weights, values)
    figures |= told
    model = ""
    if with_model:
        on_step("training the re-ranker")
        model, told = _train_model(windows, weights, values, shown)
        figures |= told
    return Learned(values | dial, model, figures)


def _thinned(windows: Sequence[Window], most: int) -> list[Window]:
    """The windows with at most so many queries in all, evenly chosen."""
    every = -(-sum(len(window.queries) for window in windows) // most)
    return [
        replace(window, queries=window.queries.take(np.arange(0, len(window.queries), every))) for window in windows
    ]


def _artifact(window: Window, weights: Weights, learned: Learned) -> ModelArtifact:
    return make_artifact(window.counts, weights, version="learning", learned=learned)


def _search(windows: Sequence[Window], weights: Weights) -> dict[str, float]:
    """Coordinate search: one weight at a time, in the order of _SEARCHED, from those of weights.yaml on.

    A value takes the place of the one before if the blend fitted to it is better by more than the standard error of the
    difference: what few queries cannot tell apart stays as it is.
    """
    best, values = _fit_blend(windows, weights, {})
    users = _users(windows)
    for name in filter(weights.may_learn, _SEARCHED):
        section, last = name.split(".")
        now = getattr(getattr(weights, section), last)
        for value in _SEARCHED[name]:
            tried = values | {name: value}
            if value == now or (section == "interest" and not _interest_left(weights, tried)):
                continue
            gains, fitted = _fit_blend(windows, weights, tried)
            better, error = mean_and_error(gains - best, users)
            if better > error:
                best, values = gains, fitted
    return values


def _interest_left(weights: Weights, values: Mapping[str, float]) -> bool:
    interest = weights.with_learned(values).interest
    return interest.recent + interest.session + interest.steady + interest.newest > 0


def _fit_blend(
    windows: Sequence[Window], weights: Weights, values: Mapping[str, float]
) -> tuple[Floats, dict[str, float]]:
    """The blend that makes the targets most likely among the candidates, which a blend in `values` puts forward.

    Returns:
        (queries,) NDCG@10 of the candidates by the fitted blend, and `values` with it.
    """
    whole = _joined([_candidates_of(window, weights, Learned(dict(values))) for window in windows])
    table, label, row = whole.values * _cooled(whole.cool_down), whole.label > 0, whole.row
    queries = len(whole.sizes)
    answered = (np.bincount(row, weights=label, minlength=len(whole.sizes)) > 0)[row]
    if not answered.any() or not any(weights.may_learn(f"blend.{name}") for name in LEARNABLE):
        return _gains(table @ blend_weights(weights.with_learned(values), LEARNABLE), label, row, queries), dict(values)
    found = _most_likely(table[answered], label[answered], row[answered], values)
    size = np.abs(found)
    scale = max(found[LEARNABLE.index("rules")], size.max() / _LARGEST, size.sum() / _LARGEST_SUM)
    scaled = {f"blend.{name}": round(float(value / scale), 6) for name, value in zip(LEARNABLE, found, strict=True)}
    return _gains(table @ found, label, row, queries), dict(values) | scaled | {BLEND_SCALE: round(float(scale), 6)}


def _most_likely(table: Floats, label: Bools, row: Ints, values: Mapping[str, float]) -> Floats:
    """(sources,) coefficients of the multinomial logit, searched from the blend in `values` on."""
    row = np.unique(row, return_inverse=True)[1]
    first = np.flatnonzero(np.diff(row, prepend=-1))
    told, queries = table[label].sum(axis=0), len(first)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        score = table @ parameters
        top = np.maximum.reduceat(score, first)
        odds = np.exp(score - top[row])
        total = np.add.reduceat(odds, first)
        likelihood = (np.log(total) + top).sum() - told @ parameters
        gradient = table.T @ (odds / total[row]) - told
        value = likelihood / queries + _GENTLE * parameters @ parameters
        return float(value), gradient / queries + 2 * _GENTLE * parameters

    start = [values.get(f"blend.{name}", float(name == "rules")) for name in LEARNABLE]
    bounds = [(0.05, None) if name == "rules" else (None, None) for name in LEARNABLE]
    options = {"maxiter": 200, "ftol": 1e-7}
    begin = np.array(start) * values.get(BLEND_SCALE, 1.0)
    found: Floats = minimize(loss, begin, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return found


def _gains(score: Floats, label: Bools, row: Ints, queries: int) -> Floats:
    """(queries,) NDCG@10 of queries with at most one target each; of equal scores the target comes last."""
    best = np.full(queries, np.inf)
    best[row[label]] = score[label]
    place = np.bincount(row, weights=score >= best[row], minlength=queries)
    hit = (place >= 1) & (place <= LENGTH)
    gains = np.zeros(queries)
    gains[hit] = 1 / np.log2(place[hit] + 1)
    return gains


def _users(windows: Sequence[Window]) -> Ints:
    """(queries,) who asked, by number."""
    names = strings(pa.chunked_array([chunk for window in windows for chunk in window.queries["asked_by"].chunks]))
    return positions(names, vocabulary(names))


def _cooled(cool_down: Floats) -> Floats:
    """(N, sources) what cool-down does to each source: all but `seen` are multiplied by it."""
    return np.where(np.array(LEARNABLE) == "seen", 1.0, cool_down[:, None])


def _candidates_of(window: Window, weights: Weights, learned: Learned) -> _Examples:
    """All candidates of a window's queries, with the values of LEARNABLE."""
    ranker = _ranker(window, weights, learned)
    target = window.catalogue.index_of(window.queries["target"])
    parts = []
    for chunk in ranker.chunks():
        candidates = ranker.candidates(chunk)
        row, column = np.nonzero(candidates.valid)
        values = source_values(ranker.recipes, candidates, row, column, LEARNABLE)
        label = candidates.recipe[row, column] == target[chunk[0] + row]
        cool_down = candidates.cool_down[row, candidates.place(row, column)]
        parts.append((values, cool_down, label, np.bincount(row, minlength=chunk[1] - chunk[0])))
    values, cool_down, label, sizes = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _Examples(values, cool_down, label.astype(np.float64), sizes, np.zeros(0, np.int64))


def _ranker(window: Window, weights: Weights, learned: Learned) -> Ranker:
    artifact = _artifact(window, weights, learned)
    return Ranker.of(
        window.queries, window.catalogue, window.popularity, artifact, weights, window.as_of, list_length=LENGTH
    )


def _train_model(
    windows: Sequence[Window], weights: Weights, values: Mapping[str, float], shown: Sequence[ShownLists]
) -> tuple[str, dict[str, Any]]:
    """The re-ranker's text, '' where none helps, and figures."""
    import lightgbm  # noqa: PLC0415 - heavy, and only training needs it

    learned = Learned(dict(values))
    clicked = sum(len(lists.window.queries) for lists in shown)
    parts = [_shortlists_of(window, weights, learned) for window in windows]
    kept = max(len(parts) // 4, 1)
    earlier, newest = parts[:-kept], _joined(parts[-kept:])
    taught_by = [_shown_examples(lists, weights, learned) for lists in shown] if clicked >= MIN_SHOWN_LISTS else earlier
    figures: dict[str, Any] = {
        "model_learned_from": "impressions" if clicked >= MIN_SHOWN_LISTS else "next items",
        "clicked_lists": clicked,
    }
    if not any((part.label > 0).any() for part in taught_by) or not (newest.label > 0).any():
        return "", figures | {"model_kept": False}

    def start(part: _Examples) -> Floats:
        return values.get(BLEND_SCALE, 0.0) * part.values[:, FEATURES.index("blend")]

    def dataset(parts: Sequence[_Examples]) -> Any:
        whole = _answered(_joined(parts))
        return lightgbm.Dataset(
            whole.values,
            whole.label,
            group=whole.sizes,
            position=whole.place if len(whole.place) else None,
            init_score=start(whole),
            feature_name=list(FEATURES),
        )

    booster = lightgbm.train(dict(_BOOSTING), dataset(taught_by), max(_ROUNDS))
    before = _shortlist_ndcg(newest, None)
    by_rounds = {}
    for rounds in _ROUNDS:
        added = booster.predict(newest.values, num_iteration=rounds, num_threads=1)
        by_rounds[rounds] = _shortlist_ndcg(newest, start(newest) + added)
    rounds = max(by_rounds, key=by_rounds.__getitem__)
    after = by_rounds[rounds]
    is_better = after > (1 + _MARGIN) * before
    figures |= {"blend_ndcg": before, "model_ndcg": after, "rounds": rounds, "model_kept": is_better}
    if not is_better:
        return "", figures
    if taught_by is earlier:  # the newest windows teach as well, now that they have chosen
        booster = lightgbm.train(dict(_BOOSTING), dataset(parts), rounds)
    importance = booster.feature_importance("gain")
    figures["importance"] = {
        name: round(float(gain / max(importance.sum(), 1e-12)), 4)
        for name, gain in sorted(zip(FEATURES, importance, strict=True), key=lambda pair: -pair[1])[:10]
    }
    return booster.model_to_string(num_iteration=rounds), figures


def _joined(parts: Sequence[_Examples]) -> _Examples:
    columns = zip(*((part.values, part.cool_down, part.label, part.sizes, part.place) for part in parts), strict=True)
    return _Examples(*(np.concatenate(column) for column in columns))


def _answered(part: _Examples) -> _Examples:
    """The queries with a label above 0; the others say nothing of order."""
    has = np.bincount(part.row, weights=part.label, minlength=len(part.sizes)) > 0
    kept = has[part.row]
    place = part.place[kept] if len(part.place) else part.place
    return _Examples(part.values[kept], part.cool_down[kept], part.label[kept], part.sizes[has], place)


def _shortlists_of(window: Window, weights: Weights, learned: Learned) -> _Examples:
    """The shortlists of a window's queries with the values of FEATURES, in the order of the blend."""
    ranker = replace(_ranker(window, weights, learned), model="")
    target = window.catalogue.index_of(window.queries["target"])
    parts = []
    for chunk in ranker.chunks():
        candidates = ranker.candidates(chunk, with_parts=True)
        shortlist = ranker.shortlist(candidates)
        row, at = np.nonzero(shortlist.present)
        values = feature_values(ranker.recipes, candidates, ranker.weights, row, shortlist.column[row, at])
        label = shortlist.recipe[row, at] == target[chunk[0] + row]
        parts.append((values, label, np.bincount(row, minlength=chunk[1] - chunk[0])))
    values, label, sizes = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _Examples(values, np.ones(len(values)), label.astype(np.float64), sizes, np.zeros(0, np.int64))


def _shown_examples(lists: ShownLists, weights: Weights, learned: Learned) -> _Examples:
    """What was shown, as far as it is among the kernel's candidates: clicks as labels, with the places."""
    ranker = replace(_ranker(lists.window, weights, learned), model="")
    query, recipe_ids = flatten(lists.recipe_ids)
    recipe = lists.window.catalogue.index_of(recipe_ids)
    place = to_numpy(flat(lists.positions), 0).astype(np.int64)
    clicked = to_numpy(flat(lists.clicked), False).astype(np.float64)
    offsets = starts(np.bincount(query, minlength=len(lists.recipe_ids)))
    parts = []
    for start, end in ranker.chunks():
        candidates = ranker.candidates((start, end), with_parts=True)
        entries = np.arange(offsets[start], offsets[end])
        row, column = _columns_of(candidates.recipe, candidates.valid, query[entries] - start, recipe[entries])
        found = np.flatnonzero(column >= 0)
        values = feature_values(ranker.recipes, candidates, ranker.weights, row[found], column[found])
        sizes = np.bincount(row[found], minlength=end - start)
        parts.append((values, clicked[entries][found], place[entries][found], sizes))
    values, label, places, sizes = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _Examples(values, np.ones(len(values)), label, sizes, places)


def _columns_of(recipes: Ints, valid: Bools, row: Ints, recipe: Ints) -> tuple[Ints, Ints]:
    """(N,) row and column of recipes among the candidates of their rows, column -1 for those that are none."""
    base = int(max(recipes.max(initial=0), recipe.max(initial=0))) + 1
    at, column = np.nonzero(valid)
    keys = at * base + recipes[at, column]
    order = np.argsort(keys)
    wanted = row * base + recipe
    place = np.minimum(np.searchsorted(keys[order], wanted), max(len(keys) - 1, 0))
    hit = (keys[order][place] == wanted) & (recipe >= 0) if len(keys) else np.zeros(len(wanted), dtype=bool)
    return row, np.where(hit, column[order][place] if len(keys) else -1, -1)


def _shortlist_ndcg(part: _Examples, score: Any) -> float:
    """NDCG@10 of shortlists in their own order, or by a score."""
    row = part.row
    nth = np.arange(len(row)) - starts(part.sizes)[row]
    if score is not None:
        order = np.lexsort((nth, -score, row))
        nth = np.empty(len(row), np.int64)
        nth[order] = np.arange(len(row)) - starts(part.sizes)[row]
    hit = (part.label > 0) & (nth < LENGTH)
    return float((1 / np.log2(nth[hit] + 2)).sum() / max(len(part.sizes), 1))


def _choose_dial(
    windows: Sequence[Window], weights: Weights, values: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, Any]]:
    """The dial of the home list, judged on windows that its blend has not seen.

    The windows are cut into blocks one after the other in time, and each is ranked by the blend of the others. The dial
    is turned up step by step, as long as the loss of NDCG and its standard error together stay within the budget, and,
    where lists are still less varied than `diversity.least`, the loss alone. The first step that fails is the end, so
    that trying many costs no certainty (fixed-sequence testing). Without the re-ranker, which has seen the answers of
    these windows. One window alone has no others: the dial stays as it is.
    """
    if not weights.may_learn("diversity.dials.home") or not len(windows[-1].catalogue.tags) or len(windows) < 2:
        return {}, {}
    blocks = [block.tolist() for block in np.array_split(np.arange(len(windows)), min(_BLOCKS, len(windows)))]
    blends = {
        nth: _fit_blend([window for other, window in enumerate(windows) if other not in block], weights, values)[1]
        for block in blocks
        for nth in block
    }
    users = _users(windows)

    def judged(dial: float) -> tuple[Floats, float]:
        lists = [
            _judged_lists(window, weights, Learned(blends[nth] | {"diversity.dials.home": dial}))
            for nth, window in enumerate(windows)
        ]
        diversity = np.concatenate([made.diversity for made in lists])
        return np.concatenate([made.ndcg for made in lists]), float(diversity.mean())

    whole, varied = judged(0.0)
    budget = weights.diversity.loss_budget * whole.mean()
    figures = {"dial": 0.0, "undiversified_ndcg": float(whole.mean()), "dial_ndcg": float(whole.mean())}
    figures |= {"dial_loss_error": 0.0, "undiversified_diversity": varied, "dial_diversity": varied}
    for dial in _DIALS:
        kept, more_varied = judged(dial)
        lost, error = mean_and_error(whole - kept, users)
        if lost + (error if varied >= weights.diversity.least else 0.0) > budget:
            break
        varied = more_varied
        figures |= {"dial": dial, "dial_ndcg": float(kept.mean()), "dial_loss_error": error, "dial_diversity": varied}
    return {"diversity.dials.home": figures["dial"]}, figures


def _judged_lists(window: Window, weights: Weights, learned: Learned) -> Judged:
    """The lists that the kernel makes, held against the targets."""
    artifact = _artifact(window, weights, learned)
    args = (window.queries, window.catalogue, window.popularity, artifact, weights, window.as_of)
    taken = pa.table({"recipe_id": window.counts.recipe_ids, "interactions": window.counts.interactions})
    return judge(rank(*args, list_length=LENGTH), window.queries, window.catalogue, taken, LENGTH)
