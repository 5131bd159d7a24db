"""The production engine: Snowflake, fed by Snowpipe.

Here: the port of base.py over sessions of Snowflake: transactions, streams, exports, status, upkeep.
Not here: connecting (snowflake_session.py), the writer's lease (snowflake_lease.py), types (snowflake_arrow.py), the
pipeline's SQL (kurashiru_pipeline/sql), or the objects themselves (deploy/snowflake makes them, nothing here does).

Not run against a real account yet; tests/snowflake stands in for one.
"""

import json
import logging
import os
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

import pyarrow as pa

from kurashiru_pipeline.catalog import STREAMS, Stage, Stream
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError, StaleStreamError, TransientError
from kurashiru_pipeline.warehouse.base import (
    IngestionReport,
    LoadReport,
    MaintenanceReport,
    Parameter,
    RowCounts,
    StreamStatus,
    T,
    Transaction,
    Warehouse,
)
from kurashiru_pipeline.warehouse.snowflake_arrow import column_definitions, column_readers, from_snowflake, to_ndjson
from kurashiru_pipeline.warehouse.snowflake_lease import WriterLease
from kurashiru_pipeline.warehouse.snowflake_session import LockedError, Session, needed
from kurashiru_pipeline.warehouse.statements import Statement, array_columns, literal, render


class _Export(NamedTuple):
    """How the rows of an export stream are loaded."""

    take: str
    load: str


EXPORTS: Final = {
    Stream("raw_recipe_exports", "raw", "recipe_exports"): _Export("snowflake/take_recipe_exports", "load_recipes"),
    Stream("raw_user_exports", "raw", "user_exports"): _Export("snowflake/take_user_exports", "load_users"),
}
"""Streams of this engine alone: exports that Snowpipe has brought and `load_landed_files` has not read yet."""

_ALL_STREAMS: Final = (*STREAMS, *EXPORTS)
_PIPE: Final = "raw.pipe_behavior_events"
_INPUTS: Final = "@model.inputs"
_ATTEMPTS: Final = 6
_COMMENT: Final = "read by the micro-batches"
_UNFINISHED_RESET: Final = "reset begun, unread rows not put back yet"
# Tables whose row counts change with everything that can bring work.
_STATE_SCHEMAS: Final = frozenset({"OPS", "SERVING"})
_KEPT: Final = timedelta(days=1)
# COPY_HISTORY reaches back 14 days and refuses more.
_HISTORY: Final = timedelta(days=13)
_STATUSES: Final = {
    "Loaded": "loaded",
    "Partially loaded": "partially_loaded",
    "Load failed": "failed",
    "Load skipped": "skipped",
}

logger = logging.getLogger(__name__)


