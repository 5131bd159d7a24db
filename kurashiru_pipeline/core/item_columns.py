"""Items of many users at once, built column by column as the JSON that goes over the wire, and their hashes.

Here: what core/items.py makes of one list, for Arrow columns of N lists; tests hold the two to each other.
Not here: the form of an item (core/items.py), requests (serving/dynamodb.py).

A list that whole columns do not take, such as one with text that JSON escapes, is built one by one by core/items.py,
which also says what is wrong with it.
"""

from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b
from itertools import pairwise
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kurashiru_pipeline.core.columns import (
    MICROS_PER_SECOND,
    Bools,
    Ints,
    column_micros,
    constants,
    micros,
    starts,
    strings,
    take,
    to_numpy,
)
from kurashiru_pipeline.core.items import (
    CODE_OF_KIND,
    CODE_OF_PLAIN,
    MAX_ANCHOR_CHARACTERS,
    MAX_ITEM_BYTES,
    build_item,
    content_hash,
    item_bytes,
    number_bytes,
    recipe_count,
)

_KINDS = constants(*CODE_OF_KIND)
_PLAIN = constants(*CODE_OF_PLAIN)
_REASON = rf"^(?P<kind>[^:]*):(?P<anchor>(?s:.{{1,{MAX_ANCHOR_CHARACTERS}}}))"
_ESCAPED = np.isin(np.arange(256), [*range(0x20), *b'"\\'])
"""Whether JSON escapes a byte of UTF-8 text."""
_ESCAPED_OR_COMMA = _ESCAPED | (np.arange(256) == ord(","))
_MOST_EXACT = 2.0**53
_HEXADECIMAL_DIGITS = 32


@dataclass(frozen=True)
class EncodedItems:
    """N items of different users: DynamoDB's JSON of each, and how many recipes did not fit into it."""

    user_ids: list[str]
    items: list[bytes]
    dropped_recipes: Ints


def encode_lists(lists: pa.Table, expires_at: datetime) -> EncodedItems:
    """The items that `build_item` makes of N lists, as JSON.

    Args:
        lists: user_id, version (int64), recipe_ids, reasons and scores (lists of one length, not empty), algorithm,
            generated_at; no nulls.
        expires_at: naive UTC, kept to seconds.

    Raises:
        ValueError: what `build_item` raises, for the first list it does not take.
    """
    count = lists.num_rows
    ids, reasons, scores = (_Lists.of(lists[name]) for name in ("recipe_ids", "reasons", "scores"))
    is_unfit = (ids.sizes == 0) | (ids.sizes != reasons.sizes) | (ids.sizes != scores.sizes)
    for column in (ids, reasons, scores):
        is_unfit |= column.any(_is_null(column.values))
    if is_unfit.any():
        _build_one(lists, int(is_unfit.argmax()), expires_at)  # raises
    user_ids, algorithms = strings(lists["user_id"]), strings(lists["algorithm"])
    versions = to_numpy(lists["version"], 0)
    generated = column_micros(lists["generated_at"]) // MICROS_PER_SECOND
    expires = micros(expires_at) // MICROS_PER_SECOND

    id_sizes = _sizes(ids.values)
    is_odd = ids.any(_holds(ids.values, _ESCAPED_OR_COMMA) | (id_sizes == 0))
    is_odd |= _holds(user_ids, _ESCAPED) | _holds(algorithms, _ESCAPED)
    scaled = np.rint(1000 * to_numpy(scores.values, 0).astype(np.float64))
    is_exact = np.abs(scaled) < _MOST_EXACT
    is_odd |= ids.any(~is_exact)
    thousandths = pa.array(np.where(is_exact, scaled, 0).astype(np.int64)).cast(pa.string())
    coded = _encode_reasons(reasons)
    is_odd |= ids.any(coded.is_odd)

    cost = id_sizes + _sizes(coded.codes) + _sizes(thousandths) + 3
    cost[coded.introduces] += coded.anchor_sizes + (coded.positions > 0)
    spent = starts(cost)
    spent = spent[1:] - np.repeat(spent[ids.starts[:-1]], ids.sizes)
    fixed = _FIXED_BYTES + number_bytes(str(expires)) + _number_sizes(versions) + _number_sizes(generated)
    fixed += _sizes(user_ids) + _sizes(algorithms)
    fits = spent <= np.repeat(MAX_ITEM_BYTES + 3 - fixed, ids.sizes)  # the first of each list has no commas
    kept = ids.count(fits)
    is_odd |= kept == 0
    offsets = starts(kept)

    encoded = _concatenate(
        '{"user_id":{"S":"',
        user_ids,
        '"},"version":{"N":"',
        pa.array(versions).cast(pa.string()),
        '"},"recipe_ids":{"S":"',
        _joined(_only(ids.values, fits), offsets),
        '"},"reasons":{"S":"',
        _joined(_only(coded.codes, fits), offsets),
        '"},"anchors":{"S":"',
        _joined(_only(coded.anchors, fits[coded.introduces]), starts(ids.count(coded.introduces & fits))),
        '"},"scores":{"S":"',
        _joined(_only(thousandths, fits), offsets),
        '"},"algorithm":{"S":"',
        algorithms,
        '"},"generated_at":{"N":"',
        pa.array(generated).cast(pa.string()),
        f'"}},"expires_at":{{"N":"{expires}"}}}}',
    )
    items: list[bytes] = encoded.cast(pa.binary()).to_pylist()
    dropped = ids.sizes - kept
    for row in np.flatnonzero(is_odd).tolist():
        item = _build_one(lists, row, expires_at)
        items[row] = orjson.dumps(item)
        dropped[row] = ids.sizes[row] - recipe_count(item)
    assert len(items) == count
    return EncodedItems(user_ids.to_pylist(), items, dropped)


