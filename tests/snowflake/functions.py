"""Scalar functions of the account whose body is Python: they stand for Python UDFs and for external functions.

Here: registering them, calls in batches of any size and order, repeated batches.
Not here: SQL functions (dialect.py, system.py).
"""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa
from sqlglot import exp

from tests.snowflake import errors
from tests.snowflake.names import ObjectName

if TYPE_CHECKING:
    from tests.snowflake.session import Connection

Call = Callable[[list[tuple[Any, ...]]], list[Any]]


@dataclass
class Function:
    """A registered function.

    Attributes:
        calls: how many rows each call of the body got, in order.
    """

    name: ObjectName
    call: Call
    arity: int
    inside: str
    batch_rows: int | None
    shuffler: random.Random | None
    repeat_every: int | None
    calls: list[int] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answers(self, column: pa.Array) -> pa.Array:
        """Answers for the rows of one DuckDB chunk: each row a JSON array of the arguments."""
        with self.lock:
            rows = [tuple(json.loads(text)) for text in column.to_pylist()]
            order = list(range(len(rows)))
            if self.shuffler:
                self.shuffler.shuffle(order)
            size = self.batch_rows or len(rows) or 1
            found: dict[int, Any] = {}
            for start in range(0, len(order), size):
                batch = order[start : start + size]
                found.update(zip(batch, self._answered([rows[index] for index in batch]), strict=True))
        texts = [None if found[i] is None else json.dumps(found[i], default=str) for i in range(len(rows))]
        return pa.array(texts, pa.string())

    def _answered(self, batch: list[tuple[Any, ...]]) -> list[Any]:
        self.calls.append(len(batch))
        values = self.call(batch)
        if self.repeat_every and len(self.calls) % self.repeat_every == 0:
            self.calls.append(len(batch))
            values = self.call(batch)
        if len(values) != len(batch):
            message = f"{self.name.key} gave {len(values)} values for {len(batch)} rows"
            raise ValueError(message)
        return values


class Functions:
    """All registered functions of an account."""

    def __init__(self, duck: duckdb.DuckDBPyConnection) -> None:
        self._duck = duck
        self._by_name: dict[ObjectName, Function] = {}

    def register(
        self,
        name: ObjectName,
        call: Call,
        arity: int,
        *,
        batch_rows: int | None,
        shuffle_seed: int | None,
        repeat_every: int | None,
    ) -> Function:
        function = Function(
            name,
            call,
            arity,
            f"_stand_in_function_{len(self._by_name)}",
            batch_rows,
            None if shuffle_seed is None else random.Random(shuffle_seed),
            repeat_every,
        )
        if known := self._by_name.get(name):
            function.inside = known.inside
            self._duck.remove_function(known.inside)
        self._duck.create_function(
            function.inside,
            function.answers,
            ["VARCHAR"],
            "VARCHAR",
            type="arrow",
            side_effects=True,
            null_handling="special",
        )
        self._by_name[name] = function
        return function

    def __getitem__(self, name: ObjectName) -> Function:
        return self._by_name[name]

    def replace_calls(self, session: Connection, expression: exp.Expression) -> None:
        """Let calls of registered functions reach their bodies."""
        if not self._by_name:
            return
        for call in list(expression.find_all(exp.Anonymous)):
            names, node = [str(call.name).upper()], call
            if isinstance(call.parent, exp.Dot) and call.parent.expression is call:
                node = call.parent
                names = [part.name.upper() for part in node.this.find_all(exp.Identifier)] + names
            if len(names) == 1 and (not session.schema or ObjectName(session.schema, names[0]) not in self._by_name):
                continue
            function = self._by_name.get(session.resolved(names))
            if function is None:
                continue
            if len(call.expressions) != function.arity:
                raise errors.error(
                    f"SQL compilation error:\nInvalid argument types for function '{function.name.name}'", 1044, "42P13"
                )
            arguments = exp.Anonymous(this="JSON_ARRAY", expressions=[item.copy() for item in call.expressions])
            inner = exp.Anonymous(this=function.inside, expressions=[exp.cast(arguments, "VARCHAR")])
            node.replace(exp.Anonymous(this="JSON", expressions=[inner]))
