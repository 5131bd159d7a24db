"""Observing what the warehouse loads by itself: Snowpipe's files, latency and failures on raw/behavior_events.

Here: the observation, its check and its job, where the environment's warehouse has such a loader.
Not here: loading (Snowpipe does it) or mending a failed file (docs/operations.md).
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg

from kurashiru_pipeline import catalog
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.quality import freshness
from kurashiru_pipeline.realtime import checks
from kurashiru_pipeline.realtime.assets import RAW_SPEC
from kurashiru_pipeline.warehouse.base import Warehouse

WINDOW = timedelta(hours=1)
_CHECK = checks.spec(
    catalog.RAW_BEHAVIOR_EVENTS, "files_loaded", "Snowpipe runs, loaded every file it met, and none waits long."
)


def observe(reader: Warehouse) -> Iterator[Any]:
    """What was loaded in the last hour, and what waits. Wakes no warehouse when nothing was loaded."""
    now = utc_now()
    report = reader.ingestion(now - WINDOW)
    if report is None:
        message = f"the engine {reader.engine} has no loader of its own to observe"
        raise dg.Failure(message)
    seconds, lines = zip(*report.delays, strict=True) if report.delays else ((), ())
    delay = freshness(seconds, lines)
    waiting = (now - report.oldest_pending_at).total_seconds() if report.oldest_pending_at else 0.0
    metadata: dict[str, Any] = {
        "dagster/row_count": report.row_count,
        "window_minutes": int(WINDOW.total_seconds() // 60),
        "pipe_state": report.state,
        "pending_files": report.pending_count,
        "oldest_pending_seconds": round(waiting, 1),
        **{f"{status}_files": count for status, count in report.files.items()},
    }
    if delay.p50 is not None and delay.p95 is not None:
        metadata |= {"load_p50_seconds": round(delay.p50, 3), "load_p95_seconds": round(delay.p95, 3)}
    yield dg.ObserveResult(asset_key=dg.AssetKey(catalog.RAW_BEHAVIOR_EVENTS), metadata=metadata)
    yield checks.files_loaded(report, waiting)


def build_observation(*, is_running: bool) -> tuple[dg.AssetsDefinition, Any, dg.ScheduleDefinition]:
    """The observed asset, its job, and the job's schedule: every quarter of an hour."""

    @dg.multi_observable_source_asset(specs=[RAW_SPEC], check_specs=[_CHECK])  # type: ignore[untyped-decorator]
    def observe_ingestion(reader: dg.ResourceParam[Warehouse]) -> Iterator[Any]:
        yield from observe(reader)

    job = dg.define_asset_job(
        "observe_ingestion_job",
        selection=dg.AssetSelection.assets(dg.AssetKey(catalog.RAW_BEHAVIOR_EVENTS)),
        executor_def=dg.in_process_executor,
        description="Look at what Snowpipe loaded, and what it did not.",
    )
    status = dg.DefaultScheduleStatus.RUNNING if is_running else dg.DefaultScheduleStatus.STOPPED
    schedule = dg.ScheduleDefinition(job=job, cron_schedule="3,18,33,48 * * * *", default_status=status)
    return observe_ingestion, job, schedule