def content_hashes(recipe_ids: Any, reasons: Any) -> Any:
    """`content_hash` of N lists.

    Args:
        recipe_ids, reasons: list columns of N rows.

    Returns:
        A string array of N rows.
    """
    columns = [_Lists.of(recipe_ids), _Lists.of(reasons)]
    is_odd = np.zeros(len(columns[0].sizes), dtype=bool)
    for column in columns:
        is_odd |= (column.sizes == 0) | column.any(_holds(column.values, _ESCAPED) | _is_null(column.values))
    texts = _concatenate('[["', columns[0].joined('","'), '"],["', columns[1].joined('","'), '"]]')
    content = memoryview(texts.buffers()[2] or b"")
    ends = _offsets(texts).tolist()
    digests = [blake2b(content[start:end], digest_size=16).digest() for start, end in pairwise(ends)]
    for row in np.flatnonzero(is_odd).tolist():
        digests[row] = bytes.fromhex(content_hash(recipe_ids[row].as_py(), reasons[row].as_py()))
    offsets = np.arange(len(digests) + 1, dtype=np.int32) * _HEXADECIMAL_DIGITS
    hexadecimal = b"".join(digests).hex().encode()
    return pa.StringArray.from_buffers(len(digests), pa.py_buffer(offsets.tobytes()), pa.py_buffer(hexadecimal))


@dataclass(frozen=True)
class _Lists:
    """A list column of N rows: F values, one list after the other, and where each list begins and the last ends."""

    values: Any
    starts: Ints

    @classmethod
    def of(cls, column: Any) -> "_Lists":
        whole: Any = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        offsets = whole.offsets.to_numpy().astype(np.int64)
        values = whole.flatten()
        return cls(strings(values) if _is_text(values) else values, offsets - offsets[0])

    @property
    def sizes(self) -> Ints:
        return np.diff(self.starts)

    def count(self, flags: Bools) -> Ints:
        """(N,) how many of a list's values have their flag set."""
        return np.diff(starts(flags)[self.starts])

    def any(self, flags: Bools) -> Bools:
        """(N,) whether a value of the list has its flag set."""
        return self.count(flags) > 0 if flags.any() else np.zeros(len(self.starts) - 1, dtype=bool)

    def joined(self, separator: str) -> Any:
        return _joined(self.values, self.starts, separator)


@dataclass(frozen=True)
class _Reasons:
    """F reasons as codes; G of them introduce an anchor, which is the next one of their list.

    Attributes:
        codes: (F,) texts.
        introduces: (F,) whether it does.
        anchors: (G,) texts, escaped as in the contract.
        anchor_sizes: (G,) their bytes.
        positions: (G,) of the anchor in its list's.
        is_odd: (F,) unknown, or its anchor holds what JSON escapes.
    """

    codes: Any
    introduces: Bools
    anchors: Any
    anchor_sizes: Ints
    positions: Ints
    is_odd: Bools


