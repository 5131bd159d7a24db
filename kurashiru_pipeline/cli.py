"""`kurashiru`: everything a person types.

Here: arguments, progress, and how results look; --json where a machine may read.
Not here: any work. Imports stand inside the commands, so that each starts as fast as what it needs.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError

if TYPE_CHECKING:
    from kurashiru_pipeline.deployment.scripts import Script
    from kurashiru_pipeline.warehouse.base import MaintenanceReport

OUT = Console()
ERR = Console(stderr=True)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine to read.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """Behaviour events to real-time recipe recommendations, from landed files to DynamoDB.

    \b
    Start with:   kurashiru up && kurashiru simulate --rate 200 --minutes 1
    Or all of it: kurashiru demo
    """


def main() -> None:
    """Entry point: errors raised on purpose are printed as one readable line."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        ERR.print("interrupted")
        sys.exit(130)
    except KurashiruError as error:
        ERR.print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        sys.exit(1)


@cli.command()
@json_option
def env(as_json: bool) -> None:
    """Show every setting of the current environment (KURASHIRU_ENV)."""
    settings = Settings.load()
    if as_json:
        _print_json({name: value for name, value, _ in settings.rows()})
        return
    table = Table(title=f"environment: {settings.environment}", title_justify="left")
    for column in ("variable", "value", "meaning"):
        table.add_column(column, overflow="fold")
    for row in settings.rows():
        table.add_row(*row)
    OUT.print(table)


def _port_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--aws-port", type=int, help="Port of the emulated AWS (KURASHIRU_AWS_PORT).")(command)
    return click.option("--dagster-port", type=int, help="Port of the Dagster UI (KURASHIRU_DAGSTER_PORT).")(command)


def _with_ports(aws_port: int | None, dagster_port: int | None) -> Settings:
    settings = Settings.load()
    given = {"KURASHIRU_AWS_PORT": aws_port, "KURASHIRU_DAGSTER_PORT": dagster_port}
    chosen = {name: str(port) for name, port in given.items() if port is not None}
    return dataclasses.replace(settings, environ={**settings.environ, **chosen})


@cli.command()
@click.option("--no-dagster", is_flag=True, help="Start only the emulated AWS.")
@_port_options
def up(no_dagster: bool, aws_port: int | None, dagster_port: int | None) -> None:
    """Start the local stack: emulated AWS and Dagster with its UI, sensors running."""
    from kurashiru_pipeline.local import stack

    settings = _with_ports(aws_port, dagster_port)
    stack.up(settings, dagster=not no_dagster, on_event=_say)


@cli.command()
def down() -> None:
    """Stop the local stack. State under .kurashiru/ stays; what the emulated AWS held is sent again at the next run."""
    from kurashiru_pipeline.local import stack

    stack.down(Settings.load(), on_event=_say)


@cli.command()
@json_option
def doctor(as_json: bool) -> None:
    """Check the set-up, or the live account where the engine is Snowflake, and say how to mend each finding."""
    settings = Settings.load()
    if settings.text("KURASHIRU_ENGINE") == "snowflake":
        from kurashiru_pipeline.deployment.doctor import checks
    else:
        from kurashiru_pipeline.local.doctor import checks

    findings = checks(settings)
    if as_json:
        _print_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "[green]ok  [/]" if finding.ok else "[red]FAIL[/]"
            OUT.print(f"{mark} [bold]{finding.name}[/]: {finding.detail}", highlight=False, soft_wrap=True)
            if finding.mend:
                OUT.print(f"     mend: {finding.mend}", highlight=False, soft_wrap=True)
    if not all(finding.ok for finding in findings):
        sys.exit(1)


@cli.group()
def deploy() -> None:
    """Make what the pipeline needs in a Snowflake and an AWS account (docs/production.md)."""


_connection_option = click.option(
    "--connection", help="Log in with this entry of the connector's connections.toml [the settings' user and key]."
)


