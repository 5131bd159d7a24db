"""Contents of staged files as Snowflake's file formats read and write them.

Here: whole-line CSV, NDJSON and Parquet to rows with `$1` and METADATA$ columns, and back.
Not here: which files are read (copying.py, stages.py). Options outside these formats are refused, not ignored.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from tests.snowflake import errors
from tests.snowflake.names import quoted

MAX_VALUE_BYTES: Final = 16 * 2**20
_METADATA: Final = {
    "METADATA$FILENAME": pa.string(),
    "METADATA$FILE_ROW_NUMBER": pa.int64(),
    "METADATA$FILE_CONTENT_KEY": pa.string(),
    "METADATA$FILE_LAST_MODIFIED": pa.timestamp("us"),
    "METADATA$START_SCAN_TIME": pa.timestamp("us", "UTC"),
}


class UnreadableFileError(Exception):
    """A file that its format cannot read."""


@dataclass(frozen=True)
class Content:
    """Rows of one file.

    Attributes:
        rows: `$1` (text of the line or the document) and the METADATA$ columns; for Parquet its own columns as well.
        error: why the file, or one of its rows, cannot be read.
        error_count: rows that cannot be read; they are not among `rows`.
    """

    name: str
    path: Path
    rows: pa.Table
    error: str | None = None
    error_count: int = 0


def read(path: Path, name: str, form: dict[str, str]) -> Content:
    """A file by its format; a file that cannot be read has no rows and an error."""
    scanned = datetime.now(UTC)
    kind = form["TYPE"].upper()
    readers: dict[str, Callable[[Path, dict[str, str]], tuple[pa.Table, list[int], list[str]]]] = {
        "CSV": _read_lines,
        "JSON": _read_documents,
        "PARQUET": _read_parquet,
    }
    if kind not in readers:
        raise errors.not_emulated(f"file format {kind}")
    try:
        table, numbers, failures = readers[kind](path, form)
    except (UnreadableFileError, OSError, EOFError, zlib.error, pa.ArrowException) as failure:
        empty = pa.table({"$1": pa.array([], pa.string())})
        return Content(name, path, _described(empty, path, name, [], scanned), str(failure) or "unreadable", 1)
    error = failures[0] if failures else None
    return Content(name, path, _described(table, path, name, numbers, scanned), error, len(failures))


def _described(table: pa.Table, path: Path, name: str, numbers: Sequence[int], scanned: datetime) -> pa.Table:
    modified = datetime.fromtimestamp(path.stat().st_mtime, UTC).replace(tzinfo=None)
    key = hashlib.md5(str(path.stat().st_mtime_ns).encode(), usedforsecurity=False).hexdigest()
    count = table.num_rows
    values = ([name] * count, list(numbers), [key] * count, [modified] * count, [scanned] * count)
    for (column, kind), entries in zip(_METADATA.items(), values, strict=True):
        table = table.append_column(column, pa.array(entries, kind))
    return table


def _unpacked(path: Path, form: dict[str, str]) -> bytes:
    data = path.read_bytes()
    packing = form.get("COMPRESSION", "AUTO").upper()
    if packing == "AUTO":
        packing = {".gz": "GZIP", ".bz2": "BZ2", ".zst": "ZSTD"}.get(path.suffix, "NONE")
    if packing == "GZIP":
        return gzip.decompress(data)
    if packing == "BZ2":
        return bz2.decompress(data)
    if packing == "ZSTD":
        return bytes(pa.CompressedInputStream(io.BytesIO(data), "zstd").read())
    if packing == "NONE":
        return data
    raise errors.not_emulated(f"compression {packing}")


def _text(data: bytes, form: dict[str, str]) -> str:
    try:
        return data.decode("utf-8", errors="replace" if _is_on(form, "REPLACE_INVALID_CHARACTERS") else "strict")
    except UnicodeDecodeError as failure:
        message = f"Invalid UTF8 detected in string: {failure}"
        raise UnreadableFileError(message) from failure


def _is_on(form: dict[str, str], option: str, *, default: bool = False) -> bool:
    return form.get(option, str(default)).upper() == "TRUE"


def _read_lines(path: Path, form: dict[str, str]) -> tuple[pa.Table, list[int], list[str]]:
    """CSV whose records are whole lines: any option that would take a line apart is refused."""
    for option, needed, default in (
        ("FIELD_DELIMITER", "NONE", ","),
        ("ESCAPE", "NONE", "NONE"),
        ("ESCAPE_UNENCLOSED_FIELD", "NONE", "\\\\"),
        ("FIELD_OPTIONALLY_ENCLOSED_BY", "NONE", "NONE"),
        ("NULL_IF", "", "\\\\N"),
        ("RECORD_DELIMITER", "\\n", "\\n"),
    ):
        value = form.get(option, default)
        if value.upper() != needed.upper():
            raise errors.not_emulated(f"CSV with {option} = {value!r} ({needed or '()'} reads whole lines)")
    lines = _unpacked(path, form).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    skipped = int(form.get("SKIP_HEADER", "0"))
    values: list[str | None] = []
    numbers, failures = [], []
    for number, line in enumerate(lines[skipped:], skipped + 1):
        if len(line) > MAX_VALUE_BYTES:
            failures.append(f"line {number} has {len(line)} bytes, more than {MAX_VALUE_BYTES}")
            continue
        if not line.strip() and _is_on(form, "SKIP_BLANK_LINES"):
            continue
        try:
            text = _text(line.removesuffix(b"\r"), form)
        except UnreadableFileError as failure:
            failures.append(str(failure))
            continue
        if _is_on(form, "TRIM_SPACE"):
            text = text.strip()
        values.append(None if not text and _is_on(form, "EMPTY_FIELD_AS_NULL", default=True) else text)
        numbers.append(number)
    return pa.table({"$1": pa.array(values, pa.string())}), numbers, failures


def _read_documents(path: Path, form: dict[str, str]) -> tuple[pa.Table, list[int], list[str]]:
    text = _text(_unpacked(path, form), form)
    documents: list[str] = []
    failures: list[str] = []
    for line in text.split("\n"):
        if not line.strip():
            continue
        try:
            document = json.loads(line)
        except ValueError as failure:
            failures.append(f"Error parsing JSON: {failure}")
            continue
        if _is_on(form, "STRIP_OUTER_ARRAY") and isinstance(document, list):
            documents += [json.dumps(entry, ensure_ascii=False) for entry in document]
        else:
            documents.append(line)
    return pa.table({"$1": pa.array(documents, pa.string())}), list(range(1, len(documents) + 1)), failures


def _read_parquet(path: Path, form: dict[str, str]) -> tuple[pa.Table, list[int], list[str]]:
    table = pq.read_table(io.BytesIO(path.read_bytes()))
    if not _is_on(form, "USE_LOGICAL_TYPE"):
        # Without it Snowflake gives a timestamp that is not adjusted to UTC as the integer it is stored as.
        for index, field in enumerate(table.schema):
            if pa.types.is_timestamp(field.type) and field.type.tz is None:
                table = table.set_column(index, field.name, table.column(index).cast(pa.int64()))
    return table, list(range(1, table.num_rows + 1)), []


def register(duck: duckdb.DuckDBPyConnection, name: str, contents: Sequence[Content], form: dict[str, str]) -> None:
    """Make the rows of some files the temporary view `name`; `$1` is JSON except for lines."""
    tables = [content.rows for content in contents if content.rows.num_rows]
    empty = pa.table({column: pa.array([], kind) for column, kind in {"$1": pa.string(), **_METADATA}.items()})
    rows = pa.concat_tables(tables, promote_options="permissive") if tables else empty
    duck.register(f"{name}_ROWS", rows)
    kind = form["TYPE"].upper()
    metadata = ", ".join(quoted(column) for column in _METADATA)
    if kind == "PARQUET" and tables:
        fields = [column for column in rows.column_names if column not in _METADATA]
        struct = ", ".join(f"{quoted(field)} := {quoted(field)}" for field in fields)
        selection = f'to_json(struct_pack({struct})) AS "$1", {", ".join(quoted(field) for field in fields)}'
    else:
        selection = '"$1"' if kind == "CSV" else '"$1"::JSON AS "$1"'
    duck.execute(
        f"CREATE OR REPLACE TEMP VIEW {quoted(name)} AS SELECT {selection}, {metadata} FROM {quoted(f'{name}_ROWS')}"
    )


def unregister(duck: duckdb.DuckDBPyConnection, name: str) -> None:
    duck.execute(f"DROP VIEW IF EXISTS temp.main.{quoted(name)}")
    duck.unregister(f"{name}_ROWS")


def write(path: Path, content: bytes) -> None:
    """Put a file in a stage: it is there whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)


def written(table: pa.Table, form: dict[str, str], *, has_header: bool) -> tuple[bytes, str]:
    """(content, extension) of rows in a format that COPY INTO a location writes."""
    kind = form["TYPE"].upper()
    packing = form.get("COMPRESSION", "AUTO").upper()
    if kind == "JSON":
        if table.num_columns != 1:
            raise errors.error("JSON unloading needs one VARIANT column", 2155, "42601")
        lines = "".join(f"{_document(value)}\n" for value in table.column(0).to_pylist()).encode()
        if packing in {"AUTO", "GZIP"}:
            return gzip.compress(lines, mtime=0), ".json.gz"
        if packing == "NONE":
            return lines, ".json"
    if kind == "PARQUET":
        if not has_header:
            table = table.rename_columns([f"_COL_{index}" for index in range(table.num_columns)])
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="NONE" if packing == "NONE" else "SNAPPY")
        return buffer.getvalue(), ".parquet" if packing == "NONE" else ".snappy.parquet"
    raise errors.not_emulated(f"unloading {kind} with compression {packing}")


def _document(value: Any) -> str:
    return "null" if value is None else str(value)
