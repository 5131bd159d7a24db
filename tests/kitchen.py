"""Small recipes, behaviours and models for the kernel's tests."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.model import FEATURES
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
        ("author_id", pa.string()),
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
_SUGGESTIONS = pa.schema(
    [("user_id", pa.string()), ("recipe_ids", pa.list_(pa.string())), ("scores", pa.list_(pa.float64()))]
)
_PREFERENCES = pa.schema([("user_id", pa.string()), ("preferred_tags", pa.list_(pa.string()))])


def weights(**sections: Any) -> Weights:
    """The package's weights with some changed: weights(list_length=3, blend={"taste": 0.0})."""
    return changed(load_weights(), **sections)


def changed(rules: Weights, **sections: Any) -> Weights:
    """Weights with some changed."""
    return Weights.model_validate(_changed(rules.model_dump(), sections))


def _changed(plain: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return plain | {
        name: _changed(plain[name], value) if isinstance(value, dict) else value for name, value in changes.items()
    }


def recipe(
    recipe_id: str,
    tags: str = "",
    ingredients: str = "",
    *,
    days_old: float = LONG_AGO,
    is_deleted: bool = False,
    author: str | None = None,
) -> dict[str, Any]:
    """One recipe; tags and ingredients are words."""
    return {
        "recipe_id": recipe_id,
        "title": recipe_id.title(),
        "value_tags": tags.split(),
        "ingredients": ingredients.split(),
        "published_at": NOW - timedelta(days=days_old),
        "is_deleted": is_deleted,
        "author_id": author,
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


def model(
    transitions: dict[tuple[str, str], float],
    trained: dict[str, float] | None = None,
    standing: dict[str, float] | None = None,
    learned: dict[str, float] | None = None,
) -> ModelArtifact:
    """A model version "m1" with these transitions, popularity as of training and of all time, and learned weights."""
    trained, standing = trained or {}, standing or {}
    names = sorted({name for pair in transitions for name in pair} | set(trained) | set(standing))
    place = {name: at for at, name in enumerate(names)}
    rows = [place[source] for source, _ in transitions]
    columns = [place[target] for _, target in transitions]
    values = np.array(list(transitions.values()), np.float32)
    neighbours = sparse.coo_array((values, (rows, columns)), shape=(len(names), len(names))).tocsr()
    neighbours.sort_indices()
    return ModelArtifact(
        version="m1",
        recipe_ids=np.array(names, dtype=np.str_),
        neighbours=neighbours,
        popularity=np.array([trained.get(name, 0.0) for name in names]),
        interactions=np.array([standing.get(name, 0.0) for name in names]),
        learned=learned or {},
    )


def reranker(**coefficients: float) -> str:
    """A re-ranker that has learned this sum of features, as text."""
    import lightgbm

    ranges = {"own_age": (-9, 12), "gap": (-9, 12), "recipe_age": (0, 7), "own_recipes": (0, 3), "blend": (-1, 2)}
    low, high = np.array([ranges.get(name, (0, 1)) for name in FEATURES]).T
    values = np.random.default_rng(2).uniform(low, high, (400, len(FEATURES)))
    label = sum(value * values[:, FEATURES.index(name)] for name, value in coefficients.items())
    rules = {"objective": "regression", "num_leaves": 8, "min_data_in_leaf": 5, "verbose": -1, "num_threads": 1}
    data = lightgbm.Dataset(values, label, feature_name=list(FEATURES))
    return lightgbm.train(rules, data, 15).model_to_string()


def suggestions(**users: dict[str, float]) -> pa.Table:
    """What an external recommender said: suggestions(u={"a": 0.9, "b": 0.2})."""
    rows = [{"user_id": user, "recipe_ids": list(said), "scores": list(said.values())} for user, said in users.items()]
    return pa.Table.from_pylist(rows, schema=_SUGGESTIONS)


def preferences(**users: list[str]) -> pa.Table:
    """Tastes that users stated: preferences(u=["savings"])."""
    rows = [{"user_id": user, "preferred_tags": tags} for user, tags in users.items()]
    return pa.Table.from_pylist(rows, schema=_PREFERENCES)
