"""Items built column by column are, to the byte DynamoDB counts, those that core/items.py builds one by one."""

from datetime import datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kurashiru_pipeline.core.item_columns import content_hashes, encode_lists
from kurashiru_pipeline.core.items import MAX_ITEM_BYTES, Item, build_item, content_hash, item_bytes, recipe_count

NOW = datetime(2026, 11, 23, 9, 30, 0, 999_999)
EXPIRES_AT = NOW + timedelta(days=30)
SCHEMA = pa.schema(
    {
        "user_id": pa.string(),
        "version": pa.int64(),
        "recipe_ids": pa.list_(pa.string()),
        "reasons": pa.list_(pa.string()),
        "scores": pa.list_(pa.float64()),
        "algorithm": pa.string(),
        "generated_at": pa.timestamp("us"),
    }
)
Row = dict[str, Any]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=70)
ids = st.one_of(
    st.sampled_from(["r1", "r2", "recipe000003", "r" * 64]), st.from_regex("[A-Za-z0-9_-]{1,64}", fullmatch=True)
)
anchored = st.builds(
    "{}:{}".format,
    st.sampled_from(["viewed", "favorited", "cooked", "listed", "ingredient", "taste", "new"]),
    st.one_of(
        ids, texts.filter(bool), st.sampled_from(["a,b", "100%", "%2C", "卵" * 100, 'say "ah"', "line\nend", "a:b"])
    ),
)
reasons = st.one_of(st.sampled_from(["popular", "external"]), anchored)
scores = st.one_of(
    st.floats(-1, 1), st.floats(allow_nan=False, allow_infinity=False, max_value=1e300, min_value=-1e300)
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    count = draw(st.integers(1, 20))
    return {
        "user_id": draw(st.one_of(ids, texts)),
        "version": draw(st.integers(0, 2**62)),
        "recipe_ids": draw(st.lists(st.one_of(ids, texts), min_size=count, max_size=count)),
        "reasons": draw(st.lists(reasons, min_size=count, max_size=count)),
        "scores": draw(st.lists(scores, min_size=count, max_size=count)),
        "algorithm": draw(st.one_of(st.just("20261123T000000"), texts)),
        "generated_at": draw(st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1))),
    }


def built(row: Row) -> Item:
    return build_item(expires_at=EXPIRES_AT, **row)


def is_fit(row: Row) -> bool:
    try:
        built(row)
    except ValueError:
        return False
    return True


def tables(given: list[Row]) -> list[pa.Table]:
    """The same lists in one piece, in several, and as a slice of more."""
    whole = pa.Table.from_pylist(given, SCHEMA)
    more = pa.Table.from_pylist([MADE, *given, MADE], SCHEMA)
    return [whole, pa.concat_tables([whole.slice(0, 1), whole.slice(1)]), more.slice(1, len(given))]


MADE: Row = {
    "user_id": "u1",
    "version": 7,
    "recipe_ids": ["r1", "r2", "r3", "r4", "r5"],
    "reasons": ["viewed:r9", "popular", "cooked:r9", "ingredient:eggs, fresh", "external"],
    "scores": [0.91249, 0.5, 0.25, -0.001, 0.0005],
    "algorithm": "popular",
    "generated_at": NOW,
}


@settings(max_examples=40, deadline=None)
@given(st.lists(rows().filter(is_fit), max_size=4))
@example([])
@example([MADE, MADE])
@example([{**MADE, "recipe_ids": [f"{rank}{'r' * 250}" for rank in range(5)]}, MADE])
def test_items_are_those_built_one_by_one(given: list[Row]) -> None:
    expected = [built(row) for row in given]
    for table in tables(given):
        encoded = encode_lists(table, EXPIRES_AT)
        items = [orjson.loads(item) for item in encoded.items]
        assert items == expected
        assert encoded.user_ids == [row["user_id"] for row in given]
        assert encoded.dropped_recipes.tolist() == [
            len(row["recipe_ids"]) - recipe_count(item) for row, item in zip(given, expected, strict=True)
        ]


