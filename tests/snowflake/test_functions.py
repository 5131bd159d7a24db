"""SQL functions mean on the stand-in what Snowflake documents, where a green test would otherwise mislead.

https://docs.snowflake.com/en/sql-reference/functions-all. A failure after an upgrade of fakesnow, sqlglot or DuckDB
means that the stand-in's corrections (corrections.py) need a look.
"""

from datetime import date, datetime
from typing import Any

import pytest
from snowflake.connector.errors import ProgrammingError

from tests.snowflake.ask import rows, run, value
from tests.snowflake.session import Connection

pytestmark = pytest.mark.stand_in

_V = 'parse_json(\'{"a": "x", "n": null, "i": 1, "o": {"b": [1, {"c": "z"}]}, "t": true, "d": 1.5}\')'
_NOON = "'2026-01-01 12:00:00.9'::timestamp_ntz"

_TYPES_OF_VARIANTS = {
    "is_object(parse_json('{}'))": True,
    "is_object(parse_json('[]'))": False,
    "is_object(null::variant)": None,
    "is_array(parse_json('[]'))": True,
    "is_varchar(parse_json('\"a\"'))": True,
    "is_varchar(parse_json('1'))": False,
    "is_integer(parse_json('1'))": True,
    "is_integer(parse_json('1.5'))": False,
    "is_boolean(parse_json('true'))": True,
    "is_null_value(parse_json('null'))": True,
    f"is_null_value({_V}:n)": True,
    f"is_null_value({_V}:missing)": None,
    f"strip_null_value({_V}:n) is null": True,
    f"strip_null_value({_V}:i)": "1",
    "as_varchar(parse_json('\"a\"'))": "a",
    "as_varchar(parse_json('1'))": None,
    "as_varchar(parse_json('null'))": None,
    "as_object(parse_json('{\"a\": 1}'))": '{"a":1}',
    "as_object(parse_json('[1]'))": None,
    "as_array(parse_json('[1]'))": "[1]",
    "as_integer(parse_json('1'))": 1,
    "as_boolean(parse_json('true'))": True,
    "typeof(parse_json('1'))": "INTEGER",
    "typeof(parse_json('\"a\"'))": "VARCHAR",
    "typeof(parse_json('[1]'))": "ARRAY",
    "typeof(parse_json('null'))": "NULL_VALUE",
    "is_timestamp_ntz(to_variant('2026-01-01 00:00:00'::timestamp_ntz))": True,
    "is_timestamp_ntz(to_variant('2026-01-01'))": False,
}
_PARSING = {
    "try_parse_json('{broken')": None,
    "try_parse_json('{\"a\": 1}')": '{"a":1}',
    "try_parse_json('null')": "null",
    "try_parse_json('null') is null": False,
    "try_parse_json('')": None,
    "try_parse_json(null)": None,
    'try_parse_json(\'{"a": 1, "a": 2}\')': None,
    "try_parse_json('{\"a\": 1, \"a\": 2}', 'd')": '{"a":2}',
    "parse_json('')": None,
    "check_json('{}')": None,
}
_PATHS = {
    f"{_V}:a::varchar": "x",
    f"{_V}['a']::varchar": "x",
    f"{_V}:A::varchar": None,
    f"{_V}:o.b[1].c::varchar": "z",
    f"{_V}:o['b'][0]::integer": 1,
    f"{_V}:a = 'x'": True,
    f"{_V}:a <> 'x'": False,
    f"{_V}:a in ('x', 'y')": True,
    f"{_V}:i = 1": True,
    f"{_V}:n::varchar": None,
    f"{_V}:n::integer": None,
    f"{_V}:n is null": False,
    f"{_V}:missing is null": True,
    f"{_V}:t::boolean": True,
    f"{_V}:d::double": 1.5,
    f"{_V}:o::object": '{"b":[1,{"c":"z"}]}',
    f"{_V}:o.b::array": '[1,{"c":"z"}]',
    f"{_V}:i::varchar": "1",
    f"get_path({_V}, 'o.b')[0]::integer": 1,
    f"get({_V}, 'a')::varchar": "x",
    "get(array_construct('a', 'b'), 1)": '"b"',
    "get(array_construct('a'), 5)": None,
    "parse_json('null')::varchar": None,
    "parse_json('\"x\"')::varchar": "x",
    "parse_json('[\"x\"]')[0] = 'x'": True,
    'parse_json(\'{"at": "2026-01-01T00:00:00.123Z"}\'):at::timestamp_ntz': datetime(2026, 1, 1, 0, 0, 0, 123000),
}
_ARRAYS = {
    "array_construct(1, 'a', null)": '[1,"a",null]',
    "array_construct()": "[]",
    "array_construct(0.1::double)": "[0.1]",
    "array_construct('a')[0]::varchar": "a",
    "array_size(array_construct(1, 2))": 2,
    "array_size(parse_json('{}'))": None,
    "array_size(null::array)": None,
    "array_contains('a'::variant, array_construct('a', 'b'))": True,
    "array_distinct(array_construct('b', 'a', 'b'))": '["b","a"]',
    "array_cat(array_construct(1), array_construct('a'))": '[1,"a"]',
    "array_append(array_construct(1), 2)": "[1,2]",
    "array_compact(array_construct(1, null))": "[1]",
    "array_slice(array_construct('a', 'b', 'c'), 0, 2)": '["a","b"]',
    "array_position('b'::variant, array_construct('a', 'b'))": 1,
    "array_to_string(array_construct('a', 'b'), ',')": "a,b",
    "arrays_overlap(array_construct('a'), array_construct('a', 'b'))": True,
    "to_array('a')": '["a"]',
    "split('a,b', ',')": '["a","b"]',
}
_OBJECTS = {
    "object_construct('b', 1, 'a', null, 'c', 'x')": '{"b":1,"c":"x"}',
    "object_construct()": "{}",
    "object_construct('b', 1, 'a', 2)": '{"a":2,"b":1}',
    "object_construct('a', parse_json('null'))": '{"a":null}',
    "object_construct('a', true, 'b', array_construct(1), 'c', object_construct('d', 1.5))": (
        '{"a":true,"b":[1],"c":{"d":1.5}}'
    ),
    "object_construct_keep_null('a', null)": '{"a":null}',
    'object_keys(parse_json(\'{"b": 1, "a": 2}\'))': '["a","b"]',
    "object_insert(object_construct('a', 1), 'b', 2)": '{"a":1,"b":2}',
    "to_json(object_construct('a', 1))": '{"a":1}',
    "to_variant('a')::varchar": "a",
}
_TIMES = {
    f"datediff('microsecond', '2026-01-01'::timestamp_ntz, {_NOON})": 43200900000,
    f"datediff('second', {_NOON}, '2026-01-01 12:00:01.1'::timestamp_ntz)": 1,
    f"datediff('hour', {_NOON}, '2026-01-01 13:00:00'::timestamp_ntz)": 1,
    f"datediff(day, {_NOON}, '2026-01-02'::timestamp_ntz)": 1,
    "dateadd('hour', 24, '2026-01-01'::timestamp_ntz)": datetime(2026, 1, 2),
    "dateadd('day', -90, '2026-01-01'::timestamp_ntz)": datetime(2025, 10, 3),
    "dateadd(microsecond, 5, '2026-01-01'::timestamp_ntz)": datetime(2026, 1, 1, 0, 0, 0, 5),
    "dateadd(day, 1, '2026-01-01'::date)": date(2026, 1, 2),
    "to_timestamp_ntz('2026-01-01T01:02:03.5Z')": datetime(2026, 1, 1, 1, 2, 3, 500000),
    "to_timestamp_ntz(1767225600)": datetime(2026, 1, 1),
    "to_timestamp_ntz(1767225600123, 3)": datetime(2026, 1, 1, 0, 0, 0, 123000),
    "'2026-01-01T09:00:00+09:00'::timestamp_ntz": datetime(2026, 1, 1, 9),
    "timestamp '2026-01-01 02:03:04.056789'": datetime(2026, 1, 1, 2, 3, 4, 56789),
    "try_cast('2026-01-01T00:00:00.123Z' as timestamp)": datetime(2026, 1, 1, 0, 0, 0, 123000),
    "try_cast('2026-01-01T09:00:00+09:00' as timestamp)": datetime(2026, 1, 1, 9),
    "try_cast('2026-02-30T00:00:00Z' as timestamp)": None,
    "try_cast('nope' as timestamp_ntz)": None,
    "try_to_timestamp_ntz('nope')": None,
    f"to_varchar({_NOON}, 'YYYY-MM-DD\"T\"HH24:MI:SS.FF6')": "2026-01-01T12:00:00.900000",
    f"to_varchar({_NOON}, 'YYYY-MM-DD HH24:MI:SS.FF3')": "2026-01-01 12:00:00.900",
    f"{_NOON}::varchar": "2026-01-01 12:00:00.900",
    "convert_timezone('UTC', 'Asia/Tokyo', '2026-01-01'::timestamp_ntz)": datetime(2026, 1, 1, 9),
    "convert_timezone('UTC', '2026-01-01 00:00:00 +0900'::timestamp_tz)::timestamp_ntz": datetime(2025, 12, 31, 15),
    f"date_part(epoch_second, {_NOON})": 1767268800,
    f"date_part('epoch_millisecond', {_NOON})": 1767268800900,
    f"date_trunc('hour', {_NOON})": datetime(2026, 1, 1, 12),
    f"{_NOON}::date": date(2026, 1, 1),
    "sysdate() <= dateadd('minute', 1, current_timestamp()::timestamp_ntz)": True,
}
_TEXTS = {
    "octet_length('aé')": 3,
    "length('aé')": 2,
    "'abc' rlike 'b'": False,
    "'abc' rlike 'a.c'": True,
    "regexp_like('abc', 'b')": False,
    "regexp_like('abc', '[a-c]{3}')": True,
    "regexp_like('a\\nb', 'a.b')": False,
    "regexp_like('ABC', 'abc', 'i')": True,
    "regexp_like(null, 'a')": None,
    "regexp_substr('bad id', '^[a-z]+$')": None,
    "split_part('a/b/c', '/', -1)": "c",
    "'a' || null": None,
    "concat_ws(',', 'a', 'b')": "a,b",
    "2::double::varchar": "2",
    "true::varchar": "true",
    "md5('a')": "0cc175b9c0f1b6a831c399e269772661",
    "sha2('a')": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",
}
_NUMBERS = {
    "10 / 4": 2.5,
    "1 / 3": 0.333333,
    "1::double / 3": 1 / 3,
    "2.5::double::integer": 3,
    "'2.5'::number": 3,
    "1.123456789::decimal(18, 6)::double": 1.123457,
    "power(0.5e0, 2)": 0.25,
    "greatest(1, null)": None,
    "div0(1, 0)::integer": 0,
    "try_cast('x' as integer)": None,
    "try_to_number('x')": None,
    "null is not distinct from null": True,
    "mod(-7, 3)": -1,
}


