"""Questions about one user's list: the answers are what the pipeline does, and asking changes nothing."""

import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from kurashiru_pipeline.cli import cli
from kurashiru_pipeline.core.artifact import InService, put_in_service, save_artifact
from kurashiru_pipeline.core.canary import Canary
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.realtime.drain import drain
from kurashiru_pipeline.realtime.inquiry import EVENTS, WhatIf, explain_user, hypothetical, what_if
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from tests import state
from tests.kitchen import model
from tests.traffic import event, land, land_recipes, land_users, lines, put

Open = Callable[..., MicroBatchPipeline]
Ask = Callable[..., WhatIf]


embedded = pytest.mark.parametrize("engine", ["ducklake"], indirect=True)


@pytest.fixture
def served(settings: Settings, open_pipeline: Open) -> MicroBatchPipeline:
    """Five users with lists; the pipeline stays open, and with it the writer's lock."""
    land(settings.landing, "a", events=60)
    pipeline = open_pipeline()
    _drain(pipeline)
    return pipeline


@pytest.fixture
def ask(settings: Settings) -> Ask:
    def ask(user_id: str, *events: str, recipes: list[str] | None = None, queries: list[str] | None = None) -> WhatIf:
        return what_if(settings, user_id, hypothetical(events, recipes or [], queries or []))

    return ask


def _drain(pipeline: MicroBatchPipeline) -> None:
    drain(pipeline, lambda step, tally: None)


def test_an_explanation_is_of_the_list_that_is_delivered(served: MicroBatchPipeline, settings: Settings) -> None:
    for user_id, row in list(_lists(settings).items())[:2]:
        answer = explain_user(settings, user_id)
        assert answer.is_known
        assert answer.differences == []
        assert answer.explanation.recipe_ids == row["recipe_ids"]
        assert answer.explanation.reasons == row["reasons"]
        assert answer.delivered is not None
        assert answer.delivered.version == 1
        assert [behavior.seconds_ago for behavior in answer.behaviors] == sorted(
            behavior.seconds_ago for behavior in answer.behaviors
        )
        weighed = [behavior.recipe_id for behavior in answer.behaviors if behavior.weight is not None]
        assert sorted(map(str, weighed)) == sorted(answer.explanation.profile["recipe_ids"])
        assert answer.titles.keys() >= set(answer.explanation.recipe_ids) | set(weighed)


@embedded
def test_it_says_why_the_delivered_list_is_another(
    served: MicroBatchPipeline, settings: Settings, open_pipeline: Open
) -> None:
    # Others make something popular, in a micro-batch that does not touch u1; then u1 does something.
    cooked = {"user_id": "u3", "event_name": "recipe_cooked", "properties": {}}
    others = [event(9_000 + number, recipe_id=f"r{number % 2}", **cooked) for number in range(40)]
    put(settings.landing, "events/2026/01/01/00/others.gz", gzip.compress(lines(others)))
    _drain(served)
    assert explain_user(settings, "u3").differences == []
    stale = explain_user(settings, "u1")
    assert len(stale.differences) == 1
    assert stale.differences[0].startswith("1 micro-batch without this user since: what is popular has moved")
    land(settings.landing, "b", events=30)
    waiting = explain_user(settings, "u1").differences
    assert waiting[0] == "what came in has not been worked off: files have landed"
    _drain(served)
    assert explain_user(settings, "u1").differences == []


@embedded
def test_somebody_new_is_asked_about_as_such(served: MicroBatchPipeline, settings: Settings, ask: Ask) -> None:
    answer = explain_user(settings, "nobody")
    assert not answer.is_known
    assert answer.delivered is not None
    assert answer.delivered.user_id == "#default"
    assert answer.differences == []
    what = ask("nobody", "recipe_favorite", recipes=["r7"])
    assert not what.is_known
    assert [recipe_id for recipe_id, _ in what.before] == answer.explanation.recipe_ids
    assert dict(what.after)["r7"] == "favorited:r7"

    viewed = hypothetical(["recipe_view"], ["r9"], [])
    assert "r9" not in dict(what_if(settings, "nobody", viewed).after), "what was just seen cools down"
    long_ago = what_if(settings, "nobody", viewed, minutes_ago=60 * 24 * 5)
    assert dict(long_ago.after)["r9"] == "viewed:r9"


def test_what_if_is_what_comes_of_it_and_changes_nothing(
    served: MicroBatchPipeline, settings: Settings, ask: Ask
) -> None:
    tables, items = state.tables(settings), state.items(settings)
    names = ["recipe_cooked", "search", "shopping_list_add", "recipe_view"]
    what = ask("u1", *names, recipes=["r3", "r11", "r4"], queries=["tofu"])
    explain_user(settings, "u1")
    assert (state.tables(settings), state.items(settings)) == (tables, items)
    assert what.before != what.after
    assert {move.recipe_id for move in what.moves if move.before is None} == {
        recipe_id for recipe_id, _ in what.after
    } - {recipe_id for recipe_id, _ in what.before}

    made = [
        event(
            70_000 + number,
            user_id="u1",
            event_name=one.event_name,
            recipe_id=one.recipe_id,
            occurred_at=f"{what.as_of - timedelta(seconds=len(names) - 1 - number):%Y-%m-%dT%H:%M:%SZ}",
            properties={"query": one.detail} if one.detail else {},
        )
        for number, one in enumerate(what.events)
    ]
    put(settings.landing, "events/2026/01/01/00/really.gz", gzip.compress(lines(made)))
    _drain(served)
    row = _lists(settings)["u1"]
    assert row["recipe_ids"] == [recipe_id for recipe_id, _ in what.after]
    assert row["reasons"] == [reason for _, reason in what.after]


