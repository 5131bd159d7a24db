"""One session of Snowflake: opened with a key pair or the process's own AWS identity, closed whatever happens.

Here: what is connected with, the parameters and tags of a session, its statements, its errors in our words.
Not here: which statements (snowflake.py), Arrow types (snowflake_arrow.py). No connector is imported before `open`:
`kurashiru --help` and loading Dagster definitions do not pay for it.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, StaleStreamError, TransientError

if TYPE_CHECKING:
    from snowflake.connector import SnowflakeConnection
    from snowflake.connector.errors import Error

APPLICATION: Final = "kurashiru_pipeline"
SCHEMA: Final = "OPS"
"""Where temporary tables are made; no table of ours there has the name of a work table."""

_LOGIN_SECONDS: Final = 60
_NETWORK_SECONDS: Final = 300
# What a statement may rely on, whatever the account's own parameters are.
_PARAMETERS: Final[dict[str, str | int | bool]] = {
    "AUTOCOMMIT": True,
    "TRANSACTION_ABORT_ON_ERROR": True,
    "TIMEZONE": "UTC",
    "TIMESTAMP_TYPE_MAPPING": "TIMESTAMP_NTZ",
    "TIMESTAMP_INPUT_FORMAT": "AUTO",
    "LOCK_TIMEOUT": 60,
    "STATEMENT_TIMEOUT_IN_SECONDS": 3600,
    "ABORT_DETACHED_QUERY": True,
}

# Numbers of Snowflake's errors; those of the connector are in its module errorcode.
_SESSION_GONE: Final = frozenset({390111, 390112, 390113, 390114, 390115, 250002, 252007})
_LOCKED: Final = frozenset({625})
_MISSING: Final = frozenset({2003, 2043, 3001, 3540})
_NO_WAREHOUSE: Final = frozenset({606})
_IDENTITY: Final = range(390000, 400000)
_CONNECTOR_SETTINGS: Final = frozenset({251001, 251005, 251008, 251009, 251017, 251018, 251021})
_HTTP: Final = range(290000, 291000)
_HTTP_TRANSIENT: Final = frozenset({290408, 290429, *range(290500, 290600)})
_STALE: Final = re.compile(r"\bstale\b|cannot read from stream|change tracking is not available")
_STALE_NUMBER: Final = 91901
_EXTERNAL: Final = re.compile(
    r"Request failed for external function \S+( with remote service error: (?P<status>[0-9]{3}))?"
)


class LockedError(TransientError):
    """Another transaction holds what a statement needs; the whole transaction may be tried again at once."""


class Session:
    """An open session. Its statements raise our errors where a person or a retry can mend what is wrong.

    Raises (every method that runs a statement):
        TransientError: Snowflake did not answer, ended the session, or was busy (LockedError).
        ConfigurationError: an object or a privilege is missing.
        StaleStreamError: the statement reads a stream whose unread changes are gone.
    """

    def __init__(self, connection: "SnowflakeConnection", tag: dict[str, str]) -> None:
        self._connection = connection
        self._tag = tag
        self._is_gone = False

    @classmethod
    def open(cls, settings: Settings, *, warehouse: str | None, run_id: str | None = None) -> "Session":
        """Connect as the service user.

        Args:
            warehouse: runs the queries; None for a session that only asks for metadata, which no warehouse does.
            run_id: the Dagster run the session works for, for its query tag.

        Raises:
            TransientError: Snowflake cannot be reached.
            ConfigurationError: a setting is missing, or account, user, key, role, database or warehouse are refused.
        """
        import snowflake.connector  # noqa: PLC0415 - 0.75 s, and only where this engine runs

        tag = {"app": APPLICATION, "env": str(settings.environment), "run": run_id or "none"}
        arguments = connection_arguments(settings, warehouse=warehouse, tag=tag)
        with _in_our_words(settings):
            return cls(snowflake.connector.connect(**arguments), tag)

    @property
    def id(self) -> str:
        """Snowflake's number of the session."""
        return str(self._connection.session_id)

    @property
    def is_gone(self) -> bool:
        """Whether the session has ended, on either side, so that another has to be opened."""
        return self._is_gone or self._connection.is_closed()

    def rows(self, sql: str, *, name: str) -> list[tuple[Any, ...]]:
        """Rows of a statement; `name` goes into its query tag."""
        with self._executed(sql, name) as cursor:
            return list(cursor.fetchall())

    def dicts(self, sql: str, *, name: str) -> list[dict[str, Any]]:
        """Rows of a statement by column name in lower case, as SHOW and LIST have them."""
        with self._executed(sql, name) as cursor:
            names = [column.name.lower() for column in cursor.description]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def change(self, sql: str, *, name: str) -> int:
        """Run a statement that changes something; rows changed, 0 where it does not count them."""
        rows = self.rows(sql, name=name)
        return rows[0][0] if rows and isinstance(rows[0][0], int) else 0

    def arrow(self, sql: str, *, name: str) -> pa.Table:
        """Result of a query as Snowflake sends it, timestamps in microseconds."""
        with self._executed(sql, name) as cursor:
            table: pa.Table = cursor.fetch_arrow_all(force_return_table=True, force_microsecond_precision=True)
            return table

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _executed(self, sql: str, name: str) -> Iterator[Any]:
        tag = json.dumps({**self._tag, "statement": name})
        with _in_our_words(None, self), self._connection.cursor() as cursor:
            cursor.execute(sql, _statement_params={"QUERY_TAG": tag})
            yield cursor

    def mark_gone(self) -> None:
        """Note that Snowflake has ended the session."""
        self._is_gone = True


