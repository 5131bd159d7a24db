"""Checks of a live Snowflake account and its DynamoDB table, each with the SQL or command that mends it.

Here: what can be wrong between this installation and the account, seen with the pipeline's own login and role.
Not here: this machine's local stack (local/doctor.py), the quality of the data (asset checks), or mending.
Metadata is read without a warehouse; the last checks need one, and wake it.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from snowflake.connector.errors import Error

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM
from kurashiru_pipeline.core.items import KEY
from kurashiru_pipeline.deployment import scripts, staging_task
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.findings import BrokenError, Check, Finding, examine
from kurashiru_pipeline.serving.dynamodb import connect
from kurashiru_pipeline.warehouse.snowflake import stream_name
from kurashiru_pipeline.warehouse.snowflake_session import Session

CLOCK_TOLERANCE = timedelta(seconds=30)
STALE_MARGIN = timedelta(days=3)
PENDING_PATIENCE = timedelta(minutes=15)
LONGEST_AUTO_SUSPEND_SECONDS = 300
AGAIN = "kurashiru deploy snowflake --again"
BOOTSTRAP = "kurashiru deploy snowflake --bootstrap --dry-run"

_OBJECT_KINDS = {"tables": "table", "streams": "stream"}


@dataclass
class Account:
    """The account as the pipeline's role sees it."""

    settings: Settings
    session: Session
    names: dict[str, str]
    declared: scripts.Declared
    shown: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def show(self, statement: str) -> list[dict[str, Any]]:
        """Rows of a statement by lower-case column; asked once. Needs no warehouse if it is a SHOW."""
        if statement not in self.shown:
            try:
                self.shown[statement] = self.session.dicts(statement, name="doctor")
            except (Error, KurashiruError) as error:
                raise BrokenError(f"{statement}: {error}") from error
        return self.shown[statement]

    def value(self, expression: str) -> Any:
        """A value that the account works out without a warehouse."""
        [row] = self.show(f"select {expression} as answer")
        return row["answer"]

    def query(self, statement: str) -> list[dict[str, Any]]:
        """Rows of a statement that needs the pipeline's warehouse."""
        self.show(f"use warehouse {self.names['pipeline_warehouse']}")
        return self.show(statement)

    def full_name(self, name: str) -> str:
        """`schema.object` as SHOW names it."""
        return f"{self.names['database']}.{name}".upper()

    @cached_property
    def grants(self) -> set[tuple[str, str, str, str]]:
        """(role, privilege, kind, full name) of what the pipeline's two roles were granted, in upper case."""
        found = set()
        for role in (self.names["orchestrator"], self.names["transformer"]):
            for row in self.show(f"show grants to role {role}"):
                name = str(row["name"]).replace('"', "")
                found.add((role.upper(), row["privilege"].upper(), row["granted_on"].upper(), name.upper()))
        return found


def checks(settings: Settings) -> list[Finding]:
    """Look at everything that can be reached, however much is broken."""
    findings = examine(settings, _BEFORE_LOGIN)
    if not findings[0].ok:  # without complete settings nothing can be reached
        return findings[:1]
    try:
        session = Session.open(settings, warehouse=None)
    except KurashiruError as error:
        return [*findings, Finding("login", False, str(error), "docs/security.md: keys")]
    try:
        account = Account(settings, session, scripts.names(settings), scripts.declared(settings))
        return [*findings, *examine(account, _account_checks(account))]
    finally:
        session.close()


def _account_checks(account: Account) -> Iterator[Check[Account]]:
    yield Check("login", _login, "describe user <user>;  -- as an administrator")
    yield Check("clock", _clock, "set the system clock")
    for key in ("pipeline_warehouse", "analytics_warehouse"):
        yield Check(f"warehouse {account.names[key]}", partial(_warehouse, key=key), BOOTSTRAP)
    yield Check("tables", _tables, AGAIN)
    yield Check("stages", _stages, AGAIN)
    for name in account.declared.streams:
        yield Check(f"stream {name}", partial(_stream, name=name), AGAIN)
    for name in account.declared.pipes:
        yield Check(f"pipe {name}", partial(_pipe, name=name), AGAIN)
    yield Check("staging task", _staging_task, AGAIN)
    yield Check("grants", _grants, AGAIN)
    yield Check("kernel functions", _kernel_functions, "kurashiru deploy functions")
    yield Check("migrations", _migrations, "kurashiru deploy snowflake")
    yield Check("writer lease", _writer_lease, AGAIN)
    yield Check("loads", _loads, "docs/operations.md: replay a skipped file")
    yield Check("external function", _external_function, AGAIN)


def _settings(settings: Settings) -> str:
    settings.check()
    scripts.names(settings)
    return f"complete for environment {settings.environment}"


