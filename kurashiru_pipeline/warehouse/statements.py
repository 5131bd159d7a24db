"""SQL files to statements of one engine.

Here: reading kurashiru_pipeline/sql, dispatching macros to the engine's file, values to checked literals.
Not here: running anything. The files are the common subset; what differs stands in sql/macros/<engine>.sql.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Final

import jinja2

from kurashiru_pipeline.core.events import (
    EVENT_FIELDS,
    EVENT_NAME_PATTERN,
    ID_PATTERN,
    MAX_HOURS_AHEAD,
    MAX_LINE_BYTES,
    MEANINGFUL_EVENT_NAMES,
    TIME_PATTERN,
    UUID_PATTERN,
)
from kurashiru_pipeline.core.items import DEFAULT_USER
from kurashiru_pipeline.core.segments import PLATFORM_SEGMENTS, TAG_SEGMENTS
from kurashiru_pipeline.warehouse.base import Parameter
from kurashiru_pipeline.warehouse.keyed_tables import KEY, KEYED_TABLES, KeyedTable

SQL_FOLDER = Path(__file__).resolve().parent.parent / "sql"
CONTRACT: Final[Mapping[str, Parameter]] = {
    "max_line_bytes": MAX_LINE_BYTES,
    "max_hours_ahead": MAX_HOURS_AHEAD,
    "uuid_pattern": UUID_PATTERN,
    "id_pattern": ID_PATTERN,
    "event_name_pattern": EVENT_NAME_PATTERN,
    "time_pattern": TIME_PATTERN,
    "meaningful_event_names": MEANINGFUL_EVENT_NAMES,
    "lists_of_nobody": (DEFAULT_USER, *PLATFORM_SEGMENTS, *TAG_SEGMENTS),
}
"""What the contracts fix of events and of lists (docs/contracts.md): every script may use it."""

_STATEMENT_MARK = re.compile(r"^-- statement: ([\w.]+)(?: (from|to|all of) ([\w.]+))?$", re.MULTILINE)
_ARRAY_COLUMN = re.compile(r"^\s*(\w+) \{\{ array_type\('(\w+)'\) \}\}", re.MULTILINE)


@dataclass(frozen=True)
class Variable:
    """A parameter that is no value yet: a variable of the stored procedure that the statement becomes a part of."""

    name: str


@dataclass(frozen=True)
class KeyedChange:
    """A statement that replaces rows of a keyed table, for an engine that does not keep it as a table.

    Attributes:
        verb: `from` (rows of the users of the query go), `to` (the rows of the query come), `all of` (all rows go).
        query: of user_id, or of rows in the order of the table's columns; empty for all rows.
    """

    verb: str
    table: KeyedTable
    query: str

    @property
    def sql(self) -> str:
        """The same where it is a table."""
        if self.verb == "to":
            return f"insert into {self.table.name}\n{self.query}"
        return f"delete from {self.table.name}" + (f"\nwhere {KEY} in (\n{self.query}\n)" if self.query else "")


@dataclass(frozen=True)
class Statement:
    """One named statement, ready to run; `keyed`: what it does, if that is to a keyed table."""

    name: str
    sql: str
    keyed: KeyedChange | None = None


class KeyedRelations:
    """What a script may read of keyed tables, where they are tables like others.

    An engine that keeps them elsewhere answers for the users of a query; the script still has to choose its rows, since
    here it is given those of everybody.
    """

    def rows(self, table: str, users: str) -> str:
        """A relation with, at least, the rows of the users of a query of user_id."""
        return table

    def part(self, table: str, part: str, parts: str) -> str:
        """A relation of a share of all rows; there are as many as Warehouse.parts says, which is one here."""
        if (int(part), int(parts)) != (0, 1):
            message = f"{table} is read whole here, not in {parts} parts"
            raise ValueError(message)
        return table

    def row_counts(self, table: str, users: str) -> str:
        """A relation of user_id and row_count, for users who have rows, at least those of a query."""
        return f"(select {KEY}, count(*) as row_count from {table} group by {KEY})"

    def has_rows(self, table: str) -> str:
        """Whether there is any row."""
        return f"(exists (select 1 from {table}))"

    def counted(self, table: str) -> str:
        """How many users count (KeyedTable.uncounted)."""
        uncounted = KEYED_TABLES[table].uncounted
        return (
            f"(select count(distinct {KEY}) from {table} where {KEY} not like '#%'"
            + (f" and not {uncounted}" if uncounted else "")
            + ")"
        )


TABLES: Final = KeyedRelations()


def render(
    script: str,
    *,
    engine: str,
    stream: Callable[[str], str],
    parameters: Mapping[str, Parameter | Variable],
    keyed: KeyedRelations = TABLES,
) -> list[Statement]:
    """Statements of sql/<script>.sql for `engine`, in order. `{{ query('name') }}` is the one query of another script.

    Args:
        script: name below the folder, with forward slashes: `collect`, `snowflake/copy_history`.
        stream: what `{{ stream('name') }}` stands for: the expression that reads and marks the stream.
        keyed: what `{{ keyed('table', users) }}`, `{{ keyed_part(..) }}`, `{{ keyed_row_counts(..) }}`,
            `{{ keyed_has_rows('table') }}` and `{{ keyed_counted('table') }}` stand for.
        parameters: values besides CONTRACT; each becomes a literal. A mapping becomes a mapping of literals, a list
            `('a', 'b')`, a variable `:name`.

    Raises:
        FileNotFoundError: there is no such script.
        jinja2.UndefinedError: the script needs a parameter that was not given.
    """
    literals = {name: _in_sql(value) for name, value in {**CONTRACT, **parameters}.items()}

    def query(other: str) -> str:
        [statement] = render(other, engine=engine, stream=stream, parameters=parameters, keyed=keyed)
        return statement.sql

    names = {
        "stream": stream,
        "query": query,
        "keyed": keyed.rows,
        "keyed_part": keyed.part,
        "keyed_row_counts": keyed.row_counts,
        "keyed_has_rows": keyed.has_rows,
        "keyed_counted": keyed.counted,
    }
    statements = []
    for name, verb, table, template in _templates(engine, script):
        sql = template.render(**names, **literals).strip().rstrip(";")
        change = KeyedChange(verb, KEYED_TABLES[table], sql) if verb else None
        statements.append(Statement(name, change.sql if change else sql, change))
    return statements


@cache
def array_columns() -> Mapping[str, str]:
    """Element type (varchar, double) of every column that schema.sql declares as an array, by column name.

    For engines whose arrays do not say what they hold.
    """
    return dict(_ARRAY_COLUMN.findall((SQL_FOLDER / "schema.sql").read_text(encoding="utf-8")))


def literal(value: Parameter) -> str:
    """SQL literal of a value, the same on both engines.

    Values come from our own code, and strings are quoted and escaped; binding would cost an import of pandas in
    DuckDB's client and would need two spellings.
    """
    if value is None:
        return "null"
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, float):
        if not math.isfinite(value):
            message = f"{value} has no SQL literal"
            raise ValueError(message)
        digits = float.__repr__(value)  # not that of a NumPy subclass
        return digits if "e" in digits else f"{digits}e0"
    if isinstance(value, datetime):
        if value.tzinfo is not None:
            message = "timestamps are naive UTC throughout"
            raise ValueError(message)
        return f"timestamp '{value.isoformat(sep=' ')}'"
    if isinstance(value, str):
        if "\\" in value or "\0" in value:
            message = f"{value!r}: backslashes mean different things to the engines"
            raise ValueError(message)
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, list | tuple):
        return "(" + (", ".join(literal(item) for item in value) or "null") + ")"
    message = f"{type(value).__name__} has no SQL literal"
    raise TypeError(message)


def _in_sql(value: Parameter | Variable) -> str | dict[str, str]:
    if isinstance(value, Variable):
        return f":{value.name}"
    if isinstance(value, Mapping):
        return {literal(key): literal(item) for key, item in value.items()}
    return literal(value)


@cache
def _templates(engine: str, script: str) -> list[tuple[str, str | None, str, jinja2.Template]]:
    """(name, verb, keyed table, template) of each statement. Split before rendering, so that no value can look like a
    mark.
    """
    environment = _environment(engine)
    parts = _STATEMENT_MARK.split((SQL_FOLDER / f"{script}.sql").read_text(encoding="utf-8"))[1:]
    return [
        (name, verb, table, environment.from_string(sql))
        for name, verb, table, sql in zip(parts[::4], parts[1::4], parts[2::4], parts[3::4], strict=True)
    ]


@cache
def _environment(engine: str) -> jinja2.Environment:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - SQL, not HTML
    environment.globals["fields"] = EVENT_FIELDS
    macros = environment.from_string((SQL_FOLDER / "macros" / f"{engine}.sql").read_text(encoding="utf-8")).module
    environment.globals.update({name: macro for name, macro in vars(macros).items() if not name.startswith("_")})
    return environment
