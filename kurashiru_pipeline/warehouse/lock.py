"""One writer a lake: an advisory lock that dies with its process.

Here: taking, waiting for and naming the holder of a lake's writer lock.
Not here: anything about what is written.
"""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kurashiru_pipeline.errors import ConfigurationError, TransientError


@contextmanager
def writer_lock(lake: Path, *, wait_seconds: float, on_wait: Callable[[str], object] | None = None) -> Iterator[None]:
    """Hold the writer lock of the lake in folder `lake` (one of `{lake}/realtime`, `{lake}/analytics`).

    The kernel releases the lock when the process ends, however it ends, so a kill leaves nothing to clean.

    Args:
        lake: folder of the lake; made when missing.
        wait_seconds: how long to wait for another writer.
        on_wait: told once, with the holder, when there is something to wait for.

    Raises:
        TransientError: another process still writes after `wait_seconds`.
        ConfigurationError: the folder cannot be written.
    """
    path = lake / "writer.lock"
    try:
        lake.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+", encoding="utf-8")
    except OSError as error:
        message = f"cannot write to {lake}: {error.strerror}; make the folder writable or set KURASHIRU_HOME elsewhere"
        raise ConfigurationError(message) from error
    with handle:
        deadline = time.monotonic() + wait_seconds
        told = False
        while not _try_lock(handle.fileno()):
            handle.seek(0)
            holder = handle.read().strip() or "another process"
            if not told and on_wait is not None:
                on_wait(holder)
            told = True
            if time.monotonic() >= deadline:
                message = f"{holder} is writing to {lake}; waited {wait_seconds:.0f} s, try again when it is done"
                raise TransientError(message)
            time.sleep(0.05)
        handle.truncate(0)
        handle.write(f"process {os.getpid()} ({' '.join(Path(part).name for part in sys.argv[:2])})")
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
