"""What goes to DynamoDB, against a plain Python reference: only what it does not hold yet, tombstones only once."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.catalog import Stage
from tests.warehouse.small_lake import NOW, Tables

REFRESH_BEFORE = NOW - timedelta(days=15)
BATCH = 7
LISTS = pa.schema(
    [
        ("user_id", pa.string()),
        ("recipe_ids", pa.list_(pa.string())),
        ("scores", pa.list_(pa.float64())),
        ("reasons", pa.list_(pa.string())),
        ("algorithm", pa.string()),
        ("content_hash", pa.string()),
    ]
)


def recommend(tables: Tables, lists: Sequence[tuple[str, str]], *, batch_id: int = BATCH) -> None:
    """Lists of (user, content hash) made by a micro-batch; an empty hash is an empty list."""
    rows = [
        {
            "user_id": user,
            "recipe_ids": ["r1"] if content else [],
            "scores": [0.5] if content else [],
            "reasons": ["popular"] if content else [],
            "algorithm": "popular",
            "content_hash": content,
        }
        for user, content in lists
    ]
    tables.warehouse.transact(
        lambda transaction: transaction.run("replace_recommendations", batch_id=batch_id, generated_at=NOW, canary=""),
        inputs={"incoming_recommendations": pa.Table.from_pylist(rows, schema=LISTS)},
    )


def deliver(
    tables: Tables, items: Sequence[tuple[str, str, bool]], *, version: int = 1, delivered_at: datetime = NOW
) -> None:
    """Record deliveries of (user, content hash, is a tombstone)."""
    table = pa.table(
        {
            "user_id": pa.array([user for user, _, _ in items], pa.string()),
            "version": pa.array([version] * len(items), pa.int64()),
            "content_hash": pa.array([content for _, content, _ in items], pa.string()),
            "is_tombstone": pa.array([is_tombstone for _, _, is_tombstone in items], pa.bool_()),
        }
    )
    tables.warehouse.transact(
        lambda transaction: transaction.run("record_deliveries", delivered_at=delivered_at),
        inputs={"incoming_deliveries": table},
    )


def erase(tables: Tables, *users: str, batch_id: int = BATCH) -> None:
    tables.insert("ops.batch_erasures", [{"batch_id": batch_id, "user_id": user} for user in users])


def changed(tables: Tables, *, batch_id: int = BATCH, is_resend: bool = False) -> dict[str, dict[str, Any]]:
    rows = tables.warehouse.fetch(
        "changed_items", batch_id=batch_id, is_resend=is_resend, refresh_before=REFRESH_BEFORE, part=0, parts=1
    ).to_pylist()
    assert [row["user_id"] for row in rows] == sorted({row["user_id"] for row in rows})
    return {row["user_id"]: row for row in rows}


def erased(tables: Tables, *, batch_id: int = BATCH) -> list[str]:
    return [row["user_id"] for row in tables.warehouse.fetch("erased_items", batch_id=batch_id).to_pylist()]


def clear(tables: Tables) -> None:
    for table in ("recommendation.recommendations", "serving.delivered_items", "ops.batch_erasures"):
        tables.rows(f"delete from {table}")


users = st.sampled_from([f"u{number}" for number in range(8)] + ["#default"])
hashes = st.sampled_from(["", "a", "b"])
deliveries = st.dictionaries(
    users,
    st.tuples(hashes, st.booleans(), st.sampled_from([0, 1]), st.booleans()),
)


def test_what_is_sent_is_what_dynamodb_does_not_hold(tables: Tables) -> None:
    """`lists`: hash, and whether this batch made it; `delivered`: hash, tombstone, microseconds, long ago."""

    @given(st.dictionaries(users, st.tuples(hashes, st.booleans())), deliveries, st.sets(users), st.booleans())
    @tables.profile(60)
    def check(
        lists: dict[str, tuple[str, bool]],
        delivered: dict[str, tuple[str, bool, int, bool]],
        leavers: set[str],
        is_resend: bool,
    ) -> None:
        clear(tables)
        for is_of_batch in (False, True):
            made = [(user, content) for user, (content, of_batch) in lists.items() if of_batch == is_of_batch]
            recommend(tables, made, batch_id=BATCH if is_of_batch else BATCH - 1)
        for user, (content, is_tombstone, micros, is_old) in delivered.items():
            moment = REFRESH_BEFORE + timedelta(microseconds=-micros if is_old else micros)
            deliver(tables, [(user, content, is_tombstone)], delivered_at=moment)
        erase(tables, *leavers)

        expected = {}
        for user, (content, of_batch) in lists.items():
            held, is_tombstone, micros, is_old = delivered.get(user, (None, False, 0, False))
            if (of_batch or is_resend) and (held is None or held != content or (is_old and micros > 0)):
                expected[user] = (content, BATCH if of_batch else BATCH - 1, held is not None and not is_tombstone)
        found = {
            user: (row["content_hash"], row["version"], row["is_delivered"])
            for user, row in changed(tables, is_resend=is_resend).items()
        }
        assert found == expected
        assert erased(tables) == sorted(
            user for user in leavers if user in delivered and not delivered[user][1] and user not in lists
        )

    check()


def test_an_unchanged_list_is_not_sent_again(fresh_tables: Tables) -> None:
    recommend(fresh_tables, [("u1", "a"), ("u2", "b")])
    assert changed(fresh_tables).keys() == {"u1", "u2"}
    deliver(fresh_tables, [("u1", "a", False)])
    assert changed(fresh_tables).keys() == {"u2"}
    deliver(fresh_tables, [("u2", "b", False)])
    assert changed(fresh_tables) == {}
    recommend(fresh_tables, [("u1", "a"), ("u2", "c")], batch_id=BATCH + 1)
    assert changed(fresh_tables, batch_id=BATCH + 1).keys() == {"u2"}
    assert changed(fresh_tables, batch_id=BATCH) == {}


def test_an_item_about_to_expire_is_refreshed(fresh_tables: Tables) -> None:
    recommend(fresh_tables, [("u1", "a"), ("u2", "a")])
    deliver(fresh_tables, [("u1", "a", False)], delivered_at=REFRESH_BEFORE - timedelta(microseconds=1))
    deliver(fresh_tables, [("u2", "a", False)], delivered_at=REFRESH_BEFORE)
    assert changed(fresh_tables).keys() == {"u1"}


def test_a_delivery_replaces_the_one_before(fresh_tables: Tables) -> None:
    deliver(fresh_tables, [("u1", "a", False), ("u2", "a", False)])
    deliver(fresh_tables, [("u1", "b", True)], version=2)
    rows = fresh_tables.rows(
        "select user_id, version, content_hash, is_tombstone from serving.delivered_items order by user_id"
    )
    assert rows == [("u1", 2, "b", True), ("u2", 1, "a", False)]


def test_an_erased_user_loses_list_and_profile_and_gets_one_tombstone(fresh_tables: Tables) -> None:
    fresh_tables.insert("recommendation.user_profiles", [{"user_id": user, "batch_id": 1} for user in ("u1", "u2")])
    recommend(fresh_tables, [("u1", "a"), ("u2", "b")], batch_id=1)
    deliver(fresh_tables, [("u1", "a", False), ("u2", "b", False)])
    erase(fresh_tables, "u1", "never seen")
    recommend(fresh_tables, [("u3", "c")])
    replace_profiles(fresh_tables, "u3")
    assert [user for (user,) in fresh_tables.rows("select user_id from recommendation.recommendations order by 1")] == [
        "u2",
        "u3",
    ]
    assert [user for (user,) in fresh_tables.rows("select user_id from recommendation.user_profiles order by 1")] == [
        "u2",
        "u3",
    ]
    assert erased(fresh_tables) == ["u1"]
    assert erased(fresh_tables, batch_id=BATCH + 1) == []
    deliver(fresh_tables, [("u1", "", True)])
    assert erased(fresh_tables) == []


def test_an_erased_user_with_a_new_list_gets_that_and_no_tombstone(fresh_tables: Tables) -> None:
    """Two items for one key in one delivery would leave it to chance which of them stays."""
    recommend(fresh_tables, [("u1", "a")], batch_id=1)
    deliver(fresh_tables, [("u1", "a", False)])
    erase(fresh_tables, "u1")
    recommend(fresh_tables, [("u1", "b")])
    assert changed(fresh_tables).keys() == {"u1"}
    assert erased(fresh_tables) == []


def replace_profiles(tables: Tables, *user_ids: str) -> None:
    row: dict[str, Any] = {name: [] for name in ("recipe_ids", "recipe_actions", "ingredients", "tastes")}
    numbers = ("recipe_weights", "cooldowns", "recipe_ages", "recipe_counts", "recipe_daytimes")
    row |= {name: [] for name in (*numbers, "ingredient_weights", "taste_weights")}
    tables.warehouse.transact(
        lambda transaction: transaction.run("replace_profiles", batch_id=BATCH),
        inputs={
            "incoming_profiles": pa.Table.from_pylist([{"user_id": user, "as_of": NOW, **row} for user in user_ids])
        },
    )


def test_a_resend_forgets_and_sends_everything_once(fresh_tables: Tables) -> None:
    recommend(fresh_tables, [("u1", "a")], batch_id=1)
    recommend(fresh_tables, [("u2", "b")], batch_id=2)
    deliver(fresh_tables, [("u1", "a", False), ("u2", "b", False)])
    target = {"table_name": "recommendations"}
    assert fresh_tables.warehouse.fetch("delivery_target", **target).num_rows == 0
    fresh_tables.run("begin_resend", delivery_id="other", table_name="another")
    for delivery_id in ("first", "second"):
        fresh_tables.run("begin_resend", delivery_id=delivery_id, **target)
        assert fresh_tables.warehouse.fetch("delivery_target", **target).to_pylist() == [
            {"delivery_id": delivery_id, "is_resend_pending": True}
        ]
    assert changed(fresh_tables, batch_id=2).keys() == {"u2"}
    sent = changed(fresh_tables, batch_id=2, is_resend=True)
    assert {user: row["version"] for user, row in sent.items()} == {"u1": 1, "u2": 2}
    deliver(fresh_tables, [("u1", "a", False)])
    assert changed(fresh_tables, batch_id=2, is_resend=True).keys() == {"u2"}, "a resend cut short goes on"
    fresh_tables.run("finish_resend", **target)
    assert fresh_tables.warehouse.fetch("delivery_target", **target).to_pylist() == [
        {"delivery_id": "second", "is_resend_pending": False}
    ]
    assert fresh_tables.rows("select delivery_id, is_resend_pending from ops.delivery_targets order by 1") == [
        ("other", True),
        ("second", False),
    ]


def test_delivered_items_are_those_of_a_batch_or_all_with_what_still_lives(fresh_tables: Tables) -> None:
    def has_delivered() -> bool:
        [row] = fresh_tables.warehouse.fetch("has_delivered").to_pylist()
        return bool(row["has_delivered"])

    assert not has_delivered()
    deliver(fresh_tables, [("u1", "a", False), ("u2", "", True), ("#default", "b", False)], version=1)
    deliver(fresh_tables, [("u3", "a", False)], version=2, delivered_at=NOW - timedelta(days=1))
    erase(fresh_tables, "u2", batch_id=1)
    events = [{"user_id": user, "event_name": "search"} for user in ("u1", "u3")]
    fresh_tables.stage_events(1, events[:1])
    fresh_tables.stage_events(2, events)

    def sample(batch_id: int, at_most: int = 10) -> list[str]:
        rows = fresh_tables.warehouse.fetch("delivered_items", batch_id=batch_id, at_most=at_most).to_pylist()
        return [row["user_id"] for row in rows]

    assert sample(1) == ["#default", "u1", "u2"]
    assert sample(2) == ["u3"]
    assert sample(1, at_most=1) == ["#default"]
    rows = fresh_tables.warehouse.fetch("delivered_part", delivered_since=NOW, part=0, parts=1).to_pylist()
    assert sorted(rows, key=lambda row: str(row["user_id"])) == [
        {"user_id": "#default", "version": 1, "is_tombstone": False, "is_recent": True},
        {"user_id": "u1", "version": 1, "is_tombstone": False, "is_recent": True},
        {"user_id": "u2", "version": 1, "is_tombstone": True, "is_recent": True},
        {"user_id": "u3", "version": 2, "is_tombstone": False, "is_recent": False},
    ]
    assert has_delivered()


def test_batches_are_unfinished_until_they_are_delivered(fresh_tables: Tables) -> None:
    def unfinished() -> dict[int, int]:
        rows = fresh_tables.warehouse.fetch("unfinished_batches", last_stage=Stage.REFLECT).to_pylist()
        return {row["batch_id"]: row["finished_stages"] for row in rows}

    assert unfinished() == {}
    for batch_id in (1, 2):
        fresh_tables.insert("ops.batches", [{"batch_id": batch_id, "staged_at": NOW, "watermark_at": NOW}])
        assert unfinished() == {batch_id: 0}
        for finished, stage in enumerate(Stage, start=1):
            parameters = {"batch_id": batch_id, "finished_at": NOW, "seconds": 0.1, "row_count": 1}
            fresh_tables.run("finish_stage", stage=stage, **parameters)
            assert unfinished() == ({} if stage is Stage.REFLECT else {batch_id: finished})


def test_freshness_is_from_landing_to_the_end_of_a_stage(fresh_tables: Tables) -> None:
    fresh_tables.insert(
        "ops.batch_files",
        [
            {"batch_id": batch_id, "file_name": f"f{batch_id}", "landed_at": NOW, "line_count": 10 * batch_id}
            for batch_id in (1, 2, 3)
        ],
    )
    for batch_id in (1, 2):
        for stage in (Stage.STAGE, Stage.REFLECT):
            finished_at = NOW + timedelta(seconds=batch_id, milliseconds=250 if stage is Stage.STAGE else 500)
            parameters = {"batch_id": batch_id, "seconds": 0.1, "row_count": 1}
            fresh_tables.run("finish_stage", stage=stage, finished_at=finished_at, **parameters)
    fresh = fresh_tables.warehouse.fetch("batch_freshness", stage=Stage.REFLECT, from_batch_id=1).to_pylist()
    assert sorted(fresh, key=lambda row: int(row["line_count"])) == [
        {"line_count": 10, "seconds": 1.5},
        {"line_count": 20, "seconds": 2.5},
    ]
    assert fresh_tables.warehouse.fetch("batch_freshness", stage=Stage.STAGE, from_batch_id=2).to_pylist() == [
        {"line_count": 20, "seconds": 2.25}
    ]
