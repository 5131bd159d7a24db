"""Asset checks of the near-real-time location.

Here: the names of the checks, and pure functions from what a step did to a check's result.
Not here: reading anything (reports.py hands it over), or when a check is evaluated; a check never changes state.
"""

import math
from collections.abc import Mapping
from datetime import datetime
from typing import TypeAlias

import dagster as dg

from kurashiru_pipeline import catalog
from kurashiru_pipeline.core.backlog import Lag
from kurashiru_pipeline.core.quality import Freshness
from kurashiru_pipeline.realtime.ledger import Delivery
from kurashiru_pipeline.realtime.micro_batch import Accounting, StepResult
from kurashiru_pipeline.sources.breaker import State
from kurashiru_pipeline.warehouse.base import IngestionReport, LoadReport, StreamStatus

Figures: TypeAlias = Mapping[str, int | float | str]

_LONGEST_WAIT_SECONDS = 600


def spec(key: catalog.Key, name: str, description: str, *, is_blocking: bool = False) -> dg.AssetCheckSpec:
    """Declaration of a check that the asset's own step evaluates."""
    return dg.AssetCheckSpec(name=name, asset=dg.AssetKey(key), description=description, blocking=is_blocking)


def result(
    key: catalog.Key,
    name: str,
    *,
    passed: bool,
    description: str = "",
    figures: Figures | None = None,
    is_warning: bool = False,
) -> dg.AssetCheckResult:
    """Result of a check; `is_warning` marks one that should be looked at but stops nothing."""
    return dg.AssetCheckResult(
        passed=passed,
        asset_key=dg.AssetKey(key),
        check_name=name,
        severity=dg.AssetCheckSeverity.WARN if is_warning else dg.AssetCheckSeverity.ERROR,
        description=description or None,
        metadata=dict(figures or {}),
    )


def nothing_to_do(key: dg.AssetCheckKey) -> dg.AssetCheckResult:
    """Result of a check in a run that had nothing to judge by it."""
    return dg.AssetCheckResult(
        passed=True, asset_key=key.asset_key, check_name=key.name, description="no micro-batch to judge"
    )


def files_readable(report: LoadReport) -> dg.AssetCheckResult:
    """Files that could not be read are recorded and stop nothing, but somebody should look."""
    return result(
        catalog.RAW_BEHAVIOR_EVENTS,
        "files_readable",
        passed=not report.failed,
        is_warning=True,
        description="; ".join(f"{name}: {error}" for name, error in report.failed[:5]),
        figures={"failed_files": len(report.failed), "files_put_again": len(report.ignored)},
    )


def files_loaded(report: IngestionReport, waiting_seconds: float) -> dg.AssetCheckResult:
    """The loader runs, loaded every file it met, and no file waits long; a file it failed is not tried again."""
    findings = [f"{name}: {error}" for name, error in report.failed[:5]]
    if report.state != "RUNNING":
        findings.append(f"the pipe is {report.state}: kurashiru doctor")
    if waiting_seconds > _LONGEST_WAIT_SECONDS:
        findings.append(f"a file has waited for {waiting_seconds:.0f} s")
    return result(
        catalog.RAW_BEHAVIOR_EVENTS,
        "files_loaded",
        passed=not findings,
        description="; ".join(findings),
        figures={"failed_files": len(report.failed), "pending_files": report.pending_count, "state": report.state},
    )


def unique_ids(key: catalog.Key, row_count: int, id_count: int) -> dg.AssetCheckResult:
    """An upserted table has one row an id."""
    return result(
        key, "ids_unique", passed=row_count == id_count, figures={"rows": row_count, "distinct_ids": id_count}
    )


def accounting(batch: Accounting) -> dg.AssetCheckResult:
    """Every line read is staged, a duplicate, or rejected."""
    return result(
        catalog.STAGED_BEHAVIOR_EVENTS,
        "accounting",
        passed=batch.is_balanced,
        figures={
            "read": batch.read_count,
            "staged": batch.staged_count,
            "duplicates": batch.duplicate_count,
            "rejected": batch.rejected_count,
        },
    )


def stream_not_stale(status: StreamStatus) -> dg.AssetCheckResult:
    """The stream can still read everything it has not read."""
    return result(
        catalog.STAGED_BEHAVIOR_EVENTS,
        "stream_not_stale",
        passed=not status.is_stale,
        description=f"mend it with: kurashiru reset-stream {status.name}" if status.is_stale else "",
        figures=_known({"offset": status.offset, "latest": status.latest, "stale_after": status.stale_after}),
    )


