"""Between Arrow columns and NumPy arrays.

Here: the few conversions the kernel needs, for chunked, null, large or dictionary-encoded columns alike.
Not here: anything about recipes or users. Arrow values are typed Any, since its stubs refuse sound code.
"""

from datetime import UTC, datetime
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy import sparse

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints32 = NDArray[np.int32]
Floats32 = NDArray[np.float32]
Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
IntTable = Annotated[Ints, 2]
IntTable32 = Annotated[Ints32, 2]
FloatTable = Annotated[Floats, 2]
FloatTable32 = Annotated[Floats32, 2]
BoolTable = Annotated[Bools, 2]
WordTable = Annotated[Words, 2]

MICROS_PER_SECOND = 1_000_000
MICROS_PER_DAY = 86_400 * MICROS_PER_SECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of a moment; without a time zone it is taken as UTC."""
    since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def column_micros(column: Any) -> Ints:
    """(N,) microseconds since 1970 of a timestamp column (UTC, with or without a zone); null is 1970."""
    return to_numpy(column.cast(pa.timestamp("us", "UTC" if column.type.tz else None)).cast(pa.int64()), 0)


def to_numpy(column: Any, missing: object) -> NDArray[Any]:
    """A column of primitives as one array, nulls filled with `missing`."""
    return _whole(column).fill_null(missing).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def strings(column: Any) -> Any:
    """A text column (plain, large, dictionary or null) as one plain string array."""
    return _whole(column).cast(pa.string())


def constants(*texts: str) -> Any:
    """A string array of a module's own words. (pa.array of a list would import pandas: 0.3 s of a process's start.)"""
    words = [text.encode() for text in texts]
    offsets = np.cumsum([0, *map(len, words)], dtype=np.int32)
    return pa.StringArray.from_buffers(len(words), pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(words)))


def vocabulary(texts: Any) -> Any:
    """The distinct texts of a string array in order, without null."""
    words: Any = pc.unique(texts.drop_null())
    return words.take(pc.sort_indices(words))


def positions(texts: Any, words: Any) -> Ints:
    """(N,) position of each text in `words`, -1 for the unknown and the null."""
    return to_numpy(pc.index_in(strings(texts), words), -1).astype(np.int64)


def take(values: Any, at: Ints) -> Any:
    """The values at N positions."""
    return values.take(pa.array(at))


def flatten(column: Any) -> tuple[Ints, Any]:
    """A list column as (row of each value, values); null lists and null values are left out."""
    lists = _whole(column)
    rows, values = pc.list_parent_indices(lists), pc.list_flatten(lists)
    if values.null_count:
        known = pc.is_valid(values)
        rows, values = rows.filter(known), values.filter(known)
    return to_numpy(rows, 0).astype(np.int64), values


def unrolled(column: Any) -> tuple[Ints, Any]:
    """A list column as (N + 1,) offsets and values; null lists and null values are left out."""
    rows = _whole(column)
    if rows.null_count:
        row, values = flatten(rows)
        return starts(np.bincount(row, minlength=len(rows))), values
    values = pc.list_flatten(rows)
    if values.null_count:
        row, values = flatten(rows)
        return starts(np.bincount(row, minlength=len(rows))), values
    offsets = to_numpy(rows.offsets, 0).astype(np.int64)
    return offsets - offsets[0], values


def flat(column: Any) -> Any:
    """The values of a list column, one list after the other, without nulls."""
    return pc.list_flatten(_whole(column)).drop_null()


def lists(rows: Ints, size: int, values: Any) -> Any:
    """The opposite of `flatten`: a list column of `size` rows from values in the order of their rows."""
    return listed(starts(np.bincount(rows, minlength=size)), values)


def listed(offsets: Ints, values: Any) -> Any:
    """The opposite of `unrolled`: a list column."""
    make: Any = pa.ListArray.from_arrays
    return make(pa.array(offsets, pa.int32()), pa.array(values) if isinstance(values, np.ndarray) else values)


def padded(sizes: Ints, values: NDArray[Any], missing: float, spare: int = 1) -> NDArray[Any]:
    """(N, longest + spare) table of N consecutive groups of values, rows filled up with `missing`, which -1 finds."""
    table = np.full((len(sizes), sizes.max(initial=0) + spare), missing, dtype=values.dtype)
    table[np.arange(table.shape[1]) < sizes[:, None]] = values
    return table


def starts(sizes: NDArray[Any]) -> Ints:
    """(N + 1,) offsets of N consecutive groups of these sizes."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


def ranges(first: Ints, sizes: Ints) -> Ints:
    """The numbers first[k] .. first[k] + sizes[k] - 1 of every k, one after the other."""
    return np.arange(sizes.sum()) + np.repeat(first - starts(sizes)[:-1], sizes)


def csr(values: NDArray[Any], columns: Ints, offsets: Ints, width: int) -> Any:
    """(len(offsets) - 1, width) CSR matrix with 32-bit positions wherever they fit."""
    index = np.int32 if max(len(values), width) < 2**31 else np.int64
    parts = (values, columns.astype(index), offsets.astype(index))
    return sparse.csr_array(parts, shape=(len(offsets) - 1, width))


def _whole(column: Any) -> Any:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
