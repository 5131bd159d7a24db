"""Snowflake Scripting as far as the stage procedure needs it, walked through on the stand-in for an account.

Here: variables, assignments, conditions, the transaction and its roll-back.
Not here: the steps (kurashiru_pipeline/deployment/staging_task.py), or what starts the task.
"""

import re
from collections.abc import Sequence
from typing import Any

from kurashiru_pipeline.deployment.staging_task import RESULT, VARIABLES, Assign, Check, Execute, Fetch, Step, Stop
from kurashiru_pipeline.warehouse.statements import literal
from tests.snowflake.session import Connection
from tests.snowflake.stand_in import StandIn

VARIABLE = re.compile(r"(?<![:\w]):([a-z_]+)\b")


class UnbalancedError(Exception):
    """The procedure's own exception."""


def task_session(account: StandIn) -> Connection:
    """A session as the task has one: the deployer's role, in the procedure's schema."""
    return account.connect(
        database=account.database, schema="OPS", warehouse="SERVERLESS", role=f"{account.database}_DEPLOYER"
    )


def call(session: Connection, steps: Sequence[Step]) -> Any:
    """Walk through the steps; what the procedure returns."""
    values: dict[str, Any] = dict.fromkeys(VARIABLES)

    def run(sql: str) -> list[tuple[Any, ...]]:
        filled = VARIABLE.sub(lambda match: literal(values[match[1]]), sql)
        return list(session.cursor().execute(filled).fetchall())

    def value(expression: str, kind: str) -> Any:
        named = [name for name in VARIABLES if re.search(rf"\b{name}\b", expression)]
        known = [f"cast({literal(values[name])} as {VARIABLES[name]}) as {name}" for name in named]
        [(found,)] = run(f"select cast({expression} as {kind}) from (select {', '.join(known) or 'null'})")
        return found

    try:
        for step in steps:
            match step:
                case Execute(sql):
                    run(sql)
                case Fetch(query, into):
                    [row] = run(f"select {', '.join(into.values())} from ({query})")
                    values |= zip(into, row, strict=True)
                case Assign(variable, expression):
                    values[variable] = value(expression, VARIABLES[variable])
                case Stop(condition):
                    if value(condition, "boolean"):
                        run("commit")
                        return None
                case Check(fault):
                    if value(fault, "boolean"):
                        raise UnbalancedError
    except BaseException:
        run("rollback")
        raise
    return values[RESULT]
