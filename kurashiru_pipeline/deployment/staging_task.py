"""The stage step as a stored procedure, for Snowflake's own serverless task: the same SQL files, the same order.

Here: the procedure's steps, as data that a test can walk through, and their text in Snowflake Scripting.
Not here: the stage step of the runs, which this has to equal (realtime/micro_batch.py), the SQL files, or procedure and
task themselves (deploy/snowflake/migrations/R__staging_task.sql).

Not run by Snowflake yet: tests/deployment/test_staging_task.py walks through the steps on the stand-in for an account.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import indent
from typing import Final

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM, Stage
from kurashiru_pipeline.core.events import EVENT_NAMES
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.warehouse.base import Parameter
from kurashiru_pipeline.warehouse.snowflake import SnowflakeWarehouse, stream_name
from kurashiru_pipeline.warehouse.statements import Statement, Variable, render

TASK: Final = "ops.task_stage_micro_batch"
"""The task that calls the procedure, in R__staging_task.sql."""

VARIABLES: Final[Mapping[str, str]] = {
    "started_at": "timestamp_ntz",
    "read_count": "number",
    "rejected_count": "number",
    "loaded_from": "timestamp_ntz",
    "latest_occurred_at": "timestamp_ntz",
    "erasure_count": "number",
    "preference_count": "number",
    "last_batch_id": "number",
    "last_watermark_at": "timestamp_ntz",
    "staged_at": "timestamp_ntz",
    "batch_id": "number",
    "watermark_at": "timestamp_ntz",
    "duplicates_from": "timestamp_ntz",
    "staged_count": "number",
    "duplicate_count": "number",
    "finished_at": "timestamp_ntz",
    "seconds": "double",
}
"""Variables of the procedure and their types; all are null at first."""

RESULT: Final = "batch_id"
"""What the procedure returns: the micro-batch that it staged, null if there was nothing to stage."""

UNBALANCED: Final = "the micro-batch does not balance, so it was rolled back"
"""Message of the exception that a failed check raises."""


@dataclass(frozen=True)
class Execute:
    """A statement of SQL; `:name` is a variable."""

    sql: str

    @property
    def text(self) -> str:
        return f"{self.sql};"


@dataclass(frozen=True)
class Fetch:
    """The one row of a query into variables: `into` has a column for each."""

    query: str
    into: Mapping[str, str]

    @property
    def text(self) -> str:
        variables = ", ".join(f":{variable}" for variable in self.into)
        query = indent(self.query, _INDENT)
        return f"select {', '.join(self.into.values())}\ninto {variables}\nfrom (\n{query}\n);"


@dataclass(frozen=True)
class Assign:
    """A variable's new value; an expression names variables as they are, without a colon."""

    variable: str
    expression: str

    @property
    def text(self) -> str:
        return f"{self.variable} := {self.expression};"


@dataclass(frozen=True)
class Stop:
    """Commit and return null if `condition` holds."""

    condition: str

    @property
    def text(self) -> str:
        return f"if ({self.condition}) then\n{_INDENT}commit;\n{_INDENT}return null;\nend if;"


@dataclass(frozen=True)
class Check:
    """Raise UNBALANCED, and so roll back, if `fault` holds."""

    fault: str

    @property
    def text(self) -> str:
        return f"if ({self.fault}) then\n{_INDENT}raise unbalanced;\nend if;"


Step = Execute | Fetch | Assign | Stop | Check
_INDENT: Final = "    "