@deploy.command("snowflake")
@click.option("--bootstrap", is_flag=True, help="The one-time part: roles, warehouses, users, integrations.")
@click.option("--again", is_flag=True, help="Run every statement again, to put back objects or grants that are gone.")
@click.option("--dry-run", is_flag=True, help="Print what would run, and run nothing. Works offline.")
@_connection_option
@json_option
def deploy_snowflake(bootstrap: bool, again: bool, dry_run: bool, connection: str | None, as_json: bool) -> None:
    """Bring the account to this version: tables, streams, stages, pipes, functions, grants. May be run again.

    --bootstrap comes before it, once, in the login of an account administrator: --connection NAME, or --dry-run and
    paste the output into a worksheet.
    """
    from kurashiru_pipeline.deployment import scripts

    settings = Settings.load()
    if dry_run:
        _print_scripts(scripts.planned(settings, is_bootstrap=bootstrap), as_json=as_json)
        return
    if bootstrap and connection is None:
        message = "--bootstrap needs --connection NAME, a login that may use ACCOUNTADMIN; or --dry-run to print it"
        raise click.UsageError(message)
    from kurashiru_pipeline.deployment.snowflake import apply_again, apply_bootstrap, apply_migrations

    say = (lambda _: None) if as_json else _say
    if bootstrap and connection is not None:
        trust = apply_bootstrap(settings, connection, say)
        if as_json:
            _print_json(trust)
        else:
            _print_pairs("for the second pass of the AWS stack", trust)
        return
    if again:
        count = apply_again(settings, connection, say)
        if as_json:
            _print_json({"statements": count})
        else:
            OUT.print(f"{count} statements run")
        return
    deployed = apply_migrations(settings, connection, say)
    if as_json:
        _print_json(dataclasses.asdict(deployed))
        return
    for name in deployed.drifted:
        OUT.print(
            f"[yellow]changed since it ran[/]: {name}. A migration runs once: put the file back, and add a new one "
            "(or a setting it names has changed since)",
            soft_wrap=True,
        )
    OUT.print(f"{len(deployed.applied)} scripts applied, {deployed.skipped_count} were applied before")


@deploy.command("functions")
def deploy_functions() -> None:
    """Make the kernel's functions in Snowflake with this version's code and the model in service.

    Promoting a model does it as well; by hand it is for new code, and for the time before the first model.
    """
    from kurashiru_pipeline.deployment import scripts

    settings = Settings.load()
    scripts.names(settings)  # an environment without Snowflake ends here, before seconds of imports
    from kurashiru_pipeline.analytics.snowflake import deploy_functions as make

    version = make(settings)
    OUT.print(f"functions made; model in service: {version or 'none yet (popular, fresh and diverse)'}")


@deploy.command("aws")
@click.option("--code-bucket", required=True, help="Bucket of the region for the function's code; it has to exist.")
@click.option(
    "--trust",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Second pass: what `kurashiru deploy snowflake --bootstrap --json` printed.",
)
@click.option("--dry-run", is_flag=True, help="Print the commands of the AWS CLI, and run none.")
def deploy_aws(code_bucket: str, trust: Path | None, dry_run: bool) -> None:
    """Make or change the AWS stack with the AWS CLI: bucket, Firehose, notifications, table, function, API.

    It takes two passes, since each side has to trust the other: the stack, Snowflake's bootstrap, the stack again with
    --trust.
    """
    import shlex

    from kurashiru_pipeline.deployment import aws

    planned = aws.commands(Settings.load(), code_bucket, aws.read_trust(trust))
    if dry_run:
        for command in planned:
            click.echo(shlex.join(command))
        return
    aws.run(planned, _say)


