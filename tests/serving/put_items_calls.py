"""Calls of serving.put_items as Snowflake makes them and API Gateway hands them to the function."""

import json
from collections.abc import Iterable
from typing import Any

Value = dict[str, Any]

HEADERS = {
    "sf-external-function-format": "json",
    "sf-external-function-format-version": "1.0",
    "sf-external-function-query-batch-id": "01b2-3c4d:1:7:0:1",
    "sf-external-function-current-query-id": "01b2-3c4d",
    "Content-Type": "application/json",
}
GENERATED_AT = 1_795_426_200
EXPIRES_AT = GENERATED_AT + 30 * 86_400

TOMBSTONE: Value = {"deleted": True, "algorithm": "none", "generated_at": GENERATED_AT, "expires_at": EXPIRES_AT}


def recommendation(**changes: Any) -> Value:
    """The third argument of put_items, as the warehouse builds it; a change to None leaves a field out."""
    value: Value = {
        "recipe_ids": ["r1", "r2"],
        "reasons": ["viewed:r9", "popular"],
        "scores": [0.5, 0.25],
        "algorithm": "m1",
        "generated_at": GENERATED_AT,
        "expires_at": EXPIRES_AT,
    }
    return {name: field for name, field in {**value, **changes}.items() if field is not None}


def body_of(arguments: Iterable[Any]) -> str:
    """Request body of a batch; `arguments` are the rows without their numbers."""
    return json.dumps({"data": [[number, *row] for number, row in enumerate(arguments)]})


def event_of(body: str, headers: dict[str, str] | None = None, *, is_base64: bool = False) -> dict[str, Any]:
    """What a REST API with Lambda proxy integration hands over, as far as the function looks at it."""
    return {
        "resource": "/items",
        "path": "/items",
        "httpMethod": "POST",
        "headers": HEADERS if headers is None else headers,
        "body": body,
        "isBase64Encoded": is_base64,
    }
