"""The tables that are kept by user.

Here: their columns, and which of their users count.
Not here: how the embedded engine keeps them (keyed_state.py); on Snowflake they are tables like others.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from kurashiru_pipeline.warehouse.keyed_rows import compute

KEY: Final = "user_id"
_TEXTS, _NUMBERS, _MOMENT = pa.list_(pa.string()), pa.list_(pa.float64()), pa.timestamp("us")


@dataclass(frozen=True)
class KeyedTable:
    """A table whose rows are read and replaced by user.

    Attributes:
        columns: without the key, in the order of schema.sql.
        uncounted: a boolean column; users with it true are not counted, as are keys that are nobody's ("#default").
    """

    name: str
    columns: pa.Schema
    uncounted: str | None = None

    @property
    def file_name(self) -> str:
        return self.name.rpartition(".")[2]

    @property
    def schema(self) -> pa.Schema:
        return self.columns.insert(0, pa.field(KEY, pa.string()))

    def counts(self, users: Any, rows: pa.Table) -> NDArray[np.bool_]:
        """Which users count, given a row of each."""
        counted: Any = compute.invert(compute.starts_with(users, "#"))
        if self.uncounted is not None:
            counted = compute.and_(
                counted, compute.invert(compute.fill_null(rows[self.uncounted].combine_chunks(), False))
            )
        flags: NDArray[np.bool_] = counted.to_numpy(zero_copy_only=False).astype(bool)
        return flags


def _table(name: str, *, uncounted: str | None = None, **columns: pa.DataType) -> KeyedTable:
    return KeyedTable(name, pa.schema([pa.field(column, kind) for column, kind in columns.items()]), uncounted)


KEYED_TABLES: Final = {
    table.name: table
    for table in (
        _table(
            "recommendation.recent_behaviors",
            event_id=pa.string(),
            event_name=pa.string(),
            recipe_id=pa.string(),
            detail=pa.string(),
            occurred_at=_MOMENT,
        ),
        _table(
            "recommendation.user_profiles",
            batch_id=pa.int64(),
            as_of=_MOMENT,
            recipe_ids=_TEXTS,
            recipe_weights=_NUMBERS,
            recipe_actions=_TEXTS,
            cooldowns=_NUMBERS,
            ingredients=_TEXTS,
            ingredient_weights=_NUMBERS,
            tastes=_TEXTS,
            taste_weights=_NUMBERS,
            recipe_ages=_NUMBERS,
            recipe_counts=_NUMBERS,
            recipe_daytimes=_NUMBERS,
        ),
        _table(
            "recommendation.recommendations",
            batch_id=pa.int64(),
            recipe_ids=_TEXTS,
            scores=_NUMBERS,
            reasons=_TEXTS,
            algorithm=pa.string(),
            content_hash=pa.string(),
            generated_at=_MOMENT,
        ),
        _table(
            "serving.delivered_items",
            version=pa.int64(),
            content_hash=pa.string(),
            is_tombstone=pa.bool_(),
            delivered_at=_MOMENT,
            uncounted="is_tombstone",
        ),
    )
}
"""By name."""
