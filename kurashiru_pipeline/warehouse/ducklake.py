"""The embedded engine: DuckDB on a DuckLake with a SQLite catalogue.

Here: attaching the lake, its loader, its streams (change feed + an offset that moves in the writing transaction),
transactions with retries, maintenance.
Not here: the pipeline's SQL (kurashiru_pipeline/sql) or what a stage does (realtime/micro_batch.py).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Final, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kurashiru_pipeline.catalog import STREAMS, Stream
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.events import ID_PATTERN
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError, StaleStreamError, TransientError
from kurashiru_pipeline.warehouse.base import (
    LoadReport,
    MaintenanceReport,
    Parameter,
    RowCounts,
    StreamStatus,
    T,
    Transaction,
    Warehouse,
)
from kurashiru_pipeline.warehouse.landed_files import (
    LandedFile,
    LineArray,
    UnreadableFileError,
    find_landed_files,
    folder_signature,
    read_lines,
)
from kurashiru_pipeline.warehouse.lock import writer_lock
from kurashiru_pipeline.warehouse.statements import Statement, literal, render

ALIAS: Final = "realtime"
EXTENSIONS: Final = ("ducklake", "sqlite_scanner")
# The catalogue's own tables, which are part of DuckLake's published format.
_CATALOGUE: Final = f"__ducklake_metadata_{ALIAS}"
_ATTEMPTS: Final = 6
_WRITER_WAIT_SECONDS: Final = 600.0
_READERS: Final = 2
_RECIPE_COLUMNS: Final[dict[str, pa.DataType]] = {
    "recipe_id": pa.string(),
    "title": pa.string(),
    "author_id": pa.string(),
    "author_type": pa.string(),
    "ingredients": pa.list_(pa.string()),
    "value_tags": pa.list_(pa.string()),
    "cooking_minutes": pa.int32(),
    "cost_yen": pa.int32(),
    "calories_kcal": pa.int32(),
    "published_at": pa.timestamp("us"),
    "updated_at": pa.timestamp("us"),
    "is_deleted": pa.bool_(),
}
_USER_COLUMNS: Final[dict[str, pa.DataType]] = {
    "user_id": pa.string(),
    "registered_at": pa.timestamp("us"),
    "preferred_tags": pa.list_(pa.string()),
    "updated_at": pa.timestamp("us"),
    "is_deleted": pa.bool_(),
}
_EXPORT_COLUMNS: Final = {"recipes": pa.schema(_RECIPE_COLUMNS), "users": pa.schema(_USER_COLUMNS)}
_FILE_COLUMNS: Final[dict[str, pa.DataType]] = {
    "file_name": pa.string(),
    "directory": pa.string(),
    "kind": pa.string(),
    "status": pa.string(),
    "error": pa.string(),
    "byte_count": pa.int64(),
    "line_count": pa.int64(),
    "landed_at": pa.timestamp("us"),
    "loaded_at": pa.timestamp("us"),
    "scanned_at": pa.timestamp("us"),
}
_ENGINE_TABLES: Final = ("create table if not exists ops.stream_offsets (stream_name varchar, snapshot_id bigint)",)


def import_extensions() -> None:
    """Put the extensions shipped as packages where DuckDB looks for them.

    Raises:
        ConfigurationError: a package is missing and DuckDB cannot load the extension otherwise.
    """
    from duckdb_extensions import import_extension  # noqa: PLC0415 - only when an extension is not there yet

    for extension in EXTENSIONS:
        try:
            import_extension(extension)
        except ModuleNotFoundError:
            _install_from_network(extension)


def _install_from_network(extension: str) -> None:
    try:
        duckdb.connect().execute(f"install {extension}")
    except duckdb.Error as error:
        message = (
            f"DuckDB extension {extension} is not installed and cannot be downloaded ({error}); "
            f"install the package duckdb-extension-{extension.replace('_', '-')} ({duckdb.__version__}): make setup"
        )
        raise ConfigurationError(message) from error


def connect() -> duckdb.DuckDBPyConnection:
    """In-memory DuckDB with what a lake needs; signed extensions only."""
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    try:
        for extension in EXTENSIONS:
            connection.execute(f"load {extension}")
    except duckdb.Error:
        import_extensions()
        for extension in EXTENSIONS:
            connection.execute(f"load {extension}")
    return connection


def attach(connection: duckdb.DuckDBPyConnection, lake: Path, alias: str, *, read_only: bool) -> None:
    """Attach the DuckLake in folder `lake` (catalog.sqlite, data/) as `alias`."""
    mode = ", read_only" if read_only else ""
    connection.execute(
        f"attach {literal(f'ducklake:sqlite:{lake}/catalog.sqlite')} as {alias} "
        f"(data_path {literal(f'{lake}/data')}, meta_journal_mode 'WAL'{mode})"
    )


@contextmanager
def one_thread(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """For upkeep: on several threads DuckLake 1.0 now and then aborts the process, or its commit, while it flushes."""
    connection.execute("set threads = 1")
    try:
        yield
    finally:
        connection.execute("reset threads")


class _Place(NamedTuple):
    """Where a stream's reader stands, in snapshots."""

    offset: int
    latest: int
    status: StreamStatus


