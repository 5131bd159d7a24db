"""From users and recipes as arrays to lists: candidates, scores, shortlist, re-ranking, reasons.

Here: the loops of scoring.py, model.py and ranking.py, which say what each step means. One call takes a chunk of users,
one after the other, so nothing of a user depends on the others. Sums run in the order of the profile; ties go to the
lowest position.
Not here: where the arrays come from. Nothing is allocated: results and scratch are arguments.
"""

from typing import Any, NamedTuple

import numpy as np

from kurashiru_pipeline.core.columns import (
    Bools,
    BoolTable,
    Floats,
    Floats32,
    FloatTable,
    FloatTable32,
    Ints,
    Ints32,
    IntTable,
    IntTable32,
    Words,
    WordTable,
)
from kurashiru_pipeline.core.kernels.trees import Ensemble, predict

# The places of the sources: scoring.SOURCES, to which a test holds them.
RULES, LIVE, TRAINED, STANDING, TASTE, INGREDIENTS, AUTHORS, FRESH, REPEATS, DAYTIME, SEEN, LEFTOVERS, EXTERNAL = range(
    13
)
SOURCE_COUNT = 13
PART_COUNT = 4
STRONGEST_OWN = 3
MAIN_INGREDIENTS = 3

NOT_OWN, OLDER = -1, -2
"""Places in the profile of recipes that are not in it, or beyond its strongest."""

SLOT_BITS, RECIPE_BITS = 16, 20
PRECISION, LARGEST_SCORE = 1_000_000, 64
SEEN_LONGER_AGO = -1

OVER_LIMIT, NEVER = 10.0, 100.0
"""What a recipe over a limit loses, so that it comes after all others, and one in a place kept for a new recipe."""

TINY, TINY_32 = float(np.finfo(np.float64).tiny), float(np.finfo(np.float32).tiny)
ALMOST_NOTHING = 1e-20
ENOUGH_OF_NOTHING = 1e5 * ALMOST_NOTHING
"""Starting points that count nothing in a part count so little; a part no larger than so is nothing."""

OF_RULES, OF_LEFTOVERS, OF_TASTE, OF_REPEATS, OF_NEW, OF_ALIKE, OF_EXTERNAL, OF_POPULAR = range(8)
REASON_COUNT = 8
"""What a list says of a recipe: the group of sources that adds most to its score, the first of equals."""

_CACHE_LINE = 16  # numbers of 32 bits

ACTION_COUNT = 4
SAYS_INGREDIENT, SAYS_TASTE, SAYS_NEW, SAYS_EXTERNAL, SAYS_POPULAR = range(ACTION_COUNT, ACTION_COUNT + 5)
"""Kinds of reasons beyond the actions of profiles.ACTION_OF_EVENT."""


