"""A lake opened for a test, with short ways to fill it and to look under the port."""

import gzip
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self
from uuid import UUID

import pyarrow as pa

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.realtime.micro_batch import Accounting, MicroBatchPipeline
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse.base import LoadReport, Parameter, RowCounts, StreamStatus
from kurashiru_pipeline.warehouse.ducklake import DuckLakeWarehouse
from tests.traffic import put

NOW = datetime(2026, 11, 23, 9, 30)
_RAW = pa.schema(
    [
        ("payload", pa.string()),
        ("file_name", pa.string()),
        ("file_row_number", pa.int64()),
        ("landed_at", pa.timestamp("us")),
        ("loaded_at", pa.timestamp("us")),
    ]
)


class Lake(AbstractContextManager["Lake"]):
    """The near-real-time lake of `settings`; the one writer while it is open."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.warehouse = DuckLakeWarehouse.open(settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.warehouse.close()

    def reopen(self) -> None:
        """Close and open again, as a new process would."""
        self.warehouse.close()
        self.warehouse = DuckLakeWarehouse.open(self.settings)

    # Looking under the port

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.warehouse._connection.execute(query).fetchall()

    def dicts(self, query: str) -> list[dict[str, Any]]:
        return self.warehouse._connection.execute(query).to_arrow_table().to_pylist()

    def count(self, table: str) -> int:
        return int(self.rows(f"select count(*) from {table}")[0][0])

    def insert(self, table: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> None:
        """Insert rows by column name; columns not given are null."""
        given = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows])
        if not given.num_rows:
            return
        self.warehouse._connection.register("given", given)
        self.warehouse._connection.execute(f"insert into {table} by name select * from given")
        self.warehouse._connection.unregister("given")

    # Landing and loading

    def land(self, name: str, lines: bytes | Iterable[str]) -> None:
        """Put an event file into the landing folder, gzipped unless given as bytes."""
        content = lines if isinstance(lines, bytes) else gzip.compress("".join(f"{line}\n" for line in lines).encode())
        put(self.settings.landing, name, content)

    def load(self, *, max_lines: int = 1_000_000, is_rescan: bool = False) -> LoadReport:
        return self.warehouse.load_landed_files(self.settings.landing, max_lines=max_lines, is_rescan=is_rescan)

    def insert_lines(self, lines: Sequence[str], *, file_name: str, loaded_at: datetime = NOW) -> None:
        """Lines as the loader would have inserted them at `loaded_at`."""
        self.insert(
            "raw.behavior_events",
            pa.Table.from_pylist(
                [
                    {
                        "payload": line,
                        "file_name": file_name,
                        "file_row_number": number,
                        "landed_at": loaded_at - timedelta(seconds=3),
                        "loaded_at": loaded_at,
                    }
                    for number, line in enumerate(lines, start=1)
                ],
                schema=_RAW,
            ),
        )

    # The stream and the steps

    @property
    def stream(self) -> StreamStatus:
        return self.warehouse.stream_status(RAW_EVENTS_STREAM)

    def run(self, script: str, *, work_tables: str | None = None, **parameters: Parameter) -> RowCounts:
        """One script in a transaction of its own."""
        return self.warehouse.transact(
            lambda transaction: transaction.run(script, **parameters), work_tables=work_tables
        )

    def stage(self, clock: datetime = NOW, **changes: str) -> Accounting | None:
        """The pipeline's stage step; the micro-batch counts as delivered afterwards, so that the next may begin."""
        pipeline = MicroBatchPipeline(
            self.warehouse,
            Settings.load(environ={**self.settings.environ, **changes}),
            _no_table,
            clock=lambda: clock,
        )
        accounting = pipeline.stage()
        if accounting is not None:
            self.deliver(accounting.batch_id)
        return accounting

    def deliver(self, batch_id: int) -> None:
        """Write in the ledger that a micro-batch is delivered."""
        self.run("finish_stage", batch_id=batch_id, stage="reflect", finished_at=NOW, seconds=0.1, row_count=0)

    def stage_events(self, batch_id: int, events: Sequence[Mapping[str, Any]]) -> None:
        """Events as a micro-batch would have staged them."""
        self.insert("staging.behavior_events", [{"batch_id": batch_id, **event} for event in events])


def event_id(number: int) -> str:
    return str(UUID(int=number))


def _no_table() -> RecommendationTable:
    raise AssertionError("staging needs no DynamoDB")
