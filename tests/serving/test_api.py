"""The read API: what a user is shown, and what an app is told when there is nothing to show."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from faulty_dynamodb import NOW, THROTTLED, Rig, make_item
from starlette.applications import Starlette

from kurashiru_pipeline.core.items import DEFAULT_USER, build_tombstone
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.serving.api import build_app, serve

Get = Callable[[str], tuple[int, Any]]


def call(app: Starlette, url: str) -> tuple[int, Any]:
    """Status and JSON body of a GET request."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    path, _, query = url.partition("?")
    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": query.encode()}
    asyncio.run(app(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


@pytest.fixture
def get(rig: Rig) -> Get:
    app = build_app(rig.table, lambda: NOW)
    return lambda path: call(app, path)


def test_user_sees_their_own_list(rig: Rig, get: Get) -> None:
    rig.table.write([make_item("reader", 7), make_item(DEFAULT_USER)])
    status, body = get("/recommendations/reader")
    assert status == 200
    assert body == {
        "user_id": "reader",
        "version": 7,
        "recipes": [
            {"recipe_id": "r1", "reason": "viewed:r9", "score": 0.5},
            {"recipe_id": "r2", "reason": "popular", "score": 0.25},
        ],
        "algorithm": "popular",
        "generated_at": "2026-11-23T09:30:00Z",
        "fallback": False,
        "list": "reader",
    }


def test_others_see_the_default(rig: Rig, get: Get) -> None:
    tombstone = build_tombstone(
        "gone", algorithm="popular", version=2, generated_at=NOW, expires_at=NOW + timedelta(days=1)
    )
    rig.table.write([make_item(DEFAULT_USER, 3), tombstone])
    for user_id in ("stranger", "gone"):
        status, body = get(f"/recommendations/{user_id}")
        assert (status, body["user_id"], body["version"], body["fallback"]) == (200, user_id, 3, True)
        assert [recipe["recipe_id"] for recipe in body["recipes"]] == ["r1", "r2"]


EVENING = "#segment:ios:evening"  # NOW is half past six in Japan


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        ("", DEFAULT_USER),
        ("?platform=ios", EVENING),
        ("?platform=web", DEFAULT_USER),
        ("?platform=tv", DEFAULT_USER),
        ("?platform=ios:evening%23", DEFAULT_USER),
        ("?tag=savings", "#segment:tag:savings"),
        ("?tag=savings&platform=ios", "#segment:tag:savings"),
        ("?tag=unknown&platform=ios", EVENING),
        ("?platform=tag:savings", DEFAULT_USER),
    ],
)
def test_who_has_no_list_sees_that_of_their_segment(rig: Rig, get: Get, query: str, shown: str) -> None:
    keys = [DEFAULT_USER, EVENING, "#segment:ios:noon", "#segment:android:evening", "#segment:tag:savings", "reader"]
    rig.table.write([make_item(key) for key in keys])
    status, body = get(f"/recommendations/stranger{query}")
    assert (status, body["list"], body["fallback"]) == (200, shown, True)
    assert get(f"/recommendations/reader{query}")[1]["list"] == "reader"


def test_the_segment_follows_the_clock_in_japan(rig: Rig) -> None:
    rig.table.write([make_item(key) for key in (DEFAULT_USER, EVENING, "#segment:ios:night")])
    ten_at_night = build_app(rig.table, lambda: NOW.replace(hour=13))
    assert call(ten_at_night, "/recommendations/stranger?platform=ios")[1]["list"] == "#segment:ios:night"


def test_expired_lists_are_not_shown(rig: Rig) -> None:
    rig.table.write([make_item("reader"), make_item(DEFAULT_USER)])
    app = build_app(rig.table, lambda: datetime(2027, 11, 23))
    status, body = call(app, "/recommendations/reader")
    assert status == 404
    assert "reader" in body["detail"]


@pytest.mark.parametrize("user_id", ["#default", "#marker", "a b", "u" * 65])
def test_what_is_no_user_id_is_refused(rig: Rig, get: Get, user_id: str) -> None:
    rig.table.write([make_item(DEFAULT_USER)])
    rig.table.write_marker("delivery-1")
    status, body = get(f"/recommendations/{user_id}")
    assert (status, body) == (400, {"detail": f"not a user id: {user_id!r}"})


def test_health_names_the_delivery(rig: Rig, get: Get) -> None:
    assert get("/health") == (200, {"status": "ok", "delivery_id": None})
    rig.table.write_marker("delivery-1")
    assert get("/health") == (200, {"status": "ok", "delivery_id": "delivery-1"})


def test_busy_or_missing_table_is_503_with_the_reason(rig: Rig, get: Get) -> None:
    rig.faults.on("GetItem", lambda number, request: THROTTLED)
    status, body = get("/recommendations/reader")
    assert status == 503
    assert "ProvisionedThroughputExceeded" in body["detail"]
    rig.reset()
    app = build_app(rig.table, lambda: NOW)
    for path in ("/recommendations/reader", "/health"):
        status, body = call(app, path)
        assert status == 503
        assert "does not exist" in body["detail"]


def test_taken_port_is_a_clear_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError, match=rf"127\.0\.0\.1:{port}.*another port"):
            serve(Settings.load(Environment.LOCAL, {}), "127.0.0.1", port)


def test_server_answers_over_http(rig: Rig) -> None:
    rig.plain.write_marker("delivery-1")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    program = (
        "from kurashiru_pipeline.environment import Settings\n"
        "from kurashiru_pipeline.serving.api import serve\n"
        f"serve(Settings.load(), '127.0.0.1', {port})"
    )
    endpoint = rig.client.meta.endpoint_url
    variables = {**os.environ, "KURASHIRU_ENV": "local", "KURASHIRU_DYNAMODB_ENDPOINT": endpoint}
    variables["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with subprocess.Popen([sys.executable, "-c", program], env=variables) as server:
        try:
            body = fetch(f"http://127.0.0.1:{port}/health", server)
        finally:
            server.terminate()
    assert body == {"status": "ok", "delivery_id": "delivery-1"}


def fetch(url: str, server: subprocess.Popen[bytes]) -> Any:
    """JSON at a URL, as soon as its server answers."""
    for _ in range(300):
        assert server.poll() is None, "the server stopped"
        try:
            with urlopen(url, timeout=5) as answer:
                return json.load(answer)
        except URLError:
            time.sleep(0.1)
    raise AssertionError("the server does not answer")
