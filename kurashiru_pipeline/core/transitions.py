"""Which recipe follows which: counts of pairs of a user's interactions, followed through time.

Here: the counting, for histories that fit into memory (evaluation on files).
Not here: the same sums in SQL, incremental by day, for the warehouse (dbt: int_recipe_pairs, recipe_transitions; a test
holds both to each other), and what similarity is made of them (training.py).
"""

from typing import Any

import numpy as np
from scipy import sparse

from kurashiru_pipeline.core.columns import MICROS_PER_DAY, Floats, Ints, starts

MOST_STEPS = 20
MOST_DAYS = 7
HALF_LIFE_DAYS = 365.0
LIVE_HALF_LIFE_DAYS = 30.0

_LATER_AT_ONCE = 200_000


class TransitionCounts:
    """Sums over users of 1 / gap of pairs of different recipes, the first before the second, faded by age.

    A pair is at most MOST_STEPS interactions and MOST_DAYS apart, belongs to the UTC day of its later interaction, and
    fades with a half-life: `forward` (HALF_LIFE_DAYS) and `live` (LIVE_HALF_LIFE_DAYS), both (R, R) CSR, row the
    earlier recipe, column the later one, as of the day before the moment followed to.

    Attributes:
        forward, live: empty until `follow` is called.
    """

    def __init__(self, user: Ints, recipe: Ints, at: Ints, recipes: int) -> None:
        """Of N interactions by position, in the order they happened; `at` in microseconds since 1970."""
        order = np.argsort(user, kind="stable")
        self._user, self._recipe, self._at = user[order], recipe[order], at[order]
        sizes = np.bincount(user)
        self._nth = np.arange(len(user)) - starts(sizes)[self._user]
        self._by_time = np.argsort(self._at, kind="stable")
        self._times = self._at[self._by_time]
        self._done = 0
        self._day: int | None = None
        self._size = recipes
        self.forward: Any = sparse.csr_array((recipes, recipes))
        self.live: Any = sparse.csr_array((recipes, recipes))

    def follow(self, end: int) -> None:
        """Count all interactions before a moment (microseconds since 1970), which never goes back.

        Raises:
            ValueError: the moment lies before one already followed to.
        """
        last, day = int(np.searchsorted(self._times, end)), (end - 1) // MICROS_PER_DAY
        if last < self._done or (self._day is not None and day < self._day):
            raise ValueError("transitions are followed forwards in time only")
        if self._day is not None:
            self.forward = self.forward * 0.5 ** ((day - self._day) / HALF_LIFE_DAYS)
            self.live = self.live * 0.5 ** ((day - self._day) / LIVE_HALF_LIFE_DAYS)
        for start in range(self._done, last, _LATER_AT_ONCE):
            self._count(self._by_time[start : min(start + _LATER_AT_ONCE, last)], day)
        self._done, self._day = last, day

    def _count(self, later: Ints, day: int) -> None:
        parts: list[tuple[Ints, Ints, Floats, Ints]] = []
        for gap in range(1, MOST_STEPS + 1):
            second = later[self._nth[later] >= gap]
            first = second - gap
            near = (self._at[second] - self._at[first] <= MOST_DAYS * MICROS_PER_DAY) & (
                self._recipe[first] != self._recipe[second]
            )
            first, second = first[near], second[near]
            age = day - self._at[second] // MICROS_PER_DAY
            parts.append((self._recipe[first], self._recipe[second], np.full(len(first), 1.0 / gap), age))
        first, second, weight, age = (np.concatenate(part) for part in zip(*parts, strict=True))
        for name, half_life in (("forward", HALF_LIFE_DAYS), ("live", LIVE_HALF_LIFE_DAYS)):
            values = (weight * 0.5 ** (age / half_life), (first, second))
            made = sparse.coo_array(values, shape=(self._size, self._size)).tocsr()
            setattr(self, name, getattr(self, name) + made)
