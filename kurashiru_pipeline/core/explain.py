"""Why a list is as it is: what the kernel saw, did and left out for one user, and how another list differs.

Here: the steps of ranking.Ranker for one user in names and numbers, and what kept the other recipes out.
Not here: the steps themselves (scoring.py, ranking.py). They are taken, not repeated: a test holds `explain` to `rank`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

import numpy as np
import pyarrow as pa

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import Bools, Floats, Ints
from kurashiru_pipeline.core.model import FEATURES, contributions, feature_values
from kurashiru_pipeline.core.ranking import Ranker, Shortlist, Surface, for_strangers, rank
from kurashiru_pipeline.core.scoring import SOURCES, blend_weights, source_values
from kurashiru_pipeline.core.weights import Weights

_BLEND = FEATURES.index("blend")
_DECIMALS = 6


class Origin(StrEnum):
    """What puts recipes forward."""

    OWN = "own"
    RULES = "rules"
    EXTERNAL = "external"
    TASTE = "taste"
    LEFTOVERS = "leftovers"
    POPULAR = "popular"
    NEW = "new"


class Why(StrEnum):
    """What kept a recipe out of the list."""

    DELETED = "deleted"
    EXCLUDED = "excluded"
    BELOW_SHORTLIST = "below_shortlist"
    COOLED_DOWN = "cooled_down"
    AUTHOR_LIMIT = "author_limit"
    TAG_LIMIT = "tag_limit"
    KEPT_FOR_NEW = "kept_for_new"
    TOO_ALIKE = "too_alike"
    LESS_RELEVANT = "less_relevant"


class Slot(StrEnum):
    """How a recipe came by its place in the list."""

    BEST = "best"
    KEPT_FOR_NEW = "kept_for_new"
    OVER_LIMIT = "over_limit"


@dataclass(frozen=True)
class Scored:
    """A candidate's score.

    Attributes:
        origins: what put it forward, as Origin.
        values: of every source, unweighted.
        contributions: of every source, weighted; they add up to `blended`.
        cool_down: factor of all contributions but that of `seen`, unless these add up to less than 0.
        score: after cool-down.
        relevance: what the list is picked by; None beyond the shortlist.
        model: what each feature adds to the re-ranker's verdict, from which relevance is scaled; empty without one, or
            beyond the shortlist.
    """

    recipe_id: str
    origins: tuple[str, ...]
    values: dict[str, float]
    contributions: dict[str, float]
    blended: float
    cool_down: float
    score: float
    relevance: float | None
    model: dict[str, float]


@dataclass(frozen=True)
class Pick:
    """One step of re-ranking.

    Attributes:
        fit: relevance from 0 to 1 over the shortlist.
        likeness: mean Jaccard index of value tags with the recipes picked before.
        most_like: the likest of these, if any is like it.
        value: (1 - dial) * fit - dial * likeness, the highest of those that might be picked.
    """

    scored: Scored
    reason: str
    fit: float
    likeness: float
    most_like: str | None
    value: float
    slot: Slot


@dataclass(frozen=True)
class Dropped:
    """A recipe that did not make the list.

    Attributes:
        detail: what stood in its way: the author, the tag, or the recipe it is too much like.
        scored: None for recipes that are no candidates.
    """

    recipe_id: str
    why: Why
    detail: str
    scored: Scored | None


@dataclass(frozen=True)
class Source:
    """What one origin put forward: how many recipes, and the one with the best score."""

    origin: Origin
    count: int
    best: str | None


@dataclass(frozen=True)
class Explanation:
    """One user's ranking.

    Attributes:
        profile: the row of profiles.PROFILE_SCHEMA.
        is_stranger: whether it has no recipe; then what the model learned does not count (ranking.for_strangers).
        blend: weight of each source; learned ones have taken the place of those in weights.yaml.
        dial: weight of variety against relevance.
        new_places: places kept for new recipes.
        followed: of each recipe of the profile, its weight as a starting point of transitions; the largest is 1.
        sources: by origin.
        candidate_count: recipes put forward.
        shortlist_count: those that were compared for the list.
        picks: the list.
        dropped: the best first; recipes that may not be listed come last.
    """

    profile: dict[str, Any]
    as_of: datetime
    algorithm: str
    is_stranger: bool
    blend: dict[str, float]
    dial: float
    per_author: int
    per_tag: int
    new_places: int
    followed: tuple[float, ...] = ()
    sources: tuple[Source, ...] = ()
    candidate_count: int = 0
    shortlist_count: int = 0
    picks: tuple[Pick, ...] = ()
    dropped: tuple[Dropped, ...] = ()

    @property
    def recipe_ids(self) -> list[str]:
        """The list."""
        return [pick.scored.recipe_id for pick in self.picks]

    @property
    def reasons(self) -> list[str]:
        """Of each recipe of the list."""
        return [pick.reason for pick in self.picks]

    @property
    def scores(self) -> list[float]:
        """Of each recipe of the list, as the item has them."""
        return [pick.scored.relevance or 0.0 for pick in self.picks]


def explain(  # noqa: PLR0917 - as ranking.rank
    profile: pa.Table,
    catalogue: Catalogue,
    live_popularity: pa.Table,
    artifact: ModelArtifact | None,
    weights: Weights,
    as_of: datetime,
    *,
    list_length: int | None = None,
    suggestions: pa.Table | None = None,
    surface: Surface = "home",
) -> Explanation:
    """The list that ranking.rank makes of one profile, and how it came about.

    Args:
        profile: one row of profiles.PROFILE_SCHEMA; everything else as rank takes it.

    Raises:
        ValueError: there is not one profile, or as rank raises it.
        ConfigurationError: as rank raises it.
    """
    if len(profile) != 1:
        raise ValueError(f"one profile is explained at a time, not {len(profile)}")
    listed = rank(
        profile,
        catalogue,
        live_popularity,
        artifact,
        weights,
        as_of,
        list_length=list_length,
        suggestions=suggestions,
        surface=surface,
        is_threaded=False,
    )
    is_stranger = not len(profile["recipe_ids"][0])
    taught = for_strangers(artifact) if is_stranger and artifact is not None else artifact
    ranker = Ranker.of(profile, catalogue, live_popularity, taught, weights, as_of, list_length, suggestions, surface)
    explanation = Explanation(
        profile=profile.to_pylist()[0],
        as_of=as_of,
        algorithm=str(listed["algorithm"][0]),
        is_stranger=is_stranger,
        blend=_named(SOURCES, blend_weights(ranker.weights)),
        dial=ranker.dial,
        per_author=ranker.weights.limits.per_author,
        per_tag=ranker.weights.limits.per_tag,
        new_places=ranker.new_places,
    )
    if not ranker.chunks():
        return explanation
    steps = _Steps(ranker)
    return replace(
        explanation,
        followed=steps.followed(),
        sources=steps.sources(),
        candidate_count=len(steps.recipe),
        shortlist_count=len(steps.shortlisted),
        picks=steps.picks(listed["reasons"][0].as_py()),
        dropped=(*steps.dropped(), *steps.not_listable(artifact)),
    )


@dataclass(frozen=True)
class Move:
    """Where a recipe stands in a list and in the one that takes its place: from 1, None if it is not in it."""

    recipe_id: str
    before: int | None
    after: int | None


def moves(before: Sequence[str], after: Sequence[str]) -> list[Move]:
    """Moves from one list of recipe ids to another: in the order of the new one, then those that are gone."""
    was = {recipe_id: place for place, recipe_id in enumerate(before, start=1)}
    stays = [Move(recipe_id, was.pop(recipe_id, None), place) for place, recipe_id in enumerate(after, start=1)]
    return [*stays, *(Move(recipe_id, place, None) for recipe_id, place in was.items())]


class _Steps:
    """The steps of a ranker with one user, taken once.

    `column` is the place of each of the N candidates, best score first; `shortlisted` the positions among them of the
    M on the shortlist, in its order, and `picked` the positions among those M of the list.
    """

    def __init__(self, ranker: Ranker) -> None:
        self._ranker, self._weights, self._catalogue = ranker, ranker.weights, ranker.catalogue
        self._candidates = candidates = ranker.candidates((0, 1))
        self._shortlist = shortlist = ranker.shortlist(candidates)
        column = np.flatnonzero(candidates.valid[0])
        column = column[np.lexsort((candidates.recipe[0, column], -candidates.score[0, column]))]
        self.column = column
        self.recipe = candidates.recipe[0, column]
        self._values = source_values(ranker.recipes, candidates, np.zeros_like(column), column)
        self._worth = self._values * blend_weights(self._weights)
        self._origins = self._found_origins()
        present = np.flatnonzero(shortlist.present[0])
        self._relevance = shortlist.relevance[0, present]
        self.shortlisted = _positions(shortlist.column[0, present], column)
        self.picked = _positions(ranker.rerank(shortlist)[1], present)
        self._without = {why: self._listed(other) for why, other in self._bent_rules()}
        self._scored = self._all_scored(shortlist.column[0, present])

    def followed(self) -> tuple[float, ...]:
        """See Explanation."""
        users = self._ranker.users
        followed, count = np.zeros(len(users.own)), users.interest_offsets[-1]
        followed[users.interest_entry[:count]] = users.interest[:count]
        return tuple(_numbers(followed / max(followed.max(initial=0), np.finfo(float).tiny)))

    def sources(self) -> tuple[Source, ...]:
        """What each origin put forward; candidates are sorted, so the first of it is its best."""
        found = []
        for origin in Origin:
            at = np.flatnonzero(self._origins[origin])
            found.append(Source(origin, len(at), self._name(self.recipe[at[0]]) if len(at) else None))
        return tuple(found)

    def picks(self, reasons: list[str]) -> tuple[Pick, ...]:
        """The list, with the reasons that rank gave."""
        dial, fit, alike = self._ranker.dial, _from_0_to_1(self._relevance), self._alike()
        likeness = [alike[at, :nth].mean() if nth else 0.0 for nth, at in enumerate(self.picked)]
        return tuple(
            Pick(
                scored=self._scored[self.shortlisted[at]],
                reason=reason,
                fit=_number(fit[at]),
                likeness=_number(likeness[nth]),
                most_like=self._most_like(alike[at, :nth]),
                value=_number((1 - dial) * fit[at] - dial * likeness[nth]),
                slot=self._slot(nth),
            )
            for nth, (at, reason) in enumerate(zip(self.picked, reasons, strict=True))
        )

    def dropped(self) -> list[Dropped]:
        """Candidates that are not in the list: those on the shortlist, then the others."""
        picked = set(self.shortlisted[self.picked].tolist())
        place = {at: nth for nth, at in enumerate(self.shortlisted.tolist())}
        order = [*place, *(at for at in range(len(self.recipe)) if at not in place)]
        alike = self._alike()
        return [
            Dropped(
                self._scored[at].recipe_id, *self._why(at, alike[place[at]] if at in place else None), self._scored[at]
            )
            for at in order
            if at not in picked
        ]

    def not_listable(self, artifact: ModelArtifact | None) -> list[Dropped]:
        """Recipes that would be candidates if they might be listed: the user's own, those that follow them by the
        artifact, the strongest first, and suggestions."""
        users = self._ranker.users
        followers: Ints = np.zeros(0, np.int64)
        if artifact is not None:
            count = users.interest_offsets[-1]
            strength = users.interest[:count] @ artifact.neighbours[users.interest_row[:count]]
            order = np.argsort(-strength, kind="stable")[: np.count_nonzero(strength)]
            followers = self._catalogue.index_of(pa.array(artifact.recipe_ids[order].tolist(), pa.string()))
        found = np.concatenate([users.own, followers, users.external]).tolist()
        barred = [at for at in dict.fromkeys(found) if at >= 0 and not self._ranker.recipes.listable[at]]
        return [Dropped(self._name(at), *self._barred(at), None) for at in barred]

    def _found_origins(self) -> dict[Origin, Bools]:
        """Which of the candidates each origin put forward."""
        recipes, rules = self._ranker.recipes, self._weights.candidates
        pool = recipes.pool[np.argsort(-recipes.prior[recipes.pool], kind="stable")]
        of_taste = recipes.by_tag[self._ranker.users.taste[: rules.strongest]]
        of_leftovers = recipes.by_ingredient[self._ranker.users.leftover[: rules.strongest]]
        return {
            Origin.OWN: self._values[:, SOURCES.index("seen")] > 0,
            Origin.RULES: self._values[:, SOURCES.index("rules")] > 0,
            Origin.EXTERNAL: self._values[:, SOURCES.index("external")] > 0,
            Origin.TASTE: np.isin(self.recipe, of_taste),
            Origin.LEFTOVERS: np.isin(self.recipe, of_leftovers),
            Origin.POPULAR: np.isin(self.recipe, pool[: rules.popular]),
            Origin.NEW: np.isin(self.recipe, pool[recipes.is_new[pool]][: rules.fresh]),
        }

    def _bent_rules(self) -> Iterator[tuple[Why, Ranker]]:
        """What may keep a recipe of the shortlist out, and the ranker without it."""
        limits, fresh = self._weights.limits, self._weights.fresh
        for why, changes in (
            (Why.AUTHOR_LIMIT, {"limits": limits.model_copy(update={"per_author": self._ranker.length})}),
            (Why.TAG_LIMIT, {"limits": limits.model_copy(update={"per_tag": self._ranker.length})}),
            (Why.KEPT_FOR_NEW, {"fresh": fresh.model_copy(update={"min_share": 0.0})}),
        ):
            yield why, replace(self._ranker, weights=self._weights.model_copy(update=changes))
        yield Why.TOO_ALIKE, replace(self._ranker, dial=0.0)

    def _listed(self, ranker: Ranker, shortlist: Shortlist | None = None) -> set[int]:
        """Columns of the list that a ranker picks."""
        shortlist = shortlist or self._shortlist
        row, at = ranker.rerank(shortlist)
        return set(shortlist.column[row, at].tolist())

    def _all_scored(self, shortlist_columns: Ints) -> list[Scored]:
        candidates = self._candidates
        row = np.zeros_like(self.column)
        cool_down = candidates.cool_down[row, candidates.place(row, self.column)]
        relevance = dict(zip(self.shortlisted.tolist(), self._relevance, strict=True))
        model: dict[int, dict[str, float]] = {}
        if self._ranker.model:
            features = feature_values(
                self._ranker.recipes,
                candidates,
                self._weights,
                np.zeros_like(shortlist_columns),
                shortlist_columns,
            )
            shares = contributions(self._ranker.model, features)[:, :-1]
            shares[:, _BLEND] += self._ranker.blend_scale * features[:, _BLEND]
            model = {at: _named(FEATURES, share) for at, share in zip(self.shortlisted.tolist(), shares, strict=True)}
        return [
            Scored(
                recipe_id=self._name(self.recipe[at]),
                origins=tuple(str(origin) for origin in Origin if self._origins[origin][at]),
                values=_named(SOURCES, self._values[at]),
                contributions=_named(SOURCES, self._worth[at]),
                blended=_number(self._worth[at].sum()),
                cool_down=_number(cool_down[at]),
                score=_number(candidates.score[0, column]),
                relevance=_number(relevance[at]) if at in relevance else None,
                model=model.get(at, {}),
            )
            for at, column in enumerate(self.column)
        ]

    def _why(self, at: int, alike: Floats | None) -> tuple[Why, str]:
        """What kept candidate `at` out, the likeness of which to the picks is given if it is on the shortlist."""
        if alike is not None:
            column, recipe = int(self.column[at]), self.recipe[at]
            why = next((why for why, listed in self._without.items() if column in listed), None)
            if why is Why.AUTHOR_LIMIT:
                return why, str(self._catalogue.authors[int(self._catalogue.author[recipe])])
            if why is Why.TAG_LIMIT:
                return why, str(self._catalogue.tags[int(self._catalogue.primary[recipe])])
            if why is Why.TOO_ALIKE:
                return why, self._most_like(alike) or ""
            if why is not None:
                return why, ""
        if self._would_be_in_if_warm(at):
            return Why.COOLED_DOWN, ""
        return (Why.BELOW_SHORTLIST if alike is None else Why.LESS_RELEVANT), ""

    def _would_be_in_if_warm(self, at: int) -> bool:
        """Whether a candidate would make the list but for its cool-down."""
        candidates, column = self._candidates, self.column[at : at + 1]
        place = candidates.place(np.zeros_like(column), column)
        if candidates.cool_down[0, place[0]] >= 1:
            return False
        score, cool_down = candidates.score.copy(), self._ranker.users.cool_down.copy()
        score[0, column], cool_down[place] = self._worth[at].sum(), 1.0
        users = self._ranker.users._replace(cool_down=cool_down)
        warm = self._ranker.shortlist(replace(candidates, table=candidates.table._replace(score=score), users=users))
        return int(column[0]) in self._listed(self._ranker, warm)

    def _alike(self) -> Floats:
        """(M, N) Jaccard index of value tags of the shortlist with each pick."""
        patterns = self._catalogue.patterns[self._catalogue.pattern[self.recipe[self.shortlisted]]]
        tags = (patterns.toarray() > 0).astype(np.float64)
        shared, size = tags @ tags[self.picked].T, tags.sum(axis=1)
        alike: Floats = shared / np.maximum(size[:, None] + size[self.picked] - shared, 1)
        return alike

    def _most_like(self, alike: Floats) -> str | None:
        """The pick with the highest likeness, None if none is alike."""
        return self._name(self._listed_recipes[int(alike.argmax())]) if alike.any() else None

    def _slot(self, nth: int) -> Slot:
        """How the nth pick came by its place."""
        recipe, before = self._listed_recipes[nth], self._listed_recipes[:nth]
        author, tag, limits = self._catalogue.author, self._catalogue.primary, self._weights.limits
        is_tagged, is_written = tag[recipe] < len(self._catalogue.tags), author[recipe] >= 0
        if (is_written and (author[before] == author[recipe]).sum() >= limits.per_author) or (
            is_tagged and (tag[before] == tag[recipe]).sum() >= limits.per_tag
        ):
            return Slot.OVER_LIMIT
        column = int(self.column[self.shortlisted[self.picked[nth]]])
        return Slot.BEST if column in self._without[Why.KEPT_FOR_NEW] else Slot.KEPT_FOR_NEW

    @property
    def _listed_recipes(self) -> Ints:
        listed: Ints = self.recipe[self.shortlisted[self.picked]]
        return listed

    def _barred(self, recipe: int) -> tuple[Why, str]:
        """Why a recipe may not be listed, and which author or tag is excluded."""
        exclude, catalogue = self._weights.exclude, self._catalogue
        if not catalogue.alive[recipe]:
            return Why.DELETED, ""
        _, tags = catalogue.tags_of(np.array([recipe]))
        names = [str(catalogue.tags[int(tag)]) for tag in tags]
        if catalogue.author[recipe] >= 0:
            names.insert(0, str(catalogue.authors[int(catalogue.author[recipe])]))
        is_by_id = self._name(recipe) in exclude.recipes
        return Why.EXCLUDED, "" if is_by_id else next(
            name for name in names if name in (*exclude.authors, *exclude.tags)
        )

    def _name(self, recipe: int) -> str:
        return str(self._catalogue.recipe_ids[int(recipe)])


def _from_0_to_1(values: Floats) -> Floats:
    low, high = values.min(initial=np.inf), values.max(initial=-np.inf)
    scaled: Floats = (values - low) / (high - low if high > low else 1)
    return scaled


def _positions(values: Ints, among: Ints) -> Ints:
    """(N,) position of each value among others, which hold it once."""
    order = np.argsort(among)
    positions: Ints = order[np.searchsorted(among, values, sorter=order)]
    return positions


def _named(names: Sequence[str], values: Floats) -> dict[str, float]:
    return dict(zip(names, _numbers(values), strict=True))


def _numbers(values: Floats) -> list[float]:
    return [round(value, _DECIMALS) for value in values.tolist()]


def _number(value: Any) -> float:
    return round(float(value), _DECIMALS)
