"""The processes of compose.yaml on PostgreSQL: from a landed file to DynamoDB, and what happens when a part goes."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import TickStatus
from dagster_graphql import DagsterGraphQLClient

from kurashiru_pipeline.catalog import MICRO_BATCH_JOB
from kurashiru_pipeline.environment import Settings
from tests import state
from tests.deploy.deployment import Deployment, runs_of
from tests.traffic import land

SUCCESS, FAILURE, STARTED = dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.STARTED


@pytest.fixture
def deployment(dagster_home: Path, tmp_path: Path, variables: dict[str, str]) -> Iterator[Deployment]:
    """Nothing runs yet; `dagster_home` has set what the processes inherit."""
    with Deployment(tmp_path, {**variables, "KURASHIRU_ENV": "local"}) as made:
        yield made


def test_from_a_landed_file_to_dynamodb_and_one_analytics_run_at_a_time(
    deployment: Deployment, instance: dg.DagsterInstance, settings: Settings
) -> None:
    for service in ("realtime", "analytics", "webserver", "daemon"):
        deployment.start(service)
    land(settings.landing, "a", events=40)
    [run] = deployment.wait_for("a micro-batch", lambda: runs_of(instance, MICRO_BATCH_JOB, SUCCESS))
    assert run.tags["kurashiru/trigger"] == "files have landed"
    assert len(state.items(settings)) > 1
    happened = [entry.dagster_event.event_type for entry in instance.all_logs(run.run_id) if entry.dagster_event]
    assert dg.DagsterEventType.RUN_ENQUEUED in happened

    [sensor] = instance.all_instigator_state(instigator_type=InstigatorType.SENSOR)
    assert sensor.instigator_name == "micro_batch_sensor"
    ticks = instance.get_ticks(sensor.instigator_origin_id, sensor.selector_id)
    assert run.run_id in [run_id for tick in ticks if tick.status is TickStatus.SUCCESS for run_id in tick.run_ids]

    for service in ("realtime", "webserver", "daemon"):
        assert deployment.wait_for(f"{service} to be healthy", lambda name=service: deployment.is_healthy(name))

    client = DagsterGraphQLClient("127.0.0.1", port_number=deployment.ports["webserver"])
    job = "analytics_maintenance"
    for _ in range(2):
        client.submit_job_execution(job, repository_location_name="analytics", repository_name="__repository__")
    deployment.wait_for("both runs", lambda: len(runs_of(instance, job, SUCCESS, FAILURE)) == 2)
    records = instance.get_run_records(dg.RunsFilter(job_name=job))
    assert {record.dagster_run.status for record in records} == {SUCCESS}
    # The pool is free when a run's last step in it has ended, a moment before the run itself has.
    (_, first_end), (second_start, _) = sorted(_in_pool(instance, record.dagster_run.run_id) for record in records)
    assert first_end <= second_start


def test_a_code_server_that_is_told_to_stop_finishes_its_run_and_a_lost_one_is_healed(
    deployment: Deployment, instance: dg.DagsterInstance, settings: Settings
) -> None:
    deployment.start("realtime")
    deployment.start("daemon")

    land(settings.landing, "a", events=2_000)
    [first] = deployment.wait_for("a run to start", lambda: runs_of(instance, MICRO_BATCH_JOB, STARTED))
    deployment.ask_to_stop("realtime")
    deployment.wait_for("the code server to end", lambda: deployment.has_ended("realtime"))
    finished = instance.get_run_by_id(first.run_id)
    assert finished is not None
    assert finished.status is SUCCESS

    deployment.kill("realtime")
    deployment.start("realtime")
    land(settings.landing, "b", events=2_000)
    [second] = deployment.wait_for("a run to start", lambda: runs_of(instance, MICRO_BATCH_JOB, STARTED))
    deployment.kill("realtime")
    deployment.start("realtime")
    deployment.wait_for("the lost run to be noticed", lambda: runs_of(instance, MICRO_BATCH_JOB, FAILURE))
    assert [run.run_id for run in runs_of(instance, MICRO_BATCH_JOB, FAILURE)] == [second.run_id]
    [end] = instance.all_logs(second.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "its code server was restarted and does not know it" in str(end.dagster_event and end.dagster_event.message)
    deployment.wait_for("the next run", lambda: len(runs_of(instance, MICRO_BATCH_JOB, SUCCESS)) > 1)
    assert {row[1] for row in state.tables(settings)["raw.loaded_files"]} == {"loaded"}


def _in_pool(instance: dg.DagsterInstance, run_id: str) -> tuple[float, float]:
    """From when to when a run was in the pool of the analytics lake."""
    steps = instance.get_run_step_stats(run_id, ["analytics_upkeep", "run_history"])
    assert len(steps) == 2
    times = [(step.start_time, step.end_time) for step in steps]
    return min(start for start, _ in times if start), max(end for _, end in times if end)
