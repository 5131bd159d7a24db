"""Recommend, second half: from user profiles to ranked lists with scores and reasons.

Here: the shortlist, re-ranking for diversity and newness, reasons, and the one call that does it all.
Not here: candidates and scores (scoring.py), profiles (profiles.py), training (training.py), delivery.

Ties are broken by recipe id and sums run in the order of the profile, so a list depends neither on the other users of
the call nor on the number of threads.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import Floats, Ints, constants, lists, strings, take
from kurashiru_pipeline.core.items import DEFAULT_USER
from kurashiru_pipeline.core.profiles import ACTIONS, PROFILE_SCHEMA
from kurashiru_pipeline.core.scoring import SLOT_BITS, SLOTS, Candidates, Recipes, Users, score_candidates
from kurashiru_pipeline.core.weights import Weights

POPULAR = "popular"
PRECISION = 1_000_000
"""Scores are whole millionths, so that equal scores are equal on every machine."""

# A sort key is 63 bits: the score (seven sources of weight 10 at most), the recipe, which breaks ties, and the column.
_TIE_BITS = 63 - (70 * PRECISION).bit_length()
_RECIPES = (1 << (_TIE_BITS - SLOT_BITS)) - 1

_CHUNK = 512
_PREFIXES = constants(*(f"{action}:" for action in ACTIONS.to_pylist()), "ingredient:", "taste:", "new:", POPULAR)
_INGREDIENT, _TASTE, _NEW, _POPULAR = range(len(ACTIONS), len(ACTIONS) + 4)


class _Source(IntEnum):
    """What a score is made of; a recipe's reason is the source that adds most to it, the first of equals."""

    RULES = 0
    LEFTOVERS = 1
    TASTE = 2
    REPEATS = 3
    NEW = 4
    POPULAR = 5


def rank(  # noqa: PLR0917 - whom, what, by which model, and when
    profiles: pa.Table,
    catalogue: Catalogue,
    live_popularity: pa.Table,
    artifact: ModelArtifact | None,
    weights: Weights,
    as_of: datetime,
    *,
    list_length: int | None = None,
    is_threaded: bool = True,
) -> pa.Table:
    """Ranked lists of all profiles, in their order.

    Candidates are scored (scoring.score_candidates), the n-th of a primary tag on the shortlist keeps quota^n of its
    score, and some places are kept for new recipes. Recipes deleted or unknown to the catalogue are never listed.
    Sequential rules with soft cool-down and tag quota; measured offline, see docs/decisions.md.

    Args:
        profiles: rows of profiles.PROFILE_SCHEMA.
        catalogue: the recipes, fewer than 2^20.
        live_popularity: recipe_id, decayed_count, decayed_at (UTC); decayed further to `as_of`.
        artifact: the model in service; without one the lists are popular, new and to the user's taste.
        weights: the rules.
        as_of: the moment the lists are for (UTC).
        list_length: recipes a list, by default that of the weights.
        is_threaded: use several processors; the lists are the same.

    Returns:
        user_id, recipe_ids, scores, reasons (lists of one length, best first) and algorithm, the artifact's version or
        "popular". Lists are shorter only when candidates run out.

    Raises:
        ValueError: the catalogue is too large.
    """
    if len(catalogue.recipe_ids) > _RECIPES:
        raise ValueError(f"the kernel ranks up to {_RECIPES} recipes, not {len(catalogue.recipe_ids)}")
    recipes = Recipes.of(catalogue, live_popularity, artifact, weights, as_of)
    users = Users.of(profiles, catalogue, recipes, weights)
    ranker = _Ranker(catalogue, recipes, users, weights, weights.list_length if list_length is None else list_length)
    count, size = len(profiles), max(1, min(_CHUNK, 2**22 // max(catalogue.patterns.shape[0], 1)))
    chunks = [(start, min(start + size, count)) for start in range(0, count, size)] if len(recipes.pool) else []
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1) if is_threaded else 1) as threads:
        parts = list(threads.map(ranker.picks, chunks))

    row, recipe, score, kind, subject = (
        np.concatenate([np.zeros(0, np.int64), *(part[field] for part in parts)]) for field in range(5)
    )
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


def default_list(
    catalogue: Catalogue,
    live_popularity: pa.Table,
    artifact: ModelArtifact | None,
    weights: Weights,
    as_of: datetime,
    *,
    list_length: int | None = None,
) -> pa.Table:
    """The one row of `rank` for users without a list of their own, with user_id "#default"."""
    empty: dict[str, Any] = {field.name: [[]] for field in PROFILE_SCHEMA}
    nobody = pa.table(empty | {"user_id": [DEFAULT_USER], "as_of": [as_of]}, schema=PROFILE_SCHEMA)
    return rank(nobody, catalogue, live_popularity, artifact, weights, as_of, list_length=list_length)


