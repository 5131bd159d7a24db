"""Names of objects: `schema.name` of the one database, upper case unless quoted.

Here: reading a name from SQL text, writing it for DuckDB, literals, numbers of transactions.
Not here: whether an object exists.
"""

import itertools
import re
import time
from typing import Final, NamedTuple

PART: Final = r'(?:"[^"]+"|[A-Za-z_][\w$]*)'
NAME: Final = rf"{PART}(?:\s*\.\s*{PART}){{0,2}}"
# The stand-in's own schemas in the database's file.
CATALOGUE: Final = "_STAND_IN"
PENDING: Final = "_PENDING"
HIDDEN: Final = frozenset({CATALOGUE, PENDING, "_fs_information_schema", "main", "MAIN"})


_NUMBERS = itertools.count(time.time_ns())


class ObjectName(NamedTuple):
    """An object of a schema."""

    schema: str
    name: str

    @property
    def key(self) -> str:
        return f"{self.schema}.{self.name}"


def parts(text: str) -> list[str]:
    """`raw."My Table"` -> ["RAW", "My Table"]."""
    return [part[1:-1] if part[0] == '"' else part.upper() for part in re.findall(PART, text)]


def quoted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def literal(value: object) -> str:
    """SQL literal of a text, number or NULL."""
    if value is None:
        return "NULL"
    if isinstance(value, int | float):
        return str(value)
    return "'" + str(value).replace("'", "''") + "'"


def like(pattern: str, value: str) -> bool:
    """Snowflake's LIKE of SHOW: `%` and `_`, without regard to case."""
    regex = "".join(".*" if c == "%" else "." if c == "_" else re.escape(c) for c in pattern)
    return re.fullmatch(regex, value, re.IGNORECASE) is not None


def next_number() -> int:
    """A number not given before, not even by a process that ended."""
    return next(_NUMBERS)
