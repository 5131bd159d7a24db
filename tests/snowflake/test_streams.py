"""Append-only streams of the stand-in keep Snowflake's promises (docs: streams-intro, system_stream_has_data)."""

import random
import threading
from dataclasses import dataclass, field

import pytest
from snowflake.connector.errors import ProgrammingError

from tests.snowflake.ask import Open, column, rows, run, value
from tests.snowflake.session import Connection
from tests.snowflake.stand_in import StandIn

pytestmark = pytest.mark.stand_in


@pytest.fixture
def stream(session: Connection) -> Connection:
    """A session in whose schema `s` is a stream on `raw`, and `staged` is its target."""
    run(
        session,
        "create table raw (id int, v variant)",
        "create stream s on table raw append_only = true",
        "create table staged (id int, name varchar)",
    )
    return session


def insert(session: Connection, *ids: int) -> None:
    values = ", ".join(f"({number})" for number in ids)
    run(session, f'insert into raw (id, v) select column1, parse_json(\'{{"a": "x"}}\') from values {values}')


def unread(session: Connection, name: str = "s") -> list[int]:
    return column(session, f"select id from {name} order by id")


def has_data(session: Connection, name: str = "s") -> bool:
    answer = value(session, f"select system$stream_has_data('{name}')")
    assert isinstance(answer, bool)
    return answer


def test_a_new_stream_is_empty(stream: Connection) -> None:
    assert not has_data(stream)
    assert unread(stream) == []


def test_rows_of_a_stream(stream: Connection) -> None:
    insert(stream, 1, 2)
    cursor = stream.cursor().execute("select * from s order by id")
    names = [part.name for part in cursor.description]
    assert names == ["ID", "V", "METADATA$ACTION", "METADATA$ISUPDATE", "METADATA$ROW_ID"]
    found = cursor.fetchall()
    assert [row[:4] for row in found] == [(1, '{"a":"x"}', "INSERT", False), (2, '{"a":"x"}', "INSERT", False)]
    assert len({row[4] for row in found}) == 2


def test_a_query_does_not_consume(stream: Connection) -> None:
    insert(stream, 1)
    assert unread(stream) == [1]
    run(stream, "begin", "select * from s", "commit")
    assert has_data(stream)


@pytest.mark.parametrize(
    "dml",
    [
        "insert into staged select id, 'x' from s",
        "insert into staged (id) with new as (select id from s) select id from new",
        "insert into staged select raw.id, 'x' from raw left join s as unread on unread.id = raw.id",
        "merge into staged using s on staged.id = s.id when not matched then insert (id) values (s.id)",
        "update staged set name = 'x' from s where s.id = staged.id",
        "delete from staged where id in (select id from s)",
        "create table copied as select id from s",
        "create temporary table copied as select id from s",
        "copy into @~/out/ from (select v from s) file_format = (type = json)",
    ],
    ids=lambda sql: sql.split(" s")[0],
)
def test_dml_that_reads_a_stream_consumes_it(stream: Connection, dml: str) -> None:
    insert(stream, 1, 2)
    run(stream, dml)
    assert not has_data(stream)
    assert unread(stream) == []


def test_dml_consumes_what_its_filter_drops(stream: Connection) -> None:
    insert(stream, 1, 2)
    run(stream, "insert into staged select id, 'x' from s where false")
    assert rows(stream, "select * from staged") == []
    assert not has_data(stream)


def test_a_failed_statement_keeps_the_rows(stream: Connection) -> None:
    insert(stream, 1)
    with pytest.raises(ProgrammingError):
        run(stream, "insert into staged select 'not a number', 'x' from s")
    assert unread(stream) == [1]


def test_a_merge_with_two_sources_for_one_row_fails_and_keeps_the_rows(stream: Connection) -> None:
    insert(stream, 1, 1)
    run(stream, "insert into staged values (1, 'old')")
    with pytest.raises(ProgrammingError, match="Duplicate row"):
        run(stream, "merge into staged using s on staged.id = s.id when matched then update set name = 'new'")
    assert unread(stream) == [1, 1]


