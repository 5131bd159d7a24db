"""The embedded engine's loader: landed files into the lake, each exactly once.

Here: which files are new, one transaction of lines, exports and the record of their files.
Not here: finding and reading files (landed_files.py, exports.py), or what comes of a line (sql/stage_*.sql).
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

import duckdb
import numpy as np
import pyarrow as pa

from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.warehouse.base import LoadReport, T, Transaction, Waiting
from kurashiru_pipeline.warehouse.exports import numbered, read_export
from kurashiru_pipeline.warehouse.fresh_lines import ENOUGH_LINES, READERS, FreshLines
from kurashiru_pipeline.warehouse.landed_files import (
    LandedFile,
    Landing,
    LineArray,
    UnreadableFileError,
    loading_order,
    read_lines,
)
from kurashiru_pipeline.warehouse.statements import literal

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


class _Transact(Protocol):
    def __call__(self, body: Callable[[Transaction], T], *, inputs: Mapping[str, pa.Table]) -> T: ...


class Loader:
    """Loads the landing folder of `settings` into the lake `alias` of a connection; `transact` is the lake's.

    The lake's only writer remembers between loads which files it has seen, so that a load costs what is new. A reader
    asks the lake each time.
    """

    def __init__(
        self,
        settings: Settings,
        connection: duckdb.DuckDBPyConnection,
        alias: str,
        transact: _Transact,
        *,
        is_only_writer: bool,
    ) -> None:
        self._settings = settings
        self._connection = connection
        self._alias = alias
        self._transact = transact
        self._is_only_writer = is_only_writer
        self._landing = Landing(settings.landing)
        self._fresh: FreshLines | None = None
        self.forget()

    def forget(self) -> None:
        """Somebody else may have written: ask the lake again."""
        self._has_begun = False
        self._last_scan: datetime | None = None
        self._new: list[LandedFile] = []
        self._put_again: list[LandedFile] = []
        self._seen: dict[str, int] = {}
        self._records: dict[str, dict[str, list[_Record]]] = {}

    @property
    def fresh_lines(self) -> FreshLines | None:
        """The lines of the last load, if they are many and this process was the one that loaded them."""
        return self._fresh

    def forget_lines(self) -> None:
        """Give back the memory of the lines of the last load: they are staged."""
        self._fresh = None

    def signature(self) -> object:
        """Fingerprint of the landing folder."""
        return self._landing.signature()

    def has_landed_files(self) -> bool:
        self._look(is_rescan=False)
        return bool(self._new or self._put_again)

    def waiting_files(self) -> Waiting:
        """Event files to load, without reading one."""
        self._look(is_rescan=False)
        return _waiting(self._new)

    def load_landed_files(self, *, max_lines: int, is_rescan: bool = False) -> LoadReport:
        self._look(is_rescan=is_rescan)
        load = _Load(loaded_at=utc_now(), max_bytes=self._settings.integer("KURASHIRU_MAX_FILE_MB") << 20)
        left = self._new[load.read(self._new, max_lines) :]
        load.ignore(self._put_again)
        if not load.entries:
            return LoadReport.nothing(is_complete=True)

        def body(transaction: Transaction) -> tuple[int, int]:
            recipes = users = 0
            if "incoming_lines" in inputs:
                self._connection.execute("insert into raw.behavior_events select * from incoming_lines")
            if "incoming_recipes" in inputs:
                recipes = transaction.run("load_recipes")["add"]
            if "incoming_users" in inputs:
                users = transaction.run("load_users", loaded_at=load.loaded_at)["add"]
            self._connection.execute("insert into raw.loaded_files select * from incoming_files")
            return recipes, users

        # What was left over has to be found by the next process: the last look at all that left nothing counts.
        scanned_at = self._last_scan if left else self._landing.complete_at
        inputs = load.inputs(scanned_at)
        self.forget_lines()
        recipes, users = self._transact(body, inputs=inputs)
        self._remember(load.entries)
        self._new, self._put_again, self._last_scan = left, [], scanned_at
        if load.line_count >= ENOUGH_LINES:
            [(snapshot,)] = self._connection.execute(f"select id from {self._alias}.current_snapshot()").fetchall()
            self._fresh = FreshLines(snapshot, load.loaded_at, load.lines)
        return load.report(recipes, users, _waiting(left), is_complete=not left)

    def _look(self, *, is_rescan: bool) -> None:
        """Find what there is to load. Where nothing is in the newest folders, the others are looked into too."""
        if is_rescan or not (self._has_begun and self._is_only_writer):
            self.forget()
            row = self._connection.execute("select max(scanned_at) from raw.loaded_files").fetchone()
            self._last_scan = row[0] if row else None
            self._landing.begin(None if is_rescan else self._last_scan)
            self._has_begun = True
            self._find()
            return
        self._landing.look()
        self._find()
        if not self._new and not self._put_again:
            self._landing.look(is_everywhere=True)
            self._find()

    def _find(self) -> None:
        found = self._landing.find(lambda name, inode: self._seen.get(name) == inode)
        if not found:
            return
        names = {file.name for file in found}
        new, put_again = self._unloaded(found)
        self._new = sorted([file for file in self._new if file.name not in names] + new, key=loading_order)
        self._put_again = [file for file in self._put_again if file.name not in names] + put_again
        self._seen.update((file.name, file.inode) for file in found)

    def _unloaded(self, landed: list[LandedFile]) -> tuple[list[LandedFile], list[LandedFile]]:
        """Files to load (new, or failed before and put again), and files put again under a loaded name."""
        unknown = {file.directory for file in landed} - self._records.keys()
        if unknown:
            self._records.update((directory, {}) for directory in unknown)
            for directory, name, *record in self._connection.execute(
                "select directory, file_name, status, byte_count, landed_at from raw.loaded_files "
                f"where directory in {literal(tuple(sorted(unknown)))}"
            ).fetchall():
                self._records[directory].setdefault(name, []).append(_Record(*record))
        new: list[LandedFile] = []
        put_again: list[LandedFile] = []
        for file in landed:
            records = self._records[file.directory].get(file.name, [])
            if any((one.byte_count, one.landed_at) == (file.byte_count, file.landed_at) for one in records):
                continue
            (put_again if any(one.status == "loaded" for one in records) else new).append(file)
        return new, put_again

    def _remember(self, entries: list[dict[str, Any]]) -> None:
        for entry in entries:
            record = _Record(entry["status"], entry["byte_count"], entry["landed_at"])
            self._records[entry["directory"]].setdefault(entry["file_name"], []).append(record)


class _Record(NamedTuple):
    """A put of a file, as raw.loaded_files has it."""

    status: str
    byte_count: int
    landed_at: datetime


def _waiting(files: list[LandedFile]) -> Waiting:
    events = [file for file in files if file.kind == "events"]
    oldest = min((file.landed_at for file in events), default=None)
    return Waiting(len(events), sum(file.byte_count for file in events), oldest)


class _Load:
    """Files read for one load transaction, and what to record of each."""

    def __init__(self, *, loaded_at: datetime, max_bytes: int) -> None:
        self.loaded_at = loaded_at
        self.entries: list[dict[str, Any]] = []
        self._max_bytes = max_bytes
        self.lines: list[pa.Table] = []
        self._exports: dict[str, list[pa.Table]] = {"recipes": [], "users": []}
        self.line_count = 0
        self._delays: list[tuple[float, int]] = []

    def read(self, files: list[LandedFile], max_lines: int) -> int:
        """Read files in order until `max_lines` lines; how many files were read."""
        remaining = list(files)
        with ThreadPoolExecutor(READERS) as readers:  # unpacking releases the interpreter
            while remaining and self.line_count < max_lines:
                ahead, remaining = remaining[:READERS], remaining[READERS:]
                for file, content in zip(ahead, readers.map(self._content, ahead), strict=True):
                    self._take(file, content)
        return len(files) - len(remaining)

    def ignore(self, files: Iterable[LandedFile]) -> None:
        for file in files:
            self._record(file, "ignored", 0, "put again under a loaded name; not read")

    def inputs(self, scanned_at: datetime | None) -> dict[str, pa.Table]:
        """What there is to insert: incoming_files, and incoming_lines, _recipes and _users where files had some."""
        entries = [{**entry, "loaded_at": self.loaded_at, "scanned_at": scanned_at} for entry in self.entries]
        tables = {"incoming_files": pa.Table.from_pylist(entries, schema=pa.schema(_FILE_COLUMNS))}
        for kind, exports in self._exports.items():
            if exports:
                tables[f"incoming_{kind}"] = numbered(pa.concat_tables(exports))
        if self.lines:
            tables["incoming_lines"] = pa.concat_tables(self.lines)
        return tables

    def report(self, recipe_count: int, user_count: int, waiting: Waiting, *, is_complete: bool) -> LoadReport:
        loaded = [entry["kind"] for entry in self.entries if entry["status"] == "loaded"]
        return LoadReport(
            line_count=self.line_count,
            files={str(kind): loaded.count(kind) for kind in dict.fromkeys(loaded)},
            recipe_count=recipe_count,
            user_count=user_count,
            failed=tuple(
                (str(entry["file_name"]), str(entry["error"])) for entry in self.entries if entry["status"] == "failed"
            ),
            ignored=tuple(str(entry["file_name"]) for entry in self.entries if entry["status"] == "ignored"),
            delays=tuple(self._delays),
            is_complete=is_complete,
            waiting=waiting,
            byte_count=sum(
                entry["byte_count"]
                for entry in self.entries
                if (entry["kind"], entry["status"]) == ("events", "loaded")
            ),
        )

    def _content(self, file: LandedFile) -> "LineArray | pa.Table | UnreadableFileError":
        try:
            if file.kind == "events":
                return read_lines(file, max_bytes=self._max_bytes)
            return read_export(file)
        except UnreadableFileError as error:
            return error

    def _take(self, file: LandedFile, content: "LineArray | pa.Table | UnreadableFileError") -> None:
        if isinstance(content, UnreadableFileError):
            self._record(file, "failed", 0, str(content))
            return
        if isinstance(content, pa.Table):
            self._exports[file.kind].append(content)
        elif len(content):
            self.lines.append(lines_table(file, content, self.loaded_at))
            self.line_count += len(content)
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


def lines_table(file: LandedFile, lines: LineArray, loaded_at: datetime) -> pa.Table:
    """Lines of a file as rows of raw.behavior_events, in one chunk."""
    count = len(lines)
    return pa.table(
        {
            "payload": lines,
            "file_name": pa.DictionaryArray.from_arrays(np.zeros(count, dtype=np.int8), [file.name]),
            "file_row_number": pa.array(np.arange(1, count + 1, dtype=np.int64)),
            "landed_at": pa.repeat(pa.scalar(file.landed_at, pa.timestamp("us")), count),
            "loaded_at": pa.repeat(pa.scalar(loaded_at, pa.timestamp("us")), count),
        }
    )
