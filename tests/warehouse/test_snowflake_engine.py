"""What the port means on Snowflake alone: exports by stream, stale streams, Snowpipe's figures, upkeep, wake-ups."""

import json
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM, Stage
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.errors import ConfigurationError, StaleStreamError, TransientError
from kurashiru_pipeline.realtime.micro_batch import pending_work
from kurashiru_pipeline.warehouse import open_warehouse, snowflake
from kurashiru_pipeline.warehouse.base import Transaction
from kurashiru_pipeline.warehouse.snowflake import EXPORTS, SnowflakeWarehouse
from tests.traffic import put
from tests.warehouse.small_lake import NOW, SnowflakeTables, event_id
from tests.warehouse.test_loader import parquet, recipes, users
from tests.warehouse.test_stage_sql import event

pytestmark = pytest.mark.stand_in

RECIPE_STREAM, USER_STREAM = EXPORTS
BEFORE, AFTER = NOW - timedelta(days=1), NOW + timedelta(days=1)


@pytest.fixture
def tables(snowflake_tables: SnowflakeTables) -> SnowflakeTables:
    return snowflake_tables


def land(tables: SnowflakeTables, name: str, content: pa.Table | list[str]) -> None:
    """Put a file where Snowpipe finds it."""
    is_table = isinstance(content, pa.Table)
    put(tables.account.landing, name, parquet(content) if is_table else "".join(f"{one}\n" for one in content).encode())


def engine(tables: SnowflakeTables) -> SnowflakeWarehouse:
    assert isinstance(tables.warehouse, SnowflakeWarehouse)
    return tables.warehouse


# Exports


def test_exports_come_by_their_streams(tables: SnowflakeTables) -> None:
    assert not tables.warehouse.has_landed_files()
    assert tables.warehouse.load_landed_files(max_lines=1) == snowflake.LoadReport.nothing(is_complete=True)
    land(tables, "recipes/a.parquet", recipes(("r1", "old", BEFORE), ("r1", "new", AFTER), ("r2", "two", NOW)))
    land(tables, "users/a.parquet", users(("u1", False, NOW), ("u2", True, NOW)))
    assert tables.warehouse.has_landed_files()
    report = tables.warehouse.load_landed_files(max_lines=1)
    assert (report.recipe_count, report.user_count, report.line_count) == (2, 2, 0)
    assert report.files == {"recipes": 1, "users": 1}
    assert report.has_changes
    assert report.is_complete
    assert (report.failed, report.ignored, report.delays) == ((), (), ())
    assert tables.rows("select recipe_id, title from staging.recipes order by recipe_id") == [
        ("r1", "new"),
        ("r2", "two"),
    ]
    assert tables.rows("select user_id from ops.pending_erasures") == [("u2",)]
    assert not tables.warehouse.has_landed_files()
    assert not tables.warehouse.load_landed_files(max_lines=1).has_changes
    assert tables.count("raw.loaded_files") == 0


def test_an_export_arrives_with_every_column(tables: SnowflakeTables) -> None:
    given = recipes(("r1", '鶏 "むね"', NOW), ("r2", "", BEFORE))
    land(tables, "recipes/a.parquet", given)
    tables.warehouse.load_landed_files(max_lines=1)
    found = tables.dicts("select * from staging.recipes order by recipe_id")
    assert found == given.sort_by("recipe_id").to_pylist()


def test_an_older_export_changes_nothing_and_of_equal_rows_the_first_counts(tables: SnowflakeTables) -> None:
    land(tables, "recipes/b.parquet", recipes(("r1", "second", NOW), ("r2", "third", NOW)))
    land(tables, "recipes/a.parquet", recipes(("r1", "first", NOW)))
    assert tables.warehouse.load_landed_files(max_lines=1).recipe_count == 2
    land(tables, "recipes/c.parquet", recipes(("r1", "older", BEFORE), ("r2", "equal", NOW)))
    assert tables.warehouse.load_landed_files(max_lines=1).recipe_count == 0
    assert tables.rows("select recipe_id, title from staging.recipes order by recipe_id") == [
        ("r1", "first"),
        ("r2", "third"),
    ]


