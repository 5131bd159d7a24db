"""Live popularity against a plain Python reference: exponential decay, whatever the order and the cut."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.segments import PLATFORM_SEGMENTS, PLATFORMS, TAG_SEGMENTS, part_of_day
from kurashiru_pipeline.realtime.segments import counting_rules, due_lists, renewal_rules
from tests.kitchen import weights
from tests.warehouse.small_lake import NOW, Tables, event_id

HALF_LIFE = 86_400.0
RULES = weights(
    popularity={"half_life_days": 1.0}, segments={"half_life_days": 2.0, "renew_share": 0.1, "renew_hours": 6.0}
)
COUNTING = counting_rules(RULES) | {
    "action_weights": {"recipe_view": 0.5, "shopping_list_add": 1.5, "recipe_cooked": 3.0}
}
WEIGHTS = COUNTING["action_weights"]
DAY = timedelta(days=1)
ROUNDING = 1e-6  # of one event
batch_ids = count(1)
Event = tuple[str, str | None, datetime]  # name, recipe, moment


def update(tables: Tables, events: Sequence[Event], watermark_at: datetime, platform: str | None = None) -> int:
    """One micro-batch through update_popularity.sql; rows written."""
    batch_id = next(batch_ids)
    tables.stage_events(
        batch_id,
        [
            {
                "event_id": event_id(number),
                "event_name": name,
                "recipe_id": recipe,
                "occurred_at": occurred_at,
                "platform": platform,
            }
            for number, (name, recipe, occurred_at) in enumerate(events)
        ],
    )
    counts = tables.run(
        "update_popularity",
        work_tables="popularity_work_tables",
        batch_id=batch_id,
        watermark_at=watermark_at,
        **COUNTING,
    )
    return counts["add"]


def popularity(tables: Tables) -> dict[str, tuple[float, datetime]]:
    rows = tables.warehouse.fetch("popularity").to_pylist()
    assert len({row["recipe_id"] for row in rows}) == len(rows)
    return {row["recipe_id"]: (row["decayed_count"], row["decayed_at"]) for row in rows}


def decay(since: timedelta) -> float:
    return float(0.5 ** (since.total_seconds() / HALF_LIFE))


def reference(batches: Sequence[tuple[Sequence[Event], datetime]]) -> dict[str, tuple[float, datetime]]:
    """Counts as of the last batch that touched the recipe; an event ahead of its watermark counts whole."""
    counted: dict[str, tuple[float, datetime]] = {}
    for events, watermark_at in batches:
        gained: dict[str, float] = {}
        for name, recipe, occurred_at in events:
            if recipe is not None and name in WEIGHTS:
                age = max(watermark_at - occurred_at, timedelta())
                gained[recipe] = gained.get(recipe, 0.0) + WEIGHTS[name] * decay(age)
        for recipe, gain in gained.items():
            before, since = counted.get(recipe, (0.0, watermark_at))
            counted[recipe] = (before * decay(watermark_at - since) + gain, watermark_at)
    return counted


def assert_close(found: dict[str, tuple[float, datetime]], expected: dict[str, tuple[float, datetime]]) -> None:
    assert {recipe: at for recipe, (_, at) in found.items()} == {recipe: at for recipe, (_, at) in expected.items()}
    for recipe, (value, _) in expected.items():
        assert found[recipe][0] == pytest.approx(value, rel=1e-12, abs=100 * ROUNDING)


events = st.tuples(
    st.sampled_from([*WEIGHTS, "recipe_impression", "recommendation_click", "unknown"]),
    st.sampled_from(["r1", "r2", "r3", None]),
    st.integers(-200, 30).map(lambda hours: NOW + timedelta(hours=hours)),
)
batches = st.lists(st.tuples(st.lists(events, max_size=12), st.integers(0, 100)), max_size=4)


def with_watermarks(drawn: list[tuple[list[Event], int]]) -> list[tuple[list[Event], datetime]]:
    watermark_at = NOW
    cut = []
    for some, hours in drawn:
        watermark_at += timedelta(hours=hours)
        cut.append((some, watermark_at))
    return cut


def test_counts_decay_and_add_up_as_the_formula_says(tables: Tables) -> None:
    @given(batches)
    @tables.profile(60)
    def check(drawn: list[tuple[list[Event], int]]) -> None:
        tables.rows("delete from recommendation.live_popularity")
        given_batches = with_watermarks(drawn)
        for some, watermark_at in given_batches:
            update(tables, some, watermark_at)
        assert_close(popularity(tables), reference(given_batches))

    check()


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_rows_changes_no_digit(tables: Tables, seed: int) -> None:
    """Binary fractions added up in another order make another sum; a batch staged again must make the same."""
    random = Random(seed)
    some = [("recipe_view", "r1", NOW - timedelta(seconds=random.uniform(0, 1e6))) for _ in range(3000)]
    results = []
    for order in (some, sorted(some), random.sample(some, len(some))):
        tables.rows("delete from recommendation.live_popularity")
        update(tables, order, NOW)
        results.append(popularity(tables))
    assert results[0] == results[1] == results[2]


def test_only_touched_recipes_are_written(fresh_tables: Tables) -> None:
    assert update(fresh_tables, [("recipe_view", "r1", NOW), ("recipe_cooked", "r2", NOW)], NOW) == 2
    before = popularity(fresh_tables)
    assert update(fresh_tables, [("recipe_view", "r1", NOW + DAY), ("search", "r2", NOW + DAY)], NOW + DAY) == 1
    after = popularity(fresh_tables)
    assert after["r2"] == before["r2"] == (3.0, NOW)
    assert after["r1"] == (0.75, NOW + DAY)


def test_an_event_a_half_life_old_counts_half(fresh_tables: Tables) -> None:
    update(fresh_tables, [("recipe_cooked", "r1", NOW - DAY), ("recipe_view", "r1", NOW + DAY)], NOW)
    assert popularity(fresh_tables) == {"r1": (2.0, NOW)}


def test_a_batch_without_weighted_events_writes_nothing(fresh_tables: Tables) -> None:
    some: list[Event] = [("search", None, NOW), ("recipe_impression", "r1", NOW), ("recipe_view", None, NOW)]
    assert update(fresh_tables, some, NOW) == 0
    assert update(fresh_tables, [], NOW) == 0
    assert popularity(fresh_tables) == {}


def test_a_million_views_are_no_trouble(fresh_tables: Tables) -> None:
    one = {"event_id": event_id(1), "event_name": "recipe_cooked", "recipe_id": "r1", "occurred_at": NOW}
    fresh_tables.stage_events(77777, [one])
    for _ in range(20):
        fresh_tables.rows("insert into staging.behavior_events select * from staging.behavior_events")
    parameters: dict[str, Any] = {"batch_id": 77777, "watermark_at": NOW, **COUNTING}
    fresh_tables.run("update_popularity", work_tables="popularity_work_tables", **parameters)
    assert popularity(fresh_tables) == {"r1": (3.0 * 2**20, NOW)}


def test_the_checks_find_what_cannot_be(fresh_tables: Tables) -> None:
    def impossible() -> int:
        found = fresh_tables.warehouse.fetch(
            "preprocess_checks", batch_id=1, watermark_at=NOW, meaningful_event_names=["search"]
        )
        return int(found["impossible_popularity"][0].as_py())

    update(fresh_tables, [("recipe_view", "r1", NOW)], NOW)
    assert impossible() == 0
    for value, at in (("-0.1", NOW), ("'nan'", NOW), ("1.0", NOW + timedelta(seconds=1))):
        fresh_tables.rows(
            f"insert into recommendation.live_popularity select 'r2', cast({value} as double), timestamp '{at}'"
        )
        assert impossible() == 1, value
        fresh_tables.rows("delete from recommendation.live_popularity where recipe_id = 'r2'")
    fresh_tables.rows(
        f"insert into recommendation.segment_popularity select 's', 'r2', cast(-1 as double), timestamp '{NOW}'"
    )
    assert impossible() == 1


def of_segments(tables: Tables, *segments: str) -> dict[tuple[str, str], float]:
    rows = tables.warehouse.fetch("segment_popularity", segments=list(segments or PLATFORM_SEGMENTS)).to_pylist()
    return {(row["segment"], row["recipe_id"]): row["decayed_count"] for row in rows}


def test_a_segment_is_the_platform_and_the_part_of_the_day_in_japan(fresh_tables: Tables) -> None:
    """Every hour of a day, in SQL as in Python."""
    hours = [NOW.replace(minute=59) - timedelta(hours=hour) for hour in range(24)]
    for platform in PLATFORMS:
        update(fresh_tables, [("recipe_cooked", f"r{moment.hour}", moment) for moment in hours], NOW, platform)
    assert of_segments(fresh_tables).keys() == {
        (f"#segment:{platform}:{part_of_day(moment)}", f"r{moment.hour}") for platform in PLATFORMS for moment in hours
    }
    assert {part: [moment.hour for moment in hours if part_of_day(moment) == part] for part in ("morning", "noon")} == {
        "morning": [0, 23, 22, 21, 20],  # 5 to 10 in Japan
        "noon": [5, 4, 3, 2, 1],
    }


def test_a_segment_counts_with_a_half_life_of_its_own_and_only_its_recipes_are_written(fresh_tables: Tables) -> None:
    evening = "#segment:ios:evening"
    update(fresh_tables, [("recipe_cooked", "r1", NOW), ("recipe_cooked", "r2", NOW)], NOW, "ios")
    update(fresh_tables, [("recipe_view", "r1", NOW + 2 * DAY)], NOW + 2 * DAY, "ios")
    assert of_segments(fresh_tables) == {(evening, "r1"): 2.0, (evening, "r2"): 3.0}
    assert popularity(fresh_tables)["r1"] == (1.25, NOW + 2 * DAY)


@pytest.mark.parametrize("platform", [None, "", "tv", "iOS"])
def test_a_platform_nobody_knows_has_no_segment(fresh_tables: Tables, platform: str | None) -> None:
    update(fresh_tables, [("recipe_cooked", "r1", NOW)], NOW, platform)
    assert fresh_tables.count("recommendation.segment_popularity") == 0
    assert popularity(fresh_tables) == {"r1": (3.0, NOW)}


def made(tables: Tables, watermark_at: datetime) -> list[str]:
    """Lists due at a moment, and recorded as made."""
    due = due_lists(tables.warehouse, RULES, watermark_at)
    tables.run("record_segment_lists", watermark_at=watermark_at, **renewal_rules(RULES))
    return due


def test_a_list_is_made_anew_only_when_enough_is_new_or_it_is_old(fresh_tables: Tables) -> None:
    evening, minute = "#segment:ios:evening", timedelta(minutes=1)
    ever = ["#default"]
    assert made(fresh_tables, NOW) == ever, "nothing is popular yet"
    for _ in range(10):
        update(fresh_tables, [("recipe_cooked", "r1", NOW)], NOW, "ios")
    assert made(fresh_tables, NOW) == [*ever, evening, *TAG_SEGMENTS]
    assert made(fresh_tables, NOW) == ever

    update(fresh_tables, [("recipe_cooked", "r2", NOW + minute)], NOW + minute, "ios")
    assert made(fresh_tables, NOW + minute) == ever, "3 of 33: less than the share"
    update(fresh_tables, [("recipe_view", "r2", NOW + minute)], NOW + minute, "ios")
    assert made(fresh_tables, NOW + minute) == [*ever, evening, *TAG_SEGMENTS], "gains add up until they are the share"
    update(fresh_tables, [("recipe_cooked", "r2", NOW + minute)] * 2, NOW + minute)
    assert made(fresh_tables, NOW + minute) == [*ever, *TAG_SEGMENTS], "on no platform: of everybody only"

    assert made(fresh_tables, NOW + timedelta(hours=6)) == ever
    assert made(fresh_tables, NOW + timedelta(hours=6, minutes=1)) == [*ever, evening, *TAG_SEGMENTS]
