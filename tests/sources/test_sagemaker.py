"""SageMaker's wire protocol on loopback, through the real client: well, badly, slowly and nonsensically answered."""

import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import hypothesis
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.environment import PROJECT_ROOT
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.sources import sagemaker
from kurashiru_pipeline.sources.recommender import SUGGESTION_SCHEMA, Suggestions
from kurashiru_pipeline.sources.sagemaker import SageMakerRecommender, read_answers
from tests.kitchen import catalogue, recipe
from tests.sources.service import (
    ENDPOINT,
    FORBIDDEN,
    MODEL_FAILED,
    THROTTLED,
    UNAVAILABLE,
    Reply,
    Service,
    Users,
    answers,
    error,
    lines,
)

CATALOGUE = catalogue(*(recipe(name) for name in ("r1", "r2", "r3")))
CONTRACTS = (PROJECT_ROOT / "docs" / "contracts.md").read_text(encoding="utf-8")


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as running:
        yield running
        assert running.problems == []


def recommender(url: str, **options: Any) -> SageMakerRecommender:
    chosen = {"answer_seconds": 20.0, "users_per_request": 10, "concurrency": 4} | options
    return SageMakerRecommender(chosen.pop("endpoint", ENDPOINT), region="ap-northeast-1", url=url, **chosen)


def ask(url: str, count: int = 25, seconds: float = 30.0, **options: Any) -> Suggestions:
    users = pa.table({"user_id": [f"u{number}" for number in range(count)]})
    return recommender(url, **options).recommend(users, CATALOGUE, count=2, seconds=seconds)


def counts(said: Suggestions) -> tuple[int, int, int, int]:
    return said.asked_count, said.answered_count, said.failed_count, said.late_count


def test_users_are_asked_about_in_json_lines(service: Service) -> None:
    said = ask(service.url)
    assert counts(said) == (25, 25, 0, 0)
    assert sorted(map(len, service.requests)) == [5, 10, 10]
    told = sorted((user for users in service.requests for user in users), key=lambda user: int(user["user_id"][1:]))
    assert told == [{"user_id": f"u{number}", "count": 2} for number in range(25)]
    assert said.table.to_pylist()[7] == {"user_id": "u7", "recipe_ids": ["r3", "r1"], "scores": [1.0, 0.5]}


def test_recent_recipes_are_told_where_there_are_some(service: Service) -> None:
    users = pa.table({"user_id": ["u1", "u2"], "recent_recipe_ids": [["r9", "r8"], []]})
    recommender(service.url).recommend(users, CATALOGUE, count=50, seconds=30)
    assert service.requests == [
        [
            {"user_id": "u1", "recent_recipe_ids": ["r9", "r8"], "count": 50},
            {"user_id": "u2", "recent_recipe_ids": [], "count": 50},
        ]
    ]


def test_the_contract_shows_what_is_sent_and_what_is_read(service: Service) -> None:
    section = CONTRACTS.partition("\n## External recommender\n")[2].partition("\n## ")[0]
    question, answer = re.findall(r"^(\{.*\})$", section, re.MULTILINE)
    told = json.loads(question)
    count = told.pop("count")
    service.behave = lambda number, users: Reply(body=answer.encode())
    said = recommender(service.url).request(pa.Table.from_pylist([told]), count)
    assert service.requests == [[json.loads(question)]]
    assert said.to_pylist() == [json.loads(answer)]


