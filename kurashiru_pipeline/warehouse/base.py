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
# Measured on two cores: ten thousand snapshots make a query 10 ms slower, ten thousand files of five columns 40 ms.
MANY_SNAPSHOTS = 20_000
MANY_FILES = 20_000
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
class Waiting:
    """Event files that have landed and are not loaded; `oldest_landed_at` is naive UTC, None when there are none."""

    file_count: int
    byte_count: int
    oldest_landed_at: datetime | None


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
        waiting: the event files among those; None where the engine's own loader has them, or nothing was looked for.
        byte_count: size of the event files loaded, as they lie there.
    """

    line_count: int
    files: Mapping[str, int]
    recipe_count: int
    user_count: int
    failed: tuple[tuple[str, str], ...]
    ignored: tuple[str, ...]
    delays: tuple[tuple[float, int], ...]
    is_complete: bool
    waiting: Waiting | None = None
    byte_count: int = 0

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
class TableUpkeep:
    """Files and bytes of one table (`schema.table`) before and after upkeep."""

    table: str
    files_before: int
    bytes_before: int
    files_after: int
    bytes_after: int


@dataclass(frozen=True)
class MaintenanceReport:
    """Storage before and after maintenance; what other writers did meanwhile is in it.

    Attributes:
        removed_files: files taken from the disk.
        slices: pieces of work, between which other writers were let in.
        seconds: all together, with what other writers took.
        longest_slice_seconds: the longest that another writer had to wait for maintenance.
    """

    snapshots_before: int
    snapshots_after: int
    files_before: int
    files_after: int
    bytes_before: int
    bytes_after: int
    catalogue_bytes_before: int = 0
    catalogue_bytes_after: int = 0
    removed_files: int = 0
    slices: int = 0
    seconds: float = 0.0
    longest_slice_seconds: float = 0.0
    tables: tuple[TableUpkeep, ...] = ()


@dataclass(frozen=True)
class UpkeepRecord:
    """What the last maintenance left word of; times are naive UTC.

    Attributes:
        snapshot: the newest snapshot when it was done.
        again_at: when everything there is will be old enough to go, if nobody writes; None: nothing is left to go.
        orphans_at: when files that no commit names were last looked for.
    """

    finished_at: datetime
    snapshot: int
    again_at: datetime | None
    orphans_at: datetime | None


@dataclass(frozen=True)
class UpkeepState:
    """How a lake stands between two upkeeps.

    Attributes:
        last: what the last one left word of; None before the first.
        is_due: whether there is anything to do.
    """

    last: UpkeepRecord | None
    snapshots: int
    files: int
    is_due: bool


def storage_findings(snapshots: int, files: int) -> list[str]:
    """What makes every query slower than it has to be: rows of the catalogue that it looks through."""
    findings = []
    if snapshots > MANY_SNAPSHOTS:
        findings.append(f"{snapshots:,} snapshots, more than {MANY_SNAPSHOTS:,}")
    if files > MANY_FILES:
        findings.append(f"{files:,} files, more than {MANY_FILES:,}")
    return findings


class Transaction(ABC):
    """Statements that become visible together, or not at all."""

    def parse_lines(self, *, retention_days: int) -> None:
        """Consume the stream of raw lines: parsed, typed and judged in the work table `parsed_lines`."""
        self.run("stage_parse", retention_days=retention_days)

    def find_repeats(self, batch_id: int, *, duplicates_from: datetime) -> None:
        """Find which parsed lines deliver an event once more, for the work table `repeated_lines`.

        Args:
            batch_id: the micro-batch that they will be.
            duplicates_from: load time (naive UTC) from which staged events are looked at.
        """
        self.run("stage_repeats", duplicates_from=duplicates_from)

    @abstractmethod
    def run(self, script: str, **parameters: Parameter) -> RowCounts:
        """Run the statements of sql/<script>.sql; rows changed, by statement name."""

    @abstractmethod
    def fetch(self, script: str, **parameters: Parameter) -> pa.Table:
        """Rows of the one query in sql/<script>.sql."""


class Warehouse(ABC):
    """One lake or database, opened.

    A reading warehouse sees committed work. A writing one is the lake's only writer until it is closed or gives way, so
    what it reads between its transactions does not change under it.
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

    def parts(self, table: str) -> int:
        """In how many parts a keyed table is to be read whole (`{{ keyed_part('table', part, parts) }}`)."""
        return 1

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

    def waiting_files(self) -> Waiting | None:
        """Event files that wait to be loaded, counted without reading one; None where the engine does not tell."""
        return None

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

    def give_way(self) -> bool:
        """Let writers who wait go first, then be the only writer again; asked often between transactions.

        Returns:
            Whether somebody else may have written meanwhile, so that whatever was read before may be out of date.
            False where the engine's writers take turns by themselves, and as long as nobody waits.

        Raises:
            TransientError: another writer did not finish in time. Nothing may be written any more.
        """
        return False

    def upkeep_state(self) -> UpkeepState | None:
        """Whether `maintain` is due, and what for; None where nothing is known of it without looking."""
        return None

    @abstractmethod
    def maintain(self, on_progress: Callable[[str], object] | None = None) -> MaintenanceReport:
        """Give back storage that nothing needs any more, giving way between small pieces of work.

        Args:
            on_progress: told what a piece of work has done.

        Raises:
            TransientError: another writer, let in meanwhile, did not finish in time.
        """

    @abstractmethod
    def close(self) -> None:
        """Release connection and lock."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
