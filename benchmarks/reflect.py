"""Items built from lists and written to DynamoDB, beside awswrangler's writers and boto3's batch writer.

Here: the same items by every writer, in turns, on the sink (where the client is what counts) and on moto (which takes
longer for an item than any client); requests of a delivery in which little or nothing changed.
Not here: DynamoDB itself, which takes items faster than either.
"""

import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from math import ceil
from pathlib import Path
from statistics import median
from typing import NamedTuple
from urllib.error import URLError
from urllib.request import urlopen
from uuid import uuid4

import boto3
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.dynamodb_sink import running_sink, statistics
from benchmarks.figures import Context, Figure, Outcome, Series, Size, median_and_spread
from benchmarks.load import open_pipeline, settings_of, settle, this_hour
from benchmarks.peer import Peer
from kurashiru_pipeline.core.item_columns import content_hashes, encode_lists
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.local.catalogue import make_recipes
from kurashiru_pipeline.local.landing import events_key, pack_lines, pack_table, place
from kurashiru_pipeline.realtime.drain import micro_batches
from kurashiru_pipeline.serving.dynamodb import BATCH_ITEMS, RecommendationTable, connect

TITLE = "items per second into DynamoDB's stand-ins, beside awswrangler and boto3; requests per changed item"

GENERATED_AT = datetime(2026, 11, 23)
EXPIRES_AT = GENERATED_AT + timedelta(days=30)
LIST_LENGTH = 20
CHUNK = 10_000
CHANGED_SHARE = 0.1
RECIPES = 5_000
NO_PEERS = "awswrangler is not there: `make peers`"


@dataclass(frozen=True)
class Scale:
    """Items for each target, and how often each writer has its turn."""

    sink_items: int
    moto_items: int
    repetitions: int
    delivered_users: int


SCALES = {
    Size.SMALL: Scale(5_000, 500, 2, 1_000),
    Size.MEDIUM: Scale(50_000, 5_000, 3, 10_000),
    Size.FULL: Scale(200_000, 20_000, 5, 20_000),
}


