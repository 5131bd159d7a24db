"""Stands in for `python -m benchmarks`: does in a moment what the tests need a scenario to do, by its name."""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

FIGURE = {"name": "ratio", "value": 2.0, "unit": "x", "spread": [1.5, 2.5], "goal": ">= 1", "note": "", "reached": True}
SERIES = {"name": "line", "title": "A line", "x_label": "x", "y_label": "y", "x": [1, 2, 3], "y": {"a": [1, 4, 9]}}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("scenario")
    for name in ("--size", "--folder", "--outcome", "--peers"):
        parser.add_argument(name)
    parser.add_argument("--progress", type=int)
    given = parser.parse_args()
    assert not any(name.startswith("KURASHIRU_") for name in os.environ), "a scenario starts from default settings"
    folder = Path(given.folder)
    with os.fdopen(given.progress, "w") as listener:
        listener.write('[0.25, "beginning"]\n')
        listener.flush()
        if given.scenario == "start":  # fails
            sys.stdout.write("Traceback (most recent call last):\n  ...\nValueError: no such thing\nand a last word")
            sys.exit(3)
        if given.scenario == "dbt":  # dies
            os.kill(os.getpid(), signal.SIGKILL)
        if given.scenario == "micro_batch":  # leaves a process behind
            left = subprocess.Popen(["sleep", "60"], start_new_session=True)
            (folder.parent.parent / "left").write_text(str(left.pid))
        if given.scenario == "day" and not (folder / "state").exists():  # is interrupted the first time
            (folder / "state").write_text("half")
            try:
                listener.write('[0.5, "half"]\n')
                listener.flush()
                time.sleep(60)
            except KeyboardInterrupt:
                (folder / "state").write_text("interrupted")
                raise
    figures = [{**FIGURE, "note": "went on" if (folder / "state").exists() else ""}]
    Path(given.outcome).write_text(json.dumps({"figures": figures, "series": [SERIES]}))


if __name__ == "__main__":
    main()
