"""The pipeline over landed files: every line accounted for, once, and nothing done twice."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.realtime.drain import Tally, drain
from kurashiru_pipeline.realtime.lookup import look_up
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline, pending_work
from kurashiru_pipeline.realtime.reconcile import reconcile_table
from kurashiru_pipeline.realtime.status import read_status
from kurashiru_pipeline.warehouse import open_warehouse
from tests import state
from tests.engines import Accounts
from tests.traffic import land, land_users

Open = Callable[..., MicroBatchPipeline]


def _drain(pipeline: MicroBatchPipeline) -> Tally:
    return drain(pipeline, lambda step, tally: None)


def test_the_engine_under_test_is_the_one_named(
    open_pipeline: Open, settings: Settings, engine: str, accounts: Accounts | None
) -> None:
    land(settings.landing, "a", events=5)
    pipeline = open_pipeline()
    _drain(pipeline)
    assert pipeline.warehouse.engine == engine
    lake = settings.folder("KURASHIRU_LAKE") / "realtime" / "catalog.sqlite"
    assert lake.exists() == (engine == "ducklake")
    assert (accounts is not None) == (engine == "snowflake")
    if accounts is not None:
        said = [executed.sql.lower() for executed in accounts.use(settings).statements]
        for part in ("insert into parsed_lines", "recommendation.rank_recipes(", "serving.put_items("):
            assert any(part in sql for sql in said), part


def _simulate(settings: Settings) -> dict[str, Any]:
    return simulate(
        settings.landing,
        events=3_000,
        users=120,
        recipes=80,
        seed=7,
        duplicates=0.03,
        malformed=0.02,
        late=0.02,
        file_lines=500,
    )


def _assert_counted(settings: Settings, manifest: dict[str, Any]) -> None:
    with open_warehouse(settings, read_only=True) as warehouse:
        status = read_status(warehouse, settings)
    counts = status["counts"]
    assert counts["raw"] == manifest["lines"]
    assert counts["staged"] == manifest["valid_events"]
    assert counts["duplicates"] == manifest["duplicates"]
    assert status["rejected_by_reason"] == manifest["rejected"]
    assert counts["raw"] == counts["staged"] + counts["duplicates"] + counts["rejected"]
    assert counts["recipes"] > 0
    assert counts["users_with_recommendations"] == counts["delivered_users"] > 0
    assert status["pending"] is None
    assert status["pending_batches"] == 0


def test_counts_equal_the_simulators_manifest(open_pipeline: Open, settings: Settings) -> None:
    manifest = _simulate(settings)
    assert _drain(open_pipeline()).batch_count == 1
    _assert_counted(settings, manifest)


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)  # elsewhere the stream gives all there is
def test_counts_do_not_depend_on_the_size_of_micro_batches(open_pipeline: Open, settings: Settings) -> None:
    manifest = _simulate(settings)
    assert _drain(open_pipeline(KURASHIRU_MAX_BATCH_LINES="700")).batch_count > 1
    _assert_counted(settings, manifest)


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
def test_how_lines_are_cut_into_batches_changes_no_history(
    open_pipeline: Open, settings: Settings, tmp_path: Path
) -> None:
    simulate(settings.landing, events=1_500, users=40, recipes=60, seed=3, late=0.1, file_lines=300)
    _drain(open_pipeline())
    whole = state.tables(settings)
    other = {"KURASHIRU_HOME": str(tmp_path / "other"), "KURASHIRU_DYNAMODB_TABLE": f"other-{tmp_path.name[-40:]}"}
    copy = Settings.load(settings.environment, {**settings.environ, **other})
    simulate(copy.landing, events=1_500, users=40, recipes=60, seed=3, late=0.1, file_lines=300)
    _drain(open_pipeline(**other, KURASHIRU_MAX_BATCH_LINES="300"))
    cut = state.tables(copy)
    assert whole["recommendation.recent_behaviors"] == cut["recommendation.recent_behaviors"]
    assert [row[:-1] for row in whole["staging.behavior_events"]] == [
        row[:-1] for row in cut["staging.behavior_events"]
    ]


def test_a_second_drain_writes_nothing(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=50)
    _drain(open_pipeline())
    pipeline = open_pipeline()
    before = _marks(pipeline)
    tally = _drain(pipeline)
    assert tally.batch_count == tally.item_count == 0
    assert _marks(pipeline) == before


def _marks(pipeline: MicroBatchPipeline) -> object:
    """What every commit changes."""
    latest = pipeline.warehouse.stream_status(RAW_EVENTS_STREAM).latest
    return pipeline.warehouse.change_signature() if latest is None else latest


@pytest.mark.parametrize("is_loaded", [False, True])
def test_work_that_moves_on_while_it_is_looked_for_is_still_seen(
    open_pipeline: Open, settings: Settings, monkeypatch: pytest.MonkeyPatch, is_loaded: bool
) -> None:
    land(settings.landing, "a", events=30)
    writer = open_pipeline()
    steps: list[Callable[[], object]] = [writer.load, writer.stage]
    if is_loaded:
        steps.pop(0)()
    with open_warehouse(settings, read_only=True) as reader:

        def moving(question: Callable[..., object]) -> Callable[..., object]:
            def ask(*arguments: object, **options: object) -> object:
                answer = question(*arguments, **options)
                if steps:
                    steps.pop(0)()
                return answer

            return ask

        for name in ("has_landed_files", "stream_has_data", "fetch"):
            monkeypatch.setattr(reader, name, moving(getattr(reader, name)))
        assert pending_work(reader, settings) is not None


def test_only_changed_lists_are_sent(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=60)
    _drain(open_pipeline())
    before = state.items(settings)
    made = land(settings.landing, "b", events=1, users=1)
    _drain(open_pipeline())
    after = state.items(settings)
    changed = {user for user in after if after[user] != before.get(user) and not user.startswith("#")}
    assert changed <= {made[0]["user_id"]}


def test_an_erased_user_loses_state_and_gets_a_tombstone(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=80)
    _drain(open_pipeline())
    assert not look_up(settings, "u1")["fallback"]
    land_users(settings.landing, "erasure", ["u1"], updated_at=datetime(2026, 6, 1), is_deleted=True)
    _drain(open_pipeline())
    assert look_up(settings, "u1")["fallback"]
    assert state.items(settings)["u1"]["deleted"] == {"BOOL": True}
    tables = state.tables(settings)
    for name in ("recent_behaviors", "user_profiles", "recommendations"):
        assert not [row for row in tables[f"recommendation.{name}"] if row[0] == "u1"]

    land(settings.landing, "late", events=40)
    _drain(open_pipeline())
    assert look_up(settings, "u1")["fallback"], "events that arrive after the erasure must not bring the user back"


def test_versions_never_go_back(open_pipeline: Open, settings: Settings) -> None:
    seen: dict[str, int] = {}
    for name in "abcd":
        land(settings.landing, name, events=30)
        _drain(open_pipeline())
        versions = {user: int(item["version"]["N"]) for user, item in state.items(settings).items()}
        assert all(versions[user] >= version for user, version in seen.items())
        seen = versions


def test_dynamodb_reconciles_with_what_was_delivered(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=60)
    pipeline = open_pipeline()
    _drain(pipeline)
    long_ago = datetime(2020, 1, 1)
    found = reconcile_table(pipeline.warehouse, pipeline.table, delivered_since=long_ago)
    assert found.compared > 1
    assert found.differing == []

    client = pipeline.table._client
    client.delete_item(TableName=pipeline.table.name, Key={"user_id": {"S": "u2"}})
    client.put_item(TableName=pipeline.table.name, Item={"user_id": {"S": "stranger"}, "version": {"N": "1"}})
    found = reconcile_table(pipeline.warehouse, pipeline.table, delivered_since=long_ago)
    assert found.differing == ["stranger", "u2"]