def connection_arguments(settings: Settings, *, warehouse: str | None, tag: dict[str, str]) -> dict[str, Any]:
    """Arguments of snowflake.connector.connect, made anew for each connection: the connector writes into them.

    Raises:
        ConfigurationError: a setting is missing, or the key is not there.
    """
    arguments: dict[str, Any] = {
        "account": needed(settings, "KURASHIRU_SNOWFLAKE_ACCOUNT"),
        "role": needed(settings, "KURASHIRU_SNOWFLAKE_ROLE"),
        "database": needed(settings, "KURASHIRU_SNOWFLAKE_DATABASE"),
        "schema": SCHEMA,
        "application": APPLICATION,
        "login_timeout": _LOGIN_SECONDS,
        "network_timeout": _NETWORK_SECONDS,
        "validate_default_parameters": True,
        "session_parameters": {**_PARAMETERS, "QUERY_TAG": json.dumps(tag)},
    }
    if warehouse is not None:
        arguments["warehouse"] = warehouse
    if settings.text("KURASHIRU_SNOWFLAKE_AUTHENTICATOR") == "workload_identity":
        # The AWS role of the process says who it is; Snowflake finds the user that has this role.
        return {**arguments, "authenticator": "WORKLOAD_IDENTITY", "workload_identity_provider": "AWS"}
    arguments |= {
        "user": needed(settings, "KURASHIRU_SNOWFLAKE_USER"),
        "authenticator": "SNOWFLAKE_JWT",
        "private_key_file": str(_key_file(settings)),
    }
    passphrase = settings.text("KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PASSPHRASE")
    if passphrase:
        arguments["private_key_file_pwd"] = passphrase
    return arguments


def needed(settings: Settings, variable: str) -> str:
    """A setting that is empty in the local environment.

    Raises:
        ConfigurationError: it is.
    """
    value = settings.text(variable)
    if not value:
        message = f"{variable} must be set where KURASHIRU_ENGINE=snowflake; kurashiru env prints all settings"
        raise ConfigurationError(message)
    return value


