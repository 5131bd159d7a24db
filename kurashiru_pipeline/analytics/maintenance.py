"""Daily upkeep: small files, old snapshots, old model versions, what runs of dbt and of Dagster left behind.

Here: what may be thrown away, and the assets that show what was.
Not here: how an engine does it (ducklake.py, snowflake.py), how long runs are kept (runtime/history.py), and the
near-real-time lake (realtime/maintenance.py).
"""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg

from kurashiru_pipeline import catalog
from kurashiru_pipeline.analytics.prepare import RUNS_FOLDER
from kurashiru_pipeline.analytics.warehouse import POOL, AnalyticsWarehouse
from kurashiru_pipeline.catalog import Group, Owner
from kurashiru_pipeline.runtime.history import DELETED_AT_ONCE, delete_old_runs
from kurashiru_pipeline.runtime.upkeep import check_spec, upkeep_results, upkeep_spec

KEPT_RUNS = 24


@dg.multi_asset(
    specs=[
        upkeep_spec(
            catalog.ANALYTICS_UPKEEP,
            "Upkeep of the lake that dbt writes: files merged, snapshots of more than a day expired, what nothing "
            "needs removed.",
            kinds={"ducklake"},
        )
    ],
    check_specs=[check_spec(catalog.ANALYTICS_UPKEEP)],
    pool=POOL,
)
def analytics_upkeep(context: dg.AssetExecutionContext, warehouse: AnalyticsWarehouse) -> Iterator[Any]:
    """Maintain the analytics lake, between two builds of dbt."""

    def say(holder: str) -> None:
        context.log.info(f"waiting for the analytics lake: {holder} is writing")

    yield from upkeep_results(
        catalog.ANALYTICS_UPKEEP, lambda: warehouse.maintain(on_wait=say, on_progress=context.log.debug)
    )


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            dg.AssetKey(catalog.RUN_HISTORY),
            description="What runs leave behind, as far as it is kept: model versions that are not in service, logs of "
            "dbt, Dagster's runs with their events. Grain: one materialisation per upkeep.",
            group_name=Group.OPERATIONS.value,
            owners=[Owner.DATA_PLATFORM.value],
            kinds={"dagster"},
        )
    ],
    check_specs=[
        dg.AssetCheckSpec(
            "history_bounded", asset=dg.AssetKey(catalog.RUN_HISTORY), description="No run is left that is too old."
        )
    ],
    pool=POOL,
)
def run_history(context: dg.AssetExecutionContext, warehouse: AnalyticsWarehouse) -> Iterator[Any]:
    """Keep the newest model versions and those of use, the logs of the newest dbt runs, and Dagster's newest runs."""
    versions = warehouse.remove_old_versions()
    logs = old_runs(warehouse.settings().home / RUNS_FOLDER)
    for folder in logs:
        shutil.rmtree(folder)
    key = dg.AssetKey(catalog.RUN_HISTORY)
    runs = delete_old_runs(context.instance)
    figures = {"model_versions_removed": len(versions), "dbt_logs_removed": len(logs), "runs_removed": runs}
    yield dg.MaterializeResult(asset_key=key, metadata=figures | {"runs_kept": context.instance.get_runs_count()})
    yield dg.AssetCheckResult(
        asset_key=key,
        check_name="history_bounded",
        passed=runs < DELETED_AT_ONCE,
        severity=dg.AssetCheckSeverity.WARN,
        description=None if runs < DELETED_AT_ONCE else "more old runs are left than are deleted at once: run it again",
        metadata={"runs_removed": runs},
    )


def old_runs(runs: Path) -> list[Path]:
    """Target folders of dbt runs that are not among the newest."""
    return sorted(runs.glob("*/"), key=lambda folder: folder.stat().st_mtime)[:-KEPT_RUNS]


analytics_maintenance = dg.define_asset_job(
    "analytics_maintenance",
    selection=dg.AssetSelection.assets(analytics_upkeep, run_history),
    executor_def=dg.in_process_executor,
    description="Daily upkeep of what analytics and Dagster write.",
)
