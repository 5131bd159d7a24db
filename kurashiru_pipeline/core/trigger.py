"""When the near-real-time job should run: the decision alone.

Here: a pure function from what is seen (pending work, runs in flight, recent failures) to request or skip.
Not here: how any of it is seen (realtime/sensors.py).
"""

from dataclasses import dataclass

FIRST_BACKOFF_SECONDS = 5.0
LONGEST_BACKOFF_SECONDS = 300.0


@dataclass(frozen=True)
class Seen:
    """What a look at ledger, stream, landing folder and run history shows.

    Attributes:
        pending: why there is work, or None.
        in_flight_run: id of a run queued or running for the job, or None.
        consecutive_failures: failed runs since the last success.
        seconds_since_failure: since the newest of them ended.
    """

    pending: str | None
    in_flight_run: str | None
    consecutive_failures: int = 0
    seconds_since_failure: float = 0.0


@dataclass(frozen=True)
class Decision:
    """Request a run, or skip; and why."""

    should_run: bool
    reason: str


def decide(seen: Seen) -> Decision:
    """One run at a time, only when there is work, and slower and slower while runs keep failing."""
    if seen.in_flight_run is not None:
        return Decision(False, f"run {seen.in_flight_run} is queued or running")
    if seen.pending is None:
        return Decision(False, "nothing pending: no landed file, empty stream, every micro-batch delivered")
    remaining = backoff_seconds(seen.consecutive_failures) - seen.seconds_since_failure
    if remaining > 0:
        return Decision(
            False,
            f"{seen.consecutive_failures} runs failed in a row; trying again in {remaining:.0f} s ({seen.pending})",
        )
    return Decision(True, seen.pending)


def backoff_seconds(consecutive_failures: int) -> float:
    """Pause after so many failures in a row: none, 5 s, 10 s, 20 s ... at most 5 minutes."""
    if consecutive_failures <= 0:
        return 0.0
    doublings = min(consecutive_failures - 1, 16)  # more would overflow, and the longest is reached long before
    return min(FIRST_BACKOFF_SECONDS * 2.0**doublings, LONGEST_BACKOFF_SECONDS)
