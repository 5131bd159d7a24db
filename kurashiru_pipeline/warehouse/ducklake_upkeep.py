"""Upkeep of a DuckLake: few files, few snapshots, a small catalogue, whatever its history.

Here: what is merged, rewritten, forgotten and removed, in slices of well under a second, and the record left of it.
Not here: when that is done (realtime/maintenance.py, analytics/maintenance.py), or how writers take turns (lock.py).

Every commit of a lake adds a snapshot and small files, and every query looks through the catalogue's rows of all of
them, so upkeep is what keeps a micro-batch from growing slower. What it costs itself follows what was written since the
last time: files that are large already are not opened, and the rest is read from the catalogue's tables.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final, NamedTuple

import duckdb
import orjson

from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.warehouse.base import MaintenanceReport, TableUpkeep, UpkeepRecord, UpkeepState
from kurashiru_pipeline.warehouse.statements import literal

RECORD: Final = "upkeep.json"
# What a slice reads and writes at most; a second of one core writes about a hundred megabytes of events.
TARGET_BYTES: Final = 64 << 20
_SMALL_BYTES: Final = TARGET_BYTES // 8
_LARGE_BYTES: Final = TARGET_BYTES // 2
# Files with this share of deleted rows are written anew; where there is little to write, any share will do.
_DEAD_SHARE: Final = 0.3
_ONE_FILE: Final = "max_compacted_files => 1"
_ROWS_A_SLICE: Final = 500_000
_SNAPSHOTS_A_SLICE: Final = 5000
_FILES_A_SLICE: Final = 2000
_ANY_SNAPSHOT: Final = 2**62
# Measured on events: half the bytes of DuckDB's own choice, and no slower to write or to read.
_OPTIONS: Final = {
    "target_file_size": str(TARGET_BYTES),
    "parquet_compression": "zstd",
    "parquet_compression_level": "1",
}
_ORPHANS_KEPT: Final = timedelta(days=1)


@contextmanager
def one_thread(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """For upkeep: on several threads DuckLake 1.0 now and then aborts the process, or its commit, while it flushes."""
    connection.execute("set threads = 1")
    try:
        yield
    finally:
        connection.execute("reset threads")


class _File(NamedTuple):
    """A data file: its bytes, and the share of its rows that are deleted."""

    size: int
    dead_share: float


class _Table(NamedTuple):
    """A table, its files, and the catalogue's own tables that hold its newest rows."""

    schema: str
    name: str
    files: list[_File]
    inlined: list[str]

    def __str__(self) -> str:
        return f"{self.schema}.{self.name}"


class _Storage(NamedTuple):
    """What a lake takes up; `tables`: files and bytes by table."""

    snapshots: int
    catalogue_bytes: int
    tables: dict[str, tuple[int, int]]

    @property
    def files(self) -> int:
        return sum(files for files, _ in self.tables.values())

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.tables.values())


@dataclass(frozen=True)
class Forgetting:
    """Rows of `table` that are forgotten, a whole file at a time, once `column` lies before `cutoff` in all of it."""

    table: str
    column: str
    cutoff: datetime