def test_rows_without_id_or_time_go_to_quarantine_and_stop_no_other(tables: SnowflakeTables) -> None:
    rows = recipes(
        ("r1", "good", NOW), ("r 2", "blank", NOW), ("", "empty", NOW), ("r3", "no time", NOW), ("r4", "x", NOW)
    )
    times = pc.if_else(pc.equal(rows["recipe_id"], "r3"), pa.scalar(None, pa.timestamp("us")), rows["updated_at"])
    rows = rows.set_column(rows.column_names.index("updated_at"), "updated_at", times)
    ids = pc.if_else(pc.equal(rows["recipe_id"], "r4"), pa.scalar(None, pa.string()), rows["recipe_id"])
    land(tables, "recipes/bad.parquet", rows.set_column(0, "recipe_id", ids))
    land(tables, "recipes/good.parquet", recipes(("r5", "good", NOW)))
    land(tables, "users/bad.parquet", users(("u@1", False, NOW)))
    report = tables.warehouse.load_landed_files(max_lines=1)
    assert (report.recipe_count, report.user_count) == (2, 0)
    assert report.files == {"recipes": 2, "users": 1}
    assert report.failed == (
        ("recipes/bad.parquet", "1 rows have no updated_at, the first is row 4"),
        ("recipes/bad.parquet", "3 rows have no valid recipe_id, the first is row 2"),
        ("users/bad.parquet", "1 rows have no valid user_id, the first is row 1"),
    )
    recorded = tables.rows("select file_name, kind, status, line_count, error from raw.loaded_files order by error")
    assert [row[:4] for row in recorded] == [
        ("recipes/bad.parquet", "recipes", "failed", 1),
        ("users/bad.parquet", "users", "failed", 1),
        ("recipes/bad.parquet", "recipes", "failed", 3),
    ]
    assert tables.count("raw.recipe_exports") == 6, "what was refused can still be looked at"
    [counts] = tables.warehouse.fetch("status_counts").to_pylist()
    assert counts["failed_files"] == 3


def test_a_failed_load_keeps_the_exports_for_the_next(tables: SnowflakeTables, monkeypatch: pytest.MonkeyPatch) -> None:
    land(tables, "recipes/a.parquet", recipes(("r1", "t", NOW)))
    with monkeypatch.context() as patch:
        patch.setattr(
            snowflake, "EXPORTS", {RECIPE_STREAM: snowflake._Export("snowflake/take_recipe_exports", "nowhere")}
        )
        with pytest.raises(FileNotFoundError):
            tables.warehouse.load_landed_files(max_lines=1)
    assert tables.count("staging.recipes") == 0
    assert tables.warehouse.load_landed_files(max_lines=1).recipe_count == 1


def test_a_stream_that_only_seems_to_have_data_is_drained(tables: SnowflakeTables) -> None:
    """SYSTEM$STREAM_HAS_DATA may say TRUE of an empty stream, for ever, unless somebody consumes it."""
    tables.account.latch_stream("RAW", "STR_RECIPE_EXPORTS")
    assert tables.warehouse.has_landed_files()
    report = tables.warehouse.load_landed_files(max_lines=1)
    assert not report.has_changes
    assert not tables.warehouse.has_landed_files()


# Stale streams


def stage_lines(tables: SnowflakeTables, *lines: str, file_name: str) -> None:
    tables.insert_lines(lines, file_name=file_name)
    assert tables.stage() is not None


def line(number: int) -> str:
    return json.dumps(event(number, NOW))


def expire(tables: SnowflakeTables, stream: str = "STR_BEHAVIOR_EVENTS") -> None:
    tables.account.expire_stream("RAW", stream)


def staged_ids(tables: SnowflakeTables) -> list[str]:
    return [value for (value,) in tables.rows("select event_id from staging.behavior_events order by event_id")]


def test_a_stale_stream_says_what_mends_it(tables: SnowflakeTables) -> None:
    tables.insert_lines([line(1)], file_name="a")
    expire(tables)
    status = tables.warehouse.stream_status(RAW_EVENTS_STREAM)
    assert status.is_stale
    assert status.has_data
    assert (status.offset, status.latest) == (None, None)
    assert tables.warehouse.stream_has_data(RAW_EVENTS_STREAM), "so that a run begins and says so"
    assert not tables.warehouse.has_landed_files(), "the others are sound"
    with pytest.raises(StaleStreamError, match="kurashiru reset-stream raw_behavior_events"):
        tables.stage()
    assert tables.count("ops.batches") == 0


def test_a_sound_stream_tells_until_when(tables: SnowflakeTables) -> None:
    status = tables.warehouse.stream_status(RAW_EVENTS_STREAM)
    assert not status.is_stale
    assert status.stale_after is not None
    assert timedelta(days=13) < status.stale_after - utc_now() < timedelta(days=15)
    assert tables.warehouse.reset_stream(RAW_EVENTS_STREAM) == 0


