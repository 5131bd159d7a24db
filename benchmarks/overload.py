"""Three times as much as can be taken, for a while: the pipeline falls behind in order, says so, and catches up.

Here: arrival above the rate just measured, in the process that drains; lag, memory, order and counts. Not here: the
start of runs (freshness.py).
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import psutil

from benchmarks.arrival import Arrival, Traffic, land, make_traffic
from benchmarks.dynamodb_sink import running_sink
from benchmarks.figures import Context, Figure, Outcome, Series, Size
from benchmarks.load import open_pipeline, settings_of
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.realtime.drain import Done, micro_batches
from kurashiru_pipeline.warehouse.ducklake import attach, connect, lake_folder

TITLE = "overload: three times the sustainable rate, then catching up: order, memory, lag, nothing lost"

_TIMES = 3.0


@dataclass(frozen=True)
class _Plan:
    lines: int
    file_lines: int
    users: int
    recipes: int
    least_lines: int


_PLANS = {
    Size.SMALL: _Plan(8_000, 200, 300, 300, 500),
    Size.MEDIUM: _Plan(1_000_000, 5_000, 50_000, 10_000, 20_000),
    Size.FULL: _Plan(5_000_000, 10_000, 300_000, 30_000, 20_000),
}
_CALIBRATION_SHARE = 0.25


@dataclass
class _Memory:
    """The largest resident size of this process, sampled."""

    peak: int = 0
    ended: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        process = psutil.Process()
        while not self.ended.wait(0.05):
            self.peak = max(self.peak, process.memory_info().rss)


def run(context: Context) -> Outcome:
    plan = _PLANS[context.size]
    context.progress(0.0, "making the traffic")
    with running_sink(port=0) as endpoint:
        settings = settings_of(context.folder / "home", endpoint, MIN_BATCH_LINES=plan.least_lines)
        traffic = make_traffic(
            context.folder / "made",
            lines=plan.lines,
            file_lines=plan.file_lines,
            users=plan.users,
            recipes=plan.recipes,
            duplicates=0.02,
            malformed=0.01,
        )
        first = round(len(traffic.files) * _CALIBRATION_SHARE)
        context.progress(0.2, "measuring what can be taken")
        land(traffic, [*traffic.exports, *traffic.files[:first]], settings.landing)
        with open_pipeline(settings) as pipeline:
            taken = [done for done in micro_batches(pipeline) if done.loaded.line_count]
        largest = max(taken, key=lambda done: done.loaded.line_count)
        sustainable = largest.loaded.line_count / largest.total_seconds
        context.progress(0.4, f"{_TIMES * sustainable:,.0f} lines a second, where {sustainable:,.0f} can be taken")
        overload = _overloaded(context, settings, traffic, first, sustainable)
    found = _found(settings)
    context.progress(1.0, "done")
    return _outcome(context.size, traffic.manifest, overload, found, sustainable)


@dataclass(frozen=True)
class _Round:
    """One micro-batch as it was told: seconds since the overload began, and the figures of its lag."""

    at: float
    done: Done


@dataclass(frozen=True)
class _Overload:
    """The micro-batches, how long files landed, and the largest resident size in bytes."""

    rounds: list[_Round]
    arrival_seconds: float
    peak_memory: int


def _overloaded(context: Context, settings: Settings, traffic: Traffic, first: int, sustainable: float) -> _Overload:
    rounds: list[_Round] = []
    seconds = traffic.file_lines / (_TIMES * sustainable)
    with _watched() as memory, open_pipeline(settings) as pipeline:
        began = time.monotonic()
        with Arrival(traffic, traffic.files[first:], settings.landing, seconds=seconds) as arrival:
            while arrival.is_alive() or not rounds or rounds[-1].done.lag.lines:
                for done in micro_batches(pipeline, linger_seconds=2 * seconds + 1):
                    rounds.append(_Round(time.monotonic() - began, done))
                    share = sum(it.done.loaded.files.get("events", 0) for it in rounds) / (len(traffic.files) - first)
                    context.progress(0.4 + 0.6 * share, f"{done.lag.lines or 0:,} lines behind")
            return _Overload(rounds, arrival.duration, memory.peak)


@contextmanager
def _watched() -> Iterator[_Memory]:
    memory = _Memory()
    watcher = threading.Thread(target=memory.watch, daemon=True)
    watcher.start()
    try:
        yield memory
    finally:
        memory.ended.set()
        watcher.join()


@dataclass(frozen=True)
class _Found:
    """What the lake holds in the end; `disorder` counts micro-batches that took a file younger than a later one's."""

    staged: int
    rejected: int
    duplicates: int
    disorder: int