def test_rollback_keeps_the_rows(stream: Connection) -> None:
    insert(stream, 1)
    run(stream, "begin", "insert into staged select id, 'x' from s", "rollback")
    assert unread(stream) == [1]
    assert rows(stream, "select * from staged") == []


def test_a_session_that_ends_in_a_transaction_keeps_the_rows(stream: Connection, connect: Open) -> None:
    insert(stream, 1)
    other = connect()
    run(other, "begin", "insert into staged select id, 'x' from s")
    other.close()
    assert unread(stream) == [1]


def test_a_transaction_sees_the_stream_as_of_its_begin(stream: Connection, connect: Open) -> None:
    other = connect()
    insert(stream, 1)
    run(stream, "begin")
    insert(other, 2)
    insert(stream, 3)
    assert unread(stream) == [1]
    run(stream, "insert into staged select id, 'a' from s", "insert into staged select id, 'b' from s")
    assert unread(stream) == [1]
    assert has_data(stream)
    run(stream, "commit")
    assert rows(stream, "select * from staged order by name") == [(1, "a"), (1, "b")]
    assert unread(stream) == unread(other) == [2, 3]


def test_what_commits_late_is_not_lost(stream: Connection, connect: Open) -> None:
    """The producer that began first commits last: an offset by number would skip its row."""
    producer, other = connect(), connect()
    run(producer, "begin")
    insert(producer, 1)
    insert(other, 2)
    run(stream, "insert into staged select id, 'x' from s")
    assert not has_data(stream)
    run(producer, "commit")
    assert unread(stream) == [1]


def test_what_a_producer_rolls_back_never_was(stream: Connection, connect: Open) -> None:
    producer = connect()
    run(producer, "begin")
    insert(producer, 1)
    run(producer, "rollback")
    assert not has_data(stream)


@pytest.mark.parametrize(
    "change", ["update raw set id = 9", "delete from raw", "truncate table raw", "delete from raw where id = 1"]
)
def test_only_inserts_count(stream: Connection, change: str) -> None:
    insert(stream, 1, 2)
    run(stream, change)
    assert unread(stream) == [1, 2]


def test_a_merge_feeds_a_stream_with_what_it_inserts(stream: Connection) -> None:
    insert(stream, 1)
    run(stream, "insert into staged select id, 'x' from s")
    run(
        stream,
        "merge into raw using (select 1 as id union all select 5) as new on raw.id = new.id "
        "when matched then update set id = 1 when not matched then insert (id) values (new.id)",
    )
    assert unread(stream) == [5]


def test_streams_of_one_table_are_independent(stream: Connection) -> None:
    run(stream, "create stream t on table raw append_only = true")
    insert(stream, 1)
    run(stream, "insert into staged select id, 'x' from s")
    assert not has_data(stream)
    assert unread(stream, "t") == [1]


def test_two_streams_consumed_together(stream: Connection) -> None:
    run(stream, "create stream t on table raw append_only = true")
    insert(stream, 1)
    run(stream, "begin", "insert into staged select s.id, 'x' from s join t on s.id = t.id", "commit")
    assert not has_data(stream)
    assert not has_data(stream, "t")


def test_ddl_commits_what_a_transaction_consumed(stream: Connection) -> None:
    insert(stream, 1)
    run(stream, "begin", "insert into staged select id, 'x' from s", "create or replace table other (a int)")
    run(stream, "rollback")
    assert not has_data(stream)
    assert rows(stream, "select * from staged") == [(1, "x")]


def test_initial_rows(stream: Connection) -> None:
    insert(stream, 1)
    run(stream, "create stream later on table raw append_only = true")
    run(stream, "create stream whole on table raw append_only = true show_initial_rows = true")
    insert(stream, 2)
    assert unread(stream, "later") == [2]
    assert unread(stream, "whole") == [1, 2]


