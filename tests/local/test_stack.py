import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import dagster as dg
import pytest

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.local import stack
from kurashiru_pipeline.local.processes import HOST, ProcessGroup, answers

UP = """
import os
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.local import stack
stack.up(Settings.load(), dagster=False, on_event=print)
"""


@pytest.fixture
def port() -> int:
    with socket.create_server((HOST, 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def settings(tmp_path: Path, port: int) -> Iterator[Settings]:
    variables = {"KURASHIRU_HOME": str(tmp_path / "home"), "KURASHIRU_AWS_PORT": str(port)}
    settings = Settings.load(environ=variables)
    yield settings
    stack.down(settings, on_event=lambda event: None)


def with_port(settings: Settings, port: int) -> Settings:
    return Settings.load(environ={**settings.environ, "KURASHIRU_AWS_PORT": str(port)})


def up(settings: Settings) -> list[str]:
    events: list[str] = []
    stack.up(settings, dagster=False, on_event=events.append)
    return events


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def states(settings: Settings) -> dict[str, str]:
    return {process.name: process.state for process in stack.status(settings)}


def test_emulated_aws_keeps_an_item_until_down(settings: Settings, port: int) -> None:
    assert up(settings) == ["aws: starting", f"aws: ready at http://127.0.0.1:{port}"]
    assert states(settings) == {"aws": "running", "dagster": "stopped"}
    client = boto3.client(
        "dynamodb",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="ap-northeast-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )
    client.create_table(
        TableName="items",
        KeySchema=[{"AttributeName": "user_id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "user_id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    client.put_item(TableName="items", Item={"user_id": {"S": "u1"}})

    assert up(settings) == ["aws: already running", f"aws: ready at http://127.0.0.1:{port}"]
    assert client.get_item(TableName="items", Key={"user_id": {"S": "u1"}})["Item"] == {"user_id": {"S": "u1"}}

    events: list[str] = []
    stack.down(settings, on_event=events.append)
    assert events == ["dagster: was not running", "aws: stopped"]
    assert states(settings) == {"aws": "stopped", "dagster": "stopped"}
    assert ProcessGroup(settings.home).members("aws") == []
    assert not answers(port)


def test_up_heals_what_a_killed_up_left(settings: Settings, port: int) -> None:
    command = subprocess.Popen([sys.executable, "-c", UP], env={**os.environ, **settings.environ})
    group = ProcessGroup(settings.home)
    wait_until(lambda: bool(group.members("aws")))
    command.kill()
    command.wait()
    group.state_file.unlink(missing_ok=True)

    up(settings)

    assert states(settings)["aws"] == "running"
    assert len(group.members("aws")) == 1
    assert answers(port)


def test_a_process_that_died_is_reported_and_started_again(settings: Settings) -> None:
    up(settings)
    [aws, _] = stack.status(settings)
    assert aws.pid is not None
    os.kill(aws.pid, signal.SIGKILL)
    wait_until(lambda: states(settings)["aws"] == "died")

    up(settings)

    assert states(settings)["aws"] == "running"


def test_a_taken_port_starts_nothing(settings: Settings, port: int) -> None:
    with (
        socket.create_server((HOST, port)),
        pytest.raises(ConfigurationError, match=f"port {port} for the emulated AWS is taken.*--aws-port"),
    ):
        up(settings)

    assert states(settings)["aws"] == "stopped"


def test_another_port_than_the_running_one_is_refused(settings: Settings, port: int) -> None:
    up(settings)

    with pytest.raises(ConfigurationError, match=f"export KURASHIRU_AWS_PORT={port}"):
        up(with_port(settings, port + 1))

    assert states(settings)["aws"] == "running"


def test_port_zero_means_no_emulated_aws(settings: Settings) -> None:
    assert up(with_port(settings, 0)) == []


def test_emulated_aws_is_started_only_when_needed(settings: Settings, port: int) -> None:
    events: list[str] = []
    elsewhere = {**settings.environ, "KURASHIRU_DYNAMODB_ENDPOINT": "http://127.0.0.1:1"}

    stack.ensure_aws(Settings.load(environ=elsewhere), on_event=events.append)
    stack.ensure_aws(with_port(settings, 0), on_event=events.append)
    assert events == []

    stack.ensure_aws(settings, on_event=events.append)
    stack.ensure_aws(settings, on_event=events.append)
    assert events == ["aws: starting", f"aws: ready at http://127.0.0.1:{port}"]


def test_a_failed_up_stops_what_it_started_and_nothing_else(settings: Settings, port: int) -> None:
    with socket.create_server((HOST, 0)) as server:
        taken = {**settings.environ, "KURASHIRU_DAGSTER_PORT": str(server.getsockname()[1])}

        with pytest.raises(ConfigurationError, match="the Dagster UI is taken"):
            stack.up(Settings.load(environ=taken), on_event=lambda event: None)
        assert not answers(port)

        up(settings)
        with pytest.raises(ConfigurationError, match="the Dagster UI is taken"):
            stack.up(Settings.load(environ=taken), on_event=lambda event: None)
        assert answers(port)


def test_processes_get_the_settings_as_given(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KURASHIRU_LIST_LENGTH", "7")
    given = Settings.load(environ={**settings.environ, "KURASHIRU_ITEM_TTL_DAYS": "3"})
    up(given)

    [process] = ProcessGroup(settings.home).members("aws")
    environ = process.environ()

    assert environ["KURASHIRU_ITEM_TTL_DAYS"] == "3"
    assert environ["KURASHIRU_HOME"] == str(settings.home)
    assert "KURASHIRU_LIST_LENGTH" not in environ
    assert environ["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)


def test_runs_of_a_killed_stack_are_marked_failed(tmp_path: Path) -> None:
    assert stack.fail_abandoned_runs(tmp_path) == 0

    @dg.op
    def nothing() -> None: ...

    @dg.job
    def some_job() -> None:
        nothing()

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        abandoned = instance.create_run_for_job(some_job, status=dg.DagsterRunStatus.STARTED).run_id
        done = instance.create_run_for_job(some_job, status=dg.DagsterRunStatus.SUCCESS).run_id

    assert stack.fail_abandoned_runs(tmp_path) == 1

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        runs = {run.run_id: run.status for run in instance.get_runs()}
    assert runs == {abandoned: dg.DagsterRunStatus.FAILURE, done: dg.DagsterRunStatus.SUCCESS}


def test_a_location_that_does_not_load_is_named_with_its_cause() -> None:
    error = {"__typename": "PythonError", "message": "loading failed\n", "causes": [{"message": "no module x\n"}]}
    entries = [{"name": "realtime", "loadStatus": "LOADED", "locationOrLoadError": error}]

    with pytest.raises(KurashiruError, match=r"^code location realtime does not load: no module x$"):
        stack._require_no_load_error(entries)
