"""Texts as Arrow lays them out (offsets into bytes): which word of a vocabulary each one is.

Here: a hash table over a vocabulary, look-ups, distinct texts. Not here: Arrow (columns.py).
"""

import numpy as np

from kurashiru_pipeline.core.columns import Bytes, Ints, Ints32

_SEED = np.uint64(0xCBF29CE484222325)
_PRIME = np.uint64(0x100000001B3)


def index_words(offsets: Ints32, data: Bytes, slots: Ints32) -> None:
    """Enter W different words into a hash table (open addressing).

    Args:
        offsets: (W + 1,) where each word begins in the data.
        slots: (a power of two, above W,), -1 before; the word in each slot afterwards.
    """
    for word in range(len(offsets) - 1):
        slots[_slot(offsets, data, slots, data, offsets[word], offsets[word + 1])] = word


def find_words(  # noqa: PLR0917 - arrays
    word_offsets: Ints32, word_data: Bytes, slots: Ints32, offsets: Ints32, data: Bytes, found: Ints
) -> None:
    """Fill the (N,) position of each of N texts among the words, -1 for the unknown."""
    for text in range(len(offsets) - 1):
        found[text] = slots[_slot(word_offsets, word_data, slots, data, offsets[text], offsets[text + 1])]


def distinct(offsets: Ints32, data: Bytes, slots: Ints32, firsts: Ints, number: Ints) -> int:
    """Number N texts by their first occurrence, and return how many are different; -1 if the table is too small.

    Args:
        slots: as for index_words; it holds half as many texts.
        firsts: (half the slots,) the first occurrence of each number.
        number: (N,).
    """
    count = 0
    for text in range(len(offsets) - 1):
        if text and _is_same(data, offsets[text - 1], offsets[text], data, offsets[text], offsets[text + 1]):
            number[text] = number[text - 1]
            continue
        slot = _slot(offsets, data, slots, data, offsets[text], offsets[text + 1])
        if slots[slot] < 0:
            if count == len(firsts):
                return -1
            slots[slot], number[text], firsts[count] = text, count, text
            count += 1
        else:
            number[text] = number[slots[slot]]
    return count


def _slot(  # noqa: PLR0917 - arrays
    word_offsets: Ints32, word_data: Bytes, slots: Ints32, data: Bytes, begin: int, end: int
) -> int:
    """The slot of a text, or the empty one where it would be entered (hash: FNV-1a)."""
    value = _SEED
    for at in range(begin, end):
        value = (value ^ np.uint64(data[at])) * _PRIME
    value ^= value >> np.uint64(29)
    last = len(slots) - 1
    slot = np.int64(value & np.uint64(last))
    while slots[slot] >= 0:
        word = slots[slot]
        if _is_same(word_data, word_offsets[word], word_offsets[word + 1], data, begin, end):
            break
        slot = (slot + 1) & last
    return slot  # type: ignore[return-value]


def _is_same(  # noqa: PLR0917 - two texts
    one: Bytes, begin: int, end: int, other: Bytes, other_begin: int, other_end: int
) -> bool:
    if end - begin != other_end - other_begin:
        return False
    for at in range(end - begin):  # noqa: SIM110 - compiled
        if one[begin + at] != other[other_begin + at]:
            return False
    return True
