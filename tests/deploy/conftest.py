"""One PostgreSQL server for the session; a database and a Dagster home for each test that asks."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from kurashiru_pipeline.environment import PROJECT_ROOT
from tests.deploy.postgres import PostgresServer, postgres_server

DAGSTER_YAML = PROJECT_ROOT / "deploy" / "dagster" / "dagster.yaml"


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_variables(postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables that production's dagster.yaml reads, set to an empty database."""
    variables = postgres.create_database(tmp_path.name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return variables


@pytest.fixture
def dagster_home(postgres_variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with production's dagster.yaml; the database is in the variables."""
    home = tmp_path / "dagster_home"
    home.mkdir()
    shutil.copyfile(DAGSTER_YAML, home / "dagster.yaml")
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    return home


@pytest.fixture
def instance(dagster_home: Path) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.from_config(str(dagster_home)) as opened:
        yield opened
