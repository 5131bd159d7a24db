"""A candidate for the model in service: trained from the marts, judged on the newest days.

Here: which columns training reads, the hold-out answer with the model and without, and what speaks against a candidate.
Not here: the formula and the metrics (training.py), where the cut lies (dbt: marts.model_holdout), who reads the marts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.training import evaluate_next_item, train_artifact
from kurashiru_pipeline.core.weights import Weights

TRANSITIONS = "marts.recipe_transitions"
STATISTICS = "marts.recipe_statistics"
HOLDOUT_BEHAVIORS = "marts.model_holdout_behaviors"
RECIPES = "staging.stg_kurashiru__recipes"

_TEXTS: Any = pa.list_(pa.string())
_NUMBER, _TEXT, _TIME = pa.float64(), pa.string(), pa.timestamp("us")


def _columns(**types: Any) -> pa.Schema:
    return pa.schema(list(types.items()))


TRAINING_TABLES: Mapping[str, pa.Schema] = {
    TRANSITIONS: _columns(from_recipe_id=_TEXT, to_recipe_id=_TEXT, weight=_NUMBER, holdout_weight=_NUMBER),
    STATISTICS: _columns(
        recipe_id=_TEXT,
        interactions=_NUMBER,
        popularity=_NUMBER,
        holdout_interactions=_NUMBER,
        holdout_popularity=_NUMBER,
    ),
    HOLDOUT_BEHAVIORS: _columns(
        query_id=_TEXT,
        event_id=_TEXT,
        event_name=_TEXT,
        recipe_id=_TEXT,
        detail=_TEXT,
        occurred_at=_TIME,
        as_of=_TIME,
        target_recipe_id=_TEXT,
    ),
    RECIPES: _columns(
        recipe_id=_TEXT, value_tags=_TEXTS, ingredients=_TEXTS, published_at=_TIME, is_deleted=pa.bool_()
    ),
}
"""The columns training reads, by table. Whoever trains reads exactly these; dbt_project/models says what they mean."""


@dataclass(frozen=True)
class Holdout:
    """NDCG@10 of next-item queries from the days kept back, with the model and without one; None if none could be
    asked, because the history is too short to keep a day back."""

    queries: int = 0
    ndcg: float | None = None
    ndcg_without_model: float | None = None
    recall: float | None = None
    coverage: float | None = None

    @property
    def is_passed(self) -> bool:
        """Whether the model is at least as good as none; what cannot be measured does not hold a model back."""
        return self.ndcg is None or self.ndcg_without_model is None or self.ndcg >= self.ndcg_without_model


def train_candidate(tables: Mapping[str, pa.Table], weights: Weights, version: str) -> ModelArtifact | None:
    """The artifact learned from all interactions, with its hold-out in the metadata; None if there is nothing to learn.

    Args:
        tables: all of TRAINING_TABLES, in their schemas.
    """
    transitions = tables[TRANSITIONS]
    if not len(transitions):
        return None
    holdout = evaluate_holdout(tables, weights)
    return train_artifact(
        transitions,
        tables[STATISTICS],
        weights,
        version=version,
        metadata={
            "transitions": len(transitions),
            "holdout": {**asdict(holdout), "is_passed": holdout.is_passed},
            "weights": weights.model_dump(),
        },
    )


def objection(candidate: ModelArtifact) -> str | None:
    """Why a candidate must not be put in service; None when nothing speaks against it."""
    if not candidate.neighbours.nnz:
        return "it is empty"
    if not candidate.metadata["holdout"]["is_passed"]:
        return "on the newest days it was worse than no model"
    return None


def evaluate_holdout(tables: Mapping[str, pa.Table], weights: Weights) -> Holdout:
    """Train without the days from marts.model_holdout.cut_on on, then foretell interactions of those days."""
    statistics, behaviors = tables[STATISTICS], tables[HOLDOUT_BEHAVIORS]
    transitions = pa.table(
        {
            "from_recipe_id": tables[TRANSITIONS]["from_recipe_id"],
            "to_recipe_id": tables[TRANSITIONS]["to_recipe_id"],
            "weight": tables[TRANSITIONS]["holdout_weight"],
        }
    )
    transitions = transitions.filter(pc.field("weight") > 0)
    if not len(transitions) or not len(behaviors):
        return Holdout()
    recipes = pa.table(
        {
            "recipe_id": statistics["recipe_id"],
            "interactions": statistics["holdout_interactions"],
            "popularity": statistics["holdout_popularity"],
        }
    )
    catalogue = Catalogue.from_arrow(tables[RECIPES])
    as_of = pc.max(behaviors["as_of"]).as_py()
    assert isinstance(as_of, datetime)
    # A query is a user of its own, with the past its user had then.
    profiles = build_profiles(behaviors.append_column("user_id", behaviors["query_id"]), catalogue, weights, as_of)
    row = pc.index_in(profiles["user_id"], behaviors["query_id"])  # all rows of a query have its target
    queries = profiles.append_column("target", behaviors["target_recipe_id"].take(row))
    popularity = pa.table(
        {
            "recipe_id": recipes["recipe_id"],
            "decayed_count": recipes["popularity"],
            "decayed_at": pa.repeat(pa.scalar(as_of, pa.timestamp("us")), len(recipes)),
        }
    )
    artifact = train_artifact(transitions, recipes, weights, version="holdout", metadata={})
    with_model = evaluate_next_item(queries, catalogue, popularity, artifact, weights, as_of)
    without = evaluate_next_item(queries, catalogue, popularity, None, weights, as_of)
    return Holdout(
        queries=len(queries),
        ndcg=with_model["ndcg"],
        ndcg_without_model=without["ndcg"],
        recall=with_model["recall"],
        coverage=with_model["coverage"],
    )
