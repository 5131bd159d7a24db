"""`kurashiru doctor` against an account: everything sound, and each thing that breaks found with what mends it."""

import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner
from snowflake.connector.errors import DatabaseError

from kurashiru_pipeline.cli import cli
from kurashiru_pipeline.deployment import doctor
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.findings import Finding
from kurashiru_pipeline.serving.dynamodb import connect
from tests.deployment.administration import Administration
from tests.snowflake import pipes
from tests.snowflake.stand_in import StandIn

Spoil = Callable[[StandIn, pytest.MonkeyPatch], None]
_READING = {"select", "show", "use"}


def broken(settings: Settings) -> list[Finding]:
    return [finding for finding in doctor.checks(settings) if not finding.ok]


def test_a_deployed_account_is_sound(deployed: StandIn, settings: Settings) -> None:
    findings = doctor.checks(settings)
    assert [(finding.name, finding.detail) for finding in findings if not finding.ok or finding.mend] == []
    assert {finding.name for finding in findings} >= {
        "settings",
        "dynamodb",
        "login",
        "clock",
        "tables",
        "stages",
        "stream raw.str_behavior_events",
        "pipe raw.pipe_behavior_events",
        "staging task",
        "grants",
        "migrations",
        "writer lease",
        "loads",
        "external function",
    }


def test_metadata_comes_without_a_warehouse_and_nothing_is_written(deployed: StandIn, settings: Settings) -> None:
    doctor.checks(settings)
    first_query = next(number for number, sent in enumerate(deployed.statements) if sent.is_query)
    assert {sent.warehouse for sent in deployed.statements[: first_query - 1]} == {None}
    assert [
        sent.sql.split()[0].lower() for sent in deployed.statements if sent.sql.split()[0].lower() not in _READING
    ] == []


def run(sql: str) -> Spoil:
    return lambda account, _: account.run_script(sql)


def stale_stream(account: StandIn, _: pytest.MonkeyPatch) -> None:
    account.expire_stream("RAW", "STR_BEHAVIOR_EVENTS")


