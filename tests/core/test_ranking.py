"""Ranking: what each rule does to a list, and that the fast kernel equals a slow and obvious one."""

import math
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kurashiru_pipeline.core import ranking
from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.impersonal import impersonal_profiles
from kurashiru_pipeline.core.items import DEFAULT_USER
from kurashiru_pipeline.core.model import BLEND_SCALE
from kurashiru_pipeline.core.profiles import ACTION_OF_EVENT, build_profiles
from kurashiru_pipeline.core.ranking import Surface, rank
from kurashiru_pipeline.core.scoring import SOURCES
from kurashiru_pipeline.core.weights import LARGEST_SCORE, Weights
from kurashiru_pipeline.errors import ConfigurationError
from tests.kitchen import (
    LONG_AGO,
    NOW,
    behaviors_table,
    catalogue,
    changed,
    did,
    model,
    popularity,
    preferences,
    recipe,
    reranker,
    suggestions,
    weights,
)
from tests.slow_kernel import SlowKernel

DISHES = [recipe(name) for name in "abcdef"]


def only(blend: dict[str, float], **sections: Any) -> Weights:
    """Rules by which these sources alone make a score, and the score alone a list, but for the given sections."""
    alone = weights(
        blend=dict.fromkeys(SOURCES, 0.0) | blend,
        fresh={"min_share": 0.0},
        limits={"per_author": 1000, "per_tag": 1000},
        diversity={"dials": {"home": 0.0, "default": 0.0, "segment": 0.0}},
    )
    return changed(alone, **sections)


def listed(
    *behaviors: dict[str, Any],
    dishes: list[dict[str, Any]] = DISHES,
    live: pa.Table | None = None,
    artifact: ModelArtifact | None = None,
    rules: Weights | None = None,
    as_of: datetime = NOW,
    **options: Any,
) -> dict[str, Any]:
    """The list of the one user of these behaviours, or of nobody."""
    rules = rules or weights()
    kitchen, live = catalogue(*dishes), popularity() if live is None else live
    if not behaviors:
        profiles, options = impersonal_profiles([DEFAULT_USER], as_of), {"surface": "default"} | options
    else:
        profiles = build_profiles(behaviors_table(*behaviors), kitchen, rules, as_of)
    return rank(profiles, kitchen, live, artifact, rules, as_of, **options).to_pylist()[0]


def names_of(made: dict[str, Any]) -> str:
    """The list as one word."""
    return "".join(made["recipe_ids"])


def reasons(made: dict[str, Any]) -> dict[str, str]:
    return dict(zip(made["recipe_ids"], made["reasons"], strict=True))


def scores(made: dict[str, Any]) -> dict[str, float]:
    return dict(zip(made["recipe_ids"], made["scores"], strict=True))


def variety(made: dict[str, Any], dishes: list[dict[str, Any]]) -> float:
    """Mean over the pairs of a list of 1 - Jaccard index of their tags."""
    tags = {dish["recipe_id"]: set(dish["value_tags"]) for dish in dishes}
    pairs = list(combinations([tags[name] for name in made["recipe_ids"]], 2))
    return sum(1 - len(one & other) / max(len(one | other), 1) for one, other in pairs) / len(pairs)


# What follows what


def test_what_followed_others_follows_you() -> None:
    followed = model({("a", "c"): 0.2, ("a", "e"): 0.9, ("b", "d"): 1.0})
    made = listed(did("u", "recipe_view", "a"), artifact=followed, live=popularity(b=9, f=5))
    assert made["recipe_ids"][:2] == ["e", "b"]
    assert reasons(made)["e"] == reasons(made)["c"] == "viewed:a"
    assert made["algorithm"] == "m1"


def test_newer_behaviours_lead() -> None:
    followed = model({("a", "c"): 0.5, ("b", "d"): 0.5})
    made = listed(did("u", "recipe_view", "a", days_ago=1), did("u", "recipe_view", "b"), artifact=followed)
    assert made["recipe_ids"][:2] == ["d", "c"]


@pytest.mark.parametrize(("seconds_ago", "leads"), [(5, "c"), (40 * 60, "d"), (3 * 86_400, "d")])
def test_what_was_done_seconds_ago_leads_and_later_does_not(seconds_ago: float, leads: str) -> None:
    followed = model({("a", "c"): 0.5, ("b", "d"): 0.8})
    steps = [
        did("u", "recipe_view", "b", days_ago=seconds_ago / 86_400 + 0.1),
        did("u", "recipe_view", "a", days_ago=seconds_ago / 86_400),
    ]
    rules = only({"rules": 1.0}, interest={"recent": 1.0, "session": 1.0, "steady": 0.0, "newest": 0.0})
    assert listed(*steps, artifact=followed, rules=rules)["recipe_ids"][0] == leads


@pytest.mark.parametrize(("basis", "leads"), [("steady", "d"), ("recent", "e"), ("newest", "f")])
def test_interest_counts_repeats_or_what_is_recent_or_the_newest(basis: str, leads: str) -> None:
    followed = model({("a", "d"): 0.5, ("b", "e"): 0.5, ("c", "f"): 0.3})
    steps = [did("u", "recipe_view", "a", days_ago=9 + number) for number in range(5)]
    steps += [did("u", "recipe_view", "b", days_ago=2), did("u", "recipe_view", "b", days_ago=1)]
    steps += [did("u", "recipe_view", "c", days_ago=0.5)]
    rules = only({"rules": 1.0}, interest=dict.fromkeys(["recent", "session", "steady", "newest"], 0.0) | {basis: 1.0})
    made = listed(*steps, artifact=followed, rules=rules)
    assert made["recipe_ids"][0] == leads
    assert reasons(made)[leads] == f"viewed:{'abc'['def'.index(leads)]}"


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ("recipe_view", "viewed:a"),
        ("recipe_favorite", "favorited:a"),
        ("recipe_cooked", "cooked:a"),
        ("shopping_list_add", "listed:a"),
    ],
)
def test_a_reason_names_the_action(event: str, reason: str) -> None:
    assert reasons(listed(did("u", event, "a"), artifact=model({("a", "c"): 1.0})))["c"] == reason


