"""A candidate: learned from the marts of three moments, judged on interactions that training did not see."""

from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from kurashiru_pipeline.core import candidate
from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.candidate import (
    IMPRESSIONS,
    QUERIES,
    QUERY_BEHAVIORS,
    RECIPES,
    STATISTICS,
    TRANSITIONS,
    WINDOWS,
    Candidate,
    code_digest,
    train_candidate,
)
from kurashiru_pipeline.core.gate import Contender
from kurashiru_pipeline.core.learning import ShownLists, Window, learn
from kurashiru_pipeline.core.training import Counts, Learned, make_artifact
from tests.kitchen import NOW, weights
from tests.snowpark.marts import NAMES, training_tables

Tables = dict[str, pa.Table]
NOBODY = Contender()


@pytest.fixture
def tables() -> Tables:
    return training_tables()


def trained(tables: Tables, champion: Contender = NOBODY) -> Candidate:
    made = train_candidate(tables, weights(), "v1", champion)
    assert made is not None
    return made


def same(made: ModelArtifact, expected: ModelArtifact) -> bool:
    return bool(
        (made.neighbours != expected.neighbours).nnz == 0
        and np.array_equal(made.popularity, expected.popularity)
        and np.array_equal(made.interactions, expected.interactions)
        and (made.learned, made.model) == (expected.learned, expected.model)
    )


def counts_of(tables: Tables, prefix: str) -> Counts:
    """What the columns of one moment count, by hand."""
    transitions = tables[TRANSITIONS].to_pylist()
    statistics = tables[STATISTICS].to_pylist()
    return Counts.of(
        pa.Table.from_pylist(
            [
                {name: row[name] for name in ("from_recipe_id", "to_recipe_id")}
                | {name: row[f"{prefix}{name}"] for name in ("weight", "live_weight")}
                for row in transitions
                if row[f"{prefix}weight"]
            ]
        ),
        pa.Table.from_pylist(
            [
                {"recipe_id": row["recipe_id"]}
                | {name: row[f"{prefix}{name}"] for name in ("interactions", "popularity")}
                for row in statistics
            ]
        ),
    )


def test_the_artifact_knows_everything_and_its_twin_what_was_known_before_the_holdout(tables: Tables) -> None:
    made = trained(tables)
    assert made.twin is not None
    assert same(made.artifact, make_artifact(counts_of(tables, ""), weights(), version="v1"))
    assert same(made.twin, make_artifact(counts_of(tables, "holdout_"), weights(), version="v1"))
    assert not same(made.artifact, made.twin)
    assert made.artifact.version == "v1"
    told = made.artifact.metadata
    assert told["transitions"] == len(tables[TRANSITIONS])
    assert told["trained_from"] == {"learn_from_on": "2026-11-22", "cut_on": "2026-11-23", "newest_on": "2026-11-23"}
    assert told["weights"] == weights().model_dump()
    assert told["code"] == code_digest()
    assert told["learned"] == {"learning_queries": 40}


def test_steps_that_training_saw_before_are_foretold(tables: Tables) -> None:
    judgement = trained(tables).artifact.metadata["judgement"]
    assert (judgement["queries"], judgement["users"], judgement["champion"]) == (40, 20, None)
    assert judgement["challenger"]["unseen"]["ndcg_at_10"] > 0.5 > judgement["without_model"]["ndcg_at_10"]


def test_a_champion_is_judged_beside_it(tables: Tables) -> None:
    first = trained(tables)
    judgement = trained(tables, Contender(first.artifact, first.twin)).artifact.metadata["judgement"]
    assert judgement["champion"] == "v1"
    assert judgement["seen"] == judgement["unseen"] == [0.0, 0.0, 0.0]


def test_the_holdout_moves_only_the_judgement_of_those_who_saw_it(tables: Tables) -> None:
    """What happened from the hold-out on, whatever it was, changes neither the twin nor what was learned."""
    tables = training_tables(queries=120)
    before = trained(tables)
    backwards = [
        {"from_recipe_id": after, "to_recipe_id": name, "weight": 1e6, "live_weight": 1e6}
        | {f"{moment}_{weight}": 0.0 for moment in ("holdout", "learning") for weight in ("weight", "live_weight")}
        for name, after in zip(NAMES, NAMES[2:], strict=False)
    ]
    schema = tables[TRANSITIONS].schema
    other = tables | {
        TRANSITIONS: pa.concat_tables([tables[TRANSITIONS], pa.Table.from_pylist(backwards, schema=schema)]),
        STATISTICS: changed(tables[STATISTICS], interactions=1000.0, popularity=3.0),
    }
    after = trained(other)
    assert before.twin is not None
    assert after.twin is not None
    assert same(after.twin, before.twin)
    assert before.twin.learned
    assert after.artifact.learned == before.artifact.learned
    assert not np.array_equal(after.artifact.popularity, before.artifact.popularity)
    told, told_before = (made.artifact.metadata["judgement"] for made in (after, before))
    assert told["challenger"]["unseen"] == told_before["challenger"]["unseen"]
    assert told["challenger"]["seen"] != told_before["challenger"]["seen"]


def changed(table: pa.Table, **values: Any) -> pa.Table:
    for name, value in values.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(name), pa.array([value] * len(table), table[name].type))
    return table


