"""What is asked: the split in time, and the moments at which a list is wanted.

Here: the global temporal split, queries of both protocols, and which part of its user's past each query knows.
Not here: what the models learn from and when (replay.py). A query never depends on what happened after it.
"""

import hashlib
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum

import numpy as np

from kurashiru_pipeline.core.columns import Bools, Ints, micros, ranges, starts
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.evaluation.interactions import Interactions

EARLIER_EVENTS = 5
"""Users with fewer interactions before a span are not asked in it."""
EVENTS_A_USER = 20
"""At most so many targets a user and span, the first ones."""
VALIDATION_SHARE, TEST_SHARE = 0.7, 0.8
_SECOND = 1_000_000


class Protocol(StrEnum):
    """How lists are asked for: before every event, as a near-real-time system answers, or once, as a nightly one."""

    NEXT_ITEM = "next-item"
    TOP_N = "top-n"


@dataclass(frozen=True)
class Split:
    """Microseconds since 1970; each span begins at its first moment and ends before the next one's."""

    start: int
    validation_from: int
    test_from: int
    end: int


def split(interactions: Interactions, validation_from: str | None = None, test_from: str | None = None) -> Split:
    """The cuts in time, by default before the last 30 % and the last 20 % of the interactions.

    Args:
        validation_from: a date, an ISO 8601 moment (UTC), or seconds since 1970.
        test_from: likewise.

    Raises:
        ConfigurationError: a moment cannot be read, or a span has no interactions.
    """
    at = interactions.at[interactions.tells_interest]

    def moment(given: str | None, share: float, option: str) -> int:
        return int(at[int(share * len(at))]) if given is None else _moment(given, option)

    cuts = Split(
        start=int(at[0]),
        validation_from=moment(validation_from, VALIDATION_SHARE, "--validation-from"),
        test_from=moment(test_from, TEST_SHARE, "--test-from"),
        end=int(at[-1]) + 1,
    )
    if not cuts.start < cuts.validation_from < cuts.test_from < cuts.end:
        shown = " < ".join(
            f"{name} {text_of(at)}"
            for name, at in zip(
                ("data", "validation", "test"), (cuts.start, cuts.validation_from, cuts.test_from), strict=True
            )
        )
        message = (
            f"the spans must follow each other: {shown} < end {text_of(cuts.end)} does not hold; "
            "give other moments with --validation-from and --test-from"
        )
        raise ConfigurationError(message)
    return cuts


