"""Real interactions of any kind as landed events: a file of (user, item, time) becomes traffic for the pipeline.

Here: what columns and actions mean, identifiers, and when each event is said to occur.
Not here: reading files into columns (tables.py), rendering (lines.py), placing files (landing.py).
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kurashiru_pipeline.core.events import EVENT_NAMES, ID_PATTERN, UUID_PATTERN
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError
from kurashiru_pipeline.local.landing import (
    RECIPE_SCHEMA,
    USER_SCHEMA,
    events_key,
    export_key,
    pack_lines,
    pack_table,
    place,
)
from kurashiru_pipeline.local.lines import Column, content, field, join, mix, pieces, text_column, time_text, uuid_text
from kurashiru_pipeline.local.tables import Layout, TextOrNumbers, parse_numbers, parse_times, read_columns

Integers = NDArray[np.int64]
OnProgress = Callable[[int, int | None], None]

_SECOND = 1_000_000
_DAY = 86_400 * _SECOND
_FILE_LINES = 50_000
_FILE_SECONDS = 2.0
_RETENTION_USED = 0.95  # the rest is left to the time until the files are loaded
_LIKED_RATING = 4.0
INTERACTIONS = Layout(
    names={
        "user": ("userid", "user", "uid", "visitorid", "customerid", "reviewerid"),
        "item": ("itemid", "item", "recipeid", "recipe", "movieid", "productid", "product", "asin"),
        "time": ("timestamp", "ts", "time", "occurredat", "eventtime", "datetime", "date"),
        "action": ("action", "eventname", "event", "eventtype", "behavior"),
        "rating": ("rating", "score", "stars"),
        "event_id": ("eventid",),
        "session": ("sessionid", "session"),
    },
    required=("user", "item", "time"),
    order=("user", "item", "rating", "time"),
)
ITEMS = Layout(
    names={
        "item": ("id", *INTERACTIONS.names["item"]),
        "title": ("title", "name"),
        "tags": ("tags", "tag", "valuetags", "genres", "genre", "categories", "category"),
        "ingredients": ("ingredients",),
        "author": ("authorid", "author", "brand"),
        "published": ("publishedat", "published"),
    },
    required=("item",),
    order=("item", "title", "tags"),
)
_ACTIONS = {
    **{name: name for name in EVENT_NAMES},
    **dict.fromkeys(("view", "click", "pv", "read", "play", "watch", "detail"), "recipe_view"),
    **dict.fromkeys(("favorite", "favourite", "fav", "like", "save", "bookmark"), "recipe_favorite"),
    **dict.fromkeys(("unfavorite", "unfavourite", "unlike", "unsave"), "recipe_unfavorite"),
    **dict.fromkeys(("cook", "cooked", "buy", "purchase", "order", "transaction"), "recipe_cooked"),
    **dict.fromkeys(("cart", "addtocart", "add_to_cart", "shopping_list"), "shopping_list_add"),
    **dict.fromkeys(("impression", "show", "exposure"), "recipe_impression"),
}


@dataclass(frozen=True)
class _Texts:
    """A column of texts: each text once, and for each row the position of its own (-1: none)."""

    distinct: list[str]
    codes: Integers

    def take(self, rows: Integers) -> "_Texts":
        """The same of some rows."""
        return _Texts(self.distinct, self.codes[rows])


@dataclass(frozen=True)
class _Events:
    """Usable rows in the order of time.

    Attributes:
        at: original time, epoch microseconds, [rows].
        event_ids: Arrow strings, [rows].
    """

    users: _Texts
    items: _Texts
    names: _Texts
    sessions: _Texts
    at: Integers
    event_ids: Column


def replay(
    landing: Path,
    interactions: Path,
    items: Path | None = None,
    *,
    speed: float | None = None,
    retention_days: int = 90,
    on_progress: OnProgress | None = None,
) -> dict[str, Any]:
    """Land a file of interactions as behaviour events, with exports of its items and users.

    Without `speed`, all is landed at once in the original order, moved in time so that the last event is now, and
    drawn together evenly if it would not fit into the retention. With `speed`, events land as the clock reaches
    them, that many times faster than they happened, stamped with the clock.

    A user or item id that the contract does not allow becomes `x-` and 32 hexadecimal digits of its SHA-256.
    The event id comes from user, item, time, action and rating (and, for equal rows, which of them it is), so the
    same file replayed again is seen as duplicates. An action that is not known keeps its name; without an action, a
    rating of at least 4 is a `recipe_favorite`, anything else a `recipe_view`.

    Args:
        landing: the landing folder; made when missing.
        interactions: user, item and time, optionally action, rating, event id and session (see INTERACTIONS).
        items: id, optionally title, tags, ingredients, author and time of publication (see ITEMS), one row an item
            or one a tag; items without a row are titled by their id.
        speed: how many times faster than it happened; None: all at once.
        retention_days: KURASHIRU_RETENTION_DAYS, older events would be rejected.
        on_progress: called with lines landed and lines to land.

    Returns:
        What was landed, what was left out and why, and what was done to the times.

    Raises:
        ConfigurationError: `speed` is not above 0, or the folder cannot be written.
        KurashiruError: a file cannot be read, lacks a column, or has no usable row.
    """
    if speed is not None and not speed > 0:
        raise ConfigurationError(f"--speed is {speed}; it must be above 0")
    began = time.monotonic()
    events, bad_rows = _read(interactions)
    now = time.time_ns() // 1000 // _SECOND * _SECOND
    first, last = int(events.at[0]), int(events.at[-1])
    if speed is None:
        longest = _RETENTION_USED * retention_days * _DAY
        times = _Times(last, now, min(1.0, longest / max(last - first, 1)))
    else:
        times = _Times(first, now, 1.0 / speed)
    occurred = times.of(events.at)
    recipes, unknown_items, bad_items = _recipes(items, events, occurred, times)
    users = _users(events, occurred, times)
    for kind, table in (("recipes", recipes), ("users", users)):
        place(landing, export_key(kind, _moment(now), uuid4()), pack_table(table))

    lines = _Lines(events, occurred)
    with ThreadPoolExecutor(2) as pool:
        if speed is None:
            starts = range(0, len(occurred), _FILE_LINES)
            packed = pool.map(lines.pack, starts, [start + _FILE_LINES for start in starts])
        else:
            packed = (lines.pack(start, stop) for start, stop in _as_time_passes(occurred))
        files = 0
        for stop, file_content in packed:
            place(landing, events_key(_moment(int(occurred[stop - 1])), uuid4()), file_content)
            files += 1
            if on_progress is not None:
                on_progress(stop, len(occurred))

    counts = np.bincount(events.names.codes, minlength=len(events.names.distinct)).tolist()
    by_name = zip(events.names.distinct, counts, strict=True)
    return {
        "rows": len(occurred) + sum(bad_rows.values()),
        "landed": len(occurred),
        "files": files,
        "bad_rows": bad_rows,
        "users": len(users),
        "recipes": len(recipes),
        "items_without_details": unknown_items,
        "item_rows_without_id": bad_items,
        "events_by_name": {name: count for name, count in by_name if count},
        "original_days": round((last - first) / _DAY, 3),
        "replayed_days": round((last - first) * times.scale / _DAY, 3),
        "is_compressed": speed is None and times.scale < 1.0,
        "first_occurred_at": _moment(int(occurred[0])).isoformat(),
        "last_occurred_at": _moment(int(occurred[-1])).isoformat(),
        "seconds": round(time.monotonic() - began, 3),
    }


@dataclass(frozen=True)
class _Times:
    """From original to replayed time: `origin` becomes `anchor`, and distances are multiplied by `scale`."""

    origin: int
    anchor: int
    scale: float

    def of(self, at: Integers) -> Integers:
        """Replayed times of original ones (epoch microseconds)."""
        moved: Integers = self.anchor + np.rint((at - self.origin) * self.scale).astype(np.int64)
        return moved


def _read(path: Path) -> tuple[_Events, dict[str, int]]:
    """Rows that can be used, and how many cannot for each reason."""
    columns = read_columns(path, INTERACTIONS)
    table = columns.table
    rows = table.num_rows
    missing = pa.chunked_array([pa.nulls(rows, pa.string())])

    def texts(meaning: str) -> _Texts:
        return _texts(table[meaning] if meaning in table.column_names else missing)

    users, items, actions, sessions = texts("user"), texts("item"), texts("action"), texts("session")
    ratings = parse_numbers(table["rating"]) if "rating" in table.column_names else np.full(rows, np.nan)
    at, has_time = parse_times(table["time"])
    names = _names(actions, ratings)
    too_long = np.array([len(name) > 64 for name in names.distinct])[names.codes]
    needs_item = np.array([name != "search" for name in names.distinct])[names.codes]
    reasons = {
        "no user": users.codes < 0,
        "no item": (items.codes < 0) & needs_item,
        "no time": ~has_time,
        "action over 64 characters": too_long,
    }
    bad_rows = {"another number of fields than the header": columns.torn_rows}
    usable = np.ones(rows, dtype=bool)
    for reason, holds in reasons.items():
        bad_rows[reason] = int((usable & holds).sum())
        usable &= ~holds
    bad_rows = {reason: count for reason, count in bad_rows.items() if count}
    if not usable.any():
        raise KurashiruError(f"{path} has no usable row: {bad_rows or 'it is empty'}")

    event_ids = _event_ids(users, items, names, ratings, at)
    if "event_id" in table.column_names:
        given = table["event_id"].cast(pa.string()).combine_chunks()
        is_uuid = pc.match_substring_regex(given, f"^{UUID_PATTERN}$").fill_null(False)
        event_ids = pc.if_else(is_uuid, given, event_ids)
    order = np.flatnonzero(usable)
    order = order[np.argsort(at[order], kind="stable")]
    events = _Events(
        users=users.take(order),
        items=items.take(order),
        names=names.take(order),
        sessions=sessions.take(order),
        at=at[order],
        event_ids=event_ids.take(order),
    )
    return events, bad_rows


def _texts(column: TextOrNumbers) -> _Texts:
    text = pc.utf8_trim_whitespace(_as_text(column).combine_chunks())
    encoded: Any = pc.if_else(pc.equal(text, pa.scalar("")), None, text).dictionary_encode()
    return _Texts(encoded.dictionary.to_pylist(), encoded.indices.cast(pa.int64()).fill_null(-1).to_numpy())


def _as_text(column: TextOrNumbers) -> TextOrNumbers:
    if pa.types.is_floating(column.type) and pc.all(pc.equal(column, pc.round(column))).as_py():
        column = column.cast(pa.int64())  # whole numbers beside missing ones, as pandas writes them
    return column.cast(pa.string())


def _names(actions: _Texts, ratings: NDArray[np.float64]) -> _Texts:
    """The event name of each row."""
    by_action = [_ACTIONS.get(re.sub("[ _-]+", "_", action.lower()), action) for action in actions.distinct]
    distinct = list(dict.fromkeys(["recipe_view", "recipe_favorite", *by_action]))
    by_rating = np.where(ratings >= _LIKED_RATING, 1, 0)
    code_of = np.array([distinct.index(name) for name in by_action] + [0])
    return _Texts(distinct, np.where(actions.codes < 0, by_rating, code_of[actions.codes]))


def _event_ids(users: _Texts, items: _Texts, names: _Texts, ratings: NDArray[np.float64], at: Integers) -> Column:
    row = np.zeros(len(at), dtype=np.uint64)
    for number, texts in enumerate((users, items, names)):
        hashes = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts.distinct]
        row = mix(row ^ np.array([*hashes, 0], dtype=np.uint64)[texts.codes], number)
    row = mix(row ^ at.view(np.uint64), 3)
    row = mix(row ^ np.nan_to_num(ratings).view(np.uint64), 4)
    # Equal rows are told apart by their order: 0, 1, 2, ...
    order = np.argsort(row, kind="stable")
    is_first = np.diff(row[order], prepend=~row[order[:1]]) != 0
    position = np.arange(len(row))
    occurrence = np.empty_like(position)
    occurrence[order] = position - np.maximum.accumulate(np.where(is_first, position, 0))
    return text_column(uuid_text(mix(row, 5), mix(row ^ mix(occurrence.astype(np.uint64), 6), 7)))


class _Lines:
    """Renders and packs rows of events."""

    def __init__(self, events: _Events, occurred: Integers) -> None:
        self._events = events
        self._occurred = occurred
        self._names = pa.array([field("event_name", name) for name in events.names.distinct])
        self._users = pa.array([field("user_id", _allowed_id(user)) for user in events.users.distinct])
        items = [*map(_allowed_id, events.items.distinct), None]  # code -1 is the last
        self._items = pa.array([field("recipe_id", item) for item in items])
        self._sessions = pa.array([field("session_id", session) for session in (*events.sessions.distinct, None)])

    def pack(self, start: int, stop: int) -> tuple[int, bytes]:
        """Rows [start, stop) as the content of a file; also says where they really stop."""
        events, rows = self._events, slice(start, stop)
        lines = join(
            '{"event_id":"',
            events.event_ids[rows],
            '",',
            pieces(self._names, events.names.codes[rows]),
            pieces(self._users, events.users.codes[rows]),
            pieces(self._sessions, events.sessions.codes[rows] % len(self._sessions)),
            pieces(self._items, events.items.codes[rows] % len(self._items)),
            text_column(time_text(self._occurred[rows]), b'"occurred_at":"', b'",'),
            '"platform":null,"app_version":null,"properties":null}\n',
        )
        return start + len(lines), pack_lines(content(lines))


def _as_time_passes(occurred: Integers) -> Iterator[tuple[int, int]]:
    """Ranges of rows whose time has come, at most one range in `_FILE_SECONDS`."""
    done = 0
    while done < len(occurred):
        until_next = (int(occurred[done]) - time.time_ns() // 1000) / _SECOND
        time.sleep(max(until_next, _FILE_SECONDS))
        due = int(np.searchsorted(occurred, time.time_ns() // 1000, side="right"))
        for start in range(done, due, _FILE_LINES):
            yield start, min(start + _FILE_LINES, due)
        done = due


def _recipes(path: Path | None, events: _Events, occurred: Integers, times: _Times) -> tuple[pa.Table, int, int]:
    """The recipe export, how many items of the events are not in `path`, and how many rows there have no id."""
    rows: dict[str, dict[str, Any]] = {}
    bad_rows = 0
    if path is not None:
        columns = read_columns(path, ITEMS)
        table, bad_rows = columns.table, columns.torn_rows
        table = table.set_column(table.column_names.index("item"), "item", _as_text(table["item"]))
        if "published" in table.column_names:
            at, is_known = parse_times(table["published"])
            published = pa.array(times.of(at), mask=~is_known)
            table = table.set_column(table.column_names.index("published"), "published", published)
        for row in table.to_pylist():
            item = (row["item"] or "").strip()
            if not item:
                bad_rows += 1
                continue
            merged = rows.setdefault(item, {**row, "tags": [], "ingredients": []})
            for name in ("tags", "ingredients"):
                merged[name] += [text for text in _listed(row.get(name)) if text not in merged[name]]
    first_seen = dict(_first_times(events.items, occurred))
    unknown = [item for item in first_seen if item not in rows]
    begin = int(occurred[0])
    export = []
    for item in (*rows, *unknown):
        row = rows.get(item, {})
        published_at = row.get("published") or first_seen.get(item, begin)
        export.append(
            {
                "recipe_id": _allowed_id(item),
                "title": str(row.get("title") or item),
                "author_id": None if row.get("author") is None else str(row["author"]),
                "ingredients": row.get("ingredients", []),
                "value_tags": row.get("tags", []),
                "published_at": min(published_at, times.anchor),
                "updated_at": times.anchor,
                "is_deleted": False,
            }
        )
    return pa.Table.from_pylist(export, schema=RECIPE_SCHEMA), len(unknown) if path is not None else 0, bad_rows


def _users(events: _Events, occurred: Integers, times: _Times) -> pa.Table:
    export = [
        {
            "user_id": _allowed_id(user),
            "registered_at": min(at, times.anchor),
            "preferred_tags": [],
            "updated_at": times.anchor,
            "is_deleted": False,
        }
        for user, at in _first_times(events.users, occurred)
    ]
    return pa.Table.from_pylist(export, schema=USER_SCHEMA)


def _first_times(texts: _Texts, occurred: Integers) -> Iterator[tuple[str, int]]:
    """Each text that occurs, with the time of its first row."""
    codes, first = np.unique(texts.codes, return_index=True)
    for code, at in zip(codes.tolist(), occurred[first].tolist(), strict=True):
        if code >= 0:
            yield texts.distinct[code], at


def _listed(value: object) -> list[str]:
    """A list, or a text whose parts stand between `|` or else commas."""
    if value is None:
        return []
    parts = value if isinstance(value, list) else str(value).split("|" if "|" in str(value) else ",")
    return [text for part in parts if part is not None and (text := str(part).strip())]


def _allowed_id(text: str) -> str:
    """The id itself, or a stable replacement where the contract does not allow it."""
    if re.fullmatch(ID_PATTERN, text):
        return text
    return f"x-{hashlib.sha256(text.encode()).hexdigest()[:32]}"


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds // _SECOND, tz=UTC)
