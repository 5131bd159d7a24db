"""Synthetic rows of the realtime lake, written by hand so that every test knows the truth in plain Python.

Here: events with the faults a real stream has (redeliveries, late events, names and ids nobody knows), and writing
them into the tables that the near-real-time job owns.
Not here: expectations; each test derives its own.
"""

import json
import random
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa

from kurashiru_pipeline.core.canary import Canary
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.warehouse import open_warehouse
from kurashiru_pipeline.warehouse.ducklake import attach, connect

FIRST_DAY = datetime(2026, 10, 1)
DAYS = 12
BATCHES_A_DAY = 2
CANARY = Canary("v2", 0.4, FIRST_DAY)
TAGS = ("time_saving", "savings", "microwave", "weight_loss", "baby_food", "entertainment")
PLAIN_NAMES = (
    "recipe_impression",
    "recipe_view",
    "recipe_view",
    "recipe_view",
    "recipe_favorite",
    "recipe_unfavorite",
    "recipe_cooked",
    "shopping_list_add",
    "search",
    "video_paused",  # a name the contract does not know
)


@dataclass(frozen=True)
class Event:
    """One row of staging.behavior_events."""

    event_id: str
    event_name: str
    user_id: str
    recipe_id: str | None
    occurred_at: datetime
    batch_id: int
    properties: dict[str, object] | None = None

    @property
    def loaded_at(self) -> datetime:
        """Batches are loaded twelve hours apart."""
        return FIRST_DAY + timedelta(hours=12 * self.batch_id, minutes=1)


def make_events(seed: int = 5, users: int = 24, recipes: int = 18) -> list[Event]:
    """About 1,500 events in 24 batches: 1 in 20 late by up to five days, 1 in 25 delivered again much later."""
    rng = random.Random(seed)
    events: list[Event] = []
    batches = DAYS * BATCHES_A_DAY

    def add(
        name: str, user: str, recipe: str | None, at: datetime, properties: dict[str, object] | None = None
    ) -> None:
        batch = int((at - FIRST_DAY) / timedelta(hours=12)) + 1
        if rng.random() < 0.05:
            batch += rng.randint(1, 10)
        event = Event(
            str(uuid.UUID(int=rng.getrandbits(128), version=4)),
            name,
            user,
            recipe,
            at,
            min(batch, batches),
            properties,
        )
        events.append(event)
        if rng.random() < 0.04 and event.batch_id + 3 <= batches:
            events.append(replace(event, batch_id=event.batch_id + 3))

    for user_number in range(users):
        user = f"user-{user_number:02d}"
        first_day = rng.randrange(DAYS - 1)
        for day in range(first_day, DAYS):
            if day > first_day and rng.random() < 0.45:
                continue
            at = FIRST_DAY + timedelta(days=day, seconds=rng.randrange(70_000))
            for _ in range(rng.randint(2, 14)):
                at += timedelta(seconds=rng.randint(0, 900))
                recipe = f"recipe-{min(rng.randrange(recipes), rng.randrange(recipes)):02d}"
                name = rng.choice(PLAIN_NAMES)
                if name == "search":
                    add(name, user, None, at, {"query": rng.choice(("卵", "豚肉 キャベツ"))})
                else:
                    add(name, user, recipe if rng.random() > 0.02 else None, at)
            list_id = f"{rng.randint(1, 3)}"
            for position in range(3):
                recipe = f"recipe-{rng.randrange(recipes):02d}"
                shown = {"recommendation_id": list_id, "position": position, "surface": "home"}
                for _ in range(rng.randint(1, 2)):
                    at += timedelta(seconds=rng.randint(0, 60))
                    add("recommendation_impression", user, recipe, at, shown)
                for _ in range(rng.choice((0, 0, 1, 2))):
                    add(
                        "recommendation_click",
                        user,
                        recipe,
                        at + timedelta(hours=rng.choice((0, 1, 30))),
                        shown,
                    )
    horizon = FIRST_DAY + timedelta(days=DAYS)
    return [event for event in events if event.occurred_at < horizon]


def settings_for(home: Path) -> Settings:
    """Settings of the local environment with all state below `home`."""
    return Settings.load(Environment.LOCAL, {"KURASHIRU_HOME": str(home)})


def make_lake(home: Path) -> Settings:
    """An empty realtime lake, made by the engine that owns it."""
    settings = settings_for(home)
    open_warehouse(settings).close()
    return settings