def pipe_says(**told: Any) -> Spoil:
    def spoil(_: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
        status = pipes.status

        def changed(session: Any, name: Any) -> dict[str, Any]:
            known = status(session, name)
            return {**known, **told} if name.name == "PIPE_BEHAVIOR_EVENTS" else known

        monkeypatch.setattr(pipes, "status", changed)

    return spoil


def unreadable_export(account: StandIn, _: pytest.MonkeyPatch) -> None:
    (account.landing / "recipes").mkdir(parents=True)
    (account.landing / "recipes" / "broken.parquet").write_bytes(b"PAR1 and nothing more")
    account.refresh_pipes()


def default_warehouse(account: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = account.connect
    monkeypatch.setattr(
        "snowflake.connector.connect", lambda **options: opened(**{"warehouse": "COMPUTE_WH", **options})
    )


def other_role(account: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = account.connect
    monkeypatch.setattr("snowflake.connector.connect", lambda **options: opened(**{**options, "role": "PUBLIC"}))


PIPE = "pipe raw.pipe_behavior_events"
STREAM = "stream raw.str_behavior_events"


@pytest.mark.parametrize(
    ("spoil", "name", "detail", "mend"),
    [
        (
            run("drop table ops.batch_files"),
            "tables",
            r"ops\.batch_files is not there",
            r"undrop table ops\.batch_files",
        ),
        (
            run("alter table staging.recipes drop column cost_yen"),
            "tables",
            r"staging\.recipes has no column cost_yen",
            r"^alter table staging\.recipes add column cost_yen integer;$",
        ),
        (run("drop stage model.inputs"), "stages", r"model\.inputs: not there", "--again"),
        (run("drop stream raw.str_behavior_events"), STREAM, "is not there", "--again"),
        (stale_stream, STREAM, "is stale", r"_DEPLOYER .*kurashiru reset-stream raw_behavior_events"),
        (
            run("alter pipe raw.pipe_behavior_events set pipe_execution_paused = true"),
            PIPE,
            "is paused",
            r"alter pipe raw\.pipe_behavior_events set pipe_execution_paused = false",
        ),
        (run("drop pipe raw.pipe_behavior_events"), PIPE, "is not there", "--again"),
        (
            pipe_says(executionState="STALLED_STAGE_PERMISSION_ERROR", error="access denied"),
            PIPE,
            "is STALLED_STAGE_PERMISSION_ERROR: access denied",
            "operations.md",
        ),
        (
            pipe_says(pendingFileCount=3, oldestFileTimestamp="2026-11-23T00:00:00Z"),
            PIPE,
            "3 files wait, the oldest since 2026-11-23",
            r"system\$pipe_status",
        ),
        (
            pipe_says(lastReceivedMessageTimestamp="2026-11-23T00:00:00Z"),
            PIPE,
            "none below its path",
            "KURASHIRU_LANDING",
        ),
        (run("drop task ops.task_stage_micro_batch"), "staging task", "is not there", "--again"),
        (
            run("alter task ops.task_stage_micro_batch resume"),
            "staging task",
            "is started, but KURASHIRU_STAGING=run: it consumes",
            r"^alter task ops\.task_stage_micro_batch suspend;$",
        ),
        (
            run("revoke select on stream raw.str_behavior_events from role KURASHIRU_ORCHESTRATOR"),
            "grants",
            r"select on raw\.str_behavior_events",
            r"^grant select on stream raw\.str_behavior_events to role KURASHIRU_ORCHESTRATOR;$",
        ),
        (
            run("revoke delete on table serving.delivered_items from role KURASHIRU_ORCHESTRATOR"),
            "grants",
            r"delete on serving\.delivered_items",
            r"^grant delete on table serving\.delivered_items to role KURASHIRU_ORCHESTRATOR;$",
        ),
        (
            run("revoke usage on function serving.put_items(varchar, number, object) from role KURASHIRU_ORCHESTRATOR"),
            "grants",
            r"usage on serving\.put_items",
            r"^grant usage on function serving\.put_items\(varchar, number, object\) to role KURASHIRU_ORCHESTRATOR;$",
        ),
        (run("drop warehouse KURASHIRU_PIPELINE"), "warehouse KURASHIRU_PIPELINE", "is not there", "grant usage"),
        (
            run("alter warehouse KURASHIRU_ANALYTICS set auto_suspend = null"),
            "warehouse KURASHIRU_ANALYTICS",
            "suspends after no seconds",
            r"alter warehouse KURASHIRU_ANALYTICS set auto_suspend = 60;",
        ),
        (
            run("delete from ops.change_history where script like 'V1.0.4%'"),
            "migrations",
            r"not applied yet: V1\.0\.4__pipes\.sql",
            "^kurashiru deploy snowflake$",
        ),
        (run("delete from ops.writer_lease"), "writer lease", "has 0 rows", "--again"),
        (run("insert into ops.writer_lease (name) values ('realtime')"), "writer lease", "has 2 rows", "delete from"),
        (unreadable_export, "loads", r"1 files were not loaded .*broken\.parquet", "operations.md"),
        (default_warehouse, "login", "default warehouse COMPUTE_WH", "unset default_warehouse"),
        (other_role, "login", "works as PUBLIC", "grant role KURASHIRU_ORCHESTRATOR to user SVC_KURASHIRU"),
    ],
)
def test_what_is_broken_is_found_with_what_mends_it(
    deployed: StandIn,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    *,
    spoil: Spoil,
    name: str,
    detail: str,
    mend: str,
) -> None:
    spoil(deployed, monkeypatch)
    found = {finding.name: finding for finding in broken(settings)}
    assert name in found, found
    assert re.search(detail, found[name].detail), found[name].detail
    assert re.search(mend, found[name].mend or ""), found[name].mend


def test_streams_near_their_end_are_found(
    deployed: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "STALE_MARGIN", timedelta(days=3000))
    found = broken(settings)
    assert [finding.name for finding in found] == [
        f"stream raw.str_{name}" for name in ("behavior_events", "recipe_exports", "user_exports")
    ]
    assert all("turns stale at" in finding.detail and finding.mend == "kurashiru drain" for finding in found)


@pytest.mark.parametrize(
    "spoil",
    [
        "alter table staging.recipes drop column cost_yen",
        "alter pipe raw.pipe_behavior_events set pipe_execution_paused = true",
        "alter task ops.task_stage_micro_batch resume",
        "revoke operate on task ops.task_stage_micro_batch from role KURASHIRU_ORCHESTRATOR",
        "revoke usage on schema raw from role KURASHIRU_ORCHESTRATOR",
        "revoke read on stage model.inputs from role KURASHIRU_TRANSFORMER",
        "alter warehouse KURASHIRU_PIPELINE set auto_suspend = 86400",
    ],
)
def test_the_statement_that_is_given_mends_it(deployed: StandIn, settings: Settings, spoil: str) -> None:
    deployed.run_script(spoil)
    [finding] = broken(settings)
    assert finding.mend
    deployed.run_script(finding.mend)
    assert broken(settings) == []


@pytest.mark.parametrize(
    "spoil",
    [
        "drop table ops.batches",
        "drop stream raw.str_user_exports",
        "drop pipe raw.pipe_user_exports",
        "drop stage model.code",
        "drop task ops.task_stage_micro_batch",
        "delete from ops.writer_lease",
        "revoke select on table ops.batches from role KURASHIRU_TRANSFORMER",
    ],
)
def test_running_everything_again_mends_what_is_gone(
    deployed: StandIn, settings: Settings, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    deployed.run_script(spoil)
    assert broken(settings)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    CliRunner().invoke(cli, doctor.AGAIN.split()[1:], catch_exceptions=False)
    assert broken(settings) == []


def test_a_task_that_should_stage_and_does_not_is_found(deployed: StandIn, variables: dict[str, str]) -> None:
    settings = Settings.load(environ={**variables, "KURASHIRU_STAGING": "task"})
    [finding] = broken(settings)
    assert finding.name == "staging task"
    assert "is suspended (not resumed yet), but KURASHIRU_STAGING=task: nobody stages" in finding.detail
    assert finding.mend
    assert finding.mend.startswith("alter task ops.task_stage_micro_batch resume;")

    deployed.run_script(finding.mend)
    assert broken(settings) == []
    deployed.run_script("alter task ops.task_stage_micro_batch suspend")
    [finding] = broken(settings)
    assert "is suspended (USER_SUSPENDED)" in finding.detail


def test_the_lease_s_holder_is_shown(deployed: StandIn, settings: Settings) -> None:
    deployed.run_script("update ops.writer_lease set holder = 'host 1', renewed_at = sysdate()")
    [lease] = [finding for finding in doctor.checks(settings) if finding.name == "writer lease"]
    assert lease.ok
    assert "held by host 1" in lease.detail


def test_a_clock_that_goes_wrong_is_found(
    deployed: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fast(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) + timedelta(minutes=2)

    monkeypatch.setattr(doctor, "datetime", Fast)
    [finding] = broken(settings)
    assert (finding.name, finding.mend) == ("clock", "set the system clock")


def test_items_that_never_expire_are_found(deployed: StandIn, settings: Settings) -> None:
    client = connect(settings)
    table = settings.text("KURASHIRU_DYNAMODB_TABLE")
    client.update_time_to_live(
        TableName=table, TimeToLiveSpecification={"Enabled": False, "AttributeName": "expires_at"}
    )
    [finding] = broken(settings)
    assert finding.name == "dynamodb"
    assert finding.mend == (
        f"aws dynamodb update-time-to-live --region ap-northeast-1 --table-name {table} "
        "--time-to-live-specification Enabled=true,AttributeName=expires_at"
    )


def test_a_table_that_is_not_there_is_found(deployed: StandIn, variables: dict[str, str]) -> None:
    settings = Settings.load(environ={**variables, "KURASHIRU_DYNAMODB_TABLE": "elsewhere"})
    [finding] = broken(settings)
    assert finding.name == "dynamodb"
    assert "elsewhere in ap-northeast-1" in finding.detail


def test_a_login_that_is_refused_leaves_the_other_findings(
    deployed: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(**_options: Any) -> Any:
        raise DatabaseError("JWT token is invalid", errno=390144)

    monkeypatch.setattr("snowflake.connector.connect", connect)
    findings = doctor.checks(settings)
    assert [(finding.name, finding.ok) for finding in findings] == [
        ("settings", True),
        ("dynamodb", True),
        ("login", False),
    ]
    assert "JWT token is invalid" in findings[-1].detail


def test_without_settings_nothing_else_is_asked(deployed: StandIn, variables: dict[str, str]) -> None:
    del variables["KURASHIRU_SNOWFLAKE_ACCOUNT"]
    [finding] = doctor.checks(Settings.load(environ=variables))
    assert "export KURASHIRU_SNOWFLAKE_ACCOUNT=" in finding.detail
    assert not deployed.statements


@pytest.fixture
def asked(deployed: StandIn, variables: dict[str, str]) -> tuple[StandIn, Settings]:
    """An account whose warehouse computes and delivers."""
    chosen = {"KURASHIRU_KERNEL": "warehouse", "KURASHIRU_REFLECT": "external_function"}
    return deployed, Settings.load(environ={**variables, **chosen})


def test_functions_of_the_warehouse_are_asked_for(
    asked: tuple[StandIn, Settings], administered_deployment: Administration
) -> None:
    account, settings = asked
    rows: list[tuple[Any, ...]] = []

    def put_items(given: list[tuple[Any, ...]]) -> list[Any]:
        rows.extend(given)
        return [{"status": "REFUSED", "error": "no user id"} for _ in given]

    account.register_function("SERVING.PUT_ITEMS", put_items, 3)
    [missing] = broken(settings)
    assert missing.name == "kernel functions"
    assert "recommendation.build_profile, recommendation.rank_recipes are not there" in missing.detail

    administered_deployment.functions += ["BUILD_PROFILE", "RANK_RECIPES"]
    assert broken(settings) == []
    assert rows == [("#doctor", 0, {})] * 2


@pytest.mark.parametrize("answer", [{"status": "OK"}, {"status": "RETRY", "error": "throttled"}])
def test_a_function_that_takes_anything_is_found(
    asked: tuple[StandIn, Settings], administered_deployment: Administration, answer: dict[str, str]
) -> None:
    account, settings = asked
    administered_deployment.functions += ["BUILD_PROFILE", "RANK_RECIPES"]
    account.register_function("SERVING.PUT_ITEMS", lambda rows: [answer for _ in rows], 3)
    [finding] = broken(settings)
    assert finding.name == "external function"
    assert answer["status"] in finding.detail


def test_the_command_prints_findings_and_fails_with_them(
    deployed: StandIn, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    sound = CliRunner().invoke(cli, ["doctor"], catch_exceptions=False)
    assert sound.exit_code == 0
    assert "FAIL" not in sound.output

    deployed.run_script("delete from ops.writer_lease")
    found = CliRunner().invoke(cli, ["doctor", "--json"], catch_exceptions=False)
    assert found.exit_code == 1
    assert [entry["name"] for entry in json.loads(found.stdout) if not entry["ok"]] == ["writer lease"]
    assert "mend: kurashiru deploy snowflake --again" in CliRunner().invoke(cli, ["doctor"]).output