@cli.command()
@click.option("--events", type=click.IntRange(min=1), help="Write this many lines at once.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Write live: lines a second.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="With --rate: for how long.")
@click.option("--users", type=click.IntRange(min=1), default=2_000, show_default=True)
@click.option("--recipes", type=click.IntRange(min=1), default=1_000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Same seed, same traffic.")
@click.option("--duplicates", type=float, default=0.0, show_default=True, help="Share of lines delivered twice.")
@click.option("--malformed", type=float, default=0.0, show_default=True, help="Share of lines that are broken.")
@click.option("--late", type=float, default=0.0, show_default=True, help="Share of events hours late.")
@click.option("--days", type=float, default=3.0, show_default=True, help="With --events: days the events span.")
@click.option(
    "--until", type=click.DateTime(["%Y-%m-%dT%H:%M:%S"]), help="With --events: end of the span (UTC) [this hour]."
)
@json_option
def simulate(as_json: bool, **arguments: Any) -> None:
    """Write traffic into the landing folder, as Firehose would: recipes, users and behaviour events."""
    from kurashiru_pipeline.local.simulate import simulate as write_traffic

    if (arguments["events"] is None) == (arguments["rate"] is None):
        message = "give either --events N or --rate R [--minutes M]"
        raise click.UsageError(message)
    settings = Settings.load()
    started = time.monotonic()
    with _progress("simulating", is_shown=not as_json) as report:
        manifest = write_traffic(settings.landing, **arguments, on_progress=report)
    seconds = time.monotonic() - started
    if as_json:
        _print_json(manifest)
        return
    lines = manifest["runs"][-1]["lines"]
    OUT.print(
        f"{lines:,} lines in {seconds:.1f} s ({lines / seconds:,.0f} a second) under {settings.landing}; "
        f"true counts in manifest.json",
        soft_wrap=True,
    )


@cli.command()
@click.option("--interactions", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--items", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--speed", type=float, help="Replay live, this many times faster than it happened [all at once].")
@json_option
def replay(interactions: Path, items: Path | None, speed: float | None, as_json: bool) -> None:
    """Land real data of your own: any CSV or Parquet of user, item, timestamp[, action, rating]."""
    from kurashiru_pipeline.local.replay import replay as land

    settings = Settings.load()
    with _progress("replaying", is_shown=not as_json) as report:
        summary = land(
            settings.landing,
            interactions,
            items,
            speed=speed,
            retention_days=settings.integer("KURASHIRU_RETENTION_DAYS"),
            on_progress=report,
        )
    if as_json:
        _print_json(summary)
    else:
        _print_pairs("replayed", summary)


@cli.command()
@click.option("--rescan", is_flag=True, help="Look through every folder, not only those changed since the last load.")
@json_option
def load(rescan: bool, as_json: bool) -> None:
    """Load landed files into the raw table, each exactly once, and go no further."""
    with _pipeline() as pipeline:
        report = pipeline.load(is_rescan=rescan)
    if as_json:
        _print_json(dataclasses.asdict(report))
        return
    again = "kurashiru drain --rescan" if rescan else "kurashiru drain"
    waits = "" if report.is_complete else f"; more wait until these are staged: {again}"
    OUT.print(f"{report.line_count:,} lines of {sum(report.files.values())} files loaded{waits}", soft_wrap=True)
    for name, error in report.failed:
        OUT.print(f"[red]unreadable[/] {name}: {error}", soft_wrap=True)


@cli.command()
@click.option("--rescan", is_flag=True, help="Look through every landing folder once.")
@json_option
def drain(rescan: bool, as_json: bool) -> None:
    """Run micro-batches in this process until nothing is pending."""
    from kurashiru_pipeline.local.stack import ensure_aws
    from kurashiru_pipeline.realtime.drain import Tally
    from kurashiru_pipeline.realtime.drain import drain as run_all

    started = time.monotonic()
    ensure_aws(Settings.load(), on_event=_say if not as_json else lambda _: None)
    with _pipeline() as pipeline, _spinner(is_shown=not as_json) as show:

        def on_progress(step: str, tally: Tally) -> None:
            show(f"micro-batch {tally.batch_count + 1}: {step:<10} {tally.line_count:>12,} lines done")

        tally = run_all(pipeline, on_progress, is_rescan=rescan)
    seconds = time.monotonic() - started
    if as_json:
        _print_json({**dataclasses.asdict(tally), "total_seconds": round(seconds, 3)})
        return
    if not tally.batch_count:
        resent = f"; the table is new: {tally.item_count:,} items sent again" if tally.item_count else ""
        OUT.print(f"nothing pending{resent} ({seconds:.1f} s)")
        return
    OUT.print(
        f"{tally.line_count:,} lines in {tally.batch_count} micro-batches: {tally.staged_count:,} staged, "
        f"{tally.duplicate_count:,} duplicates, {tally.rejected_count:,} rejected; "
        f"{tally.item_count:,} items delivered ({seconds:.1f} s)",
        soft_wrap=True,
    )
    OUT.print("  ".join(f"{step} {spent:.1f} s" for step, spent in tally.seconds.items()), style="dim")
    if tally.failed_file_count:
        OUT.print(f"[red]{tally.failed_file_count} files were unreadable[/]: kurashiru status")


@cli.command()
@json_option
def status(as_json: bool) -> None:
    """Counts, freshness, streams and processes."""
    from kurashiru_pipeline.local import stack
    from kurashiru_pipeline.realtime.status import read_status
    from kurashiru_pipeline.warehouse import open_warehouse

    settings = Settings.load()
    with open_warehouse(settings, read_only=True) as warehouse:
        document = read_status(warehouse, settings)
    processes = [dataclasses.asdict(process) for process in stack.status(settings)]
    if as_json:
        _print_json({**document, "processes": processes})
        return
    counts = Table(title="counts", title_justify="left", show_header=False)
    for name, value in document["counts"].items():
        counts.add_row(name.replace("_", " "), f"{value:,}")
    for reason, count in document["rejected_by_reason"].items():
        counts.add_row(f"  rejected: {reason}", f"{count:,}", style="dim")
    OUT.print(counts)
    fresh = document["freshness_seconds"]
    shown = {name: "-" if value is None else f"{value:.1f} s" for name, value in fresh.items()}
    OUT.print(f"freshness (landed -> readable): p50 {shown['p50']}, p95 {shown['p95']}")
    OUT.print(f"lag: {_lag_in_words(document['lag'])}", soft_wrap=True)
    for stream in document["streams"]:
        state = "[red]stale[/]" if stream["stale"] else ("has data" if stream["has_data"] else "empty")
        OUT.print(f"stream {stream['name']}: {state}{_stream_place(stream)}")
    OUT.print(f"pending: {document['pending'] or 'nothing'}")
    OUT.print(f"model: {document['model_version'] or 'none yet (popular, fresh and diverse)'}")
    if document["challenger_version"] is not None:
        OUT.print(f"canary: {document['challenger_version']} for {document['challenger_share']:.1%} of the users")
    source = document["external_source"]
    if source is not None:
        last = "never asked" if source["last_asked"] is None else "answered {last_answered} of {last_asked} users last"
        OUT.print(f"external source {source['source']}: breaker {source['breaker']}, {last.format(**source)}")
    for process in processes:
        where = f" on http://127.0.0.1:{process['port']} (pid {process['pid']})" if process["pid"] else ""
        OUT.print(f"{process['name']}: {process['state']}{where}", soft_wrap=True)


@cli.command()
@click.argument("user_id")
@click.option("--platform", help="ios, android or web: whose list stands in for a user without one")
@click.option("--tag", help="a value tag whose list stands in, like time_saving")
@json_option
def recommend(user_id: str, platform: str | None, tag: str | None, as_json: bool) -> None:
    """Show a user's recommendations as the app's API would read them from DynamoDB."""
    from kurashiru_pipeline.realtime.lookup import look_up

    settings = Settings.load()
    found = look_up(settings, user_id, platform=platform, tag=tag)
    if as_json:
        _print_json(found)
        return
    of_whom = f"user {user_id}" if not found["fallback"] else f"user {user_id} has no list; showing {found['list']}"
    table = Table(
        title=f"{of_whom} (version {found['version']}, {found['algorithm']}, {found['generated_at']} UTC)",
        title_justify="left",
    )
    for column in ("#", "recipe", "title", "score", "reason"):
        table.add_column(column, justify="right" if column in {"#", "score"} else "left", overflow="fold")
    for rank, entry in enumerate(found["recipes"], start=1):
        title, because = escape(entry["title"]), escape(entry["because"])
        table.add_row(str(rank), entry["recipe_id"], title, f"{entry['score']:.3f}", because)
    OUT.print(table)


@cli.command()
@click.argument("user_id")
@click.option("--limit", type=click.IntRange(min=1), default=10, show_default=True, help="Rows of the longer tables.")
@json_option
def explain(user_id: str, limit: int, as_json: bool) -> None:
    """Say why a user sees what they see: behaviours, candidates, scores, each step, and what was left out."""
    from kurashiru_pipeline.realtime.inquiry import explain_user

    answer = explain_user(Settings.load(), user_id)
    if as_json:
        _print_json(answer.document(limit))
        return
    from kurashiru_pipeline.display import WIDTH, explanation_view

    OUT.print(explanation_view(answer, limit), width=min(OUT.width, WIDTH))


@cli.command()
@click.argument("user_id")
@click.option("--event", "events", multiple=True, required=True, help="What they do, like recipe_view; repeatable.")
@click.option("--recipe", "recipes", multiple=True, help="The recipe of each event but search, in the same order.")
@click.option("--query", "queries", multiple=True, help="The text of each search.")
@click.option(
    "--minutes-ago", type=click.FloatRange(min=0), default=0.0, show_default=True, help="When they did the last of it."
)
@json_option
def whatif(  # noqa: PLR0917 - click passes them by name
    user_id: str,
    events: tuple[str, ...],
    recipes: tuple[str, ...],
    queries: tuple[str, ...],
    minutes_ago: float,
    as_json: bool,
) -> None:
    """Show how a user's list would change if they did something. Nothing is written.

    \b
    kurashiru whatif USER_ID --event recipe_view --recipe RECIPE_ID --event search --query tofu
    """
    from kurashiru_pipeline.realtime.inquiry import hypothetical, what_if

    answer = what_if(Settings.load(), user_id, hypothetical(events, recipes, queries), minutes_ago=minutes_ago)
    if as_json:
        _print_json(answer.document())
        return
    from kurashiru_pipeline.display import WIDTH, what_if_view

    OUT.print(what_if_view(answer), width=min(OUT.width, WIDTH))


@cli.command()
@click.option(
    "--interactions",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV or Parquet (.gz too): user, item, ts (seconds since 1970)[, rating, action].",
)
@click.option(
    "--items",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV or Parquet: item, tag (one row a tag), or item, title, tags (a list, or a|b|c).",
)
@click.option("--from-lake", is_flag=True, help="Evaluate on the pipeline's own behaviours instead of a file.")
@click.option(
    "--since", type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]), help="With --from-lake: from here on (UTC)."
)
@click.option("--min-rating", type=float, help="Ratings from here on count as positive, the others not at all [4].")
@click.option(
    "--protocol",
    "protocols",
    type=click.Choice(["next-item", "top-n"]),
    multiple=True,
    default=("next-item",),
    show_default=True,
    help="A list before every step (near real time), or one a user at the cut (nightly). May be given twice.",
)
@click.option("--models", help="Names, with commas between [all that can run here].")
@click.option("--validation-from", help="Choices are made on what lies between here and --test-from [70 % of events].")
@click.option("--test-from", help="Judged on what happened from here on: a date, or seconds since 1970 [80 %].")
@click.option("--lags", default="0,1,10,60,300", show_default=True, help="Seconds by which the profile comes late.")
@click.option(
    "--queries",
    "most_queries",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    help="About how many lists; users are drawn beyond.",
)
@click.option(
    "--refit-every",
    type=click.IntRange(min=1),
    help="Interactions until models learn anew [six refits in the validation span].",
)
@click.option(
    "--recent",
    type=click.IntRange(min=1),
    help="Behaviours a profile is made from [1,000; with --from-lake KURASHIRU_RECENT_BEHAVIORS].",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Same seed, same users drawn.")
@click.option("--report", type=click.Path(file_okay=False, path_type=Path), help="Folder of the report [a new one].")
@json_option
def evaluate(as_json: bool, from_lake: bool, models: str | None, lags: str, **given: Any) -> None:
    """How good are the recommendations? Replay real behaviours, ask every model, compare.

    \b
    kurashiru evaluate --interactions ratings.csv.gz --items movies.csv
    kurashiru evaluate --from-lake --protocol next-item --protocol top-n
    kurashiru evaluate --interactions r.parquet --items i.csv --models kernel,sequential-rules --json

    The split is one moment for everybody, never random. Every model knows what was before each question, and nothing
    after. The report (HTML, with pictures) is written besides what is printed.

    \b
    Ours:      kernel (as served), kernel-rules (no learned re-ranker), kernel-undiversified
    Plain:     popular, recent-popular, repeat-last, sequential-rules, sar, ease
    Library:   implicit-cosine, implicit-bm25 (pip install 'kurashiru_pipeline[baselines]')
    """
    from kurashiru_pipeline.evaluation.command import Request, run
    from kurashiru_pipeline.evaluation.queries import Protocol

    if from_lake == (given["interactions"] is not None):
        message = "give either --interactions FILE [--items FILE] or --from-lake"
        raise click.UsageError(message)
    if from_lake and (given["items"] is not None or given["min_rating"] is not None):
        message = "--items and --min-rating belong to --interactions FILE, not to --from-lake"
        raise click.UsageError(message)
    if not from_lake and given["since"] is not None:
        message = "--since belongs to --from-lake; cut the file instead"
        raise click.UsageError(message)
    try:
        seconds = tuple(float(lag) for lag in lags.split(","))
    except ValueError:
        seconds = (-1.0,)
    if not all(0 <= lag < 1e9 for lag in seconds):
        message = f"--lags {lags!r} must be numbers of seconds with commas between, such as 0,10,60"
        raise click.UsageError(message)
    given["protocols"] = tuple(Protocol(name) for name in given["protocols"])
    names = tuple(name.strip() for name in models.split(",")) if models else None
    request = Request(**given, models=names, lags=seconds)
    with _estimating() as (note, show):
        outcome = run(request, Settings.load(), note, show)
    ERR.print(f"report: {outcome.page}", highlight=False, soft_wrap=True)
    if as_json:
        _print_json(outcome.documents)
        return
    for data in outcome.descriptions:
        _print_evaluation(data, outcome.documents)
    OUT.print(f"again: {outcome.command}", highlight=False, soft_wrap=True, markup=False)


def _print_evaluation(data: dict[str, Any], documents: list[dict[str, Any]]) -> None:
    """One table a protocol: the figures of --json that fit a line."""
    from rich.box import SIMPLE_HEAD

    shown = [document for document in documents if document["protocol"] == data["protocol"]]
    table = Table(
        title=f"{data['protocol']}: {data['queries']:,} lists for {data['asked_users']:,} users, "
        f"{data['test_from']} to {data['to']}",
        title_justify="left",
        box=SIMPLE_HEAD,
        padding=0,
    )
    table.add_column("model", no_wrap=True)
    for column in ("NDCG@10", "recall", "coverage", "variety", "learn s", "users/s"):
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column) + 1)
    for model in shown:
        low, high = model["ndcg_ci"]
        table.add_row(
            model["model"],
            f"{model['ndcg_at_10']:.4f} ±{(high - low) / 2:.4f}",
            *(f"{model[name]:.3f}" for name in ("recall_at_10", "coverage_at_10", "diversity_at_10")),
            f"{model['fit_seconds']:.1f}",
            f"{model['users_per_second']:,.0f}",
        )
    OUT.print(table)
    for model in shown:
        if len(model.get("lag", ())) > 1:
            steps = "  ".join(f"{lag['seconds']:g} s {lag['ndcg_at_10']:.4f}" for lag in model["lag"])
            OUT.print(f"{model['model']}, the profile late by: {steps}", highlight=False, soft_wrap=True)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8080, show_default=True)
