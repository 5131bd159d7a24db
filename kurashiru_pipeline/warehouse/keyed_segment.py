"""A file of values by user that never changes: values one after the other, then an index sorted by hash of the user.

Here: writing a segment, finding users in it, merging several into one.
Not here: which segments make up a table (keyed_state.py), or the form of a value (keyed_rows.py).
"""

import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kurashiru_pipeline.warehouse.keyed_rows import (
    Integers,
    Layout,
    arrow,
    binary,
    compute,
    numpy,
    offsets_in,
    offsets_of,
    pack,
    unpack,
)

Hashes = NDArray[np.uint64]
USERS_AT_ONCE: Final = 16_384
_ALIGNMENT: Final = 64
_FOOTER: Final = 16
_MAGIC: Final = b"keyed.01"
_FNV_BASIS, _FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)
_HASH_MASK = np.uint64(2**64 - 1)


class Users(NamedTuple):
    """Users, each once, in the order of their hashes."""

    ids: Any
    hashes: Hashes

    @classmethod
    def of(cls, ids: Any) -> "Users":
        """The distinct ones of a string array, without null."""
        distinct = compute.unique(ids.drop_null())
        hashes = hash_texts(distinct)
        return cls(distinct, hashes).take(np.argsort(hashes, kind="stable"))

    def take(self, at: NDArray[Any]) -> "Users":
        return Users(self.ids.take(arrow.array(at)), self.hashes[at])

    def __len__(self) -> int:
        return len(self.hashes)


class Entries(NamedTuple):
    """What is kept of users, in their order.

    Attributes:
        row_counts: rows of each; 0 for users who are gone.
        flags: which of them count (KeyedTable.counts).
        values: the rows; empty for users who are gone.
    """

    users: Users
    row_counts: NDArray[np.int32]
    flags: NDArray[np.bool_]
    values: Any


def hash_texts(texts: Any) -> Hashes:
    """64-bit FNV-1a hash of the bytes of each text (draft-eastlake-fnv)."""
    _, offsets, data = texts.buffers()
    bounds = numpy.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    content = numpy.frombuffer(data or b"\0", np.uint8)
    lengths = np.diff(bounds)
    hashes = np.full(len(texts), _FNV_BASIS, dtype=np.uint64)
    for place in range(int(lengths.max(initial=0))):
        is_long = lengths > place
        following = content[np.where(is_long, bounds[:-1] + place, 0)].astype(np.uint64)
        hashes = np.where(is_long, (hashes ^ following) * _FNV_PRIME, hashes)
    return hashes & _HASH_MASK