@pytest.mark.parametrize("busy", [THROTTLED, UNAVAILABLE, error(500, "InternalFailure"), Reply(reset=True)])
def test_what_passes_is_tried_once_more(service: Service, busy: Reply) -> None:
    service.behave = lambda number, users: busy if number == 1 else answers(users)
    assert counts(ask(service.url, count=5)) == (5, 5, 0, 0)
    assert len(service.requests) == 2


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (THROTTLED, "ThrottlingException: injected ThrottlingException"),
        (UNAVAILABLE, "ServiceUnavailable: injected ServiceUnavailable"),
        (FORBIDDEN, "AccessDeniedException: injected AccessDeniedException"),
        (error(429, "ModelNotReadyException"), "ModelNotReadyException: injected"),
        (error(530, "InternalDependencyException"), "InternalDependencyException: injected"),
        (MODEL_FAILED, "ModelError: the model answered 500; its log is arn:aws:logs:"),
        (Reply(500, b"<html>oops</html>", {"Content-Type": "text/html"}), "500"),
        (Reply(400, b"\xff{", {"Content-Type": "application/json"}), "UnicodeDecodeError"),
        (Reply(302, b"", {"Location": "http://127.0.0.1:1/"}), "302"),
        (Reply(reset=True), "Connection was closed before we received a valid response"),
    ],
)
def test_an_error_is_told_and_costs_its_users(service: Service, reply: Reply, said: str) -> None:
    service.behave = lambda number, users: reply
    suggestions = ask(service.url, count=5)
    assert counts(suggestions) == (5, 0, 5, 0)
    assert suggestions.error.startswith("1 of 1 requests: ")
    assert said in suggestions.error


def test_what_a_model_says_of_its_users_is_told_nowhere(service: Service) -> None:
    service.behave = lambda number, users: MODEL_FAILED
    assert "u1" not in ask(service.url, count=5).error


def test_an_unknown_endpoint_is_told(service: Service) -> None:
    said = ask(service.url, count=5, endpoint="another-one")
    assert said.error == "1 of 1 requests: ValidationError: Endpoint another-one of account 123456789012 not found."


def test_some_requests_fail_and_the_others_count(service: Service) -> None:
    service.behave = lambda number, users: MODEL_FAILED if users[0]["user_id"] == "u10" else answers(users)
    said = ask(service.url)
    assert counts(said) == (25, 15, 10, 0)
    assert said.table["user_id"].to_pylist() == [f"u{number}" for number in [*range(10), *range(20, 25)]]


def test_nobody_listens() -> None:
    with Service() as stopped:
        url = stopped.url
    said = ask(url, count=5)
    assert counts(said) == (5, 0, 5, 0)
    assert "Could not connect to the endpoint URL" in said.error


