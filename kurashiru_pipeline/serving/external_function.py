"""Snowflake's external function protocol, as serving.put_items speaks it.

Here: from API Gateway's event to rows with an item or a reason why not, and from answers to API Gateway's response.
Not here: writing the items (lambda_handler.py, dynamodb.py), or what an item holds (core/items.py).
Source: Snowflake documentation, "Remote service input and output data formats" and "External functions best practices".
"""

import json
import re
import zlib
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from hashlib import md5
from itertools import starmap
from typing import Any

from kurashiru_pipeline.core.events import ID_PATTERN
from kurashiru_pipeline.core.items import (
    IMPERSONAL_PATTERN,
    KEY,
    MAX_ITEM_BYTES,
    Item,
    build_item,
    build_tombstone,
    item_bytes,
    recipe_count,
)
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.serving.dynamodb import Outcome

FORMAT = ("json", "1.0")
MAX_ROWS = 2_000
"""Rows of one batch: the longest answers to them stay under the 6 MB that a Lambda function may give back."""
MAX_BODY_BYTES = 10_000_000
MAX_ERROR_CHARACTERS = 200
MAX_VERSION = 10**18 - 1
SCORE_DIGITS = 6

_PREFIX = "sf-external-function-"
_GZIP = b"\x1f\x8b"
_USER_ID = re.compile(f"{ID_PATTERN}|{IMPERSONAL_PATTERN}")
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - all times here are naive UTC
_LATEST = 253_402_300_799  # the last second that a datetime holds


class BadRequestError(KurashiruError):
    """Not a request of Snowflake's form: there are no rows to answer, and to repeat it is no use."""


@dataclass(frozen=True)
class Row:
    """One row of a batch: an item to write, or why there is none."""

    number: int
    item: Item | None = None
    dropped_recipes: int = 0
    refusal: str = ""

    @property
    def user_id(self) -> str:
        return "" if self.item is None else str(self.item[KEY]["S"])

    @property
    def version(self) -> int:
        return -1 if self.item is None else int(self.item["version"]["N"])


@dataclass(frozen=True)
class Batch:
    """The rows of one request, and what Snowflake calls it."""

    batch_id: str
    query_id: str
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Answer:
    """What put_items returns for one row."""

    outcome: Outcome
    error: str = ""
    dropped_recipes: int = 0

    def value(self) -> dict[str, str | int]:
        """The VARIANT of the contract; `error` is left out where there is none."""
        value: dict[str, str | int] = {"status": str(self.outcome), "dropped_recipes": self.dropped_recipes}
        return {**value, "error": self.error[:MAX_ERROR_CHARACTERS]} if self.error else value


def read_request(event: Mapping[str, Any]) -> Batch:
    """The batch in an event of a REST API with Lambda proxy integration.

    A row whose arguments are wrong is kept with its refusal. The body may be gzipped: API Gateway unpacks it only where
    its compression is on.

    Raises:
        BadRequestError: another format or version of it, no JSON, or no rows in the documented form.
    """
    headers = {name.lower(): value for name, value in (event.get("headers") or {}).items()}
    spoken = tuple(headers.get(f"{_PREFIX}{name}") for name in ("format", "format-version"))
    if spoken != FORMAT:
        message = f"format {spoken[0]!r} version {spoken[1]!r} is not understood; known: {' '.join(FORMAT)}"
        raise BadRequestError(message)
    try:
        content = json.loads(_body(event), parse_int=_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        message = f"the body is not JSON: {error}"
        raise BadRequestError(message) from error
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list):
        message = 'the body is not of the form {"data": [[0, ...], ...]}'
        raise BadRequestError(message)
    if len(data) > MAX_ROWS:
        message = f"{len(data)} rows in one batch; at most {MAX_ROWS}: lower MAX_BATCH_ROWS of serving.put_items"
        raise BadRequestError(message)
    return Batch(
        batch_id=headers.get(f"{_PREFIX}query-batch-id") or "",
        query_id=headers.get(f"{_PREFIX}current-query-id") or "",
        rows=tuple(starmap(_row, enumerate(data))),
    )


def response(status: int, body: Mapping[str, Any]) -> dict[str, Any]:
    """Response in the form of a Lambda proxy integration; `Content-MD5` lets Snowflake check that it arrived whole."""
    text = json.dumps(body, separators=(",", ":"))
    digest = md5(text.encode(), usedforsecurity=False).digest()
    headers = {"Content-Type": "application/json", "Content-MD5": b64encode(digest).decode()}
    return {"statusCode": status, "headers": headers, "body": text, "isBase64Encoded": False}


