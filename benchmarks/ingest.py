"""Load and stage of gzip NDJSON: exactly once, validated, typed, de-duplicated.

Beside: the floor, DuckDB reading the same files, typed, into memory (load.bare_read), and dlt's filesystem -> duckdb
pipeline on some of them (peers/dlt_ingest.py). Not here: what comes after staging (micro_batch.py).
"""

import json
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.figures import Context, Figure, Outcome, Series, Size, in_turns, median_and_spread
from benchmarks.load import bare_read, event_files, in_another_process, settings_of, this_hour
from kurashiru_pipeline.catalog import Stage
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse import open_warehouse
from kurashiru_pipeline.warehouse.base import Warehouse
from kurashiru_pipeline.warehouse.ducklake import DuckLakeWarehouse

TITLE = "Ingest: load and stage of gzip NDJSON, against DuckDB's bare reading of it and against dlt"

_NO_ENDPOINT = "http://127.0.0.1:9"
_FILE_LINES = 5_200
_DUPLICATES = 0.01


@dataclass(frozen=True)
class _Plan:
    """How much of everything."""

    lines: int
    repetitions: int
    batch_lines: Sequence[int]
    peer_files: int
    window_ids: int


_PLANS = {
    Size.SMALL: _Plan(50_000, 2, (25_000,), 1, 50_000),
    Size.MEDIUM: _Plan(1_000_000, 5, (25_000, 208_000, 1_000_000), 10, 3_000_000),
    Size.FULL: _Plan(5_000_000, 5, (25_000, 208_000, 1_000_000), 20, 12_600_000),
}
_HEADLINE = 208_000
"""Lines of a micro-batch for the figures with a goal: a minute of full load."""


@dataclass(frozen=True)
class Ingested:
    """Seconds of the steps of one run, by micro-batch."""

    lines: int
    load_seconds: tuple[float, ...]
    stage_seconds: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return sum(self.load_seconds) + sum(self.stage_seconds)


def run(context: Context) -> Outcome:
    plan = _PLANS[context.size]
    context.progress(0.0, f"making {plan.lines:,} lines")
    files = context.folder / "files"
    simulate(
        files,
        events=plan.lines,
        users=max(1_000, plan.lines // 5),
        recipes=5_000,
        days=1.0,
        duplicates=_DUPLICATES,
        late=0.01,
        until=this_hour(),
        file_lines=_FILE_LINES,
    )
    for exports in ("recipes", "users"):  # of lines alone is the question
        shutil.rmtree(files / exports)
    paths = event_files(files)
    some = context.folder / "some"
    for path in paths[: plan.peer_files]:
        target = some / path.relative_to(files)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)

    runs: dict[int, list[Ingested]] = {lines: [] for lines in plan.batch_lines}
    peers: list[dict[str, Any]] = []
    calls: dict[str, Callable[[], object]] = {"floor": partial(bare_read, paths)}
    for lines in plan.batch_lines:
        calls[f"of_{lines}"] = partial(_keep, runs[lines], context, files, lines)
    if context.peers is not None:
        calls["dlt"] = partial(_peer, peers, context, some)
    ingest(context.folder / "warm", some, _HEADLINE)  # what is compiled or imported once is no part of it
    done = 0

    def with_progress(name: str, call: Callable[[], object]) -> object:
        nonlocal done
        context.progress(0.1 + 0.6 * done / (plan.repetitions * len(calls)), name)
        done += 1
        return call()

    timed = {name: partial(with_progress, name, call) for name, call in calls.items()}
    taken = in_turns(plan.repetitions, **timed)
    context.progress(0.7, "memory")
    memory = in_another_process(_peak_memory, context.folder / "memory", files, min(_HEADLINE, plan.lines))
    context.progress(0.75, f"a window of {plan.window_ids:,} event ids")
    empty, full = _windows(context, paths, plan)
    headline = runs[_HEADLINE if _HEADLINE in runs else plan.batch_lines[0]]
    return Outcome(
        [*_speeds(plan, headline, taken["floor"], peers, memory), *_deduplication(plan, empty, full)],
        [_batches(plan, runs)],
    )


def ingest(home: Path, landing: Path, batch_lines: int) -> Ingested:
    """Load and stage everything in a landing folder, in micro-batches of at least `batch_lines` lines."""
    settings = _settings(home, landing)
    load, stage = [], []
    count = 0
    with open_warehouse(settings) as warehouse:
        while (steps := _micro_batch(warehouse, settings, batch_lines)) is not None:
            load.append(steps[0])
            stage.append(steps[1])
            count += steps[2]
    shutil.rmtree(home)
    return Ingested(count, tuple(load), tuple(stage))


def _micro_batch(warehouse: Warehouse, settings: Settings, max_lines: int) -> tuple[float, float, int] | None:
    """Seconds of load and of stage, and lines, of the next micro-batch; it counts as delivered then."""
    pipeline = MicroBatchPipeline(warehouse, settings, lambda: RecommendationTable.from_settings(settings))
    began = time.perf_counter()
    pipeline.load(max_lines=max_lines)
    loaded = time.perf_counter()
    accounting = pipeline.stage()
    staged = time.perf_counter()
    if accounting is None:
        return None
    warehouse.transact(
        lambda transaction: transaction.run(
            "finish_stage",
            batch_id=accounting.batch_id,
            stage=Stage.REFLECT,
            finished_at=utc_now(),
            seconds=0.0,
            row_count=0,
        )
    )
    return loaded - began, staged - loaded, accounting.read_count


