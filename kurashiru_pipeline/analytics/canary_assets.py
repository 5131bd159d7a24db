"""The canary: what its users' clicks say so far, and its end.

Here: the asset, its check and what they show; the same on every engine.
Not here: the arms and the test (core/canary.py), their counts (dbt: marts.canary_days), starting one (versions.py).
"""

from datetime import date
from typing import Any

import dagster as dg
import pyarrow as pa

from kurashiru_pipeline.analytics.plots import canary_plot
from kurashiru_pipeline.analytics.versions import stop_canary
from kurashiru_pipeline.analytics.warehouse import CANARY_DAYS_TABLE, POOL, AnalyticsWarehouse
from kurashiru_pipeline.catalog import Group, Owner
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.canary import Arm, ArmName, Canary, Outcome, Verdict, judge_canary
from kurashiru_pipeline.core.weights import load_weights

CANARY_DECISION = dg.AssetKey(["model", "canary_decision"])


@dg.asset(
    key=CANARY_DECISION,
    deps=[dg.AssetKey(CANARY_DAYS_TABLE.split("."))],
    group_name=Group.MODEL.value,
    owners=[Owner.PERSONALIZATION.value],
    kinds={"python"},
    description=(
        "What is to be done about the challenger beside the model in service, from the clicks of both arms since the "
        "canary began. A challenger that does harm, or decides nothing in the time set, is taken away here; putting it "
        "in service is left to a person. Grain: one decision."
    ),
    pool=POOL,
)
def canary_decision(context: dg.AssetExecutionContext, warehouse: AnalyticsWarehouse) -> dg.MaterializeResult[Any]:
    canary = warehouse.in_service().canary
    if canary is None:
        return dg.MaterializeResult(metadata={"decision": "no canary is running"})
    days, verdicts = judged_days(canary, warehouse.canary_days(canary))
    verdict = verdicts[-1]
    context.log.info(verdict.sentence)
    metadata = {"decision": verdict.sentence, **figures(canary, verdict)}
    if verdict.outcome.ends:
        stop_canary(warehouse, verdict.sentence, figures(canary, verdict))
    if days:
        metadata["plot"] = dg.MetadataValue.md(canary_plot(days, verdicts))
    return dg.MaterializeResult(metadata=metadata)


@dg.asset_check(
    asset=CANARY_DECISION, description="The arms of the canary have as many users as they should, and no harm is done."
)
def does_no_harm(warehouse: AnalyticsWarehouse) -> dg.AssetCheckResult:
    last = [record for record in warehouse.history() if record.action.value.startswith("canary")][-1:]
    is_harmful = [record.reason for record in last if record.figures.get("outcome") in _HARMFUL]
    return dg.AssetCheckResult(
        passed=not is_harmful, severity=dg.AssetCheckSeverity.WARN, description=next(iter(is_harmful), None)
    )


def judged_days(canary: Canary, days: pa.Table) -> tuple[list[date], list[Verdict]]:
    """The verdict at the end of each day; without any day, one of nothing yet.

    Args:
        days: warehouse.CANARY_DAYS: what each arm came to by the end of each day on which it was shown anything.
    """
    rules, now = load_weights().canary, utc_now()
    arms: dict[str, Arm] = dict.fromkeys(ArmName, Arm())
    verdicts: dict[date, Verdict] = {}
    for row in days.to_pylist():
        day, arm = row.pop("shown_on"), row.pop("arm")
        arms[arm] = Arm(**row)
        verdicts[day] = judge_canary(canary, arms[ArmName.CHALLENGER], arms[ArmName.CHAMPION], rules, now)
    nothing = judge_canary(canary, Arm(), Arm(), rules, now)
    return list(verdicts), list(verdicts.values()) or [nothing]


def figures(canary: Canary, verdict: Verdict) -> dict[str, Any]:
    """What a verdict rests on, to be shown and kept."""
    shown: dict[str, Any] = {
        "outcome": verdict.outcome.value,
        "challenger": canary.version,
        "share": canary.share,
        "started_at": canary.started_at.isoformat(),
        "difference_low": verdict.low,
        "difference_high": verdict.high,
        "mismatch_evidence": verdict.mismatch,
    }
    for name, arm in (("challenger", verdict.challenger), ("champion", verdict.champion)):
        shown |= {f"{name}_users": arm.users, f"{name}_impressions": arm.impressions, f"{name}_clicks": arm.clicks}
        shown |= {} if arm.ctr is None else {f"{name}_ctr": arm.ctr}
    return shown


_HARMFUL = {Outcome.WORSE.value, Outcome.MISMATCH.value}
