"""How changed lists get into DynamoDB: written by this process, or by the warehouse's external function.

Here: what is sent, in which order it is recorded, and what a refused item does.
Not here: the item's form (core/items.py, which both ways follow), when to send (micro_batch.py), the client
(serving/dynamodb.py), the other end of the external function (serving/lambda_handler.py).
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.core.item_columns import encode_lists
from kurashiru_pipeline.core.items import build_tombstone
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, TransientError
from kurashiru_pipeline.realtime.ledger import BEGINNING, Delivery, MicroBatch
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse.base import Transaction, Warehouse

_DIRECT_CHUNK = 10_000
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
        strangers: list[str] = []
        items = (user for user, _, is_deleted in self._table.keys_and_versions() if not is_deleted)
        while users := list(islice(items, _DIRECT_CHUNK)):
            known = set(_values(self._warehouse.fetch("listed_users", user_ids=users), "user_id"))
            strangers += [user for user in users if user not in known]
        return strangers


class DirectDeliverer(Deliverer):
    """Items built and written here, in chunks, each recorded once it has arrived."""

    def deliver(self, batch: MicroBatch, *, is_resend: bool, on_progress: Progress | None = None) -> Delivery:
        done = tombstones = requests = retries = dropped = 0
        refused: list[tuple[str, str]] = []
        for chunk in self._chunks(batch, is_resend=is_resend):
            report = self._table.write_encoded(chunk.items)
            self._record(chunk.deliveries, {user_id for user_id, _ in report.failed})
            unsent = [(user_id, error) for user_id, error in report.failed if user_id not in report.refused]
            if unsent:
                user_id, error = unsent[0]
                message = (
                    f"{len(unsent)} of {len(chunk.items)} items could not be written to DynamoDB table "
                    f"{self._table.name} (first: {user_id}: {error}); the rest is recorded, the next run sends "
                    "these again"
                )
                raise TransientError(message)
            refused += report.failed
            requests += report.requests
            retries += report.retries
            tombstones += chunk.tombstone_count
            dropped += chunk.dropped_recipe_count
            done += len(chunk.items)
            if on_progress is not None:
                on_progress(done, done + chunk.waiting_count)
        return Delivery(
            batch_id=batch.batch_id,
            changed_count=done - tombstones - len(refused),
            tombstone_count=tombstones,
            request_count=requests,
            retry_count=retries,
            dropped_recipe_count=dropped,
            refused=tuple(refused),
            is_resend=is_resend,
        )

    def _chunks(self, batch: MicroBatch, *, is_resend: bool) -> Iterator["_Outgoing"]:
        expires_at = batch.staged_at + self._lifetime
        emptied = []
        for changed in self._pages(batch, is_resend=is_resend):
            has_recipes = pc.greater(pc.list_value_length(changed["recipe_ids"]), pa.scalar(0))
            lists = changed.filter(has_recipes)
            for start in range(0, lists.num_rows, _DIRECT_CHUNK):
                waiting = max(0, lists.num_rows - start - _DIRECT_CHUNK)
                yield _outgoing_lists(lists.slice(start, _DIRECT_CHUNK), expires_at, waiting)
            is_emptied = pc.and_(pc.invert(has_recipes), changed["is_delivered"])
            emptied.append(changed.filter(is_emptied).select(["user_id", "content_hash"]))
        gone = _values(self._warehouse.fetch("erased_items", batch_id=batch.batch_id), "user_id")
        if is_resend:
            gone = [*dict.fromkeys(gone + self._strangers())]
        no_hash = pa.array([""] * len(gone), pa.string())
        without_list = pa.concat_tables(
            [*emptied, pa.table({"user_id": pa.array(gone, pa.string()), "content_hash": no_hash})]
        )
        for start in range(0, without_list.num_rows, _DIRECT_CHUNK):
            waiting = max(0, without_list.num_rows - start - _DIRECT_CHUNK)
            yield _outgoing_tombstones(without_list.slice(start, _DIRECT_CHUNK), batch, expires_at, waiting)

    def _pages(self, batch: MicroBatch, *, is_resend: bool) -> Iterator[pa.Table]:
        parts = self._warehouse.parts("recommendation.recommendations") if is_resend else 1
        for part in range(parts):
            yield self._warehouse.fetch(
                "changed_items",
                batch_id=batch.batch_id,
                is_resend=is_resend,
                refresh_before=batch.staged_at - self._lifetime / 2,
                part=part,
                parts=parts,
            )

    def _record(self, deliveries: pa.Table, failed: set[str]) -> None:
        if failed:
            has_failed = pc.is_in(deliveries["user_id"], pa.array(sorted(failed), pa.string()))
            deliveries = deliveries.filter(pc.invert(has_failed))
        if not deliveries.num_rows:
            return
        delivered_at = self._clock()
        self._warehouse.transact(
            lambda transaction: transaction.run("record_deliveries", delivered_at=delivered_at),
            inputs={"incoming_deliveries": deliveries},
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
                part=0,
                parts=1,
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
    """Items on their way, and what is recorded of them once they have arrived.

    Attributes:
        items: by user, as JSON.
        deliveries: user_id, version, content_hash, is_tombstone.
        waiting_count: items of which is known that they follow.
    """

    items: dict[str, bytes]
    deliveries: pa.Table
    waiting_count: int
    tombstone_count: int = 0
    dropped_recipe_count: int = 0


def _outgoing_lists(lists: pa.Table, expires_at: datetime, waiting_count: int) -> _Outgoing:
    encoded = encode_lists(lists, expires_at)
    items = dict(zip(encoded.user_ids, encoded.items, strict=True))
    is_tombstone = pa.repeat(pa.scalar(False), lists.num_rows)
    deliveries = lists.select(["user_id", "version", "content_hash"]).append_column("is_tombstone", is_tombstone)
    return _Outgoing(items, deliveries, waiting_count, dropped_recipe_count=int(encoded.dropped_recipes.sum()))


def _outgoing_tombstones(
    without_list: pa.Table, batch: MicroBatch, expires_at: datetime, waiting_count: int
) -> _Outgoing:
    def tombstone(user_id: str) -> bytes:
        item = build_tombstone(
            user_id,
            algorithm="none",
            version=batch.batch_id,
            generated_at=batch.staged_at,
            expires_at=expires_at,
        )
        return orjson.dumps(item)

    items = {user_id: tombstone(user_id) for user_id in _values(without_list, "user_id")}
    deliveries = pa.table(
        {
            "user_id": without_list["user_id"],
            "version": pa.repeat(pa.scalar(batch.batch_id, pa.int64()), without_list.num_rows),
            "content_hash": without_list["content_hash"],
            "is_tombstone": pa.repeat(pa.scalar(True), without_list.num_rows),
        }
    )
    return _Outgoing(items, deliveries, waiting_count, tombstone_count=len(items))


def _epoch(moment: datetime) -> int:
    return (moment - BEGINNING) // timedelta(seconds=1)


def _values(table: pa.Table, column: str) -> list[Any]:
    return table[column].to_pylist()
