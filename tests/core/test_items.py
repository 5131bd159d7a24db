"""The DynamoDB item: what goes in comes out, within 1 KB, and its hash follows only what a user sees."""

from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core import items
from kurashiru_pipeline.core.events import ID_PATTERN
from kurashiru_pipeline.core.items import (
    MAX_ITEM_BYTES,
    Entry,
    Recommendation,
    build_item,
    build_tombstone,
    content_hash,
    decode_item,
    item_bytes,
    recipe_count,
    supersedes,
)

NOW = datetime(2026, 11, 23, 9, 30)
HEAD = {"algorithm": "popular", "version": 7, "generated_at": NOW, "expires_at": NOW + timedelta(days=30)}

ids = st.from_regex(ID_PATTERN, fullmatch=True)
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64)
reasons = st.one_of(
    st.just("popular"),
    st.builds("{}:{}".format, st.sampled_from(["viewed", "favorited", "cooked", "listed"]), ids),
    st.builds("{}:{}".format, st.sampled_from(["ingredient", "taste", "new"]), words),
    st.sampled_from(["taste:a,b", "ingredient:100%", "ingredient:%2C", "new:%25,", "taste:卵"]),
)
seconds = st.integers(0, 2**32).map(lambda epoch: datetime(1970, 1, 1) + timedelta(seconds=epoch))
entries = st.builds(Entry, ids, reasons, st.integers(-(10**7), 10**7).map(lambda score: score / 1000))
few = st.lists(
    st.builds(Entry, st.sampled_from(["r1", "r2"]), st.sampled_from(["popular", "new:x"]), st.floats(0, 1)),
    max_size=2,
)
recommendations = st.builds(
    Recommendation,
    user_id=ids,
    version=st.integers(0, 2**62),
    entries=st.lists(entries, min_size=1, max_size=20).map(tuple),
    algorithm=st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True),
    generated_at=seconds,
    expires_at=seconds,
)


def build(given: Recommendation, entries: tuple[Entry, ...] | None = None) -> items.Item:
    chosen = given.entries if entries is None else entries
    return build_item(
        given.user_id,
        recipe_ids=[entry.recipe_id for entry in chosen],
        reasons=[entry.reason for entry in chosen],
        scores=[entry.score for entry in chosen],
        algorithm=given.algorithm,
        version=given.version,
        generated_at=given.generated_at,
        expires_at=given.expires_at,
    )


@given(recommendations)
def test_decoding_gives_back_what_was_built(given: Recommendation) -> None:
    decoded = decode_item(build(given))
    kept = len(decoded.entries)
    assert 0 < kept <= len(given.entries)
    assert decoded == Recommendation(
        given.user_id,
        given.version,
        given.entries[:kept],
        given.algorithm,
        given.generated_at,
        given.expires_at,
    )


def assert_one_more_would_not_fit(given: Recommendation) -> None:
    item = build(given)
    kept = recipe_count(item)
    assert item_bytes(item) <= MAX_ITEM_BYTES
    if kept < len(given.entries):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(items, "MAX_ITEM_BYTES", 1_000_000)
            assert build(given, given.entries[:kept]) == item
            assert item_bytes(build(given, given.entries[: kept + 1])) > MAX_ITEM_BYTES


@given(recommendations)
def test_item_holds_as_many_recipes_as_fit(given: Recommendation) -> None:
    assert_one_more_would_not_fit(given)


@pytest.mark.parametrize("reason", ["popular", "viewed:r1", "viewed:r{}", "ingredient:鶏,{}"])
def test_item_is_filled_to_the_last_byte(reason: str) -> None:
    ranked = tuple(Entry(f"{rank:050d}", reason.format(rank), rank / 1000) for rank in range(20))
    for length in range(1, 80):
        assert_one_more_would_not_fit(Recommendation("u1", 7, ranked, "a" * length, NOW, NOW))


def test_item_is_the_one_of_the_contract() -> None:
    item = build_item(
        "u1",
        recipe_ids=["r1", "r2", "r3", "r4"],
        reasons=["viewed:r9", "popular", "cooked:r9", "ingredient:eggs, fresh"],
        scores=[0.91249, 0.5, 0.25, -0.001],
        **HEAD,
    )
    assert item == {
        "user_id": {"S": "u1"},
        "version": {"N": "7"},
        "recipe_ids": {"S": "r1,r2,r3,r4"},
        "reasons": {"S": "v0,p,c0,i1"},
        "anchors": {"S": "r9,eggs%2C fresh"},
        "scores": {"S": "912,500,250,-1"},
        "algorithm": {"S": "popular"},
        "generated_at": {"N": "1795426200"},
        "expires_at": {"N": "1798018200"},
    }