class DuckLakeWarehouse(Warehouse):
    """The near-real-time lake. Made by `open`."""

    engine = "ducklake"
    loads_events = True

    def __init__(self, settings: Settings, connection: duckdb.DuckDBPyConnection, resources: ExitStack) -> None:
        self._settings = settings
        self._connection = connection
        self._resources = resources
        self._identity = _identity(lake_folder(settings))

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        read_only: bool = False,
        on_wait: Callable[[str], object] | None = None,
    ) -> "DuckLakeWarehouse":
        """Open the lake, making it when it is not there. A writer waits for the one before it.

        Raises:
            TransientError: another writer did not finish in ten minutes.
            ConfigurationError: the folder cannot be written, or the catalogue is not a lake.
        """
        lake = lake_folder(settings)
        if read_only and not (lake / "catalog.sqlite").exists():
            cls.open(settings, on_wait=on_wait).close()
        with ExitStack() as resources:
            if not read_only:
                resources.enter_context(writer_lock(lake, wait_seconds=_WRITER_WAIT_SECONDS, on_wait=on_wait))
            connection = resources.enter_context(connect())
            _attach_existing(connection, lake, read_only=read_only)
            connection.execute(f"use {ALIAS}")
            warehouse = cls(settings, connection, resources)
            has_objects = warehouse._has_objects()
            if not has_objects and not read_only:
                warehouse._create_objects()
            if has_objects or not read_only:
                warehouse._resources = resources.pop_all()
                return warehouse
        # A reader cannot make what is missing.
        cls.open(settings, on_wait=on_wait).close()
        return cls.open(settings, read_only=True)

    def close(self) -> None:
        self._resources.close()

    def fetch(self, script: str, **parameters: Parameter) -> pa.Table:
        statements = self._render(script, parameters, _no_stream)
        return self._patiently(lambda: _fetch(self._connection, statements))

    def transact(
        self,
        body: Callable[[Transaction], T],
        *,
        work_tables: str | None = None,
        inputs: Mapping[str, pa.Table] | None = None,
    ) -> T:
        for name, table in (inputs or {}).items():
            self._connection.register(name, table)
        try:
            return self._patiently(lambda: self._attempt(body, work_tables))
        finally:
            for name in inputs or {}:
                self._connection.unregister(name)

    def _patiently(self, call: Callable[[], T]) -> T:
        """`call`, again while the catalogue is locked by another connection."""
        for attempt in range(1, _ATTEMPTS):
            try:
                return call()
            except duckdb.Error as error:
                if not _is_busy(error):
                    raise
                time.sleep(0.05 * 2**attempt)
        try:
            return call()
        except duckdb.Error as error:
            if not _is_busy(error):
                raise
            message = f"the lake stayed busy through {_ATTEMPTS} attempts: {error}"
            raise TransientError(message) from error

    def _attempt(self, body: Callable[[Transaction], T], work_tables: str | None) -> T:
        if work_tables is not None:
            _run(self._connection, self._render(work_tables, {}, _no_stream))
        self._connection.execute("begin transaction")
        try:
            transaction = _DuckLakeTransaction(self)
            result = body(transaction)
            transaction.move_offsets()
            self._connection.execute("commit")
        except BaseException:
            # A failed commit has ended the transaction already.
            with ExitStack() as quiet:
                quiet.push(lambda kind, *_: kind is not None and issubclass(kind, duckdb.TransactionException))
                self._connection.execute("rollback")
            raise
        return result

    def stream_status(self, stream: Stream) -> StreamStatus:
        return self._place_of(stream).status

    def _place_of(self, stream: Stream) -> "_Place":
        # Offset and latest snapshot come from one look; what lies between them never changes.
        [(offset, latest)] = self._connection.execute(
            f"""
            select snapshot_id, (select id from {ALIAS}.current_snapshot())
            from ops.stream_offsets
            where stream_name = {literal(stream.name)}
            """
        ).fetchall()
        table_id = self._table_ids[stream]
        # The catalogue itself: snapshots() would unfold every snapshot kept, and there are a hundred thousand a day.
        [(oldest, has_changes)] = self._connection.execute(
            f"""
            select
                min(snapshot_id),
                coalesce(bool_or(list_has_any(
                    string_split(changes_made, ','), ['inserted_into_table:{table_id}', 'inlined_insert:{table_id}']
                )), false)
            from {_CATALOGUE}.ducklake_snapshot_changes
            where snapshot_id between {offset + 1} and {latest}
            """
        ).fetchall()
        is_stale = oldest is not None and oldest > offset + 1
        return _Place(offset, latest, StreamStatus(stream.name, offset, latest, is_stale or has_changes, is_stale))

    def reset_stream(self, stream: Stream) -> int:
        if not self.stream_status(stream).is_stale:
            return 0

        def put_back(_: Transaction) -> int:
            # The change feed is gone, but the lines are not: a file belongs to one micro-batch, so the lines of
            # files no micro-batch names are the unread ones. Written again, they are new to the stream.
            self._connection.execute(
                """
                create or replace temporary table unread_lines as
                select lines.*
                from raw.behavior_events as lines
                where lines.file_name not in (select file_name from ops.batch_files)
                """
            )
            self._connection.execute(
                "delete from raw.behavior_events where file_name not in (select file_name from ops.batch_files)"
            )
            self._connection.execute("insert into raw.behavior_events select * from unread_lines")
            self._connection.execute(
                f"""
                update ops.stream_offsets
                set snapshot_id = (select max(snapshot_id) from {ALIAS}.snapshots())
                where stream_name = {literal(stream.name)}
                """
            )
            [(count,)] = self._connection.execute("select count(*) from unread_lines").fetchall()
            return int(count)

        return self.transact(put_back)

    def change_signature(self) -> object:
        marks = list(folder_signature(self._settings.landing))
        for name in ("catalog.sqlite", "catalog.sqlite-wal"):
            path = lake_folder(self._settings) / name
            if path.exists():
                stat = path.stat()
                marks.append((name, stat.st_mtime_ns + stat.st_size))
        return marks

    def is_replaced(self) -> bool:
        return _identity(lake_folder(self._settings)) != self._identity

    def has_landed_files(self) -> bool:
        new, ignored = self._unloaded(find_landed_files(self._settings.landing, changed_since=self._last_scan()))
        return bool(new or ignored)

    def load_landed_files(self, *, max_lines: int, is_rescan: bool = False) -> LoadReport:
        scanned_at = utc_now()
        previous_scan = self._last_scan()
        landed = find_landed_files(self._settings.landing, changed_since=None if is_rescan else previous_scan)
        new, ignored = self._unloaded(landed)
        load = _Load(loaded_at=scanned_at, max_bytes=self._settings.integer("KURASHIRU_MAX_FILE_MB") << 20)
        is_complete = load.read(new, max_lines)
        load.ignore(ignored)
        if not load.entries:
            return LoadReport.nothing(is_complete=True)

        def body(transaction: Transaction) -> tuple[int, int]:
            recipes = users = 0
            if "incoming_lines" in inputs:
                self._connection.execute(
                    "insert into raw.behavior_events "
                    "select rtrim(payload, chr(10)), file_name, file_row_number, landed_at, loaded_at "
                    "from incoming_lines"
                )
            if "incoming_recipes" in inputs:
                recipes = transaction.run("load_recipes")["add"]
            if "incoming_users" in inputs:
                users = transaction.run("load_users", loaded_at=load.loaded_at)["add"]
            self._connection.execute("insert into raw.loaded_files select * from incoming_files")
            return recipes, users

        # A scan cut short by the limit must be repeated from where the last whole one began.
        inputs = load.inputs(scanned_at if is_complete else previous_scan)
        recipes, users = self.transact(body, inputs=inputs)
        return load.report(recipes, users, is_complete=is_complete)

    def maintain(self) -> MaintenanceReport:
        before = self._storage()
        cutoff = utc_now() - timedelta(days=self._settings.integer("KURASHIRU_STREAM_RETENTION_DAYS"))
        with one_thread(self._connection):
            for task in ("flush_inlined_data", "merge_adjacent_files", "rewrite_data_files"):
                self._connection.execute(f"call ducklake_{task}('{ALIAS}')")
        expired = self._connection.execute(
            f"""
            select snapshot_id
            from {ALIAS}.snapshots()
            where
                snapshot_time < {literal(cutoff)}
                and snapshot_id <= (select min(snapshot_id) from ops.stream_offsets)
                and snapshot_id < (select max(snapshot_id) from {ALIAS}.snapshots())
            """
        ).fetchall()
        if expired:
            versions = ", ".join(str(snapshot) for (snapshot,) in expired)
            self._connection.execute(f"call ducklake_expire_snapshots('{ALIAS}', versions => [{versions}])")
        self._connection.execute(f"call ducklake_cleanup_old_files('{ALIAS}', older_than => now() - interval 1 day)")
        return MaintenanceReport(*(figure for pair in zip(before, self._storage(), strict=True) for figure in pair))

    def _storage(self) -> tuple[int, int, int]:
        [(snapshots,)] = self._connection.execute(f"select count(*) from {ALIAS}.snapshots()").fetchall()
        [(files, size)] = self._connection.execute(
            f"""
            select
                coalesce(sum(file_count + delete_file_count), 0),
                coalesce(sum(file_size_bytes + delete_file_size_bytes), 0)
            from ducklake_table_info('{ALIAS}')
            """
        ).fetchall()
        return int(snapshots), int(files), int(size)

    def _has_objects(self) -> bool:
        """Whether every table is there, with every column that came later than it."""
        present = set()
        for schema, table, column in self._connection.execute(
            f"select schema_name, table_name, column_name from duckdb_columns() where database_name = '{ALIAS}'"
        ).fetchall():
            present |= {f"{schema}.{table}", f"{schema}.{table}.{column}"}
        wanted = {statement.name for statement in self._render("schema", {}, _no_stream) if "." in statement.name}
        return present >= wanted | {"ops.stream_offsets"}

    def _create_objects(self) -> None:
        def body(_: Transaction) -> None:
            _run(self._connection, self._render("schema", {}, _no_stream))
            for statement in _ENGINE_TABLES:
                self._connection.execute(statement)
            for stream in STREAMS:
                self._connection.execute(
                    f"""
                    insert into ops.stream_offsets
                    select {literal(stream.name)}, (select max(snapshot_id) from {ALIAS}.snapshots())
                    where not exists (
                        select 1 from ops.stream_offsets where stream_name = {literal(stream.name)}
                    )
                    """
                )

        self.transact(body)

    def _render(
        self, script: str, parameters: Mapping[str, Parameter], stream: Callable[[str], str]
    ) -> list[Statement]:
        return render(script, engine=self.engine, stream=stream, parameters=parameters)

    @cached_property
    def _table_ids(self) -> dict[Stream, str]:
        return {stream: self._table_id(stream) for stream in STREAMS}

    def _table_id(self, stream: Stream) -> str:
        [(table_id,)] = self._connection.execute(
            f"""
            select tables.table_id
            from {_CATALOGUE}.ducklake_table as tables
            inner join {_CATALOGUE}.ducklake_schema as schemas using (schema_id)
            where
                schemas.schema_name = {literal(stream.schema)}
                and tables.table_name = {literal(stream.table)}
                and tables.end_snapshot is null
            """
        ).fetchall()
        return str(table_id)

    def _last_scan(self) -> datetime | None:
        row = self._connection.execute("select max(scanned_at) from raw.loaded_files").fetchone()
        scanned_at: datetime | None = row[0] if row else None
        return scanned_at

    def _unloaded(self, landed: list[LandedFile]) -> tuple[list[LandedFile], list[LandedFile]]:
        """Files to load (new, or failed before and put again), and files put again under a loaded name."""
        if not landed:
            return [], []
        directories = tuple(sorted({file.directory for file in landed}))
        known: dict[str, list[tuple[str, int, datetime]]] = {}
        for name, status, byte_count, landed_at in self._connection.execute(
            "select file_name, status, byte_count, landed_at from raw.loaded_files "
            f"where directory in {literal(directories)}"
        ).fetchall():
            known.setdefault(name, []).append((status, byte_count, landed_at))
        new: list[LandedFile] = []
        ignored: list[LandedFile] = []
        for file in landed:
            puts = known.get(file.name, [])
            if any((size, at) == (file.byte_count, file.landed_at) for _, size, at in puts):
                continue
            is_loaded = any(status == "loaded" for status, _, _ in puts)
            (ignored if is_loaded else new).append(file)
        return new, ignored


