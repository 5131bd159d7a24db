"""How far the pipeline is behind what arrives, and when it will have caught up.

Here: pure arithmetic on what waits and on the rates of the last minutes.
Not here: counting what waits (warehouse/, realtime/status.py) or what is done about it (realtime/checks.py).
"""

import math
from collections import deque
from dataclasses import dataclass
from datetime import datetime

WINDOW_SECONDS = 300.0


@dataclass(frozen=True)
class Backlog:
    """Event lines that have landed and are not delivered, by where they are; None where the engine does not tell.

    Attributes:
        files: landed and not loaded.
        file_bytes: their size as they lie there.
        loaded_lines: loaded and not staged.
        staged_lines: staged and not delivered.
        oldest_landed_at: when the oldest of all of them landed (naive UTC); None when nothing waits.
    """

    files: int | None
    file_bytes: int | None
    loaded_lines: int | None
    staged_lines: int
    oldest_landed_at: datetime | None


@dataclass(frozen=True)
class Rates:
    """Lines a second; None while there is nothing to tell them from.

    Attributes:
        arrival: landed, over the last minutes.
        processing: brought from landed to delivered, over the seconds that micro-batches were at work.
        bytes_a_line: of landed files.
    """

    arrival: float | None
    processing: float | None
    bytes_a_line: float | None


@dataclass(frozen=True)
class Lag:
    """How far behind.

    Attributes:
        lines: that wait, estimated where files were not read; None where that cannot be told.
        seconds: age of the oldest of them; 0 when nothing waits.
        catch_up_seconds: until nothing waits at the present rates; infinite when more arrives than is processed; None
            while a rate is not known.
    """

    lines: int | None
    seconds: float
    catch_up_seconds: float | None
    rates: Rates


class Meter:
    """Rates over the micro-batches of the last minutes, from what each loaded and left behind."""

    def __init__(self) -> None:
        self._passed: deque[tuple[float, int, int, float, int]] = deque()
        self._loaded_bytes = 0

    def add(self, at: float, *, lines: int, file_bytes: int, waiting_bytes: int, busy_seconds: float) -> Rates:
        """Take a micro-batch in and tell the rates.

        Args:
            at: seconds on any clock, when its files were looked for.
            lines: loaded, of `file_bytes` as they lay there.
            waiting_bytes: left behind for want of room.
            busy_seconds: from loading to delivery.
        """
        self._loaded_bytes += file_bytes
        arrived_bytes = self._loaded_bytes + waiting_bytes
        self._passed.append((at, lines, file_bytes, busy_seconds, arrived_bytes))
        while at - self._passed[0][0] > WINDOW_SECONDS:
            self._passed.popleft()
        all_lines = sum(passed[1] for passed in self._passed)
        all_bytes = sum(passed[2] for passed in self._passed)
        busy = sum(passed[3] for passed in self._passed)
        bytes_a_line = all_bytes / all_lines if all_lines else None
        since, arrived_before = self._passed[0][0], self._passed[0][4]
        arrival = None
        if at > since and bytes_a_line:
            arrival = (arrived_bytes - arrived_before) / bytes_a_line / (at - since)
        return Rates(arrival, all_lines / busy if all_lines and busy else None, bytes_a_line)


def lag(backlog: Backlog, rates: Rates, now: datetime) -> Lag:
    """How far behind a backlog is at `now` (naive UTC)."""
    seconds = 0.0
    if backlog.oldest_landed_at is not None:
        seconds = max(0.0, (now - backlog.oldest_landed_at).total_seconds())
    lines = _lines(backlog, rates)
    return Lag(lines, seconds, _catch_up(lines, rates), rates)


def arrival_rate(
    seen_lines: int, waiting_lines: float, oldest_waiting_at: datetime | None, since: datetime, now: datetime
) -> float:
    """Lines a second that landed from `since` to `now`, if those that wait landed evenly since the oldest of them.

    Args:
        seen_lines: landed since then and loaded.
        waiting_lines: landed at any time and not loaded.
    """
    window = (now - since).total_seconds()
    share = 0.0
    if oldest_waiting_at is not None:
        waiting_for = max((now - oldest_waiting_at).total_seconds(), 1e-3)
        share = min(1.0, window / waiting_for)
    return (seen_lines + share * waiting_lines) / window


def _lines(backlog: Backlog, rates: Rates) -> int | None:
    loaded, size = backlog.loaded_lines, backlog.file_bytes
    if loaded is None or size is None:
        return None
    if not size:
        return loaded + backlog.staged_lines
    if rates.bytes_a_line is None:
        return None
    return loaded + backlog.staged_lines + round(size / rates.bytes_a_line)


def _catch_up(lines: int | None, rates: Rates) -> float | None:
    if lines == 0:
        return 0.0
    if lines is None or rates.arrival is None or rates.processing is None:
        return None
    gained = rates.processing - rates.arrival
    return lines / gained if gained > 0 else math.inf
