"""The demonstration's visitor: real events through the real steps, and two lists that tell of them."""

import threading
from collections.abc import Callable

import pytest

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.local import visitor
from kurashiru_pipeline.realtime.drain import drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from tests.traffic import land


def test_a_visit(
    settings: Settings, open_pipeline: Callable[..., MicroBatchPipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    land(settings.landing, "a", events=40)
    pipeline = open_pipeline()
    drain(pipeline, lambda step, tally: None)
    monkeypatch.setattr(visitor, "_PATIENCE_SECONDS", 0)
    with pytest.raises(KurashiruError, match="no new list of visitor-"):
        visitor.visit(settings)

    monkeypatch.setattr(visitor, "_PATIENCE_SECONDS", 60)
    is_over = threading.Event()

    def work() -> None:
        while not is_over.wait(0.3):
            drain(pipeline, lambda step, tally: None)

    worker = threading.Thread(target=work)
    worker.start()
    try:
        visit = visitor.visit(settings)
    finally:
        is_over.set()
        worker.join()
    assert not visit.before["fallback"]
    assert visit.after["version"] > visit.before["version"]
    assert visit.seconds > 0
    cooked, wanted = visit.yesterday[-1], visit.today[-1]
    assert cooked.recipe_id != wanted.recipe_id
    uses = f"uses the {visit.today[0].detail} you have left"
    assert uses not in {recipe["because"] for recipe in visit.before["recipes"]}
    assert uses in {recipe["because"] for recipe in visit.after["recipes"]}
    assert visit.titles.keys() >= {cooked.recipe_id, wanted.recipe_id}
