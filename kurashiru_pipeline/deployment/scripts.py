"""The SQL files of deploy/snowflake, rendered from the settings.

Here: which files there are, their order, the values of their variables, and what their statements declare.
Not here: running them (snowflake.py) or comparing them with a live account (doctor.py). Nothing here connects.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import jinja2

from kurashiru_pipeline.deployment import staging_task
from kurashiru_pipeline.environment import PROJECT_ROOT, Settings
from kurashiru_pipeline.errors import ConfigurationError

FOLDER = PROJECT_ROOT / "deploy" / "snowflake"
BOOTSTRAP = FOLDER / "bootstrap.sql"
TRUST = FOLDER / "trust.sql"
MIGRATIONS = FOLDER / "migrations"
DEPLOY_USER_SUFFIX = "_DEPLOY"

_TOKEN = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^'\\]|''|\\.)*'|\$\$.*?\$\$|\"[^\"]*\"|;", re.DOTALL)
_LEADING_COMMENTS = re.compile(r"\A(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?\*/)+", re.DOTALL)
_CREATED = re.compile(r"create (table|stream|pipe|stage|file format|schema) if not exists ([\w.]+)")
_COLUMN = re.compile(r"^    (\w+) (\w+(?:\([\d, ]+\))?)", re.MULTILINE)
_ADDED = re.compile(r"alter table ([\w.]+) add column if not exists (\w+) (\w+(?:\([\d, ]+\))?)")
_GRANT = re.compile(
    r"grant (?P<privileges>[\w, ]+?) on (?P<scope>all |future )?(?P<kind>[a-z ]+?)(?: in schema)? "
    r"(?P<name>[\w.]+(?:\([\w, ]*\))?) to role (?P<role>\w+)"
)


@dataclass(frozen=True)
class Script:
    """One rendered file; `file` is its path in the project."""

    file: str
    sql: str

    @property
    def statements(self) -> list[str]:
        """Its statements in order, without the comments before them and without their semicolons."""
        return list(_statements(self.sql))


@dataclass(frozen=True)
class Grant:
    """One privilege on one object; `scope` is "all" or "future" objects of that kind in the schema `name`, or ""."""

    privilege: str
    scope: str
    kind: str
    name: str
    role: str


@dataclass(frozen=True)
class Declared:
    """What the migrations make, in lower case: objects as `schema.object`, tables with the type of each column."""

    tables: Mapping[str, Mapping[str, str]]
    streams: tuple[str, ...]
    pipes: tuple[str, ...]
    stages: tuple[str, ...]
    file_formats: tuple[str, ...]
    schemas: tuple[str, ...]
    grants: tuple[Grant, ...]


def names(settings: Settings) -> dict[str, str]:
    """Names of the account's objects; those without a setting of their own begin with the database's.

    Raises:
        ConfigurationError: a setting is missing or wrong; all of them are named.
    """
    values = _values(
        settings,
        database="KURASHIRU_SNOWFLAKE_DATABASE",
        deployer="KURASHIRU_SNOWFLAKE_DEPLOY_ROLE",
        orchestrator="KURASHIRU_SNOWFLAKE_ROLE",
        pipeline_warehouse="KURASHIRU_SNOWFLAKE_WAREHOUSE",
        analytics_warehouse="KURASHIRU_SNOWFLAKE_ANALYTICS_WAREHOUSE",
        user="KURASHIRU_SNOWFLAKE_USER",
    )
    database = values["database"]
    user = values["user"].removesuffix(DEPLOY_USER_SUFFIX)
    return {
        **values,
        "transformer": f"{database}_TRANSFORMER",
        "reader": f"{database}_READER",
        "read_warehouse": f"{database}_READ",
        "user": user,
        "deploy_user": f"{user}{DEPLOY_USER_SUFFIX}",
        "storage_integration": f"{database}_STORAGE",
        "api_integration": f"{database}_API",
    }


def variables(settings: Settings) -> dict[str, str]:
    """Everything the files ask for by name: `names`, what the AWS stack gave, and the block of the stage procedure.

    Raises:
        ConfigurationError: a setting is missing or wrong; all of them are named.
    """
    values = _values(
        settings,
        landing="KURASHIRU_LANDING",
        storage_role_arn="KURASHIRU_AWS_STORAGE_ROLE_ARN",
        api_role_arn="KURASHIRU_AWS_API_ROLE_ARN",
        api_url="KURASHIRU_AWS_API_URL",
        topic_arn="KURASHIRU_AWS_TOPIC_ARN",
        external_id="KURASHIRU_SNOWFLAKE_EXTERNAL_ID",
    )
    landing = values.pop("landing").rstrip("/") + "/"
    if not landing.startswith("s3://"):
        message = (
            f"KURASHIRU_LANDING={landing} is not a bucket that Snowpipe can load; "
            "for example: export KURASHIRU_LANDING=s3://kurashiru-production-landing"
        )
        raise ConfigurationError(message)
    _, _, prefix = landing.removeprefix("s3://").partition("/")
    return {
        **names(settings),
        **values,
        "landing_url": landing,
        "landing_prefix": prefix,
        "stage_procedure": staging_task.procedure(settings),
    }


def bootstrap(settings: Settings) -> Script:
    """What an account administrator runs once."""
    return _render(BOOTSTRAP, variables(settings))


def trust(settings: Settings) -> Script:
    """Questions whose answers the AWS stack needs."""
    return _render(TRUST, variables(settings))


def migrations(settings: Settings) -> list[Script]:
    """What schemachange runs, in its order: versions (each once), then repeatable scripts (those that changed)."""
    values = variables(settings)
    return [_render(path, values) for path in paths()]


def planned(settings: Settings, *, is_bootstrap: bool) -> list[Script]:
    """Everything that a deployment to a new account would run, so that a worksheet could run it as well."""
    if is_bootstrap:
        return [bootstrap(settings), trust(settings)]
    return [Script("(schemachange)", _SCHEMACHANGE.format(**names(settings))), *migrations(settings)]


def paths() -> list[Path]:
    """Files of the migrations in the order in which they run.

    Raises:
        ConfigurationError: they are not beside the package, which does not hold them itself.
    """
    found = sorted(MIGRATIONS.glob("*.sql"), key=_order)
    if not found:
        message = f"{MIGRATIONS} has no migrations; run this in a checkout of the project, or give the image deploy/"
        raise ConfigurationError(message)
    return found


def declared(settings: Settings) -> Declared:
    """What a deployed account holds; needs the names only, not what the AWS stack gave."""
    values = {**dict.fromkeys(_UNNAMED_VARIABLES, ""), **names(settings)}
    statements = [statement for path in paths() for statement in _render(path, values).statements]
    created: dict[str, list[str]] = {}
    tables: dict[str, dict[str, str]] = {}
    for statement in statements:
        match = _CREATED.match(statement)
        if match:
            kind, name = match.groups()
            created.setdefault(kind, []).append(name.removeprefix(f"{values['database']}."))
            if kind == "table":
                tables[name] = dict(_COLUMN.findall(statement))
        elif match := _ADDED.match(statement):
            table, column, data_type = match.groups()
            tables[table][column] = data_type
    return Declared(
        tables=tables,
        streams=tuple(created["stream"]),
        pipes=tuple(created["pipe"]),
        stages=tuple(created["stage"]),
        file_formats=tuple(created["file format"]),
        schemas=tuple(created["schema"]),
        grants=tuple(grant for statement in statements for grant in _grants(statement)),
    )


# What schemachange does before it comes to the files.
_SCHEMACHANGE = """use role {deployer};
use warehouse {pipeline_warehouse};
use database {database};
create table if not exists {database}.ops.change_history (
    version varchar,
    description varchar,
    script varchar,
    script_type varchar,
    checksum varchar,
    execution_time number,
    status varchar,
    installed_by varchar,
    installed_on timestamp_ltz
);"""
# Of `variables`, those that stand in no name that the migrations declare.
_UNNAMED_VARIABLES = ("landing_url", "landing_prefix", "topic_arn", "api_url", "stage_procedure")


def _values(settings: Settings, **wanted: str) -> dict[str, str]:
    found, problems = {}, []
    for name, variable in wanted.items():
        try:
            found[name] = settings.text(variable)
        except ConfigurationError as error:
            problems.append(str(error))
        else:
            if not found[name]:
                problems.append(f"{variable} has no value in {settings.environment}; export KURASHIRU_ENV=production")
    if problems:
        raise ConfigurationError("\n".join(problems))
    return found


def _render(path: Path, values: Mapping[str, str]) -> Script:
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701 - SQL, not HTML
    return Script(
        path.relative_to(PROJECT_ROOT).as_posix(),
        environment.from_string(path.read_text(encoding="utf-8")).render(**values).strip(),
    )


def _order(path: Path) -> tuple[int, list[int | str]]:
    """As schemachange orders: numbers in a name as numbers."""
    parts: list[int | str] = [int(part) if part.isdigit() else part.lower() for part in re.split("([0-9]+)", path.name)]
    return "VR".index(path.name[0]), parts


def _statements(sql: str) -> Iterator[str]:
    start = 0
    for token in _TOKEN.finditer(sql):
        if token.group() == ";":
            yield _LEADING_COMMENTS.sub("", sql[start : token.start()]).rstrip()
            start = token.end()
    rest = _LEADING_COMMENTS.sub("", sql[start:]).rstrip()
    if rest:
        yield rest


def _grants(statement: str) -> Iterator[Grant]:
    match = _GRANT.match(statement)
    if match:
        for privilege in match["privileges"].split(", "):
            yield Grant(privilege, (match["scope"] or "").strip(), match["kind"].strip(), match["name"], match["role"])
