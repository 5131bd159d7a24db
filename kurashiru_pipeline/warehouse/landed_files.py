"""Landed files as the embedded engine reads them: finding them, unpacking them, lines to Arrow.

Here: the file system side of the loader, without a database.
Not here: which files were loaded already (ducklake_loader.py asks the lake), or any parsing of a line
(core/kernels/events.py, sql/stage_parse.sql).
"""

import math
import os
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from kurashiru_pipeline.clock import utc_now

KINDS = (
    "recipes",
    "users",
    "events",
)  # the order of loading: an event may speak of a recipe of the same moment
_GZIP_MAGIC = b"\x1f\x8b"
# Folder times are as coarse as a clock tick, and a rename may fall between two looks.
_CLOCK_SLACK_SECONDS = 5.0
EVERYWHERE_SECONDS = 30.0
"""A file that lands in the folder of an older hour is seen this much later at most."""
_NEWEST = 2  # folders of a level, by name, that every look goes to
_LINKS_OF_A_LEAF = 2  # links to a folder without folders in it, where the file system counts them
_BEGINNING = datetime(1970, 1, 1)  # noqa: DTZ001 - naive UTC, as in the lake
# An Arrow view: length, then a text of at most so many bytes itself; or the first bytes of it, and where it is.
_SHORT_LINE = 12
_PREFIX = 4


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
        inode: which file it is, whatever its name.
    """

    path: Path
    name: str
    directory: str
    kind: str
    byte_count: int
    landed_at: datetime
    inode: int = 0


class Landing:
    """What lies in a landing folder, looked at again and again; cost follows what changed and not what is kept.

    A rename into a folder changes the folder's change time, which copying tools cannot set back. Most looks go to the
    newest folders only, two by name at every level; every EVERYWHERE_SECONDS one goes to all of them, so a file that
    lands late in the folder of an older hour is seen that much later at most.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._times: dict[str, int] = {}
        self._newest: list[str] = []
        self._unread: set[str] = set()
        self._was_everywhere = -math.inf
        self._signature = 0
        self.complete_at = _BEGINNING
        """When the last look at all folders began (naive UTC)."""

    def begin(self, changed_since: datetime | None) -> None:
        """Look everywhere; what `find` goes through are the folders changed since then (None: all of them)."""
        self._look_everywhere()
        threshold = 0
        if changed_since is not None:
            threshold = int((changed_since.replace(tzinfo=UTC).timestamp() - _CLOCK_SLACK_SECONDS) * 1e9)
        self._unread = {folder for folder, changed in self._times.items() if changed >= threshold}

    def look(self, *, is_everywhere: bool = False) -> None:
        """See what changed since the last look."""
        if is_everywhere or time.monotonic() - self._was_everywhere >= EVERYWHERE_SECONDS:
            self._look_everywhere()
            return
        for folder in self._newest:
            try:
                stat = os.stat(folder)  # noqa: PTH116 - asked ten times a second
            except OSError:  # the folder has gone
                self._look_everywhere()
                return
            if stat.st_ctime_ns != self._times[folder]:
                if stat.st_nlink != _LINKS_OF_A_LEAF:
                    self._look_everywhere()
                    return
                self._signature += stat.st_ctime_ns - self._times[folder]
                self._times[folder] = stat.st_ctime_ns
                self._unread.add(folder)

    def signature(self) -> tuple[int, int]:
        """Fingerprint of the landing folder after another look: changes whenever a file is seen to have landed."""
        self.look()
        return len(self._times), self._signature

    def find(self, is_settled: Callable[[str, int], bool]) -> list[LandedFile]:
        """Complete files in the folders that changed, in loading order, but for those settled: by name and inode."""
        hot = time.time_ns() - int(_CLOCK_SLACK_SECONDS * 1e9)
        found = []
        for folder in list(self._unread):
            name = Path(folder).relative_to(self._root).as_posix()
            kind = name.partition("/")[0]
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                found += [
                    _landed(Path(entry.path), f"{name}/{entry.name}", kind)
                    for entry in entries
                    if _is_visible_file(entry) and not is_settled(f"{name}/{entry.name}", entry.inode())
                ]
            # What is renamed within one tick of the clock changes the folder's time once.
            if self._times.get(folder, 0) < hot:
                self._unread.discard(folder)
        return sorted(found, key=loading_order)

    def _look_everywhere(self) -> None:
        self._was_everywhere = time.monotonic()
        self.complete_at = utc_now()
        times: dict[str, int] = {}
        self._newest = []
        for kind in KINDS:
            self._walk(str(self._root / kind), times, is_new=True)
        self._unread |= {folder for folder, changed in times.items() if self._times.get(folder) != changed}
        self._times = times
        self._signature = sum(times.values())

    def _walk(self, folder: str, times: dict[str, int], *, is_new: bool) -> None:
        try:
            stat = os.stat(folder)  # noqa: PTH116 - of thousands of folders
        except FileNotFoundError:
            return
        times[folder] = stat.st_ctime_ns
        if is_new:
            self._newest.append(folder)
        if stat.st_nlink == _LINKS_OF_A_LEAF:
            return
        with os.scandir(folder) as entries:
            children = sorted(entry.path for entry in entries if entry.is_dir() and not entry.name.startswith("."))
        for place, child in enumerate(children):
            self._walk(child, times, is_new=is_new and place >= len(children) - _NEWEST)


def loading_order(file: LandedFile) -> tuple[int, str]:
    """Sort key: kinds in their order, then names."""
    return KINDS.index(file.kind), file.name


def read_lines(file: LandedFile, *, max_bytes: int) -> LineArray:
    """Every line of a file, whole, without its line end; bytes that are no UTF-8 appear as `\\xNN`.

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
    if not content.isascii():
        try:
            content.decode()
        except UnicodeDecodeError:
            content = content.decode(errors="backslashreplace").encode()
    return _split(content)


def _split(content: bytes) -> LineArray:
    """Lines of `content` where they lie: an Arrow view says of each its length, its beginning, and where it is."""
    data = np.frombuffer(content, dtype=np.uint8)
    ends = np.flatnonzero(data == ord("\n"))
    if content and not content.endswith(b"\n"):
        ends = np.append(ends, len(content))
    starts = np.concatenate(([0], ends[:-1] + 1))[: len(ends)]
    lengths = ends - starts
    is_short = lengths <= _SHORT_LINE
    views = np.zeros((len(ends), 4), dtype=np.int32)
    views[:, 0] = lengths
    views[:, 3] = np.where(is_short, 0, starts)
    texts = views.view(np.uint8)[:, 4:]
    for place in range(_SHORT_LINE):
        inside = np.flatnonzero((lengths > place) & (is_short if place >= _PREFIX else True))
        texts[inside, place] = data[starts[inside] + place]
    return pa.Array.from_buffers(
        pa.string_view(), len(ends), [None, pa.py_buffer(views.tobytes()), pa.py_buffer(content)]
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


def _is_visible_file(entry: "os.DirEntry[str]") -> bool:
    return entry.is_file() and not entry.name.startswith((".", "_")) and not entry.name.endswith(".tmp")


def _landed(path: Path, name: str, kind: str) -> LandedFile:
    stat = path.stat()
    # The rename sets the inode's change time; the content's own time may be older.
    landed_at = datetime.fromtimestamp(stat.st_ctime, tz=UTC).replace(tzinfo=None)
    return LandedFile(path, name, name.rpartition("/")[0], kind, stat.st_size, landed_at, stat.st_ino)