@settings(max_examples=40, deadline=None)
@given(rows().filter(is_fit))
def test_items_are_those_that_boto3_makes_of_plain_values(given: Row) -> None:
    [encoded] = encode_lists(pa.Table.from_pylist([given], SCHEMA), EXPIRES_AT).items
    read, made = TypeDeserializer().deserialize, TypeSerializer().serialize
    item = orjson.loads(encoded)
    assert {name: made(read(value)) for name, value in built(given).items()} == item
    assert item_bytes(item) <= MAX_ITEM_BYTES


@pytest.mark.parametrize("reason", ["popular", "viewed:r1", "viewed:r{}", "ingredient:鶏,{}"])
def test_items_are_filled_to_the_last_byte(reason: str) -> None:
    ranked = {
        "recipe_ids": [f"{rank:050d}" for rank in range(20)],
        "reasons": [reason.format(rank) for rank in range(20)],
        "scores": [rank / 1000 for rank in range(20)],
    }
    given = [{**MADE, **ranked, "algorithm": "a" * length} for length in range(1, 80)]
    encoded = encode_lists(pa.Table.from_pylist(given, SCHEMA), EXPIRES_AT)
    assert [orjson.loads(item) for item in encoded.items] == [built(row) for row in given]
    assert len(np.unique(encoded.dropped_recipes)) > 1


@pytest.mark.parametrize(
    "change",
    [
        {"recipe_ids": [], "reasons": [], "scores": []},
        {"scores": [1.0]},
        {"reasons": ["popular", "because"]},
        {"reasons": ["popular", "viewed:"]},
        {"reasons": ["popular", "popular:r1"]},
        {"recipe_ids": ["r1", "r2,r3"]},
        {"recipe_ids": ["r1", ""]},
        {"scores": [1.0, float("nan")]},
        {"scores": [1.0, float("-inf")]},
        {"recipe_ids": ["r" * 1000, "r2"]},
    ],
)
def test_a_list_that_cannot_be_built_is_refused_in_the_same_words(change: Row) -> None:
    right = {**MADE, "recipe_ids": ["r1", "r2"], "reasons": ["popular", "popular"], "scores": [1.0, 0.5]}
    wrong = {**right, **change, "user_id": "u2"}
    with pytest.raises(ValueError, match="user 'u2'") as one_by_one:
        built(wrong)
    with pytest.raises(ValueError, match="user 'u2'") as in_columns:
        encode_lists(pa.Table.from_pylist([right, wrong, right], SCHEMA), EXPIRES_AT)
    assert str(in_columns.value) == str(one_by_one.value)


@pytest.mark.parametrize("name", ["recipe_ids", "reasons", "scores"])
def test_a_missing_value_is_an_error_and_no_shift_of_the_next_list(name: str) -> None:
    wrong = {**MADE, name: [None, *MADE[name][1:]]}
    with pytest.raises((TypeError, AttributeError)):
        encode_lists(pa.Table.from_pylist([MADE, wrong, MADE], SCHEMA), EXPIRES_AT)


def test_dictionaries_and_single_precision_are_taken_too() -> None:
    table = pa.Table.from_pylist([{**MADE, "scores": [1.0, 0.5, 0.25, 0.0, -0.5]}] * 2, SCHEMA)
    reasons = pa.ListArray.from_arrays(
        table["reasons"].combine_chunks().offsets, table["reasons"].combine_chunks().flatten().dictionary_encode()
    )
    other = table.set_column(3, "reasons", reasons).set_column(
        4, "scores", table["scores"].cast(pa.list_(pa.float32()))
    )
    assert encode_lists(other, EXPIRES_AT).items == encode_lists(table, EXPIRES_AT).items


lists = st.lists(st.tuples(texts, st.one_of(reasons, texts)), max_size=20)


@settings(max_examples=40, deadline=None)
@given(st.lists(lists, max_size=4))
def test_hashes_are_those_of_one_list_after_the_other(given: list[list[tuple[str, str]]]) -> None:
    recipe_ids = [[recipe_id for recipe_id, _ in entries] for entries in given]
    reasons = [[reason for _, reason in entries] for entries in given]
    columns = [pa.chunked_array([pa.array(column, pa.list_(pa.string()))]) for column in (recipe_ids, reasons)]
    assert content_hashes(*columns).to_pylist() == list(map(content_hash, recipe_ids, reasons))
    assert content_hashes(*(column.slice(1) for column in columns)).to_pylist() == list(
        map(content_hash, recipe_ids[1:], reasons[1:])
    )
