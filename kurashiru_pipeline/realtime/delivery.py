"""How changed lists get into DynamoDB: written by this process, or by the warehouse's external function.

Here: what is sent, in which order it is recorded, and what a refused item does.
Not here: the item's form (core/items.py, one builder for both ways), when to send (micro_batch.py), the client
(serving/dynamodb.py), the other end of the external function (serving/lambda_handler.py).
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from kurashiru_pipeline.core.items import Item, build_item, build_tombstone, recipe_count
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, TransientError
from kurashiru_pipeline.realtime.ledger import BEGINNING, Delivery, MicroBatch
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse.base import Transaction, Warehouse

_DIRECT_CHUNK = 5_000
_CALLS = 5
_FIRST_WAIT_SECONDS = 1.0

Progress = Callable[[int, int], None]


class Deliverer(ABC):
    """Sends what changed, and records what DynamoDB took, only after it said so."""

    def __init__(
        self, warehouse: Warehouse, table: RecommendationTable, settings: Settings, clock: Callable[[], datetime]
    ) -> None:
        self._warehouse = warehouse
        self._table = table
        self._lifetime = timedelta(days=settings.integer("KURASHIRU_ITEM_TTL_DAYS", minimum=1))
        self._clock = clock

    @abstractmethod
    def deliver(self, batch: MicroBatch, *, is_resend: bool, on_progress: Progress | None = None) -> Delivery:
        """Send the micro-batch's changed lists; all lists after a change of table.

        Raises:
            TransientError: some items could not be written; those written are recorded, the next run sends the rest.
        """

    def _strangers(self) -> list[str]:
        """Users with an item in a table we did not write (restored from a backup, say), but without a list."""
        known = set(_values(self._warehouse.fetch("listed_users"), "user_id"))
        return [user for user, _, is_deleted in self._table.keys_and_versions() if not is_deleted and user not in known]


class DirectDeliverer(Deliverer):
    """Items built and written here, in chunks, each recorded once it has arrived."""

    def deliver(self, batch: MicroBatch, *, is_resend: bool, on_progress: Progress | None = None) -> Delivery:
        changed = self._warehouse.fetch(
            "changed_items",
            batch_id=batch.batch_id,
            is_resend=is_resend,
            refresh_before=batch.staged_at - self._lifetime / 2,
        )
        gone = _values(self._warehouse.fetch("erased_items", batch_id=batch.batch_id), "user_id")
        if is_resend:
            gone += self._strangers()
        expires_at = batch.staged_at + self._lifetime
        outgoing = [
            *_items(changed, batch, expires_at),
            *(_tombstone(user_id, batch, expires_at) for user_id in gone),
        ]
        tombstones = sum(entry.is_tombstone for entry in outgoing)
        requests = retries = 0
        refused: list[tuple[str, str]] = []
        for start in range(0, len(outgoing), _DIRECT_CHUNK):
            chunk = outgoing[start : start + _DIRECT_CHUNK]
            report = self._table.write([entry.item for entry in chunk])
            failed = {user_id for user_id, _ in report.failed}
            self._record([entry for entry in chunk if entry.user_id not in failed])
            requests += report.requests
            retries += report.retries
            refused += [(user_id, error) for user_id, error in report.failed if user_id in report.refused]
            unsent = [(user_id, error) for user_id, error in report.failed if user_id not in report.refused]
            if unsent:
                user_id, error = unsent[0]
                message = (
                    f"{len(unsent)} of {len(chunk)} items could not be written to DynamoDB table {self._table.name} "
                    f"(first: {user_id}: {error}); the rest is recorded, the next run sends these again"
                )
                raise TransientError(message)
            if on_progress is not None:
                on_progress(start + len(chunk), len(outgoing))
        return Delivery(
            batch_id=batch.batch_id,
            changed_count=len(outgoing) - tombstones - len(refused),
            tombstone_count=tombstones,
            request_count=requests,
            retry_count=retries,
            dropped_recipe_count=sum(entry.dropped_recipe_count for entry in outgoing),
            refused=tuple(refused),
            is_resend=is_resend,
        )

    def _record(self, delivered: list["_Outgoing"]) -> None:
        if not delivered:
            return
        table = pa.table(
            {
                "user_id": pa.array([entry.user_id for entry in delivered], pa.string()),
                "version": pa.array([entry.version for entry in delivered], pa.int64()),
                "content_hash": pa.array([entry.content_hash for entry in delivered], pa.string()),
                "is_tombstone": pa.array([entry.is_tombstone for entry in delivered], pa.bool_()),
            }
        )
        delivered_at = self._clock()
        self._warehouse.transact(
            lambda transaction: transaction.run("record_deliveries", delivered_at=delivered_at),
            inputs={"incoming_deliveries": table},
        )


class ExternalFunctionDeliverer(Deliverer):
    """Candidates, their answers and what was delivered are tables of the warehouse, which calls the Lambda function.

    A candidate's version is fixed before it is sent, so sending it twice is harmless; what died in between is sent
    again. An item that is refused, or is in the table in a newer version, is left out and shown.

    Args:
        sleep: replaced by tests.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        table: RecommendationTable,
        settings: Settings,
        clock: Callable[[], datetime],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(warehouse, table, settings, clock)
        self._sleep = sleep

    def deliver(self, batch: MicroBatch, *, is_resend: bool, on_progress: Progress | None = None) -> Delivery:
        strangers = pa.table({"user_id": pa.array(self._strangers() if is_resend else [], pa.string())})
        self._warehouse.transact(
            lambda transaction: transaction.run(
                "snowflake/begin_delivery",
                batch_id=batch.batch_id,
                is_resend=is_resend,
                refresh_before=batch.staged_at - self._lifetime / 2,
                generated_at=_epoch(batch.staged_at),
                expires_at=_epoch(batch.staged_at + self._lifetime),
            ),
            inputs={"incoming_strangers": strangers},
        )
        calls = 0
        failure = ""
        outcome = self._outcome(batch)
        while outcome["answered"] < outcome["candidates"] and calls < _CALLS and not failure:
            if calls:
                self._sleep(_FIRST_WAIT_SECONDS * 2 ** (calls - 1))
            try:
                self._call(batch)
            except TransientError as error:
                # Snowflake has tried for minutes by itself; what it got through before is recorded below.
                failure = f": {error}"
            calls += 1
            outcome = self._outcome(batch)
            if on_progress is not None:
                on_progress(outcome["answered"], outcome["candidates"])
        self._record(batch)
        unsent = outcome["candidates"] - outcome["answered"]
        if unsent:
            message = (
                f"{unsent} of {outcome['candidates']} items could not be written to DynamoDB table {self._table.name} "
                f"in {calls} calls of serving.put_items; the rest is recorded, the next run sends these again{failure}"
            )
            raise TransientError(message)
        refusals = self._warehouse.fetch("snowflake/delivery_refusals", batch_id=batch.batch_id)
        return Delivery(
            batch_id=batch.batch_id,
            changed_count=outcome["changed"],
            tombstone_count=outcome["tombstones"],
            request_count=calls,
            retry_count=max(0, calls - 1),
            dropped_recipe_count=outcome["dropped_recipes"],
            refused=tuple((row["user_id"], row["error"]) for row in refusals.to_pylist()),
            is_resend=is_resend,
        )

    def _call(self, batch: MicroBatch) -> None:
        answered_at = self._clock()

        def body(transaction: Transaction) -> None:
            transaction.run("snowflake/call_delivery", batch_id=batch.batch_id, answered_at=answered_at)

        self._warehouse.transact(body)

    def _outcome(self, batch: MicroBatch) -> dict[str, int]:
        [outcome] = self._warehouse.fetch("snowflake/delivery_outcome", batch_id=batch.batch_id).to_pylist()
        return dict(outcome)

    def _record(self, batch: MicroBatch) -> None:
        delivered_at = self._clock()

        def body(transaction: Transaction) -> None:
            transaction.run("snowflake/record_deliveries", batch_id=batch.batch_id, delivered_at=delivered_at)

        self._warehouse.transact(body)


