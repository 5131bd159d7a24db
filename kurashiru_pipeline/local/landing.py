"""Writing into the landing folder, the way Firehose and the database exports do (docs/contracts.md).

Here: file names, complete-or-absent files, the schemas of the exports, the manifest.
Not here: what the events say (simulate.py, replay.py), or reading them into the lake (warehouse/landed_files.py).
"""

import fcntl
import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from kurashiru_pipeline.errors import ConfigurationError, KurashiruError

_STRINGS: pa.DataType = pa.list_(pa.string())
_TIME: pa.DataType = pa.timestamp("us", tz="UTC")
RECIPE_SCHEMA = pa.schema(
    [
        ("recipe_id", pa.string()),
        ("title", pa.string()),
        ("author_id", pa.string()),
        ("author_type", pa.string()),
        ("ingredients", _STRINGS),
        ("value_tags", _STRINGS),
        ("cooking_minutes", pa.int32()),
        ("cost_yen", pa.int32()),
        ("calories_kcal", pa.int32()),
        ("published_at", _TIME),
        ("updated_at", _TIME),
        ("is_deleted", pa.bool_()),
    ]
)
USER_SCHEMA = pa.schema(
    [
        ("user_id", pa.string()),
        ("registered_at", _TIME),
        ("preferred_tags", _STRINGS),
        ("updated_at", _TIME),
        ("is_deleted", pa.bool_()),
    ]
)
MANIFEST = "manifest.json"
_INCOMING = ".incoming"  # the loader looks into events/, recipes/ and users/ only


def events_key(delivered_at: datetime, identity: UUID) -> str:
    """Name of an events file below the landing folder, as Firehose gives it (UTC)."""
    moment = delivered_at.astimezone(UTC)
    return f"events/{moment:%Y/%m/%d/%H}/kurashiru-events-1-{moment:%Y-%m-%d-%H-%M-%S}-{identity}.gz"


def export_key(kind: str, exported_at: datetime, identity: UUID) -> str:
    """Name of an export below the landing folder; `kind` is `recipes` or `users`."""
    return f"{kind}/{kind}-{exported_at.astimezone(UTC):%Y-%m-%d-%H-%M-%S}-{identity}.parquet"


def pack_lines(lines: bytes | memoryview) -> bytes:
    """Gzip newline-ended lines; the same lines always give the same bytes."""
    return gzip.compress(lines, compresslevel=1, mtime=0)


def pack_table(table: pa.Table) -> bytes:
    """An export as the bytes of a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def place(landing: Path, key: str, content: bytes) -> Path:
    """Make a file appear in the landing folder, complete or not at all.

    Raises:
        ConfigurationError: the folder cannot be written.
        KurashiruError: the name is taken; names are used once.
    """
    target = landing / key
    if target.exists():
        message = f"{target} is in the landing folder already; choose another --seed, or empty {landing}"
        raise KurashiruError(message)
    partial = landing / _INCOMING / target.name
    with _usable(landing):
        partial.parent.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            partial.rename(target)
        finally:
            partial.unlink(missing_ok=True)
    return target


def read_manifest(landing: Path) -> dict[str, Any]:
    """The manifest of a landing folder; empty when nothing was simulated into it.

    Raises:
        ConfigurationError: the folder cannot be read.
        KurashiruError: the manifest is damaged.
    """
    path = landing / MANIFEST
    with _usable(landing):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return {}
    try:
        manifest = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        message = f"{path} is not valid JSON ({error}); remove it, or empty {landing} to begin anew"
        raise KurashiruError(message) from None
    if not isinstance(manifest, dict):
        raise KurashiruError(f"{path} holds no JSON object; remove it, or empty {landing} to begin anew")
    return manifest


def update_manifest(landing: Path, change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Apply `change` to the manifest and replace it atomically; simulators at work in one folder take turns.

    Returns:
        The manifest as written.
    """
    with _usable(landing):
        (landing / _INCOMING).mkdir(parents=True, exist_ok=True)
        with (landing / _INCOMING / "manifest.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            manifest = read_manifest(landing)
            change(manifest)
            partial = landing / _INCOMING / MANIFEST
            partial.write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
            partial.rename(landing / MANIFEST)
    return manifest


@contextmanager
def _usable(landing: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        message = (
            f"cannot use the landing folder {landing}: {error.strerror}; free or mend it, or set KURASHIRU_LANDING"
        )
        raise ConfigurationError(message) from error
