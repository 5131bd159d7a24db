"""The DynamoDB table of recommendations: written in batches or by version, losing nothing silently; read one by one.

Here: the client, the table, and the one policy for retries (the client itself never retries).
Not here: the form of an item (`core/items.py`, `core/item_columns.py`), or which items changed.
"""

import json
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import partial
from ipaddress import ip_address
from itertools import islice
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError, WaiterError
from botocore.exceptions import ConnectionError as NoConnectionError

from kurashiru_pipeline.core.items import (
    KEY,
    MARKER_USER,
    Item,
    Recommendation,
    decode_item,
    item_bytes,
)
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError, TransientError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

BATCH_ITEMS = 25
MAX_CONNECTIONS = 16
MAX_ITEM_BYTES = 400 * 1024
MAX_KEY_BYTES = 2048
FIRST_BACKOFF_SECONDS = 0.05
LONGEST_BACKOFF_SECONDS = 5.0
UNREACHABLE_ATTEMPTS = 7
REQUEST_PATIENCE_SECONDS = 10.0

_BUSY = frozenset(
    {"ProvisionedThroughputExceededException", "RequestLimitExceeded", "Throttling", "ThrottlingException"}
)
_INVALID = frozenset({"ValidationException", "SerializationException"})


class _UnreachableError(TransientError):
    """Nobody answers at the endpoint. Given up sooner than a busy table: mostly a stopped stack or a typo."""


class _InvalidRequestError(KurashiruError):
    """DynamoDB says that the content of a request is wrong."""


class _ThrottledError(TransientError):
    """DynamoDB answers, but takes no more for the moment."""


class _LateError(TransientError):
    """There was no time left to ask DynamoDB, or to hear its answer."""


class _SupersededError(KurashiruError):
    """A condition kept an item out; `kept` is the one in the table, as far as DynamoDB tells."""

    def __init__(self, message: str, kept: Item) -> None:
        super().__init__(message)
        self.kept = kept


class Outcome(StrEnum):
    """What became of an item put by version."""

    OK = "OK"
    """In the table, now or already."""
    STALE = "STALE"
    """Left out: a newer version is in the table."""
    RETRY = "RETRY"
    """Perhaps not in the table; to be sent again."""
    REFUSED = "REFUSED"
    """No repetition would get it in."""


@dataclass(frozen=True, slots=True)
class PutResult:
    """Outcome of one item, and why it is not OK."""

    outcome: Outcome
    error: KurashiruError | None = None


@dataclass
class WriteReport:
    """What became of a write: `written` + `len(failed)` is the number of different users given.

    `failed` holds (user_id, error), and `refused` names those of them that no repetition would get in;
    `requests` counts every attempt, `retries` those that repeated another.
    """

    written: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    requests: int = 0
    retries: int = 0
    seconds: float = 0.0

    def add(self, part: "WriteReport") -> None:
        """Count in a part of the write; `seconds` belongs to the whole and stays."""
        self.written += part.written
        self.failed += part.failed
        self.refused |= part.refused
        self.requests += part.requests
        self.retries += part.retries


