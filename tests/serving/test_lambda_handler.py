"""The Lambda function behind serving.put_items: every row answered, nothing newer overwritten, whatever comes."""

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pyarrow as pa
import pytest
from botocore.exceptions import ReadTimeoutError
from faulty_dynamodb import TABLE, THROTTLED, Answer, Rig, error, make_item, users_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from put_items_calls import EXPIRES_AT, GENERATED_AT, HEADERS, TOMBSTONE, Value, body_of, event_of, recommendation

from kurashiru_pipeline.core.item_columns import encode_lists
from kurashiru_pipeline.core.items import DEFAULT_USER, Item, content_hash, decode_item, supersedes
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.serving import edge_package, lambda_handler
from kurashiru_pipeline.serving.dynamodb import RecommendationTable, connect
from kurashiru_pipeline.serving.external_function import MAX_ROWS
from kurashiru_pipeline.serving.lambda_handler import answer_request

SECONDS = 20.0
Rows = list[tuple[Any, ...]]


def call(rig: Rig, rows: Rows, seconds: float = SECONDS) -> list[Value]:
    """Answers to the rows, after a check that they come back under the rows' numbers."""
    response = answer_request(event_of(body_of(rows)), rig.table, seconds)
    assert response["statusCode"] == 200
    data = json.loads(response["body"])["data"]
    assert [number for number, _ in data] == list(range(len(rows)))
    return [value for _, value in data]


def statuses(rig: Rig, rows: Rows, seconds: float = SECONDS) -> list[str]:
    return [value["status"] for value in call(rig, rows, seconds)]


def refused(event: dict[str, Any], rig: Rig) -> str:
    """Why an event is no request; nothing may be written."""
    rig.faults.on("PutItem", lambda number, request: error(500, "InternalServerError"))
    response = answer_request(event, rig.table, SECONDS)
    assert response["statusCode"] == 400
    assert not rig.faults.calls
    return str(json.loads(response["body"])["error"])


def items(rig: Rig, table: str = TABLE) -> dict[str, Item]:
    """Every item as it lies in the table."""
    found = rig.client.scan(TableName=table, ConsistentRead=True)["Items"]
    return {item["user_id"]["S"]: item for item in found}


# --------------------------------------------------------------------------------------------------------- protocol


def test_rows_become_items_and_are_answered_by_number(rig: Rig) -> None:
    rows = [
        ("u1", 7, recommendation()),
        ("u2", 7, TOMBSTONE),
        (DEFAULT_USER, 7, recommendation(reasons=["popular"] * 2)),
        ("#segment:tag:baby_food", 7, recommendation()),
    ]
    assert call(rig, rows) == [{"status": "OK", "dropped_recipes": 0}] * 4
    stored = items(rig)
    assert stored["u1"] == {
        "user_id": {"S": "u1"},
        "version": {"N": "7"},
        "recipe_ids": {"S": "r1,r2"},
        "reasons": {"S": "v0,p"},
        "anchors": {"S": "r9"},
        "scores": {"S": "500,250"},
        "algorithm": {"S": "m1"},
        "generated_at": {"N": str(GENERATED_AT)},
        "expires_at": {"N": str(EXPIRES_AT)},
    }
    assert decode_item(stored["u2"]).is_deleted
    assert stored.keys() == {"u1", "u2", DEFAULT_USER, "#segment:tag:baby_food"}


def test_row_numbers_are_snowflakes_not_ours(rig: Rig) -> None:
    body = json.dumps({"data": [[41, "u1", 1, TOMBSTONE], [7, "u2", 1, TOMBSTONE], [8]]})
    response = answer_request(event_of(body), rig.table, SECONDS)
    assert [number for number, _ in json.loads(response["body"])["data"]] == [41, 7, 8]


def test_empty_batch_is_answered(rig: Rig) -> None:
    assert call(rig, []) == []


def test_response_can_be_checked_by_its_digest(rig: Rig) -> None:
    response = answer_request(
        event_of(body_of([("u1", 1, recommendation()), ("鶏", 1, TOMBSTONE)])), rig.table, SECONDS
    )
    assert b64decode(response["headers"]["Content-MD5"]) == md5(response["body"].encode()).digest()
    assert response["headers"]["Content-Type"] == "application/json"
    assert response["isBase64Encoded"] is False


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title])
def test_headers_come_in_any_case(rig: Rig, change: Any, capsys: pytest.CaptureFixture[str]) -> None:
    headers = {change(name): value for name, value in HEADERS.items()}
    response = answer_request(event_of(body_of([("u1", 1, TOMBSTONE)]), headers), rig.table, SECONDS)
    assert response["statusCode"] == 200
    assert json.loads(capsys.readouterr().out)["batch_id"] == HEADERS["sf-external-function-query-batch-id"]


