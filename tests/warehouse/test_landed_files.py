"""Landed files without a database: which are seen, in which order, and what lines they hold."""

import gzip
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kurashiru_pipeline.warehouse import landed_files
from kurashiru_pipeline.warehouse.landed_files import (
    EVERYWHERE_SECONDS,
    LandedFile,
    Landing,
    UnreadableFileError,
    read_lines,
)
from tests.traffic import put

MEGABYTE = 1 << 20
HOUR = "events/2026/11/23/09"


def landed(folder: Path, content: bytes) -> LandedFile:
    path = folder / "file.gz"
    path.write_bytes(content)
    return LandedFile(path, "events/file.gz", "events", "events", len(content), datetime(2026, 11, 23))


def lines_of(folder: Path, content: bytes, max_bytes: int = MEGABYTE) -> list[str]:
    return read_lines(landed(folder, content), max_bytes=max_bytes).to_pylist()


def nothing_settled(name: str, inode: int) -> bool:
    return False


def found(landing: Path, changed_since: datetime | None = None) -> list[LandedFile]:
    look = Landing(landing)
    look.begin(changed_since)
    return look.find(nothing_settled)


def names(landing: Path, changed_since: datetime | None = None) -> list[str]:
    return [file.name for file in found(landing, changed_since)]


def now() -> datetime:
    return datetime.now(tz=UTC).replace(tzinfo=None)


TWO_LINES = b'{"a": 1}\n{"b": "\xe9\xb6\x8f"}\n'


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (TWO_LINES, ['{"a": 1}', '{"b": "鶏"}']),
        (gzip.compress(TWO_LINES), ['{"a": 1}', '{"b": "鶏"}']),
        (gzip.compress(b"one\ntw") + gzip.compress(b"o\nthree\n"), ["one", "two", "three"]),
        (gzip.compress(b"") + gzip.compress(b"one") + gzip.compress(b""), ["one"]),
        (b"", []),
        (gzip.compress(b""), []),
        (b"\n", [""]),
        (b"one\n\n\ntwo", ["one", "", "", "two"]),
        (b"as long: 12b\nlonger: 13 by\n", ["as long: 12b", "longer: 13 by"]),
        (gzip.compress(b"one\r\ntwo\r\n"), ["one\r", "two\r"]),
        (gzip.compress(b"one\ntwo"), ["one", "two"]),
        ("a\u2028b\x0bc\x85\n".encode(), ["a\u2028b\x0bc\x85"]),
        (b"a\x00b\n", ["a\x00b"]),
        (b"good\n\xff\xfebad\xe3\ngood", ["good", "\\xff\\xfebad\\xe3", "good"]),
    ],
    ids=[
        "plain",
        "gzip",
        "members",
        "empty members",
        "empty",
        "empty gzip",
        "one empty line",
        "empty lines",
        "at the length of a view",
        "crlf",
        "no final newline",
        "other separators",
        "null byte",
        "not utf-8",
    ],
)
def test_lines_are_whole_and_in_order(tmp_path: Path, content: bytes, lines: list[str]) -> None:
    assert lines_of(tmp_path, content) == lines


@given(st.lists(st.binary(max_size=60), max_size=8), st.integers(0, 40), st.booleans())
@example([b"\\", b"\xf0\x9f\x8d"], 1, True)
def test_no_byte_is_lost_however_it_was_packed(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], cut: int, is_packed: bool
) -> None:
    content = b"\n".join(pieces)
    if content.startswith(b"\x1f\x8b"):
        is_packed = True
    packed = gzip.compress(content[:cut]) + gzip.compress(content[cut:]) if is_packed else content
    lines = lines_of(tmp_path_factory.getbasetemp(), packed)
    assert lines == content.decode(errors="backslashreplace").removesuffix("\n").split("\n")[: len(lines)]
    assert len(lines) == content.count(b"\n") + (not content.endswith(b"\n") and content != b"")


PACKED = gzip.compress(b"".join(b"line %d\n" % number for number in range(2000)))


