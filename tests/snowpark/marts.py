"""Marts to learn from, small enough to check by eye, and the same in Snowpark's local testing.

Here: the tables of core/candidate.TRAINING_TABLES, as Arrow and as tables of a session.
Not here: expectations.
"""

import random
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kurashiru_pipeline.core.candidate import (
    IMPRESSIONS,
    QUERIES,
    QUERY_BEHAVIORS,
    RECIPES,
    STATISTICS,
    TRAINING_TABLES,
    TRANSITIONS,
    WINDOWS,
)
from tests.kitchen import NOW

if TYPE_CHECKING:
    from snowflake.snowpark import Session

NAMES = [f"recipe-{number:02d}" for number in range(30)]
AS_OF = {"holdout": NOW, "learning": NOW - timedelta(days=1), "impressions": NOW - timedelta(days=1)}


def training_tables(seed: int = 11, queries: int = 40) -> dict[str, pa.Table]:
    """Users go from recipe n to n + 1; what they are asked, and what they click, is such a step.

    Args:
        queries: of each role.
    """
    rng = random.Random(seed)
    known = {"holdout_weight": 4.0, "holdout_live_weight": 2.0, "learning_weight": 3.0, "learning_live_weight": 1.5}
    transitions = [
        {"from_recipe_id": name, "to_recipe_id": after, "weight": 5.0 + rng.random(), "live_weight": 3.0, **known}
        for name, after in pairwise(NAMES)
    ]
    transitions += [
        {
            "from_recipe_id": name,
            "to_recipe_id": rng.choice(NAMES),
            "weight": rng.random() + 0.1,
            "live_weight": 0.1,
            **dict.fromkeys(known, 0.0),
        }
        for name in NAMES
    ]
    statistics = [
        {
            "recipe_id": name,
            "interactions": number,
            "popularity": rng.random(),
            "holdout_interactions": number // 2,
            "holdout_popularity": rng.random(),
            "holdout_live_popularity": rng.random() * (number % 4),
            "learning_interactions": number // 3,
            "learning_popularity": rng.random(),
            "learning_live_popularity": rng.random() * (number % 4),
        }
        for number, name in enumerate(NAMES)
    ]
    asked: list[dict[str, Any]] = []
    behaviors: list[dict[str, Any]] = []
    for role in ("holdout", "learning", "impressions"):
        for number in range(queries):
            query = f"{role}-{number:03d}"
            asked.append(
                {
                    "query_id": query,
                    "query_role": role,
                    "user_id": f"user-{number // 2:03d}",
                    "preferred_tags": ["savings"] if number % 2 else None,
                    "target_recipe_id": None if role == "impressions" else NAMES[number % 29 + 1],
                    "asked_at": AS_OF[role] - timedelta(minutes=number),
                    "as_of": AS_OF[role],
                }
            )
            behaviors += [
                {
                    "query_id": query,
                    "event_id": f"event-{number:03d}-{step}",
                    "event_name": "search" if step == 1 else "recipe_view",
                    "recipe_id": None if step == 1 else NAMES[number % 29 - step],
                    "detail": "卵" if step == 1 else None,
                    "occurred_at": AS_OF[role] - timedelta(hours=step, microseconds=number + 1),
                }
                for step in range(3)
                if step <= number % 29
            ]
    impressions = [
        {
            "query_id": f"impressions-{number:03d}",
            "recipe_id": NAMES[(number + place) % 29 + 1],
            "display_position": (place + number) % 3,
            "is_clicked": place == 0,
        }
        for place in range(3)
        for number in range(queries)
    ]
    recipes = [
        {
            "recipe_id": name,
            "value_tags": ["savings"] if number % 3 else [],
            "ingredients": ["卵", "豚肉"][: number % 3],
            "author_id": f"author-{number % 4}",
            "published_at": NOW - timedelta(days=number + 10, microseconds=5),
            "is_deleted": number == 7,
        }
        for number, name in enumerate(NAMES)
    ]
    windows = [{"learn_from_on": AS_OF["learning"].date(), "cut_on": NOW.date(), "newest_on": NOW.date()}]
    rows: dict[str, list[dict[str, Any]]] = {
        WINDOWS: windows,
        TRANSITIONS: transitions,
        STATISTICS: statistics,
        QUERIES: asked,
        QUERY_BEHAVIORS: behaviors,
        IMPRESSIONS: impressions,
        RECIPES: recipes,
    }
    return {name: pa.Table.from_pylist(rows[name], schema=schema) for name, schema in TRAINING_TABLES.items()}


def save_tables(session: "Session", tables: dict[str, pa.Table]) -> None:
    """Tables of a session in local testing, their columns upper case as in Snowflake."""
    from snowflake.snowpark import types

    def kind(column: Any) -> Any:
        if pa.types.is_list(column):
            return types.ArrayType(types.StringType())
        if pa.types.is_timestamp(column):
            return types.TimestampType(types.TimestampTimeZone.NTZ)
        if pa.types.is_date(column):
            return types.DateType()
        if pa.types.is_boolean(column):
            return types.BooleanType()
        return types.DoubleType() if pa.types.is_floating(column) else types.StringType()

    for name, table in tables.items():
        schema = types.StructType([types.StructField(field.name.upper(), kind(field.type)) for field in table.schema])
        rows = [tuple(row.values()) for row in table.to_pylist()]
        session.create_dataframe(rows, schema=schema).write.mode("overwrite").save_as_table(name)
