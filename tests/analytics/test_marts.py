"""The dbt project against plain Python, through everything that can happen to a lake.

One history is built once: part of the events, dbt; dbt again; the rest with its late and repeated events, dbt; a
damaged day, backfilled; all of it from scratch.
"""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from itertools import pairwise

import dagster as dg
import numpy as np
import pytest
import yaml
from analytics_lake import (
    CANARY,
    DAYS,
    FIRST_DAY,
    Event,
    make_events,
    make_lake,
    read_tables,
    user_rows,
    write_catalogue,
    write_events,
)
from analytics_location import Location, materialized
from dagster_dbt import DagsterDbtCliRuntimeError

from kurashiru_pipeline.core.events import MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.core.profiles import ACTION_OF_EVENT
from kurashiru_pipeline.core.transitions import TransitionCounts
from kurashiru_pipeline.core.weights import load_weights
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


@dataclass(frozen=True)
class Windows:
    """First days of the learning and of the hold-out days."""

    learn_from: date
    cut: date

    def role(self, day: date) -> str | None:
        """What a day is for."""
        return None if day < self.learn_from else "learning" if day < self.cut else "holdout"


def windows_of(interactions: list[Event]) -> Windows:
    """Twice the newest of the days left that hold a tenth of all interactions."""
    by_day = Counter(event.occurred_at.date() for event in interactions)
    first_days: list[date] = []
    kept = 0
    for day in sorted(by_day, reverse=True):
        kept += by_day[day]
        if kept >= 0.1 * len(interactions):
            first_days.append(day)
            kept = 0
    return Windows(learn_from=first_days[1], cut=first_days[0])


