"""Where Snowflake's own task stages: the runs deliver what it staged, in order, and consume nothing themselves."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kurashiru_pipeline.catalog import RAW_EVENTS_STREAM
from kurashiru_pipeline.deployment import staging_task
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.realtime.drain import Tally, drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline, pending_work
from tests import state
from tests.deployment.stage_procedure import call, task_session
from tests.engines import Accounts
from tests.snowflake.stand_in import StandIn
from tests.traffic import land, land_users

Open = Callable[..., MicroBatchPipeline]
BY_TASK = {"KURASHIRU_STAGING": "task"}

pytestmark = [pytest.mark.stand_in, pytest.mark.parametrize("engine", ["snowflake"], indirect=True)]


def _drain(pipeline: MicroBatchPipeline) -> Tally:
    return drain(pipeline, lambda step, tally: None)


def _run_task(account: StandIn, settings: Settings) -> Any:
    """Snowpipe brings what has landed, and the task runs once."""
    account.refresh_pipes()
    with task_session(account) as session:
        return call(session, staging_task.steps(settings))


def test_two_micro_batches_of_the_task_are_delivered_in_order(
    open_pipeline: Open, settings: Settings, accounts: Accounts, tmp_path: Path
) -> None:
    account = accounts.use(settings)
    for number, name in enumerate("ab", start=1):
        land(settings.landing, name, events=40, users=12)
        assert _run_task(account, settings) == number
    pipeline = open_pipeline(**BY_TASK)
    assert _drain(pipeline).batch_count == 2
    delivered = state.rows(
        pipeline.warehouse,
        "select batch_id from ops.batch_stages where stage = 'reflect' order by finished_at",
    )
    assert delivered == [(1,), (2,)]
    assert pending_work(pipeline.warehouse, pipeline.settings) is None

    other = {"KURASHIRU_HOME": str(tmp_path / "other"), "KURASHIRU_DYNAMODB_TABLE": f"other-{tmp_path.name[-40:]}"}
    by_run = Settings.load(settings.environment, {**settings.environ, **other})
    for name in "ab":
        land(by_run.landing, name, events=40, users=12)
        _drain(open_pipeline(**other))
    accounts.use(settings)
    by_task_tables, by_task_items = state.tables(settings), state.items(settings)
    accounts.use(by_run)
    assert by_task_tables == state.tables(by_run)
    assert by_task_items == state.items(by_run)
    assert len(by_task_items) > 10


def test_the_runs_leave_the_stream_to_the_task(open_pipeline: Open, settings: Settings, accounts: Accounts) -> None:
    account = accounts.use(settings)
    pipeline = open_pipeline(**BY_TASK)
    land(settings.landing, "a", events=20)
    _drain(pipeline)
    assert _drain(pipeline).batch_count == 0
    assert pipeline.warehouse.stream_has_data(RAW_EVENTS_STREAM)
    assert pending_work(pipeline.warehouse, pipeline.settings) is None

    assert _run_task(account, settings) == 1
    assert pending_work(pipeline.warehouse, pipeline.settings) == "micro-batch 1 is not delivered yet"
    assert _drain(pipeline).staged_count == 20


def test_what_is_staged_during_a_run_is_the_next_one_s(
    open_pipeline: Open, settings: Settings, accounts: Accounts
) -> None:
    account = accounts.use(settings)
    land(settings.landing, "a", events=20)
    _run_task(account, settings)
    pipeline = open_pipeline(**BY_TASK)
    first = pipeline.stage()
    pipeline.collect()
    land(settings.landing, "b", events=20)
    assert _run_task(account, settings) == 2
    pipeline.preprocess()
    pipeline.recommend()
    assert first is not None
    assert pipeline.reflect().batch_id == first.batch_id == 1
    assert _drain(open_pipeline(**BY_TASK)).batch_count == 1


def test_users_to_erase_go_with_the_task_s_next_micro_batch(
    open_pipeline: Open, settings: Settings, accounts: Accounts
) -> None:
    account = accounts.use(settings)
    pipeline = open_pipeline(**BY_TASK)
    land(settings.landing, "a", events=40)
    _run_task(account, settings)
    _drain(pipeline)
    assert "deleted" not in state.items(settings)["u1"]

    land_users(settings.landing, "erasure", ["u1"], updated_at=datetime(2026, 11, 23), is_deleted=True)
    account.refresh_pipes()
    _drain(pipeline)
    assert pending_work(pipeline.warehouse, pipeline.settings) is None, "it would start a run that can do nothing"
    assert _run_task(account, settings) == 2
    _drain(pipeline)
    assert state.items(settings)["u1"]["deleted"] == {"BOOL": True}


def test_two_consumers_lose_nothing_but_the_runs_say_so(
    open_pipeline: Open, settings: Settings, accounts: Accounts
) -> None:
    account = accounts.use(settings)
    land(settings.landing, "a", events=20)
    account.refresh_pipes()
    first = open_pipeline().stage()
    land(settings.landing, "b", events=20)
    assert _run_task(account, settings) == 2
    assert first is not None
    with pytest.raises(KurashiruError, match="there can only be one"):
        open_pipeline().stage()
    pipeline = open_pipeline(**BY_TASK)
    assert _drain(pipeline).batch_count == 2
    assert state.rows(pipeline.warehouse, "select batch_id, staged_count from ops.batches order by 1") == [
        (1, 20),
        (2, 20),
    ]


def test_nobody_s_micro_batch_is_lost_in_a_switch(open_pipeline: Open, settings: Settings, accounts: Accounts) -> None:
    account = accounts.use(settings)
    land(settings.landing, "a", events=20)
    _drain(open_pipeline())
    land(settings.landing, "b", events=20)
    assert _run_task(account, settings) == 2
    land(settings.landing, "c", events=20)
    assert _run_task(account, settings) == 3
    _drain(open_pipeline(**BY_TASK))
    land(settings.landing, "d", events=20)
    pipeline = open_pipeline()
    _drain(pipeline)
    stages = state.rows(pipeline.warehouse, "select batch_id, count(*) from ops.batch_stages group by 1 order by 1")
    assert stages == [(number, 5) for number in (1, 2, 3, 4)]
    assert state.rows(pipeline.warehouse, "select count(*) from staging.behavior_events") == [(80,)]
