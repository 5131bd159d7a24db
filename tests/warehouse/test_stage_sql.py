"""Staging against the contract: a plain Python classifier, written from docs/contracts.md, must agree on every line."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.events import EVENT_FIELDS, EVENT_NAMES, REJECT_REASONS
from kurashiru_pipeline.local.faults import break_line
from tests.warehouse.small_lake import Tables, event_id

RETENTION_DAYS = 90
WINDOW = timedelta(hours=1)


# The contract in Python

UUID_FORM = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
ID_FORM = re.compile(r"[A-Za-z0-9_-]{1,64}")
TIME_FORM = re.compile(r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})(?:\.(\d{1,6}))?Z", re.ASCII)


def parse(line: str, *, first_key_counts: bool = True) -> Any:
    """A line as strict JSON; of a key given twice the first counts, or the last.

    Raises:
        ValueError: it is none.
    """

    def no_number(name: str) -> None:
        raise ValueError(name)

    value = json.loads(
        line,
        object_pairs_hook=lambda pairs: dict(reversed(pairs) if first_key_counts else pairs),
        parse_constant=no_number,
        strict=True,
    )
    json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no character
    return value


def moment_of(text: object) -> datetime | None:
    match = TIME_FORM.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        return None
    try:
        whole = datetime.strptime(match[1], "%Y-%m-%dT%H:%M:%S")
    except ValueError:
        return None
    # strptime takes 60 and 61 for seconds, and gives back another moment
    if whole.strftime("%S") != match[1][-2:]:
        return None
    return whole + timedelta(microseconds=int((match[2] or "0").ljust(6, "0")))


def is_id(value: object) -> bool:
    return isinstance(value, str) and ID_FORM.fullmatch(value) is not None


def reject_reason(line: str, loaded_at: datetime, *, first_key_counts: bool = True) -> str | None:  # noqa: PLR0911
    """The first reason that holds, or None for a good event."""
    if len(line.encode()) > 1_000_000:
        return "line_too_long"
    try:
        event = parse(line, first_key_counts=first_key_counts)
    except ValueError:
        return "not_json"
    if not isinstance(event, dict):
        return "not_an_object"
    event_id, name, recipe_id = event.get("event_id"), event.get("event_name"), event.get("recipe_id")
    occurred_at = moment_of(event.get("occurred_at"))
    if not isinstance(event_id, str) or not UUID_FORM.fullmatch(event_id):
        return "bad_event_id"
    if not isinstance(name, str) or not 1 <= len(name) <= 64 or "\n" in name:
        return "bad_event_name"
    if not is_id(event.get("user_id")):
        return "bad_user_id"
    if recipe_id is not None and not is_id(recipe_id):
        return "bad_recipe_id"
    if occurred_at is None:
        return "bad_occurred_at"
    if occurred_at > loaded_at + timedelta(hours=24):
        return "occurred_in_future"
    if occurred_at < loaded_at - timedelta(days=RETENTION_DAYS):
        return "occurred_before_retention"
    return None


def staged_row(line: str, *, first_key_counts: bool = True) -> dict[str, Any]:
    """A good event as it should be staged."""
    event = parse(line, first_key_counts=first_key_counts)
    row = {name: event.get(name) for name in EVENT_FIELDS}
    for name in ("session_id", "platform", "app_version"):
        row[name] = row[name] if isinstance(row[name], str) else None
    row["properties"] = row["properties"] if isinstance(row["properties"], dict) else None
    row["event_id"] = row["event_id"].lower()
    row["occurred_at"] = moment_of(row["occurred_at"])
    return row


@dataclass
class Reference:
    """Micro-batches as the contract has them; `loads` are those of one batch, each with its moment."""

    first_key_counts: bool = True
    staged: list[tuple[dict[str, Any], datetime]] = field(default_factory=list)

    def reason(self, line: str, loaded_at: datetime) -> str | None:
        return reject_reason(line, loaded_at, first_key_counts=self.first_key_counts)

    def stage(self, loads: Sequence[tuple[datetime, list[str]]]) -> tuple[Counter[str], list[dict[str, Any]]]:
        """(lines by reject reason, and `duplicate`), rows staged."""
        window_start = min(loaded_at for loaded_at, lines in loads if lines) - WINDOW
        seen = {row["event_id"] for row, loaded_at in self.staged if loaded_at >= window_start}
        outcome: Counter[str] = Counter()
        rows = []
        for loaded_at, lines in sorted(loads, key=lambda load: load[0]):
            for line in lines:
                reason = self.reason(line, loaded_at)
                if reason is not None:
                    outcome[reason] += 1
                elif (row := staged_row(line, first_key_counts=self.first_key_counts))["event_id"] in seen:
                    outcome["duplicate"] += 1
                else:
                    seen.add(row["event_id"])
                    rows.append(row)
                    self.staged.append((row, loaded_at))
        return outcome, rows


# What there is to classify

EPOCHS = count()


def next_epoch() -> datetime:
    """A time of its own for each example, far from the others' windows of de-duplication."""
    return datetime(2026, 1, 1) + timedelta(days=2 * next(EPOCHS))


