"""The analytics jobs, run by Dagster: an empty lake, a first history, a broken one, upkeep."""

import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import numpy as np
import pytest
from analytics_lake import (
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
from scipy import sparse

from kurashiru_pipeline.analytics.ducklake import DuckLakeAnalytics
from kurashiru_pipeline.analytics.maintenance import KEPT_RUNS, old_runs
from kurashiru_pipeline.analytics.model_assets import promoted_artifact
from kurashiru_pipeline.analytics.warehouse import KEPT_VERSIONS
from kurashiru_pipeline.core.artifact import ModelArtifact, load_promoted, promote, promoted_version, save_artifact
from kurashiru_pipeline.core.candidate import objection
from kurashiru_pipeline.environment import Environment
from kurashiru_pipeline.warehouse.lock import writer_lock


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
    assert {name for name, rows in empty_tables.items() if rows} == {"marts.model_holdout"}
    assert empty_tables["marts.model_holdout"] == [{"cut_on": None}]
    assert "marts/fct_daily_kpis" in materialized(empty_run)
    assert "model/candidate_artifact" not in materialized(empty_run)


def test_a_history_becomes_a_promoted_artifact(location: Location, first_run: dg.ExecuteInProcessResult) -> None:
    assert first_run.success
    transitions = read_tables(location.settings)["marts.recipe_transitions"]
    artifact = load_promoted(location.models)
    assert artifact is not None
    assert artifact.neighbours.nnz == len(transitions)
    [candidate] = first_run.asset_materializations_for_node("model__candidate_artifact")
    assert candidate.metadata["version"].value == artifact.version == promoted_version(location.models)
    assert candidate.metadata["holdout_queries"].value > 20
    assert 0 < candidate.metadata["holdout_ndcg_at_10"].value <= 1
    [promoted] = first_run.asset_materializations_for_node("model__promoted_artifact")
    assert promoted.metadata["decision"].value == "promoted"


def test_dbt_tests_are_asset_checks(first_run: dg.ExecuteInProcessResult) -> None:
    checks = {
        (check.asset_key.to_user_string(), check.check_name): check.passed
        for check in first_run.get_asset_check_evaluations()
    }
    assert checks["marts/fct_recipe_views", "unique_fct_recipe_views_event_id"]
    assert checks["marts/fct_recipe_views", "every_staged_event_reaches_its_fact"]
    assert checks["model/candidate_artifact", "is_servable"]
    assert checks["model/promoted_artifact", "is_loadable"]
    # A name the contract does not know is shown and stops nothing.
    assert [name for (_, name), passed in checks.items() if not passed] == ["event_name_is_known"]


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


def an_artifact(version: str, neighbours: int = 1, *, is_passed: bool = True) -> ModelArtifact:
    matrix = sparse.csr_array((np.ones(neighbours, np.float32), ([0] * neighbours, [1] * neighbours)), shape=(2, 2))
    return ModelArtifact(version, np.array(["a", "b"]), matrix, np.zeros(2), {"holdout": {"is_passed": is_passed}})


def test_what_keeps_a_candidate_from_service() -> None:
    assert objection(an_artifact("fine")) is None
    assert objection(an_artifact("empty", neighbours=0)) == "it is empty"
    assert objection(an_artifact("worse", is_passed=False)) == "on the newest days it was worse than no model"


def test_a_candidate_worse_than_no_model_is_not_promoted(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    models = settings.folder("KURASHIRU_MODELS")
    for version, is_passed in (("1", True), ("2", False)):
        save_artifact(an_artifact(version, is_passed=is_passed), models)
    promote(models, "1")
    warehouse = DuckLakeAnalytics(environment=Environment.LOCAL, variables=dict(settings.environ))
    result = promoted_artifact(dg.build_asset_context(), warehouse=warehouse, version="2")
    assert result.metadata["decision"].startswith("not promoted")
    assert promoted_version(models) == "1"


def test_old_versions_and_runs_go_and_the_one_in_service_stays(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    models, runs = settings.folder("KURASHIRU_MODELS"), tmp_path / "runs"
    names = [f"2026110{number // 10}T{number % 10}" for number in range(KEPT_VERSIONS + 3)]
    for place, name in enumerate(names):
        save_artifact(an_artifact(name), models)
        (runs / name).mkdir(parents=True)
        os.utime(runs / name, (place, place))
    warehouse = DuckLakeAnalytics(environment=Environment.LOCAL, variables=dict(settings.environ))
    warehouse.promote(names[1])
    assert warehouse.remove_old_versions() == [names[0], names[2]]
    assert warehouse.saved_versions() == [names[1], *names[3:]]
    assert [folder.name for folder in old_runs(runs)] == names[: len(names) - KEPT_RUNS]
    assert old_runs(tmp_path / "nothing here") == []
