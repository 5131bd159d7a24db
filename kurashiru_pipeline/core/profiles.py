"""Preprocess: what a user's recent behaviours say about the next recipe.

Here: from behaviours and stated preferences of many users to one profile row a user (interest in recipes, cool-down,
repeats, leftovers, tastes).
Not here: which recipes to recommend for it (ranking.py), and which behaviours are remembered (the warehouse).
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import (
    MICROS_PER_DAY,
    MICROS_PER_SECOND,
    Bools,
    Floats,
    Ints,
    column_micros,
    constants,
    flatten,
    lists,
    micros,
    positions,
    starts,
    strings,
    take,
    to_numpy,
    vocabulary,
)
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

_EVENTS = constants(*ACTION_OF_EVENT, "recipe_unfavorite", "search")
_VIEWED, _LIST, _FAVORITE, _COOKED, _UNFAVORITE, _SEARCH = range(6)
_INGREDIENTS = pa.list_(pa.int64())


def build_profiles(
    behaviors: pa.Table,
    catalogue: Catalogue,
    weights: Weights,
    as_of: datetime,
    preferences: pa.Table | None = None,
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
    users = vocabulary(_together(strings(behaviors["user_id"]), stated))
    user = positions(behaviors["user_id"], users)
    event = positions(behaviors["event_name"], _EVENTS)
    age = np.maximum(micros(as_of) - column_micros(behaviors["occurred_at"]), 0)
    recipe_ids = vocabulary(strings(behaviors["recipe_id"]))
    recipe = positions(behaviors["recipe_id"], recipe_ids)
    in_catalogue = np.append(catalogue.index_of(recipe_ids), -1)

    rows = np.flatnonzero((recipe >= 0) & (event >= 0) & (event != _SEARCH))
    time = column_micros(behaviors["occurred_at"])[rows]
    rows = rows[_newest_first(user[rows], time, take(strings(behaviors["event_id"]), rows))]
    rows = rows[_tells_interest(event[rows], user[rows] * max(len(recipe_ids), 1) + recipe[rows], weights)]
    back = np.arange(len(rows)) - starts(np.bincount(user[rows], minlength=len(users)))[user[rows]]
    interest = np.where(back < weights.profile.length, _action_weights(weights)[event[rows]], 0.0)

    days = age / MICROS_PER_DAY
    recipes = _Recipes.of(
        user[rows],
        recipe[rows],
        event[rows],
        weight=interest * 0.5 ** (back / weights.profile.half_life),
        cool_down=_cool_down(event[rows], days[rows], weights),
        age=age[rows] / MICROS_PER_SECOND,
        count=0.5 ** (back / weights.profile.count_half_life),
        daytime=_daytime(days[rows], weights),
    )
    liked, tag = catalogue.tags_of(in_catalogue[recipe[rows]])
    likes = (interest * 0.5 ** (back / weights.profile.taste_half_life))[liked]
    said_by, said, saying = _stated_tastes(preferences, users, catalogue, weights)
    taste_user, taste, share = _tastes(
        np.concatenate([user[rows][liked], said_by]),
        np.concatenate([tag, said]),
        np.concatenate([likes, saying]),
        len(catalogue.tags),
    )

    windows = days * 24 / weights.profile.leftovers_hours
    mention, ingredient = _mentions(behaviors["detail"], event, in_catalogue[recipe], windows < 1, catalogue)
    left_user, leftover, left = _leftovers(user[mention], ingredient, 1 - windows[mention])

    size = len(users)
    columns: list[Any] = [
        users,
        pa.array(np.full(size, micros(as_of)), pa.timestamp("us")),
        lists(recipes.user, size, take(recipe_ids, recipes.recipe)),
        lists(recipes.user, size, recipes.weight),
        lists(recipes.user, size, take(ACTIONS, recipes.event)),
        lists(recipes.user, size, recipes.cool_down),
        lists(recipes.user, size, recipes.age),
        lists(recipes.user, size, recipes.count),
        lists(recipes.user, size, recipes.daytime),
        lists(left_user, size, take(catalogue.ingredients, leftover)),
        lists(left_user, size, left),
        lists(taste_user, size, take(catalogue.tags, taste)),
        lists(taste_user, size, share),
    ]
    return pa.Table.from_arrays(columns, schema=PROFILE_SCHEMA)


def _together(some: Any, others: Any) -> Any:
    return some if others is None else pa.concat_arrays([some, others])


def _daytime(days: Floats, weights: Weights) -> Floats:
    """How near in time of day each behaviour was, 1 at the same time: exp(-(hours / daytime_hours)^2)."""
    apart = days % 1
    hours = 24 * np.minimum(apart, 1 - apart)
    near: Floats = np.exp(-((hours / weights.profile.daytime_hours) ** 2))
    return near


def _stated_tastes(
    preferences: pa.Table | None, users: Any, catalogue: Catalogue, weights: Weights
) -> tuple[Ints, Ints, Floats]:
    """(user, tag, weight) of what users said; unknown tags are left out, the rest share the weight evenly."""
    nothing = np.zeros(0, np.int64)
    if preferences is None:
        return nothing, nothing, np.zeros(0)
    row, tags = flatten(preferences["preferred_tags"])
    tag = positions(tags, catalogue.tags)
    row, tag = row[tag >= 0], tag[tag >= 0]
    each = weights.profile.stated_taste / np.bincount(row, minlength=len(preferences))[row]
    return positions(preferences["user_id"], users)[row], tag, each


def _action_weights(weights: Weights) -> Floats:
    return np.array([*(getattr(weights.actions, name) for name in ACTION_OF_EVENT), 0.0, 0.0])


def _cool_down(event: Ints, age: Floats, weights: Weights) -> Floats:
    """1 - 0.5^(age / half-life) of each view and cooking, 1 for every other behaviour."""
    half_life = np.where(event == _COOKED, weights.cool_down.cooked_days, weights.cool_down.viewed_days)
    return np.where((event == _VIEWED) | (event == _COOKED), 1 - 0.5 ** (age / half_life), 1.0)


def _newest_first(user: Ints, time: Ints, event_ids: Any) -> Ints:
    """Order by user, newest first; what happened at the same time by event id."""
    order = np.lexsort((-time, user))
    same = (np.diff(user[order]) == 0) & (np.diff(time[order]) == 0)
    if same.any():
        tied = np.append(same, False) | np.append(False, same)
        among = order[tied]
        by_id = np.argsort(pc.sort_indices(take(event_ids, among)))
        order[tied] = among[np.lexsort((by_id, -time[among], user[among]))]
    return order


def _tells_interest(event: Ints, pair: Ints, weights: Weights) -> Bools:
    """Whether each behaviour, newest first, has a weight and was not taken back by a newer unfavourite."""
    undone = np.flatnonzero(event == _UNFAVORITE)
    pairs, first = np.unique(pair[undone], return_index=True)
    taken_back = np.zeros(len(event), dtype=bool)
    if len(pairs):
        at = np.minimum(np.searchsorted(pairs, pair), len(pairs) - 1)
        taken_back = (event == _FAVORITE) & (pairs[at] == pair) & (undone[first[at]] < np.arange(len(event)))
    return (_action_weights(weights)[event] > 0) & ~taken_back


@dataclass(frozen=True)
class _Recipes:
    """One entry a user and recipe, strongest first, then most counted: sums of weight, count and daytime, lowest
    cool-down and age, the event that weighs most."""

    user: Ints
    recipe: Ints
    event: Ints
    weight: Floats
    cool_down: Floats
    age: Floats
    count: Floats
    daytime: Floats

    @classmethod
    def of(
        cls,
        user: Ints,
        recipe: Ints,
        event: Ints,
        *,
        weight: Floats,
        cool_down: Floats,
        age: Floats,
        count: Floats,
        daytime: Floats,
    ) -> "_Recipes":
        order = np.lexsort((-weight, recipe, user))
        first, group = _groups(user[order], recipe[order])
        entry = order[first]

        def total(values: Floats) -> Floats:
            return np.bincount(group, weights=values[order], minlength=len(first)).astype(float)

        def lowest(values: Floats) -> Floats:
            return np.minimum.reduceat(values[order], first) if len(first) else values

        sums, counts = total(weight), total(count)
        best = np.lexsort((recipe[entry], -counts, -sums, user[entry]))
        entry = entry[best]
        return cls(
            user[entry],
            recipe[entry],
            event[entry],
            sums[best],
            lowest(cool_down)[best],
            lowest(age)[best],
            counts[best],
            total(daytime)[best],
        )


def _tastes(user: Ints, tag: Ints, weight: Floats, tag_count: int) -> tuple[Ints, Ints, Floats]:
    """One entry a user and tag, strongest first: (user, tag, share of the user's weight)."""
    keys, group = np.unique(user * max(tag_count, 1) + tag, return_inverse=True)
    user, tag = np.divmod(keys, max(tag_count, 1))
    total = np.bincount(group, weights=weight, minlength=len(keys))
    user, tag, total = user[total > 0], tag[total > 0], total[total > 0]
    share = total / np.bincount(user, weights=total)[user]
    order = np.lexsort((tag, -share, user))
    return user[order], tag[order], share[order]


def _mentions(detail: Any, event: Ints, recipe: Ints, recent: Bools, catalogue: Catalogue) -> tuple[Ints, Ints]:
    """Ingredients searched for or put on the shopping list lately, as (row of the behaviour, ingredient) pairs.

    A shopping list entry without an ingredient of its own stands for the recipe's main ones.
    """
    texts = strings(detail)
    has_text = to_numpy(pc.is_valid(texts), False)
    written = np.flatnonzero(recent & has_text & ((event == _SEARCH) | (event == _LIST)))
    encoded = take(texts, written).dictionary_encode()
    named: Any = pa.array([catalogue.ingredients_in(text) for text in encoded.dictionary.to_pylist()], _INGREDIENTS)
    at, by_text = flatten(named.take(encoded.indices))

    listed = np.flatnonzero(recent & ~has_text & (event == _LIST) & (recipe >= 0))
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
