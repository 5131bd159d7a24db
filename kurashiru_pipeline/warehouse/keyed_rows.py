"""Rows of many users to one value a user, and back: slices of Arrow's buffers, no Python object a cell.

Here: the form in which a keyed table keeps the rows of a user.
Not here: where values are kept (keyed_segment.py, keyed_state.py), or which tables there are (keyed_tables.py).

A column becomes pieces: of fixed width, which of its values are there (nothing, if all are) and the values; texts
their lengths and their bytes; lists their lengths and the pieces of their elements. A user's value is the size of each
piece, and then the pieces.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Integers = NDArray[np.int64]
# Typed Any, since the stubs refuse sound code.
arrow: Any = pa
compute: Any = pc
numpy: Any = np

_NARROW, _WIDE = np.dtype("<u2"), np.dtype("<u4")


class Layout(NamedTuple):
    """How values are written.

    Attributes:
        schema: integers, doubles, timestamps, booleans, texts, and lists of those.
        width: bytes of a size or a length, whose largest number stands for null: 2, or 4 where something is long.
    """

    schema: pa.Schema
    width: int

    @property
    def unit(self) -> "np.dtype[Any]":
        return _NARROW if self.width == _NARROW.itemsize else _WIDE


def pack(rows: pa.Table, row_counts: Integers, *, least_width: int = 0) -> tuple[Layout, Any]:
    """Rows of users one after the other, to a binary array of one value a user.

    Args:
        rows: without the key; less than two gigabytes.
        row_counts: rows of each user, in their order.
        least_width: of the layout.
    """
    starts = offsets_of(row_counts)
    pieces = [piece for column in rows.columns for piece in _pieces(whole(column), starts)]
    is_long = any(piece.longest >= np.iinfo(_NARROW).max for piece in pieces)
    layout = Layout(rows.schema.remove_metadata(), _WIDE.itemsize if is_long else max(least_width, _NARROW.itemsize))
    written = [piece.written(layout.unit) for piece in pieces]
    sizes = np.stack([_numbers(compute.binary_length(piece)) for piece in written], axis=1).astype(layout.unit)
    head = binary(np.arange(len(starts)) * sizes.shape[1] * layout.width, arrow.py_buffer(sizes))
    return layout, compute.binary_join_element_wise(head, *written, pa.scalar(b"", pa.large_binary()))


def unpack(layout: Layout, row_counts: Integers, values: Any) -> pa.Table:
    """The rows again, users one after the other.

    Args:
        row_counts, values: of each user, in one order; less than two gigabytes.
    """
    reader = _Reader(layout, values)
    columns = [reader.column(kind, row_counts) for kind in layout.schema.types]
    return pa.Table.from_arrays(columns, schema=layout.schema)


class _Piece(NamedTuple):
    """A piece of every user, user i's from `offsets[i]` to `offsets[i + 1]`: bytes, or lengths (null: -1)."""

    offsets: Integers
    data: pa.Buffer | Integers

    @property
    def longest(self) -> int:
        """The largest number that is written of it, if numbers are narrow."""
        size = int(np.diff(self.offsets).max(initial=0))
        if isinstance(self.data, pa.Buffer):
            return size
        return max(int(self.data.max(initial=0)), size * _NARROW.itemsize)

    def written(self, unit: "np.dtype[Any]") -> Any:
        if isinstance(self.data, pa.Buffer):
            return binary(self.offsets, self.data)
        return binary(self.offsets * unit.itemsize, arrow.py_buffer(self.data.astype(unit)))


def _pieces(array: Any, starts: Integers) -> Iterator[_Piece]:
    """Of an array whose elements from `starts[i]` to `starts[i + 1]` are user i's."""
    if pa.types.is_string(array.type) or pa.types.is_list(array.type):
        is_text = pa.types.is_string(array.type)
        lengths = _numbers(
            (compute.binary_length(array) if is_text else compute.list_value_length(array)).fill_null(-1)
        )
        yield _Piece(starts, lengths)
        inner = offsets_of(np.maximum(lengths, 0))[starts]
        if is_text:
            texts = array.fill_null("") if array.null_count else array  # behind a null there may be bytes
            _, offsets, data = texts.buffers()
            first = numpy.frombuffer(offsets, np.int32)[texts.offset] if len(texts) else 0
            yield _Piece(inner + first, data or arrow.py_buffer(b""))
        else:
            yield from _pieces(array.flatten(), inner)
        return
    if array.null_count:
        yield _Piece(starts, arrow.py_buffer(array.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8)))
    else:
        yield _Piece(np.zeros_like(starts), arrow.py_buffer(b""))
    numbers = _fixed(array)
    yield _Piece(starts * numbers.itemsize, arrow.py_buffer(numbers))


