"""One run, many micro-batches: each shown by itself, ended in order, healed when it was not."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest

from kurashiru_pipeline import catalog
from kurashiru_pipeline.catalog import LOAD, MICRO_BATCH_JOB, Stage
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.realtime.build import build_definitions
from kurashiru_pipeline.realtime.drain import Done, micro_batches
from kurashiru_pipeline.realtime.interrupts import held_back
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.realtime.resources import PipelineResource
from kurashiru_pipeline.realtime.status import read_lag, read_status
from tests.traffic import land

CUT = {"KURASHIRU_MAX_BATCH_LINES": "20"}
FILES, LINES = 7, 70
STAGED = dg.AssetKey(catalog.STAGED_BEHAVIOR_EVENTS)
Open = Callable[..., MicroBatchPipeline]


@pytest.fixture
def engine() -> str:
    """Cut by lines, which only the embedded loader does."""
    return "ducklake"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def _run(variables: dict[str, str], instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    pipeline = PipelineResource(environment="local", variables=variables)
    job = build_definitions(Environment.LOCAL, pipeline=pipeline).resolve_job_def(MICRO_BATCH_JOB)
    return job.execute_in_process(instance=instance, raise_on_error=False)


def _shown(instance: dg.DagsterInstance, key: catalog.Key) -> list[dict[str, Any]]:
    """Metadata of an asset's materialisations, oldest first."""
    records = instance.fetch_materializations(dg.AssetKey(key), limit=100).records
    found = [record.asset_materialization for record in reversed(records)]
    return [{name: entry.value for name, entry in one.metadata.items()} for one in found if one is not None]


def test_each_micro_batch_of_a_run_is_shown_by_itself(
    variables: dict[str, str], instance: dg.DagsterInstance, settings: Settings
) -> None:
    _land_files(settings)
    result = _run(variables | CUT, instance)
    assert result.success
    staged = _shown(instance, catalog.STAGED_BEHAVIOR_EVENTS)
    numbers = list(range(1, len(staged) + 1))
    assert len(numbers) > 1
    assert [shown["batch_id"] for shown in staged] == numbers
    assert sum(shown["staged_count"] for shown in staged) == LINES
    for key in (catalog.RECENT_BEHAVIORS, catalog.RECOMMENDATIONS, catalog.DYNAMODB_RECOMMENDATIONS):
        rows = _shown(instance, key)
        assert [shown["batch_id"] for shown in rows] == numbers, key
        assert all(shown["seconds"] >= 0 and shown["freshness_p95_seconds"] > 0 for shown in rows), key
    lags = [shown["lag_seconds"] for shown in _shown(instance, catalog.RAW_BEHAVIOR_EVENTS)]
    assert lags[0] > lags[-1] == 0, "the last micro-batch leaves nothing behind"
    assert len(_shown(instance, catalog.RECIPES)) == 1, "of what a micro-batch did not touch it says nothing"
    assert all(check.passed for check in result.get_asset_check_evaluations())
    [execution] = instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(STAGED, "accounting"), limit=10
    )
    assert execution.event is not None
    assert execution.event.timestamp > instance.fetch_materializations(STAGED, limit=1).records[0].timestamp


def test_the_ledger_has_the_seconds_of_every_stage(settings: Settings, open_pipeline: Open) -> None:
    land(settings.landing, "a", events=20)
    [done] = micro_batches(open_pipeline())
    steps = [LOAD, *Stage]
    assert list(done.seconds) == steps
    assert done.batch is not None
    with open_pipeline().warehouse as warehouse:
        recorded = dict(
            warehouse._connection.execute("select stage, seconds from ops.batch_stages").fetchall()  # type: ignore[attr-defined]
        )
    assert recorded.keys() == set(steps)
    assert all(0 < recorded[step] <= done.seconds[step] + 0.1 for step in steps)


