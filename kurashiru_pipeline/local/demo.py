"""The demonstration and the playground: the whole stack with traffic in it.

Here: the order of events of `kurashiru demo` and `kurashiru dev`, and the report at the end.
Not here: anything the pipeline does; Dagster's sensor and jobs do the work, this only starts, watches and tells.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dagster_graphql import DagsterGraphQLClient
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from kurashiru_pipeline.catalog import ANALYTICS_JOB
from kurashiru_pipeline.core.quality import Freshness
from kurashiru_pipeline.display import WIDTH, change_view, did
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.local import stack
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.local.visitor import Visit, visit
from kurashiru_pipeline.realtime.lookup import look_up
from kurashiru_pipeline.realtime.micro_batch import batch_freshness
from kurashiru_pipeline.realtime.status import Status, read_status
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse import open_warehouse

USERS = 400
RECIPES = 600
HISTORY_EVENTS = 40_000
FAULTS = {"duplicates": 0.02, "malformed": 0.01, "late": 0.02}
_WARM_UP_SECONDS = 20
_CATCH_UP_SECONDS = 120
_JOB_SECONDS = 300
_SHOWN_USERS = 1
_CANDIDATES = 40
_SHOWN_RECIPES = 5
_SHOWN_TO_VISITOR = 8


@dataclass(frozen=True)
class _Lists:
    """What a user was shown at one moment."""

    user_id: str
    before: dict[str, Any]
    after: dict[str, Any]


def run_demo(settings: Settings, console: Console, *, seconds: int, rate: float) -> None:
    """Start the stack, let traffic flow, have the sensor, dbt and the model do their work, report, stop.

    Args:
        seconds: how long live traffic flows at least.
        rate: lines a second of live traffic.

    Raises:
        KurashiruError: a part did not do its work; says which, and where its log is.
    """
    began = time.monotonic()
    with _stack(settings, console):
        _write_history(settings, console)
        with _live_traffic(settings, rate):
            flowing_since = time.monotonic()
            console.print(f"live traffic: {rate:.0f} events a second, with duplicates, broken and late lines in it")
            _wait_until(
                console,
                settings,
                "the sensor turns landed files into recommendations",
                lambda status: (
                    status["counts"]["delivered_users"] > 0 and time.monotonic() - flowing_since > _WARM_UP_SECONDS
                ),
            )
            with open_warehouse(settings, read_only=True) as warehouse:
                first_live_batch = (warehouse.fetch("last_batch")["batch_id"][0].as_py() or 0) + 1
            before = _lists(settings, _busiest_users(settings))
            _run_analytics(settings, console)
            promoted_at = time.monotonic()
            with console.status("a visitor comes, and comes again"):
                seen = visit(settings)
            console.print(
                f"[green]✓[/] a visitor does {len(seen.today)} things: another list {seen.seconds:.1f} s later"
            )
            _wait_until(
                console,
                settings,
                "the new model reaches users with their next behaviour",
                lambda _: (
                    len(_changed_users(settings, before)) >= _SHOWN_USERS
                    and time.monotonic() - max(promoted_at + _WARM_UP_SECONDS / 2, flowing_since + seconds) > 0
                ),
            )
        _wait_until(console, settings, "the last lines are delivered", lambda status: status["pending"] is None)
        after = _lists(settings, _changed_users(settings, before)[:_SHOWN_USERS])
        with open_warehouse(settings, read_only=True) as warehouse:
            final = read_status(warehouse, settings)
            live = batch_freshness(warehouse, first_live_batch)
        shown = [_Lists(user, before[user], after[user]) for user in after]
        _report(console, settings, final, live=live, users=shown, seen=seen, seconds=time.monotonic() - began)


def run_dev(settings: Settings, console: Console, *, rate: float) -> None:
    """Start the stack and keep traffic flowing until interrupted; then stop what was started."""
    with _stack(settings, console):
        _write_history(settings, console)
        with _live_traffic(settings, rate) as traffic:
            console.print(f"Dagster UI: [bold]{_ui(settings)}[/]   (Ctrl-C stops everything)")
            try:
                while traffic.poll() is None:
                    time.sleep(5)
                    with open_warehouse(settings, read_only=True) as warehouse:
                        console.print(_line(read_status(warehouse, settings)), style="dim")
            except KeyboardInterrupt:
                console.print("stopping")


@contextmanager
def _stack(settings: Settings, console: Console) -> Iterator[None]:
    """The stack for as long as the block runs; one that ran before is used and left running."""
    ran_before = any(process.state == "running" for process in stack.status(settings))

    def say(line: str) -> None:
        console.print(line, highlight=False, style="dim")

    console.rule("[bold]kurashiru_pipeline")
    console.print("starting the local stack (emulated AWS, Dagster) ...")
    stack.up(settings, on_event=say)
    try:
        yield
    finally:
        if not ran_before:
            stack.down(settings, on_event=say)


def _write_history(settings: Settings, console: Console) -> None:
    if (settings.landing / "manifest.json").exists():
        console.print(f"history: what is under {settings.landing} already", soft_wrap=True)
        return
    manifest = simulate(
        settings.landing,
        events=HISTORY_EVENTS,
        users=USERS,
        recipes=RECIPES,
        duplicates=FAULTS["duplicates"],
        malformed=FAULTS["malformed"],
        late=FAULTS["late"],
    )
    console.print(f"history: {manifest['lines']:,} lines of three days landed, with the recipe and user exports")


@contextmanager
def _live_traffic(settings: Settings, rate: float) -> Iterator["subprocess.Popen[bytes]"]:
    """A simulator of its own process that writes until the block ends."""
    command = [sys.executable, "-c", "from kurashiru_pipeline.cli import main; main()", "simulate", "--json"]
    command += ["--rate", str(rate), "--users", str(USERS), "--recipes", str(RECIPES), "--seed", str(time.time_ns())]
    for name, share in FAULTS.items():
        command += [f"--{name}", str(share)]
    log = settings.home / "logs" / "traffic.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        environ = stack.process_environ(settings)
        traffic = subprocess.Popen(command, stdout=output, stderr=output, env=environ, start_new_session=True)
    try:
        yield traffic
        if traffic.poll() is not None:
            message = f"the simulator ended early (exit {traffic.returncode}); its output is in {log}"
            raise KurashiruError(message)
    finally:
        if traffic.poll() is None:
            traffic.send_signal(signal.SIGINT)
        traffic.wait(timeout=30)


def _wait_until(console: Console, settings: Settings, what: str, is_reached: Callable[[Status], bool]) -> None:
    deadline = time.monotonic() + _CATCH_UP_SECONDS
    with console.status(what) as spinner:
        while True:
            with open_warehouse(settings, read_only=True) as warehouse:
                status = read_status(warehouse, settings)
            spinner.update(f"{what}: {_line(status)}")
            if is_reached(status):
                break
            if time.monotonic() > deadline:
                message = (
                    f"gave up waiting: {what} ({_line(status)}); pending: {status['pending']}. "
                    f"Runs and their errors: {settings.home / 'logs'}, or kurashiru up and {_ui(settings)}"
                )
                raise KurashiruError(message)
            time.sleep(1)
    console.print(f"[green]✓[/] {what}: {_line(status)}", highlight=False, soft_wrap=True)


def _run_analytics(settings: Settings, console: Console) -> None:
    """Run dbt and the model in Dagster, as the hourly schedule would."""
    client = DagsterGraphQLClient("127.0.0.1", port_number=settings.integer("KURASHIRU_DAGSTER_PORT"))
    run_id = client.submit_job_execution(ANALYTICS_JOB, repository_location_name="analytics")
    started = time.monotonic()
    what = "dbt builds and tests the marts, the model is trained, evaluated and promoted"
    with console.status(what):
        while (state := client.get_run_status(run_id).value) not in {"SUCCESS", "FAILURE", "CANCELED"}:
            if time.monotonic() - started > _JOB_SECONDS:
                message = f"run {run_id} of {ANALYTICS_JOB} did not end in {_JOB_SECONDS} s; see {_ui(settings)}"
                raise KurashiruError(message)
            time.sleep(0.5)
    if state != "SUCCESS":
        message = f"run {run_id} of {ANALYTICS_JOB} ended as {state}; its log: kurashiru up, then {_ui(settings)}"
        raise KurashiruError(message)
    console.print(f"[green]✓[/] {what} ({time.monotonic() - started:.0f} s)", highlight=False, soft_wrap=True)


def _busiest_users(settings: Settings) -> list[str]:
    with open_warehouse(settings, read_only=True) as warehouse:
        users: list[str] = warehouse.fetch("busiest_users", at_most=_CANDIDATES)["user_id"].to_pylist()  # type: ignore[assignment]
    return users


def _lists(settings: Settings, users: list[str]) -> dict[str, dict[str, Any]]:
    found = {user: look_up(settings, user) for user in users}
    return {user: shown for user, shown in found.items() if not shown["fallback"]}


def _changed_users(settings: Settings, before: dict[str, dict[str, Any]]) -> list[str]:
    """Users whose list comes from another algorithm than before."""
    table = RecommendationTable.from_settings(settings)
    changed = []
    for user, shown in before.items():
        item = table.read(user)
        if item is not None and not item.is_deleted and item.algorithm != shown["algorithm"]:
            changed.append(user)
    return changed


def _report(
    console: Console,
    settings: Settings,
    status: Status,
    *,
    live: Freshness,
    users: list[_Lists],
    seen: Visit,
    seconds: float,
) -> None:
    counts = status["counts"]
    console.rule("[bold]report")
    lines = Table(show_header=False, box=None, padding=(0, 2))
    for name in ("raw", "staged", "duplicates", "rejected"):
        lines.add_row({"raw": "lines landed"}.get(name, name), f"{counts[name]:,}")
    for reason, count in status["rejected_by_reason"].items():
        lines.add_row(f"  {reason}", f"{count:,}", style="dim")
    balanced = counts["raw"] == counts["staged"] + counts["duplicates"] + counts["rejected"]
    lines.add_row("landed = staged + duplicates + rejected", "yes" if balanced else "[bold red]NO[/]")
    console.print(Panel(lines, title="every line accounted for", title_align="left"))

    served = Table(show_header=False, box=None, padding=(0, 2))
    served.add_row("users with recommendations", f"{counts['users_with_recommendations']:,}")
    served.add_row("items in DynamoDB", f"{counts['delivered_users']:,}")
    served.add_row("micro-batches", f"{counts['batches']:,}")
    for quantile, value in (("p50", live.p50), ("p95", live.p95)):
        served.add_row(f"landed -> readable, live traffic, {quantile}", "-" if value is None else f"{value:.1f} s")
    served.add_row("model in service", status["model_version"] or "none")
    console.print(Panel(served, title="served", title_align="left"))

    for shown in users:
        headings = (f"before the model ({shown.before['algorithm']})", f"after ({shown.after['algorithm']})")
        _print_change(console, f"user {shown.user_id}", headings, shown.before, shown.after, _SHOWN_RECIPES)
    did_before, did_since = (
        ", ".join(did(event, seen.titles) for event in events) for events in (seen.yesterday, seen.today)
    )
    _print_change(
        console,
        f"a visitor, {seen.seconds:.1f} s after {len(seen.today)} events landed",
        (f"yesterday they {did_before}", f"now they {did_since}"),
        seen.before,
        seen.after,
        _SHOWN_TO_VISITOR,
    )
    console.print(f"done in {seconds:.0f} s. What was made stays under {settings.home}.", soft_wrap=True)
    console.print(f"Look around:  kurashiru up   then {_ui(settings)}  (lineage, checks, freshness per micro-batch)")
    console.print("Live traffic: make dev")
    if not balanced:
        message = "the accounting does not balance"
        raise KurashiruError(message)


def _print_change(  # noqa: PLR0917 - where, what of whom, and two lists
    console: Console, title: str, headings: tuple[str, str], before: dict[str, Any], after: dict[str, Any], limit: int
) -> None:
    table = change_view(headings, before["recipes"], after["recipes"], limit)
    console.print(Panel(table, title=title, title_align="left"), width=min(console.width, WIDTH))


def _line(status: Status) -> str:
    counts, p95 = status["counts"], status["freshness_seconds"]["p95"]
    fresh = "-" if p95 is None else f"{p95:.1f} s"
    return (
        f"{counts['raw']:,} lines, {counts['staged']:,} staged, {counts['delivered_users']:,} users served, "
        f"freshness p95 {fresh}"
    )


def _ui(settings: Settings) -> str:
    return f"http://127.0.0.1:{settings.text('KURASHIRU_DAGSTER_PORT')}"
