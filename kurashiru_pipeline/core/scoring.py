"""Recommend, first half: the candidates of each user and their blended scores.

Here: users and recipes by position, candidate generation, the sources of a score, cool-down.
Not here: which candidates make the list and for what reason (ranking.py), the learned model (model.py), where profiles
and artifacts come from, and the loops themselves (kernels/lists.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import (
    MICROS_PER_DAY,
    Bools,
    Floats,
    Floats32,
    FloatTable,
    Ints,
    Ints32,
    IntTable,
    column_micros,
    flat,
    micros,
    padded,
    positions,
    starts,
    strings,
    to_numpy,
    unrolled,
)
from kurashiru_pipeline.core.kernels import lists
from kurashiru_pipeline.core.kernels.lists import CandidateTable, RecipeArrays, Scratch, UserArrays
from kurashiru_pipeline.core.native import compiled
from kurashiru_pipeline.core.profiles import ACTION_OF_EVENT, ACTIONS
from kurashiru_pipeline.core.vocabulary import Vocabulary
from kurashiru_pipeline.core.weights import Weights

SOURCES = (
    "rules",
    "live_popularity",
    "trained_popularity",
    "standing_popularity",
    "taste",
    "ingredients",
    "authors",
    "fresh",
    "repeats",
    "daytime",
    "seen",
    "leftovers",
    "external",
)
"""What a score is made of, by the names of their weights (weights.Blend), in the order of kernels/lists.py."""

PARTS = ("recent", "session", "steady", "newest")
"""The bases that strengths of followers are split by: those of weights.Interest."""

STRONGEST_OWN = lists.STRONGEST_OWN
"""Of so many of a user's own recipes the ingredients and authors count as liked."""

_ACTIONS = Vocabulary(ACTIONS)


def recipe_arrays(
    catalogue: Catalogue,
    live_popularity: pa.Table,
    artifact: ModelArtifact | None,
    weights: Weights,
    as_of: datetime,
) -> RecipeArrays:
    """What is the same for all users: R recipes as candidates.

    `listable` are those that live and are not excluded. `live`, `trained` and `standing` are (R,) popularity of late,
    as of training, and of all time (square roots, the largest 1), `newness` fades from 1, `age` is in days; `prior` is
    their weighted sum. `pool` holds the recipes put forward for everybody. `by_tag` (T + 1, each) and `by_ingredient`
    hold the best recipes of each, filled up with -1; their last row, which -1 finds, is empty. `of_model` is the recipe
    of each row of the artifact, -1 for those unknown or not listable.
    """
    now, blend, rules = micros(as_of), weights.blend, weights.candidates
    listable = catalogue.alive & ~_excluded(catalogue, weights)
    age = np.maximum(now - column_micros(live_popularity["decayed_at"]), 0) / MICROS_PER_DAY
    count = to_numpy(live_popularity["decayed_count"], 0.0) * 0.5 ** (age / weights.popularity.half_life_days)
    live = _scaled_root(_total(catalogue.index_of(live_popularity["recipe_id"]), count, len(listable)), listable)
    model = _placed(artifact, catalogue)
    trained, standing = _scaled_root(model.popularity, listable), _scaled_root(model.interactions, listable)
    age = np.maximum(now - catalogue.published, 0) / MICROS_PER_DAY
    newness = 0.5 ** (age / weights.fresh.half_life_days)
    is_new = age <= weights.fresh.days
    prior = blend.live_popularity * live + blend.trained_popularity * trained
    prior += blend.standing_popularity * standing + blend.fresh * newness

    popular, fresh = np.full(rules.popular, -1), np.full(rules.fresh, -1)
    by_tag = np.full((len(catalogue.tags) + 1, rules.each), -1)
    by_ingredient = np.full((len(catalogue.ingredients) + 1, rules.each), -1)
    compiled(lists.best_recipes)(
        prior,
        listable,
        is_new,
        catalogue.tag_offsets,
        catalogue.tag_values,
        catalogue.main_ingredients,
        popular,
        fresh,
        by_tag,
        by_ingredient,
    )
    put_forward = np.concatenate([popular, fresh])
    bearer_offsets, bearers, bearing = catalogue.bearers
    return RecipeArrays(
        listable=listable,
        live=live,
        trained=trained,
        standing=standing,
        newness=newness,
        age=age,
        prior=prior,
        is_new=is_new,
        pool=np.unique(put_forward[put_forward >= 0]),
        by_tag=by_tag,
        by_ingredient=by_ingredient,
        of_model=np.where(np.append(listable, False)[model.recipe], model.recipe, -1),
        model_row=model.row,
        next_offsets=model.next_offsets,
        next_row=model.next_row,
        next_value=model.next_value,
        pattern=catalogue.pattern,
        tag_offsets=catalogue.tag_offsets,
        tags=catalogue.tag_values,
        bearer_offsets=bearer_offsets,
        bearers=bearers,
        bearing=bearing,
        primary=catalogue.primary,
        main=catalogue.main_ingredients,
        author=catalogue.author,
        tag_bits=catalogue.tag_bits,
    )


