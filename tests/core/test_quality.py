"""Quantiles over lines, of which a file holds many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.quality import Freshness, freshness, weighted_quantile

files = st.lists(
    st.tuples(st.floats(-1e6, 1e6), st.integers(0, 50)),
    max_size=20,
)


@given(files, st.floats(0.001, 1.0))
def test_a_quantile_is_the_one_of_the_lines_written_out(given_files: list[tuple[float, int]], share: float) -> None:
    lines = sorted(value for value, count in given_files for _ in range(count))
    found = weighted_quantile([value for value, _ in given_files], [count for _, count in given_files], share)
    if not lines:
        assert found is None
    else:
        at_or_below = [value for value in lines if lines_up_to(lines, value) >= share * len(lines) - 1e-9]
        assert found == at_or_below[0]


def lines_up_to(lines: list[float], value: float) -> int:
    return sum(line <= value for line in lines)


@given(files, st.permutations(range(20)))
def test_the_order_of_files_does_not_matter(given_files: list[tuple[float, int]], order: list[int]) -> None:
    shuffled = [given_files[position] for position in order if position < len(given_files)]
    assert freshness(*columns(shuffled)) == freshness(*columns(given_files))


def columns(given_files: list[tuple[float, int]]) -> tuple[list[float], list[int]]:
    return [value for value, _ in given_files], [count for _, count in given_files]


@pytest.mark.parametrize(
    ("seconds", "line_counts", "expected"),
    [
        ([], [], Freshness(None, None)),
        ([3.0], [0], Freshness(None, None)),
        ([3.0], [1], Freshness(3.0, 3.0)),
        ([9.0, 1.0], [5, 95], Freshness(1.0, 1.0)),
        ([9.0, 1.0], [6, 94], Freshness(1.0, 9.0)),
        ([9.0, 1.0], [50, 50], Freshness(1.0, 9.0)),
        ([9.0, 1.0], [51, 49], Freshness(9.0, 9.0)),
        ([float(second) for second in range(1, 101)], [1] * 100, Freshness(50.0, 95.0)),
        ([float(second) for second in range(1, 101)], [10**12] * 100, Freshness(50.0, 95.0)),
    ],
)
def test_freshness(seconds: list[float], line_counts: list[int], expected: Freshness) -> None:
    assert freshness(seconds, line_counts) == expected
