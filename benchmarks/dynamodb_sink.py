"""A stand-in for DynamoDB that costs next to nothing: it keeps items in memory, so that a client can be measured.

Here: just enough of DynamoDB's JSON protocol for `serving/dynamodb.py`, one process, one thread, loopback only.
Not here: an emulation for tests or demonstrations (moto is one): signatures are not checked, nothing throttles,
expressions are those of our client and no others.

By hand: `python -m benchmarks.dynamodb_sink --port 4577`, then `export KURASHIRU_DYNAMODB_ENDPOINT=http://127.0.0.1:4577`.
"""

import argparse
import asyncio
import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any
from urllib.request import urlopen
from zlib import crc32

import orjson

HOST = "127.0.0.1"
MAX_BATCH_ITEMS = 25
PAGE_BYTES = 1024 * 1024

Request = dict[str, Any]
Answer = tuple[int, bytes]

_HEAD_END = b"\r\n\r\n"
_DONE = orjson.dumps({"UnprocessedItems": {}})
_REASONS = {200: b"OK", 400: b"Bad Request"}
_ONLY_NEWER = "attribute_not_exists(#user_id) OR #version <= :version"
_LISTS_ONLY = "attribute_not_exists(#deleted) and not begins_with(#user_id, :hash)"


@dataclass(frozen=True)
class Statistics:
    """What a sink did so far: requests answered, those that put items, items put (each time anew), items it holds now,
    and its own processor seconds.
    """

    requests: int
    writes: int
    items_put: int
    items_held: int
    cpu_seconds: float


