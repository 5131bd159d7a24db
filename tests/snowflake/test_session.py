"""Sessions of the stand-in: connecting, warehouses, transactions, locks, temporary tables, the log."""

import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
import snowflake.connector
from snowflake.connector.errors import DatabaseError, ProgrammingError

from tests.snowflake.ask import Open, column, rows, run, value
from tests.snowflake.results import Result
from tests.snowflake.session import Connection
from tests.snowflake.stand_in import StandIn

pytestmark = pytest.mark.stand_in


@pytest.fixture
def table(session: Connection) -> Connection:
    """A session in whose schema `t` holds the rows 1 and 2."""
    run(session, "create table t (id int, name varchar)", "insert into t values (1, 'a'), (2, 'b')")
    return session


def test_the_connector_opens_a_session_of_the_stand_in(account: StandIn, schema: str) -> None:
    connection = snowflake.connector.connect(
        account="any",
        user="svc",
        private_key_file="/nowhere/key.p8",
        authenticator="SNOWFLAKE_JWT",
        role="runner",
        warehouse="pipeline",
        database="kurashiru",
        schema=schema,
        session_parameters={"QUERY_TAG": "here"},
        validate_default_parameters=True,
    )
    with connection, connection.cursor() as cursor:
        cursor.execute(
            "select current_session(), current_user(), current_role(), current_warehouse(), current_database(),"
            " current_schema()",
            _statement_params={"QUERY_TAG": "this one"},
        )
        assert cursor.fetchall() == [(str(connection.session_id), "SVC", "RUNNER", "PIPELINE", "KURASHIRU", schema)]
        assert not connection.is_closed()
    assert connection.is_closed()
    with pytest.raises(DatabaseError):
        cursor.execute("select 1")
    assert account.statements[-1].query_tag == "this one"
    assert snowflake.connector.connect == account.connect


def test_sessions_have_numbers_of_their_own(connect: Open) -> None:
    assert connect().session_id != connect().session_id


@pytest.mark.parametrize(
    ("kwargs", "sql", "message"),
    [
        ({"database": None, "schema": None}, "select * from t", "does not have a current database"),
        ({"schema": None}, "select * from t", "does not have a current schema"),
        ({"schema": None}, "create table t (id int)", "does not have a current schema"),
        ({}, "select * from other.raw.t", "does not exist"),
        ({}, "select * from nothing", "does not exist"),
        ({}, "use schema nothing", "does not exist"),
        ({}, "select from where", "SQL compilation error"),
        ({}, "select 1; select 2", "Actual statement count 2"),
    ],
)
def test_errors_of_names_and_syntax(connect: Open, kwargs: dict[str, None], sql: str, message: str) -> None:
    with pytest.raises(ProgrammingError, match=message):
        run(connect(**kwargs), sql)


# Warehouses.


@pytest.mark.parametrize(
    "sql",
    [
        "show streams",
        "show tables in database kurashiru",
        "show transactions",
        "select current_session()",
        "select 1",
        "use schema public",
        "alter session set query_tag = 'x'",
        "begin",
        "commit",
        "create table made (id int)",
        "describe table t",
        "list @~",
        "truncate table t",
    ],
)
def test_metadata_needs_no_warehouse(table: Connection, connect: Open, account: StandIn, sql: str) -> None:
    run(connect(warehouse=None), sql)
    assert not account.statements[-1].is_query
    assert account.statements[-1].warehouse is None


@pytest.mark.parametrize(
    "sql",
    [
        "select * from t",
        "select count(*) from t",
        "select 1 from information_schema.tables",
        "insert into t values (3, 'c')",
        "update t set id = 3",
        "delete from t",
        "merge into t using (select 1 as id) s on t.id = s.id when matched then delete",
        "create table made as select 1 as id",
        "copy into t from @~/x file_format = (type = json)",
        "copy into @~/x from t file_format = (type = json)",
    ],
)
def test_rows_need_a_warehouse(table: Connection, connect: Open, account: StandIn, sql: str) -> None:
    with pytest.raises(ProgrammingError, match="No active warehouse selected in the current session") as caught:
        run(connect(warehouse=None), sql)
    assert (caught.value.errno, caught.value.sqlstate) == (606, "57P03")
    assert account.statements[-1].is_query
    assert rows(table, "select count(*) from t") == [(2,)]


def test_a_stream_is_asked_without_a_warehouse(table: Connection, connect: Open) -> None:
    run(table, "create stream s on table t append_only = true")
    sensor = connect(warehouse=None)
    assert value(sensor, "select system$stream_has_data('s')") is False
    with pytest.raises(ProgrammingError, match="No active warehouse"):
        run(sensor, "select count(*) from s")


