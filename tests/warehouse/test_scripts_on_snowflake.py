"""Every script runs on the stand-in account, on rows: a file without an entry here fails."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.profiles import PROFILE_SCHEMA
from kurashiru_pipeline.warehouse.base import Transaction
from kurashiru_pipeline.warehouse.statements import render
from tests.warehouse.scripts import COMMON, MOMENT, SNOWFLAKE, changes_tables, parameters_of
from tests.warehouse.small_lake import SnowflakeTables, event_id

pytestmark = pytest.mark.stand_in

TEXTS: Any = pa.list_(pa.string())
RECIPE = {"recipe_id": "r1", "title": "t", "value_tags": ["savings"], "ingredients": ["egg"], "updated_at": MOMENT}
USER = {"user_id": "u1", "preferred_tags": ["savings"], "updated_at": MOMENT, "is_deleted": False}
PROFILE = {field.name: [] for field in PROFILE_SCHEMA} | {"user_id": "u1", "as_of": MOMENT}
LIST = {"user_id": "u1", "recipe_ids": ["r1"], "scores": [0.5], "reasons": ["popular"], "algorithm": "popular"}
DELIVERY = {"user_id": "u1", "version": 1, "content_hash": "h", "is_tombstone": False}
ANSWER = {"recipe_ids": ["r1"], "scores": [0.5], "reasons": ["popular"], "algorithm": "popular", "content_hash": "h"}


@dataclass(frozen=True)
class Entry:
    """How a script runs: what is made before its transaction, and what it is given."""

    work_tables: str | None = None
    inputs: dict[str, pa.Table] = field(default_factory=dict)


KERNEL = Entry("snowflake/kernel_work_tables")
EXPORTS = Entry("snowflake/export_work_tables")
STAGE = Entry("stage_work_tables")
ENTRIES = {
    **{
        script: Entry()
        for script in (
            "backlog",
            "batch_behaviors",
            "batch_freshness",
            "batch_ledger",
            "batch_list_count",
            "batch_preferences",
            "batch_profiles",
            "batch_users",
            "begin_resend",
            "busiest_users",
            "changed_items",
            "collect_checks",
            "collect_work_tables",
            "delivered_items",
            "delivered_part",
            "delivery_target",
            "due_segments",
            "erased_items",
            "erased_users",
            "evaluation_behaviors",
            "evaluation_recipes",
            "find_recipes",
            "finish_resend",
            "finish_stage",
            "has_delivered",
            "id_counts",
            "last_batch",
            "last_external_calls",
            "listed_users",
            "newest_users",
            "pending_users",
            "popularity",
            "popularity_work_tables",
            "preprocess_checks",
            "recipe_titles",
            "record_models",
            "record_segment_lists",
            "recipes",
            "recipes_signature",
            "rejects_by_reason",
            "schema",
            "segment_popularity",
            "stage_users",
            "stage_work_tables",
            "status_counts",
            "touched_users",
            "unfinished_batches",
            "user_account",
            "user_behaviors",
            "user_list",
            "snowflake/call_delivery",
            "snowflake/copy_history",
            "snowflake/delivery_outcome",
            "snowflake/delivery_refusals",
            "snowflake/export_work_tables",
            "snowflake/forget_deliveries",
            "snowflake/kernel_work_tables",
            "snowflake/model_in_service",
            "snowflake/put_back_work_tables",
            "snowflake/rank_inputs",
            "snowflake/record_deliveries",
            "snowflake/unload_popularity",
            "snowflake/unload_recipes",
        )
    },
    "collect": Entry("collect_work_tables"),
    "load_recipes": Entry(inputs={"incoming_recipes": pa.Table.from_pylist([
        {**RECIPE, "author_id": "a", "author_type": "kurashiru_chef", "cooking_minutes": 5, "cost_yen": 100,
         "calories_kcal": 200, "published_at": MOMENT, "is_deleted": False, "export_row": 0}
    ])}),
    "load_users": Entry(inputs={"incoming_users": pa.Table.from_pylist([
        {**USER, "registered_at": MOMENT, "export_row": 0}
    ])}),
    "record_deliveries": Entry(inputs={"incoming_deliveries": pa.Table.from_pylist([DELIVERY])}),
    "record_external_call": Entry(inputs={"incoming_external_calls": pa.Table.from_pylist([
        {"batch_id": 1, "source": "s", "breaker": "closed", "asked_count": 2, "answered_count": 1, "failed_count": 1,
         "late_count": 0, "unknown_count": 0, "seconds": 0.1, "error": "e", "called_at": MOMENT}
    ])}),
    "replace_profiles": Entry(inputs={"incoming_profiles": pa.Table.from_pylist([PROFILE], schema=PROFILE_SCHEMA)}),
    "replace_recommendations": Entry(
        inputs={"incoming_recommendations": pa.Table.from_pylist([{**LIST, "content_hash": "h"}])}
    ),
    "stage_accept": STAGE,
    "stage_ledger": STAGE,
    "stage_parse": STAGE,
    "stage_repeats": STAGE,
    "stage_summary": STAGE,
    "update_popularity": Entry("popularity_work_tables"),
    "snowflake/begin_delivery": Entry(inputs={"incoming_strangers": pa.table({"user_id": ["u9"]})}),
    "snowflake/compute_challenger_lists": KERNEL,
    "snowflake/compute_lists": KERNEL,
    "snowflake/compute_profiles": KERNEL,
    "snowflake/kernel_errors": KERNEL,
    "snowflake/list_figures": KERNEL,
    "snowflake/replace_profiles": KERNEL,
    "snowflake/replace_recommendations": KERNEL,
    "snowflake/failed_exports": EXPORTS,
    "snowflake/take_recipe_exports": EXPORTS,
    "snowflake/take_user_exports": EXPORTS,
    "snowflake/taken_exports": EXPORTS,
    "snowflake/put_back_lines": Entry("snowflake/put_back_work_tables"),
}  # fmt: skip
# What DDL a script holds ends a transaction, so the engine runs it before one.
DDL = {script for script in ENTRIES if script == "schema" or script.endswith("work_tables")}


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnowflakeTables]:
    """An account with a row in every table, and the functions that deployment makes elsewhere."""
    folder: Path = tmp_path_factory.mktemp("account")
    with SnowflakeTables(folder / "account", folder / "landing") as tables:
        for name, answer, arity in (
            ("recommendation.build_profile", PROFILE | {"as_of": MOMENT.isoformat()}, 5),
            ("recommendation.rank_recipes", ANSWER, 5),
            ("recommendation.rank_challenger", ANSWER, 5),
            ("serving.put_items", {"status": "OK", "dropped_recipes": 0}, 3),
        ):
            tables.account.register_function(name, lambda rows, answer=answer: [answer] * len(rows), arity)
        event = {"event_id": event_id(1), "event_name": "recipe_view", "user_id": "u1", "recipe_id": "r1"}
        for table, row in {
            "staging.recipes": RECIPE,
            "staging.users": USER,
            "staging.behavior_events": {
                **event,
                "occurred_at": MOMENT,
                "properties": '{"query": "egg"}',
                "batch_id": 1,
            },
            "staging.rejected_events": {"payload": "x", "reason": "not_json", "file_name": "f", "batch_id": 1},
            "recommendation.recent_behaviors": {**event, "occurred_at": MOMENT},
            "recommendation.user_profiles": {**PROFILE, "batch_id": 1},
            "recommendation.live_popularity": {"recipe_id": "r1", "decayed_count": 1.0, "decayed_at": MOMENT},
            "recommendation.recommendations": {**LIST, "batch_id": 1, "content_hash": "h", "generated_at": MOMENT},
            "ops.batches": {"batch_id": 1, "staged_at": MOMENT, "watermark_at": MOMENT},
            "ops.batch_files": {"batch_id": 1, "file_name": "f", "landed_at": MOMENT, "line_count": 1},
        }.items():
            tables.insert(
                table,
                pa.Table.from_pylist([row], schema=PROFILE_SCHEMA.append(pa.field("batch_id", pa.int64())))
                if table.endswith("profiles")
                else [row],
            )
        tables.insert_lines(["line"], file_name="f2")
        yield tables


def test_every_script_has_an_entry() -> None:
    assert ENTRIES.keys() == {*COMMON, *SNOWFLAKE}


@pytest.mark.parametrize("script", sorted(ENTRIES))
def test_a_script_runs(account: SnowflakeTables, script: str) -> None:
    entry = ENTRIES[script]
    parameters = parameters_of(script)
    if script == "snowflake/copy_history":
        parameters["since"] = utc_now() - timedelta(hours=1)
    statements = [statement.name for statement in render(script, engine="snowflake", stream=str, parameters=parameters)]
    is_query = not changes_tables(script)

    def body(transaction: Transaction) -> None:
        if is_query:
            assert transaction.fetch(script, **parameters).num_columns > 0
        else:
            assert list(transaction.run(script, **parameters)) == statements

    if script in DDL:
        assert list(account.warehouse._run(script, {}, str)) == statements  # type: ignore[attr-defined]
    else:
        account.warehouse.transact(body, work_tables=entry.work_tables, inputs=entry.inputs)
