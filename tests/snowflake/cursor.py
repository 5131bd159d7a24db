"""Cursors with the answers of Snowflake's connector.

Here: execute, fetching, descriptions, and the translation of an expression to DuckDB's SQL through fakesnow.
Not here: transactions and dispatch (session.py), the form of values (results.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
from fakesnow.cursor import FakeSnowflakeCursor
from snowflake.connector.cursor import ResultMetadata
from snowflake.connector.errors import DatabaseError, NotSupportedError
from sqlglot import exp

from tests.snowflake import corrections, dialect
from tests.snowflake.names import next_number
from tests.snowflake.results import Result

if TYPE_CHECKING:
    import pandas as pd

    from tests.snowflake.session import Connection


class _InPlace:
    """An expression that fakesnow's chain of some seventy transformations changes, where each would copy it."""

    def __init__(self, expression: exp.Expression) -> None:
        self.expression = expression

    def transform(self, function: Callable[..., exp.Expression], *args: Any, **kwargs: Any) -> Self:
        self.expression = self.expression.transform(function, *args, copy=False, **kwargs)
        return self


class Cursor(FakeSnowflakeCursor):
    """A cursor of a session, with the connector's results."""

    def __init__(self, connection: Connection, *, is_dict: bool) -> None:
        super().__init__(conn=connection, duck_conn=connection.duck, use_dict_result=is_dict)
        self.connection = connection
        self.query: str | None = None
        self._result: Result | None = None
        self._rows: list[tuple[Any, ...]] | None = None
        self._position = 0

    def execute(
        self,
        command: str,
        params: Sequence[Any] | dict[Any, Any] | None = None,
        *args: Any,
        _statement_params: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Cursor:
        if self.connection.is_closed():
            raise DatabaseError(msg="Connection is closed", errno=250002, sqlstate="08003")
        del args, kwargs  # time-outs, number of statements: nothing that changes an answer here
        self._result, self._rows, self._position = None, None, 0
        text, values = self._rewrite_with_params(command, params)
        if values:
            text = dialect.bind(text, list(values))
        self.query = text
        self._sfqid = f"{next_number():032x}"
        self._result = self.connection.run(self, text, _statement_params or {})
        return self

    def executemany(self, command: str, seqparams: Sequence[Any] | dict[str, Any], **kwargs: Any) -> Cursor:
        count = 0
        for params in seqparams:
            count += self.execute(command, params, **kwargs).rowcount or 0
        if self._result:
            self._result = Result(self._result.table, count, self._result.variants)
        return self

    # Translation.

    def transformed(self, expression: exp.Expression) -> exp.Expression:
        chain = _InPlace(corrections.rewrite(expression.copy()))
        self._transform(chain, None)
        return chain.expression

    def to_duckdb(self, expression: exp.Expression) -> str:
        return self.transformed(expression).sql("duckdb", identify=True)  # AT is a name on Snowflake

    def exploded(self, expression: exp.Expression) -> list[exp.Expression]:
        return self._transform_explode(expression)

    def run_by_fakesnow(self, expression: exp.Expression) -> Result:
        """Statements whose effect fakesnow has right: what is left of DDL, DESCRIBE, variables."""
        self.check_db_and_schema(expression)
        for statement in self._transform_explode(expression):
            self._execute(self.transformed(statement), None)
        table = self._arrow_table
        assert table is not None
        return Result(table, self._rowcount if self._rowcount is not None else table.num_rows)

    # Results.

    def _answer(self) -> Result:
        if self._result is None:
            message = "No open result set"
            raise TypeError(message)
        return self._result

    @property
    def description(self) -> list[ResultMetadata]:
        return self._result.description() if self._result else []

    @property
    def rowcount(self) -> int | None:
        return self._result.row_count if self._result else None

    def fetchmany(self, size: int | None = None) -> list[Any]:
        if self._rows is None:
            self._rows = self._answer().rows()
        start, self._position = self._position, self._position + (self._arraysize if size is None else size)
        rows = self._rows[start : self._position]
        if self._use_dict_result:
            names = self._answer().table.column_names
            return [dict(zip(names, row, strict=True)) for row in rows]
        return rows

    def fetchall(self) -> list[Any]:
        return self.fetchmany(self._answer().table.num_rows)

    def fetchone(self) -> Any:
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def __iter__(self) -> Iterator[Any]:
        while (row := self.fetchone()) is not None:
            yield row

    def fetch_arrow_all(
        self,
        force_return_table: bool = False,
        force_microsecond_precision: bool = False,
    ) -> pa.Table | None:
        if self._result is None:
            raise NotSupportedError(msg="No open result set")
        if not force_return_table and not self._result.table.num_rows:
            return None
        return self._result.arrow(
            is_decimal=bool(self.connection.options.get("arrow_number_to_decimal")),
            is_microsecond=force_microsecond_precision,
        )

    def fetch_arrow_batches(self, **kwargs: Any) -> Iterator[pa.Table]:
        table = self.fetch_arrow_all(**kwargs)
        return iter([] if table is None else [table])

    def fetch_pandas_all(self, **kwargs: Any) -> pd.DataFrame:
        del kwargs
        table = self.fetch_arrow_all(force_return_table=True)
        assert table is not None
        return table.to_pandas()

    def fetch_pandas_batches(self, **kwargs: Any) -> Iterator[pd.DataFrame]:
        return iter([self.fetch_pandas_all(**kwargs)])