def _known(figures: Mapping[str, int | datetime | None]) -> Figures:
    """Those an engine gives; a moment as ISO text."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in figures.items()
        if value is not None
    }


def keeps_up(behind: Lag, limit_seconds: int) -> dg.AssetCheckResult:
    """What had to be left behind is not older than the limit; how long it will take to catch up."""
    rates = {"arriving_per_second": behind.rates.arrival, "processed_per_second": behind.rates.processing}
    figures: dict[str, int | float | str] = {"seconds_behind": round(behind.seconds, 1), "limit_seconds": limit_seconds}
    figures |= {} if behind.lines is None else {"lines_behind": behind.lines}
    figures |= {name: round(rate, 1) for name, rate in rates.items() if rate is not None}
    is_late = behind.seconds > limit_seconds
    return result(
        catalog.STAGED_BEHAVIOR_EVENTS,
        "keeps_up",
        passed=not is_late,
        is_warning=True,
        description=f"the oldest line has waited {behind.seconds:.0f} s; caught up {in_words(behind)}"
        if is_late
        else "",
        figures=figures,
    )


def in_words(behind: Lag) -> str:
    """When nothing will wait any more."""
    if behind.catch_up_seconds is None:
        return "at a time not known yet"
    if math.isinf(behind.catch_up_seconds):
        return "never: more arrives than is processed"
    return f"in about {behind.catch_up_seconds:.0f} s"


def reject_rate(batch: Accounting, limit_pct: int) -> dg.AssetCheckResult:
    """A sudden share of rejected lines means that a producer changed."""
    rate_pct = 100 * batch.rejected_count / max(batch.read_count, 1)
    return result(
        catalog.REJECTED_EVENTS,
        "reject_rate",
        passed=rate_pct <= limit_pct,
        is_warning=True,
        figures={"rejected_pct": round(rate_pct, 3), "limit_pct": limit_pct},
    )


def at_most(key: catalog.Key, name: str, value: int, limit: int) -> dg.AssetCheckResult:
    """A figure that must not exceed a limit."""
    return result(key, name, passed=value <= limit, figures={"value": value, "limit": limit})


def lists_are_whole(step: StepResult) -> dg.AssetCheckResult:
    """Every user got a list, none names a recipe twice; an empty one is worth a look (is the catalogue loaded?)."""
    is_only_empty = step.figures["repeated_recipes"] == 0 and not step.failed
    return result(
        catalog.RECOMMENDATIONS,
        "lists_are_whole",
        passed=is_only_empty and step.figures["empty_lists"] == 0,
        is_warning=is_only_empty,
        description="; ".join(f"{user_id}: {error}" for user_id, error in step.failed[:5]),
        figures={**step.figures, "failed_users": len(step.failed)},
    )


def arms_have_their_share(step: StepResult) -> dg.AssetCheckResult:
    """Users of the challenger are drawn with its share; five standard deviations off is no chance."""
    if step.ranked_by is None or step.ranked_by.canary is None:
        return result(catalog.BATCH_MODELS, "arms_have_their_share", passed=True, description="no canary is running")
    share, users, challengers = step.ranked_by.canary.share, step.figures["users"], step.figures["challenger_users"]
    deviation = abs(challengers - share * users) / max((users * share * (1 - share)) ** 0.5, 1.0)
    return result(
        catalog.BATCH_MODELS,
        "arms_have_their_share",
        passed=deviation <= 5,
        is_warning=True,
        figures={"users": users, "challenger_users": challengers, "share": share},
    )


def external_source_answers(step: StepResult) -> dg.AssetCheckResult:
    """The external source, where there is one, is not left alone; lists are made without it meanwhile."""
    external = step.external
    if external is None:
        return result(catalog.RECOMMENDATIONS, "external_source_answers", passed=True, description="none was asked")
    is_closed = external.state is State.CLOSED
    error = external.suggestions.error
    return result(
        catalog.RECOMMENDATIONS,
        "external_source_answers",
        passed=is_closed,
        is_warning=True,
        description=error or ("" if is_closed else "why is in ops.external_calls"),
        figures=external.figures,
    )


def freshness_within(batch: Freshness, limit_seconds: int) -> dg.AssetCheckResult:
    """Landed file -> item readable, p95 of the micro-batch's lines."""
    late = 0.0 if batch.p95 is None else batch.p95
    return result(
        catalog.DYNAMODB_RECOMMENDATIONS,
        "freshness",
        passed=late <= limit_seconds,
        is_warning=True,
        figures={"p95_seconds": round(late, 3), "limit_seconds": limit_seconds},
    )


def items_accepted(delivery: Delivery) -> dg.AssetCheckResult:
    """An item that DynamoDB refuses is left out, so that it cannot hold up the others."""
    return result(
        catalog.DYNAMODB_RECOMMENDATIONS,
        "items_accepted",
        passed=not delivery.refused,
        description="; ".join(f"{user_id}: {error}" for user_id, error in delivery.refused[:5]),
        figures={"refused": len(delivery.refused)},
    )


def reconcile(key: catalog.Key, name: str, compared: int, differing: list[str]) -> dg.AssetCheckResult:
    """DynamoDB holds what was recorded as delivered."""
    return result(
        key,
        name,
        passed=not differing,
        description=f"differ or are missing: {', '.join(differing[:10])}" if differing else "",
        figures={"compared": compared, "differing": len(differing)},
    )