class Upkeep:
    """Upkeep of the lake that is attached as `alias`, of which this process is the only writer.

    Args:
        lake: folder of the lake.
        give_way: lets other writers go first; called between two slices.
        snapshots_kept: how long a snapshot is kept for whoever asks for it by its number or time.
        files_kept: how long a replaced file is kept for queries that began before it was.
        last_consumed: the newest snapshot that every reader of changes has behind it; None: nobody reads changes.
        streams: tables whose changes are read. They are not written anew, for that would be a change.
        forgotten: rows that nothing needs any more.
        others: upkeep of what is kept beside the lake, slice by slice.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        alias: str,
        lake: Path,
        *,
        give_way: Callable[[], object],
        snapshots_kept: timedelta,
        files_kept: timedelta,
        last_consumed: Callable[[], int] | None = None,
        streams: Collection[str] = (),
        forgotten: Iterable[Forgetting] = (),
        others: Iterable[Callable[[], Iterator[str]]] = (),
    ) -> None:
        self._connection = connection
        self._alias = alias
        self._catalogue = f"__ducklake_metadata_{alias}"
        self._lake = lake
        self._give_way = give_way
        self._snapshots_kept = snapshots_kept
        self._files_kept = files_kept
        self._last_consumed = last_consumed
        self._streams = streams
        self._forgotten = tuple(forgotten)
        self._others = tuple(others)
        self._removed_files = 0
        self._orphans_at: datetime | None = None

    def run(self, on_progress: Callable[[str], object] | None = None) -> MaintenanceReport:
        """Do what there is to do. What is committed stays done if the process dies in between.

        Args:
            on_progress: told what a slice has done.

        Raises:
            TransientError: another writer, let in between two slices, did not finish in time.
        """
        started = time.monotonic()
        seconds: list[float] = []
        before = self._storage()
        self._give_way()
        with one_thread(self._connection):
            slices = self._slices()
            slice_started = time.monotonic()
            while (done := next(slices, None)) is not None:
                seconds.append(time.monotonic() - slice_started)
                if on_progress is not None:
                    on_progress(done)
                self._give_way()
                slice_started = time.monotonic()
        after = self._storage()
        self._write_record()
        return MaintenanceReport(
            snapshots_before=before.snapshots,
            snapshots_after=after.snapshots,
            files_before=before.files,
            files_after=after.files,
            bytes_before=before.bytes,
            bytes_after=after.bytes,
            catalogue_bytes_before=before.catalogue_bytes,
            catalogue_bytes_after=after.catalogue_bytes,
            removed_files=self._removed_files,
            slices=len(seconds),
            seconds=time.monotonic() - started,
            longest_slice_seconds=max(seconds, default=0.0),
            tables=tuple(
                TableUpkeep(table, *before.tables.get(table, (0, 0)), *after.tables.get(table, (0, 0)))
                for table in sorted(before.tables | after.tables)
            ),
        )

    def _slices(self) -> Iterator[str]:
        """One bounded thing after another; each is said when it is done."""
        if set_options(self._connection, self._alias):
            yield "set how files are written"
        for forgetting in self._forgotten:
            yield from self._forget(forgetting)
        for table in self._tables():
            yield from self._flush(table)
        for table in self._tables():
            if str(table) not in self._streams:
                yield from self._rewrite(table)
            yield from self._merge(table)
        yield from self._expire()
        yield from self._remove_files()
        yield from self._remove_orphans()
        for other in self._others:
            yield from other()

    def _forget(self, forgetting: Forgetting) -> Iterator[str]:
        schema, name = forgetting.table.split(".")
        files = self._rows(
            f"""
            select files.record_count, try_cast(ranges.max_value as timestamp)
            from {{0}}.ducklake_data_file as files
            inner join {{0}}.ducklake_table as tables on files.table_id = tables.table_id
            inner join {{0}}.ducklake_schema as schemas on tables.schema_id = schemas.schema_id
            inner join {{0}}.ducklake_column as columns on tables.table_id = columns.table_id
            inner join {{0}}.ducklake_file_column_stats as ranges
                on files.data_file_id = ranges.data_file_id and columns.column_id = ranges.column_id
            where
                schemas.schema_name = {literal(schema)}
                and tables.table_name = {literal(name)}
                and tables.end_snapshot is null
                and columns.column_name = {literal(forgetting.column)}
                and columns.end_snapshot is null
                and files.end_snapshot is null
                and coalesce(files.partial_max, files.begin_snapshot) <= {self._consumed()}
                and try_cast(ranges.max_value as timestamp) < {literal(forgetting.cutoff)}
            order by 2
            """
        )
        rows = 0
        for position, (row_count, newest) in enumerate(files):
            rows += row_count
            if rows >= _ROWS_A_SLICE or position == len(files) - 1:
                self._connection.execute(
                    f"delete from {self._alias}.{forgetting.table} where {forgetting.column} <= {literal(newest)}"
                )
                yield f"forget {rows:,} rows of {forgetting.table}"
                rows = 0

    def _flush(self, table: _Table) -> Iterator[str]:
        """Rows the catalogue holds itself, since there were few of them, go into files."""
        if any(self._rows(f'select 1 from {{}}."{name}" limit 1') for name in table.inlined):
            self._write_out(table)
            yield f"flush {table}"

    def _write_out(self, table: _Table) -> None:
        self._call(
            "flush_inlined_data", f"table_name => {literal(table.name)}", f"schema_name => {literal(table.schema)}"
        )

    def _rewrite(self, table: _Table) -> Iterator[str]:
        """Files with many deleted rows are written anew without them; before that they cannot be merged."""
        files = sorted((file for file in table.files if file.dead_share), key=lambda file: -file.dead_share)
        if sum(file.size for file in files) > _SMALL_BYTES:
            files = [file for file in files if file.dead_share >= _DEAD_SHARE]
        rewritten = 0
        for file, following in zip_longest(files, files[1:]):
            rewritten += file.size
            if following is None or rewritten + following.size > TARGET_BYTES:
                # Shares are compared in another program, where the last digit may be another.
                threshold = f"delete_threshold => {max(file.dead_share - 1e-9, 0.0):.12f}"
                # Rows may have come since they were flushed; beside inlined doubles DuckLake 1.0 commits no rewrite.
                self._write_out(table)
                self._compact("rewrite_data_files", table, threshold)
                yield f"rewrite {table}"
                rewritten = 0

    def _merge(self, table: _Table) -> Iterator[str]:
        """Join files with their neighbours in time: small ones always, middling ones once they make up a large one."""
        small = [file.size for file in table.files if file.size < _SMALL_BYTES]
        middling = [file.size for file in table.files if _SMALL_BYTES <= file.size < _LARGE_BYTES]
        if len(small) > 1:
            for _ in range(1 + sum(small) // TARGET_BYTES):
                merged = self._compact("merge_adjacent_files", table, f"max_file_size => {_SMALL_BYTES}", _ONE_FILE)
                if not merged:
                    break
                yield f"merge {merged} small files of {table}"
        for _ in range(sum(middling) // TARGET_BYTES):
            limits = f"min_file_size => {_SMALL_BYTES}, max_file_size => {_LARGE_BYTES}"
            merged = self._compact("merge_adjacent_files", table, limits, _ONE_FILE)
            yield f"merge {merged} middling files of {table}"

    def _expire(self) -> Iterator[str]:
        old = [snapshot for snapshot, taken_at in self._expirable() if taken_at < utc_now() - self._snapshots_kept]
        for start in range(0, len(old), _SNAPSHOTS_A_SLICE):
            versions = old[start : start + _SNAPSHOTS_A_SLICE]
            self._call("expire_snapshots", f"versions => {versions}")
            yield f"expire {len(versions):,} snapshots"

    def _expirable(self) -> list[tuple[int, datetime]]:
        """Snapshots that may go once they are old, and when they were taken."""
        return self._rows(
            f"""
            select snapshot_id, {_moment("snapshot_time")}
            from {{0}}.ducklake_snapshot
            where
                snapshot_id < (select max(snapshot_id) from {{0}}.ducklake_snapshot)
                and snapshot_id <= {self._consumed()}
            order by snapshot_id
            """
        )

    def _remove_files(self) -> Iterator[str]:
        replaced = [moment for moment in self._scheduled() if moment < utc_now() - self._files_kept]
        for start in range(0, len(replaced), _FILES_A_SLICE):
            newest = replaced[start : start + _FILES_A_SLICE][-1] + timedelta(microseconds=1)
            removed = self._call("cleanup_old_files", f"older_than => {literal(newest)}::timestamp at time zone 'UTC'")
            self._removed_files += len(removed)
            yield f"remove {len(removed):,} replaced files"

    def _scheduled(self) -> list[datetime]:
        """When the files that are still to be removed were replaced, the oldest first."""
        moments = self._rows(
            f"select {_moment('schedule_start')} from {{}}.ducklake_files_scheduled_for_deletion order by 1"
        )
        return [moment for (moment,) in moments]

    def _remove_orphans(self) -> Iterator[str]:
        """Files of processes that died before their commit; once a day, since it means to list every file."""
        record = read_record(self._lake)
        self._orphans_at = None if record is None else record.orphans_at
        if self._orphans_at is None or self._orphans_at < utc_now() - _ORPHANS_KEPT:
            before = literal(utc_now() - _ORPHANS_KEPT)
            removed = self._call("delete_orphaned_files", f"older_than => {before}::timestamp at time zone 'UTC'")
            self._removed_files += len(removed)
            self._orphans_at = utc_now()
            yield f"remove {len(removed):,} files that no commit names"

    # The catalogue

    def _tables(self) -> list[_Table]:
        rows = self._rows(
            """
            select tables.table_id, schemas.schema_name, tables.table_name
            from {0}.ducklake_table as tables
            inner join {0}.ducklake_schema as schemas on tables.schema_id = schemas.schema_id
            where tables.end_snapshot is null and schemas.end_snapshot is null
            order by schemas.schema_name, tables.table_name
            """
        )
        tables = {table_id: _Table(schema, name, [], []) for table_id, schema, name in rows}
        for table_id, size, dead_share in self._rows(
            """
            select files.table_id, files.file_size_bytes, coalesce(deleted.delete_count / files.record_count, 0)
            from {0}.ducklake_data_file as files
            left join (
                select * from {0}.ducklake_delete_file where end_snapshot is null
            ) as deleted on files.data_file_id = deleted.data_file_id
            where files.end_snapshot is null
            """
        ):
            tables[table_id].files.append(_File(size, dead_share))
        names = "select name from sqlite_master where name glob 'ducklake_inlined_d[ae]*_[0-9]*'"
        for (name,) in self._rows(f"from sqlite_query({literal(self._catalogue)}, {literal(names)})"):
            table_id = int(name.split("_")[3])
            if table_id in tables:
                tables[table_id].inlined.append(name)
        return list(tables.values())

    def _storage(self) -> _Storage:
        tables = self._rows(
            """
            select schema_name || '.' || table_name, count(*), cast(sum(files.file_size_bytes) as bigint)
            from (
                select table_id, file_size_bytes from {0}.ducklake_data_file where end_snapshot is null
                union all
                select table_id, file_size_bytes from {0}.ducklake_delete_file where end_snapshot is null
            ) as files
            inner join {0}.ducklake_table as tables on files.table_id = tables.table_id and tables.end_snapshot is null
            inner join {0}.ducklake_schema as schemas on tables.schema_id = schemas.schema_id
            group by 1
            order by 1
            """
        )
        [(snapshots,)] = self._rows("select count(*) from {}.ducklake_snapshot")
        catalogue_bytes = sum(path.stat().st_size for path in self._lake.glob("catalog.sqlite*"))
        return _Storage(snapshots, catalogue_bytes, {table: (files, size) for table, files, size in tables})

    def _consumed(self) -> int:
        if self._last_consumed is None:
            return _ANY_SNAPSHOT
        return self._last_consumed()

    def _write_record(self) -> None:
        """Leave word of this upkeep; it is a matter of age when there is more to give back, though nobody writes."""
        ages = [taken_at + self._snapshots_kept for _, taken_at in self._expirable()[-1:]]
        ages += [replaced_at + self._files_kept for replaced_at in self._scheduled()[-1:]]
        [(latest,)] = self._rows("select max(snapshot_id) from {}.ducklake_snapshot")
        record = UpkeepRecord(utc_now(), latest, max(ages, default=None), self._orphans_at)
        temporary = self._lake / f"{RECORD}.new"
        temporary.write_bytes(orjson.dumps(record))
        temporary.replace(self._lake / RECORD)

    def _compact(self, function: str, table: _Table, *arguments: str) -> int:
        """Files that were joined or written anew."""
        of_table = (literal(table.name), f"schema => {literal(table.schema)}")
        return sum(files for _, _, files, _ in self._call(function, *of_table, *arguments))

    def _call(self, function: str, *arguments: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(
            f"call ducklake_{function}({', '.join([literal(self._alias), *arguments])})"
        ).fetchall()

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a query over the catalogue's own tables, which are part of DuckLake's published format."""
        return self._connection.execute(query.format(self._catalogue)).fetchall()


