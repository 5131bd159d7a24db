"""The local stack: emulated AWS and Dagster, as `kurashiru up`, `down` and `status` see them.

Here: which processes there are, how each is started and when it is ready.
Not here: handling of processes in general (processes.py); what the stack is used for.
"""

import http.client
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from kurashiru_pipeline.environment import PROJECT_ROOT, Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.local.processes import (
    HOST,
    ProcessGroup,
    ProcessRecord,
    answers,
    log_tail,
    require_free_port,
)

_READY_SECONDS = 180

_LOCATIONS_QUERY = """
{ workspaceOrError {
    __typename
    ... on PythonError { message }
    ... on Workspace { locationEntries {
        name loadStatus
        locationOrLoadError { __typename ... on PythonError { message causes { message } } } } } } }
"""

OnEvent = Callable[[str], None]


@dataclass(frozen=True)
class Service:
    """One process of the stack, what a person knows it as, and how long it may take to end."""

    name: str
    purpose: str
    grace_seconds: float

    @property
    def port_variable(self) -> str:
        return f"KURASHIRU_{self.name.upper()}_PORT"

    @property
    def port_flag(self) -> str:
        return f"--{self.name}-port"


AWS = Service("aws", "the emulated AWS", grace_seconds=5)
DAGSTER = Service("dagster", "the Dagster UI", grace_seconds=6)


@dataclass(frozen=True)
class ProcessState:
    """One process of the stack as it is now; `state` is running, died or stopped."""

    name: str
    state: str
    pid: int | None
    port: int | None
    started_at: str | None
    log: str | None


def up(settings: Settings, *, dagster: bool = True, on_event: OnEvent) -> None:
    """Start what is not running yet and wait until it is ready.

    Args:
        settings: ports come from KURASHIRU_AWS_PORT (0 = no emulated AWS) and KURASHIRU_DAGSTER_PORT; all its
            variables are handed to the processes.
        dagster: whether Dagster is wanted too.
        on_event: called with one line for each thing that happens.

    Raises:
        ConfigurationError: a port is taken, or the running stack uses another port.
        KurashiruError: a process died, never got ready, or a code location does not load. What this call
            started has been stopped again.
    """
    group = ProcessGroup(settings.home)
    with group.exclusive(), ExitStack() as undo:
        if settings.integer(AWS.port_variable) != 0:
            _up_aws(settings, group, undo, on_event)
        if dagster:
            _up_dagster(settings, group, undo, on_event)
        undo.pop_all()


def ensure_aws(settings: Settings, *, on_event: OnEvent) -> None:
    """Start the emulated AWS if the settings point at it and it does not run; raises what `up` raises."""
    is_local = settings.environment is Environment.LOCAL
    is_emulated = is_local and not settings.is_explicit("KURASHIRU_DYNAMODB_ENDPOINT")
    port = settings.integer(AWS.port_variable)
    if is_emulated and port and not answers(port):
        up(settings, dagster=False, on_event=on_event)


def down(settings: Settings, *, on_event: OnEvent) -> None:
    """Stop everything `up` started from this home, even if nothing records it any more."""
    group = ProcessGroup(settings.home)
    with group.exclusive():
        for service in (DAGSTER, AWS):  # Dagster first: a micro-batch may be delivering
            was_running = group.stop(service.name, grace_seconds=service.grace_seconds) > 0
            on_event(f"{service.name}: {'stopped' if was_running else 'was not running'}")


def status(settings: Settings) -> list[ProcessState]:
    """State of each process of the stack, without waiting for any."""
    group = ProcessGroup(settings.home)
    records = group.records()
    states = []
    for name in (AWS.name, DAGSTER.name):
        record = records.get(name)
        if record is None:
            states.append(ProcessState(name, "stopped", None, None, None, None))
        else:
            state = "running" if group.is_running(name) else "died"
            states.append(ProcessState(name, state, record.pid, record.port, record.started_at, record.log))
    return states


def _up_aws(settings: Settings, group: ProcessGroup, undo: ExitStack, on_event: OnEvent) -> None:
    port = settings.integer(AWS.port_variable)
    record = _running(group, AWS, port, on_event)
    if record is None:
        command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
        record = _start(settings, group, AWS, command, port=port, undo=undo, on_event=on_event)
    group.wait_for_port(record, timeout_seconds=_READY_SECONDS)
    on_event(f"{AWS.name}: ready at http://{HOST}:{port}")


def _up_dagster(settings: Settings, group: ProcessGroup, undo: ExitStack, on_event: OnEvent) -> None:
    port = settings.integer(DAGSTER.port_variable, minimum=1)
    record = _running(group, DAGSTER, port, on_event)
    if record is None:
        dagster_home = settings.home / "dagster"
        dagster_home.mkdir(exist_ok=True)
        write_instance(dagster_home)
        abandoned = fail_abandoned_runs(dagster_home)
        if abandoned:
            on_event(f"{DAGSTER.name}: marked {abandoned} runs of an earlier stack as failed")
        workspace = str(PROJECT_ROOT / "workspace.yaml")
        command = [sys.executable, "-m", "dagster", "dev", "-w", workspace, "-h", HOST, "-p", str(port)]
        record = _start(settings, group, DAGSTER, command, port=port, undo=undo, on_event=on_event)
    _wait_for_locations(group, record)
    on_event(f"{DAGSTER.name}: ready at http://{HOST}:{port}")


