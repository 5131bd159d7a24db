"""The micro-batch: load, stage, collect, preprocess, recommend, reflect, with the ledger between them.

Here: what each step does and in which order, over the warehouse port, the kernel and the DynamoDB table.
Not here: Dagster (assets.py wraps these steps, `kurashiru drain` calls them), SQL text, or the kernel's mathematics.

At most one micro-batch is unfinished at any time, except where Snowflake's own task stages: nothing new is staged
before it is delivered, and nothing is loaded while loaded lines wait to be staged. So a killed process leaves exactly
one place to go on from, and micro-batches are cut at the same lines whether or not anything was killed.
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

from kurashiru_pipeline.catalog import LOAD, RAW_EVENTS_STREAM, Stage
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.artifact import InService
from kurashiru_pipeline.core.events import EVENT_NAMES, MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.core.quality import Freshness, freshness
from kurashiru_pipeline.core.weights import Weights, load_weights
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.realtime.delivery import Deliverer, open_deliverer
from kurashiru_pipeline.realtime.kernel import Kernel, open_kernel
from kurashiru_pipeline.realtime.ledger import Delivery, MicroBatch
from kurashiru_pipeline.realtime.segments import counting_rules, renewal_rules
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.sources.source import Consultation
from kurashiru_pipeline.warehouse.base import LoadReport, RowCounts, Transaction, Warehouse


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
    preference_user_count: int

    @property
    def is_balanced(self) -> bool:
        return self.read_count == self.staged_count + self.duplicate_count + self.rejected_count


@dataclass(frozen=True)
class StepResult:
    """What one step did for the micro-batch in hand.

    Attributes:
        figures: row counts, by name.
        failed: (user, error) of users it could do nothing for.
        ranked_by: the models that made the lists, where it made any.
        external: what an external source had to say, if one was asked.
    """

    batch_id: int | None
    seconds: float = 0.0
    figures: Mapping[str, int] = field(default_factory=dict)
    failed: tuple[tuple[str, str], ...] = ()
    ranked_by: InService | None = None
    external: Consultation | None = None


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
        self._unfinished: list[MicroBatch] | None = None
        self._load_seconds: float | None = None

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

    @cached_property
    def _kernel(self) -> Kernel:
        return open_kernel(self._warehouse, self._settings, self.weights)

    @cached_property
    def _deliverer(self) -> Deliverer:
        return open_deliverer(self._warehouse, self.table, self._settings, self._clock)

    def unfinished_batch(self) -> MicroBatch | None:
        """The oldest micro-batch that is staged but not delivered.

        Read from the ledger once, where nobody else writes it while this process holds the warehouse.

        Raises:
            KurashiruError: there are several, although only the runs stage.
        """
        if self._unfinished is None or (self._is_staged_by_task and not self._unfinished):
            rows = self._warehouse.fetch("unfinished_batches", last_stage=Stage.REFLECT).to_pylist()
            if len(rows) > 1 and not self._is_staged_by_task:
                message = f"micro-batches {[row['batch_id'] for row in rows]} are unfinished; there can only be one"
                raise KurashiruError(message)
            self._unfinished = [MicroBatch(**row) for row in rows]
        return self._unfinished[0] if self._unfinished else None

    @cached_property
    def _is_staged_by_task(self) -> bool:
        is_by_task = is_staged_by_task(self._settings)
        if is_by_task and self._warehouse.loads_events:
            message = (
                f"KURASHIRU_STAGING=task needs KURASHIRU_ENGINE=snowflake, not {self._warehouse.engine}; "
                "for runs that stage: export KURASHIRU_STAGING=run"
            )
            raise ConfigurationError(message)
        return is_by_task

    def pending(self) -> str | None:
        """Why there is work to do, or None."""
        return pending_work(self._warehouse, self._settings)

    def give_way(self) -> bool:
        """Let whoever waits for the lake write first; whether somebody did, so that nothing remembered counts."""
        has_given_way = self._warehouse.give_way()
        if has_given_way:
            self._unfinished = None
        return has_given_way

    def load(self, *, max_lines: int | None = None, is_rescan: bool = False) -> LoadReport:
        """Load landed files, unless lines loaded before still wait: those are staged first.

        Args:
            max_lines: in place of KURASHIRU_MAX_BATCH_LINES.
        """
        started = time.monotonic()
        has_lines = self._warehouse.loads_events and self._warehouse.stream_has_data(RAW_EVENTS_STREAM)
        # A task stages on and on, so there exports cannot wait for the last micro-batch.
        if has_lines or (self.unfinished_batch() is not None and not self._is_staged_by_task):
            return LoadReport.nothing(is_complete=False)
        report = self._warehouse.load_landed_files(
            max_lines=max_lines or self._settings.integer("KURASHIRU_MAX_BATCH_LINES", minimum=1),
            is_rescan=is_rescan,
        )
        self._load_seconds = time.monotonic() - started
        return report

    def stage(self) -> Accounting | None:
        """Consume the stream into a new micro-batch; the unfinished one instead, if there is one; None if no work.

        Where Snowflake's task stages, only the unfinished ones are taken, the oldest first.

        Raises:
            StaleStreamError: unread changes are gone; names the command that mends it.
        """
        unfinished = self.unfinished_batch()
        if unfinished is not None:
            return self._accounting(unfinished.batch_id)
        if self._is_staged_by_task or not (
            self._warehouse.stream_has_data(RAW_EVENTS_STREAM) or _waiting_users(self._warehouse)
        ):
            return None
        started = time.monotonic()
        staged = self._warehouse.transact(
            lambda transaction: self._stage(transaction, started), work_tables="stage_work_tables"
        )
        self._load_seconds = None
        if staged is None:
            return None
        batch, accounting = staged
        self._unfinished = [batch]
        return accounting

    def _stage(self, transaction: Transaction, started: float) -> tuple[MicroBatch, Accounting] | None:
        transaction.parse_lines(retention_days=self._settings.integer("KURASHIRU_RETENTION_DAYS", minimum=1))
        [summary] = transaction.fetch("stage_summary").to_pylist()
        [queued] = transaction.fetch("pending_users").to_pylist()
        if not summary["read_count"] and not any(queued.values()):
            return None
        [last] = transaction.fetch("last_batch").to_pylist()
        staged_at = self._clock()
        batch_id = (last["batch_id"] or 0) + 1
        seen = [moment for moment in (last["watermark_at"], summary["latest_occurred_at"]) if moment is not None]
        window = timedelta(hours=self._settings.integer("KURASHIRU_DEDUPLICATION_HOURS"))
        batch = MicroBatch(batch_id, staged_at, max(seen, default=staged_at), finished_stages=1)
        if summary["read_count"]:
            transaction.find_repeats(batch_id, duplicates_from=summary["loaded_from"] - window)
            transaction.run("stage_accept", batch_id=batch_id)
        if any(queued.values()):
            max_users = self._settings.integer("KURASHIRU_MAX_BATCH_USERS", minimum=1)
            transaction.run("stage_users", batch_id=batch_id, max_users=max_users)
        transaction.run(
            "stage_ledger",
            batch_id=batch_id,
            staged_at=staged_at,
            watermark_at=batch.watermark_at,
            read_count=summary["read_count"],
            rejected_count=summary["rejected_count"],
            event_names=EVENT_NAMES,
        )
        accounting = _accounting(transaction.fetch("batch_ledger", batch_id=batch_id))
        if not accounting.is_balanced or accounting.duplicate_count < 0:
            message = f"micro-batch {batch_id} does not balance, so it was rolled back: {accounting}"
            raise KurashiruError(message)
        if self._warehouse.loads_events:
            # Loading ended where staging began. How long it took is not known if its process was killed.
            transaction.run(
                "finish_stage",
                batch_id=batch_id,
                stage=LOAD,
                finished_at=staged_at - timedelta(seconds=time.monotonic() - started),
                seconds=None if self._load_seconds is None else round(self._load_seconds, 6),
                row_count=accounting.read_count,
            )
        self._finish(transaction, batch_id, Stage.STAGE, started, accounting.staged_count)
        return batch, accounting

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
            batch = step.batch
            profiles = self._kernel.profiles(batch)

            def body(transaction: Transaction) -> tuple[RowCounts, RowCounts]:
                popularity = transaction.run(
                    "update_popularity",
                    batch_id=batch.batch_id,
                    watermark_at=batch.watermark_at,
                    **counting_rules(self.weights),
                )
                counts = transaction.run(profiles.script, batch_id=batch.batch_id, watermark_at=batch.watermark_at)
                step.finish(transaction, counts["add"])
                return popularity, counts

            popularity, counts = self._warehouse.transact(
                body, work_tables="popularity_work_tables", inputs=profiles.inputs
            )
            result = step.result(profiles=counts["add"], recipes_with_popularity=popularity["add"])
            return replace(result, failed=profiles.failed)

    def recommend(self) -> StepResult:
        """Rank recipes for the micro-batch's users, and for users without a list of their own."""
        with self._step(Stage.RECOMMEND) as step:
            if step.batch is None:
                return StepResult(None)
            batch = step.batch
            lists = self._kernel.lists(batch)

            def body(transaction: Transaction) -> None:
                canary = lists.ranked_by.canary
                counts = transaction.run(
                    lists.script,
                    batch_id=batch.batch_id,
                    generated_at=batch.staged_at,
                    canary=lists.ranked_by.mark,
                )
                transaction.run(
                    "record_models",
                    batch_id=batch.batch_id,
                    model_version=lists.ranked_by.version,
                    challenger_version=canary.version if canary else None,
                    challenger_share=canary.share if canary else None,
                    challenger_threshold=canary.threshold if canary else None,
                    canary_started_at=canary.started_at if canary else None,
                )
                if lists.external is not None:
                    transaction.run("record_external_call")
                if lists.figures["segment_lists"]:
                    rules = renewal_rules(self.weights)
                    transaction.run("record_segment_lists", watermark_at=batch.watermark_at, **rules)
                step.finish(transaction, counts["add"])

            self._warehouse.transact(body, inputs=lists.inputs)
            return replace(
                step.result(**lists.figures), failed=lists.failed, ranked_by=lists.ranked_by, external=lists.external
            )

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
        delivery = self._deliverer.deliver(batch, is_resend=is_resend, on_progress=on_progress)
        [lists] = self._warehouse.fetch("batch_list_count", batch_id=batch.batch_id, stage=Stage.RECOMMEND).to_pylist()

        def body(transaction: Transaction) -> None:
            if is_resend:
                transaction.run("finish_resend", table_name=self.table.name)
            # The batch's lists, however many attempts their delivery took.
            self._finish(transaction, batch.batch_id, Stage.REFLECT, started, lists["list_count"])

        self._warehouse.transact(body)
        self._unfinished = self._later_batches()
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
        target = delivery_target(self._warehouse, self.table.name)
        if target is not None and target.is_known(self.table):
            return Delivery(None)
        self._prepare_target()
        batch = MicroBatch(last["batch_id"], self._clock(), last["watermark_at"])
        delivery = self._deliverer.deliver(batch, is_resend=True)
        self._warehouse.transact(lambda transaction: transaction.run("finish_resend", table_name=self.table.name))
        return replace(delivery, batch_id=None, seconds=time.monotonic() - started)

    def _prepare_target(self) -> bool:
        """Make sure the table is there and known; whether everything has to be sent."""
        self.table.ensure_exists(create=self._settings.flag("KURASHIRU_DYNAMODB_CREATE"))
        target = delivery_target(self._warehouse, self.table.name) or DeliveryTarget(None, False)
        if target.delivery_id is not None and self.table.marker() == target.delivery_id:
            return target.is_resend_pending
        # First forget, then mark: a process killed in between, which has delivered nothing yet, only has to mark.
        begun = target.delivery_id if target.is_resend_pending and not self._has_delivered() else None
        self.table.write_marker(begun or self._begin_resend())
        return True

    def _begin_resend(self) -> str:
        delivery_id = str(uuid.uuid4())
        self._warehouse.transact(
            lambda transaction: transaction.run("begin_resend", table_name=self.table.name, delivery_id=delivery_id)
        )
        return delivery_id

    def _has_delivered(self) -> bool:
        [delivered] = self._warehouse.fetch("has_delivered").to_pylist()
        return bool(delivered["has_delivered"])

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
            moved_on = replace(step.batch, finished_stages=step.batch.finished_stages + 1)
            self._unfinished = [moved_on, *self._later_batches()]

    def _later_batches(self) -> list[MicroBatch]:
        return self._unfinished[1:] if self._unfinished else []


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


