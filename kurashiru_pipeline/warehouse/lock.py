"""One writer a lake: an advisory lock that dies with its process, and the waiting line before it.

Here: taking the writer lock of a lake, giving way to whoever waits for it, naming its holder.
Not here: anything about what is written.

The line is a row of files, from its end to the writer's own. Whoever wants to write locks one after another and lets go
of a place only once it holds the next, so nobody is overtaken there; who is killed leaves a gap that closes by itself.
Locks of the kernel are the only state: what the files say is the writer's name, for whoever waits.
"""

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, TextIO

from kurashiru_pipeline.errors import ConfigurationError, TransientError

# A run, upkeep and a command or two; more than can stand in line are let in at its end as chance has it.
_PLACES: Final = ("writer.line.4", "writer.line.3", "writer.line.2", "writer.line.1", "writer.lock")
_LONGEST_PAUSE_SECONDS: Final = 0.02
_SHORTEST_PAUSE_SECONDS: Final = 0.002
# A lock is tried again after so much of the time waited for it: what is short is met soon, what is long costs nothing.
_PAUSE_SHARE: Final = 0.1
# Turns of others are short while everybody gives way; a longer one is worth a word.
_QUIET_SECONDS: Final = 5.0


class WriterLock:
    """The writer lock of a lake, held; made by `writer_lock`."""

    def __init__(
        self,
        lake: Path,
        places: Sequence[TextIO],
        wait_seconds: float,
        on_wait: Callable[[str], object] | None,
    ) -> None:
        self._lake = lake
        self._places = places
        self._wait_seconds = wait_seconds
        self._on_wait = on_wait
        self._is_held = False

    def give_way(self) -> bool:
        """Let everybody who waits for the lake write first, then hold it again. Costs two system calls if nobody does.

        Returns:
            Whether the lock was given up, so that somebody else may have written.

        Raises:
            TransientError: another process still writes after `wait_seconds`; the lock is not held any more.
        """
        first_in_line = self._places[-2]
        if _try_lock(first_in_line):
            _unlock(first_in_line)
            return False
        self._release()
        self._take(quiet_seconds=_QUIET_SECONDS)
        return True

    def _take(self, *, quiet_seconds: float) -> None:
        """Walk the line from its end to the writer's place; tell who is there after so many seconds."""
        deadline = time.monotonic() + self._wait_seconds
        tell_at = time.monotonic() + quiet_seconds
        is_told = False
        held: TextIO | None = None
        try:
            for place in self._places:
                started = time.monotonic()
                while not _try_lock(place):
                    now = time.monotonic()
                    if self._on_wait is not None and not is_told and now >= tell_at:
                        self._on_wait(self._holder())
                        is_told = True
                    if now >= deadline:
                        message = (
                            f"{self._holder()} is writing to {self._lake}; waited {self._wait_seconds:.0f} s, "
                            "try again when it is done"
                        )
                        raise TransientError(message)
                    pause = min(max(_PAUSE_SHARE * (now - started), _SHORTEST_PAUSE_SECONDS), _LONGEST_PAUSE_SECONDS)
                    time.sleep(pause)
                if held is not None:
                    _unlock(held)
                held = place
        except BaseException:
            if held is not None:
                _unlock(held)
            raise
        self._is_held = True
        self._sign(f"process {os.getpid()} ({' '.join(Path(part).name for part in sys.argv[:2])})")

    def _release(self) -> None:
        # Closed: the process ends with the lock still held, and the kernel has let go of it.
        if self._is_held and not self._places[-1].closed:
            self._is_held = False
            self._sign("")
            _unlock(self._places[-1])

    def _sign(self, name: str) -> None:
        writer = self._places[-1]
        writer.truncate(0)
        writer.write(name)
        writer.flush()

    def _holder(self) -> str:
        writer = self._places[-1]
        writer.seek(0)
        return writer.read().strip() or "another process"


@contextmanager
def writer_lock(
    lake: Path, *, wait_seconds: float, on_wait: Callable[[str], object] | None = None
) -> Iterator[WriterLock]:
    """Hold the writer lock of the lake in folder `lake` (one of `{lake}/realtime`, `{lake}/analytics`).

    The kernel releases the lock when the process ends, however it ends, so a kill leaves nothing to clean. Who comes
    while others wait stands behind them; a holder that has much to do calls `WriterLock.give_way` now and then.

    Args:
        lake: folder of the lake; made when missing.
        wait_seconds: how long to wait for other writers, here and after having given way.
        on_wait: told once, with the holder, when there is something to wait for.

    Raises:
        TransientError: another process still writes after `wait_seconds`.
        ConfigurationError: the folder cannot be written.
    """
    with ExitStack() as files:
        try:
            lake.mkdir(parents=True, exist_ok=True)
            places = [files.enter_context((lake / name).open("a+", encoding="utf-8")) for name in _PLACES]
        except OSError as error:
            message = (
                f"cannot write to {lake}: {error.strerror}; make the folder writable or set KURASHIRU_HOME elsewhere"
            )
            raise ConfigurationError(message) from error
        lock = WriterLock(lake, places, wait_seconds, on_wait)
        lock._take(quiet_seconds=0.0)
        try:
            yield lock
        finally:
            lock._release()


def _try_lock(place: TextIO) -> bool:
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _unlock(place: TextIO) -> None:
    fcntl.flock(place, fcntl.LOCK_UN)
