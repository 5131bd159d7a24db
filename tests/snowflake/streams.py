"""Append-only streams.

A stream is a *pending table*: every row inserted into its source and not yet consumed. Rows are put there by the
statement that inserts them, in the same DuckDB transaction; consuming deletes, at COMMIT, the pending rows the
transaction could see. So rollback, repeatable reads and late commits behave as on Snowflake by construction.

Here: CREATE / DROP / DESCRIBE STREAM, what a read of a stream stands for, capture, consumption, staleness.
Not here: when a transaction commits (session.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import sqlglot
from sqlglot import exp

from tests.snowflake import errors
from tests.snowflake.names import CATALOGUE, NAME, PENDING, ObjectName, quoted
from tests.snowflake.results import Result

if TYPE_CHECKING:
    import pyarrow as pa

    from tests.snowflake.session import Connection

RETENTION: Final = timedelta(days=14)
_CREATE = re.compile(
    rf"CREATE\s+(?P<replace>OR\s+REPLACE\s+)?STREAM\s+(?P<lenient>IF\s+NOT\s+EXISTS\s+)?(?P<name>{NAME})"
    rf"(?:\s+COPY\s+GRANTS)?\s+ON\s+TABLE\s+(?P<table>{NAME})(?P<options>.*)",
    re.IGNORECASE | re.DOTALL,
)
_PLACE = re.compile(rf"\bAT\s*\(\s*STREAM\s*=>\s*'(?P<stream>{NAME})'\s*\)", re.IGNORECASE)


@dataclass(frozen=True)
class Stream:
    """A stream as the account knows it.

    Attributes:
        stale_reason: why unread rows cannot be had any more; None while the stream is healthy.
        is_latched: SYSTEM$STREAM_HAS_DATA says TRUE although nothing is pending (a false positive), until consumed.
    """

    name: ObjectName
    table: ObjectName
    created_at: datetime
    consumed_at: datetime
    stale_reason: str | None
    is_latched: bool
    comment: str

    @property
    def pending(self) -> str:
        return quoted(PENDING, self.name.key)

    @property
    def stale_after(self) -> datetime:
        return self.consumed_at + RETENTION


def tables_sql() -> str:
    """The catalogue's table of streams."""
    return f"""
        CREATE TABLE IF NOT EXISTS {quoted(CATALOGUE, "STREAMS")} (
            SCHEMA_NAME VARCHAR, NAME VARCHAR, TABLE_SCHEMA VARCHAR, TABLE_NAME VARCHAR, CREATED_AT TIMESTAMP,
            CONSUMED_AT TIMESTAMP, STALE_REASON VARCHAR, IS_LATCHED BOOLEAN, COMMENT VARCHAR)
    """


def all_streams(session: Connection) -> dict[ObjectName, Stream]:
    rows = session.duck.execute(f"SELECT * FROM {session.catalogue('STREAMS')}").fetchall()
    streams = (Stream(ObjectName(row[0], row[1]), ObjectName(row[2], row[3]), *row[4:9]) for row in rows)
    return {stream.name: stream for stream in streams}


def existing(session: Connection, text: str) -> Stream:
    name = session.object_name(text)
    stream = all_streams(session).get(name)
    if stream is None:
        raise errors.missing("Stream", f"{session.account.database}.{name.key}")
    return stream