class RecipeArrays(NamedTuple):
    """What is the same for all users; see scoring.Recipes and catalogue.Catalogue.

    `tag_offsets` and `tags` are the tags of each recipe; `bearer_offsets`, `bearers` and `bearing` the tag patterns
    that hold a tag, and the tag's part in each. `next_offsets`, `next_row` and `next_value` are the matrix of what
    follows what, over rows of the model; `of_model` is the recipe of such a row or -1.
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
    by_tag: IntTable
    by_ingredient: IntTable
    of_model: Ints
    model_row: Ints
    next_offsets: Ints
    next_row: Ints32
    next_value: Floats32
    pattern: Ints
    tag_offsets: Ints
    tags: Ints
    bearer_offsets: Ints
    bearers: Ints
    bearing: Floats
    primary: Ints
    main: IntTable
    author: Ints
    tag_bits: WordTable


class UserArrays(NamedTuple):
    """The users; see scoring.Users. Lists lie one after the other, those of user u at offsets[u] : offsets[u + 1].

    `bases` is (PART_COUNT, entries of interest).
    """

    own_offsets: Ints
    own: Ints
    cool_down: Floats
    age: Floats
    counted: Floats
    daytime: Floats
    action: Ints
    older_offsets: Ints
    older: Ints
    interest_offsets: Ints
    interest_entry: Ints
    interest_row: Ints
    interest: Floats32
    bases: FloatTable32
    leftover_offsets: Ints
    leftover: Ints
    left: Floats
    taste_offsets: Ints
    taste: Ints
    liking: Floats
    external_offsets: Ints
    external: Ints
    suggestion: Floats


class Scratch(NamedTuple):
    """Scratch of one thread, all 0 before and after each user but `touched`, `keys` and the last three.

    `strength` and `strength_bits` are the same memory, (model rows,), read as numbers and as bits; `touched` and
    `keys` have one place more. `at` is (recipes,): the number of each among the candidates, from 1,
    or SEEN_LONGER_AGO. `affinity` is (tag patterns,), `left` and `liked` are
    (ingredients + 1,), `writer`, `writing` and `largest` (3,).
    """

    strength: Floats32
    strength_bits: Ints32
    touched: Ints32
    keys: Ints
    at: Ints32
    affinity: Floats
    left: Floats
    liked: Floats
    writer: Ints
    writing: Floats
    largest: Floats


class CandidateTable(NamedTuple):
    """Candidates of a chunk of users: (chunk, width) each but `sizes`, `closest` and `strength`, (chunk,).

    `place` is the one in the profile, NOT_OWN or OLDER; `rule` and `external` are scaled to 1 a user; `strength` is
    what 1 stands for. Beyond the size of a row nothing is written but recipe -1.
    """

    sizes: Ints
    recipe: IntTable
    place: IntTable32
    score: FloatTable
    rule: FloatTable
    external: FloatTable
    strength: Floats


class Rules(NamedTuple):
    """What ranking goes by: weights.Weights with what was learned.

    `blend` and `reason_of` are (SOURCE_COUNT,): weights, and OF_RULES .. OF_POPULAR of each source, -1 for those that
    are no reason; `learnable` the places of the sources that are features of the model.
    """

    blend: Floats
    reason_of: Ints
    learnable: Ints
    followers: int
    strongest: int
    shortlist: int
    new_places: int
    per_author: int
    per_tag: int
    dial: float
    with_model: int
    blend_scale: float


class ModelDesk(NamedTuple):
    """Scratch of relevance_by_model: for shortlists of M, (M,) `row`, `column` and `scores`, (M, SOURCE_COUNT)
    `sources`, (M, features) `features`, and what trees.predict takes."""

    row: Ints
    column: Ints
    sources: FloatTable
    features: FloatTable
    scores: Floats
    values: Floats
    leaves: Words


class Desk(NamedTuple):
    """Scratch of list_users: tables of one row, as its steps take them, (length,) `row` and `columns` of the picks."""

    table: CandidateTable
    parts: FloatTable
    keys: Ints
    recipe: IntTable
    column: IntTable
    score: IntTable
    present: BoolTable
    relevance: FloatTable
    numbers: FloatTable
    groups: IntTable
    bits: WordTable
    picked: IntTable
    row: Ints
    columns: Ints
    values: FloatTable


def best_recipes(  # noqa: PLR0917 - arrays
    prior: Floats,
    listable: Bools,
    is_new: Bools,
    tag_offsets: Ints,
    tags: Ints,
    main: IntTable,
    popular: Ints,
    fresh: Ints,
    by_tag: IntTable,
    by_ingredient: IntTable,
) -> None:
    """Fill the best recipes by `prior`, best first: (popular,) of all, (fresh,) of the new ones, and (each,) of each
    row of `by_tag` and `by_ingredient`, whose last row stays empty. All must be -1 before."""
    for recipe in range(len(prior)):
        if not listable[recipe]:
            continue
        _place(popular, recipe, prior)
        if is_new[recipe]:
            _place(fresh, recipe, prior)
        for entry in range(tag_offsets[recipe], tag_offsets[recipe + 1]):
            _place(by_tag[tags[entry]], recipe, prior)
        for nth in range(main.shape[1]):
            ingredient = main[recipe, nth]
            is_first = ingredient >= 0
            for before in range(nth):
                is_first = is_first and main[recipe, before] != ingredient
            if is_first:
                _place(by_ingredient[ingredient], recipe, prior)


def _place(best: Ints, recipe: int, prior: Floats) -> None:
    """Put a recipe, later than those before, into a list of the best."""
    nth = len(best)
    while nth > 0 and (best[nth - 1] < 0 or prior[best[nth - 1]] < prior[recipe]):
        if nth < len(best):
            best[nth] = best[nth - 1]
        nth -= 1
    if nth < len(best):
        best[nth] = recipe


def interests(  # noqa: PLR0917 - arrays
    offsets: Ints,
    own: Ints,
    action: Ints,
    weight: Floats,
    age: Floats,
    count: Floats,
    model_row: Ints,
    action_weights: Floats,
    shares: Floats,
    least_share: float,
    interest_offsets: Ints,
    entry: Ints,
    row: Ints,
    interest: Floats32,
    bases: FloatTable32,
) -> None:
    """Fill how each own recipe counts as a starting point of transitions: those that the model knows and that weigh at
    least a share of the user's strongest. See scoring.user_arrays.

    Args:
        offsets, own, action, weight, age, count: profiles; action -1, the unknown, finds the last weight, 0.
        shares: (PART_COUNT,) weights of the bases: recent, session, steady, newest.
        interest_offsets: (U + 1,), beginning with 0.
        entry, row, interest, bases: as long as `own`; what lies behind the last offset is not written.
    """
    size = 0
    for user in range(len(offsets) - 1):
        begin, end = offsets[user], offsets[user + 1]
        newest, strongest = begin, 0.0
        for at in range(begin, end):
            if age[at] < age[newest]:
                newest = at
        for at in range(begin, end):
            strongest = max(strongest, _interest(at, newest, action, weight, age, count, action_weights, shares))
        least = max(least_share * strongest, TINY_32)
        for at in range(begin, end):
            total = _interest(at, newest, action, weight, age, count, action_weights, shares)
            known = model_row[own[at]] if own[at] >= 0 else -1
            if known < 0 or total < least:
                continue
            told = action_weights[action[at]] * (weight[at] > 0)
            entry[size], row[size], interest[size] = at, known, total
            bases[0, size] = max(weight[at], ALMOST_NOTHING)
            bases[1, size] = max(told / (1 + age[at] / 60), ALMOST_NOTHING)
            bases[2, size] = max(told * count[at], ALMOST_NOTHING)
            bases[3, size] = 1.0 if at == newest else ALMOST_NOTHING
            size += 1
        interest_offsets[user + 1] = size


def _interest(  # noqa: PLR0917 - as interests
    at: int,
    newest: int,
    action: Ints,
    weight: Floats,
    age: Floats,
    count: Floats,
    action_weights: Floats,
    shares: Floats,
) -> float:
    told = action_weights[action[at]] * (weight[at] > 0)
    total = shares[0] * weight[at]
    total += shares[1] * (told / (1 + age[at] / 60)) + shares[2] * (told * count[at])
    if at == newest:
        total += shares[3] * told
    return total  # type: ignore[no-any-return]


def score_candidates(  # noqa: PLR0912, PLR0917 - whom, what, by which rules, and where to
    start: int,
    end: int,
    items: RecipeArrays,
    users: UserArrays,
    blend: Floats,
    most: int,
    few: int,
    scratch: Scratch,
    table: CandidateTable,
    parts: FloatTable,
    with_parts: int,
) -> None:
    """Candidates and scores of users start .. end - 1; see scoring.score_candidates.

    Args:
        blend: (SOURCE_COUNT,) weights.
        most: followers a user, at most.
        few: tastes, and leftovers, that put recipes forward.
        parts: (PART_COUNT, chunk * width) strengths of the followers by each base of interest, 0 before.
        with_parts: whether they are asked for.
    """
    for user in range(start, end):
        nth = user - start
        _load(user, items, users, scratch)
        recipes, places = table.recipe[nth], table.place[nth]
        scores, rules, external = table.score[nth], table.rule[nth], table.external[nth]
        size = 0
        for entry in range(users.older_offsets[user], users.older_offsets[user + 1]):
            scratch.at[users.older[entry]] = SEEN_LONGER_AGO
        first = users.own_offsets[user]
        for entry in range(first, users.own_offsets[user + 1]):
            size = _add(users.own[entry], entry - first, size, items, scratch, recipes, places, rules, external)
        size = _add_followers(user, nth, size, items, users, most, scratch, table, parts, with_parts)
        size = _add_suggested(user, size, items, users, scratch, recipes, places, rules, external)
        for entry in range(
            users.taste_offsets[user], min(users.taste_offsets[user + 1], users.taste_offsets[user] + few)
        ):
            for recipe in items.by_tag[users.taste[entry]]:
                size = _add(recipe, NOT_OWN, size, items, scratch, recipes, places, rules, external)
        for entry in range(
            users.leftover_offsets[user], min(users.leftover_offsets[user + 1], users.leftover_offsets[user] + few)
        ):
            for recipe in items.by_ingredient[users.leftover[entry]]:
                size = _add(recipe, NOT_OWN, size, items, scratch, recipes, places, rules, external)
        for recipe in items.pool:
            size = _add(recipe, NOT_OWN, size, items, scratch, recipes, places, rules, external)

        closest = scratch.largest[0]
        for at in range(size):
            recipe = recipes[at]
            score = items.prior[recipe] + blend[RULES] * rules[at]
            score += blend[EXTERNAL] * external[at]
            score += blend[TASTE] * (scratch.affinity[items.pattern[recipe]] / closest)
            more = 0.0
            for which in range(MAIN_INGREDIENTS):
                ingredient = items.main[recipe, which]
                more += blend[LEFTOVERS] * scratch.left[ingredient] + blend[INGREDIENTS] * scratch.liked[ingredient]
            if blend[AUTHORS] != 0:
                more += blend[AUTHORS] * _by_author(recipe, items, scratch)
            score += more
            place = places[at]
            if place >= 0:
                score += blend[REPEATS] * (users.counted[first + place] / scratch.largest[1])
                score += blend[DAYTIME] * (users.daytime[first + place] / scratch.largest[2])
                if score > 0:
                    score *= users.cool_down[first + place]
            if place != NOT_OWN:
                score += blend[SEEN]
            scores[at] = score

        table.sizes[nth] = size
        for at in range(size):
            scratch.at[recipes[at]] = 0
        for at in range(size, len(recipes)):
            recipes[at] = -1
        for entry in range(users.older_offsets[user], users.older_offsets[user + 1]):
            scratch.at[users.older[entry]] = 0
        _unload(user, items, users, scratch)


def _add(  # noqa: PLR0917 - as score_candidates
    recipe: int,
    place: int,
    size: int,
    items: RecipeArrays,
    scratch: Scratch,
    recipes: Ints,
    places: Ints32,
    rules: Floats,
    external: Floats,
) -> int:
    """Add a recipe (-1: none) to a user's candidates, unless it is one or may not be listed; the new size."""
    if recipe < 0 or not items.listable[recipe] or scratch.at[recipe] > 0:
        return size
    places[size] = OLDER if place == NOT_OWN and scratch.at[recipe] == SEEN_LONGER_AGO else place
    recipes[size], rules[size], external[size] = recipe, 0.0, 0.0
    scratch.at[recipe] = size + 1
    return size + 1


