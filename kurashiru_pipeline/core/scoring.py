"""Recommend, first half: the candidates of each user and their blended scores.

Here: users and recipes by position, candidate generation, the sources of a score, cool-down.
Not here: which candidates make the list and for what reason (ranking.py), the learned model (model.py), and where
profiles and artifacts come from.
"""

from collections.abc import Callable, Sequence
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
    flat,
    flatten,
    micros,
    padded,
    positions,
    product,
    starts,
    strings,
    to_numpy,
)
from kurashiru_pipeline.core.profiles import ACTION_OF_EVENT, ACTIONS
from kurashiru_pipeline.core.weights import Weights

SLOT_BITS = 16
SLOTS = (1 << SLOT_BITS) - 1

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
"""What a score is made of, by the names of their weights (weights.Blend)."""

STRONGEST_OWN = 3
"""Of so many of a user's own recipes the ingredients and authors count as liked."""

_SPARE = 2  # columns of places in the profile: of recipes seen longer ago, and of none
_SECONDS_A_MINUTE = 60
_ALMOST_NOTHING = 1e-20


@dataclass(frozen=True)
class Recipes:
    """What is the same for all users: R recipes as candidates.

    `listable` are those that live and are not excluded. `live`, `trained` and `standing` are (R,) popularity of late,
    as of training, and of all time (square roots, the largest 1), `newness` fades from 1, `age` is in days; `prior` is
    their weighted sum. `pool` holds the P recipes put forward for everybody, `pool_column` the place of each recipe in
    it or -1. `by_tag` (T + 1, each) and `by_ingredient` hold the best recipes of each, filled up with -1; their last
    row, which -1 finds, is empty. `neighbours` is the artifact's matrix, `model_row` the row of each recipe in it or
    -1, `of_model` the recipe of each row, -1 for those unknown or not listable.
    """

    listable: Bools
    live: Floats
    trained: Floats
    standing: Floats
    newness: Floats
    age: Floats
    prior: Floats
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
        size, now, blend = len(catalogue.recipe_ids), micros(as_of), weights.blend
        listable = catalogue.alive & ~_excluded(catalogue, weights)
        age = np.maximum(now - column_micros(live_popularity["decayed_at"]), 0) / MICROS_PER_DAY
        count = to_numpy(live_popularity["decayed_count"], 0.0) * 0.5 ** (age / weights.popularity.half_life_days)
        live = _scaled_root(catalogue.index_of(live_popularity["recipe_id"]), count, listable)

        model_row, of_model = np.full(size, -1), np.zeros(0, np.int64)
        trained, standing = np.zeros(size), np.zeros(size)
        if artifact is not None:
            of_model = catalogue.index_of(pa.array(artifact.recipe_ids.tolist(), pa.string()))
            known = np.flatnonzero(of_model >= 0)
            model_row[of_model[known]] = known
            trained = _scaled_root(of_model, artifact.popularity, listable)
            standing = _scaled_root(of_model, artifact.interactions, listable)
            of_model[~np.append(listable, False)[of_model]] = -1

        age = np.maximum(now - catalogue.published, 0) / MICROS_PER_DAY
        newness = 0.5 ** (age / weights.fresh.half_life_days)
        is_new = age <= weights.fresh.days
        prior = blend.live_popularity * live + blend.trained_popularity * trained
        prior += blend.standing_popularity * standing + blend.fresh * newness

        living = np.flatnonzero(listable)
        best = living[np.argsort(-prior[living], kind="stable")]
        newest = best[is_new[best]]
        pool = np.unique(np.concatenate([best[: weights.candidates.popular], newest[: weights.candidates.fresh]]))
        pool_column = np.full(size, -1)
        pool_column[pool] = np.arange(len(pool))
        tagged = np.repeat(np.arange(size), np.diff(catalogue.tag_offsets))
        user, place = np.nonzero(catalogue.main_ingredients >= 0)
        used, each = catalogue.main_ingredients[user, place], weights.candidates.each
        return cls(
            listable=listable,
            live=live,
            trained=trained,
            standing=standing,
            newness=newness,
            age=age,
            prior=prior,
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
        return cls(offsets, positions(texts, words), to_numpy(flat(weights), 0.0))

    @classmethod
    def none(cls, users: int) -> "Lists":
        return cls(np.zeros(users + 1, np.int64), np.zeros(0, np.int64), np.zeros(0))

    def sizes(self, start: int, end: int) -> Ints:
        return np.diff(self.offsets[start : end + 1])

    def entries(self, start: int, end: int) -> slice:
        return slice(self.offsets[start], self.offsets[end])

    def table(self, start: int, end: int) -> tuple[Ints, Floats]:
        """Lists of users start .. end - 1, filled up with value -1 and weight 0."""
        return self.column(start, end, self.values, -1), self.column(start, end, self.weights, 0.0)

    def column(self, start: int, end: int, values: Any, missing: float, spare: int = 1) -> Any:
        """What belongs to the lists' entries, of users start .. end - 1, filled up with `missing`."""
        return padded(self.sizes(start, end), values[self.entries(start, end)], missing, spare)

    def split(self, most: int) -> tuple["Lists", Bools]:
        """The first entries of each list, and which they are."""
        sizes = np.diff(self.offsets)
        row = np.repeat(np.arange(len(sizes)), sizes)
        first = np.arange(len(row)) - self.offsets[row] < most
        return Lists(starts(np.minimum(sizes, most)), self.values[first], self.weights[first]), first


@dataclass(frozen=True)
class Users:
    """All U profiles by position, among R recipes.

    `own` holds a user's strongest recipes; `older` are the others, as user * R + recipe, in order: they are no
    candidates, but known as seen. `cool_down`, `action`, `age` (seconds), `count`, `daytime` and the bases of
    `interest` belong to the entries of `own`. `interest` is the (U, model rows) CSR float32 matrix of own recipes in
    the order of the profile, without those that weigh too little to matter; `interest_entry` is the entry of `own`
    behind each of its values.
    """

    own: Lists
    older: Ints
    cool_down: Floats
    action: Ints
    age: Floats
    count: Floats
    daytime: Floats
    session: Floats
    steady: Floats
    newest: Floats
    leftovers: Lists
    tastes: Lists
    external: Lists
    interest: Any
    interest_entry: Ints

    @classmethod
    def of(
        cls,
        profiles: pa.Table,
        catalogue: Catalogue,
        recipes: Recipes,
        weights: Weights,
        suggestions: pa.Table | None = None,
    ) -> "Users":
        whole = Lists.of(profiles["recipe_ids"], profiles["recipe_weights"], catalogue.recipe_ids)
        own, first = whole.split(weights.candidates.own)
        row = np.repeat(np.arange(len(profiles)), np.diff(own.offsets))
        action = positions(flat(profiles["recipe_actions"]), ACTIONS)[first]
        age = to_numpy(flat(profiles["recipe_ages"]), 0.0)[first]
        count = to_numpy(flat(profiles["recipe_counts"]), 0.0)[first]
        counts = own.weights > 0
        told = np.append([getattr(weights.actions, name) for name in ACTION_OF_EVENT], 0.0)[action] * counts
        session, steady = told / (1 + age / _SECONDS_A_MINUTE), told * count
        interest = weights.interest.recent * own.weights
        interest += weights.interest.session * session + weights.interest.steady * steady
        newest = _newest(row, age, len(profiles))
        interest += weights.interest.newest * newest * told

        model_row = np.append(recipes.model_row, -1)[own.values]
        strongest = _of_each(np.maximum, row, interest, len(profiles), 0.0)
        enough = interest >= np.maximum(weights.profile.least_share * strongest[row], np.finfo(np.float32).tiny)
        entry = np.flatnonzero((model_row >= 0) & enough)
        offsets = starts(np.bincount(row[entry], minlength=len(profiles)))
        return cls(
            own=own,
            older=_others(whole, first, len(catalogue.recipe_ids)),
            cool_down=to_numpy(flat(profiles["cooldowns"]), 1.0)[first],
            action=action,
            age=age,
            count=count,
            daytime=to_numpy(flat(profiles["recipe_daytimes"]), 0.0)[first],
            session=session,
            steady=steady,
            newest=newest,
            leftovers=Lists.of(profiles["ingredients"], profiles["ingredient_weights"], catalogue.ingredients),
            tastes=Lists.of(profiles["tastes"], profiles["taste_weights"], catalogue.tags),
            external=_suggested(suggestions, profiles, catalogue),
            interest=csr(interest[entry].astype(np.float32), model_row[entry], offsets, len(recipes.of_model)),
            interest_entry=entry,
        )

    def seen_longer_ago(self, chunk: tuple[int, int], recipe: Ints, size: int) -> Bools:
        """(chunk, N) which of (chunk or 1, N) recipes each user of the chunk has among the `older` ones."""
        user = np.arange(*chunk)[:, None]
        first, last = np.searchsorted(self.older, np.array(chunk) * size)
        known, keys = self.older[first:last], user * size + recipe
        if not len(known):
            return np.zeros(keys.shape, dtype=bool)
        at = np.minimum(np.searchsorted(known, keys.ravel()), len(known) - 1)
        found: Bools = (known[at] == keys.ravel()).reshape(keys.shape) & (recipe >= 0)
        return found

    def interest_by(self, values: Floats) -> Any:
        """The matrix `interest` with other values of the same entries.

        None is 0, since the product leaves sums of 0 out.
        """
        return csr(
            np.maximum(values[self.interest_entry], _ALMOST_NOTHING).astype(np.float32),
            self.interest.indices,
            self.interest.indptr,
            self.interest.shape[1],
        )


class Attributes:
    """What the users of a chunk have to do with recipes' main ingredients and authors.

    `left` and `liked` are (chunk, columns): how much of an ingredient is left over, and the share of a user's strongest
    recipes that use it; `worth` is their weighted sum. Column 0 is for ingredients nobody in the chunk has to do with.
    `writer` and `writing` are (chunk, STRONGEST_OWN): authors of the strongest recipes, and the share of each recipe.
    """

    def __init__(
        self, catalogue: Catalogue, weights: Weights, leftovers: tuple[Ints, Floats], own: tuple[Ints, Floats]
    ) -> None:
        """Of (chunk, I) leftovers and (chunk, N) own recipes with their counts, filled up with -1."""
        self.main, self.author = catalogue.main_ingredients, catalogue.author
        (ingredient, left), recipe, count = leftovers, own[0][:, :STRONGEST_OWN], own[1][:, :STRONGEST_OWN]
        known = recipe >= 0
        share = count * known
        share /= np.maximum(share.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        self.strongest = recipe
        self.writer, self.writing = np.where(known, self.author[recipe], -1), share

        left_row, left_at = np.nonzero(ingredient >= 0)
        main = np.where(known[..., None], self.main[recipe], -1)
        own_row, own_at, place = np.nonzero(main >= 0)
        found = np.concatenate([ingredient[left_row, left_at], main[own_row, own_at, place]])
        self.column = np.zeros(len(catalogue.ingredients) + 1, np.int64)
        self.column[found] = 1
        present = np.flatnonzero(self.column)
        self.column[present] = np.arange(1, len(present) + 1)
        width = len(present) + 1
        column = self.column[found]
        leaving = left_row * width + column[: len(left_row)], left[left_row, left_at]
        liking = own_row * width + column[len(left_row) :], share[own_row, own_at]
        self.left, self.liked, self.worth = np.zeros((3, len(recipe), width))
        np.add.at(self.left.ravel(), *leaving)
        np.add.at(self.liked.ravel(), *liking)
        np.add.at(self.worth.ravel(), leaving[0], weights.blend.leftovers * leaving[1])
        np.add.at(self.worth.ravel(), liking[0], weights.blend.ingredients * liking[1])
        self.authors = weights.blend.authors

    def score(self, row: Ints, recipe: Ints) -> Floats:
        """What ingredients and author add to pairs of users and recipes, arrays that broadcast to one shape."""
        total = self.ingredients(self.worth, row, recipe)
        if self.authors:
            total += self.authors * self.by_author(row, recipe)
        return total

    def ingredients(self, table: Floats, row: Ints, recipe: Ints) -> Floats:
        """Sum over the main ingredients of each recipe of what `table` says of them."""
        if table.shape[1] == 1:
            return np.zeros(np.broadcast_shapes(row.shape, recipe.shape))
        place = row * table.shape[1]
        columns = self.column.take(self.main.take(recipe, axis=0))
        flat = table.ravel()
        total: Floats = flat.take(columns[..., 0] + place)
        for nth in range(1, columns.shape[-1]):
            total += flat.take(columns[..., nth] + place)
        return total

    def by_author(self, row: Ints, recipe: Ints) -> Floats:
        """The share of the user's strongest recipes that are of the recipe's author."""
        author = self.author.take(recipe)
        total: Floats = np.zeros(np.broadcast_shapes(row.shape, recipe.shape))
        for nth in range(self.writer.shape[1]):
            writer = self.writer[:, nth].take(row)
            total += np.where((author == writer) & (writer >= 0), self.writing[:, nth].take(row), 0.0)
        return total

    def alike(self, row: Ints, recipe: Ints) -> Ints:
        """(N,) the place in the profile of the strongest recipe that shares author or a main ingredient; else -1."""
        own = self.strongest[row]
        main, others = self.main[recipe][:, None, :, None], self.main[own][:, :, None, :]
        shared = ((main == others) & (main >= 0)).any(axis=(2, 3))
        shared |= (self.author[recipe][:, None] == self.author[own]) & (self.author[recipe] >= 0)[:, None]
        shared &= own >= 0
        place: Ints = np.where(shared.any(axis=1), shared.argmax(axis=1), -1)
        return place

    def strongest_leftover(self, row: Ints, recipe: Ints) -> Ints:
        """(N,) the main ingredient of each recipe that its user has most of left."""
        main = self.main[recipe]
        most = self.left[row[:, None], self.column[main]].argmax(axis=1)
        return np.take_along_axis(main, most[:, None], axis=1)[:, 0]


@dataclass(frozen=True)
class Candidates:
    """The scored candidates of one chunk of users: S personal ones each, and after them the P of the pool all share.

    `score`, `valid` and `slot` are (chunk, S + P); pool recipes that are personal ones too are valid once. `slot` is
    the place in the profile; places have two spare columns: the last but one is that of recipes seen longer ago, the
    last, and every number above, that of others. What the sources are computed
    from stays at hand, unweighted: `rule` and `external` of each personal candidate, `repeats`, `daytime`, `cool_down`
    and `age` of each place in the profile, `affinity` to each tag pattern, and `attributes`. `parts` are the strengths
    of the followers by each base of `interest` (model.py), (chunk, S, parts), if they were asked for.
    """

    recipe: Ints
    valid: Bools
    score: Floats
    slot: Ints
    rule: Floats
    external: Floats | None
    parts: Floats | None
    strength: Floats
    repeats: Floats
    daytime: Floats
    cool_down: Floats
    age: Floats
    affinity: Floats
    taste: Ints
    liking: Floats
    attributes: Attributes

    @property
    def personal(self) -> int:
        """How many columns are of each user's own candidates."""
        return int(self.rule.shape[1])

    def place(self, row: Ints, column: Ints) -> Ints:
        """Place in the profile of N candidates, the last, which is empty, for those that are not in it."""
        place: Ints = np.minimum(_at(self.slot, row, column), self.repeats.shape[1] - 1)
        return place


def score_candidates(
    catalogue: Catalogue,
    recipes: Recipes,
    users: Users,
    weights: Weights,
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
    blend, few = weights.blend, weights.candidates.strongest
    user = np.arange(end - start)[:, None]
    own = users.own.column(start, end, users.own.values, -1, _SPARE)
    count = users.own.column(start, end, users.count, 0.0, _SPARE)
    cool_down = users.own.column(start, end, users.cool_down, 1.0, _SPARE)
    repeats, daytime = to_one(count), to_one(users.own.column(start, end, users.daytime, 0.0, _SPARE))
    follower, strength, parts = _followers(users, recipes, weights.candidates.rules, chunk, with_parts)
    taste, liking = users.tastes.table(start, end)
    affinity = to_one(_affinity(taste, liking, catalogue))
    leftovers = users.leftovers.table(start, end)
    attributes = Attributes(catalogue, weights, leftovers, (own, count))
    suggested, suggestion = users.external.table(start, end)
    by_taste = recipes.by_tag[taste[:, :few]].reshape(end - start, -1)
    by_leftover = recipes.by_ingredient[leftovers[0][:, :few]].reshape(end - start, -1)
    merged = _Merged.of([own, follower, suggested, by_taste, by_leftover])
    recipe, slot = merged.recipe, merged.slot
    valid = merged.is_first & recipes.listable.take(recipe)
    pool_slot = np.full((end - start, len(recipes.pool)), own.shape[1])
    if len(users.older):
        longer_ago = users.seen_longer_ago(chunk, recipe, len(recipes.listable))
        slot = np.where(longer_ago & (slot >= own.shape[1]), own.shape[1] - _SPARE, slot)
        pool_slot[users.seen_longer_ago(chunk, recipes.pool[None, :], len(recipes.listable))] -= _SPARE

    rule = merged.spread(to_one(strength), own.shape[1])
    external = None
    score = recipes.prior.take(recipe) + blend.rules * rule
    if suggested.shape[1] > 1:
        external = merged.spread(to_one(suggestion), own.shape[1] + follower.shape[1])
        score += blend.external * external
    weighed = blend.taste * affinity
    score += weighed.take(catalogue.pattern.take(recipe) + user * affinity.shape[1])
    score += attributes.score(user, recipe)
    row, at = np.nonzero(valid & (slot < own.shape[1]))
    place = slot[row, at]
    total = score[row, at] + blend.repeats * repeats[row, place] + blend.daytime * daytime[row, place]
    score[row, at] = np.where(total > 0, total * cool_down[row, place], total) + blend.seen

    pool_score = recipes.prior[recipes.pool] + weighed.take(catalogue.pattern[recipes.pool], axis=1)
    pool_score += attributes.score(user, recipes.pool[None, :])
    pool_score += blend.seen * (pool_slot < own.shape[1])
    pool_valid = np.ones(pool_score.shape, dtype=bool)
    column = recipes.pool_column.take(recipe)
    row, at = np.nonzero(valid & (column >= 0))
    pool_valid[row, column[row, at]] = False
    return Candidates(
        recipe=np.concatenate([recipe, np.broadcast_to(recipes.pool, pool_score.shape)], axis=1),
        valid=np.concatenate([valid, pool_valid], axis=1),
        score=np.concatenate([score, pool_score], axis=1),
        slot=np.concatenate([slot, pool_slot], axis=1),
        rule=rule,
        external=external,
        parts=np.stack([merged.spread(to_one(part), own.shape[1]) for part in parts], axis=-1) if parts else None,
        strength=strength.max(axis=1, initial=0),
        repeats=repeats,
        daytime=daytime,
        cool_down=cool_down,
        age=users.own.column(start, end, users.age, np.inf, _SPARE),
        affinity=affinity,
        taste=taste,
        liking=liking,
        attributes=attributes,
    )


@dataclass(frozen=True)
class _Merged:
    """What several sources put forward, (chunk, S): sorted by recipe, then source.

    The first of a run of equal recipes stands for all (`is_first`; `again` tells, from the second column on, the
    others): the user's own entry comes before that of the rules, which comes before the suggested one and the rest.
    `slot` is the column in which the recipe was put forward.
    """

    recipe: Ints
    slot: Ints
    is_first: Bools
    again: Bools

    @classmethod
    def of(cls, blocks: Sequence[Ints]) -> "_Merged":
        """Of blocks of columns, one a source, filled up with -1."""
        keys = np.concatenate(blocks, axis=1) << SLOT_BITS
        keys |= np.arange(keys.shape[1])
        keys.sort(axis=1)
        recipe = keys >> SLOT_BITS
        again = recipe[:, 1:] == recipe[:, :-1]
        is_first = recipe >= 0
        is_first[:, 1:] &= ~again
        return cls(recipe, keys & SLOTS, is_first, again)

    def spread(self, values: Floats, first: int) -> Floats:
        """Values of the block that begins at slot `first`, each at the entry that stands for its recipe.

        At most two blocks that can hold the same recipe come before one whose values are spread.
        """
        width = self.slot.shape[1]
        table: Any = np.zeros(self.slot.shape)
        table[:, first : first + values.shape[1]] = values
        table = table.take(self.slot + np.arange(len(table))[:, None] * width)
        moved = table
        for _ in range(2):
            moved = moved[:, 1:] * self.again[:, : moved.shape[1] - 1]
            table[:, : moved.shape[1]] += moved
        spread: Floats = table
        return spread


def source_values(  # noqa: PLR0917 - whose values, and of what
    catalogue: Catalogue,
    recipes: Recipes,
    candidates: Candidates,
    row: Ints,
    column: Ints,
    names: Sequence[str] = SOURCES,
) -> Floats:
    """(N, names) unweighted values of these SOURCES of N candidates, before cool-down."""
    recipe, attributes = _at(candidates.recipe, row, column), candidates.attributes
    personal = np.minimum(column, candidates.personal - 1)
    is_personal = column < candidates.personal
    place = candidates.place(row, column)
    external = candidates.external
    values: dict[str, Callable[[], Floats]] = {
        "rules": lambda: _at(candidates.rule, row, personal) * is_personal,
        "live_popularity": lambda: recipes.live.take(recipe),
        "trained_popularity": lambda: recipes.trained.take(recipe),
        "standing_popularity": lambda: recipes.standing.take(recipe),
        "taste": lambda: _at(candidates.affinity, row, catalogue.pattern.take(recipe)),
        "ingredients": lambda: attributes.ingredients(attributes.liked, row, recipe),
        "authors": lambda: attributes.by_author(row, recipe),
        "fresh": lambda: recipes.newness.take(recipe),
        "repeats": lambda: _at(candidates.repeats, row, place),
        "daytime": lambda: _at(candidates.daytime, row, place),
        "seen": lambda: (place < candidates.repeats.shape[1] - 1).astype(np.float64),
        "leftovers": lambda: attributes.ingredients(attributes.left, row, recipe),
        "external": lambda: np.zeros(len(row)) if external is None else _at(external, row, personal) * is_personal,
    }
    return np.stack([values[name]() for name in names], axis=1)


def _at(table: Any, row: Ints, column: Ints) -> Any:
    """(N,) table[row, column], in half the time."""
    return table.ravel().take(row * table.shape[1] + column)


def blend_weights(weights: Weights, names: Sequence[str] = SOURCES) -> Floats:
    """(names,) the weights of these SOURCES."""
    return np.array([getattr(weights.blend, name) for name in names])


def _followers(
    users: Users, recipes: Recipes, most: int, chunk: tuple[int, int], with_parts: bool
) -> tuple[Ints, Floats, list[Floats] | None]:
    """Recipes that follow the users' own ones, (chunk, at most `most`) each: recipe or -1, strength, and its parts.

    The strongest ones of the sparse product. Positive floats keep their order when read as whole numbers, so one
    number holds strength and, to break ties, position. Products of matrices with equal patterns come in one order, so
    the strengths by other bases of interest stand where the main one does.
    """
    start, end = chunk
    if recipes.neighbours is None:
        empty = np.zeros((end - start, 0))
        return empty.astype(np.int64), empty, [empty] * len(PARTS) if with_parts else None
    (offsets, column, value), last = product(users.interest[start:end], recipes.neighbours), len(recipes.of_model) - 1
    sizes = np.diff(offsets)
    keys = value.view(np.int32).astype(np.int64) << 32
    keys |= last - column
    table = padded(sizes, keys, -1)
    at = None
    if table.shape[1] > most:
        if with_parts:
            at = np.argpartition(table, table.shape[1] - most, axis=1)[:, -most:]
            table = np.take_along_axis(table, at, axis=1)
        else:
            table.partition(table.shape[1] - most, axis=1)
            table = table[:, -most:]
    recipe = np.append(recipes.of_model, -1)[np.where(table >= 0, last - (table & 0xFFFFFFFF), -1)]
    strength = (table >> 32).astype(np.int32).view(np.float32).astype(np.float64)
    parts = None
    if with_parts:
        parts = []
        for values in (users.own.weights, users.session, users.steady, users.newest):
            part = padded(sizes, product(users.interest_by(values)[start:end], recipes.neighbours)[2], 0.0)
            part = part if at is None else np.take_along_axis(part, at, axis=1)
            parts.append(np.where((recipe >= 0) & (part > 1e5 * _ALMOST_NOTHING), part, 0.0).astype(np.float64))
    return recipe, np.where(recipe >= 0, strength, 0.0), parts


PARTS = ("recent", "session", "steady", "newest")
"""The bases that strengths of followers are split by: those of weights.Interest."""


def _others(lists: Lists, taken: Bools, size: int) -> Ints:
    """The known entries not taken, as user * size + value, in order."""
    row = np.repeat(np.arange(len(lists.offsets) - 1), np.diff(lists.offsets))
    left = ~taken & (lists.values >= 0)
    return np.sort(row[left] * size + lists.values[left])


def _newest(row: Ints, age: Floats, users: int) -> Floats:
    """(entries of own,) 1 for the recipe of each user's newest behaviour, the strongest of equals, else 0."""
    newest = np.zeros(len(row))
    at = np.flatnonzero(age == _of_each(np.minimum, row, age, users, np.inf)[row])
    newest[at[np.diff(row[at], prepend=-1) > 0]] = 1.0
    return newest


def _of_each(combine: np.ufunc, row: Ints, values: Floats, users: int, nothing: float) -> Floats:
    """(users,) the entries of each user combined; their rows ascend."""
    result = np.full(users, nothing)
    first = np.flatnonzero(np.diff(row, prepend=-1))
    if len(first):
        result[row[first]] = combine.reduceat(values, first)
    return result


def _suggested(suggestions: pa.Table | None, profiles: pa.Table, catalogue: Catalogue) -> Lists:
    """Suggestions of an external recommender in the order of the profiles; unknown recipes are -1."""
    if suggestions is None or not len(suggestions):
        return Lists.none(len(profiles))
    at = positions(profiles["user_id"], strings(suggestions["user_id"]))
    rows: Any = suggestions.take(np.where(at >= 0, at, 0))
    lists = Lists.of(rows["recipe_ids"], rows["scores"], catalogue.recipe_ids)
    row = np.repeat(np.arange(len(profiles)), np.diff(lists.offsets))
    kept = (at[row] >= 0) & (lists.values >= 0) & (lists.weights > 0)
    return Lists(starts(np.bincount(row[kept], minlength=len(profiles))), lists.values[kept], lists.weights[kept])


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


def _affinity(taste: Ints, liking: Floats, catalogue: Catalogue) -> Floats:
    """(chunk, patterns) likeness of each user's tastes to each set of tags: shares summed / root of the set's size."""
    row, at = np.nonzero(taste >= 0)
    offsets = starts(np.bincount(row, minlength=len(taste)))
    shares = csr(liking[row, at], taste[row, at], offsets, len(catalogue.tags))
    likeness: Floats = (shares @ catalogue.patterns.T).toarray()
    return likeness


def to_one(table: Floats) -> Floats:
    """Each row divided by its largest value."""
    largest = table.max(axis=1, keepdims=True, initial=0)
    return table / np.where(largest > 0, largest, 1)


def _scaled_root(recipe: Ints, count: Floats, alive: Bools) -> Floats:
    """(R,) square root of each listable recipe's count, the largest being 1; unknown recipes are left out."""
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
