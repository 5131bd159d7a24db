"""Explanations: their list is rank's, their sums come out, and what is left out has the reason it should."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.explain import Dropped, Explanation, Move, Origin, Pick, Slot, Why, explain, moves
from kurashiru_pipeline.core.impersonal import impersonal_profiles
from kurashiru_pipeline.core.items import DEFAULT_USER
from kurashiru_pipeline.core.model import BLEND_SCALE, FEATURES, OURS, contributions, predicted
from kurashiru_pipeline.core.profiles import ACTION_OF_EVENT, build_profiles
from kurashiru_pipeline.core.ranking import Surface, rank
from kurashiru_pipeline.core.weights import Weights
from tests.kitchen import NOW, behaviors_table, catalogue, did, model, popularity, recipe, reranker, weights

DISHES = [recipe(name) for name in "abcdef"]
NOTHING = did("u", "search", detail="nothing we have")
NO_NEW: dict[str, Any] = {"fresh": {"min_share": 0.0}}
PLAIN: dict[str, Any] = {"diversity": {"dials": {"home": 0.0, "default": 0.0, "segment": 0.0}}, **NO_NEW}


def explained(
    *behaviors: dict[str, Any],
    dishes: list[dict[str, Any]] = DISHES,
    live: pa.Table | None = None,
    artifact: ModelArtifact | None = None,
    rules: Weights | None = None,
    **options: Any,
) -> Explanation:
    rules, kitchen = rules or weights(**NO_NEW), catalogue(*dishes)
    profile = build_profiles(behaviors_table(*behaviors), kitchen, rules, NOW)
    return explain(profile, kitchen, popularity() if live is None else live, artifact, rules, NOW, **options)


def dropped(explanation: Explanation) -> dict[str, Dropped]:
    return {left.recipe_id: left for left in explanation.dropped}


def picked(explanation: Explanation) -> dict[str, Pick]:
    return {pick.scored.recipe_id: pick for pick in explanation.picks}


class World:
    """Thirty dishes, eight users and rules, all drawn by a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.names = [f"r{number:02d}" for number in range(30)]
        self.dishes = [
            recipe(
                name,
                " ".join(self.some(["quick", "cheap", "light", "party"], 3)),
                " ".join(self.some(["egg", "leek", "rice", "tofu", "beef"], 4)),
                days_old=float(rng.choice([1, 9, 30, 400])),
                is_deleted=bool(rng.random() < 0.1),
                author=rng.choice(["ann", "ben", None]),
            )
            for name in self.names
        ]
        self.behaviors = behaviors_table(
            *(
                did(
                    f"u{rng.integers(8)}",
                    rng.choice([*ACTION_OF_EVENT, "recipe_unfavorite", "search"]),
                    rng.choice([*self.names, "lost"]),
                    days_ago=float(rng.choice([0, 0.01, 0.3, 1, 5])),
                    detail=rng.choice([None, "egg", "leek tofu"]),
                )
                for _ in range(rng.integers(1, 90))
            )
        )
        self.rules = weights(
            list_length=int(rng.integers(1, 12)),
            diversity={
                "shortlist": int(rng.integers(1, 25)),
                "dials": {name: float(rng.choice([0, 0.2, 0.7, 1])) for name in ("home", "default", "segment")},
            },
            fresh={"min_share": float(rng.choice([0, 0.3, 1]))},
            limits={"per_author": int(rng.integers(1, 6)), "per_tag": int(rng.integers(1, 6))},
            exclude={
                "recipes": self.some(self.names, 2),
                "authors": self.some(["ann"], 1),
                "tags": self.some(["party"], 1),
            },
            candidates={
                "popular": int(rng.integers(1, 12)),
                "fresh": int(rng.integers(0, 4)),
                "rules": int(rng.integers(1, 12)),
            },
            blend={"seen": float(rng.choice([0, -0.4])), "live_popularity": float(rng.choice([0.3, -0.2]))},
        )
        pairs = {(str(a), str(b)): float(rng.random()) for a, b in rng.choice([*self.names, "lost"], (60, 2))}
        counts = {name: float(count) for name, count in zip(self.names, rng.integers(0, 9, 30), strict=True)}
        self.artifact = model(pairs, counts, learned={"blend.taste": 0.7}) if rng.random() < 0.8 else None
        self.live = popularity(**{name: float(rng.integers(1, 9)) for name in self.some(self.names, 20)})
        self.kitchen = catalogue(*self.dishes)
        self.profiles = build_profiles(self.behaviors, self.kitchen, self.rules, NOW)
        suggested = [*self.some(self.names, 6), "lost"]
        scores = [1.0 / place for place in range(1, len(suggested) + 1)]
        suggestions = pa.table({"user_id": ["u1"], "recipe_ids": [suggested], "scores": [scores]})
        self.suggestions = suggestions if rng.random() < 0.5 else None

    def some(self, words: list[str], most: int) -> list[str]:
        return self.rng.permutation(words)[: self.rng.integers(0, most + 1)].tolist()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["home", "home", "default", "segment"]))
