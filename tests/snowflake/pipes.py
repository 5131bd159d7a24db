"""Pipes: COPY statements that load every file of a stage once, as it lands.

Here: CREATE / ALTER / DROP PIPE, running them, SYSTEM$PIPE_STATUS.
Not here: the loading itself (copying.py). Notifications and serverless compute have no counterpart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb
from snowflake.connector.errors import ProgrammingError

from tests.snowflake import copying, errors, script
from tests.snowflake.names import CATALOGUE, ObjectName, quoted
from tests.snowflake.results import Result

if TYPE_CHECKING:
    from tests.snowflake.session import Connection

_FORBIDDEN: Final = ("FILES", "SIZE_LIMIT", "PURGE", "FORCE", "VALIDATION_MODE")
_FILES_A_TRANSACTION: Final = 100


@dataclass(frozen=True)
class Pipe:
    """A pipe of the catalogue."""

    name: ObjectName
    definition: str
    is_paused: bool
    created_at: datetime
    comment: str


def tables_sql() -> str:
    """The catalogue's table of pipes."""
    return f"""
        CREATE TABLE IF NOT EXISTS {quoted(CATALOGUE, "PIPES")} (
            SCHEMA_NAME VARCHAR, NAME VARCHAR, DEFINITION VARCHAR, IS_PAUSED BOOLEAN, CREATED_AT TIMESTAMP,
            COMMENT VARCHAR)
    """


def all_pipes(session: Connection) -> dict[ObjectName, Pipe]:
    rows = session.duck.execute(f"SELECT * FROM {session.catalogue('PIPES')} ORDER BY ALL").fetchall()
    return {ObjectName(row[0], row[1]): Pipe(ObjectName(row[0], row[1]), *row[2:6]) for row in rows}


def create(session: Connection, match: re.Match[str]) -> Result:
    name = session.object_name(match["name"])
    known = all_pipes(session)
    if name in known and not match["replace"]:
        if match["lenient"]:
            return Result.of_status(f"{name.name} already exists, statement succeeded.")
        raise errors.exists(name.name)
    definition = script.without_leading_comments(match["definition"])
    copy = copying.read(session, definition)
    for option in _FORBIDDEN:
        if option in copy.options:
            raise errors.error(f"SQL compilation error:\nCOPY option {option} is not supported by pipes", 2211, "42601")
    if copy.options.get("ON_ERROR", "SKIP_FILE").upper() == "ABORT_STATEMENT":
        raise errors.error(
            "SQL compilation error:\nON_ERROR = ABORT_STATEMENT is not supported by pipes", 2211, "42601"
        )
    with session.own_transaction():
        _forget(session, name)
        session.duck.execute(
            f"INSERT INTO {session.catalogue('PIPES')} VALUES (?, ?, ?, false, ?, '')",
            [*name, definition, session.now()],
        )
    return Result.of_status(f"Pipe {name.name} successfully created.")


def alter(session: Connection, match: re.Match[str]) -> Result:
    name = session.object_name(match["name"])
    if name not in all_pipes(session):
        raise errors.missing("Pipe", name.key)
    if paused := re.search(r"PIPE_EXECUTION_PAUSED\s*=\s*(TRUE|FALSE)", match["action"], re.IGNORECASE):
        session.duck.execute(
            f"UPDATE {session.catalogue('PIPES')} SET IS_PAUSED = ? WHERE SCHEMA_NAME = ? AND NAME = ?",
            [paused[1].upper() == "TRUE", *name],
        )
    elif re.match(r"REFRESH\b", match["action"], re.IGNORECASE):
        session.account.refresh_pipes()
    return Result.of_status()


def drop(session: Connection, match: re.Match[str]) -> Result:
    name = session.object_name(match["name"])
    if name not in all_pipes(session) and not match["lenient"]:
        raise errors.missing("Pipe", name.key)
    with session.own_transaction():
        _forget(session, name)
    return Result.of_status(f"{name.name} successfully dropped.")


def _forget(session: Connection, name: ObjectName) -> None:
    """A pipe made anew has no load history."""
    session.duck.execute(f"DELETE FROM {session.catalogue('PIPES')} WHERE SCHEMA_NAME = ? AND NAME = ?", list(name))
    session.duck.execute(
        f"DELETE FROM {session.catalogue('LOADS')} WHERE PIPE_SCHEMA_NAME = ? AND PIPE_NAME = ?", list(name)
    )


def waiting(session: Connection, pipe: Pipe) -> tuple[copying.Copy, list[Path]]:
    """The pipe's COPY and the files it has not seen yet, by path: a file put again under its name is not read."""
    session.use_schema(pipe.name.schema)  # where its names are looked up
    copy = copying.read(session, pipe.definition)
    query = f"SELECT FILE_NAME FROM {session.catalogue('LOADS')} WHERE PIPE_SCHEMA_NAME = ? AND PIPE_NAME = ?"
    known = {row[0] for row in session.duck.execute(query, list(pipe.name)).fetchall()}
    return copy, [path for path in copy.found() if copy.location.file_name(path) not in known]


def refresh(session: Connection) -> int:
    """Load what has landed through every pipe that runs; how many files there were."""
    count = 0
    for pipe in all_pipes(session).values():
        if pipe.is_paused:
            continue
        try:
            copy, paths = waiting(session, pipe)
        except ProgrammingError:  # it has stalled; its status says why
            continue
        on_error = copy.options.get("ON_ERROR", "SKIP_FILE").upper()
        for start in range(0, len(paths), _FILES_A_TRANSACTION):
            _load(session, copy, paths[start : start + _FILES_A_TRANSACTION], on_error, pipe.name)
        count += len(paths)
    return count


def _load(session: Connection, copy: copying.Copy, paths: list[Path], on_error: str, pipe: ObjectName) -> None:
    """Load files together; where a row does not fit the table, one by one, so that only its file is skipped."""
    try:
        copying.load_files(session, copy, paths, on_error=on_error, pipe=pipe)
    except (ProgrammingError, duckdb.Error) as failure:
        if len(paths) == 1:
            copying.record_failure(session, copy, paths[0], str(failure), pipe)
            return
        for path in paths:
            _load(session, copy, [path], on_error, pipe)


def status(session: Connection, name: ObjectName) -> dict[str, Any]:
    """SYSTEM$PIPE_STATUS."""
    pipe = all_pipes(session).get(name)
    if pipe is None:
        raise errors.missing("Pipe", name.key)
    try:
        _copy, paths = waiting(session, pipe)
    except ProgrammingError as failure:
        return {"executionState": "STALLED_COMPILATION_ERROR", "pendingFileCount": 0, "error": str(failure)}
    query = f"""
        SELECT max(LAST_LOAD_TIME) FROM {session.catalogue("LOADS")} WHERE PIPE_SCHEMA_NAME = ? AND PIPE_NAME = ?
    """
    row = session.duck.execute(query, list(name)).fetchone()
    answer: dict[str, Any] = {
        "executionState": "PAUSED" if pipe.is_paused else "RUNNING",
        "pendingFileCount": len(paths),
    }
    if row and row[0]:
        answer["lastIngestedTimestamp"] = row[0].isoformat().replace("+00:00", "Z")
    if paths:
        oldest = min(path.stat().st_mtime for path in paths)
        answer["oldestFileTimestamp"] = datetime.fromtimestamp(oldest).astimezone().isoformat()
    return answer