@pytest.mark.parametrize("as_bytes", [str.encode, lambda body: gzip.compress(body.encode())], ids=["plain", "gzip"])
def test_body_may_be_binary_and_gzipped(rig: Rig, as_bytes: Any) -> None:
    body = b64encode(
        as_bytes(body_of([("u1", 3, recommendation(reasons=["popular", "ingredient:鶏もも肉"]))]))
    ).decode()
    headers = {**HEADERS, "Content-Encoding": "gzip"}
    assert answer_request(event_of(body, headers, is_base64=True), rig.table, SECONDS)["statusCode"] == 200
    assert decode_item(items(rig)["u1"]).entries[1].reason == "ingredient:鶏もも肉"


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("sf-external-function-format-version", "2.0"),
        ("sf-external-function-format-version", None),
        ("sf-external-function-format", "arrow"),
        ("sf-external-function-format", None),
    ],
)
def test_another_format_is_refused_by_name(rig: Rig, header: str, value: str | None) -> None:
    headers = {name: text for name, text in {**HEADERS, header: value}.items() if text is not None}
    complaint = refused(event_of(body_of([("u1", 1, TOMBSTONE)]), headers), rig)
    assert repr(value) in complaint
    assert "known: json 1.0" in complaint


def test_event_without_headers_or_body_is_refused(rig: Rig) -> None:
    assert "known: json 1.0" in refused({"headers": None, "body": None}, rig)
    assert "not JSON" in refused({"headers": HEADERS, "body": None}, rig)


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("", "not JSON"),
        ('{"data": [[0, "u1", 1', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not of the form"),
        ('{"rows": []}', "not of the form"),
        ('{"data": {"0": []}}', "not of the form"),
        ('{"data": [[0, "u1", 1, {}], "u2"]}', "row 1 does not start with a row number"),
        ('{"data": [[]]}', "row 0 does not start with a row number"),
        ('{"data": [["0", "u1"]]}', "row 0 does not start with a row number"),
        ('{"data": [[true]]}', "row 0 does not start with a row number"),
        ('{"data": [[-1]]}', "row 0 does not start with a row number"),
        ('{"data": [[0.5]]}', "row 0 does not start with a row number"),
        ('{"data": [null]}', "row 0 does not start with a row number"),
        (json.dumps({"data": [[number] for number in range(MAX_ROWS + 1)]}), "lower MAX_BATCH_ROWS"),
    ],
)
def test_what_is_no_batch_is_refused_as_a_whole(rig: Rig, body: str, complaint: str) -> None:
    assert complaint in refused(event_of(body), rig)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (gzip.compress(body_of([("u1", 1, TOMBSTONE)]).encode())[:-12], "cut off"),
        (gzip.compress(b" " * 20_000_000), "more than 10000000 bytes"),
        (b"\x1f\x8b nothing of the kind", "not JSON"),
        (b"\xff\xfe", "not JSON"),
    ],
)
def test_broken_binary_body_is_refused_as_a_whole(rig: Rig, content: bytes, complaint: str) -> None:
    assert complaint in refused(event_of(b64encode(content).decode(), is_base64=True), rig)


def test_body_that_is_not_base64_is_refused(rig: Rig) -> None:
    assert "not JSON" in refused(event_of("{}{}", is_base64=True), rig)


