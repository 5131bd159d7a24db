"""Assets of the near-real-time location, and the one step of its run that makes them.

Here: which tables there are, their checks, and a run that drains: micro-batch after micro-batch, then a wait for more.
Not here: the work (micro_batch.py, drain.py), what is shown of it (reports.py) or what starts it (sensors.py).
"""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeAlias

import dagster as dg

from kurashiru_pipeline import catalog
from kurashiru_pipeline.catalog import Group, Owner
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.realtime import checks
from kurashiru_pipeline.realtime.drain import micro_batches
from kurashiru_pipeline.realtime.interrupts import held_back
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.realtime.reconcile import reconcile_table
from kurashiru_pipeline.realtime.reports import CheckLog, delivered_freshness, materializations
from kurashiru_pipeline.realtime.telemetry import telemetry

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

BATCH_SPECS = (
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
    _spec(
        catalog.RECENT_BEHAVIORS,
        "The last meaningful behaviours of each user, newest first. Grain: one row per user and behaviour (event_id).",
        group=Group.RECOMMENDATION,
        owner=Owner.PERSONALIZATION,
        deps=(catalog.STAGED_BEHAVIOR_EVENTS, catalog.USERS),
    ),
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
    _spec(
        catalog.RECOMMENDATIONS,
        "Ranked recipes with scores and reasons. Grain: one row per user (and #default and segments for users "
        "without).",
        group=Group.RECOMMENDATION,
        owner=Owner.PERSONALIZATION,
        kinds={"ducklake", "table", "scipy"},
        deps=(catalog.USER_PROFILES, catalog.LIVE_POPULARITY, catalog.RECIPES, catalog.PROMOTED_ARTIFACT),
    ),
    _spec(
        catalog.BATCH_MODELS,
        "Which models made a micro-batch's lists: that in service, and a canary's challenger with its share. "
        "Grain: one row per micro-batch.",
        group=Group.RECOMMENDATION,
        owner=Owner.PERSONALIZATION,
        deps=(catalog.PROMOTED_ARTIFACT,),
    ),
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
)
_FILE_CHECK = checks.spec(catalog.RAW_BEHAVIOR_EVENTS, "files_readable", "No landed file was unreadable.")
_CHECKS = (
    checks.spec(catalog.RECIPES, "ids_unique", "One row per recipe."),
    checks.spec(catalog.USERS, "ids_unique", "One row per user."),
    checks.spec(
        catalog.STAGED_BEHAVIOR_EVENTS, "accounting", "Lines read = staged + duplicates + rejected.", is_blocking=True
    ),
    checks.spec(catalog.STAGED_BEHAVIOR_EVENTS, "stream_not_stale", "The stream still holds every unread change."),
    checks.spec(catalog.STAGED_BEHAVIOR_EVENTS, "keeps_up", "No landed line is left behind for long."),
    checks.spec(catalog.REJECTED_EVENTS, "reject_rate", "The share of rejected lines is as small as usual."),
    checks.spec(catalog.RECENT_BEHAVIORS, "history_bounded", "No user has more behaviours than are kept."),
    checks.spec(catalog.USER_PROFILES, "no_user_left_out", "Every touched user has a profile."),
    checks.spec(catalog.LIVE_POPULARITY, "counts_possible", "No count is negative or from the future."),
    checks.spec(catalog.BATCH_MODELS, "arms_have_their_share", "The challenger ranks for its share of the users."),
    checks.spec(catalog.RECOMMENDATIONS, "lists_are_whole", "No list is empty or names a recipe twice."),
    checks.spec(catalog.RECOMMENDATIONS, "external_source_answers", "The external source's breaker is closed."),
    checks.spec(catalog.DYNAMODB_RECOMMENDATIONS, "freshness", "Landed -> readable stays within the limit."),
    checks.spec(catalog.DYNAMODB_RECOMMENDATIONS, "items_accepted", "DynamoDB refused no item."),
    checks.spec(catalog.DELIVERED_ITEMS, "sample_readable", "Items just delivered read back as recorded."),
)


def build_micro_batches(*, loads_events: bool) -> dg.AssetsDefinition:
    """The step that makes every table of the near-real-time path, in one process for as long as there is work.

    Args:
        loads_events: whether landed events are loaded here; where Snowpipe does it, `observe_ingestion` looks at it.
    """
    specs = [RAW_SPEC, *EXPORT_SPECS, *BATCH_SPECS] if loads_events else [*EXPORT_SPECS, *BATCH_SPECS]
    check_specs = [_FILE_CHECK, *_CHECKS] if loads_events else list(_CHECKS)

    # The run says itself what it changed, micro-batch by micro-batch; of what it did not touch it says nothing.
    skippable = [spec.replace_attributes(skippable=True) for spec in specs]

    @dg.multi_asset(name="micro_batches", specs=skippable, check_specs=check_specs)
    def drain_micro_batches(context: dg.AssetExecutionContext, pipeline: Pipeline) -> Iterator[Any]:
        """Load, stage, collect, preprocess, recommend, reflect; again while there is work; then wait for more."""
        settings = pipeline.settings
        log = CheckLog(pipeline, check_specs, settings.integer("KURASHIRU_CHECK_SECONDS"))
        rounds = micro_batches(
            pipeline,
            linger_seconds=settings.seconds("KURASHIRU_LINGER_SECONDS"),
            run_seconds=settings.integer("KURASHIRU_RUN_SECONDS", minimum=1),
            uninterrupted=held_back,
        )
        with telemetry(settings) as record:
            for done in rounds:
                delivered = delivered_freshness(pipeline, done)
                yield from materializations(done, delivered, loads_events=loads_events)
                yield from log.evaluated(done, delivered)
                if record is not None:
                    record(done, delivered)
        yield from log.concluded()

    return drain_micro_batches


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