def _add_followers(  # noqa: PLR0917 - as score_candidates
    user: int,
    nth: int,
    size: int,
    items: RecipeArrays,
    users: UserArrays,
    most: int,
    scratch: Scratch,
    table: CandidateTable,
    parts: FloatTable,
    with_parts: int,
) -> int:
    """The strongest recipes that follow the user's own ones: the sparse product of interest and neighbours.

    Positive floats keep their order when read as whole numbers, so one number holds strength and, to break ties, row.
    """
    strength, touched, keys, last = scratch.strength, scratch.touched, scratch.keys, len(items.of_model) - 1
    found = 0
    begin, end = users.interest_offsets[user], users.interest_offsets[user + 1]
    touched[last + 1] = _read_ahead(begin, end, items, users)
    for entry in range(begin, end):
        value, source = users.interest[entry], users.interest_row[entry]
        for follower in range(items.next_offsets[source], items.next_offsets[source + 1]):
            adds = value * items.next_value[follower]
            if adds > 0:
                row = items.next_row[follower]
                before = strength[row]
                strength[row] = before + adds
                touched[found] = row
                found += before == 0
    for at in range(found):
        row = touched[at]
        keys[at] = (np.int64(scratch.strength_bits[row]) << 32) | (last - row)
    _select(keys, found, most)
    kept = min(found, most)
    largest = 0.0
    for at in range(kept):
        row = last - (keys[at] & 0xFFFFFFFF)
        recipe = items.of_model[row]
        if recipe >= 0 and strength[row] > largest:
            largest = np.float64(strength[row])
    table.strength[nth] = largest
    recipes, places, rules, external = table.recipe[nth], table.place[nth], table.rule[nth], table.external[nth]
    scale = largest if largest > 0 else 1.0
    for at in range(kept):
        row = last - (keys[at] & 0xFFFFFFFF)
        recipe = items.of_model[row]
        if recipe >= 0:
            size = _add(recipe, NOT_OWN, size, items, scratch, recipes, places, rules, external)
            rules[scratch.at[recipe] - 1] = np.float64(strength[row]) / scale
    for at in range(found):
        strength[touched[at]] = 0
    if with_parts:
        _add_parts(nth * table.recipe.shape[1], begin, end, kept, items, users, scratch, parts)
    return size


