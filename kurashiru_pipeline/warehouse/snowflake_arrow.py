"""Arrow in and out of Snowflake, in the types the embedded engine has too.

Here: results to int64, double, naive timestamps and lists; tables to gzip NDJSON, and the SQL that types it again.
Not here: sending or running anything (snowflake.py).
"""

import gzip
import math
from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

import orjson
import pyarrow as pa

from kurashiru_pipeline.errors import KurashiruError

_ELEMENTS: Final[Mapping[str, pa.DataType]] = {"varchar": pa.string(), "double": pa.float64()}
# Snowflake keeps a JSON number without an exponent as a decimal of so many digits, exactly.
_DECIMAL_DIGITS: Final = 38


def from_snowflake(table: pa.Table, arrays: Mapping[str, str]) -> pa.Table:
    """A result with the names and types that DuckDB gives the same query.

    Snowflake sends whole numbers as narrow as they come, fractions as doubles and ARRAY as JSON text.

    Args:
        arrays: element type (varchar, double) of the columns that are arrays, by name in lower case.
    """
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        element = arrays.get(name.lower())
        is_text = pa.types.is_string(column.type)
        columns[name.lower()] = (
            _lists(column, element) if element and is_text else column.cast(_common_type(column.type), safe=False)
        )
    return pa.table(columns)


def _common_type(sent: pa.DataType) -> pa.DataType:
    if pa.types.is_integer(sent):
        return pa.int64()
    if pa.types.is_decimal(sent):
        return pa.int64() if sent.scale == 0 else pa.float64()
    if pa.types.is_floating(sent):
        return pa.float64()
    if pa.types.is_timestamp(sent):
        return pa.timestamp("us")
    return sent


def _lists(column: "pa.ChunkedArray[Any]", element: str) -> "pa.ChunkedArray[Any]":
    lists = [None if text is None else orjson.loads(text) for text in column.to_pylist()]
    if element == "double":  # a whole number may come without its point
        lists = [None if row is None else [None if value is None else float(value) for value in row] for row in lists]
    return pa.chunked_array([pa.array(lists, pa.list_(_ELEMENTS[element]))])


def column_definitions(schema: pa.Schema) -> str:
    """Columns of a CREATE TABLE that holds such a table."""
    return ", ".join(f"{field.name} {_sql_type(field)}" for field in schema)


def column_readers(schema: pa.Schema) -> str:
    """Select list that reads `to_ndjson` of such a table from a stage."""
    return ", ".join(f"$1:{field.name}::{_sql_type(field)}" for field in schema)


def to_ndjson(table: pa.Table) -> bytes:
    """One JSON object a row, gzipped; what is null is left out.

    Raises:
        KurashiruError: a column has a type or a value that JSON cannot carry.
    """
    columns = [list(_json_values(table.schema.field(index), table.column(index))) for index in range(table.num_columns)]
    names = table.column_names
    lines = (
        orjson.dumps(
            {name: value for name, value in zip(names, row, strict=True) if value is not None},
            option=orjson.OPT_APPEND_NEWLINE,
        )
        for row in zip(*columns, strict=True)
    )
    return gzip.compress(b"".join(lines), compresslevel=1)


def _sql_type(field: "pa.Field[Any]") -> str:
    kind = field.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "varchar"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_integer(kind):
        return "number(38, 0)"
    if pa.types.is_floating(kind):
        return "double"
    if pa.types.is_timestamp(kind):
        return "timestamp_ntz"
    if pa.types.is_list(kind):
        return "array"
    message = f"column {field.name} is of type {kind}, which cannot be sent to Snowflake"
    raise KurashiruError(message)


def _json_values(field: "pa.Field[Any]", column: "pa.ChunkedArray[Any]") -> Iterator[Any]:
    if pa.types.is_timestamp(field.type):
        column = column.cast(pa.string())
    values: list[Any] = column.to_pylist()
    if pa.types.is_floating(field.type):
        return (_finite(value, field.name) for value in values)
    if pa.types.is_list(field.type) and pa.types.is_floating(field.type.value_type):
        return (None if row is None else [_decimal(_finite(value, field.name)) for value in row] for row in values)
    return iter(values)


def _finite(value: float | None, name: str) -> float | None:
    if value is not None and not math.isfinite(value):
        message = f"column {name} holds {value}, which has no JSON"
        raise KurashiruError(message)
    return value


def _decimal(value: float | None) -> Any:
    """A double inside an array, in digits without an exponent.

    Snowflake gives a number back as it was sent only then: one with an exponent becomes a double, and the text of an
    array shows 16 of a double's 17 digits.
    """
    if value is None or "e" not in repr(value):
        return value
    digits = format(Decimal(repr(value)), "f")
    if sum(map(str.isdigit, digits)) > _DECIMAL_DIGITS:
        return value
    return orjson.Fragment(digits)
