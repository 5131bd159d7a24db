"""A small world with something to learn: recipes come in courses, and who took one course takes the next.

Here: deterministic interactions and recipes, as tables and as files.
Not here: what any model makes of them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from kurashiru_pipeline.evaluation.interactions import RECIPE_SCHEMA, Interactions

DAY = 86_400
START = 1_700_000_000
TAGS = ("quick", "spicy", "hearty", "light")


@dataclass(frozen=True)
class World:
    """Columns of interactions in the order of time: user, item (texts), ts (seconds since 1970)."""

    user: Any
    item: Any
    ts: Any

    def interactions(self) -> Interactions:
        """Every row a view, with the recipes of the world."""
        behaviors: dict[str, Any] = {
            "user_id": self.user,
            "event_name": ["recipe_view"] * len(self.ts),
            "recipe_id": self.item,
            "detail": pa.nulls(len(self.ts), pa.string()),
            "at": np.asarray(self.ts, np.int64) * 1_000_000,
        }
        return Interactions.of(pa.table(behaviors), recipes(), "the small world", ())

    def write(self, folder: Path) -> tuple[Path, Path]:
        """interactions.csv and items.csv."""
        table: Any = pa.table({"user": self.user, "item": self.item, "ts": self.ts})
        pa_csv.write_csv(table, folder / "interactions.csv")
        rows = [(row["recipe_id"], tag) for row in recipes().to_pylist() for tag in row["value_tags"]]
        pa_csv.write_csv(
            pa.table({"item": [row[0] for row in rows], "tag": [row[1] for row in rows]}), folder / "items.csv"
        )
        return folder / "interactions.csv", folder / "items.csv"


def recipes(count: int = 40) -> pa.Table:
    """r00, r01, ...: each with one or two tags, unpublished as far as anybody knows."""
    rows = [
        {
            "recipe_id": f"r{number:02d}",
            "title": f"Dish {number}",
            "author_id": f"a{number % 7}",
            "value_tags": sorted({TAGS[number % 4], TAGS[number // 4 % 4]}),
            "ingredients": [],
            "published_at": None,
        }
        for number in range(count)
    ]
    return pa.Table.from_pylist(rows, schema=RECIPE_SCHEMA)


def world(seed: int = 1, users: int = 40, sessions: int = 8, recipe_count: int = 40) -> World:
    """Sessions of five views a minute apart, spread over sixty days; mostly the next recipe follows the last."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(users):
        begins = np.sort(generator.integers(0, 60 * DAY, sessions))
        at = int(generator.integers(recipe_count))
        for begin in begins.tolist():
            for step in range(5):
                at = (at + 1) % recipe_count if generator.random() < 0.7 else int(generator.integers(recipe_count))
                rows.append((START + begin + 60 * step, f"u{user:02d}", f"r{at:02d}"))
    rows.sort()
    return World([row[1] for row in rows], [row[2] for row in rows], [row[0] for row in rows])