@dataclass
class Turns:
    """Wall and processor seconds of a writer, each turn's."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


class Sent(NamedTuple):
    """Items and requests of a delivery, as the sink counts them, and the lists it left out as they had not changed."""

    items: int
    requests: int
    unchanged: int


Writer = Callable[[], tuple[float, float]]
"""Puts all items once; wall and processor seconds of the client."""


def run(context: Context) -> Outcome:
    scale = SCALES[context.size]
    lists = make_lists(scale.sink_items, seed=7)
    encoded = encode_lists(lists, EXPIRES_AT).items
    with ExitStack() as stack:
        context.progress(0.0, "starting the stand-ins")
        sink, moto = stack.enter_context(running_sink()), stack.enter_context(running_moto())
        on_sink = _race(context, sink, lists, encoded, (0.05, 0.5))
        few = scale.moto_items
        on_moto = _race(context, moto, lists.slice(0, few), encoded[:few], (0.5, 0.9))
        context.progress(0.9, "a delivery in which little has changed")
        another = stack.enter_context(running_sink())
        again, changed = _deliveries(context.folder, another, scale.delivered_users)
    is_small = context.size is Size.SMALL
    build, hashing = _cpu_seconds(lambda: _encode(lists)), _cpu_seconds(lambda: _hash(lists))
    send = median(on_sink["kurashiru"].cpu) - build
    per_item = 1e6 / scale.sink_items
    figures = [
        *_ratios(
            on_sink, "", None if is_small else ">= 2", "on the sink; awswrangler begins with ready items, we with lists"
        ),
        *_ratios(on_moto, "_on_moto", None, "moto's own processor time for an item bounds every writer alike"),
        Figure(
            "reflect_items_per_s", *_rates(on_sink["kurashiru"], scale.sink_items), note="on the sink, built and sent"
        ),
        Figure("reflect_items_per_s_on_moto", *_rates(on_moto["kurashiru"], few), note="built and sent"),
        Figure(
            "reflect_cpu_us",
            (build + send) * per_item,
            "us/item",
            goal=None if is_small else "<= 60",
            note="build + send",
        ),
        Figure("reflect_build_cpu_us", build * per_item, "us/item", note="lists to JSON"),
        Figure("reflect_send_cpu_us", send * per_item, "us/item", note="requests of 25: signing, HTTP, answers"),
        Figure("reflect_hash_cpu_us", hashing * per_item, "us/item", note="content hash, in the recommend step"),
        Figure("reflect_boto3_cpu_us", median(on_sink["boto3"].cpu) * per_item, "us/item", note="batch_writer"),
        Figure(
            "reflect_requests_per_changed_item",
            changed.requests / changed.items,
            "requests",
            goal=f"<= {ceil(changed.items / BATCH_ITEMS) / changed.items}",
            note=f"{changed.items} lists changed; {BATCH_ITEMS} items a request, but for the last",
        ),
        Figure(
            "reflect_requests_unchanged",
            float(again.requests),
            "requests",
            goal="<= 0",
            note=f"{again.unchanged} lists made again, as before",
        ),
    ]
    names = list(on_sink)
    rates = {
        "sink": [scale.sink_items / median(turns.wall) for turns in on_sink.values()],
        "moto": [few / median(turns.wall) for turns in on_moto.values()],
    }
    plot = Series("writers", "Items into DynamoDB's stand-ins", "writer", "items/s", names, rates)
    return Outcome(figures, [plot])


def make_lists(users: int, seed: int) -> pa.Table:
    """Twenty recipes each, with reasons that point at what the user did, as the kernel gives them."""
    rng = random.Random(seed)
    recipe_ids, reasons, scores = [], [], []
    for _ in range(users):
        own = [f"{kind}:{_recipe(rng)}" for kind in ("viewed", "viewed", "viewed", "favorited", "cooked", "listed")]
        recipe_ids.append([_recipe(rng) for _ in range(LIST_LENGTH)])
        reasons.append(rng.choices([*own, "taste:time_saving", "ingredient:キャベツ", "popular"], k=LIST_LENGTH))
        scores.append(sorted((rng.random() for _ in range(LIST_LENGTH)), reverse=True))
    return pa.table(
        {
            "user_id": pa.array([f"user{number:08d}" for number in range(users)], pa.string()),
            "version": pa.repeat(pa.scalar(1, pa.int64()), users),
            "recipe_ids": pa.array(recipe_ids, pa.list_(pa.string())),
            "reasons": pa.array(reasons, pa.list_(pa.string())),
            "scores": pa.array(scores, pa.list_(pa.float64())),
            "algorithm": pa.repeat(pa.scalar("20261123T000000"), users),
            "generated_at": pa.repeat(pa.scalar(GENERATED_AT, pa.timestamp("us")), users),
        }
    )


def _recipe(rng: random.Random) -> str:
    return f"recipe{rng.randrange(100_000):06d}"


def _race(
    context: Context, endpoint: str, lists: pa.Table, encoded: list[bytes], share: tuple[float, float]
) -> dict[str, Turns]:
    """Every writer writes every item to a table of its own, in turns."""
    settings = settings_of(context.folder / "race", endpoint)
    client = connect(settings)
    table_of = {name: f"{name}_items" for name in ("kurashiru", "boto3", "peers")}
    tables = {name: RecommendationTable(client, table) for name, table in table_of.items()}
    for table in tables.values():
        table.ensure_exists(create=True)
    plain = [{name: _plain(value) for name, value in orjson.loads(item).items()} for item in encoded]
    target = boto3.resource(
        "dynamodb",
        endpoint_url=endpoint,
        region_name=settings.text("KURASHIRU_AWS_REGION"),
        aws_access_key_id="local",
        aws_secret_access_key="local",
    ).Table(table_of["boto3"])

    def write_with_boto3() -> None:
        with target.batch_writer() as writer:
            for item in plain:
                writer.put_item(Item=item)

    with ExitStack() as stack:
        writers: dict[str, Writer] = {
            "kurashiru": lambda: _timed(lambda: write_lists(tables["kurashiru"], lists)),
            "boto3": lambda: _timed(write_with_boto3),
        }
        if context.peers is not None:
            path = context.folder / f"items-{len(plain)}.jsonl"
            path.write_bytes(b"\n".join(map(orjson.dumps, plain)))
            peer = stack.enter_context(Peer.started(context.peers, "awswrangler_put.py", path, table_of["peers"]))

            def write_with(writer: str) -> tuple[float, float]:
                taken = peer.ask(f"{writer} {endpoint}")
                return taken["seconds"], taken["cpu_seconds"]

            for name in ("put_items", "put_df"):
                writers[f"awswrangler.{name}"] = partial(write_with, name)
        turns = {name: Turns() for name in writers}
        repetitions = SCALES[context.size].repetitions
        begin, end = share
        for repetition in range(repetitions):
            for number, (name, write) in enumerate(writers.items()):
                done = (repetition * len(writers) + number) / (repetitions * len(writers))
                context.progress(begin + (end - begin) * done, f"{len(plain)} items to {endpoint} by {name}")
                wall, cpu = write()
                turns[name].wall.append(wall)
                turns[name].cpu.append(cpu)
    counts = {name: table.count() for name, table in tables.items() if name != "peers" or context.peers is not None}
    assert set(counts.values()) == {len(plain)}, counts
    return turns


def write_lists(table: RecommendationTable, lists: pa.Table) -> None:
    """What the reflect step does with changed lists, without the warehouse."""
    for start in range(0, lists.num_rows, CHUNK):
        encoded = encode_lists(lists.slice(start, CHUNK), EXPIRES_AT)
        report = table.write_encoded(dict(zip(encoded.user_ids, encoded.items, strict=True)))
        assert not report.failed, report.failed[0]


def _plain(value: dict[str, str]) -> str | int:
    """A value as boto3 and awswrangler take it: whole numbers, which both may serialise."""
    return int(value["N"]) if "N" in value else value["S"]


@contextmanager
def running_moto() -> Iterator[str]:
    """Endpoint of a moto server in a process of its own, as `kurashiru up` starts it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    endpoint = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(f"{endpoint}/moto-api/data.json")
            yield endpoint
        finally:
            server.terminate()


