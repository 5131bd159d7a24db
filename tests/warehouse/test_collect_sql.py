"""Recent behaviours against a plain Python reference: the last N of every user, however the events arrived."""

import json
from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.events import MEANINGFUL_EVENT_NAMES
from tests.warehouse.small_lake import NOW, Tables, event_id

COLUMNS = ("user_id", "event_id", "event_name", "recipe_id", "detail", "occurred_at")
Behavior = dict[str, Any]
batch_ids = count(1)


def event(number: int, user: str = "u1", *, name: str = "recipe_view", minutes: int = 0, **changes: Any) -> Behavior:
    made = {
        "event_id": event_id(number),
        "event_name": name,
        "user_id": user,
        "recipe_id": f"r{number}",
        "occurred_at": NOW + timedelta(minutes=minutes),
        "properties": None,
    }
    return {**made, **changes}


def collect(tables: Tables, events: Sequence[Behavior], *, keep: int = 50, erased: Sequence[str] = ()) -> int:
    """One micro-batch of events through collect.sql; its id."""
    batch_id = next(batch_ids)
    tables.stage_events(
        batch_id,
        [{**one, "properties": None if one["properties"] is None else json.dumps(one["properties"])} for one in events],
    )
    tables.insert("ops.batch_erasures", [{"batch_id": batch_id, "user_id": user} for user in erased])
    tables.run(
        "collect",
        work_tables="collect_work_tables",
        batch_id=batch_id,
        keep=keep,
        meaningful_event_names=MEANINGFUL_EVENT_NAMES,
    )
    return batch_id


def kept(tables: Tables, user: str | None = None) -> list[Behavior]:
    rows = tables.dicts("select * from recommendation.recent_behaviors order by user_id, occurred_at desc, event_id")
    return [row for row in rows if user in (None, row["user_id"])]


def ids(behaviors: Sequence[Behavior]) -> list[int]:
    return [int(row["event_id"].replace("-", ""), 16) for row in behaviors]


def expected(events: Sequence[Behavior], keep: int) -> list[Behavior]:
    """The last `keep` meaningful behaviours of every user, each event once."""
    histories: dict[str, dict[str, Behavior]] = {}
    for one in events:
        if one["event_name"] in MEANINGFUL_EVENT_NAMES:
            properties = one["properties"] or {}
            detail = properties.get("query", properties.get("ingredient"))
            histories.setdefault(one["user_id"], {})[one["event_id"]] = {
                name: detail if name == "detail" else one[name] for name in COLUMNS
            }
    return [
        row
        for user in sorted(histories)
        for row in sorted(histories[user].values(), key=lambda row: (NOW - row["occurred_at"], row["event_id"]))[:keep]
    ]


drawn_events = st.builds(
    event,
    st.integers(0, 10_000),
    st.sampled_from(["u1", "u2", "u3"]),
    name=st.sampled_from([*MEANINGFUL_EVENT_NAMES, "recipe_impression", "unknown"]),
    minutes=st.integers(0, 6),
    recipe_id=st.sampled_from(["r1", "r2", None]),
    properties=st.sampled_from([None, {}, {"query": "卵 \"'"}, {"ingredient": "egg"}, {"position": 3}]),
)
histories = st.lists(drawn_events, max_size=30, unique_by=lambda one: one["event_id"])


def test_the_last_behaviours_are_kept_however_the_events_arrived(tables: Tables) -> None:
    """In any order, cut into any batches, with events delivered again: the same histories."""

    @given(histories, st.integers(1, 6), st.data())
    @tables.profile(40)
    def check(events: list[Behavior], keep: int, data: st.DataObject) -> None:
        tables.rows("delete from recommendation.recent_behaviors")
        again = st.lists(st.sampled_from(events), max_size=4) if events else st.just([])
        arriving = data.draw(st.permutations(events + data.draw(again)))
        cut = data.draw(st.integers(0, len(arriving)))
        for batch in (arriving[:cut], arriving[cut:]):
            unique = list({one["event_id"]: one for one in batch}.values())  # staging lets an id through once a batch
            collect(tables, unique, keep=keep)
        assert kept(tables) == expected(events, keep)

    check()


def test_only_touched_users_change(fresh_tables: Tables) -> None:
    collect(fresh_tables, [event(1, "u1"), event(2, "u2")])
    before = kept(fresh_tables, "u1")
    collect(fresh_tables, [event(3, "u2", minutes=1), event(4, "u1", name="recipe_impression")])
    assert kept(fresh_tables, "u1") == before
    assert ids(kept(fresh_tables, "u2")) == [3, 2]


