"""Looking into, and filling, the tables that the embedded engine keeps by user."""

import pyarrow as pa

from kurashiru_pipeline.warehouse.ducklake import DuckLakeWarehouse
from kurashiru_pipeline.warehouse.keyed_segment import conformed
from kurashiru_pipeline.warehouse.keyed_state import Change
from kurashiru_pipeline.warehouse.keyed_tables import KEY, KEYED_TABLES


def in_sql(warehouse: DuckLakeWarehouse, query: str) -> str:
    """A query whose keyed tables are relations of all their rows."""
    for name, table in KEYED_TABLES.items():
        if name in query:
            relation = name.replace(".", "_")
            warehouse._connection.register(relation, warehouse._state.read_part(table, 0, 1))
            query = query.replace(name, relation)
    return query


def insert(warehouse: DuckLakeWarehouse, name: str, rows: pa.Table) -> None:
    """Rows of users who have none."""
    table = KEYED_TABLES[name]
    assert not len(warehouse._state.row_counts(table, rows[KEY].combine_chunks()))
    columns = pa.table(
        {field.name: rows[field.name].cast(field.type) for field in table.schema if field.name in rows.column_names}
    )
    warehouse._state.commit([Change(table, pa.array([], pa.string()), conformed(columns, table.schema))])


def empty(warehouse: DuckLakeWarehouse, name: str) -> None:
    """Let all rows of a table go."""
    table = KEYED_TABLES[name]
    warehouse._state.commit([Change(table, None, table.schema.empty_table())])
