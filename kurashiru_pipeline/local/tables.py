"""Files that somebody else wrote, read as columns: CSV, TSV, Parquet and MovieLens' own formats.

Here: formats, finding columns by the names people give them, times in the forms people write them.
Not here: what the columns are used for (replay.py).
"""

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kurashiru_pipeline.errors import KurashiruError

TextOrNumbers: TypeAlias = "pa.ChunkedArray[Any]"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_FARTHEST = 7 * 10**15  # microseconds from 1970; nobody means the year 2191
_NUMBER = r"^\s*-?[0-9]+([.][0-9]*)?\s*$"
_DELIMITERS = {".csv": ",", ".tsv": "\t", ".data": "\t", ".dat": "\x1f"}
_HEADERLESS = (".data", ".dat")
_FORMATS = ".parquet, .csv, .tsv, .data (tabs, no header) or .dat (`::`, no header); all but .parquet also as .gz"


@dataclass(frozen=True)
class Layout:
    """What is looked for in a file.

    Attributes:
        names: accepted column names of each meaning, lower case without `_`, `-` and blanks; the first present wins.
        required: meanings without which the file is useless.
        order: meanings of the columns where a format has no header.
    """

    names: Mapping[str, Sequence[str]]
    required: Sequence[str]
    order: Sequence[str]


@dataclass(frozen=True)
class Columns:
    """What was found: `table` has a column for each meaning, `torn_rows` had another number of fields."""

    table: pa.Table
    torn_rows: int


def read_columns(path: Path, layout: Layout) -> Columns:
    """Read the columns a layout speaks of. Columns of text files are strings, null where empty.

    Raises:
        KurashiruError: the file cannot be read, or lacks a required column.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_packed = suffixes[-1:] == [".gz"]
    kind = "".join((suffixes[:-1] if is_packed else suffixes)[-1:])
    try:
        if kind == ".parquet":
            found = _find(path, pq.read_schema(path).names, layout)
            table = pq.read_table(path, columns=list(found.values())).select(list(found.values()))
            return Columns(table.rename_columns(list(found)), 0)
        if kind in _DELIMITERS:
            content = path.read_bytes()
            return _read_text(path, gzip.decompress(content) if is_packed else content, kind, layout)
    except (OSError, EOFError, pa.ArrowException, UnicodeDecodeError) as error:
        raise KurashiruError(f"{path} cannot be read: {error}") from error
    raise KurashiruError(f"{path} has a format that is not known; give {_FORMATS}")


def _read_text(path: Path, content: bytes, kind: str, layout: Layout) -> Columns:
    if kind == ".dat":
        content = _as_utf8(content).replace(b"::", b"\x1f")
    torn: list[int] = []

    def leave_out(row: pa_csv.InvalidRow) -> Literal["skip"]:
        torn.append(row.actual_columns)
        return "skip"

    has_header = kind not in _HEADERLESS
    parse = pa_csv.ParseOptions(
        delimiter=_DELIMITERS[kind],
        quote_char='"' if has_header else False,
        newlines_in_values=has_header,
        invalid_row_handler=leave_out,
    )
    names = list(layout.order)
    if has_header:
        header = content[: content.find(b"\n") + 1] or content
        names = pa_csv.read_csv(BytesIO(header), parse_options=parse).column_names
    found = _find(path, names, layout)
    table = pa_csv.read_csv(
        BytesIO(content),
        read_options=pa_csv.ReadOptions(column_names=None if has_header else names),
        parse_options=parse,
        convert_options=pa_csv.ConvertOptions(
            include_columns=list(found.values()),
            column_types=dict.fromkeys(found.values(), pa.string()),
            strings_can_be_null=True,
            null_values=[""],
        ),
    )
    return Columns(table.rename_columns(list(found)), len(torn))


def _find(path: Path, names: Sequence[str], layout: Layout) -> dict[str, str]:
    """The column of each meaning that the file has."""
    plain = {name.lower().translate({ord(character): None for character in "_- "}): name for name in reversed(names)}
    found = {
        meaning: next(plain[name] for name in accepted if name in plain)
        for meaning, accepted in layout.names.items()
        if any(name in plain for name in accepted)
    }
    for meaning in layout.required:
        if meaning not in found:
            message = (
                f"{path} has no column for the {meaning}: its columns are {', '.join(names)}; "
                f"rename one to any of {', '.join(layout.names[meaning])}"
            )
            raise KurashiruError(message)
    return found


def _as_utf8(content: bytes) -> bytes:
    try:
        content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1").encode()  # as the older MovieLens files are written
    return content


def parse_numbers(column: TextOrNumbers) -> NDArray[np.float64]:
    """Numbers, or texts that are numbers; NaN for what is none."""
    if pa.types.is_string(column.type):
        is_number = pc.match_substring_regex(column, _NUMBER)
        column = pc.if_else(is_number, pc.utf8_trim_whitespace(column), None)
    numbers: Any = column.cast(pa.float64())
    return np.asarray(numbers.fill_null(np.nan))


def parse_times(column: TextOrNumbers) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times of any usual form as epoch microseconds, and which of them could be understood.

    Numbers count seconds, milli-, micro- or nanoseconds since 1970, told apart by their size; texts are such
    numbers or ISO 8601; without a zone, UTC is meant.
    """
    if pa.types.is_temporal(column.type):
        moments: Any = column.cast(pa.timestamp("us"), safe=False).cast(pa.int64())
        at = np.asarray(moments.fill_null(_FARTHEST))
    else:
        numbers = parse_numbers(column)
        size = np.abs(numbers)
        scale = np.select([size < 1e11, size < 1e14, size < 1e17], [1e6, 1e3, 1.0], 1e-3)
        at = np.where(size < 1e19, numbers * scale, _FARTHEST).round().astype(np.int64)
        if pa.types.is_string(column.type):
            texts = np.flatnonzero(np.isnan(numbers))
            at[texts] = [_from_text(text) for text in column.take(texts).to_pylist()]
    return at, np.abs(at) < _FARTHEST


def _from_text(text: str | None) -> int:
    try:
        moment = datetime.fromisoformat((text or "").strip().replace(" UTC", "+00:00"))
    except ValueError:
        return _FARTHEST
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND
