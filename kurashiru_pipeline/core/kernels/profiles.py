"""From behaviours as arrays to profiles: what each user did with which recipe, and which tags that tells of.

Here: the loops of profiles.py, which says what each column means. One call takes a chunk of users, one after the other.
Not here: leftovers and stated tastes, which come as arrays. Nothing is allocated: results and scratch are arguments.
"""

from typing import NamedTuple

import numpy as np

from kurashiru_pipeline.core.columns import Bytes, Floats, Ints, Ints32

VIEWED, LISTED, FAVORITED, COOKED, UNFAVORITED, SEARCHED = range(6)
"""Events by number: profiles.ACTION_OF_EVENT, and two more."""

MICROS_PER_SECOND = 1_000_000
MICROS_PER_DAY = 86_400 * MICROS_PER_SECOND


class Behaviors(NamedTuple):
    """N behaviours, those of user u being rows[offsets[u] : offsets[u + 1]].

    `event` is -1 for those of no interest, `recipe` the place of its name among all names, -1 without one; `age` in
    microseconds. `id_offsets` and `id_data` are the event ids.
    """

    offsets: Ints
    rows: Ints
    event: Ints
    recipe: Ints
    age: Ints
    id_offsets: Ints32
    id_data: Bytes


class Dishes(NamedTuple):
    """Position in the catalogue of each recipe by the place of its name, -1 for the unknown, and the tags of each
    position."""

    position: Ints
    tag_offsets: Ints
    tags: Ints


class Stated(NamedTuple):
    """What users said of their tastes, one list after the other."""

    offsets: Ints
    tag: Ints
    weight: Floats


class Fading(NamedTuple):
    """`action` is the weight of each event. By behaviours back, from 0: how much one counts as interest (up to the
    `length` of a profile), as a repeat, and for a taste; see weights.Profile."""

    action: Floats
    interest: Floats
    counted: Floats
    taste: Floats
    length: int
    viewed_days: float
    cooked_days: float
    daytime_hours: float


class Desk(NamedTuple):
    """Scratch for a user: (most rows of one,) each, and (tags,) `liked`, all 0."""

    row: Ints
    weight: Floats
    order: Ints
    undone: Ints
    liked: Floats


class Profiles(NamedTuple):
    """Results: (chunk,) `sizes` of the lists of recipes and tastes, and these lists one after the other."""

    sizes: Ints
    recipe: Ints
    event: Ints
    weight: Floats
    cool_down: Floats
    age: Floats
    counted: Floats
    daytime: Floats
    taste_sizes: Ints
    taste: Ints
    share: Floats


def group_rows(user: Ints, offsets: Ints, rows: Ints) -> None:
    """Fill the rows of each user, in their order, and where they begin ((users + 1,), 0 before)."""
    for row in range(len(user)):
        offsets[user[row] + 1] += 1
    for number in range(1, len(offsets)):
        offsets[number] += offsets[number - 1]
    for row in range(len(user) - 1, -1, -1):
        offsets[user[row] + 1] -= 1
        rows[offsets[user[row] + 1]] = row
    for number in range(len(offsets) - 1):
        offsets[number] = offsets[number + 1]
    offsets[len(offsets) - 1] = len(user)


def profile_users(  # noqa: PLR0917 - whose, of what, by which rules, and where to
    start: int,
    end: int,
    behaviors: Behaviors,
    dishes: Dishes,
    stated: Stated,
    fading: Fading,
    desk: Desk,
    made: Profiles,
) -> None:
    """Profiles of users start .. end - 1."""
    found, tastes = 0, 0
    for user in range(start, end):
        count = _tell_interest(user, behaviors, fading, desk)
        _like_tags(user, count, behaviors, dishes, stated, fading, desk)
        size = _sum_recipes(count, found, behaviors, fading, desk, made)
        made.sizes[user - start] = size
        found += size
        size = _sort_tastes(tastes, desk, made)
        made.taste_sizes[user - start] = size
        tastes += size


def _tell_interest(user: int, behaviors: Behaviors, fading: Fading, desk: Desk) -> int:
    """Write the behaviours of a user that tell an interest to desk.row, newest first, at one time by event id: those
    with a weight that no newer unfavourite took back. Returns how many."""
    count = 0
    for at in range(behaviors.offsets[user], behaviors.offsets[user + 1]):
        row = behaviors.rows[at]
        event = behaviors.event[row]
        if behaviors.recipe[row] < 0 or event < 0 or event == SEARCHED:
            continue
        to = count
        while to > 0 and _is_newer(row, desk.row[to - 1], behaviors):
            desk.row[to] = desk.row[to - 1]
            to -= 1
        desk.row[to] = row
        count += 1
    kept, undone = 0, 0
    for at in range(count):
        row = desk.row[at]
        event, recipe = behaviors.event[row], behaviors.recipe[row]
        if event == UNFAVORITED:
            desk.undone[undone] = recipe
            undone += 1
        is_kept = fading.action[event] > 0
        if event == FAVORITED:
            for which in range(undone):
                is_kept = is_kept and desk.undone[which] != recipe
        if is_kept:
            desk.row[kept] = row
            kept += 1
    return kept


def _is_newer(row: int, other: int, behaviors: Behaviors) -> bool:
    if behaviors.age[row] != behaviors.age[other]:
        return behaviors.age[row] < behaviors.age[other]  # type: ignore[no-any-return]
    begin, end = behaviors.id_offsets[row], behaviors.id_offsets[row + 1]
    other_begin, other_end = behaviors.id_offsets[other], behaviors.id_offsets[other + 1]
    for at in range(min(end - begin, other_end - other_begin)):
        one, two = behaviors.id_data[begin + at], behaviors.id_data[other_begin + at]
        if one != two:
            return one < two  # type: ignore[no-any-return]
    return end - begin < other_end - other_begin  # type: ignore[no-any-return]