class _DuckLakeTransaction(Transaction):
    """One attempt at a transaction; remembers which streams it read, up to its own snapshot."""

    def __init__(self, warehouse: DuckLakeWarehouse) -> None:
        self._warehouse = warehouse
        self._read: dict[str, int] = {}

    def run(self, script: str, **parameters: Parameter) -> RowCounts:
        return _run(self._warehouse._connection, self._warehouse._render(script, parameters, self._stream))

    def fetch(self, script: str, **parameters: Parameter) -> pa.Table:
        return _fetch(self._warehouse._connection, self._warehouse._render(script, parameters, self._stream))

    def move_offsets(self) -> None:
        for name, snapshot in self._read.items():
            self._warehouse._connection.execute(
                f"update ops.stream_offsets set snapshot_id = {snapshot} where stream_name = {literal(name)}"
            )

    def _stream(self, name: str) -> str:
        stream = next(stream for stream in STREAMS if stream.name == name)
        place = self._warehouse._place_of(stream)
        if place.status.is_stale:
            message = (
                f"stream {name} is stale: changes after snapshot {place.offset} were expired before they were read. "
                f"Nothing is lost: kurashiru reset-stream {name} puts the unread lines back in front of the stream"
            )
            raise StaleStreamError(message)
        self._read[name] = place.latest
        if not place.status.has_data:
            return f"(select * from {stream.schema}.{stream.table} where false)"
        return (
            f"ducklake_table_insertions('{ALIAS}', '{stream.schema}', '{stream.table}', "
            f"{place.offset + 1}, {place.latest})"
        )


