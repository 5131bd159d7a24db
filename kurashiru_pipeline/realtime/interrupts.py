"""Ending a run between two micro-batches instead of in the middle of one.

Here: signals held back while a block runs.
Not here: what ends then (Dagster's own handler does it, with the run's status).
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def held_back() -> Iterator[None]:
    """SIGINT and SIGTERM that come while the block runs are raised when it has ended.

    A killed micro-batch heals; one that is allowed to end needs no healing. Signals only reach the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def remember(number: int, frame: Any) -> None:
        received.append(number)

    before = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