def test_no_credentials(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sagemaker, "is_loopback", lambda url: False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/nonexistent")
    said = ask(service.url, count=5)
    assert (counts(said), said.error) == (
        (5, 0, 5, 0),
        "1 of 1 requests: NoCredentialsError: Unable to locate credentials",
    )


def timed(call: Callable[[], Suggestions]) -> tuple[Suggestions, float]:
    started = time.monotonic()
    return call(), time.monotonic() - started


def trickle() -> Iterator[bytes]:
    while True:
        yield b" "


@pytest.mark.parametrize(
    "reply",
    [
        Reply(delay=60),
        Reply(body=trickle(), pause=0.02),
        Reply(body=trickle(), headers={"Content-Length": "1000000"}, pause=0.02),
    ],
    ids=["silent", "trickling", "promising"],
)
def test_nothing_delays_beyond_the_deadline(service: Service, reply: Reply) -> None:
    service.behave = lambda number, users: reply
    said, seconds = timed(lambda: ask(service.url, seconds=0.5, answer_seconds=0.5, concurrency=2))
    assert seconds < 5
    assert said.answered_count == 0
    assert said.failed_count + said.late_count == 25


def test_slow_answers_count_as_far_as_they_are_there(service: Service) -> None:
    service.behave = lambda number, users: Reply(body=answers(users).body, delay=0.0 if number <= 3 else 60.0)
    asking = recommender(service.url, concurrency=2)
    users = pa.table({"user_id": [f"u{number}" for number in range(50)]})
    assert asking.recommend(users.slice(0, 5), CATALOGUE, count=2, seconds=30).answered_count == 5, "connected"
    said, seconds = timed(lambda: asking.recommend(users, CATALOGUE, count=2, seconds=1.5))
    assert 1.5 <= seconds < 20
    assert said.answered_count in {10, 20}
    assert counts(said) == (50, said.answered_count, 0, 50 - said.answered_count)


def test_a_connection_is_used_again(service: Service) -> None:
    ports = set()
    handle = service._handle
    service._handle = lambda http: (ports.add(http.client_address[1]), handle(http))[1]  # type: ignore[method-assign]
    ask(service.url, count=200, concurrency=2)
    assert len(service.requests) == 20
    assert len(ports) <= 2


@pytest.mark.parametrize(
    "body",
    [
        b"null\n",
        b"<html></html>",
        b"[]",
        b'"text"',
        b"{}",
        b"\xff\xfe",
        b'{"user_id": "u1"',
        b'{"user_id": "u1", "recipe_ids": ["r1"]}',
        b'{"user_id": "u1", "recipe_ids": ["r1"], "scores": []}',
        b'{"user_id": "u1", "recipe_ids": ["r1"], "scores": [NaN]}',
        b'{"user_id": "u1", "recipe_ids": ["r1"], "scores": [1e999]}',
        b'{"user_id": "u1", "recipe_ids": ["r1"], "scores": [-0.5]}',
        b'{"user_id": "u1", "recipe_ids": ["r1"], "scores": ["1"]}',
        b'{"user_id": "u1", "recipe_ids": ["r1"], "scores": [null]}',
        b'{"user_id": "u1", "recipe_ids": [7], "scores": [1]}',
        b'{"user_id": "u1", "recipe_ids": [null], "scores": [1]}',
        b'{"user_id": "u1", "recipe_ids": "r", "scores": "1"}',
        b'{"user_id": "u1", "recipe_ids": {"r1": 1}, "scores": {"r1": 1}}',
        b'{"user_id": null, "recipe_ids": [], "scores": []}',
        b'{"user_id": 7, "recipe_ids": [], "scores": []}',
        b"[" * 100_000,
        b'{"user_id": "u1", "recipe_ids": [], "scores": []}\n\n',
        b" " * (6 * 1024 * 1024 + 1),
    ],
)
def test_a_malformed_answer_is_an_error(service: Service, body: bytes) -> None:
    service.behave = lambda number, users: Reply(body=body)
    said = ask(service.url, count=5)
    assert counts(said) == (5, 0, 5, 0)
    assert "answer" in said.error


def test_a_line_cut_short_is_an_error(service: Service) -> None:
    service.behave = lambda number, users: Reply(body=[answers(users).body[:-20]], headers={"Content-Length": "500"})
    said = ask(service.url, count=5)
    assert counts(said) == (5, 0, 5, 0)
    assert said.error


@hypothesis.settings(deadline=None)
@given(st.binary(max_size=60))
def test_no_bytes_do_more_than_raise(body: bytes) -> None:
    try:
        table = read_answers(body)
    except KurashiruError:
        return
    assert table.schema == SUGGESTION_SCHEMA
    assert body == b"" or b"user_id" in body


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(SUGGESTION_SCHEMA.names), inner),
    max_leaves=6,
)


@hypothesis.settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(SUGGESTION_SCHEMA.names), json_values, min_size=3), max_size=3))
def test_no_json_does_more_than_raise(answered: Users) -> None:
    try:
        table = read_answers(lines(answered))
    except KurashiruError:
        return
    assert table["user_id"].to_pylist() == [answer["user_id"] for answer in answered]
    assert table["recipe_ids"].to_pylist() == [answer["recipe_ids"] for answer in answered]
    assert all(score >= 0 for scores in table["scores"].to_pylist() for score in scores)


def test_numbers_are_read_exactly() -> None:
    body = b'{"user_id": "u", "recipe_ids": ["a", "b", "c"], "scores": [1, 0.1, 5e-324], "more": {}}\r\n'
    assert read_answers(body).to_pylist() == [
        {"user_id": "u", "recipe_ids": ["a", "b", "c"], "scores": [1.0, 0.1, 5e-324]}
    ]
