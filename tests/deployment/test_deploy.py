"""`kurashiru deploy snowflake`: what it prints, and what schemachange makes of it on the stand-in."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import snowflake.connector
from click.testing import CliRunner, Result
from snowflake.connector.errors import DatabaseError, OperationalError, ProgrammingError

from kurashiru_pipeline.cli import cli, main
from kurashiru_pipeline.deployment import scripts
from kurashiru_pipeline.deployment.snowflake import apply_again, apply_bootstrap, apply_migrations
from kurashiru_pipeline.environment import PROJECT_ROOT, Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError, TransientError
from tests.deployment.administration import Administration
from tests.snowflake.session import Connection
from tests.snowflake.stand_in import StandIn


@pytest.fixture
def kurashiru(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs one command with the settings of the test."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, arguments, catch_exceptions=False)

    return run


@pytest.fixture
def bootstrapped(administered: Administration, settings: Settings) -> StandIn:
    administered.account.run_script(scripts.bootstrap(settings).sql)
    return administered.account


@pytest.fixture
def migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the migrations that a test may change."""
    folder = tmp_path / "deploy" / "snowflake" / "migrations"
    folder.mkdir(parents=True)
    for path in scripts.paths():
        (folder / path.name).write_text(path.read_text())
    monkeypatch.setattr(scripts, "MIGRATIONS", folder)
    monkeypatch.setattr(scripts, "PROJECT_ROOT", tmp_path)
    return folder


def rows(account: StandIn, query: str) -> list[tuple[Any, ...]]:
    with account.connect(database=account.database, warehouse="TEST") as session:
        return session.cursor().execute(query).fetchall()


def test_dry_run_prints_every_statement_in_order_and_connects_to_nothing(
    kurashiru: Any, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snowflake.connector, "connect", None)
    printed = kurashiru("deploy", "snowflake", "--dry-run").output

    positions = [printed.index(statement) for script in scripts.migrations(settings) for statement in script.statements]
    assert positions == sorted(positions)
    headers = re.findall(r"^-- (deploy/.*)$", printed, re.MULTILINE)
    assert headers == [path.relative_to(PROJECT_ROOT).as_posix() for path in scripts.paths()]
    assert printed.startswith("-- (schemachange)\nuse role KURASHIRU_DEPLOYER;\nuse warehouse KURASHIRU_PIPELINE;\n")
    assert printed == kurashiru("deploy", "snowflake", "--dry-run").output


def test_dry_run_of_the_bootstrap_is_its_file_with_every_name_filled_in(kurashiru: Any, settings: Settings) -> None:
    printed = kurashiru("deploy", "snowflake", "--bootstrap", "--dry-run").output
    assert printed == (
        f"-- deploy/snowflake/bootstrap.sql\n{scripts.bootstrap(settings).sql}\n\n"
        f"-- deploy/snowflake/trust.sql\n{scripts.trust(settings).sql}\n\n"
    )
    given = json.loads(kurashiru("deploy", "snowflake", "--bootstrap", "--dry-run", "--json").output)
    assert [script["file"] for script in given] == ["deploy/snowflake/bootstrap.sql", "deploy/snowflake/trust.sql"]
    assert given[0]["statements"] == scripts.bootstrap(settings).statements


def test_what_is_printed_can_be_pasted_and_run(
    kurashiru: Any, administered: Administration, settings: Settings
) -> None:
    account = administered.account
    account.run_script(kurashiru("deploy", "snowflake", "--bootstrap", "--dry-run").output)
    account.run_script(kurashiru("deploy", "snowflake", "--dry-run").output)
    shown = rows(account, f"show streams in database {account.database}")
    assert {f"raw.{row[1].lower()}" for row in shown} == set(scripts.declared(settings).streams)


def test_schemachange_applies_everything_once(bootstrapped: StandIn, settings: Settings) -> None:
    told: list[str] = []
    first = apply_migrations(settings, None, told.append)
    second = apply_migrations(settings, None, told.append)

    names = [path.name for path in scripts.paths()]
    assert list(first.applied) == told == names
    assert (second.applied, second.skipped_count, second.drifted) == ((), len(names), ())
    history = rows(bootstrapped, "select script, script_type, status from ops.change_history order by installed_on")
    assert history == [(name, name[0], "Success") for name in names]
    assert rows(bootstrapped, "select name, fence from ops.writer_lease") == [("realtime", 0)]


def test_it_works_as_the_deployer_on_the_pipeline_s_warehouse(bootstrapped: StandIn, settings: Settings) -> None:
    bootstrapped.statements.clear()
    apply_migrations(settings, None, lambda _: None)
    queries = [statement for statement in bootstrapped.statements if statement.is_query]
    assert {statement.warehouse for statement in queries} == {"KURASHIRU_PIPELINE"}
    sent = [statement.sql for statement in bootstrapped.statements]
    assert "USE ROLE IDENTIFIER('KURASHIRU_DEPLOYER');" in sent
    tags = {statement.query_tag for statement in queries}
    assert any("V1.0.1__tables.sql" in tag for tag in tags)


