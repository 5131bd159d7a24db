"""Logging in to Snowflake to change the account: with the settings' user, or with a person's own entry.

Here: arguments of the connector, a session that is closed in any case, and a readable error when it is refused.
Not here: sessions of the pipeline's own role (warehouse/snowflake_session.py); the doctor uses those.
Import it only to connect: the connector takes most of a second.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import snowflake.connector
from snowflake.connector import SnowflakeConnection
from snowflake.connector.errors import Error, HttpError, OperationalError

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, TransientError
from kurashiru_pipeline.warehouse.snowflake_session import connection_arguments

_IDENTITY = ("account", "user", "application", "login_timeout", "network_timeout", "authenticator")
_IDENTITY_OF_KEY = ("private_key_file", "private_key_file_pwd", "workload_identity_provider")


def arguments(settings: Settings, connection: str | None) -> dict[str, Any]:
    """Who logs in, for snowflake.connector.connect: no role, no warehouse, no database.

    Args:
        connection: entry of the connector's own connections.toml; None takes user and key of the settings.

    Raises:
        ConfigurationError: a setting is missing, or the key is not there.
    """
    if connection is not None:
        return {"connection_name": connection}
    pipeline = connection_arguments(settings, warehouse=None, tag={})
    return {name: pipeline[name] for name in _IDENTITY + _IDENTITY_OF_KEY if name in pipeline}


@contextmanager
def session(settings: Settings, connection: str | None) -> Iterator[SnowflakeConnection]:
    """A session of the connector, closed at the end.

    Raises:
        ConfigurationError: the account refused the login, or the key cannot be read.
        TransientError: the account did not answer.
    """
    with refusals(settings, connection):
        opened = snowflake.connector.connect(**arguments(settings, connection))
    try:
        yield opened
    finally:
        opened.close()


@contextmanager
def refusals(settings: Settings, connection: str | None) -> Iterator[None]:
    """What goes wrong with a login, in words that say what to look at."""
    try:
        yield
    except (Error, OSError, TypeError, ValueError) as error:
        if connection is not None:
            who = f"connection {connection!r} of connections.toml"
            look = "the entry, and the role it names"
        else:
            user = settings.text("KURASHIRU_SNOWFLAKE_USER")
            who = f"user {user} of account {settings.text('KURASHIRU_SNOWFLAKE_ACCOUNT')}"
            look = (
                f"describe user {user};  -- as an administrator: its RSA_PUBLIC_KEY_FP must be that of the key. "
                "Users, roles and database of a new account: kurashiru deploy snowflake --bootstrap --dry-run"
            )
        message = f"Snowflake did not let in {who}: {error}\nlook at: {look}"
        kind = TransientError if isinstance(error, OperationalError | HttpError) else ConfigurationError
        raise kind(message) from error
