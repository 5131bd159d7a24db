"""Lists for people without one of their own: `#default`, and segments by platform, part of the day and value tag.

Here: whom a list without a user stands for (a profile), and by which popularity and with which diversity it is ranked.
Not here: which segments there are (segments.py), when a list is made anew (sql/due_segments.sql), ranking (ranking.py).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import MICROS_PER_DAY, Floats, column_micros, micros, strings, to_numpy
from kurashiru_pipeline.core.items import DEFAULT_USER
from kurashiru_pipeline.core.profiles import PROFILE_SCHEMA
from kurashiru_pipeline.core.ranking import Surface, rank
from kurashiru_pipeline.core.segments import PLATFORM_SEGMENTS, TAG_SEGMENTS
from kurashiru_pipeline.core.weights import Weights


def impersonal_profiles(names: Sequence[str], as_of: datetime) -> pa.Table:
    """Profiles (PROFILE_SCHEMA) behind lists without a user: nothing is known, but of a tag's segment its tag."""
    nothing: dict[str, Any] = {field.name: [] for field in PROFILE_SCHEMA}
    rows = [
        {
            **nothing,
            "user_id": name,
            "as_of": as_of,
            **({"tastes": [TAG_SEGMENTS[name]], "taste_weights": [1.0]} if name in TAG_SEGMENTS else {}),
        }
        for name in names
    ]
    return pa.Table.from_pylist(rows, schema=PROFILE_SCHEMA)


def rank_by_surface(  # noqa: PLR0917 - as ranking.rank
    profiles: pa.Table,
    catalogue: Catalogue,
    live_popularity: pa.Table,
    segment_popularity: pa.Table,
    artifact: ModelArtifact | None,
    weights: Weights,
    as_of: datetime,
    *,
    list_length: int | None = None,
    is_threaded: bool = True,
) -> pa.Table:
    """`ranking.rank` of profiles of users and of nobody in particular, each on its own surface, in their order.

    Args:
        segment_popularity: segment, recipe_id, decayed_count, decayed_at (UTC) of the platform segments among the
            profiles. Beside it `live_popularity` counts, as much as `segments.prior` behaviours of today: a segment
            that has seen little goes by what everybody likes (the posterior mean under a Dirichlet prior).
    """
    groups: dict[tuple[Surface, str], list[int]] = {}
    for place, name in enumerate(strings(profiles["user_id"]).to_pylist()):
        groups.setdefault(_surface_of(name), []).append(place)
    parts, places = [], []
    for (surface, segment), members in (groups or {("home", ""): []}).items():
        popularity = live_popularity
        if segment:
            own = segment_popularity.filter(pc.equal(segment_popularity["segment"], pa.scalar(segment)))
            popularity = _blended(own, live_popularity, weights, as_of)
        places.append(np.array(members, np.int64))
        parts.append(
            rank(
                profiles.take(places[-1]),
                catalogue,
                popularity,
                artifact,
                weights,
                as_of,
                list_length=list_length,
                surface=surface,
                is_threaded=is_threaded,
            )
        )
    return pa.concat_tables(parts).take(np.argsort(np.concatenate(places)))


def _surface_of(name: str | None) -> tuple[Surface, str]:
    """Surface of a list by its key, and the segment whose popularity counts: none, everybody's does."""
    if name == DEFAULT_USER:
        return "default", ""
    if name in TAG_SEGMENTS:
        return "segment", ""
    if name in PLATFORM_SEGMENTS:
        return "segment", name
    return "home", ""


def _blended(own: pa.Table, everybody: pa.Table, weights: Weights, as_of: datetime) -> pa.Table:
    """Popularity of a segment as `rank` takes it; a recipe may have two rows, which add up."""
    counts = _decayed(own, weights.segments.half_life_days, as_of)
    beside = _decayed(everybody, weights.popularity.half_life_days, as_of)
    beside *= weights.segments.prior / max(beside.sum(), np.finfo(float).tiny)
    ids: Any = pa.chunked_array([*own["recipe_id"].chunks, *everybody["recipe_id"].chunks], pa.string())
    moments = pa.array(np.full(len(ids), micros(as_of)), pa.timestamp("us"))
    return pa.table({"recipe_id": ids, "decayed_count": np.concatenate([counts, beside]), "decayed_at": moments})


def _decayed(popularity: pa.Table, half_life_days: float, as_of: datetime) -> Floats:
    age = np.maximum(micros(as_of) - column_micros(popularity["decayed_at"]), 0) / MICROS_PER_DAY
    counts: Floats = to_numpy(popularity["decayed_count"], 0.0) * 0.5 ** (age / half_life_days)
    return counts
