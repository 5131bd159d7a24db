"""Preprocess: what a user's recent behaviours say about the next recipe.

Here: from behaviours and stated preferences of many users to one profile row a user (interest in recipes, cool-down,
repeats, leftovers, tastes).
Not here: which recipes to recommend for it (ranking.py), and which behaviours are remembered (the warehouse).
"""

import os
from bisect import bisect_left
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import (
    MICROS_PER_DAY,
    Bools,
    Floats,
    Ints,
    column_micros,
    constants,
    flatten,
    listed,
    micros,
    positions,
    starts,
    strings,
    take,
    to_numpy,
)
from kurashiru_pipeline.core.kernels import profiles as kernels
from kurashiru_pipeline.core.kernels.profiles import (
    LISTED,
    SEARCHED,
    Behaviors,
    Desk,
    Dishes,
    Fading,
    Profiles,
    Stated,
)
from kurashiru_pipeline.core.native import compiled
from kurashiru_pipeline.core.vocabulary import Vocabulary, layout, numbered
from kurashiru_pipeline.core.weights import Weights

ACTION_OF_EVENT = {
    "recipe_view": "viewed",
    "shopping_list_add": "listed",
    "recipe_favorite": "favorited",
    "recipe_cooked": "cooked",
}
"""The behaviours that tell an interest in a recipe, and the words their reasons use."""

ACTIONS = constants(*ACTION_OF_EVENT.values())

_TEXTS: Any = pa.list_(pa.string())
_NUMBERS: Any = pa.list_(pa.float64())
_FIELDS: list[Any] = [
    pa.field("user_id", pa.string()),
    pa.field("as_of", pa.timestamp("us")),
    pa.field("recipe_ids", _TEXTS),
    pa.field("recipe_weights", _NUMBERS),
    pa.field("recipe_actions", _TEXTS),
    pa.field("cooldowns", _NUMBERS),
    pa.field("recipe_ages", _NUMBERS),
    pa.field("recipe_counts", _NUMBERS),
    pa.field("recipe_daytimes", _NUMBERS),
    pa.field("ingredients", _TEXTS),
    pa.field("ingredient_weights", _NUMBERS),
    pa.field("tastes", _TEXTS),
    pa.field("taste_weights", _NUMBERS),
]
PROFILE_SCHEMA = pa.schema(_FIELDS)
"""One row a user. Lists that belong together have one length; the strongest come first, equals by name."""

_EVENT_NAMES = Vocabulary(constants(*ACTION_OF_EVENT, "recipe_unfavorite", "search"))
_PART = 4096
_INGREDIENTS = pa.list_(pa.int64())