class _Load:
    """Files read for one load transaction, and what to record of each."""

    def __init__(self, *, loaded_at: datetime, max_bytes: int) -> None:
        self.loaded_at = loaded_at
        self.entries: list[dict[str, object]] = []
        self._max_bytes = max_bytes
        self._lines: list[pa.Table] = []
        self._exports: dict[str, list[pa.Table]] = {"recipes": [], "users": []}
        self._line_count = 0
        self._delays: list[tuple[float, int]] = []

    def read(self, files: list[LandedFile], max_lines: int) -> bool:
        """Read files in order until `max_lines` lines; whether all were read."""
        remaining = list(files)
        with ThreadPoolExecutor(_READERS) as readers:  # unpacking releases the interpreter
            while remaining and self._line_count < max_lines:
                ahead, remaining = remaining[:_READERS], remaining[_READERS:]
                for file, content in zip(ahead, readers.map(self._content, ahead), strict=True):
                    self._take(file, content)
        return not remaining

    def ignore(self, files: Iterable[LandedFile]) -> None:
        for file in files:
            self._record(file, "ignored", 0, "put again under a loaded name; not read")

    def inputs(self, scanned_at: datetime | None) -> dict[str, pa.Table]:
        """What there is to insert: incoming_files, and incoming_lines, _recipes and _users where files had some."""
        entries = [{**entry, "loaded_at": self.loaded_at, "scanned_at": scanned_at} for entry in self.entries]
        tables = {"incoming_files": pa.Table.from_pylist(entries, schema=pa.schema(_FILE_COLUMNS))}
        for kind, exports in self._exports.items():
            if exports:
                tables[f"incoming_{kind}"] = _numbered(pa.concat_tables(exports))
        if self._lines:
            tables["incoming_lines"] = pa.concat_tables(self._lines)
        return tables

    def report(self, recipe_count: int, user_count: int, *, is_complete: bool) -> LoadReport:
        loaded = [entry["kind"] for entry in self.entries if entry["status"] == "loaded"]
        return LoadReport(
            line_count=self._line_count,
            files={str(kind): loaded.count(kind) for kind in dict.fromkeys(loaded)},
            recipe_count=recipe_count,
            user_count=user_count,
            failed=tuple(
                (str(entry["file_name"]), str(entry["error"])) for entry in self.entries if entry["status"] == "failed"
            ),
            ignored=tuple(str(entry["file_name"]) for entry in self.entries if entry["status"] == "ignored"),
            delays=tuple(self._delays),
            is_complete=is_complete,
        )

    def _content(self, file: LandedFile) -> "LineArray | pa.Table | UnreadableFileError":
        try:
            if file.kind == "events":
                return read_lines(file, max_bytes=self._max_bytes)
            return _read_export(file)
        except UnreadableFileError as error:
            return error

    def _take(self, file: LandedFile, content: "LineArray | pa.Table | UnreadableFileError") -> None:
        if isinstance(content, UnreadableFileError):
            self._record(file, "failed", 0, str(content))
            return
        if isinstance(content, pa.Table):
            self._exports[file.kind].append(content)
        elif len(content):
            self._lines.append(_lines_table(file, content, self.loaded_at))
            self._line_count += len(content)
            self._delays.append(((self.loaded_at - file.landed_at).total_seconds(), len(content)))
        self._record(file, "loaded", len(content), None)

    def _record(self, file: LandedFile, status: str, line_count: int, error: str | None) -> None:
        self.entries.append(
            {
                "file_name": file.name,
                "directory": file.directory,
                "kind": file.kind,
                "status": status,
                "error": error,
                "byte_count": file.byte_count,
                "line_count": line_count,
                "landed_at": file.landed_at,
            }
        )


