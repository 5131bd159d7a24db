"""What the port promises, on both engines: transactions whole or nothing, streams that move with them, equal types."""

import gzip
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pyarrow as pa
import pytest

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM
from kurashiru_pipeline.errors import KurashiruError, TransientError
from kurashiru_pipeline.realtime.checks import stream_not_stale
from kurashiru_pipeline.realtime.status import read_status
from kurashiru_pipeline.warehouse import open_warehouse
from kurashiru_pipeline.warehouse.base import Transaction
from kurashiru_pipeline.warehouse.snowflake_arrow import to_ndjson
from kurashiru_pipeline.warehouse.snowflake_session import LockedError
from tests.warehouse.scripts import COMMON, changes_tables, parameters_of
from tests.warehouse.small_lake import NOW, Lake, SnowflakeTables, Tables
from tests.warehouse.test_delivery_sql import deliver

DELIVERIES = pa.schema(
    [("user_id", pa.string()), ("version", pa.int64()), ("content_hash", pa.string()), ("is_tombstone", pa.bool_())]
)
TEXTS: Any = pa.list_(pa.string())
NUMBERS: Any = pa.list_(pa.float64())


def read(transaction: Transaction) -> int:
    """Consume the stream; how many lines came."""
    transaction.run("stage_parse", retention_days=90)
    return int(transaction.fetch("stage_summary")["read_count"][0].as_py())


def write(transaction: Transaction, table_name: str = "t") -> None:
    transaction.run("begin_resend", table_name=table_name, delivery_id="d")


def consume(tables: Tables) -> int:
    return tables.warehouse.transact(read, work_tables="stage_work_tables")


def has_data(tables: Tables) -> bool:
    return tables.warehouse.stream_has_data(RAW_EVENTS_STREAM)


# Transactions and the stream


def test_the_engine_is_the_one_that_was_asked_for(engine_tables: Tables) -> None:
    """A proof of which engine these tests ran on."""
    engine = {Lake: "ducklake", SnowflakeTables: "snowflake"}[type(engine_tables)]
    assert engine_tables.warehouse.engine == engine_tables.settings.text("KURASHIRU_ENGINE") == engine
    assert engine_tables.warehouse.loads_events == (engine == "ducklake")


def test_a_line_is_read_once(engine_tables: Tables) -> None:
    assert not has_data(engine_tables)
    assert consume(engine_tables) == 0
    engine_tables.insert_lines(["one", "two"], file_name="a")
    engine_tables.insert_lines(["three"], file_name="b")
    assert has_data(engine_tables)
    assert consume(engine_tables) == 3
    assert not has_data(engine_tables)
    assert consume(engine_tables) == 0


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_takes_everything_back_and_keeps_the_stream(engine_tables: Tables, error: type[BaseException]) -> None:
    engine_tables.insert_lines(["one"], file_name="a")

    def body(transaction: Transaction) -> None:
        assert read(transaction) == 1
        write(transaction)
        assert transaction.fetch("delivery_target", table_name="t").num_rows == 1
        raise error

    with pytest.raises(error):
        engine_tables.warehouse.transact(body, work_tables="stage_work_tables")
    assert engine_tables.count("ops.delivery_targets") == 0
    assert has_data(engine_tables)
    assert consume(engine_tables) == 1


def test_a_statement_that_fails_takes_the_transaction_with_it(engine_tables: Tables) -> None:
    engine_tables.insert_lines(["one"], file_name="a")

    def body(transaction: Transaction) -> None:
        read(transaction)
        write(transaction)
        transaction.run("replace_profiles", batch_id=1)  # its input is not there

    with pytest.raises(Exception, match=r"(?i)incoming_profiles"):
        engine_tables.warehouse.transact(body, work_tables="stage_work_tables")
    assert engine_tables.count("ops.delivery_targets") == 0
    assert consume(engine_tables) == 1


