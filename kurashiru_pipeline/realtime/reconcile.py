"""Does DynamoDB hold what was delivered? Comparing the table with serving.delivered_items.

Here: a sample for every micro-batch, and the whole table for the scheduled check.
Not here: mending; a table that was replaced is found by its marker (micro_batch.py) and sent everything.
"""

from dataclasses import dataclass
from datetime import datetime

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
    delivered = warehouse.fetch("delivered_items", batch_id=batch_id, at_most=_SAMPLE).to_pylist()
    differing = []
    for row in delivered:
        found = table.read(row["user_id"], consistent=True)
        if found is None or (found.version, found.is_deleted) != (row["version"], row["is_tombstone"]):
            differing.append(row["user_id"])
    return Reconciliation(len(delivered), differing)


def reconcile_table(warehouse: Warehouse, table: RecommendationTable, *, delivered_since: datetime) -> Reconciliation:
    """Compare every item, both ways; costs a scan of the table.

    Args:
        delivered_since: older deliveries may have expired in DynamoDB; one that is still there is no difference.
    """
    found = {user_id: (version, deleted) for user_id, version, deleted in table.keys_and_versions()}
    compared = 0
    differing = []
    parts = warehouse.parts("serving.delivered_items")
    for part in range(parts):
        delivered = warehouse.fetch("delivered_part", delivered_since=delivered_since, part=part, parts=parts)
        compared += delivered.num_rows
        columns = (delivered[name].to_pylist() for name in ("user_id", "version", "is_tombstone", "is_recent"))
        for user_id, version, is_tombstone, is_recent in zip(*columns, strict=True):
            item = found.pop(user_id, None)
            if (item is None and is_recent) or (item is not None and item != (version, is_tombstone)):
                differing.append(user_id)
    return Reconciliation(compared, sorted([*differing, *found]))
