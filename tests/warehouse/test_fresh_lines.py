"""Lines parsed where they lie in memory: whatever the compiled parser takes is what SQL stages of the line."""

import gzip
import json
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.warehouse.ducklake_loader import lines_table
from kurashiru_pipeline.warehouse.fresh_lines import FreshLines
from kurashiru_pipeline.warehouse.landed_files import LandedFile, read_lines
from kurashiru_pipeline.warehouse.statements import render
from tests.warehouse.small_lake import Lake
from tests.warehouse.test_stage_sql import LINES, RETENTION_DAYS, event, lines

HOUR = "events/2026/11/23/09"
NOW = datetime(2026, 11, 23, 9, 30, 0, 500_000)
COLUMNS = (
    "event_id, event_name, user_id, session_id, recipe_id, occurred_at, platform, app_version, "
    "cast(properties as varchar), file_name, landed_at, loaded_at"
)


def compact(made: dict[str, Any]) -> str:
    return json.dumps(made, separators=(",", ":"), ensure_ascii=False)


USUAL = (
    compact(event(1, NOW, properties={"surface": "home", "position": 8, "recommendation_id": "1795405594"})),
    compact(event(2, NOW, session_id=None, recipe_id=None, platform=None, app_version=None, properties=None)),
    compact(event(3, NOW, properties={})),
    compact(event(4, NOW, properties={"query": "鶏むね肉🍳", "n": None, "minus": -12})),
    compact({**event(5, NOW), "occurred_at": "2026-11-23T09:30:00Z", "platform": "", "event_name": "鶏"}),
    json.dumps({**event(6, NOW), "occurred_at": "2026-11-23T09:29:59.1Z", "properties": {}}),
    compact(dict(reversed(event(7, NOW, event_id="ABCDEF01-2345-6789-abcd-ef0123456789").items()))),
    "\t" + compact({**event(8, NOW), "surplus": "field", "another": None}) + " \r",
)


@pytest.fixture(scope="module")
def sql() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def fresh(content: Sequence[str], folder: Path) -> pa.Table:
    path = folder / "fresh.gz"
    path.write_bytes(gzip.compress("\n".join(content).encode(errors="surrogatepass"), 1))
    file = LandedFile(path, f"{HOUR}/fresh.gz", HOUR, "events", path.stat().st_size, NOW)
    return lines_table(file, read_lines(file, max_bytes=1 << 30), NOW)


def taken(content: Sequence[str], folder: Path, sql: duckdb.DuckDBPyConnection) -> set[int]:
    """Numbers of the lines that the parser takes; each must be what SQL makes of it, and the others must be left."""
    table = fresh(content, folder)
    events, others = FreshLines(1, NOW, [table]).parse(RETENTION_DAYS)
    sql.register("incoming", table)
    for statement in (
        *render("stage_work_tables", engine="ducklake", stream=str, parameters={}),
        *render(
            "stage_parse",
            engine="ducklake",
            stream=lambda _: "incoming",
            parameters={"retention_days": RETENTION_DAYS},
        ),
    ):
        sql.execute(statement.sql)
    sql.register("events", events)
    order = "order by file_row_number"
    rows = set(events["file_row_number"].to_pylist())
    found = sql.execute(f"select file_row_number, null, {COLUMNS} from events {order}").fetchall()
    wanted = sql.execute(
        f"select file_row_number, reject_reason, {COLUMNS} from parsed_lines "
        f"where file_row_number in (select file_row_number from events) {order}"
    ).fetchall()
    assert found == wanted
    if others is None:
        assert len(rows) == table.num_rows
    else:
        left = others["file_row_number"].to_pylist()
        assert sorted(rows) + left == sorted(rows) + sorted(set(range(1, table.num_rows + 1)) - rows)
        assert others["payload"].to_pylist() == [table["payload"][row - 1].as_py() for row in left]
        assert others.schema == table.schema
    return rows


def test_usual_lines_are_taken(tmp_path: Path, sql: duckdb.DuckDBPyConnection) -> None:
    assert taken(USUAL, tmp_path, sql) == set(range(1, len(USUAL) + 1))


def test_no_rejected_line_is_taken(tmp_path: Path, sql: duckdb.DuckDBPyConnection) -> None:
    rows = taken([line for line, _ in LINES], tmp_path, sql)
    assert rows
    assert all(LINES[row - 1][1] is None for row in rows)


def test_moments_and_ids_at_their_edges(tmp_path: Path, sql: duckdb.DuckDBPyConnection) -> None:
    edges = [NOW + timedelta(hours=24), NOW - timedelta(days=RETENTION_DAYS)]
    moments = [
        f"{edge + step * timedelta(microseconds=1):%Y-%m-%dT%H:%M:%S.%fZ}" for edge in edges for step in (-1, 0, 1)
    ]
    days = [f"2026-{month:02}-{day:02}T23:59:59.9Z" for month in range(14) for day in (0, 1, 28, 29, 30, 31, 32)]
    changes: list[dict[str, Any]] = [{"occurred_at": text} for text in moments + days]
    changes += [{name: "x" * size} for name in ("user_id", "recipe_id", "event_name") for size in (0, 1, 63, 64, 65)]
    changes += [{"event_name": "鶏" * size} for size in (21, 22, 64, 65)]
    changes += [{"properties": {"n": number}} for number in (0, -0.0, 7, -7, 10**17, 10**18, -(10**18), 2**64, 0.5)]
    changes += [{"session_id": "x" * size} for size in (11, 12, 13, 999_000, 1_000_000)]
    rows = taken([compact({**event(number, NOW), **change}) for number, change in enumerate(changes)], tmp_path, sql)
    assert {2, 5} <= rows
    assert not {3, 4} & rows


