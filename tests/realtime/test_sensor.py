"""The sensor on a real instance: it asks the stream and the ledger, and never floods."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from kurashiru_pipeline.catalog import MICRO_BATCH_JOB
from kurashiru_pipeline.core.trigger import decide
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError, TransientError
from kurashiru_pipeline.realtime import sensors
from kurashiru_pipeline.realtime.build import build_definitions
from kurashiru_pipeline.realtime.resources import PipelineResource
from tests.traffic import land


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def definitions(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dg.Definitions:
    monkeypatch.setattr(sensors, "LONG_POLL_SECONDS", 0.3)
    return build_definitions(Environment.LOCAL, pipeline=PipelineResource(environment="local", variables=variables))


def _tick(definitions: dg.Definitions, instance: dg.DagsterInstance) -> dg.RunRequest | str:
    """One evaluation: the run request, or why there is none."""
    [sensor] = definitions.sensors or []
    repository = definitions.get_repository_def()
    data = sensor.evaluate_tick(dg.build_sensor_context(instance=instance, repository_def=repository))
    return data.run_requests[0] if data.run_requests else str(data.skip_message)


def _run(definitions: dg.Definitions, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    job = definitions.resolve_job_def(MICRO_BATCH_JOB)
    return job.execute_in_process(instance=instance, raise_on_error=False)


def _add_run(instance: dg.DagsterInstance, definitions: dg.Definitions, status: dg.DagsterRunStatus) -> None:
    instance.create_run_for_job(definitions.resolve_job_def(MICRO_BATCH_JOB), status=status)


def test_an_empty_lake_is_quiet(definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
    assert "nothing pending" in str(_tick(definitions, instance))


def test_a_landed_file_requests_one_run_and_a_finished_one_silences_it(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, engine: str
) -> None:
    land(settings.landing, "a", events=20)
    requested = _tick(definitions, instance)
    assert isinstance(requested, dg.RunRequest)
    assert requested.run_key is None, "a key would keep a failed run from ever being requested again"
    assert requested.tags["kurashiru/trigger"] == "files have landed"

    assert _run(definitions, instance).success
    assert "nothing pending" in str(_tick(definitions, instance))

    land(settings.landing, "b", events=5)
    assert isinstance(_tick(definitions, instance), dg.RunRequest)


@pytest.mark.parametrize("status", [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED])
def test_nothing_is_requested_while_a_run_is_in_flight(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, status: dg.DagsterRunStatus
) -> None:
    land(settings.landing, "a", events=5)
    _add_run(instance, definitions, status)
    assert "is queued or running" in str(_tick(definitions, instance))


def test_while_a_run_is_in_flight_the_lake_is_left_to_it(
    definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    looks: list[None] = []

    def pending() -> str:
        looks.append(None)
        return "files have landed"

    run = instance.create_run_for_job(definitions.resolve_job_def(MICRO_BATCH_JOB), status=dg.DagsterRunStatus.STARTED)
    watch = sensors.RunsWatch(MICRO_BATCH_JOB)
    for _ in range(3):
        assert "is queued or running" in watch.look(instance, pending).reason
    assert (len(looks), watch.in_flight) == (1, run.run_id)
    instance.report_run_failed(run)
    assert "1 runs failed in a row" in watch.look(instance, pending).reason
    assert (len(looks), watch.in_flight) == (2, None)


def test_failures_back_off_and_a_success_forgets_them(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings
) -> None:
    land(settings.landing, "a", events=5)
    for _ in range(3):
        _add_run(instance, definitions, dg.DagsterRunStatus.FAILURE)
    assert "3 runs failed in a row" in str(_tick(definitions, instance))
    _add_run(instance, definitions, dg.DagsterRunStatus.SUCCESS)
    assert isinstance(_tick(definitions, instance), dg.RunRequest)


def test_a_transient_error_skips_with_its_reason_and_a_wrong_setting_raises(instance: dg.DagsterInstance) -> None:
    def raising(error: Exception) -> dg.SensorDefinition:
        def settings() -> Settings:
            raise error

        return sensors.build_stream_sensor(MICRO_BATCH_JOB, settings, is_running=False)

    with dg.build_sensor_context(instance=instance) as context:
        with pytest.raises(ConfigurationError, match="wrong"):
            raising(ConfigurationError("wrong")).evaluate_tick(context)
        skipped = raising(TransientError("the lake is busy")).evaluate_tick(context)
    assert skipped.skip_message == "transient: the lake is busy"


def test_a_table_recreated_empty_is_work(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings
) -> None:
    from kurashiru_pipeline.serving.dynamodb import connect

    land(settings.landing, "a", events=20)
    assert _run(definitions, instance).success
    connect(settings).delete_table(TableName=settings.text("KURASHIRU_DYNAMODB_TABLE"))
    requested = _tick(definitions, instance)
    assert isinstance(requested, dg.RunRequest)
    assert "is not the one delivered to" in requested.tags["kurashiru/trigger"]
    assert _run(definitions, instance).success
    assert "nothing pending" in str(_tick(definitions, instance))


def test_decision_is_pure() -> None:
    assert decide(sensors.Seen("files have landed", None)).should_run


def test_looking_costs_no_lake_access_while_nothing_changes(settings: Settings, tmp_path: Path) -> None:
    watch = sensors.PendingWatch(settings)
    assert watch.pending() is None, "the first look makes the lake"
    assert watch.pending() is None
    opened = watch._warehouse
    assert opened is not None
    opened.close()
    assert watch.pending() is None, "a second look at an unchanged lake must not query it"