def _key_file(settings: Settings) -> Path:
    variable = "KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH"
    path = Path(needed(settings, variable)).expanduser()
    try:
        path.open("rb").close()
    except OSError as error:
        message = f"{variable}={path}: the private key cannot be read ({error.strerror})"
        raise ConfigurationError(message) from error
    return path


@contextmanager
def _in_our_words(settings: Settings | None, session: Session | None = None) -> Iterator[None]:
    """The connector's errors as ours, where somebody can do something about them; others pass as they are."""
    import snowflake.connector.errors  # noqa: PLC0415

    try:
        yield
    except snowflake.connector.errors.Error as error:
        if session is not None and (error.errno in _SESSION_GONE or error.sqlstate == "08003"):
            session.mark_gone()
        ours = _translated(error)
        if ours is None:
            raise
        raise ours from error
    except (TypeError, ValueError) as error:
        # The connector reads the key by itself, and cryptography speaks of passphrases so.
        if settings is None or settings.text("KURASHIRU_SNOWFLAKE_AUTHENTICATOR") != "key_pair":
            raise
        path = settings.text("KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH")
        message = (
            f"KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH={path} is no PKCS#8 key that "
            f"KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PASSPHRASE opens: {error}"
        )
        raise ConfigurationError(message) from error


def _translated(error: "Error") -> Exception | None:  # noqa: PLR0911 - one a kind
    import snowflake.connector.errors as kinds  # noqa: PLC0415

    number, state, text = error.errno, str(error.sqlstate), str(error).lower()
    if number == _STALE_NUMBER or ("stream" in text and _STALE.search(text)):
        return StaleStreamError(f"Snowflake: {error}")
    if number in _LOCKED or "deadlock" in text or (state == "57014" and "lock" in text):
        return LockedError(f"Snowflake: {error}")
    if number in _SESSION_GONE or state == "08003":
        return TransientError(f"the session with Snowflake has ended; the next one goes on: {error}")
    if number in _NO_WAREHOUSE or "resource monitor" in text:
        message = f"the warehouse cannot be used (KURASHIRU_SNOWFLAKE_WAREHOUSE): {error}; kurashiru doctor tells more"
        return ConfigurationError(message)
    if number in _MISSING:
        message = f"an object or a privilege is missing: {error}; kurashiru deploy snowflake makes them"
        return ConfigurationError(message)
    if number in _CONNECTOR_SETTINGS or (number in _HTTP and number not in _HTTP_TRANSIENT):
        return ConfigurationError(f"Snowflake cannot be connected to: {error}; kurashiru doctor tells more")
    if number in _IDENTITY or state == "28000" or isinstance(error, kinds.ForbiddenError):
        message = (
            f"Snowflake refuses the connection: {error}. Look at KURASHIRU_SNOWFLAKE_ACCOUNT, _USER, _ROLE, _DATABASE "
            "and the key with kurashiru doctor; kurashiru deploy snowflake makes user, role and database"
        )
        return ConfigurationError(message)
    if refused := _EXTERNAL.search(str(error)):
        # Snowflake has repeated the batch itself where that is of use, until its own time-out.
        if refused["status"] and refused["status"].startswith("4") and refused["status"] != "429":
            return ConfigurationError(
                f"the delivery API refuses Snowflake's call: {error}; kurashiru doctor tells more"
            )
        return TransientError(f"the delivery API did not take all rows: {error}")
    if _is_transient(error):
        return TransientError(f"Snowflake: {error}")
    return None


def _is_transient(error: "Error") -> bool:
    """Whether the same call may succeed later: no answer, a statement cancelled or out of time, an incident there."""
    import snowflake.connector.errors as kinds  # noqa: PLC0415

    state = str(error.sqlstate)
    return (
        isinstance(error, kinds.OperationalError | kinds.InterfaceError | kinds.InternalError)
        or state.startswith("08")
        or state in {"57014", "40001"}
        or error.errno in _HTTP_TRANSIENT
        or error.errno == 603  # "SQL execution internal error", an incident of theirs
    )
