"""Functions and casts of Snowflake that fakesnow lacks or gets wrong.

Here: DuckDB macros with Snowflake's meaning, and the rewriting that calls them, before fakesnow translates the rest.
Not here: names, streams, MERGE (dialect.py). What stays wrong is listed in README.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

import duckdb
import pyarrow as pa
from sqlglot import exp

from tests.snowflake import script

_PREFIX: Final = "_SF_"
_TYPE: Final = "json_type(to_json(x))"
_NUMBERS: Final = "('BIGINT', 'UBIGINT', 'HUGEINT', 'DOUBLE')"
_ZONE: Final = r"([zZ]|[+-]\d{2}(:?\d{2})?)$"
_MOMENT: Final = r"^\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}(\.\d+)?"
_LIST: Final = "CAST(to_json({0}) AS JSON[])"

# https://docs.snowflake.com/en/sql-reference/functions-all. JSON stands for VARIANT, ARRAY and OBJECT.
_MACROS: Final = {
    # A VARIANT's type. Times in a VARIANT are texts in DuckDB's form, with a zone where they have one.
    "IS_OBJECT(x)": f"{_TYPE} = 'OBJECT'",
    "IS_ARRAY(x)": f"{_TYPE} = 'ARRAY'",
    "IS_VARCHAR(x)": f"{_TYPE} = 'VARCHAR'",
    "IS_CHAR(x)": f"{_TYPE} = 'VARCHAR'",
    "IS_BOOLEAN(x)": f"{_TYPE} = 'BOOLEAN'",
    "IS_INTEGER(x)": f"{_TYPE} IN ('BIGINT', 'UBIGINT', 'HUGEINT')",
    "IS_DECIMAL(x)": f"{_TYPE} IN {_NUMBERS}",
    "IS_DOUBLE(x)": f"{_TYPE} IN {_NUMBERS}",
    "IS_REAL(x)": f"{_TYPE} IN {_NUMBERS}",
    "IS_TIMESTAMP_NTZ(x)": f"{_TYPE} = 'VARCHAR' AND regexp_matches(to_json(x) ->> '$', '{_MOMENT}$')",
    "IS_TIMESTAMP_LTZ(x)": f"{_TYPE} = 'VARCHAR' AND regexp_matches(to_json(x) ->> '$', '{_MOMENT}[+-]\\d{{2}}')",
    "AS_VARCHAR(x)": f"CASE WHEN {_TYPE} = 'VARCHAR' THEN to_json(x) ->> '$' END",
    "AS_CHAR(x)": f"CASE WHEN {_TYPE} = 'VARCHAR' THEN to_json(x) ->> '$' END",
    "AS_OBJECT(x)": f"CASE WHEN {_TYPE} = 'OBJECT' THEN to_json(x) END",
    "AS_ARRAY(x)": f"CASE WHEN {_TYPE} = 'ARRAY' THEN to_json(x) END",
    "AS_INTEGER(x)": f"CASE WHEN {_TYPE} IN {_NUMBERS} THEN CAST(round(CAST(to_json(x) AS DOUBLE)) AS BIGINT) END",
    "AS_DOUBLE(x)": f"CASE WHEN {_TYPE} IN {_NUMBERS} THEN CAST(to_json(x) AS DOUBLE) END",
    "AS_BOOLEAN(x)": f"CASE WHEN {_TYPE} = 'BOOLEAN' THEN CAST(to_json(x) AS BOOLEAN) END",
    "_SF_TYPEOF(x)": f"""CASE {_TYPE} WHEN 'BIGINT' THEN 'INTEGER' WHEN 'UBIGINT' THEN 'INTEGER'
        WHEN 'DOUBLE' THEN 'DECIMAL' WHEN 'NULL' THEN 'NULL_VALUE' ELSE {_TYPE} END""",
    # JSON's null is a value of a VARIANT; a path that leads nowhere is NULL.
    "_SF_IS_NULL_VALUE(x)": f"{_TYPE} = 'NULL'",
    "_SF_STRIP_NULL_VALUE(x)": f"CASE WHEN {_TYPE} <> 'NULL' THEN to_json(x) END",
    # Parsing: keys given twice are an error, unless 'd' asks for the last of them.
    "_SF_HAS_REPEATED_KEYS(x)": "json_type(x) = 'OBJECT' AND len(json_keys(x)) <> len(list_distinct(json_keys(x)))",
    "_SF_TRY_PARSE_JSON(x, mode := 's')": """CASE
        WHEN json_valid(CAST(x AS VARCHAR)) THEN CASE
            WHEN _SF_HAS_REPEATED_KEYS(CAST(x AS VARCHAR)) THEN
                CASE WHEN mode = 'd' THEN CAST(_stand_in_last_keys(CAST(x AS VARCHAR)) AS JSON) END
            ELSE json(CAST(x AS VARCHAR)) END END""",
    "_SF_PARSE_JSON(x, mode := 's')": """CASE
        WHEN trim(CAST(x AS VARCHAR)) = '' THEN NULL
        WHEN x IS NULL THEN NULL
        WHEN _SF_TRY_PARSE_JSON(x, mode) IS NULL THEN CAST(error('Error parsing JSON: ' || CAST(x AS VARCHAR)) AS JSON)
        ELSE _SF_TRY_PARSE_JSON(x, mode) END""",
    # Text of a value: of a VARIANT without its quotes; three decimals of a second; no '.0' of a double.
    "_SF_TEXT(x)": r"""CASE typeof(x)
        WHEN 'JSON' THEN to_json(x) ->> '$'
        WHEN 'TIMESTAMP' THEN strftime(TRY_CAST(CAST(x AS VARCHAR) AS TIMESTAMP), '%Y-%m-%d %H:%M:%S.%g')
        WHEN 'DOUBLE' THEN regexp_replace(CAST(x AS VARCHAR), '\.0$', '')
        ELSE CAST(x AS VARCHAR) END""",
    "_SF_INTEGER(x)": """CASE WHEN typeof(x) IN ('DOUBLE', 'FLOAT')
        THEN CAST(round(TRY_CAST(CAST(x AS VARCHAR) AS DOUBLE)) AS BIGINT) ELSE CAST(x AS BIGINT) END""",
    "_SF_BOOLEAN(x)": """CASE WHEN typeof(x) = 'JSON' THEN CAST(to_json(x) ->> '$' AS BOOLEAN)
        ELSE CAST(x AS BOOLEAN) END""",
    # A wall clock: the zone of a text is dropped, not applied.
    "_SF_TRY_NTZ(x)": f"TRY_CAST(regexp_replace(trim(_SF_TEXT(x)), '(\\d)\\s*{_ZONE}', '\\1') AS TIMESTAMP)",
    "_SF_TRY_LTZ(x)": "TRY_CAST(_SF_TEXT(x) AS TIMESTAMPTZ)",
    "_SF_LTZ(x)": """CASE WHEN typeof(x) = 'JSON' THEN CAST(to_json(x) ->> '$' AS TIMESTAMPTZ)
        ELSE CAST(x AS TIMESTAMPTZ) END""",
    "_SF_EPOCH(x, microseconds)": "CAST(floor(epoch_us(x) / microseconds) AS BIGINT)",
    # Exact numbers divide to six decimals.
    "_SF_DIVIDE(a, b)": """CASE WHEN CAST(b AS DOUBLE) = 0 THEN CAST(error('Division by zero') AS DOUBLE)
        WHEN typeof(a) IN ('DOUBLE', 'FLOAT') OR typeof(b) IN ('DOUBLE', 'FLOAT')
            THEN CAST(a AS DOUBLE) / CAST(b AS DOUBLE)
        ELSE round(CAST(a AS DOUBLE) / CAST(b AS DOUBLE), 6) END""",
    # Arrays and objects.
    "_SF_COLLECTED(x)": "coalesce(to_json(x), CAST('[]' AS JSON))",
    "_SF_GET(x, k)": """json_extract(to_json(x),
        CASE WHEN typeof(k) = 'VARCHAR' THEN '$."' || k || '"' ELSE '$[' || k || ']' END)""",
    "_SF_ARRAY_SIZE(x)": f"CASE WHEN {_TYPE} = 'ARRAY' THEN json_array_length(to_json(x)) END",
    "_SF_ARRAY_CONTAINS(v, x)": f"list_contains({_LIST.format('x')}, to_json(v))",
    "_SF_ARRAY_CAT(x, y)": f"to_json(list_concat({_LIST.format('x')}, {_LIST.format('y')}))",
    "_SF_ARRAY_APPEND(x, v)": f"to_json(list_append({_LIST.format('x')}, to_json(v)))",
    "_SF_ARRAY_PREPEND(x, v)": f"to_json(list_prepend(to_json(v), {_LIST.format('x')}))",
    "_SF_ARRAY_DISTINCT(x)": f"""to_json(list_filter({_LIST.format('x')},
        lambda v, i: list_position({_LIST.format('x')}, v) = i))""",
    "_SF_ARRAY_COMPACT(x)": f"to_json(list_filter({_LIST.format('x')}, lambda v: json_type(v) <> 'NULL'))",
    "_SF_ARRAY_SLICE(x, f, t)": f"to_json(list_slice({_LIST.format('x')}, f + 1, t))",
    "_SF_ARRAY_POSITION(v, x)": f"list_position({_LIST.format('x')}, to_json(v)) - 1",
    "_SF_ARRAY_TO_STRING(x, s)": f"array_to_string(list_transform({_LIST.format('x')}, lambda v: v ->> '$'), s)",
    "_SF_ARRAYS_OVERLAP(x, y)": f"list_has_any({_LIST.format('x')}, {_LIST.format('y')})",
    "_SF_TO_ARRAY(x)": f"CASE WHEN {_TYPE} = 'ARRAY' THEN to_json(x) WHEN x IS NOT NULL THEN json_array(x) END",
    "TO_OBJECT(x)": "AS_OBJECT(x)",
    "_SF_OBJECT_KEYS(x)": "to_json(list_sort(json_keys(to_json(x))))",
    "_SF_OBJECT_INSERT(x, k, v)": "json_merge_patch(to_json(x), json_object(CAST(k AS VARCHAR), v))",
}  # fmt: skip


def install(duck: duckdb.DuckDBPyConnection, place: str) -> None:
    """Make the macros in schema `place`, and the Python function one of them needs."""
    duck.create_function(
        "_stand_in_last_keys", _last_keys, ["VARCHAR"], "VARCHAR", type="arrow", null_handling="special"
    )
    duck.execute("BEGIN")
    for signature, body in _MACROS.items():
        duck.execute(f"CREATE OR REPLACE MACRO {place}.{signature} AS ({body})")
    duck.execute("COMMIT")


def _last_keys(column: pa.Array) -> pa.Array:
    """JSON documents with the last of repeated keys."""
    texts = [
        None if text is None else json.dumps(json.loads(text), ensure_ascii=False, separators=(",", ":"))
        for text in column.to_pylist()
    ]
    return pa.array(texts, pa.string())


def before_parsing(sql: str) -> str:
    """Keep what sqlglot's parser would drop: the second argument of PARSE_JSON."""
    return script.replace_plain(sql, r"\b((?:TRY_)?PARSE_JSON)(\s*\()", rf"{_PREFIX}\1\2")


