"""Does DynamoDB hold what was delivered? Comparing the table with serving.delivered_items.

Here: a sample for every micro-batch, and the whole table for the scheduled check.
Not here: mending; a table that was replaced is found by its marker (micro_batch.py) and sent everything.
"""

from dataclasses import dataclass
from datetime import datetime

from kurashiru_pipeline.realtime.ledger import BEGINNING, EVERYTHING
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse.base import Warehouse

_SAMPLE = 10


@dataclass(frozen=True)
class Reconciliation:
    """How many users were compared, and which differ or are missing."""

    compared: int
    differing: list[str]


def reconcile_sample(warehouse: Warehouse, table: RecommendationTable, batch_id: int) -> Reconciliation:
    """Compare a few of the items that micro-batch `batch_id` delivered."""
    delivered = _delivered(warehouse, BEGINNING, batch_id=batch_id, is_everything=False, at_most=_SAMPLE)
    differing = []
    for user_id, expected in delivered.items():
        found = table.read(user_id, consistent=True)
        if found is None or (found.version, found.is_deleted) != expected:
            differing.append(user_id)
    return Reconciliation(len(delivered), differing)


def reconcile_table(warehouse: Warehouse, table: RecommendationTable, *, delivered_since: datetime) -> Reconciliation:
    """Compare every item, both ways; costs a scan of the table.

    Args:
        delivered_since: older deliveries may have expired in DynamoDB; one that is still there is no difference.
    """
    delivered = _delivered(warehouse, BEGINNING, batch_id=0, is_everything=True, at_most=EVERYTHING)
    recent = _delivered(warehouse, delivered_since, batch_id=0, is_everything=True, at_most=EVERYTHING)
    found = {user_id: (version, deleted) for user_id, version, deleted in table.keys_and_versions()}
    missing = recent.keys() - found.keys()
    wrong = {user_id for user_id, item in found.items() if delivered.get(user_id) != item}
    return Reconciliation(len(delivered), sorted(missing | wrong))


def _delivered(
    warehouse: Warehouse, since: datetime, *, batch_id: int, is_everything: bool, at_most: int
) -> dict[str, tuple[int, bool]]:
    rows = warehouse.fetch(
        "delivered_items", delivered_since=since, batch_id=batch_id, is_everything=is_everything, at_most=at_most
    )
    return {row["user_id"]: (row["version"], row["is_tombstone"]) for row in rows.to_pylist()}
