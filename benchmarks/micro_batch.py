"""One minute of full load as one micro-batch: 208,000 events, through all six stages.

Here: the minute as the simulator's users make it, and the worst one, in which 130,000 users do something each; seconds
of each stage, memory, and what the stand-in for DynamoDB takes of it. Not here: many minutes (day.py, growth.py).
"""

import gzip
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq

from benchmarks.dynamodb_sink import running_sink, statistics
from benchmarks.figures import Context, Figure, Outcome, Series, Size, in_turns, median_and_spread
from benchmarks.load import (
    EVENTS_A_MINUTE,
    bare_read,
    event_files,
    in_another_process,
    land_minutes,
    minutes_before,
    open_pipeline,
    settings_of,
    settle,
    this_hour,
)
from benchmarks.machine import peak_memory_gb
from kurashiru_pipeline.catalog import Stage
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.local.landing import pack_lines
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline

TITLE = "one minute of full load (208,000 events) through all six stages, in one micro-batch"

WORST_USERS = 130_000
STEPS = ("load", *(stage.value for stage in Stage))
FILES_A_MINUTE = 20


@dataclass(frozen=True)
class Scale:
    """How much of the full load: `share` of a minute, and how many minutes of each kind."""

    share: float
    users: int
    recipes: int
    leading: int
    usual: int
    worst: int


SCALES = {
    Size.SMALL: Scale(0.05, 8_000, 5_000, 1, 1, 1),
    Size.MEDIUM: Scale(1.0, 300_000, 100_000, 3, 3, 2),
    Size.FULL: Scale(1.0, 1_000_000, 100_000, 5, 5, 5),
}


@dataclass(frozen=True)
class Taken:
    """What one micro-batch took: wall seconds by step, processor seconds of this process and of the sink."""

    seconds: dict[str, float]
    cpu_seconds: float
    lines: int
    users: int
    items: int
    sink_seconds: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def run(context: Context) -> Outcome:
    scale = SCALES[context.size]
    minutes = scale.leading + scale.usual + scale.worst
    lines = round(EVENTS_A_MINUTE * scale.share)
    with running_sink() as endpoint:
        settings = settings_of(context.folder / "home", endpoint, MAX_BATCH_LINES=lines, MAX_BATCH_USERS=1_000_000)
        held = context.folder / "held"
        context.progress(0.0, "users register and have their lists")
        in_another_process(_prepare, settings, scale, held, this_hour())
        files = event_files(held)
        context.progress(0.4, "the floor")
        floor = in_another_process(_floor, files[:FILES_A_MINUTE])
        taken, memory = [], []
        with open_pipeline(settings) as pipeline:
            for number in range(minutes):
                context.progress(0.5 + 0.5 * number / minutes, f"minute {number + 1} of {minutes}")
                some = files[number * FILES_A_MINUTE : (number + 1) * FILES_A_MINUTE]
                taken.append(_micro_batch(pipeline, settings, some, held, endpoint))
                memory.append(peak_memory_gb())
    last_usual = scale.leading + scale.usual
    usual, worst = taken[scale.leading : last_usual], taken[last_usual:]
    figures, series = _measured(taken[0], usual, worst, scale.share == 1.0)
    floor_seconds, spread = median_and_spread(floor)
    note = "DuckDB alone: the same lines, typed, into memory"
    figures.append(Figure("microbatch_floor_seconds", floor_seconds, "s", spread, note=note))
    ratio = figures[0].value / floor_seconds if figures[0].value else None
    figures.append(Figure("microbatch_vs_floor", ratio, "x", note="all six stages / DuckDB's reading alone"))
    note = f"most resident at once, worst minutes included; {memory[last_usual - 1]:.2f} GB before those"
    goal = "<= 4" if scale.share == 1.0 else None
    figures.append(Figure("microbatch_memory_gb", max(memory), "GB", goal=goal, note=note))
    return Outcome(figures, [series])


