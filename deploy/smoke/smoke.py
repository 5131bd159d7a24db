"""Numbered checks of a deployed pipeline, from logging in to an item in DynamoDB, with what was expected and seen.

Here: what only a real Snowflake and a real AWS account can show; deploy/smoke/README.md has the expected output.
Not here: what runs offline (tests/), or the state of the account alone (kurashiru doctor, which is check 1).
Run it from the project's folder: python deploy/smoke/smoke.py --help
"""

import json
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Protocol

import boto3
import click
import pyarrow as pa
from snowflake.connector.errors import ProgrammingError

from kurashiru_pipeline.core.items import Recommendation
from kurashiru_pipeline.deployment import doctor
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.local.landing import (
    RECIPE_SCHEMA,
    USER_SCHEMA,
    events_key,
    export_key,
    pack_lines,
    pack_table,
)
from kurashiru_pipeline.realtime.drain import drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse import open_warehouse
from kurashiru_pipeline.warehouse.snowflake_session import Session

VIEWS = 5
RECIPES = 3
CLOCK_TOLERANCE = timedelta(minutes=2)
_EXPORTS = {"recipes": ("recipe_id", RECIPE_SCHEMA), "users": ("user_id", USER_SCHEMA)}


class FailedError(KurashiruError):
    """A check saw something else than it expected."""


class Bucket(Protocol):
    """The landing place, as far as the checks write to it."""

    def put(self, key: str, content: bytes) -> datetime:
        """Write an object; when the store says that it was modified."""
        ...

    def remove(self, key: str) -> None:
        """Delete an object."""
        ...


class S3Bucket:
    """The bucket of KURASHIRU_LANDING, with the credentials of whoever runs this."""

    def __init__(self, settings: Settings) -> None:
        place = settings.text("KURASHIRU_LANDING").removeprefix("s3://").rstrip("/")
        self._name, _, prefix = place.partition("/")
        self._prefix = f"{prefix}/" if prefix else ""
        self._client = boto3.client("s3", region_name=settings.text("KURASHIRU_AWS_REGION"))

    def put(self, key: str, content: bytes) -> datetime:
        self._client.put_object(Bucket=self._name, Key=f"{self._prefix}{key}", Body=content)
        modified: datetime = self._client.head_object(Bucket=self._name, Key=f"{self._prefix}{key}")["LastModified"]
        return modified

    def remove(self, key: str) -> None:
        self._client.delete_object(Bucket=self._name, Key=f"{self._prefix}{key}")


@dataclass(frozen=True)
class Result:
    """Outcome of one check."""

    number: int
    what: str
    expected: str
    seen: str
    ok: bool