@pytest.mark.parametrize("usual", range(len(USUAL)))
def test_a_line_changed_anywhere_is_taken_only_for_what_it_is(
    tmp_path: Path, sql: duckdb.DuckDBPyConnection, usual: int
) -> None:
    """Every character of a line replaced, preceded by another, left out; every beginning and end of it."""
    line = USUAL[usual]
    others = ' \t\r"\\{}[],:05-+.enxZT\0\x1f\x7fé鶏\ufffd🍳'
    changed = [line[:at] + other + line[at + over :] for at in range(len(line)) for other in others for over in (0, 1)]
    cut = [
        text for at in range(len(line)) for text in (line[:at], line[at:], line[:at] + line[at + 1 :], line + line[at:])
    ]
    assert taken([*changed, *cut], tmp_path, sql)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_random_lines_are_taken_only_for_what_they_are(
    tmp_path_factory: pytest.TempPathFactory, sql: duckdb.DuckDBPyConnection, data: st.DataObject
) -> None:
    drawn = data.draw(st.lists(lines(NOW), min_size=1, max_size=40))
    taken(drawn, tmp_path_factory.getbasetemp(), sql)


def a_batch(first: int) -> list[str]:
    """Lines of all kinds, enough for the parser to be worth loading; among them events delivered several times."""
    good = [
        compact(event(first + number % 2300, NOW, session_id=f"s{number}", properties={"position": number}))
        for number in range(2500)
    ]
    return [*good, *(line for line, _ in LINES[:40]), *(json.dumps(event(first + 5000 + n, NOW)) for n in range(50))]


def staged(home: Path, *, is_one_process: bool, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[Any, ...]]]:
    """Everything two micro-batches write, by table, staged by the process that loaded them or by another."""
    with Lake(Settings.load(Environment.LOCAL, {"KURASHIRU_HOME": str(home)})) as lake:
        monkeypatch.setattr("kurashiru_pipeline.warehouse.ducklake_loader.utc_now", lambda: NOW)
        for number in range(2):
            lake.land(f"{HOUR}/{number}a.gz", a_batch(2000 * number))
            lake.land(f"{HOUR}/{number}b.gz", ["broken", compact(event(1, NOW, session_id="again"))])
            assert lake.load().line_count == 2592
            assert lake.warehouse._loader.fresh_lines is not None
            if not is_one_process:
                lake.reopen()
                assert lake.warehouse._loader.fresh_lines is None
            assert lake.stage() is not None
            assert lake.warehouse._loader.fresh_lines is None
        queries = {
            "staging.behavior_events": "* exclude landed_at",
            "staging.rejected_events": "*",
            "ops.batches": "*",
            "ops.batch_files": "* exclude landed_at",
        }
        return {table: lake.rows(f"select {query} from {table} order by all") for table, query in queries.items()}


def test_a_batch_is_the_same_whoever_stages_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (
        staged(tmp_path / name, is_one_process=name == "one", monkeypatch=monkeypatch) for name in ("one", "other")
    )
    assert one == other
    [first, second] = one["ops.batches"]
    assert first[3] == second[3] == 2592
    assert second[5] > 500  # duplicates: within the micro-batch, and of the one before


def test_lines_that_are_not_all_of_the_stream_are_read_from_the_lake(lake: Lake) -> None:
    """A process that loads twice before it stages, or after another: what it remembers is not what waits."""
    lake.land(f"{HOUR}/a.gz", [compact(event(number, NOW)) for number in range(2100)])
    lake.load()
    lake.land(f"{HOUR}/b.gz", [compact(event(number, NOW)) for number in range(2000, 4200)])
    lake.load()
    accounting = lake.stage()
    assert accounting is not None
    assert (accounting.read_count, accounting.staged_count, accounting.duplicate_count) == (4300, 4200, 100)


def test_a_stage_that_fails_can_be_repeated(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.land(f"{HOUR}/a.gz", [*(compact(event(number, NOW)) for number in range(2100)), "broken"])
    lake.load()
    with monkeypatch.context() as patch:
        patch.setattr("kurashiru_pipeline.realtime.micro_batch.EVENT_NAMES", "not a list")
        with pytest.raises(duckdb.Error):
            lake.stage()
    assert lake.stream.has_data
    accounting = lake.stage()
    assert accounting is not None
    assert (accounting.read_count, accounting.staged_count, accounting.rejected_count) == (2101, 2100, 1)
    assert lake.stage() is None
