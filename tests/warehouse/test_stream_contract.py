"""The stream: every line once, in the transaction that writes its target, whatever happens around it."""

from collections.abc import Callable
from itertools import count
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import settings as profile
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError, StaleStreamError, TransientError
from kurashiru_pipeline.warehouse import open_warehouse
from kurashiru_pipeline.warehouse.base import Transaction
from kurashiru_pipeline.warehouse.ducklake import DuckLakeWarehouse, lake_folder
from tests.warehouse.small_lake import Lake


def read(transaction: Transaction) -> list[str]:
    """Consume the stream as the stage step does; the lines that came, by way of their quarantine."""
    transaction.run("stage_parse", retention_days=90)
    connection = transaction._warehouse._connection  # type: ignore[attr-defined]  # tests may look under the port
    return [line for (line,) in connection.execute("select rejected_payload from parsed_lines order by all").fetchall()]


def consume(lake: Lake, batch_id: int = 1) -> list[str]:
    """Read the stream and note its files in the ledger, in one transaction."""

    def body(transaction: Transaction) -> list[str]:
        lines = read(transaction)
        lake.connection.execute(
            f"insert into ops.batch_files select {batch_id}, file_name, min(landed_at), count(*) "
            "from parsed_lines group by file_name"
        )
        return lines

    return lake.warehouse.transact(body, work_tables="stage_work_tables")


def expire_unread(lake: Lake) -> None:
    """Expire the oldest snapshot the stream has not read, as somebody with a free hand might."""
    [(oldest,)] = lake.rows(
        f"select min(snapshot_id) from realtime.snapshots() where snapshot_id > {lake.stream.offset}"
    )
    assert oldest < lake.stream.latest
    lake.rows(f"call ducklake_expire_snapshots('realtime', versions => [{oldest}])")
    lake.rows("call ducklake_cleanup_old_files('realtime', cleanup_all => true)")


def land_and_load(lake: Lake, name: str, *lines: str) -> None:
    lake.land(f"events/{name}.gz", lines)
    lake.load()


def test_a_new_lake_has_nothing_to_read(lake: Lake) -> None:
    assert not lake.warehouse.stream_has_data(RAW_EVENTS_STREAM)
    assert lake.stream.name == "raw_behavior_events"
    assert not lake.stream.is_stale
    assert consume(lake) == []


def test_what_was_loaded_is_read_once(lake: Lake) -> None:
    land_and_load(lake, "a", "one", "two")
    assert lake.stream.has_data
    assert consume(lake) == ["one", "two"]
    assert not lake.stream.has_data
    assert consume(lake) == []
    assert lake.count("raw.behavior_events") == 2


def test_loads_that_have_piled_up_are_read_together_and_each_line_once(lake: Lake) -> None:
    few, many = ["few 1", "few 2"], [f"many {number:03}" for number in range(500)]
    land_and_load(lake, "a", *few)  # small enough for DuckLake to keep it in the catalogue
    land_and_load(lake, "b", *many)
    land_and_load(lake, "c", "last")
    assert consume(lake) == sorted([*few, *many, "last"])


def test_changes_of_other_tables_are_no_data(lake: Lake) -> None:
    lake.insert("staging.users", [{"user_id": "u1"}])
    lake.insert("raw.loaded_files", [{"file_name": f"f{number}"} for number in range(100)])
    assert not lake.stream.has_data
    assert not lake.stream.is_stale


def test_reading_outside_a_transaction_is_refused(lake: Lake) -> None:
    land_and_load(lake, "a", "one")
    with pytest.raises(KurashiruError, match="raw_behavior_events can only be read inside a transaction"):
        lake.warehouse.fetch("stage_parse", retention_days=90)
    assert lake.stream.has_data


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_takes_everything_back_and_keeps_the_offset(lake: Lake, error: type[BaseException]) -> None:
    land_and_load(lake, "a", "one")
    before = lake.stream

    def body(transaction: Transaction) -> None:
        assert read(transaction) == ["one"]
        transaction.run("begin_resend", table_name="t", delivery_id="d")
        raise error

    with pytest.raises(error):
        lake.warehouse.transact(body, work_tables="stage_work_tables")
    assert lake.stream == before
    assert lake.count("ops.delivery_targets") == 0
    assert consume(lake) == ["one"]


