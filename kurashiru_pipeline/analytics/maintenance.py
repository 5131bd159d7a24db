"""Daily upkeep: small files, old snapshots, old model versions, what runs of dbt and of Dagster left behind.

Here: what may be thrown away, and when.
Not here: how an engine does it (ducklake.py, snowflake.py), how long runs are kept (runtime/history.py), and the
near-real-time lake (warehouse/ducklake.py).
"""

import shutil
from pathlib import Path

import dagster as dg

from kurashiru_pipeline.analytics.prepare import RUNS_FOLDER
from kurashiru_pipeline.analytics.warehouse import POOL, AnalyticsWarehouse
from kurashiru_pipeline.runtime.history import delete_old_runs

KEPT_RUNS = 24


@dg.op(pool=POOL)
def maintain_marts(context: dg.OpExecutionContext, warehouse: AnalyticsWarehouse) -> None:
    """Upkeep of the storage that the engine does not do by itself."""
    with warehouse.writing(context.log):
        warehouse.maintain()


@dg.op(pool=POOL)
def remove_old_versions_and_runs(context: dg.OpExecutionContext, warehouse: AnalyticsWarehouse) -> None:
    """Keep the newest model versions, the one in service, and the logs of the newest dbt runs."""
    versions = warehouse.remove_old_versions()
    runs = old_runs(warehouse.settings().home / RUNS_FOLDER)
    for folder in runs:
        shutil.rmtree(folder)
    context.log.info(f"removed {len(versions)} model versions and {len(runs)} logs of dbt")


@dg.op
def remove_old_run_history(context: dg.OpExecutionContext) -> None:
    """Delete Dagster's runs that are older than their job keeps them."""
    context.log.info(f"removed {delete_old_runs(context.instance)} runs")


def old_runs(runs: Path) -> list[Path]:
    """Target folders of dbt runs that are not among the newest."""
    return sorted(runs.glob("*/"), key=lambda folder: folder.stat().st_mtime)[:-KEPT_RUNS]


@dg.job(executor_def=dg.in_process_executor, description="Daily upkeep of what analytics and Dagster write.")
def analytics_maintenance() -> None:
    maintain_marts()
    remove_old_versions_and_runs()
    remove_old_run_history()