def test_a_reset_puts_back_exactly_the_unread_lines(tables: SnowflakeTables) -> None:
    stage_lines(tables, line(1), "broken", file_name="read")
    tables.insert_lines([line(2), "also broken"], file_name="lost")
    before = tables.rows("select * from raw.behavior_events order by file_name, file_row_number")
    expire(tables)
    assert tables.warehouse.reset_stream(RAW_EVENTS_STREAM) == 2
    status = tables.warehouse.stream_status(RAW_EVENTS_STREAM)
    assert (status.has_data, status.is_stale) == (True, False)
    assert tables.rows("select * from raw.behavior_events order by file_name, file_row_number") == before
    tables.insert_lines([line(3)], file_name="later")
    accounting = tables.stage()
    assert accounting is not None
    assert (accounting.read_count, accounting.staged_count, accounting.rejected_count) == (3, 2, 1)
    assert staged_ids(tables) == [event_id(number) for number in (1, 2, 3)]
    assert tables.stage() is None


def test_a_file_read_in_part_is_completed_and_nothing_counts_twice(tables: SnowflakeTables) -> None:
    """Snowpipe may load a file in several transactions, so a micro-batch may hold a part of it."""
    lines = [line(1), "broken one", line(2), "broken two", line(3)]
    whole = [{"payload": text, "file_row_number": row} for row, text in enumerate(lines, start=1)]

    def arrive(*numbers: int) -> None:
        rows = [{**whole[number - 1], "file_name": "a", "landed_at": NOW, "loaded_at": NOW} for number in numbers]
        tables.insert("raw.behavior_events", rows)

    arrive(1, 2)
    assert tables.stage() is not None
    arrive(3, 4, 5)
    expire(tables)
    tables.warehouse.reset_stream(RAW_EVENTS_STREAM)
    accounting = tables.stage()
    assert accounting is not None
    assert (accounting.staged_count, accounting.duplicate_count, accounting.rejected_count) == (2, 1, 1)
    assert staged_ids(tables) == [event_id(number) for number in (1, 2, 3)]
    rejected = tables.rows("select payload from staging.rejected_events order by payload")
    assert rejected == [("broken one",), ("broken two",)]
    expire(tables)
    assert tables.warehouse.reset_stream(RAW_EVENTS_STREAM) == 0, "nothing was unread"
    assert tables.stage() is None


