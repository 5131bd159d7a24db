"""How good ranked lists are: hits, variety, novelty and popularity bias, each with its interval.

Here: judging lists against what users took next, means with 95 % intervals, and the paired difference of two models.
Not here: which queries are asked (evaluation/, training.py), and what a difference decides (gate.py).
"""

from dataclasses import dataclass, fields
from typing import Any, cast

import numpy as np
import pyarrow as pa
from scipy import sparse
from scipy.special import stdtrit

from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import (
    Bools,
    Floats,
    Ints,
    flatten,
    positions,
    starts,
    strings,
    to_numpy,
    vocabulary,
)

CONFIDENCE = 0.95
_PAIRS = 200_000


@dataclass(frozen=True)
class Judged:
    """Figures of N lists over R recipes, one a query.

    Attributes:
        user: (N,) who asked, by number; queries of one user are no independent evidence.
        ndcg: (N,) normalised discounted cumulative gain of binary relevance.
        recall: (N,) share of the query's targets that are listed.
        reciprocal_rank: (N,) 1 / place of the first target listed, 0 without one.
        diversity: (N,) mean over the pairs in a list of 1 - Jaccard index of their tags. Two recipes without tags
            count as alike, and a list of fewer than two recipes has 0.
        novelty: (N,) mean of -log2 of each listed recipe's share of past interactions, in bits; 0 of an empty list.
        popularity: (N,) mean share of past interactions of the listed recipes.
        target_popularity: (N,) the same of the targets.
        recipes: (N, length) positions in the catalogue, best first, -1 where a list is shorter.
        alive: (R,) recipes that could be listed.
    """

    user: Ints
    ndcg: Floats
    recall: Floats
    reciprocal_rank: Floats
    diversity: Floats
    novelty: Floats
    popularity: Floats
    target_popularity: Floats
    recipes: Ints
    alive: Bools

    @property
    def length(self) -> int:
        """Places judged in each list."""
        return int(self.recipes.shape[1])

    @property
    def listed(self) -> Ints:
        """(R,) how many of the lists hold each recipe."""
        return np.bincount(self.recipes[self.recipes >= 0], minlength=len(self.alive)).astype(np.int64)

    def of(self, queries: Ints | Bools) -> "Judged":
        """The same of some queries, by position or mask."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        return Judged(**{name: value if name == "alive" else value[queries] for name, value in chosen.items()})


@dataclass(frozen=True)
class Difference:
    """Mean NDCG of the challenger minus that of the champion, and its 95 % interval."""

    mean: float
    low: float
    high: float


def judge(lists: pa.Table, queries: pa.Table, catalogue: Catalogue, popularity: pa.Table, length: int = 10) -> Judged:
    """Judge the first `length` recipes of each list.

    NDCG is binary: DCG sums 1 / log2(1 + place) over the targets listed, and is divided by that of a list that starts
    with all targets. With one target it is 1 / log2(1 + place). (Järvelin and Kekäläinen, 2002.)

    Args:
        lists: `recipe_ids`, a list column, as ranking.rank returns it; a recipe at most once a list.
        queries: row by row what each list was asked for: `asked_by`, the user, and `target`, the recipe that came
            next, or `targets`, a list column.
        catalogue: the recipes that can be listed.
        popularity: `recipe_id` and `interactions` before the first query, one row a recipe; one interaction is added
            to every recipe, so that a new one has a share.
        length: places judged.

    Raises:
        ValueError: lists and queries differ in number.
    """
    count, size = len(lists), len(catalogue.recipe_ids)
    if count != len(queries):
        raise ValueError(f"{count} lists for {len(queries)} queries")
    row, ids = flatten(lists["recipe_ids"])
    place = np.arange(len(row)) - starts(np.bincount(row, minlength=count))[row]
    first = place < length
    listed = np.full((count, length), -1, dtype=np.int64)
    listed[row[first], place[first]] = catalogue.index_of(ids)[first]

    known = np.append(np.zeros(size), 0.0)
    np.add.at(known, catalogue.index_of(popularity["recipe_id"]), to_numpy(popularity["interactions"], 0))
    share = (known[:size] + 1) / (known[:size] + 1).sum()

    asked, target, wanted = _targets(queries, catalogue, count)
    pairs = asked * (size + 1) + target
    cells = np.arange(count)[:, None] * (size + 1) + listed
    hit = (listed >= 0) & np.isin(cells, pairs[target >= 0])
    gain = 1 / np.log2(np.arange(length) + 2)
    ideal = np.append(0.0, np.cumsum(gain))[np.minimum(wanted, length)]
    best = np.where(hit.any(axis=1), hit.argmax(axis=1), -1)
    sizes = (listed >= 0).sum(axis=1)
    users = strings(queries["asked_by"])
    return Judged(
        user=positions(users, vocabulary(users)),
        ndcg=_ratio((hit * gain).sum(axis=1), ideal),
        recall=_ratio(hit.sum(axis=1), wanted),
        reciprocal_rank=np.where(best >= 0, 1 / (np.maximum(best, 0) + 1), 0.0),
        diversity=_diversity(listed, catalogue),
        novelty=_ratio(np.where(listed >= 0, -np.log2(share)[listed], 0.0).sum(axis=1), sizes),
        popularity=_ratio(np.where(listed >= 0, share[listed], 0.0).sum(axis=1), sizes),
        target_popularity=_ratio(
            np.bincount(asked, weights=np.where(target >= 0, share[target], 0.0), minlength=count), wanted
        ),
        recipes=listed,
        alive=catalogue.alive,
    )


def summary(judged: Judged) -> dict[str, Any]:
    """Every metric with its 95 % interval (`..._ci`: [low, high]); users are clusters.

    Means and the ratio behind `popularity_bias` use the linearised clustered variance, with Student's t for the number
    of users less one. Coverage (share of the living recipes that are in any list) has the delete-one-user jackknife.
    `popularity_bias` is how popular the listed recipes are compared with what users took: 1 is alike, 2 twice as
    popular. It is None where no target was popular at all. With fewer than two users an interval is the whole range.
    """
    at = f"at_{judged.length}"
    one = np.ones(len(judged.user))
    most = float(judged.novelty.max(initial=0.0))
    figures = {
        f"ndcg_{at}": _ratio_interval(judged.ndcg, one, judged.user, 1.0),
        f"recall_{at}": _ratio_interval(judged.recall, one, judged.user, 1.0),
        "mrr": _ratio_interval(judged.reciprocal_rank, one, judged.user, 1.0),
        f"coverage_{at}": _coverage(judged),
        f"diversity_{at}": _ratio_interval(judged.diversity, one, judged.user, 1.0),
        "novelty": _ratio_interval(judged.novelty, one, judged.user, most),
    }
    document: dict[str, Any] = {}
    for name, (mean, low, high) in figures.items():
        document[name] = mean
        document[name.removesuffix(f"_{at}") + "_ci"] = [low, high]
    if judged.target_popularity.any():
        mean, low, high = _ratio_interval(judged.popularity, judged.target_popularity, judged.user, np.inf)
        document |= {"popularity_bias": mean, "popularity_bias_ci": [low, high] if np.isfinite(high) else None}
    else:
        document |= {"popularity_bias": None, "popularity_bias_ci": None}
    return document | {"queries": len(judged.user), "users": len(np.unique(judged.user))}


def difference(challenger: Judged, champion: Judged) -> Difference:
    """How much the challenger is better on the same queries: paired by query, clustered by user.

    With fewer than two users nothing is known, and the interval is -1 to 1.

    Raises:
        ValueError: the two did not answer the same queries.
    """
    if not np.array_equal(challenger.user, champion.user):
        raise ValueError("both models must be judged on the same queries, in the same order")
    better = challenger.ndcg - champion.ndcg
    mean, half = _clustered(better, np.ones(len(better)), challenger.user)
    return Difference(mean, max(mean - half, -1.0), min(mean + half, 1.0))


def mean_and_error(values: Floats, user: Ints) -> tuple[float, float]:
    """The mean of (N,) values and its standard error, users being clusters; infinite with fewer than two users."""
    return _ratio_and_error(values, np.ones(len(values)), user)


def _targets(queries: pa.Table, catalogue: Catalogue, count: int) -> tuple[Ints, Ints, Ints]:
    """Distinct targets as (query, recipe or -1) pairs, and how many each query has, the unknown included."""
    if "targets" in queries.column_names:
        asked, ids = flatten(queries["targets"])
    else:
        ids = strings(queries["target"])
        asked = np.arange(count)
    ids = strings(ids)
    words = vocabulary(ids)
    pairs = np.unique(asked * max(len(words), 1) + positions(ids, words))
    asked, word = np.divmod(pairs, max(len(words), 1))
    return asked, catalogue.index_of(words)[word], np.bincount(asked, minlength=count).astype(np.int64)


def _diversity(listed: Ints, catalogue: Catalogue) -> Floats:
    """(N,) mean distance of the pairs in each list; every pair of tag sets is compared once."""
    size = catalogue.patterns.shape[0]
    first, second = np.triu_indices(listed.shape[1], 1)
    present = (listed[:, first] >= 0) & (listed[:, second] >= 0)
    pattern = catalogue.pattern[listed]
    pairs = np.sort(np.stack([pattern[:, first][present], pattern[:, second][present]]), axis=0)
    keys, group = np.unique(pairs[0] * max(size, 1) + pairs[1], return_inverse=True)
    left, right = np.divmod(keys, max(size, 1))
    tags = sparse.csr_array(catalogue.patterns.astype(bool).astype(np.float64))
    sizes = np.diff(tags.indptr)
    distance = np.zeros(len(keys))
    for start in range(0, len(keys), _PAIRS):
        part = slice(start, start + _PAIRS)
        common = np.asarray(tags[left[part]].multiply(tags[right[part]]).sum(axis=1)).ravel()
        either = sizes[left[part]] + sizes[right[part]] - common
        distance[part] = np.where(either > 0, 1 - common / np.maximum(either, 1), 0.0)
    rows = np.nonzero(present)[0]
    return _ratio(np.bincount(rows, weights=distance[group], minlength=len(listed)), present.sum(axis=1))


def _coverage(judged: Judged) -> tuple[float, float, float]:
    row, _ = np.nonzero(judged.recipes >= 0)
    recipe = judged.recipes[judged.recipes >= 0]
    alive = max(int(judged.alive.sum()), 1)
    pairs = np.unique(recipe * (judged.user.max(initial=0) + 1) + judged.user[row])
    by_recipe, user = np.divmod(pairs, judged.user.max(initial=0) + 1)
    times = np.bincount(by_recipe, minlength=len(judged.alive))
    mean = float((times > 0).sum() / alive)
    users = np.unique(judged.user)
    if len(users) < 2:
        return mean, 0.0, 1.0
    alone = times[by_recipe] == 1
    lost = np.bincount(user[alone], minlength=users[-1] + 1)[users] / alive
    error = np.sqrt((len(users) - 1) / len(users) * ((lost - lost.mean()) ** 2).sum())
    half = float(_quantile(len(users)) * error)
    return mean, max(mean - half, 0.0), min(mean + half, 1.0)


def _ratio_interval(top: Floats, bottom: Floats, user: Ints, most: float) -> tuple[float, float, float]:
    """sum(top) / sum(bottom) and its interval within 0 .. most."""
    ratio, half = _clustered(top, bottom, user)
    return ratio, max(ratio - half, 0.0), min(ratio + half, most)


def _clustered(top: Floats, bottom: Floats, user: Ints) -> tuple[float, float]:
    """A ratio of sums and half the width of its interval, infinite with fewer than two users."""
    ratio, error = _ratio_and_error(top, bottom, user)
    return ratio, float(_quantile(len(np.unique(user))) * error) if np.isfinite(error) else np.inf


def _ratio_and_error(top: Floats, bottom: Floats, user: Ints) -> tuple[float, float]:
    """A ratio of sums and its standard error.

    Var = U / (U - 1) * sum over users of (sum of top - ratio * bottom)^2 / (sum of bottom)^2 (Cochran, 1977).
    """
    total = float(bottom.sum())
    if not total:
        return 0.0, np.inf
    ratio = float(top.sum()) / total
    users, cluster = np.unique(user, return_inverse=True)
    if len(users) < 2:
        return ratio, np.inf
    residual = np.bincount(cluster, weights=top - ratio * bottom)
    return ratio, float(np.sqrt(len(users) / (len(users) - 1) * (residual**2).sum()) / total)


def _quantile(users: int) -> float:
    return float(stdtrit(users - 1, 0.5 + CONFIDENCE / 2))


def _ratio(top: Any, bottom: Any) -> Floats:
    """Quotients, 0 where there is nothing to divide by."""
    return cast("Floats", np.divide(top, bottom, out=np.zeros(len(top)), where=np.asarray(bottom) > 0))