def _running(group: ProcessGroup, service: Service, port: int, on_event: OnEvent) -> ProcessRecord | None:
    """The record of a service that runs on `port`; if it does not run, stop what is left of it."""
    if not group.is_running(service.name):
        group.stop(service.name, grace_seconds=service.grace_seconds)
        return None
    record = group.records()[service.name]
    if record.port != port:
        message = (
            f"{service.purpose} already runs on port {record.port}, not {port}; "
            f"run `kurashiru down` first, or export {service.port_variable}={record.port}"
        )
        raise ConfigurationError(message)
    on_event(f"{service.name}: already running")
    return record


def _start(
    settings: Settings,
    group: ProcessGroup,
    service: Service,
    command: list[str],
    *,
    port: int,
    undo: ExitStack,
    on_event: OnEvent,
) -> ProcessRecord:
    require_free_port(port, purpose=service.purpose, variable=service.port_variable, flag=service.port_flag)
    on_event(f"{service.name}: starting")
    undo.callback(group.stop, service.name, grace_seconds=service.grace_seconds)
    return group.start(service.name, command, port=port, environ=process_environ(settings), folder=PROJECT_ROOT)


def write_instance(dagster_home: Path) -> None:
    """Put the project's dagster.yaml into a folder, with its history there, in the storage whose events cost least."""
    storage = {
        "event_log_storage": {
            "module": "kurashiru_pipeline.runtime.event_log",
            "class": "PooledSqliteEventLogStorage",
            "config": {"base_dir": str(dagster_home / "history" / "runs")},
        }
    }
    # JSON is YAML too.
    added = "".join(f"\n{name}: {orjson.dumps(value).decode()}\n" for name, value in storage.items())
    text = (PROJECT_ROOT / "dagster.yaml").read_text(encoding="utf-8")
    (dagster_home / "dagster.yaml").write_text(text + added, encoding="utf-8")


def process_environ(settings: Settings) -> dict[str, str]:
    """The caller's environment with exactly the given settings, and this interpreter's tools found first."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("KURASHIRU_")}
    tools = str(Path(sys.executable).parent)
    return {
        **inherited,
        **settings.environ,
        "KURASHIRU_ENV": settings.environment,
        "KURASHIRU_HOME": str(settings.home),
        "DAGSTER_HOME": str(settings.home / "dagster"),
        "PATH": os.pathsep.join([tools, inherited.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }


def fail_abandoned_runs(dagster_home: Path) -> int:
    """Mark runs as failed that were in progress when their stack got killed.

    Nothing is left to finish them, yet the sensor would wait for them. Call it only while no Dagster process
    of this home is alive.

    Returns:
        How many runs were marked.
    """
    if not (dagster_home / "history").exists():
        return 0
    import dagster as dg  # noqa: PLC0415  only here: `down` and `status` must be quick

    in_progress = dg.RunsFilter(
        statuses=[
            dg.DagsterRunStatus.NOT_STARTED,
            dg.DagsterRunStatus.STARTING,
            dg.DagsterRunStatus.STARTED,
            dg.DagsterRunStatus.CANCELING,
        ]
    )
    with dg.DagsterInstance.from_config(str(dagster_home)) as instance:
        runs = instance.get_runs(in_progress)
        for run in runs:
            instance.report_run_failed(run, "The local stack was stopped while this run was in progress.")
    return len(runs)


def _wait_for_locations(group: ProcessGroup, record: ProcessRecord) -> None:
    """Wait until the web server answers and every code location is loaded.

    Raises:
        KurashiruError: Dagster died, a location failed to load, or the time is over.
    """
    deadline = time.monotonic() + _READY_SECONDS
    while True:
        group.require_running(record)
        entries = _location_entries(record.port)
        if entries is not None:
            _require_no_load_error(entries)
            if entries and all(entry["loadStatus"] == "LOADED" for entry in entries):
                return
        if time.monotonic() > deadline:
            message = f"Dagster did not load its code locations within {_READY_SECONDS} s"
            raise KurashiruError(f"{message}\n{log_tail(record)}")
        time.sleep(0.25)


def _location_entries(port: int) -> list[dict[str, Any]] | None:
    """The code locations as the web server reports them, or None while it does not answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=10)
    try:
        connection.request(
            "POST",
            "/graphql",
            orjson.dumps({"query": _LOCATIONS_QUERY}),
            {"Content-Type": "application/json"},
        )
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    if response.status != http.HTTPStatus.OK:
        answer = body[:500].decode(errors="replace")
        message = f"the Dagster UI on port {port} answers with status {response.status}: {answer}"
        raise KurashiruError(message)
    workspace: dict[str, Any] = orjson.loads(body)["data"]["workspaceOrError"]
    if workspace["__typename"] != "Workspace":
        raise KurashiruError(f"Dagster cannot load workspace.yaml: {workspace['message']}")
    entries: list[dict[str, Any]] = workspace["locationEntries"]
    return entries


def _require_no_load_error(entries: list[dict[str, Any]]) -> None:
    for entry in entries:
        outcome = entry["locationOrLoadError"]
        if outcome is not None and outcome["__typename"] == "PythonError":
            cause = outcome["causes"][-1] if outcome["causes"] else outcome  # the last is the first that happened
            message = f"code location {entry['name']} does not load: {cause['message'].strip()}"
            raise KurashiruError(message)
