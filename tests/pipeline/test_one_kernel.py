"""Near real time, evaluation, training, the gate and the functions in the warehouse: one kernel, not copies of it.

A kernel that refuses to rank must be met on every path. That the paths also hand it the same things and come to equal
lists is held by test_ways.py (near real time on both engines) and tests/snowpark/test_handlers.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from kurashiru_pipeline.core import explain, gate, impersonal, learning, ranking
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.evaluation import kernel as evaluation_kernel
from kurashiru_pipeline.evaluation.queries import Protocol, split
from kurashiru_pipeline.evaluation.run import Plan, evaluate
from kurashiru_pipeline.realtime import drain, inquiry
from kurashiru_pipeline.realtime import kernel as realtime_kernel
from kurashiru_pipeline.snowpark import handlers
from tests.evaluation.small_world import DAY, START, world
from tests.snowpark.functions import stand_in_functions
from tests.snowpark.scene import make_scene
from tests.traffic import land


class AskedTheKernel(Exception):
    pass


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise AskedTheKernel

    monkeypatch.setattr(ranking.Ranker, "lists", refuse)


def test_every_path_names_the_same_function() -> None:
    callers: list[Any] = [realtime_kernel, inquiry, evaluation_kernel, gate, learning, impersonal, explain]
    assert {module.rank for module in callers} == {ranking.rank}
    assert handlers.rank_by_surface is impersonal.rank_by_surface is realtime_kernel.rank_by_surface


@pytest.mark.usefixtures("refusing")
@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
def test_near_real_time_asks_it(open_pipeline: Callable[..., Any], settings: Settings) -> None:
    land(settings.landing, "a", events=5)
    with pytest.raises(AskedTheKernel):
        drain.drain(open_pipeline(), lambda step, tally: None)


@pytest.mark.usefixtures("refusing")
def test_the_functions_in_the_warehouse_ask_it(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    build, _ = stand_in_functions(None)["RECOMMENDATION.BUILD_PROFILE"]
    rank, _ = stand_in_functions(scene.artifact_folder)["RECOMMENDATION.RANK_RECIPES"]
    rows = scene.rank_rows(build(scene.build_rows()))
    with pytest.raises(AskedTheKernel):
        rank(rows)


@pytest.mark.usefixtures("refusing")
def test_the_evaluation_asks_it() -> None:
    interactions = world().interactions()
    cuts = split(interactions, str(START + 40 * DAY), str(START + 46 * DAY))
    plan = Plan(Protocol.NEXT_ITEM, ("kernel-rules",), refit_every=160)
    with pytest.raises(AskedTheKernel):
        evaluate(interactions, cuts, plan, load_weights(), lambda *_: None)
