"""The dbt project against plain Python, through everything that can happen to a lake.

One history is built once: part of the events, dbt; dbt again; the rest with its late and repeated events, dbt; a
damaged day, backfilled; all of it from scratch.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta
from itertools import pairwise

import dagster as dg
import pytest
from analytics_lake import (
    DAYS,
    FIRST_DAY,
    Event,
    make_events,
    make_lake,
    read_tables,
    write_catalogue,
    write_events,
)
from analytics_location import Location, materialized
from dagster_dbt import DagsterDbtCliRuntimeError

from kurashiru_pipeline.core.events import MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.core.profiles import ACTION_OF_EVENT
from kurashiru_pipeline.environment import PROJECT_ROOT, Settings
from kurashiru_pipeline.warehouse.ducklake import attach, connect

Tables = dict[str, list[dict]]
DAMAGED = (FIRST_DAY + timedelta(days=5)).date()


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return make_events()


@pytest.fixture(scope="module")
def unique_events(events: list[Event]) -> list[Event]:
    """The first delivery of each event."""
    first: dict[str, Event] = {}
    for event in sorted(events, key=lambda event: event.batch_id):
        first.setdefault(event.event_id, event)
    return list(first.values())


@pytest.fixture(scope="module")
def location(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Location]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Location(make_lake(tmp_path_factory.mktemp("home")), instance)


@pytest.fixture(scope="module")
def stages(events: list[Event], location: Location) -> dict[str, Tables]:
    """All tables after each step of the history."""
    settings = location.settings
    write_catalogue(settings)
    seen: dict[str, Tables] = {}

    write_events(settings, [event for event in events if event.batch_id <= 16])
    location.dbt("build", "--exclude-resource-type", "test")
    seen["first"] = read_tables(settings)
    location.dbt("run")
    seen["again"] = read_tables(settings)
    write_events(settings, [event for event in events if event.batch_id > 16])
    location.dbt("run")
    seen["incremental"] = read_tables(settings)
    damage(settings)
    seen["damaged"] = read_tables(settings)
    backfill = location.run("analytics_backfill", partition=str(DAMAGED))
    assert backfill.success
    assert "marts/fct_recipe_views" in materialized(backfill)
    seen["backfilled"] = read_tables(settings)
    location.dbt("run", "--full-refresh")
    seen["full"] = read_tables(settings)
    return seen


def damage(settings: Settings) -> None:
    """Make one day wrong everywhere: rows lost, rows altered, and an event that never was."""
    days = {
        "intermediate.int_behaviors_deduplicated": "occurred_on",
        "intermediate.int_user_days": "active_on",
        "intermediate.int_recipe_pairs": "paired_on",
        "marts.fct_recipe_views": "occurred_on",
        "marts.fct_searches": "occurred_on",
        "marts.fct_favorites": "occurred_on",
        "marts.fct_cooking": "occurred_on",
        "marts.fct_recommendation_clicks": "occurred_on",
        "marts.fct_recommendation_impressions": "occurred_on",
        "marts.fct_hourly_recipe_popularity": "cast(popularity_hour_at as date)",
    }
    with connect() as connection:
        for lake in ("analytics", "realtime"):
            folder = settings.folder("KURASHIRU_LAKE") / lake
            attach(connection, folder, lake, read_only=lake == "realtime")
        connection.execute("use analytics")
        for table, day in days.items():
            connection.execute(f"delete from {table} where {day} = date '{DAMAGED}' and hash(rowid) % 2 = 0")
        connection.execute(
            "update intermediate.int_behaviors_deduplicated set recipe_id = 'wrong' "
            f"where occurred_on = date '{DAMAGED}'"
        )
        connection.execute(
            "insert into marts.fct_recipe_views by name "
            f"select uuid() as event_id, 'nobody' as user_id, date '{DAMAGED}' as occurred_on"
        )


def test_running_twice_is_running_once(stages: dict[str, Tables]) -> None:
    assert stages["again"] == stages["first"]
    assert len(stages["first"]["marts.fct_recipe_views"]) > 50


def test_increments_with_late_and_repeated_events_equal_a_full_build(stages: dict[str, Tables]) -> None:
    assert stages["incremental"] == stages["full"]
    assert stages["incremental"] != stages["first"]


def test_backfill_mends_its_day(stages: dict[str, Tables]) -> None:
    assert stages["damaged"] != stages["full"]
    assert stages["backfilled"] == stages["full"]


def test_backfill_wants_a_window(location: Location) -> None:
    arguments = ("run-operation", "backfill_window", "--vars", "{start_date: 2026-10-02, end_date: 2026-10-02}")
    variables = dict(os.environ)
    with pytest.raises(DagsterDbtCliRuntimeError, match="A backfill needs both days, start before end"):
        location.dbt(*arguments)
    assert dict(os.environ) == variables


def test_each_event_is_in_one_fact_once(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    tables = stages["incremental"]
    expected = defaultdict(set)
    for event in unique_events:
        expected[event.event_name].add(event.event_id)

    def ids(table: str, **values: object) -> set[str]:
        rows = [row for row in tables[f"marts.{table}"] if all(row[name] == value for name, value in values.items())]
        found = {str(row["event_id"]) for row in rows}
        assert len(found) == len(rows)
        return found

    assert ids("fct_recipe_views") == expected["recipe_view"]
    assert ids("fct_searches") == expected["search"]
    assert ids("fct_favorites", is_added=True) == expected["recipe_favorite"]
    assert ids("fct_favorites", is_added=False) == expected["recipe_unfavorite"]
    assert ids("fct_cooking", cooking_step="planned") == expected["shopping_list_add"]
    assert ids("fct_cooking", cooking_step="cooked") == expected["recipe_cooked"]
    assert ids("fct_recommendation_impressions") == expected["recommendation_impression"]
    assert ids("fct_recommendation_clicks") == expected["recommendation_click"]
    behaviors = {str(row["event_id"]) for row in tables["intermediate.int_behaviors_deduplicated"]}
    assert behaviors == set().union(*expected.values())


@pytest.mark.parametrize(
    ("macro", "names"),
    [("interaction_event_names", ACTION_OF_EVENT), ("meaningful_event_names", MEANINGFUL_EVENT_NAMES)],
)
def test_event_names_are_those_of_the_kernel(macro: str, names: Iterable[str]) -> None:
    text = (PROJECT_ROOT / "dbt_project/macros/event_names.sql").read_text()
    named = re.findall(r"'(\w+)'", text.split(f"macro {macro}()")[1].split("endmacro")[0])
    assert sorted(named) == sorted(names)


def interactions_of(events: list[Event]) -> list[Event]:
    chosen = [event for event in events if event.event_name in ACTION_OF_EVENT and event.recipe_id]
    return sorted(chosen, key=lambda event: (event.user_id, event.occurred_at, event.event_id))


def cut_of(interactions: list[Event]) -> date:
    """First of the newest days that hold a tenth of all interactions."""
    by_day = Counter(event.occurred_at.date() for event in interactions)
    kept = 0
    for day in sorted(by_day, reverse=True):
        kept += by_day[day]
        if kept >= 0.1 * len(interactions):
            return day
    raise AssertionError("no interactions")


def test_transitions(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    interactions = interactions_of(unique_events)
    cut = cut_of(interactions)
    pairs: dict[tuple[str, str, date], float] = defaultdict(float)
    for position, earlier in enumerate(interactions):
        for gap in range(1, 21):
            if position + gap >= len(interactions):
                break
            later = interactions[position + gap]
            if later.user_id != earlier.user_id:
                break
            near = later.occurred_at <= earlier.occurred_at + timedelta(days=7)
            if near and later.recipe_id != earlier.recipe_id:
                pairs[earlier.recipe_id, later.recipe_id, later.occurred_at.date()] += 1 / gap
    newest = max(day for _, _, day in pairs)
    weights: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for (here, there, day), weight in pairs.items():
        faded = weight * 0.5 ** ((newest - day).days / 60)
        for key, share in (((here, there), 1.0), ((there, here), 0.5)):
            weights[key][0] += faded * share
            weights[key][1] += faded * share if day < cut else 0.0

    made = {
        (row["from_recipe_id"], row["to_recipe_id"]): [row["weight"], row["holdout_weight"]]
        for row in stages["incremental"]["marts.recipe_transitions"]
    }
    assert made.keys() == weights.keys()
    for key, expected in weights.items():
        assert made[key] == pytest.approx(expected)
    assert stages["incremental"]["marts.model_holdout"] == [{"cut_on": cut}]


def test_statistics(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    interactions = interactions_of(unique_events)
    cut = cut_of(interactions)
    # The newest hour with any event of a recipe sets the clock.
    newest = max(hour_of(event.occurred_at) for event in unique_events if event.recipe_id)
    expected: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0, 0.0])
    for event in interactions:
        faded = 0.5 ** ((newest - hour_of(event.occurred_at)) / timedelta(days=7))
        before = event.occurred_at.date() < cut
        for place, value in enumerate((1, faded, int(before), faded * before)):
            expected[event.recipe_id][place] += value
    rows = stages["incremental"]["marts.recipe_statistics"]
    known = {f"recipe-{number:02d}" for number in range(18)}
    assert {row["recipe_id"] for row in rows} == known
    for row in rows:
        made = [row[name] for name in ("interactions", "popularity", "holdout_interactions", "holdout_popularity")]
        assert made == pytest.approx(expected[row["recipe_id"]])


def test_holdout_behaviors(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    cut = cut_of(interactions_of(unique_events))
    recent = [event for event in interactions_of(unique_events) if event.occurred_at.date() >= cut]
    targets = [
        later
        for earlier, later in pairwise(recent)
        if earlier.user_id == later.user_id and earlier.recipe_id != later.recipe_id
    ]
    as_of = max(target.occurred_at for target in targets)
    expected = set()
    for target in targets:
        past = [
            event
            for event in unique_events
            if event.user_id == target.user_id
            and event.occurred_at < target.occurred_at
            and event.event_name in MEANINGFUL_EVENT_NAMES
        ]
        past.sort(key=lambda event: event.event_id)
        past.sort(key=lambda event: event.occurred_at, reverse=True)
        for event in past[:50]:
            moved = as_of - (target.occurred_at - event.occurred_at)
            expected.add((target.event_id, event.event_id, event.recipe_id, target.recipe_id, moved, as_of))
    rows = stages["incremental"]["marts.model_holdout_behaviors"]
    names = ("query_id", "event_id", "recipe_id", "target_recipe_id", "occurred_at", "as_of")
    assert {tuple(row[name] for name in names) for row in rows} == expected
    assert len(rows) == len(expected) > 500
    assert {row["detail"] for row in rows if row["event_name"] == "search"} == {"卵", "豚肉 キャベツ"}


def hour_of(moment: datetime) -> datetime:
    return moment.replace(minute=0, second=0, microsecond=0)


def clicked_impressions(events: list[Event]) -> dict[str, datetime]:
    """Time of the first click of each impression that has one."""
    shown: dict[tuple, list[Event]] = defaultdict(list)
    for event in events:
        if event.event_name.startswith("recommendation_") and event.properties:
            shown[event.user_id, event.recipe_id, event.properties["recommendation_id"]].append(event)
    clicked: dict[str, datetime] = {}
    for together in shown.values():
        impressions = sorted(
            (event for event in together if event.event_name == "recommendation_impression"),
            key=lambda event: (event.occurred_at, event.event_id),
        )
        for click in (event for event in together if event.event_name == "recommendation_click"):
            before = [event for event in impressions if event.occurred_at <= click.occurred_at]
            if before and click.occurred_at < before[-1].occurred_at + timedelta(hours=24):
                owner = before[-1].event_id
                clicked[owner] = min(clicked.get(owner, click.occurred_at), click.occurred_at)
    return clicked


def test_clicks_belong_to_the_last_impression(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    made = {
        str(row["event_id"]): row["clicked_at"]
        for row in stages["incremental"]["marts.fct_recommendation_impressions"]
        if row["is_clicked"]
    }
    assert made == clicked_impressions(unique_events)
    assert len(made) > 20


def test_daily_kpis(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    days: dict[date, list[Event]] = defaultdict(list)
    active: dict[date, set[str]] = defaultdict(set)
    for event in unique_events:
        days[event.occurred_at.date()].append(event)
        active[event.occurred_at.date()].add(event.user_id)
    first_day: dict[str, date] = {}
    for day in sorted(active):
        for user in active[day]:
            first_day.setdefault(user, day)
    clicked = clicked_impressions(unique_events)
    published = {
        f"recipe-{number:02d}": (FIRST_DAY + timedelta(days=number % 5)).date() for number in range(17) if number != 3
    }
    last_load = max(event.loaded_at for event in unique_events).date()

    def retention(day: date, after: int) -> float | None:
        new = {user for user, first in first_day.items() if first == day}
        if not new or day + timedelta(days=after) >= last_load:
            return None
        return len(new & active[day + timedelta(days=after)]) / len(new)

    def coverage(day: date, name: str) -> float:
        living = {recipe for recipe, published_on in published.items() if published_on <= day}
        return len({event.recipe_id for event in days[day] if event.event_name == name} & living) / len(living)

    rows = {row["kpi_on"]: row for row in stages["incremental"]["marts.fct_daily_kpis"]}
    assert len(rows) == DAYS
    for day, on_day in days.items():
        names = Counter(event.event_name for event in on_day)
        shown = [event.event_id for event in on_day if event.event_name == "recommendation_impression"]
        hits = sum(event_id in clicked for event_id in shown)
        expected = {
            "kpi_on": day,
            "active_users": len(active[day]),
            "new_users": sum(first == day for first in first_day.values()),
            "day_1_retention": retention(day, 1),
            "day_7_retention": retention(day, 7),
            "views": names["recipe_view"],
            "searches": names["search"],
            "favorites": names["recipe_favorite"],
            "cookings": names["recipe_cooked"],
            "recommendation_impressions": len(shown),
            "clicked_recommendation_impressions": hits,
            "recommendation_ctr": hits / len(shown),
            "catalogue_recipes": sum(published_on <= day for published_on in published.values()),
            "recommendation_coverage": coverage(day, "recommendation_impression"),
            "view_coverage": coverage(day, "recipe_view"),
        }
        assert rows[day] == pytest.approx(expected), day