def set_options(connection: duckdb.DuckDBPyConnection, alias: str) -> bool:
    """Have the lake attached as `alias` write files of the right size and kind; whether it did not do so before."""
    present = dict(
        connection.execute(
            f"select key, value from __ducklake_metadata_{alias}.ducklake_metadata where scope is null"
        ).fetchall()
    )
    missing = {name: value for name, value in _OPTIONS.items() if present.get(name) != value}
    for name, value in missing.items():
        size = f"{value}B" if name == "target_file_size" else value
        connection.execute(f"call ducklake_set_option({literal(alias)}, {literal(name)}, {literal(size)})")
    return bool(missing)


def read_record(lake: Path) -> UpkeepRecord | None:
    """The last upkeep of the lake in folder `lake`; None before the first."""
    try:
        content = orjson.loads((lake / RECORD).read_bytes())
    except FileNotFoundError:
        return None
    moments = {
        name: None if content[name] is None else datetime.fromisoformat(content[name])
        for name in ("finished_at", "again_at", "orphans_at")
    }
    return UpkeepRecord(**(content | moments))


def read_state(connection: duckdb.DuckDBPyConnection, alias: str, lake: Path) -> UpkeepState:
    """How the lake in folder `lake`, attached as `alias`, stands since its last upkeep."""
    catalogue = f"__ducklake_metadata_{alias}"
    [(snapshots, latest, files)] = connection.execute(
        f"""
        select
            count(*),
            max(snapshot_id),
            (select count(*) from {catalogue}.ducklake_data_file where end_snapshot is null)
            + (select count(*) from {catalogue}.ducklake_delete_file where end_snapshot is null)
        from {catalogue}.ducklake_snapshot
        """
    ).fetchall()
    last = read_record(lake)
    is_due = last is None or latest != last.snapshot or (last.again_at is not None and utc_now() >= last.again_at)
    return UpkeepState(last, snapshots, files, is_due)


def _moment(column: str) -> str:
    """A time of the catalogue, which is text, as naive UTC."""
    return f"cast(cast({column} as timestamptz) as timestamp)"
