"""The table of recommendations under faults: nothing is lost silently, and no partial success is raised away."""

import socket
from datetime import timedelta
from typing import Any

import pytest
from botocore.exceptions import ReadTimeoutError
from faulty_dynamodb import NOW, TABLE, THROTTLED, Answer, Rig, error, make_item, users_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kurashiru_pipeline.core.items import DEFAULT_USER, Item, build_tombstone, decode_item
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError, TransientError
from kurashiru_pipeline.serving.dynamodb import RecommendationTable, connect

EXPIRES = NOW + timedelta(days=30)


def tombstone(user_id: str, version: int = 2) -> Item:
    return build_tombstone(user_id, algorithm="popular", version=version, generated_at=NOW, expires_at=EXPIRES)


def pass_through(_: int, __: dict[str, Any]) -> None:
    return None


def test_items_are_sent_in_full_batches_and_once(rig: Rig) -> None:
    rig.faults.on("BatchWriteItem", pass_through)
    done = []
    report = rig.table.write([make_item(user) for user in range(60)], lambda *now: done.append(now))
    assert (report.written, report.failed, report.requests, report.retries) == (60, [], 3, 0)
    assert sorted(rig.faults.batch_sizes) == [10, 25, 25]
    assert rig.stored() == {f"user{user}": 1 for user in range(60)}
    assert done == [(25, 60), (50, 60), (60, 60)]


def test_nothing_to_write_sends_nothing(rig: Rig) -> None:
    rig.faults.on("BatchWriteItem", pass_through)
    report = rig.table.write([])
    assert (report.written, report.requests) == (0, 0)
    assert not rig.faults.calls


def test_last_item_of_a_user_wins_and_is_sent_alone(rig: Rig) -> None:
    rig.faults.on("BatchWriteItem", pass_through)
    items = [make_item(user, version) for version in (1, 2, 3) for user in range(30)]
    report = rig.table.write(items)
    assert report.written == 30
    assert rig.stored() == {f"user{user}": 3 for user in range(30)}
    assert set(rig.faults.puts.values()) == {1}


def test_throttles_then_unprocessed_items_then_success_lands_everything_once(rig: Rig) -> None:
    def rule(call: int, request: dict[str, Any]) -> Answer | None:
        if call <= 2:
            return THROTTLED
        if call == 3:
            puts = request["RequestItems"][TABLE]
            kept = [make_item(user_id) for user_id in users_of(request)[:20]]
            assert rig.plain.write(kept).written == 20
            rig.faults.puts.update(users_of(request)[:20])
            return 200, {"UnprocessedItems": {TABLE: puts[20:]}}
        return None

    rig.faults.on("BatchWriteItem", rule)
    rig.table = rig.make_table(workers=1)
    report = rig.table.write([make_item(user) for user in range(60)])
    assert (report.written, report.failed) == (60, [])
    assert (report.requests, report.retries) == (6, 3)
    assert rig.faults.puts == {f"user{user}": 1 for user in range(60)}
    assert rig.stored().keys() == rig.faults.puts.keys()
    assert len(rig.time.naps) == 3


def test_waits_grow_with_jitter_up_to_a_limit_and_permanent_throttling_is_reported(rig: Rig) -> None:
    rig.faults.on("BatchWriteItem", lambda call, request: THROTTLED)
    report = rig.table.write([make_item(user) for user in range(60)])
    assert report.written == 0
    assert sorted(user_id for user_id, _ in report.failed) == sorted(f"user{user}" for user in range(60))
    assert all("ProvisionedThroughputExceeded" in reason for _, reason in report.failed)
    assert rig.stored() == {}
    assert 60 <= report.seconds <= 75
    assert max(rig.time.naps) <= 5
    assert len(set(rig.time.naps)) == len(rig.time.naps)
    assert rig.time.naps[0] <= 0.05 < max(rig.time.naps)