def event(number: int, occurred_at: datetime, **changes: Any) -> dict[str, Any]:
    made = {
        "event_id": event_id(number),
        "event_name": "recipe_view",
        "user_id": "u1",
        "session_id": "s1",
        "recipe_id": "r1",
        "occurred_at": time_text(occurred_at),
        "platform": "ios",
        "app_version": "1.0",
        "properties": {"position": 1},
    }
    return {**made, **changes}


def time_text(moment: datetime) -> str:
    return f"{moment.isoformat(timespec='microseconds')}Z"


def check(tables: Tables, reference: Reference, loads: Sequence[tuple[datetime, list[str]]]) -> None:
    """Stage one micro-batch of several loads, and compare everything with the reference."""
    for number, (loaded_at, lines) in enumerate(loads):
        tables.insert_lines(lines, file_name=f"{loaded_at:%Y%m%d%H%M%S}-{number}", loaded_at=loaded_at)
    accounting = tables.stage()
    lines = [line for _, lines in loads for line in lines]
    if not lines:
        assert accounting is None
        return
    assert accounting is not None
    batch_id = accounting.batch_id
    outcome, expected = reference.stage(loads)

    rejected = tables.rows(f"select reason, payload from staging.rejected_events where batch_id = {batch_id}")
    duplicates = outcome.pop("duplicate", 0)
    assert Counter(reason for reason, _ in rejected) == outcome
    assert Counter(rejected) == Counter(
        (reason, line)
        for loaded_at, load in loads
        for line in load
        if (reason := reference.reason(line, loaded_at)) is not None
    )
    columns = ", ".join(f"cast({name} as varchar) as {name}" if name == "event_id" else name for name in EVENT_FIELDS)
    found = tables.dicts(f"select {columns} from staging.behavior_events where batch_id = {batch_id} order by event_id")
    for row in found:
        row["properties"] = None if row["properties"] is None else json.loads(row["properties"])
    assert found == sorted(expected, key=lambda row: str(row["event_id"]))

    assert accounting.is_balanced
    assert accounting.read_count == len(lines)
    assert accounting.staged_count == len(expected)
    assert accounting.duplicate_count == duplicates
    assert accounting.rejected_count == len(rejected)
    assert accounting.unknown_name_count == sum(row["event_name"] not in EVENT_NAMES for row in expected)
    assert accounting.user_count == len({row["user_id"] for row in expected})
    by_file = tables.rows(f"select line_count from ops.batch_files where batch_id = {batch_id} order by file_name")
    assert [lines for (lines,) in by_file] == [len(lines) for _, lines in loads if lines]


# One line, every way to be right or wrong

NOW = datetime(2026, 11, 23, 9, 30, 0, 500_000)
GOOD = event(1, NOW)


def changed(**changes: Any) -> str:
    return json.dumps({**GOOD, **changes}, ensure_ascii=False)


def without(name: str) -> str:
    return json.dumps({key: value for key, value in GOOD.items() if key != name})


DAY, SECOND, MICROSECOND = timedelta(days=1), timedelta(seconds=1), timedelta(microseconds=1)
RETENTION = timedelta(days=RETENTION_DAYS)
PADDING = 1_000_000 - len(changed(session_id="").encode())

