"""docs/contracts.md says what the code does, name for name."""

import re
from datetime import UTC, datetime
from uuid import UUID

import pyarrow as pa
import pytest

from kurashiru_pipeline.core import events, items, segments
from kurashiru_pipeline.environment import PROJECT_ROOT, SETTINGS
from kurashiru_pipeline.local import landing
from kurashiru_pipeline.local.catalogue import AUTHOR_TYPES, VALUE_TAGS
from kurashiru_pipeline.realtime import lookup
from kurashiru_pipeline.serving.dynamodb import Outcome
from kurashiru_pipeline.warehouse.exports import EXPORT_COLUMNS

CONTRACTS = (PROJECT_ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")
NOW = datetime(2026, 11, 23, 9, 30, tzinfo=UTC)
IDENTITY = UUID(int=7)


def section(title: str) -> str:
    """Text under a heading, up to the next."""
    return CONTRACTS.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def table(title: str, first_column: str) -> dict[str, list[str]]:
    """The table under a heading that begins with a column of that name: cells of each row, by the name in code type."""
    rows = section(title).partition(f"| {first_column} |")[2].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {row[0].strip("`"): row[1:] for row in cells}


def in_code(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def test_fields_of_an_event() -> None:
    assert tuple(table("Behaviour event", "field")) == events.EVENT_FIELDS


def test_names_of_events() -> None:
    names = section("Behaviour event").partition("\nNames: ")[2].partition("\n\n")[0]
    assert tuple(in_code(names)) == events.EVENT_NAMES
    assert set(events.MEANINGFUL_EVENT_NAMES) <= set(events.EVENT_NAMES)


def test_reject_reasons_in_the_order_they_are_tried() -> None:
    assert tuple(table("Behaviour event", "reason")) == events.REJECT_REASONS
    judged = (PROJECT_ROOT / "kurashiru_pipeline/sql/stage_parse.sql").read_text(encoding="utf-8")
    assert tuple(re.findall(r"then '(\w+)'", judged)) == events.REJECT_REASONS


def test_limits_of_an_event() -> None:
    text = section("Behaviour event")
    assert f"at most {events.MAX_LINE_BYTES:,} bytes" in text
    reasons = table("Behaviour event", "reason")
    assert f"over {events.MAX_LINE_BYTES:,} bytes" in reasons["line_too_long"]
    assert reasons["occurred_in_future"] == [f"over {events.MAX_HOURS_AHEAD} hours after the file was loaded"]


def test_settings_named_are_settings() -> None:
    named = set(re.findall(r"KURASHIRU_\w+", CONTRACTS))
    assert named
    assert named <= {setting.variable for setting in SETTINGS}


@pytest.mark.parametrize(
    ("title", "kind", "simulated"),
    [
        ("Recipe export (Parquet)", "recipes", landing.RECIPE_SCHEMA),
        ("User export (Parquet)", "users", landing.USER_SCHEMA),
    ],
)
def test_columns_of_an_export(title: str, kind: str, simulated: pa.Schema) -> None:
    types = {
        pa.string(): "string",
        pa.int32(): "int32",
        pa.bool_(): "boolean",
        pa.list_(pa.string()): "list of string",
        pa.timestamp("us"): "timestamp, UTC",
        pa.timestamp("us", tz="UTC"): "timestamp, UTC",
    }
    documented = {name: cells[0] for name, cells in table(title, "column").items()}
    for schema in (EXPORT_COLUMNS[kind], simulated):
        assert {field.name: types[field.type] for field in schema} == documented
        assert schema.names == list(documented)


def test_values_of_a_recipe() -> None:
    columns = table("Recipe export (Parquet)", "column")
    assert tuple(in_code(columns["value_tags"][1])) == VALUE_TAGS
    assert tuple(in_code(columns["author_type"][1])) == AUTHOR_TYPES


def test_attributes_of_an_item() -> None:
    common = {
        "algorithm": "popular",
        "version": 7,
        "generated_at": datetime(2026, 1, 1),
        "expires_at": datetime(2026, 2, 1),
    }
    item = items.build_item("u1", recipe_ids=["r1"], reasons=["viewed:r9"], scores=[0.5], **common)
    documented = {name: cells[0] for name, cells in table("DynamoDB item", "attribute").items()}
    assert {name: kind for name, value in item.items() for kind in value} == documented
    assert f"At most {items.MAX_ITEM_BYTES:,} bytes" in section("DynamoDB item")
    assert f"cut after {items.MAX_ANCHOR_CHARACTERS} characters" in section("DynamoDB item")
    tombstone = items.build_tombstone("u1", **common)
    absent = documented.keys() - tombstone.keys()
    assert absent == set(
        in_code(section("DynamoDB item").partition("without recipes (")[2].partition(" are absent")[0])
    )
    assert tombstone.keys() - documented.keys() == {"deleted"}
    assert {items.DEFAULT_USER, items.MARKER_USER} <= set(in_code(table("DynamoDB item", "attribute")["user_id"][1]))


def test_lists_for_people_without_one() -> None:
    text = section("DynamoDB item")
    assert list(table("DynamoDB item", "key")) == [
        "#segment:tag:<value tag>", "#segment:<platform>:<part of day>", items.DEFAULT_USER
    ]  # fmt: skip
    parts = re.findall(r"`(\w+)` from\s(\d+)", text)
    assert {part: int(hour) for part, hour in parts} == segments.PARTS_OF_DAY
    assert f"(UTC+{segments.HOURS_AHEAD_OF_UTC})" in text
    assert tuple(in_code(table("Behaviour event", "field")["platform"][1])) == segments.PLATFORMS


def test_reason_codes_and_how_they_are_shown() -> None:
    documented = table("DynamoDB item", "code")
    codes = {**items._PLAIN_OF_CODE, **{f"{code}0": kind for kind, code in items.CODE_OF_KIND.items()}}
    assert {code: in_code(cells[0])[0].partition(":")[0] for code, cells in documented.items()} == codes
    shown = {codes[code]: cells[1] for code, cells in documented.items()}
    assert shown == {kind: phrase.replace("{}", "...") for kind, phrase in lookup._PHRASES.items()}


def test_names_of_landed_files() -> None:
    layout = section("Landing folder")
    pattern = re.search(r"events/\S+", layout)
    assert pattern is not None
    name = pattern[0].replace("YYYY/MM/DD/HH", "2026/11/23/09").replace("YYYY-MM-DD-HH-MM-SS", "2026-11-23-09-30-00")
    assert landing.events_key(NOW, IDENTITY) == name.replace("<uuid>", str(IDENTITY))
    for kind in ("recipes", "users"):
        assert re.search(rf"{kind}/\S* ?\S*\.parquet", layout)
        assert re.fullmatch(rf"{kind}/[^/]+\.parquet", landing.export_key(kind, NOW, IDENTITY))
    assert landing.MANIFEST in layout


def test_answers_of_a_delivery_call() -> None:
    assert table("Delivery call", "status").keys() == set(Outcome)
    sent = (PROJECT_ROOT / "kurashiru_pipeline/sql/snowflake/begin_delivery.sql").read_text(encoding="utf-8")
    members = set(re.findall(r"'(\w+)'", re.sub(r"{{.*?}}", "", sent))) - {"none"}
    assert table("Delivery call", "field").keys() == members
