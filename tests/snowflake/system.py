"""Functions of the session and the account: SYSTEM$.., CURRENT_.., COPY_HISTORY.

Here: what they answer; they are replaced by their answers before a statement runs.
Not here: functions over rows (dialect.py, functions.py).
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import sqlglot
from sqlglot import exp

from tests.snowflake import errors, stages, streams
from tests.snowflake.names import literal

if TYPE_CHECKING:
    from tests.snowflake.session import Connection


def replace_functions(session: Connection, expression: exp.Expression) -> None:
    """Put the answers of all such functions in their place."""
    for node in list(expression.find_all(exp.Anonymous, exp.TableFromRows)):
        if isinstance(node, exp.TableFromRows):
            _replace_history(session, node)
        elif node.name.upper() in _SYSTEM:
            arguments = [argument.name for argument in node.expressions]
            node.replace(exp.convert(_SYSTEM[node.name.upper()](session, *arguments)))
        elif node.name.upper() == "BUILD_SCOPED_FILE_URL":
            _replace_scoped_url(session, node)
    for node in list(expression.find_all(*_CONTEXT)):
        node.replace(exp.convert(_CONTEXT[type(node)](session)))
    if not isinstance(expression, exp.Create):
        _replace_clock(session, expression)


def _has_data(session: Connection, stream: str) -> bool:
    if session.transaction is None:
        session.account.refresh_pipes()
    return streams.has_data(session, stream)


def _pipe_status(session: Connection, pipe: str) -> str:
    return json.dumps(session.account.pipes.status(session, session.object_name(pipe)))


def _abort_transaction(session: Connection, number: str) -> str:
    for other in session.account.sessions():
        if other.transaction and other.transaction.number == int(number):
            if other is not session:
                other.duck.interrupt()
            with other.mutex:
                if other.transaction and other.transaction.number == int(number):
                    other.abort(f"aborted by session {session.session_id}")
            return "Transaction aborted."
    raise errors.error(f"Transaction {number} not found.", 90230, "02000")


def _abort_session(session: Connection, number: str) -> str:
    for other in session.account.sessions():
        if other.session_id == int(number):
            other.duck.interrupt()
            other.close()
            return f"session [{number}] terminated."
    raise errors.error(f"Session {number} does not exist.", 390111, "08003")


_SYSTEM = {
    "SYSTEM$STREAM_HAS_DATA": _has_data,
    "SYSTEM$PIPE_STATUS": _pipe_status,
    "SYSTEM$ABORT_TRANSACTION": _abort_transaction,
    "SYSTEM$ABORT_SESSION": _abort_session,
}
_CONTEXT: dict[type[exp.Expression], Any] = {
    exp.CurrentSession: lambda session: str(session.session_id),
    exp.CurrentWarehouse: lambda session: session.warehouse,
    exp.CurrentRole: lambda session: session.role,
    exp.CurrentUser: lambda session: session.user,
    exp.CurrentDatabase: lambda session: session.database,
    exp.CurrentSchema: lambda session: session.schema,
    exp.CurrentTransaction: lambda session: str(session.transaction.number) if session.transaction else None,
}


def _replace_clock(session: Connection, expression: exp.Expression) -> None:
    """The time of the statement; DuckDB's clock stands still in a transaction."""
    moment = session.now()
    for node in list(expression.find_all(exp.CurrentTimestamp)):
        kind, zone = ("TIMESTAMP_NTZ", "") if node.args.get("sysdate") else ("TIMESTAMP_LTZ", "+00:00")
        node.replace(exp.cast(exp.Literal.string(f"{moment}{zone}"), kind, dialect="snowflake"))


def _replace_scoped_url(session: Connection, node: exp.Anonymous) -> None:
    """A path that open() can read stands for the scoped URL."""
    stage, path = node.expressions
    name = stage.sql("snowflake").lstrip("@")
    folder = stages.folder(session, f"@{name}")
    node.replace(exp.DPipe(this=exp.Literal.string(f"{folder}/"), expression=exp.paren(path.copy()), safe=True))


def _replace_history(session: Connection, node: exp.TableFromRows) -> None:
    """Put what happened in the place of a table function of INFORMATION_SCHEMA."""
    call = node.this.expression if isinstance(node.this, exp.Dot) else node.this
    make = _HISTORIES.get(call.name.upper()) if isinstance(call, exp.Anonymous) else None
    if make is None:
        return
    arguments = {item.this.name.upper(): item.expression for item in call.expressions}
    alias = node.args.get("alias") or exp.TableAlias(this=exp.to_identifier(call.name.upper(), quoted=True))
    node.replace(exp.Subquery(this=make(session, arguments), alias=alias))


def _copy_history(session: Connection, arguments: dict[str, exp.Expression]) -> exp.Query:
    conditions = []
    if table := arguments.get("TABLE_NAME"):
        name = session.object_name(table.name)
        conditions += [f"TABLE_SCHEMA_NAME = {literal(name.schema)}", f"TABLE_NAME = {literal(name.name)}"]
    query = _query(f"SELECT * FROM {session.catalogue('LOADS')} WHERE {' AND '.join(conditions) or 'true'}")
    for argument, comparison in (("START_TIME", exp.GTE), ("END_TIME", exp.LTE)):
        if argument in arguments:
            moment = exp.cast(arguments[argument].copy(), "TIMESTAMPTZ", dialect="snowflake")
            query = query.where(comparison(this=exp.column("LAST_LOAD_TIME"), expression=moment), copy=False)
    return query


_RUNNING_END: Final = datetime(1970, 1, 1)


def _query_history(session: Connection, arguments: dict[str, exp.Expression]) -> exp.Query:
    """QUERY_HISTORY_BY_SESSION, from the log of this process: the newest first."""
    wanted = int(arguments["SESSION_ID"].name) if "SESSION_ID" in arguments else session.session_id
    limit = int(arguments["RESULT_LIMIT"].name) if "RESULT_LIMIT" in arguments else 100
    rows = [record for record in reversed(session.account.statements) if record.session_id == wanted][:limit]
    values = ", ".join(
        f"({literal(record.sql)}, {record.session_id}, {literal(record.warehouse)}, {literal(record.query_tag)}, "
        f"{literal(record.status)}, {literal(record.error)}, TIMESTAMPTZ '{record.started_at}+00', "
        f"TIMESTAMPTZ '{record.ended_at or _RUNNING_END}+00')"
        for record in rows
    )
    columns = "QUERY_TEXT, SESSION_ID, WAREHOUSE_NAME, QUERY_TAG, EXECUTION_STATUS, ERROR_MESSAGE, START_TIME, END_TIME"
    empty = "(NULL, 0, NULL, NULL, NULL, NULL, TIMESTAMPTZ '1970-01-01+00', TIMESTAMPTZ '1970-01-01+00')"
    return _query(
        f"SELECT * FROM (VALUES {values or empty}) AS HISTORY ({columns}) WHERE {'true' if values else 'false'}"
    )


def _query(sql: str) -> exp.Select:
    query = sqlglot.parse_one(sql, read="duckdb")
    assert isinstance(query, exp.Select)
    return query


_HISTORIES = {"COPY_HISTORY": _copy_history, "QUERY_HISTORY_BY_SESSION": _query_history}
