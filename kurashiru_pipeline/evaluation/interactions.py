"""What happened, as the evaluation sees it: behaviours in the order of time, and the recipes they name.

Here: reading files of interactions and items, which rows count, and what was left out.
Not here: file formats (local/tables.py), the lake (lake.py), and what is asked about the behaviours (queries.py).
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import Bools, Ints, flatten, positions, starts, strings, take, to_numpy, vocabulary
from kurashiru_pipeline.core.events import MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.core.profiles import ACTION_OF_EVENT
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.local.replay import INTERACTIONS, ITEMS
from kurashiru_pipeline.local.tables import parse_numbers, parse_times, read_columns

VIEW = "recipe_view"
LIKED_RATING = 4.0
"""Ratings from here on count as positive, unless it is said otherwise."""

_TEXTS: Any = pa.list_(pa.string())
RECIPE_SCHEMA = pa.schema(
    [
        ("recipe_id", pa.string()),
        ("title", pa.string()),
        ("author_id", pa.string()),
        ("value_tags", _TEXTS),
        ("ingredients", _TEXTS),
        ("published_at", pa.timestamp("us")),
    ]
)


@dataclass(frozen=True)
class Interactions:
    """N behaviours in the order of time (equal times: the order of the source), of U users with R recipes.

    Attributes:
        user: (N,) number of the user, in `user_ids`.
        recipe: (N,) position in the catalogue, -1 for behaviours without a recipe.
        at: (N,) microseconds since 1970.
        event_names: N names of our events.
        details: N texts (query of a search, ingredient of a shopping list), null for none.
        catalogue: all recipes, none of them deleted.
        titles: R texts.
        published: (R,) microseconds since 1970, -1 where the source does not say.
        is_in_source: (R,) whether the source of recipes holds it; others are known from their first behaviour on.
        source: where the behaviours come from, for people.
        notes: what was left out and what was assumed, for people.
    """

    user: Ints
    recipe: Ints
    at: Ints
    event_names: Any
    details: Any
    user_ids: Any
    catalogue: Catalogue
    titles: Any
    published: Ints
    is_in_source: Bools
    source: str
    notes: tuple[str, ...]

    @classmethod
    def of(cls, behaviors: pa.Table, recipes: pa.Table, source: str, notes: tuple[str, ...]) -> "Interactions":
        """From columns.

        Args:
            behaviors: user_id, event_name, recipe_id, detail, at (microseconds since 1970), in any order.
            recipes: in RECIPE_SCHEMA; published_at is null where it is not known.

        Raises:
            ConfigurationError: no behaviour tells an interest in a recipe.
        """
        behaviors = behaviors.take(np.argsort(to_numpy(behaviors["at"], 0), kind="stable"))
        names = vocabulary(strings(behaviors["recipe_id"]))
        unlisted = names.filter(pc.invert(pc.is_in(names, strings(recipes["recipe_id"]))))
        empty = pa.array([[]] * len(unlisted), _TEXTS)
        more = pa.table(
            {
                "recipe_id": unlisted,
                "title": unlisted,
                "author_id": pa.nulls(len(unlisted), pa.string()),
                "value_tags": empty,
                "ingredients": empty,
                "published_at": pa.nulls(len(unlisted), pa.timestamp("us")),
            },
            schema=RECIPE_SCHEMA,
        )
        recipes = pa.concat_tables([recipes, more])
        is_in_source = np.arange(len(recipes)) < len(recipes) - len(more)
        order = to_numpy(pc.sort_indices(strings(recipes["recipe_id"])), 0).astype(np.int64)
        recipes = recipes.take(order)
        never = pa.array(np.zeros(len(recipes), dtype=bool))
        catalogue = Catalogue.from_arrow(recipes.append_column("is_deleted", never))
        user_ids = vocabulary(strings(behaviors["user_id"]))
        made = cls(
            user=positions(behaviors["user_id"], user_ids),
            recipe=catalogue.index_of(behaviors["recipe_id"]),
            at=to_numpy(behaviors["at"], 0).astype(np.int64),
            event_names=strings(behaviors["event_name"]),
            details=strings(behaviors["detail"]),
            user_ids=user_ids,
            catalogue=catalogue,
            titles=pc.coalesce(strings(recipes["title"]), strings(recipes["recipe_id"])),
            published=to_numpy(recipes["published_at"].cast(pa.int64()), -1).astype(np.int64),
            is_in_source=is_in_source[order],
            source=source,
            notes=notes,
        )
        if not made.tells_interest.any():
            message = f"{source} has no behaviour with a recipe; it takes at least one of {', '.join(ACTION_OF_EVENT)}"
            raise ConfigurationError(message)
        return made

    @cached_property
    def tells_interest(self) -> Bools:
        """(N,) behaviours by which a user takes up a recipe: what is foretold, counted and learned from."""
        return (positions(self.event_names, pa.array(list(ACTION_OF_EVENT))) >= 0) & (self.recipe >= 0)

    @cached_property
    def by_user(self) -> Ints:
        """(N,) rows in the order of users, each user's in the order of time."""
        return np.argsort(self.user, kind="stable")

    @cached_property
    def user_starts(self) -> Ints:
        """(U + 1,) where each user's rows start in `by_user`."""
        return starts(np.bincount(self.user, minlength=len(self.user_ids)))

    @cached_property
    def first_seen(self) -> Ints:
        """(R,) time of each recipe's first behaviour, the end of time where there is none."""
        first = np.full(len(self.catalogue.recipe_ids), np.iinfo(np.int64).max)
        named = self.recipe >= 0
        np.minimum.at(first, self.recipe[named], self.at[named])
        return first


