"""The AWS stack of deploy/aws: the commands of the AWS CLI that make or change it.

Here: the function's code package, and the commands with every parameter filled in from the settings.
Not here: what the stack holds (deploy/aws/template.yaml), or credentials: the AWS CLI has its own.
"""

import json
import shlex
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from kurashiru_pipeline.environment import PROJECT_ROOT, Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.serving.edge_package import build

TEMPLATE = "deploy/aws/template.yaml"
# What the bootstrap of Snowflake told, by the template's parameters.
_TRUST = {
    "SnowflakeStorageUserArn": "STORAGE_AWS_IAM_USER_ARN",
    "SnowflakeTopicUserArn": "TOPIC_AWS_IAM_USER_ARN",
    "SnowflakeApiUserArn": "API_AWS_IAM_USER_ARN",
    "SnowflakeApiExternalId": "API_AWS_EXTERNAL_ID",
}


def commands(settings: Settings, code_bucket: str, trust: Mapping[str, str]) -> list[list[str]]:
    """Commands to run in the project's folder, in order; the code package is built on the way.

    Args:
        code_bucket: bucket of the region that takes the code package; it has to exist.
        trust: what `kurashiru deploy snowflake --bootstrap --json` printed; empty for the first pass. What a pass does
            not give keeps the value of the pass before.

    Raises:
        ConfigurationError: a setting is missing, or the landing place is no bucket of its own.
    """
    if settings.environment is Environment.LOCAL:
        message = "the local environment needs no AWS stack; export KURASHIRU_ENV=production (or staging)"
        raise ConfigurationError(message)
    place = settings.text("KURASHIRU_LANDING")
    bucket = place.removeprefix("s3://").rstrip("/")
    if not place.startswith("s3://") or "/" in bucket:
        message = f"KURASHIRU_LANDING={place}: the stack makes a bucket of its own; for example s3://kurashiru-landing"
        raise ConfigurationError(message)
    region = settings.text("KURASHIRU_AWS_REGION")
    name = f"kurashiru-{settings.environment}"
    package = build(settings.home / "edge")
    parameters = {
        "Environment": str(settings.environment),
        "Name": name,
        "LandingBucketName": bucket,
        "TableName": settings.text("KURASHIRU_DYNAMODB_TABLE"),
        "CodeBucket": code_bucket,
        "CodeKey": package.name,
        "Reflect": settings.text("KURASHIRU_REFLECT"),
        "ExternalEndpointName": _external_endpoint(settings),
        "SnowflakeStorageExternalId": settings.text("KURASHIRU_SNOWFLAKE_EXTERNAL_ID"),
        **{parameter: trust[told] for parameter, told in _TRUST.items() if told in trust},
    }
    return [
        ["aws", "s3", "cp", str(package), f"s3://{code_bucket}/{package.name}", "--region", region],
        [
            *("aws", "cloudformation", "deploy", "--region", region, "--stack-name", name),
            *("--template-file", TEMPLATE, "--capabilities", "CAPABILITY_NAMED_IAM", "--no-fail-on-empty-changeset"),
            "--parameter-overrides",
            *(f"{parameter}={value}" for parameter, value in parameters.items()),
        ],
        [
            *("aws", "cloudformation", "describe-stacks", "--region", region, "--stack-name", name),
            *("--query", "Stacks[0].Outputs", "--output", "table"),
        ],
    ]


def _external_endpoint(settings: Settings) -> str:
    """The SageMaker endpoint that the orchestrator asks; "" while it asks none."""
    is_asked = settings.text("KURASHIRU_EXTERNAL_SOURCE") == "sagemaker"
    return settings.text("KURASHIRU_EXTERNAL_ENDPOINT") if is_asked else ""


def read_trust(path: Path | None) -> dict[str, str]:
    """What the bootstrap of Snowflake told, from the file it was printed into; nothing where there is none.

    Raises:
        ConfigurationError: the file does not hold it.
    """
    if path is None:
        return {}
    mend = f"kurashiru deploy snowflake --bootstrap --connection NAME --json > {path}"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read as JSON ({error}); write it with: {mend}") from error
    missing = [name for name in _TRUST.values() if not isinstance(told, dict) or name not in told]
    if missing:
        raise ConfigurationError(f"{path} does not say {', '.join(missing)}; write it with: {mend}")
    return {str(name): str(value) for name, value in told.items()}


def run(planned: list[list[str]], on_event: Callable[[str], object]) -> None:
    """Run the commands, one after the other, in the project's folder.

    Raises:
        ConfigurationError: the AWS CLI is not installed.
        KurashiruError: a command failed; it has said why.
    """
    for command in planned:
        on_event(shlex.join(command))
        try:
            outcome = subprocess.run(command, cwd=PROJECT_ROOT, check=False)
        except FileNotFoundError as error:
            message = "the AWS CLI (version 2) is not installed: https://docs.aws.amazon.com/cli/"
            raise ConfigurationError(message) from error
        if outcome.returncode:
            message = f"{' '.join(command[:3])} ended with {outcome.returncode}; what it said stands above"
            raise KurashiruError(message)