def rows_response(batch: Batch, answers: list[Answer]) -> dict[str, Any]:
    """Response with an answer to every row, under the row's own number and in the order of the rows."""
    data = [[row.number, answer.value()] for row, answer in zip(batch.rows, answers, strict=True)]
    return response(200, {"data": data})


def _body(event: Mapping[str, Any]) -> str:
    body = event.get("body") or ""
    if not event.get("isBase64Encoded"):
        return str(body)
    content = b64decode(body, validate=True)
    if content.startswith(_GZIP):
        unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            content = unpacking.decompress(content, MAX_BODY_BYTES)
        except zlib.error as error:
            raise ValueError(str(error)) from error
        if not unpacking.eof:
            message = f"it is cut off, or has more than {MAX_BODY_BYTES} bytes when unpacked"
            raise ValueError(message)
    return content.decode()


def _number(text: str) -> int | Decimal:
    """A JSON number without loss; not a number where Python has none for it."""
    try:
        return int(text) if text.lstrip("-").isdecimal() else Decimal(text)
    except (ValueError, InvalidOperation):
        return Decimal("NaN")


def _row(position: int, row: object) -> Row:
    if not (isinstance(row, list) and row and _is_whole(row[0]) and row[0] >= 0):
        message = f"row {position} does not start with a row number"
        raise BadRequestError(message)
    try:
        item, dropped_recipes = _item(row[1:])
    except ValueError as error:
        return Row(row[0], refusal=str(error))
    return Row(row[0], item, dropped_recipes)


def _item(arguments: list[Any]) -> tuple[Item, int]:
    """Item of the arguments (user_id, version, recommendation), and how many recipes did not fit."""
    if len(arguments) != 3:
        message = f"put_items takes user_id, version and recommendation; got {len(arguments)} arguments"
        raise ValueError(message)
    user_id, version, recommendation = arguments
    if not (isinstance(user_id, str) and _USER_ID.fullmatch(user_id)):
        message = f"user_id is not a user id: {user_id!r:.100}"
        raise ValueError(message)
    if not isinstance(recommendation, dict):
        message = f"recommendation is not an object: {recommendation!r:.100}"
        raise ValueError(message)
    head: dict[str, Any] = {
        "version": _whole("version", version, MAX_VERSION),
        "algorithm": _text("algorithm", recommendation.get("algorithm")),
        "generated_at": _time("generated_at", recommendation.get("generated_at")),
        "expires_at": _time("expires_at", recommendation.get("expires_at")),
    }
    if recommendation.get("deleted") is True:
        item, given = build_tombstone(user_id, **head), 0
    else:
        recipe_ids = [_text("recipe_ids", recipe_id) for recipe_id in _list(recommendation, "recipe_ids")]
        reasons = [_text("reasons", reason) for reason in _list(recommendation, "reasons")]
        scores = [_score(score) for score in _list(recommendation, "scores")]
        item = build_item(user_id, recipe_ids=recipe_ids, reasons=reasons, scores=scores, **head)
        given = len(recipe_ids)
    size = item_bytes(item)
    if size > MAX_ITEM_BYTES:
        message = f"item of user {user_id!r} has {size} bytes; at most {MAX_ITEM_BYTES}"
        raise ValueError(message)
    return item, given - recipe_count(item)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _whole(name: str, value: Any, most: int) -> int:
    is_number = _is_whole(value) or (isinstance(value, Decimal) and value.is_finite())
    if not (is_number and 0 <= value <= most and value == int(value)):
        message = f"{name} is not a whole number from 0 to {most}: {value!r:.100}"
        raise ValueError(message)
    return int(value)


def _time(name: str, value: Any) -> datetime:
    return _EPOCH + timedelta(seconds=_whole(name, value, _LATEST))


def _text(name: str, value: Any) -> str:
    if not (isinstance(value, str) and value):
        message = f"{name} is not text: {value!r:.100}"
        raise ValueError(message)
    return value


def _list(recommendation: Mapping[str, Any], name: str) -> list[Any]:
    value = recommendation.get(name)
    if not isinstance(value, list):
        message = f"{name} is not an array: {value!r:.100}"
        raise ValueError(message)
    return value


def _score(value: Any) -> float:
    """The warehouse's number as the kernel had it: what more than 6 digits say is noise of its text form."""
    if not isinstance(value, int | Decimal) or isinstance(value, bool):
        message = f"scores has something that is no number: {value!r:.100}"
        raise ValueError(message)
    try:
        return round(float(value), SCORE_DIGITS)
    except OverflowError as error:
        message = f"scores has a number that is too large: {value!r:.100}"
        raise ValueError(message) from error