@pytest.mark.parametrize(
    ("expression", "wanted"),
    [
        pytest.param(expression, wanted, id=expression)
        for table in (_TYPES_OF_VARIANTS, _PARSING, _PATHS, _ARRAYS, _OBJECTS, _TIMES, _TEXTS, _NUMBERS)
        for expression, wanted in table.items()
    ],
)
def test_an_expression(plain: Connection, expression: str, wanted: Any) -> None:
    answer = value(plain, f"select {expression}")
    assert (answer, type(answer)) == (wanted, type(wanted))


@pytest.fixture(scope="module")
def plain(account: Any) -> Connection:
    """One session for all expressions."""
    return account.connect(database="KURASHIRU", schema="PUBLIC", warehouse="W")


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("select sum(x), max(x) from (values (1), (2)) as t (x)", [(3, 2)]),
        ("select sum(x) from (select 1 as x where false)", [(None,)]),
        ("select array_agg(x) from (select 1 as x where false)", [("[]",)]),
        ("select array_agg(x) within group (order by x desc) from (values (1), (null), (3)) as t (x)", [("[3,1]",)]),
        (
            "select array_agg(object_construct('k', x)) within group (order by x) from (values (2), (1)) as t (x)",
            [('[{"k":1},{"k":2}]',)],
        ),
        ("select listagg(x, ',') within group (order by x) from (values ('b'), ('a')) as t (x)", [("a,b",)]),
        ("select listagg(x, ',') from (select 'a' as x where false)", [("",)]),
        ("select x from (values (2), (null), (1)) as t (x) order by x", [(1,), (2,), (None,)]),
        ("select x from (values (2), (null), (1)) as t (x) order by x desc", [(None,), (2,), (1,)]),
        ("select column1 from values (1), (2) order by 1", [(1,), (2,)]),
        (
            "select f.index, f.value::varchar, f.value from (select array_construct('a', 'b') as v) as t, "
            "lateral flatten(input => t.v) as f order by f.index",
            [(0, "a", '"a"'), (1, "b", '"b"')],
        ),
        (
            "select t.n, f.value::varchar from (select 1 as n, array_construct() as v union all "
            "select 2, array_construct('x')) as t, lateral flatten(input => t.v, outer => true) as f order by 1",
            [(1, None), (2, "x")],
        ),
        (
            "select f.value::integer from (select parse_json('{\"a\": [1, 2]}') as v) as t, "
            "lateral flatten(input => v, path => 'a') as f order by 1",
            [(1,), (2,)],
        ),
        ('select f.value:id::varchar from table(flatten(input => parse_json(\'[{"id": "z"}]\'))) as f', [("z",)]),
        ("select x, row_number() over (order by x) as r from (values (5), (4)) as t (x) qualify r = 1", [(4, 1)]),
        ("select * exclude (b) from (select 1 as a, 2 as b)", [(1,)]),
        ("select count(*) from table(generator(rowcount => 3))", [(3,)]),
        ("select x as y, y + 1 as z from (select 1 as x)", [(1, 2)]),
    ],
)
def test_a_query(plain: Connection, query: str, wanted: list[tuple[Any, ...]]) -> None:
    assert rows(plain, query) == wanted


