"""Functions whose body is Python: they stand for UDFs and for external functions."""

from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from snowflake.connector.errors import ProgrammingError

from tests.snowflake.ask import column, rows, run, value
from tests.snowflake.session import Connection
from tests.snowflake.stand_in import StandIn

pytestmark = pytest.mark.stand_in


def test_values_in_and_out(session: Connection, account: StandIn, schema: str) -> None:
    seen: list[tuple[Any, ...]] = []

    def body(batch: list[tuple[Any, ...]]) -> list[Any]:
        seen.extend(batch)
        return [{"status": "OK", "n": len(batch)} for _ in batch]

    account.register_function(f"{schema}.put_items", body, 6)
    answer = value(
        session,
        f"select {schema}.put_items('u', 5::number(18, 0), object_construct('a', array_construct(1, 'x')), 0.5::double,"
        " null, '2026-01-01 00:00:00'::timestamp_ntz)",
    )
    assert seen == [("u", 5, {"a": [1, "x"]}, 0.5, None, "2026-01-01 00:00:00")]
    assert answer == '{"status":"OK","n":1}'


def test_an_answer_is_a_variant(session: Connection, account: StandIn, schema: str) -> None:
    account.register_function(f"{schema}.answer", lambda batch: [row[0] for row in batch], 1)
    run(session, "create table t (id int, answer variant)")
    run(
        session,
        "insert into t select column1, answer(parse_json(column2)) from values (1, '{\"k\": \"v\"}'), (2, 'null')",
    )
    assert rows(session, f"select id, answer:k::varchar from kurashiru.{schema}.t order by id") == [(1, "v"), (2, None)]
    assert value(session, f"select kurashiru.{schema}.answer(array_construct('x'))[0]::varchar") == "x"
    assert value(session, "select answer('text')::varchar") == "text"
    assert value(session, "select answer(null) is null") is True


def test_each_row_is_asked_once(session: Connection, account: StandIn, schema: str) -> None:
    asked: Counter[int] = Counter()

    def body(batch: list[tuple[Any, ...]]) -> list[Any]:
        asked.update(row[0] for row in batch)
        return [{"n": row[0]} for row in batch]

    function = account.register_function(f"{schema}.ask", body, 1, batch_rows=100)
    run(session, "create table t as select seq4() as n from table(generator(rowcount => 5000))")
    run(session, "create table answers as select n, ask(n) as answer from t")
    assert asked == Counter(range(5000))
    assert max(function.calls) <= 100
    assert sum(function.calls) == 5000
    assert value(session, "select count(*) from answers where answer:n::integer = n") == 5000


def test_batches_in_another_order_and_sent_twice(session: Connection, account: StandIn, schema: str) -> None:
    calls: list[list[int]] = []

    def body(batch: list[tuple[Any, ...]]) -> list[Any]:
        calls.append([row[0] for row in batch])
        return [row[0] * 10 for row in batch]

    account.register_function(f"{schema}.f", body, 1, batch_rows=3, shuffle_seed=1, repeat_every=2)
    answers = rows(session, "select column1, f(column1)::integer from values (1), (2), (3), (4), (5), (6) order by 1")
    assert answers == [(n, n * 10) for n in range(1, 7)]
    assert [number for call in calls for number in call] != [1, 2, 3, 4, 5, 6]
    assert len(calls) == 3
    assert calls[1] == calls[2]
    assert sorted(calls[0] + calls[1]) == [1, 2, 3, 4, 5, 6]


def test_an_error_in_the_body_fails_the_statement(session: Connection, account: StandIn, schema: str) -> None:
    def body(_batch: list[tuple[Any, ...]]) -> list[Any]:
        message = "the service is away"
        raise RuntimeError(message)

    account.register_function(f"{schema}.f", body, 1)
    run(session, "create table t (n int)", "create table answers (v variant)", "insert into t values (1)")
    with pytest.raises(ProgrammingError, match="the service is away"):
        run(session, "insert into answers select f(n) from t")
    assert rows(session, "select * from answers") == []
    account.register_function(f"{schema}.f", lambda batch: ["now" for _ in batch], 1)
    run(session, "insert into answers select f(n) from t")
    assert column(session, "select v::varchar from answers") == ["now"]


def test_a_body_answers_each_row(session: Connection, account: StandIn, schema: str) -> None:
    account.register_function(f"{schema}.f", lambda _batch: [], 1)
    with pytest.raises(ProgrammingError, match="0 values for 1 rows"):
        run(session, "select f(1)")


def test_calls_need_the_right_arguments_and_a_warehouse(session: Connection, account: StandIn, schema: str) -> None:
    account.register_function(f"{schema}.f", lambda batch: [1 for _ in batch], 2)
    with pytest.raises(ProgrammingError, match="Invalid argument"):
        run(session, "select f(1)")
    run(session, f"select {schema}.f(1, 2)")
    assert account.statements[-1].is_query


def test_the_body_runs_in_a_transaction_that_may_be_rolled_back(
    session: Connection, account: StandIn, schema: str
) -> None:
    """Its effects outside stay, as an external function's do."""
    sent: list[Any] = []

    def body(batch: list[tuple[Any, ...]]) -> list[Any]:
        sent.extend(batch)
        return [str(datetime(2026, 1, 1)) for _ in batch]

    account.register_function(f"{schema}.f", body, 1)
    run(session, "create table answers (v variant)", "begin", "insert into answers select f(1)", "rollback")
    assert sent == [(1,)]
    assert rows(session, "select * from answers") == []
