"""What the made-up users do: sessions of searching, looking, liking, buying and cooking.

Here: behaviours as rows of numbers, all sessions of a stretch of time at once.
Not here: the catalogue (catalogue.py), faults, files and delivery (simulate.py).

What there is to learn from it: popularity is skewed; users have favourite ingredients and a taste in tags; in a
session, the next recipe mostly stands near the last one on the shelf (same main ingredient, same dish); who bought
for a recipe comes back to its ingredient within two days; who cooked does not look at the same recipe right after;
meals have their hours and ingredients; new recipes and users draw attention.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kurashiru_pipeline.core.events import EVENT_NAMES
from kurashiru_pipeline.local.catalogue import INGREDIENTS, Recipes, Users, ingredient_appetite
from kurashiru_pipeline.local.lines import mix

Integers = NDArray[np.int64]

ROW = np.dtype(
    [
        ("occurred_at", np.int64),  # epoch microseconds
        ("delivered_at", np.int64),  # epoch microseconds
        ("ordinal", np.uint64),  # of the event in its run; its event_id comes from it
        ("session", np.uint64),
        ("shown_list", np.int64),  # version of the recommendation shown; 0: none
        ("user", np.int32),
        ("recipe", np.int32),  # NO_RECIPE: none
        ("name", np.int32),  # index into NAMES
        ("detail", np.int32),  # index into DETAILS
        ("fault", np.int32),  # number of the broken line in its run
        ("kind", np.uint8),  # delivery.py: valid, repeated, or why it is rejected
        ("is_late", np.bool_),
    ]
)
NO_RECIPE = -1
UNKNOWN_NAMES = ("recipe_share", "recipe_print")
NAMES = (*EVENT_NAMES, *UNKNOWN_NAMES)
_NAME = {name: code for code, name in enumerate(NAMES)}

SEARCH, HOME, HOME_LIST, RECIPE_PAGE_LIST = range(4)
_SURFACES = ("search", "home", "home", "recipe_page")
_POSITIONS = 8
_QUERIES = ("easy dinner", "quick lunch", "packed lunch", "something light", "make ahead", "for two")
# Properties of an event. Those of recommendation events (a list) go on with the version of the list shown.
DETAILS: tuple[dict[str, Any] | None, ...] = (
    None,
    *({"query": ingredient.name} for ingredient in INGREDIENTS),
    *({"query": query} for query in _QUERIES),
    *({"ingredient": ingredient.name} for ingredient in INGREDIENTS),
    *({"surface": surface, "position": place} for surface in _SURFACES for place in range(1, _POSITIONS + 1)),
)
_QUERY = 1
_PHRASE = _QUERY + len(INGREDIENTS)
_BUY = _PHRASE + len(_QUERIES)
_SHOWN = _BUY + len(INGREDIENTS)

SECOND = 1_000_000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
_JST = 9 * HOUR
_SESSIONS_BY_HOUR = np.array(  # of the day in Japan
    [1, 0.6, 0.4, 0.3, 0.4, 1, 2.5, 3, 2.5, 2.2, 3, 4, 4, 2.5, 2.5, 4, 7, 9, 8, 5, 3.5, 3, 2.5, 1.6]
)
_MEAL_BY_HOUR = np.array([3] * 5 + [0] * 5 + [1] * 4 + [3] + [2] * 6 + [3] * 3)
_EVENTS_PER_SESSION = 9.5
_MAX_VIEWS = 12
_NEW_USER_SHARE = 0.04


@dataclass(frozen=True)
class World:
    """Who and what there is, and since when (epoch microseconds).

    Attributes:
        began_at: start of the time that is simulated; what appeared later is new.
        published: of each recipe, [recipes].
        deleted: of each recipe, far in the future when it was not, [recipes].
        registered: of each user, [users].
        unexported_recipes: those the landing folder has no export of yet, [recipes].
        unexported_users: likewise, [users].
    """

    recipes: Recipes
    users: Users
    began_at: int
    published: Integers
    deleted: Integers
    registered: Integers
    unexported_recipes: NDArray[np.bool_]
    unexported_users: NDArray[np.bool_]


class Traffic:
    """Events of a world, deterministic by seed; `key` only names the sessions.

    Successive calls of `events` go on with the same random numbers.
    """

    def __init__(self, world: World, *, seed: int, key: int) -> None:
        self._world = world
        self._key = key
        self._rng = np.random.default_rng(seed)
        self._session_count = 0
        recipes, users = world.recipes, world.users
        # The shelf: recipes ordered so that similar ones stand side by side, one section for each main ingredient.
        self._shelf: Integers = np.lexsort((recipes.age, recipes.dish, recipes.main))
        self._place = np.empty_like(self._shelf)
        self._place[self._shelf] = np.arange(len(recipes))
        sections = np.arange(len(INGREDIENTS))
        self._section_start = np.searchsorted(recipes.main[self._shelf], sections, side="left")
        self._section_size = np.bincount(recipes.main, minlength=len(INGREDIENTS))
        self._shelf_weight = np.concatenate(([0.0], np.cumsum(recipes.popularity[self._shelf])))
        filled = np.flatnonzero(self._section_size)
        self._section: Integers = np.where(self._section_size > 0, sections, filled[sections % len(filled)])
        self._appetite = np.cumsum(ingredient_appetite(), axis=1)
        self._user_weight = np.cumsum(users.activity)
        old = np.flatnonzero(world.registered <= world.began_at)
        self._old_users = old if len(old) else np.arange(len(users))
        steady = np.flatnonzero((world.published <= world.began_at) & (world.deleted == world.deleted.max()))
        self._steady_recipe = int(steady[0]) if len(steady) else 0
        self._new_recipes = _newest_last(world.published, world.began_at)
        self._new_users = _newest_last(world.registered, world.began_at)

    def events(self, count: int, start: int, end: int, *, before: int, pace: float = 1.0) -> NDArray[np.void]:
        """Exactly `count` events of sessions that begin in [start, end), ordered by time.

        Args:
            count: number of rows, at least 1.
            start: epoch microseconds.
            end: epoch microseconds.
            before: no event is as late as this (epoch microseconds, at least `end`).
            pace: what the pauses within a session are multiplied by.

        Returns:
            Rows of ROW; `ordinal`, `delivered_at` and what concerns faults is left to fill in.
        """
        batches, missing = [], count
        while missing > 0:
            rows = self._sessions(int(missing / _EVENTS_PER_SESSION * 1.03) + 2, start, end, pace)
            rows = rows[rows["occurred_at"] < before]
            batches.append(rows)
            missing -= len(rows)
        rows = np.concatenate(batches)
        # Session numbers are hashes, so the surplus is whole sessions at random (and a part of one).
        rows = rows[np.argsort(rows["session"], kind="stable")[:count]]
        return rows[np.argsort(rows["occurred_at"], kind="stable")]

    def _sessions(self, count: int, start: int, end: int, pace: float) -> NDArray[np.void]:
        plan = self._plan(count, start, end, pace)
        rows = np.concatenate([*self._arrivals(plan), *self._views(plan), *self._deeds(plan)])
        session = rows["session"].astype(np.int64)
        is_list = np.isin(rows["name"], [_NAME["recommendation_impression"], _NAME["recommendation_click"]])
        rows["shown_list"] = np.where(is_list, plan.begun[session] // SECOND, 0)
        rows["user"] = plan.user[session]
        rows["session"] = mix(rows["session"] + np.uint64(self._session_count), self._key)
        self._session_count += count
        return rows

    def _plan(self, count: int, start: int, end: int, pace: float) -> "_Plan":
        rng = self._rng
        begun = self._begin(count, start, end)
        user = self._who(begun)
        order = np.lexsort((begun, user))
        begun, user = begun[order], user[order]
        follows = np.zeros(count, dtype=bool)
        follows[1:] = (user[1:] == user[:-1]) & (np.diff(begun) < 2 * DAY)
        buys, cooks = rng.random(count) < 0.22, rng.random(count) < 0.12
        comes_back = follows & _previous(buys | cooks) & (rng.random(count) < 0.6)
        wish = np.maximum.accumulate(np.where(comes_back, 0, np.arange(count)))
        ingredient = self._wanted(user, begun)[wish]
        first = self._available(self._pick(ingredient, user), begun)
        for _ in range(2):  # moving one away from what was cooked may run into what was cooked before
            again = follows & _previous(cooks) & (first == _previous(first))
            first = np.where(again, self._available(self._step(first, 1), begun), first)
        just_cooked = np.where(follows & _previous(cooks), _previous(first), NO_RECIPE)
        surface = rng.choice(4, count, p=[0.45, 0.25, 0.22, 0.08])
        surface[comes_back & (rng.random(count) < 0.5)] = SEARCH
        looks = begun + self._pauses(4, 20, count, pace)
        return _Plan(count, pace, begun, looks, user, ingredient, surface, first, just_cooked, buys, cooks)

    def _arrivals(self, plan: "_Plan") -> list[NDArray[np.void]]:
        """Search, what is shown, and the click that leads to the first recipe."""
        rng = self._rng
        shown = rng.integers(4, _POSITIONS + 1, plan.count)
        clicked = (rng.random(plan.count) ** 2 * shown).astype(np.int64)
        position = np.arange(shown.sum()) - np.repeat(np.cumsum(shown) - shown, shown)
        session = np.repeat(np.arange(plan.count), shown)
        begun, surface = plan.begun[session], plan.surface[session]
        is_clicked = position == clicked[session]
        recipe = self._available(self._offered(surface, plan.ingredient[session], plan.user[session]), begun)
        recipe = np.where(is_clicked, plan.first[session], recipe)
        recipe = self._without_repeats(recipe, session, is_clicked, begun)
        at = begun + ((1 + 0.2 * position) * SECOND * plan.pace).astype(np.int64)
        name = np.where(surface >= HOME_LIST, _NAME["recommendation_impression"], _NAME["recipe_impression"])
        impressions = _rows(name, session, recipe, at, _SHOWN + surface * _POSITIONS + position)

        session = np.flatnonzero(plan.surface == SEARCH)
        phrase = rng.integers(0, len(_QUERIES), len(session)) + _PHRASE
        query = np.where(rng.random(len(session)) < 0.12, phrase, plan.ingredient[session] + _QUERY)
        searches = _rows(_NAME["search"], session, NO_RECIPE, plan.begun[session], query)

        session = np.flatnonzero(plan.surface >= HOME_LIST)
        at = plan.looks[session] - self._pauses(0.3, 0.6, len(session), plan.pace)
        detail = _SHOWN + plan.surface[session] * _POSITIONS + clicked[session]
        clicks = _rows(_NAME["recommendation_click"], session, plan.first[session], at, detail)
        return [impressions, searches, clicks]

    def _views(self, plan: "_Plan") -> list[NDArray[np.void]]:
        """One recipe after the other, and which of them are liked."""
        rng = self._rng
        session, recipe, at = np.arange(plan.count), plan.first, plan.looks
        viewed = [(session, recipe, at)]
        length = np.minimum(rng.geometric(0.36, plan.count), _MAX_VIEWS)
        for views in range(1, _MAX_VIEWS):
            goes_on = length[session] > views
            session, last = session[goes_on], recipe[goes_on]
            at = at[goes_on] + self._pauses(8, 90, len(session), plan.pace)
            recipe = self._available(self._next(last, plan.ingredient[session], plan.user[session], at), at)
            unwanted = (recipe == last) | (recipe == plan.just_cooked[session])
            recipe = np.where(unwanted, self._available(self._step(recipe, 1), at), recipe)
            viewed.append((session, recipe, at))
        session, recipe, at = (np.concatenate(columns) for columns in zip(*viewed, strict=True))
        views_of = _rows(_NAME["recipe_view"], session, recipe, at, 0)

        fits = self._world.recipes.tags[recipe, self._world.users.taste[plan.user[session]]]
        likes = rng.random(len(session)) < np.where(fits, 0.16, 0.05)
        session, recipe = session[likes], recipe[likes]
        at = at[likes] + self._pauses(3, 7, len(session), plan.pace)
        favourites = _rows(_NAME["recipe_favorite"], session, recipe, at, 0)
        regrets = rng.random(len(session)) < 0.04
        session, recipe = session[regrets], recipe[regrets]
        at = at[regrets] + self._pauses(30, 300, len(session), plan.pace)
        return [views_of, favourites, _rows(_NAME["recipe_unfavorite"], session, recipe, at, 0)]

    def _deeds(self, plan: "_Plan") -> list[NDArray[np.void]]:
        """What is done with the first recipe: bought for, cooked, passed on."""
        deeds = []
        for name, does, low, high in (
            ("shopping_list_add", plan.buys, 5, 8),
            ("recipe_cooked", plan.cooks, 600, 3600),
            *((name, self._rng.random(plan.count) < 0.005, 2, 8) for name in UNKNOWN_NAMES),
        ):
            session = np.flatnonzero(does)
            recipe = plan.first[session]
            detail = self._world.recipes.main[recipe] + _BUY if name == "shopping_list_add" else 0
            at = plan.looks[session] + self._pauses(low, high, len(session), plan.pace)
            deeds.append(_rows(_NAME[name], session, recipe, at, detail))
        return deeds

    def _pauses(self, low: float, high: float, count: int, pace: float) -> Integers:
        """Microseconds; `low` and `high` are seconds at a pace of 1."""
        return (self._rng.uniform(low, high, count) * SECOND * pace).astype(np.int64)

    def _begin(self, count: int, start: int, end: int) -> Integers:
        """Times in [start, end), more of them when people cook."""
        edges = np.unique(np.clip(np.arange(start - start % HOUR, end + HOUR, HOUR), start, end))
        weight = np.diff(edges) * _SESSIONS_BY_HOUR[_hour(edges[:-1])]
        bounds = np.concatenate(([0.0], np.cumsum(weight)))
        drawn = np.interp(self._rng.random(count) * bounds[-1], bounds, edges - start)
        at: Integers = np.minimum(drawn.astype(np.int64), end - start - 1) + start
        return at

    def _who(self, at: Integers) -> Integers:
        user = _weighted(self._rng, self._user_weight, len(at))
        old = self._old_users[user % len(self._old_users)]
        newest = self._newest(self._new_users, self._world.registered, at, old)
        is_new = self._rng.random(len(at)) < _NEW_USER_SHARE
        unknown_yet = self._world.registered[user] > at
        return np.where(is_new, newest, np.where(unknown_yet, old, user))

    def _wanted(self, user: Integers, at: Integers) -> Integers:
        """Main ingredient each session is about: one of the user's favourites, or what is eaten at that hour."""
        meal = _MEAL_BY_HOUR[_hour(at)]
        bounds = (self._appetite + np.arange(len(self._appetite))[:, None]).ravel()
        drawn = np.searchsorted(bounds, meal + self._rng.random(len(at)), side="right") % len(INGREDIENTS)
        likes = self._favourite(user)
        return self._section[np.where(self._rng.random(len(at)) < 0.55, likes, drawn)]

    def _favourite(self, user: Integers) -> Integers:
        favourites = self._world.users.favourites
        which = (self._rng.random(len(user)) ** 1.5 * favourites.shape[1]).astype(np.int64)
        favourite: Integers = favourites[user, which]
        return self._section[favourite]

    def _offered(self, surface: Integers, ingredient: Integers, user: Integers) -> Integers:
        """Recipes an impression shows: search results are of the ingredient, other lists mix liked and popular."""
        liked = np.where(surface == SEARCH, ingredient, self._favourite(user))
        is_popular = (surface != SEARCH) & (self._rng.random(len(user)) < 0.5)
        return np.where(is_popular, self._popular(len(user)), self._from_section(liked))

    def _without_repeats(
        self, recipe: Integers, session: Integers, is_clicked: NDArray[np.bool_], at: Integers
    ) -> Integers:
        """Recipes of a list, where one that is in it already gives way to one beside it on the shelf."""
        for _ in range(2):
            key = (session * len(self._shelf) + recipe) * 2 + ~is_clicked
            order = np.argsort(key)
            repeats = order[1:][key[order[1:]] // 2 == key[order[:-1]] // 2]
            steps = self._rng.integers(1, 6, len(repeats))
            recipe[repeats] = self._available(self._step(recipe[repeats], steps), at[repeats])
        return recipe

    def _pick(self, ingredient: Integers, user: Integers) -> Integers:
        """A recipe of the ingredient: the better for the user's taste of two popular ones."""
        one, other = self._from_section(ingredient), self._from_section(ingredient)
        tags, taste = self._world.recipes.tags, self._world.users.taste[user]
        return np.where(tags[other, taste] & ~tags[one, taste], other, one)

    def _from_section(self, ingredient: Integers) -> Integers:
        low = self._section_start[ingredient]
        high = low + self._section_size[ingredient]
        bottom, top = self._shelf_weight[low], self._shelf_weight[high]
        drawn = bottom + self._rng.random(len(ingredient)) * (top - bottom)
        place: Integers = np.clip(np.searchsorted(self._shelf_weight, drawn, side="right") - 1, low, high - 1)
        return self._shelf[place]

    def _popular(self, count: int) -> Integers:
        return self._shelf[_weighted(self._rng, self._shelf_weight[1:], count)]

    def _next(self, last: Integers, ingredient: Integers, user: Integers, at: Integers) -> Integers:
        """What is viewed after `last`: mostly its neighbour on the shelf."""
        direction = np.where(self._rng.random(len(last)) < 0.7, 1, -1)
        near = self._step(last, self._rng.geometric(0.45, len(last)) * direction)
        popular = self._popular(len(last))
        newest = self._newest(self._new_recipes, self._world.published, at, popular)
        kind = np.searchsorted([0.62, 0.84, 0.94], self._rng.random(len(last)), side="right")
        return np.choose(kind, [near, self._pick(ingredient, user), popular, newest])

    def _step(self, recipe: Integers, steps: int | Integers) -> Integers:
        """The recipe some places further along its section of the shelf, which is a ring."""
        section = self._world.recipes.main[recipe]
        start = self._section_start[section]
        return self._shelf[start + (self._place[recipe] - start + steps) % self._section_size[section]]

    def _newest(self, new: Integers, since: Integers, at: Integers, instead: Integers) -> Integers:
        """One of the last few of `new` that are there at the time, `instead` where there is none."""
        there = np.searchsorted(since[new], at, side="right")
        back = self._rng.geometric(0.3, len(at))
        chosen = np.where(there > 0, np.maximum(there - back, 0), 0)
        return np.where(there > 0, new[chosen], instead) if len(new) else instead

    def _available(self, recipe: Integers, at: Integers) -> Integers:
        """The recipe, or where it is not published yet or deleted, one beside it that can be had."""
        world = self._world
        for _ in range(4):
            gone = (world.published[recipe] > at) | (world.deleted[recipe] <= at)
            if not gone.any():
                return recipe
            recipe = np.where(gone, self._step(recipe, 1), recipe)
        gone = (world.published[recipe] > at) | (world.deleted[recipe] <= at)
        return np.where(gone, self._steady_recipe, recipe)


@dataclass(frozen=True)
class _Plan:
    """What is settled about sessions before they unfold; all arrays are [count], by user and time.

    Attributes:
        pace: what pauses are multiplied by.
        begun: epoch microseconds.
        looks: when the first recipe is viewed, epoch microseconds.
        ingredient: the main ingredient it is about.
        surface: where the first recipe was found.
        just_cooked: what the user cooked in the session before and does not want again, or NO_RECIPE.
        buys: whether the first recipe goes onto the shopping list.
        cooks: whether it is cooked.
    """

    count: int
    pace: float
    begun: Integers
    looks: Integers
    user: Integers
    ingredient: Integers
    surface: Integers
    first: Integers
    just_cooked: Integers
    buys: NDArray[np.bool_]
    cooks: NDArray[np.bool_]


def _rows(
    name: int | Integers, session: Integers, recipe: int | Integers, at: Integers, detail: int | Integers
) -> NDArray[np.void]:
    """Rows whose `session` is the position in the plan, to be replaced by a number of its own."""
    rows = np.zeros(len(session), dtype=ROW)
    rows["name"], rows["session"], rows["recipe"] = name, session, recipe
    rows["occurred_at"], rows["detail"] = at, detail
    return rows


def _previous(values: NDArray[Any]) -> NDArray[Any]:
    """The value of the row before; the first row has none before it and keeps its own."""
    return np.concatenate((values[:1], values[:-1]))


def _weighted(rng: np.random.Generator, bounds: NDArray[np.float64], count: int) -> Integers:
    drawn: Integers = np.searchsorted(bounds, rng.random(count) * bounds[-1], side="right")
    return np.minimum(drawn, len(bounds) - 1)


def _hour(at: Integers) -> Integers:
    """Hour of the day in Japan."""
    return (at + _JST) // HOUR % 24


def _newest_last(since: Integers, began_at: int) -> Integers:
    new = np.flatnonzero(since > began_at)
    return new[np.argsort(since[new], kind="stable")]
