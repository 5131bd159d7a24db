"""The smoke script, as far as it can run without accounts: on the stand-in, with the landing folder as its bucket."""

import importlib.util
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import pytest
from click.testing import CliRunner
from snowflake.connector.errors import ProgrammingError

from kurashiru_pipeline.environment import PROJECT_ROOT, Settings
from kurashiru_pipeline.local.landing import place
from tests.deployment.administration import Administration
from tests.engines import register_functions
from tests.snowflake.results import Result
from tests.snowflake.session import Connection
from tests.snowflake.stand_in import StandIn

SCRIPT = PROJECT_ROOT / "deploy" / "smoke" / "smoke.py"


@pytest.fixture(scope="module")
def smoke() -> Any:
    specification = importlib.util.spec_from_file_location("smoke", SCRIPT)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["smoke"] = module
    specification.loader.exec_module(module)
    return module


class Folder:
    """The landing folder of the stand-in as a bucket; Snowpipe hears of every file at once."""

    def __init__(self, account: StandIn) -> None:
        self._account = account

    def put(self, key: str, content: bytes) -> datetime:
        path = place(self._account.landing, key, content)
        self._account.refresh_pipes()
        return datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)

    def remove(self, key: str) -> None:
        (self._account.landing / key).unlink()


def refuses_ddl(session: Connection, sql: str) -> Result | None:
    """What access control would say."""
    if sql.startswith(("create table raw.", "alter table raw.")) and session.role == "KURASHIRU_ORCHESTRATOR":
        raise ProgrammingError("Insufficient privileges to operate on schema 'RAW'", errno=3001, sqlstate="42501")
    return None


@pytest.fixture
def governed(deployed: StandIn) -> StandIn:
    deployed.answer_first.append(refuses_ddl)
    return deployed


def landed(account: StandIn) -> list[Path]:
    return [path for path in account.landing.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("way", "versions"),
    [
        ({"KURASHIRU_KERNEL": "process", "KURASHIRU_REFLECT": "direct"}, "not asked: KURASHIRU_REFLECT=direct"),
        (
            {"KURASHIRU_KERNEL": "warehouse", "KURASHIRU_REFLECT": "external_function"},
            "STALE, the item is as it was",
        ),
    ],
)
def test_all_checks_pass_on_a_fresh_account_and_leave_nothing_in_the_bucket(
    smoke: Any,
    governed: StandIn,
    administered_deployment: Administration,
    variables: dict[str, str],
    *,
    way: dict[str, str],
    versions: str,
) -> None:
    settings = Settings.load(environ={**variables, **way})
    register_functions(governed, settings)
    administered_deployment.functions += ["BUILD_PROFILE", "RANK_RECIPES"]
    run = smoke.Smoke(settings, Folder(governed), wait_seconds=5, poll_seconds=0.01)
    told: list[Any] = []
    results = run.run(told.append)

    assert [(result.what, result.seen) for result in results if not result.ok] == []
    assert told == results
    assert [result.number for result in results] == list(range(1, 11))
    assert landed(governed) == []
    seen = {result.what: result.seen for result in results}
    assert "the account had 0; 3 tagged ones" in seen["recipes to recommend"]
    assert "6 lines" in seen["Snowpipe loads it"]
    assert "recipes, popular; readable" in seen["item in DynamoDB"]
    assert seen["versions"] == versions
    assert "3 streams; with data again, from other traffic: none" in seen["idle"]
    with governed.connect(database=governed.database, warehouse="TEST") as session:
        cursor = session.cursor()
        assert cursor.execute("select count(*) from staging.recipes where not is_deleted").fetchall() == [(0,)]
        assert cursor.execute("select user_id, is_deleted from staging.users").fetchall() == [(run.tag, True)]


def test_recipes_of_the_account_are_used_where_there_are_some(
    smoke: Any, governed: StandIn, settings: Settings
) -> None:
    governed.run_script(
        "insert into staging.recipes (recipe_id, title, published_at, updated_at, is_deleted) "
        "select column1, column1, '2026-11-01', '2026-11-01', false from values ('a'), ('b'), ('c'), ('d')"
    )
    run = smoke.Smoke(settings, Folder(governed), wait_seconds=5, poll_seconds=0.01)
    results = run.run(lambda _: None)
    assert [(result.what, result.seen) for result in results if not result.ok] == []
    assert run.own_recipes == []
    assert not [key for key in run.written if key.startswith("recipes/")]