@embedded
def test_wrong_questions_say_what_is_right(served: MicroBatchPipeline, settings: Settings, ask: Ask) -> None:
    with pytest.raises(KurashiruError, match=f"'cooked' is no behaviour .* use one of: {', '.join(EVENTS)}"):
        ask("u1", "cooked", recipes=["r1"])
    with pytest.raises(
        KurashiruError, match=r"no recipe 'tofu'; those with it in their title or id: r10 \(tofu dish 10\)"
    ):
        ask("u1", "recipe_view", recipes=["tofu"])
    with pytest.raises(KurashiruError, match="no recipe 'zebra'; to find one, give a word of its title"):
        ask("u1", "recipe_view", recipes=["zebra"])
    for arguments in (["recipe_view"], [], ["search"], ["recipe_view", "search"]):
        with pytest.raises(KurashiruError, match="do not go together: give each search its --query"):
            ask("u1", *arguments, recipes=["r1", "r2"])
    with pytest.raises(KurashiruError, match="'a b' is no user id"):
        explain_user(settings, "a b")
    land_users(settings.landing, "erasure", ["u1"], updated_at=datetime(2026, 11, 23), is_deleted=True)
    _drain(served)
    with pytest.raises(KurashiruError, match="user u1 was erased"):
        ask("u1", "recipe_view", recipes=["r1"])
    assert not explain_user(settings, "u1").is_known


@embedded
def test_before_the_first_micro_batch(settings: Settings, open_pipeline: Open) -> None:
    land_recipes(settings.landing)
    open_pipeline().load()
    with pytest.raises(KurashiruError, match=r"no micro-batch yet.*kurashiru drain"):
        explain_user(settings, "u1")


@embedded
def test_each_arm_of_a_canary_is_explained_by_its_own_model(served: MicroBatchPipeline, settings: Settings) -> None:
    models = settings.folder("KURASHIRU_MODELS")
    for version, target in (("v1", "r5"), ("v2", "r6")):
        artifact = model({(f"r{number}", target): 1.0 for number in range(30)})
        save_artifact(replace(artifact, version=version), models)
    canary = Canary("v2", 0.5, datetime(2026, 11, 23))
    put_in_service(models, InService("v1", canary))
    of_arm = {bool(canary.is_challenger([f"u{number}"])[0]): f"u{number}" for number in range(5)}
    for is_challenger, version in ((False, "v1"), (True, "v2")):
        answer = explain_user(settings, of_arm[is_challenger])
        assert answer.explanation.algorithm == version
        assert answer.differences[0] == f"the model was popular then and is {version} now"
    assert what_if(settings, of_arm[True], hypothetical(["recipe_view"], ["r1"], [])).algorithm == "v2"
    assert explain_user(settings, "nobody").explanation.algorithm == "v1"


@embedded
def test_the_commands(served: MicroBatchPipeline, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**variables, "KURASHIRU_ENV": "local"}.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False, env={"COLUMNS": "110"})
        assert result.exit_code == 0
        assert max(map(len, result.output.splitlines()), default=0) <= 110 or "--json" in arguments
        return result.output

    shown = run("explain", "u1", "--limit", "3")
    for words in (
        "user u1",
        "what they did",
        "candidates,",
        "step by step",
        "what adds up",
        "✓ delivered as explained",
    ):
        assert words in shown
    document: dict[str, Any] = json.loads(run("explain", "u1", "--limit", "3", "--json"))
    assert document["is_delivered"]
    assert [row["recipe_id"] for row in document["now"]] == [
        row["recipe_id"] for row in document["delivered"]["recipes"]
    ]
    assert len(document["dropped"]) == min(3, document["dropped_count"])
    assert all(row["because"] for row in document["now"])

    asked = ("whatif", "u1", "--event", "recipe_view", "--recipe", "r9", "--event", "search", "--query", "tofu")
    shown = run(*asked, "--minutes-ago", "1")
    assert "What if they viewed pork dish 9" in shown
    assert "then searched for “tofu”?" in shown
    document = json.loads(run(*asked, "--json"))
    assert {"before", "after", "moves", "events", "as_of"} <= document.keys()
    assert len(document["after"]) == 20


def _lists(settings: Settings) -> dict[str, dict[str, Any]]:
    """The users' rows of recommendation.recommendations."""
    columns = ("user_id", "batch_id", "recipe_ids", "scores", "reasons")
    rows = state.tables(settings)["recommendation.recommendations"]
    return {row[0]: dict(zip(columns, row[: len(columns)], strict=True)) for row in rows if not row[0].startswith("#")}
