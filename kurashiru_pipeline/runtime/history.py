"""How long the history of runs is kept; Dagster itself only purges ticks.

Here: which runs are old, and deleting them with their events and checks.
Not here: ticks (`retention` in dagster.yaml), or when this is done (the analytics location's maintenance job).
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage

from kurashiru_pipeline.catalog import MAINTENANCE_JOB, MICRO_BATCH_JOB

# A micro-batch a second is a million events a day; what they did stays in the warehouse's ledger.
KEPT_DAYS: Mapping[str | None, int] = {MICRO_BATCH_JOB: 3, MAINTENANCE_JOB: 14, None: 90}
DELETED_AT_ONCE = 20_000
_PAGE = 200


def delete_old_runs(
    instance: dg.DagsterInstance, *, now: datetime | None = None, at_most: int = DELETED_AT_ONCE
) -> int:
    """Delete finished runs that are older than KEPT_DAYS of their job (None: of any job).

    Args:
        at_most: stop after so many runs; the next call goes on.

    Returns:
        How many runs were deleted.
    """
    moment = now or datetime.now(UTC)
    deleted = 0
    for job_name, days in KEPT_DAYS.items():
        old = dg.RunsFilter(
            job_name=job_name, statuses=list(FINISHED_STATUSES), created_before=moment - timedelta(days=days)
        )
        while deleted < at_most and (runs := instance.get_runs(old, limit=min(_PAGE, at_most - deleted))):
            for run in runs:
                instance.delete_run(run.run_id)
            _delete_check_executions(instance, [run.run_id for run in runs])
            deleted += len(runs)
    return deleted


def _delete_check_executions(instance: dg.DagsterInstance, run_ids: list[str]) -> None:
    """Dagster leaves these behind: a row for every check of every run."""
    storage = instance.event_log_storage
    if isinstance(storage, SqlEventLogStorage):
        with storage.index_connection() as connection:
            table = AssetCheckExecutionsTable
            connection.execute(table.delete().where(table.c.run_id.in_(run_ids)))
