"""Many requests in parallel, until they are done or the time is up.

Here: the threads and the one deadline of all requests.
Not here: what a request is (recommender.py), or how often a service may fail before it is left alone (breaker.py).
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass
class Outcome(Generic[Answer]):
    """What became of N requests, by their number; those in neither `answers` nor `errors` were late.

    Attributes:
        given_up: whether so many requests failed in a row that the others were not waited for.
    """

    answers: dict[int, Answer] = field(default_factory=dict)
    errors: dict[int, Exception] = field(default_factory=dict)
    given_up: bool = False


def ask_in_time(
    ask: Callable[[Request], Answer], requests: Sequence[Request], *, threads: int, seconds: float
) -> Outcome[Answer]:
    """Answers to the requests that were there in time; it never takes longer, whatever `ask` does.

    The threads are daemons: one that hangs in a request (an answer that trickles in byte by byte is within every
    socket's time-out) is left behind and keeps no process from ending. What it brings later is dropped.

    Args:
        ask: makes one request; whatever it raises is this request's error.
        threads: requests under way at a time; when as many in a row fail, the rest is given up.
        seconds: time for all of it.
    """
    ends = time.monotonic() + seconds
    is_over = threading.Event()
    numbers = iter(range(len(requests)))
    taking = threading.Lock()
    done: SimpleQueue[tuple[int, Answer | Exception]] = SimpleQueue()

    def work() -> None:
        while not is_over.is_set():
            with taking:
                number = next(numbers, None)
            if number is None:
                return
            try:
                done.put((number, ask(requests[number])))
            except Exception as error:  # noqa: BLE001 - a service, and its client, may fail in any way; it is told
                done.put((number, error))

    for name in range(min(threads, len(requests))):
        threading.Thread(target=work, name=f"external-{name}", daemon=True).start()
    outcome: Outcome[Answer] = Outcome()
    in_a_row = 0
    try:
        while len(outcome.answers) + len(outcome.errors) < len(requests) and not outcome.given_up:
            left = ends - time.monotonic()
            if left <= 0:
                break
            number, result = done.get(timeout=left)
            if isinstance(result, Exception):
                outcome.errors[number] = result
                in_a_row += 1
                outcome.given_up = in_a_row >= threads
            else:
                outcome.answers[number] = result
                in_a_row = 0
    except Empty:
        pass  # the time is up
    finally:
        is_over.set()
    return outcome
