"""A candidate for the model in service: learned from the marts, judged on the newest days.

Here: which columns training reads, what they tell of each moment, and the order of learning, judging and training.
Not here: the formulas (training.py), learning (learning.py), the comparison (gate.py), where the moments lie (dbt:
marts.model_windows), and who reads the marts.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib.resources import files
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import column_micros, lists, positions
from kurashiru_pipeline.core.gate import Contender, Holdout, judge_holdout, recipe_digest
from kurashiru_pipeline.core.learning import ShownLists, Window, learn
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.training import Counts, make_artifact
from kurashiru_pipeline.core.weights import Weights

WINDOWS = "marts.model_windows"
TRANSITIONS = "marts.recipe_transitions"
STATISTICS = "marts.recipe_statistics"
QUERIES = "marts.model_queries"
QUERY_BEHAVIORS = "marts.model_query_behaviors"
IMPRESSIONS = "marts.model_impressions"
RECIPES = "staging.stg_kurashiru__recipes"

TRAINING = "2"
"""Raise it when code changes what is learned from the same marts under the same weights, or how it is ranked. For the
gate a model of another number is another recipe and must beat the one in service; the same one must not be worse."""

PARTS = 8
"""Into so many parts, one after the other in time, the learning queries are cut: the last ones choose between what the
others taught (learning.py)."""

_TEXTS: Any = pa.list_(pa.string())
_NUMBER, _TEXT, _TIME, _DAY = pa.float64(), pa.string(), pa.timestamp("us"), pa.date32()


def _columns(**types: Any) -> pa.Schema:
    return pa.schema(list(types.items()))


TRAINING_TABLES: Mapping[str, pa.Schema] = {
    WINDOWS: _columns(learn_from_on=_DAY, cut_on=_DAY, newest_on=_DAY),
    TRANSITIONS: _columns(
        from_recipe_id=_TEXT,
        to_recipe_id=_TEXT,
        weight=_NUMBER,
        live_weight=_NUMBER,
        holdout_weight=_NUMBER,
        holdout_live_weight=_NUMBER,
        learning_weight=_NUMBER,
        learning_live_weight=_NUMBER,
    ),
    STATISTICS: _columns(
        recipe_id=_TEXT,
        interactions=_NUMBER,
        popularity=_NUMBER,
        holdout_interactions=_NUMBER,
        holdout_popularity=_NUMBER,
        holdout_live_popularity=_NUMBER,
        learning_interactions=_NUMBER,
        learning_popularity=_NUMBER,
        learning_live_popularity=_NUMBER,
    ),
    QUERIES: _columns(
        query_id=_TEXT,
        query_role=_TEXT,
        user_id=_TEXT,
        preferred_tags=_TEXTS,
        target_recipe_id=_TEXT,
        asked_at=_TIME,
        as_of=_TIME,
    ),
    QUERY_BEHAVIORS: _columns(
        query_id=_TEXT,
        event_id=_TEXT,
        event_name=_TEXT,
        recipe_id=_TEXT,
        detail=_TEXT,
        occurred_at=_TIME,
    ),
    IMPRESSIONS: _columns(query_id=_TEXT, recipe_id=_TEXT, display_position=_NUMBER, is_clicked=pa.bool_()),
    RECIPES: _columns(
        recipe_id=_TEXT,
        value_tags=_TEXTS,
        ingredients=_TEXTS,
        author_id=_TEXT,
        published_at=_TIME,
        is_deleted=pa.bool_(),
    ),
}
"""The columns training reads, by table. Whoever trains reads exactly these; dbt_project/models says what they mean."""


@dataclass(frozen=True)
class Candidate:
    """A trained version, and its twin: the same training without the hold-out days, None where the history is too short
    to keep days back."""

    artifact: ModelArtifact
    twin: ModelArtifact | None


def train_candidate(
    tables: Mapping[str, pa.Table], weights: Weights, version: str, champion: Contender
) -> Candidate | None:
    """Learn how to blend and re-rank, judge that on days it has not seen, and make the artifact of everything known.

    Args:
        tables: all of TRAINING_TABLES, in their schemas.
        champion: what is in service; an empty one is the kernel without a model.

    Returns:
        The candidate; None if no recipe follows another yet. Its metadata: `recipe` and `judgement` (gate.py),
        `trained_from` (days), `transitions` (number), `learned` (figures), `weights`, `code` (digest).
    """
    counts = _counts(tables, _Moment.NOW)
    if counts is None:
        return None
    lists_shown = _shown_lists(tables, weights)
    learned = learn(_learning_windows(tables, weights), weights, shown=() if lists_shown is None else (lists_shown,))
    windows = tables[WINDOWS].to_pylist()[0]
    artifact = make_artifact(
        counts,
        weights,
        version=version,
        learned=learned,
        metadata={
            "recipe": recipe_digest(weights, TRAINING),
            "code": code_digest(),
            "transitions": len(tables[TRANSITIONS]),
            "trained_from": {name: None if day is None else day.isoformat() for name, day in windows.items()},
            "learned": learned.figures,
            "weights": weights.model_dump(),
        },
    )
    window = _window(tables, weights, _Role.HOLDOUT, _Moment.HOLDOUT)
    twin = None if window is None else make_artifact(window.counts, weights, version=version, learned=learned)
    judgement = judge_holdout(
        None if window is None else _holdout(window),
        Catalogue.from_arrow(tables[RECIPES]) if window is None else window.catalogue,
        weights,
        challenger=Contender(artifact, twin),
        champion=champion,
    )
    return Candidate(replace(artifact, metadata=artifact.metadata | {"judgement": judgement}), twin)


def code_digest() -> str:
    """What the code was that trained: a digest of this package's modules, also inside a zip file."""
    digest = hashlib.sha256()
    for module in sorted(files("kurashiru_pipeline.core").iterdir(), key=lambda module: module.name):
        if module.name.endswith(".py"):
            digest.update(module.read_bytes())
    return digest.hexdigest()[:16]