def serve(host: str, port: int) -> None:
    """Serve the read API: GET /recommendations/USER_ID."""
    from kurashiru_pipeline.serving.api import serve as run

    run(Settings.load(), host, port)


@cli.group()
def model() -> None:
    """Model versions: look at them, put one in service, go back, try one on a share of the users."""


@model.command("list")
@json_option
def model_list(as_json: bool) -> None:
    """Versions that are saved, what is in service, and what was last done to each."""
    from kurashiru_pipeline.analytics import analytics_warehouse
    from kurashiru_pipeline.analytics.versions import versions

    found = versions(analytics_warehouse(Settings.load()))
    if as_json:
        _print_json([dataclasses.asdict(version) for version in found])
        return
    table = Table(title="model versions", title_justify="left")
    for column in ("version", "place", "last", "when (UTC)", "why"):
        table.add_column(column, overflow="fold")
    for version in found:
        record = version.record
        done = (record.action.value, f"{record.recorded_at:%Y-%m-%d %H:%M}", record.reason) if record else ("", "", "")
        table.add_row(version.version, version.place or ("" if version.is_saved else "removed"), *done)
    OUT.print(table)


@model.command("show")
@click.argument("version", required=False)
@json_option
def model_show(version: str | None, as_json: bool) -> None:
    """How a version was learned and judged, and what was done to it [the one in service]."""
    from kurashiru_pipeline.analytics import analytics_warehouse
    from kurashiru_pipeline.analytics.versions import described, in_service

    warehouse = analytics_warehouse(Settings.load())
    artifact, records = described(warehouse, version or in_service(warehouse))
    document = {"version": artifact.version, "recipes": len(artifact.recipe_ids), **artifact.metadata}
    if as_json:
        _print_json(document | {"history": [dataclasses.asdict(record) for record in records]})
        return
    shown = {name: value for name, value in document.items() if not isinstance(value, dict)}
    judgement = document.get("judgement", {})
    shown["judged against"] = judgement.get("champion") or "the kernel without a model"
    shown["hold-out queries"] = judgement.get("queries", 0)
    for side in ("challenger", "in_service") if judgement.get("queries") else ():
        for days in ("unseen", "seen"):
            figures = judgement[side][days]
            low, high = figures["ndcg_ci"]
            shown[f"{side}, hold-out {days}"] = (
                f"NDCG@10 {figures['ndcg_at_10']:.4f} ({low:.4f} to {high:.4f}), "
                f"coverage {figures['coverage_at_10']:.3f}, diversity {figures['diversity_at_10']:.3f}"
            )
    _print_pairs(f"model {artifact.version}", shown)
    for record in records:
        OUT.print(f"{record.recorded_at:%Y-%m-%d %H:%M} {record.action.value}: {record.reason}", soft_wrap=True)


