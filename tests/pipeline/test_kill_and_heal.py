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

from kurashiru_pipeline.environment import PROJECT_ROOT, Settings
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.realtime.drain import drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from tests import state

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


def _die_at(pipeline: MicroBatchPipeline, moment: int) -> list[str]:
    """Die at the `moment`-th boundary: before a commit, after it, or between two writes to DynamoDB.

    Returns:
        The commits made until then, filled in as they happen.
    """
    left = [moment]
    commits: list[str] = []

    def pass_or_die() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    transact, write = pipeline.warehouse.transact, pipeline.table.write

    def dying_transact(body: Callable[[Any], Any], **options: Any) -> Any:
        def dying_body(transaction: Any) -> Any:
            outcome = body(transaction)
            pass_or_die()
            return outcome

        outcome = transact(dying_body, **options)
        commits.append("commit")
        pass_or_die()
        return outcome

    def dying_write(items: Any, *args: Any) -> Any:
        half = len(items) // 2
        write(items[:half])
        pass_or_die()
        report = write(items[half:], *args)
        report.written += half
        pass_or_die()
        return report

    pipeline.warehouse.transact = dying_transact  # type: ignore[method-assign]
    pipeline.table.write = dying_write  # type: ignore[method-assign]
    return commits


def test_dying_once_at_every_boundary_heals(settings: Settings, tmp_path: Path, open_pipeline: Open) -> None:
    calm = _elsewhere(settings, tmp_path, "calm", _WHOLE)
    _drain(open_pipeline(**calm.environ))
    troubled = _elsewhere(settings, tmp_path, "troubled", _WHOLE)
    deaths = moment = 0
    while True:
        pipeline = open_pipeline(**troubled.environ)
        commits = _die_at(pipeline, moment)
        try:
            _drain(pipeline)
            break
        except Killed:
            deaths += 1
            assert deaths < 60, "no progress from one death to the next"
            # From the last commit on, one boundary further each time: so each is died at once.
            moment = 0 if commits else moment + 1
    assert deaths >= 16
    assert state.tables(troubled) == state.tables(calm)
    assert state.items(troubled) == state.items(calm)


def test_kill_9_at_random_moments_heals(settings: Settings, tmp_path: Path, open_pipeline: Open) -> None:
    calm = _elsewhere(settings, tmp_path, "calm")
    _drain(open_pipeline(**calm.environ))
    troubled = _elsewhere(settings, tmp_path, "killed")
    command = [sys.executable, "-c", "from kurashiru_pipeline.cli import main; main()", "drain"]
    environ = {**os.environ, **troubled.environ}
    draw = random.Random(5)
    killed = 0
    for _ in range(6):
        process = subprocess.Popen(
            command, env=environ, cwd=PROJECT_ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        time.sleep(draw.uniform(0.8, 2.2))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.wait()
    assert killed
    last = subprocess.run(command, env=environ, cwd=PROJECT_ROOT, capture_output=True, text=True, check=False)
    assert last.returncode == 0, last.stderr
    assert state.tables(troubled) == state.tables(calm)
    assert state.items(troubled) == state.items(calm)


def test_two_drains_at_once_take_turns(settings: Settings, tmp_path: Path) -> None:
    both = _elsewhere(settings, tmp_path, "both")
    command = [sys.executable, "-c", "from kurashiru_pipeline.cli import main; main()", "drain"]
    environ = {**os.environ, **both.environ}
    drains = [
        subprocess.Popen(
            command, env=environ, cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=120) for process in drains]
    assert [process.returncode for process in drains] == [0, 0], outputs
    said = "".join(out + err for out, err in outputs)
    assert "is writing to the lake" in said
    assert "nothing pending" in said