@pytest.mark.parametrize("kept", [2, 9, 10, 11, len(PACKED) // 2, len(PACKED) - 9, len(PACKED) - 8, len(PACKED) - 1])
def test_a_truncated_file_is_unreadable_as_a_whole(tmp_path: Path, kept: int) -> None:
    with pytest.raises(UnreadableFileError, match="truncated gzip"):
        lines_of(tmp_path, PACKED[:kept])


def test_a_truncated_second_member_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="truncated gzip"):
        lines_of(tmp_path, PACKED + PACKED[:-1])


@pytest.mark.parametrize("position", [3, 40, len(PACKED) // 2, len(PACKED) - 6, len(PACKED) - 2])
def test_a_flipped_byte_is_noticed(tmp_path: Path, position: int) -> None:
    broken = bytearray(PACKED)
    broken[position] ^= 0xFF
    with pytest.raises(UnreadableFileError, match=r"(corrupt|truncated) gzip"):
        lines_of(tmp_path, bytes(broken))


def test_anything_after_the_last_member_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFileError, match="corrupt gzip"):
        lines_of(tmp_path, PACKED + b"garbage")


def test_the_limit_counts_unpacked_bytes(tmp_path: Path) -> None:
    content = b"x" * 1000
    assert len(lines_of(tmp_path, content, 1000)[0]) == 1000
    assert len(lines_of(tmp_path, gzip.compress(content), 1000)[0]) == 1000
    assert len(lines_of(tmp_path, gzip.compress(content[:400]) + gzip.compress(content[400:]), 1000)[0]) == 1000
    with pytest.raises(UnreadableFileError, match="larger than 999 bytes"):
        lines_of(tmp_path, content, 999)
    with pytest.raises(UnreadableFileError, match="unpacks to more than 999 bytes"):
        lines_of(tmp_path, gzip.compress(content), 999)
    with pytest.raises(UnreadableFileError, match="unpacks to more than 999 bytes"):
        lines_of(tmp_path, gzip.compress(content[:400]) + gzip.compress(content[400:]), 999)


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    bomb = gzip.compress(b"\0" * (32 * MEGABYTE)) * 80  # 2.5 GB in as many MB
    with pytest.raises(UnreadableFileError, match="unpacks to more than"):
        lines_of(tmp_path, bomb, 4 * MEGABYTE)


def test_a_large_plain_file_is_refused_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 42)
    huge = LandedFile(path, "events/sparse", "events", "events", path.stat().st_size, now())
    with pytest.raises(UnreadableFileError, match="larger than"):
        read_lines(huge, max_bytes=MEGABYTE)


def test_a_file_that_has_gone_is_unreadable_not_fatal(tmp_path: Path) -> None:
    file = landed(tmp_path, b"one\n")
    file.path.unlink()
    with pytest.raises(UnreadableFileError, match="cannot be read: No such file"):
        read_lines(file, max_bytes=MEGABYTE)


def test_exports_come_before_events_and_each_kind_by_name(tmp_path: Path) -> None:
    landing = ["events/2026/11/23/10/b.gz", f"{HOUR}/z.gz", f"{HOUR}/a.gz", "users/u.parquet", "recipes/r.parquet"]
    for name in landing:
        put(tmp_path, name, b"")
    assert names(tmp_path) == [
        "recipes/r.parquet",
        "users/u.parquet",
        f"{HOUR}/a.gz",
        f"{HOUR}/z.gz",
        "events/2026/11/23/10/b.gz",
    ]


def test_a_landed_file_knows_its_place_and_its_moment(tmp_path: Path) -> None:
    before = now() - timedelta(seconds=1)
    path = put(tmp_path, f"{HOUR}/a.gz", b"12345")
    os.utime(path, (0, 0))  # the content may be old; landing is not
    [file] = found(tmp_path)
    assert (file.name, file.directory, file.kind, file.byte_count) == (f"{HOUR}/a.gz", HOUR, "events", 5)
    assert file.path == path
    assert before <= file.landed_at <= now() + timedelta(seconds=1)


def test_files_in_the_making_are_invisible(tmp_path: Path) -> None:
    for name in (".hidden.gz", "a.gz.tmp", "_SUCCESS", ".incoming/b.gz"):
        put(tmp_path, f"{HOUR}/{name}", b"")
        put(tmp_path, f"events/{name}", b"")
    put(tmp_path, "manifest.json", b"{}")
    put(tmp_path, "other/c.gz", b"")
    assert names(tmp_path) == []
    put(tmp_path, "events/d.gz", b"")
    assert names(tmp_path) == ["events/d.gz"]


def test_a_landing_folder_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert names(tmp_path / "nowhere") == []


def test_only_folders_changed_since_are_looked_into(tmp_path: Path) -> None:
    put(tmp_path, f"{HOUR}/a.gz", b"")
    put(tmp_path, "recipes/r.parquet", b"")
    assert names(tmp_path, now() + timedelta(minutes=1)) == []
    assert names(tmp_path, now()) == ["recipes/r.parquet", f"{HOUR}/a.gz"]
    assert names(tmp_path, now() - timedelta(days=1)) == ["recipes/r.parquet", f"{HOUR}/a.gz"]


def test_a_folder_whose_time_was_set_back_is_still_found(tmp_path: Path) -> None:
    """As `cp -a` and `rsync -a` do."""
    put(tmp_path, f"{HOUR}/a.gz", b"")
    shutil.copytree(tmp_path / HOUR, tmp_path / "events/2026/11/23/08")
    for folder in sorted((tmp_path / "events").rglob("*")):
        os.utime(folder, (0, 0))
    assert names(tmp_path, now()) == ["events/2026/11/23/08/a.gz", f"{HOUR}/a.gz"]


def test_the_signature_changes_when_a_file_lands_and_only_then(tmp_path: Path) -> None:
    put(tmp_path, f"{HOUR}/a.gz", b"")
    landing = Landing(tmp_path)
    first = landing.signature()
    put(tmp_path, "manifest.json", b"{}")
    assert landing.signature() == first
    time.sleep(0.03)  # folder times move with the kernel's clock tick
    put(tmp_path, f"{HOUR}/b.gz", b"")
    second = landing.signature()
    put(tmp_path, "events/2026/11/23/10/c.gz", b"")
    assert len({first, second, landing.signature()}) == 3
    assert Landing(tmp_path).signature() == landing.signature()


def hour_folders(landing: Path, *, days: int) -> list[Path]:
    """Empty folders of hours, the newest (HOUR) last."""
    hours = [datetime(2026, 11, 23, 9) - timedelta(hours=hour) for hour in range(24 * days)]
    folders = [landing / f"events/{hour:%Y/%m/%d/%H}" for hour in reversed(hours)]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def test_a_look_goes_to_a_few_folders_however_many_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hour_folders(tmp_path, days=60)
    landing = Landing(tmp_path)
    landing.look()
    assert len(landing._newest) <= 31
    with monkeypatch.context() as patch:
        patch.delattr(Landing, "_walk")  # what goes to all of them
        first = landing.signature()
        time.sleep(0.03)
        put(tmp_path, f"{HOUR}/a.gz", b"")
        assert landing.signature() != first
    put(tmp_path, "events/2026/11/23/10/b.gz", b"")  # the first file of an hour
    landing.look()
    assert [file.name for file in landing.find(nothing_settled)] == [f"{HOUR}/a.gz", "events/2026/11/23/10/b.gz"]


def test_what_lands_late_in_an_older_hour_is_seen_at_the_next_look_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = hour_folders(tmp_path, days=3)
    landing = Landing(tmp_path)
    first = landing.signature()
    time.sleep(0.03)
    put(tmp_path, f"{folders[0].relative_to(tmp_path)}/late.gz", b"")
    assert landing.signature() == first
    later = time.monotonic() + EVERYWHERE_SECONDS
    monkeypatch.setattr(landed_files.time, "monotonic", lambda: later)
    assert landing.signature() != first
    assert [file.path.name for file in landing.find(nothing_settled)] == ["late.gz"]


def test_a_file_is_found_until_it_is_settled_and_again_when_it_is_put_again(tmp_path: Path) -> None:
    put(tmp_path, f"{HOUR}/a.gz", b"one")
    landing = Landing(tmp_path)
    landing.begin(None)
    settled: dict[str, int] = {}

    def find() -> list[LandedFile]:
        landing.look()
        return landing.find(lambda name, inode: settled.get(name) == inode)

    [first] = find()
    assert find() == [first]
    settled[first.name] = first.inode
    assert find() == []
    put(tmp_path, f"{HOUR}/a.gz", b"again")
    [second] = find()
    assert (second.name, second.byte_count) == (first.name, 5)


def test_folders_that_go_are_forgotten(tmp_path: Path) -> None:
    folders = hour_folders(tmp_path, days=2)
    landing = Landing(tmp_path)
    first = landing.signature()
    shutil.rmtree(folders[-1])
    assert landing.signature() != first
    assert landing.find(nothing_settled) == []