def _dynamodb(settings: Settings) -> str:
    name = settings.text("KURASHIRU_DYNAMODB_TABLE")
    region = settings.text("KURASHIRU_AWS_REGION")
    client = connect(settings)
    try:
        table = client.describe_table(TableName=name)["Table"]
        ttl = client.describe_time_to_live(TableName=name)["TimeToLiveDescription"]
    except (ClientError, BotoCoreError) as error:
        message = f"table {name} in {region}: {error}"
        raise BrokenError(message) from error
    keys = [key["AttributeName"] for key in table["KeySchema"]]
    if table["TableStatus"] not in {"ACTIVE", "UPDATING"} or keys != [KEY]:
        message = f"table {name} is {table['TableStatus']}, with key {', '.join(keys)} instead of {KEY}"
        raise BrokenError(message)
    if ttl.get("TimeToLiveStatus") not in {"ENABLED", "ENABLING"} or ttl.get("AttributeName") != "expires_at":
        message = f"table {name} keeps expired items: no time to live on expires_at"
        raise BrokenError(
            message,
            f"aws dynamodb update-time-to-live --region {region} --table-name {name} "
            "--time-to-live-specification Enabled=true,AttributeName=expires_at",
        )
    return f"table {name} in {region} is {table['TableStatus']}, items expire by expires_at"


def _login(account: Account) -> str:
    user, role = account.value("current_user()"), account.value("current_role()")
    if str(role).upper() != account.names["orchestrator"].upper():
        message = f"user {user} works as {role}, not as {account.names['orchestrator']}"
        raise BrokenError(
            message, f"grant role {account.names['orchestrator']} to user {user};  -- as an administrator"
        )
    warehouse = account.value("current_warehouse()")
    if warehouse is not None:
        message = f"user {user} has default warehouse {warehouse}: looking for work would wake it"
        raise BrokenError(message, f"alter user {user} unset default_warehouse;  -- as an administrator")
    return f"user {user}, role {role}, no default warehouse"


def _clock(account: Account) -> str:
    before = datetime.now(tz=UTC)
    there = _utc(account.value("sysdate()"))
    after = datetime.now(tz=UTC)
    difference = max(before - there, there - after, timedelta())
    if difference > CLOCK_TOLERANCE:
        message = f"the account says {there:%Y-%m-%d %H:%M:%S} UTC, this machine {after:%Y-%m-%d %H:%M:%S}"
        raise BrokenError(message)
    return f"{difference.total_seconds():.1f} s from the account's"


def _warehouse(account: Account, key: str) -> str:
    name = account.names[key]
    role = account.names["orchestrator" if key == "pipeline_warehouse" else "transformer"]
    rows = account.show(f"show warehouses like '{name}'")
    if not rows:
        message = f"{name} is not there, or {role} may not use it"
        mend = f"grant usage on warehouse {name} to role {role};  -- or: {BOOTSTRAP}"
        raise BrokenError(message, mend)
    seconds = rows[0].get("auto_suspend")
    if not seconds or int(seconds) > LONGEST_AUTO_SUSPEND_SECONDS:
        message = f"{name} suspends after {seconds or 'no'} seconds without work; it is paid until then"
        raise BrokenError(message, f"alter warehouse {name} set auto_suspend = 60;")
    return f"{rows[0].get('size')}, suspends after {seconds} s"


def _tables(account: Account) -> str:
    found: dict[str, set[str]] = {}
    for row in account.show(f"show columns in database {account.names['database']}"):
        table = f"{row['schema_name']}.{row['table_name']}".lower()
        found.setdefault(table, set()).add(str(row["column_name"]).lower())
    problems, mends = [], []
    for name, columns in account.declared.tables.items():
        missing = [column for column in columns if column not in found.get(name, ())]
        if name not in found:
            problems.append(f"{name} is not there, or {account.names['orchestrator']} may not see it")
            mends.append(f"undrop table {name};  -- if it was dropped within a day, else: {AGAIN}")
        elif missing:
            problems.append(f"{name} has no column {', '.join(missing)}")
            mends += [f"alter table {name} add column {column} {columns[column]};" for column in missing]
    if problems:
        raise BrokenError("; ".join(problems), "\n".join(mends))
    return f"{len(account.declared.tables)} tables with all their columns"


def _stages(account: Account) -> str:
    wanted = [name for name in account.declared.stages if name.startswith("model.")]  # raw.landing is the deployer's
    rows = account.show("show stages in schema model")
    missing = [name for name in wanted if not _named(rows, name)]
    if missing:
        message = f"{', '.join(missing)}: not there, or {account.names['transformer']} may not read it"
        raise BrokenError(message)
    return ", ".join(wanted)


