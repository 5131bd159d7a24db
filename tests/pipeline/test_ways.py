"""The ways of production beside those of a laptop: kernel and delivery in the warehouse give what the process gives."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import TransientError
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.realtime import checks
from kurashiru_pipeline.realtime.delivery import ExternalFunctionDeliverer
from kurashiru_pipeline.realtime.drain import drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.serving.dynamodb import RecommendationTable, connect
from kurashiru_pipeline.warehouse import open_warehouse
from tests import state
from tests.engines import SNOWFLAKE, Accounts
from tests.serving.faulty_dynamodb import THROTTLED, Answer, Faults, error, make_item
from tests.snowflake.names import ObjectName
from tests.traffic import land, land_users

Open = Callable[..., MicroBatchPipeline]
NOW = datetime(2026, 11, 23, 9, 30)
WAYS = {
    "embedded": {},
    "snowflake, in process": {**SNOWFLAKE, "KURASHIRU_KERNEL": "process", "KURASHIRU_REFLECT": "direct"},
    "snowflake, in the warehouse": SNOWFLAKE,
}

pytestmark = [pytest.mark.stand_in, pytest.mark.parametrize("engine", ["snowflake"], indirect=True)]


def _drain(pipeline: MicroBatchPipeline) -> None:
    drain(pipeline, lambda step, tally: None)


def _external(pipeline: MicroBatchPipeline) -> ExternalFunctionDeliverer:
    """The pipeline's way of delivery, which does not wait between two calls."""
    deliverer = pipeline._deliverer
    assert isinstance(deliverer, ExternalFunctionDeliverer)
    deliverer._sleep = lambda seconds: None
    return deliverer


def _over_faulty_dynamodb(accounts: Accounts, settings: Settings) -> Faults:
    """Faults between the Lambda function and DynamoDB."""
    client = connect(settings)
    put_items = accounts.put_items[settings.home]
    put_items._table = RecommendationTable(client, settings.text("KURASHIRU_DYNAMODB_TABLE"))
    put_items.seconds = 0.5
    return Faults(client)


def _user(request: dict[str, Any]) -> str:
    return str(request["Item"]["user_id"]["S"])


def test_every_way_comes_to_the_same_tables_and_byte_equal_items(
    variables: dict[str, str], accounts: Accounts, tmp_path: Path
) -> None:
    seen = {}
    for number, (way, changes) in enumerate(WAYS.items()):
        home = {
            "KURASHIRU_HOME": str(tmp_path / f"way{number}"),
            "KURASHIRU_DYNAMODB_TABLE": f"way{number}-{tmp_path.name[-40:]}",
        }
        kept = {name: value for name, value in variables.items() if name not in SNOWFLAKE}
        settings = Settings.load(environ={**kept, **changes, **home})
        if changes:
            accounts.use(settings)
        for seed in (21, 22):
            simulate(settings.landing, events=1_500, users=60, recipes=70, seed=seed, malformed=0.03, duplicates=0.03)
            _drain_at(settings)
        land_users(settings.landing, "erasure", _some_users(settings), updated_at=NOW, is_deleted=True)
        _drain_at(settings)
        tables = state.tables(settings)
        # Files are recorded where this process loads them; Snowpipe keeps its own history.
        tables.pop("raw.loaded_files")
        for name in ("raw.behavior_events", "staging.rejected_events"):
            tables[name] = sorted((_readable(row[0]), *row[1:]) for row in tables[name])
        seen[way] = tables, _whole_items(settings)
    embedded = seen["embedded"]
    assert len(embedded[1]) > 50
    assert any("deleted" in item for item in embedded[1].values())
    for way, (tables, items) in seen.items():
        for name, rows in tables.items():
            assert rows == embedded[0][name], (way, name)
        assert items == embedded[1], way


def _readable(payload: str) -> str:
    """A line, whichever way its engine shows bytes that are no UTF-8."""
    return re.sub(r"\\x[0-9a-f]{2}|\ufffd", "?", payload)


def _drain_at(settings: Settings) -> None:
    with open_warehouse(settings) as warehouse:
        _drain(
            MicroBatchPipeline(
                warehouse, settings, lambda: RecommendationTable.from_settings(settings), clock=lambda: NOW
            )
        )


def _some_users(settings: Settings) -> list[str]:
    users = sorted(user for user in state.items(settings) if not user.startswith("#"))
    return users[:3]


def _whole_items(settings: Settings) -> dict[str, dict[str, Any]]:
    client = connect(settings)
    pages = client.get_paginator("scan").paginate(TableName=settings.text("KURASHIRU_DYNAMODB_TABLE"))
    return {item["user_id"]["S"]: item for page in pages for item in page["Items"] if "delivery_id" not in item}