class SnowflakeWarehouse(Warehouse):
    """The near-real-time schemas of the environment's database. Made by `open`.

    A reader asks for metadata in a session without a warehouse, and opens one with a warehouse when a query is needed:
    as long as nothing happens, a sensor wakes no warehouse.
    """

    engine = "snowflake"
    loads_events = False

    def __init__(self, settings: Settings, session: Session, *, lease: WriterLease | None, run_id: str | None) -> None:
        self._settings = settings
        self._session = session
        self._lease = lease
        self._run_id = run_id
        self._queries = session if lease is not None else None
        self._inputs: set[str] = set()

    @classmethod
    def open(
        cls,
        settings: Settings,
        *,
        read_only: bool = False,
        on_wait: Callable[[str], object] | None = None,
        run_id: str | None = None,
    ) -> "SnowflakeWarehouse":
        """Open the database. A writer waits for the one before it.

        Raises:
            TransientError: Snowflake cannot be reached, or another writer did not finish in ten minutes.
            ConfigurationError: a setting, the key, the role or an object is missing.
        """
        if read_only:
            return cls(settings, Session.open(settings, warehouse=None, run_id=run_id), lease=None, run_id=run_id)
        session = Session.open(settings, warehouse=_warehouse(settings), run_id=run_id)
        try:
            lease = WriterLease(session, f"{socket.gethostname()} process {os.getpid()} run {run_id or 'none'}")
            lease.take(on_wait=on_wait)
        except BaseException:
            session.close()
            raise
        return cls(settings, session, lease=lease, run_id=run_id)

    @property
    def streams(self) -> tuple[Stream, ...]:
        return _ALL_STREAMS

    def close(self) -> None:
        try:
            if self._lease is not None and not self._session.is_gone:
                self._lease.give_back()
        except TransientError as error:
            logger.warning("the writer's lease was not given back; it runs out by itself: %s", error)
        finally:
            self._session.close()
            if self._queries is not None and self._queries is not self._session:
                self._queries.close()

    def fetch(self, script: str, **parameters: Parameter) -> pa.Table:
        if self._queries is None:
            self._queries = Session.open(self._settings, warehouse=_warehouse(self._settings), run_id=self._run_id)
        return self._fetch(self._queries, script, parameters, _no_stream)

    def transact(
        self,
        body: Callable[[Transaction], T],
        *,
        work_tables: str | None = None,
        inputs: Mapping[str, pa.Table] | None = None,
    ) -> T:
        self._offer(inputs or {})
        for attempt in range(1, _ATTEMPTS):
            try:
                return self._attempt(body, work_tables)
            except LockedError:
                time.sleep(0.05 * 2**attempt)
        try:
            return self._attempt(body, work_tables)
        except LockedError as error:
            message = f"Snowflake stayed busy through {_ATTEMPTS} attempts: {error}"
            raise TransientError(message) from error

    def _attempt(self, body: Callable[[Transaction], T], work_tables: str | None) -> T:
        # DDL ends a transaction here, so work tables are made before it begins.
        if work_tables is not None:
            self._run(work_tables, {}, _no_stream)
        lease = self._writer()
        self._session.rows("begin transaction", name="begin")
        try:
            lease.renew()
            result = body(_SnowflakeTransaction(self))
            self._session.rows("commit", name="commit")
        except BaseException as error:
            self._roll_back(error)
            raise
        return result

    def _roll_back(self, cause: BaseException) -> None:
        try:
            self._session.rows("rollback", name="rollback")
        except Exception as error:  # noqa: BLE001 - told with the first error, which must not be lost
            cause.add_note(f"rolling back failed too: {error}. Snowflake ends the transaction with its session")

    def _offer(self, inputs: Mapping[str, pa.Table]) -> None:
        """Put Arrow tables into temporary tables; those of the transaction before are gone then."""
        self._writer()
        for name in sorted(self._inputs - inputs.keys()):
            self._session.rows(f"drop table if exists {name}", name=f"{name}.drop")
        self._inputs = set(inputs)
        for name, table in inputs.items():
            self._session.rows(
                f"create or replace temporary table {name} ({column_definitions(table.schema)})", name=f"{name}.create"
            )
            if table.num_rows:
                self._upload(name, table)

    def _upload(self, name: str, table: pa.Table) -> None:
        with tempfile.TemporaryDirectory(prefix="kurashiru-") as folder:
            path = Path(folder) / f"{uuid4().hex}.ndjson.gz"
            path.write_bytes(to_ndjson(table))
            self._session.rows(f"put {literal(f'file://{path}')} @%{name} auto_compress = false", name=f"{name}.put")
        [loaded] = self._session.dicts(
            f"copy into {name} from (select {column_readers(table.schema)} from @%{name}/{path.name}) "
            "file_format = (type = json) on_error = abort_statement",
            name=f"{name}.copy",
        )
        if loaded.get("rows_loaded") != table.num_rows:
            message = f"not all of {table.num_rows} rows of {name} reached Snowflake: {loaded}"
            raise KurashiruError(message)

    def _writer(self) -> WriterLease:
        if self._lease is None:
            message = "this warehouse was opened read-only: it cannot write"
            raise KurashiruError(message)
        return self._lease

    def stream_status(self, stream: Stream) -> StreamStatus:
        shown = self._shown_streams()[stream]
        is_stale = _is_stale(shown)
        has_data = is_stale or self._has_data((stream,))[stream]
        return StreamStatus(
            name=stream.name,
            offset=None,
            latest=None,
            has_data=has_data,
            is_stale=is_stale or shown["comment"] == _UNFINISHED_RESET,
            stale_after=_naive(shown["stale_after"]),
        )

    def stream_has_data(self, stream: Stream) -> bool:
        return self._flags()[stream]

    def _flags(self) -> dict[Stream, bool]:
        """Whether each stream has data. A stale one counts as having some, so that a run begins and says so."""
        shown = self._shown_streams()
        sound = tuple(stream for stream in _ALL_STREAMS if not _is_stale(shown[stream]))
        return dict.fromkeys(_ALL_STREAMS, True) | self._has_data(sound)

    def _has_data(self, streams: tuple[Stream, ...]) -> dict[Stream, bool]:
        if not streams:
            return {}
        flags = ", ".join(f"system$stream_has_data({literal(stream_name(stream))})" for stream in streams)
        [row] = self._session.rows(f"select {flags}", name="stream_has_data")
        return {stream: str(flag).lower() == "true" for stream, flag in zip(streams, row, strict=True)}

    def _shown_streams(self) -> dict[Stream, dict[str, Any]]:
        """Rows of SHOW STREAMS.

        Raises:
            ConfigurationError: a stream is not there, or not to be seen with this role.
        """
        shown = {
            f"raw.{row['name'].lower()}": row
            for row in self._session.dicts("show streams in schema raw", name="streams")
        }
        missing = [name for name in map(stream_name, _ALL_STREAMS) if name not in shown]
        if missing:
            message = f"no stream {', '.join(missing)} can be seen; kurashiru deploy snowflake makes and grants them"
            raise ConfigurationError(message)
        return {stream: shown[stream_name(stream)] for stream in _ALL_STREAMS}

    def change_signature(self) -> object:
        flags = self._flags()
        return (
            tuple(flags[stream] for stream in _ALL_STREAMS),
            tuple(
                (row["schema_name"], row["name"], row["rows"])
                for row in self._tables()
                if row["schema_name"] in _STATE_SCHEMAS
            ),
        )

    def _tables(self) -> list[dict[str, Any]]:
        database = self._settings.text("KURASHIRU_SNOWFLAKE_DATABASE")
        return self._session.dicts(f"show tables in database {database}", name="tables")

    def is_replaced(self) -> bool:
        return self._session.is_gone or (self._queries is not None and self._queries.is_gone)

    def has_landed_files(self) -> bool:
        flags = self._flags()
        return any(flags[stream] for stream in EXPORTS)

    def load_landed_files(self, *, max_lines: int, is_rescan: bool = False) -> LoadReport:
        """Load the exports that Snowpipe has brought; both limits are of the embedded loader.

        A row without a valid id or without `updated_at` is left out; raw.loaded_files gets a failed entry a file, and
        the row stays in raw.recipe_exports or raw.user_exports.
        """
        flags = self._flags()
        waiting = [export for stream, export in EXPORTS.items() if flags[stream]]
        if not waiting:
            return LoadReport.nothing(is_complete=True)
        loaded_at = utc_now()

        def body(transaction: Transaction) -> LoadReport:
            added = {}
            for export in waiting:
                transaction.run(export.take, loaded_at=loaded_at)
                added[export.load] = transaction.run(export.load, loaded_at=loaded_at)["add"]
            files = transaction.fetch("snowflake/taken_exports").to_pylist()
            failed = transaction.fetch("snowflake/failed_exports").to_pylist()
            return LoadReport(
                line_count=0,
                files={row["kind"]: row["file_count"] for row in files},
                recipe_count=added.get("load_recipes", 0),
                user_count=added.get("load_users", 0),
                failed=tuple((row["file_name"], row["error"]) for row in failed),
                ignored=(),
                delays=(),
                is_complete=True,
            )

        return self.transact(body, work_tables="snowflake/export_work_tables")

    def ingestion(self, since: datetime) -> IngestionReport | None:
        [(text,)] = self._session.rows(f"select system$pipe_status({literal(_PIPE)})", name="pipe_status")
        status = json.loads(text)
        marks = [
            _moment(status[name])
            for name in ("lastForwardedMessageTimestamp", "lastIngestedTimestamp")
            if status.get(name)
        ]
        # A query wakes the warehouse; where no file came since, there is nothing to ask.
        rows = self._copied(since) if not marks or max(marks) >= since else []
        oldest = status.get("oldestFileTimestamp")
        return IngestionReport(
            row_count=sum(row["row_count"] or 0 for row in rows),
            files={name: [row["status"] for row in rows].count(name) for name in _STATUSES.values()},
            failed=tuple(
                (row["file_name"], row["first_error_message"] or row["status"])
                for row in rows
                if row["status"] != "loaded"
            ),
            delays=tuple(
                (row["delay_seconds"], row["row_count"])
                for row in rows
                if row["row_count"] and row["delay_seconds"] is not None
            ),
            pending_count=int(status.get("pendingFileCount", 0)),
            oldest_pending_at=_moment(oldest) if oldest else None,
            state=str(status["executionState"]),
        )

    def _copied(self, since: datetime) -> list[dict[str, Any]]:
        rows = self.fetch("snowflake/copy_history", since=max(since, utc_now() - _HISTORY)).to_pylist()
        return [{**row, "status": _STATUSES[row["status"]]} for row in rows if row["status"] in _STATUSES]

    def reset_stream(self, stream: Stream) -> int:
        if not self.stream_status(stream).is_stale:
            return 0
        self._writer().renew()
        return self._reset_exports(stream) if stream in EXPORTS else self._reset_events(stream)

    def _reset_exports(self, stream: Stream) -> int:
        """Read everything again: an upsert by updated_at takes nothing twice."""
        self._make_stream(stream, f"show_initial_rows = true comment = {literal(_COMMENT)}")
        [(count,)] = self._session.rows(f"select count(*) from {stream.schema}.{stream.table}", name="reset.count")
        return int(count)

    def _reset_events(self, stream: Stream) -> int:
        # The new stream begins now, with a comment that keeps it stale for us until the unread lines are put back: a
        # process killed in between leaves a reset that can be run again.
        self._make_stream(stream, f"comment = {literal(_UNFINISHED_RESET)}")
        count = self.transact(
            lambda transaction: transaction.run("snowflake/put_back_lines")["put_back"],
            work_tables="snowflake/put_back_work_tables",
        )
        self._session.rows(
            f"alter stream {stream_name(stream)} set comment = {literal(_COMMENT)}", name="reset.comment"
        )
        return count

    def _make_stream(self, stream: Stream, options: str) -> None:
        """The one place where a stream is replaced: what it had not read is gone already."""
        self._session.rows(
            f"create or replace stream {stream_name(stream)} on table {stream.schema}.{stream.table} "
            f"append_only = true {options}",
            name="reset.stream",
        )

    def maintain(self, on_progress: Callable[[str], object] | None = None) -> MaintenanceReport:
        """Remove inputs of the kernel and candidates and answers of deliveries that are a day old.

        Snowflake merges files and expires history by itself. The figures: no snapshots, files of the kernel's inputs,
        bytes of these and of the tables (without Time Travel and Fail-safe).
        """
        started = time.monotonic()
        cutoff = utc_now() - _KEPT
        files = self._input_files()
        before = self._storage(files)
        self.transact(
            lambda transaction: transaction.run(
                "snowflake/forget_deliveries", cutoff=cutoff, last_stage=Stage.REFLECT.value
            )
        )
        old = [file for file in files if file["modified_at"] < cutoff]
        for folder in sorted({file["folder"] for file in old}):
            self._session.rows(f"remove {_INPUTS}/{folder}/", name="maintain.remove")
            if on_progress is not None:
                on_progress(f"remove inputs {folder}")
        after = self._storage(self._input_files())
        return MaintenanceReport(
            snapshots_before=0,
            snapshots_after=0,
            files_before=before[0],
            files_after=after[0],
            bytes_before=before[1],
            bytes_after=after[1],
            removed_files=len(old),
            seconds=time.monotonic() - started,
        )

    def _input_files(self) -> list[dict[str, Any]]:
        """Files of the kernel's inputs; their names begin with that of the stage, then the folder of a micro-batch."""
        return [
            {
                "folder": row["name"].split("/")[1],
                "modified_at": _naive(parsedate_to_datetime(row["last_modified"])),
                "size": row["size"],
            }
            for row in self._session.dicts(f"list {_INPUTS}", name="maintain.list")
        ]

    def _storage(self, files: list[dict[str, Any]]) -> tuple[int, int]:
        size = sum(int(row["bytes"] or 0) for row in self._tables()) + sum(int(file["size"]) for file in files)
        return len(files), size

    def _run(self, script: str, parameters: Mapping[str, Parameter], stream: Callable[[str], str]) -> RowCounts:
        return {
            statement.name: self._session.change(statement.sql, name=f"{script}.{statement.name}")
            for statement in _render(script, parameters, stream)
        }

    def _fetch(
        self, session: Session, script: str, parameters: Mapping[str, Parameter], stream: Callable[[str], str]
    ) -> pa.Table:
        [statement] = _render(script, parameters, stream)
        return from_snowflake(session.arrow(statement.sql, name=f"{script}.{statement.name}"), array_columns())