def lake_folder(settings: Settings) -> Path:
    """Folder of the near-real-time lake."""
    return settings.folder("KURASHIRU_LAKE") / ALIAS


def _identity(lake: Path) -> tuple[int, int] | None:
    """Which file the lake's catalogue is, whatever is in it."""
    catalogue = lake / "catalog.sqlite"
    if not catalogue.exists():
        return None
    stat = catalogue.stat()
    return stat.st_dev, stat.st_ino


def _attach_existing(connection: duckdb.DuckDBPyConnection, lake: Path, *, read_only: bool) -> None:
    try:
        attach(connection, lake, ALIAS, read_only=read_only)
    except duckdb.Error as error:
        if _is_busy(error):
            raise TransientError(f"{lake / 'catalog.sqlite'} is busy: {error}") from error
        message = f"{lake / 'catalog.sqlite'} cannot be opened as a DuckLake catalogue: {error}"
        raise ConfigurationError(message) from error


def _no_stream(name: str) -> str:
    message = f"stream {name} can only be read inside a transaction that writes its target"
    raise KurashiruError(message)


def _run(connection: duckdb.DuckDBPyConnection, statements: list[Statement]) -> RowCounts:
    counts = {}
    for statement in statements:
        row = connection.execute(statement.sql).fetchone()
        counts[statement.name] = int(row[0]) if row and isinstance(row[0], int) else 0
    return counts