@dataclass(frozen=True)
class _Placed:
    """An artifact among R recipes: `recipe` of each of its rows, `row` of each recipe, -1 for the unknown, (R,) counts
    of all time and decayed ones, and its matrix."""

    recipe: Ints
    row: Ints
    popularity: Floats
    interactions: Floats
    next_offsets: Ints
    next_row: Ints32
    next_value: Floats32

    @classmethod
    def of(cls, artifact: ModelArtifact, catalogue: Catalogue) -> "_Placed":
        size = len(catalogue.recipe_ids)
        recipe = catalogue.index_of(pa.array(artifact.recipe_ids.tolist(), pa.string()))
        row, known = np.full(size, -1), np.flatnonzero(recipe >= 0)
        row[recipe[known]] = known
        matrix = artifact.neighbours
        return cls(
            recipe=recipe,
            row=row,
            popularity=_total(recipe, artifact.popularity, size),
            interactions=_total(recipe, artifact.interactions, size),
            next_offsets=matrix.indptr.astype(np.int64),
            next_row=np.require(matrix.indices, np.int32, ["C", "A"]),
            next_value=np.require(matrix.data, np.float32, ["C", "A"]),
        )

    @classmethod
    def none(cls, catalogue: Catalogue) -> "_Placed":
        nothing, size = np.zeros(0, np.int64), len(catalogue.recipe_ids)
        counts = np.zeros(size)
        return cls(
            nothing,
            np.full(size, -1),
            counts,
            counts,
            np.zeros(1, np.int64),
            nothing.astype(np.int32),
            nothing.astype(np.float32),
        )


def _placed(artifact: ModelArtifact | None, catalogue: Catalogue) -> _Placed:
    """The artifact among the recipes; the answer is kept as long as both are."""
    if artifact is None:
        return _Placed.none(catalogue)
    kept = catalogue.kept_by_artifact
    if artifact not in kept:
        kept[artifact] = _Placed.of(artifact, catalogue)
    placed: _Placed = kept[artifact]
    return placed


def user_arrays(
    profiles: pa.Table,
    catalogue: Catalogue,
    recipes: RecipeArrays,
    weights: Weights,
    suggestions: pa.Table | None = None,
) -> UserArrays:
    """All U profiles by position.

    `own` holds a user's strongest recipes, -1 for the unknown; `older` are the others, which are no candidates, but
    known as seen. `cool_down`, `action`, `age` (seconds), `count` and `daytime` belong to the entries of `own`.
    `interest` are own recipes in the order of the profile, without those that weigh too little to matter:
    `interest_entry` is the entry of `own`, `interest_row` the row of the model.
    """
    offsets, texts = unrolled(profiles["recipe_ids"])
    own, weight = catalogue.index_of(texts), to_numpy(flat(profiles["recipe_weights"]), 0.0)
    action = _ACTIONS.find(flat(profiles["recipe_actions"]))
    cool_down, age, count, daytime = (
        to_numpy(flat(profiles[name]), missing)
        for name, missing in (
            ("cooldowns", 1.0),
            ("recipe_ages", 0.0),
            ("recipe_counts", 0.0),
            ("recipe_daytimes", 0.0),
        )
    )
    older_offsets, older = np.zeros_like(offsets), own[:0]
    sizes = np.diff(offsets)
    if sizes.max(initial=0) > weights.candidates.own:
        row = np.repeat(np.arange(len(sizes)), sizes)
        is_first = np.arange(len(row)) - offsets[row] < weights.candidates.own
        is_older = ~is_first & (own >= 0)
        older_offsets, older = starts(np.bincount(row[is_older], minlength=len(sizes))), own[is_older]
        offsets = starts(np.minimum(sizes, weights.candidates.own))
        own, weight, action, cool_down, age, count, daytime = (
            values[is_first] for values in (own, weight, action, cool_down, age, count, daytime)
        )

    entries = len(own)
    interest, bases = np.empty(entries, np.float32), np.empty((len(PARTS), entries), np.float32)
    interest_offsets = np.zeros(len(offsets), np.int64)
    interest_entry, interest_row = np.empty(entries, np.int64), np.empty(entries, np.int64)
    compiled(lists.interests)(
        offsets,
        own,
        action,
        weight,
        age,
        count,
        recipes.model_row,
        np.append([getattr(weights.actions, name) for name in ACTION_OF_EVENT], 0.0),
        np.array([getattr(weights.interest, name) for name in PARTS]),
        weights.profile.least_share,
        interest_offsets,
        interest_entry,
        interest_row,
        interest,
        bases,
    )
    leftover_offsets, leftovers = unrolled(profiles["ingredients"])
    taste_offsets, tastes = unrolled(profiles["tastes"])
    external_offsets, external, suggestion = _suggested(suggestions, profiles, catalogue)
    return UserArrays(
        own_offsets=offsets,
        own=own,
        cool_down=cool_down,
        age=age,
        counted=count,
        daytime=daytime,
        action=action,
        older_offsets=older_offsets,
        older=older,
        interest_offsets=interest_offsets,
        interest_entry=interest_entry,
        interest_row=interest_row,
        interest=interest,
        bases=bases,
        leftover_offsets=leftover_offsets,
        leftover=catalogue.ingredient_vocabulary.find(leftovers),
        left=to_numpy(flat(profiles["ingredient_weights"]), 0.0),
        taste_offsets=taste_offsets,
        taste=catalogue.tag_vocabulary.find(tastes),
        liking=to_numpy(flat(profiles["taste_weights"]), 0.0),
        external_offsets=external_offsets,
        external=external,
        suggestion=suggestion,
    )


