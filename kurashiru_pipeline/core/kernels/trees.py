"""An ensemble of regression trees, such as LightGBM's, over many rows at once.

Here: the walk through all trees, without a branch (QuickScorer: Lucchese et al., SIGIR 2015).
Not here: how a model's text becomes arrays (model.py).
"""

from typing import NamedTuple

import numpy as np

from kurashiru_pipeline.core.columns import Floats, FloatTable, Ints, Words

MOST_LEAVES = 64
ROWS_AT_ONCE = 64
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
DE_BRUIJN = 0x03F79D71B4CB0A89
"""Multiplied by a single bit, its highest six bits are different for each of the 64 bits."""


class Ensemble(NamedTuple):
    """T trees of N nodes.

    `offsets` (T + 1,) are the nodes of each tree. A row goes right at a node where its `feature` is above the
    `threshold`; then `reachable` (N,) has a bit for each leaf of the tree, from left to right, that it can still reach:
    the lowest bit that remains after all nodes is the row's leaf. Of the tree's 64 places in `values`, the leaf's is
    (1 << leaf) * DE_BRUIJN >> 58.
    """

    offsets: Ints
    feature: Ints
    threshold: Floats
    reachable: Words
    values: Floats


def predict(features: FloatTable, ensemble: Ensemble, columns: Floats, leaves: Words, scores: Floats) -> None:
    """Fill the (N,) sums of what all trees say of N rows, tree by tree.

    Args:
        features: (N, F), finite.
        columns, leaves: scratch, (F * ROWS_AT_ONCE,), finite, and (ROWS_AT_ONCE,).
    """
    count, width = features.shape
    for start in range(0, count, ROWS_AT_ONCE):
        size = min(ROWS_AT_ONCE, count - start)
        for row in range(size):
            scores[start + row] = 0.0
            for column in range(width):
                columns[column * ROWS_AT_ONCE + row] = features[start + row, column]
        for tree in range(len(ensemble.offsets) - 1):
            for row in range(ROWS_AT_ONCE):
                leaves[row] = _ALL
            for node in range(ensemble.offsets[tree], ensemble.offsets[tree + 1]):
                of, limit = ensemble.feature[node] * ROWS_AT_ONCE, ensemble.threshold[node]
                rest = ensemble.reachable[node]
                for row in range(ROWS_AT_ONCE):
                    leaves[row] &= rest if columns[of + row] > limit else _ALL
            for row in range(size):
                lowest = leaves[row] & (~leaves[row] + np.uint64(1))
                place = np.int64((lowest * np.uint64(DE_BRUIJN)) >> np.uint64(58))
                scores[start + row] += ensemble.values[tree * MOST_LEAVES + place]
