"""A table whose client can be made to fail before the wire, and time that only the code moves."""

import json
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from botocore.awsrequest import AWSResponse

from kurashiru_pipeline.core.items import Item, build_item
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.serving.dynamodb import BATCH_ITEMS, RecommendationTable, connect

NOW = datetime(2026, 11, 23, 9, 30)
TABLE = "recommendations"

Answer = tuple[int, dict[str, Any]]
Rule = Callable[[int, dict[str, Any]], Answer | Exception | None]
"""(number of this call from 1, request) -> answer or error instead of DynamoDB's; None lets the call through."""


def error(status: int, code: str) -> Answer:
    return status, {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": f"injected {code}"}


THROTTLED = error(400, "ProvisionedThroughputExceededException")


def make_item(user: int | str, version: int = 1) -> Item:
    return build_item(
        user if isinstance(user, str) else f"user{user}",
        recipe_ids=["r1", "r2"],
        reasons=["viewed:r9", "popular"],
        scores=[0.5, 0.25],
        algorithm="popular",
        version=version,
        generated_at=NOW,
        expires_at=NOW + timedelta(days=30),
    )


def users_of(request: dict[str, Any]) -> list[str]:
    """Users whose items a PutItem or BatchWriteItem request puts."""
    if "Item" in request:
        return [request["Item"]["user_id"]["S"]]
    [puts] = request["RequestItems"].values()
    return [put["PutRequest"]["Item"]["user_id"]["S"] for put in puts]


class _Body:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def stream(self, **_: Any) -> Iterator[bytes]:
        yield self._content


class Faults:
    """Answers calls of a client before they reach the wire, and counts what it lets through."""

    def __init__(self, client: Any) -> None:
        self._lock = threading.Lock()
        client.meta.events.register("before-send.dynamodb", self._handle)
        self.clear()

    def clear(self) -> None:
        """Forget all rules and counts."""
        self._rules: dict[str, Rule] = {}
        self.calls: Counter[str] = Counter()
        self.puts: Counter[str] = Counter()
        self.batch_sizes: list[int] = []

    def on(self, operation: str, rule: Rule) -> None:
        """Ask `rule` what becomes of each call of an operation such as `BatchWriteItem`."""
        self._rules[operation] = rule

    def _handle(self, request: Any, event_name: str, **_: Any) -> AWSResponse | None:
        operation = event_name.rpartition(".")[2]
        if operation not in self._rules:
            return None
        content = json.loads(request.body)
        with self._lock:
            self.calls[operation] += 1
            number = self.calls[operation]
            if operation == "BatchWriteItem":
                self.batch_sizes.append(len(users_of(content)))
        answer = self._rules[operation](number, content)
        if answer is None and operation in {"BatchWriteItem", "PutItem"}:
            with self._lock:
                self.puts.update(users_of(content))
        if answer is None:
            return None
        if isinstance(answer, Exception):
            raise answer
        headers = {"content-type": "application/x-amz-json-1.0"}
        return AWSResponse(request.url, answer[0], headers, _Body(json.dumps(answer[1]).encode()))


class Time:
    """Clock and sleep for a table: sleeping takes no time, but the clock moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.naps: list[float] = []
        self._lock = threading.Lock()

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.naps.append(seconds)
            self.now += seconds


class Rig:
    """A table whose client can be made to fail; `plain` is the same table over a client that cannot."""

    def __init__(self, endpoint: str) -> None:
        settings = Settings.load(Environment.LOCAL, {"KURASHIRU_DYNAMODB_ENDPOINT": endpoint})
        self.client = connect(settings)
        self.faults = Faults(self.client)
        self.plain = RecommendationTable(connect(settings), TABLE)
        self.reset()

    def reset(self) -> None:
        """No table, no faults, time 0."""
        self.faults.clear()
        self.time = Time()
        self.table = self.make_table()
        with suppress(self.client.exceptions.ResourceNotFoundException):
            self.client.delete_table(TableName=TABLE)

    def empty(self) -> None:
        """Delete every item; what `reset` does, but the table stays. For tests that begin anew often."""
        self.faults.clear()
        self.time = Time()
        self.table = self.make_table()
        items = self.client.scan(TableName=TABLE)["Items"]
        for start in range(0, len(items), BATCH_ITEMS):
            keys = [{"user_id": item["user_id"]} for item in items[start : start + BATCH_ITEMS]]
            self.client.batch_write_item(RequestItems={TABLE: [{"DeleteRequest": {"Key": key}} for key in keys]})

    def make_table(self, **options: Any) -> RecommendationTable:
        rng = random.Random(7)
        clock, sleep = self.time.clock, self.time.sleep
        return RecommendationTable(self.client, TABLE, rng=rng, clock=clock, sleep=sleep, **options)

    def stored(self) -> dict[str, int]:
        """Version of each item in the table."""
        return {user_id: version for user_id, version, _ in self.plain.keys_and_versions()}
