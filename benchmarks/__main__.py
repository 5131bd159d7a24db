"""One scenario in a process of its own; `kurashiru bench` starts it.

Here: what goes in by arguments, progress and outcome on their way out. Not here: what is run when (runner.py).
"""

import argparse
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import scenarios
from benchmarks.figures import Context, Outcome, Size


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=f"{__doc__} By hand: kurashiru bench")
    parser.add_argument("scenario", choices=scenarios.ORDER)
    parser.add_argument("--size", type=Size, choices=list(Size), required=True)
    parser.add_argument("--folder", type=Path, required=True, help="where it works")
    parser.add_argument("--outcome", type=Path, required=True, help="file that what it measured is written to")
    parser.add_argument("--progress", type=int, required=True, help="file descriptor that progress is told to")
    parser.add_argument("--peers", type=Path, help="Python of .venv-peers")
    given = parser.parse_args()
    with os.fdopen(given.progress, "w") as listener:

        def progress(share: float, what: str) -> None:
            listener.write(json.dumps([share, what]) + "\n")
            listener.flush()

        run = scenarios.load(given.scenario)
        outcome = run(Context(given.size, given.folder, given.peers, progress))
    partial = given.outcome.with_suffix(".partial")
    partial.write_text(json.dumps(document(outcome), allow_nan=False))
    partial.rename(given.outcome)


def document(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON has it."""
    return {
        "figures": [{**asdict(figure), "reached": figure.reached} for figure in outcome.figures],
        "series": [asdict(series) for series in outcome.series],
    }


if __name__ == "__main__":
    main()