LINES: list[tuple[str, str | None]] = [
    (changed(), None),
    (f" \t{changed()}\r", None),
    (json.dumps(GOOD), None),
    (json.dumps(GOOD, indent=1).replace("\n", "\t"), None),
    (changed(event_id=GOOD["event_id"].upper()), None),
    (changed(session_id="x" * PADDING), None),
    (changed(session_id="x" * (PADDING + 1)), "line_too_long"),
    (changed(session_id="鶏" * (PADDING // 3 + 1)), "line_too_long"),
    ("x" * 1_000_001, "line_too_long"),
    ("", "not_json"),
    (" ", "not_json"),
    ("\0", "not_json"),
    ("not json", "not_json"),
    ("NULL", "not_json"),
    (changed()[:-1], "not_json"),
    (changed()[1:], "not_json"),
    (changed() + changed(), "not_json"),
    (changed() + "\0", "not_json"),
    ("\ufeff" + changed(), "not_json"),
    (changed().replace('"', "'"), "not_json"),
    (changed(session_id="\\xff"), None),
    (changed(session_id="@").replace("@", "\\xff"), "not_json"),
    (changed(session_id="@").replace("@", "\\ud800"), "not_json"),
    (changed(session_id="@").replace("@", "\t"), "not_json"),
    (changed(session_id="@").replace('"@"', "01"), "not_json"),
    ("[" * 500, "not_json"),
    ("null", "not_an_object"),
    ("42", "not_an_object"),
    ('"text"', "not_an_object"),
    ("true", "not_an_object"),
    ("[]", "not_an_object"),
    (f"[{changed()}]", "not_an_object"),
    ("{}", "bad_event_id"),
    (without("event_id"), "bad_event_id"),
    (changed(event_id=None), "bad_event_id"),
    (changed(event_id=""), "bad_event_id"),
    (changed(event_id=7), "bad_event_id"),
    (changed(event_id=[GOOD["event_id"]]), "bad_event_id"),
    (changed(event_id=GOOD["event_id"].replace("-", "")), "bad_event_id"),
    (changed(event_id=f"{{{GOOD['event_id']}}}"), "bad_event_id"),
    (changed(event_id=GOOD["event_id"] + "\n"), "bad_event_id"),
    (changed(event_id="٠" * 8 + GOOD["event_id"][8:]), "bad_event_id"),
    (changed(event_id="g" + GOOD["event_id"][1:]), "bad_event_id"),
    (without("event_name"), "bad_event_name"),
    (changed(event_name=None), "bad_event_name"),
    (changed(event_name=""), "bad_event_name"),
    (changed(event_name=3), "bad_event_name"),
    (changed(event_name="two\nlines"), "bad_event_name"),
    (changed(event_name="x" * 64), None),
    (changed(event_name="鶏" * 64), None),
    (changed(event_name="🍳" * 64), None),
    (changed(event_name="x" * 65), "bad_event_name"),
    (changed(event_name="recipe_viewed"), None),
    (without("user_id"), "bad_user_id"),
    (changed(user_id=None), "bad_user_id"),
    (changed(user_id=20), "bad_user_id"),
    (changed(user_id="someone@example.com"), "bad_user_id"),
    (changed(user_id="#default"), "bad_user_id"),
    (changed(user_id="利用者"), "bad_user_id"),
    (changed(user_id="u1\n"), "bad_user_id"),
    (changed(user_id=""), "bad_user_id"),
    (changed(user_id="u" * 65), "bad_user_id"),
    (changed(user_id="_-" * 32), None),
    (without("recipe_id"), None),
    (changed(recipe_id=None), None),
    (changed(recipe_id=""), "bad_recipe_id"),
    (changed(recipe_id=17), "bad_recipe_id"),
    (changed(recipe_id=False), "bad_recipe_id"),
    (changed(recipe_id={}), "bad_recipe_id"),
    (changed(recipe_id="null"), None),
    (changed(recipe_id="r,1"), "bad_recipe_id"),
    (changed(recipe_id="r" * 65), "bad_recipe_id"),
    (without("occurred_at"), "bad_occurred_at"),
    (changed(occurred_at=None), "bad_occurred_at"),
    (changed(occurred_at=1_700_000_000), "bad_occurred_at"),
    (changed(occurred_at="2026-11-23"), "bad_occurred_at"),
    (changed(occurred_at="2026-11-23 09:30:00Z"), "bad_occurred_at"),
    (changed(occurred_at="2026-11-23T09:30:00"), "bad_occurred_at"),
    (changed(occurred_at="2026-11-23T09:30:00+09:00"), "bad_occurred_at"),
    (changed(occurred_at="2026-11-23T09:30:00z"), "bad_occurred_at"),
    (changed(occurred_at="2026-11-23T09:30Z"), "bad_occurred_at"),
    (changed(occurred_at="2026-11-23T09:30:00.Z"), "bad_occurred_at"),
    (changed(occurred_at="2026-11-23T09:30:00.1234567Z"), "bad_occurred_at"),
    (changed(occurred_at="2026-02-29T09:30:00Z"), "bad_occurred_at"),
    (changed(occurred_at="2026-13-01T09:30:00Z"), "bad_occurred_at"),
    (changed(occurred_at="2026-11-23T24:00:00Z"), "bad_occurred_at"),
    (changed(occurred_at="2026-11-23T09:60:00Z"), "bad_occurred_at"),
    (changed(occurred_at="2026-11-23T09:59:60Z"), "bad_occurred_at"),
    (changed(occurred_at="2026-11-23T09:30:00Z"), None),
    (changed(occurred_at="2026-11-23T09:30:00.1Z"), None),
    (changed(occurred_at="2026-11-23T09:30:00.123456Z"), None),
    (changed(occurred_at="9999-12-31T23:59:59Z"), "occurred_in_future"),
    (changed(occurred_at=time_text(NOW + DAY)), None),
    (changed(occurred_at=time_text(NOW + DAY + MICROSECOND)), "occurred_in_future"),
    (changed(occurred_at=time_text(NOW + DAY + SECOND)), "occurred_in_future"),
    (changed(occurred_at=time_text(NOW - RETENTION)), None),
    (changed(occurred_at=time_text(NOW - RETENTION - MICROSECOND)), "occurred_before_retention"),
    (changed(occurred_at=time_text(NOW - RETENTION - SECOND)), "occurred_before_retention"),
    (changed(occurred_at="0001-01-01T00:00:00Z"), "occurred_before_retention"),
    (changed(session_id=None, platform=None, app_version=None, properties=None), None),
    (changed(session_id=1, platform=["ios"], app_version=1.5, properties="none"), None),
    (changed(session_id="", platform="", properties=[1, {"a": 1}]), None),
    (changed(session_id="nul \0, quote \" ' \\, 鶏🍳\u2028\x7f"), None),
    (changed(properties={"nested": {"deep": [1, None, {"鶏": "🍳"}]}, "": {}}), None),
    (changed(properties={"big": 2**80, "long": 0.1 + 0.2, "tiny": 5e-324, "minus": -(2**63)}), None),
    (changed(extra={"more": 1}, EVENT_ID="other"), None),
    ('{"event_id": "first", ' + changed()[1:], "bad_event_id"),
    (changed()[:-1] + ', "event_id": "second"}', None),
    (changed().replace('"event_id"', '"\\u0065vent_id"'), None),
]


def test_every_kind_of_line_gets_its_reason(engine_tables: Tables) -> None:
    assert {reason for _, reason in LINES} == {*REJECT_REASONS, None}
    for line, reason in LINES:
        assert reject_reason(line, NOW) == reason, line[:200]
    # Each good line an event of its own, so that none is a duplicate.
    lines = [
        line.replace(GOOD["event_id"], event_id(1000 + number)).replace(GOOD["event_id"].upper(), event_id(900).upper())
        for number, (line, _) in enumerate(LINES)
    ]
    check(engine_tables, Reference(first_key_counts=engine_tables.first_key_counts), [(NOW, lines)])


@pytest.mark.parametrize("reason", REJECT_REASONS)
def test_the_simulators_faults_are_rejected_for_their_reason(tables: Tables, reason: str) -> None:
    epoch = next_epoch()
    line = json.dumps(event(1, epoch)).encode()
    lines = [break_line(line, reason, variant).decode(errors="backslashreplace") for variant in range(12)]
    tables.insert_lines(lines, file_name=reason, loaded_at=epoch)
    accounting = tables.stage()
    assert accounting is not None
    found = tables.rows(f"select reason from staging.rejected_events where batch_id = {accounting.batch_id}")
    assert found == [(reason,)] * 12


def test_what_json_parsers_commonly_forgive_is_forgiven(tables: Tables) -> None:
    """The contract says so: DuckDB reads NaN, Infinity and trailing commas, and so does Snowflake."""
    epoch = next_epoch()
    lenient = [
        json.dumps(event(1, epoch, properties={"a": float("nan")})),
        json.dumps(event(2, epoch, properties={"a": float("-inf")})),
        json.dumps(event(3, epoch))[:-1] + ",}",
        "nan",
    ]
    tables.insert_lines(lenient, file_name="lenient", loaded_at=epoch)
    accounting = tables.stage()
    assert accounting is not None
    assert (accounting.staged_count, accounting.rejected_count) == (3, 1)
    batch = f"where batch_id = {accounting.batch_id}"
    assert tables.rows(f"select reason from staging.rejected_events {batch}") == [("not_an_object",)]


def test_nothing_parses_what_is_no_json_in_a_large_batch(tables: Tables) -> None:
    """An engine that reorders conditions while it runs must not come to parse a broken line."""
    epoch = next_epoch()
    lines = [
        json.dumps(event(number, epoch)) if number % 997 == 0 else f"broken {number}" if number % 2 else "[1]"
        for number in range(60_000)
    ]
    tables.insert_lines(lines, file_name="large", loaded_at=epoch)
    accounting = tables.stage()
    assert accounting is not None
    assert (accounting.staged_count, accounting.rejected_count) == (61, 59_939)


# Random lines

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_values = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False, allow_infinity=False), texts
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=5,
)
offsets = st.one_of(
    st.integers(-100, 100).map(lambda minutes: timedelta(minutes=minutes)),
    st.sampled_from([DAY, -RETENTION]).flatmap(
        lambda edge: st.integers(-2, 2).map(lambda micros: edge + micros * MICROSECOND)
    ),
)
changes = st.fixed_dictionaries(
    {},
    optional={
        "event_id": json_values,
        "event_name": st.one_of(st.sampled_from(EVENT_NAMES), texts, json_values),
        "user_id": st.one_of(st.from_regex(ID_FORM, fullmatch=True), texts, json_values),
        "session_id": json_values,
        "recipe_id": st.one_of(st.none(), st.from_regex(ID_FORM, fullmatch=True), json_values),
        "occurred_at": st.one_of(st.from_regex(TIME_FORM, fullmatch=True).filter(str.isascii), json_values),
        "platform": json_values,
        "app_version": json_values,
        "properties": st.one_of(st.dictionaries(texts, json_values, max_size=3), json_values),
        "surplus": json_values,
    },
)


@st.composite
def lines(draw: st.DrawFn, epoch: datetime) -> str:
    """A line about `epoch`: mostly an event with a few fields changed or missing, sometimes cut or not an object."""
    kind = draw(st.sampled_from(["event", "event", "event", "event", "cut", "value", "text"]))
    if kind == "text":
        return draw(texts).replace("\n", "")
    if kind == "value":
        return json.dumps(draw(json_values))
    made = {**event(draw(st.integers(0, 12)), epoch + draw(offsets)), **draw(changes)}
    for name in draw(st.sets(st.sampled_from(EVENT_FIELDS), max_size=1)):
        del made[name]
    if draw(st.booleans()) and isinstance(made.get("event_id"), str):
        made["event_id"] = made["event_id"].upper()
    line = json.dumps(made, ensure_ascii=draw(st.booleans()))
    return line[: draw(st.integers(0, len(line)))] if kind == "cut" else line


def test_random_lines_are_judged_as_the_contract_says(tables: Tables) -> None:
    @given(st.data())
    @tables.profile(60)
    def judge(data: st.DataObject) -> None:
        epoch = next_epoch()
        check(tables, Reference(), [(epoch, data.draw(st.lists(lines(epoch), min_size=1, max_size=40)))])

    judge()


# De-duplication over time

gaps = st.sampled_from(
    [MICROSECOND, timedelta(minutes=20), WINDOW - MICROSECOND, WINDOW, WINDOW + MICROSECOND, 3 * WINDOW]
)
loads = st.tuples(gaps, st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), max_size=6))


