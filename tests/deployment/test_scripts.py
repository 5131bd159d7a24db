"""The SQL of deploy/snowflake: complete, in order, safe to run again, and equal to the pipeline's own schema."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import schemachange.sql_splitter
from schemachange.JinjaTemplateProcessor import JinjaTemplateProcessor
from schemachange.session.Script import get_all_scripts_recursively
from schemachange.version import sorted_alphanumeric
from snowflake.connector.cursor import DictCursor

from kurashiru_pipeline.deployment import scripts
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.warehouse.statements import Statement, render
from tests.snowflake.stand_in import StandIn

# Objects without state: what they hold is their text.
REPLACEABLE = r"(?:secure )?(?:external )?(?:function|view|procedure)"
REPEATABLE_FORMS = (
    r"create (?:[a-z]+ )*if not exists ",
    rf"create or replace {REPLACEABLE} ",
    r"grant ",
    r"revoke ",
    r"use (?:role|warehouse|database) ",
    r"describe ",
    r"select system\$get_",
    r"alter warehouse \w+ set ",
    r"alter table [\w.]+ add column if not exists ",
    r"insert into [\s\S]* where not exists ",
)
SCHEMAS = ("raw", "staging", "recommendation", "serving", "ops", "model")
OF_SNOWFLAKE_ONLY = {
    "raw.recipe_exports",
    "raw.user_exports",
    "serving.delivery_candidates",
    "serving.delivery_results",
    "ops.writer_lease",
    "model.promotions",
    "model.canaries",
    "model.decisions",
}


def everything(settings: Settings) -> list[scripts.Script]:
    return [*scripts.planned(settings, is_bootstrap=True), *scripts.migrations(settings)]


def test_versions_come_in_order_then_what_can_be_repeated(settings: Settings) -> None:
    names = [script.file.rpartition("/")[2] for script in scripts.migrations(settings)]
    assert names == sorted(names, key=lambda name: (name[0] == "R", name))
    versions = [tuple(map(int, name[1:].partition("__")[0].split("."))) for name in names if name[0] == "V"]
    assert all(earlier < later for earlier, later in pairwise(versions))


def test_schemachange_runs_the_same_text_in_the_same_order(settings: Settings) -> None:
    found = get_all_scripts_recursively(scripts.MIGRATIONS)
    theirs = [
        found[name] for kind in "vr" for name in sorted_alphanumeric([name for name in found if name.startswith(kind)])
    ]
    processor = JinjaTemplateProcessor(project_root=scripts.MIGRATIONS)
    rendered = [processor.render(script.name, scripts.variables(settings)) for script in theirs]
    ours = scripts.migrations(settings)

    assert [script.name for script in theirs] == [script.file.rpartition("/")[2] for script in ours]
    assert rendered == [script.sql.removesuffix(";") for script in ours]
    for text, script in zip(rendered, ours, strict=True):
        theirs_split = schemachange.sql_splitter.split_sql_statements(text)
        assert [re.sub(r"^(?:\s*--.*\n)*", "", part).rstrip(";").strip() for part in theirs_split] == script.statements


def test_rendering_leaves_nothing_open_and_is_the_same_each_time(settings: Settings) -> None:
    first, second = everything(settings), everything(settings)
    assert first == second
    assert not [script.file for script in first if re.search(r"\{[{%#]|[}%#]\}|undefined|None", script.sql)]


def test_names_follow_the_settings(variables: dict[str, str]) -> None:
    changed = {
        "KURASHIRU_SNOWFLAKE_DATABASE": "OTHER",
        "KURASHIRU_SNOWFLAKE_DEPLOY_ROLE": "OTHER_DEPLOYER",
        "KURASHIRU_SNOWFLAKE_ROLE": "OTHER_ORCHESTRATOR",
        "KURASHIRU_SNOWFLAKE_WAREHOUSE": "OTHER_PIPELINE",
        "KURASHIRU_SNOWFLAKE_ANALYTICS_WAREHOUSE": "OTHER_ANALYTICS",
        "KURASHIRU_SNOWFLAKE_USER": "SVC_OTHER_DEPLOY",
    }
    text = "\n".join(
        statement
        for script in everything(Settings.load(Environment.PRODUCTION, {**variables, **changed}))
        for statement in script.statements
    )
    assert "OTHER_TRANSFORMER" in text
    assert "create user if not exists SVC_OTHER\n" in text
    assert "create user if not exists SVC_OTHER_DEPLOY\n" in text
    assert "KURASHIRU" not in text


def test_a_prefix_of_the_bucket_is_no_part_of_a_file_name(variables: dict[str, str]) -> None:
    settings = Settings.load(Environment.PRODUCTION, {**variables, "KURASHIRU_LANDING": "s3://bucket/land/here"})
    [pipes] = [script.sql for script in scripts.migrations(settings) if "pipes" in script.file]
    assert pipes.count(f"substr(metadata$filename, {len('land/here/') + 1})") == 3
    [stages] = [script.sql for script in scripts.migrations(settings) if "stages" in script.file]
    assert "url = 's3://bucket/land/here/'" in stages


def test_missing_settings_are_all_named(variables: dict[str, str]) -> None:
    for name in ("KURASHIRU_AWS_API_URL", "KURASHIRU_AWS_TOPIC_ARN"):
        del variables[name]
    with pytest.raises(ConfigurationError, match=r"KURASHIRU_AWS_API_URL[\s\S]*KURASHIRU_AWS_TOPIC_ARN"):
        scripts.migrations(Settings.load(Environment.PRODUCTION, variables))


@pytest.mark.parametrize("place", ["/a/folder", "gs://bucket"])
def test_only_a_bucket_of_s3_can_be_the_landing_place(variables: dict[str, str], place: str) -> None:
    with pytest.raises(ConfigurationError, match="KURASHIRU_LANDING=s3://"):
        scripts.migrations(Settings.load(Environment.PRODUCTION, {**variables, "KURASHIRU_LANDING": place}))


def test_an_installation_without_the_files_says_so(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripts, "MIGRATIONS", tmp_path)
    with pytest.raises(ConfigurationError, match="a checkout of the project"):
        scripts.migrations(settings)


def test_nothing_with_state_is_ever_replaced_or_dropped(settings: Settings) -> None:
    for script in everything(settings):
        for statement in script.statements:
            replaced = re.search(r"\bor (?:replace|alter) +(.*)", statement, re.IGNORECASE)
            assert not replaced or re.match(REPLACEABLE, replaced[1], re.IGNORECASE), f"{script.file}: {statement}"
            assert not re.match(r"drop|truncate|delete|update|undrop", statement, re.IGNORECASE), statement


def test_every_statement_may_be_run_again(settings: Settings) -> None:
    unlike = [
        statement
        for script in everything(settings)
        for statement in script.statements
        if not any(re.match(form, " ".join(statement.split())) for form in REPEATABLE_FORMS)
    ]
    assert unlike == []


def test_future_grants_are_on_schemas_only(settings: Settings) -> None:
    grants = [
        statement
        for script in everything(settings)
        for statement in script.statements
        if re.match(r"grant .* on (?:all|future) ", statement)
    ]
    assert grants
    assert all(re.search(r" in schema \w+ to role ", statement) for statement in grants)
    assert not [statement for statement in grants if " pipes " in statement or " ownership " in statement]


def test_schemas_are_managed_and_keep_their_streams_for_a_month(settings: Settings) -> None:
    created = {
        match[1]: statement
        for script in everything(settings)
        for statement in script.statements
        if (match := re.match(r"create schema if not exists ([\w.]+)", statement))
    }
    assert set(created) == {f"{settings.text('KURASHIRU_SNOWFLAKE_DATABASE')}.ops", *scripts.declared(settings).schemas}
    for statement in created.values():
        assert " with managed access\n" in statement
        assert "max_data_extension_time_in_days = 30" in statement


def test_tables_are_those_of_the_pipeline_column_for_column(settings: Settings, account: StandIn) -> None:
    account.run_script("; ".join(statement.sql for statement in _schema()))
    wanted = _columns(account)
    for schema in ("raw", "staging", "recommendation", "serving", "ops"):
        account.run_script(f"drop schema {schema} cascade")
    for script in scripts.migrations(settings):
        account.run_script(script.sql)
    made = _columns(account)

    assert {name: made.get(name) for name in wanted} == wanted
    assert set(made) - set(wanted) == OF_SNOWFLAKE_ONLY
    assert set(made) == set(scripts.declared(settings).tables)


def test_declared_columns_are_those_that_result(settings: Settings, account: StandIn) -> None:
    for script in scripts.migrations(settings):
        account.run_script(script.sql)
    declared = {name: list(columns) for name, columns in scripts.declared(settings).tables.items()}
    assert declared == {name: [column for column, _ in columns] for name, columns in _columns(account).items()}


def _schema() -> list[Statement]:
    def no_stream(name: str) -> str:
        raise AssertionError(name)

    return render("schema", engine="snowflake", stream=no_stream, parameters={})


def _columns(account: StandIn) -> dict[str, list[tuple[str, str]]]:
    """Columns of the pipeline's tables with their types, in order."""
    found: dict[str, list[tuple[str, str]]] = {}
    with account.connect(database=account.database) as session, session.cursor(DictCursor) as cursor:
        for row in cursor.execute(f"show columns in database {account.database}").fetchall():
            if row["schema_name"].lower() in SCHEMAS:
                table = f"{row['schema_name']}.{row['table_name']}".lower()
                found.setdefault(table, []).append((row["column_name"].lower(), row["data_type"]))
    return found
