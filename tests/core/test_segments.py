"""Segments: which list stands in for a missing one, and what is in it."""

import re
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from kurashiru_pipeline.core.impersonal import impersonal_profiles, rank_by_surface
from kurashiru_pipeline.core.items import DEFAULT_USER, IMPERSONAL_PATTERN
from kurashiru_pipeline.core.profiles import PROFILE_SCHEMA, build_profiles
from kurashiru_pipeline.core.ranking import rank
from kurashiru_pipeline.core.segments import (
    HOURS_AHEAD_OF_UTC,
    PARTS_OF_DAY,
    PLATFORM_SEGMENTS,
    TAG_SEGMENTS,
    VALUE_TAGS,
    fallbacks,
    part_of_day,
)
from tests.kitchen import NOW, behaviors_table, catalogue, did, model, popularity, recipe, weights

EVENING = "#segment:ios:evening"
DISHES = [recipe(f"{tag}-{number}", tag) for tag in VALUE_TAGS for number in range(4)]


@pytest.mark.parametrize(
    ("hour_in_japan", "part"),
    [
        (0, "night"), (4, "night"), (5, "morning"), (9, "morning"), (10, "noon"), (14, "noon"), (15, "evening"),
        (20, "evening"), (21, "night"), (23, "night"),
    ],
)  # fmt: skip
def test_parts_of_the_day(hour_in_japan: int, part: str) -> None:
    for minutes in (0, 59):
        there = datetime(2026, 11, 23, hour_in_japan, minutes)
        assert part_of_day(there - timedelta(hours=HOURS_AHEAD_OF_UTC)) == part


def test_every_hour_of_every_platform_has_a_segment() -> None:
    reached = {
        key
        for platform in ("ios", "android", "web")
        for hour in range(24)
        for key in fallbacks(NOW + timedelta(hours=hour), platform=platform)[:-1]
    }
    assert reached == set(PLATFORM_SEGMENTS)
    assert len(reached) == 3 * len(PARTS_OF_DAY)


@pytest.mark.parametrize(
    ("asked", "keys"),
    [
        ({}, [DEFAULT_USER]),
        ({"platform": "ios"}, [EVENING, DEFAULT_USER]),
        ({"platform": "tv"}, [DEFAULT_USER]),
        ({"platform": "tag", "tag": "evening"}, [DEFAULT_USER]),
        ({"tag": "savings"}, ["#segment:tag:savings", DEFAULT_USER]),
        ({"platform": "ios", "tag": "savings"}, ["#segment:tag:savings", EVENING, DEFAULT_USER]),
    ],
)
def test_what_stands_in_first(asked: dict[str, str], keys: list[str]) -> None:
    assert fallbacks(NOW, **asked) == keys


def test_every_key_is_one_that_items_may_have() -> None:
    for key in (DEFAULT_USER, *PLATFORM_SEGMENTS, *TAG_SEGMENTS):
        assert re.fullmatch(IMPERSONAL_PATTERN, key), key


def of_segments(**counts: dict[str, float]) -> pa.Table:
    """Popularity of ios segments by part of the day."""
    tables = [
        popularity(**few).append_column("segment", pa.array([f"#segment:ios:{part}"] * len(few), pa.string()))
        for part, few in counts.items()
    ]
    return pa.concat_tables(tables)


def lists(names: list[str], live: pa.Table, there: pa.Table, **sections: Any) -> dict[str, dict[str, Any]]:
    rules = weights(list_length=8, **sections)
    made = rank_by_surface(impersonal_profiles(names, NOW), catalogue(*DISHES), live, there, None, rules, NOW)
    assert made["user_id"].to_pylist() == names
    return {row["user_id"]: row for row in made.to_pylist()}


def test_a_segment_is_ranked_by_what_is_popular_in_it() -> None:
    live = popularity(**{"savings-1": 50.0, "microwave-1": 40.0})
    segments = of_segments(morning={"savings-2": 500.0}, evening={"savings-3": 500.0})
    made = lists([EVENING, DEFAULT_USER, "#segment:ios:morning"], live, segments)
    assert [made[name]["recipe_ids"][0] for name in made] == ["savings-3", "savings-1", "savings-2"]


def test_a_small_segment_goes_by_what_everybody_likes_and_a_large_one_by_its_own() -> None:
    live = popularity(**{"savings-1": 500.0})
    few, many = of_segments(evening={"microwave-1": 5.0}), of_segments(evening={"microwave-1": 5_000.0})
    prior = {"segments": {"prior": 50.0}}
    assert lists([EVENING], live, few, **prior)[EVENING]["recipe_ids"][0] == "savings-1"
    assert lists([EVENING], live, many, **prior)[EVENING]["recipe_ids"][0] == "microwave-1"
    nothing = of_segments(evening={})
    default = lists([DEFAULT_USER], live, nothing, diversity={"dials": {"home": 0.2, "default": 0.3, "segment": 0.3}})
    empty = lists([EVENING], live, nothing, diversity={"dials": {"home": 0.2, "default": 0.3, "segment": 0.3}})
    assert empty[EVENING]["recipe_ids"] == default[DEFAULT_USER]["recipe_ids"]


