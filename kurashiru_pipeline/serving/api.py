"""A small read API over the table of recommendations, for an app that has none of its own.

Here: two routes and a server for them. `GET /recommendations/{user_id}` and `GET /health`.
Not here: ranking or writing; a request reads one item, and one more for each list that may stand in for a missing one.
"""

import re
import socket
from collections.abc import Callable
from datetime import datetime

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.events import ID_PATTERN
from kurashiru_pipeline.core.segments import fallbacks
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.serving.dynamodb import RecommendationTable

_USER_ID = re.compile(ID_PATTERN)


def build_app(table: RecommendationTable, clock: Callable[[], datetime] = utc_now) -> Starlette:
    """ASGI application over a table.

    `/recommendations/{user_id}` answers 200 with the list, 400 for something that is no user id, 404 when not even
    `#default` is current. Whoever has no list gets one that fits `?tag=` (a value tag they like) or `?platform=` and
    the time of day, else `#default`'s: `fallback` says that it is not the user's own, `list` whose it is.
    `/health` reads one item. Both answer 503 with the reason when DynamoDB cannot be read.

    Args:
        table: where to read.
        clock: gives naive UTC; replaced by tests.
    """

    def recommendations(request: Request) -> JSONResponse:
        user_id = request.path_params["user_id"]
        if not _USER_ID.fullmatch(user_id):
            return _problem(400, f"not a user id: {user_id!r}")
        now, query = clock(), request.query_params
        stand_ins = fallbacks(now, platform=query.get("platform"), tag=query.get("tag"))
        found = table.read_first([user_id, *stand_ins], now)
        if found is None:
            return _problem(404, f"no recommendations for {user_id} yet, and none for everybody")
        body = {
            "user_id": user_id,
            "version": found.version,
            "recipes": [entry._asdict() for entry in found.entries],
            "algorithm": found.algorithm,
            "generated_at": f"{found.generated_at.isoformat()}Z",
            "fallback": found.user_id != user_id,
            "list": found.user_id,
        }
        return JSONResponse(body)

    def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "delivery_id": table.marker()})

    def unavailable(_: Request, error: Exception) -> JSONResponse:
        return _problem(503, str(error))

    return Starlette(
        routes=[Route("/recommendations/{user_id}", recommendations), Route("/health", health)],
        exception_handlers={KurashiruError: unavailable},
    )


def serve(settings: Settings, host: str, port: int) -> None:
    """Serve the table of the settings until interrupted.

    Raises:
        ConfigurationError: the address is taken or not allowed.
    """
    table = RecommendationTable.from_settings(settings)
    try:
        listener = socket.create_server((host, port))
    except OSError as error:
        message = f"cannot listen on {host}:{port} ({error}); choose another port"
        raise ConfigurationError(message) from error
    with listener:
        uvicorn.Server(uvicorn.Config(build_app(table), log_level="warning")).run(sockets=[listener])


def _problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status)
