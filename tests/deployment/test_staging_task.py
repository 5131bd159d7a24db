"""The stage step as Snowflake's own task: the procedure does what the runs' step does, and its text is Scripting."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from snowflake.connector.errors import ProgrammingError
from sqlfluff.core import Linter

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM
from kurashiru_pipeline.core.events import REJECT_REASONS
from kurashiru_pipeline.deployment import scripts, staging_task
from kurashiru_pipeline.deployment.snowflake import apply_migrations
from kurashiru_pipeline.deployment.staging_task import VARIABLES, Execute, Fetch, Step
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.local.faults import break_line
from kurashiru_pipeline.warehouse.snowflake import stream_name
from kurashiru_pipeline.warehouse.snowflake_session import _PARAMETERS, LockedError
from tests.deployment.administration import Administration
from tests.deployment.stage_procedure import VARIABLE, UnbalancedError, call, task_session
from tests.snowflake.session import Connection
from tests.warehouse.small_lake import NOW, SnowflakeTables, event_id

TABLES = {
    "staging.behavior_events": "*",
    "staging.rejected_events": "*",
    "ops.batches": "* exclude (staged_at, watermark_at), nullif(watermark_at, staged_at) as watermark_at",
    "ops.batch_stages": "batch_id, stage, row_count",
    "ops.batch_files": "*",
    "ops.batch_erasures": "*",
    "ops.pending_erasures": "*",
    "ops.batch_preferences": "*",
    "ops.pending_preferences": "*",
}


@dataclass
class Loads:
    """What comes between two micro-batches: lines by hour of loading, users to erase, users who said what they like."""

    lines: dict[float, list[str]] = field(default_factory=dict)
    erased: Sequence[str] = ()
    said: Sequence[str] = ()


def line(number: int, hour: float = 0.0, **changes: Any) -> str:
    """A good event that occurred a second before `hour`."""
    occurred_at = NOW + timedelta(hours=hour, seconds=-1)
    good = {
        "event_id": event_id(number),
        "event_name": "recipe_view",
        "user_id": f"u{number % 7}",
        "recipe_id": f"r{number % 5}",
        "occurred_at": f"{occurred_at.isoformat(timespec='microseconds')}Z",
        "properties": {"position": number},
    }
    return json.dumps({**good, **changes})


def broken(number: int) -> str:
    reason = REJECT_REASONS[number % len(REJECT_REASONS)]
    return break_line(line(number).encode(), reason, number).decode("utf-8", "replace")


TRAFFIC = {
    "good": Loads({0: [line(number) for number in range(40)]}),
    "duplicates": Loads(
        {
            0.5: [
                line(1),
                line(100, 0.5),
                line(100, 0.5),
                line(171, 0.5),
                line(0, 0.5, event_id=event_id(171).upper()),
            ],
            0.6: [line(100, 0.6)],
        }
    ),
    "nothing": Loads(),
    "malformed": Loads({0.7: [broken(number) for number in range(30)]}),
    "out of the window": Loads({1.4: [line(1, 1.4), line(100, 1.4)], 1.7: [line(171, 1.7), line(0, 1.7)]}),
    "late and early": Loads({2: [line(200, -5), line(201, 3), line(202, 30), line(203, -24 * 95)]}),
    "unknown name": Loads({2.1: [line(300, 2.1, event_name="recipe_sung")]}),
    "erasures alone": Loads(erased=["u1", "u2", "u1"]),
    "lines and erasures": Loads({3: [line(400, 3), broken(5)]}, erased=["u3"]),
    "preferences alone": Loads(said=["u1", "u2", "u1"]),
    "lines and preferences": Loads({4: [line(500, 4)]}, said=["u4"]),
}


@pytest.fixture
def tables(tmp_path: Path) -> Iterator[SnowflakeTables]:
    """An account that a run has open for writing, as it may while the task works."""
    with SnowflakeTables(tmp_path / "account", tmp_path / "landing") as opened:
        yield opened


@pytest.fixture
def session(tables: SnowflakeTables) -> Connection:
    return task_session(tables.account)


@pytest.fixture
def steps(tables: SnowflakeTables) -> list[Step]:
    return staging_task.steps(tables.settings)


def bring(tables: SnowflakeTables, name: str, loads: Loads) -> None:
    for hour, lines in loads.lines.items():
        tables.insert_lines(lines, file_name=f"{name} {hour}", loaded_at=NOW + timedelta(hours=hour))
    for table, users in (("ops.pending_erasures", loads.erased), ("ops.pending_preferences", loads.said)):
        tables.insert(table, [{"user_id": user, "requested_at": NOW} for user in users])


def state(tables: SnowflakeTables) -> dict[str, list[Any]]:
    """Everything that staging writes, without the time of staging."""
    return {
        table: sorted(map(repr, tables.dicts(f"select {columns} from {table}"))) for table, columns in TABLES.items()
    }


def has_data(tables: SnowflakeTables) -> bool:
    return tables.warehouse.stream_has_data(RAW_EVENTS_STREAM)


# Against the runs' own step


@pytest.mark.stand_in
def test_it_stages_what_the_runs_stage(tmp_path: Path) -> None:
    with (
        SnowflakeTables(tmp_path / "run" / "account", tmp_path / "run" / "landing") as by_run,
        SnowflakeTables(tmp_path / "task" / "account", tmp_path / "task" / "landing") as by_task,
    ):
        steps = staging_task.steps(by_task.settings)
        session = task_session(by_task.account)
        staged = []
        for name, loads in TRAFFIC.items():
            for tables in (by_run, by_task):
                bring(tables, name, loads)
            accounting = by_run.stage()
            batch_id = call(session, steps)
            assert batch_id == (None if accounting is None else accounting.batch_id), name
            if batch_id is not None:
                by_task.deliver(batch_id)
                staged.append(name)
            assert state(by_task) == state(by_run), name
            assert not has_data(by_task)
        assert call(session, steps) is None
        assert state(by_task) == state(by_run)
        assert staged == [name for name in TRAFFIC if name != "nothing"]

        totals = by_task.rows(
            "select sum(duplicate_count), sum(rejected_count), sum(erased_user_count) from ops.batches"
        )
        assert all(total > 0 for total in totals[0])
        reasons = by_task.rows("select distinct reason from staging.rejected_events")
        assert {reason for (reason,) in reasons} == set(REJECT_REASONS)


@pytest.mark.stand_in
def test_times_of_the_ledger_are_those_of_the_call(
    tables: SnowflakeTables, session: Connection, steps: list[Step]
) -> None:
    before = session.now()
    bring(tables, "broken", Loads({0: ["broken"]}))
    call(session, steps)
    [(staged_at, watermark_at)] = tables.rows("select staged_at, watermark_at from ops.batches")
    [(finished_at, seconds)] = tables.rows("select finished_at, seconds from ops.batch_stages")
    assert before <= staged_at == watermark_at <= finished_at <= session.now()
    assert 0 < seconds < 60


@pytest.mark.stand_in
def test_the_settings_of_the_stage_step_are_in_it(tables: SnowflakeTables, session: Connection) -> None:
    changed = {**tables.settings.environ, "KURASHIRU_DEDUPLICATION_HOURS": "5", "KURASHIRU_RETENTION_DAYS": "1"}
    steps = staging_task.steps(Settings.load(environ=changed))
    for hour, lines in ((0, [line(1)]), (4, [line(1, 4), line(2, 4 - 25)])):
        bring(tables, f"{hour}", Loads({hour: lines}))
        call(session, steps)
    assert tables.rows("select duplicate_count, rejected_count from ops.batches order by batch_id") == [(0, 0), (1, 1)]


# The transaction


@pytest.mark.stand_in
def test_a_stream_that_only_says_it_has_data_is_consumed(
    tables: SnowflakeTables, session: Connection, steps: list[Step]
) -> None:
    tables.account.latch_stream("RAW", "STR_BEHAVIOR_EVENTS")
    assert has_data(tables)
    assert call(session, steps) is None
    assert not has_data(tables)
    assert tables.count("ops.batches") == 0


@pytest.mark.stand_in
def test_a_micro_batch_that_does_not_balance_is_rolled_back(
    tables: SnowflakeTables, session: Connection, steps: list[Step]
) -> None:
    bring(tables, "good", Loads({0: [line(1)]}, erased=["u1"]))
    tables.insert("staging.behavior_events", [{"event_id": event_id(9), "batch_id": 1}])
    before = state(tables)
    with pytest.raises(UnbalancedError):
        call(session, steps)
    assert state(tables) == before
    assert has_data(tables)

    tables.rows("delete from staging.behavior_events")
    assert call(session, steps) == 1
    assert tables.rows("select staged_count, erased_user_count from ops.batches") == [(1, 1)]


@pytest.mark.stand_in
def test_wherever_it_fails_nothing_is_staged_and_the_next_call_stages_everything(
    tables: SnowflakeTables, session: Connection, steps: list[Step]
) -> None:
    bring(tables, "good", Loads({0: [line(1), "broken"]}, erased=["u1"]))
    before = state(tables)
    begun = steps.index(Execute("begin transaction"))
    for number, step in enumerate(steps):
        if number > begun and isinstance(step, Execute):
            with pytest.raises(ProgrammingError, match=r"(?i)nowhere"):
                call(session, [*steps[:number], Execute("select * from ops.nowhere"), *steps[number + 1 :]])
            assert state(tables) == before, step
    assert call(session, steps) == 1
    assert state(tables)["ops.pending_erasures"] == []


@pytest.mark.stand_in
def test_a_stale_stream_fails_the_call(tables: SnowflakeTables, session: Connection, steps: list[Step]) -> None:
    bring(tables, "good", Loads({0: [line(1)]}))
    tables.account.expire_stream("RAW", "STR_BEHAVIOR_EVENTS")
    with pytest.raises(ProgrammingError, match="stale"):
        call(session, steps)
    assert tables.count("ops.batches") == 0


@pytest.mark.stand_in
def test_the_task_and_a_run_s_transactions_take_turns(
    tables: SnowflakeTables, session: Connection, steps: list[Step]
) -> None:
    tables.account.longest_lock_wait_seconds = 0.1
    lease = tables.rows("select * from ops.writer_lease")
    bring(tables, "good", Loads({0: [line(1)]}))

    begun = next(number for number, step in enumerate(steps) if "writer_lease" in step.text)
    call(session, steps[: begun + 1])
    with pytest.raises(LockedError):
        tables.warehouse._writer().renew()  # type: ignore[attr-defined]
    session.rollback()

    tables.warehouse._session.rows("begin transaction", name="begin")  # type: ignore[attr-defined]
    tables.warehouse._writer().renew()  # type: ignore[attr-defined]
    with pytest.raises(ProgrammingError, match="lock"):
        call(session, steps)
    tables.warehouse._session.rows("rollback", name="rollback")  # type: ignore[attr-defined]

    assert call(session, steps) == 1
    assert tables.rows("select * from ops.writer_lease") == lease, "touched, not taken"


def test_nothing_in_the_transaction_ends_it(settings: Settings) -> None:
    texts = [step.sql for step in staging_task.steps(settings) if isinstance(step, Execute)]
    begin, commit = texts.index("begin transaction"), texts.index("commit")
    assert commit == len(texts) - 1
    assert {text.split()[0] for text in texts[:begin]} == {"create"}
    assert {text.split()[0] for text in texts[begin + 1 : commit]} == {"insert", "update", "delete"}
    readers = [text for text in texts if stream_name(RAW_EVENTS_STREAM) in text]
    assert len(readers) == 1, "one statement takes all that is unread"


# The text


def violations(sql: str) -> list[str]:
    return [violation.desc() for violation in Linter(dialect="snowflake").parse_string(f"{sql}\n").violations]


@pytest.fixture
def block(settings: Settings) -> str:
    return staging_task.procedure(settings)


def test_the_block_is_parsed(block: str) -> None:
    assert violations(block) == []


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("if (read_count = 0", "if read_count = 0"),
        (" then\n        commit;", "\n        commit;"),
        ("end if;", ""),
        ("staged_at := sysdate();", "staged_at = sysdate();"),
        ("begin transaction;", "begin transaction"),
        ("when other then", "when other"),
        ("group by file_name", "group file_name"),
    ],
)
def test_parsing_finds_what_is_wrong_in_the_block(block: str, right: str, wrong: str) -> None:
    assert right in block
    assert violations(block.replace(right, wrong, 1))


def test_the_block_is_the_steps_in_order(settings: Settings, block: str) -> None:
    def plain(text: str) -> str:
        return " ".join(text.split())

    written = plain(block)
    place = 0
    for step in staging_task.steps(settings):
        place = written.index(plain(step.text), place) + len(plain(step.text))
    assert written[place:] == " return batch_id; exception when other then rollback; raise; end;"


def test_variables_are_declared_and_used(settings: Settings, block: str) -> None:
    named = set(VARIABLE.findall(block))
    assert named <= VARIABLES.keys()
    body = block.partition("begin\n")[2]
    assert [name for name in VARIABLES if not re.search(rf"\b{name}\b", body)] == []
    fetched = [name for step in staging_task.steps(settings) if isinstance(step, Fetch) for name in step.into]
    assert set(fetched) <= VARIABLES.keys()
    assert "$$" not in block
    assert len(block) < 100_000, "what Snowflake recommends as the most"


def test_a_wrong_setting_ends_the_deployment(variables: dict[str, str]) -> None:
    settings = Settings.load(Environment.PRODUCTION, {**variables, "KURASHIRU_RETENTION_DAYS": "0"})
    with pytest.raises(ConfigurationError, match="KURASHIRU_RETENTION_DAYS"):
        scripts.migrations(settings)


# What is deployed


@pytest.fixture
def task(settings: Settings) -> str:
    [found] = [
        statement
        for script in scripts.migrations(settings)
        for statement in script.statements
        if statement.startswith("create task")
    ]
    return found


def test_the_task_is_the_one_that_is_looked_after(settings: Settings, task: str) -> None:
    assert task.startswith(f"create task if not exists {staging_task.TASK}\n")
    database = scripts.names(settings)["database"]
    assert f"when system$stream_has_data('{database}.{stream_name(RAW_EVENTS_STREAM)}')" in task
    assert task.endswith(f"\nas\ncall {database}.ops.stage_micro_batch()")
    assert "warehouse =" not in task
    assert "schedule" not in task


def test_the_task_s_session_is_like_that_of_a_run(task: str) -> None:
    given = dict(re.findall(r"(\w+) = '?(\w+)'?,?$", task, re.MULTILINE))
    for name, value in _PARAMETERS.items():
        if name in {"TIMEZONE", "TIMESTAMP_TYPE_MAPPING", "TIMESTAMP_INPUT_FORMAT", "TRANSACTION_ABORT_ON_ERROR"}:
            assert given[name.lower()] == str(value).replace("True", "true")
    tag = re.search(r"query_tag = '(.*)'", task)
    assert tag is not None
    assert json.loads(tag[1])["statement"] == "stage_micro_batch"


def test_a_changed_setting_replaces_the_procedure_and_nothing_else(
    administered: Administration, settings: Settings
) -> None:
    administered.account.run_script(scripts.bootstrap(settings).sql)
    apply_migrations(settings, None, lambda _: None)
    changed = Settings.load(Environment.PRODUCTION, {**settings.environ, "KURASHIRU_RETENTION_DAYS": "30"})
    assert apply_migrations(changed, None, lambda _: None).applied == ("R__staging_task.sql",)
    procedures = [text for text in administered.account.recorded if text.startswith("create or replace procedure")]
    assert [f"dateadd('day', -{days}, loaded_at)" in text for text, days in zip(procedures, (90, 30), strict=True)] == [
        True,
        True,
    ]


def test_the_deployer_may_run_tasks(settings: Settings) -> None:
    statements = scripts.bootstrap(settings).statements
    deployer = scripts.names(settings)["deployer"]
    assert f"grant execute task on account to role {deployer}" in statements
    assert f"grant execute managed task on account to role {deployer}" in statements
