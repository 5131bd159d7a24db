"""What tables, views, columns and schemas there are, as INFORMATION_SCHEMA, SHOW COLUMNS and DESCRIBE TABLE tell.

Here: the relations of INFORMATION_SCHEMA, the type a column was declared with.
Not here: SHOW commands in general (show.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import sqlglot
from sqlglot import exp

from tests.snowflake import errors
from tests.snowflake.names import HIDDEN, ObjectName, literal, quoted
from tests.snowflake.results import Result

if TYPE_CHECKING:
    from tests.snowflake.session import Connection

_HIDDEN: Final = ", ".join(literal(name) for name in sorted({*HIDDEN, "information_schema", "pg_catalog"}))
# A column's declared type is kept as its comment, because JSON stands for three types and BIGINT for all whole numbers.
_TYPE: Final = """coalesce(comment, CASE
    WHEN data_type = 'VARCHAR' THEN 'VARCHAR(16777216)'
    WHEN data_type IN ('BIGINT', 'INTEGER', 'HUGEINT', 'SMALLINT', 'TINYINT') THEN 'NUMBER(38,0)'
    WHEN data_type LIKE 'DECIMAL%' THEN replace(data_type, 'DECIMAL', 'NUMBER')
    WHEN data_type = 'DOUBLE' THEN 'FLOAT'
    WHEN data_type = 'TIMESTAMP' THEN 'TIMESTAMP_NTZ(9)'
    WHEN data_type = 'TIMESTAMP WITH TIME ZONE' THEN 'TIMESTAMP_LTZ(9)'
    WHEN data_type = 'JSON' THEN 'VARIANT'
    WHEN data_type = 'BLOB' THEN 'BINARY(8388608)'
    ELSE data_type END)"""
_RELATIONS: Final = {
    "SCHEMATA": "SELECT database_name AS CATALOG_NAME, schema_name AS SCHEMA_NAME FROM duckdb_schemas() WHERE {scope}",
    "TABLES": """
        SELECT database_name AS TABLE_CATALOG, schema_name AS TABLE_SCHEMA, table_name AS TABLE_NAME,
            'BASE TABLE' AS TABLE_TYPE, estimated_size AS ROW_COUNT, comment AS COMMENT, {opened} AS CREATED,
            {opened} AS LAST_ALTERED
        FROM duckdb_tables() WHERE {scope}
        UNION ALL BY NAME
        SELECT database_name AS TABLE_CATALOG, schema_name AS TABLE_SCHEMA, view_name AS TABLE_NAME,
            'VIEW' AS TABLE_TYPE, NULL AS ROW_COUNT, comment AS COMMENT, {opened} AS CREATED, {opened} AS LAST_ALTERED
        FROM duckdb_views() WHERE {scope}""",
    "VIEWS": """
        SELECT database_name AS TABLE_CATALOG, schema_name AS TABLE_SCHEMA, view_name AS TABLE_NAME,
            sql AS VIEW_DEFINITION FROM duckdb_views() WHERE {scope}""",
    "COLUMNS": f"""
        SELECT database_name AS TABLE_CATALOG, schema_name AS TABLE_SCHEMA, table_name AS TABLE_NAME,
            column_name AS COLUMN_NAME, column_index AS ORDINAL_POSITION, column_default AS COLUMN_DEFAULT,
            CASE WHEN is_nullable THEN 'YES' ELSE 'NO' END AS IS_NULLABLE,
            replace(split_part({_TYPE}, '(', 1), 'VARCHAR', 'TEXT') AS DATA_TYPE
        FROM duckdb_columns() WHERE {{scope}}""",
}


def _scope(session: Connection) -> str:
    return f"database_name = {literal(session.account.database)} AND schema_name NOT IN ({_HIDDEN})"


def relation(session: Connection, name: str) -> exp.Query:
    """The query that INFORMATION_SCHEMA.<name> stands for."""
    if name not in _RELATIONS:
        raise errors.not_emulated(f"INFORMATION_SCHEMA.{name}")
    # When an object was made is not kept: all are as old as the stand-in in this process.
    opened = f"TIMESTAMPTZ '{session.account.started_at}+00'"
    query = sqlglot.parse_one(_RELATIONS[name].format(scope=_scope(session), opened=opened), read="duckdb")
    assert isinstance(query, exp.Query)
    return query


def declared_types(columns: Iterable[exp.Expression]) -> dict[str, str]:
    """Column and Snowflake's name of its type, of what CREATE TABLE or ALTER TABLE names."""
    return {
        (column.name if column.this.args.get("quoted") else column.name.upper()): _type_name(column.args["kind"])
        for column in columns
        if isinstance(column, exp.ColumnDef) and column.args.get("kind") is not None
    }