def scratch_for(recipes: RecipeArrays) -> Scratch:
    """What one thread needs to rank among these recipes."""
    rows, ingredients = len(recipes.of_model), len(recipes.by_ingredient)
    strength = np.zeros(rows, np.float32)
    return Scratch(
        strength=strength,
        strength_bits=strength.view(np.int32),
        touched=np.empty(rows + 1, np.int32),
        keys=np.empty(rows + 1, np.int64),
        at=np.zeros(len(recipes.listable), np.int32),
        affinity=np.zeros(recipes.pattern.max(initial=0) + 1),
        left=np.zeros(ingredients),
        liked=np.zeros(ingredients),
        writer=np.zeros(STRONGEST_OWN, np.int64),
        writing=np.zeros(STRONGEST_OWN),
        largest=np.zeros(3),
    )


@dataclass(frozen=True)
class Candidates:
    """The scored candidates of users `start` .. `end` - 1: of each its own recipes, those that follow them, the
    suggested ones, those of its tastes and leftovers, and the pool of all, every one once.

    `table` holds what the sources are computed from; `parts` the strengths of the followers by each base of interest
    (model.py), (parts, chunk * width), if they were asked for. Places in the profile, as `place` and the columns of
    `cool_down` and `age` have them, have two more columns: the last but one is that of recipes seen longer ago, the
    last that of others.
    """

    start: int
    end: int
    users: UserArrays
    table: CandidateTable
    parts: FloatTable
    scratch: Scratch

    @property
    def recipe(self) -> IntTable:
        """(chunk, width) recipes, -1 beyond the candidates of a user."""
        return self.table.recipe

    @property
    def score(self) -> FloatTable:
        """(chunk, width)."""
        return self.table.score

    @cached_property
    def valid(self) -> Bools:
        """(chunk, width) where there is a candidate."""
        is_there: Bools = self.table.recipe >= 0
        return is_there

    def place(self, row: Ints, column: Ints) -> Ints:
        """(N,) place in the profile of N candidates."""
        place = self.table.place[row, column]
        return np.where(place >= 0, place, self.cool_down.shape[1] + place)

    @cached_property
    def cool_down(self) -> FloatTable:
        """(chunk, places)."""
        return self._of_profiles(self.users.cool_down, 1.0)

    @cached_property
    def age(self) -> FloatTable:
        """(chunk, places) seconds since each own recipe's newest behaviour."""
        return self._of_profiles(self.users.age, np.inf)

    def _of_profiles(self, values: Floats, missing: float) -> FloatTable:
        offsets = self.users.own_offsets[self.start : self.end + 1]
        return padded(np.diff(offsets), values[offsets[0] : offsets[-1]], missing, spare=2)


def score_candidates(
    recipes: RecipeArrays,
    users: UserArrays,
    weights: Weights,
    scratch: Scratch,
    chunk: tuple[int, int],
    *,
    with_parts: bool = False,
) -> Candidates:
    """Candidates of users start .. end - 1.

    score = (sum of the weighted sources) * cool-down + the weight of `seen`. Each source is scaled to at most 1 a user,
    leftovers and ingredients to 1 an ingredient. The sources: rules (profile x transitions), popularity of late, of
    training and of all time (square roots), taste, ingredients, authors, newness, repeats, repeats of the time of day,
    leftovers, an external recommender. Cool-down makes nothing better: a sum below 0 stays as it is.
    """
    start, end = chunk
    rules = weights.candidates
    table = candidate_table(recipes, users, weights, chunk, end - start)
    size, width = table.recipe.shape
    parts = np.zeros((len(PARTS), size * width if with_parts else 0))
    compiled(lists.score_candidates)(
        start,
        end,
        recipes,
        users,
        blend_weights(weights),
        rules.rules,
        rules.strongest,
        scratch,
        table,
        parts,
        int(with_parts),
    )
    return Candidates(start, end, users, table, parts, scratch)