def test_the_list_is_the_one_of_rank_and_every_sum_comes_out(seed: int, surface: Surface) -> None:
    world = World(seed)
    arguments: tuple[Any, ...] = (world.kitchen, world.live, world.artifact, world.rules, NOW)
    options: dict[str, Any] = {"suggestions": world.suggestions, "surface": surface}
    ranked = rank(world.profiles, *arguments, **options).to_pylist()
    assert ranked
    for at, row in enumerate(ranked):
        explanation = explain(world.profiles.slice(at, 1), *arguments, **options)
        assert explanation.recipe_ids == row["recipe_ids"]
        assert explanation.scores == row["scores"]
        assert explanation.reasons == row["reasons"]
        assert explanation.algorithm == row["algorithm"]
        assert_sums(explanation)
        assert_steps(explanation, world.dishes)


def assert_sums(explanation: Explanation) -> None:
    scored = [pick.scored for pick in explanation.picks] + [left.scored for left in explanation.dropped if left.scored]
    assert len({one.recipe_id for one in scored}) == len(scored) == explanation.candidate_count
    assert sum(one.relevance is not None for one in scored) == explanation.shortlist_count
    for one in scored:
        for source, value in one.values.items():
            assert one.contributions[source] == pytest.approx(value * explanation.blend[source], abs=1e-5)
        warm = one.blended - one.contributions["seen"]
        assert one.blended == pytest.approx(sum(one.contributions.values()), abs=1e-5)
        assert one.score == pytest.approx(
            (warm * one.cool_down if warm > 0 else warm) + one.contributions["seen"], abs=1e-5
        )
        assert one.origins
    for source in explanation.sources:
        its = [one for one in scored if source.origin in one.origins]
        assert source.count == len(its)
        assert (source.best is None) == (not its)
        if its:
            best = next(one for one in its if one.recipe_id == source.best)
            assert best.score == max(one.score for one in its)


def assert_steps(explanation: Explanation, dishes: list[dict[str, Any]]) -> None:
    tags = {dish["recipe_id"]: set(dish["value_tags"]) for dish in dishes}
    before: list[str] = []
    for pick in explanation.picks:
        own = tags[pick.scored.recipe_id]
        alike = [len(own & tags[other]) / max(len(own | tags[other]), 1) for other in before]
        assert pick.likeness == pytest.approx(np.mean(alike) if alike else 0, abs=1e-5)
        if pick.most_like is not None:
            assert alike[before.index(pick.most_like)] == max(alike) > 0
        assert pick.value == pytest.approx(
            (1 - explanation.dial) * pick.fit - explanation.dial * pick.likeness, abs=1e-5
        )
        before.append(pick.scored.recipe_id)
    if all(pick.slot is Slot.BEST for pick in explanation.picks) and explanation.dial == 0:
        assert explanation.scores == sorted(explanation.scores, reverse=True)


def test_with_a_re_ranker_the_list_is_the_one_of_rank() -> None:
    text = reranker(rules=1.0, taste=0.5, cool_down=0.3, own_recipes=0.2)
    for seed in range(6):
        world = World(seed)
        artifact = model({("r01", "r02"): 1.0}) if world.artifact is None else world.artifact
        artifact = replace(artifact, model=text, learned={**artifact.learned, BLEND_SCALE: 0.4})
        arguments: tuple[Any, ...] = (world.kitchen, world.live, artifact, world.rules, NOW)
        for at, row in enumerate(rank(world.profiles, *arguments).to_pylist()):
            explanation = explain(world.profiles.slice(at, 1), *arguments)
            assert (explanation.recipe_ids, explanation.scores) == (row["recipe_ids"], row["scores"])
            assert_sums(explanation)
            if explanation.is_stranger:
                assert explanation.blend["taste"] == world.rules.blend.taste, "not what the artifact learned"
                assert not any(pick.scored.model for pick in explanation.picks)
            else:
                assert_verdicts(explanation)


