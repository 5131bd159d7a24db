"""The near-real-time location loads anywhere, imports little, and keeps the conventions."""

import os
import subprocess
import sys

import dagster as dg
import pytest

from kurashiru_pipeline import catalog
from kurashiru_pipeline.catalog import Group, Owner
from kurashiru_pipeline.environment import PROJECT_ROOT, Environment
from kurashiru_pipeline.realtime.build import build_definitions

HEAVY = (
    "dbt",
    "dagster_aws",
    "dagster_dbt",
    "dagster_snowflake",
    "moto",
    "pandas",
    "snowflake.connector",
    "snowflake.snowpark",
)


def _fresh_interpreter(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code with an empty environment: no settings, no credentials, not even a PATH."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=variables, cwd=PROJECT_ROOT, check=False
    )


@pytest.mark.parametrize("environment", list(Environment))
def test_loads_in_every_environment_without_settings_or_connections(environment: Environment) -> None:
    code = (
        "import socket\n"
        "def refuse(*args, **kwargs): raise AssertionError('a connection while definitions load')\n"
        "socket.socket.connect = refuse\n"
        "from kurashiru_pipeline.realtime.definitions import defs\n"
        "print(defs.resolve_job_def('micro_batch_job').name)"
    )
    outcome = _fresh_interpreter(code, KURASHIRU_ENV=environment)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.strip() == "micro_batch_job"


def test_an_unknown_environment_is_an_error_that_names_the_valid_ones() -> None:
    outcome = _fresh_interpreter("import kurashiru_pipeline.realtime.definitions", KURASHIRU_ENV="qa")
    assert outcome.returncode != 0
    assert "use one of: local, staging, production" in outcome.stderr


def test_imports_nothing_heavy() -> None:
    code = (
        "import sys, kurashiru_pipeline.realtime.definitions\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    outcome = _fresh_interpreter(code)
    assert outcome.stdout.strip() == "[]", outcome.stderr


def test_the_core_imports_neither_dagster_nor_clients() -> None:
    code = (
        "import pkgutil, importlib, sys, kurashiru_pipeline.core as core\n"
        "for module in pkgutil.iter_modules(core.__path__):\n"
        "    importlib.import_module('kurashiru_pipeline.core.' + module.name)\n"
        "print([name for name in ('dagster', 'boto3', 'snowflake.connector', 'duckdb', 'pandas')"
        " if name in sys.modules])"
    )
    outcome = _fresh_interpreter(code)
    assert outcome.stdout.strip() == "[]", outcome.stderr


def _specs(environment: Environment) -> dict[dg.AssetKey, dg.AssetSpec]:
    graph = build_definitions(environment).resolve_asset_graph()
    return {spec.key: spec for node in graph.assets_defs for spec in node.specs}


def test_keys_are_equal_in_every_environment() -> None:
    local = _specs(Environment.LOCAL).keys()
    assert local == _specs(Environment.STAGING).keys() == _specs(Environment.PRODUCTION).keys()


LOCAL_SPECS = sorted(_specs(Environment.LOCAL).values(), key=lambda spec: spec.key)


@pytest.mark.parametrize("spec", LOCAL_SPECS, ids=lambda spec: spec.key.to_user_string())
def test_every_asset_says_what_it_is(spec: dg.AssetSpec) -> None:
    assert len(spec.key.path) == 2, "a key is [schema, table]"
    assert spec.group_name in list(Group)
    assert spec.owners
    assert set(spec.owners) <= set(Owner)
    assert spec.kinds
    assert spec.description is not None
    assert "Grain: one " in spec.description.split(". ")[-1]


def test_every_asset_made_here_has_a_check() -> None:
    graph = build_definitions(Environment.LOCAL).resolve_asset_graph()
    checked = {key.asset_key for key in graph.asset_check_keys}
    elsewhere = {dg.AssetKey(catalog.PROMOTED_ARTIFACT)}
    assert {spec.key for spec in LOCAL_SPECS} - checked == elsewhere


def test_lineage_runs_from_landed_files_to_dynamodb() -> None:
    graph = build_definitions(Environment.LOCAL).resolve_asset_graph()
    upstream = {dg.AssetKey(catalog.DYNAMODB_RECOMMENDATIONS)}
    for _ in range(10):
        upstream |= {parent for key in upstream for parent in graph.get(key).parent_keys}
    assert dg.AssetKey(catalog.RAW_BEHAVIOR_EVENTS) in upstream
    assert dg.AssetKey(catalog.PROMOTED_ARTIFACT) in upstream


def test_where_the_warehouse_loads_itself_the_job_starts_at_the_stream() -> None:
    production = build_definitions(Environment.PRODUCTION)
    job = production.resolve_job_def("micro_batch_job")
    assert dg.AssetKey(catalog.RAW_BEHAVIOR_EVENTS) not in job.asset_layer.executable_asset_keys
    assert dg.AssetKey(catalog.STAGED_BEHAVIOR_EVENTS) in job.asset_layer.executable_asset_keys


def test_sensors_run_by_themselves_only_locally() -> None:
    for environment, status in (
        (Environment.LOCAL, dg.DefaultSensorStatus.RUNNING),
        (Environment.STAGING, dg.DefaultSensorStatus.STOPPED),
        (Environment.PRODUCTION, dg.DefaultSensorStatus.STOPPED),
    ):
        [sensor] = build_definitions(environment).sensors or []
        assert sensor.default_status == status


@pytest.mark.parametrize("environment", list(Environment))
def test_dagster_validates_the_workspace_with_an_empty_environment(environment: Environment) -> None:
    outcome = subprocess.run(
        [sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml"],
        capture_output=True,
        text=True,
        cwd=PROJECT_ROOT,
        env={"KURASHIRU_ENV": environment, "PATH": os.defpath, "HOME": os.environ.get("HOME", "/")},
        check=False,
    )
    assert outcome.returncode == 0, outcome.stderr + outcome.stdout
