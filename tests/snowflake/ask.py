"""Short ways to ask a session something in tests.

Here: rows, the first value, a column. Not here: fixtures (conftest.py).
"""

from collections.abc import Callable
from typing import Any

from tests.snowflake.session import Connection

Open = Callable[..., Connection]


def rows(session: Connection, sql: str) -> list[tuple[Any, ...]]:
    return session.cursor().execute(sql).fetchall()


def value(session: Connection, sql: str) -> Any:
    [[answer]] = rows(session, sql)
    return answer


def column(session: Connection, sql: str) -> list[Any]:
    return [row[0] for row in rows(session, sql)]


def run(session: Connection, *statements: str) -> None:
    for sql in statements:
        session.cursor().execute(sql)
