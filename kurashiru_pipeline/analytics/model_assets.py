"""The recommendation model: trained from the marts, judged on the newest days, promoted when it helps.

Here: the assets, their checks and what they show; the same on every engine.
Not here: training and judging (core/candidate.py, dbt_project/models/marts), versions (warehouse.py), serving.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from kurashiru_pipeline import catalog
from kurashiru_pipeline.analytics.warehouse import POOL, AnalyticsWarehouse
from kurashiru_pipeline.catalog import Group, Owner
from kurashiru_pipeline.core.candidate import TRAINING_TABLES, objection

CANDIDATE_ARTIFACT = dg.AssetKey(["model", "candidate_artifact"])
PROMOTED_ARTIFACT = dg.AssetKey(catalog.PROMOTED_ARTIFACT)


@dg.asset(
    key=CANDIDATE_ARTIFACT,
    deps=[dg.AssetKey(table.split(".")) for table in TRAINING_TABLES],
    group_name=Group.MODEL.value,
    owners=[Owner.PERSONALIZATION.value],
    kinds={"python", "numpy"},
    description=(
        "Recipe neighbours and popularity learned from all interactions, with how well the same training foretold the "
        "newest days when they were kept from it. Skipped while there is nothing to learn from. "
        "Grain: one artifact per run."
    ),
    output_required=False,
    pool=POOL,
)
def candidate_artifact(context: dg.AssetExecutionContext, warehouse: AnalyticsWarehouse) -> Iterator[dg.Output[str]]:
    artifact = warehouse.train(f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{context.run.run_id[:8]}")
    if artifact is None:
        context.log.info("no recipe follows another yet: there is nothing to learn from")
        return
    yield dg.Output(
        artifact.version,
        metadata={
            "version": artifact.version,
            "recipes": len(artifact.recipe_ids),
            "neighbours": int(artifact.neighbours.nnz),
            "transitions": artifact.metadata["transitions"],
            **_shown(artifact.metadata["holdout"]),
        },
    )


@dg.asset(
    key=PROMOTED_ARTIFACT,
    ins={"version": dg.AssetIn(CANDIDATE_ARTIFACT)},
    group_name=Group.MODEL.value,
    owners=[Owner.PERSONALIZATION.value],
    kinds={"python", "numpy"},
    description=(
        "The model artifact in service. A candidate takes the place when it can be read, is not empty, and on the "
        "newest days was at least as good as the same kernel without a model. Grain: one artifact."
    ),
    pool=POOL,
)
def promoted_artifact(
    context: dg.AssetExecutionContext, warehouse: AnalyticsWarehouse, version: str
) -> dg.MaterializeResult[Any]:
    reason = objection(warehouse.artifact(version))
    before = warehouse.promoted_version()
    if reason is None:
        warehouse.promote(version)
    decision = "promoted" if reason is None else f"not promoted: {reason}"
    context.log.info(f"{version}: {decision}")
    return dg.MaterializeResult(
        metadata={
            "decision": decision,
            "candidate": version,
            "version": warehouse.promoted_version() or "none",
            "version_before": before or "none",
        }
    )


@dg.asset_check(asset=CANDIDATE_ARTIFACT, description="The saved artifact can be read and holds neighbours.")
def is_servable(warehouse: AnalyticsWarehouse, candidate_artifact: str) -> dg.AssetCheckResult:
    artifact = warehouse.artifact(candidate_artifact)
    return dg.AssetCheckResult(
        passed=bool(artifact.neighbours.nnz),
        metadata={"recipes": len(artifact.recipe_ids), "neighbours": int(artifact.neighbours.nnz)},
    )


@dg.asset_check(asset=CANDIDATE_ARTIFACT, description="On the newest days the model was at least as good as none.")
def beats_no_model(warehouse: AnalyticsWarehouse, candidate_artifact: str) -> dg.AssetCheckResult:
    holdout = warehouse.artifact(candidate_artifact).metadata["holdout"]
    return dg.AssetCheckResult(
        passed=holdout["is_passed"],
        severity=dg.AssetCheckSeverity.WARN,
        metadata={name: value for name, value in holdout.items() if value is not None},
    )


@dg.asset_check(asset=PROMOTED_ARTIFACT, description="The artifact in service can be read.")
def is_loadable(warehouse: AnalyticsWarehouse) -> dg.AssetCheckResult:
    version = warehouse.promoted_version()
    if version is not None:
        warehouse.artifact(version)
    return dg.AssetCheckResult(passed=True, metadata={"version": version or "none"})


def _shown(holdout: dict[str, Any]) -> dict[str, Any]:
    if holdout["ndcg"] is None or holdout["ndcg_without_model"] is None:
        return {"holdout_queries": 0}
    return {
        "holdout_queries": holdout["queries"],
        "holdout_ndcg_at_10": holdout["ndcg"],
        "holdout_ndcg_at_10_without_model": holdout["ndcg_without_model"],
        "holdout_recall_at_10": holdout["recall"],
        "holdout_coverage": holdout["coverage"],
    }
