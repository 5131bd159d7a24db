"""What it costs to start: import of each code location, the command line, and a process that runs a micro-batch.

Here: seconds of fresh interpreters, taken in turns beside one that does nothing, and heavy modules that a light one
imported. Not here: what happens after the start (micro_batch.py, freshness.py).
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from functools import partial

from benchmarks.figures import Context, Figure, Outcome, Series, Size, in_turns, median_and_spread
from kurashiru_pipeline.environment import PROJECT_ROOT

TITLE = "fresh interpreters: the code locations, the command line, a process that runs a micro-batch"

PROGRAMS = {
    "interpreter": "pass",
    "dagster": "import dagster",
    "kernel": "import kurashiru_pipeline.core.ranking",
    "command_line": "import kurashiru_pipeline.cli",
    "realtime_location": "import kurashiru_pipeline.realtime.definitions",
    "realtime_run": (
        "import kurashiru_pipeline.realtime.definitions as d\n"
        "from kurashiru_pipeline.catalog import MICRO_BATCH_JOB\n"
        "d.defs.resolve_job_def(MICRO_BATCH_JOB)\n"
        "import dagster._core.execution.api, kurashiru_pipeline.realtime.micro_batch\n"
        "import kurashiru_pipeline.realtime.kernel, kurashiru_pipeline.warehouse.ducklake"
    ),
    "analytics_location": "import kurashiru_pipeline.analytics.definitions",
}
HEAVY = ("dagster_dbt", "dagster_snowflake", "dbt", "lightgbm", "matplotlib", "pandas", "snowflake.snowpark")
LIGHT = ("kernel", "command_line", "realtime_location", "realtime_run")


def run(context: Context) -> Outcome:
    is_small = context.size is Size.SMALL
    repetitions = {Size.SMALL: 1, Size.MEDIUM: 5, Size.FULL: 15}[context.size]
    modules: dict[str, list[str]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}

    def start(name: str) -> None:
        modules[name] = imported(PROGRAMS[name])

    turns = repetitions if is_small else repetitions + 1
    for turn in range(turns):
        context.progress(turn / turns, f"turn {turn + 1} of {turns}")
        for name, taken in in_turns(1, **{name: partial(start, name) for name in PROGRAMS}).items():
            seconds[name] += taken if is_small or turn else []  # in the first, everything is compiled and cached
    floor = median_and_spread(seconds["dagster"])[0]
    figures, medians = [], {}
    for name, taken in seconds.items():
        medians[name], spread = median_and_spread(taken)
        note = f"{len(modules[name]):,} modules"
        figures.append(Figure(f"start_{name}_seconds", medians[name], "s", spread, note=note))
    ratio = medians["realtime_run"] / floor
    figures.append(
        Figure("start_vs_dagster", ratio, "x", note="a process that runs a micro-batch / one that only imports dagster")
    )
    found = {name: heavy(modules[name]) for name in LIGHT}
    unwanted = sum(map(len, found.values()))
    note = "; ".join(f"{name}: {', '.join(names)}" for name, names in found.items() if names)
    figures.append(
        Figure("start_heavy_modules", unwanted, "modules", goal="<= 0", note=note or f"none of {', '.join(HEAVY)}")
    )
    plot = Series(
        "seconds", "Start of a fresh interpreter", "", "seconds", list(medians), {"median": list(medians.values())}
    )
    return Outcome(figures, [plot])


def imported(program: str) -> list[str]:
    """Run a program in a fresh interpreter to its end; names of the modules that it has imported by then."""
    told = f"{program}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], check=True, cwd=PROJECT_ROOT, capture_output=True)
    modules: list[str] = json.loads(done.stdout.splitlines()[-1])
    return modules


def heavy(modules: Sequence[str]) -> list[str]:
    """Those of the heavy packages that are among the modules."""
    return [name for name in HEAVY if name in modules]