class Segment:
    """A segment file, mapped into memory: its index and its values are read where they are asked for.

    Args:
        is_read_whole: whether the values will be read in their order, rather than here and there.

    Raises:
        FileNotFoundError: a merge has replaced it since its name was read.
    """

    def __init__(self, path: Path, *, is_read_whole: bool = False) -> None:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        size, magic = int.from_bytes(mapped[-_FOOTER:-8], "little"), mapped[-8:]
        if magic != _MAGIC:
            raise OSError(f"{path} is not a whole segment of keyed state")
        if not is_read_whole:
            mapped.madvise(mmap.MADV_RANDOM)  # a page where a user is, not what lies around it
        self._file = arrow.py_buffer(mapped)
        self.byte_count = len(mapped)
        start = self.byte_count - _FOOTER - size
        index = pa.ipc.open_file(self._file.slice(start, size)).get_batch(0)
        self.ids: Any = index["user_id"]
        self.hashes: Hashes = index["hash"].to_numpy()
        self.row_counts: NDArray[np.int32] = index["row_count"].to_numpy()
        self.flags: NDArray[np.uint8] = index["flag"].to_numpy()
        self.offsets: Integers = numpy.frombuffer(self._file, np.int64, len(index) + 1, start - 8 * (len(index) + 1))
        metadata = index.schema.metadata
        self.layout = Layout(pa.ipc.read_schema(arrow.py_buffer(metadata[b"rows"])), int(metadata[b"width"]))

    def __len__(self) -> int:
        return len(self.hashes)

    def find(self, users: Users) -> tuple[Integers, Integers]:
        """Which of the users are here (positions in `users`), and where (positions in the segment)."""
        at = np.searchsorted(self.hashes, users.hashes)
        wanted = np.arange(len(users))
        found, places = [wanted[:0]], [at[:0]]
        while True:
            is_like = at < len(self)
            is_like[is_like] = self.hashes[at[is_like]] == users.hashes[wanted[is_like]]
            wanted, at = wanted[is_like], at[is_like]
            if not len(wanted):
                return np.concatenate(found), np.concatenate(places)
            same = _flags(compute.equal(self.ids.take(arrow.array(at)), users.ids.take(arrow.array(wanted))))
            found.append(wanted[same])
            places.append(at[same])
            # Whose hash is another user's may stand behind that one.
            wanted, at = wanted[~same], at[~same] + 1

    def entries(self, at: Integers) -> Entries:
        """What is kept of the users at positions."""
        users = Users(self.ids, self.hashes).take(at)
        return Entries(users, self.row_counts[at], self.flags[at].astype(bool), self.values(at))

    def sizes(self, at: Integers) -> Integers:
        """Bytes of the values at positions."""
        return self.offsets[at + 1] - self.offsets[at]

    def values(self, at: Integers) -> Any:
        return binary(self.offsets, self._file).take(arrow.array(at))


class SegmentWriter:
    """Writes a segment: entries in the order of their users' hashes. It is one when `finish` has returned."""

    def __init__(self, path: Path, layout: Layout) -> None:
        self._file = path.open("wb")
        self._layout = layout
        self._entries: list[Entries] = []
        self._sizes: list[Integers] = []

    def add(self, entries: Entries) -> None:
        offsets = offsets_in(entries.values)
        content = entries.values.buffers()[2]
        if content is not None:
            self._file.write(content.slice(int(offsets[0]), int(offsets[-1] - offsets[0])))
        self._sizes.append(np.diff(offsets))
        self._entries.append(entries._replace(values=None))

    def finish(self) -> None:
        """Make it last."""
        index = arrow.record_batch(
            {
                "user_id": arrow.concat_arrays([entries.users.ids for entries in self._entries]),
                "hash": _concatenated([entries.users.hashes for entries in self._entries], np.uint64),
                "row_count": _concatenated([entries.row_counts for entries in self._entries], np.int32),
                "flag": _concatenated([entries.flags for entries in self._entries], np.uint8),
            },
        )
        metadata = {"rows": self._layout.schema.serialize().to_pybytes(), "width": str(self._layout.width)}
        offsets = offsets_of(np.concatenate(self._sizes)).tobytes()
        self._file.write(bytes(-(self._file.tell() + len(offsets)) % _ALIGNMENT) + offsets)
        start = self._file.tell()
        with pa.ipc.new_file(self._file, index.schema.with_metadata(metadata)) as writer:
            writer.write_batch(index.replace_schema_metadata(metadata))
        self._file.write((self._file.tell() - start).to_bytes(8, "little") + _MAGIC)
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abandon(self) -> None:
        self._file.close()


def merge(segments: Sequence[Segment], path: Path, *, is_oldest_among_them: bool) -> Iterator[None]:
    """Write what counts of several segments, the oldest first, into one, if anything is left; in short steps.

    Args:
        is_oldest_among_them: nothing older is kept of any user, so that users who are gone can be left out.
    """
    newest_first = segments[::-1]
    layout = Layout(segments[-1].layout.schema, max(segment.layout.width for segment in segments))
    source, at = _newest(newest_first)
    if is_oldest_among_them:
        is_kept = np.concatenate([segment.row_counts > 0 for segment in newest_first])
        is_kept = is_kept[offsets_of(np.array([len(segment) for segment in newest_first]))[source] + at]
        source, at = source[is_kept], at[is_kept]
    if not len(source):
        return
    writer = SegmentWriter(path, layout)
    try:
        for start in range(0, len(source), USERS_AT_ONCE):
            part = slice(start, start + USERS_AT_ONCE)
            writer.add(_gathered(newest_first, source[part], at[part], layout))
            yield
        writer.finish()
    finally:
        writer.abandon()