def test_a_reason_names_the_recipe_that_adds_most() -> None:
    followed = model({("a", "d"): 0.9, ("b", "d"): 0.8, ("c", "d"): 0.1})
    steps = [did("u", "recipe_view", name, days_ago=age) for name, age in (("a", 3), ("b", 2), ("c", 1))]
    assert reasons(listed(*steps, artifact=followed))["d"] == "viewed:b"
    assert reasons(listed(*steps, did("u", "recipe_cooked", "a", days_ago=4), artifact=followed))["d"] == "cooked:a"


def test_what_an_unfavourite_takes_back_is_not_followed() -> None:
    followed = model({("a", "e"): 1.0})
    liked = did("u", "recipe_favorite", "a", days_ago=2)
    assert reasons(listed(liked, artifact=followed))["e"] == "favorited:a"
    undone = listed(liked, did("u", "recipe_unfavorite", "a", days_ago=1), artifact=followed)
    assert (undone["recipe_ids"], set(undone["reasons"])) == (list("abcdef"), {"popular"})


# Popularity


def test_without_anything_the_list_is_in_the_order_of_ids() -> None:
    made = listed()
    assert made["user_id"] == "#default"
    assert made["recipe_ids"] == list("abcdef")
    assert set(made["reasons"]) == {"popular"}
    assert made["algorithm"] == "popular"


def test_popular_recipes_lead_and_popularity_fades() -> None:
    assert listed(live=popularity(d=4, b=9))["recipe_ids"][:2] == ["b", "d"]
    old = pa.table({"recipe_id": ["b"], "decayed_count": [9.0], "decayed_at": [NOW - timedelta(days=2)]})
    live = pa.concat_tables([old.cast(popularity().schema), popularity(d=4)])
    assert listed(live=live)["recipe_ids"][:2] == ["d", "b"]


def test_trained_popularity_counts_without_live() -> None:
    made = listed(artifact=model({}, {"c": 5.0, "zz": 9.0}))
    assert made["recipe_ids"][0] == "c"
    assert (made["algorithm"], reasons(made)["c"]) == ("m1", "popular")


def test_standing_popularity_is_that_of_all_time() -> None:
    trained = model({}, {"c": 5.0}, {"c": 1.0, "d": 8.0})
    assert listed(artifact=trained)["recipe_ids"][0] == "c"
    made = listed(artifact=trained, rules=weights(blend={"standing_popularity": 1.0}))
    assert made["recipe_ids"][:2] == ["d", "c"]
    assert reasons(made)["d"] == "popular"


# Taste, ingredients, authors


def test_tastes_lift_recipes_of_their_tags() -> None:
    dishes = [
        recipe("a", "savings"),
        recipe("b", "microwave"),
        recipe("c", "savings microwave"),
        recipe("d", "savings"),
    ]
    made = listed(did("u", "recipe_favorite", "a", days_ago=30), dishes=dishes, rules=only({"taste": 0.2}))
    assert made["recipe_ids"] == ["a", "d", "c", "b"]
    assert reasons(made)["d"] == reasons(made)["c"] == "taste:savings"


def test_a_new_user_is_served_by_stated_tastes() -> None:
    dishes = [recipe("a", "savings"), recipe("b", "microwave"), recipe("c", "savings"), recipe("d", "microwave")]
    kitchen, live = catalogue(*dishes), popularity(a=9, c=4, b=3)
    said = preferences(u=["microwave"], v=["never heard of"])
    profiles = build_profiles(behaviors_table(), kitchen, weights(), NOW, said)
    new, other = rank(profiles, kitchen, live, None, only({"live_popularity": 0.25, "taste": 0.2}), NOW).to_pylist()
    assert new["recipe_ids"] == ["b", "a", "d", "c"]
    assert reasons(new)["b"] == reasons(new)["d"] == "taste:microwave"
    assert other["recipe_ids"] == ["a", "c", "b", "d"]


def test_ingredients_of_own_recipes_are_liked() -> None:
    dishes = [
        recipe("a", "", "leek egg"),
        recipe("b", "", "beef"),
        recipe("c", "", "rice salt oil egg"),
        recipe("d", "", "egg"),
    ]
    made = listed(did("u", "recipe_cooked", "a"), dishes=dishes, rules=only({"ingredients": 0.1}))
    assert made["recipe_ids"] == [
        "d",
        "a",
        "b",
        "c",
    ]  # a has just been cooked; the fourth ingredient of c is no main one


def test_a_new_recipe_of_an_author_you_cook() -> None:
    dishes = [
        *DISHES,
        recipe("y", author="bob", days_old=1),
        recipe("z", author="ann", days_old=2),
        recipe("k", author="ann"),
    ]
    assert listed(dishes=dishes, rules=only({"fresh": 0.1, "authors": 0.5}))["recipe_ids"][:2] == ["y", "z"]
    cooked = did("u", "recipe_cooked", "k", days_ago=2)
    made = listed(cooked, dishes=dishes, rules=only({"fresh": 0.1, "authors": 0.5}))
    assert made["recipe_ids"][:2] == ["z", "k"]
    assert reasons(made)["z"] == "cooked:k"


def test_leftovers_lift_recipes_that_use_them() -> None:
    dishes = [recipe("a", "", "egg rice"), recipe("b", "", "leek"), recipe("c", "", "rice salt oil leek")]
    made = listed(did("u", "search", detail="leek"), dishes=dishes, live=popularity(a=1))
    assert made["recipe_ids"] == ["b", "a", "c"]  # the fourth ingredient of c is not a main one
    assert reasons(made)["b"] == "ingredient:leek"
    assert listed(did("u", "search", detail="leek", days_ago=3), dishes=dishes)["recipe_ids"] == ["a", "b", "c"]


