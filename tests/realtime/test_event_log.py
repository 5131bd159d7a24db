"""The local event log: Dagster's own files and rows, with fewer connections."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage

from kurashiru_pipeline.local.stack import write_instance
from kurashiru_pipeline.runtime.event_log import _OPEN_SHARDS, PooledSqliteEventLogStorage

KEY = dg.AssetKey(["a", "b"])


@dg.asset(key=KEY, check_specs=[dg.AssetCheckSpec("sound", asset=KEY)])
def made() -> Iterator[Any]:
    yield dg.MaterializeResult(metadata={"rows": 3}, check_results=[dg.AssetCheckResult(passed=True)])


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    write_instance(tmp_path)
    with dg.DagsterInstance.from_config(str(tmp_path)) as opened:
        yield opened


def _events(storage: SqliteEventLogStorage, run_id: str) -> list[Any]:
    return [(record.storage_id, record.event_log_entry) for record in storage.get_records_for_run(run_id).records]


def test_dagster_reads_what_is_written_and_the_other_way_round(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    assert isinstance(instance.event_log_storage, PooledSqliteEventLogStorage)
    run_id = dg.materialize([made], instance=instance).run_id
    own = SqliteEventLogStorage(str(tmp_path / "history" / "runs"))
    assert _events(instance.event_log_storage, run_id) == _events(own, run_id) != []
    materialized = own.get_latest_materialization_events([KEY])[KEY]
    assert materialized is not None
    assert materialized.asset_materialization is not None
    assert materialized.asset_materialization.metadata["rows"].value == 3
    [check] = own.get_asset_check_execution_history(dg.AssetCheckKey(KEY, "sound"), limit=5)
    assert check.run_id == run_id
    instance.delete_run(run_id)
    assert _events(own, run_id) == []


def test_connections_are_bounded_and_a_deleted_file_is_made_anew(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    storage = instance.event_log_storage
    assert isinstance(storage, PooledSqliteEventLogStorage)
    runs = [dg.materialize([made], instance=instance).run_id for _ in range(_OPEN_SHARDS + 2)]
    assert len(storage._engines) == _OPEN_SHARDS
    assert all(_events(storage, run_id) for run_id in runs)
    for path in (tmp_path / "history" / "runs").glob(f"{runs[-1]}.db*"):
        path.unlink()
    assert _events(storage, runs[-1]) == []
