"""Stated preferences: who is queued by an export, and how micro-batches take them up: a bounded number, each once."""

from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from tests.warehouse.small_lake import NOW, Tables

LATER = NOW + timedelta(hours=1)
SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("registered_at", pa.timestamp("us")),
        ("preferred_tags", pa.list_(pa.string())),
        ("updated_at", pa.timestamp("us")),
        ("is_deleted", pa.bool_()),
        ("export_row", pa.int64()),
    ]
)


def export(tables: Tables, *users: dict[str, Any], loaded_at: datetime = NOW) -> None:
    """Load users as an export of theirs would be."""
    plain = {"user_id": "u1", "registered_at": NOW, "preferred_tags": [], "updated_at": NOW, "is_deleted": False}
    rows = [{**plain, **user, "export_row": number} for number, user in enumerate(users)]
    tables.warehouse.transact(
        lambda transaction: transaction.run("load_users", loaded_at=loaded_at),
        inputs={"incoming_users": pa.Table.from_pylist(rows, schema=SCHEMA)},
    )


def queued(tables: Tables) -> list[str]:
    return [user for (user,) in tables.rows("select user_id from ops.pending_preferences order by requested_at, 1")]


def said(*tags: str, **changes: Any) -> dict[str, Any]:
    return {"preferred_tags": list(tags), **changes}


@pytest.mark.parametrize(
    ("before", "after", "is_queued"),
    [
        (None, said("savings"), True),
        (None, said(), False),
        (None, {"preferred_tags": None}, False),
        (None, said("savings", is_deleted=True), False),
        (said("savings"), said("savings", updated_at=LATER), False),
        (said("savings"), said("baby_food", updated_at=LATER), True),
        (said("savings"), said("baby_food"), False),
        (said("savings"), said("savings", "baby_food", updated_at=LATER), True),
        (said("savings"), said(updated_at=LATER), True),
        (said("savings"), {"preferred_tags": None, "updated_at": LATER}, True),
        (said(), said("savings", updated_at=LATER), True),
        (said("savings", is_deleted=True), said("savings", updated_at=LATER), True),
        (said("savings"), said("baby_food", updated_at=LATER, is_deleted=True), False),
    ],
    ids=str,
)
def test_who_says_something_new_waits_for_a_list(
    tables: Tables, before: dict[str, Any] | None, after: dict[str, Any], is_queued: bool
) -> None:
    for table in ("staging.users", "ops.pending_preferences", "ops.pending_erasures"):
        tables.rows(f"delete from {table}")
    if before is not None:
        export(tables, before)
        tables.rows("delete from ops.pending_preferences")
    export(tables, after)
    assert queued(tables) == (["u1"] if is_queued else [])


def test_a_micro_batch_takes_up_so_many_and_the_longest_waiting_first(fresh_tables: Tables) -> None:
    limit = {"KURASHIRU_MAX_BATCH_USERS": "2"}
    export(fresh_tables, *(said("savings", user_id=f"u{number}") for number in (3, 4)))
    export(
        fresh_tables,
        *(said("savings", user_id=f"u{number}") for number in (1, 2, 5)),
        said("microwave", user_id="u4", updated_at=LATER),
        loaded_at=LATER,
    )
    taken = []
    for number in range(1, 4):
        accounting = fresh_tables.stage(**limit)
        assert accounting is not None
        assert (accounting.read_count, accounting.is_balanced) == (0, True)
        users = fresh_tables.rows(f"select user_id from ops.batch_preferences where batch_id = {number} order by 1")
        assert accounting.preference_user_count == len(users)
        taken.append([user for (user,) in users])
    assert taken == [["u3", "u4"], ["u1", "u2"], ["u5"]]
    assert queued(fresh_tables) == []
    assert fresh_tables.stage(**limit) is None


def test_a_micro_batch_is_for_those_who_did_or_said_something_and_are_still_there(fresh_tables: Tables) -> None:
    export(fresh_tables, said("savings"), said("microwave", user_id="u2"), said(user_id="u3"))
    fresh_tables.stage()
    fresh_tables.stage_events(1, [{"user_id": "u3", "event_name": "search"}, {"user_id": "u4", "event_name": "search"}])
    names = {"batch_id": 1, "meaningful_event_names": ["search"]}

    def preferences() -> list[tuple[str, list[str]]]:
        rows = fresh_tables.warehouse.fetch("batch_preferences", **names).to_pylist()
        return [(row["user_id"], row["preferred_tags"]) for row in rows]

    assert preferences() == [("u1", ["savings"]), ("u2", ["microwave"]), ("u3", [])]
    export(fresh_tables, said("microwave", user_id="u2", updated_at=LATER, is_deleted=True))
    assert preferences() == [("u1", ["savings"]), ("u3", [])]
    behaviors = [{"user_id": user, "event_id": user, "occurred_at": NOW} for user in ("u1", "u2", "u3", "u9")]
    fresh_tables.insert("recommendation.recent_behaviors", behaviors)
    found = fresh_tables.warehouse.fetch("batch_behaviors", **names)["user_id"].to_pylist()
    assert found == ["u1", "u2", "u3"]
