"""One run of the near-real-time job: what it shows of itself, and that its checks can fail."""

from collections.abc import Iterator

import dagster as dg
import pytest

from kurashiru_pipeline import catalog
from kurashiru_pipeline.catalog import MICRO_BATCH_JOB
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.realtime.build import build_definitions
from kurashiru_pipeline.realtime.resources import PipelineResource
from kurashiru_pipeline.serving.dynamodb import connect
from tests.engines import Accounts
from tests.sources.service import ENDPOINT, MODEL_FAILED, Service
from tests.traffic import land, put


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


@pytest.fixture
def definitions(variables: dict[str, str]) -> dg.Definitions:
    return build_definitions(Environment.LOCAL, pipeline=PipelineResource(environment="local", variables=variables))


def _run(definitions: dg.Definitions, instance: dg.DagsterInstance, job: str = MICRO_BATCH_JOB) -> dict[str, bool]:
    """Outcome of each check of one run."""
    result = definitions.resolve_job_def(job).execute_in_process(instance=instance)
    assert result.success
    return {
        f"{check.asset_key.to_user_string()}:{check.check_name}": check.passed
        for check in result.get_asset_check_evaluations()
    }


def test_every_materialisation_shows_rows_and_freshness(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, engine: str
) -> None:
    land(settings.landing, "a", events=60)
    outcome = _run(definitions, instance)
    assert outcome
    assert all(outcome.values()), outcome
    loaded = [catalog.RAW_BEHAVIOR_EVENTS] if engine == "ducklake" else []
    for key in (
        *loaded,
        catalog.STAGED_BEHAVIOR_EVENTS,
        catalog.REJECTED_EVENTS,
        catalog.RECENT_BEHAVIORS,
        catalog.USER_PROFILES,
        catalog.LIVE_POPULARITY,
        catalog.RECOMMENDATIONS,
        catalog.DELIVERED_ITEMS,
        catalog.DYNAMODB_RECOMMENDATIONS,
    ):
        event = instance.get_latest_materialization_event(dg.AssetKey(key))
        assert event is not None
        assert event.asset_materialization is not None
        metadata = event.asset_materialization.metadata
        assert metadata.keys() >= {"dagster/row_count", "freshness_p50_seconds", "freshness_p95_seconds"}, key
    staged = instance.get_latest_materialization_event(dg.AssetKey(catalog.STAGED_BEHAVIOR_EVENTS))
    assert staged is not None
    assert staged.asset_materialization is not None
    assert staged.asset_materialization.metadata["staged_count"].value == 60


def test_a_run_with_nothing_to_do_passes(definitions: dg.Definitions, instance: dg.DagsterInstance) -> None:
    assert all(_run(definitions, instance).values())


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
def test_checks_fail_when_they_should(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings
) -> None:
    land(settings.landing, "a", events=10)
    put(settings.landing, "events/2026/01/01/00/broken.gz", b"\x1f\x8b broken")
    put(settings.landing, "events/2026/01/01/00/rejected", b"no json\n" * 5)
    failed = {name for name, passed in _run(definitions, instance).items() if not passed}
    assert failed == {"raw/behavior_events:files_readable", "staging/rejected_events:reject_rate"}


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
def test_an_external_source_is_shown_and_warned_of(
    variables: dict[str, str], instance: dg.DagsterInstance, settings: Settings
) -> None:
    with Service() as service:
        service.behave = lambda number, users: MODEL_FAILED
        on = {
            "KURASHIRU_EXTERNAL_SOURCE": "sagemaker",
            "KURASHIRU_EXTERNAL_ENDPOINT": ENDPOINT,
            "KURASHIRU_EXTERNAL_URL": service.url,
            "KURASHIRU_EXTERNAL_FAILURES": "1",
        }
        pipeline = PipelineResource(environment="local", variables=variables | on)
        land(settings.landing, "a", events=60)
        outcome = _run(build_definitions(Environment.LOCAL, pipeline=pipeline), instance)
    assert {name for name, passed in outcome.items() if not passed} == {
        "recommendation/recommendations:external_source_answers"
    }
    event = instance.get_latest_materialization_event(dg.AssetKey(catalog.RECOMMENDATIONS))
    assert event is not None
    assert event.asset_materialization is not None
    shown = {name: entry.value for name, entry in event.asset_materialization.metadata.items()}
    assert (shown["external_asked"], shown["external_answered"], shown["external_breaker"]) == (5, 0, "open")
    assert shown["external_seconds"] > 0


@pytest.mark.stand_in
@pytest.mark.parametrize("engine", ["snowflake"], indirect=True)
def test_what_snowpipe_did_is_observed(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings, accounts: Accounts
) -> None:
    job = "observe_ingestion_job"
    assert _run(definitions, instance, job) == {"raw/behavior_events:files_loaded": True}
    land(settings.landing, "a", events=10)
    assert all(_run(definitions, instance).values())
    assert _run(definitions, instance, job) == {"raw/behavior_events:files_loaded": True}
    [record] = instance.fetch_observations(dg.AssetKey(catalog.RAW_BEHAVIOR_EVENTS), limit=1).records
    assert record.asset_observation is not None
    shown = {name: entry.value for name, entry in record.asset_observation.metadata.items()}
    assert shown["dagster/row_count"] == 10
    assert shown["loaded_files"] == 1
    assert shown["pending_files"] == 0
    assert shown["pipe_state"] == "RUNNING"
    assert shown["load_p95_seconds"] >= 0

    put(settings.landing, "events/2026/01/01/00/broken.gz", b"\x1f\x8b broken")
    accounts.use(settings).refresh_pipes()
    assert _run(definitions, instance, job) == {"raw/behavior_events:files_loaded": False}


def test_the_scheduled_reconciliation_finds_a_lost_item(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings
) -> None:
    land(settings.landing, "a", events=60)
    _run(definitions, instance)
    assert _run(definitions, instance, "reconcile_job") == {"dynamodb/recommendations:reconcile": True}
    table = settings.text("KURASHIRU_DYNAMODB_TABLE")
    connect(settings).delete_item(TableName=table, Key={"user_id": {"S": "u1"}})
    assert _run(definitions, instance, "reconcile_job") == {"dynamodb/recommendations:reconcile": False}


def test_maintenance_runs_beside_unread_data(
    definitions: dg.Definitions, instance: dg.DagsterInstance, settings: Settings
) -> None:
    land(settings.landing, "a", events=20)
    _run(definitions, instance)
    land(settings.landing, "b", events=20)
    assert definitions.resolve_job_def("maintenance_job").execute_in_process(instance=instance).success
    assert all(_run(definitions, instance).values())
