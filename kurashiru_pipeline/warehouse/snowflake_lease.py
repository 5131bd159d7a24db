"""One writer at a time on Snowflake: a lease in a table, with a fencing token.

Here: taking, renewing and giving back the lease in ops.writer_lease, and ending what a dead holder left open.
Not here: what is written under it. The embedded engine has a file lock instead (lock.py), which dies with its process;
a lease has to run out, and a holder that is slow must not write any more once another has taken over.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final

from kurashiru_pipeline.errors import ConfigurationError, KurashiruError, TransientError
from kurashiru_pipeline.warehouse.snowflake_session import LockedError, Session
from kurashiru_pipeline.warehouse.statements import literal

LEASE_SECONDS: Final = 60
_NAME: Final = "realtime"
# Longer than a run that drains may hold it (KURASHIRU_RUN_SECONDS), whatever its last micro-batch takes.
_WAIT_SECONDS: Final = 900.0
_LOOK_SECONDS: Final = 2.0
_WORKING: Final = frozenset({"RUNNING", "QUEUED", "BLOCKED", "RESUMING_WAREHOUSE"})

logger = logging.getLogger(__name__)


class WriterLease:
    """The lease of one session, taken by `take`.

    Every transaction renews it first. The renewal locks the lease's row until the transaction ends, so nobody can take
    over in between; who was taken over finds another fence, and nothing of its transaction is committed.

    Args:
        holder: shown to whoever waits.
    """

    def __init__(self, session: Session, holder: str) -> None:
        self._session = session
        self._holder = holder
        self._fence = 0

    def take(self, *, on_wait: Callable[[str], object] | None = None) -> None:
        """Take the lease; wait while its holder works.

        Args:
            on_wait: told once, with the holder, when there is something to wait for.

        Raises:
            TransientError: somebody else still writes after a quarter of an hour.
            ConfigurationError: the lease's row is not there.
        """
        deadline = time.monotonic() + _WAIT_SECONDS
        told = False
        while True:
            held = self._look()
            if (held["holder"] is None or not self._is_working(held)) and self._take_over(held):
                return
            if not told and on_wait is not None:
                on_wait(held["holder"] or "another writer")
            told = True
            if time.monotonic() >= deadline:
                message = f"{held['holder']} is writing; waited {_WAIT_SECONDS:.0f} s, try again when it is done"
                raise TransientError(message)
            time.sleep(_LOOK_SECONDS)

    def renew(self) -> None:
        """Renew the lease; in a transaction, as its first statement.

        Raises:
            TransientError: another writer has taken over.
        """
        if not self._update("renewed_at = sysdate()", name="lease.renew"):
            message = (
                f"another writer took over from {self._holder}, which had not been heard of for {LEASE_SECONDS} s; "
                "this transaction is not committed, the next run goes on from the ledger"
            )
            raise TransientError(message)

    def give_back(self) -> None:
        """Let the next writer in at once. No error if it was taken over already."""
        self._update("holder = null, session_id = null", name="lease.give_back")

    def _update(self, change: str, *, name: str) -> int:
        return self._session.change(
            f"update ops.writer_lease set {change} where name = {literal(_NAME)} "
            f"and fence = {self._fence} and session_id = {literal(self._session.id)}",
            name=name,
        )

    def _look(self) -> dict[str, Any]:
        rows = self._session.dicts(
            "select holder, session_id, fence, datediff('second', renewed_at, sysdate()) as idle_seconds "
            f"from ops.writer_lease where name = {literal(_NAME)}",
            name="lease.look",
        )
        if not rows:
            message = "ops.writer_lease has no row 'realtime'; kurashiru deploy snowflake makes it"
            raise ConfigurationError(message)
        return rows[0]

    def _is_working(self, held: dict[str, Any]) -> bool:
        """Whether the holder renewed the lease lately, or its session runs a statement, or has just ended one."""
        if held["idle_seconds"] < LEASE_SECONDS:
            return True
        statements = self._session.dicts(
            "select execution_status, datediff('second', end_time, current_timestamp()) as idle_seconds "
            "from table(information_schema.query_history_by_session("
            f"session_id => {int(held['session_id'])}, result_limit => 1))",
            name="lease.is_working",
        )
        return any(
            statement["execution_status"].upper() in _WORKING or statement["idle_seconds"] < LEASE_SECONDS
            for statement in statements
        )

    def _take_over(self, held: dict[str, Any]) -> bool:
        """Write ourselves into the row as it was seen; False if somebody else was faster."""
        if held["holder"] is not None:
            self._abort_transactions(held["session_id"])
            self._end_session(held["session_id"])
        self._fence = int(held["fence"]) + 1
        try:
            return bool(
                self._session.change(
                    f"update ops.writer_lease set holder = {literal(self._holder)}, "
                    f"session_id = {literal(self._session.id)}, fence = {self._fence}, renewed_at = sysdate() "
                    f"where name = {literal(_NAME)} and fence = {int(held['fence'])}",
                    name="lease.take",
                )
            )
        except LockedError:
            return False

    def _abort_transactions(self, session_id: str) -> None:
        """A session that died in a transaction keeps its locks for minutes, or hours."""
        for transaction in self._session.dicts("show transactions", name="lease.show_transactions"):
            if str(transaction["session"]) == session_id:
                self._session.rows(
                    f"select system$abort_transaction({int(transaction['id'])})", name="lease.abort_transaction"
                )

    def _end_session(self, session_id: str) -> None:
        """A holder that was only frozen must not go on when it wakes, without the transaction it was in.

        Snowflake does not say who may do this to a session; where it is refused, the fence has to do.
        """
        from snowflake.connector.errors import Error  # noqa: PLC0415

        try:
            self._session.rows(f"select system$abort_session({int(session_id)})", name="lease.abort_session")
        except (Error, KurashiruError) as error:
            logger.warning("session %s of the writer before was not ended: %s", session_id, error)
