"""One writer at a time on Snowflake: waiting, taking over, and that a writer taken over can commit nothing."""

import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from kurashiru_pipeline.errors import ConfigurationError, TransientError
from kurashiru_pipeline.warehouse import open_warehouse, snowflake_lease
from kurashiru_pipeline.warehouse.base import Transaction, Warehouse
from tests.snowflake import errors
from tests.snowflake.session import Connection
from tests.warehouse.small_lake import SnowflakeTables

pytestmark = pytest.mark.stand_in

Open = Callable[..., Warehouse]


@pytest.fixture
def tables(snowflake_tables: SnowflakeTables, monkeypatch: pytest.MonkeyPatch) -> SnowflakeTables:
    """An account without a writer, where looking again takes no time."""
    monkeypatch.setattr(snowflake_lease, "_LOOK_SECONDS", 0.02)
    snowflake_tables.warehouse.close()
    return snowflake_tables


@pytest.fixture
def open_writer(tables: SnowflakeTables) -> Iterator[Open]:
    """Opens writers; closes them at the end."""
    with ExitStack() as resources:

        def open_one(**options: Any) -> Warehouse:
            return resources.enter_context(open_warehouse(tables.settings, **options))

        yield open_one


def lease(tables: SnowflakeTables) -> dict[str, Any]:
    [row] = tables.dicts("select holder, session_id, fence from ops.writer_lease where name = 'realtime'")
    return row