def test_a_late_event_takes_its_place_in_time(fresh_tables: Tables) -> None:
    collect(fresh_tables, [event(number, minutes=number) for number in range(1, 6)], keep=3)
    collect(fresh_tables, [event(7, minutes=-1)], keep=3)
    assert ids(kept(fresh_tables)) == [5, 4, 3]
    collect(fresh_tables, [event(8, minutes=4, event_id=event_id(44))], keep=3)
    assert ids(kept(fresh_tables)) == [5, 4, 44]


def test_a_smaller_limit_holds_from_the_next_batch_on(fresh_tables: Tables) -> None:
    collect(fresh_tables, [event(number, minutes=number) for number in range(6)])
    collect(fresh_tables, [event(9, minutes=9)], keep=2)
    assert ids(kept(fresh_tables)) == [9, 5]


def test_an_event_staged_again_with_another_time_takes_no_second_place(fresh_tables: Tables) -> None:
    """Beyond the window of de-duplication an id may be staged again, and a client may have changed its mind."""
    collect(fresh_tables, [event(number, minutes=number) for number in range(3)], keep=3)
    collect(fresh_tables, [event(2, minutes=8), event(1, minutes=9)], keep=3)
    assert ids(kept(fresh_tables)) == [2, 1, 0]
    assert [row["occurred_at"] for row in kept(fresh_tables)] == [
        NOW + timedelta(minutes=minutes) for minutes in (2, 1, 0)
    ]


def test_erased_users_are_forgotten_and_deleted_users_not_collected(fresh_tables: Tables) -> None:
    collect(fresh_tables, [event(1, "u1"), event(2, "u2"), event(3, "u3")])
    fresh_tables.insert("staging.users", [{"user_id": user, "is_deleted": user != "u3"} for user in ("u1", "u2", "u3")])
    collect(fresh_tables, [event(4, "u1", minutes=1), event(5, "u3", minutes=1)], erased=["u1"])
    assert {row["user_id"]: ids(kept(fresh_tables, row["user_id"])) for row in kept(fresh_tables)} == {
        "u2": [2],
        "u3": [5, 3],
    }
    collect(fresh_tables, [event(6, "u1", minutes=2)])
    assert kept(fresh_tables, "u1") == []


def test_a_user_who_came_back_after_erasure_starts_anew(fresh_tables: Tables) -> None:
    collect(fresh_tables, [event(1, "u1"), event(2, "u2")])
    fresh_tables.insert("staging.users", [{"user_id": "u1", "is_deleted": False}])
    collect(fresh_tables, [event(3, "u1", minutes=1), event(4, "u2", minutes=1)], erased=["u1"])
    assert ids(kept(fresh_tables, "u1")) == [3]
    assert ids(kept(fresh_tables, "u2")) == [4, 2]


def test_the_batch_s_histories_are_read_newest_first(fresh_tables: Tables) -> None:
    collect(fresh_tables, [event(1, "u1"), event(2, "u2")])
    batch_id = collect(
        fresh_tables, [event(3, "u2", minutes=2), event(4, "u2", minutes=1), event(5, "u3", name="recipe_impression")]
    )
    parameters = {"batch_id": batch_id, "meaningful_event_names": MEANINGFUL_EVENT_NAMES}
    found = fresh_tables.warehouse.fetch("batch_behaviors", **parameters).to_pylist()
    assert ids(found) == [3, 4, 2]
    assert found == kept(fresh_tables, "u2")
    [checks] = fresh_tables.warehouse.fetch("collect_checks", batch_id=batch_id).to_pylist()
    assert checks == {"longest_history": 3}


def test_details_are_the_words_of_a_search_or_an_ingredient(fresh_tables: Tables) -> None:
    details: list[tuple[dict[str, Any] | None, str | None]] = [
        ({"query": '鶏 "むね"'}, '鶏 "むね"'),
        ({"ingredient": "egg"}, "egg"),
        ({"query": None, "ingredient": "egg"}, "egg"),
        ({"query": ""}, ""),
        ({"query": 5}, "5"),
        ({"surface": "home"}, None),
        ({}, None),
        (None, None),
    ]
    collect(fresh_tables, [event(number, properties=properties) for number, (properties, _) in enumerate(details)])
    assert [row["detail"] for row in kept(fresh_tables)] == [detail for _, detail in details]


def test_nothing_in_nothing_out(fresh_tables: Tables) -> None:
    batch_id = collect(fresh_tables, [])
    assert kept(fresh_tables) == []
    [checks] = fresh_tables.warehouse.fetch("collect_checks", batch_id=batch_id).to_pylist()
    assert checks == {"longest_history": 0}
