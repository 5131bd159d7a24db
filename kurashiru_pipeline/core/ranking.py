"""Recommend, second half: from user profiles to ranked lists with scores and reasons.

Here: the shortlist, relevance, re-ranking for diversity, limits and newness, reasons, the one call that does it all.
Not here: candidates and scores (scoring.py), the learned model (model.py), profiles (profiles.py), training, delivery.

Ties are broken by recipe id and sums run in the order of the profile, so a list depends neither on the other users of
the call nor on the number of threads.
"""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import Bools, Floats, Ints, constants, lists, strings, take, to_numpy
from kurashiru_pipeline.core.model import BLEND_SCALE, FEATURES, OURS, feature_values, predicted
from kurashiru_pipeline.core.profiles import ACTIONS
from kurashiru_pipeline.core.scoring import (
    SLOT_BITS,
    SLOTS,
    Candidates,
    Recipes,
    Users,
    blend_weights,
    score_candidates,
    source_values,
)
from kurashiru_pipeline.core.weights import LARGEST_SCORE, Weights

POPULAR = "popular"
PRECISION = 1_000_000
"""Scores are whole millionths, so that equal scores are equal on every machine."""

Surface = Literal["home", "default", "segment"]
"""Where a list is shown; each has its own dial of diversity (weights.Dials)."""

# A sort key is 63 bits: the score, moved above 0, the recipe, which breaks ties, and the column.
_TIE_BITS = 63 - (2 * LARGEST_SCORE * PRECISION).bit_length()
_RECIPES = (1 << (_TIE_BITS - SLOT_BITS)) - 1

_CHUNK = 512
_PREFIXES = constants(
    *(f"{action}:" for action in ACTIONS.to_pylist()), "ingredient:", "taste:", "new:", "external", POPULAR
)
_INGREDIENT, _TASTE, _NEW, _EXTERNAL, _POPULAR = range(len(ACTIONS), len(ACTIONS) + 5)


class _Reason(IntEnum):
    """What a list says of a recipe: the group of sources that adds most to its score, the first of equals."""

    RULES = 0
    LEFTOVERS = 1
    TASTE = 2
    REPEATS = 3
    NEW = 4
    ALIKE = 5
    EXTERNAL = 6
    POPULAR = 7


_REASON_OF: dict[str, _Reason] = {
    "rules": _Reason.RULES,
    "leftovers": _Reason.LEFTOVERS,
    "taste": _Reason.TASTE,
    "repeats": _Reason.REPEATS,
    "daytime": _Reason.REPEATS,
    "fresh": _Reason.NEW,
    "ingredients": _Reason.ALIKE,
    "authors": _Reason.ALIKE,
    "external": _Reason.EXTERNAL,
    "live_popularity": _Reason.POPULAR,
    "trained_popularity": _Reason.POPULAR,
    "standing_popularity": _Reason.POPULAR,
}


