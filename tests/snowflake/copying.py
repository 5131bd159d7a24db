"""COPY INTO: staged files into a table, and a query's rows into a stage.

Here: reading the statement, loading (each file once), ON_ERROR, the load history, unloading.
Not here: when pipes run one (pipes.py).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.snowflake import changes, dialect, errors, files, script, stages, streams
from tests.snowflake.names import CATALOGUE, NAME, ObjectName, quoted
from tests.snowflake.results import Result

if TYPE_CHECKING:
    from tests.snowflake.session import Connection

_LOAD = re.compile(rf"COPY\s+INTO\s+(?P<table>{NAME})\s*(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_UNLOAD = re.compile(rf"COPY\s+INTO\s+(?P<location>{stages.LOCATION})\s+FROM\s+(?P<rest>.*)", re.IGNORECASE | re.DOTALL)
_SOURCE = re.compile(rf"\bFROM\s+(?P<location>{stages.LOCATION})", re.IGNORECASE)
_RESULT: Final = (
    "file", "status", "rows_parsed", "rows_loaded", "error_limit", "errors_seen", "first_error", "first_error_line",
    "first_error_character", "first_error_column_name",
)  # fmt: skip
MAX_SINGLE_FILE_BYTES: Final = 16_777_216
# https://docs.snowflake.com/en/user-guide/data-load-transform#supported-functions
_FUNCTIONS: Final = frozenset(
    re.findall(
        r"\w+",
        """
        ARRAY_CONSTRUCT ARRAY_SIZE ASCII CAST CEIL CHECK_JSON CHECK_XML CHR CHAR CONCAT CONVERT_TIMEZONE ENDSWITH
        EQUAL_NULL FLOOR GET GET_PATH HEX_DECODE_STRING HEX_ENCODE IFF IFNULL IS_ARRAY IS_BOOLEAN IS_DECIMAL IS_INTEGER
        IS_NULL_VALUE IS_OBJECT IS_TIME IS_TIMESTAMP_LTZ IS_TIMESTAMP_NTZ IS_TIMESTAMP_TZ LENGTH LEN LPAD LTRIM MD5
        MD5_HEX NULLIF NVL NVL2 OBJECT_CONSTRUCT PARSE_IP PARSE_JSON PARSE_URL PARSE_XML RANDOM REGEXP_REPLACE
        REGEXP_SUBSTR REPLACE REVERSE RPAD RTRIM SPLIT SPLIT_PART STARTSWITH SUBSTR SUBSTRING TO_ARRAY TO_BINARY
        TO_BOOLEAN TO_CHAR TO_VARCHAR TO_DATE DATE TO_DECFLOAT TO_DECIMAL TO_NUMBER TO_NUMERIC TO_DOUBLE TO_OBJECT
        TO_TIME TIME TO_TIMESTAMP TO_TIMESTAMP_LTZ TO_TIMESTAMP_NTZ TO_TIMESTAMP_TZ TO_VARIANT TRIM TRY_CAST
        TRY_HEX_DECODE_STRING TRY_TO_BINARY TRY_TO_BOOLEAN TRY_TO_DATE TRY_TO_DECFLOAT TRY_TO_DECIMAL TRY_TO_NUMBER
        TRY_TO_NUMERIC TRY_TO_DOUBLE TRY_TO_TIME UNICODE UUID_STRING XMLGET
        """,
    )
)
_BEFORE_BRACKETS: Final = frozenset(
    {"SELECT", "FROM", "IN", "AND", "OR", "NOT", "WHEN", "THEN", "ELSE", "NUMBER", "VARCHAR", "DECIMAL"}
)


def tables_sql() -> str:
    """The catalogue's load history, with the columns of INFORMATION_SCHEMA.COPY_HISTORY."""
    return f"""
        CREATE TABLE IF NOT EXISTS {quoted(CATALOGUE, "LOADS")} (
            FILE_NAME VARCHAR, STAGE_LOCATION VARCHAR, LAST_LOAD_TIME TIMESTAMPTZ, ROW_COUNT BIGINT, ROW_PARSED BIGINT,
            FILE_SIZE BIGINT, FIRST_ERROR_MESSAGE VARCHAR, FIRST_ERROR_LINE_NUMBER BIGINT,
            FIRST_ERROR_CHARACTER_POS BIGINT, FIRST_ERROR_COLUMN_NAME VARCHAR, ERROR_COUNT BIGINT, ERROR_LIMIT BIGINT,
            STATUS VARCHAR, TABLE_CATALOG_NAME VARCHAR, TABLE_SCHEMA_NAME VARCHAR, TABLE_NAME VARCHAR,
            PIPE_CATALOG_NAME VARCHAR, PIPE_SCHEMA_NAME VARCHAR, PIPE_NAME VARCHAR, PIPE_RECEIVED_TIME TIMESTAMPTZ,
            MODIFIED_NS BIGINT)
    """