def _read_ahead(begin: int, end: int, items: RecipeArrays, users: UserArrays) -> int:
    """Read a bit of every cache line of the matrix that a user needs: the memory answers many requests at once, where
    the product would wait for one after the other. What is returned means nothing, but that the reading took place."""
    total = 0
    for entry in range(begin, end):
        source = users.interest_row[entry]
        for follower in range(items.next_offsets[source], items.next_offsets[source + 1], _CACHE_LINE):
            total += items.next_row[follower] ^ np.int64(items.next_value[follower] > 0)
    return total & 1


def _add_parts(  # noqa: PLR0917 - as score_candidates
    first: int,
    begin: int,
    end: int,
    kept: int,
    items: RecipeArrays,
    users: UserArrays,
    scratch: Scratch,
    parts: FloatTable,
) -> None:
    """Strengths of the kept followers by each base of interest alone, the largest 1, at their candidates.

    Args:
        first: where the user's candidates begin in `parts`.
        begin, end: its entries of interest.
    """
    strength, last = scratch.strength, len(items.of_model) - 1
    for part in range(PART_COUNT):
        for entry in range(begin, end):
            value, source = users.bases[part, entry], users.interest_row[entry]
            for follower in range(items.next_offsets[source], items.next_offsets[source + 1]):
                strength[items.next_row[follower]] += value * items.next_value[follower]
        largest = 0.0
        for at in range(kept):
            row = last - (scratch.keys[at] & 0xFFFFFFFF)
            if items.of_model[row] >= 0 and strength[row] > ENOUGH_OF_NOTHING:
                largest = max(largest, np.float64(strength[row]))
        for at in range(kept):
            row = last - (scratch.keys[at] & 0xFFFFFFFF)
            recipe = items.of_model[row]
            if recipe >= 0 and strength[row] > ENOUGH_OF_NOTHING:
                parts[part, first + scratch.at[recipe] - 1] = np.float64(strength[row]) / largest
        for entry in range(begin, end):
            source = users.interest_row[entry]
            for follower in range(items.next_offsets[source], items.next_offsets[source + 1]):
                strength[items.next_row[follower]] = 0


def _add_suggested(  # noqa: PLR0917 - as score_candidates
    user: int,
    size: int,
    items: RecipeArrays,
    users: UserArrays,
    scratch: Scratch,
    recipes: Ints,
    places: Ints32,
    rules: Floats,
    external: Floats,
) -> int:
    """Suggestions from outside; a recipe suggested twice counts by the first."""
    begin, end = users.external_offsets[user], users.external_offsets[user + 1]
    largest = 0.0
    for entry in range(begin, end):
        largest = max(largest, users.suggestion[entry])
    for entry in range(begin, end):
        recipe = users.external[entry]
        size = _add(recipe, NOT_OWN, size, items, scratch, recipes, places, rules, external)
        if scratch.at[recipe] > 0 and external[scratch.at[recipe] - 1] == 0:
            external[scratch.at[recipe] - 1] = users.suggestion[entry] / largest
    return size