def create(session: Connection, sql: str) -> Result:
    match = _CREATE.fullmatch(sql)
    options = match["options"] if match else ""
    place = _PLACE.search(options)
    if (
        match is None
        or not re.search(r"APPEND_ONLY\s*=\s*TRUE", options, re.IGNORECASE)
        or (not place and re.search(r"\b(AT|BEFORE)\s*\(", options, re.IGNORECASE))
    ):
        raise errors.not_emulated(
            "any stream but CREATE STREAM .. ON TABLE .. [AT (STREAM => '..')] APPEND_ONLY = TRUE"
        )
    name, table = session.object_name(match["name"]), session.object_name(match["table"])
    known = all_streams(session)
    if name in known and not match["replace"]:
        if match["lenient"]:
            return Result.of_status(f"{name.name} already exists, statement succeeded.")
        raise errors.exists(name.name)
    if not session.has_table(table):
        raise errors.missing("Table", f"{session.account.database}.{table.key}")
    source = _initial_rows(session, table, known, place["stream"] if place else None, options)
    comment = re.search(r"COMMENT\s*=\s*'((?:[^']|'')*)'", options, re.IGNORECASE)
    with session.own_transaction():
        target = quoted(session.account.database, PENDING, name.key)
        session.duck.execute(f"CREATE TABLE {quoted(session.account.database, PENDING, '~new')} AS {source}")
        session.duck.execute(f"DROP TABLE IF EXISTS {target}")
        session.duck.execute(
            f"ALTER TABLE {quoted(session.account.database, PENDING, '~new')} RENAME TO {quoted(name.key)}"
        )
        _forget(session, name)
        session.duck.execute(
            f"INSERT INTO {session.catalogue('STREAMS')} VALUES (?, ?, ?, ?, ?, ?, NULL, false, ?)",
            [*name, *table, session.now(), session.now(), comment[1] if comment else ""],
        )
    return Result.of_status(f"Stream {name.name} successfully created.")


def _initial_rows(
    session: Connection, table: ObjectName, known: dict[ObjectName, Stream], place: str | None, options: str
) -> str:
    """Query of what the new stream holds at first: nothing, all rows of the table, or what another one has pending."""
    database = session.account.database
    if place:
        other = known.get(session.object_name(place))
        if other is None:
            raise errors.missing("Stream", place)
        raise_if_stale(other)
        if other.table != table:
            raise errors.error(f"Stream {other.name.name} is not on table {table.name}", 1003, "42000")
        return f"SELECT * FROM {quoted(database)}.{other.pending}"
    everything = re.search(r"SHOW_INITIAL_ROWS\s*=\s*TRUE", options, re.IGNORECASE)
    limit = "" if everything else "LIMIT 0"
    return (
        f'SELECT *, \'\'::VARCHAR AS "_TX", md5(uuid()::VARCHAR) AS "METADATA$ROW_ID" '
        f"FROM {quoted(database, *table)} {limit}"
    )


def set_comment(session: Connection, name_text: str, comment: str) -> Result:
    stream = existing(session, name_text)
    session.duck.execute(
        f"UPDATE {session.catalogue('STREAMS')} SET COMMENT = ? WHERE SCHEMA_NAME = ? AND NAME = ?",
        [comment, *stream.name],
    )
    return Result.of_status()


def drop(session: Connection, name_text: str, *, is_lenient: bool) -> Result:
    name = session.object_name(name_text)
    if name not in all_streams(session):
        if is_lenient:
            return Result.of_status("Drop statement executed successfully (already dropped).")
        raise errors.missing("Stream", f"{session.account.database}.{name.key}")
    with session.own_transaction():
        session.duck.execute(f"DROP TABLE {quoted(session.account.database, PENDING, name.key)}")
        _forget(session, name)
    return Result.of_status(f"{name.name} successfully dropped.")


def _forget(session: Connection, name: ObjectName) -> None:
    session.duck.execute(f"DELETE FROM {session.catalogue('STREAMS')} WHERE SCHEMA_NAME = ? AND NAME = ?", list(name))


def sinks(session: Connection, table: ObjectName | None) -> list[Stream]:
    """Streams on a table."""
    return [] if table is None else [stream for stream in all_streams(session).values() if stream.table == table]


def mark_stale(session: Connection, name: ObjectName, reason: str) -> None:
    """Unread changes of the stream are gone."""
    session.duck.execute(
        f"UPDATE {session.catalogue('STREAMS')} SET STALE_REASON = ? WHERE SCHEMA_NAME = ? AND NAME = ?",
        [reason, *name],
    )
    session.duck.execute(f"DELETE FROM {quoted(session.account.database, PENDING, name.key)}")


def follow(session: Connection, table: ObjectName, new: ObjectName) -> None:
    """The table was renamed."""
    session.duck.execute(
        f"UPDATE {session.catalogue('STREAMS')} SET TABLE_SCHEMA = ?, TABLE_NAME = ? "
        "WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?",
        [*new, *table],
    )