HUGE = "1" + "0" * 5_000


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ("", "got 0 arguments"),
        (', "u1", 1', "got 2 arguments"),
        (', "u1", 1, {}, 1', "got 4 arguments"),
        (", null, 1, {}", "user_id is not a user id: None"),
        (', "", 1, {}', "user_id is not a user id"),
        (', "a b", 1, {}', "user_id is not a user id: 'a b'"),
        (', "#marker", 1, {}', "user_id is not a user id: '#marker'"),
        (', "\\ud800", 1, {}', "user_id is not a user id"),
        (", 7, 1, {}", "user_id is not a user id: 7"),
        (f', "{"u" * 65}", 1, {{}}', "user_id is not a user id"),
        (', "u1", null, {}', "version is not a whole number"),
        (', "u1", -1, {}', "version is not a whole number"),
        (', "u1", 1.5, {}', "version is not a whole number"),
        (', "u1", 1e18, {}', "version is not a whole number"),
        (', "u1", 1e999999999999999999999, {}', "version is not a whole number"),
        (', "u1", 1e999999999, {}', "version is not a whole number"),
        (f', "u1", {HUGE}, {{}}', "version is not a whole number"),
        (', "u1", NaN, {}', "version is not a whole number"),
        (', "u1", "1", {}', "version is not a whole number"),
        (', "u1", true, {}', "version is not a whole number"),
        (', "u1", 1, null', "recommendation is not an object: None"),
        (', "u1", 1, "{}"', "recommendation is not an object"),
        (', "u1", 1, []', "recommendation is not an object"),
        (', "u1", 1, {}', "algorithm is not text: None"),
    ],
)
def test_row_with_wrong_arguments_is_refused_alone(rig: Rig, row: str, complaint: str) -> None:
    good = json.dumps(recommendation())
    body = f'{{"data": [[0, "before", 1, {good}], [1{row}], [2, "after", 1, {good}]]}}'
    response = answer_request(event_of(body), rig.table, SECONDS)
    assert response["statusCode"] == 200
    first, wrong, last = (value for _, value in json.loads(response["body"])["data"])
    assert first["status"] == last["status"] == "OK"
    assert (wrong["status"], wrong["dropped_recipes"]) == ("REFUSED", 0)
    assert complaint in wrong["error"]
    assert items(rig).keys() == {"before", "after"}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"recipe_ids": None}, "recipe_ids is not an array: None"),
        ({"recipe_ids": "r1"}, "recipe_ids is not an array"),
        ({"recipe_ids": []}, "at least one"),
        ({"recipe_ids": ["r1", 2]}, "recipe_ids is not text: 2"),
        ({"recipe_ids": ["r1", None]}, "recipe_ids is not text: None"),
        ({"recipe_ids": ["r1", "r2,r3"]}, "has a comma"),
        ({"recipe_ids": ["r1"]}, "1 recipes, 2 reasons, 2 scores"),
        ({"recipe_ids": ["r" * 2000, "r2"]}, "not one recipe fits"),
        ({"recipe_ids": ["\ud800", "r2"]}, "surrogates not allowed"),
        ({"reasons": ["popular", "because"]}, "unknown reason 'because'"),
        ({"reasons": None}, "reasons is not an array"),
        ({"scores": ["0.5", 1]}, "scores has something that is no number: '0.5'"),
        ({"scores": [0.5, None]}, "scores has something that is no number: None"),
        ({"scores": [0.5, True]}, "scores has something that is no number: True"),
        ({"scores": [0.5, float("nan")]}, "scores has something that is no number: nan"),
        ({"scores": [0.5, 10**400]}, "too large"),
        ({"algorithm": ""}, "algorithm is not text: ''"),
        ({"algorithm": "a" * 1000}, "not one recipe fits"),
        ({"generated_at": None}, "generated_at is not a whole number"),
        ({"generated_at": 1.5}, "generated_at is not a whole number"),
        ({"generated_at": -1}, "generated_at is not a whole number"),
        ({"expires_at": 10**15}, "expires_at is not a whole number"),
        ({"expires_at": "2026-11-23"}, "expires_at is not a whole number"),
        ({"deleted": "true", "recipe_ids": None}, "recipe_ids is not an array"),
        ({"deleted": True, "algorithm": "a" * 1024}, "at most 1024"),
    ],
)
def test_row_with_a_wrong_recommendation_is_refused_with_the_reason(rig: Rig, changes: Value, complaint: str) -> None:
    refusal, good = call(rig, [("u1", 1, recommendation(**changes)), ("u2", 1, recommendation())])
    assert refusal["status"] == "REFUSED"
    assert complaint in refusal["error"]
    assert good["status"] == "OK"
    assert items(rig).keys() == {"u2"}


def test_score_beyond_a_double_is_refused(rig: Rig) -> None:
    body = body_of([("u1", 1, recommendation())]).replace("0.25", "1e400")
    [[_, value]] = json.loads(answer_request(event_of(body), rig.table, SECONDS)["body"])["data"]
    assert value["status"] == "REFUSED"


def test_numbers_may_be_written_with_a_point_or_an_exponent(rig: Rig) -> None:
    rows = [("u1", 7, recommendation())]
    body = body_of(rows).replace("7", "123456789012345678.0", 1).replace(str(EXPIRES_AT), "1.79801820e9")
    [[_, value]] = json.loads(answer_request(event_of(body), rig.table, SECONDS)["body"])["data"]
    assert value["status"] == "OK"
    assert items(rig)["u1"]["version"] == {"N": "123456789012345678"}
    assert items(rig)["u1"]["expires_at"] == {"N": str(EXPIRES_AT)}


def test_recipes_that_do_not_fit_are_counted(rig: Rig) -> None:
    many = recommendation(
        recipe_ids=[f"{number:060d}" for number in range(20)], reasons=["popular"] * 20, scores=[0.5] * 20
    )
    first, repeated = call(rig, [("u1", 1, many), ("u1", 1, many)])
    kept = len(decode_item(items(rig)["u1"]).entries)
    assert 0 < kept < 20
    assert first == repeated == {"status": "OK", "dropped_recipes": 20 - kept}


