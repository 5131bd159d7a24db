"""The re-ranker: its features are the described ones, for each candidate by itself, and only a fitting model serves."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from kurashiru_pipeline.core.model import FEATURES, LEARNABLE, OURS, contributions, feature_values, predicted
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.ranking import Ranker, rank
from kurashiru_pipeline.core.scoring import SOURCES
from kurashiru_pipeline.errors import ConfigurationError
from tests.kitchen import (
    NOW,
    behaviors_table,
    catalogue,
    did,
    model,
    popularity,
    recipe,
    reranker,
    suggestions,
    weights,
)
from tests.slow_kernel import SlowKernel

TAGS, ITEMS, AUTHORS = ["quick", "cheap", "light"], ["egg", "leek", "rice", "tofu"], ["ann", "bob", None]
DISHES = [
    recipe(
        name,
        " ".join(TAGS[: nth % 4]),
        " ".join(ITEMS[nth % 3 : nth % 3 + 2]),
        days_old=4.0 * nth,
        is_deleted=nth == 5,
        author=AUTHORS[nth % 3],
    )
    for nth, name in enumerate("abcdefghijkl")
]
HISTORY = [
    did("u1", "recipe_view", "a", days_ago=0.01),
    did("u1", "recipe_cooked", "b", days_ago=3),
    did("u1", "recipe_view", "b", days_ago=9),
    did("u1", "recipe_favorite", "lost", days_ago=10),
    did("u1", "search", detail="egg"),
    did("u2", "recipe_view", "c", days_ago=1),
    did("u2", "recipe_view", "newest", days_ago=0.5),
    did("u3", "search", detail="tofu leek"),
    did("u3", "recipe_view", "lost", days_ago=40),
    *(did("u4", "recipe_view", name, days_ago=nth / 7) for nth, name in enumerate("cdefgabcab")),
]
FOLLOWED = model(
    {(a, b): (ord(a) * ord(b) % 9 + 1) / 10 for a in "abcdefg" for b in "acegikmo" if a != b},
    {"a": 3.0, "k": 9.0},
    {"b": 2.0, "l": 5.0},
    {"interest.steady": 0.3, "interest.newest": 0.5, "blend.seen": -0.3, "blend.standing_popularity": 0.2},
)
SAID = suggestions(u1={"h": 1.0, "l": 0.5})
LIVE = {"d": 4.0, "e": 9.0, "j": 1.0}


def profiles() -> pa.Table:
    return build_profiles(behaviors_table(*HISTORY), catalogue(*DISHES), weights(), NOW)


def features_of(some: pa.Table, chunk: tuple[int, int]) -> list[dict[str, np.ndarray]]:
    """Features of the shortlist of each user of a chunk, by recipe."""
    ranker = Ranker.of(some, catalogue(*DISHES), popularity(**LIVE), FOLLOWED, weights(), NOW, suggestions=SAID)
    candidates = ranker.candidates(chunk, with_parts=True)
    shortlist = ranker.shortlist(candidates)
    row, at = np.nonzero(shortlist.present)
    column = shortlist.column[row, at]
    values = feature_values(ranker.recipes, candidates, ranker.weights, row, column)
    made: list[dict[str, np.ndarray]] = [{} for _ in range(*chunk)]
    for user, of, value in zip(row, shortlist.recipe[row, at], values, strict=True):
        made[user][ranker.catalogue.recipe_ids[int(of)].as_py()] = value
    return made


def test_features_are_the_described_ones() -> None:
    some = profiles()
    for profile, made in zip(some.to_pylist(), features_of(some, (0, len(some))), strict=True):
        said = {"h": 1.0, "l": 0.5} if profile["user_id"] == "u1" else {}
        slow = SlowKernel(profile, DISHES, LIVE, FOLLOWED, weights(), said)
        assert set(made) == set(slow.shortlist)
        for name, values in made.items():
            expected = slow.features(name)
            assert dict(zip(FEATURES, values.tolist(), strict=True)) == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert (len(FEATURES), set(LEARNABLE) | set(OURS)) == (len(set(FEATURES)), set(SOURCES))


def test_features_are_the_same_whoever_else_is_there() -> None:
    some = profiles()
    together = features_of(some, (0, 4))
    for user in range(4):
        (alone,) = features_of(some.slice(user, 1), (0, 1))
        (in_the_middle,) = features_of(some, (user, user + 1))
        for other in (alone, in_the_middle):
            assert other.keys() == together[user].keys()
            for name, values in other.items():
                assert values.tolist() == together[user][name].tolist()


def test_the_part_of_the_newest_recipe_is_nothing_where_the_model_does_not_know_it() -> None:
    made = features_of(profiles(), (1, 2))[0]
    assert any(values[FEATURES.index("recent")] > 0 for values in made.values())
    assert all(values[FEATURES.index("newest")] == 0 for values in made.values())


def random_features(count: int) -> np.ndarray:
    return np.random.default_rng(1).uniform(0, 1, (count, len(FEATURES)))


def test_a_model_predicts_what_it_learned() -> None:
    values = random_features(50)
    made = predicted(reranker(taste=2.0), values)
    assert np.corrcoef(made, values[:, FEATURES.index("taste")])[0, 1] > 0.95
    shares = contributions(reranker(taste=2.0), values)
    assert shares.sum(axis=1) == pytest.approx(made)
    assert np.abs(shares[:, :-1]).sum(axis=0).argmax() == FEATURES.index("taste")


@pytest.mark.parametrize("names", [FEATURES[::-1], FEATURES[:-1], (*FEATURES, "luck")])
def test_a_model_of_other_features_is_refused(names: tuple[str, ...]) -> None:
    values = np.random.default_rng(1).uniform(0, 1, (100, len(names)))
    data = lightgbm.Dataset(values, values[:, 0], feature_name=list(names))
    text = lightgbm.train({"objective": "regression", "verbose": -1}, data, 2).model_to_string()
    artifact = replace(FOLLOWED, model=text)
    with pytest.raises(ConfigurationError, match=r"other features.*; train anew: dagster asset materialize"):
        rank(profiles(), catalogue(*DISHES), popularity(), artifact, weights(), NOW)


def test_many_threads_load_and_predict_at_once() -> None:
    values = random_features(200)
    texts = [reranker(**{name: 1.0}) for name in FEATURES[:6]]
    expected = [predicted(text, values).tolist() for text in texts]

    def again(number: int) -> Any:
        return predicted(texts[number % len(texts)], values).tolist()

    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(again, range(60)))
    assert made == [expected[number % len(texts)] for number in range(60)]


def test_without_a_model_nothing_heavy_is_loaded() -> None:
    program = """
