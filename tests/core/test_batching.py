"""Limits of micro-batches: within bounds, near the target, fixed when asked for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.batching import LARGEST_STEP, Bounds, next_limit

COUNTS = st.integers(1, 10**7)
SECONDS = st.floats(0, 1e5)


@st.composite
def all_bounds(draw: st.DrawFn) -> Bounds:
    minimum, maximum = sorted((draw(COUNTS), draw(COUNTS)))
    return Bounds(minimum, maximum, draw(st.floats(0.1, 1e3)))


@given(all_bounds(), COUNTS, COUNTS, SECONDS)
def test_a_limit_keeps_its_bounds_and_moves_in_steps(bounds: Bounds, limit: int, lines: int, seconds: float) -> None:
    following = next_limit(limit, lines=lines, seconds=seconds, bounds=bounds)
    assert bounds.minimum <= following <= bounds.maximum
    if bounds.minimum <= limit <= bounds.maximum:
        assert limit / LARGEST_STEP - 1 <= following <= limit * LARGEST_STEP + 1


@given(st.integers(1, 10**6), COUNTS, SECONDS)
def test_equal_bounds_fix_the_limit(limit: int, lines: int, seconds: float) -> None:
    bounds = Bounds(limit, limit, 10)
    assert next_limit(limit, lines=lines, seconds=seconds, bounds=bounds) == limit


@given(all_bounds(), COUNTS, COUNTS, SECONDS, SECONDS)
def test_who_took_longer_gets_no_more(bounds: Bounds, limit: int, lines: int, one: float, other: float) -> None:
    short, long = sorted((one, other))
    if short > 0:
        assert next_limit(limit, lines=lines, seconds=long, bounds=bounds) <= next_limit(
            limit, lines=lines, seconds=short, bounds=bounds
        )


@given(st.data(), all_bounds(), SECONDS)
def test_a_little_that_was_all_says_nothing(data: st.DataObject, bounds: Bounds, seconds: float) -> None:
    limit = data.draw(st.integers(bounds.minimum, bounds.maximum))
    lines = data.draw(st.integers(0, (limit - 1) // 2))
    assert next_limit(limit, lines=lines, seconds=seconds, bounds=bounds) == limit


@given(st.floats(0.01, 5), st.floats(1e-6, 1e-3))
def test_it_settles_on_the_target_from_below(fixed_seconds: float, seconds_a_line: float) -> None:
    bounds = Bounds(100, 10**9, 10)
    limit = bounds.minimum
    for _ in range(60):
        seconds = fixed_seconds + seconds_a_line * limit
        assert seconds <= bounds.target_seconds * 1.01, "the first steps are too short, never too long"
        limit = next_limit(limit, lines=limit, seconds=seconds, bounds=bounds)
    assert fixed_seconds + seconds_a_line * limit == pytest.approx(bounds.target_seconds, rel=0.01)


@pytest.mark.parametrize(("minimum", "maximum", "target"), [(0, 5, 1), (5, 4, 1), (1, 1, 0)])
def test_impossible_bounds_are_refused(minimum: int, maximum: int, target: float) -> None:
    with pytest.raises(ValueError, match="minimum <= maximum"):
        Bounds(minimum, maximum, target)
