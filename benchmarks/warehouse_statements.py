"""What a micro-batch, and an hour without one, ask of Snowflake: statements, and how often a warehouse has to wake.

Counted from the statements that the code executes on the stand-in for Snowflake (tests/snowflake), kernel and delivery
in the warehouse, as in production. A warehouse that runs suspends itself 60 seconds after its last query, so the
queries of a micro-batch wake it once.

    python -m benchmarks.warehouse_statements [--json]
"""

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
from moto.server import ThreadedMotoServer
from rich.console import Console
from rich.table import Table

from kurashiru_pipeline.catalog import MICRO_BATCH_JOB
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.realtime.build import build_definitions
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.realtime.resources import PipelineResource
from kurashiru_pipeline.realtime.sensors import PendingWatch
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse import open_warehouse
from tests.engines import SNOWFLAKE, Accounts, make_template
from tests.snowflake.stand_in import Executed, StandIn
from tests.traffic import land

PRODUCTION = Settings.load(Environment.PRODUCTION, {})
SECONDS_AN_HOUR = 3600
_KINDS = ("query", "change", "begin/end", "metadata", "file/table")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="Print JSON for a machine to read.")
    chosen = parser.parse_args()
    figures = count()
    if chosen.json:
        print(json.dumps(figures, indent=2))
        return
    table = Table(title="statements to Snowflake, counted on the stand-in", title_justify="left")
    for column in ("", "statements", "on a warehouse", "wake-ups", *_KINDS):
        table.add_column(column, justify="left" if not column else "right")
    for name, counted in figures.items():
        cells = [counted["statements"], counted["on_warehouse"], counted["wake_ups"], *counted["kinds"].values()]
        table.add_row(name, *map(str, cells))
    Console(width=110).print(table)


def count() -> dict[str, dict[str, Any]]:
    """Figures of one micro-batch, a step at a time, and of an idle hour of the sensor."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        with tempfile.TemporaryDirectory() as folder, Accounts(make_template(Path(folder) / "template")) as accounts:
            _, port = server.get_host_and_port()
            home = {"KURASHIRU_HOME": f"{folder}/home", "KURASHIRU_DYNAMODB_ENDPOINT": f"http://127.0.0.1:{port}"}
            # A run that waits for more asks at every look; in production none waits.
            linger = {"KURASHIRU_LINGER_SECONDS": PRODUCTION.text("KURASHIRU_LINGER_SECONDS")}
            settings = Settings.load(Environment.LOCAL, {**SNOWFLAKE, **home, **linger})
            account = accounts.use(settings)
            land(settings.landing, "first", events=500)
            _micro_batch(account, settings)  # the first one also sends everything to a new table
            land(settings.landing, "second", events=500)
            steps = _micro_batch(account, settings)
            land(settings.landing, "third", events=500)
            run = _run(account, settings)
            return {**steps, "the same, as a run with its checks": run, "idle hour": _idle_hour(account, settings)}
    finally:
        server.stop()


def _micro_batch(account: StandIn, settings: Settings) -> dict[str, dict[str, Any]]:
    begun = len(account.statements)
    steps: dict[str, dict[str, Any]] = {}

    def counted(name: str, call: Callable[[], Any]) -> Any:
        before = len(account.statements)
        outcome = call()
        steps[f"  {name}"] = _figures(account.statements[before:])
        return outcome

    warehouse = counted("open", lambda: open_warehouse(settings))
    pipeline = MicroBatchPipeline(warehouse, settings, lambda: RecommendationTable.from_settings(settings))
    for step in ("load", "stage", "collect", "preprocess", "recommend", "reflect"):
        counted(step, getattr(pipeline, step))
    counted("close", warehouse.close)
    return {"micro-batch": _figures(account.statements[begun:]), **steps}


def _run(account: StandIn, settings: Settings) -> dict[str, Any]:
    before = len(account.statements)
    pipeline = PipelineResource(environment=settings.environment, variables=dict(settings.environ))
    job = build_definitions(settings.environment, pipeline=pipeline).resolve_job_def(MICRO_BATCH_JOB)
    with dg.DagsterInstance.ephemeral() as instance:
        job.execute_in_process(instance=instance)
    return _figures(account.statements[before:])


def _idle_hour(account: StandIn, settings: Settings) -> dict[str, Any]:
    watch = PendingWatch(settings)
    watch.pending()  # the first look asks the ledger, which the micro-batch has just left
    before = len(account.statements)
    for _ in range(int(SECONDS_AN_HOUR / PRODUCTION.seconds("KURASHIRU_POLL_SECONDS"))):
        assert watch.pending() is None
    return _figures(account.statements[before:])


def _figures(statements: list[Executed]) -> dict[str, Any]:
    kinds = Counter(_kind(executed) for executed in statements)
    queries = sum(executed.is_query for executed in statements)
    return {
        "statements": len(statements),
        "on_warehouse": queries,
        "wake_ups": int(queries > 0),
        "kinds": {kind: kinds[kind] for kind in _KINDS},
    }


def _kind(executed: Executed) -> str:
    word = executed.sql.split(None, 1)[0].lower()
    if word in {"begin", "commit", "rollback"}:
        return "begin/end"
    if word in {"insert", "update", "delete", "merge"}:
        return "change"
    if word in {"create", "drop", "put", "copy", "remove", "list"}:
        return "file/table"
    return "query" if executed.is_query else "metadata"


if __name__ == "__main__":
    main()