def _encode_reasons(reasons: _Lists) -> _Reasons:
    dictionary = reasons.values.dictionary_encode()
    words, word = dictionary.dictionary, to_numpy(dictionary.indices, 0)
    parts = pc.extract_regex(words, _REASON)
    kind = to_numpy(pc.index_in(pc.struct_field(parts, "kind"), _KINDS), -1)
    plain = to_numpy(pc.index_in(words, _PLAIN), -1)
    anchors = pc.struct_field(parts, "anchor")
    anchors = pc.replace_substring(pc.replace_substring(anchors, "%", "%25"), ",", "%2C")
    is_named = (kind >= 0) & (plain < 0)
    is_odd = ((kind < 0) & (plain < 0)) | _holds(anchors, _ESCAPED)

    distinct = anchors.dictionary_encode()
    row = np.repeat(np.arange(len(reasons.sizes)), reasons.sizes)
    named = np.flatnonzero(is_named[word])
    anchor = to_numpy(distinct.indices, 0)[word[named]].astype(np.int64)
    # Numbers in order of first use: within a list one after the other, since a key belongs to one list.
    keys = pa.array(row[named] * max(1, len(distinct.dictionary)) + anchor).dictionary_encode()
    number = to_numpy(keys.indices, 0).astype(np.int64)
    is_new = np.diff(np.maximum.accumulate(number), prepend=-1) > 0
    introduces = np.zeros(len(word), dtype=bool)
    introduces[named[is_new]] = True
    position = number - starts(reasons.count(introduces))[row[named]]

    width = position.max(initial=0) + 1
    letters = [f"{letter}{at}" for letter in CODE_OF_KIND.values() for at in range(width)]
    code = len(letters) + plain[word].astype(np.int64)
    code[named] = kind[word[named]].astype(np.int64) * width + position
    new_anchors = take(distinct.dictionary, anchor[is_new])
    return _Reasons(
        codes=take(constants(*letters, *CODE_OF_PLAIN.values()), code),
        introduces=introduces,
        anchors=new_anchors,
        anchor_sizes=_sizes(new_anchors),
        positions=position[is_new],
        is_odd=is_odd[word],
    )


def _build_one(lists: pa.Table, row: int, expires_at: datetime) -> Any:
    [given] = lists.slice(row, 1).to_pylist()
    names = ("recipe_ids", "reasons", "scores", "algorithm", "version", "generated_at")
    return build_item(given["user_id"], **{name: given[name] for name in names}, expires_at=expires_at)


def _joined(values: Any, offsets: Ints, separator: str = ",") -> Any:
    make: Any = pa.ListArray.from_arrays
    return pc.binary_join(make(pa.array(offsets, pa.int32()), values), separator)


def _concatenate(*parts: Any) -> Any:
    return pc.binary_join_element_wise(*parts, "")


def _only(values: Any, flags: Bools) -> Any:
    return values if flags.all() else values.filter(pa.array(flags))


def _number_sizes(numbers: Ints) -> Ints:
    """Bytes that DynamoDB counts for each number."""
    distinct, at = np.unique(numbers, return_inverse=True)
    return np.array([number_bytes(str(number)) for number in distinct.tolist()], dtype=np.int64)[at]


def _sizes(texts: Any) -> Ints:
    """Bytes of each text."""
    return np.diff(_offsets(texts))


def _holds(texts: Any, is_searched: Bools) -> Bools:
    """Whether each text holds one of the bytes that `is_searched` flags, of all 256."""
    ends = _offsets(texts)
    content = np.frombuffer(texts.buffers()[2] or b"", dtype=np.uint8)[ends[0] : ends[-1]]
    found = np.flatnonzero(is_searched[content])
    holds: Bools = np.diff(np.searchsorted(found, ends - ends[0])) > 0
    return holds


def _offsets(texts: Any) -> Ints:
    """(N + 1,) where each text of a string array begins in its buffer, and the last ends."""
    if not len(texts):
        return np.zeros(1, dtype=np.int64)
    raw: NDArray[np.int32] = np.frombuffer(texts.buffers()[1], dtype=np.int32)
    return raw[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)


def _is_null(values: Any) -> Bools:
    if not values.null_count:
        return np.zeros(len(values), dtype=bool)
    nulls: Bools = to_numpy(values.is_null(), True)
    return nulls


def _is_text(values: Any) -> bool:
    return not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type))


_FIXED_BYTES = item_bytes(
    {
        **{name: {"S": ""} for name in ("user_id", "recipe_ids", "reasons", "anchors", "scores", "algorithm")},
        **{name: {"S": ""} for name in ("version", "generated_at", "expires_at")},
    }
)
"""Of an item without its values."""
