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
    TIME_PATTERN,
    UUID_PATTERN,
)
from kurashiru_pipeline.warehouse.base import Parameter

SQL_FOLDER = Path(__file__).resolve().parent.parent / "sql"
CONTRACT: Final[Mapping[str, Parameter]] = {
    "max_line_bytes": MAX_LINE_BYTES,
    "max_hours_ahead": MAX_HOURS_AHEAD,
    "uuid_pattern": UUID_PATTERN,
    "id_pattern": ID_PATTERN,
    "event_name_pattern": EVENT_NAME_PATTERN,
    "time_pattern": TIME_PATTERN,
}
"""What the contract of a behaviour event fixes (docs/contracts.md): every script may use it."""

_STATEMENT_MARK = re.compile(r"^-- statement: ([\w.]+)$", re.MULTILINE)
_ARRAY_COLUMN = re.compile(r"^\s*(\w+) \{\{ array_type\('(\w+)'\) \}\}", re.MULTILINE)


@dataclass(frozen=True)
class Variable:
    """A parameter that is no value yet: a variable of the stored procedure that the statement becomes a part of."""

    name: str


@dataclass(frozen=True)
class Statement:
    """One named statement, ready to run."""

    name: str
    sql: str


def render(
    script: str, *, engine: str, stream: Callable[[str], str], parameters: Mapping[str, Parameter | Variable]
) -> list[Statement]:
    """Statements of sql/<script>.sql for `engine`, in order. `{{ query('name') }}` is the one query of another script.

    Args:
        script: name below the folder, with forward slashes: `collect`, `snowflake/copy_history`.
        stream: what `{{ stream('name') }}` stands for: the expression that reads and marks the stream.
        parameters: values besides CONTRACT; each becomes a literal. A mapping becomes a mapping of literals, a list
            `('a', 'b')`, a variable `:name`.

    Raises:
        FileNotFoundError: there is no such script.
        jinja2.UndefinedError: the script needs a parameter that was not given.
    """
    literals = {name: _in_sql(value) for name, value in {**CONTRACT, **parameters}.items()}

    def query(other: str) -> str:
        [statement] = render(other, engine=engine, stream=stream, parameters=parameters)
        return statement.sql

    return [
        Statement(name, template.render(stream=stream, query=query, **literals).strip().rstrip(";"))
        for name, template in _templates(engine, script)
    ]


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
def _templates(engine: str, script: str) -> list[tuple[str, jinja2.Template]]:
    """(name, template) of each statement. Split before rendering, so that no value can look like a mark."""
    environment = _environment(engine)
    parts = _STATEMENT_MARK.split((SQL_FOLDER / f"{script}.sql").read_text(encoding="utf-8"))[1:]
    return [(name, environment.from_string(sql)) for name, sql in zip(parts[::2], parts[1::2], strict=True)]


@cache
def _environment(engine: str) -> jinja2.Environment:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - SQL, not HTML
    environment.globals["fields"] = EVENT_FIELDS
    macros = environment.from_string((SQL_FOLDER / "macros" / f"{engine}.sql").read_text(encoding="utf-8")).module
    environment.globals.update({name: macro for name, macro in vars(macros).items() if not name.startswith("_")})
    return environment