def _newest(newest_first: Sequence[Segment]) -> tuple[Integers, Integers]:
    """(segment, position in it) of each user's newest entry, in the order of the hashes."""
    hashes = np.concatenate([segment.hashes for segment in newest_first])
    ids = arrow.concat_arrays([segment.ids for segment in newest_first])
    order = np.argsort(hashes, kind="stable")  # of one user's entries the newest stays first
    ordered = hashes[order]
    follows = np.flatnonzero(ordered[1:] == ordered[:-1]) + 1
    same = _flags(compute.equal(ids.take(arrow.array(order[follows])), ids.take(arrow.array(order[follows - 1]))))
    is_kept = np.ones(len(order), dtype=bool)
    is_kept[follows[same]] = False
    for hashed in np.unique(ordered[follows[~same]]):  # of different users: one pair in billions
        seen: set[object] = set()
        for place in np.flatnonzero(ordered == hashed):
            user = ids[order[place]].as_py()
            is_kept[place] = user not in seen
            seen.add(user)
    sizes = np.array([len(segment) for segment in newest_first])
    source = np.repeat(np.arange(len(sizes)), sizes)[order[is_kept]]
    return source, order[is_kept] - offsets_of(sizes)[source]


def _gathered(segments: Sequence[Segment], source: Integers, at: Integers, layout: Layout) -> Entries:
    """Entries at positions of several segments, in the order given, in one layout."""
    here = [np.flatnonzero(source == number) for number in range(len(segments))]
    parts = [
        _laid_out(segment.entries(at[places]), segment.layout, layout)
        for segment, places in zip(segments, here, strict=True)
        if len(places)
    ]
    order = np.argsort(np.concatenate(here))
    back = arrow.array(order)
    return Entries(
        Users(
            arrow.concat_arrays([part.users.ids for part in parts]).take(back),
            np.concatenate([part.users.hashes for part in parts])[order],
        ),
        np.concatenate([part.row_counts for part in parts])[order],
        np.concatenate([part.flags for part in parts])[order],
        arrow.concat_arrays([part.values for part in parts]).take(back),
    )


def _laid_out(entries: Entries, theirs: Layout, ours: Layout) -> Entries:
    """Entries in our layout; columns that are not theirs are null."""
    if theirs.width == ours.width and theirs.schema.equals(ours.schema):
        return entries
    is_there = entries.row_counts > 0
    row_counts = entries.row_counts[is_there].astype(np.int64)
    rows = conformed(unpack(theirs, row_counts, entries.values.filter(arrow.array(is_there))), ours.schema)
    _, packed = pack(rows, row_counts, least_width=ours.width)
    sizes = np.zeros(len(entries.row_counts), dtype=np.int64)
    sizes[is_there] = np.diff(offsets_in(packed))
    return entries._replace(values=binary(offsets_of(sizes), packed.buffers()[2]))


def conformed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of a schema; those that the rows do not have are null."""
    has = set(rows.column_names)
    columns = [
        rows[name].cast(kind) if name in has else arrow.nulls(len(rows), kind)
        for name, kind in zip(schema.names, schema.types, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def _concatenated(arrays: Sequence[NDArray[Any]], kind: type[np.generic]) -> NDArray[Any]:
    return np.concatenate(arrays).astype(kind)


def _flags(array: Any) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = array.to_numpy(zero_copy_only=False).astype(bool)
    return flags