def test_a_stream_made_at_the_place_of_another(stream: Connection) -> None:
    insert(stream, 1)
    run(stream, "insert into staged select id, 'x' from s")
    insert(stream, 2)
    run(stream, "create or replace stream s on table raw at (stream => 's') append_only = true")
    assert unread(stream) == [2]


def test_changes_since_a_stream_do_not_move_it(stream: Connection) -> None:
    insert(stream, 1)
    run(stream, "insert into staged select id, 'x' from s")
    insert(stream, 2)
    changes = "select id from raw changes (information => append_only) at (stream => 's') as unread"
    assert column(stream, changes) == [2]
    run(stream, f"insert into staged (id) {changes}")
    assert unread(stream) == [2]
    with pytest.raises(ProgrammingError, match="does not emulate"):
        run(stream, changes.replace("stream => 's'", "offset => -60"))


def test_or_replace_forgets_what_was_unread(stream: Connection) -> None:
    insert(stream, 1)
    run(stream, "create or replace stream s on table raw append_only = true")
    assert not has_data(stream)


def test_an_existing_stream_is_kept(stream: Connection) -> None:
    insert(stream, 1)
    run(stream, "create stream if not exists s on table raw append_only = true")
    assert unread(stream) == [1]
    with pytest.raises(ProgrammingError, match="already exists"):
        run(stream, "create stream s on table raw append_only = true")


@pytest.mark.parametrize("ddl", ["create or replace table raw (id int)", "drop table raw"])
def test_a_stream_goes_stale_with_its_table(stream: Connection, ddl: str) -> None:
    insert(stream, 1)
    run(stream, ddl)
    with pytest.raises(ProgrammingError, match="cannot read from the stream"):
        unread(stream)


def test_an_expired_stream(stream: Connection, account: StandIn, schema: str) -> None:
    insert(stream, 1)
    account.expire_stream(schema, "s")
    assert _shown(stream)["stale"] == "true"
    for ask in (unread, has_data):
        with pytest.raises(ProgrammingError, match="stale") as caught:
            ask(stream)
        assert caught.value.errno == 91901
    with pytest.raises(ProgrammingError, match="stale"):
        run(stream, "insert into staged select id, 'x' from s")
    insert(stream, 2)
    run(stream, "create or replace stream s on table raw append_only = true")
    insert(stream, 3)
    assert unread(stream) == [3]


def test_a_false_positive_stays_until_it_is_consumed(stream: Connection, account: StandIn, schema: str) -> None:
    account.latch_stream(schema, "s")
    assert has_data(stream)
    assert unread(stream) == []
    assert has_data(stream)
    run(stream, "insert into staged select id, 'x' from s where false")
    assert not has_data(stream)


def test_added_columns_show_in_a_stream(stream: Connection) -> None:
    insert(stream, 1)
    run(stream, "alter table raw add column extra varchar", "insert into raw (id, extra) values (2, 'e')")
    assert rows(stream, "select id, extra from s order by id") == [(1, None), (2, "e")]


def test_a_stream_follows_its_table(stream: Connection) -> None:
    run(stream, "alter table raw rename to renamed", "insert into renamed (id) values (1)")
    assert unread(stream) == [1]


def test_names(stream: Connection, schema: str) -> None:
    insert(stream, 1)
    assert rows(stream, "with s as (select 9 as id) select id from s") == [(9,)]
    assert rows(stream, f"select unread.id from {schema.lower()}.s as unread") == [(1,)]
    assert rows(stream, f"select s.id from kurashiru.{schema}.s join raw on raw.id = s.id") == [(1,)]
    with pytest.raises(ProgrammingError, match="does not exist"):
        run(stream, "select * from nothing")
    with pytest.raises(ProgrammingError, match="does not exist"):
        run(stream, "select system$stream_has_data('nothing')")


