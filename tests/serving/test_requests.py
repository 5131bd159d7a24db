"""Requests whose JSON is made by us are those that botocore's own client would send: parts, headers and signature."""

import json
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import boto3
import pyarrow as pa
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from faulty_dynamodb import NOW, TABLE, Rig, make_item

from kurashiru_pipeline.core.item_columns import encode_lists
from kurashiru_pipeline.core.items import build_item, build_tombstone, decode_item
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.serving.dynamodb import RecommendationTable, connect

EXPIRES = NOW + timedelta(days=30)
ACCESS_KEY = Credentials("AKIDEXAMPLE", "secret", "session token")
REGION = "ap-northeast-1"

Received = tuple[dict[str, str], bytes]


class Listener:
    """Takes requests as they come over the wire, and says that all items are written."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                requests.append((dict(self.headers), self.rfile.read(int(self.headers["Content-Length"]))))
                answer = b'{"UnprocessedItems":{}}'
                self.send_response(200)
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener = Listener()
    thread = threading.Thread(target=listener.server.serve_forever, args=(0.01,))
    thread.start()
    yield listener
    listener.server.shutdown()
    thread.join()
    listener.server.server_close()


def as_production(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Our client with the credentials of AWS's default chain, at an endpoint that happens to be this machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", ACCESS_KEY.secret_key)
    monkeypatch.setenv("AWS_SESSION_TOKEN", ACCESS_KEY.token)
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", listener.endpoint)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return connect(Settings.load(Environment.PRODUCTION, {"KURASHIRU_AWS_REGION": REGION}))


def signature_of(headers: dict[str, str], body: bytes, url: str) -> str:
    """What botocore's signer makes of a request at the time that is in its headers."""
    names = headers["Authorization"].partition("SignedHeaders=")[2].partition(",")[0].split(";")
    lowered = {name.lower(): value for name, value in headers.items()}
    request = AWSRequest("POST", url, data=body, headers={name: lowered[name] for name in names})
    request.context["timestamp"] = headers["X-Amz-Date"]
    signer = SigV4Auth(ACCESS_KEY, "dynamodb", REGION)
    signature: str = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    return signature


def test_request_is_the_one_that_botocore_makes_of_the_same_items(
    listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = as_production(listener, monkeypatch)
    items = [make_item(f'user "{user}" 卵\\') for user in range(3)]
    items.append(build_tombstone("gone", algorithm="none", version=2, generated_at=NOW, expires_at=EXPIRES))
    assert RecommendationTable(client, TABLE).write(items).written == len(items)
    once = Config(retries={"mode": "standard", "total_max_attempts": 1})
    plain = boto3.session.Session(region_name=REGION).client("dynamodb", endpoint_url=listener.endpoint, config=once)
    plain.batch_write_item(RequestItems={TABLE: [{"PutRequest": {"Item": item}} for item in items]})

    (ours, our_body), (theirs, their_body) = listener.requests
    assert json.loads(our_body) == json.loads(their_body)
    assert ours.keys() == theirs.keys()
    of_a_request = {"X-Amz-Date", "Authorization", "amz-sdk-invocation-id", "Content-Length", "User-Agent"}
    assert {name: ours[name] for name in ours.keys() - of_a_request} == {
        name: theirs[name] for name in theirs.keys() - of_a_request
    }
    assert ours["X-Amz-Target"] == "DynamoDB_20120810.BatchWriteItem"
    assert ours["X-Amz-Security-Token"] == ACCESS_KEY.token
    assert int(ours["Content-Length"]) == len(our_body)
    for headers, body in listener.requests:
        signature = headers["Authorization"].rpartition("Signature=")[2]
        assert signature == signature_of(headers, body, listener.endpoint)
        assert signature != signature_of(headers, body + b" ", listener.endpoint)


def test_items_made_in_columns_arrive_as_those_made_one_by_one(rig: Rig) -> None:
    lists = [
        {
            "user_id": f"user{user}",
            "version": user,
            "recipe_ids": [f"r{rank}" for rank in range(20)],
            "reasons": ["ingredient:鶏, 皮%", 'taste:"x"', "cooked:r1", "popular"] * 5,
            "scores": [rank / 7 for rank in range(20)],
            "algorithm": "m1",
            "generated_at": NOW,
        }
        for user in range(60)
    ]
    types = {"recipe_ids": pa.list_(pa.string()), "version": pa.int64(), "generated_at": pa.timestamp("us")}
    table = pa.table({name: pa.array([row[name] for row in lists], types.get(name)) for name in lists[0]})
    encoded = encode_lists(table, EXPIRES)
    report = rig.table.write_encoded(dict(zip(encoded.user_ids, encoded.items, strict=True)))
    assert (report.written, report.requests, report.failed) == (60, 3, [])
    for row in lists:
        expected = build_item(expires_at=EXPIRES, **row)  # type: ignore[arg-type]
        assert rig.table.read(str(row["user_id"])) == decode_item(expected)
