"""The analytics jobs, run by Dagster: an empty lake, a first history, a broken one, upkeep."""

import base64
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from analytics_lake import (
    CANARY,
    FIRST_DAY,
    Event,
    make_events,
    make_lake,
    read_tables,
    settings_for,
    write_catalogue,
    write_events,
)
from analytics_location import Location, materialized

from kurashiru_pipeline.analytics.canary_assets import canary_decision, does_no_harm
from kurashiru_pipeline.analytics.ducklake import DuckLakeAnalytics
from kurashiru_pipeline.analytics.maintenance import KEPT_RUNS, old_runs
from kurashiru_pipeline.analytics.model_assets import beats_no_model, promoted_artifact
from kurashiru_pipeline.analytics.versions import promote_by_hand, roll_back, start_canary, stop_canary
from kurashiru_pipeline.analytics.warehouse import CANARY_DAYS, KEPT_VERSIONS
from kurashiru_pipeline.core.artifact import InService, ModelArtifact, load_promoted, promoted_version, save_artifact
from kurashiru_pipeline.core.gate import Action
from kurashiru_pipeline.environment import Environment
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.warehouse.lock import writer_lock
from tests.kitchen import model


@pytest.fixture(scope="module")
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory, instance: dg.DagsterInstance) -> Location:
    return Location(make_lake(tmp_path_factory.mktemp("home")), instance)


@pytest.fixture(scope="module")
def empty_run(location: Location) -> dg.ExecuteInProcessResult:
    """The hourly job before any event was loaded."""
    return location.run("analytics_hourly")


@pytest.fixture(scope="module")
def empty_tables(location: Location, empty_run: dg.ExecuteInProcessResult) -> dict[str, list[dict]]:
    return read_tables(location.settings)


@pytest.fixture(scope="module")
def first_run(location: Location, empty_tables: dict[str, list[dict]]) -> dg.ExecuteInProcessResult:
    """The hourly job after twelve days of events."""
    write_catalogue(location.settings)
    write_events(location.settings, make_events())
    return location.run("analytics_hourly")


def test_an_empty_lake_builds_and_trains_nothing(
    location: Location, empty_run: dg.ExecuteInProcessResult, empty_tables: dict[str, list[dict]]
) -> None:
    assert empty_run.success
    assert {name for name, rows in empty_tables.items() if rows} == {"marts.model_windows"}
    assert empty_tables["marts.model_windows"] == [{"learn_from_on": None, "cut_on": None, "newest_on": None}]
    assert "marts/fct_daily_kpis" in materialized(empty_run)
    assert "model/candidate_artifact" not in materialized(empty_run)


def test_a_history_becomes_a_promoted_artifact(location: Location, first_run: dg.ExecuteInProcessResult) -> None:
    assert first_run.success
    transitions = read_tables(location.settings)["marts.recipe_transitions"]
    artifact = load_promoted(location.models)
    assert artifact is not None
    assert artifact.metadata["transitions"] == len(transitions)
    assert artifact.neighbours.nnz >= len(transitions)
    [candidate] = first_run.asset_materializations_for_node("model__candidate_artifact")
    assert candidate.metadata["version"].value == artifact.version == promoted_version(location.models)
    assert candidate.metadata["holdout_queries"].value > 20
    assert 0 < candidate.metadata["ndcg_at_10"].value <= 1
    [promoted] = first_run.asset_materializations_for_node("model__promoted_artifact")
    assert promoted.metadata["decision"].value == "promoted (first model)"
    assert "of 200 needed, so only what is clearly worse is refused" in promoted.metadata["grounds"].value
    assert promoted.metadata["plot"].value.startswith("![")
    warehouse = DuckLakeAnalytics(environment=Environment.LOCAL, variables=dict(location.settings.environ))
    [record] = warehouse.history()
    assert (record.action, record.version) == (Action.PROMOTED, artifact.version)
    assert record.figures == artifact.metadata["judgement"]


def test_an_hour_later_the_same_recipe_goes_in_again(location: Location, first_run: dg.ExecuteInProcessResult) -> None:
    """Judged against the version in service and its twin, by the same marts."""
    before = promoted_version(location.models)
    result = location.run("analytics_hourly")
    assert result.success
    [promoted] = result.asset_materializations_for_node("model__promoted_artifact")
    assert promoted.metadata["decision"].value == "promoted (same recipe, learned anew)"
    assert promoted.metadata["version_before"].value == before
    artifact = load_promoted(location.models)
    assert artifact is not None
    judgement = artifact.metadata["judgement"]
    assert judgement["champion"] == before
    assert judgement["seen"] == judgement["unseen"] == [0.0, 0.0, 0.0]


