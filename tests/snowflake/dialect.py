"""Snowflake's SQL over DuckDB, beyond what fakesnow translates.

Here: resolving names to tables, temporary tables and streams, MERGE, what needs a warehouse.
Not here: running the statements (session.py), functions (corrections.py, system.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlglot
from sqlglot import exp

from tests.snowflake import corrections, errors, information_schema, streams, system
from tests.snowflake.names import CATALOGUE, PENDING, ObjectName

if TYPE_CHECKING:
    from tests.snowflake.session import Connection


@dataclass(frozen=True)
class Plan:
    """A statement whose names are resolved.

    Attributes:
        target: the permanent table that DML changes; None for a temporary one and for queries.
        streams: streams it reads.
    """

    expression: exp.Expression
    target: ObjectName | None
    streams: set[ObjectName]


def needs_warehouse(expression: exp.Expression) -> bool:
    """Whether Snowflake runs the statement on a warehouse: everything that reads or changes rows."""
    if isinstance(expression, exp.Insert | exp.Update | exp.Delete | exp.Merge):
        return True
    if isinstance(expression, exp.Create):
        return str(expression.kind).upper() == "TABLE" and expression.args.get("expression") is not None
    if isinstance(expression, exp.Query):
        return any(expression.find_all(exp.Table, exp.TableFromRows, exp.Lateral, exp.Dot))
    return False


def bind(sql: str, values: list[Any]) -> str:
    """Fill `?` placeholders with literals."""
    expression = sqlglot.parse_one(sql, read="snowflake")
    for placeholder, value in zip(list(expression.find_all(exp.Placeholder)), values, strict=True):
        placeholder.replace(exp.convert(value))
    return expression.sql("snowflake")


# Names.


def identifier(node: exp.Expression) -> str:
    return node.name if node.args.get("quoted") else node.name.upper()


def table_name(session: Connection, table: exp.Table) -> ObjectName:
    names = [identifier(table.args[key]) for key in ("catalog", "db") if table.args.get(key)] + [identifier(table.this)]
    return session.resolved(names)


def qualify(session: Connection, table: exp.Table) -> ObjectName:
    """Write the table's full name into the expression."""
    name = table_name(session, table)
    for key, text in zip(("catalog", "db", "this"), (session.account.database, *name), strict=True):
        table.set(key, exp.to_identifier(text, quoted=True))
    return name


def temporary_table(session: Connection, name: ObjectName, table: exp.Table, inside: str | None = None) -> exp.Table:
    """The DuckDB table that holds a temporary table of the session."""
    return exp.Table(
        this=exp.to_identifier(inside or session.temporary[name], quoted=True),
        db=exp.to_identifier("main", quoted=True),
        catalog=exp.to_identifier("temp", quoted=True),
        alias=table.args.get("alias"),
    )


def target(expression: exp.Expression) -> exp.Table:
    """The table that a statement creates or changes."""
    table = expression.this
    if isinstance(table, exp.Schema):
        table = table.this
    if not isinstance(table, exp.Table):
        raise errors.not_emulated(expression.sql("snowflake"))
    return table


_CONSTRAINTS: Final = (
    exp.PrimaryKeyColumnConstraint, exp.UniqueColumnConstraint, exp.CommentColumnConstraint, exp.Reference,
)  # fmt: skip


def take_properties(create: exp.Create) -> bool:
    """Drop what DuckDB has no use for (Snowflake does not enforce keys either); whether the object is temporary."""
    properties = create.args.get("properties")
    is_temporary = properties is not None and any(
        isinstance(entry, exp.TemporaryProperty) for entry in properties.expressions
    )
    create.set("properties", exp.Properties(expressions=[exp.TemporaryProperty()]) if is_temporary else None)
    for constraint in list(create.find_all(exp.ColumnConstraint)):
        if isinstance(constraint.args.get("kind"), _CONSTRAINTS):
            constraint.pop()
    for key in list(create.find_all(exp.PrimaryKey, exp.ForeignKey, exp.Constraint)):
        key.pop()
    return is_temporary


def prepare(session: Connection, expression: exp.Expression, *, is_target_kept: bool = False) -> Plan:
    """Resolve every name of a statement; a read of a stream becomes a read of what is pending.

    Args:
        is_target_kept: leave the statement's own table as it is (a temporary table that is about to be made).
    """
    is_query = isinstance(expression, exp.Query)
    if is_query:
        _name_columns(expression)
    system.replace_functions(session, expression)
    session.account.functions.replace_calls(session, expression)
    own = None if is_query or isinstance(expression, exp.Values) else target(expression)
    known = streams.all_streams(session)
    read: set[ObjectName] = set()
    for table in list(expression.find_all(exp.Table)):
        if table is own or not isinstance(table.this, exp.Identifier) or _is_cte(table) or _is_inside(table):
            continue
        replacement = _replacement(session, table, known)
        if replacement is None:
            qualify(session, table)
            continue
        if isinstance(replacement, exp.Subquery) and not _is_changes(table) and table_name(session, table) in known:
            read.add(table_name(session, table))
        alias = table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(identifier(table.this), quoted=True))
        replacement.set("alias", alias)
        for key in ("joins", "laterals", "sample"):
            replacement.set(key, table.args.get(key))
        table.replace(replacement)
    changed = None if own is None or is_target_kept else _resolve_target(session, expression, own)
    return Plan(expression, changed, read)