def _prepare(settings: Settings, scale: Scale, held: Path, until: datetime) -> None:
    """Users with lists in the lake, and the minutes' files in `held`, the last of them the worst."""
    minutes = scale.leading + scale.usual + scale.worst
    settle(settings, scale.users, scale.recipes, minutes_before(until, minutes))
    (settings.landing / "events").rename(settings.landing / "settled")
    land_minutes(settings, minutes, until, users=scale.users, recipes=scale.recipes, share=scale.share)
    (settings.landing / "events").rename(held)
    worst = event_files(held)[-scale.worst * FILES_A_MINUTE :]
    [export] = (settings.landing / "users").glob("*.parquet")
    everybody = pq.read_table(export, columns=["user_id"])["user_id"].to_numpy(zero_copy_only=False)
    for number in range(scale.worst):
        users = np.random.default_rng(number).choice(everybody, round(WORST_USERS * scale.share), replace=False)
        spread_over(worst[number * FILES_A_MINUTE : (number + 1) * FILES_A_MINUTE], users.tolist())


def spread_over(files: Sequence[Path], users: Sequence[str]) -> None:
    """Give the events in some files to these users in turn, so that each has some and none a session."""
    given = 0
    for path in files:
        events = [orjson.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
        for event in events:
            event["user_id"] = users[given % len(users)]
            given += 1
        path.write_bytes(pack_lines(b"".join(orjson.dumps(event) + b"\n" for event in events)))


def _floor(files: Sequence[Path]) -> list[float]:
    return in_turns(5, read=partial(bare_read, files))["read"]


def _micro_batch(
    pipeline: MicroBatchPipeline, settings: Settings, files: Sequence[Path], held: Path, endpoint: str
) -> Taken:
    for path in files:
        target = settings.landing / "events" / path.relative_to(held)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    before, cpu = statistics(endpoint), time.process_time()
    seconds: dict[str, float] = {}
    told: dict[str, Any] = {}
    for step in STEPS:
        began = time.perf_counter()
        told[step] = getattr(pipeline, step)()
        seconds[step] = time.perf_counter() - began
    after = statistics(endpoint)
    lines = told["stage"].read_count
    if lines != told["load"].line_count:
        raise RuntimeError(f"{told['load'].line_count:,} lines were loaded, and {lines:,} came through")
    return Taken(
        seconds,
        cpu_seconds=time.process_time() - cpu,
        lines=lines,
        users=told["stage"].user_count,
        items=after.items_put - before.items_put,
        sink_seconds=after.cpu_seconds - before.cpu_seconds,
    )


def _measured(
    first: Taken, usual: Sequence[Taken], worst: Sequence[Taken], is_full_load: bool
) -> tuple[list[Figure], Series]:
    medians = {
        kind: [median_and_spread([one.seconds[step] for one in taken])[0] for step in STEPS]
        for kind, taken in (("usual", usual), ("worst", worst))
    }
    figures = [
        _figure("microbatch_seconds", usual, "<= 15" if is_full_load else None),
        _figure("microbatch_worst_seconds", worst, "<= 30" if is_full_load else None),
        Figure(
            "microbatch_first_seconds",
            first.total,
            "s",
            note=f"the first one of a process, with what is read and compiled once; {first.lines:,} lines",
        ),
        *(Figure(f"microbatch_{step}_seconds", medians["usual"][at], "s") for at, step in enumerate(STEPS)),
        Figure(
            "microbatch_sink_seconds",
            median_and_spread([one.sink_seconds for one in usual])[0],
            "s",
            note="processor time of the stand-in for DynamoDB, on the same cores, within reflect",
        ),
    ]
    return figures, Series("stages", "One minute of full load, stage by stage", "", "seconds", STEPS, medians)


def _figure(name: str, taken: Sequence[Taken], goal: str | None) -> Figure:
    seconds, spread = median_and_spread([one.total for one in taken])
    middle = sorted(taken, key=lambda one: one.total)[len(taken) // 2]
    longest = max(middle.seconds, key=lambda step: middle.seconds[step])
    note = (
        f"{middle.lines:,} lines of {middle.users:,} users, {middle.items:,} items sent; {middle.cpu_seconds:.1f} s of "
        f"processor time; most of it is {longest} ({middle.seconds[longest] / middle.total:.0%})"
    )
    return Figure(name, seconds, "s", spread, goal, note)
