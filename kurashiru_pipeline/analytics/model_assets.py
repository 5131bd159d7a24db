"""The recommendation model: trained from the marts, judged on the newest days, promoted when it helps.

Here: what is read for training, and the decision to promote.
Not here: the formulas (core/training.py, dbt_project/models/marts), the judging (holdout.py), serving (realtime/).
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from kurashiru_pipeline import catalog
from kurashiru_pipeline.analytics.holdout import Holdout, evaluate_holdout
from kurashiru_pipeline.analytics.lake import POOL, AnalyticsLake, read
from kurashiru_pipeline.catalog import Group, Owner
from kurashiru_pipeline.core.artifact import (
    ModelArtifact,
    load_artifact,
    load_promoted,
    promote,
    promoted_version,
    save_artifact,
)
from kurashiru_pipeline.core.training import train_artifact
from kurashiru_pipeline.core.weights import load_weights

CANDIDATE_ARTIFACT = dg.AssetKey(["model", "candidate_artifact"])
PROMOTED_ARTIFACT = dg.AssetKey(catalog.PROMOTED_ARTIFACT)
_TRAINED_FROM = [dg.AssetKey(["marts", name]) for name in ("recipe_transitions", "recipe_statistics", "model_holdout")]
_JUDGED_WITH = [
    dg.AssetKey(["intermediate", "int_behaviors_deduplicated"]),
    dg.AssetKey(["staging", "stg_kurashiru__recipes"]),
]


@dg.asset(
    key=CANDIDATE_ARTIFACT,
    deps=[*_TRAINED_FROM, *_JUDGED_WITH],
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
def candidate_artifact(context: dg.AssetExecutionContext, lake: AnalyticsLake) -> Iterator[dg.Output[str]]:
    settings = lake.settings()
    weights = load_weights()
    with lake.connection() as connection:
        connection.execute("begin transaction")  # every query sees one snapshot
        transitions = read(connection, "select from_recipe_id, to_recipe_id, weight from marts.recipe_transitions")
        if not len(transitions):
            context.log.info("no recipe follows another yet: there is nothing to learn from")
            return
        recipes = read(connection, "select recipe_id, interactions, popularity from marts.recipe_statistics")
        remembered = settings.integer("KURASHIRU_RECENT_BEHAVIORS", minimum=1)
        holdout = evaluate_holdout(connection, weights, remembered=remembered)
    artifact = train_artifact(
        transitions,
        recipes,
        weights,
        version=f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{context.run.run_id[:8]}",
        metadata={
            "transitions": len(transitions),
            "holdout": {**vars(holdout), "is_passed": holdout.is_passed},
            "weights": weights.model_dump(),
        },
    )
    folder = save_artifact(artifact, settings.folder("KURASHIRU_MODELS"))
    yield dg.Output(
        artifact.version,
        metadata={
            "version": artifact.version,
            "folder": dg.MetadataValue.path(folder),
            "recipes": len(artifact.recipe_ids),
            "neighbours": int(artifact.neighbours.nnz),
            "transitions": len(transitions),
            **_shown(holdout),
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
    context: dg.AssetExecutionContext, lake: AnalyticsLake, version: str
) -> dg.MaterializeResult[Any]:
    models = lake.settings().folder("KURASHIRU_MODELS")
    candidate = load_artifact(models / version)
    before = promoted_version(models)
    reason = objection(candidate)
    if reason is None:
        promote(models, version)
    decision = "promoted" if reason is None else f"not promoted: {reason}"
    context.log.info(f"{version}: {decision}")
    in_service = promoted_version(models)
    return dg.MaterializeResult(
        metadata={
            "decision": decision,
            "candidate": version,
            "version": in_service or "none",
            "version_before": before or "none",
        }
    )


@dg.asset_check(asset=CANDIDATE_ARTIFACT, description="The saved artifact can be read and holds neighbours.")
def is_servable(lake: AnalyticsLake, candidate_artifact: str) -> dg.AssetCheckResult:
    artifact = load_artifact(lake.settings().folder("KURASHIRU_MODELS") / candidate_artifact)
    return dg.AssetCheckResult(
        passed=bool(artifact.neighbours.nnz),
        metadata={"recipes": len(artifact.recipe_ids), "neighbours": int(artifact.neighbours.nnz)},
    )


@dg.asset_check(asset=CANDIDATE_ARTIFACT, description="On the newest days the model was at least as good as none.")
def beats_no_model(lake: AnalyticsLake, candidate_artifact: str) -> dg.AssetCheckResult:
    artifact = load_artifact(lake.settings().folder("KURASHIRU_MODELS") / candidate_artifact)
    holdout = artifact.metadata["holdout"]
    return dg.AssetCheckResult(
        passed=holdout["is_passed"],
        severity=dg.AssetCheckSeverity.WARN,
        metadata={name: value for name, value in holdout.items() if value is not None},
    )


@dg.asset_check(asset=PROMOTED_ARTIFACT, description="The artifact in service can be read.")
def is_loadable(lake: AnalyticsLake) -> dg.AssetCheckResult:
    artifact = load_promoted(lake.settings().folder("KURASHIRU_MODELS"))
    return dg.AssetCheckResult(passed=True, metadata={"version": artifact.version if artifact else "none"})


def objection(candidate: ModelArtifact) -> str | None:
    """Why the candidate must not be put in service; None when nothing speaks against it."""
    if not candidate.neighbours.nnz:
        return "it is empty"
    if not candidate.metadata["holdout"]["is_passed"]:
        return "on the newest days it was worse than no model"
    return None


def _shown(holdout: Holdout) -> dict[str, Any]:
    if holdout.ndcg is None or holdout.ndcg_without_model is None:
        return {"holdout_queries": 0}
    return {
        "holdout_queries": holdout.queries,
        "holdout_ndcg_at_10": holdout.ndcg,
        "holdout_ndcg_at_10_without_model": holdout.ndcg_without_model,
        "holdout_recall_at_10": holdout.recall,
        "holdout_coverage": holdout.coverage,
    }