def test_the_history_is_the_one_that_is_printed(bootstrapped: StandIn, settings: Settings) -> None:
    bootstrapped.statements.clear()
    apply_migrations(settings, None, lambda _: None)
    [sent] = [sent.sql for sent in bootstrapped.statements if "CREATE TABLE IF NOT EXISTS" in sent.sql]
    [printed] = [
        statement
        for statement in scripts.planned(settings, is_bootstrap=False)[0].statements
        if statement.startswith("create table")
    ]
    assert "".join(sent.lower().split()).rstrip(";") == "".join(printed.lower().split())


def test_running_it_again_changes_nothing_that_is_there(bootstrapped: StandIn, settings: Settings) -> None:
    apply_migrations(settings, None, lambda _: None)
    bootstrapped.run_script(
        "update ops.writer_lease set fence = 7; insert into raw.behavior_events (payload) values ('a line')"
    )
    before = rows(bootstrapped, "select count(*) from raw.str_behavior_events")

    bootstrapped.run_script(scripts.bootstrap(settings).sql)
    count = apply_again(settings, None, lambda _: None)

    assert count == sum(len(script.statements) for script in scripts.planned(settings, is_bootstrap=False))
    assert rows(bootstrapped, "select name, fence from ops.writer_lease") == [("realtime", 7)]
    assert rows(bootstrapped, "select count(*) from raw.str_behavior_events") == before == [(1,)]


def test_a_new_version_and_a_changed_repeatable_script_are_applied(
    bootstrapped: StandIn, settings: Settings, migrations: Path
) -> None:
    apply_migrations(settings, None, lambda _: None)
    (migrations / "V9.0.0__notes.sql").write_text("create table if not exists ops.notes (note varchar);")
    grants = migrations / "R__grants.sql"
    grants.write_text(grants.read_text() + "grant select on table ops.notes to role {{ reader }};\n")

    assert apply_migrations(settings, None, lambda _: None).applied == ("V9.0.0__notes.sql", "R__grants.sql")
    assert rows(bootstrapped, "select count(*) from ops.notes") == [(0,)]


def test_a_migration_edited_after_it_ran_is_named(bootstrapped: StandIn, settings: Settings, migrations: Path) -> None:
    apply_migrations(settings, None, lambda _: None)
    tables = migrations / "V1.0.1__tables.sql"
    tables.write_text(tables.read_text().replace("payload varchar", "payload variant"))
    deployed = apply_migrations(settings, None, lambda _: None)
    assert (deployed.applied, deployed.drifted) == ((), ("V1.0.1__tables.sql",))


def test_a_version_below_the_last_is_refused(bootstrapped: StandIn, settings: Settings, migrations: Path) -> None:
    apply_migrations(settings, None, lambda _: None)
    (migrations / "V0.9.0__late.sql").write_text("create table if not exists ops.late (note varchar);")
    with pytest.raises(KurashiruError, match=r"V0\.9\.0__late\.sql"):
        apply_migrations(settings, None, lambda _: None)


def test_a_statement_that_fails_is_named_and_goes_on_from_there_once_mended(
    bootstrapped: StandIn, settings: Settings, migrations: Path
) -> None:
    late = migrations / "V9.0.0__late.sql"
    late.write_text("create table if not exists ops.early (note varchar); insert into ops.nowhere values (1);")
    with pytest.raises(KurashiruError, match=r"V9\.0\.0__late\.sql failed[\s\S]*kurashiru deploy snowflake"):
        apply_migrations(settings, None, lambda _: None)
    failed = rows(bootstrapped, "select script from ops.change_history where status = 'Failed'")
    assert failed == [("V9.0.0__late.sql",)]

    late.write_text("create table if not exists ops.early (note varchar);")
    assert "V9.0.0__late.sql" in apply_migrations(settings, None, lambda _: None).applied


def test_the_bootstrap_gives_what_the_aws_stack_must_trust(administered: Administration, settings: Settings) -> None:
    told: list[str] = []
    trust = apply_bootstrap(settings, "admin", told.append)
    assert trust == {
        "STORAGE_AWS_IAM_USER_ARN": "arn:aws:iam::000000000000:user/snowflake",
        "STORAGE_AWS_EXTERNAL_ID": "storage-external-id",
        "API_AWS_IAM_USER_ARN": "arn:aws:iam::000000000000:user/snowflake",
        "API_AWS_EXTERNAL_ID": "api-external-id",
        "TOPIC_AWS_IAM_USER_ARN": "arn:aws:iam::000000000000:user/snowflake-topic",
    }
    assert len(told) == sum(len(script.statements) for script in scripts.planned(settings, is_bootstrap=True))


