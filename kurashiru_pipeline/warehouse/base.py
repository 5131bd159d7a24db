"""The port: what the pipeline asks of a warehouse, whichever engine runs.

Here: the interface, its promises and the small types it speaks in.
Not here: SQL text (kurashiru_pipeline/sql) or anything of one engine (ducklake.py, snowflake.py).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self, TypeVar

import pyarrow as pa

from kurashiru_pipeline.catalog import STREAMS, Stream

Scalar = str | int | float | bool | datetime | None
Parameter = Scalar | list[str] | tuple[str, ...] | Mapping[str, float]
RowCounts = dict[str, int]
T = TypeVar("T")


@dataclass(frozen=True)
class StreamStatus:
    """Where a stream's reader stands.

    Attributes:
        offset: last change read, where the engine numbers its changes.
        latest: last change there is, likewise.
        is_stale: unread changes are out of the stream's reach; `Warehouse.reset_stream` mends it.
        stale_after: when that happens if nobody reads the stream (naive UTC), where the engine tells.
    """

    name: str
    offset: int | None
    latest: int | None
    has_data: bool
    is_stale: bool
    stale_after: datetime | None = None


@dataclass(frozen=True)
class LoadReport:
    """What one load made visible.

    Attributes:
        line_count: event lines added to raw.behavior_events.
        files: files loaded, by kind (events, recipes, users).
        recipe_count: recipe rows that were new or newer.
        user_count: user rows that were new or newer.
        failed: (file name, error) of files that could not be read; they are recorded and do not stop the others.
        ignored: files put again under a loaded name; they are recorded, not read.
        delays: (seconds from landing to loading, lines) of each event file.
        is_complete: False when the line limit was reached and more files wait.
    """

    line_count: int
    files: Mapping[str, int]
    recipe_count: int
    user_count: int
    failed: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]
    delays: tuple[tuple[float, int], ...]
    is_complete: bool

    @classmethod
    def nothing(cls, *, is_complete: bool) -> "LoadReport":
        return cls(0, {}, 0, 0, (), (), (), is_complete)

    @property
    def has_changes(self) -> bool:
        return bool(sum(self.files.values()) or self.failed or self.ignored)


@dataclass(frozen=True)
class IngestionReport:
    """What the warehouse's own loader (Snowpipe) did with event files, and what it still has before it.

    Attributes:
        row_count: lines loaded.
        files: files by status (loaded, partially_loaded, failed, skipped).
        failed: (file name, first error) of files not loaded whole.
        delays: (seconds from the loader's notice of a file to its last load, lines) of each file loaded.
        pending_count: files the loader knows of and has not loaded.
        oldest_pending_at: since when the oldest of them waits (naive UTC).
        state: the loader's state; RUNNING is the healthy one.
    """

    row_count: int
    files: Mapping[str, int]
    failed: tuple[tuple[str, str], ...]
    delays: tuple[tuple[float, int], ...]
    pending_count: int
    oldest_pending_at: datetime | None
    state: str


@dataclass(frozen=True)
class MaintenanceReport:
    """Storage before and after maintenance."""

    snapshots_before: int
    snapshots_after: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int


class Transaction(ABC):
    """Statements that become visible together, or not at all."""

    @abstractmethod
    def run(self, script: str, **parameters: Parameter) -> RowCounts:
        """Run the statements of sql/<script>.sql; rows changed, by statement name."""

    @abstractmethod
    def fetch(self, script: str, **parameters: Parameter) -> pa.Table:
        """Rows of the one query in sql/<script>.sql."""


class Warehouse(ABC):
    """One lake or database, opened.

    A reading warehouse sees committed work. A writing one is the lake's only writer until it is closed, so what it
    reads between its transactions does not change under it.
    """

    engine: str
    loads_events: bool
    """Whether event files are loaded by `load_landed_files`; False where the warehouse does it by itself."""

    @abstractmethod
    def fetch(self, script: str, **parameters: Parameter) -> pa.Table:
        """Rows of the one query in sql/<script>.sql, timestamps as naive UTC."""

    @abstractmethod
    def transact(
        self,
        body: Callable[[Transaction], T],
        *,
        work_tables: str | None = None,
        inputs: Mapping[str, pa.Table] | None = None,
    ) -> T:
        """Run `body` in one transaction; commit when it returns, roll back when it raises.

        Transient commit failures run the whole body again, so it must have no effect outside the transaction.
        Reading a stream in it (`{{ stream('name') }}` in a script) moves that stream's offset with the commit.

        Args:
            work_tables: script of temporary tables, run before the transaction begins.
            inputs: Arrow tables the statements may read by name (`incoming_...`).

        Raises:
            StaleStreamError: the body reads a stream whose unread changes are gone.
            TransientError: the engine stayed busy.
        """

    @property
    def streams(self) -> tuple[Stream, ...]:
        """Streams that can be asked for and mended: the pipeline's, then the engine's own."""
        return STREAMS

    @abstractmethod
    def stream_status(self, stream: Stream) -> StreamStatus:
        """Offset and state of a stream, from metadata only: no table data is read."""

    def stream_has_data(self, stream: Stream) -> bool:
        """Whether changes wait to be consumed."""
        return self.stream_status(stream).has_data

    @abstractmethod
    def change_signature(self) -> object:
        """Fingerprint of everything that can bring work: while it stays equal, nothing changed. Costs no query."""

    @abstractmethod
    def is_replaced(self) -> bool:
        """Whether the storage this was opened on is gone or made anew, so that it has to be opened again."""

    @abstractmethod
    def has_landed_files(self) -> bool:
        """Whether files wait for `load_landed_files`."""

    @abstractmethod
    def load_landed_files(self, *, max_lines: int, is_rescan: bool = False) -> LoadReport:
        """Load landed files, each exactly once, in name order until `max_lines` lines were read.

        Args:
            is_rescan: look through every folder, not only those changed since the last load.
        """

    def ingestion(self, since: datetime) -> IngestionReport | None:
        """What the warehouse's own loader did since a moment (naive UTC); None where there is no such loader."""
        return None

    @abstractmethod
    def reset_stream(self, stream: Stream) -> int:
        """Mend a stale stream without loss: put its unread rows back in front of it; how many there were."""

    @abstractmethod
    def maintain(self) -> MaintenanceReport:
        """Give back storage that nothing needs any more."""

    @abstractmethod
    def close(self) -> None:
        """Release connection and lock."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
