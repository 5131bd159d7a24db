"""What the near-real-time run tells Dagster of each micro-batch.

Here: materialisations with their metadata, and when which check is evaluated and logged.
Not here: the micro-batch (drain.py), the specs (assets.py), or what passes a check (checks.py).

Everything is told after the delivery, never in front of it.
"""

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import dagster as dg

from kurashiru_pipeline import catalog
from kurashiru_pipeline.catalog import LOAD, Stage
from kurashiru_pipeline.core.backlog import Lag
from kurashiru_pipeline.core.events import MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.core.quality import Freshness, freshness
from kurashiru_pipeline.realtime import checks
from kurashiru_pipeline.realtime.drain import Done
from kurashiru_pipeline.realtime.ledger import MicroBatch
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline, batch_freshness
from kurashiru_pipeline.realtime.reconcile import reconcile_sample

_NOT_COUNTS = frozenset({"changed_count", "refused"})
_UNKNOWN = Freshness(None, None)
# States, not findings: what counts is how it is now.
_PASSING = frozenset({"keeps_up", "stream_not_stale"})


def delivered_freshness(pipeline: MicroBatchPipeline, done: Done) -> Freshness:
    """Landed -> readable of the micro-batch's lines."""
    return _UNKNOWN if done.batch is None else batch_freshness(pipeline.warehouse, done.batch.batch_id)


def materializations(done: Done, delivered: Freshness, *, loads_events: bool) -> Iterator[dg.AssetMaterialization]:
    """One of each table that the round changed, in the order of the data.

    Args:
        loads_events: whether event files are loaded here, and not by the warehouse itself.
    """
    loaded = done.loaded
    if loads_events and loaded.has_changes:
        seconds, lines = zip(*loaded.delays, strict=True) if loaded.delays else ((), ())
        yield _materialized(
            catalog.RAW_BEHAVIOR_EVENTS,
            freshness(seconds, lines),
            rows=loaded.line_count,
            files=loaded.files.get("events", 0),
            failed_files=len(loaded.failed),
            more_files_wait=not loaded.is_complete,
            line_limit=done.limit,
            seconds=round(done.seconds[LOAD], 3),
            **_lag_figures(done.lag),
        )
    for key, kind, rows in (
        (catalog.RECIPES, "recipes", loaded.recipe_count),
        (catalog.USERS, "users", loaded.user_count),
    ):
        if loaded.files.get(kind):
            yield _materialized(
                key, _UNKNOWN, rows=rows, files=loaded.files[kind], seconds=round(done.seconds[LOAD], 3)
            )
    if done.accounting is not None:
        yield from _batch_materializations(done, delivered)
    if done.accounting is not None or done.delivery.is_resend:
        yield from _deliveries(done, delivered)


def _batch_materializations(done: Done, delivered: Freshness) -> Iterator[dg.AssetMaterialization]:
    assert done.accounting is not None
    accounting = done.accounting
    staged = _earlier(delivered, done, Stage.STAGE)
    yield _materialized(
        catalog.STAGED_BEHAVIOR_EVENTS,
        staged,
        rows=accounting.staged_count,
        seconds=round(done.seconds[Stage.STAGE], 3),
        total_seconds=round(done.total_seconds, 3),
        **accounting.__dict__,
        **_lag_figures(done.lag),
    )
    yield _materialized(catalog.REJECTED_EVENTS, staged, rows=accounting.rejected_count, batch_id=accounting.batch_id)
    for key, stage, rows in (
        (catalog.RECENT_BEHAVIORS, Stage.COLLECT, "behaviors_kept"),
        (catalog.USER_PROFILES, Stage.PREPROCESS, "profiles"),
        (catalog.LIVE_POPULARITY, Stage.PREPROCESS, "recipes_with_popularity"),
        (catalog.RECOMMENDATIONS, Stage.RECOMMEND, "users"),
    ):
        step = done.steps[stage]
        external = (
            {} if step.external is None else {f"external_{name}": it for name, it in step.external.figures.items()}
        )
        yield _materialized(
            key,
            _earlier(delivered, done, stage),
            rows=step.figures.get(rows, 0),
            batch_id=accounting.batch_id,
            seconds=round(done.seconds[stage], 3),
            **{name: value for name, value in step.figures.items() if name != rows},
            **external,
        )
    ranked = done.steps[Stage.RECOMMEND].batch_id is not None
    yield _materialized(catalog.BATCH_MODELS, _UNKNOWN, rows=int(ranked), batch_id=accounting.batch_id)