def is_staged_by_task(settings: Settings) -> bool:
    """Whether Snowflake's own task stages the events, and the runs begin with what is staged."""
    return settings.text("KURASHIRU_STAGING") == "task"


def pending_work(warehouse: Warehouse, settings: Settings) -> str | None:
    """Why the near-real-time job has work, or None. Reads only.

    Asked in the order in which work moves on, so that what a run moves on meanwhile is met at the next question; and
    metadata before tables, which wake a warehouse.
    """
    if warehouse.has_landed_files():
        return "files have landed"
    if not is_staged_by_task(settings):
        if warehouse.stream_has_data(RAW_EVENTS_STREAM):
            return f"stream {RAW_EVENTS_STREAM.name} has data"
        waiting = _waiting_users(warehouse)
        if waiting:
            return waiting
    unfinished = warehouse.fetch("unfinished_batches", last_stage=Stage.REFLECT)
    if unfinished.num_rows:
        return f"micro-batch {unfinished['batch_id'][0].as_py()} is not delivered yet"
    return None


@dataclass(frozen=True)
class DeliveryTarget:
    """What is recorded of the table that lists are delivered to; no `delivery_id`: nothing is recorded of it."""

    delivery_id: str | None
    is_resend_pending: bool

    def is_known(self, table: RecommendationTable) -> bool:
        """Whether `table` is the one the recorded deliveries went to, and was sent everything."""
        return self.delivery_id is not None and not self.is_resend_pending and table.marker() == self.delivery_id


