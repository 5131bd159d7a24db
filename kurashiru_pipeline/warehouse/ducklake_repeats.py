"""Which parsed lines deliver an event once more, as sql/stage_repeats.sql says it, without a join over what was staged.

Here: the parsed events in the order of their delivery, and the work table `repeated_lines`.
Not here: the ids staged lately (event_ids.py), or parsing (fresh_lines.py, sql/stage_parse.sql).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa

from kurashiru_pipeline.core.columns import Ints, column_micros, constants, micros, to_numpy
from kurashiru_pipeline.warehouse.event_ids import EventIds, Pending, Staged, halves
from kurashiru_pipeline.warehouse.keyed_rows import arrow, compute
from kurashiru_pipeline.warehouse.statements import literal


class _Delivered(NamedTuple):
    """Events and where they stand: the number of a file among `names`, and the row."""

    events: Staged
    names: Sequence[str]
    files: Ints
    rows: Ints


def find_repeats(
    connection: duckdb.DuckDBPyConnection,
    event_ids: EventIds,
    *,
    fresh: pa.Table | None,
    judged: str,
    batch_id: int,
    duplicates_from: datetime,
) -> Pending:
    """Fill `repeated_lines`; what to add to the ids once the micro-batch is committed.

    Args:
        fresh: events of one load that were parsed in memory, a chunk a file.
        judged: the table of the lines that SQL parsed, of the same load if there are fresh ones.
    """

    def staged(first: int, last: int) -> Staged:
        table = _fetch(
            connection,
            "select event_id, loaded_at from staging.behavior_events "
            f"where batch_id between {first} and {last} and loaded_at >= {literal(duplicates_from)}",
        )
        return Staged(*halves(table["event_id"]), column_micros(table["loaded_at"]))

    delivered = _judged(connection, judged)
    if fresh is not None:
        delivered = _together(_fresh(fresh), delivered)
    is_repeat, pending = event_ids.repeats(batch_id, delivered.events, micros(duplicates_from), staged)
    repeats = np.flatnonzero(is_repeat)
    if len(repeats):
        table = {
            "file_name": constants(*delivered.names).take(arrow.array(delivered.files[repeats])),
            "file_row_number": arrow.array(delivered.rows[repeats]),
        }
        connection.register("repeats", pa.table(table))
        connection.execute("insert into repeated_lines select * from repeats")
        connection.unregister("repeats")
    return pending


def _judged(connection: duckdb.DuckDBPyConnection, table: str) -> _Delivered:
    lines = _fetch(
        connection,
        f"select event_id, loaded_at, file_name, file_row_number from {table} where reject_reason is null "
        "order by loaded_at, file_name, file_row_number",
    )
    names: Any = compute.unique(lines["file_name"])
    return _Delivered(
        Staged(*halves(lines["event_id"]), column_micros(lines["loaded_at"])),
        names.to_pylist(),
        to_numpy(compute.index_in(lines["file_name"], names), 0).astype(np.int64),
        to_numpy(lines["file_row_number"], 0),
    )


def _fresh(events: pa.Table) -> _Delivered:
    chunks: list[Any] = [chunk for chunk in events["file_name"].chunks if len(chunk)]
    return _Delivered(
        Staged(*halves(events["event_id"]), column_micros(events["loaded_at"])),
        [chunk.dictionary[0].as_py() for chunk in chunks],
        np.repeat(np.arange(len(chunks)), [len(chunk) for chunk in chunks]),
        to_numpy(events["file_row_number"], 0),
    )


def _together(one: _Delivered, other: _Delivered) -> _Delivered:
    """Events of one load, in the order of their files' names and of their rows."""
    names = sorted({*one.names, *other.names})
    number = {name: place for place, name in enumerate(names)}
    files, rows = (
        np.concatenate(columns)
        for columns in (
            [np.array([number[name] for name in part.names], dtype=np.int64)[part.files] for part in (one, other)],
            [one.rows, other.rows],
        )
    )
    events = Staged(*(np.concatenate(columns) for columns in zip(one.events, other.events, strict=True)))
    order = np.argsort(files << 32 | rows)
    return _Delivered(events.take(order), names, files[order], rows[order])


def _fetch(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """Rows of a query, UUIDs as sixteen bytes and not as text."""
    connection.execute("set arrow_lossless_conversion = true")
    try:
        return connection.execute(query).to_arrow_table()
    finally:
        connection.execute("reset arrow_lossless_conversion")