def test_lines_that_come_while_it_is_mended_come_once(tables: SnowflakeTables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.insert_lines([line(1), "broken"], file_name="lost")
    expire(tables)
    make_stream = SnowflakeWarehouse._make_stream

    def then_more_come(*arguments: Any) -> None:
        make_stream(*arguments)
        tables.insert_lines([line(2), "broken too"], file_name="meanwhile")

    monkeypatch.setattr(SnowflakeWarehouse, "_make_stream", then_more_come)
    assert tables.warehouse.reset_stream(RAW_EVENTS_STREAM) == 2
    accounting = tables.stage()
    assert accounting is not None
    assert (accounting.staged_count, accounting.duplicate_count, accounting.rejected_count) == (2, 0, 2)


def test_a_reset_cut_short_is_still_to_be_done(tables: SnowflakeTables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.insert_lines([line(1)], file_name="lost")
    expire(tables)
    with monkeypatch.context() as patch:
        patch.setattr(SnowflakeWarehouse, "transact", _die)
        with pytest.raises(ZeroDivisionError):
            tables.warehouse.reset_stream(RAW_EVENTS_STREAM)
    tables.reopen()
    status = tables.warehouse.stream_status(RAW_EVENTS_STREAM)
    assert status.is_stale, "a stream without its lines is not mended"
    assert not status.has_data
    assert tables.warehouse.reset_stream(RAW_EVENTS_STREAM) == 1
    assert not tables.warehouse.stream_status(RAW_EVENTS_STREAM).is_stale
    assert tables.stage() is not None
    assert staged_ids(tables) == [event_id(1)]


def _die(*_: object, **__: object) -> None:
    raise ZeroDivisionError


def test_a_stale_export_stream_reads_everything_again(tables: SnowflakeTables) -> None:
    land(tables, "recipes/a.parquet", recipes(("r1", "old", BEFORE)))
    tables.warehouse.load_landed_files(max_lines=1)
    land(tables, "recipes/b.parquet", recipes(("r1", "new", NOW), ("r2", "lost", NOW)))
    assert tables.warehouse.has_landed_files()
    expire(tables, "STR_RECIPE_EXPORTS")
    with pytest.raises(StaleStreamError, match="kurashiru reset-stream raw_recipe_exports"):
        tables.warehouse.load_landed_files(max_lines=1)
    assert {stream.name for stream in tables.warehouse.streams} == {
        "raw_behavior_events",
        "raw_recipe_exports",
        "raw_user_exports",
    }
    assert tables.warehouse.reset_stream(RECIPE_STREAM) == 3
    assert tables.warehouse.load_landed_files(max_lines=1).recipe_count == 2
    assert tables.rows("select title from staging.recipes order by recipe_id") == [("new",), ("lost",)]


def test_streams_that_cannot_be_seen_are_missed(tables: SnowflakeTables) -> None:
    tables.rows("drop stream raw.str_user_exports")
    with pytest.raises(
        ConfigurationError, match=r"no stream raw\.str_user_exports can be seen; kurashiru deploy snowflake"
    ):
        tables.warehouse.stream_status(RAW_EVENTS_STREAM)


# What Snowpipe did


def test_ingestion_tells_what_was_loaded_and_what_waits(tables: SnowflakeTables) -> None:
    since = utc_now() - timedelta(hours=1)
    land(tables, "events/a.ndjson", ["one", "two"])
    land(tables, "events/b.ndjson", ["three"])
    waiting = tables.warehouse.ingestion(since)
    assert waiting is not None
    assert (waiting.pending_count, waiting.row_count, waiting.state) == (2, 0, "RUNNING")
    assert waiting.oldest_pending_at is not None
    assert abs(utc_now() - waiting.oldest_pending_at) < timedelta(minutes=1)
    assert tables.account.refresh_pipes() == 2
    done = tables.warehouse.ingestion(since)
    assert done is not None
    assert (done.pending_count, done.oldest_pending_at) == (0, None)
    assert done.row_count == 3
    assert done.files == {"loaded": 2, "partially_loaded": 0, "failed": 0, "skipped": 0}
    assert done.failed == ()
    assert sorted(lines for _, lines in done.delays) == [1, 2]
    assert all(abs(seconds) < 60 for seconds, _ in done.delays)
    later = tables.warehouse.ingestion(utc_now() + timedelta(seconds=1))
    assert later is not None
    assert later.row_count == 0


def test_a_file_that_was_not_loaded_is_named_with_its_error(tables: SnowflakeTables) -> None:
    put(tables.account.landing, "events/broken.gz", b"\x1f\x8b no gzip")
    land(tables, "events/fine.ndjson", ["one"])
    tables.account.refresh_pipes()
    report = tables.warehouse.ingestion(utc_now() - timedelta(hours=1))
    assert report is not None
    assert (report.files["failed"], report.files["loaded"]) == (1, 1)
    [(name, error)] = report.failed
    assert name == "events/broken.gz"
    assert error


def test_looking_at_a_quiet_pipe_wakes_no_warehouse(tables: SnowflakeTables) -> None:
    land(tables, "events/a.ndjson", ["one"])
    tables.account.refresh_pipes()
    with open_warehouse(tables.settings, read_only=True) as reader:
        before = len(tables.account.statements)
        reader.ingestion(utc_now() + timedelta(minutes=1))
        assert [executed.warehouse for executed in tables.account.statements[before:]] == [None]
        reader.ingestion(utc_now() - timedelta(minutes=1))
        assert tables.account.statements[-1].warehouse == "KURASHIRU_PIPELINE"


def test_a_moment_long_ago_is_cut_to_what_snowflake_keeps(tables: SnowflakeTables) -> None:
    land(tables, "events/a.ndjson", ["one"])
    tables.account.refresh_pipes()
    report = tables.warehouse.ingestion(datetime(2020, 1, 1))
    assert report is not None
    assert report.row_count == 1


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-23T09:30:00.123Z", datetime(2026, 11, 23, 9, 30, 0, 123_000)),
        ("2026-11-23T18:30:00+09:00", NOW),
        (1_795_426_200_000, NOW),
    ],
)
def test_a_pipe_s_times_are_read_in_every_form(text: str | int, moment: datetime) -> None:
    assert snowflake._moment(text) == moment


# Upkeep


def unload(tables: SnowflakeTables, batch_id: int) -> None:
    tables.run("snowflake/unload_recipes", batch_id=batch_id)


def inputs(tables: SnowflakeTables) -> set[str]:
    return {file["folder"] for file in engine(tables)._input_files()}