def test_a_reason_names_what_most_is_left_of() -> None:
    dishes = [recipe("a"), recipe("b", "", "egg leek")]
    searched = [did("u", "search", detail="egg", days_ago=1), did("u", "search", detail="leek")]
    assert reasons(listed(*searched, dishes=dishes))["b"] == "ingredient:leek"


def test_leftovers_bring_in_recipes_that_nothing_else_does() -> None:
    dishes = [*DISHES, recipe("z", "", "leek")]
    rules = weights(candidates={"popular": 3})
    assert "z" not in listed(dishes=dishes, rules=rules)["recipe_ids"]
    assert listed(did("u", "search", detail="leek"), dishes=dishes, rules=rules)["recipe_ids"][0] == "z"


def test_tastes_bring_in_recipes_that_nothing_else_does() -> None:
    dishes = [*DISHES, recipe("y", "savings"), recipe("z", "savings")]
    rules = weights(candidates={"popular": 3})
    assert "z" not in listed(dishes=dishes, rules=rules)["recipe_ids"]
    assert "z" in listed(did("u", "recipe_view", "y"), dishes=dishes, rules=rules)["recipe_ids"]


# The user's own recipes


def test_own_recipes_come_back_after_their_cool_down() -> None:
    made = listed(did("u", "recipe_cooked", "e", days_ago=30))
    assert made["recipe_ids"][0] == "e"
    assert made["reasons"][0] == "cooked:e"


def test_what_is_cooked_often_comes_back_first() -> None:
    steps = [did("u", "recipe_cooked", "e", days_ago=20 + number) for number in range(3)]
    made = listed(*steps, did("u", "recipe_cooked", "d", days_ago=19), rules=only({"repeats": 0.1}))
    assert made["recipe_ids"][:2] == ["e", "d"]
    assert scores(made)["e"] > 2 * scores(made)["d"]


@pytest.mark.parametrize(("hours_later", "leads"), [(0, "b"), (10, "e"), (24, "b"), (34, "e")])
def test_breakfast_in_the_morning_and_dinner_in_the_evening(hours_later: float, leads: str) -> None:
    breakfast = [did("u", "recipe_cooked", "b", days_ago=days) for days in (10, 11, 12)]
    dinner = [did("u", "recipe_cooked", "e", days_ago=days + 14 / 24) for days in (9, 10, 11)]
    made = listed(*breakfast, *dinner, rules=only({"daytime": 1.0}), as_of=NOW + timedelta(hours=hours_later))
    assert made["recipe_ids"][0] == leads
    assert reasons(made)[leads] == f"cooked:{leads}"
    assert scores(made)["b" if leads == "e" else "e"] < 0.1


@pytest.mark.parametrize(("seen", "expected"), [(-2.0, "bcdefa"), (0.0, "abcdef"), (2.0, "abcdef")])
def test_seen_speaks_for_or_against_ones_past(seen: float, expected: str) -> None:
    live = popularity(**dict(zip("abcdef", (9, 8, 7, 6, 5, 4), strict=True)))
    made = listed(
        did("u", "recipe_view", "a", days_ago=30), live=live, rules=only({"live_popularity": 1.0, "seen": seen})
    )
    assert names_of(made) == expected
    assert scores(made)["a"] == pytest.approx(1 + seen)


@pytest.mark.parametrize("own", [1, 2, 3])
def test_recipes_beyond_the_strongest_are_still_known_as_seen(own: int) -> None:
    """Put forward by the pool, by transitions and by tastes, they keep their place behind what is new to the user."""
    past = [did("u", "recipe_view", name, days_ago=days) for name, days in (("a", 30), ("b", 31), ("c", 32))]
    dishes = [recipe(name, "savings") for name in "abcdef"]
    live = popularity(a=6.0, b=5.0, c=4.0, d=3.0, e=2.0, f=1.0)
    rules = {"candidates": {"own": own, "popular": 6}, "blend": {"seen": -5.0, "taste": 0.5}}
    followed = model({("a", "b"): 1.0, ("a", "c"): 1.0, ("a", "d"): 0.1})
    made = listed(*past, dishes=dishes, live=live, artifact=followed, rules=weights(**rules))
    assert names_of(made)[:3] == "def"
    assert set(names_of(made)[3:]) == set("abc")


def test_a_recipe_beyond_the_strongest_is_no_candidate_of_its_own() -> None:
    past = [did("u", "recipe_view", name, days_ago=days) for name, days in (("a", 30), ("b", 31))]
    dishes, rules = [recipe(name) for name in "abcd"], {"candidates": {"own": 1, "popular": 1, "fresh": 0}}
    live = popularity(d=1.0)
    assert "b" in names_of(
        listed(*past, dishes=dishes, live=live, rules=weights(candidates={"popular": 1, "fresh": 0}))
    )
    assert "b" not in names_of(listed(*past, dishes=dishes, live=live, rules=weights(**rules)))


def test_cool_down_is_soft_and_ends() -> None:
    followed = model({("a", "b"): 1.0, ("a", "c"): 0.5})
    seen = did("u", "recipe_favorite", "a")
    cooked = [seen, did("u", "recipe_cooked", "b", days_ago=0.001)]
    assert listed(seen, artifact=followed)["recipe_ids"][0] == "b"
    just = listed(*cooked, artifact=followed)
    assert just["recipe_ids"][0] == "c"
    assert 0 < scores(just)["b"] < 0.01
    later = listed(seen, did("u", "recipe_cooked", "b", days_ago=30), artifact=followed)
    assert later["recipe_ids"][0] == "b"


def test_viewing_cools_for_hours_and_cooking_for_days() -> None:
    live = popularity(a=1, b=1)
    made = listed(did("u", "recipe_view", "a", days_ago=1), did("u", "recipe_cooked", "b", days_ago=1.1), live=live)
    assert scores(made)["a"] > scores(made)["b"]


