"""Transitions: the counts equal a plain count of pairs, however they are followed through time."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.columns import MICROS_PER_DAY, micros
from kurashiru_pipeline.core.transitions import (
    HALF_LIFE_DAYS,
    LIVE_HALF_LIFE_DAYS,
    MOST_DAYS,
    MOST_STEPS,
    TransitionCounts,
)

START = datetime(2026, 11, 1, 12, tzinfo=UTC)
RECIPES = 4

Step = tuple[int, int, float]
"""User, recipe, and days since START."""


def at(days: float) -> int:
    return micros(START + timedelta(days=days))


def counts_of(steps: list[Step]) -> TransitionCounts:
    steps = sorted(steps, key=lambda step: step[2])
    user, recipe = (np.array([step[field] for step in steps], np.int64) for field in (0, 1))
    return TransitionCounts(user, recipe, np.array([at(step[2]) for step in steps], np.int64), RECIPES)


def plainly(steps: list[Step], end: int, half_life: float) -> np.ndarray:
    """The sums by their description, one pair at a time."""
    total = np.zeros((RECIPES, RECIPES))
    steps = [step for step in sorted(steps, key=lambda step: step[2]) if at(step[2]) < end]
    for user in {step[0] for step in steps}:
        own = [(recipe, at(days)) for who, recipe, days in steps if who == user]
        for later, (second, when) in enumerate(own):
            for earlier in range(max(later - MOST_STEPS, 0), later):
                first, before = own[earlier]
                if first != second and when - before <= MOST_DAYS * MICROS_PER_DAY:
                    days = (end - 1) // MICROS_PER_DAY - when // MICROS_PER_DAY
                    total[first, second] += 0.5 ** (days / half_life) / (later - earlier)
    return total


def both(counts: TransitionCounts) -> tuple[np.ndarray, np.ndarray]:
    return counts.forward.toarray(), counts.live.toarray()


histories = st.lists(
    st.tuples(
        st.integers(0, 2),
        st.integers(0, RECIPES - 1),
        st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.25, 6.9, 7.0, 7.5, 8.0, 40.0, 46.0]),
    ),
    max_size=40,
)
ends = st.lists(st.sampled_from([0.0, 0.5, 0.75, 1.0, 7.0, 9.5, 41.0, 60.0]), min_size=1, max_size=5).map(sorted)


@given(histories, ends)
def test_counts_equal_a_plain_count_at_once_and_in_steps(steps: list[Step], ends: list[float]) -> None:
    counts, at_once = counts_of(steps), counts_of(steps)
    for end in ends:
        counts.follow(at(end))
    at_once.follow(at(ends[-1]))
    for made, again, half_life in zip(both(counts), both(at_once), (HALF_LIFE_DAYS, LIVE_HALF_LIFE_DAYS), strict=True):
        assert made == pytest.approx(plainly(steps, at(ends[-1]), half_life))
        assert again == pytest.approx(made)


def test_pairs_are_at_most_so_many_steps_apart() -> None:
    steps = [(0, 0, 0.0), *((0, 1, 0.001 * number) for number in range(1, MOST_STEPS + 3))]
    counts = counts_of(steps)
    counts.follow(at(1))
    faded = 0.5 ** (1 / HALF_LIFE_DAYS)
    assert counts.forward[0, 1] == pytest.approx(faded * sum(1 / gap for gap in range(1, MOST_STEPS + 1)))


def test_pairs_that_fade_twice_as_old() -> None:
    counts = counts_of([(0, 0, 0.0), (0, 1, 0.1)])
    counts.follow(at(LIVE_HALF_LIFE_DAYS))
    assert counts.live[0, 1] == pytest.approx(0.5)
    counts.follow(at(2 * LIVE_HALF_LIFE_DAYS))
    assert counts.live[0, 1] == pytest.approx(0.25)
    assert counts.forward[0, 1] == pytest.approx(0.5 ** (2 * LIVE_HALF_LIFE_DAYS / HALF_LIFE_DAYS))


def test_what_happens_later_does_not_count_yet() -> None:
    before, after = [(0, 0, 0.0), (0, 1, 0.5)], [(0, 2, 1.0), (0, 3, 1.5), (1, 1, 2.0)]
    counts = counts_of(before + after)
    counts.follow(at(1.0))
    alone = counts_of(before)
    alone.follow(at(1.0))
    for made, expected in zip(both(counts), both(alone), strict=True):
        assert made.tolist() == expected.tolist()


def test_a_moment_itself_is_not_before_it() -> None:
    counts = counts_of([(0, 0, 0.0), (0, 1, 0.5)])
    counts.follow(at(0.5))
    assert counts.forward.nnz == 0
    counts.follow(at(0.5) + 1)
    assert counts.forward[0, 1] == 1


def test_time_goes_forwards_only() -> None:
    counts = counts_of([(0, 0, 0.0), (0, 1, 0.5)])
    counts.follow(at(3))
    counts.follow(at(3))
    with pytest.raises(ValueError, match="forwards"):
        counts.follow(at(1))


def test_nothing_happened() -> None:
    counts = counts_of([])
    counts.follow(at(1))
    assert counts.forward.nnz == counts.live.nnz == 0


def test_large_histories_are_counted_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    steps = [(int(random.integers(3)), int(random.integers(RECIPES)), number / 20) for number in range(200)]
    whole, parts = counts_of(steps), counts_of(steps)
    whole.follow(at(11))
    monkeypatch.setattr("kurashiru_pipeline.core.transitions._LATER_AT_ONCE", 7)
    parts.follow(at(11))
    assert parts.forward.toarray() == pytest.approx(whole.forward.toarray())