def read_files(interactions: Path, items: Path | None, min_rating: float | None = None) -> Interactions:
    """Interactions and items of two files.

    Interactions have columns for user, item and time (seconds since 1970, or ISO 8601), and may have one for the
    action (names of our events; without one, every row is a recipe_view) and one for a rating. Items have a column
    for the item and a tag, one row a tag, or one for tags (a list, or texts with `|` between), and may have title,
    ingredients and time of publication.

    Args:
        min_rating: ratings from here on count as positive, the others are left out; by default 4.

    Raises:
        KurashiruError: a file cannot be read or lacks a column.
        ConfigurationError: no row counts; the message says why.
    """
    table = read_columns(interactions, INTERACTIONS).table
    rows, notes = len(table), []
    users, things = _texts(table["user"]), _texts(table["item"])
    at, has_time = parse_times(table["time"])
    events: Any = pa.repeat(pa.scalar(VIEW), rows)
    if "action" in table.column_names:
        events = pc.fill_null(_texts(table["action"]), VIEW)
    usable = to_numpy(pc.is_valid(users), False) & has_time
    problems = {"without user or time": int((~usable).sum())}
    is_known = to_numpy(pc.is_in(events, pa.array(MEANINGFUL_EVENT_NAMES)), False)
    if not is_known.any():
        message = (
            f"{interactions}: the column for the action holds none of our events (the first is {events[0].as_py()!r}); "
            f"name them {', '.join(ACTION_OF_EVENT)}, or drop the column to count every row as a {VIEW}"
        )
        raise ConfigurationError(message)
    problems["of other actions"] = int((usable & ~is_known).sum())
    usable &= is_known
    has_thing = to_numpy(pc.is_valid(things), False) | (positions(events, pa.array(["search"])) == 0)
    problems["without item"] = int((usable & ~has_thing).sum())
    usable &= has_thing
    if "rating" in table.column_names:
        ratings, least = parse_numbers(table["rating"]), LIKED_RATING if min_rating is None else min_rating
        liked = ratings >= least
        if not (usable & liked).any():
            highest = np.nanmax(ratings, initial=-np.inf)
            message = (
                f"{interactions}: no rating is {least:g} or above (the highest is {highest:g}); "
                "say from where on a rating is positive with --min-rating"
            )
            raise ConfigurationError(message)
        problems[f"rated below {least:g}"] = int((usable & ~liked).sum())
        usable &= liked
        notes.append(f"ratings of {least:g} and above count (--min-rating)")
    elif min_rating is not None:
        message = f"{interactions} has no column for the rating, so --min-rating cannot be used"
        raise ConfigurationError(message)
    if not usable.any():
        raise ConfigurationError(f"{interactions} has no usable row: {_listing(problems)}")
    if left_out := _listing(problems):
        notes.append(f"left out of {rows:,} rows: {left_out}")
    kept = np.flatnonzero(usable)
    behaviors = pa.table(
        {
            "user_id": take(users, kept),
            "event_name": take(events, kept),
            "recipe_id": take(things, kept),
            "detail": pa.nulls(len(kept), pa.string()),
            "at": at[kept],
        }
    )
    recipes = read_items(items) if items is not None else RECIPE_SCHEMA.empty_table()
    if items is None:
        notes.append("no items were given: no tags, so neither tastes nor variety can be told")
    return Interactions.of(behaviors, recipes, interactions.name, tuple(notes))


