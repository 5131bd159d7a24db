"""Upkeep of what analytics writes: small files, old snapshots, old model versions, what dbt runs left behind.

Here: what may be thrown away, and when.
Not here: the near-real-time lake, whose streams need its snapshots (warehouse/ducklake.py).
"""

import shutil
from pathlib import Path

import dagster as dg

from kurashiru_pipeline.analytics.lake import ALIAS, POOL, AnalyticsLake
from kurashiru_pipeline.analytics.prepare import RUNS_FOLDER
from kurashiru_pipeline.core.artifact import MANIFEST, promoted_version
from kurashiru_pipeline.warehouse.ducklake import one_thread

SNAPSHOT_HOURS = 24
KEPT_VERSIONS = 24
KEPT_RUNS = 24


@dg.op(pool=POOL)
def maintain_lake(context: dg.OpExecutionContext, lake: AnalyticsLake) -> None:
    """Merge small files; drop snapshots older than a day and the files that nothing else needs."""
    with lake.writing(context.log), lake.connection(read_only=False) as connection, one_thread(connection):
        for statement in (
            f"call ducklake_flush_inlined_data('{ALIAS}')",
            f"call ducklake_merge_adjacent_files('{ALIAS}')",
            f"call ducklake_expire_snapshots('{ALIAS}', older_than => now() - interval {SNAPSHOT_HOURS} hours)",
            f"call ducklake_cleanup_old_files('{ALIAS}', older_than => now() - interval {SNAPSHOT_HOURS} hours)",
            f"call ducklake_delete_orphaned_files('{ALIAS}', older_than => now() - interval {SNAPSHOT_HOURS} hours)",
        ):
            connection.execute(statement)


@dg.op(pool=POOL)
def remove_old_folders(context: dg.OpExecutionContext, lake: AnalyticsLake) -> None:
    """Keep the newest model versions, the one in service, and the logs of the newest dbt runs."""
    settings = lake.settings()
    removed = [*old_versions(settings.folder("KURASHIRU_MODELS")), *old_runs(settings.home / RUNS_FOLDER)]
    for folder in removed:
        shutil.rmtree(folder)
    context.log.info(f"removed {len(removed)} folders")


def old_versions(models: Path) -> list[Path]:
    """Folders of versions that are neither in service nor among the newest; a version's name begins with its time."""
    versions = sorted(manifest.parent for manifest in models.glob(f"[!.]*/{MANIFEST}"))
    in_service = promoted_version(models)
    return [folder for folder in versions[:-KEPT_VERSIONS] if folder.name != in_service]


def old_runs(runs: Path) -> list[Path]:
    """Target folders of dbt runs that are not among the newest."""
    return sorted(runs.glob("*/"), key=lambda folder: folder.stat().st_mtime)[:-KEPT_RUNS]


@dg.job(executor_def=dg.in_process_executor, description="Daily upkeep of what analytics writes.")
def analytics_maintenance() -> None:
    maintain_lake()
    remove_old_folders()
