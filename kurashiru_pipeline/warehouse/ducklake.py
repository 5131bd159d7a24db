"""The embedded engine: DuckDB on a DuckLake with a SQLite catalogue.

Here: attaching the lake, its streams (change feed + an offset that moves in the writing transaction), transactions with
retries.
Not here: loading (ducklake_loader.py), upkeep (ducklake_upkeep.py), the pipeline's SQL (kurashiru_pipeline/sql) or what
a stage does (realtime/micro_batch.py).
"""

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Final, NamedTuple

import duckdb
import pyarrow as pa

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM, STREAMS, Stream
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError, StaleStreamError, TransientError
from kurashiru_pipeline.warehouse.base import (
    LoadReport,
    MaintenanceReport,
    Parameter,
    RowCounts,
    StreamStatus,
    T,
    TableUpkeep,
    Transaction,
    UpkeepState,
    Waiting,
    Warehouse,
)
from kurashiru_pipeline.warehouse.ducklake_keyed import FetchedRelations, KeyedChanges, carry_over, lake_tables
from kurashiru_pipeline.warehouse.ducklake_loader import Loader
from kurashiru_pipeline.warehouse.ducklake_repeats import find_repeats
from kurashiru_pipeline.warehouse.ducklake_upkeep import Forgetting, Upkeep, read_state, set_options
from kurashiru_pipeline.warehouse.event_ids import EventIds, Pending
from kurashiru_pipeline.warehouse.keyed_state import KeyedState
from kurashiru_pipeline.warehouse.keyed_tables import KEYED_TABLES
from kurashiru_pipeline.warehouse.lock import WriterLock, writer_lock
from kurashiru_pipeline.warehouse.statements import TABLES, KeyedRelations, Statement, literal, render

ALIAS: Final = "realtime"
EXTENSIONS: Final = ("ducklake", "sqlite_scanner")
# The catalogue's own tables, which are part of DuckLake's published format.
_CATALOGUE: Final = f"__ducklake_metadata_{ALIAS}"
_ATTEMPTS: Final = 6
_WRITER_WAIT_SECONDS: Final = 600.0
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
    _verify_extensions()
    connection = duckdb.connect(config={"allow_unsigned_extensions": "true"})
    connection.execute("set timezone = 'UTC'")
    connection.execute("set enable_progress_bar = false")  # DuckDB's own goes to stdout, where --json is printed
    _load_extensions(connection)
    connection.execute("set allow_unsigned_extensions = false")
    return connection


@cache
def _verify_extensions() -> None:
    """Load the extensions with their signatures checked, which takes a quarter of a second of processor time.

    Once in a process is enough: whoever loads them again gets the library that is loaded.
    """
    with duckdb.connect() as connection:
        try:
            _load_extensions(connection)
        except duckdb.Error:
            import_extensions()
            _load_extensions(connection)


def _load_extensions(connection: duckdb.DuckDBPyConnection) -> None:
    for extension in EXTENSIONS:
        connection.execute(f"load {extension}")


def attach(connection: duckdb.DuckDBPyConnection, lake: Path, alias: str, *, read_only: bool) -> None:
    """Attach the DuckLake in folder `lake` (catalog.sqlite, data/) as `alias`."""
    mode = ", read_only" if read_only else ""
    connection.execute(
        f"attach {literal(f'ducklake:sqlite:{lake}/catalog.sqlite')} as {alias} "
        f"(data_path {literal(f'{lake}/data')}, meta_journal_mode 'WAL'{mode})"
    )


class _Place(NamedTuple):
    """Where a stream's reader stands, in snapshots."""

    offset: int
    latest: int
    status: StreamStatus
    changed_in: tuple[int, ...]


