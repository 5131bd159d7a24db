"""The micro-batch: load, stage, collect, preprocess, recommend, reflect, with the ledger between them.

Here: what each step does and in which order, over the warehouse port, the kernel and the DynamoDB table.
Not here: Dagster (assets.py wraps these steps, `kurashiru drain` calls them), SQL text, or the kernel's mathematics.

At most one micro-batch is unfinished at any time: nothing new is staged before it is delivered, and nothing is loaded
while loaded lines wait to be staged. So a killed process leaves exactly one place to go on from, and micro-batches are
cut at the same lines whether or not anything was killed.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import pyarrow as pa

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM, Stage
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.artifact import ModelArtifact, load_promoted, promoted_version
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.events import EVENT_NAMES, MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.core.items import Item, build_item, build_tombstone, content_hash, recipe_count
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.quality import Freshness, freshness
from kurashiru_pipeline.core.ranking import default_list, rank
from kurashiru_pipeline.core.weights import Weights, load_weights
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import KurashiruError, TransientError
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse.base import LoadReport, RowCounts, Transaction, Warehouse

EVERYTHING = 2**62
BEGINNING = datetime(1970, 1, 1)  # noqa: DTZ001 - naive UTC, as in the lake
_STAGES = tuple(Stage)
_DELIVERY_CHUNK = 5_000


@dataclass(frozen=True)
class MicroBatch:
    """One row of the ledger: a micro-batch that is staged and how far it has come."""

    batch_id: int
    staged_at: datetime
    watermark_at: datetime
    finished_stages: int

    def is_past(self, stage: Stage) -> bool:
        return self.finished_stages > _STAGES.index(stage)


@dataclass(frozen=True)
class Accounting:
    """What became of the lines a micro-batch read: read = staged + duplicates + rejected."""

    batch_id: int
    read_count: int
    staged_count: int
    duplicate_count: int
    rejected_count: int
    unknown_name_count: int
    user_count: int
    erased_user_count: int

    @property
    def is_balanced(self) -> bool:
        return self.read_count == self.staged_count + self.duplicate_count + self.rejected_count


@dataclass(frozen=True)
class StepResult:
    """What one step did for the micro-batch in hand; `figures` are its row counts, by name."""

    batch_id: int | None
    seconds: float = 0.0
    figures: Mapping[str, int] = field(default_factory=dict)


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


class MicroBatchPipeline:
    """The steps over one open, writing warehouse.

    Args:
        connect_table: opens the DynamoDB table; called when something is to be delivered, not before.
        clock: now, naive UTC.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        settings: Settings,
        connect_table: Callable[[], RecommendationTable],
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._warehouse = warehouse
        self._settings = settings
        self._connect_table = connect_table
        self._clock = clock
        self._artifact: ModelArtifact | None = None
        self._unfinished: list[MicroBatch] | None = None

    @property
    def settings(self) -> Settings:
        return self._settings

    @property
    def warehouse(self) -> Warehouse:
        return self._warehouse

    @cached_property
    def table(self) -> RecommendationTable:
        """The DynamoDB table, opened at first use."""
        return self._connect_table()

    @cached_property
    def weights(self) -> Weights:
        return load_weights()

    def unfinished_batch(self) -> MicroBatch | None:
        """The micro-batch that is staged but not delivered.

        Read from the ledger once: nobody else writes it while this process holds the lake.
        """
        if self._unfinished is None:
            rows = self._warehouse.fetch("unfinished_batches", last_stage=Stage.REFLECT).to_pylist()
            if len(rows) > 1:
                message = f"micro-batches {[row['batch_id'] for row in rows]} are unfinished; there can only be one"
                raise KurashiruError(message)
            self._unfinished = [MicroBatch(**row) for row in rows]
        return self._unfinished[0] if self._unfinished else None

    def pending(self) -> str | None:
        """Why there is work to do, or None."""
        return pending_work(self._warehouse)

    def load(self, *, is_rescan: bool = False) -> LoadReport:
        """Load landed files, unless lines loaded before still wait: those are staged first."""
        if self._warehouse.stream_has_data(RAW_EVENTS_STREAM) or self.unfinished_batch() is not None:
            return LoadReport.nothing(is_complete=False)
        return self._warehouse.load_landed_files(
            max_lines=self._settings.integer("KURASHIRU_MAX_BATCH_LINES", minimum=1),
            is_rescan=is_rescan,
        )

    def stage(self) -> Accounting | None:
        """Consume the stream into a new micro-batch; the unfinished one instead, if there is one; None if no work.

        Raises:
            StaleStreamError: unread changes are gone; names the command that mends it.
        """
        unfinished = self.unfinished_batch()
        if unfinished is not None:
            return self._accounting(unfinished.batch_id)
        if not (self._warehouse.stream_has_data(RAW_EVENTS_STREAM) or self._has_erasures()):
            return None
        started = time.monotonic()
        batch_id = self._warehouse.transact(
            lambda transaction: self._stage(transaction, started), work_tables="stage_work_tables"
        )
        self._unfinished = None
        return None if batch_id is None else self._accounting(batch_id)

    def _stage(self, transaction: Transaction, started: float) -> int | None:
        transaction.run("stage_parse", retention_days=self._settings.integer("KURASHIRU_RETENTION_DAYS", minimum=1))
        [summary] = transaction.fetch("stage_summary").to_pylist()
        if not summary["read_count"] and not self._has_erasures():
            return None
        [last] = transaction.fetch("last_batch").to_pylist()
        staged_at = self._clock()
        batch_id = (last["batch_id"] or 0) + 1
        seen = [moment for moment in (last["watermark_at"], summary["latest_occurred_at"]) if moment is not None]
        window = timedelta(hours=self._settings.integer("KURASHIRU_DEDUPLICATION_HOURS"))
        transaction.run(
            "stage_accept",
            batch_id=batch_id,
            staged_at=staged_at,
            watermark_at=max(seen, default=staged_at),
            duplicates_from=(summary["loaded_from"] or staged_at) - window,
            read_count=summary["read_count"],
            rejected_count=summary["rejected_count"],
            event_names=EVENT_NAMES,
        )
        accounting = _accounting(transaction.fetch("batch_ledger", batch_id=batch_id))
        if not accounting.is_balanced or accounting.duplicate_count < 0:
            message = f"micro-batch {batch_id} does not balance, so it was rolled back: {accounting}"
            raise KurashiruError(message)
        self._finish(transaction, batch_id, Stage.STAGE, started, accounting.staged_count)
        return batch_id

    def collect(self) -> StepResult:
        """Bring recent behaviours of the touched users up to date."""
        with self._step(Stage.COLLECT) as step:
            if step.batch is None:
                return StepResult(None)

            def body(transaction: Transaction) -> RowCounts:
                counts = transaction.run(
                    "collect",
                    batch_id=step.batch_id,
                    keep=self._settings.integer("KURASHIRU_RECENT_BEHAVIORS", minimum=1),
                    meaningful_event_names=MEANINGFUL_EVENT_NAMES,
                )
                step.finish(transaction, counts["add"])
                return counts

            counts = self._warehouse.transact(body, work_tables="collect_work_tables")
            return step.result(behaviors_kept=counts["add"], behaviors_replaced=counts["remove"])

    def preprocess(self) -> StepResult:
        """Profiles of the touched users, and live popularity of the touched recipes."""
        with self._step(Stage.PREPROCESS) as step:
            if step.batch is None:
                return StepResult(None)
            behaviors = self._warehouse.fetch(
                "batch_behaviors", batch_id=step.batch_id, meaningful_event_names=MEANINGFUL_EVENT_NAMES
            )
            profiles = build_profiles(behaviors, self._catalogue(), self.weights, step.batch.watermark_at)
            batch = step.batch

            def body(transaction: Transaction) -> RowCounts:
                popularity = transaction.run(
                    "update_popularity",
                    batch_id=batch.batch_id,
                    watermark_at=batch.watermark_at,
                    action_weights=self.weights.actions.model_dump(),
                    half_life_seconds=self.weights.popularity.half_life_days * 86_400,
                )
                transaction.run("replace_profiles", batch_id=batch.batch_id)
                step.finish(transaction, profiles.num_rows)
                return popularity

            popularity = self._warehouse.transact(
                body, work_tables="popularity_work_tables", inputs={"incoming_profiles": profiles}
            )
            return step.result(profiles=profiles.num_rows, recipes_with_popularity=popularity["add"])

    def recommend(self) -> StepResult:
        """Rank recipes for the micro-batch's users, and for users without a list of their own."""
        with self._step(Stage.RECOMMEND) as step:
            if step.batch is None:
                return StepResult(None)
            lists = self._ranked(step.batch)
            batch = step.batch

            def body(transaction: Transaction) -> None:
                transaction.run("replace_recommendations", batch_id=batch.batch_id, generated_at=batch.staged_at)
                step.finish(transaction, lists.num_rows)

            self._warehouse.transact(body, inputs={"incoming_recommendations": lists})
            listed: list[list[str]] = _values(lists, "recipe_ids")
            return step.result(
                users=len(listed) - 1,
                recipes_listed=sum(map(len, listed)),
                empty_lists=sum(not recipe_ids for recipe_ids in listed),
                repeated_recipes=sum(len(recipe_ids) - len(set(recipe_ids)) for recipe_ids in listed),
            )

    def _ranked(self, batch: MicroBatch) -> pa.Table:
        catalogue = self._catalogue()
        popularity = self._warehouse.fetch("popularity")
        artifact = self._promoted_artifact()
        length = self._settings.integer("KURASHIRU_LIST_LENGTH", minimum=1)
        profiles = self._warehouse.fetch("batch_profiles", batch_id=batch.batch_id)
        lists = rank(profiles, catalogue, popularity, artifact, self.weights, batch.watermark_at, list_length=length)
        default = default_list(catalogue, popularity, artifact, self.weights, batch.watermark_at, list_length=length)
        lists = pa.concat_tables([lists, default])
        hashes = list(map(content_hash, _values(lists, "recipe_ids"), _values(lists, "reasons")))
        return lists.append_column("content_hash", pa.array(hashes, pa.string()))

    def reflect(self, on_progress: Callable[[int, int], None] | None = None) -> Delivery:
        """Send changed lists to DynamoDB and record what it took. Sends everything to a table it does not know.

        Raises:
            TransientError: some items could not be written; those written are recorded, the next run sends the rest.
            ConfigurationError: the table is missing and may not be created here.
        """
        batch = self.unfinished_batch()
        if batch is None:
            return self._resend_if_new_table()
        started = time.monotonic()
        is_resend = self._prepare_target()
        delivery = self._deliver(batch, is_resend=is_resend, on_progress=on_progress)
        [lists] = self._warehouse.fetch("batch_list_count", batch_id=batch.batch_id).to_pylist()

        def body(transaction: Transaction) -> None:
            if is_resend:
                transaction.run("finish_resend", table_name=self.table.name)
            # The batch's lists, however many attempts their delivery took.
            self._finish(transaction, batch.batch_id, Stage.REFLECT, started, lists["list_count"])

        self._warehouse.transact(body)
        self._unfinished = []
        sent = delivery.changed_count + len(delivery.refused)
        unchanged = 0 if is_resend else lists["list_count"] - sent
        return replace(delivery, unchanged_count=unchanged, seconds=time.monotonic() - started)

    def _resend_if_new_table(self) -> Delivery:
        """Nothing new, but the table may have been recreated since the last delivery."""
        [last] = self._warehouse.fetch("last_batch").to_pylist()
        if last["batch_id"] is None:
            return Delivery(None)
        started = time.monotonic()
        self.table.ensure_exists(create=self._settings.flag("KURASHIRU_DYNAMODB_CREATE"))
        if not is_delivery_target_unknown(self._warehouse, self.table):
            return Delivery(None)
        self._prepare_target()
        batch = MicroBatch(last["batch_id"], self._clock(), last["watermark_at"], len(_STAGES))
        delivery = self._deliver(batch, is_resend=True)
        self._warehouse.transact(lambda transaction: transaction.run("finish_resend", table_name=self.table.name))
        return replace(delivery, batch_id=None, seconds=time.monotonic() - started)

    def _prepare_target(self) -> bool:
        """Make sure the table is there and known; whether everything has to be sent."""
        self.table.ensure_exists(create=self._settings.flag("KURASHIRU_DYNAMODB_CREATE"))
        target = _delivery_target(self._warehouse, self.table)
        if target is not None and self.table.marker() == target["delivery_id"]:
            return bool(target["is_resend_pending"])
        # First forget, then mark: a process killed in between, which has delivered nothing yet, only has to mark.
        is_begun = target is not None and target["is_resend_pending"] and not self._delivered(at_most=1).num_rows
        self.table.write_marker(target["delivery_id"] if target is not None and is_begun else self._begin_resend())
        return True

    def _begin_resend(self) -> str:
        delivery_id = str(uuid.uuid4())
        self._warehouse.transact(
            lambda transaction: transaction.run("begin_resend", table_name=self.table.name, delivery_id=delivery_id)
        )
        return delivery_id

    def _delivered(self, *, at_most: int) -> pa.Table:
        return self._warehouse.fetch(
            "delivered_items", delivered_since=BEGINNING, batch_id=0, is_everything=True, at_most=at_most
        )

    def _deliver(
        self, batch: MicroBatch, *, is_resend: bool, on_progress: Callable[[int, int], None] | None = None
    ) -> Delivery:
        lifetime = timedelta(days=self._settings.integer("KURASHIRU_ITEM_TTL_DAYS", minimum=1))
        changed = self._warehouse.fetch(
            "changed_items",
            batch_id=batch.batch_id,
            is_resend=is_resend,
            refresh_before=batch.staged_at - lifetime / 2,
        )
        erased = _values(self._warehouse.fetch("erased_items", batch_id=batch.batch_id), "user_id")
        if is_resend:
            erased += self._strangers(changed)
        outgoing = [
            *_items(changed, batch, batch.staged_at + lifetime),
            *(_tombstone(user_id, batch, batch.staged_at + lifetime) for user_id in erased),
        ]
        tombstones = sum(entry.is_tombstone for entry in outgoing)
        requests = retries = 0
        refused: list[tuple[str, str]] = []
        for start in range(0, len(outgoing), _DELIVERY_CHUNK):
            chunk = outgoing[start : start + _DELIVERY_CHUNK]
            report = self.table.write([entry.item for entry in chunk])
            failed = {user_id for user_id, _ in report.failed}
            self._record([entry for entry in chunk if entry.user_id not in failed])
            requests += report.requests
            retries += report.retries
            refused += [(user_id, error) for user_id, error in report.failed if user_id in report.refused]
            unsent = [(user_id, error) for user_id, error in report.failed if user_id not in report.refused]
            if unsent:
                user_id, error = unsent[0]
                message = (
                    f"{len(unsent)} of {len(chunk)} items could not be written to DynamoDB table {self.table.name} "
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

    def _strangers(self, changed: pa.Table) -> list[str]:
        """Users with an item in a table we did not write (restored from a backup, say), but without a list."""
        known = {*_values(changed, "user_id"), *_values(self._delivered(at_most=EVERYTHING), "user_id")}
        return [user for user, _, is_deleted in self.table.keys_and_versions() if not is_deleted and user not in known]

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

    def _catalogue(self) -> Catalogue:
        return Catalogue.from_arrow(self._warehouse.fetch("recipes"))

    def _promoted_artifact(self) -> ModelArtifact | None:
        models = self._settings.folder("KURASHIRU_MODELS")
        version = promoted_version(models)
        if version is None:
            self._artifact = None
        elif self._artifact is None or self._artifact.version != version:
            self._artifact = load_promoted(models)
        return self._artifact

    def _has_erasures(self) -> bool:
        return _count(self._warehouse, "pending_erasures", "user_count") > 0

    def _accounting(self, batch_id: int) -> Accounting:
        return _accounting(self._warehouse.fetch("batch_ledger", batch_id=batch_id))

    def _finish(self, transaction: Transaction, batch_id: int, stage: Stage, started: float, row_count: int) -> None:
        transaction.run(
            "finish_stage",
            batch_id=batch_id,
            stage=stage,
            finished_at=self._clock(),
            seconds=round(time.monotonic() - started, 6),
            row_count=row_count,
        )

    @contextmanager
    def _step(self, stage: Stage) -> Iterator["_Step"]:
        batch = self.unfinished_batch()
        step = _Step(self, stage, None if batch is None or batch.is_past(stage) else batch)
        yield step
        if step.batch is not None:
            self._unfinished = [replace(step.batch, finished_stages=step.batch.finished_stages + 1)]


class _Step:
    """A step in progress: the micro-batch it works on (None: already done, or nothing to do) and its clock."""

    def __init__(self, pipeline: MicroBatchPipeline, stage: Stage, batch: MicroBatch | None) -> None:
        self.batch = batch
        self._pipeline = pipeline
        self._stage = stage
        self._started = time.monotonic()

    @property
    def batch_id(self) -> int:
        assert self.batch is not None
        return self.batch.batch_id

    def finish(self, transaction: Transaction, row_count: int) -> None:
        self._pipeline._finish(transaction, self.batch_id, self._stage, self._started, row_count)

    def result(self, **figures: int) -> StepResult:
        return StepResult(self.batch_id, time.monotonic() - self._started, figures)


@dataclass(frozen=True)
class _Outgoing:
    """An item on its way, with what is recorded once it has arrived."""

    user_id: str
    version: int
    content_hash: str
    is_tombstone: bool
    dropped_recipe_count: int
    item: Item


def pending_work(warehouse: Warehouse) -> str | None:
    """Why the near-real-time job has work, or None. Reads only.

    Asked in the order in which work moves on, so that what a run moves on meanwhile is met at the next question.
    """
    if warehouse.has_landed_files():
        return "files have landed"
    if _count(warehouse, "pending_erasures", "user_count"):
        return "users wait to be erased"
    if warehouse.stream_has_data(RAW_EVENTS_STREAM):
        return f"stream {RAW_EVENTS_STREAM.name} has data"
    unfinished = warehouse.fetch("unfinished_batches", last_stage=Stage.REFLECT)
    if unfinished.num_rows:
        return f"micro-batch {unfinished['batch_id'][0].as_py()} is not delivered yet"
    return None


def is_delivery_target_unknown(warehouse: Warehouse, table: RecommendationTable) -> bool:
    """Whether the table is not the one the recorded deliveries went to, or was not sent everything yet."""
    target = _delivery_target(warehouse, table)
    return target is None or target["is_resend_pending"] or table.marker() != target["delivery_id"]


def _delivery_target(warehouse: Warehouse, table: RecommendationTable) -> dict[str, Any] | None:
    targets = warehouse.fetch("delivery_target", table_name=table.name).to_pylist()
    return targets[0] if targets else None


def batch_freshness(warehouse: Warehouse, from_batch_id: int, stage: Stage = Stage.REFLECT) -> Freshness:
    """Landed -> through `stage`, over all lines of micro-batches from `from_batch_id` on."""
    rows = warehouse.fetch("batch_freshness", stage=stage, from_batch_id=from_batch_id)
    return freshness(_values(rows, "seconds"), _values(rows, "line_count"))


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


def _accounting(ledger: pa.Table) -> Accounting:
    [row] = ledger.to_pylist()
    return Accounting(**{name: row[name] for name in Accounting.__dataclass_fields__})


def _values(table: pa.Table, column: str) -> list[Any]:
    return table[column].to_pylist()


def _count(warehouse: Warehouse, script: str, column: str) -> int:
    return int(warehouse.fetch(script).column(column)[0].as_py())