def latch(session: Connection, name: ObjectName) -> None:
    """SYSTEM$STREAM_HAS_DATA gives a false positive until the stream is consumed."""
    session.duck.execute(
        f"UPDATE {session.catalogue('STREAMS')} SET IS_LATCHED = true WHERE SCHEMA_NAME = ? AND NAME = ?", list(name)
    )


def raise_if_stale(stream: Stream) -> None:
    if stream.stale_reason:
        raise errors.error(f"SQL execution error: {stream.stale_reason}", 91901, "02000")


def reading(session: Connection, stream: Stream) -> exp.Query:
    """The query a read of the stream stands for: what is pending, without the transaction's own rows."""
    raise_if_stale(stream)
    own = f"WHERE \"_TX\" <> '{session.transaction.number}'" if session.transaction else ""
    query = sqlglot.parse_one(
        f"""SELECT * EXCLUDE ("_TX", "METADATA$ROW_ID"), 'INSERT' AS "METADATA$ACTION",
                FALSE AS "METADATA$ISUPDATE", "METADATA$ROW_ID"
            FROM {quoted(session.account.database)}.{stream.pending} {own}""",
        read="duckdb",
    )
    assert isinstance(query, exp.Query)
    return query


def has_data(session: Connection, text: str) -> bool:
    """SYSTEM$STREAM_HAS_DATA."""
    stream = existing(session, text)
    raise_if_stale(stream)
    query = reading(session, stream).sql("duckdb")
    return stream.is_latched or session.duck.execute(f"SELECT 1 FROM ({query}) LIMIT 1").fetchone() is not None


def capture(session: Connection, sinks: list[Stream], rows: pa.Table, number: str) -> None:
    """Inserted rows of a table go to the pending tables of its streams."""
    for stream in sinks:
        if rows.num_rows and not stream.stale_reason:
            session.duck.execute(
                f"INSERT INTO {quoted(session.account.database)}.{stream.pending} BY NAME "
                f'SELECT *, \'{number}\' AS "_TX", md5(uuid()::VARCHAR) AS "METADATA$ROW_ID" FROM rows'
            )


def take(session: Connection, names: set[ObjectName]) -> None:
    """The stream's offset will move with this transaction; conflicts with another one that moved it since BEGIN."""
    for name in sorted(names):
        session.duck.execute(
            f"UPDATE {session.catalogue('STREAMS')} SET CONSUMED_AT = ?, IS_LATCHED = false "
            "WHERE SCHEMA_NAME = ? AND NAME = ?",
            [session.now(), *name],
        )


def consume(session: Connection, names: set[ObjectName], number: str) -> None:
    """Remove what the transaction could see of the streams it read in DML."""
    for name in sorted(names):
        session.duck.execute(
            f'DELETE FROM {quoted(session.account.database, PENDING, name.key)} WHERE "_TX" <> ?', [number]
        )


SHOW_COLUMNS: Final = (
    "created_on", "name", "database_name", "schema_name", "owner", "comment", "table_name", "source_type",
    "base_tables", "type", "stale", "mode", "stale_after", "invalid_reason", "owner_role_type",
)  # fmt: skip


def show_row(session: Connection, stream: Stream) -> tuple[Any, ...]:
    database, table = session.account.database, f"{session.account.database}.{stream.table.key}"
    zone = session.zone
    return (
        zone(stream.created_at), stream.name.name, database, stream.name.schema, session.role, stream.comment, table,
        "Table", table, "DELTA", str(bool(stream.stale_reason)).lower(), "APPEND_ONLY", zone(stream.stale_after),
        stream.stale_reason or "N/A", "ROLE",
    )  # fmt: skip


def add_column(session: Connection, alter: exp.Alter, stream: Stream) -> None:
    """ALTER TABLE of the source is repeated on the pending table."""
    again = alter.copy()
    again.set("this", exp.to_table(f"{quoted(session.account.database)}.{stream.pending}", dialect="duckdb"))
    session.duck.execute(again.sql("duckdb"))
