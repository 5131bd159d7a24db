"""The circuit breaker's state follows from the last calls alone."""

from datetime import datetime, timedelta

import pytest

from kurashiru_pipeline.sources.breaker import Breaker, Call, State

NOW = datetime(2026, 11, 23, 9, 30)
BREAKER = Breaker(failures=3, pause=timedelta(seconds=60))


def calls(*answered: int, probes: int = 0, seconds_ago: float = 1.0) -> list[Call]:
    """Newest first, each about 100 users; the newest `probes` were let through half open."""
    return [
        Call(NOW - timedelta(seconds=seconds_ago + at), State.HALF_OPEN if at < probes else State.CLOSED, 100, count)
        for at, count in enumerate(answered)
    ]


@pytest.mark.parametrize(
    ("history", "state"),
    [
        ([], State.CLOSED),
        (calls(0, 0), State.CLOSED),
        (calls(0, 0, 0), State.OPEN),
        (calls(0, 0, 0, 100), State.OPEN),
        (calls(0, 100, 0, 0, 0), State.CLOSED),
        (calls(49, 49, 49), State.OPEN),
        (calls(50, 49, 49), State.CLOSED),
        (calls(49, 50, 49), State.CLOSED),
        (calls(0, 0, 0, seconds_ago=59.9), State.OPEN),
        (calls(0, 0, 0, seconds_ago=60), State.HALF_OPEN),
        (calls(0, 0, 0, seconds_ago=-5), State.HALF_OPEN),
        (calls(0, 0, 0, 0, probes=1), State.OPEN),
        (calls(0, 0, 0, 0, probes=1, seconds_ago=60), State.HALF_OPEN),
        (calls(100, 0, 0, 0, probes=1), State.CLOSED),
        (calls(0, 100, 0, 0, 0, probes=0), State.CLOSED),
        ([*calls(0), *calls(100, 0, 0, probes=1)], State.CLOSED),
    ],
)
def test_states(history: list[Call], state: State) -> None:
    assert BREAKER.state(history, NOW) is state
    assert BREAKER.state(history[: BREAKER.failures], NOW) is state, "older calls change nothing"


def test_a_service_that_stays_down_is_probed_once_a_pause() -> None:
    history: list[Call] = []
    asked = []
    for second in range(0, 600, 5):
        now = NOW + timedelta(seconds=second)
        state = BREAKER.state(history, now)
        if state is not State.OPEN:
            asked.append((second, str(state)))
            history.insert(0, Call(now, state, 100, 0))
    assert asked[:3] == [(0, "closed"), (5, "closed"), (10, "closed")]
    assert asked[3:] == [(second, "half_open") for second in range(70, 600, 60)]


def test_a_service_that_recovers_is_asked_again_after_one_probe() -> None:
    history = calls(0, 0, 0, seconds_ago=61)
    state = BREAKER.state(history, NOW)
    assert state is State.HALF_OPEN
    history.insert(0, Call(NOW, state, 500, 500))
    assert BREAKER.state(history, NOW) is State.CLOSED
    history = [Call(NOW, State.CLOSED, 100, 0), Call(NOW, State.CLOSED, 100, 0), *history]
    assert BREAKER.state(history, NOW) is State.CLOSED, "it takes as many failures as ever to open again"
