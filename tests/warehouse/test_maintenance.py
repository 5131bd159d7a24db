"""Maintenance: storage shrinks, and nobody who reads can tell."""

import os
import threading
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.warehouse import ducklake, ducklake_upkeep, open_warehouse
from kurashiru_pipeline.warehouse.base import MaintenanceReport
from kurashiru_pipeline.warehouse.ducklake import lake_folder
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
    now = ducklake_upkeep.utc_now()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ducklake_upkeep, "utc_now", lambda: now + timedelta(days=8))
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
    lake.insert("staging.behavior_events", [{"event_id": event_id(number), "batch_id": 1} for number in range(50_000)])
    before = lake.warehouse.maintain()
    lake.rows(
        "delete from staging.behavior_events where event_id > (select min(event_id) from staging.behavior_events)"
    )
    after = lake.warehouse.maintain()
    assert after.bytes_after < before.bytes_after / 4
    assert lake.count("staging.behavior_events") == 1


def test_numbers_that_come_between_two_pieces_of_work_are_no_trouble(lake: Lake) -> None:
    lake.rows("insert into recommendation.segment_lists select range, range, null from range(1_000)")
    lake.rows("delete from recommendation.segment_lists where weight < 500")
    done: list[str] = []

    def insert(piece: str) -> None:
        lake.rows(f"insert into recommendation.segment_lists values ('late', {len(done)}, null)")
        done.append(piece)

    lake.warehouse.maintain(insert)
    assert "rewrite recommendation.segment_lists" in done
    assert lake.count("recommendation.segment_lists") == 500 + len(done)


def files_of(lake: Lake, table: str) -> set[str]:
    """Data files of a table, by name."""
    schema, name = table.split(".")
    found = lake.rows(f"select data_file from ducklake_list_files('realtime', '{name}', schema => '{schema}')")
    return {Path(path).name for (path,) in found}