def _keep(runs: list[Ingested], context: Context, files: Path, batch_lines: int) -> None:
    runs.append(ingest(context.folder / "home", files, batch_lines))


def _peer(peers: list[dict[str, Any]], context: Context, folder: Path) -> None:
    database = context.folder / "dlt" / "events.duckdb"
    database.parent.mkdir()
    script = Path(__file__).parent / "peers" / "dlt_ingest.py"
    made = subprocess.run(
        [str(context.peers), str(script), str(folder), str(database)], check=True, capture_output=True, text=True
    )
    peers.append(json.loads(made.stdout.splitlines()[-1]))
    shutil.rmtree(database.parent)


def _peak_memory(home: Path, landing: Path, batch_lines: int) -> float:
    ingest(home, landing, batch_lines)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _windows(context: Context, paths: Sequence[Path], plan: _Plan) -> tuple[list[float], list[float]]:
    """Seconds of staging small micro-batches, one after the other, after an empty window and after a full one."""
    found = []
    for ids in (0, plan.window_ids):
        home = context.folder / "window"
        landing = context.folder / "window_files"
        settings = _settings(home, landing)
        seconds = []
        with open_warehouse(settings) as warehouse:
            assert isinstance(warehouse, DuckLakeWarehouse)
            _fill_window(warehouse, ids)
            per_batch = min(5, len(paths) // 4)
            for number in range(4):
                for path in paths[per_batch * number : per_batch * (number + 1)]:
                    target = landing / "events" / path.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(path, target)
                steps = _micro_batch(warehouse, settings, plan.lines)
                assert steps is not None
                seconds.append(steps[1])
        found.append(seconds[1:])  # the first reads the window once
        shutil.rmtree(home)
        shutil.rmtree(landing)
    return found[0], found[1]


def _fill_window(warehouse: DuckLakeWarehouse, ids: int) -> None:
    """Events of the last half hour, as micro-batches of a minute of full load staged them."""
    batches = -(-ids // _HEADLINE)
    for batch in range(batches):
        loaded_at = utc_now() - timedelta(minutes=30) * (1 - batch / batches)
        count = min(_HEADLINE, ids - batch * _HEADLINE)
        warehouse._connection.execute(
            "insert into staging.behavior_events by name select uuid() as event_id, 'recipe_view' as event_name, "
            f"'u' || i as user_id, timestamp '{loaded_at}' as loaded_at, 0 as batch_id from range({count}) as t(i)"
        )


def _settings(home: Path, landing: Path) -> Settings:
    settings = settings_of(home, _NO_ENDPOINT)
    return Settings.load(settings.environment, {**settings.environ, "KURASHIRU_LANDING": str(landing)})


def _speeds(
    plan: _Plan, headline: list[Ingested], floor: list[float], peers: list[dict[str, Any]], memory: float
) -> list[Figure]:
    is_real = plan is not _PLANS[Size.SMALL]
    ratio, ratio_spread = median_and_spread([bare / ours.seconds for bare, ours in zip(floor, headline, strict=True)])

    def speed(name: str, seconds: Sequence[float], note: str = "") -> Figure:
        median, spread = median_and_spread([plan.lines / one for one in seconds])
        return Figure(name, median, "lines/s", spread, note=note)

    note = "the floor keeps nothing and de-duplicates nothing; ours writes each line twice, as it came and typed"
    figures = [
        Figure("ingest_vs_floor", ratio, "x", ratio_spread, ">= 0.5" if is_real else None, note),
        speed("ingest_lines_per_s", [one.seconds for one in headline]),
        speed("ingest_load_lines_per_s", [sum(one.load_seconds) for one in headline]),
        speed("ingest_stage_lines_per_s", [sum(one.stage_seconds) for one in headline]),
        speed("ingest_floor_lines_per_s", floor, "DuckDB's typed read_json of the same files into memory"),
        Figure("ingest_peak_memory", memory, "GB", note="of a process that does nothing else"),
    ]
    if not peers:
        return [Figure("ingest_vs_dlt", None, "x", goal=">= 10" if is_real else None, note="make peers"), *figures]
    ours = statistics.median(plan.lines / one.seconds for one in headline)
    against, spread = median_and_spread([ours / (peer["lines"] / peer["seconds"]) for peer in peers])
    note = f"dlt: {peers[0]['lines']:,} of the lines, appended; neither validated nor de-duplicated"
    return [Figure("ingest_vs_dlt", against, "x", spread, ">= 10" if is_real else None, note), *figures]


def _deduplication(plan: _Plan, empty: list[float], full: list[float]) -> list[Figure]:
    note = f"stage of micro-batches of about {5 * _FILE_LINES:,} lines; full: {plan.window_ids:,} event ids"
    by_window = {"empty": median_and_spread(empty), "full": median_and_spread(full)}
    return [
        *(
            Figure(f"ingest_stage_seconds_{window}_window", seconds, "s", spread)
            for window, (seconds, spread) in by_window.items()
        ),
        Figure("ingest_window_ratio", by_window["full"][0] / by_window["empty"][0], "x", note=note),
    ]


def _batches(plan: _Plan, runs: dict[int, list[Ingested]]) -> Series:
    def medians(steps: str) -> list[float]:
        return [
            statistics.median(seconds for one in runs[lines] for seconds in getattr(one, steps))
            for lines in plan.batch_lines
        ]

    return Series(
        "ingest_batches",
        "What a micro-batch costs by its size",
        "lines of a micro-batch",
        "seconds",
        list(plan.batch_lines),
        {"load": medians("load_seconds"), "stage": medians("stage_seconds")},
    )