@contextmanager
def running_sink(port: int = 0, *, keeps_lists: bool = True) -> Iterator[str]:
    """Endpoint of a sink in a process of its own, which ends with the context.

    Args:
        port: 0 takes a free one.
        keeps_lists: otherwise only items whose key begins with `#` are held, such as the marker of a delivery; those
            of users are read, counted and forgotten, since a day of them takes gigabytes.
    """
    command = [sys.executable, "-m", "benchmarks.dynamodb_sink", "--port", str(port)]
    command += [] if keeps_lists else ["--forget-lists"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            endpoint = process.stdout.readline().strip()
            if not endpoint:
                raise OSError(f"the DynamoDB sink did not start on port {port}; its error is above")
            yield endpoint
        finally:
            process.terminate()


def statistics(endpoint: str) -> Statistics:
    """What the sink at `endpoint` did so far."""
    with urlopen(f"{endpoint}/statistics", timeout=30) as answer:
        return Statistics(**orjson.loads(answer.read()))


class _RefusedError(Exception):
    """A request that DynamoDB would refuse too; `fields` are further ones of the answer."""

    def __init__(self, code: str, message: str, **fields: Any) -> None:
        super().__init__(message)
        self.content = {"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": message, **fields}


@dataclass
class _Table:
    """Items as JSON bytes, by user."""

    description: dict[str, Any]
    items: dict[str, bytes] = field(default_factory=dict)
    time_to_live: str | None = None
    scan_order: list[str] = field(default_factory=list)


class _Store:
    """Tables, and the operations on them."""

    def __init__(self, *, keeps_lists: bool) -> None:
        self._keeps_lists = keeps_lists
        self._tables: dict[str, _Table] = {}
        self._requests = 0
        self._writes = 0
        self._items_put = 0
        self._operations: dict[str, Callable[[Request], bytes]] = {
            "BatchWriteItem": self._batch_write_item,
            "PutItem": self._put_item,
            "GetItem": self._get_item,
            "Scan": self._scan,
            "CreateTable": self._create_table,
            "DescribeTable": self._describe_table,
            "DeleteTable": self._delete_table,
            "DescribeTimeToLive": self._describe_time_to_live,
            "UpdateTimeToLive": self._update_time_to_live,
        }

    def answer(self, operation: str, body: bytes | memoryview) -> Answer:
        """Status and body of the answer to a request."""
        self._requests += 1
        try:
            handle = self._operations.get(operation)
            if handle is None:
                raise _RefusedError("UnknownOperationException", f"the sink has no {operation}")
            try:
                request = orjson.loads(body)
            except ValueError as error:
                raise _RefusedError("SerializationException", str(error)) from error
            return 200, handle(request)
        except _RefusedError as error:
            return 400, orjson.dumps(error.content)
        except (KeyError, TypeError) as error:
            return 400, orjson.dumps(_RefusedError("ValidationException", repr(error)).content)

    def statistics(self) -> bytes:
        held = sum(len(table.items) for table in self._tables.values())
        return orjson.dumps(
            asdict(Statistics(self._requests, self._writes, self._items_put, held, time.process_time()))
        )

    def _table(self, request: Request) -> _Table:
        return self._named(request["TableName"])

    def _named(self, name: str) -> _Table:
        table = self._tables.get(name)
        if table is None:
            raise _RefusedError("ResourceNotFoundException", f"Requested resource not found: {name}")
        return table

    def _batch_write_item(self, request: Request) -> bytes:
        for name, puts in request["RequestItems"].items():
            table = self._named(name)
            written = {put["PutRequest"]["Item"]["user_id"]["S"]: put["PutRequest"]["Item"] for put in puts}
            if not 0 < len(puts) <= MAX_BATCH_ITEMS or len(written) != len(puts) or "" in written:
                message = f"a batch has 1 to {MAX_BATCH_ITEMS} items of different, not empty keys; this has {len(puts)}"
                raise _RefusedError("ValidationException", message)
            for user_id, item in written.items():
                self._keep(table, user_id, item)
        self._writes += 1
        return _DONE

    def _put_item(self, request: Request) -> bytes:
        table, item = self._table(request), request["Item"]
        user_id = item["user_id"]["S"]
        condition = request.get("ConditionExpression")
        if condition is not None:
            if condition != _ONLY_NEWER:
                raise _RefusedError("ValidationException", f"the sink does not know the condition {condition}")
            old = orjson.loads(table.items.get(user_id, b"null"))
            bound = int(request["ExpressionAttributeValues"][":version"]["N"])
            if old is not None and not ("version" in old and int(old["version"]["N"]) <= bound):
                raise _RefusedError("ConditionalCheckFailedException", "The conditional request failed", Item=old)
        self._keep(table, user_id, item)
        self._writes += 1
        return b"{}"

    def _keep(self, table: _Table, user_id: str, item: Any) -> None:
        self._items_put += 1
        if self._keeps_lists or user_id.startswith("#"):
            table.items[user_id] = orjson.dumps(item)

    def _get_item(self, request: Request) -> bytes:
        item = self._table(request).items.get(request["Key"]["user_id"]["S"])
        return b"{}" if item is None else b'{"Item":' + item + b"}"

    def _scan(self, request: Request) -> bytes:
        """A page of about PAGE_BYTES; the cursor holds a position in the order that the first page found."""
        table = self._table(request)
        start = request.get("ExclusiveStartKey")
        if start is None:
            table.scan_order = list(table.items)
        position = 0 if start is None else int(start["position"]["N"])
        items, read = [], 0
        for user_id in islice(table.scan_order, position, None):
            position += 1
            item = table.items[user_id]
            items.append(orjson.loads(item))
            read += len(item)
            if read >= PAGE_BYTES:
                break
        answer: dict[str, Any] = {"ScannedCount": len(items)}
        if position < len(table.scan_order):
            answer["LastEvaluatedKey"] = {"position": {"N": str(position)}}
        filtering = request.get("FilterExpression")
        if filtering is not None:
            if filtering != _LISTS_ONLY:
                raise _RefusedError("ValidationException", f"the sink does not know the filter {filtering}")
            items = [item for item in items if "deleted" not in item and not item["user_id"]["S"].startswith("#")]
        answer["Count"] = len(items)
        if request.get("Select") != "COUNT":
            if "ProjectionExpression" in request:
                names = [request["ExpressionAttributeNames"][name] for name in _listed(request["ProjectionExpression"])]
                items = [{name: item[name] for name in names if name in item} for item in items]
            answer["Items"] = items
        return orjson.dumps(answer)

    def _create_table(self, request: Request) -> bytes:
        name = request["TableName"]
        if name in self._tables:
            raise _RefusedError("ResourceInUseException", f"Table already exists: {name}")
        self._tables[name] = _Table({**request, "TableStatus": "ACTIVE"})
        return orjson.dumps({"TableDescription": self._tables[name].description})

    def _describe_table(self, request: Request) -> bytes:
        return orjson.dumps({"Table": self._table(request).description})

    def _delete_table(self, request: Request) -> bytes:
        description = self._table(request).description
        del self._tables[request["TableName"]]
        return orjson.dumps({"TableDescription": description})

    def _describe_time_to_live(self, request: Request) -> bytes:
        name = self._table(request).time_to_live
        state = {"TimeToLiveStatus": "ENABLED", "AttributeName": name} if name else {"TimeToLiveStatus": "DISABLED"}
        return orjson.dumps({"TimeToLiveDescription": state})

    def _update_time_to_live(self, request: Request) -> bytes:
        specification = request["TimeToLiveSpecification"]
        self._table(request).time_to_live = specification["AttributeName"] if specification["Enabled"] else None
        return orjson.dumps({"TimeToLiveSpecification": specification})


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with connections kept open, as far as botocore uses it: requests have a length, none are chunked."""

    def __init__(self, store: _Store) -> None:
        self._store = store
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (head_end := self._received.find(_HEAD_END)) >= 0:
            target, *lines = bytes(self._received[:head_end]).split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in lines if not line.startswith(b"X-Amz-Target"))
            start = head_end + len(_HEAD_END)
            end = start + int(headers.get(b"content-length", 0))
            if len(self._received) < end:
                return
            body = bytes(self._received[start:end])
            del self._received[:end]
            if target.startswith(b"GET /statistics "):
                self._respond(200, self._store.statistics())
            else:
                self._respond(*self._store.answer(_operation(lines), body))

    def _respond(self, status: int, body: bytes) -> None:
        self._transport.write(
            b"HTTP/1.1 %d %s\r\nContent-Type: application/x-amz-json-1.0\r\n" % (status, _REASONS[status])
            + b"x-amz-crc32: %d\r\nContent-Length: %d\r\n\r\n" % (crc32(body), len(body))
            + body
        )


def _operation(lines: list[bytes]) -> str:
    for line in lines:
        if line.startswith(b"X-Amz-Target: "):
            return line.rpartition(b".")[2].decode()
    return ""


def _listed(expression: str) -> list[str]:
    return [name.strip() for name in expression.split(",")]


async def _serve(port: int, *, keeps_lists: bool) -> None:
    store = _Store(keeps_lists=keeps_lists)
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(store), HOST, port)
    print(f"http://{HOST}:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=4577, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--forget-lists", action="store_true", help="hold only items whose key begins with #")
    given = parser.parse_args()
    gc.disable()  # requests leave no cycles behind, and looking for some costs as much as handling them
    asyncio.run(_serve(given.port, keeps_lists=not given.forget_lists))


if __name__ == "__main__":
    main()
