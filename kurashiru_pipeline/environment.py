"""Every setting for every environment, in one table.

Here: the environments, the settings with a value for each of them, and how one is read.
Not here: connections or clients; reading this module touches no network, no file and no secret.
`kurashiru env` prints the table.
"""

import os
from collections.abc import Mapping
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
    """One row of the table: a variable and its value in each environment."""

    variable: str
    local: Value
    staging: Value
    production: Value
    meaning: str
    secret: bool = False

    def default(self, environment: Environment) -> Value:
        return {"local": self.local, "staging": self.staging, "production": self.production}[environment]


def _everywhere(variable: str, value: Value, meaning: str) -> Setting:
    return Setting(variable, value, value, value, meaning)


SETTINGS: tuple[Setting, ...] = (
    _everywhere("KURASHIRU_HOME", ".kurashiru", "folder of all local state; relative to the project"),
    Setting("KURASHIRU_ENGINE", "ducklake", "snowflake", "snowflake", "warehouse engine"),
    Setting(
        "KURASHIRU_LANDING",
        "{home}/landing",
        Required("s3://kurashiru-staging-landing"),
        Required("s3://kurashiru-production-landing"),
        "where behaviour events and exports land",
    ),
    Setting("KURASHIRU_LAKE", "{home}/lake", "{home}/lake", "{home}/lake", "DuckLake catalogues and data"),
    Setting("KURASHIRU_MODELS", "{home}/models", "{home}/models", "{home}/models", "model artifacts"),
    Setting("KURASHIRU_AWS_REGION", "ap-northeast-1", "ap-northeast-1", "ap-northeast-1", "AWS region"),
    Setting(
        "KURASHIRU_AWS_PORT",
        "5566",
        "0",
        "0",
        "port of the emulated AWS that `kurashiru up` starts; 0 = none",
    ),
    Setting("KURASHIRU_DAGSTER_PORT", "3000", "3000", "3000", "port of the Dagster UI"),
    Setting(
        "KURASHIRU_DYNAMODB_ENDPOINT",
        "http://127.0.0.1:{aws_port}",
        "",
        "",
        "DynamoDB endpoint; empty = the region's own",
    ),
    Setting(
        "KURASHIRU_DYNAMODB_TABLE",
        "recommendations",
        "recommendations-staging",
        "recommendations",
        "table the app's API reads",
    ),
    Setting("KURASHIRU_DYNAMODB_CREATE", "true", "false", "false", "create the table when it is missing"),
    _everywhere("KURASHIRU_ITEM_TTL_DAYS", "30", "days until an item not refreshed expires"),
    _everywhere("KURASHIRU_DEDUPLICATION_HOURS", "1", "hours of load time in which an event_id counts once"),
    _everywhere("KURASHIRU_RETENTION_DAYS", "90", "an event older than this at load time is rejected"),
    _everywhere("KURASHIRU_STREAM_RETENTION_DAYS", "2", "days of snapshots kept for streams to read"),
    _everywhere("KURASHIRU_MAX_BATCH_LINES", "500000", "lines loaded before a micro-batch is staged"),
    _everywhere("KURASHIRU_MAX_FILE_MB", "1024", "a landed file larger than this when unpacked is refused"),
    _everywhere("KURASHIRU_RECENT_BEHAVIORS", "50", "behaviours remembered for each user"),
    _everywhere("KURASHIRU_LIST_LENGTH", "20", "recipes in a recommendation list"),
    _everywhere("KURASHIRU_FRESHNESS_SECONDS", "180", "freshness check: p95 landed -> readable above this warns"),
    _everywhere("KURASHIRU_REJECT_RATE_PCT", "5", "reject-rate check: a share of lines above this warns"),
    Setting("KURASHIRU_SENSORS", "running", "stopped", "stopped", "status of sensors on a new instance"),
    Setting("KURASHIRU_SNOWFLAKE_ACCOUNT", "", Required("myorg-staging"), Required("myorg-production"), "account"),
    Setting("KURASHIRU_SNOWFLAKE_USER", "", Required("SVC_DAGSTER"), Required("SVC_DAGSTER"), "service user"),
    Setting(
        "KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH",
        "",
        Required("/run/secrets/snowflake_key.p8"),
        Required("/run/secrets/snowflake_key.p8"),
        "PKCS#8 key of the service user",
    ),
    Setting("KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PASSPHRASE", "", "", "", "passphrase of the key, if it has one", True),
    Setting("KURASHIRU_SNOWFLAKE_ROLE", "", "FR_ORCHESTRATOR", "FR_ORCHESTRATOR", "role"),
    Setting("KURASHIRU_SNOWFLAKE_WAREHOUSE", "", "WH_TRANSFORM", "WH_TRANSFORM", "warehouse of the transforms"),
    Setting("KURASHIRU_SNOWFLAKE_DATABASE", "", "KURASHIRU_STAGING", "KURASHIRU", "database"),
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
            ConfigurationError: the environment requires the variable and it is not set.
        """
        setting = _BY_VARIABLE[variable]
        given = self.environ.get(variable)
        if given:
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

    def integer(self, variable: str, minimum: int = 0) -> int:
        """Whole-number setting, at least `minimum`."""
        value = self.text(variable)
        try:
            number = int(value)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            message = f"{variable}={value!r} must be a whole number of at least {minimum}"
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

    def rows(self) -> list[tuple[str, str, str]]:
        """The table as (variable, value, meaning); secrets masked, missing values named."""
        table = []
        for setting in SETTINGS:
            try:
                value = self.text(setting.variable)
            except ConfigurationError:
                value = "(must be set)"
            if setting.secret and value:
                value = "****"
            table.append((setting.variable, value, setting.meaning))
        return table


def _absolute(path: str) -> Path:
    given = Path(path).expanduser()
    return given if given.is_absolute() else (PROJECT_ROOT / given).resolve()