def _interest(back: int, event: int, fading: Fading) -> float:
    return fading.action[event] if back < fading.length else 0.0


def _like_tags(  # noqa: PLR0917 - as profile_users
    user: int, count: int, behaviors: Behaviors, dishes: Dishes, stated: Stated, fading: Fading, desk: Desk
) -> None:
    """Sum what a user likes to desk.liked."""
    for back in range(count):
        row = desk.row[back]
        position = dishes.position[behaviors.recipe[row]]
        if position >= 0:
            likes = _interest(back, behaviors.event[row], fading) * fading.taste[back]
            for tag in range(dishes.tag_offsets[position], dishes.tag_offsets[position + 1]):
                desk.liked[dishes.tags[tag]] += likes
    for said in range(stated.offsets[user], stated.offsets[user + 1]):
        desk.liked[stated.tag[said]] += stated.weight[said]


def _sum_recipes(  # noqa: PLR0917 - as profile_users
    count: int, first: int, behaviors: Behaviors, fading: Fading, desk: Desk, made: Profiles
) -> int:
    """One entry a recipe, from place `first` on, strongest first, then most counted: sums of weight, count and daytime,
    lowest cool-down and age, the event that weighs most. Returns how many."""
    for back in range(count):
        row = desk.row[back]
        desk.weight[back] = _interest(back, behaviors.event[row], fading) * fading.interest[back]
        to = back
        while to > 0 and _comes_before(back, desk.order[to - 1], behaviors, desk):
            desk.order[to] = desk.order[to - 1]
            to -= 1
        desk.order[to] = back
    size, last = 0, np.int64(-1)
    for nth in range(count):
        back = desk.order[nth]
        row = desk.row[back]
        event, recipe, days = behaviors.event[row], behaviors.recipe[row], behaviors.age[row] / MICROS_PER_DAY
        cool_down = 1.0
        if event in (VIEWED, COOKED):
            cool_down = 1 - 0.5 ** (days / (fading.cooked_days if event == COOKED else fading.viewed_days))
        apart = days - np.floor(days)
        hours = 24 * min(apart, 1 - apart)
        near = np.exp(-((hours / fading.daytime_hours) * (hours / fading.daytime_hours)))
        age = behaviors.age[row] / MICROS_PER_SECOND
        if recipe != last:
            to, last = first + size, recipe
            made.recipe[to], made.event[to], made.weight[to] = recipe, event, 0.0
            made.cool_down[to], made.age[to], made.counted[to], made.daytime[to] = cool_down, age, 0.0, 0.0
            size += 1
        to = first + size - 1
        made.weight[to] += desk.weight[back]
        made.counted[to] += fading.counted[back]
        made.daytime[to] += near
        made.cool_down[to] = min(made.cool_down[to], cool_down)
        made.age[to] = min(made.age[to], age)
    for at in range(first + 1, first + size):
        to = at
        while to > first and _is_stronger(to, to - 1, made):
            _swap(to, made)
            to -= 1
    return size


def _comes_before(back: int, other: int, behaviors: Behaviors, desk: Desk) -> bool:
    """Whether a behaviour comes before another: by recipe, the one that weighs more first."""
    recipe, others = behaviors.recipe[desk.row[back]], behaviors.recipe[desk.row[other]]
    return recipe < others or (recipe == others and desk.weight[back] > desk.weight[other])  # type: ignore[no-any-return]


def _is_stronger(one: int, other: int, made: Profiles) -> bool:
    """Of entries in the order of their recipes, whether the first goes before the other."""
    if made.weight[one] != made.weight[other]:
        return made.weight[one] > made.weight[other]  # type: ignore[no-any-return]
    return made.counted[one] > made.counted[other]  # type: ignore[no-any-return]


def _swap(at: int, made: Profiles) -> None:
    """Exchange an entry and the one before it."""
    made.recipe[at], made.recipe[at - 1] = made.recipe[at - 1], made.recipe[at]
    made.event[at], made.event[at - 1] = made.event[at - 1], made.event[at]
    made.weight[at], made.weight[at - 1] = made.weight[at - 1], made.weight[at]
    made.cool_down[at], made.cool_down[at - 1] = made.cool_down[at - 1], made.cool_down[at]
    made.age[at], made.age[at - 1] = made.age[at - 1], made.age[at]
    made.counted[at], made.counted[at - 1] = made.counted[at - 1], made.counted[at]
    made.daytime[at], made.daytime[at - 1] = made.daytime[at - 1], made.daytime[at]


def _sort_tastes(first: int, desk: Desk, made: Profiles) -> int:
    """One entry a tag that a user likes, from place `first` on, strongest first; empties desk.liked. Returns how
    many."""
    total, size = 0.0, 0
    for tag in range(len(desk.liked)):
        total += desk.liked[tag]
    for tag in range(len(desk.liked)):
        if desk.liked[tag] > 0:
            share, to = desk.liked[tag] / total, first + size
            while to > first and made.share[to - 1] < share:
                made.taste[to], made.share[to] = made.taste[to - 1], made.share[to - 1]
                to -= 1
            made.taste[to], made.share[to] = tag, share
            size += 1
        desk.liked[tag] = 0.0
    return size
