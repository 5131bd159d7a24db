"""One writer a lake, among real processes."""

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from kurashiru_pipeline.errors import ConfigurationError, TransientError
from kurashiru_pipeline.warehouse.lock import WriterLock, writer_lock

HOLD = """
import sys, pathlib
from kurashiru_pipeline.warehouse.lock import writer_lock
with writer_lock(pathlib.Path(sys.argv[1]), wait_seconds=0):
    print("held", flush=True)
    sys.stdin.readline()
"""


class Holder:
    """Another process that holds the lock of a lake until it is told to let go."""

    def __init__(self, lake: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(lake)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def let_go(self) -> None:
        self.process.communicate("\n", timeout=30)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[Holder]:
    holder = Holder(tmp_path / "lake")
    yield holder
    holder.kill()


def test_the_lock_is_free_again_afterwards(tmp_path: Path) -> None:
    lake = tmp_path / "made" / "on demand"
    for _ in range(2):
        with writer_lock(lake, wait_seconds=0):
            assert (lake / "writer.lock").read_text().startswith("process ")
    assert (lake / "writer.lock").read_text() == ""


def test_the_lock_is_free_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), writer_lock(tmp_path, wait_seconds=0):
        raise ZeroDivisionError
    with writer_lock(tmp_path, wait_seconds=0):
        pass


def test_waiting_ends_with_the_name_of_the_holder(tmp_path: Path, holder: Holder) -> None:
    waited_for: list[str] = []
    expected = rf"process {holder.process.pid} \(-c lake\) is writing to .*lake; waited 0 s"
    with (
        pytest.raises(TransientError, match=expected),
        writer_lock(tmp_path / "lake", wait_seconds=0.2, on_wait=waited_for.append),
    ):
        pass
    assert waited_for == [f"process {holder.process.pid} (-c lake)"]


def test_the_second_waits_and_then_gets_it(tmp_path: Path, holder: Holder) -> None:
    waiting = threading.Event()
    let_go_at: list[float] = []

    def let_go() -> None:
        waiting.wait(30)
        let_go_at.append(time.monotonic())
        holder.let_go()

    thread = threading.Thread(target=let_go)
    thread.start()
    with writer_lock(tmp_path / "lake", wait_seconds=30, on_wait=lambda _: waiting.set()):
        assert let_go_at
        assert time.monotonic() >= let_go_at[0]
    thread.join()


def test_a_killed_holder_leaves_nothing_to_clean_up(tmp_path: Path, holder: Holder) -> None:
    holder.kill()
    assert (tmp_path / "lake" / "writer.lock").read_text() != ""
    with writer_lock(tmp_path / "lake", wait_seconds=0):
        assert f"process {holder.process.pid}" not in (tmp_path / "lake" / "writer.lock").read_text()


def test_lakes_do_not_lock_each_other(tmp_path: Path, holder: Holder) -> None:
    with writer_lock(tmp_path / "other", wait_seconds=0):
        pass


def test_a_lake_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(ConfigurationError, match="set KURASHIRU_HOME elsewhere"),
        writer_lock(tmp_path / "file" / "lake", wait_seconds=0),
    ):
        pass


# Giving way

# Takes turns, each of which appends a line to a file that is locked as well: who finds it so does not write alone.
# It is opened first, since a process that is killed closes its files in this order.
WORK = """
import fcntl, json, os, pathlib, sys, time
from kurashiru_pipeline.warehouse.lock import writer_lock
lake, turns, seconds = pathlib.Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
lake.mkdir(exist_ok=True)
with (lake / "turns").open("a") as record, writer_lock(lake, wait_seconds=60) as lock:
    print("held", flush=True)
    for turn in range(turns):
        fcntl.flock(record, fcntl.LOCK_EX | fcntl.LOCK_NB)
        time.sleep(seconds)
        record.write(f"{os.getpid()}\\n")
        record.flush()
        fcntl.flock(record, fcntl.LOCK_UN)
        lock.give_way()
"""


