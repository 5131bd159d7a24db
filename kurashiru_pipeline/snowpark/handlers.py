"""The kernel as vectorised functions of Snowflake: pandas frames of rows in, one JSON value a row out.

Here: from Snowflake's values and staged files to the arguments of core/, and back; what is kept for the process.
Not here: the kernel (core/), registration (registration.py), and the SQL that calls the functions.

A row's answer does not depend on the rows it shares a batch with. A row that the kernel cannot take is answered with
{"user_id": ..., "error": ...}, since an exception would fail the statement for everybody; what all rows share (files,
artifact, the moment) raises.
"""

import gzip
import io
import math
import sys
from collections.abc import Callable
from datetime import datetime
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json
from pyarrow import parquet
from snowflake.snowpark.files import SnowflakeFile

from kurashiru_pipeline.core.artifact import MANIFEST, ModelArtifact, load_artifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.impersonal import rank_by_surface
from kurashiru_pipeline.core.items import content_hash
from kurashiru_pipeline.core.profiles import PROFILE_SCHEMA, build_profiles
from kurashiru_pipeline.core.weights import Weights, load_weights

Row = tuple[Any, ...]
Answer = dict[str, Any]

_TEXTS: Any = pa.list_(pa.string())
_RECIPE_COLUMNS: list[tuple[str, Any]] = [
    ("recipe_id", pa.string()),
    ("value_tags", _TEXTS),
    ("ingredients", _TEXTS),
    ("author_id", pa.string()),
    ("published_at", pa.timestamp("us")),
    ("is_deleted", pa.bool_()),
]
_POPULARITY_COLUMNS: list[tuple[str, Any]] = [
    ("segment", pa.string()),
    ("recipe_id", pa.string()),
    ("decayed_count", pa.float64()),
    ("decayed_at", pa.timestamp("us")),
]
_BEHAVIOR_TEXTS = ("event_id", "event_name", "recipe_id", "detail")
_LISTS_TOGETHER = (
    (
        "recipe_ids",
        "recipe_weights",
        "recipe_actions",
        "cooldowns",
        "recipe_ages",
        "recipe_counts",
        "recipe_daytimes",
    ),
    ("ingredients", "ingredient_weights"),
    ("tastes", "taste_weights"),
)
_NUMBERS = frozenset(name for name in PROFILE_SCHEMA.names if PROFILE_SCHEMA.field(name).type == pa.list_(pa.float64()))
_UNFIT = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_FILES_KEPT = 4


def build_profile(frame: pd.DataFrame) -> pd.Series:
    """Handler of recommendation.build_profile.

    Args:
        frame: user_id, behaviors (list of objects with event_id, event_name, recipe_id, detail, occurred_at; null and
            empty mean none), preferred_tags (list of texts; null: the user said nothing), recipes_url (null: no
            recipe is known), as_of (ISO text, naive UTC).

    Returns:
        An object with the columns of PROFILE_SCHEMA a row, as_of as ISO text.
    """

    def build(rows: list[Row], recipes_url: str | None, as_of: str) -> list[Answer]:
        return _profiles(rows, _catalogue(recipes_url), datetime.fromisoformat(as_of))

    return _answers(frame, 3, build)


def rank_recipes(frame: pd.DataFrame) -> pd.Series:
    """Handler of recommendation.rank_recipes.

    Args:
        frame: profile (an object as build_profile answers it; lists that are missing are empty), recipes_url and
            popularity_url (null: no rows), as_of (ISO text, naive UTC), list_length (null: that of the weights).

    Returns:
        {recipe_ids, scores, reasons, algorithm, content_hash} a row.
    """

    def ranked(
        rows: list[Row], recipes_url: str | None, popularity_url: str | None, as_of: str, length: int | None
    ) -> list[Answer]:
        catalogue, (everybody, of_segments) = _catalogue(recipes_url), _popularity(popularity_url)
        artifact, moment = _imported_artifact(), datetime.fromisoformat(as_of)
        size = None if length is None else int(length)

        def rank_rows(rows: list[Row]) -> list[Answer]:
            profiles = _profile_table([profile for (profile,) in rows])
            # Snowflake spreads the batches over its processors by itself.
            lists = rank_by_surface(
                profiles,
                catalogue,
                everybody,
                of_segments,
                artifact,
                _weights(),
                moment,
                list_length=size,
                is_threaded=False,
            )
            return [
                {**answer, "content_hash": content_hash(answer["recipe_ids"], answer["reasons"])}
                for answer in lists.drop_columns(["user_id"]).to_pylist()
            ]

        return _unless_unfit(rows, rank_rows, lambda row: row[0].get("user_id") if isinstance(row[0], dict) else None)

    return _answers(frame, 1, ranked)


# By this Snowflake knows that a function takes frames ("Vectorized Python UDFs" in its documentation).
build_profile._sf_vectorized_input = pd.DataFrame  # type: ignore[attr-defined]
rank_recipes._sf_vectorized_input = pd.DataFrame  # type: ignore[attr-defined]


def _answers(frame: pd.DataFrame, own: int, answer: Callable[..., list[Answer]]) -> pd.Series:
    """Answers of all rows, those that share every argument but the first `own` ones together."""
    rows = [tuple(map(_plain, row)) for row in frame.itertuples(index=False, name=None)]
    together: dict[Row, list[int]] = {}
    for number, row in enumerate(rows):
        together.setdefault(row[own:], []).append(number)
    answers: list[Answer | None] = [None] * len(rows)
    for shared, numbers in together.items():
        made = answer([rows[number][:own] for number in numbers], *shared)
        for number, value in zip(numbers, made, strict=True):
            answers[number] = value
    return pd.Series(answers, index=frame.index, dtype=object)


