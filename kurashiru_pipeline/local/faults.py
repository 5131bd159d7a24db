"""Broken event lines, one way of breaking for each reject reason of the contract.

Here: turning a good line into one that is rejected for exactly the reason asked for.
Not here: how many there are, or where in the traffic (simulate.py).
"""

from collections.abc import Callable
from typing import Any

import orjson

from kurashiru_pipeline.core.events import MAX_LINE_BYTES

_ABSENT = object()
_NOT_JSON: tuple[Callable[[bytes], bytes], ...] = (
    lambda line: line[: len(line) * 2 // 3],
    lambda line: line[:-1],
    lambda _: b"connection reset by peer",
    lambda line: line.replace(b'"', b"'"),
    lambda line: line.replace(b'"recipe', b'"\xff\xfe', 1).replace(b'"s', b'"\xff', 1),
    lambda line: b"\x00" * 16 + line,
    lambda _: "<html><body>エラー</body></html>".encode(),
)
_NOT_AN_OBJECT = (b"null", b"42", b'"recipe_view"', b"true", b'["recipe_view","r0000001"]', b"[]")
_BAD_VALUES: dict[str, tuple[str, tuple[object, ...]]] = {
    "bad_event_id": (
        "event_id",
        (_ABSENT, None, "", 17, "12345", "0f8fad5bd9cb469fa165708672896bf1", "0f8fad5b-d9cb-469f-a165-70867289zzzz"),
    ),
    "bad_event_name": ("event_name", (_ABSENT, None, "", 3, ["recipe_view"], "recipe_view" * 6)),
    "bad_user_id": ("user_id", (_ABSENT, None, "", 20_017, "someone@example.com", "利用者", "u" * 65)),
    "bad_recipe_id": ("recipe_id", (17, "", "r 0000017", "レシピ", {"id": "r0000017"}, "r" * 65)),
    "bad_occurred_at": (
        "occurred_at",
        (
            _ABSENT,
            None,
            "",
            1_700_000_000,
            "yesterday",
            "2026-11-23 09:30:00",
            "2026-11-23T09:30:00.123+09:00",
            "2026-02-30T09:30:00.123Z",
            "2026-11-23T25:30:00.123Z",
        ),
    ),
}
# A multiple of four years keeps the 29th of February a valid day.
_YEARS_OFF = {"occurred_in_future": 12, "occurred_before_retention": -8}


def break_line(line: bytes, reason: str, variant: int) -> bytes:
    """A line that is rejected for `reason` and for none that is tried before it.

    Args:
        line: a valid event, without its line end.
        reason: one of REJECT_REASONS.
        variant: picks among the ways to be wrong; any number.
    """
    if reason == "not_json":
        return _NOT_JSON[variant % len(_NOT_JSON)](line)
    if reason == "not_an_object":
        return _NOT_AN_OBJECT[variant % len(_NOT_AN_OBJECT)]
    event: dict[str, Any] = orjson.loads(line)
    if reason == "line_too_long":
        event["properties"] = {"note": "x" * MAX_LINE_BYTES}
    elif reason in _YEARS_OFF:
        year, rest = event["occurred_at"][:4], event["occurred_at"][4:]
        event["occurred_at"] = f"{int(year) + _YEARS_OFF[reason]}{rest}"
    else:
        name, values = _BAD_VALUES[reason]
        value = values[variant % len(values)]
        if value is _ABSENT:
            del event[name]
        else:
            event[name] = value
    return orjson.dumps(event)