def _found(settings: Settings) -> _Found:
    with connect() as connection:
        attach(connection, lake_folder(settings), "lake", read_only=True)
        [(staged, rejected, duplicates)] = connection.execute(
            """
            select
                (select count(*) from lake.staging.behavior_events),
                (select count(*) from lake.staging.rejected_events),
                (select sum(duplicate_count) from lake.ops.batches)
            """
        ).fetchall()
        spans = connection.execute(
            "select min(landed_at), max(landed_at) from lake.ops.batch_files group by batch_id order by batch_id"
        ).fetchall()
    disorder = sum(later[0] < earlier[1] for earlier, later in pairwise(spans))
    return _Found(staged, rejected, int(duplicates), disorder)


def _outcome(size: Size, manifest: dict[str, Any], overload: _Overload, found: _Found, sustainable: float) -> Outcome:
    rounds, arrival_seconds = overload.rounds, overload.arrival_seconds
    lines = sum(it.done.loaded.line_count for it in rounds)
    worst = max(rounds, key=lambda it: it.done.lag.seconds)
    after = [it for it in rounds if it.at > arrival_seconds]
    limits = [it.done.limit for it in rounds]
    lost = abs(found.staged - manifest["valid_events"])
    wrong = abs(found.rejected - manifest["rejected_total"]) + abs(found.duplicates - manifest["duplicates"])
    is_measured = size is not Size.SMALL

    def goal(text: str) -> str | None:
        return text if is_measured else None

    figures = [
        Figure("overload_sustainable_per_s", sustainable, "lines/s", note="the largest micro-batch of a backlog"),
        Figure(
            "overload_taken_per_s",
            lines / rounds[-1].at,
            "lines/s",
            note=f"while {_TIMES:.0f} times as much arrived, and until nothing waited; limits {min(limits):,} to "
            f"{max(limits):,} lines",
        ),
        Figure(
            "overload_lost_lines",
            lost + wrong,
            "lines",
            goal="== 0",
            note="lines, rejects and duplicates: the manifest's",
        ),
        Figure("overload_out_of_order", found.disorder, "micro-batches", goal="== 0"),
        Figure(
            "overload_peak_memory",
            overload.peak_memory / 1e9,
            "GB",
            goal=goal("<= 4"),
            note="resident, of the process that drains (and hosts this scenario)",
        ),
        Figure("overload_worst_lag", worst.done.lag.seconds, "s", note=f"{worst.done.lag.lines or 0:,} lines behind"),
        Figure(
            "overload_catch_up", max(0.0, rounds[-1].at - arrival_seconds), "s", note="after the last file had landed"
        ),
        Figure("overload_estimate_error", *_estimate_error(after, rounds[-1].at)),
    ]
    x = [round(it.at, 2) for it in rounds]
    lag = Series(
        "lag",
        "how far behind while three times the sustainable rate arrives",
        "seconds since it began",
        "seconds behind",
        x,
        {
            "oldest line": [it.done.lag.seconds for it in rounds],
            "micro-batch": [it.done.total_seconds for it in rounds],
        },
    )
    behind = Series(
        "lines",
        "lines behind, and lines a micro-batch may load",
        "seconds since it began",
        "lines",
        x,
        {"behind": [float(it.done.lag.lines or 0) for it in rounds], "limit": [float(limit) for limit in limits]},
    )
    return Outcome(figures, [lag, behind])


def _estimate_error(after: list[_Round], ended: float) -> tuple[float | None, str, None, None, str]:
    """By how much the reported time to catch up was off, once arrival had ceased; the rest of a Figure."""
    errors = [
        abs(it.done.lag.catch_up_seconds - (ended - it.at)) / max(ended - it.at, 1e-9)
        for it in after[:-1]
        if it.done.lag.catch_up_seconds is not None and np.isfinite(it.done.lag.catch_up_seconds)
    ]
    if not errors:
        return None, "share", None, None, "it never told a time after arrival had ceased"
    note = "median; the arrival of the last five minutes is counted, so it is too long at first"
    return float(np.median(errors)), "share", None, None, note