@pytest.mark.parametrize(
    "ddl",
    [
        "create stream d on table raw",
        "create stream d on table raw append_only = true at (offset => -60)",
        "create stream d on view raw append_only = true",
        "create view d as select * from s",
    ],
)
def test_what_is_not_emulated_says_so(stream: Connection, ddl: str) -> None:
    with pytest.raises(ProgrammingError, match="does not emulate"):
        run(stream, ddl)


def _shown(session: Connection) -> dict[str, str]:
    cursor = session.cursor().execute("show streams like 's'")
    [row] = cursor.fetchall()
    return dict(zip([part.name for part in cursor.description], row, strict=True))


def test_show_streams(stream: Connection, schema: str) -> None:
    shown = _shown(stream)
    moments = {name: shown.pop(name) for name in ("created_on", "stale_after")}
    assert moments["stale_after"] > moments["created_on"]
    assert shown == {
        "name": "S", "database_name": "KURASHIRU", "schema_name": schema, "owner": None, "comment": "",
        "table_name": f"KURASHIRU.{schema}.RAW", "source_type": "Table", "base_tables": f"KURASHIRU.{schema}.RAW",
        "type": "DELTA", "stale": "false", "mode": "APPEND_ONLY", "invalid_reason": "N/A", "owner_role_type": "ROLE",
    }  # fmt: skip
    assert len(rows(stream, f"show streams in schema {schema}")) == 1
    assert len(rows(stream, "show streams in database kurashiru")) >= 1
    assert rows(stream, "show streams like 'other'") == []
    run(stream, "alter stream s set comment = 'it''s read'")
    assert _shown(stream)["comment"] == "it's read"


def test_consuming_moves_stale_after(stream: Connection) -> None:
    before = _shown(stream)["stale_after"]
    run(stream, "insert into staged select id, 'x' from s")
    assert _shown(stream)["stale_after"] > before


def test_a_dropped_stream_is_gone(stream: Connection) -> None:
    run(stream, "drop stream s", "drop stream if exists s")
    with pytest.raises(ProgrammingError):
        unread(stream)


def test_two_consumers_never_both(stream: Connection, connect: Open) -> None:
    insert(stream, 1)
    first, second = connect(), connect()
    run(first, "begin", "select count(*) from s")
    run(second, "begin", "select count(*) from s")
    run(first, "insert into staged select id, 'first' from s")
    with pytest.raises(ProgrammingError, match="locked") as caught:
        run(second, "insert into staged select id, 'second' from s")
    assert caught.value.errno == 625
    run(first, "commit")
    with pytest.raises(ProgrammingError):
        run(second, "insert into staged select id, 'second' from s")
    run(second, "rollback")
    assert rows(stream, "select * from staged") == [(1, "first")]
    assert not has_data(stream)


def test_a_second_consumer_waits_for_the_first(stream: Connection, connect: Open, account: StandIn) -> None:
    account.longest_lock_wait_seconds = 10
    insert(stream, 1)
    other = connect()
    run(stream, "begin", "insert into staged select id, 'first' from s")
    waiter = threading.Thread(target=run, args=(other, "insert into staged select id, 'second' from s"))
    waiter.start()
    waiter.join(0.2)
    assert waiter.is_alive()
    run(stream, "commit")
    waiter.join()
    assert rows(stream, "select * from staged") == [(1, "first")]


def test_threads_lose_and_double_nothing(stream: Connection, connect: Open, account: StandIn) -> None:
    account.longest_lock_wait_seconds = 30
    is_done = threading.Event()

    def produce(first: int) -> None:
        producer = connect()
        for number in range(15):
            insert(producer, first + number)

    def consume() -> None:
        consumer = connect()
        while not is_done.is_set() or has_data(consumer):
            run(consumer, "insert into staged select id, 'x' from s")

    producers = [threading.Thread(target=produce, args=(1000 * number,)) for number in (1, 2)]
    consumers = [threading.Thread(target=consume) for _ in range(2)]
    for thread in (*producers, *consumers):
        thread.start()
    for thread in producers:
        thread.join()
    is_done.set()
    for thread in consumers:
        thread.join()
    assert rows(stream, "select count(*), count(distinct id) from staged") == [(30, 30)]


