"""A Snowflake account in this process, for tests; its state is a folder of DuckDB files and staged files.

Here: the account: sessions, the log of statements, pipes' refresh, registered functions, staleness on demand.
Not here: what a session does (session.py) or what is deployed in it (account.py). See README.md for what differs from
Snowflake.
"""

from __future__ import annotations

import threading
import unittest.mock
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import fakesnow.instance
import snowflake.connector
from fakesnow.conn import FakeSnowflakeConnection

from tests.snowflake import copying, corrections, pipes, script, stages, streams
from tests.snowflake.functions import Call, Function, Functions
from tests.snowflake.locks import Locks
from tests.snowflake.names import CATALOGUE, PENDING, ObjectName, parts, quoted
from tests.snowflake.results import Result
from tests.snowflake.session import Connection, Executed

__all__ = ["Executed", "StandIn"]


class StandIn:
    """One Snowflake account with one database, kept in the folder `home`.

    Entered, it answers `snowflake.connector.connect`. It survives its process, `kill -9` included: what was committed
    is there when another StandIn opens the same folder. One process at a time.

    Attributes:
        statements: every statement of every session, in order; pipes and `run_script` are not logged.
        recorded: statements that were accepted without effect (grants, roles, integrations, ...).
        answer_first: asked before a statement is run; who gives a result has answered it.
        longest_lock_wait_seconds: upper bound of LOCK_TIMEOUT, so that a test does not wait for half a day.
    """

    def __init__(self, home: Path, *, landing: Path, database: str = "KURASHIRU") -> None:
        self.home = home
        self.landing = landing
        self.database = database.upper()
        self.stage_folder = home / "stages"
        self.is_new = not (home / f"{self.database}.db").exists()
        self.started_at = datetime.now(UTC).replace(tzinfo=None)
        self.statements: list[Executed] = []
        self.recorded: list[str] = []
        self.longest_lock_wait_seconds = 5.0
        self.answer_first: list[Callable[[Connection, str], Result | None]] = []
        self.locks = Locks()
        self.pipes = pipes
        self._sessions: dict[int, Connection] = {}
        self._service_lock = threading.Lock()
        home.mkdir(parents=True, exist_ok=True)
        landing.mkdir(parents=True, exist_ok=True)
        self._duck = fakesnow.instance.FakeSnow(db_path=home).duck_conn
        self._open()
        self.recorded += [row[0] for row in self._duck.execute("SELECT * FROM RECORDED").fetchall()]
        self.functions = Functions(self._duck)
        self._service = self._connected({"database": self.database, "warehouse": "SERVERLESS", "user": "SYSTEM"})
        self._patch: Any = None

    def _open(self) -> None:
        FakeSnowflakeConnection(self._duck.cursor(), {}, database=self.database, schema="PUBLIC", db_path=self.home)
        for schema in (CATALOGUE, PENDING):
            self._duck.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(self.database, schema)}")
        self._duck.execute(f"USE {quoted(self.database, CATALOGUE)}")
        self._duck.execute("CREATE TABLE IF NOT EXISTS RECORDED (STATEMENT VARCHAR)")
        for module in (streams, stages, copying, pipes):
            self._duck.execute(module.tables_sql())
        corrections.install(self._duck, quoted(self.database, CATALOGUE))

    def __enter__(self) -> Self:
        self._patch = unittest.mock.patch.object(snowflake.connector, "connect", self.connect)
        self._patch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._patch.stop()
        self._patch = None
        self.close()

    def close(self) -> None:
        """End all sessions and let go of the files."""
        for session in self.sessions():
            session.close()
        self._service.close()
        self._duck.close()

    def connect(self, **options: Any) -> Connection:
        """Open a session; takes what `snowflake.connector.connect` takes. Autocommit is on unless said otherwise."""
        session = self._connected(options)
        self._sessions[session.session_id] = session
        return session

    def _connected(self, options: dict[str, Any]) -> Connection:
        duck = self._duck.cursor()
        duck.execute("SET TimeZone = 'UTC'")
        return Connection(self, duck, options)

    def sessions(self) -> list[Connection]:
        """Open sessions, abandoned ones too."""
        return list(self._sessions.values())

    def record(self, session: Connection, statement: str) -> None:
        """Keep a statement that has no effect here."""
        session.duck.execute(f"INSERT INTO {session.catalogue('RECORDED')} VALUES (?)", [statement])
        self.recorded.append(statement)

    def forget(self, session: Connection) -> None:
        self._sessions.pop(session.session_id, None)

    def run_script(self, text: str) -> None:
        """Run `;`-separated statements in one session with a warehouse; they are not logged."""
        logged = len(self.statements)
        with self.connect(database=self.database, warehouse="SCRIPT", role="ACCOUNTADMIN") as session:
            cursor = session.cursor()
            for statement in script.split(text):
                cursor.execute(statement)
        del self.statements[logged:]

    def register_function(
        self,
        name: str,
        call: Call,
        arity: int,
        *,
        batch_rows: int | None = None,
        shuffle_seed: int | None = None,
        repeat_every: int | None = None,
    ) -> Function:
        """Make `SCHEMA.NAME` a scalar function whose body is Python.

        Args:
            call: gets rows of Python values (VARIANT, ARRAY and OBJECT decoded) and gives one JSON-able value a row.
            batch_rows: rows a call gets at most; None: as they come.
            shuffle_seed: give the rows of a chunk in another order, as an external function may.
            repeat_every: every so many calls, the batch is sent twice, as after a lost answer.
        """
        return self.functions.register(
            ObjectName(*parts(name)),
            call,
            arity,
            batch_rows=batch_rows,
            shuffle_seed=shuffle_seed,
            repeat_every=repeat_every,
        )

    def refresh_pipes(self) -> int:
        """Load what has landed through every running pipe, each file once; how many files."""
        with self._service_lock:
            return pipes.refresh(self._service)

    def expire_stream(self, schema: str, stream: str) -> None:
        """The stream was not read within its retention: it is stale, and its unread rows are gone."""
        name = ObjectName(schema.upper(), stream.upper())
        streams.existing(self._service, name.key)
        reason = f"Stream {name.name} is stale: it was not read within its retention"
        with self._service_lock, self._service.own_transaction():
            streams.mark_stale(self._service, name, reason)

    def latch_stream(self, schema: str, stream: str) -> None:
        """SYSTEM$STREAM_HAS_DATA says TRUE, a false positive, until the stream is consumed."""
        with self._service_lock:
            streams.latch(self._service, ObjectName(schema.upper(), stream.upper()))
