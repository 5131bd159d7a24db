"""One writer a lake, among real processes."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kurashiru_pipeline.errors import ConfigurationError, TransientError
from kurashiru_pipeline.warehouse.lock import writer_lock

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
