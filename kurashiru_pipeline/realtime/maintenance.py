"""Upkeep of the near-real-time lake as a scheduled job.

Here: merging small files and expiring snapshots no stream needs, and the whole-table reconcile check.
Not here: how an engine does it (warehouse/).
"""

import dagster as dg

from kurashiru_pipeline.realtime.assets import Pipeline, reconcile


@dg.op(description="Merge small files and expire snapshots that no stream needs; never touches unread changes.")
def maintain_lake(context: dg.OpExecutionContext, pipeline: Pipeline) -> None:
    report = pipeline.warehouse.maintain()
    context.add_output_metadata(dict(report.__dict__))


@dg.job(executor_def=dg.in_process_executor, description="Upkeep of the near-real-time lake.")
def maintenance_job() -> None:
    maintain_lake()


def build_schedules(*, is_running: bool) -> list[dg.ScheduleDefinition]:
    """Upkeep every half hour; reconciliation with DynamoDB every hour."""
    status = dg.DefaultScheduleStatus.RUNNING if is_running else dg.DefaultScheduleStatus.STOPPED
    reconcile_job = dg.define_asset_job(
        "reconcile_job",
        selection=dg.AssetSelection.checks(reconcile),
        executor_def=dg.in_process_executor,
        description="Compare the whole DynamoDB table with what was delivered.",
    )
    return [
        dg.ScheduleDefinition(job=maintenance_job, cron_schedule="7,37 * * * *", default_status=status),
        dg.ScheduleDefinition(job=reconcile_job, cron_schedule="17 * * * *", default_status=status),
    ]
