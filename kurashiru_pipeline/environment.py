"""Every setting for every environment, in one table.

Here: the environments, the settings with a value for each of them, and how one is read.
Not here: connections or clients; reading this module touches no network, no file and no secret.
`kurashiru env` prints the table.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from kurashiru_pipeline.errors import ConfigurationError

PROJECT_ROOT = Path(__file__).resolve().parent.parent


class Environment(StrEnum):
    """Where this process runs. Unset means local; anything unknown is an error."""

    LOCAL = "local"
    STAGING = "staging"
    PRODUCTION = "production"

    @classmethod
    def current(cls, environ: Mapping[str, str] | None = None) -> "Environment":
        """The environment named by KURASHIRU_ENV.

        Raises:
            ConfigurationError: the name is none of the valid ones.
        """
        name = (os.environ if environ is None else environ).get("KURASHIRU_ENV", "")
        if not name:
            return cls.LOCAL
        try:
            return cls(name)
        except ValueError:
            valid = ", ".join(cls)
            message = f"KURASHIRU_ENV={name!r} is not an environment; use one of: {valid}"
            raise ConfigurationError(message) from None


@dataclass(frozen=True)
class Required:
    """Marks a value that an environment must be given by its variable; `example` goes into the error."""

    example: str


Value = str | Required


@dataclass(frozen=True)
class Setting:
    """One row of the table: a variable and its value in each environment.

    Attributes:
        form: regular expression of every value that is not empty; "" allows any.
        example: a value of that form, for the error.
        purpose: the command that reads it ("" = all of them); only that command demands it.
        needed_when: (variable, value) of another setting without which this one is not read.
    """

    variable: str
    local: Value
    staging: Value
    production: Value
    meaning: str
    secret: bool = False
    form: str = ""
    example: str = ""
    purpose: str = ""
    needed_when: tuple[str, str] | None = None

    def default(self, environment: Environment) -> Value:
        return {"local": self.local, "staging": self.staging, "production": self.production}[environment]


_NUMBER = "[0-9]{1,9}"
_SECONDS = "[0-9]{1,4}([.][0-9]{1,3})?"
_FLAG = "(?i:true|false)"
_NAME = "[A-Za-z_][A-Za-z0-9_$]{0,254}"
_ROLE_ARN = "arn:aws[a-z-]*:iam::[0-9]{12}:role/.+"


def _everywhere(variable: str, value: str, meaning: str) -> Setting:
    form = _NUMBER if value.isdecimal() else ""
    return Setting(variable, value, value, value, meaning, form=form, example=value)


def _deployed(variable: str, example: str, meaning: str, form: str = "") -> Setting:
    """A value that only `kurashiru deploy` reads, known after the AWS stack is there."""
    given = Required(example)
    return Setting(variable, "", given, given, meaning, form=form, example=example, purpose="deploy")


SETTINGS: tuple[Setting, ...] = (
    _everywhere("KURASHIRU_HOME", ".kurashiru", "folder of all local state; relative to the project"),
    Setting(
        "KURASHIRU_ENGINE",
        "ducklake",
        "snowflake",
        "snowflake",
        "warehouse engine: ducklake or snowflake",
        form="ducklake|snowflake",
        example="snowflake",
    ),
    Setting(
        "KURASHIRU_KERNEL",
        "process",
        "warehouse",
        "warehouse",
        "where profiles and lists are computed: in this process, or in the warehouse as a Snowpark UDF",
        form="process|warehouse",
        example="process",
    ),
    Setting(
        "KURASHIRU_REFLECT",
        "direct",
        "external_function",
        "external_function",
        "who writes DynamoDB: this process (direct), or the warehouse (external_function)",
        form="direct|external_function",
        example="direct",
    ),
    Setting(
        "KURASHIRU_STAGING",
        "run",
        "run",
        "run",
        "who stages events: the runs, or Snowflake's own serverless task (never both)",
        form="run|task",
        example="run",
    ),
    Setting(
        "KURASHIRU_LANDING",
        "{home}/landing",
        Required("s3://kurashiru-staging-landing"),
        Required("s3://kurashiru-production-landing"),
        "where behaviour events and exports land",
    ),
    Setting("KURASHIRU_LAKE", "{home}/lake", "{home}/lake", "{home}/lake", "DuckLake catalogues and data"),
    Setting("KURASHIRU_MODELS", "{home}/models", "{home}/models", "{home}/models", "model artifacts"),
    _everywhere("KURASHIRU_AWS_REGION", "ap-northeast-1", "AWS region"),
    Setting(
        "KURASHIRU_AWS_PORT",
        "5566",
        "0",
        "0",
        "port of the emulated AWS that `kurashiru up` starts; 0 = none",
        form=_NUMBER,
        example="5566",
    ),
    _everywhere("KURASHIRU_DAGSTER_PORT", "3000", "port of the Dagster UI"),
    Setting(
        "KURASHIRU_DYNAMODB_ENDPOINT",
        "http://127.0.0.1:{aws_port}",
        "",
        "",
        "DynamoDB endpoint; empty = the region's own",
        form="https?://.+",
        example="http://127.0.0.1:5566",
    ),
    Setting(
        "KURASHIRU_DYNAMODB_TABLE",
        "recommendations",
        "recommendations-staging",
        "recommendations",
        "table the app's API reads",
        form="[A-Za-z0-9_.-]{3,255}",
        example="recommendations",
    ),
    Setting(
        "KURASHIRU_DYNAMODB_CREATE",
        "true",
        "false",
        "false",
        "create the table when it is missing",
        form=_FLAG,
        example="false",
    ),
    _everywhere("KURASHIRU_ITEM_TTL_DAYS", "30", "days until an item not refreshed expires"),
    _everywhere("KURASHIRU_DEDUPLICATION_HOURS", "1", "hours of load time in which an event_id counts once"),
    _everywhere("KURASHIRU_RETENTION_DAYS", "90", "an event older than this at load time is rejected"),
    _everywhere("KURASHIRU_RAW_RETENTION_DAYS", "90", "days that staged lines stay in raw.behavior_events (embedded)"),
    _everywhere("KURASHIRU_SNAPSHOT_MINUTES", "10", "minutes that old snapshots stay; unread changes do (embedded)"),
    _everywhere(
        "KURASHIRU_REPLACED_FILE_MINUTES", "120", "minutes that merged files stay for running queries (embedded)"
    ),
    _everywhere(
        "KURASHIRU_MIN_BATCH_LINES", "20000", "lines a micro-batch may always load; at least as many: all at once"
    ),
    _everywhere("KURASHIRU_MAX_BATCH_LINES", "500000", "lines a micro-batch loads at most, which bounds its memory"),
    _everywhere("KURASHIRU_BATCH_SECONDS", "10", "seconds a micro-batch of a backlog should take; its lines follow"),
    _everywhere("KURASHIRU_RUN_SECONDS", "600", "seconds after which a run begins no further micro-batch"),
    Setting(
        "KURASHIRU_LINGER_SECONDS",
        "30",
        "0",
        "0",
        "seconds a run waits for more once nothing is pending; 0 = it ends at once",
        form=_SECONDS,
        example="30",
    ),
    _everywhere("KURASHIRU_CHECK_SECONDS", "60", "seconds between two evaluations of a check that queries the lake"),
    _everywhere("KURASHIRU_LAG_SECONDS", "300", "keeps-up check: oldest undelivered file older than this warns"),
    Setting(
        "KURASHIRU_TELEMETRY",
        "none",
        "none",
        "none",
        "metrics of each micro-batch to OTEL_EXPORTER_OTLP_ENDPOINT: none, or otlp (extra telemetry)",
        form="none|otlp",
        example="otlp",
    ),
    _everywhere("KURASHIRU_MAX_BATCH_USERS", "20000", "users a micro-batch gives a list by their stated preferences"),
    _everywhere("KURASHIRU_MAX_FILE_MB", "1024", "a landed file larger than this when unpacked is refused"),
    _everywhere("KURASHIRU_RECENT_BEHAVIORS", "50", "behaviours remembered for each user"),
    _everywhere("KURASHIRU_LIST_LENGTH", "20", "recipes in a recommendation list"),
    _everywhere("KURASHIRU_FRESHNESS_SECONDS", "180", "freshness check: p95 landed -> readable above this warns"),
    _everywhere("KURASHIRU_REJECT_RATE_PCT", "5", "reject-rate check: a share of lines above this warns"),
    Setting(
        "KURASHIRU_EXTERNAL_SOURCE",
        "none",
        "none",
        "none",
        "recommender asked beside our own sources, with KURASHIRU_KERNEL=process: none, or sagemaker",
        form="none|sagemaker",
        example="sagemaker",
    ),
    Setting(
        "KURASHIRU_EXTERNAL_ENDPOINT",
        "",
        "",
        "",
        "name of the SageMaker endpoint, in lower case as in its ARN",
        form="[a-z0-9](-*[a-z0-9]){0,62}",
        example="kurashiru-recommender",
    ),
    Setting(
        "KURASHIRU_EXTERNAL_URL",
        "",
        "",
        "",
        "address of SageMaker's runtime; empty = the region's own",
        form="https?://.+",
        example="http://127.0.0.1:8750",
    ),
    _everywhere("KURASHIRU_EXTERNAL_DEADLINE_MS", "2000", "milliseconds a micro-batch waits for the external source"),
    _everywhere("KURASHIRU_EXTERNAL_BATCH_USERS", "500", "users named in one request to it"),
    _everywhere("KURASHIRU_EXTERNAL_CONCURRENCY", "8", "requests to it at a time"),
    _everywhere("KURASHIRU_EXTERNAL_COUNT", "50", "recipes it is asked for a user"),
    _everywhere("KURASHIRU_EXTERNAL_RECIPES", "0", "recent recipes of a user it is told; 0 = the user_id only"),
    _everywhere("KURASHIRU_EXTERNAL_FAILURES", "3", "micro-batches in a row it fails before it is left alone"),
    _everywhere("KURASHIRU_EXTERNAL_PAUSE_SECONDS", "60", "seconds it is left alone before it is tried again"),
    Setting(
        "KURASHIRU_SENSORS",
        "running",
        "stopped",
        "stopped",
        "status of sensors on a new instance: running or stopped",
        form="running|stopped",
        example="running",
    ),
    Setting(
        "KURASHIRU_POLL_SECONDS",
        "0.1",
        "10",
        "10",
        "seconds between two looks of the sensor",
        form=_SECONDS,
        example="10",
    ),
    Setting(
        "KURASHIRU_SNOWFLAKE_ACCOUNT",
        "",
        Required("myorg-staging"),
        Required("myorg-production"),
        "account identifier: organisation-account",
        form="[A-Za-z0-9_]+[-.][A-Za-z0-9_.-]+",
        example="myorg-production",
    ),
    Setting(
        "KURASHIRU_SNOWFLAKE_USER",
        "",
        "SVC_KURASHIRU_STAGING",
        "SVC_KURASHIRU",
        "service user",
        form=_NAME,
        example="SVC_KURASHIRU",
    ),
    Setting(
        "KURASHIRU_SNOWFLAKE_AUTHENTICATOR",
        "key_pair",
        "key_pair",
        "key_pair",
        "key_pair, or workload_identity (the AWS role of the process)",
        form="key_pair|workload_identity",
        example="key_pair",
    ),
    Setting(
        "KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH",
        "",
        Required("/run/secrets/snowflake_key.p8"),
        Required("/run/secrets/snowflake_key.p8"),
        "PKCS#8 key of the service user",
        needed_when=("KURASHIRU_SNOWFLAKE_AUTHENTICATOR", "key_pair"),
    ),
    Setting("KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PASSPHRASE", "", "", "", "passphrase of the key, if it has one", True),
    Setting(
        "KURASHIRU_SNOWFLAKE_ROLE",
        "",
        "KURASHIRU_STAGING_ORCHESTRATOR",
        "KURASHIRU_ORCHESTRATOR",
        "role of the pipeline",
        form=_NAME,
        example="KURASHIRU_ORCHESTRATOR",
    ),
    Setting(
        "KURASHIRU_SNOWFLAKE_WAREHOUSE",
        "",
        "KURASHIRU_STAGING_PIPELINE",
        "KURASHIRU_PIPELINE",
        "warehouse of the micro-batches",
        form=_NAME,
        example="KURASHIRU_PIPELINE",
    ),
    Setting(
        "KURASHIRU_SNOWFLAKE_ANALYTICS_WAREHOUSE",
        "",
        "KURASHIRU_STAGING_ANALYTICS",
        "KURASHIRU_ANALYTICS",
        "warehouse of dbt and training",
        form=_NAME,
        example="KURASHIRU_ANALYTICS",
    ),
    Setting(
        "KURASHIRU_SNOWFLAKE_DATABASE",
        "",
        "KURASHIRU_STAGING",
        "KURASHIRU",
        "database",
        form=_NAME,
        example="KURASHIRU",
    ),
    Setting(
        "KURASHIRU_SNOWFLAKE_DEPLOY_ROLE",
        "",
        "KURASHIRU_STAGING_DEPLOYER",
        "KURASHIRU_DEPLOYER",
        "role that owns the objects",
        form=_NAME,
        example="KURASHIRU_DEPLOYER",
        purpose="deploy",
    ),
    _deployed(
        "KURASHIRU_AWS_STORAGE_ROLE_ARN",
        "arn:aws:iam::123456789012:role/kurashiru-snowflake-storage",
        "IAM role with which Snowflake reads the landing bucket (output StorageRoleArn of the AWS stack)",
        _ROLE_ARN,
    ),
    _deployed(
        "KURASHIRU_AWS_API_ROLE_ARN",
        "arn:aws:iam::123456789012:role/kurashiru-snowflake-api",
        "IAM role with which Snowflake calls the API (output ApiRoleArn)",
        _ROLE_ARN,
    ),
    _deployed(
        "KURASHIRU_AWS_API_URL",
        "https://abc123.execute-api.ap-northeast-1.amazonaws.com/production/items",
        "URL of the delivery API (output ApiUrl)",
        "https://.+",
    ),
    _deployed(
        "KURASHIRU_AWS_TOPIC_ARN",
        "arn:aws:sns:ap-northeast-1:123456789012:kurashiru-landed",
        "SNS topic of landed files (output TopicArn)",
        "arn:aws[a-z-]*:sns:.+",
    ),
    _deployed(
        "KURASHIRU_SNOWFLAKE_EXTERNAL_ID",
        "kurashiru-production-4f7a",
        "external id of Snowflake's storage integration: any hard-to-guess text, the same in the AWS stack",
        "[A-Za-z0-9+=,.@:/_-]{2,1224}",
    ),
)
_BY_VARIABLE = {setting.variable: setting for setting in SETTINGS}


@dataclass(frozen=True)
class Settings:
    """The settings of one environment, read when asked for, so that loading definitions needs no secret."""

    environment: Environment
    environ: Mapping[str, str]

    @classmethod
    def load(cls, environment: Environment | None = None, environ: Mapping[str, str] | None = None) -> "Settings":
        """Settings of `environment` (default: the current one), overridden by variables in `environ`."""
        variables = os.environ if environ is None else environ
        return cls(environment or Environment.current(variables), variables)

    def text(self, variable: str) -> str:
        """Value of one setting.

        Raises:
            ConfigurationError: the environment requires the variable and it is not set, or its value is wrong.
        """
        setting = _BY_VARIABLE[variable]
        given = self.environ.get(variable)
        if given:
            if setting.form and not re.fullmatch(setting.form, given):
                shown = "****" if setting.secret else repr(given)
                message = (
                    f"{variable}={shown} is not of the right form ({setting.meaning}); "
                    f"for example: export {variable}={setting.example}"
                )
                raise ConfigurationError(message)
            return given
        default = setting.default(self.environment)
        if isinstance(default, Required):
            message = (
                f"{variable} ({setting.meaning}) must be set in {self.environment}; "
                f"for example: export {variable}={default.example}"
            )
            raise ConfigurationError(message)
        if "{home}" in default:
            return default.replace("{home}", str(self.home))
        if "{aws_port}" in default:
            return default.replace("{aws_port}", self.text("KURASHIRU_AWS_PORT"))
        return default

    def is_explicit(self, variable: str) -> bool:
        """Whether the variable was given from outside."""
        return bool(self.environ.get(variable))

    def integer(self, variable: str, minimum: int = 0, maximum: int | None = None) -> int:
        """Whole-number setting, at least `minimum` and at most `maximum`."""
        value = self.text(variable)
        try:
            number = int(value)
        except ValueError:
            number = minimum - 1
        if number < minimum or (maximum is not None and number > maximum):
            most = "" if maximum is None else f" and at most {maximum}"
            message = f"{variable}={value!r} must be a whole number of at least {minimum}{most}"
            raise ConfigurationError(message)
        return number

    def seconds(self, variable: str) -> float:
        """Setting that is a number of seconds, perhaps with decimals."""
        value = self.text(variable)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not number >= 0:
            message = f"{variable}={value!r} must be a number of seconds"
            raise ConfigurationError(message)
        return number

    def flag(self, variable: str) -> bool:
        """Setting that is true or false."""
        value = self.text(variable).lower()
        if value not in {"true", "false"}:
            message = f"{variable}={value!r} must be true or false"
            raise ConfigurationError(message)
        return value == "true"

    def folder(self, variable: str) -> Path:
        """Setting that names a local folder; relative names are relative to the project."""
        return _absolute(self.text(variable))

    @property
    def home(self) -> Path:
        """Folder that holds all local state."""
        return _absolute(self.text("KURASHIRU_HOME"))

    @property
    def landing(self) -> Path:
        """Local landing folder.

        Raises:
            ConfigurationError: the landing place of this environment is a bucket, not a folder.
        """
        place = self.text("KURASHIRU_LANDING")
        if "://" in place:
            message = f"KURASHIRU_LANDING={place} is not a local folder; Snowpipe loads it, not this command"
            raise ConfigurationError(message)
        return _absolute(place)

    def check(self, purpose: str = "") -> None:
        """Read every setting that this environment and `purpose` need, so that a wrong one is found at the start.

        Raises:
            ConfigurationError: some are missing or wrong; the message names each, with an example.
        """
        problems = list(self._problems(purpose))
        if problems:
            raise ConfigurationError("\n".join(problems))

    def _problems(self, purpose: str) -> Iterator[str]:
        for setting in SETTINGS:
            if not self.is_needed(setting, purpose):
                continue
            try:
                self.text(setting.variable)
            except ConfigurationError as error:
                yield str(error)

    def is_needed(self, setting: Setting, purpose: str = "") -> bool:
        """Whether `setting` is read here, by a command of `purpose`."""
        if setting.purpose not in {"", purpose}:
            return False
        if setting.needed_when is None:
            return True
        variable, value = setting.needed_when
        return self.environ.get(variable, _BY_VARIABLE[variable].default(self.environment)) == value

    def rows(self) -> list[tuple[str, str, str]]:
        """The table as (variable, value, meaning); secrets masked, missing and wrong values named."""
        table = []
        for setting in SETTINGS:
            try:
                value = self.text(setting.variable)
            except ConfigurationError:
                given = self.environ.get(setting.variable)
                if given:
                    value = f"{given} (wrong form, e.g. {setting.example})"
                elif self.is_needed(setting):
                    value = "(must be set)"
                else:
                    value = f"(needed by kurashiru {setting.purpose})" if setting.purpose else ""
            if setting.secret and value:
                value = "****"
            table.append((setting.variable, value, setting.meaning))
        return table


def _absolute(path: str) -> Path:
    given = Path(path).expanduser()
    return given if given.is_absolute() else (PROJECT_ROOT / given).resolve()
