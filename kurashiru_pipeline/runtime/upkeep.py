"""Upkeep as Dagster shows it: the asset's spec, what it materialises, its check, and whether it is worth a run.

Here: what both code locations have in common.
Not here: upkeep itself (warehouse/, analytics/), or when it is scheduled (realtime/maintenance.py,
analytics/maintenance.py).
"""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from kurashiru_pipeline import catalog
from kurashiru_pipeline.catalog import Group, Owner
from kurashiru_pipeline.warehouse.base import MaintenanceReport, storage_findings

CHECK = "storage_is_small"


def upkeep_spec(key: catalog.Key, description: str, *, kinds: set[str]) -> dg.AssetSpec:
    """Spec of the asset that stands for the upkeep of a lake."""
    return dg.AssetSpec(
        key=dg.AssetKey(key),
        description=f"{description} Grain: one materialisation per upkeep.",
        group_name=Group.OPERATIONS.value,
        owners=[Owner.DATA_PLATFORM.value],
        kinds=kinds,
    )


def check_spec(key: catalog.Key) -> dg.AssetCheckSpec:
    """Declaration of the check that `upkeep_results` evaluates."""
    description = "Few enough snapshots and files that looking through them costs a query next to nothing."
    return dg.AssetCheckSpec(name=CHECK, asset=dg.AssetKey(key), description=description)


def upkeep_results(
    key: catalog.Key, maintain: Callable[[], MaintenanceReport | None]
) -> Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]:
    """Maintain, and say what it came to.

    Args:
        maintain: None: the engine keeps its storage in order by itself.
    """
    report = maintain()
    yield dg.MaterializeResult(asset_key=dg.AssetKey(key), metadata={} if report is None else _metadata(report))
    findings = [] if report is None else storage_findings(report.snapshots_after, report.files_after)
    yield dg.AssetCheckResult(
        passed=not findings,
        asset_key=dg.AssetKey(key),
        check_name=CHECK,
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(findings) or None,
        metadata={} if report is None else {"snapshots": report.snapshots_after, "files": report.files_after},
    )


def _metadata(report: MaintenanceReport) -> dict[str, Any]:
    """Every figure by its name, and a table of the tables whose files changed."""
    figures = {
        name: round(value, 3) if isinstance(value, float) else value
        for name, value in report.__dict__.items()
        if name != "tables"
    }
    changed = [table for table in report.tables if table.files_before != table.files_after]
    lines = ["| table | files | | bytes | |", "|---|--:|--:|--:|--:|"]
    lines += [
        f"| {table.table} | {table.files_before:,} | {table.files_after:,} "
        f"| {table.bytes_before:,} | {table.bytes_after:,} |"
        for table in changed
    ]
    return figures | {
        "bytes_reclaimed": report.bytes_before - report.bytes_after,
        "tables": dg.MetadataValue.md("\n".join(lines)),
    }
