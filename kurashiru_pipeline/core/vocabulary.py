"""Where texts stand in a vocabulary, by a hash table that is made once.

Here: vocabularies, and distinct texts. Not here: the table's loops (kernels/text.py). pyarrow's index_in makes its
table anew in every call.
"""

from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc

from kurashiru_pipeline.core.columns import Bytes, Ints, Ints32, strings, take, to_numpy
from kurashiru_pipeline.core.kernels import text
from kurashiru_pipeline.core.native import compiled

_FEWEST_SLOTS = 16


class Vocabulary:
    """W different words (an Arrow string array without nulls) by position; the table is made when first asked."""

    def __init__(self, words: Any) -> None:
        self._words = words

    @cached_property
    def _table(self) -> tuple[Ints32, Bytes, Ints32]:
        offsets, data = layout(self._words)
        slots = _slots(len(self._words))
        compiled(text.index_words)(offsets, data, slots)
        return offsets, data, slots

    def find(self, texts: Any) -> Ints:
        """(N,) position of each text of a column among the words, -1 for the unknown and the null."""
        texts = strings(texts)
        found = np.empty(len(texts), np.int64)
        compiled(text.find_words)(*self._table, *layout(texts), found)
        if texts.null_count:
            found[to_numpy(pc.is_null(texts), True)] = -1
        return found


def numbered(texts: Any) -> tuple[Any, Ints]:
    """The distinct texts of a string array, in order, and the (N,) position of each text among them.

    Raises:
        ValueError: a text is null.
    """
    if texts.null_count:
        raise ValueError("texts must not be null")
    where, number = layout(texts), np.empty(len(texts), np.int64)
    slots, count = _slots(len(texts) // 16), -1
    while count < 0:
        firsts = np.empty(len(slots) // 2, np.int64)
        count = compiled(text.distinct)(*where, slots, firsts, number)
        slots = np.full(2 * len(slots), -1, np.int32)
    words = take(texts, firsts[:count])
    order = to_numpy(pc.sort_indices(words), 0).astype(np.int64)
    place = np.empty(count, np.int64)
    place[order] = np.arange(count)
    return take(words, order), place[number]


def layout(texts: Any) -> tuple[Ints32, Bytes]:
    """Offsets and bytes of a string array."""
    _, offsets, data = texts.buffers()
    if not len(texts) or offsets is None:
        return np.zeros(1, np.int32), np.zeros(0, np.uint8)
    begins = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return begins, np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)


def _slots(words: int) -> Ints32:
    """An empty table, less than half full with so many words."""
    size = max(_FEWEST_SLOTS, 1 << (2 * words).bit_length())
    return np.full(size, -1, np.int32)