class _Reader:
    """The pieces, one column after the other."""

    def __init__(self, layout: Layout, values: Any) -> None:
        self._unit = layout.unit
        width = sum(map(_piece_count, layout.schema.types))
        starts = offsets_in(values)
        head_ends = starts[:-1] + width * layout.width
        data = values.buffers()[2] or arrow.py_buffer(b"")
        # Head and body of every user in turn: what `take` picks comes out in one piece.
        heads = binary(np.append(np.stack([starts[:-1], head_ends], axis=1).ravel(), starts[-1]), data)
        self._sizes = numpy.frombuffer(_taken(heads, 0, 2), self._unit).reshape(len(values), width)
        bodies = _taken(heads, 1, 2)
        self._pieces = binary(offsets_of(self._sizes.ravel()), bodies)
        self._next = 0

    def column(self, kind: pa.DataType, counts: Integers) -> Any:
        """The next column, of which user i has `counts[i]` values."""
        count = int(counts.sum())
        if pa.types.is_string(kind) or pa.types.is_list(kind):
            lengths = numpy.frombuffer(self._piece(), self._unit)
            is_null = lengths == np.iinfo(self._unit).max
            offsets = offsets_of(np.where(is_null, 0, lengths))
            buffers = [_validity(~is_null), arrow.py_buffer(offsets.astype(np.int32))]
            if pa.types.is_string(kind):
                return arrow.Array.from_buffers(kind, count, [*buffers, self._piece()])
            inner = np.diff(offsets[offsets_of(counts)])
            return arrow.Array.from_buffers(kind, count, buffers, children=[self.column(kind.value_type, inner)])
        flags = np.ones(count, dtype=bool)
        is_flagged = np.repeat(self._sizes[:, self._next] > 0, counts)
        flags[is_flagged] = numpy.frombuffer(self._piece(), dtype=bool)
        data = self._piece()
        if pa.types.is_boolean(kind):
            data = _bits(numpy.frombuffer(data, dtype=bool))
        return arrow.Array.from_buffers(kind, count, [_validity(flags), data])

    def _piece(self) -> pa.Buffer:
        self._next += 1
        return _taken(self._pieces, self._next - 1, self._sizes.shape[1])


def _piece_count(kind: pa.DataType) -> int:
    return 1 + _piece_count(kind.value_type) if pa.types.is_list(kind) else 2


def _taken(pieces: Any, first: int, step: int) -> pa.Buffer:
    """The bytes of every `step`-th piece from `first` on."""
    taken: pa.Buffer = pieces.take(arrow.array(np.arange(first, len(pieces), step))).buffers()[2] or arrow.py_buffer(
        b""
    )
    return taken


def whole(column: Any) -> Any:
    whole = column.combine_chunks()
    return arrow.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole


def _fixed(array: Any) -> NDArray[Any]:
    """The values of an array of fixed width; those of nulls are any."""
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    elif pa.types.is_timestamp(array.type):
        array = array.view(pa.int64())
    dtype = np.dtype(array.type.to_pandas_dtype())
    numbers: NDArray[Any] = numpy.frombuffer(array.buffers()[1] or b"", dtype)
    return numbers[array.offset : array.offset + len(array)]


def _numbers(array: Any) -> Integers:
    numbers: Integers = array.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def offsets_in(values: Any) -> Integers:
    """(N + 1,) where each of N large binary values begins in their bytes, and where the last ends."""
    offsets: Integers = numpy.frombuffer(values.buffers()[1], np.int64)
    return offsets[values.offset : values.offset + len(values) + 1]


def offsets_of(sizes: NDArray[Any]) -> Integers:
    """(N + 1,) where each of N consecutive groups begins, and where the last ends."""
    offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


def binary(offsets: Integers, data: pa.Buffer) -> Any:
    """Binary array of what lies between N + 1 offsets of `data`; nothing is copied."""
    return arrow.Array.from_buffers(pa.large_binary(), len(offsets) - 1, [None, arrow.py_buffer(offsets), data])


def _bits(flags: NDArray[np.bool_]) -> pa.Buffer:
    bits: pa.Buffer = arrow.py_buffer(np.packbits(flags, bitorder="little"))
    return bits


def _validity(flags: NDArray[np.bool_]) -> pa.Buffer | None:
    return None if flags.all() else _bits(flags)