class _Patience:
    """Time left without progress, shared by requests in flight; waits grow exponentially with full jitter.

    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(
        self, seconds: float, sleep: Callable[[float], None], clock: Callable[[], float], rng: random.Random
    ) -> None:
        self.ended_by: KurashiruError | None = None
        self.throttled_by: TransientError | None = None
        self._seconds = seconds
        self._sleep = sleep
        self._clock = clock
        self._rng = rng
        self.progress()

    def progress(self) -> None:
        """Something was accepted: start counting again."""
        self._deadline = self._clock() + self._seconds

    def left(self) -> float:
        """Seconds until it ends, unless there is progress."""
        return self._deadline - self._clock()

    def wait(self, attempt: int, error: TransientError) -> None:
        """Wait before repeating what failed with `error` for the `attempt`-th time in a row.

        Raises:
            TransientError: `error`, when it is no use waiting any longer.
        """
        left = self.left()
        if left <= 0 or (isinstance(error, _UnreachableError) and attempt >= UNREACHABLE_ATTEMPTS):
            raise error
        longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** min(attempt - 1, 16))
        self._sleep(min(left, self._rng.uniform(0, longest)))


def connect(settings: Settings, *, answer_seconds: float = 10) -> "DynamoDBClient":
    """Client of the region, or of the endpoint in the settings; opens no connection yet.

    An endpoint on this machine is the emulation: it gets fixed credentials and no proxy. Everything else
    uses AWS's default chain of credentials. The client never retries; `RecommendationTable` does. Its
    `batch_write_item` takes the request's JSON ready made, too, as a parameter `Body`.

    Args:
        answer_seconds: a request is given up, and may be repeated, after so long without an answer.
    """
    import boto3  # noqa: PLC0415 - 0.2 s, only for who connects
    from botocore.config import Config  # noqa: PLC0415

    endpoint = settings.text("KURASHIRU_DYNAMODB_ENDPOINT")
    is_local = bool(endpoint) and is_loopback(endpoint)
    client = boto3.session.Session().client(
        "dynamodb",
        region_name=settings.text("KURASHIRU_AWS_REGION"),
        endpoint_url=endpoint or None,
        aws_access_key_id="local" if is_local else None,
        aws_secret_access_key="local" if is_local else None,
        config=Config(
            connect_timeout=2,
            read_timeout=answer_seconds,
            max_pool_connections=MAX_CONNECTIONS,
            parameter_validation=False,
            proxies={} if is_local else None,
            retries={"mode": "standard", "total_max_attempts": 1},
            tcp_keepalive=True,
            user_agent=f"kurashiru-pipeline Boto3/{boto3.__version__}",  # else put together anew for every request
        ),
    )
    client.meta.events.register("before-parameter-build.dynamodb.BatchWriteItem", _keep_body)
    client.meta.events.register("before-call.dynamodb.BatchWriteItem", _use_body)
    return client


def _keep_body(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    context["body"] = params.pop("Body", None)


def _use_body(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    """Put the JSON that was handed over in the place of the one botocore made, which has no items.

    To make it with the items, botocore walks through every value of every item, for a third of a request's time, and
    again for their JSON. Endpoint, credentials, signature and answer stay botocore's.
    """
    if context["body"] is not None:
        params["body"] = context["body"]


class RecommendationTable:
    """One table of items, keyed by user.

    Every method raises ConfigurationError when the table is missing or access is refused, and TransientError
    when DynamoDB cannot be reached or stays busy.

    Args:
        client: from `connect`.
        name: table name.
        workers: requests in flight while writing.
        patience_seconds: a write gives up after so long without one accepted item.
        sleep, clock, rng: replaced by tests.
    """

    def __init__(
        self,
        client: "DynamoDBClient",
        name: str,
        *,
        workers: int = 8,
        patience_seconds: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self.name = name
        self._client = client
        self._workers = workers
        self._patience_seconds = patience_seconds
        self._clock = clock
        jitter = rng or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._patience = partial(_Patience, sleep=sleep, clock=clock, rng=jitter)

    @classmethod
    def from_settings(cls, settings: Settings) -> "RecommendationTable":
        """The table that the settings name."""
        return cls(connect(settings), settings.text("KURASHIRU_DYNAMODB_TABLE"))

    def ensure_exists(self, *, create: bool) -> None:
        """Check that the table is there and has our key; where allowed, create it on demand, with TTL.

        Raises:
            ConfigurationError: it is missing and `create` is false, or it has another key.
        """
        try:
            description = self._request("describe_table", TableName=self.name)
        except ConfigurationError as error:
            if not (create and _is_cause(error, "ResourceNotFoundException")):
                raise
            self._create()
            description = self._request("describe_table", TableName=self.name)
        keys = [key["AttributeName"] for key in description["Table"]["KeySchema"]]
        if keys != [KEY]:
            message = (
                f"DynamoDB {self._place} has the key {', '.join(keys)} instead of {KEY}; "
                "name another table with KURASHIRU_DYNAMODB_TABLE"
            )
            raise ConfigurationError(message)
        if create:
            self._enable_ttl()

    def write(self, items: Sequence[Item], on_progress: Callable[[int, int], None] | None = None) -> WriteReport:
        """Put items and tombstones; of several items of one user only the last is sent.

        What is throttled, unprocessed or unanswered is sent again until nothing was accepted for the table's
        patience; then it is reported as failed. An item that DynamoDB refuses fails alone.

        Args:
            items: from `build_item` and `build_tombstone`.
            on_progress: called in this thread with (users done, users in all) after each batch.

        Raises:
            ConfigurationError: nothing was written: the table is missing or access is refused.
            TransientError: nothing was written: the endpoint cannot be reached.
        """
        latest = {str(item[KEY]["S"]): item for item in items}
        refusals = {user_id: refusal for user_id, item in latest.items() if (refusal := _refusal(item)) is not None}
        encoded = {user_id: json.dumps(item).encode() for user_id, item in latest.items() if user_id not in refusals}
        return self._write(encoded, refusals, on_progress)

    def write_encoded(
        self, items: Mapping[str, bytes], on_progress: Callable[[int, int], None] | None = None
    ) -> WriteReport:
        """Put items whose JSON is made already, by user, see `write`; that they are within DynamoDB's limits is not
        checked.
        """
        return self._write(items, {}, on_progress)

    def _write(
        self, items: Mapping[str, bytes], refusals: Mapping[str, str], on_progress: Callable[[int, int], None] | None
    ) -> WriteReport:
        started = self._clock()
        report = WriteReport(failed=list(refusals.items()), refused=set(refusals))
        total = len(items) + len(refusals)
        patience = self._patience(self._patience_seconds)
        with ThreadPoolExecutor(self._workers, thread_name_prefix="dynamodb") as pool:
            for part in pool.map(partial(self._deliver, patience), _batches(items)):
                report.add(part)
                if on_progress is not None:
                    on_progress(report.written + len(report.failed), total)
        report.seconds = self._clock() - started
        if patience.ended_by is not None and not report.written:
            raise patience.ended_by
        return report

    def put_versioned(self, items: Sequence[Item], seconds: float) -> list[PutResult]:
        """Put items of different users, each unless a newer version of it is in the table.

        What is throttled or unanswered is sent again while there is time. A put still on its way when the time is
        up is answered RETRY and may arrive after all: its version makes that harmless.

        Args:
            items: from `build_item` and `build_tombstone`.
            seconds: time for all of it.

        Returns:
            A result for each item, in their order.

        Raises:
            ConfigurationError: nothing was written: the table is missing or access is refused.
            TransientError: nothing was written: every put was throttled.
        """
        patience = self._patience(seconds)
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="dynamodb")
        puts = [pool.submit(self._put_versioned, patience, item) for item in items]
        wait(puts, timeout=max(0.0, seconds))
        pool.shutdown(wait=False, cancel_futures=True)
        results = [_result(put) for put in puts]
        if not any(result.outcome in {Outcome.OK, Outcome.STALE} for result in results):
            if isinstance(patience.ended_by, ConfigurationError):
                raise patience.ended_by
            is_capacity = all(isinstance(result.error, _ThrottledError | _LateError) for result in results)
            if is_capacity and patience.throttled_by is not None:
                raise patience.throttled_by
        return results

    def read(self, user_id: str, *, consistent: bool = False) -> Recommendation | None:
        """The item of a user as it stands, perhaps expired or a tombstone; None when there is none.

        Unless `consistent`, a write of the last moment may not show yet, at half the price.
        """
        item = self._get(user_id, consistent=consistent)
        return None if item is None else decode_item(item)

    def read_first(self, keys: Iterable[str], now: datetime) -> Recommendation | None:
        """The first of these lists that is current at `now` (naive UTC); None when none is.

        Args:
            keys: the user, then what stands in for their list (core/segments.py, `fallbacks`).
        """
        for key in keys:
            found = self.read(key)
            if found is not None and found.is_current(now):
                return found
        return None

    def marker(self) -> str | None:
        """Id of the delivery that the table belongs to; None in a table nobody delivered to."""
        item = self._get(MARKER_USER, consistent=True)
        return None if item is None else str(item["delivery_id"]["S"])

    def write_marker(self, delivery_id: str) -> None:
        """Claim the table for a delivery."""
        item = {KEY: {"S": MARKER_USER}, "delivery_id": {"S": delivery_id}}
        self._request("put_item", TableName=self.name, Item=item)

    def keys_and_versions(self) -> Iterator[tuple[str, int, bool]]:
        """(user_id, version, whether it is a tombstone) of every item except the marker."""
        names = {"#user_id": KEY, "#version": "version", "#deleted": "deleted"}
        pages = self._scan(ProjectionExpression=", ".join(names), ExpressionAttributeNames=names)
        for page in pages:
            for item in page["Items"]:
                if item[KEY]["S"] != MARKER_USER:
                    yield item[KEY]["S"], int(item["version"]["N"]), "deleted" in item

    def count(self) -> int:
        """Users with a list of their own: no tombstones, neither `#default` nor the marker."""
        pages = self._scan(
            Select="COUNT",
            FilterExpression="attribute_not_exists(#deleted) and not begins_with(#user_id, :hash)",
            ExpressionAttributeNames={"#user_id": KEY, "#deleted": "deleted"},
            ExpressionAttributeValues={":hash": {"S": "#"}},
        )
        return sum(page["Count"] for page in pages)

    def _deliver(self, patience: _Patience, batch: dict[str, bytes]) -> WriteReport:
        """Put at most BATCH_ITEMS items, by user; never raises what is DynamoDB's doing."""
        report = WriteReport()
        pending = batch
        attempt = 0
        try:
            while pending:
                if patience.ended_by is not None:
                    raise patience.ended_by
                report.requests += 1
                report.retries += attempt > 0
                attempt += 1
                try:
                    unprocessed = self._batch_write(pending)
                except TransientError as error:
                    patience.wait(attempt, error)
                    continue
                if len(unprocessed) < len(pending):
                    report.written += len(pending) - len(unprocessed)
                    patience.progress()
                    attempt = 1
                pending = unprocessed
                if pending:
                    patience.wait(attempt, TransientError(f"DynamoDB {self._place} is busy"))
        except _InvalidRequestError as error:
            if len(pending) == 1:
                report.failed = _failures(pending, error)
                report.refused = set(pending)
            else:
                for user_id, item in pending.items():
                    report.add(self._deliver(patience, {user_id: item}))
        except KurashiruError as error:
            report.failed = _failures(pending, error)
            if isinstance(error, ConfigurationError | _UnreachableError):
                patience.ended_by = error
        return report

    def _batch_write(self, items: dict[str, bytes]) -> dict[str, bytes]:
        """One request; the items that DynamoDB left unprocessed."""
        puts = b'{"PutRequest":{"Item":' + b'}},{"PutRequest":{"Item":'.join(items.values()) + b"}}"
        body = b'{"RequestItems":{' + json.dumps(self.name).encode() + b":[" + puts + b"]}}"
        # The table is named twice: botocore may choose the endpoint by it.
        answer = self._send("batch_write_item", RequestItems={self.name: []}, Body=body)
        left = answer.get("UnprocessedItems", {}).get(self.name, [])
        return {user_id: items[user_id] for user_id in (put["PutRequest"]["Item"][KEY]["S"] for put in left)}

    def _put_versioned(self, patience: _Patience, item: Item) -> PutResult:
        """Put one item; never raises what is DynamoDB's doing."""
        refusal = _refusal(item)
        if refusal is not None:
            return PutResult(Outcome.REFUSED, KurashiruError(refusal))
        if patience.left() <= 0:
            return PutResult(Outcome.RETRY, _LateError("no time left to write it"))
        attempt = 0
        try:
            while True:
                if patience.ended_by is not None:
                    raise patience.ended_by
                attempt += 1
                try:
                    self._send(
                        "put_item",
                        TableName=self.name,
                        Item=item,
                        ConditionExpression="attribute_not_exists(#user_id) OR #version <= :version",
                        ExpressionAttributeNames={"#user_id": KEY, "#version": "version"},
                        ExpressionAttributeValues={":version": item["version"]},
                        ReturnValuesOnConditionCheckFailure="ALL_OLD",
                    )
                    return PutResult(Outcome.OK)
                except TransientError as error:
                    if isinstance(error, _ThrottledError):
                        patience.throttled_by = error
                    patience.wait(attempt, error)
        except _SupersededError as error:
            return _left_out(item, error.kept)
        except _InvalidRequestError as error:
            return PutResult(Outcome.REFUSED, error)
        except KurashiruError as error:
            if isinstance(error, ConfigurationError | _UnreachableError):
                patience.ended_by = error
            return PutResult(Outcome.RETRY, error)

    def _get(self, user_id: str, *, consistent: bool) -> Item | None:
        answer = self._request("get_item", TableName=self.name, Key={KEY: {"S": user_id}}, ConsistentRead=consistent)
        item: Item | None = answer.get("Item")
        return item

    def _scan(self, **arguments: Any) -> Iterator[dict[str, Any]]:
        while True:
            page = self._request("scan", TableName=self.name, ConsistentRead=True, **arguments)
            yield page
            if "LastEvaluatedKey" not in page:
                return
            arguments["ExclusiveStartKey"] = page["LastEvaluatedKey"]

    def _create(self) -> None:
        try:
            self._request(
                "create_table",
                TableName=self.name,
                KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
                AttributeDefinitions=[{"AttributeName": KEY, "AttributeType": "S"}],
                BillingMode="PAY_PER_REQUEST",
            )
        except ConfigurationError as error:
            if not _is_cause(error, "ResourceInUseException"):  # else somebody was faster
                raise
        with self._explained("describe_table"):
            self._client.get_waiter("table_exists").wait(
                TableName=self.name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
            )

    def _enable_ttl(self) -> None:
        answer = self._request("describe_time_to_live", TableName=self.name)
        if answer["TimeToLiveDescription"]["TimeToLiveStatus"] == "DISABLED":
            specification = {"Enabled": True, "AttributeName": "expires_at"}
            self._request("update_time_to_live", TableName=self.name, TimeToLiveSpecification=specification)

    def _request(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """One call, repeated while DynamoDB is busy or cannot be reached, but not for long."""
        patience = self._patience(REQUEST_PATIENCE_SECONDS)
        attempt = 0
        while True:
            attempt += 1
            try:
                return self._send(operation, **parameters)
            except TransientError as error:
                patience.wait(attempt, error)

    def _send(self, operation: str, **parameters: Any) -> dict[str, Any]:
        with self._explained(operation):
            answer: dict[str, Any] = getattr(self._client, operation)(**parameters)
            return answer

    @contextmanager
    def _explained(self, operation: str) -> Iterator[None]:
        """Raise botocore's errors as ours."""
        try:
            yield
        except ClientError as error:
            raise self._explain(operation, error) from error
        except NoConnectionError as error:
            message = f"DynamoDB does not answer at {self._endpoint}: {error}"
            if is_loopback(self._endpoint):
                message += "; start the emulation with `kurashiru up --no-dagster`"
            raise _UnreachableError(message) from error
        except (HTTPClientError, WaiterError) as error:
            message = f"DynamoDB {self._place}: {operation}: {error}"
            raise TransientError(message) from error
        except BotoCoreError as error:
            message = f"DynamoDB {self._place}: {operation} could not be sent: {error}"
            raise ConfigurationError(message) from error

    def _explain(self, operation: str, error: ClientError) -> KurashiruError:
        code = error.response["Error"]["Code"]
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        message = f"DynamoDB {self._place}: {operation}: {code}: {error.response['Error'].get('Message', '')}"
        if code in _BUSY:
            return _ThrottledError(message)
        if status >= 500:
            return TransientError(message)
        if code in _INVALID:
            return _InvalidRequestError(message)
        if code == "ConditionalCheckFailedException":
            return _SupersededError(message, cast("Item", error.response.get("Item", {})))
        if code == "ResourceNotFoundException":
            message = (
                f"DynamoDB {self._place} does not exist; "
                "set KURASHIRU_DYNAMODB_CREATE=true, or create it with the template in deploy/aws"
            )
        return ConfigurationError(message)

    @property
    def _endpoint(self) -> str:
        return self._client.meta.endpoint_url

    @property
    def _place(self) -> str:
        return f"table {self.name} in {self._client.meta.region_name} ({self._endpoint})"


def _batches(items: Mapping[str, bytes]) -> Iterator[dict[str, bytes]]:
    remaining = iter(items.items())
    while batch := dict(islice(remaining, BATCH_ITEMS)):
        yield batch


def _refusal(item: Item) -> str | None:
    """Why DynamoDB would not take an item; checked here because the emulation takes nearly anything."""
    try:
        size = item_bytes(item)
        key_size = len(str(item[KEY]["S"]).encode())
    except ValueError as error:
        return str(error)
    if not 0 < key_size <= MAX_KEY_BYTES:
        return f"{KEY} has {key_size} bytes; DynamoDB takes 1 to {MAX_KEY_BYTES}"
    if size > MAX_ITEM_BYTES:
        return f"item has {size} bytes; DynamoDB takes {MAX_ITEM_BYTES}"
    return None


def _failures(user_ids: Iterable[str], error: KurashiruError) -> list[tuple[str, str]]:
    return [(user_id, str(error)) for user_id in user_ids]


def _result(put: Future[PutResult]) -> PutResult:
    if put.done() and not put.cancelled():
        return put.result()
    return PutResult(Outcome.RETRY, _LateError("no answer in time"))


def _left_out(item: Item, kept: Item) -> PutResult:
    """Why the condition on versions kept an item out."""
    if "version" not in kept:
        return PutResult(Outcome.REFUSED, KurashiruError("the table has something without a version under this key"))
    message = f"version {kept['version']['N']} is in the table, which is newer than {item['version']['N']}"
    return PutResult(Outcome.STALE, KurashiruError(message))


def _is_cause(error: KurashiruError, code: str) -> bool:
    cause = error.__cause__
    return isinstance(cause, ClientError) and cause.response["Error"]["Code"] == code


def is_loopback(endpoint: str) -> bool:
    """Whether an address is of this machine: an emulation, which takes any credentials."""
    host = urlsplit(endpoint).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
