"""What SQL on the embedded engine sees and does of keyed tables, which are kept beside the lake.

Here: a script's reads of keyed tables as Arrow relations, its changes of them until they are committed, and such tables
of an older lake carried over.
Not here: the state itself (keyed_state.py), or transactions (ducklake.py).
"""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Final, Self

import duckdb
import pyarrow as pa

from kurashiru_pipeline.warehouse.keyed_rows import arrow, compute
from kurashiru_pipeline.warehouse.keyed_state import Change, KeyedState
from kurashiru_pipeline.warehouse.keyed_tables import KEY, KEYED_TABLES, KeyedTable
from kurashiru_pipeline.warehouse.statements import KeyedChange, KeyedRelations

_USERS_CARRIED_AT_ONCE: Final = 100_000


class FetchedRelations(KeyedRelations):
    """Reads of one script: fetched while it is rendered, there until the script has run."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, state: KeyedState) -> None:
        self._connection = connection
        self._state = state
        self._names: dict[tuple[str, ...], str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name in self._names.values():
            self._connection.unregister(name)

    def rows(self, table: str, users: str) -> str:
        return self._registered(("rows", table, users), lambda: self._state.read(KEYED_TABLES[table], self._ids(users)))

    def part(self, table: str, part: str, parts: str) -> str:
        return self._registered(
            ("part", table, part, parts),
            lambda: self._state.read_part(KEYED_TABLES[table], int(part), int(parts)),
        )

    def row_counts(self, table: str, users: str) -> str:
        return self._registered(
            ("counts", table, users), lambda: self._state.row_counts(KEYED_TABLES[table], self._ids(users))
        )

    def has_rows(self, table: str) -> str:
        return str(self._state.has_users(KEYED_TABLES[table])).lower()

    def counted(self, table: str) -> str:
        return f"cast({self._state.counted(KEYED_TABLES[table])} as bigint)"

    def _ids(self, users: str) -> Any:
        return self._connection.execute(users).to_arrow_table()[KEY].combine_chunks()

    def _registered(self, key: tuple[str, ...], fetch: Callable[[], pa.Table]) -> str:
        if key not in self._names:
            name = f"keyed_{len(self._names)}"
            self._connection.register(name, fetch())
            self._names[key] = name
        return self._names[key]


class KeyedChanges:
    """Changes of a transaction, made when it commits. What it reads meanwhile is the state before them."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, state: KeyedState) -> None:
        self._connection = connection
        self._state = state
        self._changes: list[Change] = []

    def take(self, change: KeyedChange) -> int:
        """Note a change; how many rows go or come."""
        table = change.table
        if change.verb == "all of":
            self._changes.append(Change(table, None, table.schema.empty_table()))
            return 0
        rows = self._connection.execute(change.query).to_arrow_table()
        if change.verb == "from":
            ids = rows[KEY].combine_chunks()
            self._changes.append(Change(table, ids, table.schema.empty_table()))
            return int(compute.sum(self._state.row_counts(table, ids)["row_count"]).as_py() or 0)
        rows = rows.rename_columns(table.schema.names)
        if self._changes and self._changes[-1].table is table:
            self._changes[-1] = Change(table, self._changes[-1].gone, rows)
        else:
            self._changes.append(Change(table, arrow.array([], pa.string()), rows))
        return rows.num_rows

    def commit(self) -> None:
        if self._changes:
            self._state.commit(self._changes)


def lake_tables(connection: duckdb.DuckDBPyConnection, alias: str) -> list[KeyedTable]:
    """Keyed tables that an older program has left in the lake."""
    catalogue = f"__ducklake_metadata_{alias}"
    present = {
        f"{schema}.{table}"
        for schema, table in connection.execute(
            f"""
            select schemas.schema_name, tables.table_name
            from {catalogue}.ducklake_table as tables
            inner join {catalogue}.ducklake_schema as schemas on tables.schema_id = schemas.schema_id
            where tables.end_snapshot is null
            """
        ).fetchall()
    }
    return [table for table in KEYED_TABLES.values() if table.name in present]


def carry_over(connection: duckdb.DuckDBPyConnection, tables: list[KeyedTable], state: KeyedState) -> None:
    """Take the rows of such tables into the state, then drop them. Killed on the way, it begins again."""
    for table in tables:
        present = {row[0] for row in connection.execute(f"describe {table.name}").fetchall()}
        columns = ", ".join(name for name in table.schema.names if name in present)
        [(users,)] = connection.execute(f"select approx_count_distinct({KEY}) from {table.name}").fetchall()
        parts = 1 + users // _USERS_CARRIED_AT_ONCE
        for part in range(parts):
            rows = connection.execute(
                f"select {columns} from {table.name} where hash({KEY}) % {parts} = {part} order by {KEY}"
            ).to_arrow_table()
            state.commit([Change(table, arrow.array([], pa.string()), rows)])
    connection.execute("begin transaction")
    for table in tables:
        connection.execute(f"drop table {table.name}")
    connection.execute("commit")