def build_profiles(
    behaviors: pa.Table,
    catalogue: Catalogue,
    weights: Weights,
    as_of: datetime,
    preferences: pa.Table | None = None,
    *,
    is_threaded: bool = True,
) -> pa.Table:
    """Profiles of all users with a behaviour or a stated preference, in the order of their ids.

    A function of its arguments alone: neither the order of the rows nor the clock matters.

    Args:
        behaviors: user_id, event_id, event_name, recipe_id, detail (query of a search, ingredient of a shopping
            list), occurred_at (UTC); one row a behaviour.
        catalogue: the recipes; a behaviour on a recipe it does not know still counts as interest in that recipe.
        weights: the rules.
        as_of: the moment the profile speaks of (UTC).
        preferences: user_id, preferred_tags (list), one row a user: what users said of their taste.
        is_threaded: use several processors; the profiles are the same.

    Returns:
        PROFILE_SCHEMA. `recipe_weights` sums action weight * 0.5^(weighted behaviours back / half-life) over the
        newest `profile.length` weighted behaviours; older recipes follow with weight 0, those of more and newer
        behaviours first. Of each recipe: `cooldowns`, the factor 1 - 0.5^(age / half-life) of the last view or
        cooking; `recipe_ages`, seconds since its newest weighted behaviour; `recipe_counts`, the sum of
        0.5^(behaviours back / count half-life); `recipe_daytimes`, the sum of exp(-(hours between the times of day /
        daytime_hours)^2). `ingredient_weights` fades from 1 to 0 within the leftovers window. `taste_weights` sums
        to 1; stated tastes weigh together as much as `profile.stated_taste`.
    """
    stated = None if preferences is None else strings(preferences["user_id"])
    users, user = numbered(_together(strings(behaviors["user_id"]), stated))
    user = user[: len(behaviors)]
    event = _EVENT_NAMES.find(behaviors["event_name"])
    age = np.maximum(micros(as_of) - column_micros(behaviors["occurred_at"]), 0)
    in_catalogue = catalogue.index_of(behaviors["recipe_id"])
    names, recipe, dishes = _named_recipes(behaviors["recipe_id"], in_catalogue, catalogue)
    offsets, rows = np.zeros(len(users) + 1, np.int64), np.empty(len(user), np.int64)
    compiled(kernels.group_rows)(user, offsets, rows)
    most = int(np.diff(offsets).max(initial=0))
    id_offsets, id_data = layout(strings(behaviors["event_id"]))
    told = Behaviors(offsets, rows, event, recipe, age, id_offsets, id_data)
    fading = _fading(most, weights)
    said = _stated_tastes(preferences, users, catalogue, weights)

    windows = age / MICROS_PER_DAY * 24 / weights.profile.leftovers_hours
    mention, ingredient = _mentions(behaviors["detail"], event, in_catalogue, windows < 1, catalogue)
    left_user, leftover, left = _leftovers(user[mention], ingredient, 1 - windows[mention])
    left_offsets = starts(np.bincount(left_user, minlength=len(users)))

    def profiles_of(part: tuple[int, int]) -> pa.Table:
        start, end = part
        made = _profiles_of(start, end, told, dishes, said, fading, len(catalogue.tags))
        recipe_offsets, taste_offsets = starts(made.sizes), starts(made.taste_sizes)
        count, tastes, size = recipe_offsets[-1], taste_offsets[-1], end - start
        leftovers = slice(left_offsets[start], left_offsets[end])
        left_from = left_offsets[start : end + 1] - left_offsets[start]
        columns: list[Any] = [
            users[start:end],
            pa.array(np.full(size, micros(as_of)), pa.timestamp("us")),
            listed(recipe_offsets, take(names, made.recipe[:count])),
            listed(recipe_offsets, made.weight[:count]),
            listed(recipe_offsets, take(ACTIONS, made.event[:count])),
            listed(recipe_offsets, made.cool_down[:count]),
            listed(recipe_offsets, made.age[:count]),
            listed(recipe_offsets, made.counted[:count]),
            listed(recipe_offsets, made.daytime[:count]),
            listed(left_from, take(catalogue.ingredients, leftover[leftovers])),
            listed(left_from, left[leftovers]),
            listed(taste_offsets, take(catalogue.tags, made.taste[:tastes])),
            listed(taste_offsets, made.share[:tastes]),
        ]
        return pa.Table.from_arrays(columns, schema=PROFILE_SCHEMA)

    parts = [(start, min(start + _PART, len(users))) for start in range(0, max(len(users), 1), _PART)]
    if len(parts) == 1 or not is_threaded:
        return pa.concat_tables(map(profiles_of, parts))
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        return pa.concat_tables(threads.map(profiles_of, parts))


def _profiles_of(  # noqa: PLR0917 - whose, of what, by which rules
    start: int, end: int, behaviors: Behaviors, dishes: Dishes, stated: Stated, fading: Fading, tag_count: int
) -> Profiles:
    """The lists of users start .. end - 1."""
    first, last = behaviors.offsets[[start, end]]
    most, rows = len(fading.counted), last - first
    tastes = (end - start) * tag_count
    recipe, event = np.empty((2, rows), np.int64)
    weight, cool_down, age, counted, daytime = np.empty((5, rows))
    made = Profiles(
        sizes=np.empty(end - start, np.int64),
        recipe=recipe,
        event=event,
        weight=weight,
        cool_down=cool_down,
        age=age,
        counted=counted,
        daytime=daytime,
        taste_sizes=np.empty(end - start, np.int64),
        taste=np.empty(tastes, np.int64),
        share=np.empty(tastes),
    )
    row, order, undone = np.empty((3, most), np.int64)
    desk = Desk(row, np.empty(most), order, undone, np.zeros(tag_count))
    compiled(kernels.profile_users)(start, end, behaviors, dishes, stated, fading, desk, made)
    return made