def _stream(account: Account, name: str) -> str:
    found = _named(account.show(f"show streams in schema {name.partition('.')[0]}"), name)
    if not found:
        message = f"{name} is not there, or {account.names['orchestrator']} may not read it"
        raise BrokenError(message)
    [row] = found
    if str(row["mode"]).upper() != "APPEND_ONLY":
        raise BrokenError(f"{name} is {row['mode']}, not append only: deletions would come out as events")
    if str(row["stale"]).lower() == "true":
        as_owner = (  # only the owner of a stream can make it anew
            f"KURASHIRU_SNOWFLAKE_ROLE={account.names['deployer']} "
            f"KURASHIRU_SNOWFLAKE_USER={account.names['deploy_user']} "
            "KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH=<its key>"
        )
        mend = f"{as_owner} kurashiru reset-stream {name.replace('.str_', '_')}"
        raise BrokenError(f"{name} is stale: unread rows are out of its reach", mend)
    stale_after = row["stale_after"]
    if stale_after is not None and _utc(stale_after) - datetime.now(tz=UTC) < STALE_MARGIN:
        message = f"{name} turns stale at {_utc(stale_after):%Y-%m-%d %H:%M} UTC unless it is read before"
        is_read_by_task = account.settings.text("KURASHIRU_STAGING") == "task" and name == stream_name(
            RAW_EVENTS_STREAM
        )
        raise BrokenError(message, f"alter task {staging_task.TASK} resume;" if is_read_by_task else "kurashiru drain")
    return "append only" if stale_after is None else f"readable until {_utc(stale_after):%Y-%m-%d %H:%M} UTC"


def _pipe(account: Account, name: str) -> str:
    if not _named(account.show(f"show pipes in schema {name.partition('.')[0]}"), name):
        message = f"{name} is not there, or {account.names['orchestrator']} may not monitor it"
        raise BrokenError(message)
    status = json.loads(account.value(f"system$pipe_status('{account.full_name(name)}')"))
    state, pending = status["executionState"], int(status.get("pendingFileCount", 0))
    if state == "PAUSED":
        message = f"{name} is paused, {pending} files wait"
        forced = f"select system$pipe_force_resume('{account.full_name(name)}', 'staleness_check_override');"
        mend = f"alter pipe {name} set pipe_execution_paused = false;  -- if paused for over 14 days: {forced}"
        raise BrokenError(message, mend)
    if state != "RUNNING":
        message = f"{name} is {state}: {status.get('error') or status.get('fault') or 'no reason given'}"
        raise BrokenError(message, "docs/operations.md: recreate a pipe")
    oldest = status.get("oldestFileTimestamp")
    if oldest and datetime.now(tz=UTC) - _utc(oldest) > PENDING_PATIENCE:
        message = f"{name} runs, but {pending} files wait, the oldest since {oldest}"
        raise BrokenError(message, f"select system$pipe_status('{account.full_name(name)}');  -- again in some minutes")
    received, forwarded = status.get("lastReceivedMessageTimestamp"), status.get("lastForwardedMessageTimestamp")
    if received and not forwarded:
        message = f"{name} hears of files, but of none below its path"
        raise BrokenError(message, "compare KURASHIRU_LANDING with the bucket that the SNS topic reports")
    return f"running, {pending} files wait, last load {status.get('lastIngestedTimestamp', 'never')}"


def _staging_task(account: Account) -> str:
    task, staging = staging_task.TASK, account.settings.text("KURASHIRU_STAGING")
    found = _named(account.show(f"show tasks in schema {task.partition('.')[0]}"), task)
    if not found:
        message = f"{task} is not there, or {account.names['orchestrator']} may not monitor it"
        raise BrokenError(message)
    state = str(found[0]["state"]).lower()
    if staging == "run" and state != "suspended":
        message = f"{task} is {state}, but KURASHIRU_STAGING=run: it consumes the stream that the runs consume"
        raise BrokenError(message, f"alter task {task} suspend;")
    if staging == "task" and state != "started":
        reason = found[0]["last_suspended_reason"] or "not resumed yet"
        message = f"{task} is {state} ({reason}), but KURASHIRU_STAGING=task: nobody stages"
        raise BrokenError(message, f"alter task {task} resume;  -- if it failed: docs/operations.md, who stages")
    return f"{task} is {state}, KURASHIRU_STAGING={staging}"


def _grants(account: Account) -> str:
    missing = [grant for grant in _wanted(account) if not _is_held(account, grant)]
    if missing:
        statements = [
            f"grant {grant.privilege} on {grant.kind} {grant.name} to role {grant.role};" for grant in missing[:10]
        ]
        more = f" and {len(missing) - 10} more: {AGAIN}" if len(missing) > 10 else ""
        message = f"{len(missing)} privileges are missing, the first: {missing[0].privilege} on {missing[0].name}"
        raise BrokenError(message, " ".join(statements) + more)
    return f"{len(list(_wanted(account)))} privileges held"


