"""The vocabulary of the graph: asset keys, groups, owners, streams, stages.

Here: names that more than one module must spell the same way, equal in every environment.
Not here: behaviour, settings, or anything that imports dagster (keys are plain tuples).
"""

from dataclasses import dataclass
from enum import StrEnum

Key = tuple[str, str]


class Group(StrEnum):
    """Business domain of an asset."""

    INGESTION = "ingestion"
    STAGING = "staging"
    RECOMMENDATION = "recommendation"
    SERVING = "serving"
    MARTS = "marts"
    MODEL = "model"
    OPERATIONS = "operations"


class Owner(StrEnum):
    """Team that answers for an asset."""

    DATA_PLATFORM = "team:data-platform"
    PERSONALIZATION = "team:personalization"
    ANALYTICS = "team:analytics"


LOAD = "load"
"""What comes before the stages, as the ledger and the metadata name it; none where the engine loads by itself."""


class Stage(StrEnum):
    """Steps of a micro-batch, in order; the ledger records each of them once a batch."""

    STAGE = "stage"
    COLLECT = "collect"
    PREPROCESS = "preprocess"
    RECOMMEND = "recommend"
    REFLECT = "reflect"


RAW_BEHAVIOR_EVENTS: Key = ("raw", "behavior_events")
STAGED_BEHAVIOR_EVENTS: Key = ("staging", "behavior_events")
REJECTED_EVENTS: Key = ("staging", "rejected_events")
RECIPES: Key = ("staging", "recipes")
USERS: Key = ("staging", "users")
RECENT_BEHAVIORS: Key = ("recommendation", "recent_behaviors")
USER_PROFILES: Key = ("recommendation", "user_profiles")
LIVE_POPULARITY: Key = ("recommendation", "live_popularity")
RECOMMENDATIONS: Key = ("recommendation", "recommendations")
BATCH_MODELS: Key = ("ops", "batch_models")
DELIVERED_ITEMS: Key = ("serving", "delivered_items")
DYNAMODB_RECOMMENDATIONS: Key = ("dynamodb", "recommendations")
PROMOTED_ARTIFACT: Key = ("model", "promoted_artifact")
REALTIME_UPKEEP: Key = ("ops", "realtime_upkeep")
ANALYTICS_UPKEEP: Key = ("ops", "analytics_upkeep")
RUN_HISTORY: Key = ("ops", "run_history")


MICRO_BATCH_JOB = "micro_batch_job"
MAINTENANCE_JOB = "maintenance_job"
ANALYTICS_JOB = "analytics_hourly"


@dataclass(frozen=True)
class Stream:
    """A named, append-only change stream with one consumer."""

    name: str
    schema: str
    table: str


RAW_EVENTS_STREAM = Stream("raw_behavior_events", *RAW_BEHAVIOR_EVENTS)
STREAMS: tuple[Stream, ...] = (RAW_EVENTS_STREAM,)