def _select(keys: Ints, size: int, most: int) -> None:
    """Move the `most` largest of `size` different keys to the front, in no order (quickselect: Hoare 1961)."""
    low, high = 0, size
    while low < most < high:
        one, other, third = keys[low], keys[(low + high) // 2], keys[high - 1]
        pivot = max(min(one, other), min(max(one, other), third))
        middle = low
        for at in range(low, high):
            key = keys[at]
            keys[at] = keys[middle]
            keys[middle] = key
            middle += key >= pivot
        # The pivot is among those before the middle; where it is the only one, it goes first.
        if middle == most:
            return
        if middle < most:
            low = middle
        elif middle == high:
            smallest = low
            for at in range(low + 1, high):
                if keys[at] < keys[smallest]:
                    smallest = at
            key = keys[smallest]
            keys[smallest] = keys[high - 1]
            keys[high - 1] = key
            high -= 1
        else:
            high = middle


def _load(user: int, items: RecipeArrays, users: UserArrays, scratch: Scratch) -> None:
    """Write what scores and sources of a user need into the scratch: likeness of its tastes to each pattern of tags
    (shares summed / root of the pattern's size), what it has to do with ingredients and authors, and the `largest`
    likeness, count and daytime, 1 where that is 0."""
    closest = 0.0
    for entry in range(users.taste_offsets[user], users.taste_offsets[user + 1]):
        tag = users.taste[entry]
        if tag < 0:
            continue
        for bearer in range(items.bearer_offsets[tag], items.bearer_offsets[tag + 1]):
            pattern = items.bearers[bearer]
            scratch.affinity[pattern] += users.liking[entry] * items.bearing[bearer]
            closest = max(closest, scratch.affinity[pattern])
    scratch.largest[0] = closest if closest > 0 else 1.0

    first, last = users.own_offsets[user], users.own_offsets[user + 1]
    count, daytime = 0.0, 0.0
    for entry in range(first, last):
        count, daytime = max(count, users.counted[entry]), max(daytime, users.daytime[entry])
    scratch.largest[1] = count if count > 0 else 1.0
    scratch.largest[2] = daytime if daytime > 0 else 1.0

    for entry in range(users.leftover_offsets[user], users.leftover_offsets[user + 1]):
        ingredient = users.leftover[entry]
        if ingredient >= 0:
            scratch.left[ingredient] += users.left[entry]
    total = 0.0
    for nth in range(min(STRONGEST_OWN, last - first)):
        if users.own[first + nth] >= 0:
            total += users.counted[first + nth]
    total = max(total, TINY)
    for nth in range(STRONGEST_OWN):
        scratch.writer[nth] = -1
        if nth >= last - first or users.own[first + nth] < 0:
            continue
        recipe, share = users.own[first + nth], users.counted[first + nth] / total
        scratch.writer[nth], scratch.writing[nth] = items.author[recipe], share
        for which in range(MAIN_INGREDIENTS):
            ingredient = items.main[recipe, which]
            if ingredient >= 0:
                scratch.liked[ingredient] += share


def _unload(user: int, items: RecipeArrays, users: UserArrays, scratch: Scratch) -> None:
    """Wipe what `_load` wrote."""
    for entry in range(users.taste_offsets[user], users.taste_offsets[user + 1]):
        tag = users.taste[entry]
        if tag >= 0:
            for bearer in range(items.bearer_offsets[tag], items.bearer_offsets[tag + 1]):
                scratch.affinity[items.bearers[bearer]] = 0
    for entry in range(users.leftover_offsets[user], users.leftover_offsets[user + 1]):
        ingredient = users.leftover[entry]
        if ingredient >= 0:
            scratch.left[ingredient] = 0
    first = users.own_offsets[user]
    for entry in range(first, min(first + STRONGEST_OWN, users.own_offsets[user + 1])):
        recipe = users.own[entry]
        for which in range(MAIN_INGREDIENTS):
            if recipe >= 0 and items.main[recipe, which] >= 0:
                scratch.liked[items.main[recipe, which]] = 0


def _by_author(recipe: int, items: RecipeArrays, scratch: Scratch) -> float:
    """The share of the user's strongest recipes that are of the recipe's author."""
    author, total = items.author[recipe], 0.0
    for nth in range(STRONGEST_OWN):
        if author >= 0 and scratch.writer[nth] == author:
            total += scratch.writing[nth]
    return total


def source_values(  # noqa: PLR0917 - whose, of what, by which rules, and where to
    start: int,
    row: Ints,
    column: Ints,
    items: RecipeArrays,
    users: UserArrays,
    scratch: Scratch,
    table: CandidateTable,
    values: FloatTable,
) -> None:
    """Fill the (N, SOURCE_COUNT) unweighted values of all sources of N candidates of a table that starts with user
    `start`, before cool-down."""
    for nth in range(len(row)):
        if nth == 0 or row[nth] != row[nth - 1]:
            if nth > 0:
                _unload(start + row[nth - 1], items, users, scratch)
            _load(start + row[nth], items, users, scratch)
        _value_sources(start, row[nth], column[nth], items, users, scratch, table, values[nth])
    if len(row):
        _unload(start + row[-1], items, users, scratch)


def _value_sources(  # noqa: PLR0917 - as source_values
    start: int,
    row: int,
    column: int,
    items: RecipeArrays,
    users: UserArrays,
    scratch: Scratch,
    table: CandidateTable,
    values: Floats,
) -> None:
    """Sources of one candidate of the user on the scratch."""
    recipe, place = table.recipe[row, column], table.place[row, column]
    values[RULES] = table.rule[row, column]
    values[LIVE] = items.live[recipe]
    values[TRAINED] = items.trained[recipe]
    values[STANDING] = items.standing[recipe]
    values[TASTE] = scratch.affinity[items.pattern[recipe]] / scratch.largest[0]
    liked, left = 0.0, 0.0
    for which in range(MAIN_INGREDIENTS):
        liked += scratch.liked[items.main[recipe, which]]
        left += scratch.left[items.main[recipe, which]]
    values[INGREDIENTS] = liked
    values[AUTHORS] = _by_author(recipe, items, scratch)
    values[FRESH] = items.newness[recipe]
    values[REPEATS] = 0.0
    values[DAYTIME] = 0.0
    if place >= 0:
        entry = users.own_offsets[start + row] + place
        values[REPEATS] = users.counted[entry] / scratch.largest[1]
        values[DAYTIME] = users.daytime[entry] / scratch.largest[2]
    values[SEEN] = 0.0 if place == NOT_OWN else 1.0
    values[LEFTOVERS] = left
    values[EXTERNAL] = table.external[row, column]


def shortlist(  # noqa: PLR0917 - of what, how many, and where to
    table: CandidateTable,
    is_new: Bools,
    most: int,
    new_places: int,
    keys: Ints,
    recipe: IntTable,
    column: IntTable,
    score: IntTable,
    present: BoolTable,
) -> None:
    """Fill the best candidates of each user of a table, best first, then the best new ones beyond.

    Args:
        keys: scratch, (width of the table,).
        recipe, column, score, present: (chunk, most + new_places), see ranking.Shortlist.
    """
    last = (1 << RECIPE_BITS) - 1
    for user in range(len(table.sizes)):
        size = table.sizes[user]
        for at in range(size):
            whole = np.int64(np.rint((table.score[user, at] + LARGEST_SCORE) * PRECISION))
            keys[at] = (((whole << RECIPE_BITS) | (last - table.recipe[user, at])) << SLOT_BITS) | at
        _select(keys, size, most)
        kept = min(size, most)
        new = kept
        for at in range(kept, size):
            key = keys[at]
            if is_new[table.recipe[user, key & ((1 << SLOT_BITS) - 1)]]:
                keys[at], keys[new] = keys[new], key
                new += 1
        _sort(keys, 0, kept)
        _select(keys[kept:], new - kept, new_places)
        new = min(new, kept + new_places)
        _sort(keys, kept, new)
        for at in range(column.shape[1]):
            present[user, at] = at < new
            recipe[user, at], column[user, at], score[user, at] = 0, 0, 0
            if at < new:
                column[user, at] = keys[at] & ((1 << SLOT_BITS) - 1)
                recipe[user, at] = table.recipe[user, column[user, at]]
                score[user, at] = (keys[at] >> (RECIPE_BITS + SLOT_BITS)) - LARGEST_SCORE * PRECISION


def _sort(keys: Ints, start: int, end: int) -> None:
    """Sort keys start .. end - 1, the largest first."""
    for at in range(start + 1, end):
        key, to = keys[at], at
        while to > start and keys[to - 1] < key:
            keys[to] = keys[to - 1]
            to -= 1
        keys[to] = key


def rerank(  # noqa: PLR0912, PLR0917 - of what, by which rules, and where to
    recipe: IntTable,
    present: BoolTable,
    relevance: FloatTable,
    items: RecipeArrays,
    dial: float,
    per_author: int,
    per_tag: int,
    new_places: int,
    numbers: FloatTable,
    groups: IntTable,
    bits: WordTable,
    picked: IntTable,
) -> None:
    """Pick the lists of a chunk of users; see ranking.rank.

    Args:
        recipe, present, relevance: (chunk, M) shortlists.
        numbers, groups, bits: scratch, (3, M), (4, M) and (M, words of tag bits).
        picked: (chunk, length) places in the shortlist, -1 where none is left.
    """
    width, length, words = recipe.shape[1], picked.shape[1], bits.shape[1]
    worth, likeness, tag_count = numbers[0], numbers[1], numbers[2]
    author, tag, of_author, of_tag = groups[0], groups[1], groups[2], groups[3]
    varies = dial != 0 and items.by_tag.shape[0] > 1
    for user in range(len(recipe)):
        low, high, new = np.inf, -np.inf, 0
        for at in range(width):
            if present[user, at]:
                low, high = min(low, relevance[user, at]), max(high, relevance[user, at])
                new += items.is_new[recipe[user, at]]
        span = high - low if high > low else 1.0
        reserved = min(new, new_places, length)
        for at in range(width):
            of = recipe[user, at]
            worth[at] = (1 - dial) * ((relevance[user, at] - low) / span) if present[user, at] else -np.inf
            likeness[at] = 0.0
            author[at], of_author[at] = items.author[of] if items.author[of] >= 0 else -1 - at, 0
            tag[at], of_tag[at] = items.primary[of] if items.primary[of] < items.by_tag.shape[0] - 1 else -1 - at, 0
            count = 0.0
            for word in range(words):
                bits[at, word] = items.tag_bits[word, of]
                count += _bit_count(bits[at, word])
            tag_count[at] = count
        for nth in range(length):
            weight = -dial / max(nth, 1)
            is_owed = reserved >= length - nth
            best, highest = 0, -np.inf
            for at in range(width):
                value = likeness[at] * weight + worth[at]
                if of_author[at] >= per_author or of_tag[at] >= per_tag:
                    value -= OVER_LIMIT
                if is_owed and not (items.is_new[recipe[user, at]] and present[user, at]):
                    value -= NEVER
                if value > highest:
                    best, highest = at, value
            if highest == -np.inf:
                for rest in range(nth, length):
                    picked[user, rest] = -1
                break
            picked[user, nth] = best
            worth[best] = -np.inf
            reserved -= items.is_new[recipe[user, best]]
            for at in range(width):
                of_author[at] += author[at] == author[best]
                of_tag[at] += tag[at] == tag[best]
            if varies:
                for at in range(width):
                    shared = 0.0
                    for word in range(words):
                        shared += _bit_count(bits[at, word] & bits[best, word])
                    likeness[at] += shared / max(tag_count[at] + tag_count[best] - shared, 1.0)


def _bit_count(word: Any) -> int:
    """Bits set in a word of 64 (Warren, Hacker's Delight, 2012, 5-1)."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + ((word >> np.uint64(2)) & np.uint64(0x3333333333333333))
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))  # type: ignore[return-value]


def reasons(  # noqa: PLR0912, PLR0917 - of what, by which rules, and where to
    start: int,
    row: Ints,
    column: Ints,
    items: RecipeArrays,
    users: UserArrays,
    blend: Floats,
    group: Ints,
    scratch: Scratch,
    table: CandidateTable,
    values: FloatTable,
    kind: Ints,
    subject: Ints,
) -> None:
    """Fill why N candidates are listed; users ascend.

    Args:
        group: (SOURCE_COUNT,) OF_RULES .. OF_POPULAR of each source, -1 for those that are no reason.
        values: scratch, (2, SOURCE_COUNT): one of the sources, one of the groups.
        kind: (N,) the action of an own recipe, or SAYS_INGREDIENT .. SAYS_POPULAR.
        subject: (N,) what the reason names, a position among all recipes, ingredients, tags and nothing.
    """
    of_source, of_group = values[0], values[1]
    ingredients = len(items.listable)
    tags = ingredients + items.by_ingredient.shape[0] - 1
    nothing = tags + items.by_tag.shape[0] - 1
    for nth in range(len(row)):
        user = start + row[nth]
        if nth == 0 or row[nth] != row[nth - 1]:
            if nth > 0:
                _unload(start + row[nth - 1], items, users, scratch)
            _load(user, items, users, scratch)
        _value_sources(start, row[nth], column[nth], items, users, scratch, table, of_source)
        recipe, place = table.recipe[row[nth], column[nth]], table.place[row[nth], column[nth]]
        is_tagged = items.primary[recipe] < items.by_tag.shape[0] - 1
        for reason in range(REASON_COUNT):
            of_group[reason] = 0.0
        for source in range(SOURCE_COUNT):
            if group[source] >= 0 and blend[source] != 0 and (source != FRESH or is_tagged):
                of_group[group[source]] += blend[source] * of_source[source]
        best = 0
        for reason in range(1, REASON_COUNT):
            if of_group[reason] > of_group[best]:
                best = reason
        kind[nth], subject[nth] = SAYS_POPULAR, nothing
        entry = -1
        if of_group[best] <= 0:
            continue
        if best == OF_REPEATS:
            entry = users.own_offsets[user] + place
        elif best == OF_RULES:
            total = table.rule[row[nth], column[nth]] * table.strength[row[nth]]
            entry = _anchor(user, items.model_row[recipe], total, items, users)
        elif best == OF_ALIKE:
            entry = users.own_offsets[user] + _alike(user, recipe, items, users)
        elif best == OF_LEFTOVERS:
            main = items.main[recipe]
            most = 0
            for which in range(1, MAIN_INGREDIENTS):
                if scratch.left[main[which]] > scratch.left[main[most]]:
                    most = which
            kind[nth], subject[nth] = SAYS_INGREDIENT, ingredients + main[most]
        elif best == OF_TASTE:
            kind[nth], subject[nth] = SAYS_TASTE, tags + _favourite_tag(user, recipe, items, users)
        elif best == OF_NEW:
            kind[nth], subject[nth] = SAYS_NEW, tags + items.primary[recipe]
        elif best == OF_EXTERNAL:
            kind[nth] = SAYS_EXTERNAL
        if entry >= 0:
            kind[nth], subject[nth] = users.action[entry], users.own[entry]
    if len(row):
        _unload(start + row[-1], items, users, scratch)


def _anchor(user: int, row: int, total: float, items: RecipeArrays, users: UserArrays) -> int:
    """The entry of `own` with the largest weight x transition to a recipe, the earliest of equals.

    Looks at the profile entry by entry, as long as what is left of the total could still beat the best.
    """
    begin, end = users.interest_offsets[user], users.interest_offsets[user + 1]
    anchor, best, left = begin, 0.0, total * 1.0001
    for entry in range(begin, end):
        source = users.interest_row[entry]
        low, high = items.next_offsets[source], items.next_offsets[source + 1]
        while low < high:
            middle = (low + high) // 2
            if items.next_row[middle] < row:
                low = middle + 1
            else:
                high = middle
        if low < items.next_offsets[source + 1] and items.next_row[low] == row:
            value = np.float64(users.interest[entry] * items.next_value[low])
            if value > best:
                anchor, best = entry, value
            left -= value
        if left <= best:
            break
    return users.interest_entry[anchor]  # type: ignore[no-any-return]


def _alike(user: int, recipe: int, items: RecipeArrays, users: UserArrays) -> int:
    """The place in the profile of the strongest recipe that shares author or a main ingredient."""
    first = users.own_offsets[user]
    for place in range(min(STRONGEST_OWN, users.own_offsets[user + 1] - first)):
        own = users.own[first + place]
        if own < 0:
            continue
        if items.author[own] >= 0 and items.author[own] == items.author[recipe]:
            return place
        for one in range(MAIN_INGREDIENTS):
            for other in range(MAIN_INGREDIENTS):
                if items.main[own, one] >= 0 and items.main[own, one] == items.main[recipe, other]:
                    return place
    return 0


def _favourite_tag(user: int, recipe: int, items: RecipeArrays, users: UserArrays) -> int:
    """The tag of a recipe that its user likes most, the first of equals."""
    best, most = items.tags[items.tag_offsets[recipe]], -1.0
    for tag_entry in range(items.tag_offsets[recipe], items.tag_offsets[recipe + 1]):
        liking = 0.0
        for entry in range(users.taste_offsets[user], users.taste_offsets[user + 1]):
            if users.taste[entry] == items.tags[tag_entry]:
                liking = max(liking, users.liking[entry])
        if liking > most:
            best, most = items.tags[tag_entry], liking
    return best  # type: ignore[no-any-return]


def feature_values(  # noqa: PLR0917 - whose, of what, by which rules, and where to
    start: int,
    row: Ints,
    column: Ints,
    items: RecipeArrays,
    users: UserArrays,
    blend: Floats,
    learnable: Ints,
    scratch: Scratch,
    table: CandidateTable,
    parts: FloatTable,
    sources: Floats,
    values: FloatTable,
) -> None:
    """Fill (N, features) of N candidates; see model.feature_values.

    Args:
        learnable: places of the sources that are features.
        parts: as score_candidates filled them.
        sources: scratch, (SOURCE_COUNT,).
    """
    newest, recipes = np.inf, 0
    for nth in range(len(row)):
        user, first = start + row[nth], users.own_offsets[start + row[nth]]
        if nth == 0 or row[nth] != row[nth - 1]:
            if nth > 0:
                _unload(start + row[nth - 1], items, users, scratch)
            _load(user, items, users, scratch)
            newest, recipes = np.inf, users.own_offsets[user + 1] - first
            for entry in range(first, users.own_offsets[user + 1]):
                newest = min(newest, users.age[entry])
        _value_sources(start, row[nth], column[nth], items, users, scratch, table, sources)
        total = 0.0
        for at in range(len(learnable)):
            values[nth, at] = sources[learnable[at]]
            total += sources[learnable[at]] * blend[learnable[at]]
        at = len(learnable)
        for part in range(PART_COUNT):
            values[nth, at + part] = parts[part, row[nth] * table.recipe.shape[1] + column[nth]]
        at += PART_COUNT
        place = table.place[row[nth], column[nth]]
        cool_down = users.cool_down[first + place] if place >= 0 else 1.0
        values[nth, at] = cool_down
        values[nth, at + 1] = _log_hours(users.age[first + place] if place >= 0 else np.inf)
        values[nth, at + 2] = np.log1p(items.age[table.recipe[row[nth], column[nth]]])
        values[nth, at + 3] = _log_hours(newest)
        values[nth, at + 4] = np.log1p(recipes)
        values[nth, at + 5] = total * cool_down
    if len(row):
        _unload(start + row[-1], items, users, scratch)


def _log_hours(seconds: float) -> float:
    """Logarithm of hours; what never happened is ten years ago."""
    return np.log(min(seconds / 3600, 87_600.0) + 1 / 3600)  # type: ignore[no-any-return]


def relevance_by_model(  # noqa: PLR0917 - of what, by which rules, and where to
    start: int,
    column: IntTable,
    present: BoolTable,
    items: RecipeArrays,
    users: UserArrays,
    rules: Rules,
    ensemble: Ensemble,
    scratch: Scratch,
    table: CandidateTable,
    parts: FloatTable,
    desk: ModelDesk,
    relevance: FloatTable,
) -> None:
    """Fill the (chunk, M) relevance of shortlists: the model's score and its share of the blend, from 0 to 1 a user,
    plus the sources that no model knows; 0 where there is none."""
    width, blend_at = column.shape[1], desk.features.shape[1] - 1
    for user in range(len(column)):
        size = 0
        for at in range(width):
            if present[user, at]:
                desk.row[size], desk.column[size] = user, column[user, at]
                size += 1
        row, columns, features, scores = desk.row[:size], desk.column[:size], desk.features[:size], desk.scores[:size]
        feature_values(
            start,
            row,
            columns,
            items,
            users,
            rules.blend,
            rules.learnable,
            scratch,
            table,
            parts,
            desk.sources[0],
            features,
        )
        predict(features, ensemble, desk.values, desk.leaves, scores)
        source_values(start, row, columns, items, users, scratch, table, desk.sources)
        low, high = np.inf, -np.inf
        for at in range(size):
            scores[at] = rules.blend_scale * features[at, blend_at] + scores[at]
            low, high = min(low, scores[at]), max(high, scores[at])
        span, nth = high - low if high > low else 1.0, 0
        for at in range(width):
            relevance[user, at] = 0.0
            if present[user, at]:
                ours = rules.blend[LEFTOVERS] * desk.sources[nth, LEFTOVERS]
                ours += rules.blend[EXTERNAL] * desk.sources[nth, EXTERNAL]
                relevance[user, at] = (scores[nth] - low) / span + ours
                nth += 1


def list_users(  # noqa: PLR0917 - whom, what, by which rules, and where to
    start: int,
    end: int,
    items: RecipeArrays,
    users: UserArrays,
    rules: Rules,
    ensemble: Ensemble,
    scratch: Scratch,
    desk: Desk,
    for_model: ModelDesk,
    sizes: Ints,
    recipe: Ints,
    relevance: Floats,
    kind: Ints,
    subject: Ints,
) -> int:
    """Lists of users start .. end - 1, each from its candidates to its reasons: what it needs stays in the cache.

    Args:
        sizes: (end - start,) recipes of each list.
        recipe, relevance, kind, subject: (N,) of the lists, one after the other; see reasons.

    Returns:
        N.
    """
    found, table = 0, desk.table
    for user in range(start, end):
        if rules.with_model:
            for part in range(PART_COUNT):
                for at in range(desk.parts.shape[1]):
                    desk.parts[part, at] = 0.0
        score_candidates(
            user,
            user + 1,
            items,
            users,
            rules.blend,
            rules.followers,
            rules.strongest,
            scratch,
            table,
            desk.parts,
            rules.with_model,
        )
        shortlist(
            table,
            items.is_new,
            rules.shortlist,
            rules.new_places,
            desk.keys,
            desk.recipe,
            desk.column,
            desk.score,
            desk.present,
        )
        if rules.with_model:
            relevance_by_model(
                user,
                desk.column,
                desk.present,
                items,
                users,
                rules,
                ensemble,
                scratch,
                table,
                desk.parts,
                for_model,
                desk.relevance,
            )
        else:
            for at in range(desk.score.shape[1]):
                desk.relevance[0, at] = desk.score[0, at] / PRECISION
        rerank(
            desk.recipe,
            desk.present,
            desk.relevance,
            items,
            rules.dial,
            rules.per_author,
            rules.per_tag,
            rules.new_places,
            desk.numbers,
            desk.groups,
            desk.bits,
            desk.picked,
        )
        size = 0
        while size < desk.picked.shape[1] and desk.picked[0, size] >= 0:
            at = desk.picked[0, size]
            desk.row[size], desk.columns[size] = 0, desk.column[0, at]
            recipe[found + size] = desk.recipe[0, at]
            relevance[found + size] = np.rint(desk.relevance[0, at] * PRECISION) / PRECISION
            size += 1
        reasons(
            user,
            desk.row[:size],
            desk.columns[:size],
            items,
            users,
            rules.blend,
            rules.reason_of,
            scratch,
            table,
            desk.values,
            kind[found : found + size],
            subject[found : found + size],
        )
        sizes[user - start] = size
        found += size
    return found