def _plain(cell: Any) -> Any:
    """A cell of any pandas column, its several kinds of missing as None."""
    return cell if isinstance(cell, str | list | dict) or not pd.isna(cell) else None


def _unless_unfit(
    rows: list[Row], compute: Callable[[list[Row]], list[Answer]], user_of: Callable[[Row], Any]
) -> list[Answer]:
    """What `compute` makes of the rows, or says against them: halves are tried until an unfit row stands alone."""
    try:
        return compute(rows)
    except _UNFIT as error:
        if len(rows) == 1:
            compute([])  # raises if it is not the row
            user_id = user_of(rows[0])
            return [{"user_id": user_id, "error": f"user {user_id!r}: {type(error).__name__}: {error}"}]
    half = len(rows) // 2
    return _unless_unfit(rows[:half], compute, user_of) + _unless_unfit(rows[half:], compute, user_of)


def _profiles(rows: list[Row], catalogue: Catalogue, as_of: datetime) -> list[Answer]:
    moment = as_of.isoformat(timespec="microseconds")
    nothing: Answer = {name: [] for name in PROFILE_SCHEMA.names}

    def build(rows: list[Row]) -> list[Answer]:
        for user_id, *_ in rows:
            if not isinstance(user_id, str):
                raise TypeError("user_id must be text")
        # Rows are told apart by their number: a user may stand in several.
        behaviors, said = [], {}
        for number, (_, given, preferred_tags) in enumerate(rows):
            behaviors += [(f"{number:09d}", behavior) for behavior in given or []]
            if preferred_tags is not None:
                said[f"{number:09d}"] = preferred_tags
        preferences = pa.table(
            {"user_id": pa.array(said, pa.string()), "preferred_tags": pa.array(said.values(), _TEXTS)}
        )
        made = build_profiles(
            _behavior_table(behaviors), catalogue, _weights(), as_of, preferences, is_threaded=False
        ).to_pylist()
        by_number = {int(profile["user_id"]): profile for profile in made}
        return [
            {**by_number.get(number, nothing), "user_id": user_id, "as_of": moment}
            for number, (user_id, *_) in enumerate(rows)
        ]

    return _unless_unfit(rows, build, lambda row: row[0])


def _behavior_table(behaviors: list[tuple[str, dict[str, Any]]]) -> pa.Table:
    columns: dict[str, Any] = {"user_id": pa.array([number for number, _ in behaviors], pa.string())}
    for name in _BEHAVIOR_TEXTS:
        columns[name] = pa.array([behavior.get(name) for _, behavior in behaviors], pa.string())
    times: Any = pa.array([behavior.get("occurred_at") for _, behavior in behaviors], pa.string())
    if times.null_count:
        raise ValueError("a behaviour has no occurred_at")
    return pa.table(columns | {"occurred_at": times.cast(pa.timestamp("us"))})


def _profile_table(profiles: list[dict[str, Any]]) -> pa.Table:
    for profile in profiles:
        if not isinstance(profile, dict):
            raise TypeError("a profile must be an object")
        for names in _LISTS_TOGETHER:
            lists = [profile.get(name) or [] for name in names]
            if len(set(map(len, lists))) > 1 or any(None in values for values in lists):
                raise ValueError(f"{', '.join(names)} must have one length and no null")
    columns: list[Any] = [pa.array([profile.get("user_id") for profile in profiles], pa.string())]
    columns.append(pa.nulls(len(profiles), pa.timestamp("us")))
    for field in list(PROFILE_SCHEMA)[2:]:
        values = [profile.get(field.name) or [] for profile in profiles]
        if field.name in _NUMBERS:
            values = [list(map(_finite, numbers)) for numbers in values]
        columns.append(pa.array(values, field.type))
    return pa.Table.from_arrays(columns, schema=PROFILE_SCHEMA)


def _finite(number: Any) -> float:
    """A number as Snowflake passes it: decimals inside an object are text."""
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"{number!r} is not finite")
    return value


@cache
def _weights() -> Weights:
    return load_weights()


@lru_cache(_FILES_KEPT)
def _catalogue(url: str | None) -> Catalogue:
    """Recipes of a file of JSON lines, gzip or not; members that are missing are null."""
    content = _content(url)
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    schema = pa.schema(_RECIPE_COLUMNS)
    if not content.strip():
        return Catalogue.from_arrow(schema.empty_table())
    options = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
    return Catalogue.from_arrow(arrow_json.read_json(io.BytesIO(content), parse_options=options))


@lru_cache(_FILES_KEPT)
def _popularity(url: str | None) -> tuple[pa.Table, pa.Table]:
    """Live popularity of everybody and of segments, from a Parquet file, which keeps every digit; times are ISO text,
    names of columns upper case; everybody's segment is ''."""
    content, schema = _content(url), pa.schema(_POPULARITY_COLUMNS)
    if not content:
        return schema.empty_table(), schema.empty_table()
    table = parquet.read_table(io.BytesIO(content))
    table = table.rename_columns([name.lower() for name in table.column_names]).select(schema.names).cast(schema)
    is_of_everybody = pc.equal(table["segment"], pa.scalar(""))
    return table.filter(is_of_everybody), table.filter(pc.invert(is_of_everybody))


def _content(url: str | None) -> bytes:
    """Bytes of a staged file; none where a table without rows made no file."""
    if not url:
        return b""
    with SnowflakeFile.open(url, "rb") as file:
        return bytes(file.read())


def _imported_artifact() -> ModelArtifact | None:
    """The artifact that was registered with the function; None before the first promotion: lists are popular ones."""
    return _artifact_in(Path(sys._xoptions["snowflake_import_directory"]))


@lru_cache(1)
def _artifact_in(folder: Path) -> ModelArtifact | None:
    return load_artifact(folder) if (folder / MANIFEST).exists() else None
