"""Upkeep of the near-real-time lake as an asset, and the schedules of this location.

Here: the asset and its job, when it runs and when that would be for nothing; when the whole table is reconciled.
Not here: how an engine does it (warehouse/), what is shown of it (runtime/upkeep.py).
"""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from kurashiru_pipeline import catalog
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import TransientError
from kurashiru_pipeline.realtime.assets import Pipeline, reconcile
from kurashiru_pipeline.runtime.upkeep import check_spec, upkeep_results, upkeep_spec
from kurashiru_pipeline.warehouse import open_warehouse


@dg.multi_asset(
    specs=[
        upkeep_spec(
            catalog.REALTIME_UPKEEP,
            "Upkeep of the near-real-time lake: files merged, snapshots expired, what is not needed removed; in pieces "
            "between which a micro-batch goes first. What a stream has not read is never touched.",
            kinds={"ducklake"},
        )
    ],
    check_specs=[check_spec(catalog.REALTIME_UPKEEP)],
)
def realtime_upkeep(context: dg.AssetExecutionContext, pipeline: Pipeline) -> Iterator[Any]:
    """Maintain the lake beside running micro-batches."""
    yield from upkeep_results(
        catalog.REALTIME_UPKEEP, lambda: pipeline.warehouse.maintain(on_progress=context.log.debug)
    )


maintenance_job = dg.define_asset_job(
    catalog.MAINTENANCE_JOB,
    selection=dg.AssetSelection.assets(realtime_upkeep),
    executor_def=dg.in_process_executor,
    description="Upkeep of the near-real-time lake.",
)


def build_schedules(settings: Callable[[], Settings], *, is_running: bool) -> list[dg.ScheduleDefinition]:
    """Upkeep every ten minutes, where anything was written; reconciliation with DynamoDB every hour.

    Args:
        settings: read at a tick, so that loading definitions needs nothing.
    """
    status = dg.DefaultScheduleStatus.RUNNING if is_running else dg.DefaultScheduleStatus.STOPPED
    reconcile_job = dg.define_asset_job(
        "reconcile_job",
        selection=dg.AssetSelection.checks(reconcile),
        executor_def=dg.in_process_executor,
        description="Compare the whole DynamoDB table with what was delivered.",
    )

    @dg.schedule(
        name=f"{catalog.MAINTENANCE_JOB}_schedule",
        job=maintenance_job,
        cron_schedule="3-53/10 * * * *",
        default_status=status,
        description="Upkeep of the near-real-time lake; no process is started while nobody writes.",
    )
    def maintenance_schedule() -> dg.RunRequest | dg.SkipReason:
        try:
            with open_warehouse(settings(), read_only=True) as warehouse:
                state = warehouse.upkeep_state()
        except TransientError as error:
            return dg.SkipReason(f"transient: {error}")
        if state is not None and not state.is_due:
            return dg.SkipReason("nothing was written since the last upkeep")
        return dg.RunRequest()

    return [
        maintenance_schedule,
        dg.ScheduleDefinition(job=reconcile_job, cron_schedule="17 * * * *", default_status=status),
    ]
