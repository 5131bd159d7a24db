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
    HOLDOUT_BEHAVIORS,
    RECIPES,
    STATISTICS,
    TRAINING_TABLES,
    TRANSITIONS,
)
from tests.kitchen import NOW

if TYPE_CHECKING:
    from snowflake.snowpark import Session

NAMES = [f"recipe-{number:02d}" for number in range(30)]


def training_tables(seed: int = 11, queries: int = 40) -> dict[str, pa.Table]:
    """Users go from recipe n to n + 1; what they are asked is such a step."""
    rng = random.Random(seed)
    transitions = [
        {"from_recipe_id": name, "to_recipe_id": after, "weight": 5.0 + rng.random(), "holdout_weight": 4.0}
        for name, after in pairwise(NAMES)
    ]
    transitions += [
        {"from_recipe_id": name, "to_recipe_id": rng.choice(NAMES), "weight": rng.random() + 0.1, "holdout_weight": 0.0}
        for name in NAMES
    ]
    statistics = [
        {
            "recipe_id": name,
            "interactions": number,
            "popularity": rng.random(),
            "holdout_interactions": number // 2,
            "holdout_popularity": rng.random(),
        }
        for number, name in enumerate(NAMES)
    ]
    behaviors = [
        {
            "query_id": f"query-{number:03d}",
            "event_id": f"event-{number:03d}-{step}",
            "event_name": "search" if step == 1 else "recipe_view",
            "recipe_id": None if step == 1 else NAMES[number % 29 - step],
            "detail": "卵" if step == 1 else None,
            "occurred_at": NOW - timedelta(hours=step, microseconds=number),
            "as_of": NOW,
            "target_recipe_id": NAMES[number % 29 + 1],
        }
        for number in range(queries)
        for step in range(3)
        if step <= number % 29
    ]
    recipes = [
        {
            "recipe_id": name,
            "value_tags": ["savings"] if number % 3 else [],
            "ingredients": ["卵", "豚肉"][: number % 3],
            "published_at": NOW - timedelta(days=number, microseconds=5),
            "is_deleted": number == 7,
        }
        for number, name in enumerate(NAMES)
    ]
    rows: dict[str, list[dict[str, Any]]] = {
        TRANSITIONS: transitions,
        STATISTICS: statistics,
        HOLDOUT_BEHAVIORS: behaviors,
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
        if pa.types.is_boolean(column):
            return types.BooleanType()
        return types.DoubleType() if pa.types.is_floating(column) else types.StringType()

    for name, table in tables.items():
        schema = types.StructType([types.StructField(field.name.upper(), kind(field.type)) for field in table.schema])
        rows = [tuple(row.values()) for row in table.to_pylist()]
        session.create_dataframe(rows, schema=schema).write.mode("overwrite").save_as_table(name)