def column_name(text: str) -> str:
    return text.replace(_PREFIX, "")


def rewrite(expression: exp.Expression) -> exp.Expression:
    """The expression with calls of the macros; what is inside a call is rewritten before it."""
    for node in reversed(list(expression.bfs())):
        rule = _RULES.get(type(node))
        new = rule(node) if rule else node
        if new is node:
            continue
        if node is expression:
            return new
        node.replace(new)
    return expression


def _call(name: str, *arguments: exp.Expression | None) -> exp.Anonymous:
    return exp.Anonymous(this=_PREFIX + name, expressions=[argument for argument in arguments if argument is not None])


_INTEGERS = {
    exp.DataType.Type.INT, exp.DataType.Type.BIGINT, exp.DataType.Type.SMALLINT, exp.DataType.Type.TINYINT,
}  # fmt: skip
_NTZ = {exp.DataType.Type.TIMESTAMP, exp.DataType.Type.TIMESTAMPNTZ, exp.DataType.Type.DATETIME}
_LTZ = {exp.DataType.Type.TIMESTAMPLTZ, exp.DataType.Type.TIMESTAMPTZ}


def _cast(node: exp.Expression) -> exp.Expression:
    kind, value = node.args["to"].this, node.this
    if kind in {exp.DataType.Type.VARCHAR, exp.DataType.Type.TEXT, exp.DataType.Type.CHAR}:
        return _call("TEXT", value)
    if kind in _INTEGERS:
        return _call("INTEGER", value)
    if kind == exp.DataType.Type.BOOLEAN:
        return _call("BOOLEAN", value)
    if kind == exp.DataType.Type.VARIANT:
        return exp.Anonymous(this="TO_JSON", expressions=[value])
    if kind in _LTZ and not isinstance(value, exp.Literal):
        return _call("LTZ", value)
    return node