def text_of(moment: int) -> str:
    """Microseconds since 1970 as ISO 8601, to the second."""
    return datetime.fromtimestamp(moment // _SECOND, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _moment(given: str, option: str) -> int:
    try:
        return round(float(given) * _SECOND)
    except ValueError:
        pass
    try:
        return micros(datetime.fromisoformat(given))
    except ValueError:
        message = f"{option} {given!r} is no moment; give a date such as 2026-11-23, or seconds since 1970"
        raise ConfigurationError(message) from None


@dataclass(frozen=True)
class Queries:
    """Q queries in the order of time, and their targets.

    Attributes:
        user: (Q,) who asks.
        at: (Q,) when, microseconds since 1970.
        known: (Q,) how many of the user's behaviours lie before the query, in Interactions.by_user's order.
        earlier: (Q,) how many of them are interactions.
        offsets, targets: query q's targets are targets[offsets[q] : offsets[q + 1]], positions in the catalogue.
    """

    user: Ints
    at: Ints
    known: Ints
    earlier: Ints
    offsets: Ints
    targets: Ints

    def __len__(self) -> int:
        return len(self.user)

    def of(self, chosen: Ints | Bools) -> "Queries":
        """Some of the queries, by position or mask."""
        rows = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
        sizes = np.diff(self.offsets)[rows]
        parts = {field.name: getattr(self, field.name)[rows] for field in fields(self)[:4]}
        return Queries(**parts, offsets=starts(sizes), targets=self.targets[ranges(self.offsets[rows], sizes)])

    def delayed(self, interactions: Interactions, seconds: float) -> "Queries":
        """The same queries to a system that learns of behaviours so many seconds late."""
        if not seconds:
            return self
        late = known_at(interactions, self.user, self.at - round(seconds * _SECOND) + 1)
        known = np.minimum(self.known, late)
        return Queries(self.user, self.at, known, self.earlier, self.offsets, self.targets)

    def one_target_each(self) -> tuple[Ints, Ints]:
        """Every pair of query and target: (query, target)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets)), self.targets


def known_at(interactions: Interactions, user: Ints, at: Ints) -> Ints:
    """(N,) how many behaviours of each user are older than each moment."""
    moments, place = np.unique(np.concatenate([interactions.at, at]), return_inverse=True)
    rows = interactions.by_user
    keys = interactions.user[rows] * len(moments) + place[: len(interactions.at)][rows]
    found = np.searchsorted(keys, user * len(moments) + place[len(interactions.at) :])
    return found - interactions.user_starts[user]


def ask(  # noqa: PLR0917 - of whom, when, how
    interactions: Interactions, protocol: Protocol, start: int, end: int, most: int, seed: int = 0
) -> Queries:
    """Queries over a span of time [start, end).

    Asked are users with at least five interactions before `start` and one in the span. Next-item: one query before
    each of a user's first 20 interactions of the span, with all earlier behaviours known; one target. Top-n: one query
    a user at `start`, with all distinct recipes of its interactions in the span as targets.

    Args:
        most: about how many queries; if there are more, users are drawn, each by a hash of `seed` and its id, so that
            what other users do does not change who is asked.
    """
    rows, at = interactions.by_user, interactions.at[interactions.by_user]
    user, counts = interactions.user[rows], interactions.tells_interest[rows]
    before = starts(counts)[:-1]
    earlier = before - before[interactions.user_starts[user]]
    at_start = np.bincount(user, weights=counts & (at < start), minlength=len(interactions.user_ids))
    in_span = np.flatnonzero(counts & (at >= start) & (at < end) & (at_start[user] >= EARLIER_EVENTS))
    nth = earlier[in_span] - at_start[user[in_span]].astype(np.int64)
    if protocol is Protocol.NEXT_ITEM:
        in_span = in_span[nth < EVENTS_A_USER]
        in_span = in_span[np.argsort(rows[in_span])]  # by time
        asked, moment = user[in_span], at[in_span]
        known, offsets = in_span - interactions.user_starts[asked], np.arange(len(in_span) + 1)
        targets, earlier = interactions.recipe[rows[in_span]], earlier[in_span]
    else:
        size = len(interactions.catalogue.recipe_ids)
        pairs = np.unique(user[in_span] * size + interactions.recipe[rows[in_span]])
        owner, targets = np.divmod(pairs, size)
        asked, sizes = np.unique(owner, return_counts=True)
        moment, offsets = np.full(len(asked), start), starts(sizes)
        known, earlier = known_at(interactions, asked, moment), at_start[asked].astype(np.int64)
    queries = Queries(asked, moment, known, earlier, offsets.astype(np.int64), targets)
    return queries if len(queries) <= most else queries.of(_drawn(interactions, queries.user, most, seed))


def _drawn(interactions: Interactions, user: Ints, most: int, seed: int) -> Bools:
    """(Q,) the queries of as many whole users as give at most `most` queries, at least one user."""
    asked, sizes = np.unique(user, return_counts=True)
    names = interactions.user_ids.take(asked).to_pylist()
    lots = [hashlib.sha256(f"{seed}:{name}".encode()).digest() for name in names]
    order = sorted(range(len(asked)), key=lots.__getitem__)
    fitting = max(int(np.searchsorted(np.cumsum(sizes[order]), most, side="right")), 1)
    return np.isin(user, asked[order[:fitting]])
