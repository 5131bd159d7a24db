"""What the pipeline does while nothing happens: processor share, writes, processes started.

Here: both locations with the sensor running and nothing landing. Not here: how soon it wakes (freshness.py).
"""

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.arrival import land, make_traffic
from benchmarks.dynamodb_sink import running_sink
from benchmarks.figures import Context, Figure, Outcome, Size
from benchmarks.live_stack import ANALYTICS, REALTIME, LiveStack, live_stack, wait_until
from kurashiru_pipeline.errors import ConfigurationError, TransientError
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse.ducklake import lake_folder

TITLE = "idle: processor, writes and processes while nothing lands"

_SECONDS = {Size.SMALL: 5.0, Size.MEDIUM: 60.0, Size.FULL: 300.0}
_LINGER_SECONDS = 1.0


@dataclass(frozen=True)
class _Sample:
    """Processor seconds by process, and what the near-real-time side has written."""

    at: float
    busy: dict[int, float]
    files: dict[Path, tuple[int, int]]


def run(context: Context) -> Outcome:
    seconds = _SECONDS[context.size]
    context.progress(0.0, "starting Dagster")
    modules = (REALTIME,) if context.size is Size.SMALL else (REALTIME, ANALYTICS)
    with (
        running_sink(port=0) as endpoint,
        live_stack(context.folder, endpoint, *modules, LINGER_SECONDS=str(_LINGER_SECONDS)) as stack,
    ):
        traffic = make_traffic(context.folder / "made", lines=500, file_lines=500, users=100, recipes=100)
        land(traffic, [*traffic.exports, *traffic.files], stack.settings.landing)
        table = RecommendationTable.from_settings(stack.settings)
        wait_until(lambda: _is_made(table), "the first micro-batch")
        server = stack.code_server(REALTIME)
        # The run lingers, then Dagster clears up after it.
        time.sleep(_LINGER_SECONDS)
        wait_until(lambda: not _runs(server), "the end of the run")
        time.sleep(3.0)
        context.progress(0.3, f"watching for {seconds:.0f} s")
        before = _sample(stack)
        time.sleep(seconds)
        after = _sample(stack)
    elapsed = after.at - before.at
    shares = {pid: (busy - before.busy.get(pid, 0.0)) / elapsed for pid, busy in after.busy.items()}
    ours = shares.pop(server.pid)
    changed = [path for path, state in after.files.items() if before.files.get(path) != state]
    is_measured = context.size is not Size.SMALL

    def goal(text: str) -> str | None:
        return text if is_measured else None

    return Outcome(
        [
            Figure(
                "idle_cpu_share",
                ours,
                "cores",
                goal=goal("<= 0.01"),
                note="the near-real-time code server: our sensor and Dagster's gRPC server in it",
            ),
            Figure(
                "idle_dagster_cpu_share",
                sum(shares.values()),
                "cores",
                note=f"daemon, UI, proxies and the other code servers, {len(shares)} processes",
            ),
            Figure("idle_files_written", len(changed), "files", goal=goal("== 0"), note="in lake, state and landing"),
            Figure(
                "idle_processes_started",
                len(after.busy.keys() - before.busy.keys()),
                "processes",
                goal=goal("== 0"),
                note="anywhere below `dagster dev`",
            ),
        ]
    )


def _is_made(table: RecommendationTable) -> bool:
    try:
        return table.read("#default") is not None
    except (ConfigurationError, TransientError):
        return False  # the first run makes the table


def _runs(server: psutil.Process) -> list[psutil.Process]:
    """Runs are children of their code server; the resource tracker of multiprocessing is one too, and stays."""
    return [child for child in server.children() if _is_run(child)]


def _is_run(child: psutil.Process) -> bool:
    try:
        return "resource_tracker" not in " ".join(child.cmdline())
    except psutil.NoSuchProcess:  # a zombie counts as one too
        return False


def _sample(stack: LiveStack) -> _Sample:
    busy = {}
    for process in stack.family():
        times = process.cpu_times()
        busy[process.pid] = times.user + times.system
    files = {}
    for folder in (lake_folder(stack.settings), stack.settings.landing):
        for path in folder.rglob("*"):
            state = path.stat()
            files[path] = (state.st_mtime_ns, state.st_size)
    return _Sample(time.monotonic(), busy, files)
