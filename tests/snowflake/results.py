"""Results as Snowflake's connector hands them over: rows, Arrow tables, descriptions.

Here: what DuckDB's values become (VARIANT as JSON text, whole NUMBER as the narrowest integer, others as doubles).
Not here: running anything.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from snowflake.connector.cursor import ResultMetadata

_INTEGERS = (pa.int8(), pa.int16(), pa.int32(), pa.int64())
# https://docs.snowflake.com/en/developer-guide/python-connector/python-connector-api#label-python-connector-type-codes
_FIXED, _REAL, _TEXT, _DATE, _VARIANT, _LTZ, _NTZ, _BINARY, _TIME, _BOOLEAN = 0, 1, 2, 3, 5, 6, 8, 11, 12, 13
_MAX_TEXT = 16_777_216


@dataclass(frozen=True)
class Result:
    """What a statement answered.

    Attributes:
        table: the rows; integers as int64 or decimal(38, 0), VARIANT as text.
        variants: positions of the columns that hold VARIANT, ARRAY or OBJECT.
        row_count: `cursor.rowcount`.
    """

    table: pa.Table
    row_count: int
    variants: frozenset[int] = frozenset()

    @classmethod
    def of_query(cls, connection: duckdb.DuckDBPyConnection) -> "Result":
        """The answer of the query that `connection` has just run."""
        kinds = [str(column[1]) for column in connection.description or ()]
        table = connection.to_arrow_table()
        variants = frozenset(
            index
            for index, kind in enumerate(kinds)
            if kind == "JSON" or pa.types.is_nested(table.schema.field(index).type)
        )
        columns = [_plain(column) for column in table.columns]
        return cls(pa.table(columns, names=table.column_names), table.num_rows, variants)

    @classmethod
    def of_rows(cls, names: Sequence[str], rows: Iterable[Sequence[Any]], *, row_count: int | None = None) -> "Result":
        """Rows of Python values; a column without any value is text."""
        rows = list(rows)
        columns = []
        for index in range(len(names)):
            column = pa.array([row[index] for row in rows])
            columns.append(column.cast(pa.string()) if pa.types.is_null(column.type) else column)
        return cls(pa.table(columns, names=list(names)), len(rows) if row_count is None else row_count)

    @classmethod
    def of_status(cls, text: str = "Statement executed successfully.") -> "Result":
        return cls.of_rows(["status"], [(text,)])

    @classmethod
    def of_counts(cls, **counts: int) -> "Result":
        """Rows changed: `inserted=3` becomes the column `number of rows inserted`."""
        return cls.of_rows(
            [f"number of {name.replace('_', ' ')}" for name in counts],
            [tuple(counts.values())],
            row_count=sum(count for name, count in counts.items() if not name.startswith("multi")),
        )

    def rows(self) -> list[tuple[Any, ...]]:
        """`fetchall()`."""
        return list(zip(*(_values(column) for column in self.table.columns), strict=True))

    def arrow(self, *, is_decimal: bool = False, is_microsecond: bool = False) -> pa.Table:
        """`fetch_arrow_all()`: https://docs.snowflake.com/en/developer-guide/python-connector/python-connector-api."""
        unit = "us" if is_microsecond else "ns"
        columns = [_sent(column, unit=unit, is_decimal=is_decimal) for column in self.table.columns]
        return pa.table(columns, names=self.table.column_names)

    def description(self) -> list[ResultMetadata]:
        return [
            _metadata(field.name, field.type, is_variant=index in self.variants)
            for index, field in enumerate(self.table.schema)
        ]


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_nested(kind):
        texts = [None if value is None else json.dumps(value, default=str) for value in column.to_pylist()]
        return pa.chunked_array([pa.array(texts, pa.string())])
    if pa.types.is_integer(kind) or (pa.types.is_decimal(kind) and kind.scale == 0):
        try:
            return column.cast(pa.int64())
        except pa.ArrowInvalid:
            return column.cast(pa.decimal128(38, 0))
    if pa.types.is_null(kind):
        return column.cast(pa.string())
    return column


def _values(column: pa.ChunkedArray) -> list[Any]:
    values: list[Any] = column.to_pylist()
    if pa.types.is_decimal(column.type) and column.type.scale == 0:
        return [None if value is None else int(value) for value in values]
    return values


def _sent(column: pa.ChunkedArray, *, unit: str, is_decimal: bool) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_timestamp(kind):
        return column.cast(pa.timestamp(unit, kind.tz))
    if kind == pa.int64():
        return column.cast(_narrowest(column))
    if pa.types.is_decimal(kind) and kind.scale > 0 and not is_decimal:
        return column.cast(pa.float64())
    return column


def _narrowest(column: pa.ChunkedArray) -> pa.DataType:
    """Snowflake sends whole NUMBERs in the fewest bytes that hold the result's values; in eight when there are none."""
    if not len(column):
        return pa.int64()
    span = pc.min_max(column).as_py()
    low, high = span["min"] or 0, span["max"] or 0
    return next(kind for kind in _INTEGERS if -(2 ** (kind.bit_width - 1)) <= low and high < 2 ** (kind.bit_width - 1))


def _metadata(name: str, kind: pa.DataType, *, is_variant: bool) -> ResultMetadata:
    code, size, precision, scale = _TEXT, _MAX_TEXT, None, None
    if is_variant:
        code, size = _VARIANT, None
    elif pa.types.is_integer(kind):
        code, size, precision, scale = _FIXED, None, 38, 0
    elif pa.types.is_decimal(kind):
        code, size, precision, scale = _FIXED, None, kind.precision, kind.scale
    elif pa.types.is_floating(kind):
        code, size = _REAL, None
    elif pa.types.is_boolean(kind):
        code, size = _BOOLEAN, None
    elif pa.types.is_date(kind):
        code, size = _DATE, None
    elif pa.types.is_timestamp(kind):
        code, size, precision, scale = (_LTZ if kind.tz else _NTZ), None, 0, 9
    elif pa.types.is_time(kind):
        code, size, precision, scale = _TIME, None, 0, 9
    elif pa.types.is_binary(kind):
        code, size = _BINARY, 8_388_608
    return ResultMetadata(name, code, None, size, precision, scale, is_nullable=True)
