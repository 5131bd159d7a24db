"""Assets of the near-real-time location: thin steps around the micro-batch pipeline.

Here: which tables each step makes, what is shown of it, and the checks it evaluates on the way.
Not here: the work itself (micro_batch.py) or what starts it (sensors.py).
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeAlias

import dagster as dg

from kurashiru_pipeline import catalog
from kurashiru_pipeline.catalog import Group, Owner, Stage
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.events import MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.core.quality import Freshness, freshness
from kurashiru_pipeline.realtime import checks
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline, StepResult, batch_freshness
from kurashiru_pipeline.realtime.reconcile import reconcile_sample, reconcile_table
from kurashiru_pipeline.warehouse.base import LoadReport

Results: TypeAlias = Iterator[dg.MaterializeResult[Any] | dg.AssetCheckResult]
Pipeline: TypeAlias = dg.ResourceParam[MicroBatchPipeline]


def _spec(
    key: catalog.Key,
    description: str,
    *,
    group: Group,
    owner: Owner = Owner.DATA_PLATFORM,
    kinds: set[str] | None = None,
    deps: tuple[catalog.Key, ...] = (),
) -> dg.AssetSpec:
    return dg.AssetSpec(
        key=dg.AssetKey(key),
        description=description,
        group_name=group.value,
        owners=[owner.value],
        kinds=kinds or {"ducklake", "table"},
        deps=[dg.AssetKey(dep) for dep in deps],
    )


RAW_SPEC = _spec(
    catalog.RAW_BEHAVIOR_EVENTS,
    "Behaviour events as they landed, every line kept whole with its file and row number. "
    "Grain: one row per line of a landed file.",
    group=Group.INGESTION,
)
EXPORT_SPECS = (
    _spec(
        catalog.RECIPES,
        "The recipe catalogue, upserted from exports by updated_at. Grain: one row per recipe.",
        group=Group.STAGING,
    ),
    _spec(
        catalog.USERS,
        "Pseudonymised users, upserted from exports by updated_at. Grain: one row per user.",
        group=Group.STAGING,
    ),
)
PROMOTED_ARTIFACT_SPEC = _spec(
    catalog.PROMOTED_ARTIFACT,
    "The model artifact in service, made by the analytics location. Grain: one artifact.",
    group=Group.MODEL,
    owner=Owner.PERSONALIZATION,
    kinds={"numpy"},
)


_EXPORT_CHECKS = (
    checks.spec(catalog.RECIPES, "ids_unique", "One row per recipe."),
    checks.spec(catalog.USERS, "ids_unique", "One row per user."),
)


@dg.multi_asset(
    specs=[RAW_SPEC, *EXPORT_SPECS],
    check_specs=[
        checks.spec(catalog.RAW_BEHAVIOR_EVENTS, "files_readable", "No landed file was unreadable."),
        *_EXPORT_CHECKS,
    ],
)
def load(pipeline: Pipeline) -> Results:
    """Load every landed file exactly once."""
    report = pipeline.load()
    seconds, lines = zip(*report.delays, strict=True) if report.delays else ((), ())
    yield _materialized(
        catalog.RAW_BEHAVIOR_EVENTS,
        freshness(seconds, lines),
        rows=report.line_count,
        files=report.files.get("events", 0),
        failed_files=len(report.failed),
        more_files_wait=not report.is_complete,
    )
    yield checks.files_readable(report)
    yield from _exports_loaded(pipeline, report)


@dg.multi_asset(specs=EXPORT_SPECS, check_specs=_EXPORT_CHECKS)
def load_exports(pipeline: Pipeline) -> Results:
    """Upsert the exports that Snowpipe has loaded; it loads the events as well, which `observe_ingestion` looks at."""
    yield from _exports_loaded(pipeline, pipeline.load())


def _exports_loaded(pipeline: MicroBatchPipeline, report: LoadReport) -> Results:
    yield _materialized(catalog.RECIPES, None, rows=report.recipe_count, files=report.files.get("recipes", 0))
    yield _materialized(catalog.USERS, None, rows=report.user_count, files=report.files.get("users", 0))
    [ids] = pipeline.warehouse.fetch("id_counts").to_pylist()
    yield checks.unique_ids(catalog.RECIPES, ids["recipe_rows"], ids["recipe_ids"])
    yield checks.unique_ids(catalog.USERS, ids["user_rows"], ids["user_ids"])


@dg.multi_asset(
    specs=[
        _spec(
            catalog.STAGED_BEHAVIOR_EVENTS,
            "Behaviour events, typed and validated, each event once. Grain: one row per event_id.",
            group=Group.STAGING,
            deps=(catalog.RAW_BEHAVIOR_EVENTS,),
        ),
        _spec(
            catalog.REJECTED_EVENTS,
            "Quarantine: lines that break the contract, whole, each with its reason. Grain: one row per rejected line.",
            group=Group.STAGING,
            deps=(catalog.RAW_BEHAVIOR_EVENTS,),
        ),
    ],
    check_specs=[
        checks.spec(
            catalog.STAGED_BEHAVIOR_EVENTS,
            "accounting",
            "Lines read = staged + duplicates + rejected.",
            is_blocking=True,
        ),
        checks.spec(catalog.STAGED_BEHAVIOR_EVENTS, "stream_not_stale", "The stream still holds every unread change."),
        checks.spec(catalog.REJECTED_EVENTS, "reject_rate", "The share of rejected lines is as small as usual."),
    ],
)
def stage(pipeline: Pipeline) -> Results:
    """Consume the stream into a micro-batch: parse, validate, de-duplicate, quarantine."""
    batch = pipeline.stage()
    fresh = batch_freshness(pipeline.warehouse, batch.batch_id, Stage.STAGE) if batch else None
    figures = batch.__dict__ if batch else {}
    yield _materialized(catalog.STAGED_BEHAVIOR_EVENTS, fresh, rows=batch.staged_count if batch else 0, **figures)
    yield _materialized(
        catalog.REJECTED_EVENTS,
        fresh,
        rows=batch.rejected_count if batch else 0,
        batch_id=batch.batch_id if batch else None,
    )
    yield checks.accounting(batch)
    yield checks.stream_not_stale(pipeline.warehouse.stream_status(catalog.RAW_EVENTS_STREAM))
    yield checks.reject_rate(batch, pipeline.settings.integer("KURASHIRU_REJECT_RATE_PCT"))


@dg.multi_asset(
    specs=[
        _spec(
            catalog.RECENT_BEHAVIORS,
            "The last meaningful behaviours of each user, newest first. "
            "Grain: one row per user and behaviour (event_id).",
            group=Group.RECOMMENDATION,
            owner=Owner.PERSONALIZATION,
            deps=(catalog.STAGED_BEHAVIOR_EVENTS, catalog.USERS),
        )
    ],
    check_specs=[
        checks.spec(catalog.RECENT_BEHAVIORS, "history_bounded", "No user has more behaviours than are kept.")
    ],
)
def collect(pipeline: Pipeline) -> Results:
    """Keep the last behaviours of the users the micro-batch touched."""
    step = pipeline.collect()
    yield _step_materialized(pipeline, catalog.RECENT_BEHAVIORS, Stage.COLLECT, "behaviors_kept", step)
    state = _invariants(pipeline, "collect_checks")
    yield checks.at_most(
        catalog.RECENT_BEHAVIORS,
        "history_bounded",
        state.get("longest_history"),
        pipeline.settings.integer("KURASHIRU_RECENT_BEHAVIORS"),
    )


@dg.multi_asset(
    specs=[
        _spec(
            catalog.USER_PROFILES,
            "What a user's recent behaviours and stated preferences say: weighted recipes, tastes, cool-downs, "
            "leftovers. Grain: one row per user.",
            group=Group.RECOMMENDATION,
            owner=Owner.PERSONALIZATION,
            deps=(catalog.RECENT_BEHAVIORS, catalog.USERS, catalog.RECIPES),
        ),
        _spec(
            catalog.LIVE_POPULARITY,
            "Decayed, weighted counts of behaviours that follow the stream; by platform and part of the day they are "
            "in recommendation.segment_popularity. Grain: one row per recipe.",
            group=Group.RECOMMENDATION,
            owner=Owner.PERSONALIZATION,
            deps=(catalog.STAGED_BEHAVIOR_EVENTS,),
        ),
    ],
    check_specs=[
        checks.spec(catalog.USER_PROFILES, "no_user_left_out", "Every touched user has a profile."),
        checks.spec(catalog.LIVE_POPULARITY, "counts_possible", "No count is negative or from the future."),
    ],
)
def preprocess(pipeline: Pipeline) -> Results:
    """Profiles of touched users and popularity of touched recipes."""
    step = pipeline.preprocess()
    yield _step_materialized(pipeline, catalog.USER_PROFILES, Stage.PREPROCESS, "profiles", step)
    yield _step_materialized(pipeline, catalog.LIVE_POPULARITY, Stage.PREPROCESS, "recipes_with_popularity", step)
    state = _invariants(pipeline, "preprocess_checks")
    yield checks.at_most(catalog.USER_PROFILES, "no_user_left_out", state.get("users_without_profile"), 0)
    yield checks.at_most(catalog.LIVE_POPULARITY, "counts_possible", state.get("impossible_popularity"), 0)


@dg.multi_asset(
    specs=[
        _spec(
            catalog.RECOMMENDATIONS,
            "Ranked recipes with scores and reasons. Grain: one row per user (and #default and segments for users "
            "without).",
            group=Group.RECOMMENDATION,
            owner=Owner.PERSONALIZATION,
            kinds={"ducklake", "table", "scipy"},
            deps=(
                catalog.USER_PROFILES,
                catalog.LIVE_POPULARITY,
                catalog.RECIPES,
                catalog.PROMOTED_ARTIFACT,
            ),
        ),
        _spec(
            catalog.BATCH_MODELS,
            "Which models made a micro-batch's lists: that in service, and a canary's challenger with its share. "
            "Grain: one row per micro-batch.",
            group=Group.RECOMMENDATION,
            owner=Owner.PERSONALIZATION,
            deps=(catalog.PROMOTED_ARTIFACT,),
        ),
    ],
    check_specs=[
        checks.spec(catalog.BATCH_MODELS, "arms_have_their_share", "The challenger ranks for its share of the users."),
        checks.spec(catalog.RECOMMENDATIONS, "lists_are_whole", "No list is empty or names a recipe twice."),
        checks.spec(catalog.RECOMMENDATIONS, "external_source_answers", "The external source's breaker is closed."),
    ],
)
def recommend(pipeline: Pipeline) -> Results:
    """Rank recipes for the users of the micro-batch."""
    step = pipeline.recommend()
    yield _step_materialized(pipeline, catalog.RECOMMENDATIONS, Stage.RECOMMEND, "users", step)
    yield _materialized(catalog.BATCH_MODELS, None, rows=int(step.batch_id is not None), batch_id=step.batch_id)
    yield checks.arms_have_their_share(step)
    yield checks.lists_are_whole(step)
    yield checks.external_source_answers(step)


@dg.multi_asset(
    specs=[
        _spec(
            catalog.DYNAMODB_RECOMMENDATIONS,
            "The table the app's API reads; only changed items are sent. Grain: one item per user.",
            group=Group.SERVING,
            kinds={"dynamodb"},
            deps=(catalog.RECOMMENDATIONS,),
        ),
        _spec(
            catalog.DELIVERED_ITEMS,
            "What DynamoDB holds: version and content hash of the last delivery. Grain: one row per user.",
            group=Group.SERVING,
            deps=(catalog.RECOMMENDATIONS,),
        ),
    ],
    check_specs=[
        checks.spec(catalog.DYNAMODB_RECOMMENDATIONS, "freshness", "Landed -> readable stays within the limit."),
        checks.spec(catalog.DYNAMODB_RECOMMENDATIONS, "items_accepted", "DynamoDB refused no item."),
        checks.spec(catalog.DELIVERED_ITEMS, "sample_readable", "Items just delivered read back as recorded."),
    ],
)
def reflect(context: dg.AssetExecutionContext, pipeline: Pipeline) -> Results:
    """Send changed lists to DynamoDB (reverse ETL)."""
    delivery = pipeline.reflect(on_progress=lambda done, total: context.log.info(f"{done} of {total} items delivered"))
    fresh = Freshness(None, None)
    if delivery.batch_id is not None:
        fresh = batch_freshness(pipeline.warehouse, delivery.batch_id)
    figures = {name: value for name, value in delivery.__dict__.items() if name not in {"changed_count", "refused"}}
    yield _materialized(
        catalog.DYNAMODB_RECOMMENDATIONS, fresh, rows=delivery.changed_count + delivery.tombstone_count, **figures
    )
    yield _materialized(
        catalog.DELIVERED_ITEMS,
        fresh,
        rows=delivery.changed_count + delivery.tombstone_count,
        batch_id=delivery.batch_id,
    )
    yield checks.freshness_within(fresh, pipeline.settings.integer("KURASHIRU_FRESHNESS_SECONDS"))
    yield checks.items_accepted(delivery)
    if delivery.batch_id is None:
        yield checks.reconcile(catalog.DELIVERED_ITEMS, "sample_readable", 0, [])
    else:
        sample = reconcile_sample(pipeline.warehouse, pipeline.table, delivery.batch_id)
        yield checks.reconcile(catalog.DELIVERED_ITEMS, "sample_readable", sample.compared, sample.differing)


@dg.asset_check(
    asset=dg.AssetKey(catalog.DYNAMODB_RECOMMENDATIONS),
    name="reconcile",
    description="Every item in DynamoDB is what was recorded as delivered, and nothing else is there.",
)
def reconcile(pipeline: Pipeline) -> dg.AssetCheckResult:
    """Compare the whole table with what was delivered; scheduled, since it scans the table."""
    lifetime = timedelta(days=pipeline.settings.integer("KURASHIRU_ITEM_TTL_DAYS"))
    found = reconcile_table(pipeline.warehouse, pipeline.table, delivered_since=utc_now() - lifetime)
    return checks.reconcile(catalog.DYNAMODB_RECOMMENDATIONS, "reconcile", found.compared, found.differing)


MICRO_BATCH_ASSETS = (stage, collect, preprocess, recommend, reflect)


def _invariants(pipeline: MicroBatchPipeline, script: str) -> dict[str, int]:
    batch = pipeline.unfinished_batch()
    if batch is None:
        return {}
    [row] = pipeline.warehouse.fetch(
        script,
        batch_id=batch.batch_id,
        watermark_at=batch.watermark_at,
        meaningful_event_names=MEANINGFUL_EVENT_NAMES,
    ).to_pylist()
    return dict(row)


def _step_materialized(
    pipeline: MicroBatchPipeline, key: catalog.Key, at: Stage, rows: str, step: StepResult
) -> dg.MaterializeResult[Any]:
    fresh = batch_freshness(pipeline.warehouse, step.batch_id, at) if step.batch_id else None
    return _materialized(
        key,
        fresh,
        rows=step.figures.get(rows, 0),
        batch_id=step.batch_id,
        seconds=round(step.seconds, 3),
        **{name: value for name, value in step.figures.items() if name != rows},
        **({} if step.external is None else {f"external_{name}": it for name, it in step.external.figures.items()}),
    )


def _materialized(key: catalog.Key, fresh: Freshness | None, *, rows: int, **figures: Any) -> dg.MaterializeResult[Any]:
    metadata: dict[str, Any] = {"dagster/row_count": rows}
    metadata |= {name: value for name, value in figures.items() if value is not None}
    if fresh is not None and fresh.p50 is not None and fresh.p95 is not None:
        metadata |= {
            "freshness_p50_seconds": round(fresh.p50, 3),
            "freshness_p95_seconds": round(fresh.p95, 3),
        }
    return dg.MaterializeResult(asset_key=dg.AssetKey(key), metadata=metadata)
