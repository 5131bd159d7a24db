"""The state kept by user, against a dictionary: whatever is committed, merged, reopened or cut short."""

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest

from kurashiru_pipeline.warehouse import keyed_segment, keyed_state
from kurashiru_pipeline.warehouse.ducklake import DuckLakeWarehouse
from kurashiru_pipeline.warehouse.keyed_rows import pack, unpack
from kurashiru_pipeline.warehouse.keyed_segment import hash_texts
from kurashiru_pipeline.warehouse.keyed_state import Change, KeyedState
from kurashiru_pipeline.warehouse.keyed_tables import KEY, KEYED_TABLES
from kurashiru_pipeline.warehouse.statements import render
from tests.warehouse.small_lake import Lake, PlainTables

BEHAVIORS = KEYED_TABLES["recommendation.recent_behaviors"]
LISTS = KEYED_TABLES["recommendation.recommendations"]
DELIVERED = KEYED_TABLES["serving.delivered_items"]
MOMENT = datetime(2026, 11, 23, 9, 30)
Rows = dict[str, list[dict[str, Any]]]


def row(draw: random.Random) -> dict[str, Any]:
    def maybe(value: Any) -> Any:
        return None if draw.random() < 0.2 else value

    return {
        "event_id": f"e{draw.randrange(10**6)}",
        "event_name": "search",
        "recipe_id": maybe(f"r{draw.randrange(100)}"),
        "detail": maybe(draw.choice(["", '鶏 "むね"', "x" * draw.choice([1, 70_000 if draw.random() < 0.02 else 7])])),
        "occurred_at": maybe(MOMENT + timedelta(microseconds=draw.randrange(10**9))),
    }


def table_of(rows: Rows, schema: pa.Schema = BEHAVIORS.schema) -> pa.Table:
    return pa.Table.from_pylist([{KEY: user, **one} for user, kept in rows.items() for one in kept], schema=schema)


def users(*ids: str) -> Any:
    return pa.array(ids, pa.string())


def read(state: KeyedState, ids: Any, table: Any = BEHAVIORS) -> Rows:
    found: Rows = {}
    for one in state.read(table, ids).to_pylist():
        found.setdefault(one.pop(KEY), []).append(one)
    return found


def everything(state: KeyedState, parts: int, table: Any = BEHAVIORS) -> Rows:
    found: Rows = {}
    for part in range(parts):
        for one in state.read_part(table, part, parts).to_pylist():
            found.setdefault(one.pop(KEY), []).append(one)
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("hash_bits", [64, 3])
def test_state_is_what_a_dictionary_would_be(tmp_path: Path, seed: int, hash_bits: int) -> None:
    """With hashes of three bits most users share theirs with others."""
    draw = random.Random(seed)
    expected: Rows = {}
    population = [f"u{number}" for number in range(40)] + ["#default"]
    with patch.object(keyed_segment, "_HASH_MASK", np.uint64(2**hash_bits - 1)):
        state = writer = KeyedState(tmp_path)
        for step in range(30):
            touched = draw.sample(population, draw.randint(0, 12))
            come: Rows = {user: [row(draw) for _ in range(draw.randint(1, 4))] for user in touched[::2]}
            writer.commit([Change(BEHAVIORS, users(*touched, "never seen"), table_of(come))])
            for user in touched:
                expected.pop(user, None)
            expected |= come
            if step % 7 == 3:
                list(writer.upkeep())
            if step % 5 == 2:
                writer = KeyedState(tmp_path)
            ids = draw.sample(population, 10)
            assert read(state, users(*ids, "never seen")) == {user: expected[user] for user in ids if user in expected}
            counts = state.row_counts(BEHAVIORS, users(*ids)).to_pylist()
            assert {one[KEY]: one["row_count"] for one in counts} == {
                user: len(expected[user]) for user in ids if user in expected
            }
            assert state.counted(BEHAVIORS) == len(expected.keys() - {"#default"})
        assert everything(state, 1) == everything(state, 3) == expected
        assert state.storage()[0] < 10, "merged as it goes"


def test_rows_of_a_user_may_come_apart(tmp_path: Path) -> None:
    state = KeyedState(tmp_path)
    draw = random.Random(1)
    rows = [{KEY: user, **row(draw)} for user in ("b", "a", "b", "a")]
    state.commit([Change(BEHAVIORS, users(), pa.Table.from_pylist(rows, schema=BEHAVIORS.schema))])
    for user in ("a", "b"):
        wanted = [{name: value for name, value in one.items() if name != KEY} for one in rows if one[KEY] == user]
        assert read(state, users(user)) == {user: wanted}


def test_hashes_are_those_of_the_published_function() -> None:
    texts = pa.array(["", "a", "foobar", "鶏"], pa.string())
    assert hash_texts(texts).tolist()[:3] == [0xCBF29CE484222325, 0xAF63DC4C8601EC8C, 0x85944171F73967E8]
    assert hash_texts(texts.slice(1)).tolist() == hash_texts(texts).tolist()[1:]