def _deliveries(done: Done, delivered: Freshness) -> Iterator[dg.AssetMaterialization]:
    delivery = done.delivery
    rows = delivery.changed_count + delivery.tombstone_count
    figures = {name: value for name, value in delivery.__dict__.items() if name not in _NOT_COUNTS}
    yield _materialized(catalog.DYNAMODB_RECOMMENDATIONS, delivered, rows=rows, **figures)
    yield _materialized(catalog.DELIVERED_ITEMS, delivered, rows=rows, batch_id=delivery.batch_id)


def _earlier(delivered: Freshness, done: Done, stage: Stage) -> Freshness:
    """Landed -> through `stage`: what was delivered later was through the stage earlier by the steps in between."""
    steps = list(done.seconds)
    after = sum(done.seconds[step] for step in steps[steps.index(stage) + 1 :])
    if delivered.p50 is None or delivered.p95 is None:
        return delivered
    return Freshness(max(0.0, delivered.p50 - after), max(0.0, delivered.p95 - after))


def _lag_figures(behind: Lag) -> dict[str, Any]:
    catch_up = behind.catch_up_seconds
    return {
        "lag_lines": behind.lines,
        "lag_seconds": round(behind.seconds, 3),
        "catch_up_seconds": None if catch_up is None or math.isinf(catch_up) else round(catch_up, 1),
        "arrival_lines_per_second": None if behind.rates.arrival is None else round(behind.rates.arrival, 1),
        "processing_lines_per_second": None if behind.rates.processing is None else round(behind.rates.processing, 1),
    }


def _materialized(key: catalog.Key, fresh: Freshness, *, rows: int, **figures: Any) -> dg.AssetMaterialization:
    metadata: dict[str, Any] = {"dagster/row_count": rows}
    metadata |= {name: value for name, value in figures.items() if value is not None}
    if fresh.p50 is not None and fresh.p95 is not None:
        metadata |= {
            "freshness_p50_seconds": round(fresh.p50, 3),
            "freshness_p95_seconds": round(fresh.p95, 3),
        }
    return dg.AssetMaterialization(asset_key=dg.AssetKey(key), metadata=metadata)


