"""Connecting: what the connector is called with, what becomes of its errors, and that every session is closed."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import snowflake.connector
from snowflake.connector import errors as theirs

from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError, StaleStreamError, TransientError
from kurashiru_pipeline.warehouse import open_warehouse, snowflake_session
from kurashiru_pipeline.warehouse.snowflake_session import LockedError, Session, connection_arguments
from tests.snowflake.account import variables

TAG = {"app": "kurashiru_pipeline", "env": "production", "run": "r-1"}


class Cursor:
    """Answers nothing, or raises what its connection is told to raise."""

    description: tuple[Any, ...] = ()

    def __init__(self, connection: "Connection") -> None:
        self._connection = connection

    def __enter__(self) -> "Cursor":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.open_cursors -= 1

    def execute(self, sql: str, **options: Any) -> "Cursor":
        self._connection.executed.append((sql, options))
        if self._connection.failure is not None:
            raise self._connection.failure
        return self

    def fetchall(self) -> list[tuple[Any, ...]]:
        return [("done",)]


class Connection:
    session_id = 7

    def __init__(self) -> None:
        self.executed: list[tuple[str, dict[str, Any]]] = []
        self.failure: Exception | None = None
        self.open_cursors = 0
        self.is_open = True

    def cursor(self) -> Cursor:
        self.open_cursors += 1
        return Cursor(self)

    def close(self) -> None:
        self.is_open = False

    def is_closed(self) -> bool:
        return not self.is_open


class Connector:
    """Stands for snowflake.connector.connect; remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.connections: list[Connection] = []
        self.failure: Exception | None = None

    def __call__(self, **arguments: Any) -> Connection:
        self.calls.append(arguments)
        if self.failure is not None:
            raise self.failure
        arguments["session_parameters"]["AUTOCOMMIT"] = "written by the connector"
        self.connections.append(Connection())
        return self.connections[-1]


@pytest.fixture
def connector(monkeypatch: pytest.MonkeyPatch) -> Connector:
    connector = Connector()
    monkeypatch.setattr(snowflake.connector, "connect", connector)
    return connector


