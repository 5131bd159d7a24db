"""An external recommender beside our own sources: up, down, slow or half-hearted, lists are made, and in time."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.realtime.kernel import Computed, ProcessKernel
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline, StepResult
from kurashiru_pipeline.warehouse import open_warehouse
from tests import state
from tests.sources.service import ENDPOINT, MODEL_FAILED, THROTTLED, UNAVAILABLE, Reply, Service, Users, answers
from tests.traffic import land

Open = Callable[..., MicroBatchPipeline]
Behave = Callable[[int, Users], Reply]
UNPOPULAR = ["r29", "r28", "r27"]
USERS = {"u0", "u1", "u2", "u3", "u4"}
DUCKLAKE = pytest.mark.parametrize("engine", ["ducklake"], indirect=True)


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        running.behave = lambda number, users: answers(users, UNPOPULAR)
        yield running
        assert running.problems == []


@pytest.fixture
def on(service: Service) -> dict[str, str]:
    return {
        "KURASHIRU_KERNEL": "process",
        "KURASHIRU_EXTERNAL_SOURCE": "sagemaker",
        "KURASHIRU_EXTERNAL_ENDPOINT": ENDPOINT,
        "KURASHIRU_EXTERNAL_URL": service.url,
        "KURASHIRU_EXTERNAL_BATCH_USERS": "2",
        "KURASHIRU_EXTERNAL_CONCURRENCY": "4",
        "KURASHIRU_EXTERNAL_FAILURES": "2",
        "KURASHIRU_EXTERNAL_DEADLINE_MS": "20000",
    }


def up_to_profiles(pipeline: MicroBatchPipeline) -> None:
    pipeline.load()
    pipeline.stage()
    pipeline.collect()
    pipeline.preprocess()


def lists_of(pipeline: MicroBatchPipeline, variables: dict[str, str]) -> tuple[dict[str, Any], Computed]:
    """Lists by user of the micro-batch in hand as these settings make them; nothing is written."""
    batch = pipeline.unfinished_batch()
    assert batch is not None
    settings = Settings.load(pipeline.settings.environment, {**pipeline.settings.environ, **variables})
    computed = ProcessKernel(pipeline.warehouse, settings, pipeline.weights).lists(batch)
    return {row["user_id"]: row for row in computed.inputs["incoming_recommendations"].to_pylist()}, computed


def ledger(settings: Settings) -> list[tuple[Any, ...]]:
    columns = "batch_id, source, breaker, asked_count, answered_count, failed_count, late_count, error"
    with open_warehouse(settings, read_only=True) as warehouse:
        return state.rows(warehouse, f"select {columns} from ops.external_calls order by batch_id")


def test_its_suggestions_join_our_own(
    open_pipeline: Open, settings: Settings, service: Service, on: dict[str, str]
) -> None:
    land(settings.landing, "a", events=80)
    pipeline = open_pipeline(**on)
    up_to_profiles(pipeline)
    off, _ = lists_of(pipeline, {"KURASHIRU_EXTERNAL_SOURCE": "none"})
    step = pipeline.recommend()
    pipeline.reflect()
    assert pipeline.pending() is None

    assert step.external is not None
    counts = {"asked": 5, "answered": 5, "failed": 0, "late": 0, "unknown_recipes": 0}
    assert {**step.external.figures, "seconds": 0} == {**counts, "seconds": 0, "breaker": "closed"}
    assert {user["user_id"] for users in service.requests for user in users} == USERS
    rows = state.tables(settings)["recommendation.recommendations"]
    made = {row[0]: row for row in rows}
    assert made.keys() == off.keys() > USERS
    for nobody in made.keys() - USERS:
        assert list(made[nobody][2]) == off[nobody]["recipe_ids"], "it is asked about users only"
    climbed = [best_place(off[user]["recipe_ids"]) - best_place(list(made[user][2])) for user in USERS]
    assert min(climbed) >= 0
    assert max(climbed) > 0
    assert "external" in {reason for user in USERS for reason in made[user][4]}
    assert ledger(settings) == [(1, f"sagemaker:{ENDPOINT}", "closed", 5, 5, 0, 0, None)]


def best_place(recipe_ids: list[str]) -> int:
    return min((place for place, name in enumerate(recipe_ids) if name in UNPOPULAR), default=len(recipe_ids))


def only(*names: str) -> Behave:
    """Answers requests that begin with one of these users, and fails the others."""
    return lambda number, users: answers(users, UNPOPULAR) if users[0]["user_id"] in names else MODEL_FAILED


def leaving_out(*names: str) -> Behave:
    return lambda number, users: answers([user for user in users if user["user_id"] not in names], UNPOPULAR)


MOODS: dict[str, tuple[Behave, set[str]]] = {
    "unavailable": (lambda number, users: UNAVAILABLE, set()),
    "throttled": (lambda number, users: THROTTLED, set()),
    "failing model": (lambda number, users: MODEL_FAILED, set()),
    "reset connections": (lambda number, users: Reply(reset=True), set()),
    "malformed answers": (lambda number, users: Reply(body=b"null\n"), set()),
    "unknown recipes": (lambda number, users: answers(users, ["r404", "r405"]), set()),
    "no recipes": (lambda number, users: answers(users, []), set()),
    "silence": (lambda number, users: Reply(delay=60), set()),
    "some requests fail": (only("u0"), {"u0", "u1"}),
    "some users left out": (leaving_out("u1", "u3"), {"u0", "u2", "u4"}),
}
"""What the service does, and who is answered."""


@DUCKLAKE
def test_whoever_is_not_answered_gets_the_list_of_a_source_that_is_off(
    open_pipeline: Open, settings: Settings, service: Service, on: dict[str, str]
) -> None:
    land(settings.landing, "a", events=80)
    pipeline = open_pipeline()
    up_to_profiles(pipeline)
    off, computed = lists_of(pipeline, {})
    assert computed.external is None
    assert off.keys() > USERS
    for mood, (behave, answered) in MOODS.items():
        service.behave = behave
        deadline = "600" if mood == "silence" else "20000"
        started = time.monotonic()
        made, computed = lists_of(pipeline, on | {"KURASHIRU_EXTERNAL_DEADLINE_MS": deadline})
        assert time.monotonic() - started < 20, mood
        assert made.keys() == off.keys(), mood
        assert {user for user in made if made[user] != off[user]} == answered, mood
        assert computed.external is not None
        assert computed.external.suggestions.asked_count == len(USERS)


@DUCKLAKE
def test_the_breaker_opens_and_closes_again_over_processes(
    open_pipeline: Open, settings: Settings, service: Service, on: dict[str, str]
) -> None:
    story = [  # second, whether the service is up, what happens
        (0, False, "closed, asked 5, answered 0 -> closed"),
        (10, False, "closed, asked 5, answered 0 -> open"),
        (69, True, "open, asked 0, answered 0 -> open"),
        (70, False, "half_open, asked 2, answered 0 -> open"),
        (130, True, "half_open, asked 2, answered 2 -> closed"),
        (140, True, "closed, asked 5, answered 5 -> closed"),
    ]
    start = datetime(2026, 11, 23, 9, 30)
    for number, (second, is_up, expected) in enumerate(story):
        service.behave = lambda number, users, up=is_up: answers(users, UNPOPULAR) if up else MODEL_FAILED
        before = len(service.requests)
        land(settings.landing, "abcdef"[number], events=40)
        external = _micro_batch(open_pipeline(**on), start + timedelta(seconds=second)).external
        assert external is not None
        said = external.suggestions
        told = f"{external.allowed}, asked {said.asked_count}, answered {said.answered_count} -> {external.state}"
        assert told == expected, f"micro-batch {number}"
        assert (len(service.requests) > before) == (said.asked_count > 0)
    assert [f"{row[2]}, asked {row[3]}, answered {row[4]}" for row in ledger(settings)] == [
        expected.partition(" -> ")[0] for _, _, expected in story
    ]


def _micro_batch(pipeline: MicroBatchPipeline, at: datetime) -> StepResult:
    """One micro-batch to the end, the source asked at a moment; what the recommend step did."""
    up_to_profiles(pipeline)
    kernel = pipeline._kernel
    assert isinstance(kernel, ProcessKernel)
    assert kernel._source is not None
    kernel._source._clock = lambda: at
    step = pipeline.recommend()
    pipeline.reflect()
    assert pipeline.pending() is None
    return step