class CheckLog:
    """The checks of one run.

    Those that judge what is in memory are evaluated for every micro-batch, those that query the lake after some seconds
    and at the end of the run. Dagster keeps one evaluation of a check and run, the newest; so a result like the last
    one is not logged again before the same seconds are over: a write saved, and nothing that could be seen is lost. For
    the same reason a failure stands until the run ends, although the next micro-batch may be sound.

    Args:
        specs: of every check the run has to answer for.
        every_seconds: KURASHIRU_CHECK_SECONDS.
    """

    def __init__(self, pipeline: MicroBatchPipeline, specs: Sequence[dg.AssetCheckSpec], every_seconds: float) -> None:
        self._pipeline = pipeline
        self._specs = {spec.key: spec for spec in specs}
        self._every_seconds = every_seconds
        self._results: dict[dg.AssetCheckKey, dg.AssetCheckResult] = {}
        self._logged: dict[dg.AssetCheckKey, tuple[bool, float]] = {}
        self._queried_at = time.monotonic()
        self._last: Done | None = None
        self._has_loaded_exports = False

    def evaluated(self, done: Done, delivered: Freshness) -> Iterator[dg.AssetCheckEvaluation]:
        """Evaluations to log for a micro-batch."""
        self._take(_judged(self._pipeline, done, delivered))
        self._last = done if done.batch is not None else self._last
        self._has_loaded_exports |= bool(done.loaded.files.keys() & {"recipes", "users"})
        if time.monotonic() - self._queried_at >= self._every_seconds:
            self._take(self._queried())
        now = time.monotonic()
        for key, result in self._results.items():
            passed, at = self._logged.get(key, (not result.passed, now))
            if passed != result.passed or now - at >= self._every_seconds:
                self._logged[key] = (result.passed, now)
                yield _evaluation(self._specs[key], result)

    def concluded(self) -> Iterator[dg.AssetCheckResult]:
        """The run's last word on every check."""
        self._take(self._queried())
        yield from (self._results.get(key) or checks.nothing_to_do(key) for key in self._specs)

    def _take(self, results: Iterator[dg.AssetCheckResult]) -> None:
        for result in results:
            assert result.asset_key is not None
            assert result.check_name is not None
            key = dg.AssetCheckKey(result.asset_key, result.check_name)
            before = self._results.get(key)
            is_kept = before is not None and not before.passed and result.passed and key.name not in _PASSING
            if key in self._specs and not is_kept:
                self._results[key] = result

    def _queried(self) -> Iterator[dg.AssetCheckResult]:
        """Results of the checks that ask the lake about the last micro-batch, and about exports loaded since."""
        warehouse, settings = self._pipeline.warehouse, self._pipeline.settings
        yield checks.stream_not_stale(warehouse.stream_status(catalog.RAW_EVENTS_STREAM))
        if self._has_loaded_exports:
            [ids] = warehouse.fetch("id_counts").to_pylist()
            yield checks.unique_ids(catalog.RECIPES, ids["recipe_rows"], ids["recipe_ids"])
            yield checks.unique_ids(catalog.USERS, ids["user_rows"], ids["user_ids"])
        if self._last is not None and self._last.batch is not None:
            batch = self._last.batch
            state = self._invariants("collect_checks", batch) | self._invariants("preprocess_checks", batch)
            yield checks.at_most(
                catalog.RECENT_BEHAVIORS,
                "history_bounded",
                state["longest_history"],
                settings.integer("KURASHIRU_RECENT_BEHAVIORS"),
            )
            yield checks.at_most(catalog.USER_PROFILES, "no_user_left_out", state["users_without_profile"], 0)
            yield checks.at_most(catalog.LIVE_POPULARITY, "counts_possible", state["impossible_popularity"], 0)
            sample = reconcile_sample(warehouse, self._pipeline.table, batch.batch_id)
            yield checks.reconcile(catalog.DELIVERED_ITEMS, "sample_readable", sample.compared, sample.differing)
        self._last, self._has_loaded_exports = None, False
        self._queried_at = time.monotonic()

    def _invariants(self, script: str, batch: MicroBatch) -> dict[str, int]:
        [row] = self._pipeline.warehouse.fetch(
            script,
            batch_id=batch.batch_id,
            watermark_at=batch.watermark_at,
            meaningful_event_names=MEANINGFUL_EVENT_NAMES,
        ).to_pylist()
        return dict(row)


def _judged(pipeline: MicroBatchPipeline, done: Done, delivered: Freshness) -> Iterator[dg.AssetCheckResult]:
    """Results of the checks that look at the micro-batch alone."""
    settings = pipeline.settings
    yield checks.files_readable(done.loaded)
    yield checks.keeps_up(done.lag, settings.integer("KURASHIRU_LAG_SECONDS"))
    if done.accounting is not None:
        yield checks.accounting(done.accounting)
        yield checks.reject_rate(done.accounting, settings.integer("KURASHIRU_REJECT_RATE_PCT"))
        ranked = done.steps[Stage.RECOMMEND]
        if ranked.batch_id is not None:
            yield checks.arms_have_their_share(ranked)
            yield checks.lists_are_whole(ranked)
            yield checks.external_source_answers(ranked)
        yield checks.freshness_within(delivered, settings.integer("KURASHIRU_FRESHNESS_SECONDS"))
    yield checks.items_accepted(done.delivery)


def _evaluation(spec: dg.AssetCheckSpec, result: dg.AssetCheckResult) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=spec.asset_key,
        check_name=spec.name,
        passed=result.passed,
        metadata=result.metadata,
        severity=result.severity,
        description=result.description,
        blocking=spec.blocking,
    )