def assert_verdicts(explanation: Explanation) -> None:
    """What the features add up to is relevance, but for its scale and the sources that no model knows."""
    scored = [pick.scored for pick in explanation.picks] + [left.scored for left in explanation.dropped if left.scored]
    compared = [one for one in scored if one.relevance is not None]
    assert all(tuple(one.model) == FEATURES for one in compared)
    verdict = np.array([sum(one.model.values()) for one in compared])
    ours = np.array([sum(one.contributions[name] for name in OURS) for one in compared])
    relevance = np.array([one.relevance for one in compared], float)
    assert np.allclose(verdict - verdict.min(), (relevance - ours) * np.ptp(verdict), atol=1e-4)


def test_one_profile_at_a_time() -> None:
    world = World(3)
    with pytest.raises(ValueError, match=f"not {len(world.profiles)}"):
        explain(world.profiles, world.kitchen, world.live, None, world.rules, NOW)


def test_what_a_cool_down_keeps_out() -> None:
    followed = model({("a", "b"): 1.0, ("a", "c"): 0.5})
    history = [did("u", "recipe_favorite", "a", days_ago=1), did("u", "recipe_cooked", "b", days_ago=0.001)]
    explanation = explained(*history, artifact=followed, list_length=2)
    assert explanation.recipe_ids[0] == "c"
    left = dropped(explanation)["b"]
    assert left.why is Why.COOLED_DOWN
    assert left.scored is not None
    assert left.scored.cool_down < 0.01 < left.scored.blended
    assert left.scored.origins == (Origin.OWN, Origin.RULES, Origin.POPULAR)


def test_a_cool_down_that_keeps_nothing_out_is_no_reason() -> None:
    explanation = explained(
        did("u", "recipe_view", "f"), live=popularity(a=9, b=9, c=9), rules=weights(**PLAIN), list_length=2
    )
    assert dropped(explanation)["f"].why is Why.LESS_RELEVANT


def test_what_the_limit_of_an_author_or_a_tag_keeps_out() -> None:
    dishes = [recipe(name, author="ann") for name in "abc"] + [recipe("d", author="ben")]
    live = popularity(a=9, b=8, c=7, d=1)
    rules = weights(limits={"per_author": 2, "per_tag": 2}, **PLAIN)
    explanation = explained(NOTHING, dishes=dishes, live=live, list_length=3, rules=rules)
    assert explanation.recipe_ids == ["a", "b", "d"]
    assert (dropped(explanation)["c"].why, dropped(explanation)["c"].detail) == (Why.AUTHOR_LIMIT, "ann")

    dishes = [recipe(name, "cheap") for name in "abc"] + [recipe("d", "quick")]
    explanation = explained(NOTHING, dishes=dishes, live=live, list_length=3, rules=rules)
    assert (dropped(explanation)["c"].why, dropped(explanation)["c"].detail) == (Why.TAG_LIMIT, "cheap")
    everything = explained(NOTHING, dishes=dishes, live=live, rules=rules)
    assert [pick.slot for pick in everything.picks] == [Slot.BEST, Slot.BEST, Slot.BEST, Slot.OVER_LIMIT]


def test_what_a_place_for_a_new_recipe_keeps_out() -> None:
    dishes = [*DISHES, recipe("x", days_old=13)]
    live = popularity(**dict.fromkeys("abcdef", 1.0))
    rules = weights(**{**PLAIN, "fresh": {"min_share": 0.4}})
    explanation = explained(NOTHING, dishes=dishes, live=live, rules=rules, list_length=3)
    assert explanation.recipe_ids == ["a", "b", "x"]
    assert [pick.slot for pick in explanation.picks] == [Slot.BEST, Slot.BEST, Slot.KEPT_FOR_NEW]
    assert dropped(explanation)["c"].why is Why.KEPT_FOR_NEW
    assert dropped(explanation)["d"].why is Why.LESS_RELEVANT