def delivery_target(warehouse: Warehouse, table_name: str) -> DeliveryTarget | None:
    """What is recorded of a table; None before the first micro-batch."""
    if not warehouse.fetch("last_batch")["batch_id"][0].is_valid:
        return None
    targets = warehouse.fetch("delivery_target", table_name=table_name).to_pylist()
    return DeliveryTarget(**targets[0]) if targets else DeliveryTarget(None, False)


def batch_freshness(warehouse: Warehouse, from_batch_id: int, stage: Stage = Stage.REFLECT) -> Freshness:
    """Landed -> through `stage`, over all lines of micro-batches from `from_batch_id` on."""
    rows = warehouse.fetch("batch_freshness", stage=stage, from_batch_id=from_batch_id)
    return freshness(_values(rows, "seconds"), _values(rows, "line_count"))


def _accounting(ledger: pa.Table) -> Accounting:
    [row] = ledger.to_pylist()
    # A row of an older program does not count preferences.
    return Accounting(**{name: row[name] or 0 for name in Accounting.__dataclass_fields__})


def _values(table: pa.Table, column: str) -> list[Any]:
    return table[column].to_pylist()


def _waiting_users(warehouse: Warehouse) -> str | None:
    """What users wait for that an export has queued, or None."""
    [queued] = warehouse.fetch("pending_users").to_pylist()
    if queued["erasure_count"]:
        return "users wait to be erased"
    return f"{queued['preference_count']} stated preferences wait" if queued["preference_count"] else None