@dataclass
class Smoke:
    """One run: its tag, what it wrote, and what it learned on the way.

    Args:
        wait_seconds: how long Snowpipe, or a deployed sensor, may take.
        is_draining: run the micro-batch in this process; otherwise the deployed sensors have to.
        tag: id of its user, and the beginning of its recipes' ids.
    """

    settings: Settings
    bucket: Bucket
    wait_seconds: float = 300.0
    is_draining: bool = True
    poll_seconds: float = 5.0
    tag: str = field(default_factory=lambda: f"smoke-{uuid.uuid4().hex[:12]}")
    written: list[str] = field(default_factory=list)
    own_recipes: list[str] = field(default_factory=list)
    events_key: str = field(init=False)
    put_at: datetime = field(init=False)
    modified_at: datetime = field(init=False)
    delivered: Recommendation = field(init=False)
    _session: Session | None = None

    def checks(self) -> Iterator[tuple[str, str, Callable[[], str]]]:
        """(what, expected, look) of each check, in order; each builds on those before."""
        yield "kurashiru doctor", "every finding ok", self.examine_account
        yield "least privilege", "the pipeline's role may make and alter no table of raw", self.try_forbidden
        yield "recipes to recommend", f"at least {RECIPES} in staging.recipes, or tagged ones", self.provide_recipes
        yield "file lands", f"{VIEWS} events and a broken line put into the bucket", self.land_events
        yield "Snowpipe loads it", f"{VIEWS + 1} lines, numbered from 1, times in UTC", self.await_lines
        yield "micro-batch", f"{VIEWS} events staged, the broken line rejected as not_json", self.await_batch
        yield "item in DynamoDB", "a list for the tagged user", self.await_item
        yield "versions", "an older version is answered STALE and changes nothing", self.send_older_version
        yield "erasure", "the user's item becomes a tombstone", self.erase
        yield "idle", "streams asked without a warehouse", self.look_idle

    def run(self, report: Callable[[Result], object]) -> list[Result]:
        """All checks, until one fails; what was written into the bucket is removed in any case."""
        results = []
        try:
            for number, (what, expected, look) in enumerate(self.checks(), start=1):
                try:
                    results.append(Result(number, what, expected, look(), True))
                except KurashiruError as error:
                    results.append(Result(number, what, expected, str(error), False))
                report(results[-1])
                if not results[-1].ok:
                    break
        finally:
            for key in self.written:
                self.bucket.remove(key)
            if self._session is not None:
                self._session.close()
        return results

    def examine_account(self) -> str:
        findings = doctor.checks(self.settings)
        broken = [finding for finding in findings if not finding.ok]
        if broken:
            raise FailedError(
                "\n".join(f"{finding.name}: {finding.detail}\n  mend: {finding.mend}" for finding in broken)
            )
        return f"{len(findings)} findings ok"

    def try_forbidden(self) -> str:
        probe = f"raw.{self.tag.replace('-', '_')}"
        for statement in (f"create table {probe} (id integer)", "alter table raw.loaded_files set comment = ''"):
            try:
                self.query(statement)
            except (ConfigurationError, ProgrammingError):
                continue
            if statement.startswith("create"):
                self.query(f"drop table {probe}")
            message = f"allowed: {statement}; compare SHOW GRANTS with deploy/snowflake/migrations/R__grants.sql"
            raise FailedError(message)
        return "create table and alter table refused"

    def provide_recipes(self) -> str:
        [row] = self.query("select count(*) as recipes from staging.recipes where not is_deleted")
        if row["recipes"] >= RECIPES:
            return f"{row['recipes']} recipes"
        self.own_recipes = [f"{self.tag}-{number}" for number in range(RECIPES)]
        self.land_export("recipes", self.own_recipes, is_deleted=False)
        return f"the account had {row['recipes']}; {RECIPES} tagged ones put into the bucket and loaded"

    def land_events(self) -> str:
        recipe_ids = self.own_recipes or [
            row["recipe_id"]
            for row in self.query("select recipe_id from staging.recipes where not is_deleted order by 1 limit 5")
        ]
        lines = [json.dumps(self.view(recipe_ids[number % len(recipe_ids)])) for number in range(VIEWS)]
        self.put_at = datetime.now(tz=UTC)
        self.events_key = events_key(self.put_at, uuid.uuid4())
        self.modified_at = self.put(self.events_key, pack_lines("\n".join([*lines, "not json", ""]).encode()))
        return f"{self.events_key}, modified {self.modified_at:%H:%M:%S} UTC"

    def await_lines(self) -> str:
        rows = self.until(self.loaded_lines, "Snowpipe to load the file")
        numbers = [row["file_row_number"] for row in rows]
        if numbers != list(range(1, VIEWS + 2)):
            raise FailedError(f"rows are numbered {numbers}")
        landed_at, loaded_at = (rows[0][name].replace(tzinfo=UTC) for name in ("landed_at", "loaded_at"))
        if abs(landed_at - self.modified_at) > CLOCK_TOLERANCE:
            raise FailedError(f"METADATA$FILE_LAST_MODIFIED is {landed_at}, the bucket says {self.modified_at}")
        delay = loaded_at - self.modified_at
        if not -CLOCK_TOLERANCE < delay < timedelta(seconds=self.wait_seconds) + CLOCK_TOLERANCE:
            raise FailedError(f"METADATA$START_SCAN_TIME is {loaded_at} for a file of {self.modified_at}")
        return f"{len(rows)} lines; read {delay.total_seconds():.1f} s after the file landed"

    def await_batch(self) -> str:
        self.move_on()
        staged = self.until(self.staged_batches, "the micro-batch to be staged")
        [counts] = self.query(
            f"select (select count(*) from staging.behavior_events where user_id = '{self.tag}') as staged, "
            "(select listagg(reason, ', ') from staging.rejected_events "
            f"where file_name = '{self.events_key}') as reasons"
        )
        if (counts["staged"], counts["reasons"]) != (VIEWS, "not_json"):
            raise FailedError(f"{counts['staged']} staged, rejected: {counts['reasons']}")
        return f"micro-batch {staged[0]['batch_id']}: {VIEWS} staged, 1 rejected as not_json"

    def await_item(self) -> str:
        self.delivered = self.until(self.current_item, "the item to be readable")
        seconds = (datetime.now(tz=UTC) - self.put_at).total_seconds()
        return (
            f"version {self.delivered.version}, {len(self.delivered.entries)} recipes, {self.delivered.algorithm}; "
            f"readable {seconds:.1f} s after the file was put"
        )

    def send_older_version(self) -> str:
        reflect = self.settings.text("KURASHIRU_REFLECT")
        if reflect != "external_function":
            return f"not asked: KURASHIRU_REFLECT={reflect}"
        now, older = int(time.time()), self.delivered.version - 1
        tombstone = f"'deleted', true, 'algorithm', 'none', 'generated_at', {now}, 'expires_at', {now + 3600}"
        [row] = self.query(f"select serving.put_items('{self.tag}', {older}, object_construct({tombstone})) as answer")
        answer = json.loads(row["answer"])
        if answer.get("status") != "STALE" or self.item() != self.delivered:
            raise FailedError(f"answered {answer}; the item is now {self.item()}")
        return "STALE, the item is as it was"

    def erase(self) -> str:
        if self.own_recipes:
            self.land_export("recipes", self.own_recipes, is_deleted=True)
        self.land_export("users", [self.tag], is_deleted=True)
        started = time.monotonic()
        self.move_on()
        self.until(self.is_erased, "the tombstone")
        return f"tombstone {time.monotonic() - started:.1f} s after the export was loaded"

    def look_idle(self) -> str:
        session = Session.open(self.settings, warehouse=None)
        try:
            names = [row["name"] for row in session.dicts("show streams in schema raw", name="smoke")]
            asked = {
                name: session.rows(f"select system$stream_has_data('raw.{name}')", name="smoke")[0][0] for name in names
            }
        finally:
            session.close()
        waiting = [name for name, flag in asked.items() if str(flag).lower() == "true"]
        return f"{len(names)} streams; with data again, from other traffic: {', '.join(waiting) or 'none'}"

    # What the checks are made of.

    def view(self, recipe_id: str) -> dict[str, Any]:
        """One event of the tagged user."""
        return {
            "event_id": str(uuid.uuid4()),
            "event_name": "recipe_view",
            "user_id": self.tag,
            "session_id": self.tag,
            "recipe_id": recipe_id,
            "occurred_at": datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "platform": "web",
            "app_version": "smoke",
            "properties": {"surface": "smoke"},
        }

    def land_export(self, kind: str, ids: list[str], *, is_deleted: bool) -> None:
        """A Parquet export of these ids, with nothing else known of them, loaded by Snowpipe."""
        key, schema = _EXPORTS[kind]
        now = datetime.now(tz=UTC)
        rows = [{key: name, "updated_at": now, "is_deleted": is_deleted} for name in ids]
        file_name = export_key(kind, now, uuid.uuid4())
        self.put(file_name, pack_table(pa.Table.from_pylist(rows, schema=schema)))
        table = f"raw.{kind.removesuffix('s')}_exports"
        self.until(
            partial(self.query, f"select {key} from {table} where file_name = '{file_name}'"),
            f"Snowpipe to load the export of {kind}",
        )

    def put(self, key: str, content: bytes) -> datetime:
        self.written.append(key)
        return self.bucket.put(key, content)

    def query(self, statement: str) -> list[dict[str, Any]]:
        """Rows of a statement, on the pipeline's warehouse."""
        if self._session is None:
            self._session = Session.open(self.settings, warehouse=self.settings.text("KURASHIRU_SNOWFLAKE_WAREHOUSE"))
        return self._session.dicts(statement, name="smoke")

    def until(self, look: Callable[[], Any], what: str) -> Any:
        """The first answer that is not empty.

        Raises:
            FailedError: there was none in time.
        """
        deadline = time.monotonic() + self.wait_seconds
        while not (found := look()):
            if time.monotonic() > deadline:
                raise FailedError(f"waited {self.wait_seconds:.0f} s for {what}; look at: kurashiru doctor")
            time.sleep(self.poll_seconds)
        return found

    def move_on(self) -> None:
        """Run what is pending here, unless the deployed sensors do."""
        if self.is_draining:
            with open_warehouse(self.settings) as warehouse:
                pipeline = MicroBatchPipeline(
                    warehouse, self.settings, lambda: RecommendationTable.from_settings(self.settings)
                )
                drain(pipeline, lambda _step, _tally: None)

    def loaded_lines(self) -> list[dict[str, Any]]:
        return self.query(
            "select file_row_number, landed_at, loaded_at from raw.behavior_events "
            f"where file_name = '{self.events_key}' order by file_row_number"
        )

    def staged_batches(self) -> list[dict[str, Any]]:
        return self.query(f"select distinct batch_id from staging.behavior_events where user_id = '{self.tag}'")

    def item(self) -> Recommendation | None:
        """The user's own item as it stands in the table."""
        return RecommendationTable.from_settings(self.settings).read(self.tag, consistent=True)

    def current_item(self) -> Recommendation | None:
        """The user's own item, if it is one that a reader would serve."""
        found = self.item()
        return found if found is not None and found.is_current(datetime.now(tz=UTC).replace(tzinfo=None)) else None

    def is_erased(self) -> bool:
        found = self.item()
        return found is not None and found.is_deleted


@click.command(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.option("--wait", "wait_seconds", default=300.0, show_default=True, help="Seconds to wait for each stage.")
@click.option("--no-drain", is_flag=True, help="Leave the micro-batch to the deployed sensors, and measure them.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for a machine to read.")
def main(wait_seconds: float, no_drain: bool, as_json: bool) -> None:
    """Check a deployed pipeline for real, number by number, with the settings of the environment (KURASHIRU_ENV).

    It puts tagged files into the landing bucket (a user of its own; recipes only where there are none), waits for
    Snowpipe, micro-batch and DynamoDB, measures, erases its user again and removes its files. Needed: the settings of
    the pipeline, and AWS credentials that may write the landing bucket and read the table.
    """
    settings = Settings.load()
    smoke = Smoke(settings, S3Bucket(settings), wait_seconds=wait_seconds, is_draining=not no_drain)

    def report(result: Result) -> None:
        if not as_json:
            click.echo(f"{result.number:>2} {'ok  ' if result.ok else 'FAIL'} {result.what}")
            click.echo(f"   expected: {result.expected}\n   seen:     {result.seen}")

    results = smoke.run(report)
    if as_json:
        click.echo(json.dumps([asdict(result) for result in results], indent=2))
    if not all(result.ok for result in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