@model.command("promote")
@click.argument("version")
def model_promote(version: str) -> None:
    """Put a version in service without asking the gate. The next micro-batch ranks with it."""
    from kurashiru_pipeline.analytics import analytics_warehouse
    from kurashiru_pipeline.analytics.versions import promote_by_hand

    before = promote_by_hand(analytics_warehouse(Settings.load()), version)
    OUT.print("[yellow]by hand: the gate was not asked[/]")
    _say(f"{version} is in service, before it {before or 'none'}. To go back: kurashiru model rollback")


@model.command("rollback")
def model_rollback() -> None:
    """Put the version back in service that was there before. Nothing is promoted by itself afterwards."""
    from kurashiru_pipeline.analytics import analytics_warehouse
    from kurashiru_pipeline.analytics.versions import roll_back

    before, taken_out = roll_back(analytics_warehouse(Settings.load()))
    _say(
        f"{before} is in service again, {taken_out} is out; the next micro-batch ranks with it. "
        f"The gate promotes nothing until you say so: kurashiru model promote {before}"
    )


@model.command("canary")
@click.argument("version", required=False)
@click.option("--share", type=float, help="Share of the users that get its lists, at most 0.5.")
@click.option("--stop", is_flag=True, help="End the canary: all users get the lists of the model in service.")
def model_canary(version: str | None, share: float | None, stop: bool) -> None:
    """Give a share of the users a challenger's lists, and let their clicks decide; or end it."""
    from kurashiru_pipeline.analytics import analytics_warehouse
    from kurashiru_pipeline.analytics.versions import start_canary, stop_canary

    if stop == (version is not None) or (share is None) == (version is not None):
        message = "give either VERSION --share SHARE, or --stop"
        raise click.UsageError(message)
    warehouse = analytics_warehouse(Settings.load())
    if version is not None and share is not None:
        start_canary(warehouse, version, share)
        _say(f"{share:.1%} of the users get the lists of {version} from their next micro-batch on")
        _say("what their clicks say: asset model/canary_decision; to end it: kurashiru model canary --stop")
        return
    canary = stop_canary(warehouse, "by hand")
    _say(f"the canary of {canary.version} is over" if canary else "no canary is running; nothing changed")


