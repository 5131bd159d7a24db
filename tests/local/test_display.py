"""Explanations and changes in a terminal: a word for everything, nothing cut off, nothing too wide."""

import io
from dataclasses import replace
from datetime import datetime

import pytest
from rich.console import Console, RenderableType

from kurashiru_pipeline import display
from kurashiru_pipeline.core.events import MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.core.explain import Origin, Slot, Why, explain, moves
from kurashiru_pipeline.core.items import Entry, Recommendation
from kurashiru_pipeline.core.model import FEATURES
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.scoring import SOURCES
from kurashiru_pipeline.display import WIDTH, ago, change_view, explanation_view, what_if_view
from kurashiru_pipeline.realtime.inquiry import Behavior, Hypothetical, UserExplanation, WhatIf, shown
from tests.kitchen import NOW, behaviors_table, catalogue, did, model, popularity, recipe, reranker, weights

TITLES = {name: f"{name.upper()} with [brackets] and a rather long title of many words" for name in "abcdefgh"}


def printed(view: RenderableType) -> str:
    out = io.StringIO()
    Console(file=out, width=WIDTH).print(view, width=WIDTH)
    assert max(map(len, out.getvalue().splitlines())) <= WIDTH
    return " ".join(out.getvalue().split())


def answer(*, differences: tuple[str, ...] = (), with_model: bool = False) -> UserExplanation:
    """One user who cooked a, viewed b, and searched for leek."""
    dishes = [recipe(name, "cheap quick", "leek", author="ann") for name in "abcdef"] + [
        recipe("g", "light", is_deleted=True),
        recipe("h", "light", days_old=2),
    ]
    history = [did("u", "recipe_cooked", "a"), did("u", "recipe_view", "b"), did("u", "search", detail="leek")]
    rules, kitchen = weights(list_length=4, limits={"per_author": 3}), catalogue(*dishes)
    artifact = model({("a", "c"): 1.0, ("a", "g"): 1.0}, {"d": 5.0}, learned={"blend.seen": -0.5})
    if with_model:
        artifact = replace(artifact, model=reranker(rules=1.0, cool_down=0.5))
    profile = build_profiles(behaviors_table(*history), kitchen, rules, NOW)
    explanation = explain(profile, kitchen, popularity(e=3), artifact, rules, NOW)
    entries = tuple(map(Entry, explanation.recipe_ids, explanation.reasons, explanation.scores))
    moment = datetime(2026, 11, 23)
    return UserExplanation(
        user_id="u",
        is_known=True,
        behaviors=[
            Behavior("recipe_cooked", "a", None, NOW, 7_200.0, 3.0, 1.0, 0.02),
            Behavior("search", None, "leek", NOW, 90.0, None, None, None),
        ],
        stated_tastes=["time_saving"],
        explanation=explanation,
        delivered=Recommendation("u", 7, entries[::-1] if differences else entries, "m1", moment, moment),
        differences=differences,
        titles=TITLES,
    )


def test_there_is_a_word_for_everything() -> None:
    assert display.DID.keys() == set(MEANINGFUL_EVENT_NAMES)
    assert display.ORIGINS.keys() == set(Origin)
    assert display.SHORT.keys() == set(SOURCES)
    assert display.FEATURES.keys() >= set(FEATURES)
    assert display._REASONS.keys() == set(Why)
    assert display._SLOTS.keys() == set(Slot)


def test_an_explanation_tells_the_whole_story() -> None:
    text = printed(explanation_view(answer(), 3))
    for words in (
        "user u as of 2026-11-23 09:30:00 UTC, the newest micro-batch; model: m1",
        "2 h ago cooked A with [brackets] and a rather long title of many words 3.000 100% × 0.02",
        "2 min ago searched for “leek”",
        "said they like time saving",
        "leftovers leek 100%",
        "what follows that 1 C with",
        "value = 0.80 x fit - 0.20 x alike",
        "seen left",
        "is deleted 1 G with",
        "✓ delivered as explained (version 7, 2026-11-23 00:00:00 UTC, m1)",
    ):
        assert words in text, words
    assert "re-ranker" not in text


def test_a_verdict_is_told_by_what_moved_it() -> None:
    text = printed(explanation_view(answer(with_model=True), 3))
    assert "the re-ranker's verdict" in text
    assert "follows what they did +" in text


def test_another_list_than_the_delivered_one_is_shown_beside_it() -> None:
    text = printed(explanation_view(answer(differences=("files have landed",)), 3))
    assert "not the list that readers get (version 7, 2026-11-23 00:00:00 UTC, m1): - files have landed" in text
    assert "as it would be now" in text
    assert "✓" not in text


def test_a_change_shows_what_moved() -> None:
    before, after = [("a", "popular"), ("b", "viewed:a"), ("c", "external")], [("c", "popular"), ("h", "cooked:h")]
    text = printed(change_view(("then", "now"), shown(before, TITLES), shown(after, TITLES), 10))
    assert "# then now" in text
    assert "gone: A with" in text
    assert "↑ 2 C with" in text
    assert "new H with" in text
    assert "because you viewed A with" in text
    assert "you cooked it before" in text
    assert "picked for you" in text


@pytest.mark.parametrize(
    ("after", "summary"), [("ba", "0 of 2 recipes are new, 2 others have moved"), ("ab", "nothing moves")]
)
def test_a_what_if_is_summed_up(after: str, summary: str) -> None:
    before = [(name, "popular") for name in "ab"]
    listed = [(name, "popular") for name in after]
    events = [Hypothetical("recipe_view", "b"), Hypothetical("search", detail="leek")]
    what = WhatIf("u", False, NOW, events, "m1", before, listed, moves("ab", after), TITLES)
    text = printed(what_if_view(what))
    assert "user u, who is new: before, they are served #default" in text
    assert (
        "What if they viewed B with [brackets] and a rather long title of many words, then searched for “leek”?" in text
    )
    assert summary in text


@pytest.mark.parametrize(
    ("seconds", "words"), [(12.4, "12 s ago"), (90, "2 min ago"), (7_300, "2 h ago"), (200_000, "2 d ago")]
)
def test_how_long_ago(seconds: float, words: str) -> None:
    assert ago(seconds) == words
