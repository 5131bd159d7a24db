"""Applying the SQL of deploy/snowflake to an account.

Here: the bootstrap, statement by statement, in an administrator's own login; the migrations, by schemachange.
Not here: the SQL or its variables (scripts.py), or whether an account is as it should be (doctor.py).
Import it only to deploy: connector and schemachange take a second.
"""

import json
import logging
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import structlog
from schemachange.config.ChangeHistoryTable import ChangeHistoryTable
from schemachange.config.DeployConfig import DeployConfig
from schemachange.deploy import deploy
from schemachange.ScriptExecutionError import ScriptExecutionError
from schemachange.session.SnowflakeSession import SnowflakeSession
from snowflake.connector.cursor import SnowflakeCursor
from snowflake.connector.errors import Error

from kurashiru_pipeline.deployment import login, scripts
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import KurashiruError

_TRUST = ("STORAGE_AWS_IAM_USER_ARN", "STORAGE_AWS_EXTERNAL_ID", "API_AWS_IAM_USER_ARN", "API_AWS_EXTERNAL_ID")


@dataclass(frozen=True)
class Deployed:
    """What a deployment did. `drifted` are migrations whose text is no longer the one that ran."""

    applied: tuple[str, ...]
    skipped_count: int
    drifted: tuple[str, ...]


def apply_bootstrap(settings: Settings, connection: str, on_event: Callable[[str], object]) -> dict[str, str]:
    """Run bootstrap.sql and trust.sql; what is there already stays as it is.

    Args:
        connection: entry of the connector's own connections.toml: the login of an account administrator.
        on_event: told each statement's first line.

    Returns:
        Whom the AWS stack must trust: of the two roles by Snowflake's property names, and TOPIC_AWS_IAM_USER_ARN.

    Raises:
        ConfigurationError: a setting is missing, or the login does not work.
        KurashiruError: a statement failed; names it.
    """
    told: dict[str, str] = {}
    with login.session(settings, connection) as session, session.cursor() as cursor:
        for statement in _run(scripts.planned(settings, is_bootstrap=True), cursor, on_event):
            if statement.startswith("describe integration"):
                told.update({str(row[0]): str(row[2]) for row in cursor.fetchall() if row[0] in _TRUST})
            elif statement.startswith("select system$get_aws_sns_iam_policy"):
                told["TOPIC_AWS_IAM_USER_ARN"] = _principal(cursor.fetchall()[0][0])
    return told


def _principal(policy: str) -> str:
    """The user that a policy of SYSTEM$GET_AWS_SNS_IAM_POLICY lets in."""
    [statement] = json.loads(policy)["Statement"]
    user = statement["Principal"]["AWS"]
    return str(user[0] if isinstance(user, list) else user)


def apply_again(settings: Settings, connection: str | None, on_event: Callable[[str], object]) -> int:
    """Run every statement of the migrations, whether it ran before or not; how many there were.

    All of them may be run again. This puts back what is gone: an object, a grant, the row of the writer's lease. A
    stream that is made anew starts at the present; docs/operations.md says how to put the unread rows in front of it.

    Args:
        connection: entry of the connector's own connections.toml; None logs in with the settings.
        on_event: told each statement's first line.

    Raises:
        ConfigurationError: a setting is missing, or the login does not work.
        KurashiruError: a statement failed; names it.
    """
    planned = scripts.planned(settings, is_bootstrap=False)
    with login.session(settings, connection) as session, session.cursor() as cursor:
        return sum(1 for _ in _run(planned, cursor, on_event))


def apply_migrations(settings: Settings, connection: str | None, on_event: Callable[[str], object]) -> Deployed:
    """Run the migrations that the account has not seen, through schemachange; its history is ops.change_history.

    Args:
        connection: entry of the connector's own connections.toml; None logs in with the settings.
        on_event: told each script as it runs.

    Raises:
        ConfigurationError: a setting is missing, the login does not work, or the account was not bootstrapped.
        KurashiruError: a statement failed; names script and statement.
    """
    values = scripts.variables(settings)
    history = f"{values['database']}.OPS.CHANGE_HISTORY"
    config = DeployConfig.factory(
        config_file_path=scripts.FOLDER,
        root_folder=scripts.MIGRATIONS,
        config_vars=values,
        change_history_table=history,
        create_change_history_table=True,
        raise_exception_on_ignored_versioned_script=True,
    )
    journal = _Journal(on_event)
    with _structlog_to(journal):
        with login.refusals(settings, connection):
            session = SnowflakeSession(
                schemachange_version=metadata.version("schemachange"),
                application="kurashiru_pipeline",
                logger=structlog.get_logger(),
                change_history_table=ChangeHistoryTable.from_str(history),
                role=values["deployer"],
                warehouse=values["pipeline_warehouse"],
                database=values["database"],
                autocommit=True,
                additional_snowflake_params=login.arguments(settings, connection),
            )
        try:
            deploy(config, session)
        except ValueError as error:  # a version that is not above the last one applied
            message = f"deploy/snowflake/migrations: {error}"
            raise KurashiruError(message) from error
        except ScriptExecutionError as error:
            message = (
                f"deploy/snowflake/migrations/{error.script_name} failed: {error.error_message}\n"
                "What ran before it stays; every statement may be run again. Mend the cause, then: "
                "kurashiru deploy snowflake"
            )
            raise KurashiruError(message) from error
        except Error as error:
            message = f"the account did not accept the change history {history}: {error.msg}"
            raise KurashiruError(message) from error
        finally:
            session.con.close()
    return Deployed(tuple(journal.applied), journal.skipped_count, tuple(journal.drifted))


def _run(planned: list[scripts.Script], cursor: SnowflakeCursor, on_event: Callable[[str], object]) -> Iterator[str]:
    """Each statement, once it has run; its result is in the cursor then."""
    for script in planned:
        for number, statement in enumerate(script.statements, start=1):
            on_event(f"{script.file} {number:>2}: {statement.splitlines()[0]}")
            try:
                cursor.execute(statement)
            except Error as error:
                message = f"{script.file}, statement {number} failed: {error.msg}\n{statement}"
                raise KurashiruError(message) from error
            yield statement


class _Journal:
    """schemachange's log, as far as a person wants to know."""

    def __init__(self, on_event: Callable[[str], object]) -> None:
        self.applied: list[str] = []
        self.drifted: list[str] = []
        self.skipped_count = 0
        self._on_event = on_event

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        text, script = str(event["event"]), str(event.get("a_script_name"))
        if text.startswith("Applying"):
            self.applied.append(script)
            self._on_event(script)
        elif text.startswith("Script checksum has drifted"):
            self.drifted.append(script)
        elif text == "Completed successfully":
            self.skipped_count = event["scripts_skipped"]
        raise structlog.DropEvent


@contextmanager
def _structlog_to(journal: _Journal) -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(
        processors=[journal],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)