def _try_cast(node: exp.Expression) -> exp.Expression:
    kind = node.args["to"].this
    if kind in _NTZ:
        return _call("TRY_NTZ", node.this)
    if kind in _LTZ:
        return _call("TRY_LTZ", node.this)
    return node


_ANONYMOUS = {
    "TRY_TO_TIMESTAMP": "TRY_NTZ",
    "TRY_TO_TIMESTAMP_NTZ": "TRY_NTZ",
    "TRY_TO_TIMESTAMP_LTZ": "TRY_LTZ",
    "TO_TIMESTAMP_LTZ": "LTZ",
}


def _anonymous(node: exp.Expression) -> exp.Expression:
    name = _ANONYMOUS.get(str(node.name).upper())
    return _call(name, *node.expressions) if name else node


_EPOCHS = {"EPOCH_SECOND": 1_000_000, "EPOCH": 1_000_000, "EPOCH_MILLISECOND": 1_000, "EPOCH_MICROSECOND": 1}


def _extract(node: exp.Expression) -> exp.Expression:
    microseconds = _EPOCHS.get(node.this.name.upper())
    return node if microseconds is None else _call("EPOCH", node.expression, exp.Literal.number(microseconds))


def _aggregate(node: exp.Expression) -> exp.Expression:
    """SUM of whole numbers is a whole number: fakesnow casts to DOUBLE what is a SUM to sqlglot."""
    return exp.Anonymous(this="SUM", expressions=[node.this])


