"""The hourly dbt build over one hour of events, with a little and with ten times as much history behind it.

Here: history written into the near-real-time lake by SQL, dbt as the schedule starts it. Not here: the near-real-time
steps (micro_batch.py, growth.py).
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from benchmarks.figures import Context, Figure, Outcome, Series, Size, median_and_spread
from benchmarks.load import open_pipeline, settings_of, this_hour
from kurashiru_pipeline.environment import PROJECT_ROOT, Settings
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.warehouse import ducklake

TITLE = "incremental hourly dbt build at growing history"

_NOWHERE = "http://127.0.0.1:9"  # nothing is delivered here
_EVENTS = """
    insert into realtime.staging.behavior_events
    with people as (select user_id, row_number() over (order by user_id) - 1 as number from realtime.staging.users),
    dishes as (select recipe_id, row_number() over (order by recipe_id) - 1 as number from realtime.staging.recipes),
    drawn as (
        select
            number,
            cast(md5(concat('benchmark', $since, number)) as uuid) as event_id,
            hash($since, number, 'user') % (select count(*) from people) as person,
            pow(hash($since, number, 'recipe') % 1000000 / 1e6, 3) as popularity,
            hash($since, number, 'name') % 100 as kind,
            $since + to_microseconds(cast(number * $microseconds / $count as bigint)) as occurred_at
        from range($count) as drawing (number)
    )
    select
        event_id,
        case
            when kind < 45 then 'recipe_impression' when kind < 80 then 'recipe_view' when kind < 86 then 'search'
            when kind < 92 then 'recipe_favorite' when kind < 96 then 'shopping_list_add' else 'recipe_cooked'
        end,
        user_id,
        concat('s', person, '-', date_trunc('hour', occurred_at)),
        case when kind between 80 and 85 then null else recipe_id end,
        occurred_at,
        'ios',
        '12.4.0',
        case when kind between 80 and 85 then '{"query": "tofu"}' end,
        $batch_id,
        occurred_at + interval 10 seconds,
        occurred_at + interval 12 seconds
    from drawn
    inner join people on drawn.person = people.number
    inner join dishes on cast(floor(drawn.popularity * (select count(*) from dishes)) as bigint) = dishes.number
"""


@dataclass(frozen=True)
class Scale:
    """Events a day, users, and days of history at each measurement, with how many hourly builds there.

    Without hourly builds the first one, of the whole history, stands for them.
    """

    day_events: int
    users: int
    recipes: int
    days: tuple[int, ...]
    builds: int


SCALES = {
    Size.SMALL: Scale(10_000, 500, 500, (1,), 0),
    Size.MEDIUM: Scale(100_000, 20_000, 10_000, (8, 80), 2),
    Size.FULL: Scale(300_000, 50_000, 20_000, (8, 24, 80), 5),
}


@dataclass(frozen=True)
class Build:
    """Wall seconds of a build from start to end of its process, and seconds that dbt spent in its nodes."""

    seconds: float
    node_seconds: float


def run(context: Context) -> Outcome:
    scale = SCALES[context.size]
    settings = settings_of(context.folder / "home", _NOWHERE)
    begin = this_hour() - timedelta(days=max(scale.days), hours=scale.builds * len(scale.days))
    steps, done = len(scale.days) * (scale.builds + 1), 0
    context.progress(0.0, "recipes and users")
    simulate(settings.landing, events=1, users=scale.users, recipes=scale.recipes, days=1, until=begin)
    with open_pipeline(settings) as pipeline:
        pipeline.load()
    (settings.folder("KURASHIRU_LAKE") / "analytics" / "data").mkdir(parents=True)
    built, now, batch = {}, begin, 0
    for days in scale.days:
        context.progress(done / steps, f"history of {days} days")
        while now < begin + timedelta(days=days):
            batch += 1
            _write(settings, now, timedelta(days=1), scale.day_events, batch)
            now += timedelta(days=1)
        first = _build(settings, context.folder / "dbt")
        measured = [] if scale.builds else [first]
        for _ in range(scale.builds):
            done += 1
            context.progress(done / steps, f"an hour more, after {days} days")
            batch += 1
            _write(settings, now, timedelta(hours=1), scale.day_events // 24, batch)
            now += timedelta(hours=1)
            measured.append(_build(settings, context.folder / "dbt"))
        done += 1
        built[days] = measured
    return _outcome(scale, built)


def _write(settings: Settings, since: datetime, length: timedelta, count: int, batch_id: int) -> None:
    given = {
        "since": since,
        "count": count,
        "microseconds": length // timedelta(microseconds=1),
        "batch_id": batch_id,
    }
    with ducklake.connect() as connection:
        lake = settings.folder("KURASHIRU_LAKE") / ducklake.ALIAS
        ducklake.attach(connection, lake, ducklake.ALIAS, read_only=False)
        connection.execute(_EVENTS, given)


def _build(settings: Settings, target: Path) -> Build:
    """Run dbt as the hourly job does.

    Raises:
        RuntimeError: a model or a test failed; the log has dbt's own words.
    """
    project = PROJECT_ROOT / "dbt_project"
    command = [str(Path(sys.executable).with_name("dbt")), "build", "--exclude-resource-type", "unit_test"]
    command += ["--project-dir", str(project), "--profiles-dir", str(project), "--target", "ducklake"]
    command += ["--target-path", str(target), "--log-path", str(target)]
    variables = {
        "KURASHIRU_LAKE": str(settings.folder("KURASHIRU_LAKE")),
        "KURASHIRU_RECENT_BEHAVIORS": settings.text("KURASHIRU_RECENT_BEHAVIORS"),
    }
    began = time.monotonic()
    status = subprocess.run(command, env={**os.environ, **variables}, check=False).returncode
    seconds = time.monotonic() - began
    if status:
        raise RuntimeError(f"dbt build failed with exit status {status}")
    results = json.loads((target / "run_results.json").read_bytes())["results"]
    return Build(seconds, sum(result["execution_time"] for result in results))


def _outcome(scale: Scale, built: dict[int, list[Build]]) -> Outcome:
    figures, medians = [], {}
    for days, builds in built.items():
        median, spread = median_and_spread([build.seconds for build in builds])
        nodes, _ = median_and_spread([build.node_seconds for build in builds])
        medians[days] = median, nodes
        note = (
            f"{days * scale.day_events:,} events before it; {nodes:.1f} s in models and tests, the rest is dbt's start"
        )
        figures.append(Figure(f"dbt_hourly_{days}_days_seconds", median, "s", spread, note=note))
    (first, first_nodes), (last, last_nodes) = medians[scale.days[0]], medians[scale.days[-1]]
    if len(scale.days) > 1:
        times = scale.days[-1] // scale.days[0]
        note = f"{times} times the history; models and tests alone: {last_nodes / first_nodes:.2f}"
        figures.append(Figure("dbt_growth_ratio", last / first, "x", note=note))
    else:
        figures.append(Figure("dbt_growth_ratio", None, "x", note="this size has one length of history only"))
    series = Series(
        "hourly",
        "Hourly dbt build over growing history",
        "million events of history",
        "seconds",
        [days * scale.day_events / 1e6 for days in medians],
        {
            "whole build": [seconds for seconds, _ in medians.values()],
            "models and tests": [nodes for _, nodes in medians.values()],
        },
    )
    return Outcome(figures, [series])
