"""Production's Dagster instance on a real PostgreSQL server: what is recorded is read back, and old history goes."""

from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psycopg2
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.instance.config import PoolGranularity
from dagster._core.run_coordinator import QueuedRunCoordinator
from dagster._core.scheduler.instigation import TickData, TickStatus
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from kurashiru_pipeline import catalog
from kurashiru_pipeline.analytics.warehouse import POOL
from kurashiru_pipeline.catalog import MICRO_BATCH_JOB
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.realtime.build import build_definitions
from kurashiru_pipeline.realtime.resources import PipelineResource
from kurashiru_pipeline.runtime.history import KEPT_DAYS, delete_old_runs
from kurashiru_pipeline.runtime.launcher import CodeServerRunLauncher
from tests.deploy.postgres import MAJOR_VERSION, PostgresServer
from tests.traffic import land

STAGED = dg.AssetKey(catalog.STAGED_BEHAVIOR_EVENTS)
ACCOUNTING = dg.AssetCheckKey(STAGED, "accounting")


@pytest.fixture
def definitions(variables: dict[str, str]) -> dg.Definitions:
    return build_definitions(Environment.LOCAL, pipeline=PipelineResource(environment="local", variables=variables))


def _run(definitions: dg.Definitions, instance: dg.DagsterInstance, job: str = MICRO_BATCH_JOB) -> str:
    result = definitions.resolve_job_def(job).execute_in_process(instance=instance)
    assert result.success
    return result.run_id


def _count(server: PostgresServer, database: str, table: str, run_id: str) -> int:
    with closing(psycopg2.connect(server.url(database))) as connection, connection.cursor() as cursor:
        cursor.execute(f"select count(*) from {table} where run_id = %s", (run_id,))
        [count] = cursor.fetchone() or (0,)
        return int(count)


def test_the_server_is_postgresql_of_the_version_deployed(postgres: PostgresServer) -> None:
    with closing(psycopg2.connect(postgres.url())) as connection, connection.cursor() as cursor:
        cursor.execute("show server_version_num")
        [version] = cursor.fetchone() or ("0",)
    assert int(version) // 10_000 == MAJOR_VERSION


def test_the_instance_is_what_the_file_says(instance: dg.DagsterInstance) -> None:
    for storage in (instance.run_storage, instance.event_log_storage, instance.schedule_storage):
        assert type(storage).__module__.startswith("dagster_postgres"), storage
    assert isinstance(instance.run_launcher, CodeServerRunLauncher)
    assert instance.run_launcher.supports_check_run_worker_health
    assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
    assert instance.run_coordinator.dequeue_interval_seconds == 1
    pools = instance.get_concurrency_config().pool_config
    assert pools.default_pool_limit == 1
    assert pools.pool_granularity is PoolGranularity.RUN
    assert instance.run_monitoring_enabled
    assert 0 < instance.run_monitoring_max_runtime_seconds <= 3600
    assert instance.run_retries_enabled
    assert instance.run_retries_max_retries == 1
    assert not instance.run_retries_retry_on_asset_or_op_failure
    assert not instance.telemetry_enabled


def test_a_micro_batch_is_recorded_and_read_back(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, dagster_home: Path
) -> None:
    land(settings.landing, "a", events=60)
    run_id = _run(definitions, instance)
    with dg.DagsterInstance.from_config(str(dagster_home)) as other:
        run = other.get_run_by_id(run_id)
        assert run is not None
        assert run.status is dg.DagsterRunStatus.SUCCESS
        stats = other.get_run_stats(run_id)
        assert stats.steps_succeeded == 1
        assert stats.materializations == 11
        event = other.get_latest_materialization_event(STAGED)
        assert event is not None
        assert event.run_id == run_id
        assert event.asset_materialization is not None
        assert event.asset_materialization.metadata["staged_count"].value == 60
        checks = other.event_log_storage.get_latest_asset_check_execution_by_key([ACCOUNTING])
        assert checks[ACCOUNTING].status is AssetCheckExecutionRecordStatus.SUCCEEDED
        assert checks[ACCOUNTING].run_id == run_id


def test_old_runs_go_with_all_they_left(
    definitions: dg.Definitions,
    instance: dg.DagsterInstance,
    settings: Settings,
    postgres: PostgresServer,
    tmp_path: Path,
) -> None:
    land(settings.landing, "a", events=20)
    first = _run(definitions, instance)
    micro_batch, maintenance = map(definitions.resolve_job_def, (MICRO_BATCH_JOB, "maintenance_job"))
    second = instance.create_run_for_job(micro_batch, status=dg.DagsterRunStatus.FAILURE).run_id
    in_flight = instance.create_run_for_job(micro_batch, status=dg.DagsterRunStatus.STARTED).run_id
    other = instance.create_run_for_job(maintenance, status=dg.DagsterRunStatus.SUCCESS).run_id
    now = datetime.now(UTC)
    assert delete_old_runs(instance, now=now + timedelta(days=KEPT_DAYS[MICRO_BATCH_JOB] - 1)) == 0
    later = now + timedelta(days=KEPT_DAYS[MICRO_BATCH_JOB] + 1)
    assert [delete_old_runs(instance, now=later, at_most=1) for _ in range(3)] == [1, 1, 0]
    assert {run.run_id for run in instance.get_runs()} == {in_flight, other}
    for table in ("event_logs", "asset_check_executions", "run_tags", "runs"):
        for gone in (first, second):
            assert _count(postgres, tmp_path.name, table, gone) == 0, table
    assert instance.get_latest_materialization_event(STAGED) is not None
    assert delete_old_runs(instance, now=now + timedelta(days=KEPT_DAYS[None] + 1)) == 1
    assert {run.run_id for run in instance.get_runs()} == {in_flight}


def test_ticks_are_kept_as_long_as_the_file_says(instance: dg.DagsterInstance) -> None:
    kept = instance.get_tick_retention_settings(InstigatorType.SENSOR)
    assert kept[TickStatus.SKIPPED] == 1
    assert kept[TickStatus.SUCCESS] == 7
    assert kept[TickStatus.FAILURE] == 30
    assert all(days > 0 for days in instance.get_tick_retention_settings(InstigatorType.SCHEDULE).values())
    now = datetime.now(UTC).timestamp()
    for days_old in (0.5, 1.5):
        instance.create_tick(
            TickData(
                instigator_origin_id="origin",
                instigator_name="micro_batch_sensor",
                instigator_type=InstigatorType.SENSOR,
                status=TickStatus.SKIPPED,
                timestamp=now - days_old * 86_400,
                selector_id="selector",
            )
        )
    before = now - kept[TickStatus.SKIPPED] * 86_400
    instance.purge_ticks("origin", "selector", before, [TickStatus.SKIPPED])
    [left] = instance.get_ticks("origin", "selector")
    assert left.timestamp == pytest.approx(now - 0.5 * 86_400)


def test_a_pool_has_one_place(instance: dg.DagsterInstance) -> None:
    storage = instance.event_log_storage
    storage.initialize_concurrency_limit_to_default(POOL)
    assert storage.claim_concurrency_slot(POOL, "first", "step").is_claimed
    assert not storage.claim_concurrency_slot(POOL, "second", "step").is_claimed
    storage.free_concurrency_slots_for_run("first")
    assert storage.claim_concurrency_slot(POOL, "second", "step").is_claimed
