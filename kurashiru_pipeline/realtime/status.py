"""What the near-real-time lake holds and how fresh it is, as one document.

Here: reading counts, streams, ledger and freshness for `kurashiru status`.
Not here: processes of the local stack (local/stack.py) or how it is printed (cli.py).
"""

from typing import TypedDict

from kurashiru_pipeline.catalog import Stage
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.realtime.kernel import open_kernel
from kurashiru_pipeline.realtime.micro_batch import batch_freshness, pending_work
from kurashiru_pipeline.sources.source import Standing, open_source
from kurashiru_pipeline.warehouse import Warehouse

# Freshness is of now, not of the beginning of the lake.
_FRESHNESS_BATCHES = 200


class StreamState(TypedDict):
    """One stream, as shown; `offset` and `stale_after` (UTC) where the engine tells them."""

    name: str
    offset: int | None
    has_data: bool
    stale: bool
    stale_after: str | None


class Status(TypedDict):
    """The document of `kurashiru status --json`."""

    environment: str
    engine: str
    counts: dict[str, int]
    rejected_by_reason: dict[str, int]
    freshness_seconds: dict[str, float | None]
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