def test_dbt_tests_are_asset_checks(first_run: dg.ExecuteInProcessResult) -> None:
    checks = {
        (check.asset_key.to_user_string(), check.check_name): check.passed
        for check in first_run.get_asset_check_evaluations()
    }
    assert checks["marts/fct_recipe_views", "unique_fct_recipe_views_event_id"]
    assert checks["marts/fct_recipe_views", "every_staged_event_reaches_its_fact"]
    assert checks["model/candidate_artifact", "is_servable"]
    assert checks["model/promoted_artifact", "is_loadable"]
    # A name the contract does not know is shown and stops nothing; made-up traffic teaches what chance will.
    failed = {name for (_, name), passed in checks.items() if not passed}
    assert failed - {"beats_no_model"} == {"event_name_is_known"}


def test_upkeep_changes_no_row(location: Location, first_run: dg.ExecuteInProcessResult) -> None:
    before = read_tables(location.settings)
    assert location.run("analytics_maintenance").success
    assert read_tables(location.settings) == before
    assert load_promoted(location.models) is not None


def test_a_failing_test_fails_the_run_and_spares_what_is_downstream(
    tmp_path: Path, instance: dg.DagsterInstance
) -> None:
    broken = Location(make_lake(tmp_path), instance)
    nobody = Event("6f1c1a52-3f0e-4f7e-9d3c-2f6f0c5f9d11", "search", None, None, FIRST_DAY, 1)  # type: ignore[arg-type]
    write_events(broken.settings, [nobody])
    result = broken.run("analytics_hourly")
    assert not result.success
    failed = [check for check in result.get_asset_check_evaluations() if not check.passed]
    assert [(check.asset_key.to_user_string(), check.severity) for check in failed] == [
        ("staging/stg_kurashiru__behavior_events", dg.AssetCheckSeverity.ERROR)
    ]
    assert materialized(result) == {
        "staging/stg_kurashiru__behavior_events",
        "staging/stg_kurashiru__recipes",
        "staging/stg_kurashiru__users",
    }
    assert read_tables(broken.settings) == {}


def test_a_second_writer_says_whom_it_waits_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = settings_for(tmp_path)
    warehouse = DuckLakeAnalytics(environment=Environment.LOCAL, variables=dict(settings.environ))
    log = logging.getLogger("test_writers")
    wrote = threading.Event()

    def write() -> None:
        with warehouse.writing(log):
            wrote.set()

    with caplog.at_level(logging.INFO, log.name):
        with writer_lock(settings.folder("KURASHIRU_LAKE") / "analytics", wait_seconds=0):
            writer = threading.Thread(target=write)
            writer.start()
            while not caplog.messages:
                assert writer.is_alive()
                writer.join(0.01)
            assert not wrote.is_set()
        writer.join()
    assert wrote.is_set()
    assert f"waiting for the analytics lake: process {os.getpid()}" in caplog.text


def an_artifact(version: str, recipe: str = "A", **judgement: Any) -> ModelArtifact:
    """A version that was judged against v1 without any queries, but for the changes."""
    found = {"champion": "1", "neighbours": 2, "queries": 0} | judgement
    return replace(
        model({("a", "b"): 1.0, ("b", "a"): 1.0}),
        version=version,
        metadata={"recipe": recipe, "judgement": found, "transitions": 2},
    )


@pytest.fixture
def warehouse(tmp_path: Path) -> DuckLakeAnalytics:
    """Three saved versions, the first of them promoted."""
    settings = settings_for(tmp_path)
    for version in ("1", "2", "3"):
        save_artifact(an_artifact(version), settings.folder("KURASHIRU_MODELS"))
    warehouse = DuckLakeAnalytics(environment=Environment.LOCAL, variables=dict(settings.environ))
    promote_by_hand(warehouse, "1")
    return warehouse


def decide_on(warehouse: DuckLakeAnalytics, version: str) -> dict[str, Any]:
    """What the asset shows."""
    result = promoted_artifact(dg.build_asset_context(), warehouse=warehouse, version=version)
    assert result.metadata is not None
    return dict(result.metadata)


