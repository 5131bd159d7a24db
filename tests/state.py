"""What a pipeline has made, without clocks: two runs over the same lines must agree on it."""

from typing import Any

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.serving.dynamodb import RecommendationTable, connect
from kurashiru_pipeline.warehouse import Warehouse, open_warehouse
from kurashiru_pipeline.warehouse.ducklake import DuckLakeWarehouse
from kurashiru_pipeline.warehouse.snowflake import SnowflakeWarehouse
from kurashiru_pipeline.warehouse.snowflake_arrow import from_snowflake
from kurashiru_pipeline.warehouse.statements import array_columns
from tests import keyed

_TABLES = {
    "raw.behavior_events": "payload, file_name, file_row_number",
    "raw.loaded_files": "file_name, status, line_count",
    "staging.behavior_events": "event_id, event_name, user_id, recipe_id, occurred_at, properties, batch_id",
    "staging.rejected_events": "payload, reason, file_name, file_row_number, batch_id",
    "staging.recipes": "*",
    "staging.users": "*",
    "recommendation.recent_behaviors": "*",
    "recommendation.user_profiles": "*",
    "recommendation.live_popularity": "*",
    "recommendation.segment_popularity": "*",
    "recommendation.segment_lists": "*",
    "recommendation.recommendations": "user_id, batch_id, recipe_ids, scores, reasons, algorithm, content_hash",
    "serving.delivered_items": "user_id, version, content_hash, is_tombstone",
    "ops.batches": "* exclude (staged_at)",
    "ops.batch_preferences": "*",
    "ops.pending_preferences": "user_id",
    "ops.batch_files": "batch_id, file_name, line_count",
    "ops.batch_models": "*",
    # Where the engine loads by itself the ledger knows nothing of loading.
    "ops.batch_stages where stage <> 'load'": "batch_id, stage, row_count",
}


def tables(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """Rows of every table, sorted, without load and delivery times."""
    with open_warehouse(settings, read_only=True) as warehouse:
        return {
            table: sorted(rows(warehouse, f"select {columns} from {table}"), key=repr)
            for table, columns in _TABLES.items()
        }


def counts(warehouse: Warehouse) -> dict[str, int]:
    """Rows of every table: what was committed."""
    return {table: rows(warehouse, f"select count(*) as n from {table}")[0][0] for table in _TABLES}


def rows(warehouse: Warehouse, query: str) -> list[tuple[Any, ...]]:
    """Rows of any query, under the port, decoded as the port does it: equal values on both engines."""
    if isinstance(warehouse, DuckLakeWarehouse):
        table = warehouse._connection.execute(keyed.in_sql(warehouse, query)).to_arrow_table()
    else:
        assert isinstance(warehouse, SnowflakeWarehouse)
        warehouse.fetch("last_batch")  # opens the session for queries
        assert warehouse._queries is not None
        table = from_snowflake(warehouse._queries.arrow(query, name="peek"), array_columns())
    return [tuple(row.values()) for row in table.to_pylist()]


def items(settings: Settings) -> dict[str, dict[str, Any]]:
    """Items of the DynamoDB table by user, without times and the marker."""
    client = connect(settings)
    pages = client.get_paginator("scan").paginate(TableName=settings.text("KURASHIRU_DYNAMODB_TABLE"))
    found = {item["user_id"]["S"]: item for page in pages for item in page["Items"]}
    found.pop("#marker")
    return {
        user: {name: value for name, value in item.items() if name not in {"generated_at", "expires_at"}}
        for user, item in found.items()
    }


def own_items(settings: Settings) -> dict[str, dict[str, Any]]:
    """Items of users, without those for people who have none."""
    return {user: item for user, item in items(settings).items() if not user.startswith("#")}


def table(settings: Settings) -> RecommendationTable:
    return RecommendationTable.from_settings(settings)
