"""The catalogue: positions, rarest tags, patterns, main ingredients, and names found in text."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.catalogue import MAIN_INGREDIENTS, Catalogue
from kurashiru_pipeline.core.columns import micros
from tests.kitchen import NOW, catalogue, recipe, recipes_table

words = st.lists(st.sampled_from("abcd"), max_size=3, unique=True).map(" ".join)
some_recipes = st.lists(
    st.builds(
        recipe,
        st.text("xyz", min_size=1, max_size=3),
        words,
        words,
        is_deleted=st.booleans(),
        author=st.sampled_from([None, "ann", "bob"]),
    ),
    max_size=12,
    unique_by=lambda row: row["recipe_id"],
)


@given(some_recipes)
def test_it_tells_what_the_table_says(rows: list[dict]) -> None:
    made = catalogue(*rows)
    counts = {tag: sum(tag in row["value_tags"] and not row["is_deleted"] for row in rows) for tag in "abcd"}
    assert made.recipe_ids.to_pylist() == sorted(row["recipe_id"] for row in rows)
    for row in rows:
        (at,) = made.index_of(pa.array([row["recipe_id"]]))
        tags = [made.tags[tag].as_py() for tag in made.tags_of(np.array([at]))[1]]
        assert tags == sorted(row["value_tags"])
        assert made.alive[at] == (not row["is_deleted"])
        rarest = min(row["value_tags"], key=lambda tag: (counts[tag], tag), default=None)
        assert made.primary[at] == (len(made.tags) if rarest is None else made.tags.to_pylist().index(rarest))
        pattern = made.patterns[[made.pattern[at]]].toarray()[0]
        assert {made.tags[tag].as_py() for tag in np.flatnonzero(pattern)} == set(row["value_tags"])
        assert np.linalg.norm(pattern) == pytest.approx(1 if row["value_tags"] else 0)
        main = [made.ingredients[item].as_py() for item in made.main_ingredients[at] if item >= 0]
        assert main == row["ingredients"][:MAIN_INGREDIENTS]
        assert (made.authors[made.author[at]].as_py() if made.author[at] >= 0 else None) == row["author_id"]
        bits = [
            64 * word + bit
            for word, bits in enumerate(made.tag_bits[:, at].tolist())
            for bit in range(64)
            if bits >> bit & 1
        ]
        assert [made.tags[tag].as_py() for tag in bits] == sorted(row["value_tags"])


def test_tags_beyond_one_word_of_bits() -> None:
    tags = [f"t{number:03d}" for number in range(150)]
    made = catalogue(recipe("a", " ".join(tags)), recipe("b", "t000 t064 t149"))
    assert np.bitwise_count(made.tag_bits).sum(axis=0).tolist() == [150, 3]
    assert np.bitwise_count(made.tag_bits[:, 0] & made.tag_bits[:, 1]).sum() == 3


def test_unknown_ids_have_no_position() -> None:
    assert catalogue(recipe("a")).index_of(pa.array(["a", "b", None])).tolist() == [0, -1, -1]


def test_column_types_of_other_engines_are_taken() -> None:
    table = recipes_table(recipe("b", "quick"), recipe("a", "", "egg"))
    as_is = Catalogue.from_arrow(table)
    other = table.set_column(0, "recipe_id", table["recipe_id"].cast(pa.large_string()))
    other = other.set_column(4, "published_at", table["published_at"].cast(pa.timestamp("ms", "UTC")))
    other = other.set_column(2, "value_tags", table["value_tags"].cast(pa.list_(pa.large_string())))
    cast = Catalogue.from_arrow(pa.concat_tables([other.slice(0, 1), other.slice(1)]))
    assert cast.recipe_ids.equals(as_is.recipe_ids)
    assert cast.published.tolist() == as_is.published.tolist()
    assert cast.tags.equals(as_is.tags)


def test_nulls_are_nothing() -> None:
    table = pa.table(
        {
            "recipe_id": ["a", "b"],
            "value_tags": pa.array([None, ["quick", None]], pa.list_(pa.string())),
            "ingredients": pa.array([None, []], pa.list_(pa.string())),
            "published_at": pa.array([None, NOW], pa.timestamp("us")),
            "is_deleted": pa.array([None, False]),
            "author_id": pa.nulls(2),
        }
    )
    made = Catalogue.from_arrow(table)
    assert made.alive.all()
    assert made.primary.tolist() == [1, 0]
    assert made.published.tolist() == [0, micros(NOW)]
    assert (made.main_ingredients == -1).all()
    assert made.author.tolist() == [-1, -1]


def test_an_empty_catalogue() -> None:
    made = catalogue()
    assert made.index_of(pa.array(["a"])).tolist() == [-1]
    assert made.ingredients_in("egg") == []


@pytest.mark.parametrize("ids", [["a", "a"], ["a", None]])
def test_ids_must_be_unique(ids: list[str | None]) -> None:
    table = recipes_table(recipe("a"), recipe("b")).set_column(0, "recipe_id", pa.array(ids))
    with pytest.raises(ValueError, match="recipe_id"):
        Catalogue.from_arrow(table)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("egg", ["egg"]),
        ("EGG  Tomato soup", ["egg", "tomato"]),
        ("soy_sauce eggs", ["soy_sauce"]),
        ("tomatoes", []),
        ("鶏むね肉と卵の丼", ["鶏むね肉", "卵"]),
        ("ﾄﾏﾄ", ["トマト"]),
        ("", []),
    ],
)
def test_ingredients_are_found_in_text(text: str, found: list[str]) -> None:
    made = catalogue(
        recipe("a", "", "egg tomato soy_sauce"), recipe("b", "", "鶏むね肉 肉 卵"), recipe("c", "", "トマト")
    )
    assert [made.ingredients[at].as_py() for at in made.ingredients_in(text)] == found


def test_a_moment_without_zone_is_utc() -> None:
    assert (
        micros(NOW)
        == micros(NOW.replace(tzinfo=UTC))
        == int(datetime(2026, 11, 23, 9, 30, tzinfo=UTC).timestamp() * 1e6)
    )
