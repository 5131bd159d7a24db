"""Landed files as the embedded engine reads them: finding them, unpacking them, lines to Arrow.

Here: the file system side of the loader, without a database.
Not here: which files were loaded already (ducklake.py asks the lake), or any parsing of a line (sql/stage_parse.sql).
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

KINDS = (
    "recipes",
    "users",
    "events",
)  # the order of loading: an event may speak of a recipe of the same moment
_GZIP_MAGIC = b"\x1f\x8b"
# Folder times are as coarse as a clock tick, and a rename may fall between two looks.
_CLOCK_SLACK_SECONDS = 5.0


LineArray: TypeAlias = "pa.Array[Any]"


class UnreadableFileError(Exception):
    """A landed file that cannot be read as what it claims to be; recorded, never fatal."""


@dataclass(frozen=True)
class LandedFile:
    """A file in the landing folder.

    Attributes:
        name: path below the landing folder, with forward slashes; the identity of the file.
        directory: parent of `name`.
        kind: events, recipes or users.
        landed_at: when it was renamed into place (naive UTC).
    """

    path: Path
    name: str
    directory: str
    kind: str
    byte_count: int
    landed_at: datetime


def find_landed_files(landing: Path, *, changed_since: datetime | None) -> list[LandedFile]:
    """Complete files in every folder that changed since `changed_since` (None: in every folder), in loading order.

    A rename into a folder changes the folder's change time, which copying tools cannot set back, so cost follows what
    changed and not what is kept.
    """
    threshold = 0.0
    if changed_since is not None:
        threshold = changed_since.replace(tzinfo=UTC).timestamp() - _CLOCK_SLACK_SECONDS
    found = []
    for kind in KINDS:
        for folder in _folders(landing / kind):
            if folder.stat().st_ctime < threshold:
                continue
            with os.scandir(folder) as entries:
                found += [_landed(Path(entry.path), landing, kind) for entry in entries if _is_visible_file(entry)]
    return sorted(found, key=lambda file: (KINDS.index(file.kind), file.name))


def folder_signature(landing: Path) -> tuple[tuple[str, int], ...]:
    """Cheap fingerprint of the landing folder: changes whenever a file lands."""
    return tuple((str(folder), folder.stat().st_ctime_ns) for kind in KINDS for folder in _folders(landing / kind))


def read_lines(file: LandedFile, *, max_bytes: int) -> LineArray:
    """Every line of a file, whole, each with its line end; bytes that are no UTF-8 appear as `\\xNN`.

    Raises:
        UnreadableFileError: truncated or corrupt gzip, or more than `max_bytes` unpacked.
    """
    if file.byte_count > max_bytes:
        raise UnreadableFileError(f"larger than {max_bytes} bytes")
    try:
        content = file.path.read_bytes()
    except OSError as error:
        raise UnreadableFileError(f"cannot be read: {error.strerror}") from error
    if content.startswith(_GZIP_MAGIC):
        content = _unpack(content, max_bytes)
    try:
        content.decode()
    except UnicodeDecodeError:
        content = content.decode(errors="backslashreplace").encode()
    ends = np.flatnonzero(np.frombuffer(content, dtype=np.uint8) == ord("\n")) + 1
    if content and not content.endswith(b"\n"):
        ends = np.append(ends, len(content))
    offsets = np.concatenate(([0], ends)).astype(np.int64)
    return pa.Array.from_buffers(
        pa.large_string(), len(ends), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(content)]
    )


def _unpack(content: bytes, max_bytes: int) -> bytes:
    members: list[bytes] = []
    left = max_bytes
    while content:
        reader = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            member = reader.decompress(content, left + 1)
        except zlib.error as error:
            raise UnreadableFileError(f"corrupt gzip: {error}") from error
        left -= len(member)
        if left < 0:
            raise UnreadableFileError(f"unpacks to more than {max_bytes} bytes")
        if not reader.eof:
            raise UnreadableFileError("truncated gzip: the file ends in the middle of its data")
        members.append(member)
        content = reader.unused_data
    return b"".join(members)


def _folders(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        return
    yield root
    with os.scandir(root) as entries:
        children = sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for child in children:
        yield from _folders(Path(child))


def _is_visible_file(entry: "os.DirEntry[str]") -> bool:
    return entry.is_file() and not entry.name.startswith((".", "_")) and not entry.name.endswith(".tmp")


def _landed(path: Path, landing: Path, kind: str) -> LandedFile:
    stat = path.stat()
    name = path.relative_to(landing).as_posix()
    # The rename sets the inode's change time; the content's own time may be older.
    landed_at = datetime.fromtimestamp(stat.st_ctime, tz=UTC).replace(tzinfo=None)
    return LandedFile(path, name, name.rpartition("/")[0], kind, stat.st_size, landed_at)
