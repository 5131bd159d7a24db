"""The recommendation model: trained from the marts, judged against the one in service, promoted when it earns it.

Here: the assets, their checks and what they show; the same on every engine.
Not here: training and judging (core/candidate.py), the decision (core/gate.py), versions (warehouse.py), what a person
does to them (versions.py), canaries (canary_assets.py).
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from kurashiru_pipeline import catalog
from kurashiru_pipeline.analytics.plots import judgement_plot
from kurashiru_pipeline.analytics.warehouse import POOL, AnalyticsWarehouse
from kurashiru_pipeline.catalog import Group, Owner
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.artifact import InService, ModelArtifact
from kurashiru_pipeline.core.candidate import TRAINING_TABLES
from kurashiru_pipeline.core.gate import Action, Decision, Judgement, Record, decide, hold
from kurashiru_pipeline.core.weights import load_weights

CANDIDATE_ARTIFACT = dg.AssetKey(["model", "candidate_artifact"])
PROMOTED_ARTIFACT = dg.AssetKey(catalog.PROMOTED_ARTIFACT)


@dg.asset(
    key=CANDIDATE_ARTIFACT,
    deps=[dg.AssetKey(table.split(".")) for table in TRAINING_TABLES],
    group_name=Group.MODEL.value,
    owners=[Owner.PERSONALIZATION.value],
    kinds={"python", "numpy"},
    description=(
        "Recipe neighbours, popularity, weights and re-ranker learned from all interactions, with how well it and the "
        "model in service foretold the newest days. Skipped while there is nothing to learn from. "
        "Grain: one artifact per run."
    ),
    output_required=False,
    pool=POOL,
)
def candidate_artifact(context: dg.AssetExecutionContext, warehouse: AnalyticsWarehouse) -> Iterator[dg.Output[str]]:
    version = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{context.run.run_id[:8]}"
    artifact = warehouse.train(version, warehouse.champion(context.log))
    if artifact is None:
        context.log.info("no recipe follows another yet: there is nothing to learn from")
        return
    yield dg.Output(
        artifact.version,
        metadata={
            "version": artifact.version,
            "recipe": artifact.metadata["recipe"],
            "recipes": len(artifact.recipe_ids),
            "neighbours": int(artifact.neighbours.nnz),
            "transitions": artifact.metadata["transitions"],
            **_shown(artifact.metadata["judgement"]),
        },
    )


@dg.asset(
    key=PROMOTED_ARTIFACT,
    ins={"version": dg.AssetIn(CANDIDATE_ARTIFACT)},
    group_name=Group.MODEL.value,
    owners=[Owner.PERSONALIZATION.value],
    kinds={"python", "numpy"},
    description=(
        "The model artifact in service. Another recipe of weights, code and kind takes the place when it foretells the "
        "newest days better by more than the interval, the same one learned anew when it is not worse; neither may "
        "narrow the lists. Nothing does beside a canary, or after a rollback. Grain: one artifact."
    ),
    pool=POOL,
)
def promoted_artifact(
    context: dg.AssetExecutionContext, warehouse: AnalyticsWarehouse, version: str
) -> dg.MaterializeResult[Any]:
    candidate, champion = warehouse.artifact(version), warehouse.champion(context.log)
    decision = _decision(warehouse, candidate, champion)
    if decision.is_promoted:
        warehouse.put_in_service(InService(version))
    action = Action.PROMOTED if decision.is_promoted else Action.REFUSED
    judgement = candidate.metadata["judgement"]
    warehouse.record(Record(utc_now(), action, version, decision.sentence, judgement))
    context.log.info(f"{version}: {decision.sentence}")
    metadata: dict[str, Any] = {
        "decision": decision.sentence,
        "grounds": dg.MetadataValue.md(_table(decision)),
        "candidate": version,
        "version": warehouse.in_service().version or "none",
        "version_before": decision.champion or "none",
        **_shown(judgement),
    }
    if judgement["queries"]:
        metadata["plot"] = dg.MetadataValue.md(judgement_plot(judgement, load_weights().promotion, version))
    return dg.MaterializeResult(metadata=metadata)


@dg.asset_check(asset=CANDIDATE_ARTIFACT, description="The saved artifact can be read and holds neighbours.")
def is_servable(warehouse: AnalyticsWarehouse, candidate_artifact: str) -> dg.AssetCheckResult:
    artifact = warehouse.artifact(candidate_artifact)
    return dg.AssetCheckResult(
        passed=bool(artifact.neighbours.nnz),
        metadata={"recipes": len(artifact.recipe_ids), "neighbours": int(artifact.neighbours.nnz)},
    )


@dg.asset_check(asset=CANDIDATE_ARTIFACT, description="On the newest days the model was at least as good as none.")
def beats_no_model(warehouse: AnalyticsWarehouse, candidate_artifact: str) -> dg.AssetCheckResult:
    judgement = warehouse.artifact(candidate_artifact).metadata["judgement"]
    figures = _shown(judgement)
    passed = not judgement["queries"] or figures["ndcg_at_10"] >= figures["ndcg_at_10_without_model"]
    return dg.AssetCheckResult(passed=passed, severity=dg.AssetCheckSeverity.WARN, metadata=figures)


@dg.asset_check(asset=PROMOTED_ARTIFACT, description="What is in service can be read.")
def is_loadable(warehouse: AnalyticsWarehouse) -> dg.AssetCheckResult:
    service = warehouse.in_service()
    versions = [service.version, service.canary.version if service.canary else None]
    for version in filter(None, versions):
        warehouse.artifact(version)
    return dg.AssetCheckResult(
        passed=True, metadata={"version": versions[0] or "none", "challenger": versions[1] or "none"}
    )


def _decision(warehouse: AnalyticsWarehouse, candidate: ModelArtifact, champion: ModelArtifact | None) -> Decision:
    service = warehouse.in_service()
    return decide(
        candidate.version,
        candidate.metadata,
        InService(champion.version if champion else None, service.canary),
        champion.metadata if champion else None,
        rules=load_weights().promotion,
        hold=hold(service, warehouse.history()),
    )


def _table(decision: Decision) -> str:
    """Markdown: what was looked at, whether it was met, and the figures."""
    rows = [
        f"| {ground.name} | {'yes' if ground.is_met else '**no**'} | {ground.sentence} |" for ground in decision.grounds
    ]
    return "\n".join(["| ground | met | found |", "|---|---|---|", *rows])


def _shown(judgement: Judgement) -> dict[str, Any]:
    shown: dict[str, Any] = {"holdout_queries": judgement["queries"]}
    if not judgement["queries"]:
        return shown
    sides = {
        "": judgement["challenger"],
        "_in_service": judgement["in_service"],
    }
    for side, figures in sides.items():
        shown |= {
            f"ndcg_at_10{side}": figures["unseen"]["ndcg_at_10"],
            f"recall_at_10{side}": figures["unseen"]["recall_at_10"],
            f"coverage_at_10{side}": figures["seen"]["coverage_at_10"],
            f"diversity_at_10{side}": figures["seen"]["diversity_at_10"],
        }
    return shown | {"ndcg_at_10_without_model": judgement["without_model"]["ndcg_at_10"]}
