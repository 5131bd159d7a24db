"""Statements that are understood by their text, because DuckDB and sqlglot have nothing like them.

Here: the table of such statements, USE, ALTER SESSION, BEGIN / COMMIT / ROLLBACK, and those only recorded.
Not here: what the objects they name do (streams.py, stages.py, pipes.py, ...).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from tests.snowflake import copying, errors, pipes, relations, show, stages, streams
from tests.snowflake.names import NAME, parts
from tests.snowflake.results import Result

if TYPE_CHECKING:
    from tests.snowflake.session import Connection

_LOCATION = stages.LOCATION
Handler = Callable[["Connection", re.Match[str]], Result]


@dataclass(frozen=True)
class Command:
    """One kind of statement.

    Attributes:
        commits: whether it is DDL, which ends an open transaction.
        needs_warehouse: whether Snowflake runs it on a warehouse.
    """

    pattern: re.Pattern[str]
    handler: Handler
    commits: bool
    needs_warehouse: bool = False

    def run(self, session: Connection, sql: str) -> Result:
        match = self.pattern.fullmatch(sql)
        assert match is not None
        if self.commits:
            session.commit_transaction()
        return self.handler(session, match)


def find(sql: str) -> Command | None:
    """The command that `sql` is; None for what is parsed as SQL."""
    return next((command for command in _COMMANDS if command.pattern.fullmatch(sql)), None)


def _begin(session: Connection, _match: re.Match[str]) -> Result:
    session.begin()
    return Result.of_status()


def _commit(session: Connection, _match: re.Match[str]) -> Result:
    session.commit_transaction()
    return Result.of_status()


def _rollback(session: Connection, _match: re.Match[str]) -> Result:
    session.end_transaction()
    return Result.of_status()


def _use(session: Connection, match: re.Match[str]) -> Result:
    kind, names = match["kind"].upper(), parts(match["name"])
    if kind == "WAREHOUSE":
        session.warehouse = names[0]
    elif kind == "ROLE":
        session.role = names[0]
    elif kind == "DATABASE" or (not kind and len(names) == 1 and names[0] == session.account.database):
        if names[0] != session.account.database:
            raise errors.error("Object does not exist, or operation cannot be performed.", 2043, "02000")
        session.database, session.database_set = names[0], True
        session._schema, session.schema_set = None, False
        session.use_schema("PUBLIC", is_lenient=True)
    elif kind in {"SCHEMA", ""}:
        if len(names) == 2:
            if names[0] != session.account.database:
                raise errors.error("Object does not exist, or operation cannot be performed.", 2043, "02000")
            session.database, session.database_set = names[0], True
        session.use_schema(names[-1])
    return Result.of_status()


_SETTING = re.compile(r"(\w+)\s*=\s*('(?:[^']|'')*'|[^\s,]+)")


def _set_parameters(session: Connection, match: re.Match[str]) -> Result:
    values: dict[str, object] = {}
    for name, value in _SETTING.findall(match["settings"]):
        plain = value[1:-1].replace("''", "'") if value.startswith("'") else value
        values[name] = {"true": True, "false": False}.get(plain.lower(), plain)
    if "AUTOCOMMIT" in {name.upper() for name in values}:
        session.commit_transaction()
    session.set_parameters(values)
    return Result.of_status()


def _unset_parameters(session: Connection, match: re.Match[str]) -> Result:
    session.unset_parameters(re.findall(r"\w+", match["settings"]))
    return Result.of_status()


def _record(session: Connection, match: re.Match[str]) -> Result:
    session.account.record(session, match.string)
    return Result.of_status()


def _nothing(_session: Connection, _match: re.Match[str]) -> Result:
    return Result.of_status()


def _create_schema(session: Connection, match: re.Match[str]) -> Result:
    return relations.create_schema(session, parts(match["name"]), is_lenient=bool(match["lenient"]))


def _create_database(session: Connection, match: re.Match[str]) -> Result:
    name = parts(match["name"])[0]
    if name != session.account.database:
        raise errors.not_emulated(f"a second database ({name}); the account's is {session.account.database}")
    session.database, session.database_set = name, True
    session.use_schema("PUBLIC", is_lenient=True)
    return Result.of_status(f"{name} already exists, statement succeeded.")


def _create_stream(session: Connection, match: re.Match[str]) -> Result:
    return streams.create(session, match.string)


def _drop_stream(session: Connection, match: re.Match[str]) -> Result:
    return streams.drop(session, match["name"], is_lenient=bool(match["lenient"]))


def _alter_stream(session: Connection, match: re.Match[str]) -> Result:
    return streams.set_comment(session, match["name"], match["comment"].replace("''", "'"))


def _drop_stage(session: Connection, match: re.Match[str]) -> Result:
    return stages.drop(session, match, "STAGES")


def _drop_format(session: Connection, match: re.Match[str]) -> Result:
    return stages.drop(session, match, "FILE_FORMATS")


def _load(session: Connection, match: re.Match[str]) -> Result:
    return copying.load(session, match.string)


def _unload(session: Connection, match: re.Match[str]) -> Result:
    return copying.unload(session, match.string)


_MAKE: Final = (
    r"CREATE\s+(?:(?P<replace>OR\s+REPLACE\s+)|(?P<alter>OR\s+ALTER\s+))?(?:SECURE\s+)?(?:TEMP(?:ORARY)?\s+)?"
)
_LENIENT: Final = r"(?P<lenient>IF\s+NOT\s+EXISTS\s+)?"
_IF_THERE: Final = r"(?P<lenient>IF\s+EXISTS\s+)?"
_NAMED: Final = rf"(?P<name>{NAME})"
# Objects of the platform: they have no effect on rows.
_RECORDED_KINDS: Final = (
    r"(?:ROLE|DATABASE\s+ROLE|USER|WAREHOUSE|RESOURCE\s+MONITOR|NETWORK\s+(?:POLICY|RULE)|(?:\w+\s+)*INTEGRATION|TASK"
    r"|(?:EXTERNAL\s+)?FUNCTION|PROCEDURE|MASKING\s+POLICY|TAG|SECRET|ALERT|BUDGET|AUTHENTICATION\s+POLICY)"
)


def _command(pattern: str, handler: Handler, *, commits: bool = False, needs_warehouse: bool = False) -> Command:
    return Command(re.compile(pattern, re.IGNORECASE | re.DOTALL), handler, commits, needs_warehouse)


_COMMANDS: Final = (
    _command(r"(?:BEGIN(?:\s+(?:TRANSACTION|WORK))?|START\s+TRANSACTION)(?:\s+NAME\s+\S+)?", _begin),
    _command(r"COMMIT(?:\s+WORK)?", _commit),
    _command(r"ROLLBACK(?:\s+WORK)?", _rollback),
    _command(r"USE\s+SECONDARY\s+ROLES\s+.*", _nothing),
    _command(rf"USE\s+(?P<kind>WAREHOUSE|ROLE|DATABASE|SCHEMA)?\s*{_NAMED}", _use),
    _command(r"ALTER\s+SESSION\s+SET\s+(?P<settings>.*)", _set_parameters),
    _command(r"ALTER\s+SESSION\s+UNSET\s+(?P<settings>.*)", _unset_parameters),
    _command(r"SHOW\s+(?:TERSE\s+)?STREAMS\b(?P<rest>.*)", show.show_streams),
    _command(r"SHOW\s+(?:TERSE\s+)?TABLES\b(?P<rest>.*)", show.show_tables),
    _command(r"SHOW\s+PIPES\b(?P<rest>.*)", show.show_pipes),
    _command(r"SHOW\s+STAGES\b(?P<rest>.*)", show.show_stages),
    _command(r"SHOW\s+(?:TERSE\s+)?SCHEMAS\b(?P<rest>.*)", show.show_schemas),
    _command(r"SHOW\s+COLUMNS\b(?P<rest>.*)", show.show_columns),
    _command(rf"DESC(?:RIBE)?\s+(?:TABLE|VIEW)\s+{_NAMED}", show.describe_table),
    _command(r"SHOW\s+TRANSACTIONS\b.*", show.show_transactions),
    _command(rf"DESC(?:RIBE)?\s+STREAM\s+{_NAMED}", show.describe_stream),
    _command(rf"{_MAKE}STREAM\s+.*", _create_stream, commits=True),
    _command(
        rf"ALTER\s+STREAM\s+(?:IF\s+EXISTS\s+)?{_NAMED}\s+SET\s+COMMENT\s*=\s*'(?P<comment>(?:[^']|'')*)'",
        _alter_stream,
        commits=True,
    ),
    _command(rf"DROP\s+STREAM\s+{_IF_THERE}{_NAMED}", _drop_stream, commits=True),
    _command(rf"{_MAKE}STAGE\s+{_LENIENT}{_NAMED}(?P<options>.*)", stages.create_stage, commits=True),
    _command(rf"DROP\s+STAGE\s+{_IF_THERE}{_NAMED}", _drop_stage, commits=True),
    _command(rf"{_MAKE}FILE\s+FORMAT\s+{_LENIENT}{_NAMED}(?P<options>.*)", stages.create_format, commits=True),
    _command(rf"DROP\s+FILE\s+FORMAT\s+{_IF_THERE}{_NAMED}", _drop_format, commits=True),
    _command(
        rf"{_MAKE}PIPE\s+{_LENIENT}{_NAMED}(?P<options>.*?)\s+AS\s+(?P<definition>COPY\s.*)", pipes.create, commits=True
    ),
    _command(rf"ALTER\s+PIPE\s+(?:IF\s+EXISTS\s+)?{_NAMED}\s+(?P<action>.*)", pipes.alter, commits=True),
    _command(rf"DROP\s+PIPE\s+{_IF_THERE}{_NAMED}", pipes.drop, commits=True),
    _command(rf"COPY\s+INTO\s+{_LOCATION}\s.*", _unload, needs_warehouse=True),
    _command(r"COPY\s+INTO\s+.*", _load, needs_warehouse=True),
    _command(rf"PUT\s+'?file://(?P<path>[^']*?)'?\s+(?P<location>{_LOCATION})(?P<options>.*)", stages.put),
    _command(rf"GET\s+(?P<location>{_LOCATION})\s+'?file://(?P<path>[^'\s]*)'?(?P<options>.*)", stages.get),
    _command(rf"(?:LIST|LS)\s+(?P<location>{_LOCATION})(?P<options>.*)", stages.list_files),
    _command(rf"(?:REMOVE|RM)\s+(?P<location>{_LOCATION})(?P<options>.*)", stages.remove),
    _command(rf"{_MAKE}(?:TRANSIENT\s+)?SCHEMA\s+{_LENIENT}{_NAMED}(?P<options>.*)", _create_schema, commits=True),
    _command(rf"{_MAKE}(?:TRANSIENT\s+)?DATABASE\s+{_LENIENT}{_NAMED}(?P<options>.*)", _create_database, commits=True),
    _command(
        rf"(?:CREATE|DROP|ALTER|DESC(?:RIBE)?)\s+(?:OR\s+(?:REPLACE|ALTER)\s+)?(?:SECURE\s+)?(?:TEMP(?:ORARY)?\s+)?"
        rf"{_RECORDED_KINDS}\s.*",
        _record,
        commits=True,
    ),
    _command(r"(?:GRANT|REVOKE)\s.*", _record, commits=True),
    _command(r"ALTER\s+(?:DATABASE|SCHEMA|STAGE|FILE\s+FORMAT|ACCOUNT)\s.*", _record, commits=True),
    _command(r"COMMENT\s+(?:IF\s+EXISTS\s+)?ON\s+.*", _record, commits=True),
    _command(
        r"ALTER\s+TABLE\s+(?:IF\s+EXISTS\s+)?\S+\s+(?:SET\s+(?!DATA\b)|CLUSTER\s+BY|SUSPEND|RESUME).*",
        _record,
        commits=True,
    ),
    _command(r"CALL\s.*", _record, needs_warehouse=True),
)
