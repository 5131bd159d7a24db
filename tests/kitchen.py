"""Small recipes, behaviours and models for the kernel's tests."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.weights import Weights, load_weights

NOW = datetime(2026, 11, 23, 9, 30)
LONG_AGO = 400.0

_RECIPES = pa.schema(
    [
        ("recipe_id", pa.string()),
        ("title", pa.string()),
        ("value_tags", pa.list_(pa.string())),
        ("ingredients", pa.list_(pa.string())),
        ("published_at", pa.timestamp("us")),
        ("is_deleted", pa.bool_()),
    ]
)
_BEHAVIORS = pa.schema(
    [
        ("user_id", pa.string()),
        ("event_id", pa.string()),
        ("event_name", pa.string()),
        ("recipe_id", pa.string()),
        ("detail", pa.string()),
        ("occurred_at", pa.timestamp("us")),
    ]
)
_POPULARITY = pa.schema(
    [("recipe_id", pa.string()), ("decayed_count", pa.float64()), ("decayed_at", pa.timestamp("us"))]
)


def weights(**sections: Any) -> Weights:
    """The package's weights with some changed: weights(list_length=3, blend={"taste": 0.0})."""
    plain = load_weights().model_dump()
    for name, value in sections.items():
        plain[name] = plain[name] | value if isinstance(value, dict) else value
    return Weights.model_validate(plain)


def recipe(
    recipe_id: str,
    tags: str = "",
    ingredients: str = "",
    *,
    days_old: float = LONG_AGO,
    is_deleted: bool = False,
) -> dict[str, Any]:
    """One recipe; tags and ingredients are words."""
    return {
        "recipe_id": recipe_id,
        "title": recipe_id.title(),
        "value_tags": tags.split(),
        "ingredients": ingredients.split(),
        "published_at": NOW - timedelta(days=days_old),
        "is_deleted": is_deleted,
    }


def recipes_table(*recipes: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(recipes), schema=_RECIPES)


def catalogue(*recipes: dict[str, Any]) -> Catalogue:
    return Catalogue.from_arrow(recipes_table(*recipes))


def did(
    user_id: str, event_name: str, recipe_id: str | None = None, *, days_ago: float = 0.0, detail: str | None = None
) -> dict[str, Any]:
    """One behaviour."""
    return {
        "user_id": user_id,
        "event_name": event_name,
        "recipe_id": recipe_id,
        "detail": detail,
        "occurred_at": NOW - timedelta(days=days_ago),
    }


def behaviors_table(*behaviors: dict[str, Any]) -> pa.Table:
    rows = [{"event_id": f"e{number:04d}", **behavior} for number, behavior in enumerate(behaviors)]
    return pa.Table.from_pylist(rows, schema=_BEHAVIORS)


def popularity(**counts: float) -> pa.Table:
    """Live popularity as of NOW."""
    rows = [{"recipe_id": name, "decayed_count": count, "decayed_at": NOW} for name, count in counts.items()]
    return pa.Table.from_pylist(rows, schema=_POPULARITY)


def model(transitions: dict[tuple[str, str], float], trained: dict[str, float] | None = None) -> ModelArtifact:
    """A model version "m1" with these transitions and trained popularity."""
    names = sorted({name for pair in transitions for name in pair} | set(trained or {}))
    place = {name: at for at, name in enumerate(names)}
    rows = [place[source] for source, _ in transitions]
    columns = [place[target] for _, target in transitions]
    values = np.array(list(transitions.values()), np.float32)
    neighbours = sparse.coo_array((values, (rows, columns)), shape=(len(names), len(names))).tocsr()
    neighbours.sort_indices()
    counts = np.array([(trained or {}).get(name, 0.0) for name in names])
    return ModelArtifact("m1", np.array(names, dtype=np.str_), neighbours, counts)
