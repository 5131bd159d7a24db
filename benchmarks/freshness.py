"""Seconds from a file landing to its users' items readable in DynamoDB, beside an empty Dagster round trip.

Starts the whole local stack and an empty location, each in turn, in a temporary home on free ports, and lands one
file at a time while nothing else happens.

    python -m benchmarks.freshness [--repeat 10] [--json]
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kurashiru_pipeline.environment import PROJECT_ROOT, Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.local import stack
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from tests.traffic import event, lines, put

_TIMEOUT = 120.0


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeat", type=int, default=10)
    arguments.add_argument("--json", action="store_true")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        floor = _floor(Path(folder) / "floor", chosen.repeat)
        ours = _pipeline(Path(folder) / "home", chosen.repeat)
    result = {"landed_to_readable_seconds": _spread(ours), "empty_round_trip_seconds": _spread(floor)}
    result["ratio_of_medians"] = {"value": round(statistics.median(ours) / statistics.median(floor), 2)}
    print(json.dumps(result, indent=2 if chosen.json else None))


def _pipeline(home: Path, repeat: int) -> list[float]:
    settings = Settings.load(
        Environment.LOCAL,
        {
            "KURASHIRU_HOME": str(home),
            "KURASHIRU_AWS_PORT": str(_free_port()),
            "KURASHIRU_DAGSTER_PORT": str(_free_port()),
        },
    )
    stack.up(settings, on_event=lambda line: None)
    try:
        simulate(settings.landing, events=20_000, users=2_000, recipes=2_000)
        table = RecommendationTable.from_settings(settings)
        _wait(lambda: _readable(table, "#default"))
        time.sleep(10)
        return [_one_file(settings, table, number) for number in range(repeat)]
    finally:
        stack.down(settings, on_event=lambda line: None)


def _one_file(settings: Settings, table: RecommendationTable, number: int) -> float:
    user = f"probe{number}"
    made = [
        event(
            10_000_000 + number * 100 + position, event_name="recipe_view", user_id=user, recipe_id=f"r000000{position}"
        )
        for position in range(5)
    ]
    put(settings.landing, f"events/2026/01/01/00/probe-{number}", lines(made))
    landed = time.monotonic()
    _wait(lambda: _readable(table, user))
    seconds = time.monotonic() - landed
    time.sleep(3 + (number % 5))  # not in step with anything
    return seconds


def _readable(table: RecommendationTable, user: str) -> bool:
    try:
        return table.read(user) is not None
    except ConfigurationError:
        return False  # the first run makes the table


def _floor(folder: Path, repeat: int) -> list[float]:
    folder.mkdir()
    (folder / "dagster.yaml").write_text((PROJECT_ROOT / "dagster.yaml").read_text())
    environ = {**os.environ, "DAGSTER_HOME": str(folder), "FLOOR_FOLDER": str(folder)}
    command = [sys.executable, "-m", "dagster", "dev", "-m", "benchmarks.empty_location", "-p", str(_free_port())]
    with (folder / "log").open("w") as log:
        dagster = subprocess.Popen(command, env=environ, cwd=PROJECT_ROOT, stdout=log, stderr=log)
    try:
        measured = []
        for number in range(repeat + 1):
            (folder / "done").unlink(missing_ok=True)
            (folder / "trigger").write_text(str(number))
            began = time.monotonic()
            _wait((folder / "done").exists)
            measured.append(time.monotonic() - began)
            time.sleep(3 + (number % 5))
        return measured[1:]  # the first waits for Dagster to start
    finally:
        dagster.terminate()
        try:
            dagster.wait(timeout=15)
        except subprocess.TimeoutExpired:
            dagster.kill()


def _wait(is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _TIMEOUT
    while not is_reached():
        if time.monotonic() > deadline:
            message = f"nothing happened for {_TIMEOUT:.0f} s"
            raise TimeoutError(message)
        time.sleep(0.02)


def _spread(seconds: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(seconds), 2),
        "min": round(min(seconds), 2),
        "max": round(max(seconds), 2),
        "runs": len(seconds),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