def test_a_failure_in_the_middle_keeps_what_was_delivered_and_the_next_run_goes_on(
    variables: dict[str, str], instance: dg.DagsterInstance, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    _land_files(settings)
    sound, calls = MicroBatchPipeline.recommend, []

    def fails_once(pipeline: MicroBatchPipeline) -> Any:
        calls.append(None)
        if len(calls) == 2:
            raise RuntimeError("the second micro-batch breaks")
        return sound(pipeline)

    monkeypatch.setattr(MicroBatchPipeline, "recommend", fails_once)
    assert not _run(variables | CUT, instance).success
    assert [shown["batch_id"] for shown in _shown(instance, catalog.DYNAMODB_RECOMMENDATIONS)] == [1]
    assert _run(variables | CUT, instance).success
    delivered = [shown["batch_id"] for shown in _shown(instance, catalog.DYNAMODB_RECOMMENDATIONS)]
    assert delivered == list(range(1, len(delivered) + 1))
    assert len(delivered) > 1
    assert sum(shown["staged_count"] for shown in _shown(instance, catalog.STAGED_BEHAVIOR_EVENTS)) == LINES


def test_a_run_ends_by_the_clock_and_leaves_the_rest(settings: Settings, open_pipeline: Open) -> None:
    _land_files(settings)
    [first] = micro_batches(open_pipeline(**CUT), run_seconds=0.001)
    assert 0 < _read(first) < LINES
    assert sum(map(_read, micro_batches(open_pipeline(**CUT)))) == LINES - _read(first)


def test_a_lingering_run_takes_what_comes_and_queries_nothing_meanwhile(
    settings: Settings, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline(KURASHIRU_POLL_SECONDS="0.02")
    land(settings.landing, "a", events=20)
    rounds = micro_batches(pipeline, linger_seconds=1.0)
    assert _read(next(rounds)) == 20

    def lands_later() -> None:
        time.sleep(0.3)
        land(settings.landing, "b", events=5)

    late = threading.Thread(target=lands_later)
    late.start()
    assert _read(next(rounds)) == 5
    late.join()
    looks: list[float] = []
    signature = pipeline.warehouse.change_signature

    def counted() -> object:
        looks.append(time.monotonic())
        if len(looks) > 3:  # after the round that found nothing, there is nothing but looks
            monkeypatch.setattr(pipeline.warehouse, "fetch", None)
        return signature()

    monkeypatch.setattr(pipeline.warehouse, "change_signature", counted)
    began = time.monotonic()
    assert list(rounds) == []
    assert 0.8 < time.monotonic() - began < 10
    assert len(looks) > 10


def test_a_run_ends_when_its_storage_is_gone(open_pipeline: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = open_pipeline(KURASHIRU_POLL_SECONDS="0.02")
    monkeypatch.setattr(pipeline.warehouse, "is_replaced", lambda: True)
    began = time.monotonic()
    assert list(micro_batches(pipeline, linger_seconds=60)) == []
    assert time.monotonic() - began < 30


def test_whoever_waits_for_the_lake_is_let_in_and_nothing_remembered_counts(
    settings: Settings, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline()
    land(settings.landing, "a", events=20)
    asked: list[None] = []

    def give_way() -> bool:
        asked.append(None)
        return True

    monkeypatch.setattr(pipeline.warehouse, "give_way", give_way)
    assert pipeline.unfinished_batch() is None
    assert len(list(micro_batches(pipeline))) == 1
    assert len(asked) == 1
    assert pipeline.give_way()
    assert pipeline._unfinished is None


def test_limits_follow_what_micro_batches_take(settings: Settings, open_pipeline: Open) -> None:
    _land_files(settings)
    bounds = {"KURASHIRU_MIN_BATCH_LINES": "10", "KURASHIRU_MAX_BATCH_LINES": "35", "KURASHIRU_BATCH_SECONDS": "600"}
    first, second, *_ = [done.limit for done in micro_batches(open_pipeline(**bounds))]
    assert (first, second) == (10, 35)


def test_a_termination_waits_for_the_micro_batch() -> None:
    class Ended(Exception):
        pass

    def end(number: int, frame: Any) -> None:
        raise Ended

    before = signal.signal(signal.SIGTERM, end)
    try:
        reached: list[bool] = []
        with pytest.raises(Ended):
            _terminated_amid(reached)
        assert reached
        assert signal.getsignal(signal.SIGTERM) is end
    finally:
        signal.signal(signal.SIGTERM, before)


def test_status_tells_the_lag_without_reading_a_file(
    settings: Settings, open_pipeline: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = open_pipeline(**CUT)
    assert read_status(pipeline.warehouse, settings)["lag"] == {
        "files": 0,
        "lines": 0,
        "seconds": 0.0,
        "arrival_per_second": 0.0,
        "processing_per_second": None,
        "catches_up": True,
        "catch_up_seconds": 0.0,
    }
    _land_files(settings)
    [first] = micro_batches(pipeline, run_seconds=0.001)
    loaded = pipeline.load(max_lines=1)
    assert loaded.line_count
    monkeypatch.setattr("pathlib.Path.read_bytes", None)
    monkeypatch.setattr("builtins.open", None)
    backlog, behind = read_lag(pipeline.warehouse)
    monkeypatch.undo()
    assert backlog.files == FILES - first.loaded.files["events"] - loaded.files["events"]
    assert behind.lines == pytest.approx(LINES - _read(first), rel=0.1), "lines of files are estimated from their size"
    assert behind.seconds > 0
    assert behind.rates.arrival == pytest.approx(LINES / 300, rel=0.1)
    assert behind.rates.processing is not None


def _terminated_amid(reached: list[bool]) -> None:
    with held_back():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        reached.append(True)


def _land_files(settings: Settings) -> None:
    for number in range(FILES):
        land(settings.landing, f"f{number}", events=LINES // FILES)


def _read(done: Done) -> int:
    assert done.accounting is not None
    return done.accounting.read_count
