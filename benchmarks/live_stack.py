"""Dagster with both code locations, and an empty one beside them on the same instance, for scenarios that need the
real sensor and real runs.

Here: starting it in a folder, stopping it, its processes. Not here: what is measured with it.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from kurashiru_pipeline.environment import PROJECT_ROOT, Environment, Settings
from kurashiru_pipeline.local.stack import process_environ, write_instance

REALTIME, ANALYTICS, EMPTY = (
    "kurashiru_pipeline.realtime.definitions",
    "kurashiru_pipeline.analytics.definitions",
    "benchmarks.empty_location",
)
_READY_SECONDS = 240.0


@dataclass(frozen=True)
class LiveStack:
    """A running Dagster; `floor` is the folder the empty location looks at."""

    settings: Settings
    floor: Path
    process: psutil.Process

    def family(self) -> list[psutil.Process]:
        return [self.process, *self.process.children(recursive=True)]

    def code_server(self, module: str) -> psutil.Process:
        """The process in which a location's sensors run."""
        [server] = [process for process in self.family() if _serves(process, module)]
        return server

    def round_trip(self) -> float:
        """Seconds from a file that the empty location's sensor looks at to its run having done nothing."""
        done = self.floor / "done"
        done.unlink(missing_ok=True)
        began = time.monotonic()
        (self.floor / "trigger").write_text("now", encoding="utf-8")
        wait_until(done.exists, "the empty run")
        return time.monotonic() - began


@contextmanager
def live_stack(folder: Path, endpoint: str, *modules: str, **variables: str) -> Iterator[LiveStack]:
    """Start `dagster dev` with locations of these modules in `folder` and wait until its sensors answer.

    Args:
        endpoint: of the DynamoDB it delivers to.
        variables: settings, named without KURASHIRU_.
    """
    given = {f"KURASHIRU_{name}": value for name, value in variables.items()}
    home = {"KURASHIRU_HOME": str(folder / "home"), "KURASHIRU_DYNAMODB_ENDPOINT": endpoint}
    settings = Settings.load(Environment.LOCAL, {**home, **given})
    floor, dagster = folder / "floor", settings.home / "dagster"
    for made in (floor, dagster, settings.landing):
        made.mkdir(parents=True)
    write_instance(dagster)
    workspace = folder / "workspace.yaml"
    locations = [{"python_module": {"module_name": name, "location_name": name}} for name in (*modules, EMPTY)]
    workspace.write_text(yaml.safe_dump({"load_from": locations}), encoding="utf-8")
    environ = {**process_environ(settings), "FLOOR_FOLDER": str(floor)}
    command = [sys.executable, "-m", "dagster", "dev", "-w", str(workspace), "-p", str(free_port())]
    with (folder / "dagster.log").open("wb") as log:
        process = subprocess.Popen(
            command, env=environ, cwd=PROJECT_ROOT, stdout=log, stderr=log, start_new_session=True
        )
    try:
        stack = LiveStack(settings, floor, psutil.Process(process.pid))
        stack.round_trip()
        yield stack
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until(is_reached: Callable[[], bool], what: str, seconds: float = _READY_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not is_reached():
        if time.monotonic() > deadline:
            message = f"waited {seconds:.0f} s for {what}"
            raise TimeoutError(message)
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _serves(process: psutil.Process, module: str) -> bool:
    try:
        words = process.cmdline()
    except psutil.NoSuchProcess:
        return False
    return "grpc" in words and module in words
