"""The grants suffice for what the pipeline does, and docs/security.md says which they are.

The stand-in lets every role do everything. So the statements of a whole run are held against the grants by their text.
"""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from click.testing import CliRunner

from kurashiru_pipeline.cli import cli
from kurashiru_pipeline.deployment import scripts
from kurashiru_pipeline.environment import PROJECT_ROOT, Settings
from kurashiru_pipeline.local.simulate import simulate
from tests.deployment.administration import Administration
from tests.engines import register_functions
from tests.snowflake.stand_in import StandIn

Privilege = tuple[str, str]

_NAME = r"(?:KURASHIRU\.)?(raw|staging|recommendation|serving|ops|model)\.(\w+)"
_NEEDS = {
    "insert": rf"\binsert\s+into\s+{_NAME}",
    "update": rf"\bupdate\s+{_NAME}",
    "delete": rf"\bdelete\s+from\s+{_NAME}",
    "select": rf"(?<!delete )\b(?:from|join|using)\s+{_NAME}",
    "write": rf"\b(?:copy\s+into|remove)\s+@{_NAME}",
    "read": rf"\b(?:list|from|build_scoped_file_url\()\s*@{_NAME}",
    "monitor": rf"system\$pipe_status\('{_NAME}",
    "usage": rf"(?<!from )(?<!into )(?<!join )(?<!update )\b{_NAME}\s*\(",
}


def needed(sql: str) -> Iterator[Privilege]:
    """(privilege, schema.object) of what a statement reads, writes and calls."""
    text = " ".join(sql.split())
    for privilege, pattern in _NEEDS.items():
        for schema, name in re.findall(pattern, text, re.IGNORECASE):
            yield privilege, f"{schema}.{name}".lower()
    if "system$stream_has_data" in text.lower():
        for name in re.findall(r"system\$stream_has_data\('([\w.]+)'\)", text, re.IGNORECASE):
            yield "select", name.lower()


def held(settings: Settings) -> set[Privilege]:
    """(privilege, schema.object) of the orchestrator, with what it has through the transformer."""
    declared = scripts.declared(settings)
    names = scripts.names(settings)
    found = set()
    for grant in declared.grants:
        if grant.role not in {names["orchestrator"], names["transformer"]} or grant.scope == "future":
            continue
        if grant.scope == "all":
            objects = {"tables": declared.tables, "streams": declared.streams}[grant.kind]
            found |= {(grant.privilege, name) for name in objects if name.startswith(f"{grant.name}.")}
        else:
            found.add((grant.privilege, grant.name.partition("(")[0]))
    # Objects that no script makes: schemachange's table is one of ops, the transformer owns the functions it makes.
    functions = {("usage", f"recommendation.{name}") for name in ("build_profile", "rank_recipes", "rank_challenger")}
    return found | functions | {("select", "ops.change_history")}


@pytest.fixture
def sent(
    deployed: StandIn,
    administered_deployment: Administration,
    variables: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[list[str], Settings]:
    """Statements of everything that the orchestrator's role does, in the way of production."""
    way = {"KURASHIRU_KERNEL": "warehouse", "KURASHIRU_REFLECT": "external_function"}
    for name, value in {**variables, **way}.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    register_functions(deployed, settings)
    administered_deployment.functions += ["BUILD_PROFILE", "RANK_RECIPES"]
    simulate(deployed.landing, events=300, users=20, recipes=30, seed=1, malformed=0.05, duplicates=0.05)
    deployed.statements.clear()
    for command in ("drain", "status", "maintain", "doctor"):
        outcome = CliRunner().invoke(cli, [command], catch_exceptions=False)
        assert outcome.exit_code == 0, outcome.output
    return [statement.sql for statement in deployed.statements], settings


def test_a_whole_run_needs_no_more_than_is_granted(sent: tuple[list[str], Settings]) -> None:
    statements, settings = sent
    wanted = {privilege for sql in statements for privilege in needed(sql)}
    assert sorted(wanted - held(settings)) == []


def test_the_run_was_a_whole_one(sent: tuple[list[str], Settings]) -> None:
    statements, _ = sent
    wanted = {privilege for sql in statements for privilege in needed(sql)}
    assert {privilege for privilege, _ in wanted} == set(_NEEDS)
    assert wanted >= {
        ("select", "raw.str_behavior_events"),
        ("insert", "staging.behavior_events"),
        ("insert", "staging.recipes"),
        ("delete", "recommendation.recommendations"),
        ("usage", "recommendation.rank_recipes"),
        ("usage", "serving.put_items"),
        ("insert", "serving.delivered_items"),
        ("update", "ops.writer_lease"),
        ("write", "model.inputs"),
        ("monitor", "raw.pipe_behavior_events"),
    }


def test_nothing_of_raw_can_be_changed_and_no_history_forged(settings: Settings) -> None:
    writes = {name for privilege, name in held(settings) if privilege in {"insert", "update", "delete"}}
    assert {name for name in writes if name.startswith("raw.")} == {"raw.loaded_files"}
    statements = [statement for script in scripts.migrations(settings) for statement in script.statements]
    assert "revoke insert, update, delete on table ops.change_history from role KURASHIRU_ORCHESTRATOR" in statements


def test_the_page_names_every_grant(settings: Settings) -> None:
    page = (PROJECT_ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    rows = page.partition("| role | kind | where | privileges |")[2].split("\n\n")[0].splitlines()[2:]
    told = set()
    for row in rows:
        [role], [kind], places, privileges = (re.findall(r"`([^`]+)`", cell) for cell in row.strip("|").split("|"))
        told |= {(role, kind, place, privilege) for place in places for privilege in privileges}
    declared: dict[str, set[Any]] = {"": set(), "all": set(), "future": set()}
    database = scripts.names(settings)["database"]
    for grant in scripts.declared(settings).grants:
        role, name = grant.role.removeprefix(f"{database}_"), grant.name.replace(database, "DB")
        declared[grant.scope].add((role, grant.kind, name.partition("(")[0], grant.privilege))
    assert declared["all"] == declared["future"]
    assert told == declared[""] | declared["all"]
