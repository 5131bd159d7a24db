"""State that is read and replaced by user, beside the lake: segments that never change, and a manifest that names them.

Here: reading and replacing the rows of users, all of a commit or nothing, and merging segments.
Not here: the files (keyed_segment.py), what SQL sees of them (ducklake_keyed.py), or which tables there are
(keyed_tables.py).

A batch writes one segment a table, with the users it touched, and reads those users from the segments there are, the
newest first: it costs what its users cost, however many were ever seen. Segments are merged so that each is about as
large as all newer ones together, or larger: few to look through, and each byte written again a few times.
"""

import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
import pyarrow as pa

from kurashiru_pipeline.warehouse.keyed_rows import (
    Integers,
    Layout,
    arrow,
    binary,
    compute,
    offsets_of,
    pack,
    unpack,
    whole,
)
from kurashiru_pipeline.warehouse.keyed_segment import (
    USERS_AT_ONCE,
    Entries,
    Segment,
    SegmentWriter,
    Users,
    conformed,
    hash_texts,
    merge,
)
from kurashiru_pipeline.warehouse.keyed_tables import KEY, KEYED_TABLES, KeyedTable

_MANIFEST: Final = "manifest.json"
_ENDING: Final = ".segment"
_FAN_IN: Final = 4
_BYTES_MERGED_IN_A_COMMIT: Final = 32 << 20
_BYTES_AT_ONCE: Final = 128 << 20
_ORPHAN_SECONDS: Final = 3_600.0
_HASHES: Final = 2**64


@dataclass(frozen=True)
class Change:
    """What becomes of some users' rows: those of `gone` go, those of `rows` come in place of what was there.

    Attributes:
        gone: ids, a string array; None: everybody.
        rows: user_id and the columns of the table; users one after the other, in an order to be kept.
    """

    table: KeyedTable
    gone: Any | None
    rows: pa.Table


class _Listed(NamedTuple):
    """A segment in the manifest."""

    name: str
    byte_count: int
    user_count: int


@dataclass
class _State:
    """One table in the manifest: its segments, the oldest first, and how many users count."""

    segments: list[_Listed] = field(default_factory=list)
    counted: int = 0