def steps(settings: Settings) -> list[Step]:
    """What the procedure does: MicroBatchPipeline.stage, a statement or an assignment a step.

    The transaction's first statement touches the row that every transaction of the runs begins with (WriterLease), and
    leaves it as it is: so they take turns, and no user who asks to be erased meanwhile is missed.

    Raises:
        ConfigurationError: a setting of the stage step is wrong.
    """
    retention_days = settings.integer("KURASHIRU_RETENTION_DAYS", minimum=1)
    max_users = settings.integer("KURASHIRU_MAX_BATCH_USERS", minimum=1)
    window_hours = settings.integer("KURASHIRU_DEDUPLICATION_HOURS")
    batch_id = Variable("batch_id")
    return [
        Assign("started_at", "sysdate()"),
        *_run("stage_work_tables"),
        Execute("begin transaction"),
        Execute("update ops.writer_lease set renewed_at = renewed_at where name = 'realtime'"),
        *_run("stage_parse", retention_days=retention_days),
        _fetch("stage_summary", "read_count", "rejected_count", "loaded_from", "latest_occurred_at"),
        _fetch("pending_users", "erasure_count", "preference_count"),
        # Committed all the same: a stream that said it has data goes on saying so until it is consumed.
        Stop("read_count = 0 and erasure_count = 0 and preference_count = 0"),
        Fetch(_query("last_batch"), {"last_batch_id": "batch_id", "last_watermark_at": "watermark_at"}),
        Assign("staged_at", "sysdate()"),
        Assign("batch_id", "coalesce(last_batch_id, 0) + 1"),
        # The later of the two; of one alone, that one.
        Assign(
            "watermark_at",
            "greatest(coalesce(last_watermark_at, latest_occurred_at, staged_at), "
            "coalesce(latest_occurred_at, last_watermark_at, staged_at))",
        ),
        Assign("duplicates_from", f"dateadd('hour', -{window_hours}, coalesce(loaded_from, staged_at))"),
        *_run("stage_repeats", duplicates_from=Variable("duplicates_from")),
        *_run("stage_accept", batch_id=batch_id),
        *_run("stage_users", batch_id=batch_id, max_users=max_users),
        *_run(
            "stage_ledger",
            batch_id=batch_id,
            staged_at=Variable("staged_at"),
            watermark_at=Variable("watermark_at"),
            read_count=Variable("read_count"),
            rejected_count=Variable("rejected_count"),
            event_names=EVENT_NAMES,
        ),
        _fetch("batch_ledger", "read_count", "staged_count", "duplicate_count", "rejected_count", batch_id=batch_id),
        Check("read_count <> staged_count + duplicate_count + rejected_count or duplicate_count < 0"),
        Assign("finished_at", "sysdate()"),
        Assign("seconds", "datediff('microsecond', started_at, finished_at) / 1e6"),
        *_run(
            "finish_stage",
            batch_id=batch_id,
            stage=Stage.STAGE,
            finished_at=Variable("finished_at"),
            seconds=Variable("seconds"),
            row_count=Variable("staged_count"),
        ),
        Execute("commit"),
    ]


def procedure(settings: Settings) -> str:
    """The procedure's block in Snowflake Scripting, without the delimiters around it.

    Raises:
        ConfigurationError: a setting of the stage step is wrong.
    """
    declared = [f"{name} {kind} default null;" for name, kind in VARIABLES.items()]
    return "\n".join(
        [
            "declare",
            *(f"{_INDENT}{declaration}" for declaration in declared),
            f"{_INDENT}unbalanced exception (-20001, '{UNBALANCED}');",
            "begin",
            *(indent(step.text, _INDENT) for step in steps(settings)),
            f"{_INDENT}return {RESULT};",
            "exception",
            f"{_INDENT}when other then",
            f"{_INDENT * 2}rollback;",
            f"{_INDENT * 2}raise;",
            "end;",
        ]
    )


def _run(script: str, **parameters: Parameter | Variable) -> list[Step]:
    return [Execute(statement.sql) for statement in _render(script, parameters)]


def _fetch(script: str, *columns: str, **parameters: Parameter | Variable) -> Step:
    """Columns into variables of the same names."""
    return Fetch(_query(script, **parameters), {column: column for column in columns})


def _query(script: str, **parameters: Parameter | Variable) -> str:
    [statement] = _render(script, parameters)
    return statement.sql


def _render(script: str, parameters: Mapping[str, Parameter | Variable]) -> list[Statement]:
    return render(script, engine=SnowflakeWarehouse.engine, stream=_stream, parameters=parameters)


def _stream(name: str) -> str:
    assert name == RAW_EVENTS_STREAM.name
    return stream_name(RAW_EVENTS_STREAM)