def test_use_warehouse(table: Connection, connect: Open, account: StandIn) -> None:
    session = connect(warehouse=None)
    run(session, "use warehouse other", "select * from t")
    assert account.statements[-1].warehouse == "OTHER"


def test_the_log(table: Connection, account: StandIn) -> None:
    with pytest.raises(ProgrammingError):
        run(table, "select missing from t")
    inserted, failed = account.statements[-2:]
    assert (inserted.sql, inserted.session_id) == ("insert into t values (1, 'a'), (2, 'b')", table.session_id)
    assert (inserted.database, inserted.warehouse, inserted.status) == ("KURASHIRU", "W", "SUCCESS")
    assert failed.status == "FAILED_WITH_ERROR"
    assert failed.error


def test_history_of_a_session(table: Connection, connect: Open) -> None:
    other = connect()
    history = (
        "select execution_status, end_time <= current_timestamp() from table(information_schema."
        f"query_history_by_session(session_id => {table.session_id}, result_limit => 1))"
    )
    assert rows(other, history) == [("SUCCESS", True)]
    assert rows(other, history.replace(str(table.session_id), "1")) == []


def test_who_answers_first(session: Connection, account: StandIn) -> None:
    account.answer_first.append(
        lambda _session, sql: Result.of_rows(["x"], [("mine",)]) if sql == "show grants" else None
    )
    assert rows(session, "show grants") == [("mine",)]
    assert rows(session, "select 1") == [(1,)]


# Transactions.


def test_a_transaction_is_all_or_nothing(table: Connection, connect: Open) -> None:
    other = connect()
    run(table, "begin transaction", "insert into t values (3, 'c')")
    assert column(other, "select id from t order by id") == [1, 2]
    run(table, "commit")
    assert column(other, "select id from t order by id") == [1, 2, 3]
    run(table, "begin", "delete from t", "rollback")
    assert column(other, "select id from t order by id") == [1, 2, 3]


def test_begin_in_a_transaction_is_ignored_and_ends_outside_are_harmless(table: Connection) -> None:
    run(table, "commit", "rollback", "begin", "delete from t", "begin", "rollback")
    assert column(table, "select count(*) from t") == [2]


def test_without_autocommit_dml_begins_a_transaction(table: Connection, connect: Open) -> None:
    other = connect(autocommit=False)
    run(other, "delete from t")
    assert value(table, "select count(*) from t") == 2
    other.rollback()
    run(other, "delete from t where id = 1")
    other.commit()
    assert value(table, "select count(*) from t") == 1


@pytest.mark.parametrize(
    "ddl",
    [
        "create table made (id int)",
        "create or replace temporary table made (id int)",
        "grant usage on schema x to role y",
    ],
)
def test_ddl_commits_first(table: Connection, ddl: str) -> None:
    run(table, "begin", "delete from t", ddl, "rollback")
    assert value(table, "select count(*) from t") == 0


@pytest.mark.parametrize("clock", ["sysdate()", "current_timestamp()::timestamp_ntz"])
def test_the_clock_goes_on_in_a_transaction(table: Connection, clock: str) -> None:
    before = datetime.now(UTC).replace(tzinfo=None)
    run(table, "begin", "select * from t")
    first, second = (value(table, f"select {clock}") for _ in range(2))
    assert before <= first < second <= datetime.now(UTC).replace(tzinfo=None)


def test_truncate_is_dml(table: Connection) -> None:
    run(table, "begin", "truncate table t", "rollback")
    assert value(table, "select count(*) from t") == 2


@pytest.mark.parametrize("broken", ["insert into t select 'x', 'y'", "select missing from t"])
def test_an_error_aborts_a_transaction_where_asked(connect: Open, table: Connection, broken: str) -> None:
    session = connect(session_parameters={"TRANSACTION_ABORT_ON_ERROR": True})
    run(session, "begin", "insert into t values (3, 'c')")
    with pytest.raises(ProgrammingError):
        run(session, broken)
    with pytest.raises(ProgrammingError, match="aborted"):
        run(session, "insert into t values (4, 'd')")
    with pytest.raises(ProgrammingError, match="aborted"):
        run(session, "commit")
    assert column(session, "select id from t order by id") == [1, 2]


def test_rolling_back_ends_an_aborted_transaction(connect: Open, table: Connection) -> None:
    session = connect()
    run(session, "alter session set transaction_abort_on_error = true", "begin")
    with pytest.raises(ProgrammingError):
        run(session, "select missing from t")
    run(session, "rollback", "insert into t values (3, 'c')")
    assert value(session, "select count(*) from t") == 3