def test_values_of_every_type_come_back(tmp_path: Path) -> None:
    columns: list[Any] = [
        ("number", pa.int64()),
        ("double", pa.float64()),
        ("flag", pa.bool_()),
        ("moment", pa.timestamp("us")),
        ("text", pa.string()),
        ("texts", pa.list_(pa.string())),
        ("doubles", pa.list_(pa.float64())),
    ]
    schema = pa.schema(columns)
    full = {
        "number": -(2**60),
        "double": 0.1 + 0.2,
        "flag": True,
        "moment": MOMENT,
        "text": "鶏",
        "texts": ["a", None, ""],
        "doubles": [1e-300, None],
    }
    rows = [full, dict.fromkeys(full), {**full, "flag": False, "texts": [], "doubles": None}, full]
    given = pa.Table.from_pylist(rows, schema=schema)
    layout, values = pack(given, np.array([1, 0, 3]))
    assert unpack(layout, np.array([1, 0, 3]), values).to_pylist() == rows
    assert unpack(layout, np.array([3, 1]), values.take(pa.array([2, 0]))).to_pylist() == [*rows[1:], rows[0]]
    # Users of one commit without a null beside users of another with some.
    plain, plain_values = pack(given.take([0, 3]), np.array([2]))
    both = pa.concat_arrays([plain_values, values])
    assert plain == layout
    assert unpack(layout, np.array([2, 1, 0, 3]), both).to_pylist() == [full, full, *rows]


def test_users_that_count_are_those_of_people_and_not_tombstones(tmp_path: Path) -> None:
    state = KeyedState(tmp_path)

    def deliver(**is_tombstone: bool) -> int:
        rows = [
            {KEY: user, "version": 1, "content_hash": "h", "is_tombstone": gone, "delivered_at": MOMENT}
            for user, gone in is_tombstone.items()
        ]
        state.commit([Change(DELIVERED, users(*is_tombstone), pa.Table.from_pylist(rows, schema=DELIVERED.schema))])
        return state.counted(DELIVERED)

    assert deliver(u1=False, u2=True, **{"#default": False}) == 1
    assert deliver(u1=False, u2=False) == 2
    assert deliver(u1=True) == 1
    assert state.has_users(DELIVERED)
    state.commit([Change(DELIVERED, None, DELIVERED.schema.empty_table())])
    assert (state.counted(DELIVERED), state.has_users(DELIVERED)) == (0, False)
    assert not list(tmp_path.glob("*.segment"))


def test_a_column_that_came_later_is_null_in_what_was_there(tmp_path: Path) -> None:
    old = type(BEHAVIORS)(BEHAVIORS.name, BEHAVIORS.columns.remove(BEHAVIORS.columns.get_field_index("detail")))
    state = KeyedState(tmp_path)
    draw = random.Random(2)
    kept = {user: [row(draw)] for user in ("a", "b")}
    state.commit([Change(old, users(), table_of(kept).drop_columns(["detail"]))])
    fresh: Rows = {"b": [row(draw)]}
    state.commit([Change(BEHAVIORS, users(), table_of(fresh))])
    expected = {"a": [{**kept["a"][0], "detail": None}], **fresh}
    assert read(state, users("a", "b")) == expected
    many: Rows = {f"u{number}": [row(draw)] for number in range(40)}
    for _ in range(4):
        state.commit([Change(BEHAVIORS, users(), table_of(many))])
    assert {len(segment.layout.schema) for segment in state._segments(BEHAVIORS)} == {5}, "merged"
    assert read(state, users("a", "b", *many)) == {**expected, **many}


def test_a_reader_goes_on_while_segments_are_merged_under_it(tmp_path: Path) -> None:
    writer, reader = KeyedState(tmp_path), KeyedState(tmp_path)
    draw = random.Random(3)
    kept: Rows = {f"u{number}": [row(draw)] for number in range(50)}
    with patch.object(keyed_state, "_BYTES_MERGED_IN_A_COMMIT", 0):
        for user, rows in kept.items():
            writer.commit([Change(BEHAVIORS, users(), table_of({user: rows}))])
    slices = writer.upkeep()
    next(slices)
    assert read(reader, users(*kept)) == kept
    other = KeyedState(tmp_path)  # commits between two slices
    newer: Rows = {"u1": [row(draw)]}
    with patch.object(keyed_state, "_BYTES_MERGED_IN_A_COMMIT", 0):
        other.commit([Change(BEHAVIORS, users(), table_of(newer))])
    list(slices)
    assert read(reader, users(*kept)) == read(KeyedState(tmp_path), users(*kept)) == {**kept, **newer}
    assert reader.storage()[0] <= 4
    assert len(list(tmp_path.glob("*.segment"))) == reader.storage()[0]


def test_a_merge_gives_up_where_another_took_its_segments(tmp_path: Path) -> None:
    writer, other = KeyedState(tmp_path), KeyedState(tmp_path)
    draw = random.Random(4)
    kept: Rows = {f"u{number}": [row(draw)] for number in range(8)}
    with patch.object(keyed_state, "_BYTES_MERGED_IN_A_COMMIT", 0):
        for user, rows in kept.items():
            writer.commit([Change(BEHAVIORS, users(), table_of({user: rows}))])
    slices = writer.upkeep()
    next(slices)
    list(other.upkeep())
    list(slices)
    assert read(writer, users(*kept)) == kept
    assert len(list(tmp_path.glob("*.segment"))) == writer.storage()[0] == 1