def _array_agg(node: exp.Expression) -> exp.Expression:
    if isinstance(node, exp.WithinGroup):
        if not isinstance(node.this, exp.ArrayAgg):
            return node
        return _collected(node.this.this, node.expression.expressions)
    if isinstance(node.parent, exp.Window | exp.WithinGroup):
        return node
    return _collected(node.this, [])


def _collected(value: exp.Expression, order: list[exp.Expression]) -> exp.Expression:
    plain = value.expressions[0] if isinstance(value, exp.Distinct) else value
    ordered = exp.Order(this=value.copy(), expressions=[item.copy() for item in order]) if order else value.copy()
    present = exp.Where(this=exp.Not(this=exp.Is(this=plain.copy(), expression=exp.null())))
    return _call("COLLECTED", exp.Filter(this=exp.Anonymous(this="LIST", expressions=[ordered]), expression=present))


def _struct(node: exp.Expression) -> exp.Expression:
    """OBJECT_CONSTRUCT: an object's keys are in order."""
    items = node.expressions
    if all(isinstance(item, exp.PropertyEQ) and isinstance(item.this, exp.Literal) for item in items):
        node.set("expressions", sorted(items, key=lambda item: str(item.this.name)))
    return node


def _is_path(node: exp.Expression) -> bool:
    return isinstance(node, exp.JSONExtract | exp.Bracket) or node.name == f"{_PREFIX}GET"


def _compared(node: exp.Expression) -> exp.Expression:
    """A VARIANT compared with a text is compared as text."""
    others = [node.expression] if isinstance(node, exp.Binary) else node.expressions
    if _is_path(node.this) and any(isinstance(o, exp.Literal) and o.is_string for o in others):
        node.set("this", _call("TEXT", node.this))
    return node