def _wait_for(url: str) -> None:
    for _ in range(600):
        try:
            urlopen(url, timeout=5).close()
            return
        except URLError:
            time.sleep(0.1)
    raise TimeoutError(f"nobody answers at {url}")


def _deliveries(folder: Path, endpoint: str, users: int) -> tuple[Sent, Sent]:
    """What is sent when all lists come out as before, and when a tenth of the users state a new taste.

    They are made again, as everybody takes back a favourite that was none.
    """
    settings = settings_of(folder / "lake", endpoint)
    began = this_hour()
    settle(settings, users, RECIPES, began)
    exports = sorted((settings.landing / "users").glob("*.parquet"))
    stated = pa.concat_tables([pq.read_table(path) for path in exports])
    with_list = pc.greater(pc.list_value_length(stated["preferred_tags"]), pa.scalar(0))
    event = {
        "event_name": "recipe_unfavorite",
        "recipe_id": make_recipes(RECIPES).recipe_ids[0],
        "occurred_at": f"{began - timedelta(hours=1):%Y-%m-%dT%H:%M:%S}.000Z",
    }
    lines = [
        orjson.dumps({**event, "event_id": str(uuid4()), "user_id": user_id})
        for user_id in stated.filter(with_list)["user_id"].to_pylist()
    ]
    place(settings.landing, events_key(began.replace(tzinfo=UTC), uuid4()), pack_lines(b"\n".join(lines) + b"\n"))
    again = _delivered(settings, endpoint)

    changed = stated.slice(0, round(users * CHANGED_SHARE))
    columns = {
        "preferred_tags": pa.array([["savings"]] * changed.num_rows, changed["preferred_tags"].type),
        "updated_at": pa.repeat(pa.scalar(began, changed["updated_at"].type), changed.num_rows),
    }
    for name, values in columns.items():
        changed = changed.set_column(changed.schema.get_field_index(name), name, values)
    place(settings.landing, "users/changed.parquet", pack_table(changed))
    return again, _delivered(settings, endpoint)


def _delivered(settings: Settings, endpoint: str) -> Sent:
    before = statistics(endpoint)
    with open_pipeline(settings) as pipeline:
        unchanged = sum(done.delivery.unchanged_count for done in micro_batches(pipeline))
    after = statistics(endpoint)
    return Sent(after.items_put - before.items_put, after.writes - before.writes, unchanged)


def _encode(lists: pa.Table) -> None:
    for start in range(0, lists.num_rows, CHUNK):
        encode_lists(lists.slice(start, CHUNK), EXPIRES_AT)


def _hash(lists: pa.Table) -> None:
    for start in range(0, lists.num_rows, CHUNK):
        part = lists.slice(start, CHUNK)
        content_hashes(part["recipe_ids"], part["reasons"])


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    """Wall seconds, and processor seconds of this process: a stand-in's are not in it."""
    began, began_cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - began, time.process_time() - began_cpu


def _cpu_seconds(work: Callable[[], None]) -> float:
    return median(_timed(work)[1] for _ in range(3))


def _rates(turns: Turns, items: int) -> tuple[float, str, tuple[float, float]]:
    """Value, unit and spread of a writer's items per second."""
    value, spread = median_and_spread([items / seconds for seconds in turns.wall])
    return value, "items/s", spread


def _ratios(race: dict[str, Turns], where: str, goal: str | None, note: str) -> list[Figure]:
    """How many times as many items a second as each other writer, turn by turn."""
    names = {
        "vs_awswrangler": "awswrangler.put_items",
        "vs_awswrangler_put_df": "awswrangler.put_df",
        "vs_boto3": "boto3",
    }
    figures = []
    for name, peer in names.items():
        its_goal = goal if name == "vs_awswrangler" else None
        if peer not in race:
            figures.append(Figure(f"reflect_{name}{where}", None, "ratio", goal=its_goal, note=NO_PEERS))
            continue
        ratios = [theirs / ours for theirs, ours in zip(race[peer].wall, race["kurashiru"].wall, strict=True)]
        value, spread = median_and_spread(ratios)
        figures.append(Figure(f"reflect_{name}{where}", value, "ratio", spread, its_goal, note))
    return figures