def test_who_logs_in(bootstrapped: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def connect(**options: Any) -> Any:
        given.append(options)
        return bootstrapped.connect(**options)

    monkeypatch.setattr(snowflake.connector, "connect", connect)
    apply_migrations(settings, None, lambda _: None)
    apply_migrations(settings, "mine", lambda _: None)
    apply_again(settings, "mine", lambda _: None)

    ours, theirs, again = given
    assert (ours["user"], ours["authenticator"]) == ("SVC_KURASHIRU", "SNOWFLAKE_JWT")
    assert ours["private_key_file"] == settings.text("KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH")
    assert theirs["connection_name"] == again["connection_name"] == "mine"
    assert not any(name in options for options in given for name in ("password", "token"))
    assert not any(name in theirs for name in ("user", "account", "private_key_file"))


def test_an_identity_instead_of_a_key(
    bootstrapped: StandIn, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del variables["KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH"]
    settings = Settings.load(environ={**variables, "KURASHIRU_SNOWFLAKE_AUTHENTICATOR": "workload_identity"})
    given: dict[str, Any] = {}

    def connect(**options: Any) -> Any:
        given.update(options)
        return bootstrapped.connect(**options)

    monkeypatch.setattr(snowflake.connector, "connect", connect)
    apply_migrations(settings, None, lambda _: None)
    assert (given["authenticator"], given["workload_identity_provider"]) == ("WORKLOAD_IDENTITY", "AWS")
    assert "private_key_file" not in given


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (DatabaseError("JWT token is invalid", errno=390144), ConfigurationError),
        (OperationalError("no route to host", errno=250001), TransientError),
    ],
)
def test_a_login_that_is_refused_says_what_to_look_at(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, failure: Exception, kind: type[KurashiruError]
) -> None:
    def connect(**_options: Any) -> Any:
        raise failure

    monkeypatch.setattr(snowflake.connector, "connect", connect)
    with pytest.raises(kind, match=r"user SVC_KURASHIRU of account stand-in[\s\S]*describe user SVC_KURASHIRU"):
        apply_migrations(settings, None, lambda _: None)


def test_a_key_that_is_not_there_is_named(variables: dict[str, str], account: StandIn) -> None:
    settings = Settings.load(environ={**variables, "KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH": "/nowhere/key.p8"})
    with pytest.raises(ConfigurationError, match=r"KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH=/nowhere/key\.p8"):
        apply_migrations(settings, None, lambda _: None)


def test_an_account_without_bootstrap_says_so(
    settings: Settings, account: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute_string(_session: Connection, text: str, **_options: Any) -> Any:
        raise ProgrammingError(f"Object does not exist, or operation cannot be performed: {text}", errno=2043)

    monkeypatch.setattr(Connection, "execute_string", execute_string)
    with pytest.raises(ConfigurationError, match="kurashiru deploy snowflake --bootstrap"):
        apply_migrations(settings, None, lambda _: None)


def test_the_command_tells_what_it_did(kurashiru: Any, bootstrapped: StandIn) -> None:
    count = len(scripts.paths())
    printed = kurashiru("deploy", "snowflake").output
    assert printed.splitlines()[0] == scripts.paths()[0].name
    assert f"{count} scripts applied, 0 were applied before" in printed
    assert json.loads(kurashiru("deploy", "snowflake", "--json").output)["skipped_count"] == count
    assert "statements run" in kurashiru("deploy", "snowflake", "--again").output
    assert "--connection NAME" in kurashiru("deploy", "snowflake", "--bootstrap").output
    trusted = kurashiru("deploy", "snowflake", "--bootstrap", "--connection", "admin", "--json").output
    assert json.loads(trusted)["API_AWS_EXTERNAL_ID"] == "api-external-id"


@pytest.mark.parametrize(("version", "told"), [(None, "none yet"), ("model-7", "model-7")])
def test_functions_are_made_with_the_model_in_service(
    kurashiru: Any, monkeypatch: pytest.MonkeyPatch, version: str | None, told: str
) -> None:
    asked: list[Settings] = []

    def make(settings: Settings) -> str | None:
        asked.append(settings)
        return version

    monkeypatch.setitem(sys.modules, "kurashiru_pipeline.analytics.snowflake", SimpleNamespace(deploy_functions=make))
    assert f"model in service: {told}" in kurashiru("deploy", "functions").output
    assert [settings.text("KURASHIRU_ENGINE") for settings in asked] == ["snowflake"]


@pytest.mark.parametrize("arguments", [["snowflake", "--dry-run"], ["functions"], ["aws", "--code-bucket", "b"]])
def test_the_local_environment_has_nothing_to_deploy_to(arguments: list[str]) -> None:
    outcome = CliRunner(env={"KURASHIRU_ENV": "local"}).invoke(cli, ["deploy", *arguments])
    assert isinstance(outcome.exception, ConfigurationError)
    assert "export KURASHIRU_ENV=production" in str(outcome.exception)


def test_a_missing_setting_ends_the_command_with_its_name(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KURASHIRU_AWS_TOPIC_ARN")
    monkeypatch.setattr("sys.argv", ["kurashiru", "deploy", "snowflake", "--dry-run"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "export KURASHIRU_AWS_TOPIC_ARN=arn:aws:sns" in capsys.readouterr().err.replace("\n", "")