def open_deliverer(
    warehouse: Warehouse, table: RecommendationTable, settings: Settings, clock: Callable[[], datetime]
) -> Deliverer:
    """The way of delivery that the settings ask for.

    Raises:
        ConfigurationError: the engine has no external functions.
    """
    if settings.text("KURASHIRU_REFLECT") == "direct":
        return DirectDeliverer(warehouse, table, settings, clock)
    if warehouse.engine != "snowflake":
        message = (
            f"KURASHIRU_REFLECT=external_function needs KURASHIRU_ENGINE=snowflake, not {warehouse.engine}; "
            "to write from this process: export KURASHIRU_REFLECT=direct"
        )
        raise ConfigurationError(message)
    return ExternalFunctionDeliverer(warehouse, table, settings, clock)


@dataclass(frozen=True)
class _Outgoing:
    """An item on its way, with what is recorded once it has arrived."""

    user_id: str
    version: int
    content_hash: str
    is_tombstone: bool
    dropped_recipe_count: int
    item: Item


def _items(changed: pa.Table, batch: MicroBatch, expires_at: datetime) -> Iterator[_Outgoing]:
    for row in changed.to_pylist():
        if row["recipe_ids"]:
            item = build_item(
                row["user_id"],
                recipe_ids=row["recipe_ids"],
                reasons=row["reasons"],
                scores=row["scores"],
                algorithm=row["algorithm"],
                version=row["version"],
                generated_at=row["generated_at"],
                expires_at=expires_at,
            )
            dropped = len(row["recipe_ids"]) - recipe_count(item)
            yield _Outgoing(row["user_id"], row["version"], row["content_hash"], False, dropped, item)
        elif row["is_delivered"]:
            yield _tombstone(row["user_id"], batch, expires_at, row["content_hash"])


def _tombstone(user_id: str, batch: MicroBatch, expires_at: datetime, list_hash: str = "") -> _Outgoing:
    item = build_tombstone(
        user_id,
        algorithm="none",
        version=batch.batch_id,
        generated_at=batch.staged_at,
        expires_at=expires_at,
    )
    return _Outgoing(user_id, batch.batch_id, list_hash, True, 0, item)


def _epoch(moment: datetime) -> int:
    return (moment - BEGINNING) // timedelta(seconds=1)


def _values(table: pa.Table, column: str) -> list[Any]:
    return table[column].to_pylist()
