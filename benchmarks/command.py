"""What `kurashiru bench` does with its arguments.

Here: from arguments to a run and its report, and what a person is told on the way.
Not here: the run (runner.py), how things look (terminal.py, report.py).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from benchmarks import machine, report, scenarios
from benchmarks.figures import Size
from benchmarks.runner import PEERS, Run, chosen, require_space, run_all
from benchmarks.terminal import Monitor


def list_scenarios(console: Console, size: str, *, as_json: bool) -> None:
    """Print which scenarios there are and about what each takes."""
    chosen_size = Size(size)
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "title": title,
            "seconds": scenarios.usual_seconds(name, chosen_size),
            "disk_gb": scenarios.disk_gb(name, chosen_size),
        }
        for name, title in scenarios.titles().items()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(title=f"scenarios, size {size}", title_justify="left")
    for column in ("name", "what it measures", "about", "disk"):
        table.add_column(column, justify="left" if column in {"name", "what it measures"} else "right")
    for row in rows:
        table.add_row(row["name"], row["title"], f"{row['seconds']:,.0f} s", f"{row['disk_gb']:.0f} GB")
    console.print(table)


def run_scenarios(
    folder: Path,
    size: str,
    only: Sequence[str],
    *,
    is_resumed: bool,
    report_folder: Path | None,
    is_for_docs: bool,
    console: Console,
) -> dict[str, Any]:
    """Run the chosen scenarios; the results, which are also left in `folder`. What happens is told to `console`.

    Raises:
        ConfigurationError: no such scenario, or too little room on the disk.
        KurashiruError: another benchmark works in the folder, or a scenario broke whose figures are for the docs.
    """
    options = [*(f"--only {name}" for name in only), *(["--write-docs"] if is_for_docs else [])]
    command = " ".join(["kurashiru bench --size", size, *options])
    run = Run(Size(size), chosen(only), folder, is_resumed, command)
    needed = require_space(run)
    with Monitor(console) as monitor:
        monitor.say(f"{', '.join(run.names)}: at most {needed:.0f} GB of disk under {folder}")
        warning = machine.busy_warning(machine.load_average())
        if warning:
            monitor.say(f"warning: {warning}")
        if not PEERS.exists():
            monitor.say("without peers (dlt, awswrangler, implicit); for the ratios to them: make peers")
        try:
            document = run_all(run, monitor)
        except KeyboardInterrupt:
            monitor.say(f"what is finished stays in {folder}; to go on: {command} --resume")
            raise
        if report_folder is not None:
            monitor.say(f"report: {report.write(document, report_folder)}")
        if is_for_docs:
            report.add_to_page(document)
            monitor.say(f"written: {report.PAGE}")
    return document