@pytest.mark.parametrize(
    ("event", "expected"),
    [("recipe_view", ["bcda", "abcd", "abcd", "abcd"]), ("recipe_cooked", ["bcda", "bacd", "abcd", "abcd"])],
)
def test_a_cooled_recipe_is_back_some_days_later(event: str, expected: list[str]) -> None:
    live = popularity(a=100, b=16, c=9, d=1)
    rules = only({"live_popularity": 1.0}, popularity={"half_life_days": 365.0})
    lists = [
        listed(did("u", event, "a"), dishes=DISHES[:4], live=live, rules=rules, as_of=NOW + timedelta(days=days))
        for days in (0, 1.8, 5, 30)
    ]
    assert [names_of(made) for made in lists] == expected


def test_cool_down_makes_nothing_better() -> None:
    live = popularity(a=9, b=1)
    made = listed(did("u", "recipe_view", "a"), live=live, rules=only({"live_popularity": -1.0}))
    assert made["recipe_ids"] == ["c", "d", "e", "f", "b", "a"]
    assert scores(made)["a"] == -1


# An external recommender


def test_suggestions_from_outside_are_blended_in() -> None:
    said = suggestions(u={"d": 3.0, "b": 1.5, "lost": 9.0, "e": 0.0}, somebody={"f": 1.0})
    made = listed(did("u", "recipe_impression", "a"), rules=only({"external": 0.5}), suggestions=said)
    assert made["recipe_ids"] == ["d", "b", "a", "c", "e", "f"]
    assert scores(made) == pytest.approx({"d": 0.5, "b": 0.25, "a": 0, "c": 0, "e": 0, "f": 0})
    assert [made["reasons"][0], made["reasons"][2]] == ["external", "popular"]
    another = listed(did("v", "recipe_impression", "a"), rules=only({"external": 0.5}), suggestions=said)
    assert set(another["scores"]) == {0}


def test_suggestions_count_once_whoever_else_puts_a_recipe_forward() -> None:
    dishes = [recipe(name, "savings", "egg") for name in "abcdef"]
    history = [did("u", "recipe_favorite", "a"), did("u", "search", detail="egg")]
    followed = model({("a", "b"): 1.0, ("b", "c"): 1.0})
    said = suggestions(u=dict.fromkeys("abcdef", 1.0))
    made = listed(*history, dishes=dishes, artifact=followed, rules=only({"external": 0.5}), suggestions=said)
    assert set(made["scores"]) == {0.5}


def test_suggestions_bring_in_recipes_that_nothing_else_does() -> None:
    rules = weights(candidates={"popular": 2})
    view = did("u", "recipe_view", "a")
    assert "f" not in listed(view, rules=rules)["recipe_ids"]
    assert listed(view, rules=rules, suggestions=suggestions(u={"f": 1.0}))["recipe_ids"][0] == "f"


# Rules


@pytest.mark.parametrize("exclude", [{"recipes": ["c", "lost"]}, {"authors": ["zoe", "ann"]}, {"tags": ["meat"]}])
def test_what_is_excluded_is_never_listed(exclude: dict[str, list[str]]) -> None:
    dishes = [recipe("a", "quick"), recipe("b", "quick"), recipe("c", "meat quick", "egg", author="ann", days_old=1)]
    dishes += [recipe("d", author="bob")]
    history = [did("u", "recipe_cooked", name, days_ago=30) for name in "ac"] + [did("u", "search", detail="egg")]
    options: dict[str, Any] = {
        "dishes": dishes,
        "artifact": model({("a", "c"): 1.0}, {"c": 5.0}),
        "live": popularity(c=100, b=4),
        "suggestions": suggestions(u={"c": 1.0}),
    }
    assert listed(*history, **options)["recipe_ids"][0] == "c"
    assert listed(**{name: options[name] for name in ("dishes", "live")})["recipe_ids"][0] == "c"
    rules = weights(exclude=exclude)
    assert sorted(listed(*history, **options, rules=rules)["recipe_ids"]) == ["a", "b", "d"]
    assert sorted(listed(rules=rules, **{name: options[name] for name in ("dishes", "live")})["recipe_ids"]) == list(
        "abd"
    )


def test_what_is_excluded_is_no_measure_for_the_rest() -> None:
    rules = {"live_popularity": 1.0}
    live = popularity(a=100, b=4)
    assert scores(listed(live=live, rules=only(rules, exclude={"recipes": ["a"]})))["b"] == 1


def by_author(*names: str) -> list[dict[str, Any]]:
    """Recipes a, b, ... with these authors ('-' has none)."""
    return [recipe("abcdefgh"[nth], author=None if name == "-" else name) for nth, name in enumerate(names)]


FALLING = popularity(**{name: 100.0 - 10 * nth for nth, name in enumerate("abcdefgh")})


@pytest.mark.parametrize(
    ("authors", "expected"),
    [
        (["ann", "ann", "ann", "ann", "bob", "bob"], "abefcd"),
        (["ann", "ann", "ann", "ann"], "abcd"),  # gives way
        (["-", "-", "-", "ann"], "abcd"),
    ],
)
def test_recipes_of_one_author_are_limited(authors: list[str], expected: str) -> None:
    rules = only({"live_popularity": 1.0}, limits={"per_author": 2})
    assert names_of(listed(dishes=by_author(*authors), live=FALLING, rules=rules)) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        (["quick", "quick", "quick", "meat", "meat", "meat", "meat"], "abdecfg"),
        (["quick", "quick", "quick meat", "meat quick", "quick"], "abcde"),  # the rarest tag of c and d is another
        (["", "", "", "meat"], "abcd"),
        (["quick", "quick", "quick"], "abc"),
    ],
)
def test_recipes_of_one_primary_tag_are_limited(tags: list[str], expected: str) -> None:
    dishes = [recipe("abcdefgh"[nth], words) for nth, words in enumerate(tags)]
    rules = only({"live_popularity": 1.0}, limits={"per_tag": 2})
    assert names_of(listed(dishes=dishes, live=FALLING, rules=rules)) == expected


