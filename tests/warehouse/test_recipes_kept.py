"""The recipes a kernel keeps between micro-batches: read anew after every change, and only then."""

from datetime import datetime

import pyarrow as pa
import pytest

from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.realtime.kernel import ProcessKernel
from tests.warehouse.small_lake import Tables

DAY = datetime(2026, 11, 1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("update staging.recipes set is_deleted = true, updated_at = '2026-11-02' where recipe_id = 'r1'", {"r2"}),
        ("delete from staging.recipes where recipe_id = 'r2'", {"r1"}),
        ("update staging.recipes set recipe_id = 'r3' where recipe_id = 'r2'", {"r1", "r3"}),
    ],
    ids=["upserted", "removed", "replaced"],
)
def test_a_change_is_seen(engine_tables: Tables, change: str, expected: set[str]) -> None:
    fields = {"published_at": DAY, "updated_at": DAY, "is_deleted": False, "value_tags": [], "ingredients": []}
    engine_tables.insert("staging.recipes", [{"recipe_id": name, "title": name, **fields} for name in ("r1", "r2")])
    kernel = ProcessKernel(engine_tables.warehouse, engine_tables.settings, load_weights())
    before = kernel._catalogue()
    assert kernel._catalogue() is before
    engine_tables.rows(change)
    after = kernel._catalogue()
    assert set(after.recipe_ids.filter(pa.array(after.alive)).to_pylist()) == expected
    assert kernel._catalogue() is after