def test_what_is_broken_ends_it_with_what_mends_it(smoke: Any, governed: StandIn, settings: Settings) -> None:
    governed.run_script("delete from ops.writer_lease")
    [result] = smoke.Smoke(settings, Folder(governed)).run(lambda _: None)
    assert not result.ok
    assert "writer lease" in result.seen
    assert "mend: kurashiru deploy snowflake --again" in result.seen


def test_a_role_that_may_do_too_much_is_found(smoke: Any, deployed: StandIn, settings: Settings) -> None:
    results = smoke.Smoke(settings, Folder(deployed)).run(lambda _: None)
    assert [result.ok for result in results] == [True, False]
    assert "allowed: create table raw.smoke_" in results[-1].seen
    with deployed.connect(database=deployed.database) as session:
        assert not session.cursor().execute("show tables like 'SMOKE%' in schema raw").fetchall()


def test_a_pipe_that_does_not_load_is_waited_for_and_named(
    smoke: Any, governed: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governed, "refresh_pipes", lambda: 0)
    results = smoke.Smoke(settings, Folder(governed), wait_seconds=0.1, poll_seconds=0.01).run(lambda _: None)
    assert results[-1].what == "recipes to recommend"
    assert "Snowpipe to load the export of recipes; look at: kurashiru doctor" in results[-1].seen
    assert landed(governed) == []


def test_times_in_another_zone_are_found(
    smoke: Any, governed: StandIn, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = smoke.Smoke(settings, Folder(governed), wait_seconds=5, poll_seconds=0.01)
    shift = "update raw.behavior_events set landed_at = dateadd('hour', 9, landed_at)"
    look = run.loaded_lines

    def shifted() -> Any:
        governed.run_script(shift)
        return look()

    monkeypatch.setattr(run, "loaded_lines", shifted)
    results = run.run(lambda _: None)
    assert results[-1].what == "Snowpipe loads it"
    assert "METADATA$FILE_LAST_MODIFIED is" in results[-1].seen


def test_the_page_shows_every_check_as_it_is_printed(smoke: Any, settings: Settings) -> None:
    page = (SCRIPT.parent / "README.md").read_text(encoding="utf-8")
    for number, (what, expected, _) in enumerate(smoke.Smoke(settings, None).checks(), start=1):
        assert f"\n{number:>2} ok   {what}\n   expected: {expected}\n   seen:     " in page


def test_the_bucket_is_written_below_its_prefix(
    smoke: Any, variables: dict[str, str], aws_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AWS_ENDPOINT_URL": aws_endpoint,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_DEFAULT_REGION": "ap-northeast-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="smoke-landing", CreateBucketConfiguration={"LocationConstraint": "ap-northeast-1"})
    settings = Settings.load(environ={**variables, "KURASHIRU_LANDING": "s3://smoke-landing/below"})
    bucket = smoke.S3Bucket(settings)

    modified = bucket.put("events/a.gz", b"lines")
    assert abs((datetime.now(tz=UTC) - modified).total_seconds()) < 60
    assert [entry["Key"] for entry in client.list_objects_v2(Bucket="smoke-landing")["Contents"]] == [
        "below/events/a.gz"
    ]
    bucket.remove("events/a.gz")
    assert "Contents" not in client.list_objects_v2(Bucket="smoke-landing")


def test_the_command_prints_numbers_and_fails_with_the_first(
    smoke: Any, governed: StandIn, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**variables, "AWS_ACCESS_KEY_ID": "local", "AWS_SECRET_ACCESS_KEY": "local"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(smoke, "S3Bucket", lambda _settings: Folder(governed))
    sound = CliRunner().invoke(smoke.main, ["--wait", "5"], catch_exceptions=False)
    assert sound.exit_code == 0, sound.output
    assert " 7 ok   item in DynamoDB\n   expected: a list for the tagged user\n   seen:     version " in sound.output

    governed.run_script("delete from ops.writer_lease")
    failed = CliRunner().invoke(smoke.main, ["--json"], catch_exceptions=False)
    assert failed.exit_code == 1
    assert [entry["ok"] for entry in json.loads(failed.output)] == [False]
    assert "tagged files" in CliRunner().invoke(smoke.main, ["--help"]).output
