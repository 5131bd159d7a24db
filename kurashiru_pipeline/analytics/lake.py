"""The analytics lake: one writer at a time, and readers of committed marts.

Here: the writer lock every analytics step takes, and reading marts as Arrow.
Not here: what is written (dbt, model_assets.py), and the near-real-time lake, which is only read here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from logging import Logger
from pathlib import Path

import dagster as dg
import duckdb
import pyarrow as pa

from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import EngineNotBuiltError
from kurashiru_pipeline.warehouse import ducklake, open_warehouse
from kurashiru_pipeline.warehouse.lock import writer_lock

ALIAS = "analytics"
POOL = "analytics_lake"
_WRITER_WAIT_SECONDS = 1800.0


class AnalyticsLake(dg.ConfigurableResource["AnalyticsLake"]):
    """The warehouse as analytics sees it. Opened by the steps, never while definitions load."""

    environment: str
    variables: dict[str, str] | None = None

    def settings(self) -> Settings:
        """Settings of the environment; `variables`, where given, stand in for the process's own."""
        return Settings.load(Environment(self.environment), self.variables)

    @contextmanager
    def writing(self, log: Logger) -> Iterator[None]:
        """Be the only writer. On the embedded engine that is a lock; Snowflake takes care of it by itself.

        Raises:
            TransientError: another analytics run still writes after half an hour.
        """
        settings = self.settings()
        if settings.text("KURASHIRU_ENGINE") != "ducklake":
            yield
            return
        # dbt attaches the near-real-time lake READ_ONLY, so it must be there, and DuckDB's extensions with it.
        open_warehouse(settings, read_only=True).close()
        with writer_lock(
            self._folder(ALIAS),
            wait_seconds=_WRITER_WAIT_SECONDS,
            on_wait=lambda holder: log.info(f"waiting for the analytics lake: {holder} is writing"),
        ):
            (self._folder(ALIAS) / "data").mkdir(exist_ok=True)
            yield

    @contextmanager
    def connection(self, *, read_only: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
        """DuckDB with both lakes attached, the near-real-time one READ_ONLY; use it inside `writing` to write.

        Raises:
            EngineNotBuiltError: the engine is Snowflake.
        """
        engine = self.settings().text("KURASHIRU_ENGINE")
        if engine != "ducklake":
            message = (
                f"KURASHIRU_ENGINE={engine}: this version trains and maintains on the embedded engine only. Missing is "
                "a reader of the marts over SnowflakeResource in kurashiru_pipeline/analytics/lake.py. "
                "dbt itself runs on Snowflake; leave the group `model` out of the job"
            )
            raise EngineNotBuiltError(message)
        with ducklake.connect() as connection:
            ducklake.attach(connection, self._folder(ALIAS), ALIAS, read_only=read_only)
            ducklake.attach(connection, self._folder(ducklake.ALIAS), ducklake.ALIAS, read_only=True)
            connection.execute(f"use {ALIAS}")
            yield connection

    def _folder(self, lake: str) -> Path:
        return self.settings().folder("KURASHIRU_LAKE") / lake


def read(connection: duckdb.DuckDBPyConnection, query: str) -> pa.Table:
    """Rows of a query as Arrow."""
    return connection.execute(query).to_arrow_table()
