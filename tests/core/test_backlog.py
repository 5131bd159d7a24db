"""Lag: what waits, how old it is, when it will be over."""

import math
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.backlog import WINDOW_SECONDS, Backlog, Meter, Rates, arrival_rate, lag

NOW = datetime(2026, 11, 23, 12)
UNKNOWN = Rates(None, None, None)


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def test_nothing_waits() -> None:
    behind = lag(Backlog(0, 0, 0, 0, None), UNKNOWN, NOW)
    assert (behind.lines, behind.seconds, behind.catch_up_seconds) == (0, 0, 0)


def test_what_waits_is_counted_where_it_is() -> None:
    behind = lag(Backlog(2, 5_000, 70, 30, ago(90)), Rates(100, 300, 10), NOW)
    assert (behind.lines, behind.seconds, behind.catch_up_seconds) == (600, 90, 3)


@pytest.mark.parametrize(("arrival", "catch_up"), [(300, math.inf), (301, math.inf), (None, None)])
def test_it_never_catches_up_when_as_much_arrives(arrival: float | None, catch_up: float | None) -> None:
    assert lag(Backlog(1, 1_000, 0, 0, ago(1)), Rates(arrival, 300, 10), NOW).catch_up_seconds == catch_up


@pytest.mark.parametrize(
    "backlog", [Backlog(None, None, None, 5, None), Backlog(1, 1_000, 0, 0, ago(1))], ids=["engine", "size"]
)
def test_what_is_not_known_is_not_guessed(backlog: Backlog) -> None:
    behind = lag(backlog, UNKNOWN, NOW)
    assert (behind.lines, behind.catch_up_seconds) == (None, None)


def test_clocks_that_differ_make_no_negative_age() -> None:
    assert lag(Backlog(1, 10, 0, 0, ago(-5)), UNKNOWN, NOW).seconds == 0


@pytest.mark.parametrize(
    ("waiting", "oldest", "expected"), [(0, None, 6), (600, 50, 12), (600, 200, 9)], ids=["none", "young", "old"]
)
def test_arrival_counts_of_what_waits_what_came_in_the_window(
    waiting: float, oldest: float | None, expected: float
) -> None:
    oldest_at = None if oldest is None else ago(oldest)
    assert arrival_rate(600, waiting, oldest_at, ago(100), NOW) == pytest.approx(expected)


@given(arrival=st.floats(10, 1e5), processing=st.floats(10, 1e5), rounds=st.integers(2, 40), pause=st.floats(0.5, 20))
def test_the_meter_finds_both_rates(arrival: float, processing: float, rounds: int, pause: float) -> None:
    """Ten bytes a line arrive evenly; each round takes what `pause` seconds of processing can."""
    meter, waiting, rates = Meter(), 0.0, UNKNOWN
    for number in range(rounds):
        at = number * pause
        waiting += 10 * arrival * (pause if number else 0)
        lines = int(min(waiting / 10, processing * pause))
        waiting -= 10 * lines
        rates = meter.add(
            at, lines=lines, file_bytes=10 * lines, waiting_bytes=round(waiting), busy_seconds=lines / processing
        )
    assert rates.processing == pytest.approx(processing, rel=1e-6)
    assert rates.bytes_a_line == pytest.approx(10)
    assert rates.arrival == pytest.approx(arrival, rel=0.05, abs=2 / pause)


def test_the_meter_forgets() -> None:
    meter = Meter()
    meter.add(0, lines=1_000, file_bytes=10_000, waiting_bytes=0, busy_seconds=100)
    rates = meter.add(WINDOW_SECONDS + 1, lines=10, file_bytes=100, waiting_bytes=0, busy_seconds=0.1)
    assert rates.processing == pytest.approx(100)
    assert rates.arrival is None, "one round alone tells no rate"