def _wanted(account: Account) -> Iterator[scripts.Grant]:
    """Every single privilege that the scripts give the pipeline's two roles."""
    orchestrator, transformer = account.names["orchestrator"], account.names["transformer"]
    yield scripts.Grant("usage", "", "warehouse", account.names["pipeline_warehouse"], orchestrator)
    yield scripts.Grant("usage", "", "warehouse", account.names["analytics_warehouse"], transformer)
    for grant in account.declared.grants:
        if grant.role not in {orchestrator, transformer} or grant.scope == "future":
            continue
        if not grant.scope:
            yield grant
            continue
        objects = account.declared.tables if grant.kind == "tables" else account.declared.streams
        for name in objects:
            if name.startswith(f"{grant.name}."):
                yield scripts.Grant(grant.privilege, "", _OBJECT_KINDS[grant.kind], name, grant.role)


def _is_held(account: Account, grant: scripts.Grant) -> bool:
    kind, role, privilege = grant.kind.upper(), grant.role.upper(), grant.privilege.upper()
    if kind in {"DATABASE", "WAREHOUSE"}:
        return (role, privilege, kind, grant.name.upper()) in account.grants
    name, _, signature = account.full_name(grant.name).partition("(")
    if signature:  # SHOW GRANTS gives argument names and the result as well
        start = f"{name}("
        return any(held[:3] == (role, privilege, kind) and held[3].startswith(start) for held in account.grants)
    return (role, privilege, kind, name) in account.grants


def _kernel_functions(account: Account) -> str:
    kernel = account.settings.text("KURASHIRU_KERNEL")
    if kernel != "warehouse":
        return f"not needed: KURASHIRU_KERNEL={kernel}"
    found = {str(row["name"]).lower() for row in account.show("show user functions in schema recommendation")}
    missing = {"build_profile", "rank_recipes"} - found
    if missing:
        raise BrokenError(f"recommendation.{', recommendation.'.join(sorted(missing))} are not there")
    return "recommendation.build_profile and recommendation.rank_recipes are there"


def _migrations(account: Account) -> str:
    rows = account.query("select script from ops.change_history where script_type = 'V' and status = 'Success'")
    applied = {str(row["script"]) for row in rows}
    versions = [path.name for path in scripts.paths() if path.name.startswith("V")]
    missing = [name for name in versions if name not in applied]
    if missing:
        raise BrokenError(f"not applied yet: {', '.join(missing)}")
    return f"{len(versions)} versions applied"


def _writer_lease(account: Account) -> str:
    rows = account.query("select holder, renewed_at from ops.writer_lease where name = 'realtime'")
    if len(rows) != 1:
        mend = AGAIN if not rows else f"delete from ops.writer_lease;  -- while no run is going on; then: {AGAIN}"
        raise BrokenError(f"ops.writer_lease has {len(rows)} rows for 'realtime'; it needs one", mend)
    holder = rows[0]["holder"]
    return "free" if holder is None else f"held by {holder}, renewed {rows[0]['renewed_at']}"


def _loads(account: Account) -> str:
    failed = []
    for pipe in account.declared.pipes:
        table = pipe.replace(".pipe_", ".")
        rows = account.query(
            "select file_name, first_error_message from table(information_schema.copy_history("
            f"table_name => '{account.full_name(table)}', start_time => dateadd(hour, -24, current_timestamp()))) "
            "where status in ('Load failed', 'Partially loaded')"
        )
        failed += [f"{row['file_name']}: {row['first_error_message']}" for row in rows]
    if failed:
        raise BrokenError(f"{len(failed)} files were not loaded in the last 24 hours, the first: {failed[0]}")
    return "no file failed in the last 24 hours"


def _external_function(account: Account) -> str:
    reflect = account.settings.text("KURASHIRU_REFLECT")
    if reflect != "external_function":
        return f"not needed: KURASHIRU_REFLECT={reflect}"
    # No user id begins like this one: the function refuses it, and nothing is written.
    [row] = account.query("select serving.put_items('#doctor', 0, object_construct()) as answer")
    answer = json.loads(row["answer"])
    if answer.get("status") != "REFUSED":
        raise BrokenError(f"serving.put_items answered {answer} to a row that it must refuse", "deploy/aws again")
    return "serving.put_items answers, and refuses what is no user"


def _named(rows: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    schema, _, own = name.upper().partition(".")
    return [row for row in rows if (row["schema_name"], row["name"]) == (schema, own)]


def _utc(moment: datetime | str) -> datetime:
    """With its zone; what has none is UTC."""
    value = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


_BEFORE_LOGIN: tuple[Check[Settings], ...] = (
    Check("settings", _settings, "kurashiru env"),
    Check("dynamodb", _dynamodb, "deploy/aws: the stack makes the table; this process needs dynamodb:Describe* on it"),
)