def test_an_offset_moves_with_the_commit_and_not_before(lake: Lake, settings: Settings) -> None:
    land_and_load(lake, "a", "one")
    with open_warehouse(settings, read_only=True) as reader:
        before = reader.stream_status(RAW_EVENTS_STREAM)

        def body(transaction: Transaction) -> None:
            read(transaction)
            assert reader.stream_status(RAW_EVENTS_STREAM) == before

        lake.warehouse.transact(body, work_tables="stage_work_tables")
        after = reader.stream_status(RAW_EVENTS_STREAM)
        assert (before.has_data, after.has_data) == (True, False)
        assert after.offset > before.offset
        land_and_load(lake, "b", "two")
        assert reader.stream_status(RAW_EVENTS_STREAM).has_data
        assert reader.stream_status(RAW_EVENTS_STREAM) == lake.stream


def test_a_transaction_that_does_not_read_moves_nothing(lake: Lake) -> None:
    land_and_load(lake, "a", "one")
    before = lake.stream.offset
    lake.run("begin_resend", table_name="t", delivery_id="d")
    assert lake.stream.offset == before
    assert lake.stream.has_data


def test_the_stream_is_where_it_was_after_reopening(lake: Lake) -> None:
    land_and_load(lake, "a", "one")
    before = lake.stream
    lake.reopen()
    assert lake.stream == before
    assert consume(lake) == ["one"]


