"""SageMaker's runtime on loopback: InvokeEndpoint over HTTP, in every mood a service can have.

Here: the wire protocol (REST-JSON: path, headers, error shapes), a model that answers, and ways to fail.
Not here: expectations. `python -m tests.sources.service --help` keeps one running, to try the settings against.
"""

import argparse
import json
import re
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENDPOINT = "kurashiru-recommender"
_PATH = re.compile(r"/endpoints/([A-Za-z0-9-]{1,63})/invocations")

Users = list[dict[str, Any]]


@dataclass(frozen=True)
class Reply:
    """What goes over the wire: after `delay` seconds, the body in parts, with `pause` seconds between them.

    A body without a declared length ends where the connection is closed; `reset` closes it without a word.
    """

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    pause: float = 0.0
    reset: bool = False


def error(status: int, code: str, **members: Any) -> Reply:
    """An error as SageMaker's runtime gives it: the type in a header, the members as JSON."""
    headers = {"Content-Type": "application/json", "x-amzn-ErrorType": f"{code}:http://internal.amazon.com/coral/"}
    return Reply(status, json.dumps({"Message": f"injected {code}", **members}).encode(), headers)


THROTTLED = error(429, "ThrottlingException")
UNAVAILABLE = error(503, "ServiceUnavailable")
FORBIDDEN = error(403, "AccessDeniedException")
MODEL_FAILED = error(
    424,
    "ModelError",
    Message="Received server error (500) from primary with message 'no embedding for u1'",
    OriginalStatusCode=500,
    OriginalMessage="no embedding for u1",
    LogStreamArn="arn:aws:logs:ap-northeast-1:123456789012:log-group:/aws/sagemaker/Endpoints/x",
)


def lines(answers: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(answer).encode() + b"\n" for answer in answers)


def answers(users: Users, recipe_ids: Iterable[str] = ("r3", "r1", "r2")) -> Reply:
    """The model at work: the same recipes for everybody, as many as asked for, best first."""
    listed = list(recipe_ids)
    told = (
        {
            "user_id": user["user_id"],
            "recipe_ids": listed[: user["count"]],
            "scores": [1 / (place + 1) for place in range(len(listed[: user["count"]]))],
        }
        for user in users
    )
    return Reply(body=lines(told), headers={"Content-Type": "application/jsonlines"})


class Service:
    """A running service.

    Attributes:
        behave: (number of the request from 1, users) -> what is answered; tests replace it.
        requests: users of each request so far.
        problems: what SageMaker itself would have refused.
    """

    def __init__(self, port: int = 0) -> None:
        self.behave: Callable[[int, Users], Reply] = lambda number, users: answers(users)
        self.requests: list[Users] = []
        self.problems: list[str] = []
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                service._handle(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that has gone

        self._server = Server(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop answering; the port refuses connections from now on."""
        self._is_closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, http: BaseHTTPRequestHandler) -> None:
        body = http.rfile.read(int(http.headers.get("Content-Length", "0")))
        reply = self._refusal(http) or self._answer(body)
        self._is_closing.wait(reply.delay)
        if reply.reset:
            http.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            http.connection.close()
            http.close_connection = True
            return
        http.send_response(reply.status)
        for name, value in reply.headers.items():
            http.send_header(name, value)
        if isinstance(reply.body, bytes):
            http.send_header("Content-Length", str(len(reply.body)))
        else:
            http.close_connection = True
        http.end_headers()
        for part in [reply.body] if isinstance(reply.body, bytes) else reply.body:
            if self._is_closing.wait(reply.pause) and reply.pause:
                return
            http.wfile.write(part)
            http.wfile.flush()

    def _refusal(self, http: BaseHTTPRequestHandler) -> Reply | None:
        """What SageMaker checks before the model sees anything."""
        path = _PATH.fullmatch(http.path)
        if "/sagemaker/aws4_request" not in http.headers.get("Authorization", ""):
            self.problems.append("not signed for sagemaker")
            return error(403, "MissingAuthenticationTokenException")
        if path is None:
            self.problems.append(f"no such path: {http.path}")
            return error(404, "UnknownOperationException")
        if path[1] != ENDPOINT:
            return error(400, "ValidationError", Message=f"Endpoint {path[1]} of account 123456789012 not found.")
        for header in ("Content-Type", "Accept"):
            if http.headers.get(header) != "application/jsonlines":
                self.problems.append(f"{header}: {http.headers.get(header)}")
        return None

    def _answer(self, body: bytes) -> Reply:
        users = [json.loads(line) for line in body.splitlines()]
        with self._lock:
            self.requests.append(users)
            number = len(self.requests)
        return self.behave(number, users)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8750)
    parser.add_argument("--recipes", nargs="+", default=[f"r{number:07d}" for number in range(20)])
    parser.add_argument("--seconds", type=float, default=0.0, help="how long each answer takes")
    parser.add_argument("--fail", choices=["throttle", "unavailable", "model"], help="answer everything so")
    options = parser.parse_args()
    failing = {"throttle": THROTTLED, "unavailable": UNAVAILABLE, "model": MODEL_FAILED}.get(options.fail)

    def behave(number: int, users: Users) -> Reply:
        time.sleep(options.seconds)
        print(f"request {number}: {len(users)} users", flush=True)  # noqa: T201
        return failing or answers(users, options.recipes)

    with Service(options.port) as service:
        service.behave = behave
        print(f"endpoint {ENDPOINT} at {service.url}; Ctrl-C stops it", flush=True)  # noqa: T201
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return


if __name__ == "__main__":
    main()