def test_new_recipes_have_their_places() -> None:
    dishes = [
        *DISHES,
        recipe("x", "savings", days_old=12),
        recipe("y", "savings", days_old=13),
        recipe("z", days_old=13.5),
    ]
    live = popularity(**dict.fromkeys("abcdef", 1.0))
    blend = {"live_popularity": 0.25, "fresh": 0.1}
    none, some, few = (
        listed(dishes=dishes, live=live, list_length=4, rules=only(blend, fresh={"min_share": share}))
        for share in (0.0, 0.5, 0.2)
    )
    assert names_of(none) == names_of(few) == "abcd"  # a fifth of four recipes is none
    assert names_of(some) == "abxy"
    assert reasons(some)["x"] == "new:savings"
    whole = only(blend, fresh={"min_share": 1.0})
    assert names_of(listed(dishes=dishes, live=live, list_length=1, rules=whole)) == "x"
    assert names_of(listed(dishes=dishes, live=live, list_length=5, rules=whole)) == "abxyz"


def test_new_recipes_beyond_the_shortlist_have_their_places() -> None:
    dishes = [*DISHES, recipe("x", "savings", days_old=13)]
    live = popularity(**dict.fromkeys("abcdef", 1.0))
    shares = {
        share: only(
            {"live_popularity": 1.0},
            list_length=3,
            fresh={"min_share": share},
            diversity={"shortlist": 3},
        )
        for share in (0.0, 0.4)
    }
    made = {share: names_of(listed(dishes=dishes, live=live, rules=rules)) for share, rules in shares.items()}
    assert made == {0.0: "abc", 0.4: "abx"}


def test_places_for_new_recipes_come_before_the_limits() -> None:
    dishes = [recipe("a", author="ann"), recipe("b", author="bob"), recipe("c", author="ann", days_old=1)]
    rules = only({"live_popularity": 1.0}, limits={"per_author": 1}, fresh={"min_share": 0.5})
    assert names_of(listed(dishes=dishes, live=FALLING, rules=rules, list_length=2)) == "ac"


def test_a_new_recipe_without_tags_is_not_said_to_be_new_in_any() -> None:
    assert reasons(listed(dishes=[recipe("x", days_old=1)])) == {"x": "popular"}


def test_deleted_and_unknown_recipes_are_never_listed() -> None:
    dishes = [recipe("a"), recipe("b", "savings", "egg", is_deleted=True), recipe("c", days_old=1)]
    followed = model({("a", "b"): 1.0, ("a", "lost"): 1.0, ("b", "c"): 0.5}, {"b": 5.0, "lost": 9.0})
    history = [did("u", "recipe_view", name) for name in ("a", "b", "lost")] + [did("u", "search", detail="egg")]
    said = suggestions(u={"b": 1.0, "lost": 1.0})
    made = listed(*history, dishes=dishes, artifact=followed, live=popularity(b=9, lost=9), suggestions=said)
    assert sorted(made["recipe_ids"]) == ["a", "c"]
    assert reasons(made)["c"] == "viewed:b"


# Diversity

MIXED = [recipe(f"s{number}", "savings quick") for number in range(6)] + [
    recipe(f"t{number}", tags)
    for number, tags in enumerate(["microwave", "party", "savings", "quick light", "", "light"])
]
MIXED_LIVE = popularity(**{f"s{n}": 100 - n for n in range(6)}, **{f"t{n}": 80 - n for n in range(6)})


def turned(surface: Surface, **dials: float) -> dict[str, Any]:
    """The list of nobody on a surface, by dials that are 0 but for the given ones."""
    rules = only({"live_popularity": 1.0}, diversity={"dials": dials})
    return listed(dishes=MIXED, live=MIXED_LIVE, rules=rules, list_length=6, surface=surface)


@pytest.mark.parametrize("surface", ["home", "default", "segment"])
def test_each_surface_has_its_dial(surface: Surface) -> None:
    by_score = turned(surface)
    assert [name[0] for name in by_score["recipe_ids"]] == ["s"] * 6
    others = {"home", "default", "segment"} - {surface}
    assert turned(surface, **dict.fromkeys(others, 1.0)) == by_score
    mixed = turned(surface, **{surface: 0.5})
    assert mixed["recipe_ids"][0] == "s0"
    assert {name[0] for name in mixed["recipe_ids"]} == {"s", "t"}


def test_a_list_gets_more_varied_with_the_dial() -> None:
    varieties = [variety(turned("default", default=dial), MIXED) for dial in (0.0, 0.2, 0.4, 0.6, 1.0)]
    assert varieties == sorted(varieties)
    assert varieties[0] == 0
    assert varieties[-1] > 0.8
    scores_of = [sum(turned("default", default=dial)["scores"]) for dial in (0.0, 1.0)]
    assert scores_of[0] > scores_of[1]


# What was learned

LONG_SEEN = did("u", "recipe_view", "lost", days_ago=300)
"""A past, without which nothing learned counts, and that says nothing."""


def test_learned_weights_take_the_place_of_those_given_free() -> None:
    dishes = [recipe("a", "savings"), recipe("b", "microwave"), recipe("c", "savings"), recipe("d", "microwave")]
    history = did("u", "recipe_favorite", "a")
    learned = {"blend.taste": -1.0, "blend.live_popularity": 0.0, "blend.repeats": 0.0, "interest.session": 0.0}
    artifact = model({}, {"a": 1.0}, learned=learned)

    def made(free: list[str]) -> str:
        rules = only({"taste": 1.0, "live_popularity": 0.1}, learned=free)
        return names_of(listed(history, dishes=dishes, live=popularity(d=1), artifact=artifact, rules=rules))

    assert made([]) == "acdb"
    assert made(["interest", "diversity.dials.home"]) == "acdb"
    assert made(["blend"]) == "bdac"
    assert made(["blend.taste"]) == "dbac"