def test_the_gate_promotes_and_writes_down_why(warehouse: DuckLakeAnalytics) -> None:
    shown = decide_on(warehouse, "2")
    assert shown["decision"] == "promoted (same recipe, learned anew)"
    assert (shown["version"], shown["version_before"]) == ("2", "1")
    assert "| queries | yes | 0 hold-out queries of 200 needed" in shown["grounds"].value
    last = warehouse.history()[-1]
    assert (last.action, last.version, last.reason) == (Action.PROMOTED, "2", shown["decision"])
    assert last.figures["champion"] == "1"


def test_a_candidate_that_was_judged_against_another_version_is_refused(warehouse: DuckLakeAnalytics) -> None:
    promote_by_hand(warehouse, "2")
    shown = decide_on(warehouse, "3")
    assert "judged against 1, but 2 is in service" in shown["decision"]
    assert shown["version"] == "2"
    assert warehouse.history()[-1].action is Action.REFUSED


def test_figures_and_a_picture_are_shown(warehouse: DuckLakeAnalytics) -> None:
    side = {
        days: {
            "ndcg_at_10": 0.2,
            "ndcg_ci": [0.1, 0.3],
            "recall_at_10": 0.4,
            "coverage_at_10": 0.5,
            "coverage_ci": [0.4, 0.6],
            "diversity_at_10": 0.8,
            "diversity_ci": [0.7, 0.9],
        }
        for days in ("seen", "unseen")
    }
    judged = an_artifact(
        "4",
        queries=900,
        challenger=side,
        in_service=side,
        without_model=side["seen"] | {"ndcg_at_10": 0.25},
        seen=[0.0, -0.001, 0.001],
        unseen=[0.0, -0.001, 0.001],
        kept=[0.0, -0.001, 0.001],
    )
    save_artifact(judged, warehouse.settings().folder("KURASHIRU_MODELS"))
    shown = decide_on(warehouse, "4")
    assert shown["decision"].startswith("promoted")
    assert (shown["ndcg_at_10"], shown["coverage_at_10_in_service"]) == (0.2, 0.5)
    content = base64.b64decode(shown["plot"].value.partition("base64,")[2].rstrip(")"))
    assert content.startswith(b"\x89PNG")
    check = beats_no_model(warehouse, "4")
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.WARN


def test_rollback_goes_back_and_stays_there(warehouse: DuckLakeAnalytics) -> None:
    decide_on(warehouse, "2")
    assert roll_back(warehouse) == ("1", "2")
    assert warehouse.in_service() == InService("1")
    shown = decide_on(warehouse, "3")
    assert "service was rolled back to 1" in shown["decision"]
    with pytest.raises(ConfigurationError, match="no version was in service before 1"):
        roll_back(warehouse)
    promote_by_hand(warehouse, "1")
    assert decide_on(warehouse, "3")["version"] == "3"
    assert roll_back(warehouse) == ("1", "3")


def test_a_canary_starts_beside_the_model_and_holds_everything_else(warehouse: DuckLakeAnalytics) -> None:
    canary = start_canary(warehouse, "2", 0.1)
    assert warehouse.in_service() == InService("1", canary)
    assert "a canary of 2 is running" in decide_on(warehouse, "3")["decision"]
    for version, told in (("3", "a canary of 2 is running"), ("1", "1 is in service already")):
        with pytest.raises(ConfigurationError, match=told):
            start_canary(warehouse, version, 0.1)
    assert stop_canary(warehouse, "by hand") == canary
    assert stop_canary(warehouse, "by hand") is None
    assert warehouse.in_service() == InService("1")
    assert decide_on(warehouse, "3")["version"] == "3"
    assert [record.action for record in warehouse.history()][1:4] == [
        Action.CANARY_STARTED,
        Action.REFUSED,
        Action.CANARY_STOPPED,
    ]