@dataclass
class Opened:
    """What the model knows of an open transaction."""

    seen: set[int]
    moves: int
    own: set[int] = field(default_factory=set)
    is_fresh: bool = True
    has_taken: bool = False


class Model:
    """Sessions over one stream, and what each must see. Every step is checked as it is made."""

    def __init__(self, sessions: list[Connection]) -> None:
        self.sessions = sessions
        self.open: list[Opened | None] = [None] * len(sessions)
        self.committed: set[int] = set()
        self.consumed: set[int] = set()
        self.moves = 0
        self.next_id = 0

    @property
    def pending(self) -> set[int]:
        return self.committed - self.consumed

    def begin(self, who: int) -> None:
        run(self.sessions[who], "begin")
        if self.open[who] is None:
            self.open[who] = Opened(self.pending, self.moves)

    def produce(self, who: int) -> None:
        ids = {self.next_id, self.next_id + 1}
        self.next_id += 2
        insert(self.sessions[who], *ids)
        transaction = self.open[who]
        if transaction is None:
            self.committed |= ids
        else:
            transaction.own |= ids
            transaction.is_fresh = False

    def read(self, who: int) -> None:
        transaction = self.open[who]
        wanted = self.pending if transaction is None else transaction.seen
        assert unread(self.sessions[who]) == sorted(wanted)
        assert has_data(self.sessions[who]) == bool(wanted)
        if transaction:
            transaction.is_fresh = False

    def insert_from(self, who: int) -> None:
        self._consume(who, "insert into staged (id) select id from s")

    def merge_from(self, who: int) -> None:
        self._consume(who, "merge into staged using s on false when not matched then insert (id) values (s.id)")

    def _consume(self, who: int, sql: str) -> None:
        transaction = self.open[who]
        if any(other and other.has_taken for other in self.open if other is not transaction):
            with pytest.raises(ProgrammingError, match="locked"):
                run(self.sessions[who], sql)
            return
        if transaction is None:
            run(self.sessions[who], sql)
            self.consumed |= self.pending
            self.moves += 1
            return
        if transaction.moves != self.moves:
            if not transaction.is_fresh:
                with pytest.raises(ProgrammingError, match="locked"):
                    run(self.sessions[who], sql)
                self.roll_back(who)
                return
            transaction.seen, transaction.moves = self.pending, self.moves
        run(self.sessions[who], sql)
        transaction.has_taken, transaction.is_fresh = True, False

    def commit(self, who: int) -> None:
        run(self.sessions[who], "commit")
        transaction, self.open[who] = self.open[who], None
        if transaction is None:
            return
        self.committed |= transaction.own
        if transaction.has_taken:
            self.consumed |= transaction.seen
            self.moves += 1

    def roll_back(self, who: int) -> None:
        run(self.sessions[who], "rollback")
        self.open[who] = None

    def finish(self) -> None:
        for who in range(len(self.sessions)):
            self.commit(who)
        run(self.sessions[0], "insert into staged (id) select id from s")
        assert set(column(self.sessions[0], "select distinct id from staged")) == self.committed


@pytest.mark.parametrize("seed", range(10))
def test_interleaved_sessions(stream: Connection, connect: Open, account: StandIn, seed: int) -> None:
    """Random interleavings against a model: reads repeat, nothing is lost, nothing is read twice."""
    account.longest_lock_wait_seconds = 0
    draw = random.Random(seed)
    model = Model([stream, connect(), connect()])
    steps = [model.begin, model.produce, model.produce, model.read, model.read, model.insert_from, model.merge_from,
             model.commit, model.roll_back]  # fmt: skip
    for _ in range(40):
        draw.choice(steps)(draw.randrange(3))
    model.finish()
