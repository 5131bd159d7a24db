"""Many event lines at once, column by column: the pieces of a JSON line as Arrow strings, then one join.

Here: identifiers, times and lines as bytes, without a Python loop over events.
Not here: which events there are (simulate.py, replay.py), or files (landing.py).
"""

from typing import Any, TypeAlias

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Column: TypeAlias = "pa.Array[Any]"

_HEXADECIMAL = np.frombuffer(bytes(range(256)).hex().encode(), dtype="S2")


def mix(values: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """Hash 64-bit numbers to 64-bit numbers, one to one for a given salt (the finaliser of SplitMix64)."""
    mixed = values + np.uint64((salt * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def hexadecimal(numbers: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """The 16 hexadecimal digits of each number as ASCII codes, one row a number."""
    bytes_of = numbers.astype(">u8").view(np.uint8)
    return _HEXADECIMAL[bytes_of].view(np.uint8).reshape(len(numbers), 16)


def uuid_text(high: NDArray[np.uint64], low: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """UUIDs made of 2 x 64 bits (version 8, RFC 9562: custom) as ASCII codes, 36 columns."""
    versioned = (high & np.uint64(0xFFFFFFFFFFFF0FFF)) | np.uint64(0x8000)
    varied = (low & np.uint64(0x3FFFFFFFFFFFFFFF)) | np.uint64(0x8000000000000000)
    front, back = hexadecimal(versioned), hexadecimal(varied)
    text = np.full((len(high), 36), ord("-"), dtype=np.uint8)
    text[:, 0:8], text[:, 9:13], text[:, 14:18] = front[:, :8], front[:, 8:12], front[:, 12:]
    text[:, 19:23], text[:, 24:36] = back[:, :4], back[:, 4:]
    return text


def time_text(microseconds: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Epoch microseconds as the contract's UTC times with milliseconds, ASCII codes, 24 columns."""
    days, within = np.divmod(microseconds // 1000, 86_400_000)
    distinct, position = np.unique(days, return_inverse=True)
    dates = np.datetime_as_string(distinct.astype("datetime64[D]")).astype("S10")
    text = np.empty((len(microseconds), 24), dtype=np.uint8)
    text[:] = np.frombuffer(b"yyyy-mm-ddT00:00:00.000Z", dtype=np.uint8)
    text[:, :10] = dates.view(np.uint8).reshape(-1, 10)[position]
    minutes, seconds = np.divmod(within, 60_000)
    for column, place_value in ((11, 600), (12, 60), (14, 10), (15, 1)):
        text[:, column] += _digit(minutes, place_value, 6 if column == 14 else 10)
    for column, place_value in ((17, 10_000), (18, 1_000), (20, 100), (21, 10), (22, 1)):
        text[:, column] += _digit(seconds, place_value, 10)
    return text


def _digit(numbers: NDArray[np.int64], place_value: int, base: int) -> NDArray[np.uint8]:
    return (numbers // place_value % base).astype(np.uint8)


def text_column(codes: NDArray[np.uint8], before: bytes = b"", after: bytes = b"") -> Column:
    """Rows of ASCII codes, each between `before` and `after`, as an Arrow column of strings."""
    front = len(before)
    width = front + codes.shape[1] + len(after)
    text = np.empty((len(codes), width), dtype=np.uint8)
    text[:, :front] = np.frombuffer(before, dtype=np.uint8)
    text[:, front : width - len(after)] = codes
    text[:, width - len(after) :] = np.frombuffer(after, dtype=np.uint8)
    offsets = np.arange(len(codes) + 1, dtype=np.int32) * np.int32(width)
    return pa.StringArray.from_buffers(len(codes), pa.py_buffer(offsets.tobytes()), pa.py_buffer(text.tobytes()))


def pieces(texts: Column, codes: NDArray[np.integer]) -> Column:
    """The text at each code, as a column."""
    return texts.take(codes)


def field(name: str, value: str | None) -> str:
    """`"name":value,` as it stands in a JSON line."""
    return f'"{name}":{orjson.dumps(value).decode()},'


def join(*columns: "Column | str") -> Column:
    """The columns side by side; a plain string is the same on every row."""
    joined: Column = pc.binary_join_element_wise(*columns, "")  # type: ignore[call-overload]
    return joined


def content(lines: Column) -> bytes:
    """All lines (strings or binary) one after the other, as they stand in a file."""
    _, offsets, text = lines.buffers()
    if not len(lines) or offsets is None or text is None:
        return b""
    first, last = np.frombuffer(memoryview(offsets), dtype=np.int32)[[lines.offset, lines.offset + len(lines)]]
    return bytes(memoryview(text)[first:last])