@pytest.fixture
def production(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of production, with changes; a value of None unsets the variable."""

    def load(**changes: str | None) -> Settings:
        given = {**variables(tmp_path), **changes}
        return Settings.load(
            Environment.PRODUCTION, {name: value for name, value in given.items() if value is not None}
        )

    return load


Production = Callable[..., Settings]


# What it is called with


def test_a_key_pair_names_user_and_key(connector: Connector, production: Production) -> None:
    settings = production(KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PASSPHRASE="open sesame")
    Session.open(settings, warehouse="KURASHIRU_PIPELINE", run_id="r-1")
    [call] = connector.calls
    key = settings.text("KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH")
    parameters = call.pop("session_parameters")
    assert call == {
        "account": "stand-in",
        "user": "SVC_KURASHIRU",
        "role": "KURASHIRU_ORCHESTRATOR",
        "database": "KURASHIRU",
        "schema": "OPS",
        "warehouse": "KURASHIRU_PIPELINE",
        "authenticator": "SNOWFLAKE_JWT",
        "private_key_file": key,
        "private_key_file_pwd": "open sesame",
        "application": "kurashiru_pipeline",
        "login_timeout": 60,
        "network_timeout": 300,
        "validate_default_parameters": True,
    }
    assert json.loads(parameters.pop("QUERY_TAG")) == TAG
    parameters.pop("AUTOCOMMIT")
    assert parameters == {
        "TRANSACTION_ABORT_ON_ERROR": True,
        "TIMEZONE": "UTC",
        "TIMESTAMP_TYPE_MAPPING": "TIMESTAMP_NTZ",
        "TIMESTAMP_INPUT_FORMAT": "AUTO",
        "LOCK_TIMEOUT": 60,
        "STATEMENT_TIMEOUT_IN_SECONDS": 3600,
        "ABORT_DETACHED_QUERY": True,
    }


def test_a_key_without_passphrase_and_a_session_without_warehouse(connector: Connector, production: Production) -> None:
    Session.open(production(), warehouse=None)
    [call] = connector.calls
    assert "private_key_file_pwd" not in call
    assert "warehouse" not in call
    assert json.loads(call["session_parameters"]["QUERY_TAG"])["run"] == "none"


def test_workload_identity_needs_neither_user_nor_key(connector: Connector, production: Production) -> None:
    settings = production(
        KURASHIRU_SNOWFLAKE_AUTHENTICATOR="workload_identity", KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH=None
    )
    Session.open(settings, warehouse=None)
    [call] = connector.calls
    assert (call["authenticator"], call["workload_identity_provider"]) == ("WORKLOAD_IDENTITY", "AWS")
    assert not {"user", "private_key_file", "private_key_file_pwd", "password"} & call.keys()


def test_the_connector_accepts_these_arguments(production: Production) -> None:
    """Its own checks, without a network: it complains of nothing but the host."""
    for authenticator in ("key_pair", "workload_identity"):
        settings = production(KURASHIRU_SNOWFLAKE_AUTHENTICATOR=authenticator)
        arguments = connection_arguments(settings, warehouse="W", tag=TAG)
        known = snowflake.connector.connection.DEFAULT_CONFIGURATION
        assert arguments.keys() <= known.keys()
        for name, value in arguments.items():
            kinds = known[name][1]
            accepted = kinds if isinstance(kinds, tuple) else (kinds,)
            assert isinstance(value, accepted) or name == "workload_identity_provider", name
        provider = arguments.get("workload_identity_provider")
        if provider:
            assert snowflake.connector.wif_util.AttestationProvider.from_string(provider).value == "AWS"


def test_every_connection_gets_arguments_of_its_own(connector: Connector, production: Production) -> None:
    """The connector writes into the parameters it is given."""
    settings = production()
    for _ in range(2):
        Session.open(settings, warehouse=None)
    first, second = (call["session_parameters"] for call in connector.calls)
    assert first is not second
    assert snowflake_session._PARAMETERS["AUTOCOMMIT"] is True


def test_every_statement_carries_its_name(connector: Connector, production: Production) -> None:
    session = Session.open(production(), warehouse=None, run_id="r-1")
    session.rows("select 1", name="collect.touch")
    [(sql, options)] = connector.connections[0].executed
    assert sql == "select 1"
    assert json.loads(options["_statement_params"]["QUERY_TAG"]) == {**TAG, "statement": "collect.touch"}
    assert connector.connections[0].open_cursors == 0


# What is missing


@pytest.mark.parametrize(
    "variable",
    [
        "KURASHIRU_SNOWFLAKE_ACCOUNT",
        "KURASHIRU_SNOWFLAKE_USER",
        "KURASHIRU_SNOWFLAKE_ROLE",
        "KURASHIRU_SNOWFLAKE_DATABASE",
        "KURASHIRU_SNOWFLAKE_WAREHOUSE",
        "KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH",
    ],
)
def test_a_setting_that_is_empty_locally_is_asked_for(connector: Connector, tmp_path: Path, variable: str) -> None:
    given = {
        **variables(tmp_path),
        "KURASHIRU_SNOWFLAKE_USER": "SVC",
        "KURASHIRU_SNOWFLAKE_ROLE": "R",
        "KURASHIRU_SNOWFLAKE_DATABASE": "D",
        "KURASHIRU_SNOWFLAKE_WAREHOUSE": "W",
    }
    del given[variable]
    with pytest.raises(ConfigurationError, match=variable):
        open_warehouse(Settings.load(Environment.LOCAL, given))
    assert connector.calls == []


def test_a_missing_setting_is_found_before_anything_is_opened(connector: Connector, production: Production) -> None:
    with pytest.raises(ConfigurationError, match="export KURASHIRU_SNOWFLAKE_ACCOUNT=myorg-production"):
        open_warehouse(production(KURASHIRU_SNOWFLAKE_ACCOUNT=None))
    assert connector.calls == []


def test_a_key_that_is_not_there(connector: Connector, production: Production) -> None:
    with pytest.raises(ConfigurationError, match=r"PRIVATE_KEY_PATH=/nowhere/key\.p8.*No such file"):
        Session.open(production(KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH="/nowhere/key.p8"), warehouse=None)
    assert connector.calls == []


@pytest.mark.parametrize("failure", [ValueError("Incorrect password"), TypeError("Password was not given")])
def test_a_key_that_does_not_open(connector: Connector, production: Production, failure: Exception) -> None:
    connector.failure = failure
    with pytest.raises(ConfigurationError, match="KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PASSPHRASE opens"):
        Session.open(production(), warehouse=None)


# Errors

CASES: list[tuple[theirs.Error, type[KurashiruError], str]] = [
    (theirs.OperationalError("Could not connect to backend", 250001, "08001"), TransientError, "backend"),
    (theirs.OperationalError("Failed to execute request", 250003), TransientError, "request"),
    (theirs.HttpError(msg="503 Service Unavailable", errno=290503, sqlstate="08001"), TransientError, "503"),
    (theirs.HttpError(msg="404 Not Found", errno=290404, sqlstate="08001"), ConfigurationError, "doctor"),
    (
        theirs.ForbiddenError(msg="Verify the account name", errno=250001, sqlstate="08001"),
        ConfigurationError,
        "ACCOUNT",
    ),
    (theirs.DatabaseError("JWT token is invalid", 390144, "28000"), ConfigurationError, "kurashiru doctor"),
    (theirs.DatabaseError("Role 'X' does not exist", 390189, "08001"), ConfigurationError, "deploy snowflake"),
    (theirs.DatabaseError("IP is not allowed to access", 390422, "08001"), ConfigurationError, "refuses"),
    (theirs.ProgrammingError("No credentials", 251018), ConfigurationError, "doctor"),
    (theirs.ProgrammingError("Session no longer exists", 390111, "08001"), TransientError, "ended"),
    (theirs.ProgrammingError("Authentication token has expired", 390114, "08001"), TransientError, "ended"),
    (theirs.DatabaseError("Connection is closed", 250002, "08003"), TransientError, "ended"),
    (
        theirs.ProgrammingError("Object 'X' does not exist or not authorized", 2003, "42S02"),
        ConfigurationError,
        "deploy",
    ),
    (theirs.ProgrammingError("Insufficient privileges", 3001, "42501"), ConfigurationError, "deploy snowflake"),
    (theirs.ProgrammingError("No active warehouse selected", 606, "57P03"), ConfigurationError, "WAREHOUSE"),
    (theirs.ProgrammingError("resource monitor 'M' has exceeded", 90073, "22000"), ConfigurationError, "WAREHOUSE"),
    (theirs.ProgrammingError("has locked table 'T'", 625, "57014"), LockedError, "locked"),
    (theirs.ProgrammingError("aborted because the lock timed out", 1, "57014"), LockedError, "timed out"),
    (theirs.ProgrammingError("chosen as the victim of a deadlock", 1, "40001"), LockedError, "deadlock"),
    (theirs.ProgrammingError("Statement reached its timeout", 630, "57014"), TransientError, "timeout"),
    (theirs.ProgrammingError("SQL execution internal error", 603, "XX000"), TransientError, "internal"),
    (theirs.ProgrammingError("Stream S has become stale", 91901, "02000"), StaleStreamError, "stale"),
    (theirs.ProgrammingError("Base table dropped, cannot read from stream S", 1, "02000"), StaleStreamError, "stream"),
]


@pytest.mark.parametrize(("failure", "kind", "complaint"), CASES, ids=lambda value: getattr(value, "raw_msg", None))
def test_their_errors_in_our_words(
    connector: Connector, production: Production, failure: theirs.Error, kind: type[KurashiruError], complaint: str
) -> None:
    session = Session.open(production(), warehouse=None)
    connector.connections[0].failure = failure
    with pytest.raises(KurashiruError, match=complaint) as caught:
        session.rows("select 1", name="x")
    assert type(caught.value) is kind
    assert caught.value.__cause__ is failure
    assert session.is_gone == (failure.errno in {390111, 390114, 250002})
    assert connector.connections[0].open_cursors == 0
    if not isinstance(failure, theirs.ProgrammingError):
        connector.failure = failure
        with pytest.raises(KurashiruError, match=complaint):
            Session.open(production(), warehouse=None)


def test_an_error_nobody_can_mend_stays_as_it_is(connector: Connector, production: Production) -> None:
    session = Session.open(production(), warehouse=None)
    failure = theirs.ProgrammingError("SQL compilation error: invalid identifier 'X'", 904, "42000")
    connector.connections[0].failure = failure
    with pytest.raises(theirs.ProgrammingError) as caught:
        session.rows("select x", name="x")
    assert caught.value is failure
    connector.connections[0].failure = ValueError("of our own")
    with pytest.raises(ValueError, match="of our own"):
        session.rows("select x", name="x")


# Closing and reopening


def test_a_reader_is_replaced_when_its_session_has_ended(connector: Connector, production: Production) -> None:
    reader = open_warehouse(production(), read_only=True)
    assert not reader.is_replaced()
    connector.connections[0].failure = theirs.ProgrammingError("token has expired", 390114, "08001")
    with pytest.raises(TransientError):
        reader.change_signature()
    assert reader.is_replaced()
    reader.close()
    assert not connector.connections[0].is_open


def test_a_reader_opens_a_warehouse_only_for_a_query(connector: Connector, production: Production) -> None:
    reader = open_warehouse(production(), read_only=True, run_id="r-1")
    assert len(connector.connections) == 1
    assert "warehouse" not in connector.calls[0]
    with pytest.raises(AttributeError):  # this cursor has no Arrow
        reader.fetch("last_batch")
    assert connector.calls[1]["warehouse"] == "KURASHIRU_PIPELINE"
    reader.close()
    assert [connection.is_open for connection in connector.connections] == [False, False]


def test_a_writer_that_cannot_begin_leaves_no_session(connector: Connector, production: Production) -> None:
    def fail_then(**arguments: Any) -> Connection:
        connection = Connector.__call__(connector, **arguments)
        connection.failure = theirs.ProgrammingError("Object does not exist", 2003, "42S02")
        return connection

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snowflake.connector, "connect", fail_then)
        with pytest.raises(ConfigurationError, match="kurashiru deploy snowflake"):
            open_warehouse(production())
    assert [connection.is_open for connection in connector.connections] == [False]


def test_importing_the_engine_imports_no_connector() -> None:
    code = (
        "import sys; import kurashiru_pipeline.warehouse.snowflake; "
        "print({'snowflake.connector', 'duckdb', 'pandas'} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
