"""Recommend, first half: the candidates of each user and their blended scores.

Here: users and recipes by position, candidate generation, the sources of a score, cool-down.
Not here: which candidates make the list and for what reason (ranking.py), and where profiles and artifacts come from.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import (
    MICROS_PER_DAY,
    Bools,
    Floats,
    Ints,
    column_micros,
    csr,
    flatten,
    micros,
    padded,
    positions,
    product,
    starts,
    to_numpy,
)
from kurashiru_pipeline.core.profiles import ACTIONS
from kurashiru_pipeline.core.weights import Weights

SLOT_BITS = 16
SLOTS = (1 << SLOT_BITS) - 1


@dataclass(frozen=True)
class Recipes:
    """What is the same for all users: R recipes as candidates.

    `popularity` and `newness` are (R,) weighted sources, `standing` is their sum. `pool` holds the P recipes put
    forward for everybody, `pool_column` the place of each recipe in it or -1. `by_tag` (T + 1, each) and
    `by_ingredient` hold the best recipes of each, filled up with -1; their last row, which -1 finds, is empty.
    `neighbours` is the artifact's matrix, `model_row` the row of each recipe in it or -1, `of_model` the recipe of
    each row, -1 for those deleted or unknown.
    """

    popularity: Floats
    newness: Floats
    standing: Floats
    is_new: Bools
    pool: Ints
    pool_column: Ints
    by_tag: Ints
    by_ingredient: Ints
    neighbours: Any
    model_row: Ints
    of_model: Ints

    @classmethod
    def of(
        cls,
        catalogue: Catalogue,
        live_popularity: pa.Table,
        artifact: ModelArtifact | None,
        weights: Weights,
        as_of: datetime,
    ) -> "Recipes":
        size, now = len(catalogue.recipe_ids), micros(as_of)
        age = np.maximum(now - column_micros(live_popularity["decayed_at"]), 0) / MICROS_PER_DAY
        count = to_numpy(live_popularity["decayed_count"], 0.0) * 0.5 ** (age / weights.popularity.half_life_days)
        live = _scaled_root(catalogue.index_of(live_popularity["recipe_id"]), count, catalogue.alive)
        popularity = weights.blend.live_popularity * live

        model_row, of_model = np.full(size, -1), np.zeros(0, np.int64)
        if artifact is not None:
            of_model = catalogue.index_of(pa.array(artifact.recipe_ids.tolist(), pa.string()))
            known = np.flatnonzero(of_model >= 0)
            model_row[of_model[known]] = known
            trained = _scaled_root(of_model, artifact.popularity, catalogue.alive)
            popularity += weights.blend.trained_popularity * trained
            of_model[~np.append(catalogue.alive, False)[of_model]] = -1

        age = np.maximum(now - catalogue.published, 0) / MICROS_PER_DAY
        newness = weights.blend.fresh * 0.5 ** (age / weights.fresh.half_life_days)
        is_new = age <= weights.fresh.days
        standing = popularity + newness

        living = np.flatnonzero(catalogue.alive)
        best = living[np.argsort(-standing[living], kind="stable")]
        newest = best[is_new[best]]
        pool = np.unique(np.concatenate([best[: weights.candidates.popular], newest[: weights.candidates.fresh]]))
        pool_column = np.full(size, -1)
        pool_column[pool] = np.arange(len(pool))
        tagged = np.repeat(np.arange(size), np.diff(catalogue.tag_offsets))
        user, place = np.nonzero(catalogue.main_ingredients >= 0)
        used, each = catalogue.main_ingredients[user, place], weights.candidates.each
        return cls(
            popularity=popularity,
            newness=newness,
            standing=standing,
            is_new=is_new,
            pool=pool,
            pool_column=pool_column,
            by_tag=_best_of_each(catalogue.tag_values, tagged, len(catalogue.tags), best, each),
            by_ingredient=_best_of_each(used, user, len(catalogue.ingredients), best, each),
            neighbours=None if artifact is None else artifact.neighbours,
            model_row=model_row,
            of_model=of_model,
        )


@dataclass(frozen=True)
class Lists:
    """A weighted list of each user, one after the other: user u's is at offsets[u] : offsets[u + 1]."""

    offsets: Ints
    values: Ints
    weights: Floats

    @classmethod
    def of(cls, names: Any, weights: Any, words: Any) -> "Lists":
        """By position among `words`, -1 for the unknown."""
        row, texts = flatten(names)
        offsets = starts(np.bincount(row, minlength=len(names)))
        return cls(offsets, positions(texts, words), to_numpy(flatten(weights)[1], 0.0))

    def sizes(self, start: int, end: int) -> Ints:
        return np.diff(self.offsets[start : end + 1])

    def entries(self, start: int, end: int) -> slice:
        return slice(self.offsets[start], self.offsets[end])

    def table(self, start: int, end: int) -> tuple[Ints, Floats]:
        """Lists of users start .. end - 1, filled up with value -1 and weight 0."""
        sizes, part = self.sizes(start, end), self.entries(start, end)
        return padded(sizes, self.values[part], -1), padded(sizes, self.weights[part], 0.0)


