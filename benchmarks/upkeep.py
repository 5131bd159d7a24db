"""Maintenance beside micro-batches: what it takes, what it leaves, and how long a micro-batch waits for it.

Here: upkeep after so many micro-batches and after as many again, and upkeep in a process of its own while micro-batches
go on. Not here: how micro-batches fare over a long history (growth.py).
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from multiprocessing import get_context

from benchmarks.dynamodb_sink import running_sink
from benchmarks.figures import Context, Figure, Outcome, Series, Size, median_and_spread
from benchmarks.load import open_pipeline, settings_of, settle, this_hour
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.warehouse import open_warehouse
from kurashiru_pipeline.warehouse.base import MaintenanceReport
from kurashiru_pipeline.warehouse.ducklake import lake_folder

TITLE = "upkeep beside micro-batches: seconds, files, catalogue, and the longest wait of a micro-batch"


@dataclass(frozen=True)
class Scale:
    """`batches` micro-batches of `lines` events between two upkeeps, of `users` users."""

    batches: int
    lines: int
    users: int
    recipes: int


SCALES = {
    Size.SMALL: Scale(4, 300, 500, 500),
    Size.MEDIUM: Scale(40, 3_500, 50_000, 20_000),
    Size.FULL: Scale(600, 3_500, 300_000, 100_000),
}


@dataclass
class Measured:
    """Seconds of each micro-batch, bytes of the catalogue after it, and seconds it waited for others before it."""

    seconds: list[float] = field(default_factory=list)
    catalogue: list[int] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)


def run(context: Context) -> Outcome:
    """Micro-batches, upkeep; as many again, upkeep; as many again beside upkeep in another process."""
    scale = SCALES[context.size]
    begins = this_hour() - timedelta(hours=1)
    with running_sink(keeps_lists=False) as endpoint:
        settings = settings_of(context.folder, endpoint, MAX_BATCH_LINES=scale.lines, SNAPSHOT_MINUTES=0)
        context.progress(0.02, "users, recipes and a model")
        settle(settings, scale.users, scale.recipes, begins)
        maintain(settings)
        reports: list[MaintenanceReport] = []
        alone: list[Measured] = []
        for turn in range(2):
            context.progress(0.1 + 0.3 * turn, f"{scale.batches} micro-batches, then upkeep")
            alone.append(_drain(settings, scale, begins + timedelta(minutes=turn)))
            reports.append(maintain(settings))
        context.progress(0.7, f"{scale.batches} micro-batches beside upkeep")
        beside, report = _drain_beside(settings, scale, begins + timedelta(minutes=2))
        reports += [report, maintain(settings)]
    goal = None if context.size is Size.SMALL else "<= 1"
    return Outcome(_figures(alone, beside, reports, goal), _series(alone))


def maintain(settings: Settings) -> MaintenanceReport:
    """Upkeep as `kurashiru maintain` does it."""
    with open_warehouse(settings) as warehouse:
        return warehouse.maintain()


def _land(settings: Settings, scale: Scale, until: datetime) -> None:
    simulate(
        settings.landing,
        events=scale.batches * scale.lines,
        users=scale.users,
        recipes=scale.recipes,
        days=1 / 1440,
        until=until,
        file_lines=scale.lines,
        seed=until.minute,
    )


def _drain(settings: Settings, scale: Scale, until: datetime) -> Measured:
    _land(settings, scale, until)
    measured = Measured()
    with open_pipeline(settings) as pipeline:
        while _micro_batch(settings, pipeline, measured):
            pass
    return measured


def _drain_beside(settings: Settings, scale: Scale, until: datetime) -> tuple[Measured, MaintenanceReport]:
    """Micro-batches that give way, while upkeep of everything before them is done in another process."""
    _land(settings, scale, until)
    measured = Measured()
    with _other_process(settings) as executor, open_pipeline(settings) as pipeline:
        for _ in range(scale.batches // 4):
            _micro_batch(settings, pipeline, measured)
        upkeep: Future[MaintenanceReport] = executor.submit(maintain, settings)
        while _micro_batch(settings, pipeline, measured) or not upkeep.done():
            started = time.perf_counter()
            pipeline.give_way()
            measured.waits.append(time.perf_counter() - started)
            time.sleep(0.001)
        return measured, upkeep.result()


@contextmanager
def _other_process(settings: Settings) -> Iterator[ProcessPoolExecutor]:
    """A process that has imported what upkeep needs, so that it meets the micro-batches and not their end."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        executor.submit(catalogue_bytes, settings).result()
        yield executor


def _micro_batch(settings: Settings, pipeline: MicroBatchPipeline, measured: Measured) -> bool:
    """One micro-batch through all stages; False if there was none left."""
    started = time.perf_counter()
    pipeline.load()
    if pipeline.stage() is None:
        return False
    for step in (pipeline.collect, pipeline.preprocess, pipeline.recommend, pipeline.reflect):
        step()
    measured.seconds.append(time.perf_counter() - started)
    measured.catalogue.append(catalogue_bytes(settings))
    return True


def catalogue_bytes(settings: Settings) -> int:
    """Bytes of the lake's catalogue, with what is still in its log."""
    return sum(path.stat().st_size for path in lake_folder(settings).glob("catalog.sqlite*"))


def _figures(
    alone: list[Measured], beside: Measured, reports: list[MaintenanceReport], goal: str | None
) -> list[Figure]:
    """`reports`: of the two upkeeps alone, of that beside micro-batches, and of the one after it all."""
    batch, batch_spread = median_and_spread([second for measured in alone for second in measured.seconds])
    slower = [seconds.seconds[-1] for seconds in alone]
    grown = [
        (measured.catalogue[-1] - measured.catalogue[0]) / max(1, len(measured.catalogue) - 1) for measured in alone
    ]
    first, second, _, last = reports
    waited = max(beside.waits, default=0.0)
    return [
        Figure("upkeep_longest_wait_seconds", waited, "s", goal=goal, note="a micro-batch waits for one slice"),
        Figure("upkeep_longest_slice_seconds", max(report.longest_slice_seconds for report in reports), "s"),
        Figure("upkeep_batch_seconds", batch, "s", batch_spread, note="a micro-batch of the same run, all stages"),
        Figure("upkeep_batch_beside_seconds", median_and_spread(beside.seconds)[0], "s"),
        Figure("upkeep_last_batch_seconds", max(slower), "s", note="the last micro-batch before an upkeep"),
        Figure("upkeep_seconds", first.seconds, "s", note=f"after {len(alone[0].seconds)} micro-batches"),
        Figure(
            "upkeep_twice_ratio",
            second.seconds / first.seconds,
            "x",
            note="upkeep after as many micro-batches again; 1: it does not grow with the history",
        ),
        Figure("upkeep_catalogue_bytes_a_batch", max(grown), "B"),
        Figure("upkeep_catalogue_bytes_ratio", second.catalogue_bytes_after / first.catalogue_bytes_after, "x"),
        *(
            Figure(f"upkeep_{name}_{when}", getattr(second, f"{name}_{when}"), unit)
            for name, unit in (("files", ""), ("bytes", "B"), ("catalogue_bytes", "B"), ("snapshots", ""))
            for when in ("before", "after")
        ),
        Figure("upkeep_files_left", last.files_after, "", note="after all upkeep"),
    ]


def _series(alone: list[Measured]) -> list[Series]:
    seconds = [second for measured in alone for second in measured.seconds]
    return [
        Series(
            "batches",
            "Micro-batches, with upkeep half-way and at the end",
            "micro-batch",
            "seconds",
            list(range(1, len(seconds) + 1)),
            {"micro-batch": seconds},
        )
    ]
