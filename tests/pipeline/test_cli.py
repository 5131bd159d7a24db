"""The commands a person types, one after the other, and what a machine may read of them."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from kurashiru_pipeline.cli import cli
from kurashiru_pipeline.environment import Settings


@pytest.fixture
def kurashiru(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs one command in the test's own home."""
    for name, value in {**variables, "KURASHIRU_ENV": "local"}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli, arguments, catch_exceptions=False)

    return run


def test_from_nothing_to_a_list_with_reasons(kurashiru: Any, settings: Settings) -> None:
    simulated = kurashiru(
        *("simulate", "--events", "2000", "--users", "80", "--recipes", "60", "--malformed", "0.02", "--json")
    )
    manifest = json.loads(simulated.stdout)
    drained = json.loads(kurashiru("drain", "--json").stdout)
    assert drained["line_count"] == manifest["lines"] == 2000
    assert drained["rejected_count"] == manifest["rejected_total"] == 40

    status = json.loads(kurashiru("status", "--json").stdout)
    assert status["counts"].keys() >= {
        "raw",
        "staged",
        "duplicates",
        "rejected",
        "users_with_recommendations",
        "delivered_users",
    }
    assert status["freshness_seconds"].keys() == {"p50", "p95"}
    assert status["freshness_seconds"]["p95"] > 0
    assert status["streams"][0]["name"] == "raw_behavior_events"
    shown = {"has_data", "name", "offset", "stale", "stale_after"}
    assert all(stream.keys() == shown for stream in status["streams"])
    assert status["pending_batches"] == 0

    fallback = json.loads(kurashiru("recommend", "nobody", "--json").stdout)
    assert fallback["fallback"]
    assert len(fallback["recipes"]) == 20
    assert all(recipe["title"] != recipe["recipe_id"] for recipe in fallback["recipes"])
    assert "popular now" in kurashiru("recommend", "nobody").output

    assert "nothing pending" in kurashiru("drain").output
    assert "is not stale" in kurashiru("reset-stream", "raw_behavior_events").output
    assert json.loads(kurashiru("maintain", "--json").stdout)["files_after"] > 0
    assert "the longest" in kurashiru("maintain").output


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
def test_wrong_arguments_say_what_is_right(kurashiru: Any) -> None:
    assert "--events N or --rate R" in kurashiru("simulate").output
    assert "raw_behavior_events" in kurashiru("reset-stream", "other").output
    assert kurashiru("recommend").exit_code == 2


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
def test_settings_are_shown_for_every_environment(kurashiru: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KURASHIRU_ENV", "production")
    shown = json.loads(kurashiru("env", "--json").stdout)
    assert shown["KURASHIRU_ENGINE"] == "snowflake"
    assert shown["KURASHIRU_SNOWFLAKE_ACCOUNT"] == "(must be set)"


@pytest.mark.parametrize("engine", ["ducklake"], indirect=True)
@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_help(kurashiru: Any, command: str) -> None:
    shown = kurashiru(command, "--help")
    assert shown.exit_code == 0
    assert len(shown.output.splitlines()) > 3
