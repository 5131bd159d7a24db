import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import orjson
import psutil
import pytest

from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.local.processes import (
    HOST,
    ProcessGroup,
    ProcessRecord,
    answers,
    port_holder,
    require_free_port,
)

SLEEPER = "import time; time.sleep(60)"
LISTENER = "import socket, sys, time; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); time.sleep(60)"
# Starts a child in a session of its own, as a daemon would, and both refuse to end on request.
STUBBORN_FAMILY = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(60)
"""


@pytest.fixture
def group(tmp_path: Path) -> Iterator[ProcessGroup]:
    group = ProcessGroup(tmp_path)
    with group.exclusive():
        pass  # makes the folders
    yield group
    for name in ("one", "two"):
        group.stop(name, grace_seconds=0)


@pytest.fixture
def free_port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


def start(group: ProcessGroup, name: str, script: str, port: int = 0) -> ProcessRecord:
    command = [sys.executable, "-c", script, str(port)]
    return group.start(name, command, port=port, environ=os.environ, folder=group.home)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_process_is_recorded_found_and_stopped(group: ProcessGroup) -> None:
    record = start(group, "one", SLEEPER)

    assert group.is_running("one")
    assert group.records() == {"one": record}
    assert os.getsid(record.pid) == record.pid
    assert ProcessGroup(group.home).stop("one", grace_seconds=5) == 1
    assert not group.is_running("one")
    assert not group.state_file.exists()


def test_stop_leaves_other_processes_alone(group: ProcessGroup) -> None:
    start(group, "one", SLEEPER)
    two = start(group, "two", SLEEPER)

    group.stop("one", grace_seconds=5)

    assert group.is_running("two")
    assert group.records() == {"two": two}


def test_stop_ends_descendants_that_left_the_session_and_ignore_sigterm(group: ProcessGroup) -> None:
    record = start(group, "one", STUBBORN_FAMILY)
    wait_until(lambda: "ready" in Path(record.log).read_text())
    members = group.members("one")

    assert len(members) == 2
    assert group.stop("one", grace_seconds=0.2) == 2
    assert group.members("one") == []


def test_descendants_are_found_after_the_process_itself_was_killed(group: ProcessGroup) -> None:
    record = start(group, "one", STUBBORN_FAMILY)
    wait_until(lambda: "ready" in Path(record.log).read_text())

    os.kill(record.pid, signal.SIGKILL)

    wait_until(lambda: not group.is_running("one"))
    assert group.stop("one", grace_seconds=0) == 1


def test_a_reused_number_is_never_killed(group: ProcessGroup) -> None:
    ours = start(group, "one", SLEEPER)
    group.stop("one", grace_seconds=5)
    stranger = subprocess.Popen([sys.executable, "-c", SLEEPER])
    try:
        left_behind = replace(ours, pid=stranger.pid, seconds_after_boot=ours.seconds_after_boot - 60)
        group.state_file.write_bytes(orjson.dumps([left_behind]))

        assert not group.is_running("one")
        assert group.stop("one", grace_seconds=0) == 0
        assert stranger.poll() is None
        assert not group.state_file.exists()
    finally:
        stranger.kill()
        stranger.wait()


def test_processes_of_another_home_are_not_ours(group: ProcessGroup, tmp_path: Path) -> None:
    start(group, "one", SLEEPER)
    other = ProcessGroup(tmp_path / "other")

    assert other.members("one") == []
    assert other.stop("one", grace_seconds=0) == 0
    assert group.is_running("one")


def test_a_process_without_a_record_is_still_found(group: ProcessGroup) -> None:
    start(group, "one", SLEEPER)
    group.state_file.unlink()  # as if the command was killed before it wrote the record, or the user removed it

    assert not group.is_running("one")
    assert group.stop("one", grace_seconds=5) == 1


def test_a_torn_record_says_how_to_mend_it(group: ProcessGroup) -> None:
    group.state_file.write_text("[{")

    with pytest.raises(KurashiruError, match=f"rm {group.state_file}"):
        group.records()

    group.state_file.unlink()


def test_waiting_ends_when_the_port_answers(group: ProcessGroup, free_port: int) -> None:
    record = start(group, "one", LISTENER, free_port)

    group.wait_for_port(record, timeout_seconds=20)

    assert answers(free_port)


def test_waiting_for_a_process_that_died_shows_its_log(group: ProcessGroup, free_port: int) -> None:
    record = start(group, "one", "raise SystemExit('no such database')", free_port)

    with pytest.raises(KurashiruError, match=r"one died while starting\n(?s:.*)no such database"):
        group.wait_for_port(record, timeout_seconds=20)


def test_waiting_has_an_end(group: ProcessGroup, free_port: int) -> None:
    record = start(group, "one", SLEEPER, free_port)

    with pytest.raises(KurashiruError, match=f"one does not answer on port {free_port}"):
        group.wait_for_port(record, timeout_seconds=0.2)


@pytest.mark.parametrize("address", [HOST, "0.0.0.0"])
def test_a_taken_port_names_the_holder_and_what_to_change(address: str) -> None:
    with socket.create_server((address, 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(ConfigurationError) as raised:
            require_free_port(port, purpose="the UI", variable="KURASHIRU_X_PORT", flag="--x-port")
        holder = port_holder(port)

    name = psutil.Process().name()
    assert holder == f"{name} (pid {os.getpid()})"
    assert str(raised.value) == (
        f"port {port} for the UI is taken by {holder}; choose another with --x-port or KURASHIRU_X_PORT"
    )


def test_a_free_port_is_accepted(free_port: int) -> None:
    require_free_port(free_port, purpose="the UI", variable="KURASHIRU_X_PORT", flag="--x-port")

    assert port_holder(free_port) is None


def test_two_commands_at_once_are_refused(group: ProcessGroup) -> None:
    with (
        group.exclusive(),
        pytest.raises(KurashiruError, match="another `kurashiru up` or `down` is at work"),
        ProcessGroup(group.home).exclusive(),
    ):
        pass


def test_a_home_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with (
        pytest.raises(ConfigurationError, match="set KURASHIRU_HOME"),
        ProcessGroup(tmp_path / "file" / "home").exclusive(),
    ):
        pass
