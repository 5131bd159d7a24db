"""DDL of tables, views and schemas.

Here: CREATE, ALTER and DROP, temporary tables of a session, what DDL on a table means for its streams.
Not here: streams, stages, pipes themselves (their own modules), the commit that DDL begins with (changes.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlglot import exp

from tests.snowflake import dialect, errors, information_schema, stages, streams
from tests.snowflake.names import ObjectName, quoted
from tests.snowflake.results import Result

if TYPE_CHECKING:
    from tests.snowflake.cursor import Cursor
    from tests.snowflake.session import Connection


def run(cursor: Cursor, expression: exp.Create | exp.Drop | exp.Alter) -> Result:
    """Run DDL that sqlglot understands."""
    kind = str(expression.args.get("kind") or "").upper()
    table = expression.find(exp.Table)
    if table is None or kind not in {"TABLE", "VIEW"}:
        return cursor.run_by_fakesnow(expression)
    name = dialect.table_name(cursor.connection, table)
    if isinstance(expression, exp.Create):
        return _create(cursor, expression, name, is_view=kind == "VIEW")
    if name in cursor.connection.temporary:
        return _change_temporary(cursor, expression, table, name)
    dialect.qualify(cursor.connection, table)
    if isinstance(expression, exp.Drop):
        return _drop(cursor, expression, name)
    return _alter(cursor, expression, name)


def create_schema(session: Connection, names: Sequence[str], *, is_lenient: bool) -> Result:
    """CREATE SCHEMA; it becomes the session's current one."""
    if len(names) == 2 and names[0] != session.account.database:
        raise errors.missing("Database", names[0])
    name = names[-1]
    is_known = session.has_schema(name)
    if is_known and not is_lenient:
        raise errors.exists(name)
    session.duck.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(session.account.database, name)}")
    session.database, session.database_set = session.account.database, True
    session.use_schema(name)
    if is_known:
        return Result.of_status(f"{name} already exists, statement succeeded.")
    return Result.of_status(f"Schema {name} successfully created.")


def _create(cursor: Cursor, expression: exp.Create, name: ObjectName, *, is_view: bool) -> Result:
    session = cursor.connection
    table = dialect.target(expression)
    is_temporary = dialect.take_properties(expression)
    is_there = name in session.temporary if is_temporary else not is_view and session.has_table(name)
    if is_there and not expression.args.get("replace"):
        if expression.args.get("exists"):
            return Result.of_status(f"{name.name} already exists, statement succeeded.")
        raise errors.exists(name.name)
    types = information_schema.declared_types(expression.this.expressions)
    plan = dialect.prepare(session, expression, is_target_kept=is_temporary)
    if is_view and plan.streams:
        raise errors.not_emulated("a view over a stream")
    if is_temporary:
        place = dialect.temporary_table(session, name, table, name.key)
        dialect.target(plan.expression).replace(place)
    else:
        place = dialect.target(plan.expression)

    def body(_number: str) -> Result:
        for statement in cursor.exploded(plan.expression):
            session.duck.execute(cursor.to_duckdb(statement))
        information_schema.remember_types(session, place.sql("duckdb"), types)
        if not is_temporary:
            _make_stale(session, name)
        return Result.of_status(f"{'View' if is_view else 'Table'} {name.name} successfully created.")

    result = session.change_by_itself(body, taken=plan.streams)
    if is_temporary:
        session.temporary[name] = name.key
    if not is_view:
        stages.forget_table(session, name)
    return result


def _make_stale(session: Connection, name: ObjectName) -> None:
    """A stream knows its table, not the table's name: a dropped or replaced one takes the unread changes with it."""
    for stream in streams.sinks(session, name):
        reason = f"Base table '{name.name}' dropped, cannot read from the stream '{stream.name.name}'"
        streams.mark_stale(session, stream.name, reason)


def _drop(cursor: Cursor, expression: exp.Drop, name: ObjectName) -> Result:
    session = cursor.connection

    def body(_number: str) -> Result:
        session.duck.execute(cursor.to_duckdb(expression))
        _make_stale(session, name)
        stages.forget_table(session, name)
        return Result.of_status(f"{name.name} successfully dropped.")

    return session.change_by_itself(body, taken=set())


def _alter(cursor: Cursor, expression: exp.Alter, name: ObjectName) -> Result:
    """ALTER TABLE: a stream shows columns added to its table, and follows its table's new name."""
    session = cursor.connection
    affected = streams.sinks(session, name)
    actions = expression.args["actions"]
    types = information_schema.declared_types(actions)
    known = {column for table, column, *_ in information_schema.columns(session) if table == name}
    result = cursor.run_by_fakesnow(expression)
    place = quoted(session.account.database, *name)
    information_schema.remember_types(
        session, place, {column: kind for column, kind in types.items() if column not in known}
    )
    for action in actions:
        if isinstance(action, exp.AlterRename):
            streams.follow(session, name, dialect.table_name(session, action.this))
        elif isinstance(action, exp.ColumnDef):
            for stream in affected:
                streams.add_column(session, cursor.transformed(expression), stream)
            break
    return result


def _change_temporary(cursor: Cursor, expression: exp.Drop | exp.Alter, table: exp.Table, name: ObjectName) -> Result:
    session = cursor.connection
    table.replace(dialect.temporary_table(session, name, table))
    session.duck.execute(cursor.to_duckdb(expression))
    if isinstance(expression, exp.Drop):
        stages.forget_table(session, name)
        del session.temporary[name]
        return Result.of_status(f"{name.name} successfully dropped.")
    return Result.of_status()
