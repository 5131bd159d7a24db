"""The dbt project on the stand-in for Snowflake: what it makes of the same staged rows is what it makes on DuckLake.

One history is built once, as in test_marts.py: part of the events, dbt with its unit tests; dbt again; the rest with
its late and repeated events, dbt with its data tests; a day damaged and filled again; all of it from scratch.
"""

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
import sqlfluff
from analytics_account import Account
from analytics_lake import FIRST_DAY, make_events, make_lake, read_tables, write_catalogue, write_events
from analytics_location import Location

from tests.snowflake.account import deployed

pytestmark = pytest.mark.stand_in

Tables = dict[str, list[dict[str, Any]]]
DAMAGED = (FIRST_DAY + timedelta(days=5)).date()
DAY_AFTER = DAMAGED + timedelta(days=1)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    folder = tmp_path_factory.mktemp("account")
    with deployed(folder / "snowflake", folder / "landing") as stand_in:
        yield Account(stand_in, folder / "home")


@pytest.fixture(scope="module")
def ducklake(tmp_path_factory: pytest.TempPathFactory) -> Tables:
    """What DuckLake makes of all events at once."""
    with dg.DagsterInstance.ephemeral() as instance:
        location = Location(make_lake(tmp_path_factory.mktemp("home")), instance)
    write_catalogue(location.settings)
    write_events(location.settings, make_events())
    location.dbt("run")
    return read_tables(location.settings)


@pytest.fixture(scope="module")
def stages(account: Account) -> dict[str, Tables]:
    """All tables after each step of the history."""
    events = make_events()
    seen: dict[str, Tables] = {}
    account.write_catalogue()
    account.write_events([event for event in events if event.batch_id <= 16])
    account.dbt("build", "--exclude-resource-type", "test")
    seen["first"] = account.read_tables()
    account.dbt("run")
    seen["again"] = account.read_tables()
    account.write_events([event for event in events if event.batch_id > 16])
    account.dbt("build", "--exclude-resource-type", "unit_test")
    seen["incremental"] = account.read_tables()
    account.execute(
        "update intermediate.int_behaviors_deduplicated set recipe_id = 'wrong' "
        f"where occurred_on = to_date('{DAMAGED}')"
    )
    account.execute(f"delete from marts.fct_recipe_views where occurred_on = to_date('{DAMAGED}')")
    seen["damaged"] = account.read_tables()
    window = {"start_date": str(DAMAGED), "end_date": str(DAY_AFTER)}
    account.dbt("run", "--vars", json.dumps(window))
    seen["backfilled"] = account.read_tables()
    account.dbt("run", "--full-refresh")
    seen["full"] = account.read_tables()
    return seen


def test_every_table_is_the_one_of_ducklake(stages: dict[str, Tables], ducklake: Tables) -> None:
    made = stages["incremental"]
    assert made.keys() == ducklake.keys()
    assert {name for name in made if made[name] != comparable(ducklake[name])} == set()
    assert len(made["marts.fct_recipe_views"]) > 100
    assert len(made["marts.model_query_behaviors"]) > 100
    assert {row["query_role"] for row in made["marts.model_queries"]} == {"learning", "holdout", "impressions"}


def comparable(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of DuckLake with UUIDs as text, which is what Snowflake has."""
    return sorted(
        ({name: str(value) if name == "event_id" else value for name, value in row.items()} for row in rows), key=repr
    )


def test_running_twice_is_running_once(stages: dict[str, Tables]) -> None:
    assert stages["again"] == stages["first"]


def test_increments_with_late_and_repeated_events_equal_a_full_build(stages: dict[str, Tables]) -> None:
    assert stages["incremental"] == stages["full"]
    assert stages["incremental"] != stages["first"]


def test_backfill_mends_its_day(stages: dict[str, Tables]) -> None:
    assert stages["damaged"] != stages["full"]
    assert stages["backfilled"] == stages["full"]


def test_every_statement_of_a_model_carries_its_name(account: Account, stages: dict[str, Tables]) -> None:
    inserts = [
        statement.query_tag
        for statement in account.stand_in.statements
        if statement.sql.lstrip().startswith("insert into KURASHIRU.marts.fct_searches")
    ]
    assert inserts
    for tag in map(json.loads, inserts):
        assert tag["model"] == "marts.fct_searches"
        assert (tag["app"], tag["env"], tag["tool"]) == ("kurashiru_pipeline", "production", "dbt")


def test_dbt_uses_its_own_warehouse_and_reads_no_stream(account: Account, stages: dict[str, Tables]) -> None:
    of_dbt = [statement for statement in account.stand_in.statements if '"tool": "dbt"' in statement.query_tag]
    assert len(of_dbt) > 300
    assert {statement.warehouse for statement in of_dbt} == {"KURASHIRU_ANALYTICS"}
    assert not [statement.sql for statement in of_dbt if "str_" in statement.sql.lower()]


def test_large_models_are_clustered_by_day_and_nothing_has_fail_safe(
    account: Account, stages: dict[str, Tables]
) -> None:
    created = account_sql(account, "create or replace")
    tables = [sql for sql in created if "table KURASHIRU.marts" in sql or "table KURASHIRU.intermediate" in sql]
    assert tables
    assert not [sql for sql in tables if "transient table" not in sql and "temporary table" not in sql]
    clustered = {sql.split()[2] for sql in account_sql(account, "alter table") if "cluster by" in sql}
    assert clustered == {
        "KURASHIRU.intermediate.int_behaviors_deduplicated",
        "KURASHIRU.intermediate.int_recipe_pairs",
        "KURASHIRU.marts.fct_hourly_recipe_popularity",
        "KURASHIRU.marts.fct_recipe_views",
        "KURASHIRU.marts.fct_recommendation_impressions",
    }


def test_snowflakes_grammar_takes_every_statement(account: Account, stages: dict[str, Tables]) -> None:
    statements = {
        re.sub(r"\d{4}-\d\d-\d\d[ \d:]*", "2026-11-23", re.sub(r"/\*.*?\*/", "", sql)).strip().rstrip(";")
        for beginning in ("create", "insert", "delete", "alter table", "drop")
        for sql in account_sql(account, beginning)
    }
    assert len(statements) > 40
    for statement in statements:
        sqlfluff.parse(statement + ";\n", dialect="snowflake")


def account_sql(account: Account, beginning: str) -> list[str]:
    """Statements of dbt that begin so."""
    of_dbt = (statement for statement in account.stand_in.statements if '"tool": "dbt"' in statement.query_tag)
    return [text for text in (statement.sql.strip() for statement in of_dbt) if text.startswith(beginning)]