def test_upkeep_forgets_what_is_a_day_old(tables: SnowflakeTables, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.insert("staging.recipes", [{"recipe_id": "r1"}])
    unload(tables, 1)
    now = utc_now()
    old, young = now - timedelta(days=2), now - timedelta(hours=2)
    for batch_id, finished_at in ((1, old), (2, young)):
        tables.run(
            "finish_stage", batch_id=batch_id, stage=Stage.REFLECT, finished_at=finished_at, seconds=0.1, row_count=1
        )
    for batch_id in (1, 2, 3):
        tables.insert("serving.delivery_candidates", [{"batch_id": batch_id, "user_id": "u1"}])
        tables.insert("serving.delivery_results", [{"batch_id": batch_id, "user_id": "u1"}])
    report = tables.warehouse.maintain()
    assert inputs(tables) == {"1"}, "unloaded a moment ago"
    assert (report.snapshots_before, report.snapshots_after) == (0, 0)
    assert report.files_before == report.files_after == 1
    for table in ("serving.delivery_candidates", "serving.delivery_results"):
        assert tables.rows(f"select batch_id from {table} order by batch_id") == [(2,), (3,)]

    unload(tables, 12)
    monkeypatch.setattr(snowflake, "utc_now", lambda: now + timedelta(days=1, minutes=1))
    report = tables.warehouse.maintain()
    assert inputs(tables) == set()
    assert (report.files_before, report.files_after) == (2, 0)
    assert report.bytes_before > report.bytes_after > 0


def test_upkeep_of_an_empty_account_is_no_trouble(tables: SnowflakeTables) -> None:
    report = tables.warehouse.maintain()
    assert (report.files_before, report.files_after) == (0, 0)


# Waking nothing


def test_looking_for_work_wakes_no_warehouse(tables: SnowflakeTables) -> None:
    """Metadata is asked in a session without a warehouse; only a query opens one with a warehouse."""
    with open_warehouse(tables.settings, read_only=True) as reader:
        before = len(tables.account.statements)
        signature = reader.change_signature()
        for _ in range(3):
            assert reader.change_signature() == signature
        reader.has_landed_files()
        reader.stream_has_data(RAW_EVENTS_STREAM)
        reader.stream_status(RAW_EVENTS_STREAM)
        reader.is_replaced()
        looked = tables.account.statements[before:]
        assert {executed.warehouse for executed in looked} == {None}
        assert not any(executed.is_query for executed in looked)
        assert len(looked) == 4 * 3 + 2 + 2 + 2, "three statements a look"
        tables.insert_lines(["one"], file_name="a")
        assert pending_work(reader, tables.settings) is not None


def test_a_reader_s_sessions_end_with_it(tables: SnowflakeTables) -> None:
    before = len(tables.account.sessions())
    reader = open_warehouse(tables.settings, read_only=True)
    reader.fetch("last_batch")
    reader.fetch("last_batch")
    assert len(tables.account.sessions()) == before + 2
    reader.close()
    assert len(tables.account.sessions()) == before


# Trouble in a transaction


def write(transaction: Transaction) -> None:
    transaction.run("begin_resend", table_name="t", delivery_id="d")


def failing(tables: SnowflakeTables, fails: Callable[[str], bool]) -> None:
    """Snowflake does not answer the statements that `fails` picks."""
    session = engine(tables)._session
    rows = session.rows

    def answer(sql: str, *, name: str) -> list[tuple[Any, ...]]:
        if fails(name):
            message = f"no answer to {name}"
            raise TransientError(message)
        return rows(sql, name=name)

    session.rows = answer  # type: ignore[method-assign]


def test_a_commit_without_an_answer_is_not_repeated(tables: SnowflakeTables) -> None:
    """Nobody knows whether it was done: the next run looks into the ledger."""
    failing(tables, lambda name: name == "commit")
    with pytest.raises(TransientError, match="no answer to commit"):
        tables.warehouse.transact(write)
    tables.reopen()
    assert tables.count("ops.delivery_targets") == 0


def test_the_first_error_is_told_when_rolling_back_fails_too(tables: SnowflakeTables) -> None:
    failing(tables, lambda name: name == "rollback")

    def body(_: Transaction) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        tables.warehouse.transact(body)
    assert caught.value.__notes__ == [
        "rolling back failed too: no answer to rollback. Snowflake ends the transaction with its session"
    ]


def test_no_script_of_a_transaction_holds_ddl(tables: SnowflakeTables) -> None:
    """DDL commits what was done before it; the stand-in would say so by committing."""
    tables.insert_lines([line(1)], file_name="a")
    before = len(tables.account.statements)
    tables.stage()
    logged = [executed.sql.strip().lower() for executed in tables.account.statements[before:]]
    begins = [number for number, sql in enumerate(logged) if sql == "begin transaction"]
    commits = [number for number, sql in enumerate(logged) if sql == "commit"]
    assert len(begins) == len(commits) > 0
    for begin, commit in zip(begins, commits, strict=True):
        assert not any(sql.startswith(("create", "drop", "alter", "put")) for sql in logged[begin:commit])
        assert logged[begin + 1].startswith("update ops.writer_lease set renewed_at"), "the lease comes first"