def _fetch(connection: duckdb.DuckDBPyConnection, statements: list[Statement]) -> pa.Table:
    [statement] = statements
    return connection.execute(statement.sql).to_arrow_table()


def _is_busy(error: duckdb.Error) -> bool:
    text = str(error).lower()
    return "database is locked" in text or "transaction conflict" in text


def _read_export(file: LandedFile) -> pa.Table:
    schema = _EXPORT_COLUMNS[file.kind]
    try:
        table = pq.read_table(file.path)
        missing = [name for name in schema.names if name not in table.column_names]
        if missing:
            raise UnreadableFileError(f"columns missing: {', '.join(missing)}")
        numbers = [
            field.name
            for field in schema
            if pa.types.is_timestamp(field.type) and pa.types.is_integer(table.schema.field(field.name).type)
        ]
        if numbers:
            raise UnreadableFileError(f"numbers where a timestamp must be: {', '.join(numbers)}")
        table = table.select(schema.names).cast(_with_utc(schema, table)).cast(schema)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UnreadableFileError(f"cannot be read as a {file.kind} export: {error}") from error
    key = schema.names[0]
    is_wrong = pc.invert(pc.match_substring_regex(table[key], f"^{ID_PATTERN}$"))
    wrong = table[key].filter(is_wrong, null_selection_behavior="emit_null")
    if len(wrong):
        raise UnreadableFileError(f"{len(wrong)} rows have no valid {key}, the first is {wrong[0].as_py()!r}")
    if table["updated_at"].null_count:
        raise UnreadableFileError("updated_at must not be null")
    is_deleted = pc.if_else(pc.is_null(table["is_deleted"]), False, table["is_deleted"])
    return table.set_column(table.column_names.index("is_deleted"), "is_deleted", is_deleted)


