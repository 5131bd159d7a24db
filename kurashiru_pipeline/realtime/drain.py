"""Running micro-batches in this process until nothing is pending.

Here: the loop and its tally.
Not here: the steps (micro_batch.py), or how progress is shown (cli.py).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from kurashiru_pipeline.realtime.micro_batch import Accounting, MicroBatchPipeline

T = TypeVar("T")


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

    def add(self, batch: Accounting) -> None:
        self.batch_count += 1
        self.line_count += batch.read_count
        self.staged_count += batch.staged_count
        self.duplicate_count += batch.duplicate_count
        self.rejected_count += batch.rejected_count


def drain(pipeline: MicroBatchPipeline, on_progress: Callable[[str, Tally], None], *, is_rescan: bool = False) -> Tally:
    """Load, stage, collect, preprocess, recommend and reflect until no file, stream or micro-batch is left.

    Args:
        on_progress: called with the step about to run.
        is_rescan: look through every landing folder once, not only those changed since the last load.
    """
    tally = Tally()

    def timed(step: str, call: Callable[[], T]) -> T:
        on_progress(step, tally)
        started = time.monotonic()
        outcome = call()
        tally.seconds[step] = tally.seconds.get(step, 0.0) + time.monotonic() - started
        return outcome

    while True:
        report = timed("load", partial(pipeline.load, is_rescan=is_rescan))
        # A rescan cut short by the batch limit, or put off because lines waited, goes on with the next load.
        is_rescan = is_rescan and not report.is_complete
        tally.failed_file_count += len(report.failed)
        batch = timed("stage", pipeline.stage)
        if batch is not None:
            for step in (pipeline.collect, pipeline.preprocess, pipeline.recommend):
                timed(step.__name__, step)
            tally.add(batch)
        delivery = timed("reflect", pipeline.reflect)
        tally.item_count += delivery.changed_count + delivery.tombstone_count
        if batch is None and not report.has_changes:
            return tally
