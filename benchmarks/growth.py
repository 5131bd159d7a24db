"""The same micro-batch at growing history: what a batch costs must follow the batch.

Here: history written in bulk (staged events, ledger, users and their state), upkeep, and the same two micro-batches
after each step of it: seconds, bytes read, size of the catalogue.
Not here: how history comes about (day.py), or dbt (dbt.py).

The users of the measured micro-batches are the same at every size, with as long a history of their own; what grows is
what lies around them: events, micro-batches in the ledger, and users, one to every 60 events. The hour in which
repeats are looked for holds the same events at every size, as it does once a pipeline is older than an hour.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks.dynamodb_sink import running_sink
from benchmarks.figures import Context, Figure, Outcome, Series, Size
from benchmarks.load import EVENTS_A_MINUTE, in_another_process, open_pipeline, put_model_in_service, settings_of
from kurashiru_pipeline.catalog import Stage
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.local.catalogue import make_recipes
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.realtime.drain import drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.warehouse.ducklake import DuckLakeWarehouse
from kurashiru_pipeline.warehouse.keyed_rows import arrow
from kurashiru_pipeline.warehouse.keyed_state import Change
from kurashiru_pipeline.warehouse.keyed_tables import KEYED_TABLES

TITLE = "the same micro-batch at growing history, with upkeep"

EVENTS_A_USER = 60
BEHAVIORS_A_USER = 15
USERS_AT_ONCE = 100_000
EVENTS_AT_ONCE = 10_000_000
STEPS = ("load", *(stage.value for stage in Stage))


@dataclass(frozen=True)
class Scale:
    """Events of history at each step; users who are active in the measured micro-batches, and these batches' events."""

    histories: Sequence[int]
    users: int
    recipes: int
    batches: Sequence[int]
    repetitions: int


SCALES = {
    Size.SMALL: Scale((20_000, 200_000), 300, 500, (200, 1_000), 1),
    Size.MEDIUM: Scale((1_000_000, 10_000_000, 50_000_000), 130_000, 100_000, (3_500, EVENTS_A_MINUTE), 2),
    Size.FULL: Scale((1_000_000, 10_000_000, 100_000_000, 300_000_000), 130_000, 100_000, (3_500, EVENTS_A_MINUTE), 5),
}


@dataclass(frozen=True)
class Taken:
    """Medians of a micro-batch at one size of history: seconds by step, processor seconds, bytes read."""

    seconds: dict[str, float]
    spread: tuple[float, float]
    cpu_seconds: float
    bytes_read: float

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


def run(context: Context) -> Outcome:
    scale = SCALES[context.size]
    taken: list[dict[int, Taken]] = []
    catalogues: list[float] = []
    with running_sink(keeps_lists=False) as endpoint:
        settings = settings_of(context.folder / "home", endpoint, MAX_BATCH_LINES=max(scale.batches))
        context.progress(0.0, "users register and have their lists")
        in_another_process(_settle, settings, scale)
        for number, history in enumerate(scale.histories):
            share = history / scale.histories[-1]
            context.progress(0.1 + 0.6 * share, f"history of {history:,} events")
            in_another_process(_grow, settings, scale, number)
            context.progress(0.1 + 0.85 * share, f"micro-batches at {history:,} events")
            measured, catalogue = in_another_process(_measured, settings, scale, number)
            taken.append(measured)
            catalogues.append(catalogue)
    return Outcome(*_figures(scale, taken, catalogues, is_real=context.size is not Size.SMALL))


def _settle(settings: Settings, scale: Scale) -> None:
    """A model, recipes, and the active users with lists and a history."""
    put_model_in_service(settings, scale.recipes)
    simulate(
        settings.landing, events=max(scale.batches), users=scale.users, recipes=scale.recipes, days=1, seed=1_000_000
    )
    with open_pipeline(settings) as pipeline:
        drain(pipeline, lambda step, tally: None)
        lake = _lake(pipeline)
        ids = lake._connection.execute("select user_id from staging.users order by user_id").to_arrow_table()
        histories = KEYED_TABLES["recommendation.recent_behaviors"]
        rows = _behaviors(ids["user_id"].combine_chunks(), _recipe_ids(scale), np.random.default_rng(1))
        lake._state.commit([Change(histories, arrow.array([], pa.string()), rows)])


