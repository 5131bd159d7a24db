"""`kurashiru model`: what a person types, what is said, and what the next micro-batch would rank with."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from analytics_lake import settings_for
from click.testing import CliRunner, Result

from kurashiru_pipeline.cli import cli
from kurashiru_pipeline.core.artifact import InService, in_service, save_artifact
from kurashiru_pipeline.errors import ConfigurationError
from tests.kitchen import model

Run = Callable[..., Result]
FIGURES = {"ndcg_at_10": 0.2, "ndcg_ci": [0.1, 0.3], "coverage_at_10": 0.5, "diversity_at_10": 0.8}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = settings_for(tmp_path).folder("KURASHIRU_MODELS")
    sides = {side: {"seen": FIGURES, "unseen": FIGURES} for side in ("challenger", "in_service")}
    judgements = {"v1": {"champion": None, "queries": 0}, "v2": {"champion": "v1", "queries": 9, **sides}}
    for version, judgement in judgements.items():
        made = replace(model({("a", "b"): 1.0}), version=version, metadata={"recipe": "R", "judgement": judgement})
        save_artifact(made, folder)
    return folder


@pytest.fixture
def run(tmp_path: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("KURASHIRU_HOME", str(tmp_path))
    return lambda *arguments: CliRunner().invoke(cli, ["model", *arguments])


def test_promotion_and_rollback(run: Run, models: Path) -> None:
    assert "by hand: the gate was not asked" in run("promote", "v1").output
    assert "v2 is in service, before it v1" in run("promote", "v2").output
    assert in_service(models) == InService("v2")
    rolled = run("rollback")
    assert "v1 is in service again, v2 is out" in rolled.output
    assert "kurashiru model promote v1" in rolled.output
    assert in_service(models) == InService("v1")
    with pytest.raises(ConfigurationError, match="kurashiru model list"):
        CliRunner().invoke(cli, ["model", "rollback"], catch_exceptions=False)


def test_a_canary_begins_and_ends(run: Run, models: Path) -> None:
    run("promote", "v1")
    assert "5.0% of the users get the lists of v2" in run("canary", "v2", "--share", "0.05").output
    canary = in_service(models).canary
    assert canary is not None
    assert (canary.version, canary.share) == ("v2", 0.05)
    listed = {row["version"]: row for row in json.loads(run("list", "--json").output)}
    assert {version: row["place"] for version, row in listed.items()} == {"v2": "canary", "v1": "in service"}
    assert listed["v2"]["record"]["action"] == "canary_started"
    assert "the canary of v2 is over" in run("canary", "--stop").output
    assert "no canary is running" in run("canary", "--stop").output
    assert in_service(models) == InService("v1")


@pytest.mark.parametrize(
    "arguments", [(), ("v2",), ("--share", "0.1"), ("v2", "--share", "0.1", "--stop"), ("--share", "0.1", "--stop")]
)
def test_a_canary_needs_a_version_and_a_share(run: Run, arguments: tuple[str, ...]) -> None:
    outcome = run("canary", *arguments)
    assert outcome.exit_code == 2
    assert "give either VERSION --share SHARE, or --stop" in outcome.output


def test_what_is_known_of_a_version(run: Run) -> None:
    assert "no model is in service yet" in str(run("show").exception)
    run("promote", "v2")
    shown = run("show").output
    text = re.sub(r"[│\s]+", " ", shown)
    assert "NDCG@10 0.2000 (0.1000 to 0.3000), coverage 0.500, diversity 0.800" in text
    assert "promoted_by_hand: by hand, in place of none; no gate was asked" in shown
    assert "the kernel without a model" in run("show", "v1").output
    document = json.loads(run("show", "v2", "--json").output)
    assert document["judgement"]["champion"] == "v1"
    assert [record["action"] for record in document["history"]] == ["promoted_by_hand"]
    listed = run("list").output
    assert "v1" in listed
    assert "in service" in listed


def test_a_missing_version_is_not_promoted(run: Run, models: Path) -> None:
    run("promote", "v1")
    assert isinstance(run("promote", "v9").exception, ConfigurationError)
    assert in_service(models) == InService("v1")
