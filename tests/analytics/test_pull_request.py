"""A pull request builds what it changes and what depends on it, in schemas of its own, and reads the rest where it is.

On DuckLake, where no account is needed; the commands are those of the job in .github/workflows.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
from analytics_lake import make_events, make_lake, read_tables, write_catalogue, write_events
from analytics_location import Location

from kurashiru_pipeline.analytics.prepare import PROJECT_FOLDER, dbt_variables
from kurashiru_pipeline.environment import Settings

OWN_SCHEMAS = ("pr_7_staging", "pr_7_intermediate", "pr_7_marts")
Dbt = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Location]:
    """A lake with production's marts; the manifest lies in the target folder."""
    with dg.DagsterInstance.ephemeral() as instance:
        location = Location(make_lake(tmp_path_factory.mktemp("home")), instance)
        write_catalogue(location.settings)
        write_events(location.settings, make_events())
        location.dbt("run")
        yield location


@pytest.fixture(scope="module")
def dbt(production: Location, tmp_path_factory: pytest.TempPathFactory) -> Dbt:
    """dbt of a pull request that gives int_user_days a column."""
    changed = tmp_path_factory.mktemp("changed") / "dbt_project"
    shutil.copytree(PROJECT_FOLDER, changed, ignore=shutil.ignore_patterns("target", "logs"))
    model = changed / "models" / "intermediate" / "int_user_days.sql"
    text = model.read_text()
    model.write_text(
        text.replace("min(loaded_at) as loaded_at", "min(loaded_at) as loaded_at,\n        1 as is_changed")
    )
    assert model.read_text() != text

    def run(*arguments: str, prefix: str = "pr_7") -> subprocess.CompletedProcess[str]:
        own = {**dbt_variables(production.settings), "KURASHIRU_DBT_SCHEMA_PREFIX": prefix}
        command = [Path(sys.executable).with_name("dbt"), *arguments]
        places = ["--project-dir", changed, "--profiles-dir", changed, "--target-path", changed / "target"]
        return subprocess.run(
            [*command, *places, "--log-path", changed / "target", "--target", "ducklake"],
            env={**os.environ, **own},
            capture_output=True,
            text=True,
            check=False,
        )

    return run


@pytest.fixture(scope="module")
def before(production: Location) -> dict[str, list[dict]]:
    return read_tables(production.settings)


@pytest.fixture(scope="module")
def own_tables(production: Location, dbt: Dbt, before: dict[str, list[dict]]) -> dict[str, list[dict]]:
    state = str(production.settings.home / "target")
    done = dbt("build", "--select", "state:modified+", "--defer", "--state", state)
    assert done.returncode == 0, done.stdout
    return read_tables(production.settings, OWN_SCHEMAS)


def test_only_the_change_and_what_depends_on_it_is_built(own_tables: dict[str, list[dict]]) -> None:
    assert own_tables.keys() == {
        "pr_7_intermediate.int_user_days",
        "pr_7_marts.dim_users",
        "pr_7_marts.fct_daily_kpis",
    }


def test_what_did_not_change_is_read_from_production(
    production: Location, before: dict[str, list[dict]], own_tables: dict[str, list[dict]]
) -> None:
    assert own_tables["pr_7_marts.fct_daily_kpis"] == before["marts.fct_daily_kpis"]
    assert {row["is_changed"] for row in own_tables["pr_7_intermediate.int_user_days"]} == {1}
    assert read_tables(production.settings) == before


def test_a_pull_request_without_changes_builds_nothing(production: Location) -> None:
    settings: Settings = production.settings
    listed = subprocess.run(
        [
            *(Path(sys.executable).with_name("dbt"), "list", "--quiet", "--select", "state:modified+"),
            *(
                "--state",
                settings.home / "target",
                "--target",
                "ducklake",
                "--target-path",
                settings.home / "unchanged",
            ),
            *(
                "--project-dir",
                PROJECT_FOLDER,
                "--profiles-dir",
                PROJECT_FOLDER,
                "--log-path",
                settings.home / "unchanged",
            ),
        ],
        env={**os.environ, **dbt_variables(settings), "KURASHIRU_DBT_SCHEMA_PREFIX": "pr_8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert listed.stdout.strip() == ""


def test_its_schemas_are_dropped(production: Location, dbt: Dbt, own_tables: dict[str, list[dict]]) -> None:
    assert own_tables
    assert "for example: export" in dbt("run-operation", "drop_prefixed_schemas", prefix="").stdout
    done = dbt("run-operation", "drop_prefixed_schemas")
    assert done.returncode == 0, done.stdout
    assert read_tables(production.settings, OWN_SCHEMAS) == {}
    assert "marts.fct_daily_kpis" in read_tables(production.settings)