def test_an_event_id_counts_once_within_the_window(tables: Tables) -> None:
    """Over micro-batches of one or two loads each, with gaps to the microsecond about the window."""

    @given(st.lists(st.lists(loads, min_size=1, max_size=2), min_size=1, max_size=4))
    @tables.profile(40)
    def deduplicate(batches: list[list[tuple[timedelta, list[tuple[int, bool, bool]]]]]) -> None:
        moment = next_epoch()
        reference = Reference()
        first = next(EPOCHS) * 100  # ids of this example
        for batch in batches:
            made = []
            for gap, drawn in batch:
                moment += gap
                events = [
                    event(first + number, moment, user_id="u1" if is_valid else "u 1", properties={"row": row})
                    for row, (number, _, is_valid) in enumerate(drawn)
                ]
                made.append(
                    (
                        moment,
                        [
                            json.dumps({**one, "event_id": one["event_id"].upper() if is_upper else one["event_id"]})
                            for one, (_, is_upper, _) in zip(events, drawn, strict=True)
                        ],
                    )
                )
            check(tables, reference, made)

    deduplicate()


def test_the_first_delivery_counts(tables: Tables) -> None:
    epoch = next_epoch()
    for minutes, name in ((1, "b"), (0, "z"), (1, "a")):
        lines = [json.dumps(event(1, epoch, session_id=f"{name}{row}")) for row in range(2)]
        tables.insert_lines(lines, file_name=f"first-{name}", loaded_at=epoch + timedelta(minutes=minutes))
    accounting = tables.stage()
    assert accounting is not None
    assert (accounting.staged_count, accounting.duplicate_count) == (1, 5)
    batch = f"where batch_id = {accounting.batch_id}"
    assert tables.rows(f"select session_id from staging.behavior_events {batch}") == [("z0",)]