class KeyedState:
    """The keyed tables in a folder. Readers see what is committed; there is one writer at a time (the lake's lock)."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._manifest = folder / _MANIFEST
        self._mark: object = None
        self._states: dict[str, _State] = {}
        self._open: dict[str, Segment] = {}
        self.bytes_read = 0

    def read(self, table: KeyedTable, ids: Any) -> pa.Table:
        """Rows of users, those of each together and in their order."""
        segments = self._segments(table)
        users = Users.of(ids)
        return self._rows(table, segments, users, *_find(segments, users))

    def read_part(self, table: KeyedTable, part: int, parts: int) -> pa.Table:
        """Rows of a share of all users: each is in one of `parts`."""
        segments = self._segments(table)
        low, high = (np.uint64(edge) for edge in (_HASHES * part // parts, _HASHES * (part + 1) // parts - 1))
        here = []
        for segment in segments:
            first, last = np.searchsorted(segment.hashes, low), np.searchsorted(segment.hashes, high, side="right")
            here.append(segment.ids.slice(first, last - first))
        users = Users.of(arrow.concat_arrays([arrow.array([], pa.string()), *here]))
        return self._rows(table, segments, users, *_find(segments, users))

    def parts(self, table: KeyedTable) -> int:
        """In how many parts the table is read whole, so that each fits into memory."""
        states = self._load()
        return 1 + sum(listed.user_count for listed in states[table.name].segments) // (4 * USERS_AT_ONCE)

    def row_counts(self, table: KeyedTable, ids: Any) -> pa.Table:
        """user_id and row_count of those users that have rows; no row is read."""
        segments = self._segments(table)
        users = Users.of(ids)
        counts = _of_each(segments, "row_counts", users)
        has_rows = np.flatnonzero(counts)
        return pa.table({KEY: users.take(has_rows).ids, "row_count": counts[has_rows]})

    def has_users(self, table: KeyedTable) -> bool:
        """Whether any user was ever given rows, since all rows went the last time."""
        return bool(self._load()[table.name].segments)

    def counted(self, table: KeyedTable) -> int:
        """Users that count."""
        return self._load()[table.name].counted

    def commit(self, changes: Sequence[Change]) -> None:
        """Make changes, all or none; they last. The same ones again change nothing."""
        states = {name: _State(list(state.segments), state.counted) for name, state in self._load().items()}
        self._folder.mkdir(parents=True, exist_ok=True)
        replaced: list[str] = []
        for change in changes:
            table, state = change.table, states[change.table.name]
            if change.gone is None:
                replaced += [listed.name for listed in state.segments]
                states[table.name] = state = _State()
            written = self._written(change, self._opened(state))
            if written is not None:
                listed, counted = written
                state.segments.append(listed)
                state.counted += counted
            while (run := _run_to_merge(state.segments, _BYTES_MERGED_IN_A_COMMIT)) is not None:
                merging = _Merging(self._folder, table, state.segments, run)
                for _ in merging.steps():
                    pass
                replaced += merging.replaced
                state.segments = merging.swapped(state.segments) or state.segments
        self._publish(states)
        self._forget(replaced)

    def is_due(self) -> bool:
        """Whether upkeep has anything to merge."""
        return any(_run_to_merge(state.segments, None) is not None for state in self._load().values())

    def upkeep(self) -> Iterator[str]:
        """Merge segments, and remove what a killed process left: in slices of a fraction of a second, named.

        Others may commit between two slices: what they add is newer than what is merged.
        """
        for table in KEYED_TABLES.values():
            while (run := _run_to_merge(self._load()[table.name].segments, None)) is not None:
                merging = _Merging(self._folder, table, self._load()[table.name].segments, run)
                for _ in merging.steps():
                    yield f"merge {len(merging.replaced)} segments of {table.name}"
                states = self._load()
                swapped = merging.swapped(states[table.name].segments)
                if swapped is None:
                    self._forget([merging.name])
                    continue
                states[table.name].segments = swapped
                self._publish(states)
                self._forget(merging.replaced)
        named = {listed.name for state in self._load().values() for listed in state.segments}
        for path in self._folder.glob(f"*{_ENDING}"):
            if path.name not in named and path.stat().st_mtime < time.time() - _ORPHAN_SECONDS:
                path.unlink()

    def storage(self) -> tuple[int, int]:
        """Segments, and their bytes."""
        listed = [listed for state in self._load().values() for listed in state.segments]
        return len(listed), sum(entry.byte_count for entry in listed)

    def _load(self) -> dict[str, _State]:
        """The manifest, read again when it is another."""
        try:
            stat = self._manifest.stat()
        except FileNotFoundError:
            return {name: _State() for name in KEYED_TABLES}
        mark = stat.st_ino, stat.st_mtime_ns
        if mark != self._mark:
            document = orjson.loads(self._manifest.read_bytes())
            self._states = {
                name: _State([_Listed(*listed) for listed in document[name]["segments"]], document[name]["counted"])
                if name in document
                else _State()
                for name in KEYED_TABLES
            }
            self._mark = mark
        return {name: _State(list(state.segments), state.counted) for name, state in self._states.items()}

    def _segments(self, table: KeyedTable) -> list[Segment]:
        """The table's segments, the oldest first, opened."""
        while True:
            state = self._load()[table.name]
            try:
                return self._opened(state)
            except FileNotFoundError:
                if self._load()[table.name] == state:  # not replaced meanwhile by a merge
                    raise

    def _opened(self, state: _State) -> list[Segment]:
        for listed in state.segments:
            if listed.name not in self._open:
                self._open[listed.name] = Segment(self._folder / listed.name)
        return [self._open[listed.name] for listed in state.segments]

    def _rows(
        self, table: KeyedTable, segments: Sequence[Segment], users: Users, source: Integers, at: Integers
    ) -> pa.Table:
        pieces = [table.schema.empty_table()]
        for number, segment in enumerate(segments):
            here = np.flatnonzero(source == number)
            here = here[segment.row_counts[at[here]] > 0]
            sizes = segment.sizes(at[here])
            self.bytes_read += int(sizes.sum())
            for part in np.split(here, np.flatnonzero(np.diff(np.cumsum(sizes) // _BYTES_AT_ONCE)) + 1):
                if not len(part):
                    continue
                row_counts = segment.row_counts[at[part]].astype(np.int64)
                rows = conformed(unpack(segment.layout, row_counts, segment.values(at[part])), table.columns)
                ids = users.ids.take(arrow.array(np.repeat(part, row_counts)))
                pieces.append(rows.add_column(0, KEY, ids))
        return pa.concat_tables(pieces)

    def _written(self, change: Change, segments: Sequence[Segment]) -> tuple[_Listed, int] | None:
        """The segment of a change, and by how many more users count then; None: nothing changes."""
        table = change.table
        ids, row_counts, rows = _by_user(change.rows, table)
        gone = Users.of(arrow.array([], pa.string()) if change.gone is None else change.gone)
        gone = gone.take(np.flatnonzero(compute.index_in(gone.ids, ids).is_null().to_numpy(zero_copy_only=False)))
        gone = gone.take(np.flatnonzero(_of_each(segments, "row_counts", gone)))
        users = Users(arrow.concat_arrays([ids, gone.ids]), np.concatenate([hash_texts(ids), gone.hashes]))
        if not len(users):
            return None
        layout, values = _packed(rows, row_counts)
        empty = np.zeros(len(gone), dtype=np.int64)
        flags = table.counts(ids, rows.take(arrow.array(offsets_of(row_counts)[:-1])))
        order = np.argsort(users.hashes, kind="stable")
        users = users.take(order)
        entries = Entries(
            users,
            np.concatenate([row_counts, empty])[order],
            np.concatenate([flags, empty.astype(bool)])[order],
            arrow.concat_arrays([*values, binary(offsets_of(empty), arrow.py_buffer(b""))]).take(arrow.array(order)),
        )
        name = _new_name(table)
        writer = SegmentWriter(self._folder / name, layout)
        writer.add(entries)
        writer.finish()
        counted = int(flags.sum()) - int(_of_each(segments, "flags", users).sum())
        return _Listed(name, (self._folder / name).stat().st_size, len(users)), counted

    def _publish(self, states: Mapping[str, _State]) -> None:
        """Write the manifest: what it names is what there is."""
        document = {
            name: {"segments": [list(listed) for listed in state.segments], "counted": state.counted}
            for name, state in states.items()
        }
        fresh = self._folder / f"{_MANIFEST}.new"
        with fresh.open("wb") as file:
            file.write(orjson.dumps(document))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._manifest)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _forget(self, names: Sequence[str]) -> None:
        """Remove segments that nothing names any more; who has one open reads on."""
        for name in names:
            self._open.pop(name, None)
            (self._folder / name).unlink(missing_ok=True)


class _Merging:
    """The newest segments of a table from `start` on, becoming one."""

    def __init__(self, folder: Path, table: KeyedTable, segments: Sequence[_Listed], start: int) -> None:
        self.replaced = [listed.name for listed in segments[start:]]
        self._folder = folder
        self.name = _new_name(table)
        self._is_oldest_among_them = start == 0
        self._user_count = 0

    def steps(self) -> Iterator[None]:
        segments = [Segment(self._folder / name, is_read_whole=True) for name in self.replaced]
        path = self._folder / self.name
        yield from merge(segments, path, is_oldest_among_them=self._is_oldest_among_them)

    def swapped(self, segments: Sequence[_Listed]) -> list[_Listed] | None:
        """The segments with the merged one in place of those it is made of; None where another merge took some."""
        names = [listed.name for listed in segments]
        start = names.index(self.replaced[0]) if self.replaced[0] in names else 0
        end = start + len(self.replaced)
        if names[start:end] != self.replaced:
            return None
        merged = []
        if (self._folder / self.name).exists():  # something was left of them
            segment = Segment(self._folder / self.name)
            merged.append(_Listed(self.name, segment.byte_count, len(segment)))
        return [*segments[:start], *merged, *segments[end:]]


def _run_to_merge(segments: Sequence[_Listed], at_most: int | None) -> int | None:
    """From which segment on all newer ones are to become one, of at most so many bytes; None: nothing to do.

    Sizes stay a geometric series. The oldest, which holds nearly everything, is written again when as much is newer.
    """
    newer = 0
    start = None
    for place in reversed(range(len(segments))):
        size = segments[place].byte_count
        if at_most is not None and newer + size > at_most:
            break
        is_due = size <= newer if place == 0 else size * (_FAN_IN - 1) <= newer
        if is_due and len(segments) - place >= _FAN_IN:
            start = place
        newer += size
    return start


def _find(segments: Sequence[Segment], users: Users) -> tuple[Integers, Integers]:
    """Of each user the segment that holds the newest entry (-1: none does), and where in it."""
    source = np.full(len(users), -1, dtype=np.int64)
    at = np.zeros(len(users), dtype=np.int64)
    left = np.arange(len(users))
    for number in reversed(range(len(segments))):
        wanted, places = segments[number].find(users.take(left))
        source[left[wanted]] = number
        at[left[wanted]] = places
        left = left[source[left] < 0]
        if not len(left):
            break
    return source, at


def _of_each(segments: Sequence[Segment], attribute: str, users: Users) -> Integers:
    """An attribute of each user's newest entry, 0 without one."""
    source, at = _find(segments, users)
    values = np.zeros(len(users), dtype=np.int64)
    for number, segment in enumerate(segments):
        here = source == number
        values[here] = getattr(segment, attribute)[at[here]]
    return values


def _by_user(rows: pa.Table, table: KeyedTable) -> tuple[Any, Integers, pa.Table]:
    """Users, rows of each, and the rows without the key, users one after the other."""
    rows = conformed(rows, table.schema)
    runs = compute.run_end_encode(whole(rows[KEY]))
    if len(compute.unique(runs.values)) < len(runs.values):
        rows = rows.take(compute.sort_indices(rows[KEY]))  # stable
        runs = compute.run_end_encode(whole(rows[KEY]))
    row_counts = np.diff(runs.run_ends.to_numpy().astype(np.int64), prepend=0)
    return runs.values, row_counts, rows.drop_columns([KEY])


def _packed(rows: pa.Table, row_counts: Integers) -> tuple[Layout, list[Any]]:
    """Values of many users, in pieces of one layout."""
    starts = offsets_of(row_counts)

    def packed(least_width: int) -> list[tuple[Layout, Any]]:
        return [
            pack(
                rows.slice(starts[place], starts[min(place + USERS_AT_ONCE, len(row_counts))] - starts[place]),
                row_counts[place : place + USERS_AT_ONCE],
                least_width=least_width,
            )
            for place in range(0, max(len(row_counts), 1), USERS_AT_ONCE)
        ]

    pieces = packed(0)
    width = max(layout.width for layout, _ in pieces)
    if any(layout.width < width for layout, _ in pieces):
        pieces = packed(width)
    return pieces[0][0], [values for _, values in pieces]


def _new_name(table: KeyedTable) -> str:
    return f"{table.file_name}-{secrets.token_hex(8)}{_ENDING}"