@cli.command("reset-stream")
@click.argument("name")
def reset_stream(name: str) -> None:
    """Mend a stale stream: put its unread rows back in front of it."""
    from kurashiru_pipeline.warehouse import open_warehouse

    with open_warehouse(Settings.load(), on_wait=_say_waiting) as warehouse:
        known = {stream.name: stream for stream in warehouse.streams}
        if name not in known:
            message = f"no stream {name!r}; there are: {', '.join(known)}"
            raise click.BadParameter(message)
        count = warehouse.reset_stream(known[name]) if warehouse.stream_status(known[name]).is_stale else None
    if count is None:
        OUT.print(f"stream {name} is not stale; nothing changed")
    else:
        OUT.print(f"stream {name}: {count:,} unread rows put back; stage them with: kurashiru drain", soft_wrap=True)


@cli.command()
@click.option("--lake", type=click.Choice(["realtime", "analytics"]), default="realtime", show_default=True)
@json_option
def maintain(lake: str, as_json: bool) -> None:
    """Merge small files and expire snapshots that no stream needs (the Dagster schedules do it too).

    Micro-batches that wait go first after each small piece of work.
    """
    settings = Settings.load()
    with _spinner(is_shown=not as_json) as show:
        if lake == "realtime":
            from kurashiru_pipeline.warehouse import open_warehouse

            with open_warehouse(settings, on_wait=_say_waiting) as warehouse:
                report = warehouse.maintain(on_progress=show)
        else:
            from kurashiru_pipeline.analytics import analytics_warehouse

            done = analytics_warehouse(settings).maintain(on_wait=_say_waiting, on_progress=show)
            if done is None:
                message = f"{settings.text('KURASHIRU_ENGINE')} keeps this storage in order by itself"
                raise click.UsageError(message)
            report = done
    if as_json:
        _print_json(dataclasses.asdict(report))
    else:
        _print_maintenance(lake, report)


