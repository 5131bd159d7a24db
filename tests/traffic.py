"""Small landed files for tests: events, recipes and users that keep the contract."""

import gzip
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

TAGS = ("time_saving", "savings", "microwave", "weight_loss", "baby_food", "entertainment")
NAMES = ("recipe_view", "recipe_view", "recipe_favorite", "recipe_cooked", "search", "recipe_impression")
INGREDIENTS = ("cabbage", "egg", "pork", "tofu", "rice", "tomato", "salmon")


def event(number: int, *, users: int = 5, recipes: int = 30, **changes: Any) -> dict[str, Any]:
    """A valid event, the same for the same number; `changes` replace fields."""
    draw = random.Random(number)
    name = draw.choice(NAMES)
    moment = datetime.now(tz=UTC).replace(minute=0, second=0, microsecond=0) - timedelta(seconds=number % 7200)
    made = {
        "event_id": str(UUID(int=number + 1)),
        "event_name": name,
        "user_id": f"u{draw.randrange(users)}",
        "session_id": None,
        "recipe_id": None if name == "search" else f"r{draw.randrange(recipes)}",
        "occurred_at": moment.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
        "platform": "ios",
        "app_version": "1.0",
        "properties": {"query": draw.choice(INGREDIENTS)} if name == "search" else {},
    }
    return {**made, **changes}


def lines(events: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(one).encode() + b"\n" for one in events)


def put(landing: Path, name: str, content: bytes) -> Path:
    """Write elsewhere, then rename into place."""
    path = landing / name
    path.parent.mkdir(parents=True, exist_ok=True)
    incoming = landing / ".incoming"
    incoming.mkdir(exist_ok=True)
    temporary = incoming / path.name
    temporary.write_bytes(content)
    return temporary.rename(path)


def land(landing: Path, name: str, *, events: int, first: int | None = None, users: int = 5) -> list[dict[str, Any]]:
    """Land `events` valid events in one file, with the catalogue if it is not there yet."""
    if not (landing / "recipes").exists():
        land_recipes(landing)
    start = sum(map(ord, name)) * 100_000 if first is None else first
    made = [event(start + offset, users=users) for offset in range(events)]
    land_events(landing, name, made)
    return made


def land_events(landing: Path, name: str, events: list[dict[str, Any]]) -> None:
    """Land these events in one file."""
    put(landing, f"events/2026/01/01/00/{name}.gz", gzip.compress(lines(events), mtime=0))


def land_recipes(landing: Path, name: str = "recipes", *, count: int = 30, **changes: list[Any]) -> None:
    """Land a recipe export; `changes` replace columns."""
    moment = datetime(2026, 1, 1)
    columns = {
        "recipe_id": [f"r{number}" for number in range(count)],
        "title": [f"{INGREDIENTS[number % 7]} dish {number}" for number in range(count)],
        "author_id": [f"a{number % 4}" for number in range(count)],
        "author_type": ["kurashiru_chef"] * count,
        "ingredients": [[INGREDIENTS[number % 7], "salt"] for number in range(count)],
        "value_tags": [[TAGS[number % 6]] for number in range(count)],
        "cooking_minutes": pa.array([10] * count, pa.int32()),
        "cost_yen": pa.array([200] * count, pa.int32()),
        "calories_kcal": pa.array([300] * count, pa.int32()),
        "published_at": [moment] * count,
        "updated_at": [moment] * count,
        "is_deleted": [False] * count,
    }
    _put_table(landing, f"recipes/{name}.parquet", {**columns, **changes})


def land_users(
    landing: Path,
    name: str,
    user_ids: list[str],
    *,
    updated_at: datetime,
    is_deleted: bool = False,
    preferred_tags: Sequence[str] = ("savings",),
) -> None:
    """Land a user export."""
    count = len(user_ids)
    columns = {
        "user_id": user_ids,
        "registered_at": [datetime(2026, 1, 1)] * count,
        "preferred_tags": pa.array([preferred_tags] * count, pa.list_(pa.string())),
        "updated_at": [updated_at] * count,
        "is_deleted": [is_deleted] * count,
    }
    _put_table(landing, f"users/{name}.parquet", columns)


def _put_table(landing: Path, name: str, columns: dict[str, Any]) -> None:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    put(landing, name, sink.getvalue().to_pybytes())