def recipe_rows(recipes: int = 18) -> list[dict[str, object]]:
    """Rows of staging.recipes without the last recipe, which only events know; one is deleted."""
    return [
        {
            "recipe_id": f"recipe-{number:02d}",
            "title": f"レシピ {number}",
            "author_id": "author-1",
            "author_type": "kurashiru_chef",
            "ingredients": ["卵", "豚肉"][: number % 3],
            "value_tags": [TAGS[number % len(TAGS)]],
            "cooking_minutes": 10 + number,
            "cost_yen": 300,
            "calories_kcal": 500,
            "published_at": FIRST_DAY + timedelta(days=number % 5),
            "updated_at": FIRST_DAY,
            "is_deleted": number == 3,
        }
        for number in range(recipes - 1)
    ]


def user_rows(users: int = 24) -> list[dict[str, object]]:
    """Rows of staging.users without the last user, whom only events know; one is deleted."""
    return [
        {
            "user_id": f"user-{number:02d}",
            "registered_at": FIRST_DAY,
            "preferred_tags": [TAGS[number % len(TAGS)]],
            "updated_at": FIRST_DAY,
            "is_deleted": number == 2,
        }
        for number in range(users - 1)
    ]


def event_rows(events: list[Event]) -> list[dict[str, object]]:
    """Rows of staging.behavior_events; `properties` is an object."""
    return [
        {
            "event_id": event.event_id,
            "event_name": event.event_name,
            "user_id": event.user_id,
            "session_id": f"{event.user_id}-{event.occurred_at:%d}",
            "recipe_id": event.recipe_id,
            "occurred_at": event.occurred_at,
            "platform": "ios",
            "app_version": "1.2.3",
            "properties": event.properties,
            "batch_id": event.batch_id,
            "landed_at": event.loaded_at - timedelta(seconds=20),
            "loaded_at": event.loaded_at,
        }
        for event in events
    ]


def model_rows(canary: Canary = CANARY) -> list[dict[str, object]]:
    """Rows of ops.batch_models: lists 2 and 3 were made with a canary."""
    tried = {
        "challenger_version": canary.version,
        "challenger_share": canary.share,
        "challenger_threshold": canary.threshold,
        "canary_started_at": canary.started_at,
    }
    return [
        {"batch_id": batch, "model_version": "v1", **(tried if batch in {2, 3} else dict.fromkeys(tried))}
        for batch in range(1, DAYS * BATCHES_A_DAY + 1)
    ]


def write_catalogue(settings: Settings) -> None:
    """Exports of recipes and users, and which models made the lists."""
    _insert(settings, "staging.recipes", recipe_rows())
    _insert(settings, "staging.users", user_rows())
    _insert(settings, "ops.batch_models", model_rows())


def write_events(settings: Settings, events: list[Event]) -> None:
    """Append events as the micro-batches they belong to would."""
    rows = [
        {**row, "properties": None if row["properties"] is None else json.dumps(row["properties"])}
        for row in event_rows(events)
    ]
    _insert(settings, "staging.behavior_events", rows)


def _insert(settings: Settings, table: str, rows: list[dict[str, object]]) -> None:
    with connect() as connection:
        attach(connection, settings.folder("KURASHIRU_LAKE") / "realtime", "realtime", read_only=False)
        connection.register("incoming", pa.Table.from_pylist(rows))
        connection.execute(f"insert into realtime.{table} by name select * from incoming")


def read_tables(settings: Settings, schemas: tuple[str, ...] = ("intermediate", "marts")) -> dict[str, list[dict]]:
    """Every table dbt made, as sorted rows; floats rounded to what summing in another order may change."""
    with connect() as connection:
        for lake in ("analytics", "realtime"):
            attach(connection, settings.folder("KURASHIRU_LAKE") / lake, lake, read_only=True)
        names = connection.execute(
            "select schema_name, table_name from duckdb_tables() where database_name = 'analytics'"
        ).fetchall()
        return {
            f"{schema}.{table}": rounded(
                connection.execute(f"select * from analytics.{schema}.{table}").to_arrow_table().to_pylist()
            )
            for schema, table in names
            if schema in schemas
        }


def rounded(rows: Iterable[dict]) -> list[dict]:
    """Rows in an order of their own, floats rounded to what summing in another order may change."""
    return sorted(
        ({name: round(value, 9) if isinstance(value, float) else value for name, value in row.items()} for row in rows),
        key=repr,
    )
