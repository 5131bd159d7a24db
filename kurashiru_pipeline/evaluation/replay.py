"""What the pipeline knew at each moment of the past: the stream is followed as if it came again.

Here: buckets of time, and for each the recipes, popularity and transitions as of its start, and every query's profile.
Not here: which moments are asked about (queries.py), and what is made of the knowledge (kernel.py, baselines.py).

Everything is learned from events strictly before a bucket's start; each query's own profile is exact to its moment.
"""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import MICROS_PER_DAY, Floats, Ints, lists, positions, ranges, starts, take
from kurashiru_pipeline.core.profiles import ACTION_OF_EVENT, build_profiles
from kurashiru_pipeline.core.weights import Weights
from kurashiru_pipeline.evaluation.interactions import Interactions
from kurashiru_pipeline.evaluation.queries import Queries

UPDATES = 8
"""Buckets between two refits: popularity follows the stream this much closer than what takes longer to learn."""
LESSONS, LESSON_SHARE = 16, 0.7
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - the kernel's moments are naive UTC
_FADED = 40.0  # half-lives after which an event does not count
_LATER_EVENTS = 200_000


@dataclass(frozen=True)
class Bucket:
    """Queries answered with the knowledge of one moment.

    Attributes:
        as_of: the moment, microseconds since 1970; no query is older.
        refit_at: the moment what takes longer was learned, `as_of` or before.
        rows: queries, by position.
    """

    as_of: int
    refit_at: int
    rows: Ints