def _flatten(node: exp.Expression) -> exp.Expression:
    """FLATTEN with OUTER and PATH, which fakesnow ignores."""
    if not isinstance(node.this, exp.Explode):
        return node
    arguments = {item.this.name.upper(): item.expression for item in node.find_all(exp.Kwarg)}
    for name in ("RECURSIVE", "MODE"):
        if name in arguments and arguments[name].sql().upper() not in {"FALSE", "'BOTH'"}:
            message = f"FLATTEN({name} => ..)"
            raise NotImplementedError(message)
    source = arguments.get("INPUT") or node.this.this
    if "PATH" in arguments:
        source = _call("GET", source.copy(), arguments["PATH"].copy())
    call = exp.Table(this=exp.Anonymous(this="_fs_flatten", expressions=[source.copy()]))
    alias = node.args.get("alias")
    if arguments.get("OUTER", exp.false()).sql().upper() != "TRUE":
        call.set("alias", alias)
        return call
    rows = exp.select("fl.*").from_(exp.select("1 AS o").subquery("one"))
    rows = rows.join(
        exp.alias_(exp.select("*").from_(call).subquery(), "fl", table=True), on=exp.true(), join_type="left"
    )
    return exp.Lateral(this=exp.Subquery(this=rows), alias=alias)


def _listagg(node: exp.Expression) -> exp.Expression:
    """Of no rows, an empty text."""
    if isinstance(node.parent, exp.Window | exp.WithinGroup):
        return node
    return exp.Coalesce(this=node.copy(), expressions=[exp.Literal.string("")])


_RULES: dict[type[exp.Expression], Callable[[exp.Expression], exp.Expression]] = {
    exp.Cast: _cast,
    exp.TryCast: _try_cast,
    exp.Anonymous: _anonymous,
    exp.Extract: _extract,
    exp.Sum: _aggregate,
    exp.ArrayAgg: _array_agg,
    exp.WithinGroup: _array_agg,
    exp.Struct: _struct,
    exp.GroupConcat: _listagg,
    exp.EQ: _compared,
    exp.NEQ: _compared,
    exp.In: _compared,
    exp.Like: _compared,
    exp.Lateral: _flatten,
    exp.TableFromRows: _flatten,
    exp.Array: lambda node: exp.Anonymous(this="JSON_ARRAY", expressions=node.expressions),
    exp.ToVariant: lambda node: exp.Anonymous(this="TO_JSON", expressions=[node.this]),
    exp.ToChar: lambda node: node if node.args.get("format") else _call("TEXT", node.this),
    exp.ByteLength: lambda node: exp.Anonymous(this="STRLEN", expressions=[node.this]),
    exp.Div: lambda node: _call("DIVIDE", node.this, node.expression),
    exp.Typeof: lambda node: _call("TYPEOF", node.this),
    exp.IsNullValue: lambda node: _call("IS_NULL_VALUE", node.this),
    exp.StripNullValue: lambda node: _call("STRIP_NULL_VALUE", node.this),
    exp.GetExtract: lambda node: _call("GET", node.this, node.expression),
    exp.ArraySize: lambda node: _call("ARRAY_SIZE", node.this),
    exp.ArrayContains: lambda node: _call("ARRAY_CONTAINS", node.expression, node.this),
    exp.ArrayConcat: lambda node: _call("ARRAY_CAT", node.this, *node.expressions),
    exp.ArrayAppend: lambda node: _call("ARRAY_APPEND", node.this, node.expression),
    exp.ArrayPrepend: lambda node: _call("ARRAY_PREPEND", node.this, node.expression),
    exp.ArrayDistinct: lambda node: _call("ARRAY_DISTINCT", node.this),
    exp.ArrayCompact: lambda node: _call("ARRAY_COMPACT", node.this),
    exp.ArraySlice: lambda node: _call("ARRAY_SLICE", node.this, node.args["start"], node.args["end"]),
    exp.ArrayPosition: lambda node: _call("ARRAY_POSITION", node.expression, node.this),
    exp.ArrayToString: lambda node: _call("ARRAY_TO_STRING", node.this, node.expression),
    exp.ArrayOverlaps: lambda node: _call("ARRAYS_OVERLAP", node.this, node.expression),
    exp.ToArray: lambda node: _call("TO_ARRAY", node.this),
    exp.JSONKeys: lambda node: _call("OBJECT_KEYS", node.this),
    exp.ObjectInsert: lambda node: _call("OBJECT_INSERT", node.this, node.args["key"], node.args["value"]),
}