def _print_maintenance(lake: str, report: "MaintenanceReport") -> None:
    table = Table(title=f"upkeep of the {lake} lake", title_justify="left")
    table.add_column("")
    for column in ("before", "after"):
        table.add_column(column, justify="right")
    for name in ("snapshots", "files", "bytes", "catalogue_bytes"):
        before, after = (getattr(report, f"{name}_{when}") for when in ("before", "after"))
        table.add_row(name.replace("_", " "), f"{before:,}", f"{after:,}")
    for of in report.tables:
        if of.files_before != of.files_after:
            table.add_row(f"files of {of.table}", f"{of.files_before:,}", f"{of.files_after:,}")
    OUT.print(table)
    OUT.print(
        f"{report.slices} pieces in {report.seconds:.1f} s, the longest {report.longest_slice_seconds:.2f} s; "
        f"{report.removed_files:,} files removed"
    )


@cli.command()
def prepare() -> None:
    """Make DuckDB's extensions, the compiled kernel and the dbt manifest ready (`make setup` calls this)."""
    from kurashiru_pipeline.analytics.prepare import prepare_manifest
    from kurashiru_pipeline.core import native
    from kurashiru_pipeline.warehouse.ducklake import import_extensions

    import_extensions()
    native.prepare()
    prepare_manifest(Settings.load())


@cli.command()
@click.option("--seconds", type=click.IntRange(min=10), default=60, show_default=True, help="Length of the traffic.")
@click.option("--rate", type=click.FloatRange(min=1), default=300.0, show_default=True, help="Events a second.")
@_port_options
def demo(seconds: int, rate: float, aws_port: int | None, dagster_port: int | None) -> None:
    """Run everything once: stack, traffic with faults in it, sensors, dbt, model; report; stop."""
    from kurashiru_pipeline.local.demo import run_demo

    run_demo(_with_ports(aws_port, dagster_port), OUT, seconds=seconds, rate=rate)


@cli.command()
@click.option("--rate", type=click.FloatRange(min=1), default=200.0, show_default=True, help="Events a second.")
@_port_options
def dev(rate: float, aws_port: int | None, dagster_port: int | None) -> None:
    """Keep the stack open with traffic flowing, until Ctrl-C."""
    from kurashiru_pipeline.local.demo import run_dev

    run_dev(_with_ports(aws_port, dagster_port), OUT, rate=rate)


@cli.command()
@click.option(
    "--size",
    type=click.Choice(["small", "medium", "full"]),
    default="small",
    show_default=True,
    help="small: two minutes, to see that all of it works; medium: half an hour; full: hours, a day's load.",
)
@click.option("--only", metavar="NAME", multiple=True, help="This scenario; may be given again.")
@click.option("--list", "is_list", is_flag=True, help="Show the scenarios, and run none.")
@click.option("--resume", is_flag=True, help="Keep what the last run of this size finished, and go on from there.")
@click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Write a page with tables and plots, and results.json, into this folder.",
)
@click.option("--write-docs", is_flag=True, help="Put the results into docs/performance.md, with their plots.")
@json_option
def bench(
    *,
    size: str,
    only: tuple[str, ...],
    is_list: bool,
    resume: bool,
    report: Path | None,
    write_docs: bool,
    as_json: bool,
) -> None:
    """Measure speed and cost beside a floor or a peer, and hold them against their goals.

    \b
    kurashiru bench                                     all scenarios, small
    kurashiru bench --size full --only day --resume     a whole day's load, in as many sittings as it takes
    kurashiru bench --size medium --report bench        with a page to read in bench/report.md
    make bench ARGS='--size medium --write-docs'        beside peers (dlt, awswrangler, implicit), into the docs

    Each scenario runs in a process and a folder of its own under KURASHIRU_HOME/bench, on data it makes itself; what
    the pipeline keeps there is not touched. A goal that is missed is no failure; the exit status is 1 when a scenario
    broke. Leave the machine alone meanwhile: seconds of a busy machine mean little, and the report tells the load.
    """
    from kurashiru_pipeline.environment import PROJECT_ROOT

    if not (PROJECT_ROOT / "benchmarks" / "runner.py").exists():
        message = "the benchmark is not part of the installed package; run it from a clone: git clone, then make bench"
        raise ConfigurationError(message)
    sys.path.insert(0, str(PROJECT_ROOT))
    from benchmarks.command import list_scenarios, run_scenarios
    from benchmarks.terminal import figures_table

    if is_list:
        list_scenarios(OUT, size, as_json=as_json)
        return
    folder = Settings.load().home / "bench" / size
    document = run_scenarios(
        folder, size, only, is_resumed=resume, report_folder=report, is_for_docs=write_docs, console=ERR
    )
    if as_json:
        _print_json(document)
    else:
        OUT.print(figures_table(document))
    if any(scenario["error"] for scenario in document["scenarios"]):
        sys.exit(1)


