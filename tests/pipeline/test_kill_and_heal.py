"""A process may die at any moment: the next one goes on, and the end is the same."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kurashiru_pipeline.environment import PROJECT_ROOT, Settings
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.realtime.drain import drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.warehouse.ducklake import DuckLakeWarehouse
from tests import state
from tests.engines import Accounts, PutItems

Open = Callable[..., MicroBatchPipeline]
_TRAFFIC: dict[str, Any] = {
    "events": 1_200,
    "users": 60,
    "recipes": 50,
    "seed": 11,
    "duplicates": 0.05,
    "malformed": 0.03,
    "file_lines": 300,
}
_CUT = "500"
_WHOLE = "500000"


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it on the way and go on."""


def _drain(pipeline: MicroBatchPipeline) -> None:
    drain(pipeline, lambda step, tally: None)


def _elsewhere(settings: Settings, tmp_path: Path, name: str, max_batch_lines: str = _CUT) -> Settings:
    """A home and a table of its own, with the traffic landed."""
    changes = {
        "KURASHIRU_HOME": str(tmp_path / name),
        "KURASHIRU_DYNAMODB_TABLE": f"{name}-{tmp_path.name[-40:]}",
        "KURASHIRU_MAX_BATCH_LINES": max_batch_lines,
    }
    chosen = Settings.load(settings.environment, {**settings.environ, **changes})
    simulate(chosen.landing, **_TRAFFIC)
    return chosen


class _Death:
    """Comes at the `moment`-th boundary: before a commit, after it, between two writes to DynamoDB, or between the
    commits of what is kept by user and of the lake.

    Attributes:
        has_come: whether it has.
    """

    def __init__(self, pipeline: MicroBatchPipeline, moment: int, put_items: PutItems | None) -> None:
        self.has_come = False
        self._left = moment
        self._transact = pipeline.warehouse.transact
        self._write = pipeline.table.write
        pipeline.warehouse.transact = self._dying_transact  # type: ignore[method-assign, assignment]
        pipeline.table.write = self._dying_write  # type: ignore[method-assign]
        if put_items is not None:
            put_items.before_request = self._pass
        if isinstance(pipeline.warehouse, DuckLakeWarehouse):
            self._commit = pipeline.warehouse._state.commit
            pipeline.warehouse._state.commit = self._dying_commit  # type: ignore[method-assign]

    def _pass(self) -> None:
        self._left -= 1
        if self._left < 0:
            self.has_come = True
            raise Killed

    def _dying_transact(self, body: Callable[[Any], Any], **options: Any) -> Any:
        def dying_body(transaction: Any) -> Any:
            outcome = body(transaction)
            self._pass()
            return outcome

        outcome = self._transact(dying_body, **options)
        self._pass()
        return outcome

    def _dying_commit(self, changes: Any) -> None:
        self._commit(changes)
        self._pass()

    def _dying_write(self, items: Any, *args: Any) -> Any:
        half = len(items) // 2
        self._write(items[:half])
        self._pass()
        report = self._write(items[half:], *args)
        report.written += half
        self._pass()
        return report


def test_dying_once_at_every_boundary_heals(
    settings: Settings, tmp_path: Path, open_pipeline: Open, accounts: Accounts | None
) -> None:
    calm = _elsewhere(settings, tmp_path, "calm", _WHOLE)
    _drain(open_pipeline(**calm.environ))
    expected = state.tables(calm), state.items(calm)
    troubled = _elsewhere(settings, tmp_path, "troubled", _WHOLE)
    deaths = moment = 0
    reached: object = None
    while True:
        pipeline = open_pipeline(**troubled.environ)
        before, reached = reached, state.counts(pipeline.warehouse)
        # From the last progress on, one boundary further each time: so each is died at once.
        moment = 0 if reached != before else moment + 1
        death = _Death(pipeline, moment, accounts.put_items[troubled.home] if accounts else None)
        try:
            _drain(pipeline)
            break
        except BaseException:  # an external function's death comes as an error of its statement
            if not death.has_come:
                raise
            deaths += 1
            assert deaths < 80, "no progress from one death to the next"
    assert deaths >= 16
    assert (state.tables(troubled), state.items(troubled)) == expected


def test_kill_9_at_random_moments_heals(
    settings: Settings, tmp_path: Path, open_pipeline: Open, accounts: Accounts | None
) -> None:
    calm = _elsewhere(settings, tmp_path, "calm")
    _drain(open_pipeline(**calm.environ))
    expected = state.tables(calm), state.items(calm)
    troubled = _elsewhere(settings, tmp_path, "killed")
    command = _command("drain")
    if accounts is not None:
        accounts.use(troubled)
        accounts.close()  # one process at a time may have its files
        command = _command_on_stand_in(troubled, "drain")
    environ = {**os.environ, **troubled.environ}
    draw = random.Random(5)
    killed = 0
    for _ in range(6):
        process = subprocess.Popen(
            command, env=environ, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Starting takes some seconds, and more on a busy machine: count from the first touch of the warehouse.
        _wait_for_work(process, troubled)
        time.sleep(draw.uniform(0.0, 1.5))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed
    last = subprocess.run(command, env=environ, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    if accounts is not None:
        accounts.use(troubled)
    assert (state.tables(troubled), state.items(troubled)) == expected


def _wait_for_work(process: "subprocess.Popen[bytes]", settings: Settings) -> None:
    """Until the process has touched its warehouse, or has ended."""
    started = time.time()
    while process.poll() is None:
        files = [path for name in ("lake", "account") for path in (settings.home / name).rglob("*")]
        if any(path.exists() and path.stat().st_mtime > started for path in files):
            return
        time.sleep(0.02)


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", "from kurashiru_pipeline.cli import main; main()", *arguments]


def _command_on_stand_in(settings: Settings, *arguments: str) -> list[str]:
    account = [str(settings.home / "account"), str(settings.landing)]
    setup = ["--setup", "tests.engines:register_from_environment"]
    return [sys.executable, "-m", "tests.snowflake.process", *account, *setup, "--", *arguments]


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)  # leases are tested in tests/warehouse
def test_two_drains_at_once_take_turns(settings: Settings, tmp_path: Path, open_pipeline: Open) -> None:
    alone = _elsewhere(settings, tmp_path, "alone")
    _drain(open_pipeline(**alone.environ))
    both = _elsewhere(settings, tmp_path, "both")
    command = _command("drain")
    environ = {**os.environ, **both.environ}
    drains = [
        subprocess.Popen(
            command, env=environ, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in drains]
    assert [process.returncode for process in drains] == [0, 0], outputs
    assert (state.tables(both), state.items(both)) == (state.tables(alone), state.items(alone))
