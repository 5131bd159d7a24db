"""Requests before a deadline: whatever they do, the answer is there in time."""

import subprocess
import sys
import threading
import time

import pytest

from kurashiru_pipeline.environment import PROJECT_ROOT
from kurashiru_pipeline.sources.deadline import ask_in_time


def test_every_request_is_answered_once() -> None:
    asked: list[int] = []
    outcome = ask_in_time(lambda number: asked.append(number) or number * 2, range(50), threads=4, seconds=10)
    assert outcome.answers == {number: number * 2 for number in range(50)}
    assert outcome.errors == {}
    assert sorted(asked) == list(range(50))


def test_nothing_to_ask_takes_no_time() -> None:
    started = time.monotonic()
    outcome = ask_in_time(lambda number: number, [], threads=4, seconds=10)
    assert (outcome.answers, outcome.errors, outcome.given_up) == ({}, {}, False)
    assert time.monotonic() - started < 1


def test_no_more_than_so_many_at_a_time() -> None:
    now, most, lock = 0, 0, threading.Lock()

    def ask(number: int) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.005)
        with lock:
            now -= 1

    ask_in_time(ask, range(20), threads=3, seconds=10)
    assert most == 3


def test_what_is_late_is_left_out_and_no_new_request_begins() -> None:
    release = threading.Event()
    asked: list[int] = []

    def ask(number: int) -> int:
        asked.append(number)
        if number >= 2:
            release.wait(10)
        return number

    started = time.monotonic()
    outcome = ask_in_time(ask, range(9), threads=2, seconds=0.2)
    assert 0.2 <= time.monotonic() - started < 5
    release.set()
    time.sleep(0.05)
    assert outcome.answers == {0: 0, 1: 1}, "an answer after the deadline changes nothing"
    assert outcome.errors == {}
    assert sorted(asked) == [0, 1, 2, 3]


def test_an_error_is_the_requests_own() -> None:
    def ask(number: int) -> int:
        if number % 3 == 0:
            raise ValueError(f"no {number}")
        return number

    outcome = ask_in_time(ask, range(9), threads=2, seconds=10)
    assert sorted(outcome.answers) == [1, 2, 4, 5, 7, 8]
    assert {number: str(error) for number, error in outcome.errors.items()} == {0: "no 0", 3: "no 3", 6: "no 6"}
    assert not outcome.given_up


def test_as_many_failures_in_a_row_as_run_at_a_time_are_enough() -> None:
    asked: list[int] = []

    def ask(number: int) -> int:
        asked.append(number)
        time.sleep(0.01)
        raise ConnectionError

    outcome = ask_in_time(ask, range(1000), threads=3, seconds=60)
    assert outcome.given_up
    assert len(outcome.errors) == 3
    assert len(asked) <= 6


def test_a_request_that_never_ends_keeps_no_process_from_ending() -> None:
    code = (
        "import time\n"
        "from kurashiru_pipeline.sources.deadline import ask_in_time\n"
        "print(ask_in_time(lambda number: time.sleep(3600), [1], threads=2, seconds=0.1).answers)"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT_ROOT, timeout=30, check=False
    )
    assert (outcome.returncode, outcome.stdout.strip()) == (0, "{}"), outcome.stderr


@pytest.mark.parametrize("threads", [1, 8])
def test_answers_keep_their_number(threads: int) -> None:
    outcome = ask_in_time(
        lambda number: time.sleep(0.01 * (3 - number)) or number, range(4), threads=threads, seconds=9
    )
    assert outcome.answers == {0: 0, 1: 1, 2: 2, 3: 3}