def candidate_table(
    recipes: RecipeArrays, users: UserArrays, weights: Weights, chunk: tuple[int, int], size: int
) -> CandidateTable:
    """A table of `size` rows, each wide enough for the candidates of any user of a chunk."""
    start, end = chunk
    rules = weights.candidates
    own, external = (
        int(np.diff(offsets[start : end + 1]).max(initial=0)) for offsets in (users.own_offsets, users.external_offsets)
    )
    width = own + rules.rules + external + len(recipes.pool) + 2 * rules.strongest * rules.each
    return CandidateTable(
        sizes=np.empty(size, np.int64),
        recipe=np.empty((size, width), np.int64),
        place=np.empty((size, width), np.int32),
        score=np.empty((size, width)),
        rule=np.empty((size, width)),
        external=np.empty((size, width)),
        strength=np.empty(size),
    )


def source_values(
    recipes: RecipeArrays,
    candidates: Candidates,
    row: Ints,
    column: Ints,
    names: Sequence[str] = SOURCES,
) -> Floats:
    """(N, names) unweighted values of these SOURCES of N candidates, before cool-down."""
    values = np.empty((len(row), len(SOURCES)))
    compiled(lists.source_values)(
        candidates.start,
        np.ascontiguousarray(row),
        np.ascontiguousarray(column),
        recipes,
        candidates.users,
        candidates.scratch,
        candidates.table,
        values,
    )
    return values if tuple(names) == SOURCES else values[:, [SOURCES.index(name) for name in names]]


def blend_weights(weights: Weights, names: Sequence[str] = SOURCES) -> Floats:
    """(names,) the weights of these SOURCES."""
    return np.array([getattr(weights.blend, name) for name in names])


def _suggested(suggestions: pa.Table | None, profiles: pa.Table, catalogue: Catalogue) -> tuple[Ints, Ints, Floats]:
    """(U + 1,) offsets, recipes and scores that an external recommender suggests to each profile; unknown recipes and
    those without a score are left out."""
    nothing = np.zeros(len(profiles) + 1, np.int64), np.zeros(0, np.int64), np.zeros(0)
    if suggestions is None or not len(suggestions):
        return nothing
    at = positions(profiles["user_id"], strings(suggestions["user_id"]))
    rows: Any = suggestions.take(np.where(at >= 0, at, 0))
    offsets, texts = unrolled(rows["recipe_ids"])
    recipe, score = catalogue.index_of(texts), to_numpy(flat(rows["scores"]), 0.0)
    row = np.repeat(np.arange(len(profiles)), np.diff(offsets))
    kept = (at[row] >= 0) & (recipe >= 0) & (score > 0)
    return starts(np.bincount(row[kept], minlength=len(profiles))), recipe[kept], score[kept]


def _excluded(catalogue: Catalogue, weights: Weights) -> Bools:
    """(R,) recipes that are never listed."""
    excluded = np.zeros(len(catalogue.recipe_ids), dtype=bool)
    if not any(weights.exclude.model_dump().values()):
        return excluded
    found = catalogue.index_of(pa.array(weights.exclude.recipes, pa.string()))
    excluded[found[found >= 0]] = True
    authors = positions(pa.array(weights.exclude.authors, pa.string()), catalogue.authors)
    excluded |= np.isin(catalogue.author, authors[authors >= 0])
    tags = positions(pa.array(weights.exclude.tags, pa.string()), catalogue.tags)
    tagged = np.repeat(np.arange(len(excluded)), np.diff(catalogue.tag_offsets))
    excluded[tagged[np.isin(catalogue.tag_values, tags[tags >= 0])]] = True
    return excluded


def _total(recipe: Ints, count: Floats, size: int) -> Floats:
    """(size,) counts above 0 of each recipe; unknown recipes are left out."""
    known = (recipe >= 0) & (count > 0)
    return np.bincount(recipe[known], weights=count[known], minlength=size).astype(np.float64)


def _scaled_root(total: Floats, listable: Bools) -> Floats:
    """(R,) square root of each listable recipe's count, the largest being 1."""
    counted = total * listable
    scaled: Floats = np.sqrt(counted / max(counted.max(initial=0), np.finfo(float).tiny))
    return scaled