def rank(  # noqa: PLR0917 - whom, what, by which model, and when
    profiles: pa.Table,
    catalogue: Catalogue,
    live_popularity: pa.Table,
    artifact: ModelArtifact | None,
    weights: Weights,
    as_of: datetime,
    *,
    list_length: int | None = None,
    suggestions: pa.Table | None = None,
    surface: Surface = "home",
    is_threaded: bool = True,
) -> pa.Table:
    """Ranked lists of all profiles, in their order.

    Candidates are scored (scoring.score_candidates). The artifact's model, if it has one, scores the shortlist of the
    best anew. The list is then picked recipe by recipe: the one with the best of (1 - dial) * relevance - dial *
    (mean likeness to those picked), relevance from 0 to 1 over the shortlist, likeness the Jaccard index of value tags
    (maximal marginal relevance: Carbonell and Goldstein, SIGIR 1998, with the mean for the maximum, which is what
    intra-list diversity measures), within the limits of one author and tag, with the places for new recipes kept.
    Recipes that are deleted, excluded or unknown to the catalogue are never listed; limits give way before a list
    stays short. Measured offline: docs/recommendations.md.

    Args:
        profiles: rows of profiles.PROFILE_SCHEMA.
        catalogue: the recipes, fewer than 2^20.
        live_popularity: recipe_id, decayed_count, decayed_at (UTC); decayed further to `as_of`.
        artifact: the model in service; without one the lists are popular, new and to the user's taste.
        weights: the rules; what the artifact learned takes the place of those they give free, but not for users
            without a recipe of their own (`for_strangers`).
        as_of: the moment the lists are for (UTC).
        list_length: recipes a list, by default that of the weights.
        suggestions: user_id, recipe_ids, scores (best first) of an external recommender, at most one row a user.
        surface: whose dial of diversity counts.
        is_threaded: use several processors; the lists are the same.

    Returns:
        user_id, recipe_ids, scores (relevance), reasons (lists of one length, best first) and algorithm, the
        artifact's version or "popular". Lists are shorter only when candidates run out.

    Raises:
        ValueError: the catalogue is too large.
        ConfigurationError: the artifact was learned under other rules or features than these.
    """
    groups = [(np.arange(len(profiles)), artifact)]
    if artifact is not None and (artifact.learned or artifact.model):
        strangers = to_numpy(pc.list_value_length(profiles["recipe_ids"]), 0) == 0
        groups = [(np.flatnonzero(~strangers), artifact), (np.flatnonzero(strangers), for_strangers(artifact))]
    parts, places = [], []
    for members, taught in groups:
        if not len(members) and len(profiles):
            continue
        some = profiles if len(members) == len(profiles) else profiles.take(members)
        ranker = Ranker.of(some, catalogue, live_popularity, taught, weights, as_of, list_length, suggestions, surface)
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1) if is_threaded else 1) as threads:
            picks = list(threads.map(ranker.picks, ranker.chunks()))
        parts.append([np.concatenate([np.zeros(0, np.int64), *(part[field] for part in picks)]) for field in range(5)])
        places.append(members)

    row, recipe, score, kind, subject = parts[0]
    if len(parts) > 1:
        rows = [members[part[0]] for members, part in zip(places, parts, strict=True)]
        order = np.argsort(np.concatenate(rows), kind="stable")
        row = np.concatenate(rows)[order]
        recipe, score, kind, subject = (np.concatenate([part[field] for part in parts])[order] for field in range(1, 5))
    count = len(profiles)
    names: Any = pa.concat_arrays([catalogue.recipe_ids, catalogue.ingredients, catalogue.tags, pa.array([""])])
    reasons = pc.binary_join_element_wise(take(_PREFIXES, kind), take(names, subject), "")
    return pa.table(
        {
            "user_id": strings(profiles["user_id"]),
            "recipe_ids": lists(row, count, take(catalogue.recipe_ids, recipe)),
            "scores": lists(row, count, score / PRECISION),
            "reasons": lists(row, count, reasons),
            "algorithm": pa.array([POPULAR if artifact is None else artifact.version] * count, pa.string()),
        }
    )


def for_strangers(artifact: ModelArtifact) -> ModelArtifact:
    """The artifact without what it learned, for people without a past and for nobody in particular.

    It learned of people with a past: beside their own recipes popularity and stated tastes may weigh little, or less
    than nothing, and here they are all there is.
    """
    return replace(artifact, learned={}, model="")


@dataclass(frozen=True)
class Shortlist:
    """The best candidates of each user, best first, then filled up: (chunk, M) each.

    `column` is the place among the candidates, `score` the blended score in millionths, `present` tells places that
    hold a recipe, `relevance` is what the list is picked by.
    """

    recipe: Ints
    column: Ints
    score: Ints
    present: Bools
    relevance: Floats