class DuckLakeWarehouse(Warehouse):
    """The near-real-time lake. Made by `open`."""

    engine = "ducklake"
    loads_events = True

    def __init__(
        self,
        settings: Settings,
        connection: duckdb.DuckDBPyConnection,
        resources: ExitStack,
        lock: WriterLock | None,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._resources = resources
        self._lock = lock
        self._identity = _identity(lake_folder(settings))
        self._state = KeyedState(lake_folder(settings) / "state")
        self._event_ids = EventIds(lake_folder(settings) / "event_ids")
        # Where the streams' readers stand, as long as nobody else can move them.
        self._offsets: dict[str, int] = {}
        self._loader = Loader(settings, connection, ALIAS, self.transact, is_only_writer=lock is not None)

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
            # Before the lock, since it takes longer than anything an open lake is held for.
            connection = resources.enter_context(connect())
            lock = None
            if not read_only:
                lock = resources.enter_context(writer_lock(lake, wait_seconds=_WRITER_WAIT_SECONDS, on_wait=on_wait))
            _attach_existing(connection, lake, read_only=read_only)
            connection.execute(f"use {ALIAS}")
            warehouse = cls(settings, connection, resources, lock)
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

    def give_way(self) -> bool:
        has_given = self._lock is not None and self._lock.give_way()
        if has_given:
            self._loader.forget()
            self._offsets.clear()
        return has_given

    def fetch(self, script: str, **parameters: Parameter) -> pa.Table:
        return self._patiently(lambda: self._fetch(script, parameters, _no_stream))

    def _fetch(self, script: str, parameters: Mapping[str, Parameter], stream: Callable[[str], str]) -> pa.Table:
        with FetchedRelations(self._connection, self._state) as keyed:
            [statement] = self._render(script, parameters, stream, keyed)
            return self._connection.execute(statement.sql).to_arrow_table()

    def parts(self, table: str) -> int:
        return self._state.parts(KEYED_TABLES[table])

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
            _run(self._connection, self._render(work_tables, {}, _no_stream), None)
        self._connection.execute("begin transaction")
        try:
            transaction = _DuckLakeTransaction(self)
            result = body(transaction)
            transaction.move_offsets()
            # What is kept by user comes first: its changes may be made again, and are until the lake's are there.
            transaction.changes.commit()
            self._connection.execute("commit")
            self._offsets |= transaction.read_up_to
            transaction.clean_up()
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
        offset = self._offsets.get(stream.name)
        known = "snapshot_id" if offset is None else offset
        source = f"ops.stream_offsets where stream_name = {literal(stream.name)}" if offset is None else "(select 1)"
        [(offset, latest)] = self._connection.execute(
            f"select {known}, (select id from {ALIAS}.current_snapshot()) from {source}"
        ).fetchall()
        if self._lock is not None:
            self._offsets[stream.name] = offset
        table_id = self._table_ids[stream]
        # The catalogue itself: snapshots() would unfold every snapshot kept, and there are a hundred thousand a day.
        [(oldest, changed_in)] = self._connection.execute(
            f"""
            select
                min(snapshot_id),
                coalesce(list(snapshot_id) filter (list_has_any(
                    string_split(changes_made, ','), ['inserted_into_table:{table_id}', 'inlined_insert:{table_id}']
                )), [])
            from {_CATALOGUE}.ducklake_snapshot_changes
            where snapshot_id between {offset + 1} and {latest}
            """
        ).fetchall()
        is_stale = oldest is not None and oldest > offset + 1
        status = StreamStatus(stream.name, offset, latest, is_stale or bool(changed_in), is_stale)
        return _Place(offset, latest, status, tuple(changed_in))

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

        count = self.transact(put_back)
        self._offsets.pop(stream.name)
        return count

    def change_signature(self) -> object:
        marks: list[object] = [self._loader.signature()]
        for name in ("catalog.sqlite", "catalog.sqlite-wal"):
            path = lake_folder(self._settings) / name
            if path.exists():
                stat = path.stat()
                marks.append((name, stat.st_mtime_ns + stat.st_size))
        return marks

    def is_replaced(self) -> bool:
        return _identity(lake_folder(self._settings)) != self._identity

    def has_landed_files(self) -> bool:
        return self._loader.has_landed_files()

    def waiting_files(self) -> Waiting:
        return self._loader.waiting_files()

    def load_landed_files(self, *, max_lines: int, is_rescan: bool = False) -> LoadReport:
        return self._loader.load_landed_files(max_lines=max_lines, is_rescan=is_rescan)

    def maintain(self, on_progress: Callable[[str], object] | None = None) -> MaintenanceReport:
        settings = self._settings
        oldest = utc_now() - timedelta(days=settings.integer("KURASHIRU_RAW_RETENTION_DAYS", minimum=1))
        upkeep = Upkeep(
            self._connection,
            ALIAS,
            lake_folder(settings),
            give_way=self.give_way,
            snapshots_kept=timedelta(minutes=settings.integer("KURASHIRU_SNAPSHOT_MINUTES")),
            files_kept=timedelta(minutes=settings.integer("KURASHIRU_REPLACED_FILE_MINUTES")),
            last_consumed=self._last_consumed,
            streams=[f"{stream.schema}.{stream.table}" for stream in STREAMS],
            forgotten=[Forgetting("raw.behavior_events", "loaded_at", oldest)],
            others=[self._state.upkeep],
        )
        before = self._state.storage()
        report = upkeep.run(on_progress)
        keyed = TableUpkeep("keyed state", *before, *self._state.storage())
        return replace(report, tables=(*report.tables, keyed))

    def upkeep_state(self) -> UpkeepState | None:
        state = read_state(self._connection, ALIAS, lake_folder(self._settings))
        return replace(state, is_due=state.is_due or self._state.is_due())

    def _last_consumed(self) -> int:
        """The newest snapshot that every stream has read."""
        [(offset,)] = self._connection.execute("select min(snapshot_id) from ops.stream_offsets").fetchall()
        return int(offset)

    def _has_objects(self) -> bool:
        """Whether every table is there, with every column that came later than it."""
        present = set()
        # From the catalogue: DuckDB's own view of it lists every other database's columns as well, ten times slower.
        for schema, table, column in self._connection.execute(
            f"""
            select schemas.schema_name, tables.table_name, columns.column_name
            from {_CATALOGUE}.ducklake_table as tables
            inner join {_CATALOGUE}.ducklake_schema as schemas on tables.schema_id = schemas.schema_id
            inner join {_CATALOGUE}.ducklake_column as columns on tables.table_id = columns.table_id
            where tables.end_snapshot is null and columns.end_snapshot is null
            """
        ).fetchall():
            present |= {f"{schema}.{table}", f"{schema}.{table}.{column}"}
        wanted = {statement.name for statement in self._schema() if "." in statement.name}
        return present >= wanted | {"ops.stream_offsets"} and not lake_tables(self._connection, ALIAS)

    def _schema(self) -> list[Statement]:
        """Statements that make what is in the lake; keyed tables are not."""
        statements = self._render("schema", {}, _no_stream)
        return [one for one in statements if ".".join(one.name.split(".")[:2]) not in KEYED_TABLES]

    def _create_objects(self) -> None:
        def body(_: Transaction) -> None:
            _run(self._connection, self._schema(), None)
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

        set_options(self._connection, ALIAS)
        self.transact(body)
        left = lake_tables(self._connection, ALIAS)
        if left:
            carry_over(self._connection, left, self._state)

    def _render(
        self,
        script: str,
        parameters: Mapping[str, Parameter],
        stream: Callable[[str], str],
        keyed: KeyedRelations = TABLES,
    ) -> list[Statement]:
        return render(script, engine=self.engine, stream=stream, parameters=parameters, keyed=keyed)

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


class _DuckLakeTransaction(Transaction):
    """One attempt at a transaction; remembers which streams it read, up to its own snapshot."""

    def __init__(self, warehouse: DuckLakeWarehouse) -> None:
        self.changes = KeyedChanges(warehouse._connection, warehouse._state)
        self._warehouse = warehouse
        self.read_up_to: dict[str, int] = {}
        self._unread_in: tuple[int, ...] = ()
        self._events: pa.Table | None = None
        self._new_ids: Pending | None = None

    def run(self, script: str, **parameters: Parameter) -> RowCounts:
        warehouse = self._warehouse
        with FetchedRelations(warehouse._connection, warehouse._state) as keyed:
            statements = warehouse._render(script, parameters, self._stream, keyed)
            return _run(warehouse._connection, statements, self.changes)

    def fetch(self, script: str, **parameters: Parameter) -> pa.Table:
        return self._warehouse._fetch(script, parameters, self._stream)

    def parse_lines(self, *, retention_days: int) -> None:
        """As SQL does; but lines that this very process has just loaded are parsed where they lie in memory."""
        unread = self._stream(RAW_EVENTS_STREAM.name)
        fresh = self._warehouse._loader.fresh_lines
        if fresh is None or self._unread_in != (fresh.snapshot,):
            self._parse_in_sql(unread, retention_days)
            return
        self._events, others = fresh.parse(retention_days)
        connection = self._warehouse._connection
        connection.register("fresh_events", self._events)
        if others is not None:
            connection.register("other_lines", others)
            self._parse_in_sql("other_lines", retention_days)
            connection.unregister("other_lines")
        # What reads parsed_lines meets both; a view, so that nothing is copied once more. Its event_id is an
        # expression: DuckDB would push a filter on a column into Arrow, which it cannot where the column is a UUID.
        connection.execute("drop table if exists judged_lines; alter table parsed_lines rename to judged_lines")
        connection.execute(
            "create temporary view parsed_lines as select * from judged_lines "
            "union all by name select * replace (case when file_row_number > 0 then event_id end as event_id), "
            "null::varchar as reject_reason, null::varchar as rejected_payload from fresh_events"
        )

    def find_repeats(self, batch_id: int, *, duplicates_from: datetime) -> None:
        """As SQL does, from the ids kept beside the lake."""
        self._new_ids = find_repeats(
            self._warehouse._connection,
            self._warehouse._event_ids,
            fresh=self._events,
            judged="parsed_lines" if self._events is None else "judged_lines",
            batch_id=batch_id,
            duplicates_from=duplicates_from,
        )

    def _parse_in_sql(self, lines: str, retention_days: int) -> None:
        [parse] = self._warehouse._render("stage_parse", {"retention_days": retention_days}, lambda _: lines)
        self._warehouse._connection.execute(parse.sql)

    def clean_up(self) -> None:
        """After the commit; a roll-back leaves no view either."""
        if self._events is not None:
            self._warehouse._connection.execute("drop view parsed_lines")
            self._warehouse._connection.unregister("fresh_events")
            self._warehouse._loader.forget_lines()
        if self._new_ids is not None:
            self._warehouse._event_ids.add(self._new_ids)

    def move_offsets(self) -> None:
        for name, snapshot in self.read_up_to.items():
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
        self.read_up_to[name] = place.latest
        self._unread_in = place.changed_in
        if not place.status.has_data:
            return f"(select * from {stream.schema}.{stream.table} where false)"
        return (
            f"ducklake_table_insertions('{ALIAS}', '{stream.schema}', '{stream.table}', "
            f"{place.offset + 1}, {place.latest})"
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


def _run(connection: duckdb.DuckDBPyConnection, statements: list[Statement], changes: KeyedChanges | None) -> RowCounts:
    counts = {}
    for statement in statements:
        if statement.keyed is not None and changes is not None:
            counts[statement.name] = changes.take(statement.keyed)
            continue
        row = connection.execute(statement.sql).fetchone()
        counts[statement.name] = int(row[0]) if row and isinstance(row[0], int) else 0
    return counts


def _is_busy(error: duckdb.Error) -> bool:
    text = str(error).lower()
    return "database is locked" in text or "transaction conflict" in text
