"""Ids of the events staged lately, beside the lake: which events of a micro-batch were delivered before.

Here: sorted files of ids that never change, one a micro-batch, merged as they become many, removed as they grow old.
Not here: what counts as staged (the lake says so, and fills what is missing here), or the same question in SQL
(sql/stage_repeats.sql), whose answer this is.

The file of a micro-batch is written after its commit. If that is missing, whatever the reason, the lake is asked for
the ids of the micro-batches that no file covers; so nothing here can be wrong, only late.
"""

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import orjson
from numpy.typing import NDArray

from kurashiru_pipeline.core.columns import Bools, Ints, Words

FAN_IN: Final = 4
MERGED_IDS: Final = 1 << 22
"""Ids of a merged file, at most: 96 megabytes."""

_ENDING: Final = ".ids"
_UNFINISHED: Final = "unfinished"  # one name, so that what a killed process left is written over
_MAGIC: Final = b"eventids"
_TAIL: Final = 16
_NEVER: Final = -(1 << 62)


class Staged(NamedTuple):
    """Events with a load time, in any order of ids until `sort`.

    Attributes:
        high, low: (N,) halves of the event ids, as unsigned numbers.
        loaded_at: (N,) epoch microseconds.
    """

    high: Words
    low: Words
    loaded_at: Ints

    def take(self, at: NDArray[Any]) -> "Staged":
        return Staged(self.high[at], self.low[at], self.loaded_at[at])

    def order(self) -> Ints:
        """Positions in the order of the ids; of one id in the order given."""
        order = np.argsort(self.high)
        ordered = self.high[order]
        follows = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(follows):
            at = np.union1d(follows, follows + 1)
            tied = order[at]
            order[at] = tied[np.lexsort((tied, self.low[tied], self.high[tied]))]
        return order


def halves(event_ids: Any) -> tuple[Words, Words]:
    """High and low halves of a chunked column of Arrow UUIDs without null."""
    parts = [
        np.frombuffer(chunk.storage.buffers()[1], dtype=">u8")[2 * chunk.offset : 2 * (chunk.offset + len(chunk))]
        for chunk in event_ids.chunks
        if len(chunk)
    ]
    words = np.concatenate([np.empty(0, dtype=">u8"), *parts]).reshape(-1, 2)
    return words[:, 0].astype(np.uint64), words[:, 1].astype(np.uint64)


@dataclass(frozen=True)
class Pending:
    """The ids of a micro-batch that is not committed yet; times are load times in epoch microseconds.

    Attributes:
        first: the earliest micro-batch whose ids no older file has.
        last: the micro-batch.
        since: of these micro-batches nothing that was loaded from here on is missing.
        older_to: what is in older files was loaded until here.
    """

    first: int
    last: int
    since: int
    older_to: int
    ids: Staged


