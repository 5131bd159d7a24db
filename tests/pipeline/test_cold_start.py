"""People and recipes the pipeline knows little of: what they are shown, and that it costs no more than it must."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kurashiru_pipeline.core.items import DEFAULT_USER, decode_item
from kurashiru_pipeline.core.segments import TAG_SEGMENTS, fallbacks
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.realtime.drain import Tally, drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.warehouse.ducklake import DuckLakeWarehouse
from tests import keyed, state
from tests.traffic import TAGS, event, land, land_events, land_recipes, land_users

Open = Callable[..., MicroBatchPipeline]
DUCKLAKE = pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
LATELY = datetime(2026, 6, 1)
# Half past seven in the evening in Japan, some days ago.
EVENING = datetime.now(tz=UTC).replace(tzinfo=None, hour=10, minute=30, second=0, microsecond=0) - timedelta(days=2)


def _drain(pipeline: MicroBatchPipeline) -> Tally:
    return drain(pipeline, lambda step, tally: None)


def _lists(settings: Settings) -> dict[str, list[tuple[str, str]]]:
    """Recipes and reasons of each item that is served."""
    return {
        user: [(entry.recipe_id, entry.reason) for entry in decode_item(item | _TIMES).entries]
        for user, item in state.items(settings).items()
        if "deleted" not in item
    }


_TIMES: dict[str, Any] = {"generated_at": {"N": "0"}, "expires_at": {"N": "0"}}


def _tag(recipe_id: str) -> str:
    """The one tag of a recipe of tests.traffic."""
    return TAGS[int(recipe_id[1:]) % 6]


def test_a_new_user_gets_a_list_by_what_they_said_before_they_did_anything(
    open_pipeline: Open, settings: Settings
) -> None:
    land_recipes(settings.landing)
    land_users(settings.landing, "silent", ["silent"], updated_at=LATELY, preferred_tags=[])
    land_users(settings.landing, "new", ["new"], updated_at=LATELY, preferred_tags=["baby_food"])
    pipeline = open_pipeline()
    assert _drain(pipeline).batch_count == 1
    assert pipeline.pending() is None
    lists = _lists(settings)
    assert "silent" not in lists
    tags = [_tag(recipe_id) for recipe_id, _ in lists["new"]]
    assert tags[:3].count("baby_food") >= 2, "it is a list of that taste"
    assert len(set(tags)) == 6, "and not of that alone"
    assert {reason for recipe_id, reason in lists["new"] if _tag(recipe_id) == "baby_food"} == {"taste:baby_food"}

    before = state.items(settings)
    land_users(settings.landing, "again", ["new"], updated_at=LATELY + timedelta(1), preferred_tags=["baby_food"])
    assert _drain(open_pipeline()).batch_count == 0, "nothing new was said"
    assert state.items(settings) == before

    land_users(settings.landing, "other", ["new"], updated_at=LATELY + timedelta(2), preferred_tags=["savings"])
    _drain(open_pipeline())
    assert _lists(settings)["new"][0][1] == "taste:savings"

    land_users(settings.landing, "nothing", ["new"], updated_at=LATELY + timedelta(3), preferred_tags=[])
    _drain(open_pipeline())
    assert not any(reason.startswith("taste") for _, reason in _lists(settings)["new"])


@DUCKLAKE
def test_what_a_user_did_joins_what_they_said(open_pipeline: Open, settings: Settings) -> None:
    land_users(settings.landing, "users", ["u0"], updated_at=LATELY, preferred_tags=["entertainment"])
    land_recipes(settings.landing)
    seen = [event(number, user_id="u0", event_name="recipe_view", recipe_id="r0") for number in range(3)]
    land_events(settings.landing, "a", seen)
    assert _drain(open_pipeline()).batch_count == 1
    tastes = {reason for _, reason in _lists(settings)["u0"] if reason.startswith("taste:")}
    assert tastes >= {f"taste:{_tag('r0')}", "taste:entertainment"}


@DUCKLAKE
def test_a_great_export_is_taken_up_bit_by_bit_and_each_user_once(open_pipeline: Open, settings: Settings) -> None:
    land_recipes(settings.landing)
    land_users(settings.landing, "users", [f"n{number}" for number in range(7)], updated_at=LATELY)
    pipeline = open_pipeline(KURASHIRU_MAX_BATCH_USERS="3")
    pipeline.load()
    assert pipeline.pending() == "7 stated preferences wait"
    assert _drain(pipeline).batch_count == 3
    versions = {user: int(item["version"]["N"]) for user, item in state.items(settings).items() if user[0] == "n"}
    assert sorted(versions.values()) == [1, 1, 1, 2, 2, 2, 3]
    assert len(state.tables(settings)["ops.batch_preferences"]) == 7


@DUCKLAKE
def test_a_new_recipe_reaches_those_it_is_for(open_pipeline: Open, settings: Settings) -> None:
    """It has no views yet: its tag, ingredients and age speak for it."""
    land(settings.landing, "others", events=80, users=4)
    mine = [
        event(9_000 + number, user_id="mine", event_name="recipe_cooked", recipe_id=f"r{recipe}")
        for number, recipe in enumerate((5, 11, 17, 23))  # entertainment
    ]
    land_events(settings.landing, "mine", mine)
    pipeline = open_pipeline()
    _drain(pipeline)
    assert "r30" not in dict(_lists(settings)["mine"])

    now = datetime.now(tz=UTC).replace(tzinfo=None, minute=0, second=0, microsecond=0)
    land_recipes(settings.landing, "later", count=31, updated_at=[now] * 31, published_at=[
        *[datetime(2026, 1, 1)] * 30, now - timedelta(hours=3)
    ], value_tags=[*[[TAGS[number % 6]] for number in range(30)], ["entertainment"]])  # fmt: skip
    land_events(settings.landing, "next", [event(9_100, user_id="mine", event_name="recipe_view", recipe_id="r5")])
    _drain(open_pipeline())
    places = [recipe_id for recipe_id, _ in _lists(settings)["mine"]]
    assert places.index("r30") < 10
    assert dict(_lists(settings)["mine"])["r30"] in {"new:entertainment", "taste:entertainment"}


def test_who_has_no_list_is_shown_what_is_popular_there_and_then(open_pipeline: Open, settings: Settings) -> None:
    def cooked(first: int, recipe: int, moment: datetime, platform: str) -> list[dict[str, Any]]:
        at = moment.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        return [
            event(first + number, event_name="recipe_cooked", recipe_id=f"r{recipe}", occurred_at=at, platform=platform)
            for number in range(40)
        ]

    morning = EVENING - timedelta(hours=12)
    land_recipes(settings.landing)
    land_events(
        settings.landing,
        "a",
        [
            *cooked(0, 1, EVENING, "ios"),
            *cooked(100, 2, EVENING, "android"),
            *cooked(200, 3, morning, "ios"),
            *cooked(300, 4, EVENING, "tv"),
        ],
    )
    _drain(open_pipeline())
    lists = _lists(settings)
    table = state.table(settings)

    def shown(now: datetime, platform: str | None) -> tuple[str, str]:
        found = table.read_first(["stranger", *fallbacks(now, platform=platform)], now)
        assert found is not None
        return found.user_id, found.entries[0].recipe_id

    assert shown(EVENING, "ios") == ("#segment:ios:evening", "r1")
    assert shown(EVENING, "android") == ("#segment:android:evening", "r2")
    assert shown(morning, "ios") == ("#segment:ios:morning", "r3")
    assert shown(morning, "web")[0] == shown(EVENING, "tv")[0] == shown(EVENING, None)[0] == DEFAULT_USER
    assert {user for user in lists if user.startswith("#")} == {
        DEFAULT_USER, "#segment:ios:evening", "#segment:android:evening", "#segment:ios:morning", *TAG_SEGMENTS
    }  # fmt: skip
    for user in (DEFAULT_USER, "#segment:ios:evening", "#segment:tag:savings"):
        assert len({_tag(recipe_id) for recipe_id, _ in lists[user][:10]}) >= 4, f"{user} is varied"
    tags = {user: [_tag(recipe_id) for recipe_id, _ in entries[:8]] for user, entries in lists.items()}
    assert tags["#segment:tag:savings"].count("savings") == 5
    assert tags[DEFAULT_USER].count("savings") == 1

    # A little more of the same is no reason to make them anew.
    before = {user: item for user, item in state.items(settings).items() if user.startswith("#segment")}
    land_events(settings.landing, "b", cooked(400, 1, EVENING, "ios")[:2])
    _drain(open_pipeline())
    assert {user: item for user, item in state.items(settings).items() if user in before} == before
    segments = [row for row in state.tables(settings)["recommendation.recommendations"] if row[0] in before]
    assert {batch_id for _, batch_id, *_ in segments} == {1}


@DUCKLAKE  # Snowflake's columns come by migrations
def test_a_lake_from_before_is_carried_over(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=40, users=3)
    pipeline = open_pipeline()
    _drain(pipeline)
    assert isinstance(pipeline.warehouse, DuckLakeWarehouse)
    connection = pipeline.warehouse._connection
    connection.execute("alter table ops.batches drop column preference_user_count")
    relation = keyed.in_sql(pipeline.warehouse, "recommendation.user_profiles")
    connection.execute(
        "create table recommendation.user_profiles as "
        f"select * exclude (recipe_ages, recipe_counts, recipe_daytimes) from {relation}"
    )
    keyed.empty(pipeline.warehouse, "recommendation.user_profiles")
    for table in ("ops.pending_preferences", "ops.batch_preferences", "recommendation.segment_popularity"):
        connection.execute(f"drop table {table}")

    pipeline = open_pipeline()
    assert state.rows(pipeline.warehouse, "select count(*) from recommendation.user_profiles") == [(3,)]
    assert len(pipeline.warehouse.fetch("batch_profiles", batch_id=1)) == 0, "not ranked as they are"
    land_events(settings.landing, "b", [event(9_000, user_id="u1", event_name="recipe_view", recipe_id="r1")])
    land_users(settings.landing, "users", ["new"], updated_at=LATELY)
    _drain(pipeline)
    ages = "select user_id, recipe_ages is not null from recommendation.user_profiles order by user_id"
    assert state.rows(pipeline.warehouse, ages) == [("new", True), ("u0", False), ("u1", True), ("u2", False)]
    assert {"new", "u0", "u1", "u2"} <= _lists(settings).keys()
