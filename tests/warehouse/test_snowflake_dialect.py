"""Every script as Snowflake gets it, read by a parser of Snowflake's grammar that is not DuckDB's."""

import pytest
import sqlfluff

from kurashiru_pipeline.warehouse.statements import render
from tests.warehouse.scripts import COMMON, SNOWFLAKE, parameters_of


@pytest.mark.parametrize("script", COMMON + SNOWFLAKE)
def test_every_statement_is_snowflake_s(script: str) -> None:
    for statement in render(script, engine="snowflake", stream=str, parameters=parameters_of(script)):
        violations = sqlfluff.lint(f"{statement.sql};\n", dialect="snowflake", rules=["RF01"])
        assert violations == [], f"{statement.name}: {statement.sql}"


@pytest.mark.parametrize(
    "sql",
    [
        "create or replace stream raw.s on table raw.t append_only = true comment = 'c';\n",
        "create or replace stream raw.s on table raw.t append_only = true show_initial_rows = true comment = 'c';\n",
        "alter stream raw.s set comment = 'c';\n",
        "put 'file:///folder/name.ndjson.gz' @%incoming_x auto_compress = false;\n",
        "copy into incoming_x from (select $1:a::varchar, $1:b::array from @%incoming_x/name.ndjson.gz) "
        "file_format = (type = json) on_error = abort_statement;\n",
        "select system$stream_has_data('raw.s'), system$stream_has_data('raw.u');\n",
        "show tables in database kurashiru;\n",
        "list @model.inputs;\n",
        "remove @model.inputs/7/;\n",
    ],
)
def test_what_the_engine_says_by_itself_is_snowflake_s_too(sql: str) -> None:
    assert sqlfluff.lint(sql, dialect="snowflake", rules=["RF01"]) == []


def test_the_parser_refuses_what_is_not() -> None:
    """So that the tests above can fail."""
    assert (
        sqlfluff.lint("create stream raw.s append_only = true on table raw.t;\n", dialect="snowflake")[0]["code"]
        == "PRS"
    )
    assert sqlfluff.lint("select a from b where;\n", dialect="snowflake")[0]["code"] == "PRS"
