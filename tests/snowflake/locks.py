"""Locks of tables and streams between the sessions of the account.

Here: who holds what, and waiting for it, as UPDATE, DELETE, MERGE and reading a stream in DML do on Snowflake.
Not here: isolation of what is read (DuckDB's snapshots).
"""

import threading
import time
from collections.abc import Iterable


class Locks:
    """Which session holds which table or stream until its transaction ends."""

    def __init__(self) -> None:
        self._holders: dict[str, int] = {}
        self._freed = threading.Condition()

    def acquire(self, session_id: int, keys: Iterable[str], *, seconds: float) -> tuple[bool, str | None]:
        """Wait for all of `keys`: (whether it waited, the first key still held by another when time ran out)."""
        wanted = sorted(set(keys))
        deadline = time.monotonic() + seconds
        has_waited = False
        with self._freed:
            while held := [key for key in wanted if self._holders.get(key, session_id) != session_id]:
                has_waited = True
                if not self._freed.wait(max(deadline - time.monotonic(), 0)) and time.monotonic() >= deadline:
                    return has_waited, held[0]
            self._holders.update(dict.fromkeys(wanted, session_id))
        return has_waited, None

    def release(self, session_id: int) -> None:
        with self._freed:
            self._holders = {key: holder for key, holder in self._holders.items() if holder != session_id}
            self._freed.notify_all()