class Worker:
    """Another process that takes turns at the lake, giving way after each."""

    def __init__(self, lake: Path, turns: int, seconds: float) -> None:
        arguments = [sys.executable, "-c", WORK, str(lake), str(turns), str(seconds)]
        self.process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def wait_until_held(self) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "held\n"

    def finish(self) -> None:
        _, errors = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, errors

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=30)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(turns: int, seconds: float = 0.01) -> Worker:
        workers.append(Worker(tmp_path / "lake", turns, seconds))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


def give_way_for_good(lock: WriterLock) -> None:
    """As long as the lock comes back."""
    while True:
        lock.give_way()


def turns_of(lake: Path) -> list[int]:
    return [int(line) for line in (lake / "turns").read_text().splitlines()]


def longest_wait(turns: list[int], worker: Worker) -> int:
    """Turns from one of a worker's to its next. A machine that is busy elsewhere makes it miss one now and then."""
    places = [place for place, pid in enumerate(turns) if pid == worker.process.pid]
    return max(after - before for before, after in pairwise(places))


def test_nobody_waits_so_nothing_is_given_up(tmp_path: Path) -> None:
    with writer_lock(tmp_path, wait_seconds=0) as lock:
        written = (tmp_path / "writer.lock").stat().st_mtime_ns
        assert [lock.give_way() for _ in range(100)] == [False] * 100
        assert (tmp_path / "writer.lock").stat().st_mtime_ns == written


def test_two_who_give_way_take_turns_and_neither_starves(tmp_path: Path, start: Callable[..., Worker]) -> None:
    first = start(60)
    first.wait_until_held()
    second = start(20)
    second.finish()
    first.finish()
    turns = turns_of(tmp_path / "lake")
    assert turns.count(first.process.pid) == 60
    assert turns.count(second.process.pid) == 20
    assert longest_wait(turns, second) <= 8
    shared = turns[turns.index(second.process.pid) :]
    assert longest_wait(shared[: 1 + len(shared) - shared[::-1].index(second.process.pid)], first) <= 8


def test_who_waits_goes_first_whatever_comes_after(tmp_path: Path, start: Callable[..., Worker]) -> None:
    holder = start(200)
    holder.wait_until_held()
    others = [start(6) for _ in range(3)]
    for other in others:
        other.finish()
    holder.finish()
    turns = turns_of(tmp_path / "lake")
    assert [turns.count(worker.process.pid) for worker in (holder, *others)] == [200, 6, 6, 6]
    assert max(longest_wait(turns, other) for other in others) <= 8


def test_a_holder_that_gave_way_to_one_who_keeps_the_lake_says_so(tmp_path: Path, start: Callable[..., Worker]) -> None:
    lake = tmp_path / "lake"
    told: list[str] = []
    with writer_lock(lake, wait_seconds=0.5, on_wait=told.append) as lock:
        other = start(1, 30.0)
        waiting = pytest.raises(TransientError, match=rf"process {other.process.pid} .* is writing to .*; waited 0 s")
        with waiting:
            give_way_for_good(lock)
    # What was lost is not given back, and the lake of another is left alone.
    assert (lake / "writer.lock").read_text() == f"process {other.process.pid} (-c lake)"
    assert told == []
    with pytest.raises(TransientError), writer_lock(lake, wait_seconds=0):
        pass


def test_whoever_is_killed_at_whatever_moment_the_others_go_on(tmp_path: Path, start: Callable[..., Worker]) -> None:
    dice = random.Random(5)
    lake = tmp_path / "lake"
    survivor = start(10_000, 0.001)
    survivor.wait_until_held()
    for _ in range(5):
        victims = [start(10_000, 0.001) for _ in range(2)]
        victims[0].wait_until_held()
        time.sleep(dice.random() * 0.03)
        # Stopped at any place, its own writing included, it must not matter which of the two goes first.
        for victim in dice.sample(victims, 2):
            victim.process.send_signal(signal.SIGKILL)
            victim.process.communicate(timeout=30)
        seen = len(turns_of(lake))
        deadline = time.monotonic() + 30
        while survivor.process.pid not in turns_of(lake)[seen:]:
            assert survivor.process.poll() is None, survivor.process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.005)
    survivor.kill()
    with writer_lock(lake, wait_seconds=0):
        pass
