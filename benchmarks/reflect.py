"""Reflect: building items and writing them to DynamoDB, beside boto3's own batch writer on the same server.

Here: one run on a moto server that this program starts and stops; what counts are the ratios within the run.
Not here: DynamoDB itself, which takes items faster than the emulation; compare processor time for that.
"""

import argparse
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import boto3
from boto3.dynamodb.types import TypeDeserializer
from rich.console import Console
from rich.table import Table

from kurashiru_pipeline.core.items import Item, build_item, content_hash, item_bytes
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.serving.dynamodb import RecommendationTable, connect

GENERATED_AT = datetime(2026, 11, 23)
ROUNDS = 3  # of either writer, in turn; the median counts
List = dict[str, list[Any]]


def make_list(rng: random.Random) -> List:
    """Twenty recipes with the mix of reasons that the kernel gives."""
    recipe_ids = [f"recipe{rng.randrange(100_000):06d}" for _ in range(20)]
    kinds = ("viewed:recipe000001", "cooked:recipe000002", "taste:time_saving", "ingredient:キャベツ", "popular")
    scores = sorted((rng.random() for _ in recipe_ids), reverse=True)
    return {"recipe_ids": recipe_ids, "reasons": rng.choices(kinds, k=20), "scores": scores}


def build(user_id: str, ranked: List, version: int) -> Item:
    return build_item(
        user_id,
        **ranked,
        algorithm="20261123T000000",
        version=version,
        generated_at=GENERATED_AT,
        expires_at=GENERATED_AT + timedelta(days=30),
    )


@contextmanager
def moto_server() -> Iterator[str]:
    """Endpoint of a moto server in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://127.0.0.1:{port}"
    try:
        for _ in range(300):
            try:
                urlopen(f"{endpoint}/moto-api/data.json", timeout=5).close()
                break
            except URLError:
                time.sleep(0.1)
        else:
            raise TimeoutError(f"no moto server at {endpoint}")
        yield endpoint
    finally:
        server.terminate()
        server.wait()


def measure(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Result, seconds, and processor seconds of this process (the server's are not in it)."""
    started, started_cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - started, time.process_time() - started_cpu


def run(users: int, changed_share: float) -> dict[str, float]:
    rng = random.Random(7)
    lists = {f"user{number:08d}": make_list(rng) for number in range(users)}
    items, build_seconds, _ = measure(lambda: [build(user, ranked, 1) for user, ranked in lists.items()])
    delivered, hash_seconds, _ = measure(
        lambda: {user: content_hash(ranked["recipe_ids"], ranked["reasons"]) for user, ranked in lists.items()}
    )

    with moto_server() as endpoint:
        settings = Settings.load(Environment.LOCAL, {"KURASHIRU_DYNAMODB_ENDPOINT": endpoint})
        client = connect(settings)
        table, boto3_table = (RecommendationTable(client, name) for name in ("ours", "boto3"))
        resource = boto3.resource(
            "dynamodb",
            endpoint_url=endpoint,
            region_name=settings.text("KURASHIRU_AWS_REGION"),
            aws_access_key_id="local",
            aws_secret_access_key="local",
        ).Table(boto3_table.name)
        decode = TypeDeserializer().deserialize
        plain = [{name: decode(value) for name, value in item.items()} for item in items]

        def write_with_boto3() -> None:
            with resource.batch_writer() as writer:
                for item in plain:
                    writer.put_item(Item=item)

        ours, theirs = [], []
        for each in (table, boto3_table):
            each.ensure_exists(create=True)
        for _ in range(ROUNDS):
            ours.append(measure(lambda: table.write(items)))
            theirs.append(measure(write_with_boto3))
        report = ours[0][0]
        assert (report.written, table.count(), boto3_table.count()) == (users, users, users)
        (_, write_seconds, write_cpu), (_, boto3_seconds, boto3_cpu) = (
            sorted(runs, key=lambda run: run[1])[ROUNDS // 2] for runs in (ours, theirs)
        )

        for user in rng.sample(sorted(lists), round(users * changed_share)):
            lists[user] = make_list(rng)
        changed = [
            build(user, ranked, 2)
            for user, ranked in lists.items()
            if content_hash(ranked["recipe_ids"], ranked["reasons"]) != delivered[user]
        ]
        changed_report = table.write(changed)
        assert changed_report.written == round(users * changed_share)

    return {
        "users": users,
        "item_bytes": sum(map(item_bytes, items)) / users,
        "build_items_per_second": users / build_seconds,
        "hashes_per_second": users / hash_seconds,
        "write_items_per_second": users / write_seconds,
        "boto3_items_per_second": users / boto3_seconds,
        "write_ratio_to_boto3": boto3_seconds / write_seconds,
        "write_cpu_microseconds_per_item": write_cpu / users * 1e6,
        "boto3_cpu_microseconds_per_item": boto3_cpu / users * 1e6,
        "cpu_ratio_to_boto3": boto3_cpu / write_cpu,
        "changed_items": len(changed),
        "requests_per_changed_item": changed_report.requests / len(changed),
        "requests_per_changed_item_sending_all": report.requests / len(changed),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=5000)
    parser.add_argument("--changed", type=float, default=0.1, help="share of lists that change (default 0.1)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    figures = run(arguments.users, arguments.changed)
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    table = Table("figure", "value")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
