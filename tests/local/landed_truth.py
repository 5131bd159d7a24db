"""What is in a landing folder, read by plain Python and judged by the contract's reject rules (docs/contracts.md)."""

import gzip
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

KNOWN_NAMES = {
    "recipe_impression", "recipe_view", "recipe_favorite", "recipe_unfavorite", "recipe_cooked",
    "shopping_list_add", "search", "recommendation_impression", "recommendation_click",
}  # fmt: skip
EVENT_KEY = re.compile(
    r"events/(\d{4})/(\d\d)/(\d\d)/(\d\d)/kurashiru-events-1-\1-\2-\3-\4-(\d\d)-(\d\d)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.gz"
)


def event_files(landing: Path) -> list[Path]:
    return sorted((landing / "events").rglob("*.gz"))


def read_lines(landing: Path) -> list[bytes]:
    """Every line, in the order of the file names."""
    lines = []
    for path in event_files(landing):
        content = gzip.decompress(path.read_bytes())
        assert content.endswith(b"\n")
        lines += content[:-1].split(b"\n")
    return lines


def judge(line: bytes, loaded_at: datetime, retention_days: int = 90) -> str | None:  # noqa: PLR0911
    """The first reason to reject a line, or None."""
    if len(line) > 1_000_000:
        return "line_too_long"
    try:
        event = json.loads(line)
    except ValueError:
        return "not_json"
    if not isinstance(event, dict):
        return "not_an_object"
    if not _matches(event.get("event_id"), r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"):
        return "bad_event_id"
    if not isinstance(event.get("event_name"), str) or not 1 <= len(event["event_name"]) <= 64:
        return "bad_event_name"
    if not _matches(event.get("user_id"), r"[A-Za-z0-9_-]{1,64}"):
        return "bad_user_id"
    if event.get("recipe_id") is not None and not _matches(event["recipe_id"], r"[A-Za-z0-9_-]{1,64}"):
        return "bad_recipe_id"
    if not _matches(event.get("occurred_at"), r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z"):
        return "bad_occurred_at"
    try:
        occurred_at = datetime.fromisoformat(event["occurred_at"])
    except ValueError:
        return "bad_occurred_at"
    if occurred_at > loaded_at + timedelta(hours=24):
        return "occurred_in_future"
    if occurred_at < loaded_at - timedelta(days=retention_days):
        return "occurred_before_retention"
    return None


def _matches(value: object, pattern: str) -> bool:
    return isinstance(value, str) and re.fullmatch(pattern, value) is not None


@dataclass
class Truth:
    lines: int = 0
    events: list[dict] = field(default_factory=list)  # first deliveries of valid events, in order
    duplicates: int = 0
    rejected: Counter = field(default_factory=Counter)
    late: int = 0  # first deliveries an hour or more older than a line before them


def recount(landing: Path, loaded_at: datetime | None = None) -> Truth:
    loaded_at = loaded_at or datetime.now(UTC)
    truth = Truth()
    first_line: dict[str, bytes] = {}
    for line in read_lines(landing):
        truth.lines += 1
        reason = judge(line, loaded_at)
        if reason is not None:
            truth.rejected[reason] += 1
            continue
        event = json.loads(line)
        if event["event_id"] in first_line:
            assert line == first_line[event["event_id"]], "a repeated line is an exact repeat"
            truth.duplicates += 1
            continue
        first_line[event["event_id"]] = line
        truth.events.append(event)
    return truth


def assert_manifest_is_true(landing: Path, loaded_at: datetime | None = None) -> Truth:
    manifest = json.loads((landing / "manifest.json").read_bytes())
    truth = recount(landing, loaded_at)
    by_name = Counter(event["event_name"] for event in truth.events)
    assert manifest["lines"] == truth.lines
    assert manifest["files"] == len(event_files(landing))
    assert manifest["valid_events"] == len(truth.events)
    assert manifest["duplicates"] == truth.duplicates
    assert Counter(manifest["rejected"]) == truth.rejected
    assert manifest["rejected_total"] == truth.rejected.total()
    assert Counter(manifest["events_by_name"]) == by_name
    assert manifest["unknown_event_names"] == sum(by_name[name] for name in by_name if name not in KNOWN_NAMES)
    assert manifest["lines"] == manifest["valid_events"] + manifest["duplicates"] + manifest["rejected_total"]
    for name in ("lines", "files", "valid_events", "duplicates", "rejected_total", "late", "users", "recipes"):
        assert manifest[name] == sum(run[name] for run in manifest["runs"])
    return truth