def _replacement(
    session: Connection, table: exp.Table, known: dict[ObjectName, streams.Stream]
) -> exp.Expression | None:
    """What is read instead of a name that is not simply a table's."""
    name = table_name(session, table)
    if _is_information_schema(table):
        return exp.Subquery(this=information_schema.relation(session, name.name))
    if name in session.temporary:
        return temporary_table(session, name, table)
    if _is_changes(table):
        return exp.Subquery(this=_changes(session, table))
    return exp.Subquery(this=streams.reading(session, known[name])) if name in known else None


def _resolve_target(session: Connection, expression: exp.Expression, own: exp.Table) -> ObjectName | None:
    """Resolve the table that a statement changes; its name unless it is temporary."""
    name = table_name(session, own)
    if name not in session.temporary or isinstance(expression, exp.Create):
        return qualify(session, own)
    replacement = temporary_table(session, name, own)
    if not own.args.get("alias") and not isinstance(expression, exp.Insert):
        replacement.set("alias", exp.TableAlias(this=exp.to_identifier(name.name, quoted=True)))
    own.replace(replacement)
    return None


def _is_changes(table: exp.Table) -> bool:
    return bool(table.args.get("changes") or table.args.get("when"))


def _changes(session: Connection, table: exp.Table) -> exp.Query:
    """CHANGES (INFORMATION => APPEND_ONLY) AT (STREAM => '..'): what a stream has not read yet, without moving it."""
    clause = table.args.get("changes")
    place = clause.args.get("at_before") if clause else None
    if (
        place is None
        or (clause.args["information"].name + place.this + place.args["kind"]).upper() != "APPEND_ONLYATSTREAM"
    ):
        raise errors.not_emulated(table.sql("snowflake"))
    stream = streams.existing(session, place.expression.name)
    if stream.table != table_name(session, table):
        raise errors.error(f"Stream {stream.name.key} is not on {table.sql('snowflake')}", 1003, "42000")
    return streams.reading(session, stream)


def _is_cte(table: exp.Table) -> bool:
    """Whether the name is that of a common table expression around it."""
    if table.args.get("db"):
        return False
    name = identifier(table.this)
    node: exp.Expression | None = table
    inside: exp.Expression = table
    while node is not None:
        clause = node.args.get("with_")
        if isinstance(clause, exp.With):
            for entry in clause.expressions:
                if entry is inside and not clause.args.get("recursive"):
                    break
                if identifier(entry.args["alias"].this) == name:
                    return True
        if isinstance(node, exp.CTE):
            inside = node
        node = node.parent
    return False


def _is_inside(table: exp.Table) -> bool:
    """Whether the name is one of the stand-in's own, resolved already."""
    catalog, schema = table.args.get("catalog"), table.args.get("db")
    return (catalog is not None and catalog.name == "temp") or (
        schema is not None and schema.name in {CATALOGUE, PENDING}
    )


def _is_information_schema(table: exp.Table) -> bool:
    schema = table.args.get("db")
    return schema is not None and identifier(schema) == "INFORMATION_SCHEMA"


def _name_columns(query: exp.Expression) -> None:
    """Name the columns of a query as Snowflake does: an expression by its text."""
    while isinstance(query, exp.Subquery | exp.SetOperation):
        query = query.this
    if not isinstance(query, exp.Select):
        return
    for index, item in enumerate(list(query.expressions)):
        if isinstance(item, exp.Alias | exp.Column | exp.Star | exp.Aliases) or item.is_star:
            continue
        name = exp.to_identifier(corrections.column_name(item.sql("snowflake").upper()), quoted=True)
        query.expressions[index].replace(exp.Alias(this=item.copy(), alias=name))


# MERGE. fakesnow's own loses columns and cannot run in a transaction; DuckDB has the statement.


def merge_kinds(merge: exp.Merge) -> set[str]:
    kinds = set()
    for when in merge.args["whens"].expressions:
        then = when.args["then"]
        kinds.add("INSERT" if isinstance(then, exp.Insert) else "UPDATE" if isinstance(then, exp.Update) else "DELETE")
    return kinds


def native_merge(merge: exp.Merge) -> exp.Merge:
    merge = merge.copy()
    for when in merge.args["whens"].expressions:
        then = when.args["then"]
        if isinstance(then, exp.Update):
            for assignment in then.expressions:
                if isinstance(assignment, exp.EQ) and isinstance(assignment.this, exp.Column):
                    assignment.this.set("table", None)
        elif isinstance(then, exp.Insert) and then.this is not None:
            for column in then.this.expressions:
                if isinstance(column, exp.Column):
                    column.set("table", None)
    return merge


def merge_guard(merge: exp.Merge) -> exp.Select | None:
    """Query with a row when two source rows would change one target row (ERROR_ON_NONDETERMINISTIC_MERGE)."""
    conditions = [
        when.args.get("condition") or exp.true() for when in merge.args["whens"].expressions if when.args.get("matched")
    ]
    if not conditions:
        return None
    row = exp.column("rowid", table=merge.this.alias_or_name, quoted=False)
    return (
        exp.select(exp.Literal.number(1))
        .from_(merge.this.copy())
        .join(merge.args["using"].copy(), on=merge.args["on"].copy())
        .where(exp.or_(*(condition.copy() for condition in conditions)))
        .group_by(row)
        .having("COUNT(*) > 1")
        .limit(1)
    )
