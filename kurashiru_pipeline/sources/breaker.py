"""The circuit breaker: a service that keeps failing is left alone for a while.

Here: its state, computed from what the ledger says of the last calls; each micro-batch may be a process of its own.
Not here: reading or writing that ledger (source.py). Pure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum


class State(StrEnum):
    """What a breaker lets through."""

    CLOSED = "closed"
    """Everything: the service works, or has not failed often enough."""
    OPEN = "open"
    """Nothing."""
    HALF_OPEN = "half_open"
    """One request, to see whether the service works again."""


@dataclass(frozen=True)
class Call:
    """What one micro-batch asked of a service; at least one user.

    Attributes:
        called_at: when (naive UTC).
        breaker: what the breaker let through.
    """

    called_at: datetime
    breaker: State
    asked_count: int
    answered_count: int

    @property
    def has_failed(self) -> bool:
        """Fewer than half of the users asked about were answered in time."""
        return 2 * self.answered_count < self.asked_count


@dataclass(frozen=True)
class Breaker:
    """Opens when `failures` calls in a row have failed, lets a probe through `pause` after the last, and so on until
    one succeeds (M. T. Nygard, Release It!, 2007, Circuit Breaker).
    """

    failures: int
    pause: timedelta

    def state(self, calls: Sequence[Call], now: datetime) -> State:
        """The state at `now` (naive UTC).

        Args:
            calls: those of the service, newest first; more than `failures` of them change nothing.
        """
        is_probe = bool(calls) and calls[0].breaker is State.HALF_OPEN
        needed = 1 if is_probe else self.failures
        if len(calls) < needed or not all(call.has_failed for call in calls[:needed]):
            return State.CLOSED
        waited = now - calls[0].called_at
        # A clock that was set back must not keep the breaker open until it has caught up.
        return State.OPEN if timedelta(0) <= waited < self.pause else State.HALF_OPEN