def _named_recipes(recipe_ids: Any, in_catalogue: Ints, catalogue: Catalogue) -> tuple[Any, Ints, Dishes]:
    """Names of recipes, in the catalogue or not, the place of each behaviour's recipe among them in the order of their
    ids (-1 without one), and what is known of each."""
    names, position = catalogue.recipe_ids, np.arange(len(catalogue.recipe_ids))
    texts = strings(recipe_ids)
    unknown = np.flatnonzero((in_catalogue < 0) & to_numpy(pc.is_valid(texts), False))
    recipe = in_catalogue
    if len(unknown):
        lost, number = numbered(take(texts, unknown))
        before = np.array(
            [bisect_left(position, name, key=lambda at: str(names[int(at)])) for name in lost.to_pylist()]
        )
        place_of_lost = before + np.arange(len(lost))
        place = position + np.searchsorted(before, position, side="right")
        recipe = np.where(in_catalogue >= 0, np.append(place, -1)[in_catalogue], -1)
        recipe[unknown] = place_of_lost[number]
        source = np.empty(len(names) + len(lost), np.int64)
        source[place], source[place_of_lost] = position, len(names) + np.arange(len(lost))
        names = take(pa.concat_arrays([names, lost]), source)
        position = np.where(source < len(position), source, -1)
    return names, recipe, Dishes(position, catalogue.tag_offsets, catalogue.tag_values)


def _fading(most: int, weights: Weights) -> Fading:
    """How behaviours fade, up to the `most` of one user."""
    back, rules = np.arange(most), weights.profile
    return Fading(
        action=np.array([*(getattr(weights.actions, name) for name in ACTION_OF_EVENT), 0.0, 0.0]),
        interest=0.5 ** (back / rules.half_life),
        counted=0.5 ** (back / rules.count_half_life),
        taste=0.5 ** (back / rules.taste_half_life),
        length=rules.length,
        viewed_days=weights.cool_down.viewed_days,
        cooked_days=weights.cool_down.cooked_days,
        daytime_hours=rules.daytime_hours,
    )


def _together(some: Any, others: Any) -> Any:
    return some if others is None else pa.concat_arrays([some, others])


def _stated_tastes(preferences: pa.Table | None, users: Any, catalogue: Catalogue, weights: Weights) -> Stated:
    """What users said; unknown tags are left out, the rest share the weight evenly."""
    if preferences is None:
        return Stated(np.zeros(len(users) + 1, np.int64), np.zeros(0, np.int64), np.zeros(0))
    row, tags = flatten(preferences["preferred_tags"])
    tag = positions(tags, catalogue.tags)
    row, tag = row[tag >= 0], tag[tag >= 0]
    each = weights.profile.stated_taste / np.bincount(row, minlength=len(preferences))[row]
    user = positions(preferences["user_id"], users)[row]
    order = np.argsort(user, kind="stable")
    return Stated(starts(np.bincount(user, minlength=len(users))), tag[order], each[order])


def _mentions(detail: Any, event: Ints, recipe: Ints, recent: Bools, catalogue: Catalogue) -> tuple[Ints, Ints]:
    """Ingredients searched for or put on the shopping list lately, as (row of the behaviour, ingredient) pairs.

    A shopping list entry without an ingredient of its own stands for the recipe's main ones.
    """
    texts = strings(detail)
    has_text = to_numpy(pc.is_valid(texts), False)
    written = np.flatnonzero(recent & has_text & ((event == SEARCHED) | (event == LISTED)))
    encoded = take(texts, written).dictionary_encode()
    named: Any = pa.array([catalogue.ingredients_in(text) for text in encoded.dictionary.to_pylist()], _INGREDIENTS)
    at, by_text = flatten(named.take(encoded.indices))

    listed = np.flatnonzero(recent & ~has_text & (event == LISTED) & (recipe >= 0))
    main = catalogue.main_ingredients[recipe[listed]]
    entry, place = np.nonzero(main >= 0)
    behavior = np.concatenate([written[at], listed[entry]])
    return behavior, np.concatenate([to_numpy(by_text, -1), main[entry, place]])


def _leftovers(user: Ints, ingredient: Ints, weight: Floats) -> tuple[Ints, Ints, Floats]:
    """One entry a user and ingredient, strongest first: (user, ingredient, highest weight)."""
    order = np.lexsort((-weight, ingredient, user))
    order = order[_groups(user[order], ingredient[order])[0]]
    order = order[np.lexsort((ingredient[order], -weight[order], user[order]))]
    return user[order], ingredient[order], weight[order]


def _groups(first_key: Ints, second_key: Ints) -> tuple[Ints, Ints]:
    """Where each run of equal (sorted) key pairs starts, and the number of the run of each row."""
    new = np.ones(len(first_key), dtype=bool)
    new[1:] = (np.diff(first_key) != 0) | (np.diff(second_key) != 0)
    return np.flatnonzero(new), np.cumsum(new) - 1
