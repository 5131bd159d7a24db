"""Lines that this process has just loaded, parsed where they lie in memory.

Here: Arrow columns of the events that the compiled parser takes (core/kernels/events.py), and the lines it leaves.
Not here: whether these are the lines that wait in the stream (ducklake.py), or the judgement of what is left
(sql/stage_parse.sql).
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from kurashiru_pipeline.core.events import MAX_HOURS_AHEAD
from kurashiru_pipeline.core.kernels.events import TEXTS, take_events
from kurashiru_pipeline.core.native import compiled

READERS: Final = 2
"""Threads that unpack and parse files; both release the interpreter."""

ENOUGH_LINES: Final = 2_000
"""Fewer lines SQL has parsed before the compiled parser is loaded."""

_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - naive UTC, as in the lake
_MICROSECOND: Final = timedelta(microseconds=1)
_Array: TypeAlias = "pa.Array[Any]"


@dataclass(frozen=True)
class FreshLines:
    """Lines of one load: tables like raw.behavior_events, one a file, each of one chunk, `payload` as string_view.

    Attributes:
        snapshot: the commit that made them visible, and nothing else in raw.behavior_events.
        loaded_at: their load time (naive UTC).
    """

    snapshot: int
    loaded_at: datetime
    files: Sequence[pa.Table]

    @property
    def line_count(self) -> int:
        return sum(file.num_rows for file in self.files)

    def parse(self, retention_days: int) -> tuple[pa.Table, pa.Table | None]:
        """Events that are good beyond doubt, typed as they are staged, and the other lines, if there are any."""
        earliest = (self.loaded_at - timedelta(days=retention_days) - _EPOCH) // _MICROSECOND
        latest = (self.loaded_at + timedelta(hours=MAX_HOURS_AHEAD) - _EPOCH) // _MICROSECOND
        with ThreadPoolExecutor(READERS) as readers:
            parsed = list(readers.map(lambda file: parse_lines(file, earliest, latest), self.files))
        left = [rest for _, rest in parsed if rest.num_rows]
        return pa.concat_tables([events for events, _ in parsed]), pa.concat_tables(left) if left else None


def parse_lines(file: pa.Table, earliest: int, latest: int) -> tuple[pa.Table, pa.Table]:
    """Events of a file's lines, and the lines that are none beyond doubt.

    Args:
        file: as FreshLines.files has them.
        earliest: least occurred_at (epoch microseconds) that is accepted.
        latest: greatest, likewise.
    """
    payload: Any = file["payload"].chunk(0)
    _, view_buffer, text_buffer = payload.buffers()
    views = np.frombuffer(view_buffer, dtype=np.int32).reshape(-1, 4)
    count = len(views)
    ids = np.empty((count, 16), dtype=np.uint8)
    moments, rows, rest = (np.empty(count, dtype=np.int64) for _ in range(3))
    texts = np.empty((len(TEXTS), count, 4), dtype=np.int32)
    present = np.empty((len(TEXTS), count), dtype=np.bool_)
    data = np.frombuffer(text_buffer, dtype=np.uint8)
    taken = compiled(take_events)(data, views, earliest, latest, ids, moments, texts, present, rows, rest)
    is_whole = taken == count
    columns: dict[str, Any] = {
        "event_id": _uuids(ids[:taken]),
        **{
            name: _texts(texts[number, :taken], present[number, :taken], text_buffer)
            for number, name in enumerate(TEXTS)
        },
        "occurred_at": pa.array(moments[:taken]).cast(pa.timestamp("us")),
        **{name: file[name].slice(0, taken) for name in ("file_name", "landed_at", "loaded_at")},
        "file_row_number": file["file_row_number"] if is_whole else pa.array(rows[:taken] + 1),
    }
    columns["properties"] = pa.ExtensionArray.from_storage(pa.json_(pa.string_view()), columns["properties"])
    left = rest[: count - taken]
    others = file.slice(0, len(left)).set_column(0, "payload", _view_array(views[left], text_buffer))
    return pa.table(columns), others.set_column(2, "file_row_number", pa.array(left + 1))


def _uuids(ids: "np.ndarray[Any, np.dtype[np.uint8]]") -> _Array:
    storage = pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(ids), [None, pa.py_buffer(ids.tobytes())])
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def _texts(
    views: "np.ndarray[Any, np.dtype[np.int32]]", present: "np.ndarray[Any, np.dtype[np.bool_]]", text: pa.Buffer
) -> _Array:
    validity = None if present.all() else pa.py_buffer(np.packbits(present, bitorder="little").tobytes())
    return _view_array(views, text, validity)


def _view_array(
    views: "np.ndarray[Any, np.dtype[np.int32]]", text: pa.Buffer, validity: pa.Buffer | None = None
) -> _Array:
    return pa.Array.from_buffers(pa.string_view(), len(views), [validity, pa.py_buffer(views.tobytes()), text])
