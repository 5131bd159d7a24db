"""Recommend, second half: from user profiles to ranked lists with scores and reasons.

Here: the shortlist, relevance, re-ranking for diversity, limits and newness, reasons, the one call that does it all.
Not here: candidates and scores (scoring.py), the learned model (model.py), profiles (profiles.py), training, delivery.

Ties are broken by recipe id and sums run in the order of the profile, so a list depends neither on the other users of
the call nor on the number of threads.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import (
    Bools,
    FloatTable,
    Ints,
    IntTable,
    constants,
    listed,
    starts,
    strings,
    take,
    to_numpy,
)
from kurashiru_pipeline.core.kernels import lists as kernels
from kurashiru_pipeline.core.kernels.lists import PRECISION, Desk, RecipeArrays, Rules, Scratch, UserArrays
from kurashiru_pipeline.core.model import BLEND_SCALE, LEARNABLE_AT, ensemble, model_desk
from kurashiru_pipeline.core.native import compiled
from kurashiru_pipeline.core.profiles import ACTIONS
from kurashiru_pipeline.core.scoring import (
    PARTS,
    SOURCES,
    Candidates,
    blend_weights,
    candidate_table,
    recipe_arrays,
    score_candidates,
    scratch_for,
    user_arrays,
)
from kurashiru_pipeline.core.weights import Weights

POPULAR = "popular"
Surface = Literal["home", "default", "segment"]
"""Where a list is shown; each has its own dial of diversity (weights.Dials)."""

_RECIPES = (1 << kernels.RECIPE_BITS) - 1
_CHUNK = 512
_PART = 4096
_PREFIXES = constants(
    *(f"{action}:" for action in ACTIONS.to_pylist()), "ingredient:", "taste:", "new:", "external", POPULAR
)
"""By kind of reason, in the order of kernels/lists.py."""

_REASON_OF: dict[str, int] = {
    "rules": kernels.OF_RULES,
    "leftovers": kernels.OF_LEFTOVERS,
    "taste": kernels.OF_TASTE,
    "repeats": kernels.OF_REPEATS,
    "daytime": kernels.OF_REPEATS,
    "fresh": kernels.OF_NEW,
    "ingredients": kernels.OF_ALIKE,
    "authors": kernels.OF_ALIKE,
    "external": kernels.OF_EXTERNAL,
    "live_popularity": kernels.OF_POPULAR,
    "trained_popularity": kernels.OF_POPULAR,
    "standing_popularity": kernels.OF_POPULAR,
}
_REASONS = np.array([_REASON_OF.get(name, -1) for name in SOURCES])


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
    tables: list[pa.Table] = []
    places = []
    for members, taught in groups:
        if not len(members) and len(profiles):
            continue
        some = profiles if len(members) == len(profiles) else profiles.take(members)
        rules = weights if taught is None else weights.with_learned(taught.learned)
        recipes = recipe_arrays(catalogue, live_popularity, taught, rules, as_of)
        parts = [some.slice(start, _PART) for start in range(0, max(len(some), 1), _PART)]

        def lists_of(
            part: pa.Table,
            taught: ModelArtifact | None = taught,
            rules: Weights = rules,
            recipes: RecipeArrays = recipes,
        ) -> pa.Table:
            ranker = Ranker.among(recipes, part, catalogue, taught, rules, list_length, suggestions, surface)
            return ranker.lists(part["user_id"])

        if is_threaded and len(parts) > 1:
            with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
                tables += threads.map(lists_of, parts)
        else:
            tables += map(lists_of, parts)
        places.append(members)
    made = pa.concat_tables(tables)
    if len(places) > 1:
        made = made.take(np.argsort(np.concatenate(places)))
    algorithm = pa.array([POPULAR if artifact is None else artifact.version] * len(profiles), pa.string())
    return made.append_column("algorithm", algorithm)


def for_strangers(artifact: ModelArtifact) -> ModelArtifact:
    """The artifact without what it learned, for people without a past and for nobody in particular.

    It learned of people with a past: beside their own recipes popularity and stated tastes may weigh little, or less
    than nothing, and here they are all there is.
    """
    if artifact not in _OF_STRANGERS:
        _OF_STRANGERS[artifact] = replace(artifact, learned={}, model="")
    return _OF_STRANGERS[artifact]


_OF_STRANGERS: WeakKeyDictionary[ModelArtifact, ModelArtifact] = WeakKeyDictionary()
"""The same one each time, for what is kept of it (Catalogue.kept_by_artifact)."""


@dataclass(frozen=True)
class Shortlist:
    """The best candidates of each user, best first, then filled up: (chunk, M) each.

    `column` is the place among the candidates, `score` the blended score in millionths, `present` tells places that
    hold a recipe, `relevance` is what the list is picked by.
    """

    recipe: IntTable
    column: IntTable
    score: IntTable
    present: Bools
    relevance: FloatTable


@dataclass(frozen=True)
class Ranker:
    """All that one thread of a call of `rank` has in hand; explain.py takes the same steps for one user."""

    catalogue: Catalogue
    recipes: RecipeArrays
    users: UserArrays
    weights: Weights
    model: str
    blend_scale: float
    length: int
    dial: float
    scratch: Scratch

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
        if artifact is not None:
            weights = weights.with_learned(artifact.learned)
        recipes = recipe_arrays(catalogue, live_popularity, artifact, weights, as_of)
        return cls.among(recipes, profiles, catalogue, artifact, weights, list_length, suggestions, surface)

    @classmethod
    def among(  # noqa: PLR0917 - the arguments of rank
        cls,
        recipes: RecipeArrays,
        profiles: pa.Table,
        catalogue: Catalogue,
        artifact: ModelArtifact | None,
        weights: Weights,
        list_length: int | None,
        suggestions: pa.Table | None,
        surface: Surface,
    ) -> "Ranker":
        """See `rank`; recipes, and weights with what was learned, are given."""
        if len(catalogue.recipe_ids) > _RECIPES:
            raise ValueError(f"the kernel ranks up to {_RECIPES} recipes, not {len(catalogue.recipe_ids)}")
        return cls(
            catalogue=catalogue,
            recipes=recipes,
            users=user_arrays(profiles, catalogue, recipes, weights, suggestions),
            weights=weights,
            model="" if artifact is None else artifact.model,
            blend_scale=0.0 if artifact is None else artifact.learned.get(BLEND_SCALE, 0.0),
            length=weights.list_length if list_length is None else list_length,
            dial=getattr(weights.diversity.dials, surface),
            scratch=scratch_for(recipes),
        )

    @property
    def new_places(self) -> int:
        """Places of each list that are kept for new recipes."""
        return int(self.length * self.weights.fresh.min_share)

    def chunks(self) -> list[tuple[int, int]]:
        """The users in parts that are ranked at once: (start, end) each."""
        count = len(self.users.own_offsets) - 1
        starts = range(0, count, _CHUNK) if len(self.recipes.pool) else []
        return [(start, min(start + _CHUNK, count)) for start in starts]

    def lists(self, user_ids: Any) -> pa.Table:
        """What `rank` returns of these users, but for the algorithm."""
        count = len(user_ids)
        most = count * self.length if len(self.recipes.pool) else 0
        sizes = np.zeros(count, np.int64)
        recipe, kind, subject = np.empty((3, most), np.int64)
        relevance = np.empty(most)
        if most:
            shortlist, words = self.shortlist_size, len(self.recipes.tag_bits)
            table = candidate_table(self.recipes, self.users, self.weights, (0, count), 1)
            desk = Desk(
                table=table,
                parts=np.zeros((len(PARTS), table.recipe.shape[1])),
                keys=np.empty(table.recipe.shape[1], np.int64),
                recipe=np.empty((1, shortlist), np.int64),
                column=np.empty((1, shortlist), np.int64),
                score=np.empty((1, shortlist), np.int64),
                present=np.empty((1, shortlist), bool),
                relevance=np.empty((1, shortlist)),
                numbers=np.empty((3, shortlist)),
                groups=np.empty((4, shortlist), np.int64),
                bits=np.empty((shortlist, words), np.uint64),
                picked=np.empty((1, self.length), np.int64),
                row=np.empty(self.length, np.int64),
                columns=np.empty(self.length, np.int64),
                values=np.empty((2, len(SOURCES))),
            )
            compiled(kernels.list_users)(
                0,
                count,
                self.recipes,
                self.users,
                self.rules,
                ensemble(self.model),
                self.scratch,
                desk,
                model_desk(shortlist),
                sizes,
                recipe,
                relevance,
                kind,
                subject,
            )
        offsets = starts(sizes)
        recipe, kind, subject = (part[: offsets[-1]] for part in (recipe, kind, subject))
        reasons = pc.binary_join_element_wise(take(_PREFIXES, kind), take(self.catalogue.names, subject), "")
        return pa.table(
            {
                "user_id": strings(user_ids),
                "recipe_ids": listed(offsets, take(self.catalogue.recipe_ids, recipe)),
                "scores": listed(offsets, relevance[: offsets[-1]]),
                "reasons": listed(offsets, reasons),
            }
        )

    def candidates(self, chunk: tuple[int, int], *, with_parts: bool = False) -> Candidates:
        """The scored candidates of users start .. end - 1, with the parts of their strengths if a model needs them."""
        with_parts = with_parts or bool(self.model)
        return score_candidates(self.recipes, self.users, self.weights, self.scratch, chunk, with_parts=with_parts)

    @property
    def shortlist_size(self) -> int:
        """Places of each shortlist."""
        return max(self.weights.diversity.shortlist, self.length) + self.new_places

    @cached_property
    def rules(self) -> Rules:
        """What the compiled steps go by."""
        return Rules(
            blend=blend_weights(self.weights),
            reason_of=_REASONS,
            learnable=LEARNABLE_AT,
            followers=self.weights.candidates.rules,
            strongest=self.weights.candidates.strongest,
            shortlist=self.shortlist_size - self.new_places,
            new_places=self.new_places,
            per_author=self.weights.limits.per_author,
            per_tag=self.weights.limits.per_tag,
            dial=self.dial,
            with_model=int(bool(self.model)),
            blend_scale=self.blend_scale,
        )

    def shortlist(self, candidates: Candidates) -> Shortlist:
        """The best candidates by blended score, and the best new ones beyond."""
        chunk, width = candidates.recipe.shape
        recipe, column, score = np.empty((3, chunk, self.shortlist_size), np.int64)
        present = np.empty(recipe.shape, bool)
        compiled(kernels.shortlist)(
            candidates.table,
            self.recipes.is_new,
            self.rules.shortlist,
            self.new_places,
            np.empty(width, np.int64),
            recipe,
            column,
            score,
            present,
        )
        relevance = score / PRECISION
        if self.model:
            compiled(kernels.relevance_by_model)(
                candidates.start,
                column,
                present,
                self.recipes,
                self.users,
                self.rules,
                ensemble(self.model),
                self.scratch,
                candidates.table,
                candidates.parts,
                model_desk(self.shortlist_size),
                relevance,
            )
        return Shortlist(recipe, column, score, present, relevance)

    def rerank(self, shortlist: Shortlist) -> tuple[Ints, Ints]:
        """Pick the lists: (N,) user within the chunk and place in the shortlist, list by list, in the order picked."""
        chunk, width = shortlist.present.shape
        picked = np.empty((chunk, min(self.length, width)), np.int64)
        limits = self.weights.limits
        compiled(kernels.rerank)(
            shortlist.recipe,
            shortlist.present,
            shortlist.relevance,
            self.recipes,
            self.dial,
            limits.per_author,
            limits.per_tag,
            self.new_places,
            np.empty((3, width)),
            np.empty((4, width), np.int64),
            np.empty((width, len(self.recipes.tag_bits)), np.uint64),
            picked,
        )
        row, at = np.nonzero(picked >= 0)
        return row, picked[row, at]
