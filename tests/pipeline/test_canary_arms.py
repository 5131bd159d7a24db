"""A canary through the micro-batch, on both engines: each arm's lists by its own model, and a ledger that says so."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from kurashiru_pipeline.core.artifact import InService, put_in_service, save_artifact
from kurashiru_pipeline.core.canary import Canary
from kurashiru_pipeline.core.items import content_hash
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.realtime import checks
from kurashiru_pipeline.realtime.drain import drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline, StepResult
from kurashiru_pipeline.realtime.status import read_status
from kurashiru_pipeline.warehouse import open_warehouse
from tests import state
from tests.engines import Accounts
from tests.kitchen import model
from tests.snowpark.functions import challenger_function, stand_in_functions
from tests.traffic import land

Open = Callable[..., MicroBatchPipeline]
NAMES = [f"r{number}" for number in range(30)]
STARTED = datetime(2026, 11, 23, 9, 30, 0, 123456)
CANARY = Canary("v2", 0.3, STARTED)


@pytest.fixture
def serve(settings: Settings, accounts: Accounts | None) -> Callable[[InService], None]:
    """Puts saved versions in service, as analytics would."""
    models, number = settings.folder("KURASHIRU_MODELS"), 0
    for version, step in (("v1", 1), ("v2", 7)):
        steps = {(name, NAMES[(at + step) % len(NAMES)]): 1.0 for at, name in enumerate(NAMES)}
        save_artifact(replace(model(steps), version=version), models)

    def serve(service: InService) -> None:
        nonlocal number
        put_in_service(models, service)
        if accounts is None or service.version is None:
            return
        account = accounts.use(settings)
        account.register_function("RECOMMENDATION.RANK_RECIPES", *_rank(service.version))
        number += 2
        account.run_script(
            f"insert into KURASHIRU.model.promotions select '{service.version}', {_moment(number)};"
            + (
                f"insert into KURASHIRU.model.canaries select '{service.canary.version}', {service.canary.share}, "
                f"to_timestamp_ntz('{service.canary.started_at}'), {_moment(number + 1)};"
                if service.canary
                else ""
            )
        )
        if service.canary is not None:
            account.register_function(
                "RECOMMENDATION.RANK_CHALLENGER", *challenger_function(models / service.canary.version)
            )

    def _rank(version: str) -> tuple[Any, int]:
        return stand_in_functions(models / version)["RECOMMENDATION.RANK_RECIPES"]

    return serve


def _moment(hour: int) -> str:
    return f"to_timestamp_ntz('2026-11-23 {hour:02d}:00:00')"


def _step(pipeline: MicroBatchPipeline) -> StepResult:
    """A micro-batch; what its recommend step did."""
    pipeline.load()
    pipeline.stage()
    pipeline.collect()
    pipeline.preprocess()
    step = pipeline.recommend()
    drain(pipeline, lambda name, tally: None)
    return step


def _lists(pipeline: MicroBatchPipeline, batch_id: int) -> dict[str, tuple[list[str], list[str], str, str]]:
    """(recipe ids, reasons, algorithm, content hash) of the lists a micro-batch made."""
    columns = "user_id, recipe_ids, reasons, algorithm, content_hash"
    found = state.rows(
        pipeline.warehouse, f"select {columns} from recommendation.recommendations where batch_id = {batch_id}"
    )
    return {user: rest for user, *rest in found}  # type: ignore[misc]


def test_each_arm_gets_the_lists_of_its_model(
    open_pipeline: Open, settings: Settings, serve: Callable[[InService], None]
) -> None:
    serve(InService("v1"))
    land(settings.landing, "a", events=400, users=60)
    pipeline = open_pipeline()
    before = _step(pipeline)
    assert before.figures["challenger_users"] == 0
    assert {algorithm for _, _, algorithm, _ in _lists(pipeline, 1).values()} == {"v1"}

    serve(InService("v1", CANARY))
    land(settings.landing, "b", events=400, users=60)
    pipeline = open_pipeline()
    step = _step(pipeline)
    lists = _lists(pipeline, 2)
    users = [user for user in lists if not user.startswith("#")]
    challengers = {user for user, is_its in zip(users, CANARY.is_challenger(users), strict=True) if is_its}
    assert len(users) > 50
    assert 5 < len(challengers) < 35
    assert {user for user, (_, _, algorithm, _) in lists.items() if algorithm == "v2"} == challengers
    assert {algorithm for _, _, algorithm, _ in lists.values()} == {"v1", "v2"}
    assert lists["#default"][2] == "v1"
    assert (step.figures["users"], step.figures["challenger_users"]) == (len(users), len(challengers))
    assert checks.arms_have_their_share(step).passed

    for recipe_ids, reasons, _, written in lists.values():
        marked = content_hash(recipe_ids, reasons) + CANARY.mark
        assert written == hashlib.md5(marked.encode()).hexdigest()
    items = state.items(settings)
    assert {items[user]["version"]["N"] for user in users} == {"2"}, "every first list of the canary is delivered"
    assert {user for user in users if items[user]["algorithm"]["S"] == "v2"} == challengers

    serve(InService("v1"))
    land(settings.landing, "c", events=200, users=60)
    pipeline = open_pipeline()
    _step(pipeline)
    after = _lists(pipeline, 3)
    assert {algorithm for _, _, algorithm, _ in after.values()} == {"v1"}
    assert {written == content_hash(ids, reasons) for ids, reasons, _, written in after.values()} == {True}

    ledger = state.rows(pipeline.warehouse, "select * from ops.batch_models order by batch_id")
    assert ledger == [
        (1, "v1", None, None, None, None),
        (2, "v1", "v2", 0.3, CANARY.threshold, STARTED),
        (3, "v1", None, None, None, None),
    ]


def test_status_tells_of_the_canary(
    open_pipeline: Open, settings: Settings, serve: Callable[[InService], None]
) -> None:
    open_pipeline()
    serve(InService("v1", CANARY))
    with open_warehouse(settings, read_only=True) as warehouse:
        status = read_status(warehouse, settings)
    assert (status["model_version"], status["challenger_version"], status["challenger_share"]) == ("v1", "v2", 0.3)
    serve(InService("v2"))
    with open_warehouse(settings, read_only=True) as warehouse:
        status = read_status(warehouse, settings)
    assert (status["model_version"], status["challenger_version"]) == ("v2", None), "a promotion ends a canary"


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
def test_before_the_first_model_the_ledger_has_none(open_pipeline: Open, settings: Settings) -> None:
    land(settings.landing, "a", events=50)
    pipeline = open_pipeline()
    _step(pipeline)
    assert state.rows(pipeline.warehouse, "select * from ops.batch_models") == [(1, None, None, None, None, None)]


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
def test_a_damaged_challenger_is_told_with_what_ends_it(
    open_pipeline: Open, settings: Settings, serve: Callable[[InService], None]
) -> None:
    serve(InService("v1", CANARY))
    (settings.folder("KURASHIRU_MODELS") / "v2" / "artifact.npz").unlink()
    land(settings.landing, "a", events=50)
    with pytest.raises(ConfigurationError, match="kurashiru model canary --stop"):
        _step(open_pipeline())
