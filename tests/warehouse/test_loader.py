"""The loader: every landed file once, whole or not at all, and exports newest-wins whatever the order."""

import gzip
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.warehouse import ducklake_loader, landed_files
from kurashiru_pipeline.warehouse.base import LoadReport, Waiting
from kurashiru_pipeline.warehouse.ducklake_loader import Loader
from tests.traffic import put
from tests.warehouse.small_lake import Lake

HOUR = "events/2026/11/23/09"
DAY = datetime(2026, 11, 1)
TOKYO = timezone(timedelta(hours=9))


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


def recipes(*rows: tuple[str, str, datetime], **columns: Any) -> pa.Table:
    """A recipe export of (recipe_id, title, updated_at); `columns` replace columns."""
    count = len(rows)
    made: dict[str, Any] = {
        "recipe_id": pa.array([row[0] for row in rows], pa.string()),
        "title": pa.array([row[1] for row in rows], pa.string()),
        "author_id": pa.array(["a1"] * count, pa.string()),
        "author_type": pa.array(["general_user"] * count, pa.string()),
        "ingredients": pa.array([["egg", "salt"]] * count, pa.list_(pa.string())),
        "value_tags": pa.array([[]] * count, pa.list_(pa.string())),
        "cooking_minutes": pa.array([10] * count, pa.int32()),
        "cost_yen": pa.array([200] * count, pa.int32()),
        "calories_kcal": pa.array([300] * count, pa.int32()),
        "published_at": pa.array([DAY] * count, pa.timestamp("us")),
        "updated_at": pa.array([row[2] for row in rows], pa.timestamp("us")),
        "is_deleted": pa.array([False] * count, pa.bool_()),
    }
    return pa.table({**made, **columns})


def users(*rows: tuple[str, bool, datetime]) -> pa.Table:
    """A user export of (user_id, is_deleted, updated_at)."""
    return pa.table(
        {
            "user_id": pa.array([row[0] for row in rows], pa.string()),
            "registered_at": pa.array([DAY] * len(rows), pa.timestamp("us")),
            "preferred_tags": pa.array([["savings"]] * len(rows), pa.list_(pa.string())),
            "updated_at": pa.array([row[2] for row in rows], pa.timestamp("us")),
            "is_deleted": pa.array([row[1] for row in rows], pa.bool_()),
        }
    )


def land_recipes(lake: Lake, name: str, table: pa.Table) -> None:
    put(lake.settings.landing, f"recipes/{name}.parquet", parquet(table))


def land_users(lake: Lake, name: str, table: pa.Table) -> None:
    put(lake.settings.landing, f"users/{name}.parquet", parquet(table))


def titles(lake: Lake) -> dict[str, str]:
    rows = lake.rows("select recipe_id, title from staging.recipes")
    assert len(rows) == len(dict(rows))
    return dict(rows)


def loaded_lines(lake: Lake) -> list[tuple[str, int, str]]:
    return lake.rows("select file_name, file_row_number, payload from raw.behavior_events order by all")


def recorded(lake: Lake) -> list[tuple[str, str]]:
    return lake.rows("select file_name, status from raw.loaded_files order by loaded_at, file_name")


# Event files


def test_lines_arrive_whole_with_where_and_when(lake: Lake) -> None:
    before = ducklake_loader.utc_now()
    lake.land(f"{HOUR}/a.gz", gzip.compress(b'{"a": 1}\r\n\n  \xff \x00\nlast'))
    report = lake.load()
    assert loaded_lines(lake) == [
        (f"{HOUR}/a.gz", 1, '{"a": 1}\r'),
        (f"{HOUR}/a.gz", 2, ""),
        (f"{HOUR}/a.gz", 3, "  \\xff \0"),
        (f"{HOUR}/a.gz", 4, "last"),
    ]
    [(landed_at, loaded_at)] = lake.rows("select distinct landed_at, loaded_at from raw.behavior_events")
    assert before - timedelta(seconds=1) <= landed_at <= loaded_at + timedelta(seconds=1)
    assert before <= loaded_at <= ducklake_loader.utc_now()
    assert (report.line_count, report.files, report.failed, report.ignored) == (4, {"events": 1}, (), ())
    assert report.delays == (((loaded_at - landed_at).total_seconds(), 4),)
    assert report.is_complete
    assert report.has_changes