def test_largest_batch_of_the_longest_answers_stays_under_lambdas_limit(rig: Rig) -> None:
    longest = {"recipe_ids": ["r1"], "reasons": ["😀" * 200], "scores": [1], "algorithm": "m1"}
    rows = [(f"u{number}", 1, {**TOMBSTONE, "deleted": False, **longest}) for number in range(MAX_ROWS)]
    response = answer_request(event_of(body_of(rows)), rig.table, SECONDS)
    answers = json.loads(response["body"])["data"]
    assert {len(value["error"]) for _, value in answers} == {200}
    assert len(json.dumps(response)) < 6_000_000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["u1", "#default"]),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(["recipe_ids", "reasons", "scores", "algorithm", "generated_at", "expires_at", "deleted"]),
            children,
            max_size=7,
        )
    ),
    max_leaves=12,
)
rows_of_any_kind = st.one_of(
    st.lists(json_values, max_size=4).map(tuple),
    st.tuples(st.sampled_from(["u1", "u2", "u3"]), st.integers(0, 5), json_values),
    st.tuples(st.sampled_from(["u1", "u2", "u3"]), st.integers(0, 5), st.builds(recommendation, scores=json_values)),
    st.tuples(st.sampled_from(["u1", "u2", "u3"]), st.integers(0, 5), st.just(recommendation())),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(rows_of_any_kind, max_size=8))
def test_every_row_is_answered_once_and_in_order_whatever_is_in_it(rig: Rig, rows: Rows) -> None:
    rig.empty()
    for row, value in zip(rows, call(rig, rows), strict=True):
        assert value.keys() - {"error"} == {"status", "dropped_recipes"}
        assert value["status"] in {"OK", "STALE", "REFUSED"}
        assert ("error" in value) == (value["status"] != "OK")
        if value["status"] != "REFUSED":
            assert items(rig)[row[0]]["version"]["N"] >= str(row[1])
    assert all(decode_item(item) for item in items(rig).values())


# --------------------------------------------------------------------------------------------------------- versions


def content(user: str, version: int) -> Value:
    """A recommendation that tells whose and which it is."""
    return TOMBSTONE if version % 5 == 4 else recommendation(recipe_ids=[f"{user}-{version}", "r2"])


def pass_through(_: int, __: dict[str, Any]) -> None:
    return None


def test_only_the_newest_of_a_users_rows_is_written(rig: Rig) -> None:
    rig.faults.on("PutItem", pass_through)
    rows = [("u1", version, content("u1", version)) for version in (2, 9, 3, 9)]
    answers = call(rig, [*rows, ("u2", 1, content("u2", 1))])
    assert [value["status"] for value in answers] == ["STALE", "OK", "STALE", "OK", "OK"]
    assert "version 9 is in the same batch" in answers[0]["error"]
    assert rig.faults.puts == {"u1": 1, "u2": 1}
    assert rig.stored() == {"u1": 9, "u2": 1}


def test_older_rows_wait_for_the_fate_of_the_newest(rig: Rig) -> None:
    rig.faults.on("PutItem", lambda call, request: THROTTLED if users_of(request) == ["u1"] else None)
    rig.table = rig.make_table(workers=1)
    answers = call(rig, [("u2", 1, content("u2", 1)), ("u1", 2, content("u1", 2)), ("u1", 3, content("u1", 3))])
    assert [value["status"] for value in answers] == ["OK", "RETRY", "RETRY"]
    assert "version 3 in the same batch was not written" in answers[1]["error"]
    assert rig.stored() == {"u2": 1}


def test_old_version_never_replaces_a_newer_one(rig: Rig) -> None:
    assert statuses(rig, [("u1", 5, content("u1", 5))]) == ["OK"]
    before = items(rig)
    [stale] = call(rig, [("u1", 4, content("u1", 4))])
    assert stale["status"] == "STALE"
    assert "version 5 is in the table, which is newer than 4" in stale["error"]
    assert items(rig) == before
    assert statuses(rig, [("u1", 5, content("u1", 5))]) == ["OK"]
    assert items(rig) == before
    assert statuses(rig, [("u1", 6, content("u1", 6))]) == ["OK"]
    assert rig.stored() == {"u1": 6}


def test_versions_are_compared_as_numbers(rig: Rig) -> None:
    assert statuses(rig, [("u1", 9, content("u1", 8))]) == ["OK"]
    assert statuses(rig, [("u1", 10, content("u1", 10))]) == ["OK"]
    assert statuses(rig, [("u1", 9, content("u1", 8))]) == ["STALE"]


def test_tombstone_keeps_an_older_list_out(rig: Rig) -> None:
    assert statuses(rig, [("u1", 5, TOMBSTONE)]) == ["OK"]
    assert statuses(rig, [("u1", 4, recommendation())]) == ["STALE"]
    assert decode_item(items(rig)["u1"]).is_deleted


def test_what_is_no_item_of_ours_is_not_overwritten(rig: Rig) -> None:
    rig.client.put_item(TableName=TABLE, Item={"user_id": {"S": "u1"}, "note": {"S": "by hand"}})
    [refusal] = call(rig, [("u1", 4, recommendation())])
    assert refusal["status"] == "REFUSED"
    assert "without a version" in refusal["error"]
    assert items(rig)["u1"]["note"] == {"S": "by hand"}