def test_a_learned_dial_turns_the_home_list_alone() -> None:
    artifact = model({}, {"s0": 1.0}, learned={"diversity.dials.home": 1.0, "diversity.dials.default": 1.0})
    rules = only({"live_popularity": 1.0})
    options: dict[str, Any] = {"dishes": MIXED, "live": MIXED_LIVE, "rules": rules, "artifact": artifact}
    lists = {
        surface: listed(LONG_SEEN, **options, list_length=6, surface=surface)
        for surface in ("home", "default", "segment")
    }
    assert variety(lists["home"], MIXED) > 0.8
    assert variety(lists["default"], MIXED) == variety(lists["segment"], MIXED) == 0


def test_learned_weights_out_of_their_range_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"learned weights of the artifact.*\n.*blend\.taste: .* -10"):
        listed(LONG_SEEN, artifact=model({}, {"a": 1.0}, learned={"blend.taste": -11.0}))


def test_what_was_learned_is_not_for_people_without_a_past() -> None:
    dishes, live = catalogue(*DISHES[:3], recipe("d", "quick")), popularity(a=9, b=4, c=1)
    history = [did(user, "recipe_view", "lost", days_ago=300) for user in ("t", "v")]
    learned = {"blend.live_popularity": -1.0, "blend.taste": -1.0}
    taught = model({}, {"a": 1.0}, learned=learned)
    rules = only({"live_popularity": 1.0, "taste": 1.0})
    people = build_profiles(behaviors_table(*history), dishes, rules, NOW, preferences(u=["quick"], w=[]))
    for artifact in (taught, replace(taught, model=reranker(live_popularity=-1.0))):
        made = rank(people, dishes, live, artifact, rules, NOW).to_pylist()
        assert [row["user_id"] for row in made] == ["t", "u", "v", "w"]
        assert [names_of(row) for row in made] == ["dcba", "adbc", "dcba", "abcd"]
        assert {row["algorithm"] for row in made} == {"m1"}


def test_a_reranker_orders_the_shortlist() -> None:
    live = popularity(**dict(zip("abcdef", (9, 8, 7, 6, 5, 4), strict=True)))
    rules = only({"live_popularity": 1.0}, diversity={"shortlist": 4})
    artifact = replace(model({}, {"a": 1.0}), model=reranker(live_popularity=-1.0))
    made = listed(LONG_SEEN, live=live, rules=rules, artifact=artifact, list_length=4)
    assert names_of(made) == "dcba"
    assert (made["scores"][0], made["scores"][-1]) == (1, 0)
    beside = replace(artifact, learned={BLEND_SCALE: 9.0})
    assert names_of(listed(LONG_SEEN, live=live, rules=rules, artifact=beside, list_length=4)) == "abcd"


def test_after_a_reranker_rules_and_what_is_ours_still_hold() -> None:
    dishes = [recipe("a", author="ann"), recipe("b", author="ann"), recipe("c", "", "leek"), recipe("d")]
    artifact = replace(model({}, {"a": 1.0}), model=reranker(live_popularity=1.0))
    options: dict[str, Any] = {"dishes": dishes, "live": FALLING, "artifact": artifact}
    rules = {"limits": {"per_author": 1, "per_tag": 9}, "exclude": {"recipes": ["d"]}}
    blend = {"live_popularity": 1.0, "leftovers": 1.0, "external": 1.0}
    assert names_of(listed(LONG_SEEN, did("u", "search", detail="egg"), rules=only(blend), **options)) == "abcd"
    assert (
        names_of(listed(LONG_SEEN, did("u", "search", detail="leek"), rules=only(blend, **rules), **options)) == "cab"
    )
    said = suggestions(u={"d": 1.0})
    assert listed(LONG_SEEN, rules=only(blend), suggestions=said, **options)["recipe_ids"][0] == "d"


# Edges


def test_empty_catalogue_and_empty_profiles() -> None:
    assert listed(did("u", "recipe_view", "a"), dishes=[], artifact=model({("a", "b"): 1.0}))["recipe_ids"] == []
    assert listed(dishes=[recipe("a", is_deleted=True)])["recipe_ids"] == []
    assert listed(rules=weights(exclude={"recipes": list("abcdef")}))["recipe_ids"] == []
    nobody = build_profiles(behaviors_table(), catalogue(*DISHES), weights(), NOW)
    made = rank(nobody, catalogue(*DISHES), popularity(), None, weights(), NOW)
    assert made.num_rows == 0
    assert made.column_names == ["user_id", "recipe_ids", "scores", "reasons", "algorithm"]


def test_a_user_without_usable_behaviours_gets_the_default_list() -> None:
    made = listed(did("u", "recipe_impression", "a"), live=popularity(c=1))
    assert made["recipe_ids"] == listed(live=popularity(c=1))["recipe_ids"]


def test_list_length() -> None:
    assert len(listed(rules=weights(list_length=2))["recipe_ids"]) == 2
    assert len(listed(list_length=3)["recipe_ids"]) == 3


def test_a_catalogue_beyond_the_sort_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_RECIPES", 5)
    with pytest.raises(ValueError, match="up to 5 recipes, not 6"):
        listed()


LARGEST = dict.fromkeys(["rules", "live_popularity", "trained_popularity", "standing_popularity", "taste"], 10.0)
SMALLEST = dict.fromkeys(["live_popularity", "trained_popularity", "standing_popularity", "taste", "repeats"], -10.0)