def test_progress_renews_the_patience(rig: Rig) -> None:
    """A slow table that takes one item each minute loses nothing."""

    def rule(call: int, request: dict[str, Any]) -> Answer | None:
        rig.time.now += 50
        if len(users_of(request)) == 1:
            return None
        first, *rest = request["RequestItems"][TABLE]
        assert rig.plain.write([first["PutRequest"]["Item"]]).written == 1
        return 200, {"UnprocessedItems": {TABLE: rest}}

    rig.faults.on("BatchWriteItem", rule)
    rig.table = rig.make_table(workers=1)
    report = rig.table.write([make_item(user) for user in range(10)])
    assert (report.written, report.failed, report.requests) == (10, [], 10)
    assert report.seconds > 500


@pytest.mark.parametrize("fault", [error(500, "InternalServerError"), error(503, "ServiceUnavailable")])
def test_server_errors_are_sent_again(rig: Rig, fault: Answer) -> None:
    rig.faults.on("BatchWriteItem", lambda call, request: fault if call == 1 else None)
    report = rig.table.write([make_item(1)])
    assert (report.written, report.requests, report.retries) == (1, 2, 1)


def test_item_that_dynamodb_refuses_fails_alone(rig: Rig) -> None:
    def rule(_: int, request: dict[str, Any]) -> Answer | None:
        return error(400, "ValidationException") if "user7" in users_of(request) else None

    rig.faults.on("BatchWriteItem", rule)
    report = rig.table.write([make_item(user) for user in range(30)])
    assert report.written == 29
    [(user_id, reason)] = report.failed
    assert user_id == "user7"
    assert "ValidationException" in reason
    assert rig.stored().keys() == {f"user{user}" for user in range(30)} - {"user7"}


def test_limits_are_checked_before_the_wire(rig: Rig) -> None:
    rig.faults.on("BatchWriteItem", pass_through)
    big, nameless, long_key, wrong, broken = (make_item(user) for user in range(5))
    big["scores"] = {"S": "1" * 400 * 1024}
    nameless["user_id"] = {"S": ""}
    long_key["user_id"] = {"S": "u" * 2049}
    wrong["version"] = {"N": "one"}
    broken["anchors"] = {"S": "\ud800"}
    report = rig.table.write([big, nameless, long_key, wrong, broken, make_item(5)])
    reasons = dict(report.failed)
    assert report.written == 1
    assert rig.faults.batch_sizes == [1]
    assert "409600" in reasons["user0"]
    assert "1 to 2048" in reasons[""]
    assert "1 to 2048" in reasons["u" * 2049]
    assert "not a number" in reasons["user3"]
    assert "surrogate" in reasons["user4"]


def test_unreachable_endpoint_is_transient_and_names_the_command() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    variables = {"KURASHIRU_DYNAMODB_ENDPOINT": f"http://127.0.0.1:{port}"}
    client = connect(Settings.load(Environment.LOCAL, variables))
    naps: list[float] = []
    table = RecommendationTable(client, TABLE, sleep=naps.append)
    with pytest.raises(TransientError, match=rf"127\.0\.0\.1:{port}.*kurashiru up --no-dagster"):
        table.write([make_item(user) for user in range(100)])
    with pytest.raises(TransientError, match="kurashiru up --no-dagster"):
        table.read("user1")
    assert 1 < len(naps) < 40