def test_windows(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    interactions = interactions_of(unique_events)
    windows = windows_of(interactions)
    newest = max(event.occurred_at for event in interactions).date()
    expected = {"learn_from_on": windows.learn_from, "cut_on": windows.cut, "newest_on": newest}
    assert stages["incremental"]["marts.model_windows"] == [expected]
    assert FIRST_DAY.date() < windows.learn_from < windows.cut <= newest


def test_transitions(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    interactions = interactions_of(unique_events)
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
    expected: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * 6)
    for column, (known_on, half_life) in enumerate(
        (known_on, half_life) for known_on in known_days(interactions) for half_life in (365, 30)
    ):
        for (here, there, day), weight in pairs.items():
            age = (known_on - day).days
            expected[here, there][column] += weight * 0.5 ** (age / half_life) if age >= 0 else 0.0
    assert transitions_of(stages["incremental"]) == {key: pytest.approx(values) for key, values in expected.items()}


def test_transitions_are_those_that_evaluation_counts(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    """core/transitions.py follows the same history in memory."""
    interactions = sorted(interactions_of(unique_events), key=lambda event: (event.occurred_at, event.event_id))
    users = sorted({event.user_id for event in interactions})
    recipes = sorted({event.recipe_id for event in interactions})
    counts = TransitionCounts(
        user=np.array([users.index(event.user_id) for event in interactions]),
        recipe=np.array([recipes.index(event.recipe_id) for event in interactions]),
        at=np.array([event.occurred_at for event in interactions], dtype="datetime64[us]").astype(np.int64),
        recipes=len(recipes),
    )
    moments = []
    for known_on in sorted(known_days(interactions)):
        counts.follow(int(np.datetime64(known_on + timedelta(days=1), "us").astype(np.int64)))
        moments.append((counts.forward.toarray(), counts.live.toarray()))
    learning, holdout, now = moments
    columns = [*now, *holdout, *learning]
    made = transitions_of(stages["incremental"])
    assert {(recipes[here], recipes[there]) for here, there in np.argwhere(now[0])} == made.keys()
    for (here, there), values in made.items():
        place = recipes.index(here), recipes.index(there)
        assert values == pytest.approx([column[place] for column in columns])


def known_days(interactions: list[Event]) -> tuple[date, date, date]:
    """The last days known now, before the hold-out and before learning."""
    windows, day = windows_of(interactions), timedelta(days=1)
    return max(event.occurred_at for event in interactions).date(), windows.cut - day, windows.learn_from - day


def transitions_of(tables: Tables) -> dict[tuple[str, str], list[float]]:
    names = [f"{moment}{weight}" for moment in ("", "holdout_", "learning_") for weight in ("weight", "live_weight")]
    return {
        (row["from_recipe_id"], row["to_recipe_id"]): [row[name] for name in names]
        for row in tables["marts.recipe_transitions"]
    }


def test_statistics(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    interactions = interactions_of(unique_events)
    windows = windows_of(interactions)
    actions = load_weights().actions.model_dump()
    # The newest hour with any event of a recipe sets the clock.
    now = max(hour_of(event.occurred_at) for event in unique_events if event.recipe_id)
    expected: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for prefix, known_until in (
        ("", now),
        ("holdout_", datetime.combine(windows.cut, time()) - timedelta(hours=1)),
        ("learning_", datetime.combine(windows.learn_from, time()) - timedelta(hours=1)),
    ):
        for event in interactions:
            age = known_until - hour_of(event.occurred_at)
            if age >= timedelta():
                numbers = expected[event.recipe_id]
                numbers[f"{prefix}interactions"] += 1
                numbers[f"{prefix}popularity"] += 0.5 ** (age / timedelta(days=7))
                numbers[f"{prefix}live_popularity"] += actions[event.event_name] * 0.5 ** (age / timedelta(days=1))
    rows = stages["incremental"]["marts.recipe_statistics"]
    assert {row["recipe_id"] for row in rows} == {f"recipe-{number:02d}" for number in range(18)}
    assert len(rows[0]) == 9
    for row in rows:
        made = {name: value for name, value in row.items() if name != "recipe_id"}
        assert made == pytest.approx({name: expected[row["recipe_id"]][name] for name in made})


def test_live_popularity_fades_as_in_the_near_real_time_path() -> None:
    project = yaml.safe_load((PROJECT_ROOT / "dbt_project/dbt_project.yml").read_text())
    assert project["vars"]["live_popularity_half_life_days"] == load_weights().popularity.half_life_days


def shown_lists(events: list[Event], windows: Windows) -> dict[tuple[str, str], list[Event]]:
    """Impressions of the learning days by user and list, in the order they were shown."""
    lists: dict[tuple[str, str], list[Event]] = defaultdict(list)
    for event in sorted(events, key=lambda event: (event.occurred_at, event.event_id)):
        is_shown = event.event_name == "recommendation_impression" and event.properties and event.recipe_id
        if is_shown and windows.role(event.occurred_at.date()) == "learning":
            lists[event.user_id, event.properties["recommendation_id"]].append(event)
    return lists


def test_impressions(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    windows = windows_of(interactions_of(unique_events))
    known_clicks = {event_id for event_id, at in clicked_impressions(unique_events).items() if at.date() < windows.cut}
    expected = set()
    for (user, _), shown in shown_lists(unique_events, windows).items():
        if any(event.event_id in known_clicks for event in shown):
            for recipe in {event.recipe_id for event in shown}:
                of_recipe = [event for event in shown if event.recipe_id == recipe]
                position = min(event.properties["position"] for event in of_recipe)
                is_clicked = any(event.event_id in known_clicks for event in of_recipe)
                expected.add((shown[0].event_id, user, recipe, position, is_clicked, shown[0].occurred_at))
    rows = stages["incremental"]["marts.model_impressions"]
    names = ("query_id", "user_id", "recipe_id", "display_position", "is_clicked", "asked_at")
    assert {tuple(row[name] for name in names) for row in rows} == expected
    assert len(rows) == len(expected) > 20
    assert clicked_impressions(unique_events).keys() > known_clicks


def test_queries(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    windows = windows_of(interactions_of(unique_events))
    asked = set()
    for earlier, later in pairwise(interactions_of(unique_events)):
        role = windows.role(later.occurred_at.date())
        is_next = earlier.user_id == later.user_id and windows.role(earlier.occurred_at.date()) == role
        if role and is_next and earlier.recipe_id != later.recipe_id:
            asked.add((later.event_id, role, later.user_id, later.recipe_id, later.occurred_at))
    asked |= {
        (row["query_id"], "impressions", row["user_id"], None, row["asked_at"])
        for row in stages["incremental"]["marts.model_impressions"]
    }
    rows = stages["incremental"]["marts.model_queries"]
    names = ("query_id", "query_role", "user_id", "target_recipe_id", "asked_at")
    assert {tuple(row[name] for name in names) for row in rows} == asked
    assert len(rows) == len(asked)
    roles = Counter(row["query_role"] for row in rows)
    assert min(roles["learning"], roles["holdout"], roles["impressions"]) > 10
    stated = {row["user_id"]: row["preferred_tags"] for row in user_rows()}
    for row in rows:
        together = {row["query_role"]} if row["query_role"] == "holdout" else {"learning", "impressions"}
        assert row["as_of"] == max(other["asked_at"] for other in rows if other["query_role"] in together)
        assert row["preferred_tags"] == stated.get(row["user_id"])


def test_query_behaviors(stages: dict[str, Tables], unique_events: list[Event]) -> None:
    known = [event for event in unique_events if event.event_name in MEANINGFUL_EVENT_NAMES]
    known.sort(key=lambda event: event.event_id)
    known.sort(key=lambda event: event.occurred_at, reverse=True)
    expected, sizes = set(), set()
    for query in stages["incremental"]["marts.model_queries"]:
        past = [event for event in known if event.user_id == query["user_id"] and event.occurred_at < query["asked_at"]]
        sizes.add(len(past))
        for event in past[:50]:
            moved = query["as_of"] - (query["asked_at"] - event.occurred_at)
            expected.add((query["query_id"], event.event_id, event.event_name, event.recipe_id, moved))
    rows = stages["incremental"]["marts.model_query_behaviors"]
    names = ("query_id", "event_id", "event_name", "recipe_id", "occurred_at")
    assert {tuple(row[name] for name in names) for row in rows} == expected
    assert len(rows) == len(expected) > 500
    assert max(sizes) > 50
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


def test_impressions_of_a_canary_are_counted_by_arm_user_and_day(
    stages: dict[str, Tables], unique_events: list[Event]
) -> None:
    """Of lists 2 and 3, which a canary made, if they were the user's own; by the user's arm."""
    tables = stages["incremental"]
    own = {
        (event.user_id, str(event.batch_id)) for event in unique_events if event.event_name in MEANINGFUL_EVENT_NAMES
    }
    expected: Counter[tuple[str, str, date]] = Counter()
    clicked: Counter[tuple[str, str, date]] = Counter()
    for row in tables["marts.fct_recommendation_impressions"]:
        if row["recommendation_id"] in {"2", "3"} and (row["user_id"], row["recommendation_id"]) in own:
            [is_challenger] = CANARY.is_challenger([row["user_id"]])
            key = (row["user_id"], "challenger" if is_challenger else "champion", row["occurred_on"])
            expected[key] += 1
            clicked[key] += row["is_clicked"]
    days = tables["marts.canary_user_days"]
    assert {(row["user_id"], row["arm"], row["shown_on"]): (row["impressions"], row["clicks"]) for row in days} == {
        key: (count, clicked[key]) for key, count in expected.items()
    }
    assert {row["arm"] for row in days} == {"challenger", "champion"}
    assert sum(clicked.values()) > 5


def test_arms_of_a_canary_add_up_day_by_day(stages: dict[str, Tables]) -> None:
    users = stages["incremental"]["marts.canary_user_days"]
    for row in stages["incremental"]["marts.canary_days"]:
        so_far: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
        for day in users:
            if day["arm"] == row["arm"] and day["shown_on"] <= row["shown_on"]:
                so_far[day["user_id"]] += (day["impressions"], day["clicks"])
        shown, clicks = np.array(list(so_far.values())).T
        assert (row["users"], row["impressions"], row["clicks"]) == (len(shown), shown.sum(), clicks.sum())
        assert row["squared_impressions"] == shown @ shown
        assert row["impressions_by_clicks"] == shown @ clicks
        assert row["squared_clicks"] == clicks @ clicks