def test_there_is_no_canary_without_a_model(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    save_artifact(an_artifact("2"), settings.folder("KURASHIRU_MODELS"))
    warehouse = DuckLakeAnalytics(environment=Environment.LOCAL, variables=dict(settings.environ))
    with pytest.raises(ConfigurationError, match="kurashiru model promote 2"):
        start_canary(warehouse, "2", 0.1)


def test_a_model_of_another_format_in_service_is_no_champion(
    warehouse: DuckLakeAnalytics, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing could be trained after it otherwise."""
    (warehouse.settings().folder("KURASHIRU_MODELS") / "1" / "manifest.json").write_text("{}")
    save_artifact(an_artifact("4", champion=None), warehouse.settings().folder("KURASHIRU_MODELS"))
    shown = decide_on(warehouse, "4")
    assert shown["decision"] == "promoted (first model)"
    assert shown["version"] == "4"


def arms(users: int, challenger_clicks: int, champion_clicks: int) -> pa.Table:
    """Two days; every user was shown 20 recipes, and a tenth of the users did all the clicking."""
    rows = [
        {
            "shown_on": date(2026, 11, 22 + day),
            "arm": arm,
            "users": users * (day + 1),
            "impressions": users * 20 * (day + 1),
            "clicks": clicks * (day + 1),
            "squared_impressions": users * 400.0 * (day + 1),
            "impressions_by_clicks": clicks * 20.0 * (day + 1),
            "squared_clicks": clicks * clicks / (users / 10) * (day + 1.0),
        }
        for day in range(2)
        for arm, clicks in (("challenger", challenger_clicks), ("champion", champion_clicks))
    ]
    return pa.Table.from_pylist(rows, schema=CANARY_DAYS)


@pytest.mark.parametrize(
    ("days", "says", "is_over"),
    [
        (CANARY_DAYS.empty_table(), "keep going: 0 users", False),
        (arms(1000, 2000, 2000), "keep going: its click-through rate differs by", False),
        (arms(1000, 4000, 2000), "kurashiru model promote 2", False),
        (arms(1000, 1000, 3000), "challenger worse", True),
    ],
)
def test_the_clicks_decide_on_a_canary(
    warehouse: DuckLakeAnalytics, monkeypatch: pytest.MonkeyPatch, days: pa.Table, says: str, is_over: bool
) -> None:
    canary = start_canary(warehouse, "2", 0.5)
    monkeypatch.setattr(DuckLakeAnalytics, "canary_days", lambda self, asked: days if asked == canary else None)
    result = canary_decision(dg.build_asset_context(), warehouse=warehouse)
    assert result.metadata is not None
    assert says in result.metadata["decision"]
    assert result.metadata["share"] == 0.5
    assert ("plot" in result.metadata) == bool(days.num_rows)
    assert warehouse.in_service() == InService("1", None if is_over else canary)
    assert does_no_harm(warehouse).passed is not is_over
    if is_over:
        last = warehouse.history()[-1]
        assert (last.action, last.reason) == (Action.CANARY_STOPPED, result.metadata["decision"])
        over = canary_decision(dg.build_asset_context(), warehouse=warehouse)
        assert over.metadata == {"decision": "no canary is running"}


def test_arms_of_a_canary_are_read_from_the_mart(location: Location, first_run: dg.ExecuteInProcessResult) -> None:
    warehouse = DuckLakeAnalytics(environment=Environment.LOCAL, variables=dict(location.settings.environ))
    days = warehouse.canary_days(CANARY)
    assert days.schema == CANARY_DAYS
    assert set(days["arm"].to_pylist()) == {"challenger", "champion"}
    assert not warehouse.canary_days(replace(CANARY, version="v9")).num_rows
    [decision] = first_run.asset_materializations_for_node("model__canary_decision")
    assert decision.metadata["decision"].value == "no canary is running"


def test_old_versions_and_runs_go_and_the_one_in_service_stays(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    models, runs = settings.folder("KURASHIRU_MODELS"), tmp_path / "runs"
    names = [f"2026110{number // 10}T{number % 10}" for number in range(KEPT_VERSIONS + 4)]
    for place, name in enumerate(names):
        save_artifact(an_artifact(name), models)
        (runs / name).mkdir(parents=True)
        os.utime(runs / name, (place, place))
    warehouse = DuckLakeAnalytics(environment=Environment.LOCAL, variables=dict(settings.environ))
    promote_by_hand(warehouse, names[0])
    promote_by_hand(warehouse, names[1])
    start_canary(warehouse, names[2], 0.1)
    assert warehouse.remove_old_versions() == [names[3]]
    assert warehouse.saved_versions() == [*names[:3], *names[4:]]
    assert [folder.name for folder in old_runs(runs)] == names[: len(names) - KEPT_RUNS]
    assert old_runs(tmp_path / "nothing here") == []
