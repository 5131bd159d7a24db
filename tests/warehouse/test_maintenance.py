"""Maintenance: storage shrinks, and nobody who reads can tell."""

from datetime import timedelta

import pytest

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.warehouse import ducklake, open_warehouse
from kurashiru_pipeline.warehouse.base import MaintenanceReport
from tests.warehouse.small_lake import Lake, event_id

TABLES = (
    "raw.behavior_events",
    "raw.loaded_files",
    "staging.behavior_events",
    "staging.rejected_events",
    "ops.batches",
    "ops.batch_files",
    "ops.stream_offsets",
)


def content(lake: Lake) -> dict[str, list[tuple[object, ...]]]:
    return {table: lake.rows(f"select * from {table} order by all") for table in TABLES}


def work(lake: Lake, number: int, lines: int = 12) -> None:
    """One file through load and stage."""
    lake.land(f"events/{number:03}.gz", [f"line {number} {row}" for row in range(lines)])
    lake.load()
    assert lake.stage() is not None


def maintain_later(lake: Lake) -> MaintenanceReport:
    """Maintenance when all that has happened so far is beyond the retention of snapshots."""
    now = ducklake.utc_now()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ducklake, "utc_now", lambda: now + timedelta(days=8))
        return lake.warehouse.maintain()


def test_small_files_are_merged_and_nothing_changes(lake: Lake) -> None:
    for number in range(4):
        work(lake, number)
    before = content(lake)
    report = lake.warehouse.maintain()
    assert content(lake) == before
    assert report.snapshots_after >= report.snapshots_before, "all are within retention"
    again = lake.warehouse.maintain()
    assert again.files_after == again.files_before <= len(TABLES) * 2
    assert content(lake) == before


def test_snapshots_that_no_stream_needs_expire(lake: Lake) -> None:
    for number in range(3):
        work(lake, number)
    before = content(lake)
    report = maintain_later(lake)
    assert report.snapshots_after < report.snapshots_before
    assert content(lake) == before
    [(oldest,)] = lake.rows("select min(snapshot_id) from realtime.snapshots()")
    assert lake.stream.offset < oldest
    assert not lake.stream.is_stale
    work(lake, 9)
    assert lake.count("staging.rejected_events") == 4 * 12


def test_what_a_stream_has_not_read_never_expires(lake: Lake) -> None:
    work(lake, 0)
    offset = lake.stream.offset
    for number in range(1, 4):
        lake.land(f"events/{number}.gz", [f"unread {number} {row}" for row in range(5 if number == 1 else 50)])
        lake.load()
    lake.insert("staging.behavior_events", [{"event_id": event_id(1), "batch_id": 0}])
    for _ in range(2):
        maintain_later(lake)
        assert lake.stream.offset == offset
        assert lake.stream.has_data
        assert not lake.stream.is_stale
    accounting = lake.stage()
    assert accounting is not None
    assert accounting.read_count == 105
    assert not lake.stream.has_data
    maintain_later(lake)
    assert lake.count("raw.behavior_events") == 117


def test_a_reader_goes_on_reading_during_maintenance(lake: Lake, settings: Settings) -> None:
    work(lake, 0)
    lake.land("events/1.gz", ["unread"])
    lake.load()
    with open_warehouse(settings, read_only=True) as reader:
        before = reader.fetch("status_counts").to_pylist()
        maintain_later(lake)
        assert reader.fetch("status_counts").to_pylist() == before
        assert reader.stream_has_data(RAW_EVENTS_STREAM)
        assert not reader.stream_status(RAW_EVENTS_STREAM).is_stale


def test_an_empty_lake_is_no_trouble(lake: Lake) -> None:
    report = lake.warehouse.maintain()
    assert (report.bytes_before, report.files_before) == (0, 0)
    assert lake.count("ops.stream_offsets") == 1


def test_deleted_rows_leave_the_files(lake: Lake) -> None:
    lake.insert("staging.behavior_events", [{"event_id": event_id(number), "batch_id": 1} for number in range(2000)])
    before = lake.warehouse.maintain()
    lake.rows(
        "delete from staging.behavior_events where event_id > (select min(event_id) from staging.behavior_events)"
    )
    after = lake.warehouse.maintain()
    assert after.bytes_after < before.bytes_after / 4
    assert lake.count("staging.behavior_events") == 1
