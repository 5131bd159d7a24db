"""A session: what `snowflake.connector.connect` gives, over one DuckDB connection.

Here: the connector's connection, parameters, names, Snowflake's rules of transactions and locks, the log.
Not here: cursors and results (cursor.py), what a statement does (changes.py, commands.py).
"""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import duckdb
import sqlglot
from fakesnow.conn import FakeSnowflakeConnection
from snowflake.connector.cursor import DictCursor, SnowflakeCursor
from snowflake.connector.errors import DatabaseError, Error
from sqlglot import exp

from tests.snowflake import changes, commands, corrections, dialect, errors, script, stages, streams
from tests.snowflake.cursor import Cursor
from tests.snowflake.names import CATALOGUE, ObjectName, next_number, parts, quoted
from tests.snowflake.results import Result

if TYPE_CHECKING:
    from tests.snowflake.stand_in import StandIn

_DEFAULT_PARAMETERS: Final = {"AUTOCOMMIT": True, "TRANSACTION_ABORT_ON_ERROR": False, "LOCK_TIMEOUT": 43200}


@dataclass
class Executed:
    """One statement of the account's log.

    Attributes:
        warehouse: the session's warehouse; None when it has none.
        is_query: whether the statement runs on a warehouse, and so would wake it.
        error: the error's text when it failed.
        ended_at: naive UTC; None while it runs.
    """

    sql: str
    session_id: int
    warehouse: str | None
    database: str | None
    is_query: bool = False
    query_tag: str = ""
    error: str | None = None
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC).replace(tzinfo=None))
    ended_at: datetime | None = None

    @property
    def status(self) -> str:
        """As in QUERY_HISTORY."""
        return "RUNNING" if self.ended_at is None else "FAILED_WITH_ERROR" if self.error else "SUCCESS"


@dataclass
class Transaction:
    """An open transaction.

    Attributes:
        number: its id, as SHOW TRANSACTIONS gives it.
        taken: streams read by its DML so far.
        is_fresh: nothing was read or written yet, so that its snapshot may still be renewed.
        failure: why it is aborted; every statement but COMMIT and ROLLBACK fails then.
    """

    number: int
    started_at: datetime
    taken: set[ObjectName] = field(default_factory=set)
    is_fresh: bool = True
    failure: str | None = None


