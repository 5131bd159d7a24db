"""How a run of the benchmark looks on a terminal.

Here: progress with the time left, plain lines where nobody watches, the table of figures.
Not here: what runs (runner.py), the report (report.py).
"""

import time
from collections.abc import Mapping
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from benchmarks.report import goal, measured, spread, summary, verdict

_LINE_SECONDS = 30.0  # between plain lines


class Monitor:
    """Tells what is going on: a bar on a terminal, otherwise a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        columns = (
            SpinnerColumn(),
            TextColumn("{task.fields[scenario]:<12}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}  {task.description}"),
        )
        self._progress = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task: TaskID | None = None
        self._told = 0.0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def began(self, name: str) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task("starting", total=1.0, scenario=name, left="")
        self._told = time.monotonic()

    def moved(self, name: str, share: float, what: str, seconds_left: float) -> None:
        left = f"about {_length(seconds_left)} left"
        if self._task is not None:
            self._progress.update(self._task, completed=share, description=what, left=left)
        if not self._console.is_terminal and time.monotonic() - self._told > _LINE_SECONDS:
            self._told = time.monotonic()
            self.say(f"{name}: {share:.0%}, {what}; {left}")

    def ended(self, name: str, seconds: float, error: str | None) -> None:
        self.say(
            f"{name}: {_length(seconds)}" if error is None else f"{name}: FAILED after {_length(seconds)}: {error}"
        )

    def kept(self, name: str) -> None:
        self.say(f"{name}: finished before")

    def say(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def figures_table(document: Mapping[str, Any]) -> Table:
    """All figures, a scenario after the other."""
    table = Table(title=f"size {document['size']}: {summary(document)}", title_justify="left")
    table.add_column("figure", ratio=1)
    for column in ("value", "spread", "goal"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("reached")
    for scenario in document["scenarios"]:
        for figure in document["figures"]:
            if figure["scenario"] == scenario["name"]:
                reached = Text(verdict(figure), style="green" if figure["reached"] else "red")
                table.add_row(
                    _named(figure["name"], figure["note"]), measured(figure), spread(figure), goal(figure), reached
                )
        if scenario["error"]:
            table.add_row(_named(scenario["name"], scenario["error"]), "", "", "", Text("failed", style="red"))
        table.add_section()
    return table


def _named(name: str, note: str) -> Text:
    return Text.assemble(name, (f"\n  {note}" if note else "", "dim"))


def _length(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))) if seconds >= 60 else f"{seconds:.0f} s"