@pytest.mark.stand_in
def test_lines_that_come_during_a_transaction_are_of_the_next(snowflake_tables: SnowflakeTables) -> None:
    """On Snowflake alone: nobody but its one writer can add a line to an embedded lake."""
    snowflake_tables.insert_lines(["one"], file_name="a")

    def body(transaction: Transaction) -> int:
        first = read(transaction)
        snowflake_tables.insert_lines(["two", "three"], file_name="b")
        return first

    assert snowflake_tables.warehouse.transact(body, work_tables="stage_work_tables") == 1
    assert consume(snowflake_tables) == 2


def test_a_busy_engine_is_tried_again_as_a_whole(engine_tables: Tables, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_tables.warehouse.engine
    monkeypatch.setattr(f"kurashiru_pipeline.warehouse.{engine}.time.sleep", lambda _: None)
    engine_tables.insert_lines(["one"], file_name="a")
    attempts: list[int] = []

    def busy() -> None:
        if isinstance(engine_tables, Lake):
            engine_tables.connection.execute("select error('database is locked')")
        raise LockedError("locked")

    def body(transaction: Transaction) -> None:
        attempts.append(read(transaction))
        write(transaction)
        if len(attempts) < 3:
            busy()

    engine_tables.warehouse.transact(body, work_tables="stage_work_tables")
    assert attempts == [1, 1, 1]
    assert engine_tables.count("ops.delivery_targets") == 1
    assert not has_data(engine_tables)
    with pytest.raises(TransientError, match="busy through 6 attempts"):
        engine_tables.warehouse.transact(lambda _: busy())


def test_reading_a_stream_outside_a_transaction_is_refused(engine_tables: Tables) -> None:
    engine_tables.insert_lines(["one"], file_name="a")
    with pytest.raises(KurashiruError, match="raw_behavior_events can only be read inside a transaction"):
        engine_tables.warehouse.fetch("stage_parse", retention_days=90)
    assert has_data(engine_tables)


def test_a_reader_sees_what_is_committed_and_cannot_write(engine_tables: Tables) -> None:
    with open_warehouse(engine_tables.settings, read_only=True) as reader:

        def body(transaction: Transaction) -> None:
            write(transaction)
            assert reader.fetch("delivery_target", table_name="t").num_rows == 0

        engine_tables.warehouse.transact(body)
        assert reader.fetch("delivery_target", table_name="t").num_rows == 1
        with pytest.raises(Exception, match="read-only"):
            reader.transact(write)


def test_the_signature_changes_with_everything_that_can_bring_work(engine_tables: Tables) -> None:
    with open_warehouse(engine_tables.settings, read_only=True) as reader:
        seen = [reader.change_signature()]

        def look() -> None:
            assert reader.change_signature() != seen[-1]
            seen.append(reader.change_signature())
            assert reader.change_signature() == seen[-1]

        engine_tables.insert_lines(["one"], file_name="a")
        look()
        consume(engine_tables)
        look()
        engine_tables.insert("ops.batches", [{"batch_id": 1}])
        look()
        engine_tables.deliver(1)
        look()
        engine_tables.insert("ops.pending_erasures", [{"user_id": "u1"}])
        look()


def test_a_stream_shows_what_its_engine_knows_of_it(engine_tables: Tables) -> None:
    engine_tables.insert_lines(["one"], file_name="a")
    [shown, *others] = read_status(engine_tables.warehouse, engine_tables.settings)["streams"]
    assert (shown["name"], shown["has_data"], shown["stale"]) == ("raw_behavior_events", True, False)
    check = stream_not_stale(engine_tables.warehouse.stream_status(RAW_EVENTS_STREAM))
    assert check.passed
    if engine_tables.is_stand_in:
        assert shown["offset"] is None
        assert shown["stale_after"] is not None
        assert set(check.metadata) == {"stale_after"}
        assert [other["name"] for other in others] == ["raw_recipe_exports", "raw_user_exports"]
    else:
        assert isinstance(shown["offset"], int)
        assert shown["stale_after"] is None
        assert set(check.metadata) == {"offset", "latest"}
        assert others == []


# Inputs


def test_inputs_are_gone_with_the_next_transaction(engine_tables: Tables) -> None:
    deliver(engine_tables, [("u1", "a", False)])
    with pytest.raises(Exception, match=r"(?i)incoming_deliveries"):
        engine_tables.warehouse.transact(lambda transaction: transaction.run("record_deliveries", delivered_at=NOW))


def test_empty_inputs_are_there_too(engine_tables: Tables) -> None:
    deliver(engine_tables, [])
    assert engine_tables.count("serving.delivered_items") == 0


# In an array, where a number of up to 38 digits keeps them all.
DOUBLES = [
    0.1 + 0.2,
    1 / 3,
    1.2345678901234567e-07,
    1.2345678901234567e-20,
    123456789012345678.0,
    -1.7976931348623157e30,
    1e22,
    0.0,
    1.0,
]


def test_doubles_come_back_to_the_last_digit(engine_tables: Tables) -> None:
    scores = [[value] for value in DOUBLES] + [DOUBLES, []]
    count = len(scores)
    given = pa.table(
        {
            "user_id": [f"u{number:02}" for number in range(count)],
            "recipe_ids": pa.array([["r1", "it's", '"鶏"\\ ,🍳\n']] * count, TEXTS),
            "scores": pa.array(scores, NUMBERS),
            "reasons": pa.array([[]] * count, TEXTS),
            "algorithm": ["popular"] * count,
            "content_hash": ["h"] * count,
        }
    )
    engine_tables.warehouse.transact(
        lambda transaction: transaction.run("replace_recommendations", batch_id=1, generated_at=NOW, canary=""),
        inputs={"incoming_recommendations": given},
    )
    parameters: dict[str, Any] = {"batch_id": 1, "is_resend": True, "refresh_before": NOW, "part": 0, "parts": 1}
    found = engine_tables.warehouse.fetch("changed_items", **parameters).sort_by("user_id")
    assert [list(map(float.hex, row)) for row in found["scores"].to_pylist()] == [
        list(map(float.hex, row)) for row in scores
    ]
    assert found["recipe_ids"].to_pylist() == given["recipe_ids"].to_pylist()
    assert found["reasons"].to_pylist() == [[]] * count


def test_scalars_come_back_as_they_were(engine_tables: Tables) -> None:
    moments = [NOW, datetime(1970, 1, 1), datetime(2026, 2, 28, 23, 59, 59, 999_999), datetime(9999, 12, 31), None]
    rows = [
        {"recipe_id": f"r{number}", "decayed_count": value, "decayed_at": moment}
        for number, (value, moment) in enumerate(
            zip([0.1 + 0.2, 1.2345678901234567e-07, 1.7976931348623157e308, -5e-324, None], moments, strict=True)
        )
    ]
    given = pa.Table.from_pylist(rows, schema=pa.schema(
        [("recipe_id", pa.string()), ("decayed_count", pa.float64()), ("decayed_at", pa.timestamp("us"))]
    ))  # fmt: skip
    engine_tables.insert("recommendation.live_popularity", given)
    assert engine_tables.warehouse.fetch("popularity").to_pylist() == rows


def test_numbers_travel_in_arrays_without_an_exponent() -> None:
    """Snowflake makes a double of one with an exponent, and shows 16 of its 17 digits."""
    text = gzip.decompress(to_ndjson(pa.table({"scores": pa.array([DOUBLES], NUMBERS)}))).decode()
    assert not re.search(r"[0-9][eE]", text)
    assert [float(number) for number in re.findall(r"-?[0-9.]+", text)] == DOUBLES


@pytest.mark.stand_in
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_carry_is_refused_on_snowflake(
    snowflake_tables: SnowflakeTables, value: float
) -> None:
    table = pa.table({"user_id": ["u1"], "scores": pa.array([[1.0, value]], NUMBERS)})
    with pytest.raises(KurashiruError, match="column scores holds"):
        snowflake_tables.warehouse.transact(lambda _: None, inputs={"incoming_x": table})
    with pytest.raises(KurashiruError, match="column x holds"):
        snowflake_tables.warehouse.transact(lambda _: None, inputs={"incoming_x": pa.table({"x": [value]})})
    with pytest.raises(KurashiruError, match="column x is of type binary"):
        snowflake_tables.warehouse.transact(lambda _: None, inputs={"incoming_x": pa.table({"x": [b"bytes"]})})


# Types

QUERIES = [
    script
    for script in COMMON
    if not changes_tables(script) and script != "stage_summary"  # it reads a work table
]


def fill(tables: Tables) -> None:
    """A row for every query, or nearly."""
    tables.insert(
        "staging.recipes", [{"recipe_id": "search", "title": "t", "value_tags": ["savings"], "ingredients": []}]
    )
    tables.insert("staging.behavior_events", [{"user_id": "u1", "event_name": "search", "batch_id": 1}])
    tables.insert("staging.rejected_events", [{"reason": "not_json", "batch_id": 1}])
    tables.insert("recommendation.recent_behaviors", [{"user_id": "u1", "event_name": "search", "occurred_at": NOW}])
    profile = {"user_id": "u1", "batch_id": 1, "as_of": NOW, "recipe_ids": ["r1"], "recipe_ages": [0.5]}
    tables.insert("recommendation.user_profiles", [profile])
    tables.insert("recommendation.live_popularity", [{"recipe_id": "r1", "decayed_count": 0.5, "decayed_at": NOW}])
    lists = {"user_id": "u1", "batch_id": 1, "recipe_ids": ["r1"], "scores": [1.0], "reasons": ["popular"]}
    tables.insert("recommendation.recommendations", [{**lists, "generated_at": NOW}])
    delivered = {"user_id": "u2", "version": 1, "is_tombstone": False, "delivered_at": NOW}
    tables.insert("serving.delivered_items", [delivered])
    tables.insert("ops.batches", [{"batch_id": 1, "staged_at": NOW, "watermark_at": NOW, "duplicate_count": 3}])
    tables.insert("ops.batch_stages", [{"batch_id": 1, "stage": "1", "finished_at": NOW, "seconds": 0.5}])
    tables.insert("ops.batch_files", [{"batch_id": 1, "file_name": "f", "landed_at": NOW, "line_count": 3}])
    tables.insert("ops.batch_erasures", [{"batch_id": 1, "user_id": "u2"}])
    tables.insert("ops.delivery_targets", [{"table_name": "1", "delivery_id": "d", "is_resend_pending": True}])


@pytest.mark.stand_in
@pytest.mark.parametrize("make", [lambda _: None, fill], ids=["empty", "filled"])
def test_a_query_has_the_same_types_and_rows_on_both_engines(
    lake: Lake, snowflake_tables: SnowflakeTables, make: Callable[[Tables], None]
) -> None:
    make(lake)
    make(snowflake_tables)
    assert len(QUERIES) > 20
    rows = 0
    for script in QUERIES:
        ours = lake.warehouse.fetch(script, **parameters_of(script))
        theirs = snowflake_tables.warehouse.fetch(script, **parameters_of(script))
        for field, other in zip(ours.schema, theirs.schema, strict=True):
            assert (field.name, _plain(field.type)) == (other.name, _plain(other.type)), script
        assert theirs.to_pylist() == ours.to_pylist(), script
        rows += ours.num_rows
    assert rows > 20 or make is not fill


def _plain(kind: pa.DataType) -> str:
    """Arrow has two spellings of the name of a list's elements."""
    return f"list<{kind.value_type}>" if pa.types.is_list(kind) else str(kind)
