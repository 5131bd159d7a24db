"""Upkeep as Dagster runs it: when its schedule asks for a run, and what the asset shows."""

from collections.abc import Iterator

import dagster as dg
import pytest

from kurashiru_pipeline import catalog
from kurashiru_pipeline.catalog import MAINTENANCE_JOB, MICRO_BATCH_JOB
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.realtime.build import build_definitions
from kurashiru_pipeline.realtime.resources import PipelineResource
from tests.traffic import land


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def definitions(variables: dict[str, str]) -> dg.Definitions:
    return build_definitions(Environment.LOCAL, pipeline=PipelineResource(environment="local", variables=variables))


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
def test_a_run_is_asked_for_while_there_is_something_to_do(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings
) -> None:
    schedule = definitions.resolve_schedule_def(f"{MAINTENANCE_JOB}_schedule")

    def asks() -> list[str]:
        with dg.build_schedule_context(instance=instance) as context:
            tick = schedule.evaluate_tick(context)
        assert tick.run_requests or tick.skip_message == "nothing was written since the last upkeep"
        return [MAINTENANCE_JOB for _ in tick.run_requests]

    def run(job: str) -> dg.ExecuteInProcessResult:
        result = definitions.resolve_job_def(job).execute_in_process(instance=instance)
        assert result.success
        return result

    land(settings.landing, "a", events=40)
    run(MICRO_BATCH_JOB)
    assert asks() == [MAINTENANCE_JOB]
    upkeep = run(MAINTENANCE_JOB)
    assert asks() == []
    [check] = upkeep.get_asset_check_evaluations()
    assert check.passed
    [event] = upkeep.get_asset_materialization_events()
    figures = {name: value.value for name, value in event.materialization.metadata.items()}
    assert event.asset_key == dg.AssetKey(catalog.REALTIME_UPKEEP)
    assert figures["files_after"] > 0
    assert figures["slices"] > 0
    assert figures["catalogue_bytes_after"] > 0
    assert 0 < figures["longest_slice_seconds"] <= figures["seconds"]
    assert "| table |" in figures["tables"]

    land(settings.landing, "b", events=40)
    run(MICRO_BATCH_JOB)
    assert asks() == [MAINTENANCE_JOB]


def test_the_check_fails_where_upkeep_left_too_much(
    definitions: dg.Definitions, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    monkeypatch.setattr("kurashiru_pipeline.warehouse.base.MANY_SNAPSHOTS", 0)
    result = definitions.resolve_job_def(MAINTENANCE_JOB).execute_in_process(instance=instance)
    assert result.success
    [check] = result.get_asset_check_evaluations()
    assert check.severity is dg.AssetCheckSeverity.WARN
    # Snowflake's storage has no snapshots.
    assert check.passed == (engine == "snowflake")
