"""Traffic made beforehand and landed in step, so that making it costs nothing while something is measured.

Here: making it with the simulator, landing exports and files. Not here: what happens to it.
"""

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.local.simulate import simulate


@dataclass(frozen=True)
class Traffic:
    """Files not landed yet, in the order of landing, below `folder`; `manifest` holds the true counts."""

    folder: Path
    exports: Sequence[Path]
    files: Sequence[Path]
    file_lines: int
    manifest: dict[str, Any]


def make_traffic(
    folder: Path,
    *,
    lines: int,
    file_lines: int,
    users: int,
    recipes: int,
    seed: int = 1,
    duplicates: float = 0.0,
    malformed: float = 0.0,
) -> Traffic:
    """Make `lines` lines in files of `file_lines`, all of the last hour; shares as the simulator takes them."""
    manifest = simulate(
        folder,
        events=lines,
        users=users,
        recipes=recipes,
        seed=seed,
        days=1 / 24,
        until=utc_now(),
        file_lines=file_lines,
        duplicates=duplicates,
        malformed=malformed,
    )
    exports = sorted(path for kind in ("recipes", "users") for path in (folder / kind).rglob("*.parquet"))
    files = sorted((folder / "events").rglob("*.gz"), key=lambda path: path.relative_to(folder).as_posix())
    return Traffic(folder, exports, files, file_lines, manifest)


def land(traffic: Traffic, paths: Sequence[Path], landing: Path) -> None:
    """Rename files into the landing folder, which makes each whole and visible at once."""
    for path in paths:
        target = landing / path.relative_to(traffic.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)


class Arrival(threading.Thread):
    """Lands a file every `seconds` from `start` on, until all have landed or the context ends."""

    def __init__(self, traffic: Traffic, files: Sequence[Path], landing: Path, *, seconds: float) -> None:
        super().__init__(daemon=True)
        self._traffic = traffic
        self._files = files
        self._landing = landing
        self._seconds = seconds
        self._given_up = threading.Event()

    @property
    def duration(self) -> float:
        return len(self._files) * self._seconds

    def run(self) -> None:
        began = time.monotonic()
        for number, path in enumerate(self._files):
            if self._given_up.wait(max(0.0, began + number * self._seconds - time.monotonic())):
                return
            land(self._traffic, [path], self._landing)

    def __enter__(self) -> "Arrival":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._given_up.set()
        self.join()
