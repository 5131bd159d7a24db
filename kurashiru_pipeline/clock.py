"""Now, as the whole project means it.

Here: the one reading of the system clock that ends up in data.
Not here: durations (time.monotonic) or event time, which comes from the events.
"""

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Now as naive UTC: every timestamp in lake and items is of that kind."""
    return datetime.now(tz=UTC).replace(tzinfo=None)
