"""The analytics project over the stand-in for Snowflake: dbt in this process, rows as analytics_lake.py has them.

Here: a deployed account, staging rows in it, running dbt against it, reading what dbt made.
Not here: the rows themselves (analytics_lake.py), or what is expected of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from analytics_lake import Event, event_rows, model_rows, recipe_rows, rounded, user_rows
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from dbt.cli.main import dbtRunner

from kurashiru_pipeline.analytics.prepare import PROJECT_FOLDER, dbt_variables
from kurashiru_pipeline.environment import Environment, Settings
from tests.snowflake.account import variables
from tests.snowflake.stand_in import StandIn

_JSON_TYPES = {"ARRAY", "VARIANT", "OBJECT"}


class Account:
    """A deployed, entered stand-in."""

    def __init__(self, stand_in: StandIn, folder: Path) -> None:
        self.stand_in = stand_in
        self.folder = folder
        self.settings = Settings.load(Environment.PRODUCTION, variables(folder))
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        Path(self.settings.text("KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH")).write_bytes(pem)

    def dbt(self, *arguments: str) -> None:
        """Run dbt; fails with dbt's own words."""
        options = {
            "--project-dir": PROJECT_FOLDER,
            "--profiles-dir": PROJECT_FOLDER,
            "--target-path": self.folder / "target",
            "--log-path": self.folder / "target",
            "--target": "snowflake",
            "--threads": 1,
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, value in dbt_variables(self.settings).items():
                patch.setenv(name, value)
            given = [str(part) for option in options.items() for part in option]
            done = dbtRunner().invoke([*arguments, *given, "--quiet"])
        failed = [node for node in done.result or [] if node.status in {"error", "fail"}] if done.result else []
        assert done.success, done.exception or {node.node.name: node.message for node in failed}

    def write_catalogue(self) -> None:
        """See analytics_lake.write_catalogue."""
        self._stage("staging.recipes", recipe_rows())
        self._stage("staging.users", user_rows())
        self._stage("ops.batch_models", model_rows())

    def write_events(self, events: list[Event]) -> None:
        """See analytics_lake.write_events."""
        self._stage("staging.behavior_events", event_rows(events))

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Rows of one statement in a session of its own."""
        with self._cursor() as cursor:
            rows: list[tuple[Any, ...]] = cursor.execute(statement).fetchall()
            return rows

    def read_tables(self, schemas: tuple[str, ...] = ("intermediate", "marts")) -> dict[str, list[dict[str, Any]]]:
        """See analytics_lake.read_tables."""
        with self._cursor() as cursor:
            cursor.execute(
                "select table_schema, table_name from information_schema.tables where table_type = 'BASE TABLE'"
            )
            names = [(schema.lower(), table.lower()) for schema, table in cursor.fetchall()]
            return {
                f"{schema}.{name}": _rows(cursor, f"{schema}.{name}") for schema, name in names if schema in schemas
            }

    def _stage(self, table: str, rows: list[dict[str, Any]]) -> None:
        file = self.folder / f"{table}.ndjson"
        given = [{name: value for name, value in row.items() if value is not None} for row in rows]
        file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in given))
        schema, name = table.split(".")
        with self._cursor() as cursor:
            types = {
                row[0].lower(): row[1].split("(")[0] for row in cursor.execute(f"describe table {table}").fetchall()
            }
            columns = ", ".join(f"$1:{column}::{kind}" for column, kind in types.items())
            cursor.execute(f"put 'file://{file}' @{schema}.%{name} auto_compress = false overwrite = true")
            cursor.execute(
                f"copy into {table} from (select {columns} from @{schema}.%{name}) "
                "file_format = (type = json) on_error = abort_statement force = true purge = true"
            )

    @contextmanager
    def _cursor(self) -> Iterator[Any]:
        connection = self.stand_in.connect(database="KURASHIRU", warehouse="KURASHIRU_ANALYTICS", schema="MARTS")
        try:
            yield connection.cursor()
        finally:
            connection.close()


def _rows(cursor: Any, table: str) -> list[dict[str, Any]]:
    cursor.execute(f"select * from {table}")
    names = [column[0].lower() for column in cursor.description]
    kinds = [row[1] for row in cursor.connection.cursor().execute(f"describe table {table}").fetchall()]
    return rounded(
        {name: _value(value, kind) for name, value, kind in zip(names, row, kinds, strict=True)}
        for row in cursor.fetchall()
    )


def _value(value: Any, kind: str) -> Any:
    if isinstance(value, str) and kind in _JSON_TYPES:
        return orjson.loads(value)
    return value.replace(tzinfo=None) if isinstance(value, datetime) else value