@dataclass(frozen=True)
class _Ranker:
    catalogue: Catalogue
    recipes: Recipes
    users: Users
    weights: Weights
    length: int

    def picks(self, chunk: tuple[int, int]) -> tuple[Ints, Ints, Ints, Ints, Ints]:
        """The lists of users start .. end - 1, one after the other.

        Returns:
            (N,) each: user, recipe, score in millionths, kind of reason (in _PREFIXES), and what the reason names
            (a position among all recipes, ingredients, tags and nothing, in this order).
        """
        candidates = score_candidates(self.catalogue, self.recipes, self.users, self.weights, chunk)
        row, recipe, column, score = self._rerank(*self._shortlist(candidates))
        kind, subject = self._reasons(candidates, chunk[0], row, recipe, column)
        return chunk[0] + row, recipe, score, kind, subject

    def _shortlist(self, candidates: Candidates) -> tuple[Ints, Ints, Ints]:
        """The best candidates of each user, and the best new ones beyond, best first.

        Returns:
            (chunk, M) each: recipe, column among personal candidates and pool, score in millionths, -1 for none.
        """
        pool, last = self.recipes.pool, len(self.catalogue.recipe_ids) - 1
        keys = np.concatenate([candidates.score, candidates.pool_score], axis=1)
        keys = np.rint(keys * PRECISION).astype(np.int64) << _TIE_BITS
        personal = candidates.recipe.shape[1]
        keys[:, :personal] |= (last - candidates.recipe) << SLOT_BITS
        keys[:, personal:] |= (last - pool) << SLOT_BITS
        keys |= np.arange(keys.shape[1])
        keys.sort(axis=1)
        most = max(self.weights.diversity.shortlist, self.length)
        best, rest = keys[:, -most:], keys[:, :-most]
        new = np.where((rest >= 0) & self.recipes.is_new.take(self._recipe_of(rest)), rest, -1)
        new.sort(axis=1)
        extra = new[:, max(new.shape[1] - self.weights.fresh.min_slots, 0) :]
        keys = np.concatenate([extra, best], axis=1)[:, ::-1]
        return self._recipe_of(keys), keys & SLOTS, np.where(keys < 0, -1, keys >> _TIE_BITS)

    def _recipe_of(self, keys: Ints) -> Ints:
        """Recipe of each sort key, some recipe for the keys of none."""
        last = len(self.catalogue.recipe_ids) - 1
        return np.where(keys < 0, 0, last - ((keys >> SLOT_BITS) & _RECIPES))

    def _rerank(self, recipe: Ints, column: Ints, score: Ints) -> tuple[Ints, Ints, Ints, Ints]:
        """Quota per primary tag and slots for new recipes over a shortlist, best first.

        Returns:
            (N,) each: user within the chunk, recipe, column, final score in millionths.
        """
        place, present = np.arange(score.shape[1]), score >= 0
        by_tag = np.sort((np.where(present, self.catalogue.primary[recipe], -1) << SLOT_BITS) | place, axis=1)
        first = np.ones(by_tag.shape, dtype=bool)
        first[:, 1:] = (by_tag[:, 1:] >> SLOT_BITS) != (by_tag[:, :-1] >> SLOT_BITS)
        nth = np.empty_like(by_tag)
        within = place - np.maximum.accumulate(np.where(first, place, 0), axis=1)
        np.put_along_axis(nth, by_tag & SLOTS, within, axis=1)
        final = np.rint(score * (self.weights.diversity.quota**place)[nth]).astype(np.int64)

        # by final score, the best first, equals in the order they came, the absent last
        keys = np.sort((np.where(present, -final, 1) << SLOT_BITS) | place, axis=1)
        order, listed = keys & SLOTS, keys < (1 << SLOT_BITS)
        new = listed & self.recipes.is_new[np.take_along_axis(recipe, order, axis=1)]
        reserved = new & (np.cumsum(new, axis=1) <= min(self.weights.fresh.min_slots, self.length))
        others = listed & ~reserved
        free = self.length - reserved.sum(axis=1, keepdims=True)
        row, at = np.nonzero(reserved | (others & (np.cumsum(others, axis=1) <= free)))
        at = order[row, at]
        return row, recipe[row, at], column[row, at], final[row, at]

    def _reasons(self, candidates: Candidates, start: int, row: Ints, recipe: Ints, column: Ints) -> tuple[Ints, Ints]:
        """(N,) each: kind of reason, and what it names, of N picks (see `picks`)."""
        catalogue, users = self.catalogue, self.users
        slot, rule = np.full(len(row), -1), np.zeros(len(row))
        personal = np.flatnonzero(column < candidates.recipe.shape[1])
        at = row[personal], column[personal]
        slot[personal] = np.where(candidates.slot[at] < candidates.repeats.shape[1], candidates.slot[at], -1)
        rule[personal] = candidates.rule[at]
        tagged = catalogue.primary[recipe] < len(catalogue.tags)
        contribution = np.stack(
            [
                rule,
                self.weights.blend.leftovers * candidates.overlap(row, recipe),
                candidates.affinity[row, catalogue.pattern[recipe]],
                candidates.repeats[row, slot],
                np.where(tagged, self.recipes.newness[recipe], 0.0),
                self.recipes.popularity[recipe],
            ]
        )
        source = np.where(contribution.max(axis=0) > 0, contribution.argmax(axis=0), _Source.POPULAR)

        entry = np.where(source == _Source.REPEATS, users.own.offsets[start + row] + slot, -1)
        followed = np.flatnonzero(source == _Source.RULES)
        total = rule[followed] / (self.weights.blend.rules or 1.0) * candidates.strength[row[followed]]
        entry[followed] = self._anchors(start + row[followed], recipe[followed], total)

        ingredients = len(catalogue.recipe_ids)
        tags = ingredients + len(catalogue.ingredients)
        kind, subject = np.full(len(row), _POPULAR), np.full(len(row), tags + len(catalogue.tags))
        own = np.flatnonzero(entry >= 0)
        kind[own], subject[own] = users.action[entry[own]], users.own.values[entry[own]]
        used = np.flatnonzero(source == _Source.LEFTOVERS)
        kind[used], subject[used] = _INGREDIENT, ingredients + candidates.overlap.strongest(row[used], recipe[used])
        liked = np.flatnonzero(source == _Source.TASTE)
        kind[liked], subject[liked] = _TASTE, tags + self._favourite_tags(candidates, row[liked], recipe[liked])
        new = np.flatnonzero(source == _Source.NEW)
        kind[new], subject[new] = _NEW, tags + catalogue.primary[recipe[new]]
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