@pytest.mark.parametrize("expression", ["1 / 0", "'abc'::integer", "parse_json('{')", "missing_function(1)"])
def test_what_is_an_error(plain: Connection, expression: str) -> None:
    with pytest.raises(ProgrammingError):
        value(plain, f"select {expression}")


def test_semi_structured_columns_keep_their_values(session: Connection) -> None:
    run(session, "create table t (v variant, a array, o object)")
    run(session, "insert into t select to_variant('x'), array_construct('y', 1.5), object_construct('z', null, 'w', 2)")
    assert rows(session, "select v, v::varchar, a[0]::varchar, a[1]::double, o from t") == [
        ('"x"', "x", "y", 1.5, '{"w":2}')
    ]
    run(session, "update t set v = null", "insert into t (a) select parse_json('[]')::array")
    assert rows(session, "select count(v), count(a), count(o) from t") == [(0, 2, 1)]


def test_declared_types_are_told(session: Connection, schema: str) -> None:
    run(
        session,
        "create table t (a array, o object, v variant, w varchar(36) not null, n number(38, 0), b bigint, "
        "s number(10, 2), d double, at timestamp_ntz, f boolean)",
    )
    described = {row[0]: (row[1], row[3]) for row in rows(session, "describe table t")}
    assert described == {
        "A": ("ARRAY", "Y"), "O": ("OBJECT", "Y"), "V": ("VARIANT", "Y"), "W": ("VARCHAR(36)", "N"),
        "N": ("NUMBER(38,0)", "Y"), "B": ("NUMBER(38,0)", "Y"), "S": ("NUMBER(10,2)", "Y"), "D": ("FLOAT", "Y"),
        "AT": ("TIMESTAMP_NTZ(9)", "Y"), "F": ("BOOLEAN", "Y"),
    }  # fmt: skip
    query = f"select column_name, data_type from information_schema.columns where table_schema = '{schema}' order by 1"
    assert rows(session, query)[:3] == [("A", "ARRAY"), ("AT", "TIMESTAMP_NTZ"), ("B", "NUMBER")]
    shown = rows(session, "show columns in table t")
    assert [(row[2], row[3]) for row in shown][:1] == [("A", '{"type": "ARRAY", "nullable": true}')]
    query = f"select table_name from information_schema.tables where table_schema = '{schema}'"
    assert rows(session, query) == [("T",)]


def test_a_column_may_come_later(session: Connection, schema: str) -> None:
    run(session, "create table t (a varchar)", "insert into t values ('x')")
    for _ in range(2):
        run(session, "alter table t add column if not exists late array")
    run(session, "insert into t (a, late) select 'y', parse_json('[1.5]')::array")
    assert rows(session, "select a, late from t order by a") == [("x", None), ("y", "[1.5]")]
    assert [row[:2] for row in rows(session, "describe table t")][1] == ("LATE", "ARRAY")
