"""The benchmark's stand-in for DynamoDB keeps what our client writes, gives it back, and counts what it did."""

from collections.abc import Iterator
from datetime import datetime, timedelta

import orjson
import pytest

from benchmarks.dynamodb_sink import running_sink, statistics
from kurashiru_pipeline.core.items import Item, build_item, build_tombstone, decode_item
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.serving.dynamodb import Outcome, RecommendationTable, connect

NOW = datetime(2026, 11, 23)
EXPIRES = NOW + timedelta(days=30)
USERS = 2_000


def make_item(user_id: str, version: int) -> Item:
    return build_item(
        user_id,
        recipe_ids=[f"recipe{rank}卵" for rank in range(40)],
        reasons=["popular"] * 40,
        scores=[0.5] * 40,
        algorithm="m1",
        version=version,
        generated_at=NOW,
        expires_at=EXPIRES,
    )


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with running_sink() as endpoint:
        yield endpoint


def table_at(endpoint: str, name: str) -> RecommendationTable:
    settings = Settings.load(Environment.LOCAL, {"KURASHIRU_DYNAMODB_ENDPOINT": endpoint})
    return RecommendationTable(connect(settings), name)


def test_what_is_written_is_read_back_and_counted(endpoint: str) -> None:
    table = table_at(endpoint, "lists")
    with pytest.raises(ConfigurationError, match="does not exist"):
        table.ensure_exists(create=False)
    table.ensure_exists(create=True)
    table.ensure_exists(create=True)
    before = statistics(endpoint)
    items = [make_item(f"user{user}", user) for user in range(USERS)]
    assert table.write(items).written == USERS
    table.write_marker("delivery 1")
    table.write([build_tombstone("gone", algorithm="none", version=7, generated_at=NOW, expires_at=EXPIRES)])
    after = statistics(endpoint)
    assert after.items_put - before.items_put == USERS + 2
    assert after.writes - before.writes == after.requests - before.requests == USERS / 25 + 2
    assert after.items_held - before.items_held == USERS + 2
    assert after.cpu_seconds > before.cpu_seconds > 0

    assert table.marker() == "delivery 1"
    assert table.read("user1234") == decode_item(items[1234])
    assert table.read("nobody") is None
    found = {user_id: (version, is_deleted) for user_id, version, is_deleted in table.keys_and_versions()}
    assert found == {**{f"user{user}": (user, False) for user in range(USERS)}, "gone": (7, True)}
    assert table.count() == USERS


def test_versions_never_go_back(endpoint: str) -> None:
    table = table_at(endpoint, "versions")
    table.ensure_exists(create=True)
    table.write_marker("delivery 1")
    for version, outcome in ((3, Outcome.OK), (2, Outcome.STALE), (3, Outcome.OK), (4, Outcome.OK)):
        [result] = table.put_versioned([make_item("user1", version)], 10)
        assert result.outcome is outcome
    assert [version for _, version, _ in table.keys_and_versions()] == [4]


def test_what_dynamodb_refuses_is_refused(endpoint: str) -> None:
    table = table_at(endpoint, "refusals")
    table.ensure_exists(create=True)
    good = make_item("user1", 1)
    nameless = {**good, "user_id": {"S": ""}}
    report = table.write_encoded({"user1": orjson.dumps(good), "": orjson.dumps(nameless)})
    assert (report.written, report.refused) == (1, {""})


def test_lists_are_forgotten_where_nobody_reads_them() -> None:
    with running_sink(keeps_lists=False) as endpoint:
        table = table_at(endpoint, "lists")
        table.ensure_exists(create=True)
        table.write_marker("delivery 1")
        assert table.write([make_item(f"user{user}", 1) for user in range(30)]).written == 30
        counted = statistics(endpoint)
        assert (counted.items_put, counted.items_held, table.marker()) == (31, 1, "delivery 1")
