"""The near-real-time tables opened for a test, with short ways to fill them and to look under the port.

`Lake` is the embedded engine, `SnowflakeTables` the production engine over a stand-in account. `PlainTables` runs the
embedded engine's SQL in memory, without a lake: fast enough for many random examples of what a script makes of rows.
"""

import gzip
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self
from uuid import UUID

import duckdb
import hypothesis
import pyarrow as pa

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM, Stream
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.realtime.micro_batch import Accounting, MicroBatchPipeline
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse.base import (
    LoadReport,
    MaintenanceReport,
    Parameter,
    RowCounts,
    StreamStatus,
    T,
    Transaction,
    Warehouse,
)
from kurashiru_pipeline.warehouse.ducklake import DuckLakeWarehouse
from kurashiru_pipeline.warehouse.keyed_tables import KEYED_TABLES
from kurashiru_pipeline.warehouse.snowflake import SnowflakeWarehouse
from kurashiru_pipeline.warehouse.snowflake_arrow import column_definitions, column_readers, from_snowflake, to_ndjson
from kurashiru_pipeline.warehouse.statements import Statement, array_columns, render
from tests import keyed
from tests.snowflake.account import deployed, variables
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


class Tables(AbstractContextManager["Tables"]):
    """Tables of the near-real-time schema, whichever way they are kept."""

    is_stand_in: ClassVar[bool] = False
    """Whether statements cost ten milliseconds each."""
    first_key_counts: ClassVar[bool] = True
    """Of a key given twice in a JSON object, whether the first counts; otherwise the last does."""

    def __init__(self, settings: Settings, warehouse: Warehouse) -> None:
        self.settings = settings
        self.warehouse = warehouse

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.warehouse.close()

    def profile(self, examples: int) -> hypothesis.settings:
        """How a test over random examples runs here: on a stand-in few of them, and no search for a smaller one."""
        if self.is_stand_in:
            phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
            return hypothesis.settings(deadline=None, max_examples=min(examples, 4), phases=phases)
        return hypothesis.settings(deadline=None, max_examples=examples)

    # Looking under the port, in SQL that both engines understand

    @abstractmethod
    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Rows of a statement."""

    @abstractmethod
    def dicts(self, query: str) -> list[dict[str, Any]]:
        """Rows of a query by column name."""

    @abstractmethod
    def insert(self, table: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> None:
        """Insert rows by column name; columns not given are null."""

    def count(self, table: str) -> int:
        return int(self.rows(f"select count(*) from {table}")[0][0])

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

    # Steps

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


class DuckTables(Tables):
    """Tables of DuckDB, in a lake or not."""

    def __init__(self, settings: Settings, warehouse: Warehouse, connection: duckdb.DuckDBPyConnection) -> None:
        super().__init__(settings, warehouse)
        self.connection = connection

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return self.connection.execute(query).fetchall()

    def dicts(self, query: str) -> list[dict[str, Any]]:
        return self.connection.execute(query).to_arrow_table().to_pylist()

    def insert(self, table: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> None:
        given = _table(rows)
        if not given.num_rows:
            return
        self.connection.register("given", given)
        self.connection.execute(f"insert into {table} by name select * from given")
        self.connection.unregister("given")


class Lake(DuckTables):
    """The near-real-time lake of `settings`; the one writer while it is open."""

    warehouse: DuckLakeWarehouse

    def __init__(self, settings: Settings) -> None:
        warehouse = DuckLakeWarehouse.open(settings)
        super().__init__(settings, warehouse, warehouse._connection)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return super().rows(keyed.in_sql(self.warehouse, query))

    def dicts(self, query: str) -> list[dict[str, Any]]:
        return super().dicts(keyed.in_sql(self.warehouse, query))

    def insert(self, table: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> None:
        if table not in KEYED_TABLES:
            super().insert(table, rows)
        elif len(rows):
            keyed.insert(self.warehouse, table, _table(rows))

    def reopen(self) -> None:
        """Close and open again, as a new process would."""
        self.warehouse.close()
        self.__init__(self.settings)

    @property
    def stream(self) -> StreamStatus:
        return self.warehouse.stream_status(RAW_EVENTS_STREAM)

    def land(self, name: str, lines: bytes | Iterable[str]) -> None:
        """Put an event file into the landing folder, gzipped unless given as bytes."""
        content = lines if isinstance(lines, bytes) else gzip.compress("".join(f"{line}\n" for line in lines).encode())
        put(self.settings.landing, name, content)

    def load(self, *, max_lines: int = 1_000_000, is_rescan: bool = False) -> LoadReport:
        return self.warehouse.load_landed_files(max_lines=max_lines, is_rescan=is_rescan)


class SnowflakeTables(Tables):
    """The production engine over a stand-in account of its own in folder `home`; its one writer while it is open."""

    is_stand_in = True
    first_key_counts = False

    def __init__(self, home: Path, landing: Path) -> None:
        self._resources = ExitStack()
        self.account = self._resources.enter_context(deployed(home, landing))
        settings = Settings.load(Environment.PRODUCTION, variables(home))
        super().__init__(settings, SnowflakeWarehouse.open(settings))
        self._session = self.account.connect(database="KURASHIRU", schema="RAW", warehouse="LOOKING")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.warehouse.close()
        self._resources.close()

    def reopen(self) -> None:
        """Close and open again, as a new process would."""
        self.warehouse.close()
        self.warehouse = SnowflakeWarehouse.open(self.settings)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        return list(self._session.cursor().execute(query).fetchall())

    def dicts(self, query: str) -> list[dict[str, Any]]:
        sent = self._session.cursor().execute(query).fetch_arrow_all(force_return_table=True)
        return from_snowflake(sent, array_columns()).to_pylist()

    def insert(self, table: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> None:
        given = _table(rows)
        if not given.num_rows:
            return
        given = given.cast(
            pa.schema([field if field.type != pa.null() else field.with_type(pa.string()) for field in given.schema])
        )
        values = ", ".join("parse_json(properties)" if name == "properties" else name for name in given.column_names)
        path = self.account.home / "given.ndjson.gz"
        path.write_bytes(to_ndjson(given))
        for statement in (
            f"create or replace temporary table given ({column_definitions(given.schema)})",
            f"put 'file://{path}' @%given auto_compress = false overwrite = true",
            f"copy into given from (select {column_readers(given.schema)} from @%given) file_format = (type = json)",
            f"insert into {table} ({', '.join(given.column_names)}) select {values} from given",
        ):
            self._session.cursor().execute(statement)


class PlainTables(DuckTables):
    """The same SQL on plain tables in memory."""

    def __init__(self) -> None:
        warehouse = _PlainWarehouse()
        super().__init__(Settings.load(environ={}), warehouse, warehouse.connection)


class _PlainWarehouse(Warehouse, Transaction):
    """A warehouse of plain DuckDB tables; its stream is what was inserted since it was last read."""

    engine = "ducklake"
    loads_events = True

    def __init__(self) -> None:
        self.connection = duckdb.connect()
        self._offset = -1
        self.run("schema")

    def run(self, script: str, **parameters: Parameter) -> RowCounts:
        counts = {}
        for statement in self._render(script, parameters):
            [(counts[statement.name],)] = self.connection.execute(statement.sql).fetchall() or [(0,)]
        return counts

    def fetch(self, script: str, **parameters: Parameter) -> pa.Table:
        [statement] = self._render(script, parameters)
        return self.connection.execute(statement.sql).to_arrow_table()

    def transact(
        self,
        body: Callable[[Transaction], T],
        *,
        work_tables: str | None = None,
        inputs: Mapping[str, pa.Table] | None = None,
    ) -> T:
        if work_tables is not None:
            self.run(work_tables)
        for name, table in (inputs or {}).items():
            self.connection.register(name, table)
        return body(self)

    def stream_status(self, stream: Stream) -> StreamStatus:
        [(latest,)] = self.connection.execute(
            f"select coalesce(max(rowid), -1) from {stream.schema}.{stream.table}"
        ).fetchall()
        return StreamStatus(stream.name, self._offset, latest, latest > self._offset, False)

    def close(self) -> None:
        self.connection.close()

    def change_signature(self) -> object:
        raise NotImplementedError

    def is_replaced(self) -> bool:
        raise NotImplementedError

    def has_landed_files(self) -> bool:
        raise NotImplementedError

    def load_landed_files(self, *, max_lines: int, is_rescan: bool = False) -> LoadReport:
        raise NotImplementedError

    def reset_stream(self, stream: Stream) -> int:
        raise NotImplementedError

    def maintain(self, on_progress: Callable[[str], object] | None = None) -> MaintenanceReport:
        raise NotImplementedError

    def _render(self, script: str, parameters: Mapping[str, Parameter]) -> list[Statement]:
        return render(script, engine=self.engine, stream=self._read, parameters=parameters)

    def _read(self, name: str) -> str:
        status = self.stream_status(RAW_EVENTS_STREAM)
        assert name == status.name
        assert status.latest is not None
        self._offset = status.latest
        return f"(select * from raw.behavior_events where rowid > {status.offset})"


def _table(rows: pa.Table | Sequence[Mapping[str, Any]]) -> pa.Table:
    return rows if isinstance(rows, pa.Table) else pa.Table.from_pylist([dict(row) for row in rows])


def event_id(number: int) -> str:
    return str(UUID(int=number))


def _no_table() -> RecommendationTable:
    raise AssertionError("staging needs no DynamoDB")
