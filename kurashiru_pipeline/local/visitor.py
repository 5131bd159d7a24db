"""A visitor of the demonstration: what one person sees before and after doing a few things.

Here: their events, landed as everybody's are, and their list as the API reads it, each time it is another.
Not here: the pipeline in between (the sensor's runs do the work), or how it is printed (demo.py).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import orjson

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.local.landing import events_key, pack_lines, place
from kurashiru_pipeline.realtime.inquiry import Hypothetical
from kurashiru_pipeline.realtime.lookup import look_up
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse import open_warehouse

_PATIENCE_SECONDS = 120
_LOOK_SECONDS = 0.1
_YESTERDAY = timedelta(days=1)


@dataclass(frozen=True)
class Visit:
    """What a visitor did, and the lists of `kurashiru recommend` before and after.

    Attributes:
        yesterday: what `before` comes of.
        today: what `after` comes of as well.
        seconds: from landing today's events to reading the list that comes of them.
        titles: of the recipes they did something with.
    """

    user_id: str
    yesterday: Sequence[Hypothetical]
    today: Sequence[Hypothetical]
    before: dict[str, Any]
    after: dict[str, Any]
    seconds: float
    titles: Mapping[str, str]


def visit(settings: Settings) -> Visit:
    """Have somebody new cook and look at recipes yesterday, and want something else today.

    Raises:
        KurashiruError: nobody is offered a choice of recipes yet, or no new list came.
    """
    user_id = f"visitor-{uuid4().hex[:8]}"
    titles = {recipe["recipe_id"]: recipe["title"] for recipe in look_up(settings, user_id)["recipes"]}
    offered = list(titles)
    if len(offered) < 3:
        raise KurashiruError(
            f"only {len(offered)} recipes are offered to visitors; land more, and run: kurashiru drain"
        )
    with open_warehouse(settings, read_only=True) as warehouse:
        rows = warehouse.fetch("recipes").to_pylist()
    ingredients = {id_: row["ingredients"] or [titles[id_]] for row in rows if (id_ := row["recipe_id"]) in titles}
    cooked, viewed, *others = offered
    known = {*ingredients[cooked], *ingredients[viewed]}
    wanted = next((recipe_id for recipe_id in others if not known & set(ingredients[recipe_id])), others[-1])
    yesterday = [Hypothetical("recipe_view", viewed), Hypothetical("recipe_cooked", cooked)]
    today = [
        Hypothetical("search", detail=ingredients[wanted][0]),
        Hypothetical("recipe_view", wanted),
        Hypothetical("recipe_favorite", wanted),
    ]
    table = RecommendationTable.from_settings(settings)
    _do(settings, table, user_id, yesterday, datetime.now(UTC) - _YESTERDAY)
    before = look_up(settings, user_id)
    seconds = _do(settings, table, user_id, today, datetime.now(UTC))
    return Visit(user_id, yesterday, today, before, look_up(settings, user_id), seconds, titles)


def _do(
    settings: Settings, table: RecommendationTable, user_id: str, events: Sequence[Hypothetical], newest_at: datetime
) -> float:
    """Land events a second apart and wait until the user's item is another; how long that took."""
    before = table.read(user_id)
    lines = b"".join(
        orjson.dumps(_line(event, user_id, newest_at - timedelta(seconds=len(events) - 1 - number))) + b"\n"
        for number, event in enumerate(events)
    )
    place(settings.landing, events_key(datetime.now(UTC), uuid4()), pack_lines(lines))
    landed = time.monotonic()
    while True:
        found = table.read(user_id)
        if found is not None and (before is None or found.version > before.version):
            return time.monotonic() - landed
        if time.monotonic() - landed > _PATIENCE_SECONDS:
            message = f"no new list of {user_id} came within {_PATIENCE_SECONDS} s; see: kurashiru status"
            raise KurashiruError(message)
        time.sleep(_LOOK_SECONDS)


def _line(event: Hypothetical, user_id: str, occurred_at: datetime) -> dict[str, Any]:
    """An event of docs/contracts.md."""
    return {
        "event_id": str(uuid4()),
        "event_name": event.event_name,
        "user_id": user_id,
        "session_id": None,
        "recipe_id": event.recipe_id,
        "occurred_at": f"{occurred_at:%Y-%m-%dT%H:%M:%S}.{occurred_at.microsecond // 1000:03d}Z",
        "platform": "ios",
        "app_version": "1.0.0",
        "properties": {"query": event.detail} if event.detail is not None else {},
    }