def test_twenty_recipes_with_long_words_stay_under_one_write_unit() -> None:
    item = build_item(
        "u" * 64,
        recipe_ids=[f"{number:08d}" for number in range(20)],
        reasons=[f"ingredient:{number}{'鶏' * 200}" for number in range(20)],
        scores=[1.0] * 20,
        **HEAD,
    )
    decoded = decode_item(item)
    assert item_bytes(item) <= MAX_ITEM_BYTES
    assert 0 < recipe_count(item) == len(decoded.entries) < 20
    assert decoded.entries[0].reason == f"ingredient:0{'鶏' * 63}"


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"recipe_ids": [], "reasons": [], "scores": []}, "at least one"),
        ({"scores": [1.0]}, "2 recipes, 2 reasons, 1 scores"),
        ({"reasons": ["popular", "because"]}, "unknown reason 'because'"),
        ({"reasons": ["popular", "viewed:"]}, "unknown reason 'viewed:'"),
        ({"reasons": ["popular", "popular:r1"]}, "unknown reason 'popular:r1'"),
        ({"recipe_ids": ["r1", "r2,r3"]}, "has a comma"),
        ({"recipe_ids": ["r1", ""]}, "is empty"),
        ({"scores": [1.0, float("nan")]}, "user 'u1'"),
        ({"scores": [1.0, float("inf")]}, "user 'u1'"),
        ({"recipe_ids": ["r" * 1000, "r2"]}, "not one recipe fits"),
    ],
)
def test_wrong_input_is_refused_by_name(change: dict[str, Any], complaint: str) -> None:
    right = {"recipe_ids": ["r1", "r2"], "reasons": ["popular", "popular"], "scores": [1.0, 0.5]}
    with pytest.raises(ValueError, match=complaint):
        build_item("u1", **{**right, **HEAD, **change})


def test_tombstone_has_no_list_and_is_never_current() -> None:
    item = build_tombstone("u1", **HEAD)
    decoded = decode_item(item)
    assert set(item) == {"user_id", "version", "algorithm", "generated_at", "expires_at", "deleted"}
    assert decoded.is_deleted
    assert decoded.entries == ()
    assert recipe_count(item) == 0
    assert not decoded.is_current(NOW)


def test_list_is_current_until_it_expires() -> None:
    decoded = decode_item(build_item("u1", recipe_ids=["r1"], reasons=["popular"], scores=[1.0], **HEAD))
    assert decoded.is_current(decoded.expires_at - timedelta(seconds=1))
    assert not decoded.is_current(decoded.expires_at)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", None),
        ("reasons", {"S": "v9"}),
        ("reasons", {"S": "x0"}),
        ("reasons", {"S": "p,p"}),
        ("scores", {"S": "high"}),
        ("generated_at", {"S": "1"}),
    ],
)
def test_foreign_item_is_refused_by_name(name: str, value: dict[str, str | bool] | None) -> None:
    item = build_item("u1", recipe_ids=["r1"], reasons=["popular"], scores=[1.0], **HEAD)
    if value is None:
        del item[name]
    else:
        item[name] = value
    with pytest.raises(ValueError, match=r"u1.*docs/contracts\.md"):
        decode_item(item)


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ({"S": ""}, 0),
        ({"S": "abc"}, 3),
        ({"S": "鶏肉"}, 6),
        ({"BOOL": True}, 1),
        ({"N": "0"}, 1),
        ({"N": "7"}, 2),
        ({"N": "1234"}, 3),
        ({"N": "12345"}, 4),
        ({"N": "100000"}, 2),
        ({"N": "-27"}, 3),
        ({"N": "0.0025"}, 2),
        ({"N": "1.5e10"}, 2),
    ],
)
def test_bytes_follow_the_rules_of_dynamodb(value: dict[str, str | bool], size: int) -> None:
    assert item_bytes({"user_id": value}) == 7 + size
    assert item_bytes({"卵": value}) == 3 + size


@pytest.mark.parametrize("value", [{"N": "seven"}, {"N": ""}, {"N": "."}, {"L": []}, {"S": 1}, {"S": "\ud800"}, {}])
def test_bytes_of_what_dynamodb_would_refuse_are_an_error(value: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r".+"):
        item_bytes({"user_id": value})


@given(few, few)
def test_hash_follows_recipes_and_reasons_and_nothing_else(left: list[Entry], right: list[Entry]) -> None:
    def hash_of(some: list[Entry]) -> str:
        return content_hash([entry.recipe_id for entry in some], [entry.reason for entry in some])

    def seen(some: list[Entry]) -> list[tuple[str, str]]:
        return [(entry.recipe_id, entry.reason) for entry in some]

    assert (hash_of(left) == hash_of(right)) == (seen(left) == seen(right))


def test_hash_stays_the_same_between_releases() -> None:
    assert content_hash(["r1", "r2"], ["viewed:r9", "popular"]) == "c39fa59b5107ffe69817013efb3634d4"


def test_version_never_goes_back() -> None:
    assert supersedes(8, 7)
    assert supersedes(7, 7)
    assert not supersedes(6, 7)
