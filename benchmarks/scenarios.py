"""The scenarios by name, in the order they run.

Here: which there are, found without importing any of them, and what each takes. Not here: what they do: each is a
module of this package with a constant `TITLE` (one line) and `run(context: Context) -> Outcome`.
"""

import ast
import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from benchmarks.figures import Context, Outcome, Size

ORDER = (
    "start",
    "ingest",
    "recommend",
    "reflect",
    "micro_batch",
    "freshness",
    "idle",
    "overload",
    "growth",
    "upkeep",
    "dbt",
    "day",
)

# Of the sizes small, medium and full. What is not here takes the first of each.
_USUAL_SECONDS = {"": (10, 120, 600), "day": (15, 300, 8_000), "growth": (10, 300, 3_600)}
_DISK_GB = {"": (1, 4, 10), "day": (1, 6, 60), "growth": (1, 10, 60)}


def titles() -> dict[str, str]:
    """Each scenario's title, read from its source: importing every one would cost seconds."""
    found = {name: _constant(name, "TITLE") for name in ORDER}
    return {name: str(title) for name, title in found.items() if title is not None}


def load(name: str) -> Callable[[Context], Outcome]:
    """The scenario's `run`."""
    return cast("Callable[[Context], Outcome]", importlib.import_module(f"benchmarks.{name}").run)


def usual_seconds(name: str, size: Size) -> float:
    """About how long it takes on two cores; only the estimate of the time left is made of it."""
    return _of_size(_USUAL_SECONDS, name, size)


def disk_gb(name: str, size: Size) -> float:
    """What it needs at most in its folder, in 10^9 bytes."""
    return _of_size(_DISK_GB, name, size)


def is_resumable(name: str) -> bool:
    """Whether it goes on in the folder of an interrupted run: its module says `RESUMABLE = True`."""
    return _constant(name, "RESUMABLE") is True


def _of_size(table: Mapping[str, tuple[float, float, float]], name: str, size: Size) -> float:
    return table.get(name, table[""])[list(Size).index(size)]


def _constant(name: str, constant: str) -> object:
    module = Path(__file__).with_name(f"{name}.py")
    if not module.exists():
        return None
    for statement in ast.parse(module.read_text(encoding="utf-8")).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=target)], value=ast.Constant(value=value)) if target == constant:
                return value
    return None
