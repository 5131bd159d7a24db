"""When to run: never twice at once, never for nothing, and never in a flood."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.trigger import (
    FIRST_BACKOFF_SECONDS,
    LONGEST_BACKOFF_SECONDS,
    Decision,
    Seen,
    backoff_seconds,
    decide,
)

failures = st.integers(0, 10_000)
seconds = st.floats(0, 1e6)
seen = st.builds(
    Seen,
    pending=st.one_of(st.none(), st.just("files have landed")),
    in_flight_run=st.one_of(st.none(), st.just("run-1")),
    consecutive_failures=failures,
    seconds_since_failure=seconds,
)


@pytest.mark.parametrize(
    ("look", "should_run", "reason"),
    [
        (Seen("files have landed", None), True, "files have landed"),
        (Seen(None, None), False, "nothing pending"),
        (Seen("files have landed", "run-1"), False, "run run-1 is queued or running"),
        (Seen(None, "run-1"), False, "run run-1 is queued or running"),
        (Seen("x", None, 1, 4.9), False, "1 runs failed in a row; trying again in 0 s (x)"),
        (Seen("x", None, 1, 5.0), True, "x"),
        (Seen("x", None, 2, 5.0), False, "2 runs failed in a row; trying again in 5 s (x)"),
        (Seen("x", None, 2, 10.0), True, "x"),
        (Seen("x", None, 5, 79.0), False, "trying again in 1 s"),
        (Seen("x", None, 5, 80.0), True, "x"),
        (Seen("x", None, 40, 299.0), False, "trying again in 1 s"),
        (Seen("x", None, 40, 300.0), True, "x"),
        (Seen(None, None, 3, 0.0), False, "nothing pending"),
    ],
)
def test_decisions(look: Seen, should_run: bool, reason: str) -> None:
    decision = decide(look)
    assert decision.should_run is should_run
    assert reason in decision.reason


@given(seen)
def test_no_run_beside_another_and_none_for_nothing(look: Seen) -> None:
    decision = decide(look)
    assert decision.reason
    if look.in_flight_run is not None or look.pending is None:
        assert not decision.should_run
    elif look.consecutive_failures == 0 or look.seconds_since_failure >= LONGEST_BACKOFF_SECONDS:
        assert decision == Decision(True, look.pending)


@given(failures, seconds, seconds)
def test_waiting_longer_never_turns_a_run_into_a_skip(count: int, shorter: float, more: float) -> None:
    if decide(Seen("x", None, count, shorter)).should_run:
        assert decide(Seen("x", None, count, shorter + more)).should_run


def test_the_pause_grows_twofold_up_to_its_bound() -> None:
    pauses = [backoff_seconds(count) for count in range(2000)]
    assert pauses[:4] == [0.0, FIRST_BACKOFF_SECONDS, 2 * FIRST_BACKOFF_SECONDS, 4 * FIRST_BACKOFF_SECONDS]
    for before, after in pairwise(pauses[1:]):
        assert after == min(2 * before, LONGEST_BACKOFF_SECONDS)
    assert pauses[-1] == LONGEST_BACKOFF_SECONDS
    assert backoff_seconds(-1) == 0.0
