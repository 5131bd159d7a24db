"""Commands whose output differs where the engine is Snowflake."""

import pytest
from click.testing import CliRunner

from kurashiru_pipeline.cli import cli
from kurashiru_pipeline.local.simulate import simulate
from tests.snowflake.stand_in import StandIn


@pytest.fixture
def account(deployed: StandIn, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> StandIn:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return deployed


def run(*arguments: str) -> str:
    outcome = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_a_stream_without_offset_is_shown_with_its_end(account: StandIn) -> None:
    simulate(account.landing, events=50, users=5, recipes=10, seed=1)
    assert "stream raw_behavior_events: has data (stale after 2026" in run("status")
    run("drain")
    shown = run("status")
    assert "stream raw_behavior_events: empty (stale after 20" in shown
    assert "offset" not in shown


def test_every_stream_of_the_engine_can_be_asked_for(account: StandIn) -> None:
    for name in ("raw_behavior_events", "raw_recipe_exports", "raw_user_exports"):
        assert f"stream {name} is not stale; nothing changed" in run("reset-stream", name)


def test_a_stream_of_another_name_is_refused_with_the_names_there_are(account: StandIn) -> None:
    refused = CliRunner().invoke(cli, ["reset-stream", "other"])
    assert refused.exit_code == 2
    assert "raw_behavior_events, raw_recipe_exports, raw_user_exports" in " ".join(refused.output.split())
