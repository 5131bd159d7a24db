"""Micro-batch after micro-batch in one process: the loop of `kurashiru drain` and of the near-real-time run.

Here: how many lines each may load, when the loop waits and when it ends, and what it tells of each micro-batch.
Not here: the steps (micro_batch.py), how a run shows them (reports.py) or a terminal does (cli.py).
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from kurashiru_pipeline.catalog import LOAD, Stage
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.backlog import Backlog, Lag, Meter, Rates, lag
from kurashiru_pipeline.core.batching import Bounds, next_limit
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.realtime.ledger import Delivery, MicroBatch
from kurashiru_pipeline.realtime.micro_batch import Accounting, MicroBatchPipeline, StepResult
from kurashiru_pipeline.warehouse.base import LoadReport

T = TypeVar("T")

_UNKNOWN: Final = Rates(None, None, None)


@dataclass(frozen=True)
class Done:
    """One round: what was loaded and the micro-batch that was delivered, as far as there was one.

    Attributes:
        batch: as the ledger had it before delivery; None when only files were loaded or items sent again.
        steps: results of collect, preprocess and recommend; empty without a micro-batch.
        seconds: by step, `load` first.
        limit: lines it was allowed to load.
    """

    loaded: LoadReport
    batch: MicroBatch | None
    accounting: Accounting | None
    steps: Mapping[Stage, StepResult]
    delivery: Delivery
    seconds: Mapping[str, float]
    limit: int
    lag: Lag

    @property
    def is_nothing(self) -> bool:
        sent = self.delivery.changed_count or self.delivery.tombstone_count or self.delivery.is_resend
        return self.accounting is None and not self.loaded.has_changes and not sent

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


@dataclass
class Tally:
    """What a drain has done so far; `seconds` by step name."""

    batch_count: int = 0
    line_count: int = 0
    staged_count: int = 0
    duplicate_count: int = 0
    rejected_count: int = 0
    item_count: int = 0
    failed_file_count: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, done: Done) -> None:
        if done.accounting is not None:
            self.batch_count += 1
            self.line_count += done.accounting.read_count
            self.staged_count += done.accounting.staged_count
            self.duplicate_count += done.accounting.duplicate_count
            self.rejected_count += done.accounting.rejected_count
        self.item_count += done.delivery.changed_count + done.delivery.tombstone_count
        self.failed_file_count += len(done.loaded.failed)
        for step, seconds in done.seconds.items():
            self.seconds[step] = self.seconds.get(step, 0.0) + seconds


def drain(pipeline: MicroBatchPipeline, on_progress: Callable[[str, Tally], None], *, is_rescan: bool = False) -> Tally:
    """Micro-batches until no file, stream or micro-batch is left.

    Args:
        on_progress: called with the step about to run.
        is_rescan: look through every landing folder once, not only those changed since the last load.
    """
    tally = Tally()
    for done in micro_batches(pipeline, on_step=lambda step: on_progress(step, tally), is_rescan=is_rescan):
        tally.add(done)
    return tally


def micro_batches(
    pipeline: MicroBatchPipeline,
    *,
    on_step: Callable[[str], object] = lambda step: None,
    is_rescan: bool = False,
    linger_seconds: float = 0.0,
    run_seconds: float = float("inf"),
    uninterrupted: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[Done]:
    """Load, stage, collect, preprocess, recommend and reflect, again and again while there is work.

    Whoever waits for the lake gets it between two rounds. A round that fails raises; what was delivered before stays.

    Args:
        on_step: called with the step about to run.
        is_rescan: look through every landing folder once.
        linger_seconds: how long to wait for more after the last micro-batch; the wait queries nothing.
        run_seconds: after so long no further round begins.
        uninterrupted: entered around each round, to hold back whatever would break it off.
    """
    ends_at = time.monotonic() + run_seconds
    lingers_until = min(time.monotonic() + linger_seconds, ends_at)
    rounds = _Rounds(pipeline, on_step)
    while time.monotonic() < ends_at:
        # Taken before the round, so that whatever comes during it is a change afterwards.
        signature = pipeline.warehouse.change_signature() if linger_seconds else None
        with uninterrupted():
            done = rounds.next(is_rescan=is_rescan)
        # A rescan cut short by the batch limit, or put off because lines waited, goes on with the next load.
        is_rescan = is_rescan and not done.loaded.is_complete
        if not done.is_nothing:
            yield done
            lingers_until = min(time.monotonic() + linger_seconds, ends_at)
            pipeline.give_way()
        elif not _has_changed(pipeline, signature, until=lingers_until):
            return


def bounds(settings: Settings) -> Bounds:
    """Between which numbers of lines micro-batches are cut; a greatest below the least fixes it."""
    maximum = settings.integer("KURASHIRU_MAX_BATCH_LINES", minimum=1)
    minimum = min(settings.integer("KURASHIRU_MIN_BATCH_LINES", minimum=1), maximum)
    return Bounds(minimum, maximum, settings.integer("KURASHIRU_BATCH_SECONDS", minimum=1))


def _has_changed(pipeline: MicroBatchPipeline, signature: object, *, until: float) -> bool:
    """Wait for a change of what can bring work; False when there was none `until` then, or the storage is gone."""
    poll_seconds = pipeline.settings.seconds("KURASHIRU_POLL_SECONDS")
    while (left := until - time.monotonic()) > 0:
        time.sleep(min(poll_seconds, left))
        if pipeline.warehouse.is_replaced():
            return False
        if pipeline.give_way() or pipeline.warehouse.change_signature() != signature:
            return True
    return False


class _Rounds:
    """The rounds of one process; remembers what the last ones took."""

    def __init__(self, pipeline: MicroBatchPipeline, on_step: Callable[[str], object]) -> None:
        self._pipeline = pipeline
        self._on_step = on_step
        self._bounds = bounds(pipeline.settings)
        self._limit = self._bounds.minimum
        self._meter = Meter()

    def next(self, *, is_rescan: bool) -> Done:
        pipeline, limit = self._pipeline, self._limit
        seconds: dict[str, float] = {}

        def timed(step: str, call: Callable[[], T]) -> T:
            self._on_step(step)
            started = time.monotonic()
            outcome = call()
            seconds[step] = time.monotonic() - started
            return outcome

        began = time.monotonic()
        loaded = timed(LOAD, partial(pipeline.load, max_lines=limit, is_rescan=is_rescan))
        accounting = timed(Stage.STAGE, pipeline.stage)
        batch, steps = None, {}
        if accounting is not None:
            batch = pipeline.unfinished_batch()
            steps = {
                Stage.COLLECT: timed(Stage.COLLECT, pipeline.collect),
                Stage.PREPROCESS: timed(Stage.PREPROCESS, pipeline.preprocess),
                Stage.RECOMMEND: timed(Stage.RECOMMEND, pipeline.recommend),
            }
        delivery = timed(Stage.REFLECT, pipeline.reflect)
        self._limit = next_limit(limit, lines=loaded.line_count, seconds=sum(seconds.values()), bounds=self._bounds)
        behind = self._behind(began, loaded, sum(seconds.values()))
        return Done(loaded, batch, accounting, steps, delivery, seconds, limit, behind)

    def _behind(self, began: float, loaded: LoadReport, busy_seconds: float) -> Lag:
        """How far behind the round leaves us: what its load had no room for."""
        waiting = loaded.waiting
        if waiting is None:
            return lag(Backlog(None, None, None, 0, None), _UNKNOWN, utc_now())
        rates = self._meter.add(
            began,
            lines=loaded.line_count,
            file_bytes=loaded.byte_count,
            waiting_bytes=waiting.byte_count,
            busy_seconds=busy_seconds,
        )
        left = Backlog(waiting.file_count, waiting.byte_count, 0, 0, waiting.oldest_landed_at)
        return lag(left, rates, utc_now())
