"""A stand-in for each test module, and sessions of it in a schema of their own for each test."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.snowflake.session import Connection
from tests.snowflake.stand_in import StandIn

_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    folder = tmp_path_factory.mktemp("account")
    with StandIn(folder / "home", landing=folder / "landing") as stand_in:
        yield stand_in


@pytest.fixture
def schema(account: StandIn) -> Iterator[str]:
    """Name of a new schema; a lock is waited for as shortly as a test can bear."""
    name = f"S{next(_NUMBERS)}"
    account.run_script(f"create schema {name}")
    account.longest_lock_wait_seconds = 0.2
    account.statements.clear()
    yield name
    for session in account.sessions():
        session.close()
    account.answer_first.clear()


@pytest.fixture
def connect(account: StandIn, schema: str) -> Callable[..., Connection]:
    """Opens a session in the test's schema, with a warehouse; keywords as snowflake.connector.connect has them."""

    def open_session(**options: Any) -> Connection:
        return account.connect(**{"database": account.database, "schema": schema, "warehouse": "W", **options})

    return open_session


@pytest.fixture
def session(connect: Callable[..., Connection]) -> Connection:
    return connect()