@dataclass(frozen=True)
class Users:
    """All U profiles by position.

    `cool_down` and `action` belong to the entries of `own`. `interest` is the (U, model rows) CSR float32 matrix of own
    recipes in the order of the profile, without those that weigh too little to matter; `interest_entry` is the entry
    of `own` behind each of its values.
    """

    own: Lists
    cool_down: Floats
    action: Ints
    leftovers: Lists
    tastes: Lists
    interest: Any
    interest_entry: Ints

    @classmethod
    def of(cls, profiles: pa.Table, catalogue: Catalogue, recipes: Recipes, weights: Weights) -> "Users":
        own = Lists.of(profiles["recipe_ids"], profiles["recipe_weights"], catalogue.recipe_ids)
        row = np.repeat(np.arange(len(profiles)), np.diff(own.offsets))
        model_row = np.append(recipes.model_row, -1)[own.values]
        strongest = np.zeros(len(profiles))
        np.maximum.at(strongest, row, own.weights)
        enough = own.weights >= np.maximum(weights.profile.least_share * strongest[row], np.finfo(np.float32).tiny)
        entry = np.flatnonzero((model_row >= 0) & enough)
        offsets = starts(np.bincount(row[entry], minlength=len(profiles)))
        return cls(
            own=own,
            cool_down=to_numpy(flatten(profiles["cooldowns"])[1], 1.0),
            action=positions(flatten(profiles["recipe_actions"])[1], ACTIONS),
            leftovers=Lists.of(profiles["ingredients"], profiles["ingredient_weights"], catalogue.ingredients),
            tastes=Lists.of(profiles["tastes"], profiles["taste_weights"], catalogue.tags),
            interest=csr(own.weights[entry].astype(np.float32), model_row[entry], offsets, len(recipes.of_model)),
            interest_entry=entry,
        )


