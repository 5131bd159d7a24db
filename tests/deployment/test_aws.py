"""`kurashiru deploy aws`: the commands it prints fit the template, and it runs them in order."""

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from kurashiru_pipeline.cli import cli
from kurashiru_pipeline.deployment import aws
from kurashiru_pipeline.environment import PROJECT_ROOT, Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError

TRUST = {
    "STORAGE_AWS_IAM_USER_ARN": "arn:aws:iam::000000000000:user/storage",
    "STORAGE_AWS_EXTERNAL_ID": "ours",
    "API_AWS_IAM_USER_ARN": "arn:aws:iam::000000000000:user/api",
    "API_AWS_EXTERNAL_ID": "theirs",
    "TOPIC_AWS_IAM_USER_ARN": "arn:aws:iam::000000000000:user/topic",
}


class Template(yaml.SafeLoader):
    """Reads CloudFormation's short forms as plain values."""


Template.add_multi_constructor("!", lambda loader, tag, node: f"{tag} {node.value}")


@pytest.fixture
def kurashiru(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, ["deploy", "aws", *arguments])

    return run


@pytest.fixture
def parameters() -> dict[str, dict[str, Any]]:
    document = yaml.load((PROJECT_ROOT / aws.TEMPLATE).read_text(encoding="utf-8"), Template)
    found: dict[str, dict[str, Any]] = document["Parameters"]
    return found


@pytest.fixture
def commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A command `aws` that notes how it was called, and fails when told to."""
    folder, notes = tmp_path / "bin", tmp_path / "called"
    folder.mkdir()
    script = folder / "aws"
    script.write_text(f'#!/bin/sh\necho "$@" >> {notes}\nif [ "$1" = "$FAIL_AT" ]; then exit 3; fi\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return notes


def overrides(command: list[str]) -> dict[str, str]:
    given = command[command.index("--parameter-overrides") + 1 :]
    return dict(parameter.split("=", 1) for parameter in given)


def test_parameters_are_those_of_the_template(settings: Settings, parameters: dict[str, dict[str, Any]]) -> None:
    _, change, _ = aws.commands(settings, "code", TRUST)
    given = overrides(change)
    assert given.keys() <= parameters.keys()
    demanded = {name for name, parameter in parameters.items() if "Default" not in parameter}
    assert demanded <= given.keys()
    for name, value in given.items():
        assert value in parameters[name].get("AllowedValues", [value])


def test_the_first_pass_trusts_nobody_yet(settings: Settings) -> None:
    _, first, _ = aws.commands(settings, "code", {})
    _, second, _ = aws.commands(settings, "code", TRUST)
    added = overrides(second).items() - overrides(first).items()
    assert dict(added) == {
        "SnowflakeStorageUserArn": TRUST["STORAGE_AWS_IAM_USER_ARN"],
        "SnowflakeTopicUserArn": TRUST["TOPIC_AWS_IAM_USER_ARN"],
        "SnowflakeApiUserArn": TRUST["API_AWS_IAM_USER_ARN"],
        "SnowflakeApiExternalId": TRUST["API_AWS_EXTERNAL_ID"],
    }


def test_only_an_external_source_that_is_on_may_be_asked(settings: Settings) -> None:
    named = {**settings.environ, "KURASHIRU_EXTERNAL_ENDPOINT": "kurashiru-recommender"}
    asking = {**named, "KURASHIRU_EXTERNAL_SOURCE": "sagemaker"}
    endpoints = [
        overrides(aws.commands(Settings.load(settings.environment, environ), "code", {})[1])["ExternalEndpointName"]
        for environ in (settings.environ, named, asking)
    ]
    assert endpoints == ["", "", "kurashiru-recommender"]


def test_dry_run_prints_what_would_run_and_builds_the_package(
    kurashiru: Any, settings: Settings, commands_run: Path
) -> None:
    printed = kurashiru("--code-bucket", "code", "--dry-run").output
    upload, change, show = [shlex.split(line) for line in printed.splitlines()]
    package = Path(upload[3])
    assert package.is_file()
    assert upload[:3] == ["aws", "s3", "cp"]
    assert upload[4] == f"s3://code/{package.name}"
    assert overrides(change)["CodeKey"] == package.name
    assert overrides(change)["LandingBucketName"] == "landing"
    assert show[:3] == ["aws", "cloudformation", "describe-stacks"]
    assert printed == kurashiru("--code-bucket", "code", "--dry-run").output
    assert not commands_run.exists()


def test_commands_run_one_after_the_other(kurashiru: Any, tmp_path: Path, commands_run: Path) -> None:
    trust = tmp_path / "trust.json"
    trust.write_text(json.dumps(TRUST))
    outcome = kurashiru("--code-bucket", "code", "--trust", str(trust))
    assert outcome.exit_code == 0, outcome.output
    called = commands_run.read_text().splitlines()
    assert [" ".join(call.split()[:2]) for call in called] == [
        "s3 cp",
        "cloudformation deploy",
        "cloudformation describe-stacks",
    ]
    assert f"SnowflakeApiExternalId={TRUST['API_AWS_EXTERNAL_ID']}" in called[1]


def test_a_command_that_fails_is_the_last(
    settings: Settings, commands_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAIL_AT", "s3")
    with pytest.raises(KurashiruError, match="aws s3 cp ended with 3"):
        aws.run(aws.commands(settings, "code", {}), lambda _: None)
    assert len(commands_run.read_text().splitlines()) == 1


def test_without_the_aws_cli_it_says_so(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="AWS CLI"):
        aws.run(aws.commands(settings, "code", {}), lambda _: None)


@pytest.mark.parametrize(
    "content", ["{}", "not json", '["a"]', json.dumps({**TRUST, "API_AWS_EXTERNAL_ID": None}) + "x"]
)
def test_a_file_without_the_trust_says_how_to_write_it(tmp_path: Path, content: str) -> None:
    path = tmp_path / "trust.json"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match="kurashiru deploy snowflake --bootstrap"):
        aws.read_trust(path)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"KURASHIRU_LANDING": "s3://bucket/below"}, "bucket of its own"),
        ({"KURASHIRU_ENV": "local"}, "needs no AWS stack"),
        ({"KURASHIRU_SNOWFLAKE_EXTERNAL_ID": ""}, "export KURASHIRU_SNOWFLAKE_EXTERNAL_ID="),
    ],
)
def test_what_cannot_be_deployed_is_said(variables: dict[str, str], changed: dict[str, str], told: str) -> None:
    with pytest.raises(ConfigurationError, match=told):
        aws.commands(Settings.load(environ={**variables, **changed}), "code", {})
