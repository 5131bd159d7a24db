"""Simulated traffic: the same for the same seed, true to its manifest, and worth recommending on."""

import gzip
import json
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from landed_truth import EVENT_KEY, assert_manifest_is_true, event_files, judge, recount

from kurashiru_pipeline.core.events import REJECT_REASONS
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.local.catalogue import INGREDIENTS, VALUE_TAGS, make_recipes, make_users
from kurashiru_pipeline.local.faults import break_line
from kurashiru_pipeline.local.landing import RECIPE_SCHEMA, USER_SCHEMA
from kurashiru_pipeline.local.simulate import _Faults, simulate

UNTIL = datetime(2026, 11, 23, tzinfo=UTC)
FAULTS = {"duplicates": 0.05, "malformed": 0.04, "late": 0.03}


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    landing = tmp_path_factory.mktemp("history") / "landing"
    simulate(landing, events=40_000, users=1_500, recipes=800, seed=7, until=UNTIL, file_lines=3_000, **FAULTS)
    return landing


@pytest.fixture(scope="module")
def events(history: Path) -> list[dict]:
    return recount(history, loaded_at=UNTIL).events


@pytest.fixture(scope="module")
def recipes(history: Path) -> dict[str, dict]:
    return {row["recipe_id"]: row for row in _exported(history, "recipes")}


def _exported(landing: Path, kind: str) -> list[dict]:
    return ds.dataset(landing / kind, format="parquet").to_table().sort_by("updated_at").to_pylist()


def _bytes(landing: Path) -> dict[str, bytes]:
    files = (path for path in landing.rglob("*") if path.suffix in {".gz", ".parquet"})
    return {path.relative_to(landing).as_posix(): path.read_bytes() for path in files}


def _moment(event: dict) -> datetime:
    return datetime.fromisoformat(event["occurred_at"])


# --- what is delivered


def test_the_same_arguments_give_the_same_bytes(history: Path, tmp_path: Path) -> None:
    simulate(tmp_path, events=40_000, users=1_500, recipes=800, seed=7, until=UNTIL, file_lines=3_000, **FAULTS)
    assert _bytes(tmp_path) == _bytes(history)


def test_another_seed_gives_other_traffic_over_the_same_recipes_and_users(history: Path, tmp_path: Path) -> None:
    simulate(tmp_path, events=2_000, users=1_500, recipes=800, seed=8, until=UNTIL)
    assert not {e["event_id"] for e in recount(tmp_path, UNTIL).events} & {
        e["event_id"] for e in recount(history, UNTIL).events
    }
    assert _exported(tmp_path, "recipes") == _exported(history, "recipes")
    assert _exported(tmp_path, "users") == _exported(history, "users")


def test_the_manifest_is_the_truth(history: Path) -> None:
    truth = assert_manifest_is_true(history, loaded_at=UNTIL)
    assert truth.lines == 40_000
    assert truth.duplicates == 2_000
    assert truth.rejected.total() == 1_600
    assert set(truth.rejected) == set(REJECT_REASONS), "every reason occurs"
    assert truth.rejected["line_too_long"] <= 2
    manifest = json.loads((history / "manifest.json").read_bytes())
    assert manifest["late"] == 1_200
    assert (manifest["users"], manifest["recipes"]) == (1_500, 800)
    assert manifest["unknown_event_names"] > 0