def _numbered(export: pa.Table) -> pa.Table:
    """With `export_row`, the order of files and rows: what decides between rows updated at the same time."""
    return export.append_column("export_row", pa.array(np.arange(export.num_rows, dtype=np.int64)))


def _with_utc(schema: pa.Schema, table: pa.Table) -> pa.Schema:
    """`schema`, with times that carry a zone taken as UTC first, so that the cast to naive keeps the instant."""
    return pa.schema(
        [
            pa.field(field.name, pa.timestamp("us", tz="UTC"))
            if pa.types.is_timestamp(field.type) and _has_zone(table.schema.field(field.name).type)
            else field
            for field in schema
        ]
    )


def _has_zone(data_type: pa.DataType) -> bool:
    return isinstance(data_type, pa.TimestampType) and data_type.tz is not None


def _lines_table(file: LandedFile, lines: LineArray, loaded_at: datetime) -> pa.Table:
    count = len(lines)
    return pa.table(
        {
            "payload": lines,
            "file_name": pa.repeat(pa.scalar(file.name), count),
            "file_row_number": pa.array(np.arange(1, count + 1, dtype=np.int64)),
            "landed_at": pa.repeat(pa.scalar(file.landed_at, pa.timestamp("us")), count),
            "loaded_at": pa.repeat(pa.scalar(loaded_at, pa.timestamp("us")), count),
        }
    )
