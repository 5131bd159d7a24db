"""Offline: a model artifact from recipe-to-recipe transitions, and how well it predicts the next recipe.

Here: the similarity formula, the cut to the best neighbours, and the metrics of next-item queries.
Not here: the transitions themselves (dbt), what is promoted (analytics), and the ranking (ranking.py).
"""

from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import csr, flatten, positions, starts, strings, to_numpy, vocabulary
from kurashiru_pipeline.core.ranking import rank
from kurashiru_pipeline.core.weights import Weights


def train_artifact(
    transitions: pa.Table, recipes: pa.Table, weights: Weights, *, version: str, metadata: dict[str, Any]
) -> ModelArtifact:
    """Recipes that follow each recipe: c / ((n_from + damping)^from_power * (n_to + damping)^to_power), best kept.

    Sequential rules with popularity damping; equals are kept in the order of their ids. A recipe never follows
    itself: repeats are a source of their own.

    Args:
        transitions: from_recipe_id, to_recipe_id, weight = c, the decayed sum over users of 1 / gap in both
            directions (backwards counts half).
        recipes: recipe_id, interactions = n, popularity; one row a recipe.

    Raises:
        ValueError: a recipe occurs twice, or a transition names one that is not among the recipes, or a weight is
            not a positive number.
    """
    recipe_ids = vocabulary(strings(recipes["recipe_id"]))
    size = len(recipe_ids)
    if size != len(recipes):
        raise ValueError("the recipes of a model must be there once each, and none without id")
    source = positions(transitions["from_recipe_id"], recipe_ids)
    target = positions(transitions["to_recipe_id"], recipe_ids)
    unknown = int(((source < 0) | (target < 0)).sum())
    if unknown:
        raise ValueError(f"{unknown} of {len(source)} transitions name a recipe that is not among the {size} recipes")
    count = to_numpy(transitions["weight"], np.nan).astype(np.float64)
    if not (np.isfinite(count) & (count > 0)).all():
        raise ValueError("the weight of every transition must be a positive number")

    order = positions(recipe_ids, strings(recipes["recipe_id"]))
    damped = to_numpy(recipes["interactions"], 0).astype(np.float64)[order] + weights.transitions.damping
    other = source != target
    counts = sparse.coo_array((count[other], (source[other], target[other])), shape=(size, size)).tocsr()
    counts.sum_duplicates()
    row, column = np.repeat(np.arange(size), np.diff(counts.indptr)), counts.indices
    similarity = counts.data / damped[row] ** weights.transitions.from_power
    similarity = (similarity / damped[column] ** weights.transitions.to_power).astype(np.float32)

    best = np.lexsort((column, -similarity, row))
    place = np.arange(len(best)) - counts.indptr[row[best]]
    kept = np.sort(best[place < weights.transitions.neighbours])
    offsets = starts(np.bincount(row[kept], minlength=size))
    return ModelArtifact(
        version=version,
        recipe_ids=np.array(recipe_ids.to_pylist(), dtype=np.str_),
        neighbours=csr(similarity[kept], column[kept], offsets, size),
        popularity=to_numpy(recipes["popularity"], 0).astype(np.float64)[order],
        metadata=metadata,
    )


def evaluate_next_item(  # noqa: PLR0917 - called as rank is
    queries: pa.Table,
    catalogue: Catalogue,
    live_popularity: pa.Table,
    artifact: ModelArtifact | None,
    weights: Weights,
    as_of: datetime,
    *,
    length: int = 10,
) -> dict[str, float]:
    """How well the kernel foretells the next recipe of each query.

    Args:
        queries: profile rows (profiles.PROFILE_SCHEMA) and `target`, the recipe that came next; a user may have
            several.
        length: recipes in the lists judged.

    Returns:
        `queries`, `ndcg`, `recall` (means; one relevant recipe a query, so NDCG is 1 / log2(1 + place)), `ndcg_error`
        (standard error), `coverage` (share of the living recipes that are in any list).
    """
    ranked = rank(queries, catalogue, live_popularity, artifact, weights, as_of, list_length=length)
    row, recipe_ids = flatten(ranked["recipe_ids"])
    recipe = catalogue.index_of(recipe_ids)
    place = np.arange(len(row)) - starts(np.bincount(row, minlength=len(queries)))[row]
    hit = recipe == catalogue.index_of(queries["target"])[row]
    gain = np.zeros(len(queries))
    gain[row[hit]] = 1 / np.log2(place[hit] + 2)
    size = max(len(queries), 1)
    return {
        "queries": float(len(queries)),
        "ndcg": float(gain.sum() / size),
        "ndcg_error": float(gain.std() / np.sqrt(size)) if len(queries) else 0.0,
        "recall": float((gain > 0).sum() / size),
        "coverage": len(np.unique(recipe)) / max(int(catalogue.alive.sum()), 1),
    }
