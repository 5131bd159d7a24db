"""Scenarios one after the other, each in a fresh process, and what is kept of them.

Here: folders, processes, failures, interrupts, the estimate of the time left, the results as one document.
Not here: how any of it looks (terminal.py, report.py), or what a scenario does.
"""

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import psutil

from benchmarks import machine, scenarios
from benchmarks.figures import Size
from kurashiru_pipeline.environment import PROJECT_ROOT
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError

PEERS = PROJECT_ROOT / ".venv-peers" / "bin" / "python"
PROGRAM = (sys.executable, "-m", "benchmarks")  # runs one scenario
_FOLDER_VARIABLE = "BENCHMARK_FOLDER"  # every process that a scenario starts inherits it
_ERROR = re.compile(r"[\w.]*(?:Error|Exception)\b")
_TICK_SECONDS = 0.5
_GRACE_SECONDS = 60.0


class Watch(Protocol):
    """Who wants to know what is going on."""

    def began(self, name: str) -> None: ...

    def moved(self, name: str, share: float, what: str, seconds_left: float) -> None: ...

    def ended(self, name: str, seconds: float, error: str | None) -> None: ...

    def kept(self, name: str) -> None: ...


@dataclass(frozen=True)
class Run:
    """What to run and where.

    Attributes:
        names: scenarios, in their order.
        folder: what is finished, logs, and work in hand.
        is_resumed: whether what an earlier run finished there counts.
        command: what a person types to have the same.
    """

    size: Size
    names: Sequence[str]
    folder: Path
    is_resumed: bool
    command: str

    def outcome(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def work(self, name: str) -> Path:
        return self.folder / "work" / name

    @property
    def results(self) -> Path:
        return self.folder / "results.json"


def chosen(only: Sequence[str]) -> list[str]:
    """The scenarios of these names, or all.

    Raises:
        ConfigurationError: there is none of that name.
    """
    there = scenarios.titles()
    unknown = [name for name in only if name not in there]
    if unknown:
        message = f"no scenario {', '.join(unknown)}; there are: {', '.join(there)}"
        raise ConfigurationError(message)
    return [name for name in there if not only or name in only]


def require_space(run: Run) -> float:
    """What the run needs on disk at most, in 10^9 bytes.

    Raises:
        ConfigurationError: there is less.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    needed, name = max((scenarios.disk_gb(name, run.size), name) for name in run.names)
    free = shutil.disk_usage(run.folder).free / 1e9
    if free < needed:
        message = (
            f"scenario {name} in size {run.size} needs {needed:.0f} GB, and {free:.1f} GB are free at {run.folder}; "
            "set KURASHIRU_HOME to a larger disk, take a smaller --size, or choose others with --only"
        )
        raise ConfigurationError(message)
    return needed


def run_all(run: Run, watch: Watch) -> dict[str, Any]:
    """Run the scenarios and return (and keep) the results.

    A scenario that fails is told as failed, and the next goes on. An interrupt leaves what is finished, and the folder
    of the one in hand if it can go on from it.

    Raises:
        KurashiruError: another benchmark works in the folder.
    """
    with _alone(run.folder):
        load_before = machine.load_average()
        clock = _Clock(run)
        for name in run.names:
            if run.is_resumed and run.outcome(name).exists():
                watch.kept(name)
            else:
                _run_one(run, name, watch, clock)
            clock.passed(name)
        document = _document(run, load_before)
        run.results.write_text(json.dumps(document, indent=2))
        return document


class _Clock:
    """How long the rest will take: what is usual, corrected by how the scenarios so far compared with it."""

    def __init__(self, run: Run) -> None:
        self._usual = {name: scenarios.usual_seconds(name, run.size) for name in run.names}
        self._ahead = list(run.names)
        self._began = 0.0
        self._usual_done = self._taken = 0.0

    def start(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def finish(self, name: str) -> None:
        self._taken += self.seconds
        self._usual_done += self._usual[name]

    def passed(self, name: str) -> None:
        self._ahead.remove(name)

    def seconds_left(self, name: str, share: float) -> float:
        """Of the scenario in hand, which is through by `share`, and of those after it."""
        pace = self._taken / self._usual_done if self._usual_done else 1.0
        usual = self._usual[name] * pace
        # At first the usual time says more than a small share, in the end the share says all.
        by_share = self.seconds / share if share > 0 else usual
        this = max(share * by_share + (1 - share) * max(usual, self.seconds) - self.seconds, 0.0)
        return this + pace * sum(self._usual[later] for later in self._ahead if later != name)


def _run_one(run: Run, name: str, watch: Watch, clock: _Clock) -> None:
    work, outcome = run.work(name), run.outcome(name)
    outcome.unlink(missing_ok=True)
    goes_on = run.is_resumed and scenarios.is_resumable(name)
    if not goes_on:
        shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True, exist_ok=True)
    load_before = machine.load_average()
    watch.began(name)
    clock.start()
    try:
        status = _process(run, name, watch, clock)
    except KeyboardInterrupt:
        if not scenarios.is_resumable(name):
            shutil.rmtree(work, ignore_errors=True)
        raise
    clock.finish(name)
    error = None if status == 0 and outcome.exists() else _failure(run.log(name), status)
    measured = {"figures": [], "series": []} if error else json.loads(outcome.read_bytes())
    about = {
        "name": name,
        "title": scenarios.titles()[name],
        "size": run.size,
        "seconds": round(clock.seconds, 1),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "load_before": load_before,
        "load_after": machine.load_average(),
        "error": error,
    }
    if error is None or not scenarios.is_resumable(name):
        shutil.rmtree(work, ignore_errors=True)
    target = outcome if error is None else outcome.with_suffix(".failed")
    outcome.with_suffix(".failed").unlink(missing_ok=True)
    target.write_text(json.dumps({"about": about, **measured}))
    watch.ended(name, clock.seconds, error)


def _process(run: Run, name: str, watch: Watch, clock: _Clock) -> int:
    """Run the scenario's process to its end; its exit status."""
    listen, tell = os.pipe()
    command = [*PROGRAM, name, "--size", run.size, "--folder", str(run.work(name))]
    command += ["--outcome", str(run.outcome(name)), "--progress", str(tell)]
    command += ["--peers", str(PEERS)] if PEERS.exists() else []
    inherited = {variable: value for variable, value in os.environ.items() if not variable.startswith("KURASHIRU_")}
    with run.log(name).open("wb") as log, os.fdopen(listen, "rb") as progress:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=PROJECT_ROOT,
            env={**inherited, _FOLDER_VARIABLE: str(run.work(name))},
            pass_fds=[tell],
            start_new_session=True,  # an interrupt reaches it through this process only
        )
        os.close(tell)
        try:
            share, what = 0.0, "starting"
            for told in _lines(progress.fileno(), process):
                share, what = told or (share, what)
                watch.moved(name, share, what, clock.seconds_left(name, share))
            return process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(_GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise
        finally:
            _end_descendants(run.work(name))


def _lines(descriptor: int, process: subprocess.Popen[bytes]) -> Iterator[tuple[float, str] | None]:
    """What the process tells of its progress, and None now and then, until it has ended."""
    rest = b""
    while True:
        readable, _, _ = select.select([descriptor], [], [], _TICK_SECONDS)
        if not readable:
            if process.poll() is not None:
                return
            yield None
            continue
        read = os.read(descriptor, 65536)
        if not read:
            return
        *lines, rest = (rest + read).split(b"\n")
        for line in lines:
            share, what = json.loads(line)
            yield min(max(float(share), 0.0), 1.0), str(what)


def _end_descendants(work: Path) -> None:
    """End what the scenario has started and left behind: whatever inherited its folder's name."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(_FOLDER_VARIABLE) == str(work):
                process.kill()
        except psutil.Error:
            continue  # gone meanwhile, or somebody else's


def _failure(log: Path, status: int) -> str:
    """The error in a word, out of the log: its last line that reads like one, or else its last line."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if _ERROR.match(line)]
    ended = f"ended by signal {-status}" if status < 0 else f"exit status {status}"
    return f"{(named or lines or ['no output'])[-1].strip()} ({ended}; all of it in {log})"


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another benchmark works in {folder}; wait until it has ended"
            raise KurashiruError(message) from None
        yield


def _document(run: Run, load_before: float) -> dict[str, Any]:
    """The results of all scenarios, as `--json` prints them."""
    outcomes = []
    for name in run.names:
        kept = run.outcome(name) if run.outcome(name).exists() else run.outcome(name).with_suffix(".failed")
        outcomes.append(json.loads(kept.read_bytes()))
    load = {"before": load_before, "after": machine.load_average()}
    return {
        "machine": {**machine.describe(), "load_average": load},
        "versions": machine.versions(),
        "peers": machine.peer_versions(PEERS) if PEERS.exists() else {},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": run.command,
        "size": run.size,
        "figures": [
            {**figure, "scenario": outcome["about"]["name"]} for outcome in outcomes for figure in outcome["figures"]
        ],
        "series": [
            {**series, "scenario": outcome["about"]["name"]} for outcome in outcomes for series in outcome["series"]
        ],
        "scenarios": [outcome["about"] for outcome in outcomes],
    }