@pytest.fixture
def lessons(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Window], list[ShownLists]]:
    """What is given to learning."""
    seen: tuple[list[Window], list[ShownLists]] = ([], [])

    def look(windows: list[Window], rules: Any, *, shown: tuple[ShownLists, ...]) -> Learned:
        seen[0].extend(windows)
        seen[1].extend(shown)
        return learn(windows, rules, shown=shown)

    monkeypatch.setattr(candidate, "learn", look)
    trained(tables)
    return seen


def test_learning_sees_what_was_known_before_its_days(
    tables: Tables, lessons: tuple[list[Window], list[ShownLists]]
) -> None:
    windows, [shown] = lessons
    known = counts_of(tables, "learning_")
    for window in (*windows, shown.window):
        assert (window.counts.forward != known.forward).nnz == 0
        assert (window.counts.live != known.live).nnz == 0
        assert np.array_equal(window.counts.interactions, known.interactions)
        assert window.as_of == NOW - timedelta(days=1)
        live = {row["recipe_id"]: row["learning_live_popularity"] for row in tables[STATISTICS].to_pylist()}
        made = dict(zip(*(window.popularity[name].to_pylist() for name in ("recipe_id", "decayed_count")), strict=True))
        assert made == {recipe: value for recipe, value in live.items() if value}
        assert set(window.popularity["decayed_at"].to_pylist()) == {window.as_of}


def test_learning_queries_come_in_the_order_of_time(
    tables: Tables, lessons: tuple[list[Window], list[ShownLists]]
) -> None:
    parts = [window.queries["asked_at"].to_pylist() for window in lessons[0]]
    assert [len(part) for part in parts] == [5] * 8
    asked_at = [moment for part in parts for moment in part]
    assert asked_at == sorted(asked_at)
    learning = tables[QUERIES].filter(pc.equal(tables[QUERIES]["query_role"], "learning"))
    assert sorted(learning["asked_at"].to_pylist()) == asked_at


def test_a_query_has_its_users_past_tastes_and_target(
    tables: Tables, lessons: tuple[list[Window], list[ShownLists]]
) -> None:
    asked = {row["query_id"]: row for row in tables[QUERIES].to_pylist()}
    for window in lessons[0]:
        for row in window.queries.to_pylist():
            query = asked[row["user_id"]]
            assert query["query_role"] == "learning"
            assert (row["target"], row["asked_by"]) == (query["target_recipe_id"], query["user_id"])
            assert row["recipe_ids"][0] == NAMES[NAMES.index(query["target_recipe_id"]) - 1]
            assert ("savings" in row["tastes"]) >= bool(query["preferred_tags"])


def test_shown_lists_are_their_impressions(tables: Tables, lessons: tuple[list[Window], list[ShownLists]]) -> None:
    [shown] = lessons[1]
    expected: dict[str, set[tuple[str, float, bool]]] = {}
    for row in tables[IMPRESSIONS].to_pylist():
        entry = (row["recipe_id"], row["display_position"], row["is_clicked"])
        expected.setdefault(row["query_id"], set()).add(entry)
    columns = (shown.recipe_ids, shown.positions, shown.clicked)
    made = {
        query: set(zip(*entries, strict=True))
        for query, *entries in zip(
            shown.window.queries["user_id"].to_pylist(), *(column.to_pylist() for column in columns), strict=True
        )
    }
    assert made == expected


def test_recipes_published_later_were_not_known(tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    late = changed(tables[RECIPES].slice(0, 1), published_at=NOW - timedelta(hours=1))
    unknown = changed(tables[RECIPES].slice(1, 1), published_at=None)
    seen: list[Window] = []

    def look(windows: list[Window], *_: Any, **__: Any) -> Learned:
        seen.extend(windows)
        return Learned()

    monkeypatch.setattr(candidate, "learn", look)
    trained(tables | {RECIPES: pa.concat_tables([late, unknown, tables[RECIPES].slice(2)])})
    assert {len(window.catalogue.recipe_ids) for window in seen} == {len(NAMES) - 1}


def test_a_history_too_short_to_learn_from_has_the_weights_of_the_file(tables: Tables) -> None:
    asked = tables[QUERIES].filter(pc.equal(tables[QUERIES]["query_role"], "holdout"))
    nothing = {name: 0.0 for name in tables[TRANSITIONS].column_names if name.startswith("learning_")}
    short = tables | {
        WINDOWS: changed(tables[WINDOWS], learn_from_on=None),
        QUERIES: asked,
        IMPRESSIONS: tables[IMPRESSIONS].slice(0, 0),
        TRANSITIONS: changed(tables[TRANSITIONS], **nothing),
    }
    made = trained(short)
    assert (made.artifact.learned, made.artifact.model) == ({}, "")
    assert made.artifact.metadata["trained_from"]["learn_from_on"] is None
    assert made.artifact.metadata["judgement"]["queries"] == 40


def test_a_first_day_has_a_model_and_no_judgement(tables: Tables) -> None:
    unasked = tables | {name: tables[name].slice(0, 0) for name in (QUERIES, QUERY_BEHAVIORS, IMPRESSIONS)}
    made = trained(unasked)
    assert made.twin is None
    assert made.artifact.neighbours.nnz
    assert made.artifact.metadata["judgement"]["queries"] == 0


def test_nothing_to_learn_from(tables: Tables) -> None:
    empty = tables | {TRANSITIONS: tables[TRANSITIONS].slice(0, 0)}
    assert train_candidate(empty, weights(), "v1", NOBODY) is None