@dataclass(frozen=True)
class Ranker:
    """All that one call of `rank` has in hand; explain.py takes the same steps for one user."""

    catalogue: Catalogue
    recipes: Recipes
    users: Users
    weights: Weights
    model: str
    blend_scale: float
    length: int
    dial: float

    @classmethod
    def of(  # noqa: PLR0917 - the arguments of rank
        cls,
        profiles: pa.Table,
        catalogue: Catalogue,
        live_popularity: pa.Table,
        artifact: ModelArtifact | None,
        weights: Weights,
        as_of: datetime,
        list_length: int | None = None,
        suggestions: pa.Table | None = None,
        surface: Surface = "home",
    ) -> "Ranker":
        """See `rank`."""
        if len(catalogue.recipe_ids) > _RECIPES:
            raise ValueError(f"the kernel ranks up to {_RECIPES} recipes, not {len(catalogue.recipe_ids)}")
        if artifact is not None:
            weights = weights.with_learned(artifact.learned)
        recipes = Recipes.of(catalogue, live_popularity, artifact, weights, as_of)
        return cls(
            catalogue=catalogue,
            recipes=recipes,
            users=Users.of(profiles, catalogue, recipes, weights, suggestions),
            weights=weights,
            model="" if artifact is None else artifact.model,
            blend_scale=0.0 if artifact is None else artifact.learned.get(BLEND_SCALE, 0.0),
            length=weights.list_length if list_length is None else list_length,
            dial=getattr(weights.diversity.dials, surface),
        )

    @property
    def new_places(self) -> int:
        """Places of each list that are kept for new recipes."""
        return int(self.length * self.weights.fresh.min_share)

    def chunks(self) -> list[tuple[int, int]]:
        """The users in parts that are ranked at once: (start, end) each."""
        count = len(self.users.own.offsets) - 1
        size = max(1, min(_CHUNK, 2**22 // max(self.catalogue.patterns.shape[0], 1)))
        return [(start, min(start + size, count)) for start in range(0, count, size)] if len(self.recipes.pool) else []

    def picks(self, chunk: tuple[int, int]) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """The lists of users start .. end - 1, one after the other.

        Returns:
            (N,) each: user, recipe, score in millionths, kind of reason (in _PREFIXES), and what the reason names
            (a position among all recipes, ingredients, tags and nothing, in this order).
        """
        candidates = self.candidates(chunk)
        shortlist = self.shortlist(candidates)
        row, at = self.rerank(shortlist)
        recipe, column = shortlist.recipe[row, at], shortlist.column[row, at]
        kind, subject = self._reasons(candidates, chunk[0], row, recipe, column)
        score = np.rint(shortlist.relevance[row, at] * PRECISION).astype(np.int64)
        return chunk[0] + row, recipe, score, kind, subject

    def candidates(self, chunk: tuple[int, int], *, with_parts: bool = False) -> Candidates:
        """The scored candidates of users start .. end - 1, with the parts of their strengths if a model needs them."""
        with_parts = with_parts or bool(self.model)
        return score_candidates(self.catalogue, self.recipes, self.users, self.weights, chunk, with_parts=with_parts)

    def shortlist(self, candidates: Candidates) -> Shortlist:
        """The best candidates by blended score, and the best new ones beyond."""
        last = len(self.catalogue.recipe_ids) - 1
        keys = np.rint((candidates.score + LARGEST_SCORE) * PRECISION).astype(np.int64) << _TIE_BITS
        keys |= (last - candidates.recipe) << SLOT_BITS
        keys |= np.arange(keys.shape[1])
        keys[~candidates.valid] = -1
        most = max(self.weights.diversity.shortlist, self.length)
        if keys.shape[1] > most:
            keys.partition(keys.shape[1] - most, axis=1)
        best, rest = keys[:, -most:], keys[:, :-most]
        new = np.where((rest >= 0) & self.recipes.is_new.take(self._recipe_of(rest)), rest, -1)
        new.sort(axis=1)
        extra = new[:, max(new.shape[1] - self.new_places, 0) :]
        best.sort(axis=1)
        keys = np.concatenate([extra, best], axis=1)[:, ::-1]
        recipe, column, present = self._recipe_of(keys), keys & SLOTS, keys >= 0
        score = np.where(present, (keys >> _TIE_BITS) - LARGEST_SCORE * PRECISION, 0)
        relevance = score / PRECISION
        if self.model:
            relevance = self._modelled(candidates, column, present)
        return Shortlist(recipe, column, score, present, relevance)

    def _recipe_of(self, keys: Ints) -> Ints:
        """Recipe of each sort key, some recipe for the keys of none."""
        last = len(self.catalogue.recipe_ids) - 1
        return np.where(keys < 0, 0, last - ((keys >> SLOT_BITS) & _RECIPES))

    def _modelled(self, candidates: Candidates, column: Ints, present: Bools) -> Floats:
        """(chunk, M) relevance by the model, from 0 to 1 a user, plus the sources it cannot know."""
        row, at = np.nonzero(present)
        of = column[row, at]
        features = feature_values(self.catalogue, self.recipes, candidates, self.weights, row, of)
        table = np.full(present.shape, np.nan)
        table[row, at] = self.blend_scale * features[:, FEATURES.index("blend")] + predicted(self.model, features)
        relevance = _from_0_to_1(table)
        sources = source_values(self.catalogue, self.recipes, candidates, row, of, OURS)
        relevance[row, at] += (sources * blend_weights(self.weights, OURS)).sum(axis=1)
        return relevance

    def rerank(self, shortlist: Shortlist) -> tuple[Ints, Ints]:
        """Pick the lists: (N,) user within the chunk and place in the shortlist, list by list, in the order picked."""
        present, dial, limits = shortlist.present, self.dial, self.weights.limits
        chunk, width = present.shape
        user = np.arange(chunk)
        length = min(self.length, width)
        worth = (1 - dial) * _from_0_to_1(np.where(present, shortlist.relevance, np.nan))
        worth[~present] = -np.inf
        bits = [word[shortlist.recipe] for word in self.catalogue.tag_bits]
        size = _count(bits)
        author = _or_alone(self.catalogue.author[shortlist.recipe])
        primary = self.catalogue.primary[shortlist.recipe]
        tag = _or_alone(np.where(primary < len(self.catalogue.tags), primary, -1))
        new = self.recipes.is_new[shortlist.recipe] & present
        reserved = np.minimum(new.sum(axis=1), min(self.new_places, length))
        likeness: Floats = np.zeros(present.shape)
        of_author, of_tag = np.zeros((2, *present.shape), np.int16)
        picked = np.full((chunk, length), -1)
        fewest = min(limits.per_author, limits.per_tag) - 1  # before, no limit can be reached
        value: Floats = np.empty(present.shape)
        for nth in range(length):
            np.multiply(likeness, -dial / max(nth, 1), out=value)
            value += worth
            if nth > fewest:
                value[(of_author >= limits.per_author) | (of_tag >= limits.per_tag)] -= _LAST
            owed = reserved >= length - nth
            if owed.any():
                value[owed[:, None] & ~new] -= _NEVER
            at = value.argmax(axis=1)
            picked[:, nth] = np.where(np.isfinite(value[user, at]), at, -1)
            worth[user, at] = -np.inf
            reserved -= new[user, at]
            if dial and len(self.catalogue.tags):
                shared = _count([word & word[user, at][:, None] for word in bits])
                np.subtract(size + size[user, at][:, None], shared, out=value)
                np.maximum(value, 1, out=value)
                np.divide(shared, value, out=value)
                likeness += value
            of_author += author == author[user, at][:, None]
            of_tag += tag == tag[user, at][:, None]
        row, at = np.nonzero(picked >= 0)
        return row, picked[row, at]

    def _reasons(self, candidates: Candidates, start: int, row: Ints, recipe: Ints, column: Ints) -> tuple[Ints, Ints]:
        """(N,) each: kind of reason, and what it names, of N picks (see `picks`)."""
        catalogue, users = self.catalogue, self.users
        tagged = catalogue.primary[recipe] < len(catalogue.tags)
        contribution = np.zeros((len(_Reason), len(row)))
        names = [name for name in _REASON_OF if getattr(self.weights.blend, name)]
        if names:
            values = source_values(catalogue, self.recipes, candidates, row, column, names)
            for name, value, weight in zip(names, values.T, blend_weights(self.weights, names), strict=True):
                contribution[_REASON_OF[name]] += weight * value * (tagged if name == "fresh" else 1)
        reason = np.where(contribution.max(axis=0) > 0, contribution.argmax(axis=0), _Reason.POPULAR)

        place = candidates.place(row, column)
        entry = np.where(reason == _Reason.REPEATS, users.own.offsets[start + row] + place, -1)
        followed = np.flatnonzero(reason == _Reason.RULES)
        total = candidates.rule[row[followed], column[followed]] * candidates.strength[row[followed]]
        entry[followed] = self._anchors(start + row[followed], recipe[followed], total)
        alike = np.flatnonzero(reason == _Reason.ALIKE)
        entry[alike] = users.own.offsets[start + row[alike]] + candidates.attributes.alike(row[alike], recipe[alike])

        ingredients = len(catalogue.recipe_ids)
        tags = ingredients + len(catalogue.ingredients)
        kind, subject = np.full(len(row), _POPULAR), np.full(len(row), tags + len(catalogue.tags))
        own = np.flatnonzero(entry >= 0)
        kind[own], subject[own] = users.action[entry[own]], users.own.values[entry[own]]
        used = np.flatnonzero(reason == _Reason.LEFTOVERS)
        leftover = candidates.attributes.strongest_leftover(row[used], recipe[used])
        kind[used], subject[used] = _INGREDIENT, ingredients + leftover
        liked = np.flatnonzero(reason == _Reason.TASTE)
        kind[liked], subject[liked] = _TASTE, tags + self._favourite_tags(candidates, row[liked], recipe[liked])
        new = np.flatnonzero(reason == _Reason.NEW)
        kind[new], subject[new] = _NEW, tags + catalogue.primary[recipe[new]]
        kind[reason == _Reason.EXTERNAL] = _EXTERNAL
        return kind, subject

    def _anchors(self, user: Ints, recipe: Ints, total: Floats) -> Ints:
        """(N,) the entry of `own` with the largest weight x transition to each recipe, the earliest of equals.

        Looks at the profile entry by entry, as long as what is left of the total could still beat the best.
        """
        interest, column = self.users.interest, self.recipes.model_row[recipe]
        first, size = interest.indptr[user], interest.indptr[user + 1] - interest.indptr[user]
        anchor, best, left = first.copy(), np.zeros(len(user)), total * 1.0001
        undecided, nth = np.arange(len(user)), 0
        while len(undecided):
            entry = first[undecided] + nth
            value = interest.data[entry] * self.recipes.neighbours[interest.indices[entry], column[undecided]]
            better = value > best[undecided]
            anchor[undecided[better]], best[undecided[better]] = entry[better], value[better]
            left[undecided] -= value
            nth += 1
            undecided = undecided[(nth < size[undecided]) & (left[undecided] > best[undecided])]
        entries: Ints = self.users.interest_entry[anchor]
        return entries

    def _favourite_tags(self, candidates: Candidates, row: Ints, recipe: Ints) -> Ints:
        """(N,) the tag of each recipe that its user likes most, the first of equals; each has one."""
        pick, tag = self.catalogue.tags_of(recipe)
        known = candidates.taste[row[pick]] == tag[:, None]
        liking = np.where(known, candidates.liking[row[pick]], 0.0).max(axis=1, initial=0)
        order = np.lexsort((tag, -liking, pick))
        return tag[order[np.unique(pick[order], return_index=True)[1]]]


_LAST, _NEVER = 10.0, 100.0
"""What a recipe over a limit loses, so that it comes after all others, and one in a place kept for a new recipe."""


def _count(bits: Sequence[Any]) -> Any:
    """Bits set in all words."""
    total = np.bitwise_count(bits[0]).astype(np.float64)
    for word in bits[1:]:
        total += np.bitwise_count(word)
    return total


def _or_alone(group: Ints) -> Any:
    """(chunk, M) group of each place; the places without one, -1, are each a group of their own."""
    return np.where(group >= 0, group, -1 - np.arange(group.shape[1])).astype(np.int32)


def _from_0_to_1(table: Floats) -> Floats:
    """Each row moved and scaled from 0 to 1; nan, of the absent, becomes 0."""
    filled = np.isfinite(table)
    low = np.min(table, axis=1, keepdims=True, initial=np.inf, where=filled)
    high = np.max(table, axis=1, keepdims=True, initial=-np.inf, where=filled)
    scaled: Floats = np.where(filled, (table - low) / np.where(high > low, high - low, 1), 0.0)
    return scaled
