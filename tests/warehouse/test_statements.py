"""SQL files and literals: what goes in comes out of the engine unchanged, and nothing unsafe goes in."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import duckdb
import jinja2
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.warehouse import ducklake, snowflake, statements
from kurashiru_pipeline.warehouse.statements import SQL_FOLDER, Variable, array_columns, literal, render
from tests.warehouse.scripts import COMMON, SNOWFLAKE, changes_tables, parameters_of, source_of
from tests.warehouse.small_lake import Lake

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\\\0"), max_size=40)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63) + 1, 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.datetimes(),
    texts,
)


@pytest.fixture(scope="module")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@given(scalars)
@example("it's -- no 'comment'; drop table t")
@example("{{ batch_id }} {% raw %}")
@example("鶏むね肉\r\n\t🍳\u2028")
@example(5e-324)
@example(-1.7976931348623157e308)
@example(datetime(1, 1, 1))
@example(datetime(9999, 12, 31, 23, 59, 59, 999999))
def test_a_literal_is_read_back_as_it_was(duck: duckdb.DuckDBPyConnection, value: Any) -> None:
    [(found,)] = duck.execute(f"select {literal(value)}").fetchall()
    assert found == value
    assert type(found) is type(value)


@given(st.lists(texts, max_size=6), texts)
@example([], "")
@example([""], "")
def test_a_list_holds_its_members_and_nothing_else(
    duck: duckdb.DuckDBPyConnection, members: list[str], other: str
) -> None:
    for sequence in (members, tuple(members)):
        for text in [*members, other]:
            [(found,)] = duck.execute(f"select coalesce({literal(text)} in {literal(sequence)}, false)").fetchall()
            assert found == (text in members)


def test_subclasses_of_plain_types_are_written_as_those() -> None:
    class Fruit(StrEnum):
        APPLE = "apple"

    assert literal(Fruit.APPLE) == "'apple'"
    assert literal(np.float64(0.1)) == "0.1e0"


@pytest.mark.parametrize(
    ("value", "error", "complaint"),
    [
        (float("nan"), ValueError, "nan has no SQL literal"),
        (float("-inf"), ValueError, "-inf has no SQL literal"),
        ("back\\slash", ValueError, "backslashes"),
        ("null\0byte", ValueError, "backslashes"),
        (["fine", "not\\fine"], ValueError, "backslashes"),
        (datetime(2026, 11, 23, tzinfo=UTC), ValueError, "naive UTC"),
        (b"bytes", TypeError, "bytes has no SQL literal"),
        (object(), TypeError, "object has no SQL literal"),
    ],
)
def test_what_has_no_safe_literal_is_refused(value: Any, error: type[Exception], complaint: str) -> None:
    with pytest.raises(error, match=complaint):
        literal(value)


@pytest.mark.parametrize(
    ("script", "engine"),
    [
        *((script, engine) for script in COMMON for engine in ("ducklake", "snowflake")),
        *((s, "snowflake") for s in SNOWFLAKE),
    ],
)
def test_every_script_renders_to_uniquely_named_statements(script: str, engine: str) -> None:
    rendered = render(script, engine=engine, stream=str, parameters=parameters_of(script))
    names = [statement.name for statement in rendered]
    assert names
    assert len(names) == len(set(names))
    source = source_of(script)
    assert len(names) == source.count("-- statement:")
    assert source.startswith("-- ")
    for statement in rendered:
        assert statement.sql
        assert not re.search(r"\{\{|\{%|;\s*$", statement.sql)
        lines = [line for line in statement.sql.splitlines() if not line.lstrip().startswith("--")]
        assert ";" not in "".join(lines), "one statement, and nothing after it"
        assert lines[-1] == statement.sql.splitlines()[-1], "a comment after a statement belongs to the next"
        if engine == "ducklake":
            assert len(duckdb.extract_statements(statement.sql)) == 1


@pytest.mark.parametrize("script", [script for script in COMMON + SNOWFLAKE if parameters_of(script)])
def test_every_parameter_of_a_script_must_be_given(script: str) -> None:
    given = parameters_of(script)
    for missing in given:
        rest = {name: value for name, value in given.items() if name != missing}
        with pytest.raises(jinja2.UndefinedError, match=missing):
            render(script, engine="snowflake", stream=str, parameters=rest)


def test_an_unknown_script_or_engine_is_an_error() -> None:
    with pytest.raises(FileNotFoundError, match=r"no_such_script\.sql"):
        render("no_such_script", engine="ducklake", stream=str, parameters={})
    with pytest.raises(FileNotFoundError, match=r"oracle\.sql"):
        render("last_batch", engine="oracle", stream=str, parameters={})


def test_a_value_cannot_look_like_a_statement() -> None:
    value = "r1\n-- statement: evil\ndrop table staging.recipes"
    [statement] = render("recipe_titles", engine="ducklake", stream=str, parameters={"recipe_ids": [value]})
    assert statement.name == "titles"
    assert statement.sql.endswith(f"in ('{value}')")


def test_a_variable_is_written_by_its_name_and_only_where_it_stands() -> None:
    [statement] = render(
        "finish_stage",
        engine="snowflake",
        stream=str,
        parameters={
            "batch_id": Variable("batch_id"),
            "stage": ":batch_id",
            "finished_at": Variable("finished_at"),
            "seconds": 0.5,
            "row_count": Variable("staged_count"),
        },
    )
    assert " ".join(statement.sql.split()) == (
        "insert into ops.batch_stages select :batch_id as batch_id, ':batch_id' as stage, "
        ":finished_at as finished_at, 0.5e0 as seconds, :staged_count as row_count"
    )
    with pytest.raises(TypeError, match="Variable has no SQL literal"):
        literal(Variable("batch_id"))  # type: ignore[arg-type]


def test_streams_are_only_read_where_they_move() -> None:
    readers = {script for script in COMMON + SNOWFLAKE if "stream(" in source_of(script)}
    assert readers == {
        "stage_parse",
        "snowflake/take_recipe_exports",
        "snowflake/take_user_exports",
        "snowflake/put_back_lines",  # by CHANGES, which moves nothing
    }
    for engine in (ducklake, snowflake):
        with pytest.raises(KurashiruError, match="inside a transaction"):
            render("stage_parse", engine="ducklake", stream=engine._no_stream, parameters=parameters_of("stage_parse"))


@pytest.mark.parametrize(("engine", "scripts"), [("ducklake", COMMON), ("snowflake", COMMON + SNOWFLAKE)])
def test_macros_are_all_used(engine: str, scripts: list[str]) -> None:
    macros = (SQL_FOLDER / "macros" / f"{engine}.sql").read_text(encoding="utf-8")
    text = "".join(map(source_of, scripts))
    for name in re.findall(r"macro (\w+)\(", macros):
        assert f"{name}(" in text, name


def test_scripts_are_all_used() -> None:
    package = statements.SQL_FOLDER.parent
    code = "".join(path.read_text(encoding="utf-8") for path in package.rglob("*.py"))
    for script in COMMON + SNOWFLAKE:
        is_part = any(f"query('{script}')" in source_of(other) for other in COMMON + SNOWFLAKE)
        assert f'"{script}"' in code or is_part, script


def test_arrays_are_those_of_the_schema() -> None:
    arrays = array_columns()
    assert arrays["recipe_ids"] == "varchar"
    assert arrays["scores"] == "double"
    declared = re.findall(r"(\w+) \{\{ array_type\('(\w+)'\)", source_of("schema"))
    assert dict(declared) == arrays
    assert len(set(declared)) == len(arrays), "one name, one type of elements"


def test_queries_run_on_an_empty_lake(lake: Lake) -> None:
    queries = [script for script in COMMON if not changes_tables(script)]
    queries.remove("stage_summary")  # it reads a work table
    assert len(queries) > 10
    for script in queries:
        assert lake.warehouse.fetch(script, **parameters_of(script)).num_columns > 0