_NUMBERS: Final = {"INT", "BIGINT", "SMALLINT", "TINYINT", "DECIMAL", "NUMBER", "INTEGER"}


def _type_name(kind: exp.DataType) -> str:
    text = kind.sql("snowflake").upper().replace(" ", "")
    head, _, rest = text.partition("(")
    if head in _NUMBERS:
        return f"NUMBER({rest}" if rest and "," in rest else f"NUMBER({rest[:-1] or 38},0)"
    return {
        "VARCHAR": f"VARCHAR({rest or '16777216)'}",
        "TEXT": "VARCHAR(16777216)",
        "DOUBLE": "FLOAT",
        "TIMESTAMP": "TIMESTAMP_NTZ(9)",
        "TIMESTAMPNTZ": "TIMESTAMP_NTZ(9)",
        "TIMESTAMPLTZ": "TIMESTAMP_LTZ(9)",
        "TIMESTAMPTZ": "TIMESTAMP_TZ(9)",
    }.get(head, text)


def remember_types(session: Connection, table: str, types: dict[str, str]) -> None:
    """Keep the declared types with the table (`table`: quoted name in DuckDB)."""
    comments = [f"COMMENT ON COLUMN {table}.{quoted(column)} IS {literal(kind)}" for column, kind in types.items()]
    session.duck.execute("; ".join(comments) or "SELECT 1")


def describe(session: Connection, name: ObjectName) -> Result:
    """DESCRIBE TABLE."""
    inside = session.temporary.get(name)
    place = ("temp", "main", inside) if inside else (session.account.database, *name)
    rows = session.duck.execute(
        f"""SELECT column_name, {_TYPE}, is_nullable, column_default FROM duckdb_columns()
            WHERE (database_name, schema_name, table_name) = (?, ?, ?) ORDER BY column_index""",
        list(place),
    ).fetchall()
    if not rows:
        raise errors.missing("Table", f"{session.account.database}.{name.key}")
    columns = (
        "name", "type", "kind", "null?", "default", "primary key", "unique key", "check", "expression", "comment",
        "policy name", "privacy domain",
    )  # fmt: skip
    return Result.of_rows(
        columns,
        [(row[0], row[1], "COLUMN", "Y" if row[2] else "N", row[3], "N", "N", *[None] * 5) for row in rows],
    )


def columns(session: Connection) -> list[tuple[ObjectName, str, str, Any, Any]]:
    """Rows of SHOW COLUMNS in the database: table, column, type as JSON, whether null is allowed, default."""
    rows = session.duck.execute(
        f"""SELECT schema_name, table_name, column_name, {_TYPE}, is_nullable, column_default FROM duckdb_columns()
            WHERE {_scope(session)} ORDER BY schema_name, table_name, column_index"""
    ).fetchall()
    return [
        (ObjectName(row[0], row[1]), row[2], _json_type(row[3], is_nullable=row[4]), row[4], row[5]) for row in rows
    ]


def _json_type(name: str, *, is_nullable: bool) -> str:
    head, sizes = name.partition("(")[0], [int(size) for size in re.findall(r"\d+", name)]
    kind: dict[str, Any] = {"type": {"VARCHAR": "TEXT", "NUMBER": "FIXED", "FLOAT": "REAL"}.get(head, head)}
    if head == "VARCHAR":
        kind |= {"length": sizes[0], "byteLength": min(sizes[0] * 4, 16_777_216), "fixed": False}
    elif head == "NUMBER":
        kind |= {"precision": sizes[0], "scale": sizes[1]}
    elif sizes:
        kind |= {"precision": 0, "scale": sizes[0]}
    return json.dumps({**kind, "nullable": is_nullable})