@settings(max_examples=12, deadline=None)
@given(
    events=st.integers(1, 400),
    users=st.integers(1, 30),
    recipes=st.integers(1, 60),
    seed=st.integers(0, 2**32),
    duplicates=st.sampled_from([0.0, 0.01, 0.3]),
    malformed=st.sampled_from([0.0, 0.01, 0.3]),
    late=st.sampled_from([0.0, 0.01, 0.3]),
    days=st.sampled_from([0.0005, 0.01, 1.0, 30.0]),
    file_lines=st.sampled_from([1, 7, 1_000]),
)
def test_small_and_odd_runs_are_true_too(tmp_path_factory: pytest.TempPathFactory, events: int, **odd: float) -> None:
    landing = tmp_path_factory.mktemp("odd")
    simulate(landing, events=events, until=UNTIL, **odd)
    truth = assert_manifest_is_true(landing, loaded_at=UNTIL)
    assert truth.lines == events
    assert truth.duplicates == int(events * odd["duplicates"] + 1e-6)
    assert len(event_files(landing)) == -(-events // odd["file_lines"])
    begin = UNTIL - timedelta(days=odd["days"])
    assert all(begin <= _moment(event) < UNTIL for event in truth.events)


def test_files_are_named_after_the_delivery_of_their_last_line(history: Path) -> None:
    newest = datetime.min.replace(tzinfo=UTC)
    for path in event_files(history):
        assert EVENT_KEY.fullmatch(path.relative_to(history).as_posix())
        delivered_at = datetime.strptime(path.name[len("kurashiru-events-1-") :][:19], "%Y-%m-%d-%H-%M-%S")
        assert newest <= delivered_at.replace(tzinfo=UTC) < UNTIL
        newest = delivered_at.replace(tzinfo=UTC)


def test_duplicates_come_after_their_original_in_the_same_file_and_in_later_ones(history: Path) -> None:
    file_of_first: dict[bytes, Path] = {}
    same = later = 0
    for path in event_files(history):
        for line in gzip.decompress(path.read_bytes())[:-1].split(b"\n"):
            if line in file_of_first and judge(line, UNTIL) is None:
                same += file_of_first[line] == path
                later += file_of_first[line] != path
            file_of_first.setdefault(line, path)
    assert same > 0
    assert later > 0
    assert same + later == 2_000


def test_late_events_arrive_hours_after_their_neighbours(events: list[dict]) -> None:
    newest = _moment(events[0])
    late = 0
    for event in events:
        newest = max(newest, _moment(event))
        late += newest - _moment(event) > timedelta(minutes=30)
    assert late == pytest.approx(1_200, rel=0.05)


@given(
    portions=st.lists(st.integers(1, 50), min_size=1, max_size=50),
    duplicates=st.floats(0, 0.4),
    malformed=st.floats(0, 0.4),
)
def test_shares_add_up_however_few_lines_there_are_at_a_time(
    portions: list[int], duplicates: float, malformed: float
) -> None:
    faults = _Faults(1, duplicates, malformed, 0.1)
    splits = [faults.split(lines) for lines in portions]
    assert splits[0][0] > 0, "there is something to repeat"
    assert all(min(split) >= 0 and late <= valid for split in splits for valid, late, *_ in [split])
    assert [valid + repeated + broken for valid, _, repeated, broken in splits] == portions
    total = sum(portions)
    assert sum(split[2] for split in splits) == pytest.approx(total * duplicates, abs=2)
    assert sum(split[3] for split in splits) == pytest.approx(total * malformed, abs=2)


def test_long_histories_are_made_slice_by_slice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kurashiru_pipeline.local.simulate._SLICE_EVENTS", 700)
    simulate(tmp_path, events=5_000, users=100, recipes=100, until=UNTIL, file_lines=300, **FAULTS)
    truth = assert_manifest_is_true(tmp_path, UNTIL)
    assert (truth.lines, truth.duplicates, truth.rejected.total()) == (5_000, 250, 200)
    assert len(event_files(tmp_path)) == 17
    newest = _moment(truth.events[0])
    early = 0
    for event in truth.events:
        newest = max(newest, _moment(event))
        early += newest - _moment(event) > timedelta(minutes=30)
    assert early <= 0.04 * len(truth.events), "only late events are out of order, also where slices meet"


def test_without_faults_there_are_none(tmp_path: Path) -> None:
    manifest = simulate(tmp_path, events=500, until=UNTIL)
    assert (manifest["lines"], manifest["valid_events"]) == (500, 500)
    assert (manifest["duplicates"], manifest["rejected_total"], manifest["late"]) == (0, 0, 0)
    assert_manifest_is_true(tmp_path, UNTIL)


GOOD_LINE = (
    b'{"event_id":"3bea698d-563c-83e6-8df0-ed4d11699102","event_name":"recipe_view","user_id":"u70f711bf77ed",'
    b'"session_id":"s5f7dcc10a805ce57","recipe_id":"r0000017","occurred_at":"2024-02-29T02:07:39.805Z",'
    b'"platform":"ios","app_version":"12.4.0","properties":null}'
)


@pytest.mark.parametrize("reason", REJECT_REASONS)
@given(variant=st.integers(0, 10**6))
def test_a_line_is_broken_for_exactly_the_reason_asked_for(reason: str, variant: int) -> None:
    loaded_at = datetime(2024, 3, 1, tzinfo=UTC)
    assert judge(GOOD_LINE, loaded_at) is None
    broken = break_line(GOOD_LINE, reason, variant)
    assert judge(broken, loaded_at) == reason
    assert b"\n" not in broken
    assert broken


# --- several runs in one folder


def test_runs_in_one_folder_add_up_and_share_recipes_and_users(tmp_path: Path) -> None:
    simulate(tmp_path, events=1_000, users=50, recipes=40, seed=1, until=UNTIL, **FAULTS)
    first = {row["recipe_id"]: row for row in _exported(tmp_path, "recipes")}
    manifest = simulate(tmp_path, events=1_000, users=60, recipes=45, seed=2, until=UNTIL, **FAULTS)
    assert_manifest_is_true(tmp_path, UNTIL)
    assert (manifest["lines"], manifest["users"], manifest["recipes"]) == (2_000, 60, 45)
    assert [run["recipes"] for run in manifest["runs"]] == [40, 5]
    rows = _exported(tmp_path, "recipes")
    assert len(rows) == len({row["recipe_id"] for row in rows}) == 45
    assert all(row == first[row["recipe_id"]] for row in rows if row["recipe_id"] in first)


def test_the_very_same_run_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    simulate(tmp_path, events=300, seed=1, until=UNTIL)
    before = _bytes(tmp_path), (tmp_path / "manifest.json").read_bytes()
    with pytest.raises(KurashiruError, match="choose another --seed"):
        simulate(tmp_path, events=300, seed=1, until=UNTIL)
    assert (_bytes(tmp_path), (tmp_path / "manifest.json").read_bytes()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either --events .* or --rate"),
        ({"events": 1, "rate": 1.0}, "either --events .* or --rate"),
        ({"events": 0}, "--events is 0"),
        ({"events": 1, "minutes": 1.0}, "--minutes goes with --rate"),
        ({"rate": 1.0, "minutes": 1.0, "until": UNTIL}, "--until goes with --events"),
        ({"events": 1, "duplicates": -0.1}, "--duplicates is -0.1"),
        ({"events": 1, "duplicates": float("nan")}, "--duplicates is nan"),
        ({"events": 1, "duplicates": 0.5, "malformed": 0.5}, "together"),
        ({"events": 1, "users": 0}, "--users is 0"),
        ({"events": 1, "recipes": 0}, "--recipes is 0"),
        ({"events": 1, "days": 31.0}, "--days is 31"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_written(
    tmp_path: Path, arguments: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        simulate(tmp_path / "landing", **arguments)
    assert not (tmp_path / "landing").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "landing").write_text("not a folder")
    with pytest.raises(ConfigurationError, match=r"cannot use the landing folder .*landing"):
        simulate(tmp_path / "landing", events=10, until=UNTIL)


def test_a_damaged_export_is_named(tmp_path: Path) -> None:
    simulate(tmp_path, events=10, until=UNTIL)
    next((tmp_path / "recipes").iterdir()).write_bytes(b"not parquet")
    with pytest.raises(KurashiruError, match=r"recipes-.*\.parquet cannot be read as an export"):
        simulate(tmp_path, events=10, seed=2, until=UNTIL)


# --- live


def test_live_traffic_is_stamped_with_the_clock_and_lands_in_time(tmp_path: Path) -> None:
    simulate(tmp_path, events=500, users=100, recipes=100)
    began = datetime.now(UTC)
    done: list[tuple[int, int | None]] = []
    manifest = simulate(
        tmp_path, rate=1_000, minutes=0.03, file_seconds=0.3, users=100, recipes=100, seed=3,
        on_progress=lambda *progress: done.append(progress), **FAULTS,
    )  # fmt: skip
    ended = datetime.now(UTC)
    truth = assert_manifest_is_true(tmp_path)
    run = manifest["runs"][-1]
    assert run["lines"] == 1_800
    assert run["files"] == 6
    assert (run["duplicates"], run["rejected_total"], run["late"]) == (90, 72, 54)
    assert done[-1] == (1_800, 1_800)
    live = [_moment(event) for event in truth.events[500:]]
    assert sum(moment < began - timedelta(seconds=1) for moment in live) == 54
    assert max(live) <= ended
    assert ended - began >= timedelta(seconds=1.8)


def test_live_runs_introduce_new_users_and_recipes_and_export_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kurashiru_pipeline.local.simulate._NEW_USER_SECONDS", 0.2)
    monkeypatch.setattr("kurashiru_pipeline.local.simulate._NEW_RECIPE_SECONDS", 0.2)
    simulate(tmp_path, rate=2_000, minutes=0.02, file_seconds=0.4, users=50, recipes=50)
    exported = _exported(tmp_path, "users")
    assert len(list((tmp_path / "users").iterdir())) > 1, "a full export and at least one of what is new"
    known = {row["user_id"] for row in exported}
    assert len(known) == len(exported) > 50
    assert {event["user_id"] for event in recount(tmp_path).events} <= known
    recipes = {row["recipe_id"] for row in _exported(tmp_path, "recipes")}
    assert len(recipes) > 50
    assert {event["recipe_id"] for event in recount(tmp_path).events} - {None} <= recipes


def test_an_interrupt_leaves_whole_files_and_a_true_manifest(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from kurashiru_pipeline.local.simulate import _Faults, simulate\n"
        "simulate(Path(sys.argv[1]), rate=500, minutes=None, file_seconds=0.1, duplicates=0.1, malformed=0.1,\n"
        "         on_progress=lambda *progress: print(*progress, flush=True))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(3):
            assert process.stdout.readline().split()[1] == "None", "no end is in sight"
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=30)[1]
    truth = assert_manifest_is_true(tmp_path)
    assert truth.lines >= 150
    assert [path.name for path in (tmp_path / ".incoming").iterdir()] == ["manifest.lock"]


# --- who and what there is


def test_the_catalogue_is_an_endless_sequence() -> None:
    few, many = make_recipes(30), make_recipes(500)
    assert many.titles[:30] == few.titles
    assert many.ingredients[:30] == few.ingredients
    assert (many.tags[:30] == few.tags).all()
    assert (many.popularity[:30] == few.popularity).all()
    assert len(set(many.titles)) == 500
    fewer, people = make_users(10), make_users(300)
    assert people.user_ids[:10] == fewer.user_ids
    assert (people.favourites[:10] == fewer.favourites).all()
    assert len(set(people.user_ids)) == 300


def test_exports_are_plausible(history: Path, recipes: dict[str, dict]) -> None:
    assert pq.read_schema(next((history / "recipes").iterdir())).equals(RECIPE_SCHEMA)
    assert pq.read_schema(next((history / "users").iterdir())).equals(USER_SCHEMA)
    names = {ingredient.name for ingredient in INGREDIENTS}
    for recipe in recipes.values():
        assert recipe["ingredients"][0] in names
        assert recipe["ingredients"][0] in recipe["title"]
        assert set(recipe["value_tags"]) <= set(VALUE_TAGS)
        assert recipe["author_type"] in {"kurashiru_chef", "cooking_expert", "general_user"}
        assert 1 <= recipe["cooking_minutes"] <= 120
        assert 10 <= recipe["cost_yen"] <= 1_000
        assert 10 <= recipe["calories_kcal"] <= 1_500
        assert recipe["published_at"] <= recipe["updated_at"] <= UNTIL
    begin = UNTIL - timedelta(days=3)
    assert 0 < sum(recipe["is_deleted"] for recipe in recipes.values()) < 20
    assert sum(recipe["published_at"] > begin for recipe in recipes.values()) == 16
    assert sum(user["registered_at"] > begin for user in _exported(history, "users")) == 30


def test_nobody_sees_a_recipe_before_it_is_published_or_after_it_is_deleted(
    events: list[dict], recipes: dict[str, dict]
) -> None:
    seen = Counter()
    for event in events:
        if event["event_name"] in {"recipe_impression", "recipe_view"}:
            recipe = recipes[event["recipe_id"]]
            assert _moment(event) > recipe["published_at"] - timedelta(milliseconds=1)
            assert not recipe["is_deleted"] or _moment(event) < recipe["updated_at"]
            seen[event["recipe_id"]] += 1
    begin = UNTIL - timedelta(days=3)
    new = [recipe_id for recipe_id, recipe in recipes.items() if recipe["published_at"] > begin]
    assert all(seen[recipe_id] for recipe_id in new), "new recipes are noticed"


def test_nobody_acts_before_registering(history: Path, events: list[dict]) -> None:
    registered = {row["user_id"]: row["registered_at"] for row in _exported(history, "users")}
    assert all(_moment(event) > registered[event["user_id"]] - timedelta(milliseconds=1) for event in events)


# --- what there is to learn


@pytest.fixture(scope="module")
def sessions(events: list[dict]) -> dict[str, list[dict]]:
    """Events of each session by time; sessions by time."""
    found = defaultdict(list)
    for event in sorted(events, key=lambda event: event["occurred_at"]):
        found[event["session_id"]].append(event)
    return found


def test_a_session_belongs_to_one_user_and_begins_with_search_or_a_list(sessions: dict[str, list[dict]]) -> None:
    begins = Counter()
    for events in sessions.values():
        assert len({event["user_id"] for event in events}) == 1
        begins[events[0]["event_name"]] += 1
    named = begins["search"] + begins["recipe_impression"] + begins["recommendation_impression"]
    assert named / len(sessions) > 0.9
    assert min(begins["search"], begins["recipe_impression"], begins["recommendation_impression"]) > 300


def test_properties_are_those_of_the_contract(events: list[dict]) -> None:
    for event in events:
        properties = event["properties"] or {}
        if event["event_name"] == "search":
            assert set(properties) == {"query"}
            assert event["recipe_id"] is None
        elif event["event_name"] == "shopping_list_add":
            assert set(properties) == {"ingredient"}
        elif event["event_name"].startswith("recommendation_"):
            assert set(properties) == {"surface", "position", "recommendation_id"}
            assert properties["recommendation_id"].isdigit()
        elif event["event_name"] == "recipe_impression":
            assert set(properties) == {"surface", "position"}
        else:
            assert properties == {}


def test_clicks_are_on_what_was_shown(sessions: dict[str, list[dict]]) -> None:
    clicks = shown = 0
    for events in sessions.values():
        offered = {
            (event["recipe_id"], event["properties"]["position"], event["properties"]["recommendation_id"])
            for event in events
            if event["event_name"] == "recommendation_impression"
        }
        for event in events:
            if event["event_name"] == "recommendation_click":
                properties = event["properties"]
                clicks += 1
                shown += (event["recipe_id"], properties["position"], properties["recommendation_id"]) in offered
    assert clicks > 300
    assert shown >= clicks - 1, "the last session of the run may be cut"


def test_the_next_view_is_near_the_last_one(sessions: dict[str, list[dict]], recipes: dict[str, dict]) -> None:
    pairs = [
        (recipes[one["recipe_id"]]["ingredients"][0], recipes[other["recipe_id"]]["ingredients"][0])
        for events in sessions.values()
        for views in [[event for event in events if event["event_name"] == "recipe_view"]]
        for one, other in pairwise(views)
    ]
    same = np.mean([one == other for one, other in pairs])
    shuffled = np.random.default_rng(0).permutation([other for _, other in pairs])
    by_chance = np.mean([one == other for (one, _), other in zip(pairs, shuffled, strict=True)])
    assert len(pairs) > 3_000
    assert same > 0.6
    assert by_chance < 0.1


def test_who_bought_comes_back_to_the_ingredient_and_who_cooked_leaves_the_recipe(
    sessions: dict[str, list[dict]], recipes: dict[str, dict]
) -> None:
    last_of_user: dict[str, list[dict]] = {}
    returns: dict[bool, list[bool]] = {True: [], False: []}
    repeats = 0
    for events in sessions.values():
        before = last_of_user.get(events[0]["user_id"])
        last_of_user[events[0]["user_id"]] = events
        views = [event["recipe_id"] for event in events if event["event_name"] == "recipe_view"]
        earlier = [event["recipe_id"] for event in before or [] if event["event_name"] == "recipe_view"]
        if not views or not earlier:
            continue
        names = {event["event_name"] for event in before}
        main, earlier_main = (recipes[recipe]["ingredients"][0] for recipe in (views[0], earlier[0]))
        returns["shopping_list_add" in names].append(main == earlier_main)
        cooked = {event["recipe_id"] for event in before if event["event_name"] == "recipe_cooked"}
        repeats += bool(cooked & set(views))
    assert np.mean(returns[True]) > 2 * np.mean(returns[False])
    assert np.mean(returns[True]) > 0.5
    assert repeats <= 10, "sessions that overlap may look back"


def test_dinner_is_the_busy_time_and_breakfast_is_another_meal(events: list[dict], recipes: dict[str, dict]) -> None:
    hours: Counter = Counter()
    eggs: dict[str, list[bool]] = defaultdict(list)
    morning = {"egg", "bread", "yogurt", "banana", "pancake mix"}
    for event in events:
        if event["event_name"] == "recipe_view":
            hour = (_moment(event) + timedelta(hours=9)).hour
            hours[hour] += 1
            meal = "breakfast" if 6 <= hour <= 8 else "dinner" if 16 <= hour <= 19 else "other"
            eggs[meal].append(recipes[event["recipe_id"]]["ingredients"][0] in morning)
    assert {hour for hour, _ in hours.most_common(3)} == {16, 17, 18}
    assert hours[17] > 10 * hours[3]
    assert np.mean(eggs["breakfast"]) > 1.5 * np.mean(eggs["dinner"])


def test_few_recipes_and_users_make_most_of_the_traffic(events: list[dict]) -> None:
    for field, count in (("recipe_id", 800), ("user_id", 1_500)):
        views = Counter(event[field] for event in events if event["event_name"] == "recipe_view")
        top = sum(number for _, number in views.most_common(count // 10))
        assert top / views.total() > 0.25, field


def test_people_like_what_they_say_they_like(history: Path, events: list[dict], recipes: dict[str, dict]) -> None:
    stated = {row["user_id"]: set(row["preferred_tags"]) for row in _exported(history, "users")}
    fits: dict[str, list[bool]] = defaultdict(list)
    for event in events:
        if stated[event["user_id"]] and event["event_name"] in {"recipe_view", "recipe_favorite"}:
            tags = recipes[event["recipe_id"]]["value_tags"]
            fits[event["event_name"]].append(bool(stated[event["user_id"]] & set(tags)))
    assert np.mean(fits["recipe_favorite"]) > 1.2 * np.mean(fits["recipe_view"])


def test_lists_do_not_repeat_themselves(sessions: dict[str, list[dict]]) -> None:
    repeated = total = 0
    for events in sessions.values():
        shown = [e["recipe_id"] for e in events if e["event_name"].endswith("_impression")]
        total += len(shown)
        repeated += len(shown) - len(set(shown))
    assert repeated / total < 0.05