def test_local_endpoint_needs_no_credentials_and_no_proxy(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    variables = {"KURASHIRU_DYNAMODB_ENDPOINT": endpoint}
    table = RecommendationTable.from_settings(Settings.load(Environment.LOCAL, variables))
    table.ensure_exists(create=True)
    report = table.write([make_item(user) for user in range(130)])
    assert (report.written, report.failed, table.count()) == (130, [], 130)
    assert table.read("user129") == decode_item(make_item(129))


def test_no_credentials_is_a_configuration_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    table = RecommendationTable.from_settings(Settings.load(Environment.PRODUCTION, {}))
    with pytest.raises(ConfigurationError, match="credentials"):
        table.write([make_item(1)])


def test_missing_table_says_how_to_create_it(bare_rig: Rig) -> None:
    message = rf"{TABLE} in ap-northeast-1.*KURASHIRU_DYNAMODB_CREATE=true.*deploy/aws"
    for attempt in (
        lambda: bare_rig.table.write([make_item(1)]),
        lambda: bare_rig.table.read("user1"),
        bare_rig.table.count,
        bare_rig.table.marker,
        lambda: bare_rig.table.ensure_exists(create=False),
    ):
        with pytest.raises(ConfigurationError, match=message):
            attempt()


def test_refused_access_is_a_configuration_error_and_stops_the_write(rig: Rig) -> None:
    rig.faults.on("BatchWriteItem", lambda call, request: error(400, "AccessDeniedException"))
    with pytest.raises(ConfigurationError, match="AccessDeniedException"):
        rig.table.write([make_item(user) for user in range(1000)])
    assert rig.faults.calls["BatchWriteItem"] <= 8


def test_table_that_vanishes_half_way_is_reported_not_raised(rig: Rig) -> None:
    rig.faults.on(
        "BatchWriteItem",
        lambda call, request: None if call <= 2 else error(400, "ResourceNotFoundException"),
    )
    report = rig.table.write([make_item(user) for user in range(200)])
    assert report.written == 50
    assert len(report.failed) == 150
    assert {reason for _, reason in report.failed if "does not exist" not in reason} == set()
    assert len(rig.stored()) == 50


def test_table_is_created_once_on_demand_with_ttl(bare_rig: Rig) -> None:
    bare_rig.table.ensure_exists(create=True)
    bare_rig.table.ensure_exists(create=True)
    bare_rig.table.ensure_exists(create=False)
    table = bare_rig.client.describe_table(TableName=TABLE)["Table"]
    ttl = bare_rig.client.describe_time_to_live(TableName=TABLE)["TimeToLiveDescription"]
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
    assert table["KeySchema"] == [{"AttributeName": "user_id", "KeyType": "HASH"}]
    assert ttl == {"TimeToLiveStatus": "ENABLED", "AttributeName": "expires_at"}


def test_table_created_by_somebody_faster_is_taken(bare_rig: Rig) -> None:

    def rule(_: int, __: dict[str, Any]) -> Answer:
        bare_rig.plain.ensure_exists(create=True)
        return error(400, "ResourceInUseException")

    bare_rig.faults.on("CreateTable", rule)
    bare_rig.table.ensure_exists(create=True)
    assert bare_rig.table.count() == 0


def test_table_with_another_key_is_refused(bare_rig: Rig) -> None:
    bare_rig.client.create_table(
        TableName=TABLE,
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    with pytest.raises(ConfigurationError, match="has the key id instead of user_id"):
        bare_rig.table.ensure_exists(create=True)


def test_recreated_table_has_no_marker(rig: Rig) -> None:
    assert rig.table.marker() is None
    rig.table.write_marker("delivery-1")
    assert rig.table.marker() == "delivery-1"
    rig.client.delete_table(TableName=TABLE)
    rig.table.ensure_exists(create=True)
    assert rig.table.marker() is None


def test_reader_falls_back_to_default_unless_the_list_is_current(rig: Rig) -> None:
    rig.table.write([make_item(DEFAULT_USER), make_item("reader"), tombstone("gone")])

    def shown_to(user_id: str, now: Any = NOW) -> str | None:
        found = rig.table.read_first([user_id, DEFAULT_USER], now)
        return None if found is None else found.user_id

    assert shown_to("reader") == "reader"
    assert shown_to("stranger") == DEFAULT_USER
    assert shown_to("gone") == DEFAULT_USER
    assert shown_to("reader", EXPIRES) is None
    rig.table.write([tombstone("reader")])
    assert shown_to("reader") == DEFAULT_USER
    gone = rig.table.read("gone")
    assert gone is not None
    assert gone.is_deleted
    assert rig.table.read("stranger") is None


def test_reads_that_check_a_delivery_are_consistent_and_those_for_users_cheap(rig: Rig) -> None:
    consistent = []

    def rule(_: int, request: dict[str, Any]) -> None:
        consistent.append(request["ConsistentRead"])

    for operation in ("GetItem", "Scan"):
        rig.faults.on(operation, rule)
    rig.table.read("user1", consistent=True)
    rig.table.marker()
    rig.table.count()
    rig.table.read_first(["user1", DEFAULT_USER], NOW)
    assert consistent == [True, True, True, False, False]


def test_scan_gives_every_item_over_many_pages_but_not_the_marker(rig: Rig) -> None:
    pages = []

    def rule(_: int, request: dict[str, Any]) -> None:
        pages.append(request.get("ExclusiveStartKey"))

    items = [make_item(user, user) for user in range(1, 31)]
    for item in items:
        item["scores"] = {"S": "1" * 100_000}  # a page is 1 MB
    rig.table.write([*items, tombstone("gone")])
    rig.table.write([make_item(DEFAULT_USER, 9)])
    rig.table.write_marker("delivery-1")
    rig.faults.on("Scan", rule)
    found = list(rig.table.keys_and_versions())
    expected = [(f"user{user}", user, False) for user in range(1, 31)]
    assert sorted(found) == sorted([*expected, ("gone", 2, True), (DEFAULT_USER, 9, False)])
    assert len(pages) > 1
    assert rig.table.count() == 30


def test_reads_wait_for_a_busy_table_but_not_for_ever(rig: Rig) -> None:
    rig.table.write([make_item(1)])
    rig.faults.on("GetItem", lambda call, request: THROTTLED if call <= 3 else None)
    assert rig.table.read("user1") is not None
    assert len(rig.time.naps) == 3
    rig.faults.on("Scan", lambda call, request: THROTTLED)
    with pytest.raises(TransientError, match="ProvisionedThroughputExceeded"):
        rig.table.count()
    assert rig.time.now <= 30


kinds = st.sampled_from(["throttle", "fail", "timeout", "lost answer", "refuse", "pass"])
steps = st.one_of(kinds, st.integers(0, 24))
"""What happens to a call: a fault, or the number of items left unprocessed."""


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(steps, max_size=20), st.booleans(), st.integers(0, 70), st.integers(0, 70))
def test_written_and_failed_are_all_whatever_happens(
    rig: Rig, faults: list[str | int], ends_well: bool, user_count: int, poisoned: int
) -> None:
    rig.reset()
    rig.plain.ensure_exists(create=True)

    def put(puts: list[dict[str, Any]]) -> None:
        if puts:
            rig.plain.write([each["PutRequest"]["Item"] for each in puts])

    def rule(call: int, request: dict[str, Any]) -> Answer | Exception | None:
        puts = request["RequestItems"][TABLE]
        if f"user{poisoned}" in users_of(request):
            return error(400, "ValidationException")
        step = faults[call - 1] if call <= len(faults) else "pass" if ends_well else "throttle"
        if isinstance(step, int):
            left = puts[-step:] if step else []
            put(puts[: len(puts) - len(left)])
            return 200, {"UnprocessedItems": {TABLE: left} if left else {}}
        if step == "lost answer":
            put(puts)
        return {
            "throttle": THROTTLED,
            "fail": error(500, "InternalServerError"),
            "timeout": ReadTimeoutError(endpoint_url="dynamodb"),
            "lost answer": ReadTimeoutError(endpoint_url="dynamodb"),
            "refuse": error(400, "ResourceNotFoundException"),
            "pass": None,
        }[step]

    rig.faults.on("BatchWriteItem", rule)
    users = {f"user{user}" for user in range(user_count)}
    try:
        report = rig.table.write([make_item(user) for user in range(user_count)])
    except KurashiruError:
        assert "refuse" in faults
        return
    failed = [user_id for user_id, _ in report.failed]
    assert len(set(failed)) == len(failed)
    assert set(failed) <= users
    assert report.written + len(failed) == len(users)
    assert users - set(failed) <= rig.stored().keys()
    assert (f"user{poisoned}" in failed) == (poisoned < user_count)
    assert rig.stored().keys() <= users
    if ends_well and "refuse" not in faults:
        assert set(failed) <= {f"user{poisoned}"}