# The ledger


def test_an_empty_stream_makes_no_micro_batch(tables: Tables) -> None:
    before = tables.count("ops.batches")
    assert tables.stage() is None
    assert tables.count("ops.batches") == before


def test_a_batch_of_nothing_but_rejects_balances_too(tables: Tables) -> None:
    check(tables, Reference(), [(next_epoch(), ["broken", "also broken"])])


def test_the_watermark_is_the_newest_moment_that_is_not_ahead_of_its_load_and_never_goes_back(
    fresh_tables: Tables,
) -> None:
    clock = datetime(2026, 11, 23, 12)
    hour = timedelta(hours=1)
    steps = [
        (["broken"], clock),  # no event yet: the clock's
        ([json.dumps(event(1, clock - 5 * hour))], clock),
        ([json.dumps(event(2, clock + hour))], clock + hour),
        ([json.dumps(event(3, clock + 9 * hour)), json.dumps(event(4, clock + 2 * hour))], clock + 2 * hour),
        ([json.dumps(event(5, clock))], clock + 2 * hour),
        ([json.dumps(event(5, clock + 3 * hour, user_id="u 1"))], clock + 2 * hour),
    ]
    for number, (lines, expected) in enumerate(steps):
        fresh_tables.insert_lines(lines, file_name=f"{number}", loaded_at=clock + number * hour)
        accounting = fresh_tables.stage(clock)
        assert accounting is not None
        [last] = fresh_tables.warehouse.fetch("last_batch").to_pylist()
        assert last == {"batch_id": number + 1, "watermark_at": expected}, number