@dataclass(frozen=True)
class Copy:
    """A COPY INTO table, read.

    Attributes:
        insert: the INSERT it amounts to, over the relation `_LOADED`.
        match: MATCH_BY_COLUMN_NAME: the insert is made from the file's columns instead.
    """

    table: ObjectName
    insert: str
    location: stages.Location
    form: dict[str, str]
    options: dict[str, str]

    def found(self) -> list[Path]:
        """The files it would read now."""
        found = self.location.found()
        if "FILES" in self.options:
            wanted = {self.location.root / self.location.path / name for name in _texts(self.options["FILES"])}
            found = [path for path in found if path in wanted]
        pattern = self.options.get("PATTERN")
        return [path for path in found if pattern is None or re.fullmatch(pattern, self.location.file_name(path))]


def _texts(text: str) -> list[str]:
    return [item.replace("''", "'") for item in re.findall(r"'((?:[^']|'')*)'", text)]


def read(session: Connection, sql: str) -> Copy:
    """Read a COPY INTO <table> statement."""
    match = _LOAD.fullmatch(sql)
    if match is None:
        raise errors.error(f"SQL compilation error:\n{sql}", 1003, "42000")
    table = session.object_name(match["table"])
    if not (session.has_table(table) or table in session.temporary):
        raise errors.missing("Table", table.key)
    rest, columns = match["rest"], ""
    if rest.startswith("("):
        closing = script.closing_bracket(rest, 0)
        columns, rest = rest[: closing + 1], rest[closing + 1 :].lstrip()
    source = re.match(r"FROM\s*", rest, re.IGNORECASE)
    if source is None:
        raise errors.error(f"SQL compilation error:\n{sql}", 1003, "42000")
    rest = rest[source.end() :]
    if rest.startswith("("):
        closing = script.closing_bracket(rest, 0)
        query, options = rest[1:closing], stages.parse_options(rest[closing + 1 :])
        place = _SOURCE.search(query)
        if place is None:
            raise errors.not_emulated(f"COPY INTO a table from {query}")
        location_text, end = place["location"], place.end()
        if bracket := re.match(r"\s*\(", query[end:]):
            closing = script.closing_bracket(query, end + bracket.end() - 1)
            options.update(stages.parse_options(query[end + bracket.end() : closing].replace("=>", "=")))
            end = closing + 1
        query = f'{query[: place.start()]}FROM "temp"."main"."_LOADED"{query[end:]}'
        if re.search(r"\bWHERE\b", script.replace_plain(query, r"\s+", " "), re.IGNORECASE):
            raise errors.error("SQL compilation error:\nCOPY statement only supports simple SELECT", 2079, "0A000")
        _check_functions(query)
        query = script.replace_plain(query, r"\$(\d+)", r'"$\1"')
    else:
        found = re.match(stages.LOCATION, rest, re.IGNORECASE)
        if found is None:
            raise errors.error(f"SQL compilation error:\n{sql}", 1003, "42000")
        location_text, options = found[0], stages.parse_options(rest[found.end() :])
        query = 'SELECT "$1" FROM "temp"."main"."_LOADED"'
    location = stages.locate(session, location_text)
    form = stages.file_format(session, options.get("FILE_FORMAT", ""), stage=location)
    return Copy(table, f"INSERT INTO {quoted(*table)} {columns} {query}", location, form, options)


def _check_functions(query: str) -> None:
    plain = "".join(character for _position, character in script.plain_characters(query))
    called = {name.upper() for name in re.findall(r"(?<![$\w])([A-Za-z]\w*)\s*\(", plain)}
    if refused := called - _FUNCTIONS - _BEFORE_BRACKETS:
        raise errors.error(
            f"SQL compilation error:\nFunction '{min(refused)}' is not supported in a COPY transformation",
            2140,
            "42601",
        )