@pytest.mark.parametrize(("new", "old"), [(1, 2), (2, 2), (3, 2), (0, 0), (10, 9), (9, 10)])
def test_condition_in_dynamodb_is_the_version_rule(rig: Rig, new: int, old: int) -> None:
    call(rig, [("u1", old, content("u1", old))])
    answer = statuses(rig, [("u1", new, content("u1", new))])
    assert (answer == ["OK"]) == supersedes(new, old)


users = st.sampled_from(["u1", "u2", "u3"])
rows = st.builds(lambda user, version: (user, version, content(user, version)), users, st.integers(0, 6))
batches = st.lists(st.lists(rows, max_size=6), max_size=5)


def newest(rows: Rows) -> dict[str, int]:
    found: dict[str, int] = {}
    for user, version, _ in rows:
        found[user] = max(version, found.get(user, version))
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches, st.data())
def test_repeated_and_reordered_batches_leave_the_newest(rig: Rig, given: list[Rows], data: st.DataObject) -> None:
    rig.empty()
    sent = (
        data.draw(st.permutations([*given, *data.draw(st.lists(st.sampled_from(given), max_size=3))])) if given else []
    )
    seen: Rows = []
    for batch in sent:
        seen += batch
        for (user, version, _), answer in zip(batch, statuses(rig, batch), strict=True):
            assert answer == ("OK" if version == newest(seen)[user] else "STALE")
    expected = newest([row for batch in given for row in batch])
    stored = items(rig)
    assert {user: int(item["version"]["N"]) for user, item in stored.items()} == expected
    for user, version in expected.items():
        rig.empty()
        call(rig, [(user, version, content(user, version))])
        assert items(rig)[user] == stored[user]


fates = st.sampled_from(["throttle", "fail", "timeout", "lost answer", "pass"])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches, st.lists(fates, max_size=30))
def test_rows_sent_until_answered_are_there_whatever_happens(rig: Rig, given: list[Rows], faults: list[str]) -> None:
    rig.empty()
    plan: Iterator[str] = iter(faults)

    def rule(_: int, request: dict[str, Any]) -> Answer | Exception | None:
        fate = next(plan, "pass")
        if fate == "lost answer":
            rig.plain.put_versioned([request["Item"]], SECONDS)
        return {
            "throttle": THROTTLED,
            "fail": error(500, "InternalServerError"),
            "timeout": ReadTimeoutError(endpoint_url="dynamodb"),
            "lost answer": ReadTimeoutError(endpoint_url="dynamodb"),
            "pass": None,
        }[fate]

    rig.faults.on("PutItem", rule)
    for batch in given:
        waiting = batch
        while waiting:
            response = answer_request(event_of(body_of(waiting)), rig.table, 0.06)
            if response["statusCode"] == 429:
                continue
            answers = [value["status"] for _, value in json.loads(response["body"])["data"]]
            stored = rig.stored()
            for (user, version, _), answer in zip(waiting, answers, strict=True):
                if answer in {"OK", "STALE"}:
                    assert stored[user] >= version
            waiting = [row for row, answer in zip(waiting, answers, strict=True) if answer == "RETRY"]
    assert rig.stored() == newest([row for batch in given for row in batch])


# ------------------------------------------------------------------------------------------- DynamoDB under pressure


def many(count: int) -> Rows:
    return [(f"user{user}", 1, recommendation()) for user in range(count)]


def test_throttled_puts_are_repeated_with_waits_of_chance(rig: Rig) -> None:
    rig.faults.on("PutItem", lambda call, request: THROTTLED if call <= 12 else None)
    assert set(statuses(rig, many(60))) == {"OK"}
    assert rig.faults.calls["PutItem"] == 72
    assert rig.faults.puts == {f"user{user}": 1 for user in range(60)}
    assert len(set(rig.time.naps)) == len(rig.time.naps) == 12


