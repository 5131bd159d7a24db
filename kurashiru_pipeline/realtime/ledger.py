"""What the ledger knows of a micro-batch, as the steps hand it on.

Here: the small types that kernel, delivery and pipeline share.
Not here: reading or writing the ledger (micro_batch.py).
"""

from dataclasses import dataclass
from datetime import datetime

from kurashiru_pipeline.catalog import Stage

BEGINNING = datetime(1970, 1, 1)  # noqa: DTZ001 - naive UTC, as in the lake
_STAGES = tuple(Stage)


@dataclass(frozen=True)
class MicroBatch:
    """One row of the ledger: a micro-batch that is staged and how far it has come."""

    batch_id: int
    staged_at: datetime
    watermark_at: datetime
    finished_stages: int = len(_STAGES)

    def is_past(self, stage: Stage) -> bool:
        return self.finished_stages > _STAGES.index(stage)


@dataclass(frozen=True)
class Delivery:
    """What the reflect step did; `refused` are (user, error) of items that DynamoDB will never take."""

    batch_id: int | None
    seconds: float = 0.0
    changed_count: int = 0
    tombstone_count: int = 0
    unchanged_count: int = 0
    request_count: int = 0
    retry_count: int = 0
    dropped_recipe_count: int = 0
    refused: tuple[tuple[str, str], ...] = ()
    is_resend: bool = False