def test_an_error_that_cannot_be_undone_alone_is_not_committed(table: Connection) -> None:
    """Snowflake would keep the transaction's good half; the stand-in refuses, rather than lose it silently."""
    run(table, "begin", "insert into t values (3, 'c')")
    with pytest.raises(ProgrammingError):
        run(table, "insert into t select 'x', 'y'")
    with pytest.raises(ProgrammingError, match="cannot undo one statement"):
        run(table, "commit")
    assert value(table, "select count(*) from t") == 2


def test_transactions_are_shown_and_aborted(table: Connection, connect: Open) -> None:
    dead = connect(user="somebody")
    run(dead, "begin", "update t set name = 'dead' where id = 1")
    cursor = table.cursor().execute("show transactions")
    assert [part.name for part in cursor.description] == [
        "id", "user", "session", "name", "started_on", "state", "scope"
    ]  # fmt: skip
    [(number, user, session_id, _name, _started, state, _scope)] = cursor.fetchall()
    assert (user, session_id, state) == ("SOMEBODY", dead.session_id, "running")
    run(table, f"select system$abort_transaction({number})")
    assert rows(table, "show transactions") == []
    run(table, "update t set name = 'alive' where id = 1")
    with pytest.raises(ProgrammingError, match="aborted"):
        run(dead, "commit")
    assert rows(table, "select name from t where id = 1") == [("alive",)]
    with pytest.raises(ProgrammingError, match="not found"):
        run(table, f"select system$abort_transaction({number})")


# Locks.


def test_a_change_waits_for_the_one_before(table: Connection, connect: Open, account: StandIn) -> None:
    account.longest_lock_wait_seconds = 10
    run(table, "begin", "update t set id = id + 10 where id = 1")
    other = connect()
    waiter = threading.Thread(target=run, args=(other, "update t set id = id + 100 where id > 10"))
    waiter.start()
    time.sleep(0.1)
    run(table, "commit")
    waiter.join()
    assert column(table, "select id from t order by id") == [2, 111]


@pytest.mark.parametrize("sql", ["update t set id = 5", "delete from t where id = 2"])
def test_a_lock_is_not_waited_for_without_end(table: Connection, connect: Open, sql: str) -> None:
    run(table, "begin", "update t set id = 9 where id = 1")
    with pytest.raises(ProgrammingError) as caught:
        run(connect(session_parameters={"LOCK_TIMEOUT": 0}), sql)
    assert (caught.value.errno, caught.value.sqlstate) == (625, "57014")


def test_the_first_statement_of_a_transaction_sees_what_was_committed_since_its_begin(
    table: Connection, connect: Open
) -> None:
    other = connect()
    run(table, "begin")
    run(other, "update t set id = 10 where id = 1")
    assert table.cursor().execute("update t set id = id + 1 where id in (1, 10)").rowcount == 1
    run(table, "commit")
    assert column(other, "select id from t order by id") == [2, 11]


def test_a_row_changed_since_a_transaction_read_it_is_in_conflict(table: Connection, connect: Open) -> None:
    other = connect()
    run(table, "begin", "select * from t")
    run(other, "update t set id = 10 where id = 1")
    with pytest.raises(ProgrammingError) as caught:
        run(table, "update t set id = 11 where id = 1")
    assert caught.value.errno == 625
    run(table, "rollback")


def test_inserts_wait_for_nobody(table: Connection, connect: Open) -> None:
    run(table, "begin", "update t set id = 9 where id = 1")
    run(connect(), "insert into t values (3, 'c')")
    run(table, "commit")
    assert value(table, "select count(*) from t") == 3