@contextmanager
def _pipeline() -> Iterator[Any]:
    from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
    from kurashiru_pipeline.serving.dynamodb import RecommendationTable
    from kurashiru_pipeline.warehouse import open_warehouse

    settings = Settings.load()
    with open_warehouse(settings, on_wait=_say_waiting) as warehouse:
        yield MicroBatchPipeline(warehouse, settings, lambda: RecommendationTable.from_settings(settings))


@contextmanager
def _progress(title: str, *, is_shown: bool) -> Iterator[Callable[[int, int | None], None]]:
    columns = (SpinnerColumn(), TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=ERR, transient=True, disable=not is_shown) as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


@contextmanager
def _estimating() -> Iterator[tuple[Callable[[str], None], Callable[[str, int, int], None]]]:
    """What is being done, how far it is and how long it will take, on stderr while that is a terminal."""
    columns = (SpinnerColumn(), TextColumn("{task.description:<42}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, TimeRemainingColumn(), console=ERR, transient=True, disable=not ERR.is_terminal
    ) as progress:
        task = progress.add_task("reading", total=None)
        yield (
            lambda note: ERR.print(note, highlight=False, soft_wrap=True, markup=False),
            lambda what, done, total: progress.update(task, description=what, completed=done, total=total),
        )


@contextmanager
def _spinner(*, is_shown: bool) -> Iterator[Callable[[str], None]]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=ERR, transient=True, disable=not is_shown) as progress:
        task = progress.add_task("opening the lake")
        yield lambda text: progress.update(task, description=text)


def _lag_in_words(lag: Mapping[str, Any]) -> str:
    """How far behind, and when that will be over."""
    if lag["lines"] == 0:
        return "nothing waits"
    lines = "an unknown number of lines" if lag["lines"] is None else f"about {lag['lines']:,} lines"
    behind = f"{lines}, the oldest for {lag['seconds']:.0f} s"
    if lag["catches_up"] is None:
        return behind
    rates = f"{lag['arrival_per_second']:,.0f} a second arrive, {lag['processing_per_second']:,.0f} can be processed"
    when = f"caught up in about {lag['catch_up_seconds']:.0f} s" if lag["catches_up"] else "[red]never caught up[/]"
    return f"{behind}; {rates}: {when}"


def _stream_place(stream: Mapping[str, Any]) -> str:
    """Where its reader stands, as far as the engine tells: an offset, or the time at which it turns stale."""
    known = [
        f"{title} {stream[name]}"
        for name, title in (("offset", "offset"), ("stale_after", "stale after"))
        if stream.get(name) is not None
    ]
    return f" ({', '.join(known)})" if known else ""


def _print_scripts(planned: list["Script"], *, as_json: bool) -> None:
    """SQL as it is, without colours or wrapping: it is pasted or compared."""
    if as_json:
        _print_json([{"file": script.file, "statements": script.statements} for script in planned])
        return
    for script in planned:
        click.echo(f"-- {script.file}\n{script.sql}\n")


def _say(line: str) -> None:
    OUT.print(line, highlight=False, soft_wrap=True)


def _say_waiting(holder: str) -> None:
    ERR.print(f"waiting: {holder} is writing to the lake", highlight=False, soft_wrap=True)


def _print_pairs(title: str, pairs: dict[str, Any]) -> None:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in pairs.items():
        is_count = isinstance(value, int) and not isinstance(value, bool)
        table.add_row(name.replace("_", " "), f"{value:,}" if is_count else str(value))
    OUT.print(table)


def _print_json(document: Any) -> None:
    def plain(value: Any) -> Any:
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC).isoformat()
        return str(value)

    click.echo(json.dumps(document, ensure_ascii=False, indent=2, default=plain))
