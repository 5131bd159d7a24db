"""Files in the landing folder: names, complete or absent, deterministic bytes, a manifest that survives company."""

import gzip
import json
import threading
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from landed_truth import EVENT_KEY

from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.local import lines
from kurashiru_pipeline.local.landing import (
    RECIPE_SCHEMA,
    USER_SCHEMA,
    events_key,
    export_key,
    pack_lines,
    pack_table,
    place,
    read_manifest,
    update_manifest,
)

IDENTITY = UUID("0f8fad5b-d9cb-469f-a165-70867728950e")


def test_events_are_named_as_firehose_names_them_in_utc_hours() -> None:
    tokyo = datetime(2026, 11, 23, 8, 5, 6, tzinfo=timezone(timedelta(hours=9)))
    key = events_key(tokyo, IDENTITY)
    assert key == (
        "events/2026/11/22/23/kurashiru-events-1-2026-11-22-23-05-06-0f8fad5b-d9cb-469f-a165-70867728950e.gz"
    )
    assert EVENT_KEY.fullmatch(key)
    assert export_key("users", tokyo, IDENTITY).startswith("users/users-2026-11-22-23-05-06-")


def test_packed_lines_are_gzip_and_always_the_same_bytes() -> None:
    packed = pack_lines(b'{"a":1}\n{"b":2}\n')
    assert gzip.decompress(packed) == b'{"a":1}\n{"b":2}\n'
    assert packed == pack_lines(b'{"a":1}\n{"b":2}\n')
    assert packed[4:8] == b"\0\0\0\0", "no time of writing in the header"


def test_exports_have_the_columns_of_the_contract(tmp_path: Path) -> None:
    contract = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text()
    for title, schema in (("## Recipe export", RECIPE_SCHEMA), ("## User export", USER_SCHEMA)):
        section = contract[contract.index(title) :].split("\n## ", 1)[0]
        documented = [line.split("`")[1] for line in section.splitlines() if line.startswith("| `")]
        assert schema.names == documented
        path = place(tmp_path, f"exports/{len(schema)}.parquet", pack_table(schema.empty_table()))
        assert pq.read_schema(path).equals(schema)


def test_a_file_is_never_seen_incomplete(tmp_path: Path) -> None:
    content = pack_lines(b"x" * 5_000_000 + b"\n")
    sizes: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        is_last = False
        while not is_last:
            is_last = stop.is_set()  # a busy machine may give it no other turn
            sizes.extend(path.stat().st_size for path in (tmp_path / "events").rglob("*.gz"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(50):
        place(tmp_path, f"events/{number}.gz", content)
    stop.set()
    watcher.join()
    assert set(sizes) == {len(content)}
    assert list((tmp_path / ".incoming").iterdir()) == []


def test_a_name_is_used_once(tmp_path: Path) -> None:
    place(tmp_path, "events/a.gz", b"first")
    with pytest.raises(KurashiruError, match=r"a\.gz is in the landing folder already"):
        place(tmp_path, "events/a.gz", b"second")
    assert (tmp_path / "events/a.gz").read_bytes() == b"first"


def test_what_cannot_be_placed_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("a file where a folder should be")
    with pytest.raises(ConfigurationError, match="cannot use the landing folder"):
        place(tmp_path, "events/2026/a.gz", b"content")
    assert not (tmp_path / ".incoming").exists() or list((tmp_path / ".incoming").iterdir()) == []


def test_writers_of_one_manifest_lose_no_count(tmp_path: Path) -> None:
    def add_one(manifest: dict[str, int]) -> None:
        manifest["lines"] = manifest.get("lines", 0) + 1

    def write() -> None:
        for _ in range(50):
            update_manifest(tmp_path, add_one)

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert read_manifest(tmp_path) == {"lines": 200}


def test_a_change_that_fails_leaves_the_manifest_as_it_was(tmp_path: Path) -> None:
    update_manifest(tmp_path, lambda manifest: manifest.update(lines=1))

    def fail(manifest: dict[str, int]) -> None:
        manifest["lines"] = 2
        raise KurashiruError("refused")

    with pytest.raises(KurashiruError, match="refused"):
        update_manifest(tmp_path, fail)
    assert read_manifest(tmp_path) == {"lines": 1}


@pytest.mark.parametrize("content", [b"{", b"[]", b""])
def test_a_damaged_manifest_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(KurashiruError, match=r"manifest\.json"):
        read_manifest(tmp_path)


@given(st.lists(st.datetimes(datetime(1970, 1, 1), datetime(2190, 1, 1)), min_size=1, max_size=20))
def test_times_read_back_to_the_millisecond(moments: list[datetime]) -> None:
    microseconds = np.array([(moment - datetime(1970, 1, 1)) // timedelta(microseconds=1) for moment in moments])
    texts = lines.text_column(lines.time_text(microseconds)).to_pylist()
    for moment, text in zip(moments, texts, strict=True):
        expected = moment.replace(microsecond=moment.microsecond // 1000 * 1000, tzinfo=UTC)
        assert datetime.fromisoformat(text) == expected
        assert len(text) == 24


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20, unique=True), st.integers(0, 2**64 - 1))
def test_uuids_are_valid_and_as_many_as_their_numbers(numbers: list[int], salt: int) -> None:
    values = np.array(numbers, dtype=np.uint64)
    texts = lines.text_column(lines.uuid_text(lines.mix(values, salt), lines.mix(values, salt + 1))).to_pylist()
    assert all(str(UUID(text)) == text and UUID(text).version == 8 for text in texts)
    assert len(set(texts)) == len(numbers)


def test_lines_are_joined_column_by_column() -> None:
    names = lines.pieces(pa.array(["a", "b"]), np.array([1, 0, 1]))
    joined = lines.join('{"name":"', names, '"}\n')
    assert [json.loads(line)["name"] for line in joined.to_pylist()] == ["b", "a", "b"]
    assert lines.content(joined[1:]) == b'{"name":"a"}\n{"name":"b"}\n'
    assert lines.content(joined[:0]) == b""