class EventIds:
    """The ids in a folder, of which the lake's only writer is the only writer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.bytes_read = 0

    def repeats(
        self,
        batch_id: int,
        delivered: Staged,
        since: int,
        staged: Callable[[int, int], Staged],
    ) -> tuple[Bools, Pending]:
        """Which delivered events were delivered before: in the micro-batch, or staged with a load time from `since` on.

        Args:
            batch_id: the micro-batch.
            delivered: its events, in the order in which the first of an id counts.
            since: epoch microseconds.
            staged: events the lake has of micro-batches from the one to the other, loaded from `since` on.

        Returns:
            A flag an event, and what to add once the micro-batch is committed.
        """
        files = self._files(batch_id, since)
        first = files[-1].last + 1 if files else 0
        older: list[Staged] = [file.ids for file in files]
        older_to = _loaded_to(files)
        if first < batch_id:
            missing = staged(first, batch_id - 1)
            missing = missing.take(missing.order())
            if len(missing.high):
                self._write(Pending(first, batch_id - 1, since, older_to, missing))
                older.append(missing)
                first, older_to = batch_id, max(older_to, int(missing.loaded_at.max()))
        order = delivered.order()
        ids = delivered.take(order)
        is_repeat = np.zeros(len(order), dtype=np.bool_)
        is_repeat[1:] = (ids.high[1:] == ids.high[:-1]) & (ids.low[1:] == ids.low[:-1])
        for one in older:
            is_repeat |= _are_in(ids, one, since)
            self.bytes_read += one.high.nbytes
        flags = np.empty_like(is_repeat)
        flags[order] = is_repeat
        return flags, Pending(first, batch_id, since, older_to, ids.take(np.flatnonzero(~is_repeat)))

    def add(self, pending: Pending) -> None:
        """What `repeats` returned of a micro-batch, which is committed now."""
        self._write(pending)
        files = self._files(pending.last + 1, pending.since)
        while len(newest := files[-FAN_IN:]) == FAN_IN and _is_due(newest):
            merged = Staged(*(np.concatenate(columns) for columns in zip(*(file.ids for file in newest), strict=True)))
            merged = merged.take(np.flatnonzero(merged.loaded_at >= pending.since))
            merged = merged.take(merged.order())
            self._write(Pending(newest[0].first, newest[-1].last, pending.since, newest[0].older_to, merged))
            files = self._files(pending.last + 1, pending.since)

    def _files(self, before: int, since: int) -> list["_File"]:
        """The files that cover micro-batches one after the other, up to one before `before`, the oldest first.

        Others are removed, as is what is older than all that was loaded from `since` on; and all of them, if something
        that was loaded from then on is missing.
        """
        chain: list[_File] = []
        for last, least, path in sorted(_named(self._folder), reverse=True):
            if (last == chain[-1].first - 1) if chain else (last < before):
                chain.append(_File(path, -least, last))
            else:
                path.unlink(missing_ok=True)
        is_complete = all(file.since <= since for file in chain) and (not chain or chain[-1].older_to < since)
        while chain and (not is_complete or (len(chain) > 1 and chain[-1].loaded_to < since)):
            chain.pop().path.unlink(missing_ok=True)
        return chain[::-1]

    def _write(self, pending: Pending) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        ids = pending.ids
        footer = orjson.dumps(
            {
                "count": len(ids.high),
                "since": pending.since,
                "older_to": pending.older_to,
                "loaded_to": int(ids.loaded_at.max(initial=_NEVER)),
            }
        )
        path = self._folder / f"{pending.first:012}-{pending.last:012}{_ENDING}"
        fresh = self._folder / _UNFINISHED
        with fresh.open("wb") as file:
            for column in ids:
                file.write(np.ascontiguousarray(column).data.cast("B") if len(column) else b"")
            file.write(footer + len(footer).to_bytes(8, "little") + _MAGIC)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)


class _File:
    """A file of ids, mapped into memory."""

    def __init__(self, path: Path, first: int, last: int) -> None:
        with path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if mapped[-8:] != _MAGIC:
            raise OSError(f"{path} is not a whole file of event ids; remove it, and the lake is asked for them")
        end = len(mapped) - _TAIL
        footer = orjson.loads(mapped[end - int.from_bytes(mapped[end : end + 8], "little") : end])
        count = footer["count"]
        self.path, self.first, self.last = path, first, last
        self.since: int = footer["since"]
        self.older_to: int = footer["older_to"]
        self.loaded_to: int = footer["loaded_to"]
        high, low = (np.frombuffer(mapped, np.uint64, count, 8 * count * place) for place in range(2))
        self.ids = Staged(high, low, np.frombuffer(mapped, np.int64, count, 16 * count))


def _loaded_to(files: Sequence[_File]) -> int:
    return max((file.loaded_to for file in files), default=_NEVER)


def _named(folder: Path) -> Iterator[tuple[int, int, Path]]:
    """(last micro-batch, the first negated, path) of each file; sorted downwards, a merged file is before its parts."""
    for path in folder.glob(f"*{_ENDING}"):
        first, last = path.stem.split("-")
        yield int(last), -int(first), path


def _is_due(files: list[_File]) -> bool:
    """Whether files become one: sizes stay a geometric series."""
    sizes = [len(file.ids.high) for file in files]
    return sum(sizes) <= MERGED_IDS and sizes[0] <= sum(sizes[1:])


def _are_in(ids: Staged, older: Staged, since: int) -> Bools:
    """Which ids, in their order, `older` has with a load time from `since` on."""
    found = np.zeros(len(ids.high), dtype=np.bool_)
    wanted = np.arange(len(ids.high))
    at = np.searchsorted(older.high, ids.high)
    while len(wanted):
        is_like = at < len(older.high)
        is_like[is_like] = older.high[at[is_like]] == ids.high[wanted[is_like]]
        wanted, at = wanted[is_like], at[is_like]
        same = (older.low[at] == ids.low[wanted]) & (older.loaded_at[at] >= since)
        found[wanted[same]] = True
        # The same first half may come again: other ids, or the same one staged twice, longer apart than the window.
        wanted, at = wanted[~same], at[~same] + 1
    return found