class _Moment(StrEnum):
    """Until when things were counted: the prefix of the columns that say so."""

    NOW = ""
    HOLDOUT = "holdout_"
    LEARNING = "learning_"


class _Role(StrEnum):
    """What a query is for (marts.model_queries.query_role)."""

    HOLDOUT = "holdout"
    LEARNING = "learning"
    IMPRESSIONS = "impressions"


def _counts(tables: Mapping[str, pa.Table], moment: _Moment) -> Counts | None:
    """What had been counted by a moment; None if no recipe had followed another."""
    transitions = _as_of(tables[TRANSITIONS], moment, ["from_recipe_id", "to_recipe_id"], ["weight", "live_weight"])
    transitions = transitions.filter(pc.field("weight") > 0)
    if not len(transitions):
        return None
    return Counts.of(transitions, _as_of(tables[STATISTICS], moment, ["recipe_id"], ["interactions", "popularity"]))


def _as_of(table: pa.Table, moment: _Moment, keys: list[str], numbers: list[str]) -> pa.Table:
    return table.select([*keys, *(f"{moment}{name}" for name in numbers)]).rename_columns([*keys, *numbers])


def _window(tables: Mapping[str, pa.Table], weights: Weights, role: _Role, moment: _Moment) -> Window | None:
    """The queries of a role with what was known at a moment; None if there are none, or nothing was known.

    `queries` has `asked_by`, `asked_at` and `query_id` too. The catalogue is today's as far as it was published.
    """
    queries = tables[QUERIES].filter(pc.field("query_role") == role.value)
    counts = _counts(tables, moment)
    if counts is None or not len(queries):
        return None
    as_of = queries["as_of"][0]
    published_at = pc.field("published_at")
    catalogue = Catalogue.from_arrow(tables[RECIPES].filter((published_at <= as_of) | published_at.is_null()))
    # A query is a user of its own, with the past and the stated tastes of whoever asked.
    behaviors = tables[QUERY_BEHAVIORS].filter(pc.is_in(tables[QUERY_BEHAVIORS]["query_id"], queries["query_id"]))
    behaviors = behaviors.rename_columns({"query_id": "user_id"})
    nothing_stated = pa.scalar([], _TEXTS)
    preferences = pa.table(
        {"user_id": queries["query_id"], "preferred_tags": pc.fill_null(queries["preferred_tags"], nothing_stated)}
    )
    profiles = build_profiles(behaviors, catalogue, weights, as_of.as_py(), preferences)
    asked = queries.take(pc.index_in(profiles["user_id"], queries["query_id"]))
    for name, column in (("target", "target_recipe_id"), ("asked_by", "user_id"), ("asked_at", "asked_at")):
        profiles = profiles.append_column(name, asked[column])
    statistics = tables[STATISTICS]
    popularity = pa.table(
        {
            "recipe_id": statistics["recipe_id"],
            "decayed_count": statistics[f"{moment}live_popularity"],
            "decayed_at": pa.repeat(as_of, len(statistics)),
        }
    )
    return Window(profiles, catalogue, popularity.filter(pc.field("decayed_count") > 0), counts, as_of.as_py())


def _learning_windows(tables: Mapping[str, pa.Table], weights: Weights) -> list[Window]:
    """The queries of the learning days, in parts one after the other in time."""
    window = _window(tables, weights, _Role.LEARNING, _Moment.LEARNING)
    if window is None:
        return []
    in_time = np.argsort(column_micros(window.queries["asked_at"]), kind="stable")
    return [replace(window, queries=window.queries.take(part)) for part in np.array_split(in_time, PARTS)]


def _shown_lists(tables: Mapping[str, pa.Table], weights: Weights) -> ShownLists | None:
    """What was shown on the learning days; None if no list got a click."""
    window = _window(tables, weights, _Role.IMPRESSIONS, _Moment.LEARNING)
    if window is None:
        return None
    impressions = tables[IMPRESSIONS]
    row = positions(impressions["query_id"], window.queries["user_id"])
    impressions = impressions.take(np.argsort(row, kind="stable"))
    entries = (
        lists(np.sort(row), len(window.queries), impressions[name].combine_chunks())
        for name in ("recipe_id", "display_position", "is_clicked")
    )
    return ShownLists(window, *entries)


def _holdout(window: Window) -> Holdout:
    interactions = pa.table({"recipe_id": window.counts.recipe_ids, "interactions": window.counts.interactions})
    return Holdout(window.queries, window.popularity, interactions, window.as_of)