def grow_old(tables: SnowflakeTables, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a lease is good for is over, and its holder has not been heard of since."""
    monkeypatch.setattr(snowflake_lease, "LEASE_SECONDS", 0)
    assert lease(tables)["holder"] is not None


def write(transaction: Transaction) -> None:
    transaction.run("begin_resend", table_name="t", delivery_id="d")


def test_the_lease_names_its_holder_and_is_given_back(tables: SnowflakeTables) -> None:
    for number in (2, 3):  # the fixture's own writer was the first
        with open_warehouse(tables.settings, run_id=f"run-{number}") as writer:
            held = lease(tables)
            assert re.fullmatch(rf"\S+ process \d+ run run-{number}", held["holder"])
            assert held["session_id"] == writer._session.id  # type: ignore[attr-defined]
            assert held["fence"] == number
        assert lease(tables) == {"holder": None, "session_id": None, "fence": number}


def test_a_reader_needs_no_lease(tables: SnowflakeTables, open_writer: Open) -> None:
    writer, reader = open_writer(), open_writer(read_only=True)
    held = lease(tables)
    writer.transact(write)
    assert reader.fetch("delivery_target", table_name="t").num_rows == 1
    assert lease(tables) == held


def test_the_second_writer_waits_and_then_gets_it(tables: SnowflakeTables, open_writer: Open) -> None:
    first = open_writer(run_id="first")
    told: list[str] = []
    got: list[int] = []

    def second() -> None:
        with open_warehouse(tables.settings, on_wait=told.append):
            got.append(lease(tables)["fence"])

    thread = threading.Thread(target=second)
    thread.start()
    deadline = time.monotonic() + 30
    while not told and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not got
    first.close()
    thread.join(30)
    assert got == [3]
    assert len(told) == 1
    assert told[0].endswith("run first")


def test_waiting_ends_with_the_name_of_the_holder(
    tables: SnowflakeTables, open_writer: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_writer(run_id="first")
    monkeypatch.setattr(snowflake_lease, "_WAIT_SECONDS", 0.1)
    with pytest.raises(TransientError, match=r"run first is writing; waited 0 s"):
        open_warehouse(tables.settings)
    assert len(tables.account.sessions()) == 2, "the first writer's, and ours for looking"


def test_an_old_lease_of_a_holder_that_still_works_is_not_taken(
    tables: SnowflakeTables, open_writer: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement may run for longer than a lease; who runs one is alive."""
    open_writer(run_id="first")
    tables.rows("update ops.writer_lease set renewed_at = dateadd('hour', -1, renewed_at)")
    monkeypatch.setattr(snowflake_lease, "_WAIT_SECONDS", 0.1)
    with pytest.raises(TransientError, match="run first is writing"):
        open_warehouse(tables.settings)


def test_who_was_taken_over_commits_nothing(
    tables: SnowflakeTables, open_writer: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The fence suffices, where a session may not be ended by another."""
    slow = open_writer(run_id="slow")
    grow_old(tables, monkeypatch)

    def refuse(_: Connection, sql: str) -> None:
        if "system$abort_session" in sql:
            raise errors.error("Insufficient privileges to abort a session", 3001, "42501")

    tables.account.answer_first.append(refuse)
    fast = open_writer(run_id="fast")
    assert "was not ended" in caplog.text
    with pytest.raises(TransientError, match=r"another writer took over from .* run slow"):
        slow.transact(write)
    assert tables.count("ops.delivery_targets") == 0
    fast.transact(write)
    assert tables.count("ops.delivery_targets") == 1
    slow.close()
    assert lease(tables)["holder"].endswith("run fast"), "closing gives back nothing that is another's"


def test_the_session_of_a_holder_that_was_taken_over_is_ended(
    tables: SnowflakeTables, open_writer: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A holder that was frozen in the middle of a transaction cannot go on without it."""
    slow = open_writer(run_id="slow")

    def body(transaction: Transaction) -> None:
        grow_old(tables, monkeypatch)
        open_writer(run_id="fast")
        write(transaction)

    with pytest.raises(TransientError, match="the session with Snowflake has ended"):
        slow.transact(body)
    assert tables.count("ops.delivery_targets") == 0
    assert slow.is_replaced()


def test_a_transaction_left_open_is_aborted_and_writes_nothing(
    tables: SnowflakeTables, open_writer: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = open_writer(run_id="slow")

    def body(transaction: Transaction) -> None:
        write(transaction)
        grow_old(tables, monkeypatch)
        open_writer(run_id="fast").transact(lambda _: None)

    with pytest.raises(Exception, match=r"(?i)abort|took over|transaction"):
        slow.transact(body)
    assert tables.count("ops.delivery_targets") == 0
    assert lease(tables)["holder"].endswith("run fast")


def test_nobody_takes_over_between_renewal_and_commit(
    tables: SnowflakeTables, open_writer: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal locks the row: a rival that does not see the transaction cannot write itself in either."""
    first = open_writer(run_id="first")
    for name in ("_abort_transactions", "_end_session"):
        monkeypatch.setattr(snowflake_lease.WriterLease, name, lambda *_: None)
    monkeypatch.setattr(snowflake_lease, "_WAIT_SECONDS", 0.1)
    monkeypatch.setattr(tables.account, "longest_lock_wait_seconds", 0.1)

    def body(transaction: Transaction) -> None:
        write(transaction)
        grow_old(tables, monkeypatch)
        with pytest.raises(TransientError, match="run first is writing"):
            open_warehouse(tables.settings)

    first.transact(body)
    assert tables.count("ops.delivery_targets") == 1


def test_two_that_see_the_same_free_lease_do_not_both_write(tables: SnowflakeTables, open_writer: Open) -> None:
    """Even if a lost update let both believe they have it: the session in the row decides."""
    first, second = open_writer(), None
    held = lease(tables)
    tables.rows("update ops.writer_lease set session_id = '1', holder = 'rival'")
    with pytest.raises(TransientError, match="another writer took over"):
        first.transact(write)
    assert second is None
    assert lease(tables)["fence"] == held["fence"]
    assert tables.count("ops.delivery_targets") == 0


def test_a_deployment_without_the_lease_s_row_says_what_makes_it(tables: SnowflakeTables) -> None:
    tables.rows("delete from ops.writer_lease")
    with pytest.raises(ConfigurationError, match="kurashiru deploy snowflake"):
        open_warehouse(tables.settings)


def test_a_lease_that_cannot_be_given_back_runs_out(
    tables: SnowflakeTables, open_writer: Open, caplog: pytest.LogCaptureFixture
) -> None:
    writer = open_writer()

    def fail(*_: object) -> None:
        raise TransientError("Snowflake did not answer")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snowflake_lease.WriterLease, "give_back", fail)
        writer.close()
    assert "runs out by itself: Snowflake did not answer" in caplog.text
    assert writer.is_replaced(), "the session is closed all the same"
