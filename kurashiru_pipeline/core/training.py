"""Offline: a model artifact from counts of what follows what.

Here: the similarity formula, the cut to the best neighbours, and how counts and what was learned become an artifact.
Not here: the counts themselves (dbt, transitions.py), learning (learning.py), what is promoted (gate.py), ranking.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from scipy import sparse

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.columns import Floats, csr, positions, starts, strings, to_numpy, vocabulary
from kurashiru_pipeline.core.weights import Transitions, Weights


@dataclass(frozen=True)
class Learned:
    """What behaviour taught: weights by dotted name, the text of a re-ranker ('' for none), and figures to show."""

    values: dict[str, float] = field(default_factory=dict)
    model: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """What was counted up to a moment, over R recipes in the order of their ids.

    `forward` and `live` are (R, R) CSR: the sums over users of 1 / gap, faded slowly and fast, row the earlier recipe,
    column the later one. `interactions` (of all time) and `popularity` (decayed) are (R,).
    """

    recipe_ids: Any
    forward: Any
    live: Any
    interactions: Floats
    popularity: Floats
    _last: list[tuple[Transitions, Any]] = field(default_factory=list, repr=False, compare=False)

    def neighbours(self, rules: Transitions) -> Any:
        """See `neighbours`; the last answer is kept, since learning asks for the same one again and again."""
        if not self._last or self._last[0][0] != rules:
            self._last[:] = [(rules, neighbours(self, rules))]
        return self._last[0][1]

    @classmethod
    def of(cls, transitions: pa.Table, statistics: pa.Table) -> "Counts":
        """From tables.

        Args:
            transitions: from_recipe_id, to_recipe_id, weight, live_weight; one row a pair.
            statistics: recipe_id, interactions, popularity; one row a recipe.

        Raises:
            ValueError: a recipe occurs twice, or a transition names one that is not among the recipes, or a weight is
                not a number from 0 on, or `weight` is 0.
        """
        recipe_ids = vocabulary(strings(statistics["recipe_id"]))
        size = len(recipe_ids)
        if size != len(statistics):
            raise ValueError("the recipes of a model must be there once each, and none without id")
        source = positions(transitions["from_recipe_id"], recipe_ids)
        target = positions(transitions["to_recipe_id"], recipe_ids)
        unknown = int(((source < 0) | (target < 0)).sum())
        if unknown:
            raise ValueError(f"{unknown} of {len(source)} transitions name a recipe not among the {size} recipes")
        weight = to_numpy(transitions["weight"], np.nan).astype(np.float64)
        live = to_numpy(transitions["live_weight"], np.nan).astype(np.float64)
        if not (np.isfinite(weight) & (weight > 0) & np.isfinite(live) & (live >= 0)).all():
            raise ValueError("the weight of every transition must be a positive number, its live weight 0 or more")
        order = positions(recipe_ids, strings(statistics["recipe_id"]))
        return cls(
            recipe_ids=recipe_ids,
            forward=_summed(weight, source, target, size),
            live=_summed(live, source, target, size),
            interactions=to_numpy(statistics["interactions"], 0).astype(np.float64)[order],
            popularity=to_numpy(statistics["popularity"], 0).astype(np.float64)[order],
        )


def make_artifact(
    counts: Counts,
    weights: Weights,
    *,
    version: str,
    learned: Learned | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> ModelArtifact:
    """The artifact of these counts under these weights, or those learned."""
    learned = learned or Learned()
    rules = weights.with_learned(learned.values).transitions
    return ModelArtifact(
        version=version,
        recipe_ids=np.array(counts.recipe_ids.to_pylist(), dtype=np.str_),
        neighbours=counts.neighbours(rules),
        popularity=counts.popularity,
        interactions=counts.interactions,
        learned=learned.values,
        model=learned.model,
        metadata=dict(metadata or {}),
    )


def neighbours(counts: Counts, rules: Transitions) -> Any:
    """(R, R) CSR float32: c / ((n_from + damping)^from_power * (n_to + damping)^to_power), the best of each row.

    c = forwards + reverse_share * backwards, of all time + live_share * of late. Sequential rules with popularity
    damping; equals are kept in the order of their ids. No recipe follows itself: repeats are a source of their own.
    """
    forward = counts.forward + rules.live_share * counts.live if rules.live_share else counts.forward
    both = (forward + rules.reverse_share * forward.T).tocsr() if rules.reverse_share else forward.copy()
    both.sum_duplicates()
    damped = counts.interactions + rules.damping
    size = both.shape[0]
    row, column = np.repeat(np.arange(size), np.diff(both.indptr)), both.indices
    value = (both.data / damped[row] ** rules.from_power / damped[column] ** rules.to_power).astype(np.float32)
    kept = (row != column) & (value > 0)
    row, column, value = row[kept], column[kept].astype(np.int64), value[kept]
    # One whole number orders a row: the bits of a positive float keep its order; the column breaks ties.
    keys = (value.view(np.int32).astype(np.int64) << 32) | (size - 1 - column)
    sizes = np.bincount(row, minlength=size)
    offsets = starts(sizes)
    chosen = np.ones(len(row), dtype=bool)
    for long in np.flatnonzero(sizes > rules.neighbours):
        part = keys[offsets[long] : offsets[long + 1]]
        chosen[offsets[long] : offsets[long + 1]] = part >= np.partition(part, -rules.neighbours)[-rules.neighbours]
    row, column, value = row[chosen], column[chosen], value[chosen]
    return csr(value, column, starts(np.bincount(row, minlength=size)), size)


def _summed(weight: Floats, source: Any, target: Any, size: int) -> Any:
    total = sparse.coo_array((weight, (source, target)), shape=(size, size)).tocsr()
    total.sum_duplicates()
    return total