def insert_hours(lake: Lake, hours: range, rows: int) -> None:
    """Events of micro-batches, an hour of loading apart; each is a file."""
    for hour in hours:
        lake.rows(
            "insert into staging.behavior_events (event_id, batch_id, loaded_at) "
            f"select uuid(), {hour}, timestamp '2026-01-01' + interval {hour} hour from range({rows})"
        )


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch, lake: Lake) -> None:
    """A lake whose largest files are those of some 4,000 such events."""
    target = 128 << 10
    monkeypatch.setattr(ducklake_upkeep, "TARGET_BYTES", target)
    monkeypatch.setattr(ducklake_upkeep, "_SMALL_BYTES", target // 8)
    monkeypatch.setattr(ducklake_upkeep, "_LARGE_BYTES", target // 2)
    monkeypatch.setitem(ducklake_upkeep._OPTIONS, "target_file_size", str(target))


def test_another_writer_goes_first_between_two_pieces_of_work(lake: Lake, settings: Settings) -> None:
    for number in range(3):
        work(lake, number)
    happened: list[str] = []
    waiting = threading.Event()

    def write() -> None:
        with open_warehouse(settings, on_wait=lambda _: waiting.set()) as warehouse:
            warehouse.transact(lambda transaction: transaction.run("begin_resend", table_name="t", delivery_id="d"))
            happened.append("written")

    writer = threading.Thread(target=write)

    def on_progress(done: str) -> None:
        happened.append(done)
        if not writer.ident:
            writer.start()
            assert waiting.wait(30)

    report = lake.warehouse.maintain(on_progress)
    writer.join()
    assert happened.count("written") == 1
    assert happened.index("written") < len(happened) - 1
    assert report.slices == len(happened) - 1
    assert 0 < report.longest_slice_seconds < report.seconds
    assert lake.count("ops.delivery_targets") == 1


def test_upkeep_stopped_after_any_piece_of_work_changes_nothing_and_is_made_up_for(lake: Lake) -> None:
    class StoppedError(Exception):
        pass

    def stop(done: str) -> None:
        pieces.append(done)
        if len(pieces) == most:
            raise StoppedError

    for most in range(1, 5):
        pieces: list[str] = []
        work(lake, most)
        before = content(lake)
        with pytest.raises(StoppedError):
            lake.warehouse.maintain(stop)
        assert content(lake) == before
        assert lake.warehouse.upkeep_state().is_due
    lake.warehouse.maintain()
    assert content(lake) == before
    assert not lake.warehouse.upkeep_state().is_due


@pytest.mark.usefixtures("small_files")
def test_large_files_are_left_alone_and_every_file_is_a_stretch_of_time(lake: Lake) -> None:
    insert_hours(lake, range(24), 500)
    lake.warehouse.maintain()
    large = files_of(lake, "staging.behavior_events")
    assert 2 <= len(large) <= 6
    insert_hours(lake, range(24, 27), 500)
    lake.warehouse.maintain()
    after = files_of(lake, "staging.behavior_events")
    assert len(after) <= len(large) + 1
    assert len(large - after) <= 1, "only the newest file is joined with what came since"
    stretches = lake.rows(
        """
        select min(try_cast(min_value as bigint)), max(try_cast(max_value as bigint))
        from __ducklake_metadata_realtime.ducklake_file_column_stats as ranges
        inner join __ducklake_metadata_realtime.ducklake_data_file as files using (data_file_id)
        inner join __ducklake_metadata_realtime.ducklake_column as columns
            on ranges.table_id = columns.table_id and ranges.column_id = columns.column_id
        where columns.column_name = 'batch_id' and files.end_snapshot is null and files.record_count >= 500
        group by data_file_id
        order by 1
        """
    )
    assert stretches[0][0] == 0
    assert stretches[-1][1] == 26
    assert all(end < begin for (_, end), (begin, _) in pairwise(stretches))
    for condition in ("batch_id = 3", "loaded_at = timestamp '2026-01-01 03:00:00'"):
        [(_, plan)] = lake.rows(f"explain analyze select count(*) from staging.behavior_events where {condition}")
        assert "Total Files Read: 1" in plan


def test_what_is_due_follows_what_was_written_and_then_its_age(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def is_due() -> bool:
        return lake.warehouse.upkeep_state().is_due

    assert is_due()
    work(lake, 0)
    work(lake, 1)
    lake.warehouse.maintain()
    assert not is_due()
    work(lake, 2)
    assert is_due()
    lake.warehouse.maintain()
    assert not is_due()
    now = ducklake_upkeep.utc_now()
    monkeypatch.setattr(ducklake_upkeep, "utc_now", lambda: now + timedelta(hours=3))
    assert is_due(), "snapshots and replaced files are old enough to go"
    report = lake.warehouse.maintain()
    assert report.snapshots_after < report.snapshots_before
    assert report.removed_files > 0
    # What the expiry itself has left behind, then nothing any more.
    monkeypatch.setattr(ducklake_upkeep, "utc_now", lambda: now + timedelta(days=1))
    lake.warehouse.maintain()
    assert not is_due()
    assert lake.warehouse.maintain().slices <= 1


def test_files_that_nothing_names_leave_the_disk(lake: Lake, settings: Settings) -> None:
    for number in range(3):
        work(lake, number)
    stray = lake_folder(settings) / "data" / "raw" / "behavior_events" / "left-behind.parquet"
    stray.write_bytes(b"of a process that died")
    two_days_ago = datetime.now().timestamp() - 2 * 86_400
    os.utime(stray, (two_days_ago, two_days_ago))
    lake.warehouse.maintain()
    assert not stray.exists()
    maintain_later(lake)
    on_disk = {path.name for path in (lake_folder(settings) / "data").rglob("*.parquet")}
    named = lake.rows(
        " union all ".join(
            f"select path from __ducklake_metadata_realtime.ducklake_{table}"
            for table in ("data_file", "delete_file", "files_scheduled_for_deletion")
        )
    )
    assert on_disk == {Path(path).name for (path,) in named}


def test_staged_lines_go_when_they_are_old_and_unread_ones_never(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        work(lake, number, lines=20)
    lake.land("events/unread.gz", [f"unread {row}" for row in range(30)])
    lake.load()
    assert lake.count("raw.behavior_events") == 90
    staged = lake.rows("select * from staging.rejected_events order by all")
    now = ducklake.utc_now()
    monkeypatch.setattr(ducklake, "utc_now", lambda: now + timedelta(days=91))
    lake.warehouse.maintain()
    assert lake.rows("select distinct file_name from raw.behavior_events") == [("events/unread.gz",)]
    assert lake.rows("select * from staging.rejected_events order by all") == staged
    accounting = lake.stage()
    assert accounting is not None
    assert accounting.read_count == 30
    assert not lake.stream.is_stale
    lake.warehouse.maintain()
    assert lake.count("raw.behavior_events") == 0
