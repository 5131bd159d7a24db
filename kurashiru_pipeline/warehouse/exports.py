"""Recipe and user exports as the embedded engine reads them: Parquet to Arrow in the contract's form.

Here: reading one file, and refusing it as a whole with the reason (docs/contracts.md).
Not here: which row of an id counts (sql/load_recipes.sql, sql/load_users.sql), or any database.
"""

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kurashiru_pipeline.core.events import ID_PATTERN
from kurashiru_pipeline.warehouse.landed_files import LandedFile, UnreadableFileError

_RECIPE_COLUMNS: Final[dict[str, pa.DataType]] = {
    "recipe_id": pa.string(),
    "title": pa.string(),
    "author_id": pa.string(),
    "author_type": pa.string(),
    "ingredients": pa.list_(pa.string()),
    "value_tags": pa.list_(pa.string()),
    "cooking_minutes": pa.int32(),
    "cost_yen": pa.int32(),
    "calories_kcal": pa.int32(),
    "published_at": pa.timestamp("us"),
    "updated_at": pa.timestamp("us"),
    "is_deleted": pa.bool_(),
}
_USER_COLUMNS: Final[dict[str, pa.DataType]] = {
    "user_id": pa.string(),
    "registered_at": pa.timestamp("us"),
    "preferred_tags": pa.list_(pa.string()),
    "updated_at": pa.timestamp("us"),
    "is_deleted": pa.bool_(),
}
EXPORT_COLUMNS: Final = {"recipes": pa.schema(_RECIPE_COLUMNS), "users": pa.schema(_USER_COLUMNS)}


def read_export(file: LandedFile) -> pa.Table:
    """Rows of a recipe or user export, with the columns of EXPORT_COLUMNS.

    Raises:
        UnreadableFileError: no Parquet, a column missing or of another type, an id of another form, no `updated_at`.
    """
    schema = EXPORT_COLUMNS[file.kind]
    try:
        table = pq.read_table(file.path)
        missing = [name for name in schema.names if name not in table.column_names]
        if missing:
            raise UnreadableFileError(f"columns missing: {', '.join(missing)}")
        numbers = [
            field.name
            for field in schema
            if pa.types.is_timestamp(field.type) and pa.types.is_integer(table.schema.field(field.name).type)
        ]
        if numbers:
            raise UnreadableFileError(f"numbers where a timestamp must be: {', '.join(numbers)}")
        table = table.select(schema.names).cast(_with_utc(schema, table)).cast(schema)
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UnreadableFileError(f"cannot be read as a {file.kind} export: {error}") from error
    key = schema.names[0]
    is_wrong = pc.invert(pc.match_substring_regex(table[key], f"^{ID_PATTERN}$"))
    wrong = table[key].filter(is_wrong, null_selection_behavior="emit_null")
    if len(wrong):
        raise UnreadableFileError(f"{len(wrong)} rows have no valid {key}, the first is {wrong[0].as_py()!r}")
    if table["updated_at"].null_count:
        raise UnreadableFileError("updated_at must not be null")
    is_deleted = pc.if_else(pc.is_null(table["is_deleted"]), False, table["is_deleted"])
    return table.set_column(table.column_names.index("is_deleted"), "is_deleted", is_deleted)


def numbered(export: pa.Table) -> pa.Table:
    """With `export_row`, the order of files and rows: what decides between rows updated at the same time."""
    return export.append_column("export_row", pa.array(np.arange(export.num_rows, dtype=np.int64)))


def _with_utc(schema: pa.Schema, table: pa.Table) -> pa.Schema:
    """`schema`, with times that carry a zone taken as UTC first, so that the cast to naive keeps the instant."""
    return pa.schema(
        [
            pa.field(field.name, pa.timestamp("us", tz="UTC"))
            if pa.types.is_timestamp(field.type) and _has_zone(table.schema.field(field.name).type)
            else field
            for field in schema
        ]
    )


def _has_zone(data_type: pa.DataType) -> bool:
    return isinstance(data_type, pa.TimestampType) and data_type.tz is not None