import sys
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.ranking import rank
from tests.kitchen import NOW, behaviors_table, catalogue, did, model, popularity, recipe, weights
dishes = catalogue(recipe("a"))
profiles = build_profiles(behaviors_table(did("u", "recipe_view", "a")), dishes, weights(), NOW)
rank(profiles, dishes, popularity(), model({}, {"a": 1.0}), weights(), NOW)
print(sorted({"lightgbm", "sklearn"} & sys.modules.keys()))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


@pytest.mark.parametrize("leaves", [2, 15, 64])
def test_the_walk_through_the_trees_is_that_of_lightgbm(leaves: int) -> None:
    random = np.random.default_rng(leaves)
    values = random.normal(0, 1, (2000, len(FEATURES)))
    values[random.random(values.shape) < 0.2] = 0.0
    target = values[:, 0] * values[:, 1] + values[:, 2]
    data = lightgbm.Dataset(values, target, feature_name=list(FEATURES))
    rules = {"objective": "regression", "num_leaves": leaves, "min_data_in_leaf": 5, "num_threads": 1, "verbose": -1}
    booster = lightgbm.train(rules, data, 40)
    for rows in (values, values[:1], values[:65], values[:0]):
        expected = booster.predict(rows, raw_score=True).tolist() if len(rows) else []
        assert predicted(booster.model_to_string(), rows).tolist() == expected


def test_a_model_of_trees_without_a_split_says_one_thing() -> None:
    values = random_features(30)
    data = lightgbm.Dataset(values, np.full(30, 2.5), feature_name=list(FEATURES))
    booster = lightgbm.train({"objective": "regression", "verbose": -1}, data, 3)
    assert predicted(booster.model_to_string(), values).tolist() == booster.predict(values, raw_score=True).tolist()


@pytest.mark.parametrize("rules", [{"num_leaves": 100, "min_data_in_leaf": 1}, {"zero_as_missing": True}])
def test_trees_of_another_kind_are_refused(rules: dict[str, Any]) -> None:
    values = np.random.default_rng(1).normal(0, 1, (3000, len(FEATURES)))
    data = lightgbm.Dataset(values, values[:, 0] * values[:, 1], feature_name=list(FEATURES))
    booster = lightgbm.train({"objective": "regression", "verbose": -1, **rules}, data, 2)
    with pytest.raises(ConfigurationError, match=r"the re-ranker of the model artifact has a tree .*; train anew"):
        predicted(booster.model_to_string(), values[:5])
