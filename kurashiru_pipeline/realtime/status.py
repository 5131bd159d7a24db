"""What the near-real-time lake holds and how fresh it is, as one document.

Here: reading counts, streams, ledger and freshness for `kurashiru status`.
Not here: processes of the local stack (local/stack.py) or how it is printed (cli.py).
"""

import math
from datetime import timedelta
from typing import TypedDict

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM, Stage
from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.backlog import WINDOW_SECONDS, Backlog, Lag, Rates, arrival_rate, lag
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.realtime.kernel import open_kernel
from kurashiru_pipeline.realtime.micro_batch import batch_freshness, pending_work
from kurashiru_pipeline.sources.source import Standing, open_source
from kurashiru_pipeline.warehouse import Warehouse
from kurashiru_pipeline.warehouse.base import Waiting

# Freshness is of now, not of the beginning of the lake.
_FRESHNESS_BATCHES = 200


class StreamState(TypedDict):
    """One stream, as shown; `offset` and `stale_after` (UTC) where the engine tells them."""

    name: str
    offset: int | None
    has_data: bool
    stale: bool
    stale_after: str | None


class LagState(TypedDict):
    """How far behind, as shown; None where it is not known. `catches_up`: whether less arrives than is processed."""

    files: int | None
    lines: int | None
    seconds: float
    arrival_per_second: float | None
    processing_per_second: float | None
    catches_up: bool | None
    catch_up_seconds: float | None


class Status(TypedDict):
    """The document of `kurashiru status --json`."""

    environment: str
    engine: str
    counts: dict[str, int]
    rejected_by_reason: dict[str, int]
    freshness_seconds: dict[str, float | None]
    lag: LagState
    streams: list[StreamState]
    pending_batches: int
    pending: str | None
    model_version: str | None
    challenger_version: str | None
    challenger_share: float | None
    external_source: Standing | None


def read_status(warehouse: Warehouse, settings: Settings) -> Status:
    """Counts over the whole lake, freshness over the last micro-batches, and what is pending."""
    [counts] = warehouse.fetch("status_counts").to_pylist()
    [last] = warehouse.fetch("last_batch").to_pylist()
    fresh = batch_freshness(warehouse, max(1, (last["batch_id"] or 0) - _FRESHNESS_BATCHES + 1))
    service = open_kernel(warehouse, settings, load_weights()).in_service()
    source = open_source(warehouse, settings)
    states = [warehouse.stream_status(stream) for stream in warehouse.streams]
    return {
        "environment": settings.environment,
        "engine": warehouse.engine,
        "counts": {("raw" if name == "raw_count" else name): int(value) for name, value in counts.items()},
        "rejected_by_reason": {
            row["reason"]: row["line_count"] for row in warehouse.fetch("rejects_by_reason").to_pylist()
        },
        "freshness_seconds": {"p50": fresh.p50, "p95": fresh.p95},
        "lag": _lag_state(*read_lag(warehouse)),
        "streams": [
            {
                "name": state.name,
                "offset": state.offset,
                "has_data": state.has_data,
                "stale": state.is_stale,
                "stale_after": state.stale_after.isoformat() if state.stale_after else None,
            }
            for state in states
        ],
        "pending_batches": warehouse.fetch("unfinished_batches", last_stage=Stage.REFLECT).num_rows,
        "pending": pending_work(warehouse, settings),
        "model_version": service.version,
        "challenger_version": service.canary.version if service.canary else None,
        "challenger_share": service.canary.share if service.canary else None,
        "external_source": None if source is None else source.standing(),
    }


def read_lag(warehouse: Warehouse) -> tuple[Backlog, Lag]:
    """What waits and how far behind that is, counted from metadata and the ledger: no landed file is read."""
    now = utc_now()
    since = now - timedelta(seconds=WINDOW_SECONDS)
    [row] = warehouse.fetch("backlog", last_stage=Stage.REFLECT, since=since).to_pylist()
    waiting = warehouse.waiting_files()
    is_known = waiting is not None or not warehouse.stream_has_data(RAW_EVENTS_STREAM)
    waiting = waiting or Waiting(0, 0, None)
    oldest = [row["oldest_loaded_at"], row["oldest_staged_at"], waiting.oldest_landed_at]
    backlog = Backlog(
        files=waiting.file_count if is_known else None,
        file_bytes=waiting.byte_count if is_known else None,
        loaded_lines=int(row["loaded_lines"]) if is_known else None,
        staged_lines=int(row["staged_lines"]),
        oldest_landed_at=min((moment for moment in oldest if moment is not None), default=None),
    )
    bytes_a_line = None if row["bytes_a_line"] is None else float(row["bytes_a_line"])
    waiting_lines = waiting.byte_count / bytes_a_line if bytes_a_line else 0.0
    seen_lines = int(row["arrived_lines"]) + int(row["loaded_lines"])
    busy = float(row["busy_seconds"])
    rates = Rates(
        arrival=arrival_rate(seen_lines, waiting_lines, waiting.oldest_landed_at, since, now) if is_known else None,
        processing=int(row["processed_lines"]) / busy if busy and row["processed_lines"] else None,
        bytes_a_line=bytes_a_line,
    )
    return backlog, lag(backlog, rates, now)


def _lag_state(backlog: Backlog, behind: Lag) -> LagState:
    catch_up = behind.catch_up_seconds
    return {
        "files": backlog.files,
        "lines": behind.lines,
        "seconds": behind.seconds,
        "arrival_per_second": behind.rates.arrival,
        "processing_per_second": behind.rates.processing,
        "catches_up": None if catch_up is None else math.isfinite(catch_up),
        "catch_up_seconds": catch_up if catch_up is not None and math.isfinite(catch_up) else None,
    }