class Connection(FakeSnowflakeConnection):
    """One session of the account; statements of one session run one at a time."""

    def __init__(self, account: StandIn, duck: duckdb.DuckDBPyConnection, options: dict[str, Any]) -> None:
        database = options.get("database")
        is_known = bool(database) and database.strip('"').upper() == account.database
        super().__init__(
            duck,
            {},
            database=account.database if is_known else None,
            schema=None,
            create_database=False,
            create_schema=False,
            db_path=account.home,
            paramstyle=options.get("paramstyle") or "pyformat",
        )
        self.account = account
        self.duck = duck
        duck.execute(f"SET search_path = '{account.database}.{CATALOGUE},{account.database}.main'")
        self.session_id = random.getrandbits(50)
        self.options = options
        self.user = str(options.get("user") or "SVC").upper()
        self.role: str | None = _upper(options.get("role"))
        self.warehouse: str | None = _upper(options.get("warehouse"))
        self.parameters: dict[str, Any] = dict(_DEFAULT_PARAMETERS)
        self._statement_parameters: dict[str, Any] = {}
        self.set_parameters(options.get("session_parameters") or {})
        if options.get("autocommit") is not None:
            self.parameters["AUTOCOMMIT"] = bool(options["autocommit"])
        self.transaction: Transaction | None = None
        self.temporary: dict[ObjectName, str] = {}
        self.mutex = threading.RLock()
        if is_known and options.get("schema"):
            self.use_schema(parts(options["schema"])[0], is_lenient=True)

    # What the connector's connection offers.

    def cursor(self, cursor_class: type[SnowflakeCursor] = SnowflakeCursor) -> Cursor:
        if self._is_closed:
            raise DatabaseError(msg="Connection is closed", errno=250002, sqlstate="08003")
        return Cursor(self, is_dict=issubclass(cursor_class, DictCursor))

    def commit(self) -> None:
        self.cursor().execute("COMMIT")

    def rollback(self) -> None:
        self.cursor().execute("ROLLBACK")

    def autocommit(self, mode: bool) -> None:
        self.cursor().execute(f"ALTER SESSION SET AUTOCOMMIT = {mode}")

    def close(self, retry: bool = True) -> None:
        """End the session: an open transaction is rolled back, temporary objects are gone."""
        with self.mutex:
            if self._is_closed:
                return
            self.end_transaction()
            for name in self.temporary:
                stages.forget_table(self, name)
            self.duck.close()
            self._is_closed = True
        self.account.forget(self)

    def is_valid(self) -> bool:
        return not self._is_closed

    def execute_string(
        self,
        sql_text: str,
        remove_comments: bool = False,
        return_cursors: bool = True,
        cursor_class: type[SnowflakeCursor] = SnowflakeCursor,
        **kwargs: Any,
    ) -> Sequence[Cursor]:
        cursors = [self.cursor(cursor_class).execute(sql, **kwargs) for sql in script.split(sql_text)]
        return cursors if return_cursors else []

    def __exit__(self, *failure: object) -> None:
        if not self.is_on("AUTOCOMMIT") and self.transaction:
            self.commit() if failure[0] is None else self.rollback()
        self.close()

    # Names and parameters.

    def object_name(self, text: str) -> ObjectName:
        return self.resolved(parts(text))

    def resolved(self, names: Sequence[str]) -> ObjectName:
        """Schema and name of an object from one to three parts."""
        if len(names) == 3 and names[0] != self.account.database:
            raise errors.missing("Database", names[0])
        if len(names) < 3 and not self.database_set:
            raise errors.error(
                f"Cannot perform operation on {names[-1]}. This session does not have a current database. "
                "Call 'USE DATABASE', or use a qualified name.",
                90105,
                "22000",
            )
        if len(names) >= 2:
            return ObjectName(names[-2], names[-1])
        if not self._schema:
            raise errors.error(
                f"Cannot perform operation on {names[-1]}. This session does not have a current schema. "
                "Call 'USE SCHEMA', or use a qualified name.",
                90106,
                "22000",
            )
        return ObjectName(self._schema, names[0])

    def use_schema(self, name: str, *, is_lenient: bool = False) -> None:
        if self.has_schema(name):
            self._schema, self.schema_set = name, True
        elif not is_lenient:
            raise errors.error("Object does not exist, or operation cannot be performed.", 2043, "02000")

    def set_parameters(self, values: dict[str, Any]) -> None:
        self.parameters.update({name.upper(): value for name, value in values.items()})

    def unset_parameters(self, names: Sequence[str]) -> None:
        for name in names:
            self.parameters.pop(name.upper(), None)
            if name.upper() in _DEFAULT_PARAMETERS:
                self.parameters[name.upper()] = _DEFAULT_PARAMETERS[name.upper()]

    def is_on(self, parameter: str) -> bool:
        value = self._statement_parameters.get(parameter, self.parameters.get(parameter))
        return str(value).lower() == "true"

    def catalogue(self, table: str) -> str:
        return quoted(self.account.database, CATALOGUE, table)

    def has_schema(self, name: str) -> bool:
        query = "SELECT 1 FROM duckdb_schemas() WHERE database_name = ? AND schema_name = ?"
        return self.duck.execute(query, [self.account.database, name]).fetchone() is not None

    def has_table(self, name: ObjectName) -> bool:
        query = "SELECT 1 FROM duckdb_tables() WHERE database_name = ? AND schema_name = ? AND table_name = ?"
        return self.duck.execute(query, [self.account.database, *name]).fetchone() is not None

    @staticmethod
    def now() -> datetime:
        return datetime.now(UTC).replace(tzinfo=None)

    @staticmethod
    def zone(moment: datetime) -> datetime:
        return moment.replace(tzinfo=UTC)

    # Transactions.

    def begin(self) -> None:
        if self.transaction is None:
            self._start_snapshot()
            self.transaction = Transaction(next_number(), self.now())

    def commit_transaction(self) -> None:
        """COMMIT; what cannot be committed whole raises and is rolled back."""
        transaction = self.transaction
        if transaction is None:
            return
        try:
            if transaction.failure:
                raise errors.error(
                    f"Transaction {transaction.number} was aborted and has been rolled back: {transaction.failure}",
                    90232,
                    "25000",
                )
            streams.consume(self, transaction.taken, str(transaction.number))
            self.duck.execute("COMMIT")
        except duckdb.Error as failure:
            raise errors.translated(failure) from failure
        finally:
            self.end_transaction()

    def end_transaction(self) -> None:
        """Roll back what is open, and free its locks."""
        self._undo()
        self.transaction = None
        self.account.locks.release(self.session_id)

    def abort(self, reason: str) -> None:
        """Roll back the open transaction; the session has to end it before it can go on."""
        self._undo()
        if self.transaction:
            self.transaction.failure = reason
        self.account.locks.release(self.session_id)

    def _undo(self) -> None:
        try:
            self.duck.execute("ROLLBACK")
        except duckdb.TransactionException as failure:
            if "no transaction is active" not in str(failure):
                raise

    def _start_snapshot(self) -> None:
        self.duck.execute("BEGIN")
        # DuckDB's snapshot of a database starts when it is first touched, a stream's at BEGIN.
        self.duck.execute(f"SELECT 1 FROM {self.catalogue('STREAMS')} LIMIT 0")

    @contextmanager
    def own_transaction(self) -> Iterator[None]:
        """One DuckDB transaction for what Snowflake does at once. Only outside an open transaction."""
        assert self.transaction is None
        self._start_snapshot()
        try:
            yield
            self.duck.execute("COMMIT")
        except BaseException:
            self._undo()
            raise

    def change(
        self, body: Callable[[str], Result], *, locks: set[str] | None = None, taken: set[ObjectName] | None = None
    ) -> Result:
        """Run DML: in the open transaction, or in one of its own.

        Args:
            body: runs it; gets the number of the transaction, which marks captured rows.
            locks: tables it changes in place.
            taken: streams it reads, and so consumes with the commit.
        """
        taken = taken or set()
        if self.transaction is None and not self.is_on("AUTOCOMMIT"):
            self.begin()
        has_waited = self._lock((locks or set()) | {f"stream {name.key}" for name in taken})
        transaction = self.transaction
        if transaction is None:
            return self._changed_alone(body, taken)
        if has_waited and transaction.is_fresh:
            self._renew_snapshot()
        was_fresh, transaction.is_fresh = transaction.is_fresh, False
        try:
            result = self._changed_within(transaction, body, taken)
        except duckdb.TransactionException:
            if not was_fresh:
                raise
            # Read committed: what another transaction changed since BEGIN is seen, not in conflict.
            self._renew_snapshot()
            result = self._changed_within(transaction, body, taken)
        transaction.taken |= taken
        return result

    def _changed_alone(self, body: Callable[[str], Result], taken: set[ObjectName]) -> Result:
        number = str(next_number())
        try:
            with self.own_transaction():
                streams.take(self, taken)
                result = body(number)
                streams.consume(self, taken, number)
        finally:
            self.account.locks.release(self.session_id)
        return result

    def _changed_within(
        self, transaction: Transaction, body: Callable[[str], Result], taken: set[ObjectName]
    ) -> Result:
        streams.take(self, taken - transaction.taken)
        return body(str(transaction.number))

    def change_by_itself(self, body: Callable[[str], Result], *, taken: set[ObjectName]) -> Result:
        """DDL that reads: always a transaction of its own."""
        self._lock({f"stream {name.key}" for name in taken})
        return self._changed_alone(body, taken)

    def _renew_snapshot(self) -> None:
        self._undo()
        self._start_snapshot()

    def _lock(self, keys: set[str]) -> bool:
        if not keys:
            return False
        seconds = min(float(self.parameters["LOCK_TIMEOUT"]), self.account.longest_lock_wait_seconds)
        has_waited, held = self.account.locks.acquire(self.session_id, keys, seconds=seconds)
        if held:
            raise errors.locked(held)
        return has_waited

    # Statements.

    def run(self, cursor: Cursor, command: str, statement_parameters: dict[str, Any]) -> Result:
        """Run one statement as Snowflake would."""
        sql = script.without_comments(command).rstrip("; \n")
        record = Executed(
            command,
            self.session_id,
            self.warehouse,
            self.database,
            query_tag=str(statement_parameters.get("QUERY_TAG") or self.parameters.get("QUERY_TAG") or ""),
        )
        self.account.statements.append(record)
        try:
            with self.mutex:
                if (answer := self._answered_first(sql)) is not None:
                    return answer
                self._statement_parameters = {name.upper(): value for name, value in statement_parameters.items()}
                return self._run(cursor, sql, record)
        except Error as failure:
            record.error = str(failure)
            raise
        finally:
            record.ended_at = self.now()

    def _answered_first(self, sql: str) -> Result | None:
        answers = (answer(self, sql) for answer in self.account.answer_first)
        return next((answer for answer in answers if answer is not None), None)

    def _run(self, cursor: Cursor, sql: str, record: Executed) -> Result:
        word = re.match(r"\w*", sql)
        is_end = word is not None and word[0].upper() in {"COMMIT", "ROLLBACK"}
        if self.transaction and self.transaction.failure and not is_end:
            raise errors.error(
                f"Transaction {self.transaction.number} is aborted ({self.transaction.failure}); roll it back",
                90232,
                "25000",
            )
        try:
            return self._dispatch(cursor, sql, record)
        except duckdb.Error as failure:
            self._after_failure(str(failure))
            raise errors.translated(failure) from failure
        except NotImplementedError as failure:
            self._after_failure(str(failure))
            raise errors.not_emulated(str(failure)) from failure
        except Error as failure:
            self._after_failure(str(failure))
            raise

    def _after_failure(self, reason: str) -> None:
        if self.transaction is None or self.transaction.failure:
            return
        if self.is_on("TRANSACTION_ABORT_ON_ERROR"):
            self.abort(reason)
            return
        try:
            self.duck.execute("SELECT 1")
        except duckdb.TransactionException:
            # Snowflake undoes the one statement and keeps the transaction; DuckDB has no savepoints.
            self.abort(f"the stand-in cannot undo one statement alone: {reason}")

    def query(self, sql: str) -> Result:
        """The answer of DuckDB to a query."""
        return Result.of_query(self.duck.execute(sql))

    def _dispatch(self, cursor: Cursor, sql: str, record: Executed) -> Result:
        command = commands.find(sql)
        if command:
            record.is_query = command.needs_warehouse
            self._require_warehouse(record)
            return command.run(self, sql)
        if "@" in sql and (staged := stages.staged_query(self, sql)):
            record.is_query = True
            self._require_warehouse(record)
            with staged as text:
                return changes.run(cursor, self.parse(text))
        expression = self.parse(sql)
        record.is_query = dialect.needs_warehouse(expression)
        self._require_warehouse(record)
        return changes.run(cursor, expression)

    def _require_warehouse(self, record: Executed) -> None:
        if record.is_query and self.warehouse is None:
            raise errors.no_warehouse()

    @staticmethod
    def parse(sql: str) -> exp.Expression:
        try:
            parsed = sqlglot.parse(corrections.before_parsing(sql), read="snowflake")
            found = [expression for expression in parsed if expression is not None]
        except sqlglot.errors.ParseError as failure:
            message = re.sub(r"\x1b\[\d+m", "", str(failure))
            raise errors.error(f"SQL compilation error:\n{message}", 1003, "42000") from None
        if len(found) != 1:
            raise errors.error(
                f"Actual statement count {len(found)} did not match the desired statement count 1.", 8, "0A000"
            )
        return found[0]


def _upper(value: Any) -> str | None:
    if not value:
        return None
    text = str(value)
    return text[1:-1] if text.startswith('"') else text.upper()
