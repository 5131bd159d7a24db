"""SHOW and DESCRIBE as Snowflake answers them, with its lower-case column names.

Here: SHOW STREAMS, TABLES, PIPES, TRANSACTIONS, STAGES, DESCRIBE STREAM / PIPE / INTEGRATION.
Not here: SHOW commands that fakesnow has.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tests.snowflake import errors, information_schema, pipes, streams
from tests.snowflake.names import HIDDEN, NAME, ObjectName, like, parts, quoted
from tests.snowflake.results import Result

if TYPE_CHECKING:
    from tests.snowflake.session import Connection

_LIKE = re.compile(r"\bLIKE\s+'((?:[^']|'')*)'", re.IGNORECASE)
_IN = re.compile(
    rf"\bIN\s+(?:(?P<account>ACCOUNT\b)|(?P<kind>SCHEMA|DATABASE|TABLE)\s+(?P<kind_name>{NAME})"
    rf"|(?P<current>SCHEMA|DATABASE)\b|(?P<name>{NAME}))",
    re.IGNORECASE,
)
_STARTS = re.compile(r"\bSTARTS\s+WITH\s+'([^']*)'", re.IGNORECASE)
_LIMIT = re.compile(r"\bLIMIT\s+(\d+)", re.IGNORECASE)


def _scope(session: Connection, text: str) -> Callable[[ObjectName], bool]:
    """Which objects `[LIKE ..] [IN ..] [STARTS WITH ..]` picks; without IN the current schema, else the database."""
    match = _IN.search(_LIKE.sub("", text))
    schema: str | None = session.schema if match is None else None
    if match and match["current"]:
        schema = session.schema if match["current"].upper() == "SCHEMA" else None
    elif match and (match["kind"] or match["name"]):
        names = parts(match["kind_name"] or match["name"])
        is_database = (match["kind"] or "").upper() == "DATABASE" or (
            not match["kind"] and len(names) == 1 and names[0] == session.account.database
        )
        database = names[0] if is_database or len(names) == 2 else session.account.database
        if database != session.account.database:
            raise errors.error("Object does not exist, or operation cannot be performed.", 2043, "02000")
        schema = None if is_database else names[-1]
        if schema is not None and not session.has_schema(schema):
            raise errors.error("Object does not exist, or operation cannot be performed.", 2043, "02000")
    pattern, prefix = _LIKE.search(text), _STARTS.search(text)

    def is_shown(name: ObjectName) -> bool:
        return (
            (schema is None or name.schema == schema)
            and (pattern is None or like(pattern[1], name.name))
            and (prefix is None or name.name.startswith(prefix[1]))
        )

    return is_shown


def _limited(text: str, names: Sequence[str], rows: list[tuple[Any, ...]]) -> Result:
    limit = _LIMIT.search(text)
    return Result.of_rows(names, rows[: int(limit[1])] if limit else rows)


def show_streams(session: Connection, match: re.Match[str]) -> Result:
    is_shown = _scope(session, match["rest"])
    found = [stream for name, stream in sorted(streams.all_streams(session).items()) if is_shown(name)]
    rows = [streams.show_row(session, stream) for stream in found]
    return _limited(match["rest"], streams.SHOW_COLUMNS, rows)


def describe_stream(session: Connection, match: re.Match[str]) -> Result:
    stream = streams.existing(session, match["name"])
    return Result.of_rows(streams.SHOW_COLUMNS, [streams.show_row(session, stream)])


_TABLE_COLUMNS = (
    "created_on", "name", "database_name", "schema_name", "kind", "comment", "cluster_by", "rows", "bytes", "owner",
    "retention_time", "automatic_clustering", "change_tracking", "is_external", "owner_role_type",
)  # fmt: skip
_BYTES_A_ROW = 64


def show_tables(session: Connection, match: re.Match[str]) -> Result:
    """Rows are counted exactly; bytes are a fiction that only tells empty tables from others."""
    is_shown = _scope(session, match["rest"])
    names = session.duck.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = ? ORDER BY ALL",
        [session.account.database],
    ).fetchall()
    tables = [ObjectName(*row) for row in names if row[0] not in HIDDEN and is_shown(ObjectName(*row))]
    database = session.account.database
    counts = [f"SELECT {index} AS i, count(*) AS n FROM {quoted(database, *t)}" for index, t in enumerate(tables)]
    found = session.duck.execute(" UNION ALL ".join(counts) + " ORDER BY i").fetchall() if counts else []
    rows: list[tuple[Any, ...]] = []
    for table, (_index, count) in zip(tables, found, strict=True):
        rows.append(
            (session.zone(session.account.started_at), table.name, database, table.schema, "TABLE", "", "", count,
             count * _BYTES_A_ROW, session.role, "1", "OFF", "OFF", "N", "ROLE")
        )  # fmt: skip
    for name in sorted(session.temporary):
        if is_shown(name):
            count = session.duck.execute(f"SELECT count(*) FROM temp.main.{quoted(session.temporary[name])}").fetchone()
            assert count is not None
            rows.append(
                (session.zone(session.account.started_at), name.name, database, name.schema, "TEMPORARY", "", "",
                 count[0], count[0] * _BYTES_A_ROW, session.role, "1", "OFF", "OFF", "N", "ROLE")
            )  # fmt: skip
    return _limited(match["rest"], _TABLE_COLUMNS, rows)


def show_pipes(session: Connection, match: re.Match[str]) -> Result:
    is_shown = _scope(session, match["rest"])
    names = (
        "created_on", "name", "database_name", "schema_name", "definition", "owner", "notification_channel", "comment",
        "integration", "pattern", "error_integration", "owner_role_type", "invalid_reason",
    )  # fmt: skip
    rows = [
        (session.zone(pipe.created_at), name.name, session.account.database, name.schema, pipe.definition, session.role,
         "arn:aws:sqs:stand-in:000000000000:snowpipe", pipe.comment, None, None, None, "ROLE", None)
        for name, pipe in pipes.all_pipes(session).items()
        if is_shown(name)
    ]  # fmt: skip
    return _limited(match["rest"], names, rows)


def show_transactions(session: Connection, _match: re.Match[str]) -> Result:
    """Open transactions of all sessions of the account, detached ones too."""
    rows = [
        (transaction.number, other.user, other.session_id, f"{other.session_id}", session.zone(transaction.started_at),
         "running", 0)
        for other in session.account.sessions()
        if (transaction := other.transaction) and not transaction.failure
    ]  # fmt: skip
    return Result.of_rows(("id", "user", "session", "name", "started_on", "state", "scope"), rows)


def show_stages(session: Connection, match: re.Match[str]) -> Result:
    is_shown = _scope(session, match["rest"])
    found = session.duck.execute(f"SELECT * FROM {session.catalogue('STAGES')} ORDER BY ALL").fetchall()
    names = ("created_on", "name", "database_name", "schema_name", "url", "owner", "comment", "type")
    rows = [
        (session.zone(row[4]), row[1], session.account.database, row[0], row[2] or "", session.role, "",
         "EXTERNAL" if row[2] else "INTERNAL")
        for row in found
        if is_shown(ObjectName(row[0], row[1]))
    ]  # fmt: skip
    return _limited(match["rest"], names, rows)


def show_schemas(session: Connection, match: re.Match[str]) -> Result:
    pattern = _LIKE.search(match["rest"])
    found = session.duck.execute(
        "SELECT schema_name FROM duckdb_schemas() WHERE database_name = ? ORDER BY ALL", [session.account.database]
    ).fetchall()
    rows = [
        (session.zone(session.account.started_at), name, "N", "Y" if name == session.schema else "N",
         session.account.database, session.role, "", "", "1")
        for (name,) in found
        if name not in HIDDEN and name.lower() not in {"information_schema", "pg_catalog"}
        and (pattern is None or like(pattern[1], name))
    ]  # fmt: skip
    columns = (
        "created_on", "name", "is_default", "is_current", "database_name", "owner", "comment", "options",
        "retention_time",
    )  # fmt: skip
    return _limited(match["rest"], columns, rows)


def show_columns(session: Connection, match: re.Match[str]) -> Result:
    within, pattern = _IN.search(_LIKE.sub("", match["rest"])), _LIKE.search(match["rest"])
    if within and ((within["kind"] or "").upper() == "TABLE" or within["name"]):
        is_shown = session.object_name(within["kind_name"] or within["name"]).__eq__
    else:
        is_shown = _scope(session, _LIKE.sub("", match["rest"]))
    names = (
        "table_name", "schema_name", "column_name", "data_type", "null?", "default", "kind", "expression", "comment",
        "database_name", "autoincrement",
    )  # fmt: skip
    rows = [
        (table.name, table.schema, column, kind, str(is_nullable).lower(), default, "COLUMN", "", "",
         session.account.database, "")
        for table, column, kind, is_nullable, default in information_schema.columns(session)
        if is_shown(table) and (pattern is None or like(pattern[1], column))
    ]  # fmt: skip
    return _limited(match["rest"], names, rows)


def describe_table(session: Connection, match: re.Match[str]) -> Result:
    return information_schema.describe(session, session.object_name(match["name"]))