@pytest.mark.parametrize(
    ("blend", "score", "expected"),
    [
        (LARGEST | {"leftovers": 3.0, "external": 5.0}, LARGEST_SCORE, "cab"),
        (SMALLEST | {"seen": -10.0, "authors": -4.0}, -LARGEST_SCORE, "abc"),
    ],
)
def test_the_largest_scores_fit_their_sort_keys(blend: dict[str, float], score: float, expected: str) -> None:
    dishes = [recipe("a"), recipe("b"), recipe("c", "quick", "egg leek rice", author="ann")]
    made = listed(
        did("u", "recipe_favorite", "c"),
        did("u", "search", detail="egg leek rice"),
        dishes=dishes,
        live=popularity(c=1),
        artifact=model({("c", "c"): 1.0}, {"c": 1.0}, {"c": 1.0}),
        rules=only(blend, interest={"session": 0.0}),
        suggestions=suggestions(u={"c": 1.0}),
    )
    assert names_of(made) == expected
    assert scores(made)["c"] == score


# The slow kernel

names = st.sampled_from("abcdefgh")
tag_sets = st.lists(st.sampled_from(["quick", "cheap", "light"]), max_size=3, unique=True).map(" ".join)
ingredient_sets = st.lists(st.sampled_from(["egg", "leek", "rice", "tofu", "beef"]), max_size=4, unique=True).map(
    " ".join
)
kitchens = st.lists(
    st.builds(
        recipe,
        names,
        tag_sets,
        ingredient_sets,
        days_old=st.sampled_from([1.0, 10.0, 100.0, LONG_AGO]),
        is_deleted=st.sampled_from([False, False, False, True]),
        author=st.sampled_from([None, "ann", "ann", "bob"]),
    ),
    max_size=8,
    unique_by=lambda dish: dish["recipe_id"],
)
histories = st.lists(
    st.builds(
        did,
        st.sampled_from(["u1", "u2", "u3"]),
        st.sampled_from([*ACTION_OF_EVENT, "search"]),
        st.sampled_from([*"abcdefgh", "lost"]),
        days_ago=st.sampled_from([0.0, 0.001, 0.125, 1.0, 1.5, 9.0]),
        detail=st.sampled_from([None, None, "egg", "leek tofu"]),
    ),
    max_size=20,
)
transitions = st.dictionaries(st.tuples(names, names), st.sampled_from([0.125, 0.25, 0.3, 0.7, 1.0]), max_size=25)
counts = st.dictionaries(names, st.sampled_from([1.0, 2.0, 5.0]))
signed = st.sampled_from([-0.5, 0.0, 0.1, 0.3, 1.0])
positive = st.sampled_from([0.0, 0.1, 0.3, 1.0])
learned_weights = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(["blend.taste", "blend.seen", "blend.repeats"], signed)
    | dict.fromkeys(["blend.leftovers", "blend.external", "interest.session", "interest.newest"], positive)
    | {"diversity.dials.home": positive, "diversity.dials.default": positive, BLEND_SCALE: st.sampled_from([0.0, 2.0])},
)
rerankers = st.sampled_from(
    [
        "",
        "",
        reranker(blend=1.0),
        reranker(newest=1.0, session=-2.0, cool_down=1.0, taste=0.5, rules=-1.0),
        reranker(own_age=0.1, seen=-1.0, gap=0.2, recipe_age=0.1, own_recipes=1.0, steady=1.0, recent=0.3),
    ]
)
artifacts = st.none() | st.builds(
    lambda made, text: replace(made, model=text),
    st.builds(model, transitions, counts, counts, learned_weights),
    rerankers,
)
rulebooks = st.builds(
    weights,
    list_length=st.integers(1, 8),
    fresh=st.fixed_dictionaries({"min_share": st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0])}),
    limits=st.fixed_dictionaries({"per_author": st.integers(1, 4), "per_tag": st.integers(1, 4)}),
    diversity=st.fixed_dictionaries(
        {
            "shortlist": st.integers(1, 6),
            "dials": st.fixed_dictionaries(dict.fromkeys(["home", "default", "segment"], positive)),
        }
    ),
    exclude=st.fixed_dictionaries(
        {},
        optional={
            "recipes": st.lists(names, max_size=1),
            "authors": st.lists(st.sampled_from(["bob", "zoe"]), max_size=1),
            "tags": st.lists(st.sampled_from(["light", "loud"]), max_size=1),
        },
    ),
    blend=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(
            [name for name in SOURCES if name not in {"rules", "leftovers", "external", "taste"}], signed
        ),
    ),
    interest=st.fixed_dictionaries({}, optional=dict.fromkeys(["recent", "session", "steady", "newest"], positive)),
    profile=st.fixed_dictionaries({"least_share": st.sampled_from([0.0, 0.01, 0.5])}),
    candidates=st.fixed_dictionaries(
        {
            "rules": st.integers(1, 8),
            "popular": st.integers(1, 5),
            "fresh": st.integers(0, 3),
            "strongest": st.integers(0, 2),
            "each": st.integers(1, 3),
        }
    ),
)
said_from_outside = st.dictionaries(
    st.sampled_from(["u1", "u2", "nobody"]),
    st.dictionaries(st.sampled_from([*"abcdefgh", "lost"]), st.sampled_from([0.0, 0.25, 1.0, 3.0]), max_size=5),
    max_size=3,
)


@settings(max_examples=100, deadline=None)
@given(
    kitchens,
    histories,
    counts,
    artifacts,
    rulebooks,
    st.none() | said_from_outside,
    st.sampled_from(["home", "default", "segment"]),
)
def test_fast_equals_slow_together_and_one_by_one(  # noqa: PLR0917 - one a strategy
    dishes: list[dict[str, Any]],
    history: list[dict[str, Any]],
    live: dict[str, float],
    artifact: ModelArtifact | None,
    rules: Weights,
    said: dict[str, dict[str, float]] | None,
    surface: Surface,
) -> None:
    hold_to_slow(dishes, history, live, artifact, rules, said, surface)


