"""Snowflake's errors, as its connector raises them.

Here: number, SQL state and text of the errors the stand-in raises, and what DuckDB's errors become.
Not here: deciding when to raise one.
"""

from typing import Final

import duckdb
from snowflake.connector.errors import DatabaseError, Error, ProgrammingError


def error(message: str, number: int, state: str) -> ProgrammingError:
    return ProgrammingError(msg=message, errno=number, sqlstate=state)


def no_warehouse() -> ProgrammingError:
    return error(
        "No active warehouse selected in the current session.  Select an active warehouse with the 'use warehouse' "
        "command.\n",
        606,
        "57P03",
    )


def missing(kind: str, name: str) -> ProgrammingError:
    return error(
        f"SQL compilation error:\n{kind} '{name}' does not exist or not authorized.",
        2003,
        "42S02" if kind in {"Object", "Table", "View"} else "02000",
    )


def exists(name: str) -> ProgrammingError:
    return error(f"SQL compilation error:\nObject '{name}' already exists.", 2002, "42710")


def locked(what: str) -> ProgrammingError:
    return error(
        f"Statement has been aborted: {what} is locked by another transaction and the lock has not yet been released.",
        625,
        "57014",
    )


def not_emulated(what: str) -> ProgrammingError:
    return error(f"the stand-in does not emulate this: {what}", 9999, "0A000")


_NUMBERS: Final = (
    (duckdb.CatalogException, 2003, "42S02"),
    (duckdb.BinderException, 904, "42000"),
    (duckdb.ParserException, 1003, "42000"),
    (duckdb.ConversionException, 100038, "22018"),
    (duckdb.ConstraintException, 100072, "22000"),
)


def translated(failure: duckdb.Error) -> Error:
    """What Snowflake's connector would raise; the text stays DuckDB's."""
    text = str(failure)
    if isinstance(failure, duckdb.TransactionException) and "onflict" in text:
        return locked("a row")
    if isinstance(failure, duckdb.ConnectionException):
        return DatabaseError(msg=text, errno=250002, sqlstate="08003")
    for kind, number, state in _NUMBERS:
        if isinstance(failure, kind):
            prefix = "SQL compilation error:\n" if number < 100_000 else ""
            return error(f"{prefix}{text}", number, state)
    return error(text, 100132, "P0000")
