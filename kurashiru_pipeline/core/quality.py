"""Figures that tell how good the data is: freshness quantiles and rates.

Here: pure arithmetic on small arrays.
Not here: where the figures come from or what is done about them (realtime/checks.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Freshness:
    """Seconds from a line's file landing to its recommendation being readable, over lines; None without lines."""

    p50: float | None
    p95: float | None


def freshness(seconds: Sequence[float], line_counts: Sequence[int]) -> Freshness:
    """Line-weighted quantiles of per-file delays.

    Args:
        seconds: (F,) delay of each file.
        line_counts: (F,) lines in each file.
    """
    return Freshness(weighted_quantile(seconds, line_counts, 0.50), weighted_quantile(seconds, line_counts, 0.95))


def weighted_quantile(values: Sequence[float], weights: Sequence[int], share: float) -> float | None:
    """Smallest value with at least `share` of the total weight at or below it; None when there is no weight."""
    total = sum(weights)
    if total <= 0:
        return None
    order = np.argsort(np.asarray(values, dtype=float), kind="stable")
    reached = np.cumsum(np.asarray(weights, dtype=float)[order])
    position = int(np.searchsorted(reached, share * total - 1e-9))
    return float(np.asarray(values, dtype=float)[order][min(position, len(order) - 1)])
