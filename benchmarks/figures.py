"""What a scenario is given and what it returns, and how calls are timed beside each other.

Here: figures, series, the context of a scenario, medians. Not here: the scenarios and their registry (scenarios.py),
the report (report.py).
"""

import operator
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
    "==": operator.eq,
}


class Size(StrEnum):
    """SMALL: about ten seconds a scenario; MEDIUM: minutes; FULL: the figures of docs/performance.md."""

    SMALL = "small"
    MEDIUM = "medium"
    FULL = "full"


@dataclass(frozen=True)
class Figure:
    """One measured value. `goal` is a comparison and a number: ">= 0.5"; the note says what limits the value.

    Raises:
        ValueError: the goal is not a comparison and a number.
    """

    name: str
    value: float | None
    unit: str
    spread: tuple[float, float] | None = None
    goal: str | None = None
    note: str = ""

    def __post_init__(self) -> None:
        if self.goal is not None:
            _parse(self.goal)

    @property
    def reached(self) -> bool | None:
        """Whether the value meets the goal; None without a value or a goal."""
        if self.goal is None or self.value is None:
            return None
        compare, bound = _parse(self.goal)
        return compare(self.value, bound)


@dataclass(frozen=True)
class Series:
    """One plot of the report: each of `y` is a line over the same `x`."""

    name: str
    title: str
    x_label: str
    y_label: str
    x: Sequence[float | str]
    y: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Outcome:
    """What a scenario measured."""

    figures: list[Figure]
    series: list[Series] = field(default_factory=list)


@dataclass
class Context:
    """What a scenario is given.

    Attributes:
        folder: empty, the scenario's own, and gone afterwards.
        peers: the Python of .venv-peers; None where `make peers` has not run.
        progress: takes the share done, 0 to 1, and what is being done.
    """

    size: Size
    folder: Path
    peers: Path | None
    progress: Callable[[float, str], None]


def in_turns(repetitions: int, **calls: Callable[[], object]) -> dict[str, list[float]]:
    """Wall seconds of each call, taken in turns, so that other work on the machine meets all of them alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - began)
    return taken


def median_and_spread(values: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """Median, and least and greatest value."""
    return statistics.median(values), (min(values), max(values))


def _parse(goal: str) -> tuple[Callable[[float, float], bool], float]:
    sign, _, bound = goal.partition(" ")
    try:
        return _COMPARISONS[sign], float(bound)
    except (KeyError, ValueError):
        message = f"a goal is one of {' '.join(_COMPARISONS)}, a space and a number; this is {goal!r}"
        raise ValueError(message) from None
