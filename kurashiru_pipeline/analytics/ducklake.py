"""Analytics on the embedded engine: a lake of its own, written by one run at a time.

Here: the writer lock every analytics step takes, training in this process, model versions in a folder.
Not here: what dbt writes, and the near-real-time lake, which is only read here.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from logging import Logger
from pathlib import Path

import duckdb
import pyarrow as pa

from kurashiru_pipeline.analytics.warehouse import CANARY_DAYS, CANARY_DAYS_TABLE, AnalyticsWarehouse
from kurashiru_pipeline.core.artifact import (
    MANIFEST,
    InService,
    ModelArtifact,
    in_service,
    load_artifact,
    load_twin,
    put_in_service,
    save_artifact,
)
from kurashiru_pipeline.core.canary import Canary
from kurashiru_pipeline.core.candidate import TRAINING_TABLES, train_candidate
from kurashiru_pipeline.core.gate import Contender, Record
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.warehouse import ducklake, open_warehouse
from kurashiru_pipeline.warehouse.base import MaintenanceReport
from kurashiru_pipeline.warehouse.ducklake_upkeep import Upkeep
from kurashiru_pipeline.warehouse.lock import WriterLock, writer_lock

ALIAS = "analytics"
HISTORY = "decisions.jsonl"
SNAPSHOT_HOURS = 24
_WRITER_WAIT_SECONDS = 1800.0


class DuckLakeAnalytics(AnalyticsWarehouse):
    """Both lakes attached to a DuckDB of this process; model versions below KURASHIRU_MODELS."""

    def writing(self, log: Logger) -> AbstractContextManager[object]:
        return self._locked(lambda holder: log.info(f"waiting for the analytics lake: {holder} is writing"))

    @contextmanager
    def _locked(self, on_wait: Callable[[str], object]) -> Iterator[WriterLock]:
        # dbt attaches the near-real-time lake READ_ONLY, so it must be there, and DuckDB's extensions with it.
        open_warehouse(self.settings(), read_only=True).close()
        with writer_lock(
            self._lake(ALIAS),
            wait_seconds=_WRITER_WAIT_SECONDS,
            on_wait=on_wait,
        ) as lock:
            (self._lake(ALIAS) / "data").mkdir(exist_ok=True)
            yield lock

    def train(self, version: str, champion: ModelArtifact | None) -> ModelArtifact | None:
        with self._connection(read_only=True) as connection:
            connection.execute("begin transaction")  # every query sees one snapshot
            tables = {
                name: connection.execute(f"select {', '.join(schema.names)} from {name}").to_arrow_table().cast(schema)
                for name, schema in TRAINING_TABLES.items()
            }
        twin = None if champion is None else load_twin(self._models / champion.version)
        candidate = train_candidate(tables, load_weights(), version, Contender(champion, twin))
        if candidate is None:
            return None
        save_artifact(candidate.artifact, self._models, candidate.twin)
        return candidate.artifact

    def artifact(self, version: str) -> ModelArtifact:
        return load_artifact(self._models / version)

    def in_service(self) -> InService:
        return in_service(self._models)

    def put_in_service(self, service: InService) -> None:
        put_in_service(self._models, service)

    def history(self) -> list[Record]:
        try:
            lines = (self._models / HISTORY).read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [Record.from_json(line) for line in lines]

    def record(self, record: Record) -> None:
        with (self._models / HISTORY).open("ab") as file:
            file.write(record.to_json() + b"\n")

    def canary_days(self, canary: Canary) -> pa.Table:
        query = (
            f"select {', '.join(CANARY_DAYS.names)} from {CANARY_DAYS_TABLE} "
            "where challenger_version = $version and canary_started_at = $started_at order by shown_on, arm"
        )
        asked = {"version": canary.version, "started_at": canary.started_at}
        with self._connection(read_only=True) as connection:
            return connection.execute(query, asked).to_arrow_table().cast(CANARY_DAYS)

    def saved_versions(self) -> list[str]:
        return sorted(manifest.parent.name for manifest in self._models.glob(f"[!.]*/{MANIFEST}"))

    def remove_version(self, version: str) -> None:
        shutil.rmtree(self._models / version)

    def maintain(
        self, on_wait: Callable[[str], object], on_progress: Callable[[str], object] | None = None
    ) -> MaintenanceReport:
        """Few files, and the snapshots of a day."""
        with self._locked(on_wait) as lock, self._connection(read_only=False) as connection:
            upkeep = Upkeep(
                connection,
                ALIAS,
                self._lake(ALIAS),
                give_way=lock.give_way,
                snapshots_kept=timedelta(hours=SNAPSHOT_HOURS),
                files_kept=timedelta(minutes=self.settings().integer("KURASHIRU_REPLACED_FILE_MINUTES")),
            )
            return upkeep.run(on_progress)

    @contextmanager
    def _connection(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        """DuckDB with both lakes attached, the near-real-time one READ_ONLY; use it inside `writing` to write."""
        with ducklake.connect() as connection:
            ducklake.attach(connection, self._lake(ALIAS), ALIAS, read_only=read_only)
            ducklake.attach(connection, self._lake(ducklake.ALIAS), ducklake.ALIAS, read_only=True)
            connection.execute(f"use {ALIAS}")
            yield connection

    @property
    def _models(self) -> Path:
        return self.settings().folder("KURASHIRU_MODELS")

    def _lake(self, name: str) -> Path:
        return self.settings().folder("KURASHIRU_LAKE") / name