def test_what_variety_keeps_out() -> None:
    dishes = [recipe("a", "cheap"), recipe("b", "cheap"), recipe("c", "quick"), recipe("d", "party")]
    live = popularity(a=10, b=9, c=8, d=1)
    dials = {"home": 0.6, "default": 0.6, "segment": 0.6}
    rules = weights(**{**PLAIN, "diversity": {"dials": dials}})
    explanation = explained(NOTHING, dishes=dishes, live=live, rules=rules, list_length=2)
    assert explanation.recipe_ids == ["a", "c"]
    assert (dropped(explanation)["b"].why, dropped(explanation)["b"].detail) == (Why.TOO_ALIKE, "a")
    assert dropped(explanation)["d"].why is Why.LESS_RELEVANT


def test_what_is_below_the_shortlist() -> None:
    rules = weights(**{**PLAIN, "diversity": {**PLAIN["diversity"], "shortlist": 3}})
    explanation = explained(NOTHING, live=popularity(a=9, b=8, c=7), rules=rules, list_length=2)
    assert explanation.shortlist_count == 3
    assert {name: left.why for name, left in dropped(explanation).items()} == {
        "c": Why.LESS_RELEVANT,
        **dict.fromkeys("def", Why.BELOW_SHORTLIST),
    }
    left = dropped(explanation)["d"].scored
    assert left is not None
    assert left.relevance is None


def test_what_may_not_be_listed() -> None:
    dishes = [
        recipe("a"),
        recipe("b", is_deleted=True),
        recipe("c", "party"),
        recipe("d", author="ann"),
        recipe("e"),
    ]
    rules = weights(exclude={"recipes": ["e"], "authors": ["ann"], "tags": ["party"]})
    followed = model({("a", "b"): 1.0, ("a", "c"): 0.5, ("a", "lost"): 1.0})
    suggestions = pa.table({"user_id": ["u"], "recipe_ids": [["d"]], "scores": [[1.0]]})
    history = [did("u", "recipe_view", name) for name in ("a", "e")]
    explanation = explained(*history, dishes=dishes, artifact=followed, rules=rules, suggestions=suggestions)
    assert explanation.recipe_ids == ["a"]
    assert {left.recipe_id: (left.why, left.detail, left.scored) for left in explanation.dropped} == {
        "e": (Why.EXCLUDED, "", None),
        "b": (Why.DELETED, "", None),
        "c": (Why.EXCLUDED, "party", None),
        "d": (Why.EXCLUDED, "ann", None),
    }


def test_sources_and_what_is_followed() -> None:
    dishes = [recipe("a", "cheap", "egg"), recipe("b", "quick", "leek"), recipe("c", days_old=1), recipe("d")]
    history = [
        did("u", "recipe_view", "a", days_ago=2),
        did("u", "recipe_view", "d"),
        did("u", "search", detail="leek"),
    ]
    explanation = explained(*history, dishes=dishes, artifact=model({("d", "b"): 1.0}), live=popularity(b=1))
    assert {source.origin: (source.count, source.best) for source in explanation.sources} == {
        Origin.OWN: (2, "a"),
        Origin.RULES: (1, "b"),
        Origin.EXTERNAL: (0, None),
        Origin.TASTE: (1, "a"),
        Origin.LEFTOVERS: (1, "b"),
        Origin.POPULAR: (4, "b"),
        Origin.NEW: (1, "c"),
    }
    assert dict(zip(explanation.profile["recipe_ids"], explanation.followed, strict=True)) == {"d": 1.0, "a": 0.0}


def test_nobody_and_nothing() -> None:
    profile, kitchen = impersonal_profiles([DEFAULT_USER], NOW), catalogue(*DISHES)
    nobody = explain(profile, kitchen, popularity(c=1), None, weights(), NOW, surface="default")
    assert nobody.recipe_ids[0] == "c"
    assert nobody.dial == weights().diversity.dials.default
    nothing = explained(did("u", "recipe_view", "a"), dishes=[recipe("a", is_deleted=True)])
    assert (nothing.picks, nothing.dropped, nothing.sources, nothing.candidate_count) == ((), (), (), 0)


def test_shares_of_the_verdict_add_up() -> None:
    text = reranker(rules=1.0, gap=0.1)
    features = np.random.default_rng(5).random((20, len(FEATURES)))
    assert np.allclose(contributions(text, features).sum(axis=1), predicted(text, features))


def test_moves_of_a_list() -> None:
    assert moves(["a", "b", "c"], ["c", "x", "a"]) == [
        Move("c", 3, 1),
        Move("x", None, 2),
        Move("a", 1, 3),
        Move("b", 2, None),
    ]
    assert moves([], []) == []
