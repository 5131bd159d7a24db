"""Reading interactions and items: the forms they come in, what counts, and errors that say what to do."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.evaluation.interactions import Interactions, read_files, read_items


def written(folder: Path, name: str, *lines: str) -> Path:
    path = folder / name
    text = "\n".join(lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def events(found: Interactions) -> list[tuple[str, str | None, str, float]]:
    users, recipes = found.user_ids.to_pylist(), [*found.catalogue.recipe_ids.to_pylist(), None]
    return [
        (users[user], recipes[recipe], name, at / 1e6)
        for user, recipe, name, at in zip(
            found.user.tolist(), found.recipe.tolist(), found.event_names.to_pylist(), found.at.tolist(), strict=True
        )
    ]


@pytest.mark.parametrize("name", ["e.csv", "e.csv.gz"])
def test_rows_come_in_the_order_of_time_and_equal_times_in_that_of_the_file(tmp_path: Path, name: str) -> None:
    path = written(tmp_path, name, "user,item,ts", "b,soup,20", "a,stew,10.5", "a,curry,20", "b,stew,20", "a,soup,3")
    assert events(read_files(path, None)) == [
        ("a", "soup", "recipe_view", 3),
        ("a", "stew", "recipe_view", 10.5),
        ("b", "soup", "recipe_view", 20),
        ("a", "curry", "recipe_view", 20),
        ("b", "stew", "recipe_view", 20),
    ]


def test_parquet_with_numbers_says_the_same(tmp_path: Path) -> None:
    table: Any = pa.table({"user": [7, 7], "item": [1.0, 12.0], "ts": [20, 10]})
    pq.write_table(table, tmp_path / "e.parquet")
    assert events(read_files(tmp_path / "e.parquet", None)) == [
        ("7", "12", "recipe_view", 10),
        ("7", "1", "recipe_view", 20),
    ]


def test_ratings_below_the_least_are_left_out_and_told(tmp_path: Path) -> None:
    path = written(tmp_path, "e.csv", "user,item,rating,ts", "a,soup,5,1", "a,stew,3.5,2", "a,curry,4,3")
    found = read_files(path, None)
    assert [row[1] for row in events(found)] == ["soup", "curry"]
    assert found.notes[:2] == (
        "ratings of 4 and above count (--min-rating)",
        "left out of 3 rows: 1 rated below 4",
    )
    assert [row[1] for row in events(read_files(path, None, 3.5))] == ["soup", "stew", "curry"]


def test_actions_are_our_events_and_an_empty_one_is_a_view(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "e.csv",
        "user,item,ts,action",
        "a,soup,1,recipe_cooked",
        "a,stew,2,",
        "a,stew,3,recipe_impression",
        "a,,4,search",
    )
    found = read_files(path, None)
    assert [row[2] for row in events(found)] == ["recipe_cooked", "recipe_view", "search"]
    assert found.tells_interest.tolist() == [True, True, False]
    assert "1 of other actions" in found.notes[0]


def test_items_one_row_a_tag_or_one_a_recipe_say_the_same(tmp_path: Path) -> None:
    by_tag = written(tmp_path, "t.csv", "item,tag", "stew,hearty", "soup,light", "stew,quick", "stew,hearty", "bread,")
    by_item = written(tmp_path, "i.csv.gz", "item,title,tags", "stew,Stew,hearty|quick", "soup,Soup,light", "bread,,")
    lists: Any = pa.table({"item": ["stew", "soup", "bread"], "tags": [["hearty", "quick"], ["light"], None]})
    pq.write_table(lists, tmp_path / "l.parquet")
    tags = {"stew": ["hearty", "quick"], "soup": ["light"], "bread": []}
    for path in (by_tag, by_item, tmp_path / "l.parquet"):
        assert {row["recipe_id"]: row["value_tags"] for row in read_items(path).to_pylist()} == tags
    assert read_items(by_item)["title"].to_pylist() == ["Stew", "Soup", "bread"]


def test_recipes_are_those_of_the_items_and_those_that_were_taken(tmp_path: Path) -> None:
    path = written(tmp_path, "e.csv", "user,item,ts", "a,soup,1", "a,pie,2")
    items = written(tmp_path, "i.csv", "item,tag,published", "soup,light,2026-11-23", "stew,hearty,")
    found = read_files(path, items)
    assert found.catalogue.recipe_ids.to_pylist() == ["pie", "soup", "stew"]
    assert found.is_in_source.tolist() == [False, True, True]
    assert found.published.tolist() == [-1, 1_795_392_000_000_000, -1]
    assert found.titles.to_pylist() == ["pie", "soup", "stew"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("who,item,ts", "a,soup,1"), r"e\.csv has no column for the user: its columns are who, item, ts; rename"),
        (("user,item,ts,rating", "a,soup,1,3"), r"no rating is 4 or above \(the highest is 3\).*--min-rating"),
        (("user,item,ts,action", "a,soup,1,sniffed"), r"none of our events \(the first is 'sniffed'\); name them"),
        (("user,item,ts", "a,soup,yesterday"), r"no usable row: 1 without user or time"),
        (("user,item,ts,action", "a,,1,search"), r"no behaviour with a recipe; it takes at least one of recipe_view"),
    ],
)
def test_errors_name_the_file_the_column_and_what_mends_it(
    tmp_path: Path, lines: tuple[str, ...], message: str
) -> None:
    with pytest.raises(KurashiruError, match=message):
        read_files(written(tmp_path, "e.csv", *lines), None)


def test_a_least_rating_without_ratings_is_an_error(tmp_path: Path) -> None:
    path = written(tmp_path, "e.csv", "user,item,ts", "a,soup,1")
    with pytest.raises(ConfigurationError, match="no column for the rating, so --min-rating"):
        read_files(path, None, 3)