def test_a_busy_lake_is_tried_again_as_a_whole(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    land_and_load(lake, "a", "one")
    monkeypatch.setattr("kurashiru_pipeline.warehouse.ducklake.time.sleep", lambda _: None)
    attempts: list[list[str]] = []

    def body(transaction: Transaction) -> None:
        attempts.append(read(transaction))
        if len(attempts) < 3:
            lake.connection.execute("select error('database is locked')")

    lake.warehouse.transact(body, work_tables="stage_work_tables")
    assert attempts == [["one"]] * 3
    assert not lake.stream.has_data

    def always_busy(_: Transaction) -> None:
        lake.connection.execute("select error('database is locked')")

    with pytest.raises(TransientError, match="busy through 6 attempts"):
        lake.warehouse.transact(always_busy)


def test_inputs_are_gone_after_the_transaction(lake: Lake) -> None:
    lake.warehouse.transact(lambda _: None, inputs={"incoming_deliveries": pa.table({"user_id": ["u1"]})})
    with pytest.raises(Exception, match="incoming_deliveries"):
        lake.rows("from incoming_deliveries")


# Staleness


def test_expired_changes_make_it_stale_and_the_error_says_what_mends_it(lake: Lake) -> None:
    land_and_load(lake, "a", "one")
    land_and_load(lake, "b", "two")
    expire_unread(lake)
    assert lake.stream.is_stale
    assert lake.stream.has_data
    with pytest.raises(StaleStreamError, match="kurashiru reset-stream raw_behavior_events"):
        consume(lake)
    assert lake.stream.is_stale


@pytest.mark.parametrize("lines", [3, 300])
def test_a_reset_puts_back_exactly_the_unread_lines(lake: Lake, lines: int) -> None:
    land_and_load(lake, "a", *(f"read {number}" for number in range(lines)))
    consume(lake)
    unread = sorted(f"unread {number}" for number in range(2 * lines))
    land_and_load(lake, "b", *unread[:lines])
    land_and_load(lake, "c", *unread[lines:])
    before = lake.rows("select * from raw.behavior_events order by all")
    expire_unread(lake)

    assert lake.warehouse.reset_stream(RAW_EVENTS_STREAM) == 2 * lines
    assert lake.stream.has_data
    assert not lake.stream.is_stale
    assert lake.rows("select * from raw.behavior_events order by all") == before
    land_and_load(lake, "d", "later")
    lake.warehouse.maintain()
    assert consume(lake, batch_id=2) == ["later", *unread]
    assert consume(lake) == []


def test_a_reset_of_a_sound_stream_does_nothing(lake: Lake) -> None:
    land_and_load(lake, "a", "one")
    before = lake.stream
    assert lake.warehouse.reset_stream(RAW_EVENTS_STREAM) == 0
    assert lake.stream == before


# Opening


def test_a_reader_makes_the_lake_when_there_is_none(settings: Settings) -> None:
    with open_warehouse(settings, read_only=True) as reader:
        assert not reader.stream_has_data(RAW_EVENTS_STREAM)
        with pytest.raises(Exception, match="read-only"):
            reader.transact(lambda transaction: transaction.run("begin_resend", table_name="t", delivery_id="d"))


@pytest.mark.parametrize("read_only", [True, False])
def test_a_catalogue_that_is_none_is_a_clear_error(settings: Settings, read_only: bool) -> None:
    lake = lake_folder(settings)
    lake.mkdir(parents=True)
    (lake / "catalog.sqlite").write_bytes(b"something else" * 1000)
    with pytest.raises(ConfigurationError, match=r"catalog\.sqlite cannot be opened as a DuckLake catalogue"):
        open_warehouse(settings, read_only=read_only)
    lake.joinpath("catalog.sqlite").unlink()
    with open_warehouse(settings) as warehouse:  # the lock was given back
        assert warehouse.engine == "ducklake"


def test_any_folder_name_will_do(tmp_path: Path) -> None:
    home = tmp_path / 'chef\'s "日本" ; lake'
    with Lake(Settings.load(Environment.LOCAL, {"KURASHIRU_HOME": str(home)})) as lake:
        land_and_load(lake, "a", *(f"line {number}" for number in range(20)))
        lake.warehouse.maintain()
        assert len(consume(lake)) == 20


# Anything at all


class AnythingMayHappen(RuleBasedStateMachine):
    """Loads, reads, roll-backs, maintenance, staleness and restarts in any order: each line comes once."""

    new_lake: Callable[[], Lake]

    @initialize()
    def open(self) -> None:
        self.lake = type(self).new_lake()
        self.numbers = count()
        self.batches = count(1)
        self.unread: list[str] = []

    @rule(size=st.sampled_from([1, 4, 40]))
    def load(self, size: int) -> None:
        number = next(self.numbers)
        lines = [f"{number:04} {row:04}" for row in range(size)]
        land_and_load(self.lake, f"{number:04}", *lines)
        self.unread += lines

    @rule()
    def read_on(self) -> None:
        assert consume(self.lake, next(self.batches)) == self.unread
        self.unread = []

    @rule()
    def roll_back(self) -> None:
        def body(transaction: Transaction) -> None:
            assert read(transaction) == self.unread
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            self.lake.warehouse.transact(body, work_tables="stage_work_tables")

    @rule()
    def maintain(self) -> None:
        self.lake.warehouse.maintain()

    @rule()
    def write_elsewhere(self) -> None:
        self.lake.run("begin_resend", table_name="t", delivery_id="d")

    @precondition(lambda self: self.unread and self.lake.stream.latest > self.lake.stream.offset + 1)
    @rule()
    def lose_and_mend(self) -> None:
        expire_unread(self.lake)
        assert self.lake.stream.is_stale
        assert self.lake.warehouse.reset_stream(RAW_EVENTS_STREAM) == len(self.unread)

    @rule()
    def restart(self) -> None:
        self.lake.reopen()

    @invariant()
    def knows_whether_there_is_data(self) -> None:
        assert self.lake.stream.has_data == bool(self.unread)
        assert not self.lake.stream.is_stale

    def teardown(self) -> None:
        self.lake.warehouse.close()


def test_each_line_comes_once_whatever_happens(tmp_path: Path) -> None:
    homes = count()

    class Machine(AnythingMayHappen):
        @staticmethod
        def new_lake() -> Lake:
            return Lake(Settings.load(Environment.LOCAL, {"KURASHIRU_HOME": str(tmp_path / str(next(homes)))}))

    Machine.TestCase.settings = profile(max_examples=2, stateful_step_count=12, deadline=None)
    Machine.TestCase("runTest").runTest()


def test_opening_by_settings_gives_this_engine(settings: Settings) -> None:
    with open_warehouse(settings) as warehouse:
        assert isinstance(warehouse, DuckLakeWarehouse)