def _grow(settings: Settings, scale: Scale, number: int) -> None:
    """History from the last step's to this one's, then upkeep."""
    before = scale.histories[number - 1] if number else 0
    events = scale.histories[number] - before
    with open_pipeline(settings) as pipeline:
        lake = _lake(pipeline)
        for start in range(0, events, EVENTS_AT_ONCE):
            _write_events(lake, scale, before + start, min(EVENTS_AT_ONCE, events - start), is_lately=not number)
        users = range(before // EVENTS_A_USER, scale.histories[number] // EVENTS_A_USER)
        for first in range(users.start, users.stop, USERS_AT_ONCE):
            _write_users(lake, scale, first, min(USERS_AT_ONCE, users.stop - first))
        lake.maintain()


def _write_events(lake: DuckLakeWarehouse, scale: Scale, first: int, count: int, *, is_lately: bool) -> None:
    """Staged events, in micro-batches of a minute, and the ledger's rows of these."""
    minutes = -(-count // EVENTS_A_MINUTE)
    connection = lake._connection
    [(last,)] = connection.execute("select coalesce(max(batch_id), 0) from ops.batches").fetchall()
    now = utc_now()
    # Before the hour in which repeats are looked for, but for the first step: that is the hour.
    until = now - timedelta(minutes=10) if is_lately else now - timedelta(hours=3, minutes=first // EVENTS_A_MINUTE)
    minute = f"({last + 1} + n // {EVENTS_A_MINUTE})"
    moment = f"timestamp '{until}' - to_seconds(60 * ({minutes} - n // {EVENTS_A_MINUTE}))"
    names = "['recipe_impression', 'recipe_view', 'recipe_view', 'search', 'recipe_favorite', 'recipe_cooked']"
    user = f"'x' || lpad(to_hex((({first} + n) * 7919) % {max((first + count) // EVENTS_A_USER, 1)}), 11, '0')"
    connection.execute("begin transaction")
    connection.execute(
        f"""
        insert into staging.behavior_events
        select uuid(), {names}[1 + n % 6], {user}, 's' || n % 1000000, 'r' || n % {scale.recipes}, {moment},
            'ios', '1.0', '{{"position": 3}}'::json, {minute}, {moment}, {moment}
        from range({count}) as numbers (n)
        """
    )
    connection.execute(
        f"""
        insert into ops.batches by name
        select {last + 1} + n as batch_id, timestamp '{until}' as staged_at, timestamp '{until}' as watermark_at,
            {EVENTS_A_MINUTE} as read_count, {EVENTS_A_MINUTE} as staged_count, 0 as duplicate_count,
            0 as rejected_count, 0 as unknown_name_count, 60000 as user_count, 0 as erased_user_count,
            0 as preference_user_count
        from range({minutes}) as batches (n)
        """
    )
    stages = ", ".join(f"'{stage}'" for stage in Stage)
    connection.execute(
        f"""
        insert into ops.batch_stages by name
        select {last + 1} + n as batch_id, stage, timestamp '{until}' as finished_at, 1.0 as seconds, 1 as row_count
        from range({minutes}) as batches (n), unnest([{stages}]) as stages (stage)
        """
    )
    connection.execute(
        f"""
        insert into ops.batch_files by name
        select {last + 1} + n as batch_id, 'history-' || ({first} + n * 20 + file) as file_name,
            timestamp '{until}' as landed_at, 10400 as line_count
        from range({minutes}) as batches (n), range(20) as files (file)
        """
    )
    connection.execute("commit")


def _write_users(lake: DuckLakeWarehouse, scale: Scale, first: int, count: int) -> None:
    """Users and what the pipeline keeps of them."""
    draw = np.random.default_rng(first)
    ids = arrow.array([f"x{number:011x}" for number in range(first, first + count)], pa.string())
    recipes = _recipe_ids(scale)
    tables = {
        "recommendation.recent_behaviors": _behaviors(ids, recipes, draw),
        "recommendation.user_profiles": _profiles(ids, recipes, draw),
        "recommendation.recommendations": _lists(ids, recipes, draw),
        "serving.delivered_items": _delivered(ids),
    }
    nobody = arrow.array([], pa.string())
    lake._state.commit([Change(KEYED_TABLES[name], nobody, rows) for name, rows in tables.items()])
    lake._connection.register("history_users", pa.table({"user_id": ids}))
    lake._connection.execute(
        "insert into staging.users by name select user_id, ['savings'] as preferred_tags, "
        "timestamp '2026-01-01' as updated_at, timestamp '2026-01-01' as registered_at, false as is_deleted "
        "from history_users"
    )
    lake._connection.unregister("history_users")


def _measured(settings: Settings, scale: Scale, number: int) -> tuple[dict[int, Taken], float]:
    """Each micro-batch several times, a first one of each kind not counted; and the catalogue's megabytes."""
    with open_pipeline(settings) as pipeline:
        taken = {}
        for events in scale.batches:
            batches = [
                _micro_batch(pipeline, settings, scale, events, seed=1 + number * 1_000 + repetition)
                for repetition in range(scale.repetitions + 1)
            ][1:]
            totals = [sum(seconds.values()) for seconds, _, _ in batches]
            taken[events] = Taken(
                {step: statistics.median(seconds[step] for seconds, _, _ in batches) for step in STEPS},
                (min(totals), max(totals)),
                statistics.median(cpu for _, cpu, _ in batches),
                statistics.median(read for _, _, read in batches),
            )
        catalogue = settings.folder("KURASHIRU_LAKE") / "realtime" / "catalog.sqlite"
        return taken, catalogue.stat().st_size / 1e6


def _micro_batch(
    pipeline: MicroBatchPipeline, settings: Settings, scale: Scale, events: int, *, seed: int
) -> tuple[dict[str, float], float, float]:
    """Seconds by step, processor seconds, bytes read."""
    hour = timedelta(minutes=60)
    until = utc_now().replace(minute=0, second=0, microsecond=0)
    minute = timedelta(minutes=1)
    simulate(
        settings.landing,
        events=events,
        users=scale.users,
        recipes=scale.recipes,
        days=minute / (24 * hour),
        until=until,
        seed=seed,
        file_lines=max(events // 20, 500),
    )
    cpu, read = time.process_time(), _bytes_read(_lake(pipeline))
    seconds = {}
    for step in STEPS:
        began = time.perf_counter()
        getattr(pipeline, step)()
        seconds[step] = time.perf_counter() - began
    if pipeline.pending() is not None:
        raise RuntimeError(f"{pipeline.pending()}: not all was one micro-batch")
    return seconds, time.process_time() - cpu, _bytes_read(_lake(pipeline)) - read


def _bytes_read(lake: DuckLakeWarehouse) -> int:
    """Read by this process so far: through the system, and from mapped files, the ids as if each were touched."""
    counts = Path("/proc/self/io")
    through_system = int(counts.read_text().split()[1]) if counts.exists() else 0
    return through_system + lake._state.bytes_read + lake._event_ids.bytes_read


def _figures(
    scale: Scale, taken: Sequence[dict[int, Taken]], catalogues: Sequence[float], *, is_real: bool
) -> tuple[list[Figure], list[Series]]:
    small, minute = scale.batches
    first, last = taken[0], taken[-1]
    span = f"{scale.histories[-1]:,} events of history against {scale.histories[0]:,}"
    figures = []
    for events, name in ((minute, "growth_ratio"), (small, "growth_ratio_small_batch")):
        ratio = last[events].total / first[events].total
        low, high = last[events].spread, first[events].spread
        slowest = max(STEPS, key=lambda step: last[events].seconds[step] - first[events].seconds[step])
        added = last[events].seconds[slowest] - first[events].seconds[slowest]
        note = f"a micro-batch of {events:,} events, {span}; most is added by {slowest}: {added:+.2f} s"
        spread = (low[0] / high[1], low[1] / high[0])
        figures.append(Figure(name, ratio, "ratio", spread, "<= 1.25" if is_real else None, note))
        cpu = last[events].cpu_seconds / first[events].cpu_seconds
        figures.append(Figure(f"{name}_cpu", cpu, "ratio", note="processor seconds of the same micro-batches"))
        read = last[events].bytes_read / max(first[events].bytes_read, 1.0)
        note = f"{last[events].bytes_read / 1e6:.1f} MB a micro-batch; 0 where the system does not count them"
        figures.append(
            Figure(name.replace("growth", "bytes"), read, "ratio", goal="<= 1.25" if is_real else None, note=note)
        )
    for history, measured in zip(scale.histories, taken, strict=True):
        steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in measured[minute].seconds.items())
        figures.append(
            Figure(f"microbatch_seconds_at_{history}", measured[minute].total, "s", measured[minute].spread, note=steps)
        )
    slope = np.polyfit(scale.histories, [measured[minute].total for measured in taken], 1)[0] * 100e6
    said = "" if is_real else "this size has too little history for a slope"
    figures.append(Figure("growth_slope", float(slope) if is_real else None, "s per 100 million events", note=said))
    figures.append(Figure("growth_catalogue", catalogues[-1], "MB", note=f"{catalogues[0]:.1f} MB at the smallest"))
    x = list(map(float, scale.histories))
    by_step = {step: [measured[minute].seconds[step] for measured in taken] for step in STEPS}
    megabytes = {
        f"{events:,} events": [measured[events].bytes_read / 1e6 for measured in taken] for events in scale.batches
    }
    return figures, [
        Series("seconds", "The same micro-batch at growing history", "events of history", "s", x, by_step),
        Series("bytes", "Bytes read by a micro-batch", "events of history", "MB", x, megabytes),
        Series("catalogue", "The lake's catalogue", "events of history", "MB", x, {"catalogue": catalogues}),
    ]


def _lake(pipeline: MicroBatchPipeline) -> DuckLakeWarehouse:
    assert isinstance(pipeline.warehouse, DuckLakeWarehouse)
    return pipeline.warehouse


def _recipe_ids(scale: Scale) -> Any:
    return arrow.array(list(make_recipes(scale.recipes).recipe_ids), pa.string())


def _drawn(values: Any, count: int, draw: np.random.Generator) -> Any:
    return values.take(arrow.array(draw.integers(0, len(values), count)))


def _each(value: object, count: int, kind: pa.DataType) -> Any:
    return arrow.repeat(arrow.scalar(value, kind), count)


def _lists_of(count: int, length: int, values: Any) -> Any:
    return arrow.ListArray.from_arrays(arrow.array(np.arange(count + 1, dtype=np.int32) * length), values)


def _moments(count: int) -> Any:
    now = int(utc_now().timestamp() * 1e6)
    return arrow.array(now - np.arange(count, dtype=np.int64) * 1_000).cast(pa.timestamp("us"))


def _behaviors(ids: Any, recipes: Any, draw: np.random.Generator) -> pa.Table:
    count = len(ids) * BEHAVIORS_A_USER
    words = arrow.array([None, None, None, "鶏むね肉"], pa.string())
    digits = draw.integers(0, 2**62, count)
    return pa.table(
        {
            "user_id": ids.take(arrow.array(np.repeat(np.arange(len(ids)), BEHAVIORS_A_USER))),
            "event_id": arrow.array([f"00000000-0000-4000-8000-{number % 2**48:012x}" for number in digits.tolist()]),
            "event_name": _drawn(arrow.array(["recipe_view", "search", "recipe_cooked"]), count, draw),
            "recipe_id": _drawn(recipes, count, draw),
            "detail": _drawn(words, count, draw),
            "occurred_at": _moments(count),
        }
    )


def _profiles(ids: Any, recipes: Any, draw: np.random.Generator) -> pa.Table:
    count, length = len(ids), 10
    columns = {"user_id": ids, "batch_id": _each(1, count, pa.int64()), "as_of": _moments(count)}
    for name in ("recipe_weights", "cooldowns", "recipe_ages", "recipe_counts", "recipe_daytimes"):
        columns[name] = _lists_of(count, length, arrow.array(draw.random(count * length)))
    actions = arrow.array(["viewed", "cooked"])
    columns["recipe_ids"] = _lists_of(count, length, _drawn(recipes, count * length, draw))
    columns["recipe_actions"] = _lists_of(count, length, _drawn(actions, count * length, draw))
    for name, weights in (("ingredients", "ingredient_weights"), ("tastes", "taste_weights")):
        columns[name] = _lists_of(count, 3, _drawn(arrow.array(["cabbage", "savings"]), count * 3, draw))
        columns[weights] = _lists_of(count, 3, arrow.array(draw.random(count * 3)))
    return pa.table(columns)


def _lists(ids: Any, recipes: Any, draw: np.random.Generator) -> pa.Table:
    count, length = len(ids), 20
    return pa.table(
        {
            "user_id": ids,
            "batch_id": _each(1, count, pa.int64()),
            "recipe_ids": _lists_of(count, length, _drawn(recipes, count * length, draw)),
            "scores": _lists_of(count, length, arrow.array(draw.random(count * length))),
            "reasons": _lists_of(
                count, length, _drawn(arrow.array(["popular", "viewed:r00012345"]), count * length, draw)
            ),
            "algorithm": _each("co_visitation", count, pa.string()),
            "content_hash": _each("d41d8cd98f00b204e9800998ecf8427e", count, pa.string()),
            "generated_at": _moments(count),
        }
    )


def _delivered(ids: Any) -> pa.Table:
    count = len(ids)
    return pa.table(
        {
            "user_id": ids,
            "version": _each(1, count, pa.int64()),
            "content_hash": _each("d41d8cd98f00b204e9800998ecf8427e", count, pa.string()),
            "is_tombstone": _each(False, count, pa.bool_()),
            "delivered_at": _moments(count),
        }
    )