def test_rows_that_stay_throttled_are_sent_by_the_next_run(
    open_pipeline: Open, settings: Settings, accounts: Accounts
) -> None:
    land(settings.landing, "a", events=600, users=60)
    pipeline = open_pipeline()
    _external(pipeline)

    def throttle(call: int, request: dict[str, Any]) -> Answer | None:
        return THROTTLED if _user(request) in {"u1", "u2"} else None

    faults = _over_faulty_dynamodb(accounts, settings)
    faults.on("PutItem", throttle)
    with pytest.raises(TransientError, match=r"2 of \d+ items could not be written .* 2 calls .*: 429"):
        _drain(pipeline)
    assert len(state.own_items(settings)) == 57

    healed = open_pipeline()
    faults = _over_faulty_dynamodb(accounts, settings)
    asked: list[str] = []

    def note(call: int, request: dict[str, Any]) -> Answer | None:
        asked.append(_user(request))
        return None

    faults.on("PutItem", note)
    _drain(healed)
    assert set(asked) == {"u1", "u2"}, "what was recorded as delivered is not sent again"
    assert len(state.own_items(settings)) == 59
    assert healed.pending() is None


def test_an_item_that_dynamodb_refuses_holds_up_nobody_and_is_shown(
    open_pipeline: Open, settings: Settings, accounts: Accounts
) -> None:
    land(settings.landing, "a", events=200, users=20)

    def refuse(call: int, request: dict[str, Any]) -> Answer | None:
        return error(400, "ValidationException") if _user(request) == "u3" else None

    _over_faulty_dynamodb(accounts, settings).on("PutItem", refuse)
    pipeline = open_pipeline()
    delivery = _until_reflect(pipeline)
    assert [user_id for user_id, _ in delivery.refused] == ["u3"]
    assert not checks.items_accepted(delivery).passed
    assert delivery.changed_count == len(state.items(settings))
    assert len(state.own_items(settings)) == 19
    assert pipeline.pending() is None
    assert open_pipeline().reflect().changed_count == 0


def test_a_newer_version_in_the_table_is_left_and_shown(
    open_pipeline: Open, settings: Settings, accounts: Accounts
) -> None:
    land(settings.landing, "a", events=200, users=20)
    _drain(open_pipeline())
    stranger = make_item("u5", version=99)
    connect(settings).put_item(TableName=settings.text("KURASHIRU_DYNAMODB_TABLE"), Item=stranger)
    land(settings.landing, "b", events=200, users=20)
    delivery = _until_reflect(open_pipeline())
    assert [user_id for user_id, _ in delivery.refused] == ["u5"]
    assert "version 99" in delivery.refused[0][1]
    assert state.items(settings)["u5"]["version"] == {"N": "99"}


def test_a_user_the_kernel_cannot_answer_for_keeps_what_was_there(
    open_pipeline: Open, settings: Settings, accounts: Accounts
) -> None:
    land(settings.landing, "a", events=200, users=20)
    _drain(open_pipeline())
    before = {row[0]: row for row in state.tables(settings)["recommendation.recommendations"]}
    account = accounts.use(settings)
    ranked = account.functions[ObjectName("RECOMMENDATION", "RANK_RECIPES")]
    whole = ranked.call

    def fail_for_one(rows: list[tuple[Any, ...]]) -> list[Any]:
        return [
            {"user_id": "u4", "error": "user 'u4': poisoned"} if row[0]["user_id"] == "u4" else answer
            for row, answer in zip(rows, whole(rows), strict=True)
        ]

    ranked.call = fail_for_one
    land(settings.landing, "b", events=200, users=20)
    pipeline = open_pipeline()
    pipeline.load()
    pipeline.stage()
    pipeline.collect()
    pipeline.preprocess()
    step = pipeline.recommend()
    assert step.failed == (("u4", "user 'u4': poisoned"),)
    outcome = checks.lists_are_whole(step)
    assert not outcome.passed
    assert "poisoned" in str(outcome.description)
    _drain(pipeline)
    after = {row[0]: row for row in state.tables(settings)["recommendation.recommendations"]}
    assert after["u4"] == before["u4"]
    assert after["u5"][1] == 2


def _until_reflect(pipeline: MicroBatchPipeline) -> Any:
    pipeline.load()
    pipeline.stage()
    pipeline.collect()
    pipeline.preprocess()
    pipeline.recommend()
    return pipeline.reflect()