def read_items(path: Path) -> pa.Table:
    """Recipes of a file of items, in the schema Interactions.of takes; several rows of one item are joined.

    Raises:
        KurashiruError: the file cannot be read or has no column for the item.
    """
    table = read_columns(path, ITEMS).table
    things = _texts(table["item"])
    rows = np.flatnonzero(to_numpy(pc.is_valid(things), False))
    things, table = take(things, rows), table.take(rows)
    words = pc.unique(things)
    item = positions(things, words)
    first = np.unique(item, return_index=True)[1]
    title: Any = words
    published: Any = pa.nulls(len(words), pa.timestamp("us"))
    if "title" in table.column_names:
        title = pc.coalesce(_texts(table["title"].take(first)), words)
    if "published" in table.column_names:
        at, is_known = parse_times(table["published"].take(first))
        published = pa.array(at, mask=~is_known).cast(pa.timestamp("us"))
    columns: dict[str, Any] = {
        "recipe_id": words,
        "title": title,
        "author_id": _texts(table["author"].take(first)) if "author" in table.column_names else pa.nulls(len(words)),
        "value_tags": _joined(table, "tags", item, len(words)),
        "ingredients": _joined(table, "ingredients", item, len(words)),
        "published_at": published,
    }
    return pa.table(columns, schema=RECIPE_SCHEMA)


def _joined(table: pa.Table, name: str, item: Ints, size: int) -> Any:
    """The texts of a column of each item, each once, in their order."""
    if name not in table.column_names:
        return pa.array([[]] * size, _TEXTS)
    column = table[name].combine_chunks()
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    parts: Any = column.cast(_TEXTS) if is_list else pc.split_pattern(_texts(column), "|")
    row, words = flatten(parts)
    words = _texts(words)
    filled = np.flatnonzero(to_numpy(pc.is_valid(words), False))
    owner, words = item[row[filled]], take(words, filled)
    code = positions(words, pc.unique(words))
    first = np.sort(np.unique(owner * (code.max(initial=0) + 1) + code, return_index=True)[1])
    order = first[np.argsort(owner[first], kind="stable")]
    make: Any = pa.ListArray.from_arrays
    return make(pa.array(starts(np.bincount(owner[order], minlength=size)), pa.int32()), take(words, order))


def _texts(column: Any) -> Any:
    """A column of texts or whole numbers as texts without blanks around; null where there is nothing."""
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_floating(column.type) and pc.all(pc.equal(column, pc.round(column))).as_py():
        column = column.cast(pa.int64())  # whole numbers beside missing ones, as pandas writes them
    texts = pc.utf8_trim_whitespace(strings(column))
    return pc.if_else(pc.equal(texts, pa.scalar("")), None, texts)


def _listing(problems: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in problems.items() if count)
