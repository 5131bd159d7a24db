"""Every statement of deploy/snowflake is executed on the stand-in, or parsed and listed in docs/parsed_only.md."""

import re
from collections.abc import Iterator

import pytest
from sqlfluff.core import Linter

from kurashiru_pipeline.deployment import scripts
from kurashiru_pipeline.environment import PROJECT_ROOT, Settings
from tests.snowflake.stand_in import StandIn

PAGE = (PROJECT_ROOT / "docs" / "parsed_only.md").read_text(encoding="utf-8")
_KINDS = (
    "role|user|warehouse|resource monitor|storage integration|api integration|integration|database|external function"
    "|schema|table|stream|file format|stage|pipe|procedure|task"
)
_OTHER = re.compile(rf"(create|alter|describe) (?:or replace )?(?:secure )?({_KINDS}) ")
_GRANT = re.compile(r"(grant|revoke) .*? on (?:all |future )?([a-z]+)")


def everything(settings: Settings) -> list[scripts.Script]:
    return [*scripts.planned(settings, is_bootstrap=True), *scripts.migrations(settings)]


def kind_of(statement: str) -> str:
    """`create role`, `grant on schema`, ..."""
    text = " ".join(statement.split())
    if text.startswith("grant role "):
        return "grant role"
    if text.startswith("select system$"):
        return "select system function"
    if match := _GRANT.match(text):
        return f"{match[1]} on {match[2]}"
    match = _OTHER.match(text)
    assert match, f"of no known kind: {text}"
    return f"{match[1]} {match[2]}"


def table_of(first_column: str) -> dict[str, list[str]]:
    """What is in code type in the second column of the page's table, by the first column, which is called so."""
    rows = PAGE.partition(f"| {first_column} |")[2].split("\n\n")[0].splitlines()[2:]
    return {re.findall(r"`([^`]+)`", row)[0]: re.findall(r"`([^`]+)`", row.strip("|").split("|")[1]) for row in rows}


def recorded_by(account: StandIn, script: scripts.Script) -> list[str]:
    """Statements of a file that the stand-in accepted without doing anything, or does not know."""
    if script.file == "deploy/snowflake/trust.sql":
        return script.statements
    before = len(account.recorded)
    account.run_script(script.sql)
    return account.recorded[before:]


def test_what_is_not_executed_is_listed_with_its_file_and_the_other_way_round(
    settings: Settings, account: StandIn
) -> None:
    not_executed: dict[str, set[str]] = {}
    for script in everything(settings):
        for statement in recorded_by(account, script):
            not_executed.setdefault(kind_of(statement), set()).add(script.file.rpartition("/")[2])

    assert {kind: sorted(files) for kind, files in table_of("kind of statement").items()} == {
        kind: sorted(files) for kind, files in not_executed.items()
    }


def test_there_is_something_that_is_executed(settings: Settings, account: StandIn) -> None:
    executed = [
        statement
        for script in scripts.migrations(settings)
        for statement in set(script.statements) - set(recorded_by(account, script))
    ]
    assert {kind_of(statement) for statement in executed if statement.startswith("create")} == {
        "create schema",
        "create table",
        "create stream",
        "create file format",
        "create stage",
        "create pipe",
    }


def violations(sql: str) -> Iterator[str]:
    parsed = Linter(dialect="snowflake").parse_string(sql)
    yield from (violation.desc() for violation in parsed.violations)


def test_every_file_is_parsed(settings: Settings) -> None:
    unknown = "|".join(table_of("clause"))
    for script in everything(settings):
        known = re.sub(rf"\n\s+(?:{unknown}) = '[^']*'", "", script.sql)
        assert list(violations(f"{known}\n")) == [], script.file


@pytest.mark.parametrize("clause", table_of("clause"))
def test_what_is_left_out_is_still_unknown(settings: Settings, clause: str) -> None:
    [statement] = [
        statement for script in everything(settings) for statement in script.statements if f"{clause} =" in statement
    ]
    assert list(violations(f"{statement};\n"))


@pytest.mark.parametrize(
    "statement",
    [
        "create stream if not exists raw.s append_only = true on table raw.t",
        "create pipe if not exists raw.p as auto_ingest = true copy into raw.t from @raw.landing",
        "create external function f(a varchar) returns variant max_batch_rows = 5 api_integration = i as 'u'",
        "grant select on all the tables in schema raw to role r",
    ],
)
def test_parsing_finds_what_is_out_of_order(statement: str) -> None:
    assert list(violations(f"{statement};\n"))
