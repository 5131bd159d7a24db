"""Lists for people without one, as the micro-batch keeps them: what SQL is told of segments, and which lists are due.

Here: the parameters that the scripts on popularity share.
Not here: the scripts (kurashiru_pipeline/sql), the lists (core/impersonal.py), or the segments (core/segments.py).
"""

from datetime import datetime

from kurashiru_pipeline.core.items import DEFAULT_USER
from kurashiru_pipeline.core.segments import (
    HOURS_AHEAD_OF_UTC,
    PARTS_OF_DAY,
    PLATFORM_SEGMENTS,
    PLATFORMS,
    SEGMENT_PREFIX,
    TAG_SEGMENTS,
)
from kurashiru_pipeline.core.weights import Weights
from kurashiru_pipeline.warehouse.base import Parameter, Warehouse


def counting_rules(weights: Weights) -> dict[str, Parameter]:
    """How update_popularity.sql weighs and sorts a behaviour."""
    return {
        **_half_lives(weights),
        "action_weights": weights.actions.model_dump(),
        "hours_ahead_of_utc": HOURS_AHEAD_OF_UTC,
        "latest_parts_first": dict(reversed(PARTS_OF_DAY.items())),
        "part_over_midnight": list(PARTS_OF_DAY)[-1],
        "platforms": PLATFORMS,
        "segment_prefix": SEGMENT_PREFIX,
    }


def renewal_rules(weights: Weights) -> dict[str, Parameter]:
    """By what due_segments.sql says that a list is due."""
    return {
        **_half_lives(weights),
        "default_user": DEFAULT_USER,
        "renew_seconds": weights.segments.renew_hours * 3600,
        "renew_share": weights.segments.renew_share,
    }


def due_lists(warehouse: Warehouse, weights: Weights, watermark_at: datetime) -> list[str]:
    """Keys of the lists without a user that a micro-batch makes: `#default` always, those of segments when due."""
    due = warehouse.fetch("due_segments", watermark_at=watermark_at, **renewal_rules(weights))["segment"].to_pylist()
    tags = TAG_SEGMENTS if DEFAULT_USER in due else ()
    return [DEFAULT_USER, *(segment for segment in due if segment in PLATFORM_SEGMENTS), *tags]


def _half_lives(weights: Weights) -> dict[str, Parameter]:
    return {
        "half_life_seconds": weights.popularity.half_life_days * 86_400,
        "segment_half_life_seconds": weights.segments.half_life_days * 86_400,
    }