def test_popularity_of_a_segment_fades_with_a_half_life_of_its_own() -> None:
    yesterday = of_segments(evening={"microwave-1": 100.0}).set_column(
        2, "decayed_at", pa.array([NOW - timedelta(days=3)], pa.timestamp("us"))
    )
    live, rules = popularity(**{"savings-1": 1.0}), {"prior": 20.0}
    slow = lists([EVENING], live, yesterday, segments=rules | {"half_life_days": 3.0})
    fast = lists([EVENING], live, yesterday, segments=rules | {"half_life_days": 1.0})
    assert slow[EVENING]["recipe_ids"][0] == "microwave-1"
    assert fast[EVENING]["recipe_ids"][0] == "savings-1"


def test_lists_for_nobody_in_particular_are_varied_as_their_surface_says() -> None:
    live = popularity(**{f"savings-{number}": 100.0 - number for number in range(4)})
    segments = of_segments(evening={f"savings-{number}": 100.0 - number for number in range(4)})

    def savings(dial: float, name: str) -> int:
        dials = {"home": 0.0, "default": dial, "segment": dial}
        made = lists([name], live, segments, diversity={"dials": dials}, fresh={"min_share": 0.0})
        return sum(recipe_id.startswith("savings") for recipe_id in made[name]["recipe_ids"][:4])

    for name in (DEFAULT_USER, EVENING, "#segment:tag:savings"):
        assert savings(0.0, name) == 4
        assert savings(0.9, name) < 4


def test_the_list_of_a_tag_is_that_of_somebody_who_said_only_that() -> None:
    kitchen, rules, live = catalogue(*DISHES), weights(), popularity(**{"baby_food-1": 3.0, "savings-1": 2.0})
    said = pa.table({"user_id": ["u"], "preferred_tags": pa.array([["savings"]], pa.list_(pa.string()))})
    somebody = build_profiles(behaviors_table(), kitchen, rules, NOW, said)
    expected = rank(somebody, kitchen, live, None, rules, NOW, surface="segment")
    made = rank_by_surface(
        impersonal_profiles(["#segment:tag:savings"], NOW), kitchen, live, of_segments(evening={}), None, rules, NOW
    )
    assert made.drop_columns(["user_id"]).equals(expected.drop_columns(["user_id"]))
    assert made["recipe_ids"][0].as_py()[0] == "savings-1"


def test_users_among_them_get_what_they_get_alone() -> None:
    kitchen, rules, live = catalogue(*DISHES), weights(), popularity(**{"savings-1": 2.0})
    history = behaviors_table(did("u1", "recipe_view", "savings-2"), did("u2", "recipe_cooked", "microwave-1"))
    users = build_profiles(history, kitchen, rules, NOW)
    alone = rank(users, kitchen, live, None, rules, NOW)
    mixed = pa.concat_tables([users.slice(0, 1), impersonal_profiles([EVENING, DEFAULT_USER], NOW), users.slice(1)])
    segments = of_segments(evening={"savings-3": 9.0})
    made = rank_by_surface(mixed, kitchen, live, segments, None, rules, NOW)
    assert made["user_id"].to_pylist() == ["u1", EVENING, DEFAULT_USER, "u2"]
    assert pa.concat_tables([made.slice(0, 1), made.slice(3)]).equals(alone)


def test_what_was_learned_of_people_with_a_past_says_nothing_of_nobody() -> None:
    kitchen, rules, live = catalogue(*DISHES), weights(), popularity(**{"savings-1": 9.0, "microwave-2": 4.0})
    plain = model({("savings-1", "savings-2"): 1.0}, {"baby_food-1": 2.0})
    taught = replace(plain, learned={f"blend.{name}": -1.0 for name in ("live_popularity", "trained_popularity")})
    nobody = impersonal_profiles([DEFAULT_USER, EVENING, "#segment:tag:savings"], NOW)
    expected, made = (
        rank_by_surface(nobody, kitchen, live, of_segments(evening={"savings-3": 9.0}), artifact, rules, NOW)
        for artifact in (plain, taught)
    )
    assert made.equals(expected)
    assert set(made["algorithm"].to_pylist()) == {"m1"}
    assert made["recipe_ids"][0].as_py()[0] == "savings-1"


def test_nobody_at_all() -> None:
    kitchen, live = catalogue(*DISHES), popularity()
    made = rank_by_surface(PROFILE_SCHEMA.empty_table(), kitchen, live, of_segments(evening={}), None, weights(), NOW)
    assert made.num_rows == 0
    assert made.column_names == ["user_id", "recipe_ids", "scores", "reasons", "algorithm"]