def test_only_one_of_many_takes_what_only_one_may(table: Connection, connect: Open, account: StandIn) -> None:
    account.longest_lock_wait_seconds = 30
    taken: list[int] = []

    def take() -> None:
        taken.append(connect().cursor().execute("update t set name = 'taken' where id = 1 and name = 'a'").rowcount)

    threads = [threading.Thread(target=take) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [0, 0, 0, 0, 1]


def test_a_reader_beside_a_writer(table: Connection, connect: Open) -> None:
    """A sensor looks while a run writes."""
    sensor = connect(warehouse=None)
    is_done = threading.Event()
    seen: set[int] = set()

    def look() -> None:
        while not is_done.is_set():
            seen.add({row[1]: row[7] for row in rows(sensor, "show tables")}["T"])

    looker = threading.Thread(target=look)
    looker.start()
    for number in range(20):
        run(table, "begin", f"insert into t values ({number}, 'x'), ({number}, 'y')", "commit")
    is_done.set()
    looker.join()
    assert seen <= set(range(2, 43, 2))


# Temporary tables.


def test_a_temporary_table_is_the_sessions_own(session: Connection, connect: Open, schema: str) -> None:
    run(session, "create temporary table w (id int)", "insert into w values (1)")
    assert rows(session, f"select w.id from {schema}.w") == [(1,)]
    with pytest.raises(ProgrammingError, match="does not exist"):
        run(connect(), "select * from w")
    run(session, "update w set id = 2", "begin", "insert into w values (3)", "rollback")
    assert column(session, "select id from w") == [2]
    run(session, "create or replace temporary table w as select 7 as other", "delete from w where w.other = 8")
    assert rows(session, "select * from w") == [(7,)]
    run(session, "drop table w")
    with pytest.raises(ProgrammingError, match="does not exist"):
        run(session, "select * from w")


def test_a_temporary_table_hides_a_permanent_one(table: Connection, connect: Open) -> None:
    run(table, "create temporary table t (id int)", "insert into t values (9)")
    assert column(table, "select id from t") == [9]
    assert column(connect(), "select id from t order by id") == [1, 2]
    run(table, "drop table t")
    assert column(table, "select id from t order by id") == [1, 2]


def test_a_temporary_table_goes_with_its_session(connect: Open) -> None:
    session = connect()
    run(session, "create temporary table w (id int)")
    session.close()
    with pytest.raises(ProgrammingError, match="does not exist"):
        run(connect(), "select * from w")


def test_a_temporary_view(table: Connection, connect: Open) -> None:
    run(table, "create or replace temporary view v as select id from t where id > 1")
    assert column(table, "select id from v") == [2]
    with pytest.raises(ProgrammingError, match="does not exist"):
        run(connect(), "select * from v")
    run(table, "drop view v")


def test_comments_around_a_statement(table: Connection) -> None:
    run(table, "/* a */ begin -- b", "describe table t /* {} */", "-- c\nrollback\n/* d */;")


def test_show_tables(table: Connection, schema: str) -> None:
    run(table, "create temporary table w (id int)")
    cursor = table.cursor().execute(f"show tables in schema {schema}")
    names = [part.name for part in cursor.description]
    found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    wanted = ("name", "database_name", "schema_name", "kind", "rows", "retention_time")
    assert [tuple(row[name] for name in wanted) for row in found] == [
        ("T", "KURASHIRU", schema, "TABLE", 2, "1"),
        ("W", "KURASHIRU", schema, "TEMPORARY", 0, "1"),
    ]
    assert found[0]["bytes"] > found[1]["bytes"] == 0
    run(table, "delete from t where id = 1")
    assert rows(table, "show tables like 't'")[0][names.index("rows")] == 1


# The account.


def test_what_is_accepted_without_effect(session: Connection, account: StandIn) -> None:
    statements = [
        "create role if not exists r comment = 'x'",
        "grant usage on schema raw to role r",
        "create warehouse if not exists w with warehouse_size = 'XSMALL'",
        "create storage integration si type = external_stage enabled = true",
        "create task t warehouse = w schedule = '1 minute' as select 1",
        "create or replace secure external function f(a varchar) returns variant api_integration = a as 'https://x'",
        "alter warehouse w set auto_suspend = 60",
        "alter table t set data_retention_time_in_days = 1",
    ]
    before = len(account.recorded)
    run(session, *statements)
    assert account.recorded[before:] == statements


def test_what_was_committed_outlives_the_stand_in(tmp_path: Path) -> None:
    with StandIn(tmp_path / "home", landing=tmp_path / "landing") as first:
        first.run_script(
            """
            create schema raw; create table raw.t (id int); create stream raw.s on table raw.t append_only = true;
            insert into raw.t values (1); create role r; create stage raw.st; create file format raw.ff type = json;
            """
        )
        session = first.connect(database="KURASHIRU", warehouse="W")
        run(session, "begin", "insert into raw.t values (2)")
    with StandIn(tmp_path / "home", landing=tmp_path / "landing") as second:
        session = second.connect(database="KURASHIRU", schema="RAW", warehouse="W")
        assert column(session, "select id from s") == [1]
        assert second.recorded == ["create role r"]
        assert rows(session, "list @st") == []
        run(session, "insert into t values (3)")
        assert column(session, "select id from s order by id") == [1, 3]