def test_429_only_when_every_put_was_throttled(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rig.faults.on("PutItem", lambda call, request: THROTTLED)
    rows = [*many(100), ("bad id", 1, TOMBSTONE), ("user0", 0, TOMBSTONE)]
    response = answer_request(event_of(body_of(rows)), rig.table, SECONDS)
    assert response["statusCode"] == 429
    assert "ProvisionedThroughputExceeded" in json.loads(response["body"])["error"]
    assert json.loads(capsys.readouterr().out)["status"] == 429
    assert rig.time.now <= SECONDS + 1
    rig.table = rig.make_table(workers=1)
    rig.faults.on("PutItem", lambda call, request: None if users_of(request) == ["user0"] else THROTTLED)
    assert statuses(rig, many(100)) == ["OK", *["RETRY"] * 99]


def test_throttling_up_to_the_deadline_is_429_and_other_trouble_is_not(rig: Rig) -> None:
    rig.table = RecommendationTable(rig.client, TABLE, workers=2)
    rig.faults.on("PutItem", lambda call, request: THROTTLED)
    assert answer_request(event_of(body_of(many(40))), rig.table, 0.4)["statusCode"] == 429
    failed = error(500, "InternalServerError")
    rig.faults.on("PutItem", lambda call, request: THROTTLED if users_of(request) == ["user0"] else failed)
    assert statuses(rig, many(40), seconds=0.4) == ["RETRY"] * 40


@pytest.mark.parametrize(
    "fault", [error(500, "InternalServerError"), ReadTimeoutError(endpoint_url="dynamodb")], ids=["fails", "no answer"]
)
def test_rows_dynamodb_does_not_take_are_to_be_sent_again(rig: Rig, fault: Any) -> None:
    rig.table = rig.make_table(workers=1)
    rig.faults.on("PutItem", lambda call, request: fault if users_of(request)[0] >= "user2" else None)
    answers = call(rig, many(5))
    assert [value["status"] for value in answers] == ["OK", "OK", "RETRY", "RETRY", "RETRY"]
    assert "put_item" in answers[2]["error"]
    assert "no time left" in answers[4]["error"]


def test_item_dynamodb_refuses_fails_alone(rig: Rig) -> None:
    rig.faults.on(
        "PutItem", lambda call, request: error(400, "ValidationException") if users_of(request) == ["user1"] else None
    )
    answers = call(rig, many(3))
    assert [value["status"] for value in answers] == ["OK", "REFUSED", "OK"]
    assert "ValidationException" in answers[1]["error"]
    assert rig.faults.calls["PutItem"] == 3


def test_missing_table_fails_the_call_with_the_remedy(bare_rig: Rig) -> None:
    bare_rig.faults.on("PutItem", pass_through)
    with pytest.raises(ConfigurationError, match=r"does not exist.*deploy/aws"):
        call(bare_rig, many(500))
    assert bare_rig.faults.calls["PutItem"] < 20


def test_refused_access_fails_the_call(rig: Rig) -> None:
    rig.faults.on("PutItem", lambda call, request: error(400, "AccessDeniedException"))
    with pytest.raises(ConfigurationError, match="AccessDeniedException"):
        call(rig, many(500))
    assert rig.faults.calls["PutItem"] < 20


def test_table_that_vanishes_half_way_is_answered_row_by_row(rig: Rig) -> None:
    rig.faults.on("PutItem", lambda call, request: None if call <= 20 else error(400, "ResourceNotFoundException"))
    answers = call(rig, many(100))
    assert [value["status"] for value in answers].count("OK") == 20 == len(rig.stored())
    assert all("does not exist" in value["error"] for value in answers if value["status"] == "RETRY")
    assert rig.faults.calls["PutItem"] < 50


def test_nobody_at_the_endpoint_is_answered_soon(rig: Rig) -> None:
    settings = Settings.load(Environment.LOCAL, {"KURASHIRU_DYNAMODB_ENDPOINT": "http://127.0.0.1:9"})
    table = RecommendationTable(connect(settings), TABLE, sleep=rig.time.sleep, clock=rig.time.clock)
    rig.table = table
    answers = call(rig, many(50))
    assert {value["status"] for value in answers} == {"RETRY"}
    assert "127.0.0.1:9" in answers[0]["error"]


@pytest.mark.parametrize("seconds", [0.0, -3.0])
def test_nothing_is_begun_without_time(rig: Rig, seconds: float) -> None:
    rig.faults.on("PutItem", pass_through)
    answers = call(rig, [*many(3), ("bad id", 1, TOMBSTONE)], seconds)
    assert [value["status"] for value in answers] == ["RETRY", "RETRY", "RETRY", "REFUSED"]
    assert "time" in answers[0]["error"]
    assert not rig.faults.calls


def test_puts_without_an_answer_do_not_hold_up_the_others_answers(rig: Rig) -> None:
    released = threading.Event()
    arrived = threading.Semaphore(0)

    def rule(_: int, request: dict[str, Any]) -> None:
        if users_of(request)[0] < "user3":
            assert released.wait(30)
            rig.plain.put_versioned([request["Item"]], SECONDS)
            arrived.release()

    rig.faults.on("PutItem", rule)
    rig.table = rig.make_table(workers=8)
    started = time.monotonic()
    answers = call(rig, many(5), seconds=1.0)
    assert time.monotonic() - started < 5
    assert [value["status"] for value in answers] == ["RETRY", "RETRY", "RETRY", "OK", "OK"]
    assert answers[0]["error"] == "no answer in time"
    newer = [(user, version + 1, value) for user, version, value in many(3)]
    rig.faults.clear()
    assert set(statuses(rig, newer)) == {"OK"}
    released.set()
    for _ in range(3):
        assert arrived.acquire(timeout=30)
    assert rig.stored() == {"user0": 2, "user1": 2, "user2": 2, "user3": 1, "user4": 1}


def test_rows_left_in_the_queue_at_the_deadline_are_not_begun(rig: Rig) -> None:
    def rule(_: int, __: dict[str, Any]) -> None:
        time.sleep(0.1)

    rig.faults.on("PutItem", rule)
    rig.table = rig.make_table(workers=2)
    answers = statuses(rig, many(200), seconds=0.5)
    assert answers.count("OK") >= 2
    assert answers.count("RETRY") >= 180
    time.sleep(0.5)
    assert rig.faults.calls["PutItem"] <= 20


# ------------------------------------------------------------------------------------------------- log and entry point


class Context:
    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def get_remaining_time_in_millis(self) -> int:
        return int(self.seconds * 1000)


@pytest.fixture
def entry_point(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("KURASHIRU_ENV", "production")
    monkeypatch.setenv("KURASHIRU_DYNAMODB_TABLE", TABLE)
    monkeypatch.setenv("KURASHIRU_DYNAMODB_ENDPOINT", rig.client.meta.endpoint_url)
    lambda_handler._table.cache_clear()
    yield lambda_handler.handler
    lambda_handler._table.cache_clear()


def test_entry_point_is_configured_by_its_environment(rig: Rig, entry_point: Any) -> None:
    event = event_of(body_of(many(40)))
    for _ in range(2):
        response = entry_point(event, Context(25.0))
        assert {value["status"] for _, value in json.loads(response["body"])["data"]} == {"OK"}
    assert len(rig.stored()) == 40
    assert lambda_handler._table.cache_info().misses == 1


def test_entry_point_keeps_time_for_its_answer(rig: Rig, entry_point: Any) -> None:
    response = entry_point(event_of(body_of(many(2))), Context(1.9))
    assert {value["status"] for _, value in json.loads(response["body"])["data"]} == {"RETRY"}
    assert rig.stored() == {}


def test_unknown_environment_stops_the_function(entry_point: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KURASHIRU_ENV", "prod")
    with pytest.raises(ConfigurationError, match="KURASHIRU_ENV='prod'"):
        entry_point(event_of(body_of(many(1))), Context(25.0))


def test_log_is_one_line_a_batch_and_names_nobody(rig: Rig, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("secretuser", 1, recommendation()), ("secretuser", 0, TOMBSTONE), ("secret user", 1, TOMBSTONE)]
    call(rig, rows)
    text = capsys.readouterr().out
    [line] = text.splitlines()
    assert "secret" not in text
    figures = json.loads(line)
    assert figures.pop("seconds") >= 0
    assert figures == {
        "status": 200,
        "batch_id": "01b2-3c4d:1:7:0:1",
        "query_id": "01b2-3c4d",
        "rows": 3,
        "ok": 1,
        "stale": 1,
        "retry": 0,
        "refused": 1,
    }


# ------------------------------------------------------------------------------------------------------ parity, package

scores = st.integers(0, 70_000_000).map(lambda millionths: millionths / 1_000_000)
"""The kernel's scores: whole millionths."""
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
reasons = st.one_of(
    st.just("popular"),
    st.builds("{}:{}".format, st.sampled_from(["viewed", "favorited", "cooked", "listed"]), st.just("r9")),
    st.builds("{}:{}".format, st.sampled_from(["ingredient", "taste", "new"]), texts),
)
recipe = st.from_regex("[A-Za-z0-9_-]{1,64}", fullmatch=True)
lists = st.lists(st.tuples(recipe, reasons, scores), min_size=1, max_size=20)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.dictionaries(recipe, lists, min_size=1, max_size=4), st.sampled_from(["{!r}", "{:.15g}", "{:.17g}", "{:.6f}"])
)
def test_items_are_the_same_to_the_byte_on_both_ways(
    rig: Rig, given: dict[str, list[tuple[str, str, float]]], form: str
) -> None:
    times = decode_item(make_item(1))
    columns = {
        "user_id": pa.array(list(given)),
        "version": pa.array([7] * len(given), pa.int64()),
        "recipe_ids": pa.array([[recipe_id for recipe_id, _, _ in ranked] for ranked in given.values()]),
        "reasons": pa.array([[reason for _, reason, _ in ranked] for ranked in given.values()]),
        "scores": pa.array([[score for _, _, score in ranked] for ranked in given.values()]),
        "algorithm": pa.array(["m1"] * len(given)),
        "generated_at": pa.array([times.generated_at] * len(given), pa.timestamp("us")),
    }
    encoded = encode_lists(pa.table(columns), times.expires_at)
    direct = [json.loads(item) for item in encoded.items]
    assert rig.plain.write_encoded(dict(zip(given, encoded.items, strict=True))).written == len(given)
    written = {user: item for user, item in items(rig).items() if user in given}
    rig.empty()
    rows = []
    for user, ranked in given.items():
        value = json.dumps(
            recommendation(
                recipe_ids=[recipe_id for recipe_id, _, _ in ranked],
                reasons=[reason for _, reason, _ in ranked],
                scores=["score"],
                generated_at=int(direct[0]["generated_at"]["N"]),
                expires_at=int(direct[0]["expires_at"]["N"]),
            )
        )
        numbers = ",".join(form.format(score) for _, _, score in ranked)
        rows.append(f'[{len(rows)}, "{user}", 7, {value.replace(chr(34) + "score" + chr(34), numbers)}]')
    answer_request(event_of(f'{{"data": [{",".join(rows)}]}}'), rig.table, SECONDS)
    assert json.dumps(items(rig), sort_keys=True) == json.dumps(written, sort_keys=True)
    assert items(rig) == {item["user_id"]["S"]: item for item in direct}


def test_noise_in_the_text_of_a_number_does_not_reach_the_item(rig: Rig) -> None:
    exact = [0.0125, 0.0135, 2.5, 61.1875]
    row = recommendation(recipe_ids=list("abcd"), reasons=["popular"] * 4, scores=exact)
    assert call(rig, [("u1", 7, row)])[0]["status"] == "OK"
    expected = items(rig)["u1"]["scores"]
    assert expected == {"S": ",".join(str(round(1000 * score)) for score in exact)}
    for noise in (1e-12, -1e-12, 4e-8):
        noisy = recommendation(**{**row, "scores": [score + noise for score in exact]})
        assert call(rig, [("u1", 7, noisy)])[0]["status"] == "OK"
        assert items(rig)["u1"]["scores"] == expected


def run_isolated(program: str, *paths: Path) -> str:
    """Output of a new interpreter that finds our modules in `paths` alone and starts with no settings."""
    setting = f"import sys; sys.path[:0] = {[str(path) for path in paths]!r}\n"
    variables = {"PATH": os.environ["PATH"], "KURASHIRU_ENV": "production"}
    done = subprocess.run(
        [sys.executable, "-I", "-c", setting + program], env=variables, capture_output=True, text=True, check=True
    )
    return done.stdout


LEAN = """
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in KNOWN | sys.stdlib_module_names:
            raise ModuleNotFoundError(name)
KNOWN = {"kurashiru_pipeline", "boto3", "botocore", "s3transfer", "jmespath", "dateutil", "urllib3", "six"}
sys.meta_path.insert(0, Absent())
import json
from kurashiru_pipeline.serving import lambda_handler
"""


def test_package_runs_on_what_lambdas_runtime_has(tmp_path: Path, endpoint: str, rig: Rig) -> None:
    package = edge_package.build(tmp_path)
    program = f"""
import os
os.environ["KURASHIRU_DYNAMODB_ENDPOINT"] = {endpoint!r}
class Context:
    def get_remaining_time_in_millis(self): return 25000
lambda_handler.handler(json.loads({json.dumps(event_of(body_of(many(3))))!r}), Context())
ours = [module.__file__ for name, module in sys.modules.items() if name.partition(".")[0] == "kurashiru_pipeline"]
print(json.dumps([ours, sorted(sys.modules)]))
"""
    *_, last = run_isolated(LEAN + program, package).splitlines()
    ours, modules = json.loads(last)
    assert len(rig.stored()) == 3
    assert {path.removeprefix(f"{package}/") for path in ours} == set(edge_package.MODULES)
    assert not {"orjson", "numpy", "pyarrow", "dagster", "pandas", "duckdb"} & set(modules)
    assert "boto3" in modules


def test_import_of_the_handler_is_light() -> None:
    program = "import kurashiru_pipeline.serving.lambda_handler, json; print(json.dumps(sorted(sys.modules)))"
    modules = json.loads(run_isolated(program, Path(__file__).parents[2]))
    assert not {"boto3", "orjson", "numpy", "pyarrow", "dagster", "starlette", "uvicorn"} & set(modules)
    assert len(modules) < 500


def test_package_is_the_same_wherever_it_is_built(tmp_path: Path) -> None:
    first = edge_package.build(tmp_path / "one" / "folder")
    second = edge_package.build(tmp_path)
    assert first.read_bytes() == second.read_bytes()
    assert first.name == second.name
    with ZipFile(first) as package:
        assert package.namelist() == list(edge_package.MODULES)
        assert {entry.date_time[0] for entry in package.infolist()} == {1980}
        assert {entry.external_attr >> 16 for entry in package.infolist()} == {0o100644}
        assert package.testzip() is None


def test_package_changes_its_name_with_its_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = edge_package.build(tmp_path)
    monkeypatch.setattr(edge_package, "MODULES", edge_package.MODULES[:-1])
    assert edge_package.build(tmp_path).name != whole.name


def test_hash_of_a_list_needs_no_other_library_than_before() -> None:
    assert content_hash(["r1", "r2"], ["viewed:r9", "popular"]) == "c39fa59b5107ffe69817013efb3634d4"