class Killed(BaseException):
    pass


@pytest.mark.parametrize("at", ["_publish", "_forget"])
def test_a_commit_cut_short_is_all_or_nothing(tmp_path: Path, at: str) -> None:
    state = KeyedState(tmp_path)
    draw = random.Random(5)
    before: Rows = {"u1": [row(draw)], "u2": [row(draw)]}
    after: Rows = {"u1": [row(draw)]}
    state.commit([Change(BEHAVIORS, users(), table_of(before))])
    change = Change(BEHAVIORS, users("u2"), table_of(after))
    listed = LISTS.schema.empty_table()
    with patch.object(KeyedState, at, side_effect=Killed), pytest.raises(Killed):
        state.commit([change, Change(LISTS, users("u1"), listed)])
    survivor = KeyedState(tmp_path)
    assert read(survivor, users("u1", "u2")) == (before if at == "_publish" else after)
    survivor.commit([change])
    assert read(survivor, users("u1", "u2")) == after
    assert survivor.counted(BEHAVIORS) == 1


def test_what_a_killed_process_left_goes_after_an_hour(tmp_path: Path) -> None:
    state = KeyedState(tmp_path)
    state.commit([Change(BEHAVIORS, users(), table_of({"u1": [row(random.Random(6))]}))])
    [kept] = tmp_path.glob("*.segment")
    orphan = tmp_path / "recent_behaviors-0123.segment"
    orphan.write_bytes(b"half a segment")
    list(state.upkeep())
    assert orphan.exists(), "a commit may be writing it just now"
    with patch.object(keyed_state, "_ORPHAN_SECONDS", -1.0):
        list(state.upkeep())
    assert list(tmp_path.glob("*.segment")) == [kept]


def test_a_torn_segment_is_told_and_not_read(tmp_path: Path) -> None:
    state = KeyedState(tmp_path)
    state.commit([Change(BEHAVIORS, users(), table_of({"u1": [row(random.Random(7))]}))])
    [path] = tmp_path.glob("*.segment")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(OSError, match="is not a whole segment"):
        KeyedState(tmp_path).read(BEHAVIORS, users("u1"))


# In the lake


def test_the_tables_have_the_columns_of_the_schema() -> None:
    with PlainTables() as tables:
        for table in KEYED_TABLES.values():
            found = tables.connection.execute(f"select * from {table.name}").to_arrow_table().schema
            assert found.names == table.schema.names
            plain = [str(kind).replace("child:", "item:").replace("l:", "item:") for kind in found.types]
            assert plain == [str(kind).replace("element:", "item:") for kind in table.schema.types], table.name


def test_tables_of_an_older_lake_are_carried_over(lake: Lake) -> None:
    """Also by a process that follows one that was killed on the way."""
    draw = random.Random(8)
    kept: Rows = {f"u{number}": [row(draw) for _ in range(number % 3 + 1)] for number in range(20)}
    [create] = [
        one for one in render("schema", engine="ducklake", stream=str, parameters={}) if one.name == BEHAVIORS.name
    ]
    connection = lake.connection
    connection.execute(create.sql)
    connection.register("old_rows", table_of(kept))
    connection.execute(f"insert into {BEHAVIORS.name} select * from old_rows")
    connection.unregister("old_rows")
    connection.execute(create.sql.replace("recent_behaviors", "user_profiles").replace("event_id", "batch_id"))
    lake.warehouse.close()

    commit: Callable[..., None] = KeyedState.commit

    def dying(state: KeyedState, changes: Any) -> None:
        commit(state, changes)
        raise Killed

    with patch.object(KeyedState, "commit", dying), pytest.raises(Killed):
        DuckLakeWarehouse.open(lake.settings)
    with patch("kurashiru_pipeline.warehouse.ducklake_keyed._USERS_CARRIED_AT_ONCE", 5):
        DuckLakeWarehouse.open(lake.settings, read_only=True).close()  # a reader has it done
    lake.reopen()
    found = everything(lake.warehouse._state, 1)
    assert {user: sorted(map(repr, rows)) for user, rows in found.items()} == {
        user: sorted(map(repr, rows)) for user, rows in kept.items()
    }
    assert lake.warehouse.fetch("user_behaviors", user_id="u1").num_rows == 2


def test_a_transaction_that_fails_changes_no_state(lake: Lake) -> None:
    lake.insert(DELIVERED.name, [{KEY: "u1", "version": 1}])

    def body(transaction: Any) -> None:
        transaction.run("begin_resend", table_name="t", delivery_id="d")
        raise KeyError("on the way")

    with pytest.raises(KeyError):
        lake.warehouse.transact(body)
    assert lake.count(DELIVERED.name) == 1
    lake.run("begin_resend", table_name="t", delivery_id="d")
    assert lake.count(DELIVERED.name) == 0
