"""How good the model is: trained without the newest days, asked to foretell them.

Here: the queries and the two answers that are compared, with the model and without.
Not here: where the cut lies (dbt: marts.model_holdout), the metrics (core/training.py), the decision
(model_assets.py).
"""

from dataclasses import dataclass
from datetime import datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.analytics.lake import read
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.events import MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.core.profiles import ACTION_OF_EVENT, build_profiles
from kurashiru_pipeline.core.training import evaluate_next_item, train_artifact
from kurashiru_pipeline.core.weights import Weights

MAX_QUERIES = 2_000


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


def evaluate_holdout(connection: duckdb.DuckDBPyConnection, weights: Weights, *, remembered: int) -> Holdout:
    """Train without the days from marts.model_holdout.cut_on on, then foretell interactions of those days.

    Args:
        connection: with both lakes attached, the analytics one in use.
        remembered: behaviours a user's profile is made from, as in the near-real-time path.
    """
    transitions = read(
        connection,
        "select from_recipe_id, to_recipe_id, holdout_weight as weight from marts.recipe_transitions "
        "where holdout_weight > 0",
    )
    behaviors = read(connection, _queries(remembered))
    if not len(transitions) or not len(behaviors):
        return Holdout()
    recipes = read(
        connection,
        "select recipe_id, holdout_interactions as interactions, holdout_popularity as popularity "
        "from marts.recipe_statistics",
    )
    catalogue = Catalogue.from_arrow(
        read(
            connection,
            "select recipe_id, value_tags, ingredients, published_at, is_deleted from staging.stg_kurashiru__recipes",
        )
    )
    as_of = pc.max(behaviors["as_of"]).as_py()
    assert isinstance(as_of, datetime)
    profiles = build_profiles(behaviors, catalogue, weights, as_of)
    row = pc.index_in(profiles["user_id"], behaviors["user_id"])  # all rows of a query have its target
    queries = profiles.append_column("target", behaviors["target"].take(row))
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


def _queries(remembered: int) -> str:
    """Behaviours before each interaction to foretell, as build_profiles reads them, `user_id` being the interaction.

    Foretold are changes from one recipe to another, at most MAX_QUERIES, drawn by the hash of their event_id. A profile
    speaks of one moment, so all behaviours are moved in time such that every interaction happens at `as_of`, the newest
    of them.
    """
    return f"""
        with interactions as (
            select
                *,
                lag(recipe_id) over (partition by user_id order by occurred_at, event_id) as previous_recipe_id
            from intermediate.int_behaviors_deduplicated
            where
                occurred_on >= (select cut_on from marts.model_holdout)
                and event_name in {tuple(ACTION_OF_EVENT)}
                and recipe_id is not null
        ),

        targets as (
            select
                event_id,
                user_id,
                recipe_id,
                occurred_at,
                max(occurred_at) over () as as_of
            from interactions
            where recipe_id != previous_recipe_id
            order by hash(event_id)
            limit {MAX_QUERIES}
        )

        select
            cast(targets.event_id as varchar) as user_id,
            cast(behaviors.event_id as varchar) as event_id,
            behaviors.event_name,
            behaviors.recipe_id,
            coalesce(behaviors.search_query, behaviors.ingredient) as detail,
            targets.as_of - (targets.occurred_at - behaviors.occurred_at) as occurred_at,
            targets.as_of,
            targets.recipe_id as target
        from targets
        inner join intermediate.int_behaviors_deduplicated as behaviors
            on targets.user_id = behaviors.user_id and targets.occurred_at > behaviors.occurred_at
        where behaviors.event_name in {MEANINGFUL_EVENT_NAMES}
        qualify
            row_number() over (
                partition by targets.event_id order by behaviors.occurred_at desc, behaviors.event_id
            ) <= {remembered}
    """
