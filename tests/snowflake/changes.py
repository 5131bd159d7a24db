"""Running what DuckDB has too: queries and DML, with stream capture and consumption.

Here: SELECT, INSERT, UPDATE, DELETE, MERGE, TRUNCATE, and which of their rows reach streams.
Not here: DDL (relations.py), resolving names (dialect.py), transactions (session.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from sqlglot import exp

from tests.snowflake import dialect, errors, relations, streams
from tests.snowflake.results import Result

if TYPE_CHECKING:
    from tests.snowflake.cursor import Cursor


def run(cursor: Cursor, expression: exp.Expression) -> Result:
    """Run a parsed statement."""
    session = cursor.connection
    if isinstance(expression, exp.Query | exp.Values):
        plan = dialect.prepare(session, expression)
        result = session.query(cursor.to_duckdb(plan.expression))
        if session.transaction:
            session.transaction.is_fresh = False
        return result
    if isinstance(expression, exp.Insert | exp.Update | exp.Delete | exp.Merge):
        return _run_dml(cursor, expression)
    if isinstance(expression, exp.TruncateTable):
        return _truncate(cursor, expression)
    if isinstance(expression, exp.Create | exp.Drop | exp.Alter):
        session.commit_transaction()
        return relations.run(cursor, expression)
    return cursor.run_by_fakesnow(expression)


def _run_dml(cursor: Cursor, expression: exp.Expression) -> Result:
    session = cursor.connection
    plan = dialect.prepare(session, expression)
    sinks = streams.sinks(session, plan.target)
    is_insert = isinstance(expression, exp.Insert)
    locks = set() if plan.target is None or is_insert else {f"table {plan.target.key}"}
    is_overwrite = is_insert and bool(expression.args.get("overwrite"))
    plan.expression.set("overwrite", False if is_insert else None)

    def body(number: str) -> Result:
        if is_overwrite:
            session.duck.execute(f"DELETE FROM {dialect.target(plan.expression).sql('duckdb')}")
        return change_rows(cursor, plan.expression, sinks, number)

    return session.change(body, locks=locks, taken=plan.streams)


def change_rows(cursor: Cursor, expression: exp.Expression, sinks: list[streams.Stream], number: str) -> Result:
    """Run resolved DML inside a transaction; inserted rows go to the streams `sinks`."""
    if isinstance(expression, exp.Merge):
        return _merge(cursor, expression, sinks, number)
    session = cursor.connection
    sql = cursor.to_duckdb(expression)
    if isinstance(expression, exp.Insert):
        if sinks:
            rows = session.duck.execute(f"{sql} RETURNING *").to_arrow_table()
            streams.capture(session, sinks, rows, number)
            return Result.of_counts(rows_inserted=rows.num_rows)
        return Result.of_counts(rows_inserted=_count(cursor, sql))
    if isinstance(expression, exp.Update):
        return Result.of_counts(rows_updated=_count(cursor, sql), **{"multi-joined_rows_updated": 0})
    return Result.of_counts(rows_deleted=_count(cursor, sql))


def _count(cursor: Cursor, sql: str) -> int:
    row = cursor.connection.duck.execute(sql).fetchone()
    assert row is not None
    return int(row[0])


_COUNTED = {"INSERT": "rows_inserted", "UPDATE": "rows_updated", "DELETE": "rows_deleted"}


def _merge(cursor: Cursor, merge: exp.Merge, sinks: list[streams.Stream], number: str) -> Result:
    duck = cursor.connection.duck
    guard = dialect.merge_guard(merge)
    if guard is not None and duck.execute(cursor.to_duckdb(guard)).fetchone():
        raise errors.error("Duplicate row detected during DML action", 100090, "42P18")
    columns = "merge_action, *" if sinks else "merge_action"
    sql = f"{cursor.to_duckdb(dialect.native_merge(merge))} RETURNING {columns}"
    rows: pa.Table = duck.execute(sql).to_arrow_table()
    actions = rows.column(0).to_pylist()
    if sinks:
        inserted = rows.filter(pa.array([action == "INSERT" for action in actions])).drop_columns("merge_action")
        streams.capture(cursor.connection, sinks, inserted, number)
    kinds = dialect.merge_kinds(merge)
    return Result.of_counts(**{name: actions.count(kind) for kind, name in _COUNTED.items() if kind in kinds})


def _truncate(cursor: Cursor, expression: exp.TruncateTable) -> Result:
    """DML on Snowflake: it takes part in a transaction."""
    session = cursor.connection
    [table] = expression.expressions
    name = dialect.table_name(session, table)
    if expression.args.get("exists") and not (name in session.temporary or session.has_table(name)):
        return Result.of_status()
    place = dialect.temporary_table(session, name, table) if name in session.temporary else table
    if place is table:
        dialect.qualify(session, table)

    def body(_number: str) -> Result:
        session.duck.execute(f"DELETE FROM {place.sql('duckdb')}")
        return Result.of_status()

    return session.change(body, locks={f"table {name.key}"})