def test_erasures_alone_make_a_micro_batch(fresh_tables: Tables) -> None:
    fresh_tables.insert("ops.pending_erasures", [{"user_id": "u1"}, {"user_id": "u2"}, {"user_id": "u1"}])
    accounting = fresh_tables.stage()
    assert accounting is not None
    assert (accounting.read_count, accounting.erased_user_count, accounting.is_balanced) == (0, 2, True)
    assert fresh_tables.rows("select batch_id, user_id from ops.batch_erasures order by user_id") == [
        (1, "u1"),
        (1, "u2"),
    ]
    assert fresh_tables.count("ops.pending_erasures") == 0
    assert fresh_tables.stage() is None


def test_the_window_and_the_retention_are_settings(fresh_tables: Tables) -> None:
    epoch = datetime(2026, 11, 23)
    for number, hours in enumerate((0, 5)):
        moment = epoch + timedelta(hours=hours)
        fresh_tables.insert_lines([json.dumps(event(1, moment))], file_name=f"{number}", loaded_at=moment)
        accounting = fresh_tables.stage(KURASHIRU_DEDUPLICATION_HOURS="5")
        assert accounting is not None
        assert accounting.duplicate_count == number
    fresh_tables.insert_lines([json.dumps(event(2, epoch - 2 * DAY))], file_name="old", loaded_at=epoch)
    accounting = fresh_tables.stage(KURASHIRU_RETENTION_DAYS="1")
    assert accounting is not None
    assert accounting.rejected_count == 1