def test_a_second_load_does_nothing(lake: Lake) -> None:
    lake.land(f"{HOUR}/a.gz", ["one"])
    assert lake.warehouse.has_landed_files()
    lake.load()
    latest = lake.stream.latest
    for is_rescan in (False, True):
        assert not lake.warehouse.has_landed_files()
        assert lake.load(is_rescan=is_rescan) == LoadReport.nothing(is_complete=True)
    assert lake.stream.latest == latest


def test_a_file_without_lines_is_loaded_once_too(lake: Lake) -> None:
    lake.land(f"{HOUR}/a.gz", b"")
    lake.land(f"{HOUR}/b.gz", gzip.compress(b""))
    report = lake.load()
    assert (report.line_count, report.files, report.delays) == (0, {"events": 2}, ())
    assert not lake.stream.has_data
    assert not lake.warehouse.has_landed_files()


def test_a_file_put_again_under_a_loaded_name_is_recorded_once_and_not_read(lake: Lake) -> None:
    lake.land(f"{HOUR}/a.gz", ["one"])
    lake.load()
    lake.land(f"{HOUR}/a.gz", ["two", "three"])
    assert lake.warehouse.has_landed_files()
    report = lake.load()
    assert (report.line_count, report.ignored, report.has_changes) == (0, (f"{HOUR}/a.gz",), True)
    assert not lake.warehouse.has_landed_files()
    assert lake.load(is_rescan=True) == LoadReport.nothing(is_complete=True)
    assert recorded(lake) == [(f"{HOUR}/a.gz", "loaded"), (f"{HOUR}/a.gz", "ignored")]
    assert [line for _, _, line in loaded_lines(lake)] == ["one"]
    [counts] = lake.warehouse.fetch("status_counts").to_pylist()
    assert (counts["loaded_files"], counts["ignored_files"], counts["failed_files"]) == (1, 1, 0)


def test_the_same_name_in_another_folder_is_another_file(lake: Lake) -> None:
    lake.land(f"{HOUR}/a.gz", ["one"])
    lake.load()
    lake.land("events/2026/11/23/10/a.gz", ["two"])
    assert lake.load().line_count == 1


def test_a_broken_file_stops_no_other_and_is_loaded_once_put_again_whole(lake: Lake) -> None:
    whole = gzip.compress(b"one\ntwo\n")
    lake.land(f"{HOUR}/a.gz", whole[:-4])
    lake.land(f"{HOUR}/b.gz", ["three"])
    report = lake.load()
    assert report.line_count == 1
    [(name, reason)] = report.failed
    assert (name, reason) == (f"{HOUR}/a.gz", "truncated gzip: the file ends in the middle of its data")
    assert lake.rows("select error, line_count from raw.loaded_files where status = 'failed'") == [(reason, 0)]
    assert not lake.warehouse.has_landed_files(), "a failed file is not tried for ever"

    lake.land(f"{HOUR}/a.gz", whole[:-3])
    assert [name for name, _ in lake.load().failed] == [f"{HOUR}/a.gz"]
    lake.land(f"{HOUR}/a.gz", whole)
    assert lake.warehouse.has_landed_files()
    assert lake.load().line_count == 2
    lake.land(f"{HOUR}/a.gz", whole)
    assert lake.load().ignored == (f"{HOUR}/a.gz",)
    assert sorted(line for _, _, line in loaded_lines(lake)) == ["one", "three", "two"]


