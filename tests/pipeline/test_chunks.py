"""Items are delivered in chunks, each recorded once it has arrived: what dies in between sends one chunk again."""

from collections.abc import Callable
from typing import Any

import pytest

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.realtime import delivery
from kurashiru_pipeline.realtime.drain import drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.serving.dynamodb import RecommendationTable, connect
from tests import state
from tests.serving.faulty_dynamodb import Faults
from tests.traffic import land

CHUNK = 10

Open = Callable[..., MicroBatchPipeline]


def with_faults(pipeline: MicroBatchPipeline, settings: Settings) -> Faults:
    client = connect(settings)
    pipeline.table = RecommendationTable(client, settings.text("KURASHIRU_DYNAMODB_TABLE"), workers=1)
    faults = Faults(client)
    faults.on("BatchWriteItem", lambda call, request: None)
    return faults


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
def test_a_delivery_that_dies_sends_at_most_a_chunk_again(
    open_pipeline: Open, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "_DIRECT_CHUNK", CHUNK)
    land(settings.landing, "a", events=400, users=45)
    killed = open_pipeline()
    faults = with_faults(killed, settings)
    record = delivery.DirectDeliverer._record

    def dying_record(self: Any, deliveries: Any, failed: set[str]) -> None:
        if sum(faults.puts.values()) > 3 * CHUNK:
            raise MemoryError
        record(self, deliveries, failed)

    with monkeypatch.context() as patch:
        patch.setattr(delivery.DirectDeliverer, "_record", dying_record)
        with pytest.raises(MemoryError):
            drain(killed, lambda step, tally: None)
    assert sum(faults.puts.values()) == 4 * CHUNK

    healed = open_pipeline()
    again = with_faults(healed, settings)
    drain(healed, lambda step, tally: None)
    listed = {row[0] for row in state.tables(settings)["recommendation.recommendations"]}
    assert state.items(settings).keys() == listed
    assert sum(again.puts.values()) == len(listed) - 3 * CHUNK
    assert len(faults.puts.keys() & again.puts.keys()) == CHUNK
    assert max(again.puts.values()) == 1
