"""Lakes for these tests: real, in a temporary folder, without an emulated AWS."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kurashiru_pipeline.environment import Environment, Settings
from tests.warehouse.small_lake import Lake, PlainTables


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings.load(Environment.LOCAL, {"KURASHIRU_HOME": str(tmp_path / "home")})


@pytest.fixture
def lake(settings: Settings) -> Iterator[Lake]:
    """An empty lake of its own, open for writing."""
    with Lake(settings) as lake:
        yield lake


@pytest.fixture(scope="module")
def tables() -> Iterator[PlainTables]:
    """Tables in memory for all examples of a module, each of which keeps to ids and times of its own."""
    with PlainTables() as tables:
        yield tables


@pytest.fixture
def fresh_tables() -> Iterator[PlainTables]:
    with PlainTables() as tables:
        yield tables