def hold_to_slow(  # noqa: PLR0917 - a world
    dishes: list[dict[str, Any]],
    history: list[dict[str, Any]],
    live: dict[str, float],
    artifact: ModelArtifact | None,
    rules: Weights,
    said: dict[str, dict[str, float]] | None,
    surface: Surface,
) -> None:
    kitchen = catalogue(*dishes)
    options: dict[str, Any] = {"suggestions": None if said is None else suggestions(**said), "surface": surface}
    profiles = build_profiles(behaviors_table(*history), kitchen, rules, NOW)
    together = rank(profiles, kitchen, popularity(**live), artifact, rules, NOW, **options)
    assert together["user_id"].equals(profiles["user_id"])
    for at, profile in enumerate(profiles.to_pylist()):
        made = together.slice(at, 1)
        assert rank(profiles.slice(at, 1), kitchen, popularity(**live), artifact, rules, NOW, **options).equals(made)
        (row,) = made.to_pylist()
        user_said = (said or {}).get(profile["user_id"], {})
        slow = SlowKernel(profile, dishes, live, artifact, rules, user_said, surface)
        assert row["recipe_ids"] == slow.picks
        assert row["scores"] == pytest.approx([slow.relevance[name] for name in slow.picks], abs=2e-6)
        assert row["reasons"] == [slow.reason(name) for name in slow.picks]
        assert len(set(row["recipe_ids"])) == len(row["recipe_ids"]) <= rules.list_length
        assert set(row["recipe_ids"]) <= set(slow.listable)
        assert all(map(math.isfinite, row["scores"]))


@pytest.mark.parametrize("seed", range(6))
def test_fast_equals_slow_in_larger_worlds(seed: int) -> None:
    random = np.random.default_rng(seed)
    ids = [f"r{number:02d}" for number in range(40)]

    def some(values: list[str], most: int) -> str:
        return " ".join(random.choice(values, random.integers(0, most + 1), replace=False))

    def counts_of(most: int) -> dict[str, float]:
        return {str(name): float(random.pareto(1.0)) for name in random.choice(ids, most, replace=False)}

    dishes = [
        recipe(
            name,
            some(["quick", "cheap", "light", "party", "lunch"], 3),
            some(["egg", "leek", "rice", "tofu", "beef", "kale", "miso"], 5),
            days_old=float(random.choice([1, 5, 12, 30, 300])),
            is_deleted=bool(random.random() < 0.1),
            author=str(random.choice(["ann", "bob", "cat"])),
        )
        for name in ids
    ]
    history = [
        did(
            f"u{random.integers(5)}",
            str(random.choice([*ACTION_OF_EVENT, "search", "recipe_unfavorite"])),
            str(random.choice([*ids, "lost"])),
            days_ago=float(random.exponential(2.0)) * float(random.choice([0.001, 1.0])),
            detail=str(random.choice(["egg", "leek tofu"])) if random.random() < 0.3 else None,
        )
        for _ in range(80)
    ]
    pairs = {(str(a), str(b)): float(random.random()) for a, b in random.choice(ids, (300, 2))}
    learned = {"interest.steady": float(random.random()), "interest.newest": float(random.random())}
    learned |= {f"blend.{name}": float(random.normal(0, 0.5)) for name in ("seen", "daytime", "taste", "authors")}
    rules = weights(
        list_length=12,
        limits={"per_author": int(random.integers(3, 8)), "per_tag": int(random.integers(2, 5))},
        fresh={"min_share": 0.3},
        exclude={"recipes": ["r03"]},
        diversity={"shortlist": 20, "dials": {"home": float(random.choice([0.2, 0.5, 0.8]))}},
        candidates={"rules": 15, "popular": 10, "fresh": 5},
        learned=["interest", "blend"],
    )
    artifact = model(pairs, counts_of(30), counts_of(30), learned | {BLEND_SCALE: 0.5})
    text = reranker(blend=1.0, session=0.5, gap=0.1, own_age=-0.1) if seed % 2 else ""
    said = {f"u{user}": counts_of(5) for user in range(3)}
    hold_to_slow(dishes, history, counts_of(25), replace(artifact, model=text), rules, said, "home")


@pytest.mark.parametrize("text", ["", reranker(blend=1.0, session=1.0, own_age=-0.1)])
def test_neither_company_nor_order_nor_threads_change_a_list(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    random = np.random.default_rng(5)
    size, users = 300, 80
    names = [f"r{number:03d}" for number in range(size)]
    tags, authors = ["quick", "cheap", "light", "party"], ["ann", "bob", None]
    kitchen = catalogue(
        *(
            recipe(n, " ".join(random.choice(tags, 2, replace=False)), days_old=number, author=authors[number % 3])
            for number, n in enumerate(names)
        )
    )
    pairs = {(str(a), str(b)): float(random.random()) for a, b in random.choice(names, (6000, 2))}
    followed = replace(model(pairs, dict.fromkeys(names, 1.0)), model=text)
    events = [
        did(f"u{number % users:02d}", "recipe_view", str(random.choice(names)), days_ago=number / 400)
        for number in range(2000)
    ]
    said = suggestions(**{f"u{user:02d}": {str(random.choice(names)): 1.0} for user in range(0, users, 3)})
    profiles = build_profiles(behaviors_table(*events), kitchen, weights(), NOW)

    def lists(some: pa.Table = profiles, *, is_threaded: bool = True) -> pa.Table:
        return rank(some, kitchen, popularity(), followed, weights(), NOW, suggestions=said, is_threaded=is_threaded)

    made = lists()
    monkeypatch.setattr(ranking, "_CHUNK", 7)
    assert lists().equals(made)
    assert lists(is_threaded=False).equals(made)
    backwards = pa.array(np.arange(users)[::-1])
    assert lists(profiles.take(backwards)).equals(made.take(backwards))
    assert lists(profiles.slice(30, 1)).equals(made.slice(30, 1))