def load(session: Connection, sql: str) -> Result:
    """COPY INTO <table>."""
    copy = read(session, sql)
    on_error = copy.options.get("ON_ERROR", "ABORT_STATEMENT").upper()
    is_forced = copy.options.get("FORCE", "FALSE").upper() == "TRUE"
    found = copy.found()
    known: set[tuple[str, int]] = set()
    if not is_forced:
        known = _loaded_by_copy(session, copy.table)
    fresh = [path for path in found if (copy.location.file_name(path), path.stat().st_mtime_ns) not in known]
    rows = load_files(session, copy, fresh, on_error=on_error, pipe=None) if fresh else []
    if copy.options.get("PURGE", "FALSE").upper() == "TRUE":
        for row in rows:
            if row[1] == "LOADED":
                (copy.location.root / str(row[0]).removeprefix(copy.location.prefix)).unlink()
    if not rows:
        return Result.of_status("Copy executed with 0 files processed.")
    return Result.of_rows(_RESULT, rows)


def _loaded_by_copy(session: Connection, table: ObjectName) -> set[tuple[str, int]]:
    query = f"""
        SELECT FILE_NAME, MODIFIED_NS FROM {session.catalogue("LOADS")}
        WHERE TABLE_SCHEMA_NAME = ? AND TABLE_NAME = ? AND PIPE_NAME IS NULL AND STATUS <> 'Load failed'
    """
    return set(session.duck.execute(query, [table.schema, stages.owned_name(session, table)]).fetchall())


def load_files(
    session: Connection, copy: Copy, paths: Collection[Path], *, on_error: str, pipe: ObjectName | None
) -> list[tuple[Any, ...]]:
    """Load files in one transaction, with their history; the statement's result rows.

    Raises:
        snowflake.connector.errors.ProgrammingError: a file cannot be read and ON_ERROR is ABORT_STATEMENT.
    """
    contents = [files.read(path, copy.location.file_name(path), copy.form) for path in paths]
    good = []
    for content in contents:
        if content.error and on_error == "ABORT_STATEMENT":
            raise errors.error(f"{content.error}\n  File '{content.name}'", 100069, "22P02")
        if not content.error or on_error == "CONTINUE":
            good.append(content)
    files.register(session.duck, "_LOADED", good, copy.form)
    try:
        insert = _matched_insert(session, copy, good) if "MATCH_BY_COLUMN_NAME" in copy.options else copy.insert
        plan = dialect.prepare(session, session.parse(insert))
        sinks = streams.sinks(session, copy.table)

        def body(number: str) -> Result:
            if good:
                changes.change_rows(session.cursor(), plan.expression, sinks, number)
            _record(session, copy, contents, on_error, pipe)
            return Result.of_status()

        session.change(body)
    finally:
        files.unregister(session.duck, "_LOADED")
    return [_result_row(content, on_error) for content in contents]


def _matched_insert(session: Connection, copy: Copy, contents: list[files.Content]) -> str:
    """The INSERT of MATCH_BY_COLUMN_NAME, and of INCLUDE_METADATA."""
    is_sensitive = copy.options["MATCH_BY_COLUMN_NAME"].upper() == "CASE_SENSITIVE"
    have = {
        (name if is_sensitive else name.upper()): name
        for content in contents
        for name in content.rows.column_names
        if not name.startswith("METADATA$")
    }
    rows = session.duck.execute(
        "SELECT column_name, data_type FROM duckdb_columns() "
        "WHERE (database_name, schema_name, table_name) IN ((?, ?, ?), ('temp', 'main', ?))",
        [session.account.database, *copy.table, session.temporary.get(copy.table)],
    ).fetchall()
    pairs = {
        column: f"to_json({quoted(have[column])})" if kind == "JSON" else quoted(have[column])
        for column, kind in rows
        if column in have
    }
    included = copy.options.get("INCLUDE_METADATA", "")
    for column, source in re.findall(r"(\w+)\s*=\s*(METADATA\$\w+)", included, re.IGNORECASE):
        pairs[column.upper()] = quoted(source.upper())
    columns = ", ".join(quoted(column) for column in pairs)
    return (
        f'INSERT INTO {quoted(*copy.table)} ({columns}) SELECT {", ".join(pairs.values())} FROM "temp"."main"."_LOADED"'
    )


def _status(content: files.Content, on_error: str) -> str:
    if not content.error:
        return "LOADED"
    return "PARTIALLY_LOADED" if on_error == "CONTINUE" and content.rows.num_rows else "LOAD_FAILED"


