"""Training, promotion and upkeep on Snowflake, in Snowpark's local testing."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from snowflake.snowpark import Session
from snowflake.snowpark.file_operation import FileOperation

from kurashiru_pipeline.analytics import snowflake
from kurashiru_pipeline.analytics.canary_assets import canary_decision
from kurashiru_pipeline.analytics.model_assets import (
    beats_no_model,
    candidate_artifact,
    is_loadable,
    is_servable,
    promoted_artifact,
)
from kurashiru_pipeline.analytics.snowflake import (
    CANARIES,
    PROMOTIONS,
    TABLES,
    SnowflakeAnalytics,
    deploy_functions,
    snowflake_resource,
)
from kurashiru_pipeline.analytics.versions import promote_by_hand, roll_back, start_canary, stop_canary
from kurashiru_pipeline.analytics.warehouse import CANARY_DAYS, CANARY_DAYS_TABLE, KEPT_VERSIONS
from kurashiru_pipeline.core.artifact import (
    ARRAYS,
    MANIFEST,
    TWIN,
    InService,
    in_service,
    load_artifact,
    load_promoted,
    load_twin,
    save_artifact,
)
from kurashiru_pipeline.core.candidate import train_candidate
from kurashiru_pipeline.core.gate import Action, Contender
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.snowpark import registration
from tests.snowpark.marts import save_tables, training_tables

LOGIN = {
    "KURASHIRU_SNOWFLAKE_ACCOUNT": "myorg-production",
    "KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH": "/run/secrets/key.p8",
}


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """A session of local testing, which knows no permanent objects, with the tables that deployment makes."""
    session = Session.builder.config("local_testing", True).create()
    for name in ("register_functions", "register_challenger", "register_training"):
        monkeypatch.setattr(snowflake, name, partial(getattr(registration, name), is_permanent=False))
    for table, schema in TABLES.items():
        session.create_dataframe([], schema=schema).write.save_as_table(table)
    yield session
    session.close()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(Environment.PRODUCTION, {"KURASHIRU_HOME": str(tmp_path), **LOGIN})


@pytest.fixture
def analytics(session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> SnowflakeAnalytics:
    resource = SimpleNamespace(create_snowpark_session=lambda: nullcontext(session))
    monkeypatch.setattr(snowflake, "snowflake_resource", lambda _: resource)
    return SnowflakeAnalytics(environment=settings.environment, variables=dict(settings.environ))


@pytest.fixture
def functions(session: Session) -> Callable[[], set[str]]:
    """Names and imported files of the functions there are."""
    return lambda: {
        f"{name.split('.')[-1]} {sorted(Path(path).name for path in udf._imports)}"
        for name, udf in session.udf._registry.items()
    }


def test_a_candidate_is_trained_and_promoted(
    analytics: SnowflakeAnalytics, session: Session, settings: Settings, functions: Callable[[], set[str]]
) -> None:
    tables = training_tables()
    save_tables(session, tables)
    assert analytics.in_service() == InService()
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [candidate_artifact, promoted_artifact, canary_decision, is_servable, beats_no_model, is_loadable],
            resources={"warehouse": analytics},
            instance=instance,
        )
    assert result.success
    checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
    assert checks == {"is_servable": True, "beats_no_model": True, "is_loadable": True}
    [promoted] = result.asset_materializations_for_node("model__promoted_artifact")
    version = promoted.metadata["version"].value
    assert promoted.metadata["decision"].value == "promoted (first model)"
    assert promoted.metadata["version_before"].value == "none"
    assert analytics.in_service() == InService(version)
    assert [(record.action, record.version) for record in analytics.history()] == [(Action.PROMOTED, version)]
    assert analytics.history()[0].figures["queries"] == 40
    assert functions() == {
        "\"BUILD_PROFILE\" ['kurashiru_kernel.zip']",
        f"\"RANK_RECIPES\" ['{ARRAYS}', 'kurashiru_kernel.zip', '{MANIFEST}']",
    }
    expected = train_candidate(tables, load_weights(), version, Contender())
    artifact = load_promoted(settings.folder("KURASHIRU_MODELS"))
    assert artifact is not None
    assert expected is not None
    assert artifact.metadata == expected.artifact.metadata
    assert (artifact.neighbours != expected.artifact.neighbours).nnz == 0


def test_without_history_nothing_is_trained(analytics: SnowflakeAnalytics, session: Session) -> None:
    save_tables(session, {name: table.slice(0, 0) for name, table in training_tables().items()})
    assert analytics.train("v1", None) is None


@pytest.fixture
def trained(analytics: SnowflakeAnalytics, session: Session) -> SnowflakeAnalytics:
    """v1 and v2 saved, the second judged against the first."""
    save_tables(session, training_tables())
    analytics.train("v1", None)
    analytics.train("v2", analytics.artifact("v1"))
    return analytics


def test_the_procedure_judges_against_the_version_it_is_told(trained: SnowflakeAnalytics, session: Session) -> None:
    judgement = trained.artifact("v2").metadata["judgement"]
    assert judgement["champion"] == "v1"
    assert judgement["seen"] == judgement["unseen"] == [0.0, 0.0, 0.0], "the twin of v1 came with it"


def test_the_newest_promotion_is_in_service(trained: SnowflakeAnalytics, session: Session) -> None:
    for version in ("v1", "v2", "v1"):
        promote_by_hand(trained, version)
    assert trained.in_service() == InService("v1")
    assert session.table(PROMOTIONS).count() == 3
    assert roll_back(trained) == ("v2", "v1")
    assert trained.in_service() == InService("v2")
    assert session.table(PROMOTIONS).count() == 4


def test_a_canary_has_a_function_of_its_own_until_something_is_promoted(
    trained: SnowflakeAnalytics, session: Session, settings: Settings, functions: Callable[[], set[str]]
) -> None:
    promote_by_hand(trained, "v1")
    canary = start_canary(trained, "v2", 0.05)
    models = settings.folder("KURASHIRU_MODELS")
    assert trained.in_service() == in_service(models) == InService("v1", canary)
    assert session.table(PROMOTIONS).count() == 1, "the model in service stays as it is"
    challenger = f"\"RANK_CHALLENGER\" ['{ARRAYS}', 'kurashiru_kernel.zip', '{MANIFEST}']"
    assert challenger in functions()
    stop_canary(trained, "by hand")
    assert trained.in_service() == in_service(models) == InService("v1")
    again = start_canary(trained, "v2", 0.1)
    assert trained.in_service().canary == again
    deploy_functions(settings)
    assert challenger in functions()
    promote_by_hand(trained, "v2")
    assert trained.in_service() == in_service(models) == InService("v2")
    assert session.table(CANARIES).count() == 3


def test_arms_of_a_canary_are_read_from_the_mart(trained: SnowflakeAnalytics, session: Session) -> None:
    promote_by_hand(trained, "v1")
    canary = start_canary(trained, "v2", 0.05)
    day = {"shown_on": date(2026, 11, 23), "arm": "champion", "users": 3, "impressions": 20, "clicks": 2}
    sums = {"squared_impressions": 90.0, "impressions_by_clicks": 9.0, "squared_clicks": 2.0}
    rows = [
        [*(day | sums).values(), "v2", canary.started_at],
        [*(day | sums).values(), "v2", canary.started_at - timedelta(days=1)],
        [*(day | sums | {"arm": "challenger"}).values(), "v2", canary.started_at],
    ]
    names = [*day, *sums, "challenger_version", "canary_started_at"]
    session.create_dataframe(rows, schema=names).write.save_as_table(CANARY_DAYS_TABLE)
    found = trained.canary_days(canary)
    assert found.schema == CANARY_DAYS
    assert found.to_pylist() == [day | sums | {"arm": arm} for arm in ("challenger", "champion")]


def test_functions_are_there_before_the_first_model(
    analytics: SnowflakeAnalytics, session: Session, settings: Settings, functions: Callable[[], set[str]]
) -> None:
    assert deploy_functions(settings) is None
    assert functions() == {
        "\"BUILD_PROFILE\" ['kurashiru_kernel.zip']",
        "\"RANK_RECIPES\" ['kurashiru_kernel.zip']",
    }
    save_tables(session, training_tables())
    analytics.train("v1", None)
    promote_by_hand(analytics, "v1")
    assert deploy_functions(settings) == "v1"
    assert f"\"RANK_RECIPES\" ['{ARRAYS}', 'kurashiru_kernel.zip', '{MANIFEST}']" in functions()


def test_a_missing_version_is_an_error(analytics: SnowflakeAnalytics, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="nowhere"):
        analytics.artifact("nowhere")
    assert not (tmp_path / "models" / "nowhere").exists()


def test_old_versions_go_from_stage_and_folder(
    analytics: SnowflakeAnalytics, session: Session, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Local testing has neither LIST nor REMOVE: they stand here over the folder of its stage."""
    stage = tmp_path / "stage"

    def listed(self: FileOperation, place: str, **_: Any) -> list[SimpleNamespace]:
        assert place == "@model.artifacts"
        return [SimpleNamespace(name=f"artifacts/{file.relative_to(stage)}") for file in stage.rglob("*.*")]

    def removed(self: FileOperation, place: str, **_: Any) -> None:
        shutil.rmtree(stage / place.removeprefix("@model.artifacts/"))

    monkeypatch.setattr(FileOperation, "list", listed)
    monkeypatch.setattr(FileOperation, "remove", removed)
    made = train_candidate(training_tables(), load_weights(), "v", Contender())
    assert made is not None
    assert made.twin is not None
    names = [f"v{number:02d}" for number in range(KEPT_VERSIONS + 2)]
    for name in names:
        save_artifact(replace(made.artifact, version=name), stage, made.twin)
    assert load_artifact(stage / names[0] / TWIN).metadata == {}
    assert load_twin(stage / names[0]) is not None
    shutil.copytree(stage / names[0], settings.folder("KURASHIRU_MODELS") / names[0])
    assert analytics.remove_old_versions() == names[:2]
    assert analytics.saved_versions() == names[2:]
    assert not (settings.folder("KURASHIRU_MODELS") / names[0]).exists()


