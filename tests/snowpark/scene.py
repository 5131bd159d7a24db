"""A kitchen with everything in it, as the process kernel takes it and as Snowflake passes it.

Here: recipes, popularity, behaviours of many users, a model, and their JSON forms on "stages".
Not here: expectations.
"""

import gzip
import random
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import parquet

from kurashiru_pipeline.core.artifact import ModelArtifact, save_artifact
from kurashiru_pipeline.core.segments import PLATFORM_SEGMENTS
from tests.kitchen import NOW, behaviors_table, did, model, popularity, recipe, recipes_table

TAGS = ("time_saving", "savings", "microwave", "weight_loss")
INGREDIENTS = ("卵", "豚肉", "キャベツ", "tomato", "soy sauce", "豆腐")
EVENTS = ("recipe_view", "recipe_view", "recipe_favorite", "recipe_unfavorite", "recipe_cooked", "shopping_list_add")
AS_OF = NOW.isoformat()
TEXTS: Any = pa.list_(pa.string())


@dataclass(frozen=True)
class Scene:
    """Tables of the kernel; `recipes_url` and `popularity_url` are their files, `artifact_folder` the model's.

    `said` are stated preferences by user.
    """

    recipes: pa.Table
    live_popularity: pa.Table
    segment_popularity: pa.Table
    behaviors: pa.Table
    said: dict[str, list[str]]
    artifact: ModelArtifact
    recipes_url: str
    popularity_url: str
    artifact_folder: Path

    def build_rows(self) -> list[tuple[Any, ...]]:
        """Arguments of build_profile, a row a user."""
        return [
            (
                user_id,
                [json_object(row, without=("user_id",)) for row in rows],
                self.said.get(user_id),
                self.recipes_url,
                AS_OF,
            )
            for user_id, rows in by_user(self.behaviors).items()
        ]

    @property
    def preferences(self) -> pa.Table:
        return pa.table({"user_id": list(self.said), "preferred_tags": pa.array(self.said.values(), TEXTS)})

    def rank_rows(self, profiles: list[dict[str, Any]], length: int | None = 10) -> list[tuple[Any, ...]]:
        """Arguments of rank_recipes for what build_profile answered."""
        return [(profile, self.recipes_url, self.popularity_url, AS_OF, length) for profile in profiles]


def make_scene(folder: Path, seed: int = 3) -> Scene:
    """Forty users with up to thirty behaviours each on sixty recipes."""
    rng = random.Random(seed)
    names = [f"recipe-{number:02d}" for number in range(60)]
    recipes = recipes_table(
        *(
            recipe(
                name,
                " ".join(rng.sample(TAGS, rng.randint(0, 2))),
                " ".join(rng.sample(("卵", "豚肉", "キャベツ", "tomato", "豆腐"), rng.randint(0, 3))),
                days_old=rng.choice((0.5, 3, 20, 400)),
                is_deleted=rng.random() < 0.05,
            )
            for name in names
        )
    )
    live = popularity(**{name: rng.random() * 100 for name in rng.sample(names, 40)})
    of_segments = [
        popularity(**{name: rng.random() * 100 for name in rng.sample(names, 20)}).append_column(
            "segment", pa.array([segment] * 20)
        )
        for segment in PLATFORM_SEGMENTS[:3]
    ]
    transitions = {(rng.choice(names), rng.choice(names)): rng.random() for _ in range(400)}
    artifact = model({pair: weight for pair, weight in transitions.items() if pair[0] != pair[1]}, {names[0]: 3.0})
    behaviors = [
        behavior for number in range(40) for behavior in _past(rng, f"user-{number:02d}", [*names, "recipe-unknown"])
    ]
    recipes_url, popularity_url = folder / "recipes.ndjson.gz", folder / "popularity.parquet"
    write_ndjson(recipes, recipes_url)
    write_popularity(live, pa.concat_tables(of_segments), popularity_url)
    return Scene(
        recipes=recipes,
        live_popularity=live,
        segment_popularity=pa.concat_tables(of_segments),
        behaviors=behaviors_table(*behaviors),
        said={f"user-{number:02d}": rng.sample(TAGS, number % 3) for number in range(0, 40, 2)},
        artifact=artifact,
        recipes_url=str(recipes_url),
        popularity_url=str(popularity_url),
        artifact_folder=save_artifact(artifact, folder / "models"),
    )


def _past(rng: random.Random, user_id: str, recipes: list[str]) -> list[dict[str, Any]]:
    past = []
    for _ in range(rng.randint(1, 30)):
        ago = rng.choice((0.0, 0.01, 0.5, 2.0)) + rng.random() / 7
        if rng.random() < 0.2:
            past.append(did(user_id, "search", days_ago=ago, detail=f"{rng.choice(INGREDIENTS)} soup"))
        else:
            event = rng.choice(EVENTS)
            detail = rng.choice(INGREDIENTS) if event == "shopping_list_add" and rng.random() < 0.5 else None
            past.append(did(user_id, event, rng.choice(recipes), days_ago=ago, detail=detail))
    return past


def by_user(behaviors: pa.Table) -> dict[str, list[dict[str, Any]]]:
    users: dict[str, list[dict[str, Any]]] = {}
    for row in behaviors.to_pylist():
        users.setdefault(row["user_id"], []).append(row)
    return users


def json_object(row: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    """As OBJECT_CONSTRUCT makes it: null members are left out; times as ISO text."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in row.items()
        if value is not None and name not in without
    }


def write_ndjson(table: pa.Table, path: Path) -> None:
    lines = b"".join(orjson.dumps(json_object(row)) + b"\n" for row in table.to_pylist())
    path.write_bytes(gzip.compress(lines) if path.suffix == ".gz" else lines)


def write_popularity(everybody: pa.Table, of_segments: pa.Table, path: Path) -> None:
    """As it is unloaded: everybody's segment is '', names upper case, times as text."""
    nobody = pa.array([""] * len(everybody), pa.string())
    table = pa.concat_tables([everybody.append_column("segment", nobody), of_segments])
    times = pa.array([json_object(row)["decayed_at"] for row in table.to_pylist()], pa.string())
    named = table.set_column(2, "decayed_at", times).rename_columns([name.upper() for name in table.column_names])
    parquet.write_table(named, path)
