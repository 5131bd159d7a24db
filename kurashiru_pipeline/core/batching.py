"""How many lines the next micro-batch may load.

Here: a pure function from what the last micro-batch took to the next limit.
Not here: loading, or what a line costs in memory (docs/operations.md says how the greatest limit was chosen).
"""

from dataclasses import dataclass

LARGEST_STEP = 4.0


@dataclass(frozen=True)
class Bounds:
    """Between what the limit moves, and how long a micro-batch should take; `minimum` = `maximum` fixes the limit."""

    minimum: int
    maximum: int
    target_seconds: float

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.maximum or self.target_seconds <= 0:
            message = f"1 <= minimum <= maximum and a target above 0 are needed, not {self}"
            raise ValueError(message)


def next_limit(limit: int, *, lines: int, seconds: float, bounds: Bounds) -> int:
    """Lines the next micro-batch may load, so that it takes about the target.

    At a cost of a + b * lines, scaling by target / seconds approaches (target - a) / b from below and stays there: the
    fixed share a of a small micro-batch makes the first steps too short, never too long.

    Args:
        limit: what the last micro-batch was allowed.
        lines: what it loaded; less than half of the limit means that there was no more, which says nothing of the
            limit, so it stays.
        seconds: what it took from loading to delivery.
    """
    wanted = float(limit)
    if 2 * lines >= limit and seconds > 0:
        wanted = min(max(lines * bounds.target_seconds / seconds, limit / LARGEST_STEP), limit * LARGEST_STEP)
    return round(min(max(wanted, bounds.minimum), bounds.maximum))