class Overlap:
    """How much of each user's leftovers a recipe's main ingredients use up, at most 1."""

    def __init__(self, ingredient: Ints, weight: Floats, catalogue: Catalogue) -> None:
        """Of (chunk, I) leftovers, filled up with -1."""
        row, at = np.nonzero(ingredient >= 0)
        present, column = np.unique(ingredient[row, at], return_inverse=True)
        self.main_ingredients = catalogue.main_ingredients
        # column 0 is for the ingredients nobody in the chunk has left
        self.weights = np.zeros((len(ingredient), len(present) + 1))
        self.weights[row, column + 1] = weight[row, at]
        self.column = np.zeros(len(catalogue.ingredients) + 1, np.int64)
        self.column[present] = np.arange(1, len(present) + 1)

    def __call__(self, row: Ints, recipe: Ints) -> Floats:
        """Of pairs of users and recipes, arrays that broadcast to the shape of `recipe`."""
        if self.weights.shape[1] == 1:
            return np.zeros(recipe.shape)
        place = row * self.weights.shape[1]
        columns = self.column.take(self.main_ingredients.take(recipe, axis=0))
        flat = self.weights.ravel()
        total = flat.take(columns[..., 0] + place)
        for nth in range(1, columns.shape[-1]):
            total += flat.take(columns[..., nth] + place)
        return np.minimum(total, 1.0, out=total)

    def of_everybody(self, recipe: Ints) -> Floats:
        """(chunk, N) of every user with each of N recipes."""
        columns = self.column[self.main_ingredients[recipe]]
        total: Floats = np.minimum(sum(self.weights.take(column, axis=1) for column in columns.T), 1.0)
        return total

    def strongest(self, row: Ints, recipe: Ints) -> Ints:
        """(N,) the main ingredient of each recipe that its user has most of left."""
        main = self.main_ingredients[recipe]
        most = self.weights[row[:, None], self.column[main]].argmax(axis=1)
        return np.take_along_axis(main, most[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class Candidates:
    """The scored candidates of one chunk of users: S personal ones each, and the pool all share.

    A score of -1 marks places without a candidate. The weighted sources behind the scores, before cool-down, stay at
    hand for the reasons: `rule` and `slot` (place in the profile, `own` width and above for other recipes) of each
    personal candidate, `repeats` of each place in the profile, `affinity` to each tag pattern, and `overlap`.
    """

    recipe: Ints
    score: Floats
    pool_score: Floats
    rule: Floats
    slot: Ints
    strength: Floats
    repeats: Floats
    affinity: Floats
    taste: Ints
    liking: Floats
    overlap: Overlap


def score_candidates(
    catalogue: Catalogue, recipes: Recipes, users: Users, weights: Weights, chunk: tuple[int, int]
) -> Candidates:
    """Candidates of users start .. end - 1.

    score = (sum of the sources, each scaled to at most 1 a user and weighted) * cool-down. The sources: rules (profile
    x transitions), live and trained popularity (square roots), taste, newness, repeats, leftovers.
    """
    start, end = chunk
    blend, few = weights.blend, weights.candidates.strongest
    user = np.arange(end - start)[:, None]
    own, own_weight = users.own.table(start, end)
    cool_down = padded(users.own.sizes(start, end), users.cool_down[users.own.entries(start, end)], 1.0)
    repeats = blend.repeats * _to_one(own_weight)
    follower, strength = _followers(users.interest[start:end], recipes, weights.candidates.rules)
    taste, liking = users.tastes.table(start, end)
    affinity = blend.taste * _to_one(_affinity(taste, liking, catalogue))
    leftover, left = users.leftovers.table(start, end)
    overlap = Overlap(leftover, left, catalogue)

    # A row is sorted by recipe, then source, and the first of a run of equal recipes stands for all: the user's own
    # entry comes before that of the rules, which comes before the rest.
    by_taste = recipes.by_tag[taste[:, :few]].reshape(end - start, -1)
    by_leftover = recipes.by_ingredient[leftover[:, :few]].reshape(end - start, -1)
    keys = np.concatenate([own, follower, by_taste, by_leftover], axis=1) << SLOT_BITS
    keys |= np.arange(keys.shape[1])
    keys.sort(axis=1)
    recipe, slot = keys >> SLOT_BITS, keys & SLOTS
    again = recipe[:, 1:] == recipe[:, :-1]
    valid = recipe >= 0
    valid[:, 1:] &= ~again
    valid &= catalogue.alive.take(recipe)

    rule = np.zeros(keys.shape)
    rule[:, own.shape[1] : own.shape[1] + strength.shape[1]] = blend.rules * _to_one(strength)
    rule = rule.take(slot + user * keys.shape[1])
    rule[:, :-1] += rule[:, 1:] * again
    score = recipes.standing.take(recipe) + rule
    score += affinity.take(catalogue.pattern.take(recipe) + user * affinity.shape[1])
    score += blend.leftovers * overlap(user, recipe)
    row, at = np.nonzero(valid & (slot < own.shape[1]))
    place = slot[row, at]
    score[row, at] = (score[row, at] + repeats[row, place]) * cool_down[row, place]
    score[~valid] = -1

    pool_score = recipes.standing[recipes.pool] + affinity.take(catalogue.pattern[recipes.pool], axis=1)
    pool_score += blend.leftovers * overlap.of_everybody(recipes.pool)
    column = recipes.pool_column.take(recipe)
    row, at = np.nonzero(valid & (column >= 0))
    pool_score[row, column[row, at]] = -1
    return Candidates(
        recipe=recipe,
        score=score,
        pool_score=pool_score,
        rule=rule,
        slot=slot,
        strength=strength.max(axis=1, initial=0),
        repeats=repeats,
        affinity=affinity,
        taste=taste,
        liking=liking,
        overlap=overlap,
    )


def _followers(interest: Any, recipes: Recipes, most: int) -> tuple[Ints, Floats]:
    """Recipes that follow the users' own ones, (chunk, at most `most`) each: recipe or -1, and strength.

    The strongest ones of the sparse product. Positive floats keep their order when read as whole numbers, so one
    number holds strength and, to break ties, position.
    """
    if recipes.neighbours is None:
        return np.zeros((interest.shape[0], 0), np.int64), np.zeros((interest.shape[0], 0))
    (offsets, column, value), last = product(interest, recipes.neighbours), len(recipes.of_model) - 1
    keys = value.view(np.int32).astype(np.int64) << 32
    keys |= last - column
    table = padded(np.diff(offsets), keys, -1)
    if table.shape[1] > most:
        table.partition(table.shape[1] - most, axis=1)
        table = table[:, -most:]
    recipe = np.append(recipes.of_model, -1)[np.where(table >= 0, last - (table & 0xFFFFFFFF), -1)]
    strength = (table >> 32).astype(np.int32).view(np.float32).astype(np.float64)
    return recipe, np.where(recipe >= 0, strength, 0.0)


def _affinity(taste: Ints, liking: Floats, catalogue: Catalogue) -> Floats:
    """(chunk, patterns) likeness of each user's tastes to each set of tags: shares summed / root of the set's size."""
    row, at = np.nonzero(taste >= 0)
    offsets = starts(np.bincount(row, minlength=len(taste)))
    shares = csr(liking[row, at], taste[row, at], offsets, len(catalogue.tags))
    likeness: Floats = (shares @ catalogue.patterns.T).toarray()
    return likeness


def _to_one(table: Floats) -> Floats:
    """Each row divided by its largest value."""
    largest = table.max(axis=1, keepdims=True, initial=0)
    return table / np.where(largest > 0, largest, 1)


def _scaled_root(recipe: Ints, count: Floats, alive: Bools) -> Floats:
    """(R,) square root of each living recipe's count, the largest being 1; unknown recipes are left out."""
    known = (recipe >= 0) & (count > 0)
    total = np.bincount(recipe[known], weights=count[known], minlength=len(alive)) * alive
    scaled: Floats = np.sqrt(total / max(total.max(initial=0), np.finfo(float).tiny))
    return scaled


def _best_of_each(group: Ints, recipe: Ints, groups: int, best: Ints, each: int) -> Ints:
    """(groups + 1, each) the best recipes of each group, from (group, recipe) pairs and living recipes, best first."""
    place = np.full(max(recipe.max(initial=-1), best.max(initial=-1)) + 1, -1)
    place[best] = np.arange(len(best))
    living = place[recipe] >= 0
    keys = np.sort(group[living] * max(len(best), 1) + place[recipe[living]])
    group, order = np.divmod(keys, max(len(best), 1))
    nth = np.arange(len(group)) - starts(np.bincount(group, minlength=groups))[group]
    table = np.full((groups + 1, each), -1)
    table[group[nth < each], nth[nth < each]] = best[order[nth < each]]
    return table
