"""What may go wrong around the pipeline: a clear error, nothing lost, and the next run heals it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError, TransientError
from kurashiru_pipeline.realtime.drain import Tally, drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.serving.dynamodb import RecommendationTable, connect
from kurashiru_pipeline.warehouse import open_warehouse
from tests import state
from tests.serving.faulty_dynamodb import THROTTLED, Answer, Faults, error, make_item
from tests.traffic import land

Open = Callable[..., MicroBatchPipeline]


def _drain(pipeline: MicroBatchPipeline) -> Tally:
    return drain(pipeline, lambda step, tally: None)


def test_dynamodb_unreachable_keeps_everything_until_it_is_back(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=40)
    with pytest.raises(TransientError, match="kurashiru up --no-dagster"):
        _drain(open_pipeline(KURASHIRU_DYNAMODB_ENDPOINT="http://127.0.0.1:9"))
    pipeline = open_pipeline()
    unfinished = pipeline.unfinished_batch()
    assert unfinished is not None
    assert unfinished.batch_id == 1
    _drain(pipeline)
    assert len(state.own_items(settings)) == 5
    assert pipeline.pending() is None


def test_a_missing_table_that_may_not_be_created_is_a_clear_error(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=10)
    with pytest.raises(ConfigurationError, match="recommendations-"):
        _drain(open_pipeline(KURASHIRU_DYNAMODB_CREATE="false"))
    assert open_pipeline().pending() is not None


def test_a_table_recreated_empty_is_sent_everything_again(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=60)
    _drain(open_pipeline())
    delivered = state.items(settings)
    connect(settings).delete_table(TableName=settings.text("KURASHIRU_DYNAMODB_TABLE"))
    _drain(open_pipeline())
    assert state.items(settings) == delivered


def test_a_restored_table_forgets_whoever_has_no_list_any_more(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=60)
    _drain(open_pipeline())
    client, name = connect(settings), settings.text("KURASHIRU_DYNAMODB_TABLE")
    client.put_item(TableName=name, Item=make_item("erased-before-the-backup"))
    client.put_item(TableName=name, Item={"user_id": {"S": "#marker"}, "delivery_id": {"S": "of the backup"}})
    _drain(open_pipeline())
    assert state.items(settings)["erased-before-the-backup"]["deleted"] == {"BOOL": True}
    assert "deleted" not in state.items(settings)["u1"]


def test_a_table_recreated_empty_is_noticed_by_the_next_batch_too(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=60)
    _drain(open_pipeline())
    users = state.items(settings).keys()
    connect(settings).delete_table(TableName=settings.text("KURASHIRU_DYNAMODB_TABLE"))
    land(settings.landing, "b", events=1, users=1)
    _drain(open_pipeline())
    assert state.items(settings).keys() >= users


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)  # see test_ways.py for the other way
def test_items_that_stay_throttled_are_sent_by_the_next_run(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=600, users=60)
    pipeline = open_pipeline()
    client = connect(settings)
    name = settings.text("KURASHIRU_DYNAMODB_TABLE")
    pipeline.table = RecommendationTable(client, name, workers=1, patience_seconds=0.2)
    Faults(client).on("BatchWriteItem", lambda call, request: THROTTLED if call > 1 else None)
    with pytest.raises(TransientError, match="could not be written"):
        _drain(pipeline)
    assert len(state.items(settings)) == 25

    healed = open_pipeline()
    client = connect(settings)
    healed.table = RecommendationTable(client, name)
    faults = Faults(client)
    faults.on("BatchWriteItem", lambda call, request: None)
    _drain(healed)
    assert state.items(settings).keys() == {row[0] for row in state.tables(settings)["recommendation.recommendations"]}
    assert faults.calls["BatchWriteItem"] == 2, "what was recorded as delivered is not sent again"


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)  # see test_ways.py for the other way
def test_an_item_that_dynamodb_refuses_holds_up_nobody(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=200, users=20)
    pipeline = open_pipeline()
    client = connect(settings)
    pipeline.table = RecommendationTable(client, settings.text("KURASHIRU_DYNAMODB_TABLE"))

    def refuse(call: int, request: dict[str, Any]) -> Answer | None:
        [puts] = request["RequestItems"].values()
        poisoned = any(put["PutRequest"]["Item"]["user_id"]["S"] == "u3" for put in puts)
        return error(400, "ValidationException") if poisoned else None

    Faults(client).on("BatchWriteItem", refuse)
    _drain(pipeline)
    assert pipeline.pending() is None
    assert "u3" not in state.items(settings)
    assert len(state.own_items(settings)) == 19


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
def test_a_home_that_cannot_be_written_says_so(settings: Settings, tmp_path: Path) -> None:
    occupied = tmp_path / "occupied"
    occupied.write_text("a file, not a folder")
    chosen = Settings.load(Environment.LOCAL, {**settings.environ, "KURASHIRU_HOME": str(occupied / "home")})
    with pytest.raises(ConfigurationError, match="KURASHIRU_HOME"):
        open_warehouse(chosen)


def test_an_unknown_engine_names_a_known_one(settings: Settings) -> None:
    chosen = Settings.load(Environment.LOCAL, {**settings.environ, "KURASHIRU_ENGINE": "sqlite"})
    with pytest.raises(ConfigurationError, match=r"KURASHIRU_ENGINE='sqlite'.* ducklake or snowflake"):
        open_warehouse(chosen)


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
@pytest.mark.parametrize(
    ("variable", "value"), [("KURASHIRU_KERNEL", "warehouse"), ("KURASHIRU_REFLECT", "external_function")]
)
def test_what_only_snowflake_has_is_refused_elsewhere(
    open_pipeline: Open, settings: Settings, variable: str, value: str
) -> None:
    land(settings.landing, "a", events=5)
    with pytest.raises(ConfigurationError, match=f"{variable}={value} needs KURASHIRU_ENGINE=snowflake.*export"):
        _drain(open_pipeline(**{variable: value}))