@dataclass(frozen=True)
class Pace:
    """How closely the stream is followed: what takes long is learned anew after every `refit_every` interactions, and
    popularity UPDATES times as often. Told by interactions, so that no edge depends on what happens after it."""

    interactions: Interactions
    refit_every: int

    def buckets(self, queries: Queries, start: int) -> list[Bucket]:
        """Queries from `start` on by what was known last; buckets without queries are left out."""
        first = int(np.searchsorted(self._times, start))
        step = max(self.refit_every // UPDATES, 1)
        edges = np.append(start, self._times[first + step :: step])
        place = np.searchsorted(edges, queries.at, side="right") - 1
        return [
            Bucket(int(edges[nth]), int(edges[nth - nth % UPDATES]), np.flatnonzero(place == nth))
            for nth in np.unique(place).tolist()
        ]

    def lessons(self, end: int) -> list[tuple[int, int]]:
        """Spans to learn from, in the order of time: the newest 70 % of what was before `end`, in equal numbers of
        interactions."""
        last = int(np.searchsorted(self._times, end))
        edges = np.linspace(last * (1 - LESSON_SHARE), last, LESSONS + 1).astype(int)
        times = [*self._times[edges[:-1]].tolist(), end]
        return [(begin, stop) for begin, stop in pairwise(times) if begin < stop]

    @cached_property
    def _times(self) -> Ints:
        return self.interactions.at[self.interactions.tells_interest]


def moment(micros: int) -> datetime:
    """Microseconds since 1970 as the kernel's naive UTC."""
    return _EPOCH + timedelta(microseconds=micros)


@dataclass(frozen=True)
class Replay:
    """The past of all users, asked as of any moment.

    Attributes:
        recent: behaviours a profile is made from, the newest.
    """

    interactions: Interactions
    weights: Weights
    recent: int = 1_000

    def before(self, as_of: int) -> int:
        """How many behaviours happened before a moment; they are the first ones."""
        return int(np.searchsorted(self.interactions.at, as_of))

    def catalogue(self, as_of: int) -> Catalogue:
        """The recipes as known then.

        A recipe of the source lives from its publication on, or always if the source does not tell; any other from its
        first behaviour on. Where the source does not tell, the first behaviour counts as publication once it happened.
        """
        seen = self.interactions.first_seen < as_of
        published = self.interactions.published
        return replace(
            self.interactions.catalogue,
            alive=seen | (self.interactions.is_in_source & (published < as_of)),
            published=np.where(published >= 0, published, np.where(seen, self.interactions.first_seen, 0)),
        )

    def popularity(self, as_of: int) -> pa.Table:
        """Live popularity as the micro-batches keep it: sums of action weights with a half-life."""
        half_life = self.weights.popularity.half_life_days
        first, last = self.before(as_of - round(_FADED * half_life * MICROS_PER_DAY)), self.before(as_of)
        recipe, weight = self.interactions.recipe[first:last], self._action_weight[first:last]
        counts = (weight > 0) & (recipe >= 0)
        age = (as_of - self.interactions.at[first:last][counts]) / MICROS_PER_DAY
        total = np.bincount(recipe[counts], weights=weight[counts] * 0.5 ** (age / half_life))
        known = np.flatnonzero(total)
        return pa.table(
            {
                "recipe_id": take(self.interactions.catalogue.recipe_ids, known),
                "decayed_count": total[known],
                "decayed_at": pa.array(np.full(len(known), as_of), pa.timestamp("us")),
            }
        )

    def counts(self, as_of: int) -> Floats:
        """(R,) interactions before a moment."""
        end = self.before(as_of)
        recipe = self.interactions.recipe[:end][self.interactions.tells_interest[:end]]
        return np.bincount(recipe, minlength=len(self.interactions.catalogue.recipe_ids)).astype(np.float64)

    def counted(self, as_of: int, half_life_days: float) -> Floats:
        """(R,) interactions before a moment, decayed."""
        past, end = self.interactions, self.before(as_of)
        rows = np.flatnonzero(past.tells_interest[:end])
        weight = np.exp2((past.at[rows] - as_of) / (MICROS_PER_DAY * half_life_days))
        size = len(past.catalogue.recipe_ids)
        return np.bincount(past.recipe[rows], weights=weight, minlength=size).astype(np.float64)

    def profiles(self, queries: Queries, catalogue: Catalogue, as_of: int) -> pa.Table:
        """One profile a query, in their order.

        A profile speaks of one moment, so every query's past is moved in time such that it is asked at `as_of`.
        """
        past = self.interactions
        sizes = np.minimum(queries.known, self.recent)
        rows = past.by_user[ranges(past.user_starts[queries.user] + queries.known - sizes, sizes)]
        query, names = np.repeat(np.arange(len(queries)), sizes), _names(len(queries))
        behaviors: dict[str, Any] = {
            "user_id": take(names, query),
            "event_id": take(self._event_ids, rows),
            "event_name": take(past.event_names, rows),
            "recipe_id": past.catalogue.recipe_ids.take(pa.array(past.recipe[rows], mask=past.recipe[rows] < 0)),
            "detail": take(past.details, rows),
            "occurred_at": pa.array(past.at[rows] - queries.at[query] + as_of, pa.timestamp("us")),
        }
        # Whoever is named here has a profile, also without a past.
        nothing_stated = lists(np.zeros(0, np.int64), len(names), pa.array([], pa.string()))
        named = pa.table({"user_id": names, "preferred_tags": nothing_stated})
        return build_profiles(pa.table(behaviors), catalogue, self.weights, moment(as_of), named)

    @cached_property
    def _action_weight(self) -> Floats:
        of_action = [getattr(self.weights.actions, name) for name in ACTION_OF_EVENT]
        return np.array([*of_action, 0.0])[positions(self.interactions.event_names, pa.array(list(ACTION_OF_EVENT)))]

    @cached_property
    def _event_ids(self) -> Any:
        """Of two behaviours at one time the kernel takes the lower id for the newer one."""
        return _names(len(self.interactions.at)).take(pa.array(np.arange(len(self.interactions.at))[::-1]))


@dataclass
class PairCounts:
    """Sums over users of 1 / gap of pairs of interactions, the first before the second, followed through time.

    `total` is (R, R): row the earlier recipe, column the later one; neighbours have gap 1. Repeats are pairs as well.
    """

    interactions: Interactions
    most_steps: int
    total: Any = None
    _until: int = 0

    def follow(self, end: int) -> Any:
        """The sums over the first `end` behaviours; `end` never goes back."""
        rows = self._rows
        later = np.flatnonzero((rows >= self._until) & (rows < end))
        for start in range(0, len(later), _LATER_EVENTS):
            self._add(later[start : start + _LATER_EVENTS])
        self._until = end
        return self.total

    def _add(self, later: Ints) -> None:
        parts: list[tuple[Ints, Ints, Floats]] = []
        for gap in range(1, self.most_steps + 1):
            reached = later[self._nth[later] >= gap]
            first, second = self._recipes[reached - gap], self._recipes[reached]
            parts.append((first, second, np.full(len(first), 1.0 / gap)))
        size = len(self.interactions.catalogue.recipe_ids)
        first, second, weight = (np.concatenate(part) for part in zip(*parts, strict=True))
        made = sparse.coo_array((weight, (first, second)), shape=(size, size)).tocsr()
        self.total = made if self.total is None else self.total + made

    @cached_property
    def _rows(self) -> Ints:
        rows = self.interactions.by_user
        return rows[self.interactions.tells_interest[rows]]

    @cached_property
    def _recipes(self) -> Ints:
        return self.interactions.recipe[self._rows]

    @cached_property
    def _nth(self) -> Ints:
        """Number of each interaction among its user's."""
        user = self.interactions.user[self._rows]
        return np.arange(len(user)) - starts(np.bincount(user, minlength=len(self.interactions.user_ids)))[user]


def _names(size: int) -> Any:
    """Texts whose order is that of the numbers 0 .. size - 1."""
    return pa.array(np.arange(10**9, 10**9 + size)).cast(pa.string())
