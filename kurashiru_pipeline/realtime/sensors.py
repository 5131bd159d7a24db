"""The sensor that turns landed files and stream data into runs of the near-real-time job.

Here: looking (lake, landing folder, table marker, run history) and long-polling inside a tick.
Not here: the decision (core/trigger.py) and the work. The sensor keeps no cursor: the stream and the ledger are the
state, so a failed, killed or deleted run is simply seen as work still pending.
"""

import time
from collections.abc import Callable

import dagster as dg

from kurashiru_pipeline.core.trigger import Decision, Seen, decide
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, TransientError
from kurashiru_pipeline.realtime.micro_batch import DeliveryTarget, delivery_target, pending_work
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse import Warehouse, open_warehouse

# Dagster starts ticks on a grid of 5 s and ends them at 60 s: a tick just under a multiple of 5 s leaves no gap.
LONG_POLL_SECONDS = 24.0
_TABLE_CHECK_SECONDS = 30.0
# While a run is in flight it looks for work itself, so all that matters here is when it ends.
_RUN_CHECK_SECONDS = 0.5
_HISTORY = 12
_IN_FLIGHT = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


class PendingWatch:
    """Whether there is work, asked often: queries the warehouse only after its signature changed."""

    def __init__(self, settings: Settings) -> None:
        self.poll_seconds = settings.seconds("KURASHIRU_POLL_SECONDS")
        self._settings = settings
        self._warehouse: Warehouse | None = None
        self._quiet_signature: object = None
        self._target: DeliveryTarget | None = None
        self._table: RecommendationTable | None = None
        self._next_table_check = 0.0

    def pending(self) -> str | None:
        """Why there is work, or None.

        Raises:
            TransientError: the warehouse or DynamoDB did not answer.
        """
        warehouse = self._opened()
        signature = warehouse.change_signature()
        if signature != self._quiet_signature:
            reason = pending_work(warehouse, self._settings)
            if reason is not None:
                return reason
            self._target = delivery_target(warehouse, self._settings.text("KURASHIRU_DYNAMODB_TABLE"))
            self._quiet_signature = signature
        return self._new_table()

    def _new_table(self) -> str | None:
        if self._target is None or time.monotonic() < self._next_table_check:
            return None
        self._next_table_check = time.monotonic() + _TABLE_CHECK_SECONDS
        if self._table is None:
            self._table = RecommendationTable.from_settings(self._settings)
        try:
            is_known = self._target.is_known(self._table)
        except ConfigurationError:
            # A missing table: the run creates it where that is allowed.
            if not self._settings.flag("KURASHIRU_DYNAMODB_CREATE"):
                raise
            is_known = False
        if not is_known:
            self._next_table_check = 0.0
            # What the run records of the table need not show in the signature.
            self._quiet_signature = None
            return f"DynamoDB table {self._table.name} is not the one delivered to"
        return None

    def _opened(self) -> Warehouse:
        if self._warehouse is not None and self._warehouse.is_replaced():
            self._warehouse.close()
            self._warehouse = None
        if self._warehouse is None:
            self._warehouse = open_warehouse(self._settings, read_only=True)
        return self._warehouse


def build_stream_sensor(job_name: str, settings: Callable[[], Settings], *, is_running: bool) -> dg.SensorDefinition:
    """Sensor that requests one run at a time while there is work.

    Args:
        settings: read at the first tick, so that loading definitions needs nothing.
        is_running: status on a new instance.
    """
    watch: list[PendingWatch] = []
    runs = RunsWatch(job_name)

    @dg.sensor(
        name="micro_batch_sensor",
        job_name=job_name,
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING if is_running else dg.DefaultSensorStatus.STOPPED,
        description="Requests a run when files have landed, a stream has data or a micro-batch is not delivered.",
    )
    def micro_batch_sensor(context: dg.SensorEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        deadline = time.monotonic() + LONG_POLL_SECONDS
        while True:
            try:
                if not watch:
                    watch.append(PendingWatch(settings()))
                decision = runs.look(context.instance, watch[0].pending)
            except TransientError as error:
                return dg.SkipReason(f"transient: {error}")
            if decision.should_run:
                return dg.RunRequest(tags={"kurashiru/trigger": decision.reason})
            if time.monotonic() >= deadline:
                return dg.SkipReason(decision.reason)
            pause = watch[0].poll_seconds if runs.in_flight is None else max(watch[0].poll_seconds, _RUN_CHECK_SECONDS)
            time.sleep(max(0.0, min(pause, deadline - time.monotonic())))

    return micro_batch_sensor


class RunsWatch:
    """Looks, knowing which run of the job was in flight: while it is, the lake is left to it."""

    def __init__(self, job_name: str) -> None:
        self.in_flight: str | None = None
        self._job_name = job_name

    def look(self, instance: dg.DagsterInstance, pending: Callable[[], str | None]) -> Decision:
        """One look and the decision. Run history is only read when there is work."""
        if self.in_flight is not None:
            run = instance.get_run_by_id(self.in_flight)
            if run is not None and not run.is_finished:
                return decide(Seen(None, self.in_flight))
            self.in_flight = None
        reason = pending()
        if reason is None:
            return decide(Seen(None, None))
        runs = instance.get_runs(dg.RunsFilter(job_name=self._job_name, statuses=_IN_FLIGHT), limit=1)
        if runs:
            self.in_flight = runs[0].run_id
            return decide(Seen(reason, self.in_flight))
        failures, since = _failures(instance, self._job_name)
        return decide(Seen(reason, None, failures, since))


def _failures(instance: dg.DagsterInstance, job_name: str) -> tuple[int, float]:
    """Failed runs since the last success, and seconds since the newest of them ended."""
    records = instance.get_run_records(dg.RunsFilter(job_name=job_name), limit=_HISTORY)
    failed = []
    for record in records:
        if record.dagster_run.status != dg.DagsterRunStatus.FAILURE:
            break
        failed.append(record)
    if not failed:
        return 0, 0.0
    newest = failed[0]
    ended = newest.end_time or newest.update_timestamp.timestamp()
    return len(failed), max(0.0, time.time() - ended)
