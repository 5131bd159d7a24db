"""The analytics location loads anywhere, and its assets keep the conventions of the tree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from kurashiru_pipeline import catalog
from kurashiru_pipeline.analytics.build import build_definitions
from kurashiru_pipeline.analytics.dbt_assets import KurashiruTranslator
from kurashiru_pipeline.analytics.prepare import PROJECT_FOLDER, dbt_project, dbt_variables
from kurashiru_pipeline.catalog import Group, Owner
from kurashiru_pipeline.environment import PROJECT_ROOT, Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError

SOURCES = {catalog.STAGED_BEHAVIOR_EVENTS, catalog.RECIPES, catalog.USERS, catalog.BATCH_MODELS}
DESCRIBE = """
import json
from kurashiru_pipeline.analytics.definitions import defs
graph = defs.resolve_asset_graph()
print(json.dumps({
    "keys": sorted(key.to_user_string() for key in graph.materializable_asset_keys),
    "warehouse": type(defs.resources["warehouse"]).__name__,
    "schedules": {s.name: s.default_status.value for s in defs.schedules},
}))
"""
SNOWFLAKE_PARSE = {
    "KURASHIRU_SNOWFLAKE_ACCOUNT": "nowhere",
    "KURASHIRU_SNOWFLAKE_USER": "nobody",
    "KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH": "/nowhere.p8",
    "KURASHIRU_SNOWFLAKE_ANALYTICS_WAREHOUSE": "none",
    "KURASHIRU_SNOWFLAKE_DATABASE": "KURASHIRU_STAGING",
    "KURASHIRU_DBT_SCHEMA_PREFIX": "pr_7",
}


@pytest.fixture(scope="module")
def definitions() -> dg.Definitions:
    return build_definitions(Environment.LOCAL)


@pytest.fixture(scope="module")
def specs(definitions: dg.Definitions) -> dict[str, dg.AssetSpec]:
    graph = definitions.resolve_asset_graph()
    own = graph.materializable_asset_keys
    return {spec.key.to_user_string(): spec for spec in definitions.resolve_all_asset_specs() if spec.key in own}


@pytest.fixture(scope="module")
def loaded() -> dict[str, dict]:
    """What fresh interpreters with nothing but the environment's name find in the location."""
    processes = {
        environment: subprocess.Popen(
            [sys.executable, "-c", DESCRIBE],
            env={"KURASHIRU_ENV": environment, "PYTHONPATH": str(PROJECT_ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for environment in Environment
    }
    outputs = {environment: process.communicate()[0] for environment, process in processes.items()}
    assert {process.returncode for process in processes.values()} == {0}
    return {environment: json.loads(output) for environment, output in outputs.items()}


@pytest.fixture(scope="module")
def snowflake_manifest(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The project parsed for Snowflake, as a pull request would: own schemas, no connection."""
    target = tmp_path_factory.mktemp("target")
    command = [Path(sys.executable).with_name("dbt"), "parse", "--quiet", "--target", "snowflake"]
    folders = ["--project-dir", PROJECT_FOLDER, "--profiles-dir", PROJECT_FOLDER]
    places = ["--target-path", target, "--log-path", target]
    subprocess.run([*command, *folders, *places], check=True, env={**os.environ, **SNOWFLAKE_PARSE})
    manifest: dict = json.loads((target / "manifest.json").read_text())
    return manifest


def test_location_loads_without_variables_in_every_environment(loaded: dict[str, dict]) -> None:
    assert loaded["local"]["keys"] == loaded["staging"]["keys"] == loaded["production"]["keys"]
    engines = {name: described["warehouse"] for name, described in loaded.items()}
    assert engines == {
        "local": "DuckLakeAnalytics",
        "staging": "SnowflakeAnalytics",
        "production": "SnowflakeAnalytics",
    }


def test_schedules_run_by_themselves_only_locally(loaded: dict[str, dict]) -> None:
    names = {"analytics_hourly_schedule", "analytics_maintenance_schedule"}
    assert loaded["local"]["schedules"] == dict.fromkeys(names, "RUNNING")
    assert loaded["staging"]["schedules"] == dict.fromkeys(names, "STOPPED")
    assert loaded["production"]["schedules"] == dict.fromkeys(names, "STOPPED")


def test_assets_keep_the_conventions(definitions: dg.Definitions, specs: dict[str, dg.AssetSpec]) -> None:
    checked = {check.asset_key.to_user_string() for check in definitions.resolve_asset_graph().asset_check_keys}
    broken = [
        name
        for name, spec in specs.items()
        if spec.group_name not in set(Group)
        or not spec.owners
        or not set(spec.owners) <= set(Owner)
        or not spec.kinds
        or not (spec.description or "").rpartition("Grain: ")[2].endswith(".")
        or "Grain: " not in (spec.description or "")
        or len(spec.key.path) != 2
        or name not in checked
    ]
    assert broken == []
    assert len(specs) > 15


def test_sources_are_the_assets_of_the_near_real_time_location(specs: dict[str, dg.AssetSpec]) -> None:
    upstream = {tuple(dep.asset_key.path) for spec in specs.values() for dep in spec.deps}
    assert upstream - {tuple(spec.key.path) for spec in specs.values()} == SOURCES
    assert "/".join(catalog.PROMOTED_ARTIFACT) in specs


def test_every_model_column_is_described() -> None:
    project = dbt_project(Settings.load(Environment.LOCAL, {}))
    manifest = json.loads(project.manifest_path.read_text())
    nodes = [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]
    assert [node["name"] for node in nodes if not node["columns"]] == []
    missing = [
        f"{node['name']}.{column['name']}"
        for node in nodes
        for column in node["columns"].values()
        if not column["description"]
    ]
    assert missing == []


def test_keys_are_the_same_on_snowflake_whatever_the_schema_prefix(
    snowflake_manifest: dict, specs: dict[str, dg.AssetSpec]
) -> None:
    translator = KurashiruTranslator("snowflake")
    models = {
        unique_id: node for unique_id, node in snowflake_manifest["nodes"].items() if node["resource_type"] == "model"
    }
    keys = {translator.get_asset_spec(snowflake_manifest, unique_id, None).key.to_user_string() for unique_id in models}
    assert keys == {name for name in specs if not name.startswith(("model/", "ops/"))}
    assert {node["schema"] for node in models.values()} == {"pr_7_staging", "pr_7_intermediate", "pr_7_marts"}
    assert {node["database"] for node in snowflake_manifest["sources"].values()} == {"KURASHIRU_STAGING"}


def test_snowflake_says_what_is_missing() -> None:
    with pytest.raises(ConfigurationError, match="KURASHIRU_SNOWFLAKE_ACCOUNT"):
        dbt_variables(Settings.load(Environment.PRODUCTION, {}))


def test_dbt_takes_a_key_or_the_identity_of_its_process() -> None:
    account = {"KURASHIRU_SNOWFLAKE_ACCOUNT": "myorg-production"}
    key = dbt_variables(
        Settings.load(Environment.PRODUCTION, {**account, "KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH": "/run/key.p8"})
    )
    assert key["KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH"] == "/run/key.p8"
    assert key["KURASHIRU_SNOWFLAKE_ANALYTICS_WAREHOUSE"] == "KURASHIRU_ANALYTICS"
    identity = {**account, "KURASHIRU_SNOWFLAKE_AUTHENTICATOR": "workload_identity"}
    assert not [name for name in dbt_variables(Settings.load(Environment.PRODUCTION, identity)) if "KEY" in name]


def test_missing_manifest_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("dbt_project.yml", "profiles.yml"):
        (tmp_path / name).write_text((PROJECT_FOLDER / name).read_text())
    monkeypatch.setattr("kurashiru_pipeline.analytics.prepare.PROJECT_FOLDER", tmp_path)
    with pytest.raises(ConfigurationError, match="make setup"):
        dbt_project(Settings.load(Environment.LOCAL, {}))