def test_a_file_over_the_limit_fails_and_says_why(lake: Lake, settings: Settings) -> None:
    lake.settings = Settings.load(environ={**settings.environ, "KURASHIRU_MAX_FILE_MB": "1"})
    lake.reopen()
    lake.land(f"{HOUR}/a.gz", gzip.compress(b"x" * ((1 << 20) + 1)))
    lake.land(f"{HOUR}/b.gz", gzip.compress(b"x" * (1 << 20)))
    report = lake.load()
    assert report.failed == ((f"{HOUR}/a.gz", "unpacks to more than 1048576 bytes"),)
    assert report.line_count == 1


def test_a_line_limit_splits_a_backlog_and_skips_nothing(lake: Lake) -> None:
    names = [f"{HOUR}/{number:02}.gz" for number in range(9)]
    for name in names:
        lake.land(name, [f"{name} {number}" for number in range(10)])
    reports = []
    while not reports or not reports[-1].is_complete:
        reports.append(lake.load(max_lines=25))
    assert sum(report.line_count for report in reports) == 90
    assert all(25 <= report.line_count <= 40 for report in reports[:-1])
    assert len(reports) > 2
    assert [line for _, _, line in loaded_lines(lake)] == [f"{name} {row}" for name in names for row in range(10)]
    assert lake.load() == LoadReport.nothing(is_complete=True)


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Puts the loader's clock ahead an hour, so that everything landed so far lies in folders at rest."""

    def ahead() -> datetime:
        return datetime.now(tz=UTC).replace(tzinfo=None) + timedelta(hours=1)

    def hurry() -> None:
        monkeypatch.setattr(ducklake_loader, "utc_now", ahead)
        monkeypatch.setattr(landed_files, "utc_now", ahead)

    return hurry


@pytest.mark.parametrize(("is_first", "is_one_process"), [(True, True), (True, False), (False, False)])
def test_files_left_over_by_the_limit_are_found_though_their_folder_is_at_rest(
    lake: Lake, hurry: Callable[[], None], is_first: bool, is_one_process: bool
) -> None:
    """The watermark of the scan must not pass files that were seen but not loaded."""
    if not is_first:
        lake.land(f"{HOUR}/0.gz", ["zero"])
        lake.load()
    for number in range(1, 8):
        lake.land(f"{HOUR}/{number}.gz", ["line"])
    hurry()
    reports = [lake.load(max_lines=1)]
    while not reports[-1].is_complete:
        if not is_one_process:
            lake.reopen()
        assert lake.warehouse.has_landed_files()
        waiting = lake.warehouse.waiting_files()
        assert waiting is not None
        assert waiting == reports[-1].waiting
        assert waiting.file_count == 7 - sum(report.line_count for report in reports)
        assert waiting.oldest_landed_at is not None
        reports.append(lake.load(max_lines=1))
    assert len(reports) > 2
    assert sum(report.line_count for report in reports) == 7
    assert reports[-1].waiting == lake.warehouse.waiting_files() == Waiting(0, 0, None)
    assert not lake.warehouse.has_landed_files()


def test_a_rescan_finds_what_lies_in_a_folder_at_rest(lake: Lake, hurry: Callable[[], None]) -> None:
    hurry()
    lake.land(f"{HOUR}/a.gz", ["one"])
    lake.load()
    lake.land(f"{HOUR}/b.gz", ["two"])
    lake.reopen()
    assert not lake.warehouse.has_landed_files()
    assert lake.load() == LoadReport.nothing(is_complete=True)
    assert lake.load(is_rescan=True).line_count == 1


def test_what_lands_in_any_folder_between_loads_is_loaded_next(lake: Lake) -> None:
    hours = [f"events/2026/{month:02}/03/{hour:02}" for month in (7, 9, 11) for hour in (0, 5, 9)]
    for number, hour in enumerate(hours):
        lake.land(f"{hour}/{number}.gz", ["line"])
        assert lake.warehouse.has_landed_files()
        assert lake.load().line_count == 1
    for number, hour in enumerate(hours):
        lake.land(f"{hour}/late-{number}.gz", ["line"])
        assert lake.load().line_count == 1
    assert lake.load() == LoadReport.nothing(is_complete=True)
    lake.reopen()
    assert lake.load(is_rescan=True) == LoadReport.nothing(is_complete=True)