def test_the_login_is_the_transformers(settings: Settings) -> None:
    resource = snowflake_resource(settings)
    assert resource.account == "myorg-production"
    assert (resource.user, resource.role, resource.warehouse, resource.database) == (
        "SVC_KURASHIRU",
        "KURASHIRU_TRANSFORMER",
        "KURASHIRU_ANALYTICS",
        "KURASHIRU",
    )
    assert resource.private_key_path == "/run/secrets/key.p8"
    assert resource.private_key_password is None
    tag = '{"app":"kurashiru_pipeline","env":"production","tool":"training"}'
    assert resource.additional_snowflake_connection_args == {"session_parameters": {"QUERY_TAG": tag}}


def test_an_identity_needs_no_key(settings: Settings) -> None:
    identity = {**settings.environ, "KURASHIRU_SNOWFLAKE_AUTHENTICATOR": "workload_identity"}
    del identity["KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH"]
    resource = snowflake_resource(Settings.load(Environment.PRODUCTION, identity))
    arguments = resource._connection_args
    assert arguments["authenticator"] == "WORKLOAD_IDENTITY"
    assert arguments["workload_identity_provider"] == "AWS"
    assert "private_key" not in arguments


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigurationError, match="KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH"):
        snowflake_resource(Settings.load(Environment.PRODUCTION, {}))
