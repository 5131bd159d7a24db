"""Tables for these tests: the embedded lake, the same SQL in memory, and a stand-in Snowflake account."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

from kurashiru_pipeline.environment import Environment, Settings
from tests.warehouse.small_lake import Lake, PlainTables, SnowflakeTables, Tables

Opener: TypeAlias = Callable[[Path], Tables]


def _plain(_: Path) -> PlainTables:
    return PlainTables()


def _lake(home: Path) -> Lake:
    return Lake(Settings.load(Environment.LOCAL, {"KURASHIRU_HOME": str(home)}))


def _snowflake(home: Path) -> SnowflakeTables:
    return SnowflakeTables(home / "account", home / "landing")


_STAND_IN = pytest.param(_snowflake, id="snowflake", marks=pytest.mark.stand_in)
SQL = [pytest.param(_plain, id="duckdb"), _STAND_IN]
ENGINES = [pytest.param(_lake, id="ducklake"), _STAND_IN]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(Environment.LOCAL, {"KURASHIRU_HOME": str(tmp_path / "home")})


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    """An empty lake of its own, open for writing."""
    with Lake(settings) as lake:
        yield lake


@pytest.fixture
def snowflake_tables(tmp_path: Path) -> Iterator[SnowflakeTables]:
    """An empty account of its own, open for writing."""
    with _snowflake(tmp_path) as tables:
        yield tables


@pytest.fixture(params=ENGINES)
def engine_tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    """Each engine with nothing in it, open for writing: what the port promises holds for both."""
    opener: Opener = request.param
    with opener(tmp_path) as tables:
        yield tables


@pytest.fixture(params=SQL)
def fresh_tables(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tables]:
    """Empty tables of each dialect."""
    opener: Opener = request.param
    with opener(tmp_path) as tables:
        yield tables


@pytest.fixture(scope="module", params=SQL)
def tables(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tables]:
    """Tables of each dialect for all examples of a module, each of which keeps to ids and times of its own."""
    opener: Opener = request.param
    with opener(tmp_path_factory.mktemp("tables")) as tables:
        yield tables