def test_a_file_put_again_before_it_is_loaded_is_loaded_as_it_is_then(lake: Lake) -> None:
    for name in ("a", "b", "c"):
        lake.land(f"{HOUR}/{name}.gz", ["old"])
    assert lake.load(max_lines=1).line_count == 2
    lake.land(f"{HOUR}/c.gz", ["new", "lines"])
    assert lake.load().line_count == 2
    assert [line for _, _, line in loaded_lines(lake)] == ["old", "old", "new", "lines"]


def test_after_giving_way_the_lake_is_asked_again(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may have loaded meanwhile what this one has seen and left."""
    for name in ("a", "b", "c"):
        lake.land(f"{HOUR}/{name}.gz", ["line"])
    assert lake.load(max_lines=1).waiting == lake.warehouse.waiting_files()
    other = Loader(lake.settings, lake.connection, "realtime", lake.warehouse.transact, is_only_writer=True)
    assert other.load_landed_files(max_lines=10).line_count == 1
    monkeypatch.setattr(lake.warehouse._lock, "give_way", lambda: True)
    assert lake.warehouse.give_way()
    assert lake.load() == LoadReport.nothing(is_complete=True)
    assert lake.count("raw.loaded_files") == 3


def test_a_failed_transaction_leaves_no_trace(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.land(f"{HOUR}/a.gz", ["one"])
    land_recipes(lake, "r", recipes(("r1", "first", DAY)))
    with monkeypatch.context() as patch:
        patch.setitem(ducklake_loader._FILE_COLUMNS, "surplus", pa.string())
        with pytest.raises(Exception, match=r"(surplus|columns)"):
            lake.load()
    assert (lake.count("raw.behavior_events"), lake.count("raw.loaded_files"), titles(lake)) == (0, 0, {})
    assert not lake.stream.has_data
    assert lake.load().files == {"recipes": 1, "events": 1}
    assert (lake.count("raw.behavior_events"), titles(lake)) == (1, {"r1": "first"})


# Exports


def test_recipes_arrive_with_every_column(lake: Lake) -> None:
    land_recipes(lake, "r", recipes(("r1", "卵焼き", DAY), ("r2", "b", DAY), surplus=pa.array([1, 2])))
    report = lake.load()
    assert (report.recipe_count, report.user_count, report.line_count) == (2, 0, 0)
    assert lake.dicts("select * from staging.recipes where recipe_id = 'r1'") == [
        {
            "recipe_id": "r1",
            "title": "卵焼き",
            "author_id": "a1",
            "author_type": "general_user",
            "ingredients": ["egg", "salt"],
            "value_tags": [],
            "cooking_minutes": 10,
            "cost_yen": 200,
            "calories_kcal": 300,
            "published_at": DAY,
            "updated_at": DAY,
            "is_deleted": False,
        }
    ]
    assert not lake.stream.has_data


def test_only_newer_rows_count(lake: Lake) -> None:
    land_recipes(lake, "1", recipes(("r1", "one", DAY), ("r2", "two", DAY)))
    assert lake.load().recipe_count == 2
    second = DAY + timedelta(microseconds=1)
    land_recipes(lake, "2", recipes(("r1", "newer", second), ("r2", "equal", DAY), ("r3", "three", DAY)))
    assert lake.load().recipe_count == 2
    land_recipes(lake, "3", recipes(("r1", "older", DAY), ("r2", "older", DAY - timedelta(1))))
    assert lake.load().recipe_count == 0
    assert titles(lake) == {"r1": "newer", "r2": "two", "r3": "three"}


@pytest.mark.parametrize("is_together", [True, False])
def test_the_newest_row_wins_in_any_order(lake: Lake, is_together: bool) -> None:
    exports = (
        (("r1", "a1", 1), ("r2", "a2", 4), ("r1", "a1 again", 3)),
        (("r1", "b1", 2), ("r3", "b3", 1)),
        (("r2", "c2", 3), ("r1", "c1", 5), ("r3", "c3", 2)),
    )
    orders = list(permutations(exports))
    for position in range(len(exports)):
        for number, order in enumerate(orders):
            rows = [(f"{number}_{recipe}", title, DAY + timedelta(day)) for recipe, title, day in order[position]]
            land_recipes(lake, f"{position}-{number}", recipes(*rows))
        if not is_together:
            lake.load()
    lake.load()
    for number in range(len(orders)):
        won = {recipe: title for recipe, title in titles(lake).items() if recipe.startswith(f"{number}_")}
        assert won == {f"{number}_r1": "c1", f"{number}_r2": "a2", f"{number}_r3": "c3"}


def test_of_rows_updated_at_the_same_time_the_first_counts(lake: Lake) -> None:
    many = [("r1", f"title {number}", DAY) for number in range(5000)]
    land_recipes(lake, "a", recipes(("r2", "first", DAY), ("r2", "second", DAY), *many))
    land_recipes(lake, "b", recipes(("r2", "third", DAY), ("r1", "other file", DAY)))
    assert lake.load().recipe_count == 2
    assert titles(lake) == {"r1": "title 0", "r2": "first"}


def test_times_keep_their_instant(lake: Lake) -> None:
    moments = [
        pa.array([datetime(2026, 11, 1, 9, tzinfo=TOKYO)], pa.timestamp("us", tz="Asia/Tokyo")),
        pa.array([datetime(2026, 11, 1, tzinfo=UTC)], pa.timestamp("ms", tz="UTC")),
        pa.array([datetime(2026, 11, 1, tzinfo=UTC)], pa.timestamp("ns", tz="+05:30")),
        pa.array([datetime(2026, 11, 1)], pa.timestamp("s")),
        pa.array([datetime(2026, 11, 1)], pa.date32()),
    ]
    for number, moment in enumerate(moments):
        export = recipes((f"r{number}", "one", DAY), updated_at=moment, published_at=moment)
        land_recipes(lake, f"{number}", export)
    assert lake.load().recipe_count == len(moments)
    assert lake.rows("select updated_at, published_at from staging.recipes") == [(DAY, DAY)] * len(moments)


def test_other_widths_of_the_same_types_are_fine(lake: Lake) -> None:
    table = recipes(
        ("r1", "one", DAY),
        recipe_id=pa.array(["r1"], pa.large_string()),
        title=pa.array(["one"]).dictionary_encode(),
        ingredients=pa.array([["egg"]], pa.large_list(pa.large_string())),
        cost_yen=pa.array([200], pa.int64()),
        is_deleted=pa.array([None], pa.bool_()),
    )
    land_recipes(lake, "r", table)
    assert lake.load().failed == ()
    assert lake.rows("select title, ingredients, cost_yen, is_deleted from staging.recipes") == [
        ("one", ["egg"], 200, False)
    ]


GOOD = recipes(("r1", "one", DAY), ("r2", "two", DAY))


def replaced(column: str, values: pa.Array) -> bytes:
    return parquet(GOOD.set_column(GOOD.column_names.index(column), column, values))


BROKEN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cannot be read as a recipes export"),
    "no parquet": (b"PAR1 no PAR1", "cannot be read as a recipes export"),
    "truncated": (parquet(GOOD)[:-20], "cannot be read as a recipes export"),
    "columns": (parquet(GOOD.drop_columns(["cost_yen", "title"])), "columns missing: title, cost_yen"),
    "column twice": (
        parquet(pa.Table.from_arrays([*GOOD.columns, GOOD["title"]], [*GOOD.column_names, "title"])),
        "title",
    ),
    "text for number": (replaced("cost_yen", pa.array(["cheap", "dear"])), "int32"),
    "overflow": (replaced("cost_yen", pa.array([2**31, 1])), "2147483648"),
    "text for list": (replaced("ingredients", pa.array(["egg", "salt"])), "list"),
    "text for time": (replaced("updated_at", pa.array(["yesterday", "today"])), "timestamp"),
    "number for time": (replaced("updated_at", pa.array([1, 2])), "numbers where a timestamp must be: updated_at"),
    "fraction for time": (replaced("updated_at", pa.array([1.5, 2])), "timestamp"),
    "no time": (replaced("updated_at", pa.array([DAY, None])), "updated_at must not be null"),
    "no id": (replaced("recipe_id", pa.array(["r1", None])), "1 rows have no valid recipe_id, the first is None"),
    "comma": (replaced("recipe_id", pa.array(["r,1", ""])), "2 rows have no valid recipe_id, the first is 'r,1'"),
    "line break": (replaced("recipe_id", pa.array(["r1\n", "r" * 64])), "1 rows have no valid recipe_id"),
}


def test_an_export_of_another_form_fails_with_its_reason_and_stops_nothing(lake: Lake) -> None:
    for name, (content, _) in BROKEN.items():
        put(lake.settings.landing, f"recipes/{name}.parquet", content)
    land_recipes(lake, "good", recipes(("r9", "nine", DAY)))
    lake.land(f"{HOUR}/a.gz", ["one"])
    report = lake.load()
    reasons = dict(report.failed)
    assert reasons.keys() == {f"recipes/{name}.parquet" for name in BROKEN}
    for name, (_, reason) in BROKEN.items():
        assert reason in reasons[f"recipes/{name}.parquet"], name
    assert (titles(lake), report.line_count) == ({"r9": "nine"}, 1)

    land_recipes(lake, "comma", GOOD)
    assert lake.load().recipe_count == 2


# Erasure


def erasures(lake: Lake) -> list[str]:
    return [user for (user,) in lake.rows("select user_id from ops.pending_erasures order by user_id")]


def test_a_deleted_user_is_queued_for_erasure_once(lake: Lake) -> None:
    land_users(lake, "1", users(("u1", False, DAY), ("u2", False, DAY), ("u3", True, DAY)))
    assert lake.load().user_count == 3
    assert erasures(lake) == ["u3"]
    later = DAY + timedelta(1)
    land_users(lake, "2", users(("u1", True, later), ("u1", True, later + timedelta(1)), ("u2", True, DAY)))
    land_users(lake, "3", users(("u1", True, later), ("u3", True, later)))
    lake.load()
    assert erasures(lake) == ["u1", "u3"]
    land_users(lake, "4", users(("u1", True, later + timedelta(5))))
    assert lake.load().user_count == 1
    assert erasures(lake) == ["u1", "u3"]
    [counts] = lake.warehouse.fetch("status_counts").to_pylist()
    assert counts["users"] == 1


def test_a_deletion_older_than_what_is_known_erases_nothing(lake: Lake) -> None:
    land_users(lake, "1", users(("u1", False, DAY)))
    lake.load()
    land_users(lake, "2", users(("u1", True, DAY - timedelta(1))))
    assert lake.load().user_count == 0
    assert erasures(lake) == []


def test_a_user_who_comes_back_after_deletion_is_erased_all_the_same(lake: Lake) -> None:
    land_users(lake, "1", users(("u1", False, DAY)))
    lake.load()
    land_users(lake, "2", users(("u1", True, DAY + timedelta(1)), ("u1", False, DAY + timedelta(2))))
    lake.load()
    assert erasures(lake) == ["u1"]
    assert lake.rows("select is_deleted from staging.users") == [(False,)]


def test_landing_elsewhere_has_its_own_names(lake: Lake, tmp_path: Path) -> None:
    lake.land(f"{HOUR}/a.gz", ["one"])
    lake.load()
    put(tmp_path / "elsewhere", f"{HOUR}/b.gz", b"two\n")
    lake.settings = Settings.load(environ={**lake.settings.environ, "KURASHIRU_LANDING": str(tmp_path / "elsewhere")})
    lake.reopen()
    report = lake.load(max_lines=10)
    assert report.line_count == 1
