"""Rows, Arrow tables and counts come as the connector gives them."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest
from snowflake.connector import DictCursor

from tests.snowflake.ask import rows, run
from tests.snowflake.session import Connection

pytestmark = pytest.mark.stand_in

_ALL = """
    select 1 as small, 300 as wider, 10::number(38, 0) as whole, 1.25::number(10, 2) as scaled, 0.5::double as real,
        'x' as word, true as flag, '2026-01-02'::date as day, '2026-01-02 03:04:05.678901'::timestamp_ntz as ntz,
        '2026-01-02 03:04:05+00:00'::timestamp_ltz as ltz, parse_json('{"a": [1]}') as v, array_construct('a') as a,
        object_construct('k', 1) as o
"""


def test_rows(session: Connection) -> None:
    [row] = rows(session, _ALL)
    assert row == (
        1, 300, 10, Decimal("1.25"), 0.5, "x", True, date(2026, 1, 2), datetime(2026, 1, 2, 3, 4, 5, 678901),
        datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), '{"a":[1]}', '["a"]', '{"k":1}',
    )  # fmt: skip
    assert [type(item) for item in row[:5]] == [int, int, int, Decimal, float]


def test_arrow(session: Connection) -> None:
    table = session.cursor().execute(_ALL).fetch_arrow_all()
    assert table is not None
    assert table.column_names == [
        "SMALL", "WIDER", "WHOLE", "SCALED", "REAL", "WORD", "FLAG", "DAY", "NTZ", "LTZ", "V", "A", "O"
    ]  # fmt: skip
    assert table.schema.types == [
        pa.int8(), pa.int16(), pa.int8(), pa.float64(), pa.float64(), pa.string(), pa.bool_(), pa.date32(),
        pa.timestamp("ns"), pa.timestamp("ns", "UTC"), pa.string(), pa.string(), pa.string(),
    ]  # fmt: skip
    in_microseconds = session.cursor().execute(_ALL).fetch_arrow_all(force_microsecond_precision=True)
    assert in_microseconds is not None
    assert in_microseconds.schema.field("NTZ").type == pa.timestamp("us")


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ("(1), (-128)", pa.int8()),
        ("(1), (128)", pa.int16()),
        ("(40000)", pa.int32()),
        ("(3000000000), (null)", pa.int64()),
    ],
)
def test_whole_numbers_come_as_narrow_as_their_values(session: Connection, values: str, kind: pa.DataType) -> None:
    table = session.cursor().execute(f"select column1::bigint as n from values {values}").fetch_arrow_all()
    assert table is not None
    assert table.schema.field("N").type == kind


def test_arrow_without_rows(session: Connection) -> None:
    query = "select 1 as n, 'x' as word where false"
    assert session.cursor().execute(query).fetch_arrow_all() is None
    table = session.cursor().execute(query).fetch_arrow_all(force_return_table=True)
    assert table is not None
    assert table.schema == pa.schema([("N", pa.int64()), ("WORD", pa.string())])


def test_description(session: Connection) -> None:
    cursor = session.cursor().execute(_ALL)
    assert [part.type_code for part in cursor.description] == [0, 0, 0, 0, 1, 2, 13, 3, 8, 6, 5, 5, 5]
    assert cursor.description[3].scale == 2


def test_columns_of_one_name_and_of_none(session: Connection) -> None:
    cursor = session.cursor().execute("select 1 as a, 2 as a, count(*)")
    assert cursor.fetchall() == [(1, 2, 1)]
    assert [part.name for part in cursor.description] == ["A", "A", "COUNT(*)"]


def test_fetching_in_parts(session: Connection) -> None:
    cursor = session.cursor().execute("select column1 from values (1), (2), (3), (4) order by 1")
    assert cursor.fetchone() == (1,)
    assert cursor.fetchmany(2) == [(2,), (3,)]
    assert list(cursor) == [(4,)]
    assert cursor.fetchall() == []
    assert cursor.fetchone() is None
    assert session.cursor(DictCursor).execute("select 1 as a").fetchall() == [{"A": 1}]


def test_a_cursor_that_ran_nothing_has_no_result(session: Connection) -> None:
    with pytest.raises(TypeError, match="No open result set"):
        session.cursor().fetchall()


def test_counts_of_dml(session: Connection) -> None:
    run(session, "create table t (id int, n int)")

    def changed(sql: str) -> tuple[int | None, list[tuple[int, ...]], list[str]]:
        cursor = session.cursor().execute(sql)
        return cursor.rowcount, cursor.fetchall(), [part.name for part in cursor.description]

    assert changed("insert into t values (1, 1), (2, 2), (3, 3)") == (3, [(3,)], ["number of rows inserted"])
    assert changed("update t set n = 0 where id > 1") == (
        2, [(2, 0)], ["number of rows updated", "number of multi-joined rows updated"]
    )  # fmt: skip
    assert changed("delete from t where id = 1") == (1, [(1,)], ["number of rows deleted"])
    assert changed("delete from t where id = 1")[0] == 0
    merge = (
        "merge into t using (select 2 as id union all select 3 union all select 9) s on t.id = s.id "
        "when matched and s.id = 2 then delete when matched then update set t.n = t.n + s.id "
        "when not matched then insert (id, n) values (s.id, coalesce(s.id, 0) + 1)"
    )
    assert changed(merge) == (
        3, [(1, 1, 1)], ["number of rows inserted", "number of rows updated", "number of rows deleted"]
    )  # fmt: skip
    assert rows(session, "select * from t order by id") == [(3, 3), (9, 10)]
    run(session, "create stream s on table t append_only = true")
    assert changed("insert into t values (5, 5)") == (1, [(1,)], ["number of rows inserted"])
    assert changed("create table u as select * from t")[0] == 1


def test_parameters(session: Connection) -> None:
    cursor = session.cursor().execute("select %s, %s", ("it's", 5))
    assert cursor.fetchall() == [("it's", 5)]
    assert session.cursor().execute("select %(word)s", {"word": None}).fetchall() == [(None,)]
    run(session, "create table t (id int, name varchar)")
    assert session.cursor().executemany("insert into t values (%s, %s)", [(1, "a"), (2, "b")]).rowcount == 2
    assert rows(session, "select * from t order by id") == [(1, "a"), (2, "b")]


def test_statements_of_a_text(session: Connection) -> None:
    text = "create table t (v varchar); -- a comment; with a semicolon\ninsert into t values ('a;b'); select * from t"
    *_, last = session.execute_string(text)
    assert last.fetchall() == [("a;b",)]