def _result_row(content: files.Content, on_error: str) -> tuple[Any, ...]:
    status = _status(content, on_error)
    count = content.rows.num_rows
    loaded = 0 if status == "LOAD_FAILED" else count
    return (content.name, status, count + content.error_count, loaded, 1, content.error_count, content.error, None,
            None, None)  # fmt: skip


def record_failure(session: Connection, copy: Copy, path: Path, reason: str, pipe: ObjectName) -> None:
    """Write to the history that the rows of a file do not fit its table."""
    content = files.read(path, copy.location.file_name(path), copy.form)
    failed = files.Content(content.name, path, content.rows.slice(0, 0), reason, content.rows.num_rows)
    with session.own_transaction():
        _record(session, copy, [failed], "SKIP_FILE", pipe)


_HISTORY_STATUS = {"LOADED": "Loaded", "LOAD_FAILED": "Load failed", "PARTIALLY_LOADED": "Partially loaded"}


def _record(
    session: Connection, copy: Copy, contents: list[files.Content], on_error: str, pipe: ObjectName | None
) -> None:
    database = session.account.database
    for content in contents:
        name, status, parsed, loaded, limit, errors_seen, first, *_rest = _result_row(content, on_error)
        facts = content.path.stat()
        session.duck.execute(
            f"INSERT INTO {session.catalogue('LOADS')} VALUES ({', '.join('?' * 21)})",
            [
                name, str(copy.location.stage), session.zone(session.now()), loaded, parsed, facts.st_size, first, None,
                None, None, errors_seen, limit, _HISTORY_STATUS[status], database, copy.table.schema,
                stages.owned_name(session, copy.table),
                database if pipe else None, pipe.schema if pipe else None, pipe.name if pipe else None,
                session.zone(session.now()) if pipe else None, facts.st_mtime_ns,
            ],
        )  # fmt: skip


def unload(session: Connection, sql: str) -> Result:
    """COPY INTO @location: consumes a stream it reads, as any DML."""
    match = _UNLOAD.fullmatch(sql)
    if match is None:
        raise errors.error(f"SQL compilation error:\n{sql}", 1003, "42000")
    location = stages.locate(session, match["location"])
    rest = match["rest"]
    if rest.startswith("("):
        closing = script.closing_bracket(rest, 0)
        query, options = rest[1:closing], stages.parse_options(rest[closing + 1 :])
    else:
        name = re.match(NAME, rest)
        assert name is not None
        query, options = f"SELECT * FROM {name[0]}", stages.parse_options(rest[name.end() :])
    form = stages.file_format(session, options.get("FILE_FORMAT", ""), stage=location)
    plan = dialect.prepare(session, session.parse(query))
    sizes = [0, 0, 0]

    def body(_number: str) -> Result:
        table = session.query(session.cursor().to_duckdb(plan.expression)).table
        if table.num_rows:  # without rows Snowflake writes no file
            content, extension = files.written(table, form, has_header=_is_on(options, "HEADER"))
            path = _unload_path(location, extension, options, len(content))
            files.write(path, content)
            sizes[:] = [table.num_rows, table.nbytes, len(content)]
        return Result.of_status()

    session.change(body, taken=plan.streams)
    return Result.of_rows(("rows_unloaded", "input_bytes", "output_bytes"), [tuple(sizes)])


def _is_on(options: dict[str, str], option: str) -> bool:
    return options.get(option, "FALSE").upper() == "TRUE"


def _unload_path(location: stages.Location, extension: str, options: dict[str, str], size: int) -> Path:
    is_folder = not location.path or location.path.endswith("/")
    base = location.root / location.path / "data" if is_folder else location.root / location.path
    if _is_on(options, "SINGLE"):
        if size > int(options.get("MAX_FILE_SIZE", MAX_SINGLE_FILE_BYTES)):
            raise errors.error(
                f"Max file size ({options.get('MAX_FILE_SIZE', MAX_SINGLE_FILE_BYTES)}) exceeded for unload single "
                "file mode. If possible user should increase max_file_size",
                1074,
                "22000",
            )
        path = base
    else:
        path = base.with_name(f"{base.name}_0_0_0{extension}")
    if path.exists() and not _is_on(options, "OVERWRITE"):
        raise errors.error(
            f"Files already existing at the unload destination: @{location.stage}/{location.path}. "
            "Use overwrite option to force unloading.",
            1060,
            "22000",
        )
    return path