class _SnowflakeTransaction(Transaction):
    """One attempt at a transaction. A stream read in it moves with its commit, by Snowflake's own doing."""

    def __init__(self, warehouse: SnowflakeWarehouse) -> None:
        self._warehouse = warehouse
        self._read: list[str] = []

    def run(self, script: str, **parameters: Parameter) -> RowCounts:
        self._read = []
        try:
            return self._warehouse._run(script, parameters, self._stream)
        except StaleStreamError as error:
            [name] = self._read
            message = (
                f"stream {name} is stale: changes were lost to it before they were read ({error}). "
                f"Nothing is lost: kurashiru reset-stream {name} puts the unread rows back in front of the stream"
            )
            raise StaleStreamError(message) from error

    def fetch(self, script: str, **parameters: Parameter) -> pa.Table:
        return self._warehouse._fetch(self._warehouse._session, script, parameters, _no_stream)

    def _stream(self, name: str) -> str:
        self._read.append(name)
        return stream_name(next(stream for stream in _ALL_STREAMS if stream.name == name))


def _render(script: str, parameters: Mapping[str, Parameter], stream: Callable[[str], str]) -> list[Statement]:
    return render(script, engine=SnowflakeWarehouse.engine, stream=stream, parameters=parameters)


def _warehouse(settings: Settings) -> str:
    return needed(settings, "KURASHIRU_SNOWFLAKE_WAREHOUSE")


def _no_stream(name: str) -> str:
    message = f"stream {name} can only be read inside a transaction that writes its target"
    raise KurashiruError(message)


def stream_name(stream: Stream) -> str:
    """`schema.name` of a stream in this engine."""
    return f"{stream.schema}.str_{stream.table}"


def _is_stale(shown: Mapping[str, Any]) -> bool:
    return str(shown["stale"]).lower() == "true"


def _moment(value: str | float) -> datetime:
    """Naive UTC of a time in SYSTEM$PIPE_STATUS: ISO text, or milliseconds."""
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value / 1000, tz=UTC).replace(tzinfo=None)
    return _naive(datetime.fromisoformat(value))


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo is not None else moment
