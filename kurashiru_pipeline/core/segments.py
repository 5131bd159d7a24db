"""Segments of people without a list of their own: which there are, and which one serves a request.

Here: platforms, parts of the day and value tags, the keys of their lists, and the order in which a reader tries them.
Not here: the lists (impersonal.py), or what is popular in a segment (sql/update_popularity.sql).

The keys are part of the contract with readers (docs/contracts.md), so they are no setting. Light to import: the read
API needs nothing else of the kernel.
"""

from datetime import datetime, timedelta
from itertools import product
from typing import Final

from kurashiru_pipeline.core.items import DEFAULT_USER

PLATFORMS: Final = ("ios", "android", "web")
VALUE_TAGS: Final = ("time_saving", "savings", "microwave", "weight_loss", "baby_food", "entertainment")
PARTS_OF_DAY: Final = {"morning": 5, "noon": 10, "evening": 15, "night": 21}
"""First hour of each part in Japan; a part lasts until the next one begins, the night until the morning."""
HOURS_AHEAD_OF_UTC: Final = 9
"""Japan's clock; it knows no summer time."""

SEGMENT_PREFIX: Final = "#segment:"
_TAG: Final = f"{SEGMENT_PREFIX}tag:"

PLATFORM_SEGMENTS: Final = tuple(
    f"{SEGMENT_PREFIX}{platform}:{part}" for platform, part in product(PLATFORMS, PARTS_OF_DAY)
)
TAG_SEGMENTS: Final = {f"{_TAG}{tag}": tag for tag in VALUE_TAGS}


def part_of_day(now: datetime) -> str:
    """Part of the day in Japan at a moment (naive UTC)."""
    hour = (now + timedelta(hours=HOURS_AHEAD_OF_UTC)).hour
    begun = [part for part, first_hour in PARTS_OF_DAY.items() if first_hour <= hour]
    return begun[-1] if begun else list(PARTS_OF_DAY)[-1]


def fallbacks(now: datetime, *, platform: str | None = None, tag: str | None = None) -> list[str]:
    """Keys of the lists for somebody without one, the first that is there to be served; unknown words are passed over.

    Args:
        now: naive UTC.
        platform: one of PLATFORMS.
        tag: a value tag that they said they like, one of VALUE_TAGS: it tells more of them than their device.
    """
    keys = (f"{_TAG}{tag}", f"{SEGMENT_PREFIX}{platform}:{part_of_day(now)}")
    return [*(key for key in keys if key in TAG_SEGMENTS or key in PLATFORM_SEGMENTS), DEFAULT_USER]
