"""The Lambda function behind serving.put_items: takes a batch of recommendations from Snowflake, writes DynamoDB.

Here: one request: its time limit, repeated users, the answer to each row, one line of log without personal data.
Not here: the protocol (external_function.py), retries and conditions (dynamodb.py), what an item holds (core/items.py).

Configured by KURASHIRU_ENV, KURASHIRU_AWS_REGION and KURASHIRU_DYNAMODB_TABLE, which deploy/aws/template.yaml sets.
Started anew for each burst of traffic, so it imports little, and nothing that is not in Lambda's own runtime.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from kurashiru_pipeline.core.items import supersedes
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import TransientError
from kurashiru_pipeline.serving.dynamodb import MAX_CONNECTIONS, Outcome, PutResult, RecommendationTable, connect
from kurashiru_pipeline.serving.external_function import (
    Answer,
    BadRequestError,
    Batch,
    Row,
    read_request,
    response,
    rows_response,
)

ANSWER_SECONDS = 3.0
"""A put without an answer for so long is sent again."""
RESERVE_SECONDS = 2.0
"""Of the invocation's time, kept for the answer to Snowflake."""


class Context(Protocol):
    """What is used of Lambda's context."""

    def get_remaining_time_in_millis(self) -> int: ...


def handler(event: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Entry point.

    Snowflake repeats a whole batch after 429 and 5xx until its query fails, and never after 400, so:
    200 answers every row, whatever became of it; 429 says that every put was throttled; 400 that this is no batch.

    Raises:
        ConfigurationError: nothing was written: the table is missing or access is refused. (502 to Snowflake, and the
            alarm of Lambda errors: no repetition of rows would mend it.)
    """
    return answer_request(event, _table(), context.get_remaining_time_in_millis() / 1000 - RESERVE_SECONDS)


def answer_request(event: Mapping[str, Any], table: RecommendationTable, seconds: float) -> dict[str, Any]:
    """Response to one request.

    Args:
        event: of a REST API with Lambda proxy integration.
        table: where to write.
        seconds: time for writing; rows not written by then are answered RETRY.
    """
    started = time.monotonic()
    try:
        batch = read_request(event)
    except BadRequestError as error:
        _log(status=400, error=str(error))
        return response(400, {"error": str(error)})
    try:
        answers = _write(batch.rows, table, seconds)
    except TransientError as error:
        _log_batch(batch, 429, started, error=str(error))
        return response(429, {"error": str(error)})
    outcomes = Counter(answer.outcome for answer in answers)
    _log_batch(batch, 200, started, **{outcome.lower(): outcomes[outcome] for outcome in Outcome})
    return rows_response(batch, answers)


def _write(rows: Sequence[Row], table: RecommendationTable, seconds: float) -> list[Answer]:
    """Write the newest version of each user; an answer for each row.

    Raises:
        TransientError: nothing was written: every put was throttled.
    """
    newest: dict[str, Row] = {}
    for row in rows:
        if row.item is not None:
            known = newest.setdefault(row.user_id, row)
            if supersedes(row.version, known.version):
                newest[row.user_id] = row
    items = [row.item for row in newest.values() if row.item is not None]
    results = dict(zip(newest, table.put_versioned(items, seconds), strict=True))
    return [_answer(row, newest, results) for row in rows]


def _answer(row: Row, newest: Mapping[str, Row], results: Mapping[str, PutResult]) -> Answer:
    if row.item is None:
        return Answer(Outcome.REFUSED, row.refusal)
    written, result = newest[row.user_id], results[row.user_id]
    if row.version == written.version:
        is_written = result.outcome is Outcome.OK
        return Answer(
            result.outcome,
            "" if result.error is None else str(result.error),
            row.dropped_recipes if is_written else 0,
        )
    if result.outcome in {Outcome.OK, Outcome.STALE}:
        return Answer(Outcome.STALE, f"version {written.version} is in the same batch")
    return Answer(Outcome.RETRY, f"version {written.version} in the same batch was not written")


@cache
def _table() -> RecommendationTable:
    """The table of this function's environment; its connections outlive an invocation."""
    settings = Settings.load()
    client = connect(settings, answer_seconds=ANSWER_SECONDS)
    return RecommendationTable(client, settings.text("KURASHIRU_DYNAMODB_TABLE"), workers=MAX_CONNECTIONS)


def _log_batch(batch: Batch, status: int, started: float, **figures: str | int) -> None:
    _log(
        status=status,
        batch_id=batch.batch_id,
        query_id=batch.query_id,
        rows=len(batch.rows),
        seconds=round(time.monotonic() - started, 3),
        **figures,
    )


def _log(**figures: str | float) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()
