"""Stages and file formats, and the files in them.

Here: CREATE / DROP STAGE and FILE FORMAT, where a stage's files lie, PUT, GET, LIST, REMOVE, queries over staged files.
Not here: COPY INTO (copying.py), pipes (pipes.py), what is in a file (files.py).
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.snowflake import errors, files, script
from tests.snowflake.names import CATALOGUE, NAME, PART, ObjectName, quoted
from tests.snowflake.results import Result

if TYPE_CHECKING:
    from tests.snowflake.session import Connection

LOCATION: Final = rf"'?@(?:~|(?:{PART}\s*\.\s*){{0,2}}%?{PART})(?:/[^\s'()]*)?'?"
_OPTION = re.compile(r"(\w+)\s*=\s*('(?:[^']|'')*'|\(|[^\s()',]+)", re.DOTALL)
_IN_FROM = re.compile(rf"\b(?P<word>FROM|JOIN)\s+(?P<location>{LOCATION})", re.IGNORECASE)


@dataclass(frozen=True)
class Location:
    """A place in a stage.

    Attributes:
        root: the stage's folder on this machine.
        path: below the root; empty for all of it.
        prefix: what METADATA$FILENAME has before the path below the root (the stage's URL below its bucket).
        options: the stage's own options.
    """

    stage: str
    root: Path
    path: str
    prefix: str
    options: dict[str, str]

    def found(self) -> list[Path]:
        """Files whose path begins with `path`, in name order; hidden ones are not there yet."""
        base = self.root / self.path
        start = base if base.is_dir() else base.parent
        if not start.is_dir():
            return []
        wanted = str(self.root / self.path) + ("/" if self.path.endswith("/") else "")
        return sorted(
            path
            for path in start.rglob("*")
            if path.is_file() and str(path).startswith(wanted) and not _is_hidden(path.relative_to(self.root))
        )

    def file_name(self, path: Path) -> str:
        """METADATA$FILENAME."""
        return self.prefix + path.relative_to(self.root).as_posix()


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def tables_sql() -> str:
    """The catalogue's tables of stages and file formats."""
    return f"""
        CREATE TABLE IF NOT EXISTS {quoted(CATALOGUE, "STAGES")} (
            SCHEMA_NAME VARCHAR, NAME VARCHAR, URL VARCHAR, OPTIONS VARCHAR, CREATED_AT TIMESTAMP);
        CREATE TABLE IF NOT EXISTS {quoted(CATALOGUE, "FILE_FORMATS")} (
            SCHEMA_NAME VARCHAR, NAME VARCHAR, OPTIONS VARCHAR, CREATED_AT TIMESTAMP)
    """


def parse_options(text: str) -> dict[str, str]:
    """`A = 1 B = 'x' C = (D = 2)` -> {"A": "1", "B": "x", "C": "D = 2"}."""
    options = {}
    position = 0
    while match := _OPTION.search(text, position):
        key, value = match[1].upper(), match[2]
        position = match.end()
        if value == "(":
            position = script.closing_bracket(text, match.end() - 1)
            value = text[match.end() : position].strip()
            position += 1
        elif value.startswith("'"):
            value = value[1:-1].replace("''", "'")
        options[key] = value
    return options


def create_stage(session: Connection, match: re.Match[str]) -> Result:
    options = parse_options(match["options"])
    return _create(session, match, "STAGES", "Stage area", [options.get("URL"), json.dumps(options)])


def create_format(session: Connection, match: re.Match[str]) -> Result:
    options = parse_options(match["options"])
    return _create(session, match, "FILE_FORMATS", "File format", [json.dumps(options)])


def _create(session: Connection, match: re.Match[str], table: str, kind: str, values: list[Any]) -> Result:
    name = session.object_name(match["name"])
    if _row(session, table, name):
        if match["lenient"]:
            return Result.of_status(f"{name.name} already exists, statement succeeded.")
        if not match["replace"]:
            raise errors.exists(name.name)
    with session.own_transaction():
        _delete(session, table, name)
        session.duck.execute(
            f"INSERT INTO {session.catalogue(table)} VALUES (?, ?, {', '.join('?' for _ in values)}, ?)",
            [*name, *values, session.now()],
        )
    return Result.of_status(f"{kind} {name.name} successfully created.")


def drop(session: Connection, match: re.Match[str], table: str) -> Result:
    name = session.object_name(match["name"])
    if not _row(session, table, name):
        if match["lenient"]:
            return Result.of_status("Drop statement executed successfully (already dropped).")
        raise errors.missing("Stage" if table == "STAGES" else "File format", name.key)
    if table == "STAGES":
        shutil.rmtree(session.account.stage_folder / name.key, ignore_errors=True)
    _delete(session, table, name)
    return Result.of_status(f"{name.name} successfully dropped.")


def _delete(session: Connection, table: str, name: ObjectName) -> None:
    session.duck.execute(f"DELETE FROM {session.catalogue(table)} WHERE SCHEMA_NAME = ? AND NAME = ?", list(name))


def _row(session: Connection, table: str, name: ObjectName) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = session.duck.execute(
        f"SELECT * FROM {session.catalogue(table)} WHERE SCHEMA_NAME = ? AND NAME = ?", list(name)
    ).fetchone()
    return row


def locate(session: Connection, text: str) -> Location:
    """The place that `@stage/path`, `@%table/path` or `@~/path` names."""
    text = text.strip().strip("'")
    stage, _, path = text.removeprefix("@").partition("/")
    if stage == "~":
        root = session.account.stage_folder / f"~{session.user}"
        return Location(stage, root, path, "", {})
    if "%" in stage:
        name = session.object_name(stage.replace("%", ""))
        if not (name in session.temporary or session.has_table(name)):
            raise errors.missing("Stage", stage)
        return Location(stage, _table_folder(session, name), path, "", {})
    name = session.object_name(stage)
    row = _row(session, "STAGES", name)
    if row is None:
        raise errors.missing("Stage", f"{session.account.database}.{name.key}")
    url, options = row[2], json.loads(row[3])
    if url is None:
        return Location(stage, session.account.stage_folder / name.key, path, "", options)
    parsed = urllib.parse.urlsplit(url)
    if parsed.scheme == "file":
        return Location(stage, Path(parsed.path), path, "", options)
    return Location(
        stage, session.account.landing, path, parsed.path.strip("/") + "/" * (len(parsed.path) > 1), options
    )


def owned_name(session: Connection, name: ObjectName) -> str:
    """What a table's files and load history are kept under: a temporary table's are its session's."""
    return f"{session.session_id}.{name.name}" if name in session.temporary else name.name


def _table_folder(session: Connection, name: ObjectName) -> Path:
    return session.account.stage_folder / f"{name.schema}.%{owned_name(session, name)}"


def forget_table(session: Connection, name: ObjectName) -> None:
    """A table dropped or made anew has neither files nor a load history."""
    shutil.rmtree(_table_folder(session, name), ignore_errors=True)
    session.duck.execute(
        f"DELETE FROM {session.catalogue('LOADS')} "
        "WHERE TABLE_SCHEMA_NAME = ? AND TABLE_NAME = ? AND PIPE_NAME IS NULL",
        [name.schema, owned_name(session, name)],
    )


def folder(session: Connection, text: str) -> Path:
    location = locate(session, text)
    return location.root / location.path


def file_format(session: Connection, text: str, *, stage: Location | None = None) -> dict[str, str]:
    """Options of `FORMAT_NAME = '..'` or `TYPE = ..`; those of the stage where there are none."""
    options = parse_options(text)
    if not options and re.fullmatch(NAME, text.strip().strip("'")):
        options = {"FORMAT_NAME": text.strip().strip("'")}
    if not options and stage is not None and "FILE_FORMAT" in stage.options:
        options = parse_options(stage.options["FILE_FORMAT"])
    if "FORMAT_NAME" in options:
        name = session.object_name(options["FORMAT_NAME"])
        row = _row(session, "FILE_FORMATS", name)
        if row is None:
            raise errors.missing("File format", name.key)
        options = json.loads(row[2])
    return {"TYPE": "CSV", **options}


def staged_query(session: Connection, sql: str) -> AbstractContextManager[str] | None:
    """The statement with its staged files as relations; None when it reads none."""
    if not any(_IN_FROM.finditer(sql)) or not re.match(
        r"\(*\s*(SELECT|WITH|INSERT|MERGE|CREATE)\b", sql, re.IGNORECASE
    ):
        return None
    return _with_relations(session, sql)


@contextmanager
def _with_relations(session: Connection, sql: str) -> Iterator[str]:
    names: list[str] = []
    pieces, position = [], 0
    for match in _IN_FROM.finditer(sql):
        end, options = match.end(), {}
        if bracket := re.match(r"\s*\(", sql[end:]):
            closing = script.closing_bracket(sql, end + bracket.end() - 1)
            options = parse_options(sql[end + bracket.end() : closing].replace("=>", "="))
            end = closing + 1
        location = locate(session, match["location"])
        form = file_format(session, options.get("FILE_FORMAT", ""), stage=location)
        found = [path for path in location.found() if re.fullmatch(options.get("PATTERN", ".*"), str(path))]
        contents = [files.read(path, location.file_name(path), form) for path in found]
        name = f"_STAGED_{len(names)}"
        files.register(session.duck, name, contents, form)
        names.append(name)
        pieces += [sql[position : match.start()], f'{match["word"]} "temp"."main"."{name}"']
        position = end
    try:
        yield script.replace_plain("".join([*pieces, sql[position:]]), r"\$(\d+)", r'"$\1"')
    finally:
        for name in names:
            files.unregister(session.duck, name)


# Commands over files.

_PUT_COLUMNS = (
    "source", "target", "source_size", "target_size", "source_compression", "target_compression", "status", "message",
)  # fmt: skip


def put(session: Connection, match: re.Match[str]) -> Result:
    options = parse_options(match["options"])
    location = locate(session, match["location"])
    is_compressed = options.get("AUTO_COMPRESS", "TRUE").upper() == "TRUE"
    pattern = Path(urllib.parse.unquote(match["path"]))
    sources = sorted(path for path in pattern.parent.glob(pattern.name) if path.is_file())
    if not sources:
        raise errors.error(f"File doesn't exist: ['{pattern}']", 253006, "n/a")
    rows = []
    for source in sources:
        is_packed = source.suffix in {".gz", ".zst", ".bz2"}
        compress = is_compressed and not is_packed
        target = location.root / location.path / (source.name + ".gz" * compress)
        status = "UPLOADED"
        if target.exists() and options.get("OVERWRITE", "FALSE").upper() != "TRUE":
            status = "SKIPPED"
        else:
            content = source.read_bytes()
            files.write(target, gzip.compress(content, mtime=0) if compress else content)
        packing = "GZIP" if compress or source.suffix == ".gz" else "NONE"
        rows.append(
            (source.name, target.name, source.stat().st_size, target.stat().st_size,
             "GZIP" if source.suffix == ".gz" else "NONE", packing, status, "")
        )  # fmt: skip
    return Result.of_rows(_PUT_COLUMNS, rows)


def get(session: Connection, match: re.Match[str]) -> Result:
    location = locate(session, match["location"])
    folder_ = Path(urllib.parse.unquote(match["path"]))
    folder_.mkdir(parents=True, exist_ok=True)
    rows = []
    for path in location.found():
        shutil.copyfile(path, folder_ / path.name)
        rows.append((path.name, path.stat().st_size, "DOWNLOADED", ""))
    return Result.of_rows(("file", "size", "status", "message"), rows)


def list_files(session: Connection, match: re.Match[str]) -> Result:
    location = locate(session, match["location"])
    pattern = parse_options(match["options"]).get("PATTERN", ".*")
    rows = []
    for path in location.found():
        name = f"{location.stage.replace('%', '').split('.')[-1].lower()}/{path.relative_to(location.root).as_posix()}"
        if re.fullmatch(pattern, name):
            modified = datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
            digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
            rows.append((name, path.stat().st_size, digest, modified))
    return Result.of_rows(("name", "size", "md5", "last_modified"), rows)


def remove(session: Connection, match: re.Match[str]) -> Result:
    location = locate(session, match["location"])
    pattern = parse_options(match["options"]).get("PATTERN", ".*")
    rows = []
    for path in location.found():
        name = path.relative_to(location.root).as_posix()
        if re.fullmatch(pattern, name):
            path.unlink()
            rows.append((f"{location.stage.split('.')[-1].lower()}/{name}", "removed"))
    return Result.of_rows(("name", "result"), rows)
