"""Users a second of the kernel, beside the sparse product at its heart.

Run it from the project: `python -m benchmarks.recommend [--users N] [--trees N] [--json]`. People move within groups
of 1,200 recipes, so that 30 recent behaviours and 200 neighbours a recipe put forward over 1,000 distinct candidates a
user. The re-ranker has as many trees as --trees says, grown on the features of the shortlists themselves. Calls are
timed in turns, so that other work on the machine meets all of them, and the median is told.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta

import lightgbm
import numpy as np
import pyarrow as pa

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import csr
from kurashiru_pipeline.core.model import FEATURES, feature_values
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.ranking import Ranker, rank
from kurashiru_pipeline.core.weights import load_weights

GROUP, NEIGHBOURS, EVENTS, INGREDIENTS, AUTHORS = 1200, 200, 30, 500, 2000
TAGS = np.array(["time_saving", "savings", "microwave", "weight_loss", "baby_food", "entertainment"])
NOW = datetime(2026, 11, 23, 12)


def recipes_table(count: int, random: np.random.Generator) -> pa.Table:
    """Recipes with two tags, six ingredients and an author each, of two years, one in a hundred deleted."""
    age = random.integers(0, 730 * 86_400, count)
    return pa.table(
        {
            "recipe_id": recipe_names(np.arange(count)),
            "value_tags": list(TAGS[random.integers(0, len(TAGS), (count, 2))]),
            "ingredients": list(np.char.mod("ingredient %d", random.integers(0, INGREDIENTS, (count, 6)))),
            "author_id": np.char.mod("author %d", random.integers(0, AUTHORS, count)).tolist(),
            "published_at": [NOW - timedelta(seconds=int(seconds)) for seconds in age],
            "is_deleted": random.random(count) < 0.01,
        }
    )


def recipe_names(numbers: np.ndarray) -> list[str]:
    return list(np.char.mod("r%07d", numbers).tolist())


def model(count: int, random: np.random.Generator) -> ModelArtifact:
    """Every recipe followed by 200 of its group."""
    step = GROUP // NEIGHBOURS
    start = np.minimum(np.arange(count)[:, None] // GROUP * GROUP, count - GROUP)
    neighbours = start + np.arange(NEIGHBOURS) * step + random.integers(0, step, (count, NEIGHBOURS))
    offsets = np.arange(0, count * NEIGHBOURS + 1, NEIGHBOURS)
    matrix = csr(random.random(count * NEIGHBOURS, dtype=np.float32), neighbours.ravel(), offsets, count)
    matrix.has_canonical_format = True
    return ModelArtifact(
        version="benchmark",
        recipe_ids=np.array(recipe_names(np.arange(count))),
        neighbours=matrix,
        popularity=random.random(count),
        interactions=random.random(count),
    )


def reranker(ranker: Ranker, trees: int, random: np.random.Generator) -> str:
    """A LightGBM model that orders the shortlists of the first users by their blend and chance."""
    candidates = ranker.candidates(ranker.chunks()[0], with_parts=True)
    shortlist = ranker.shortlist(candidates)
    row, at = np.nonzero(shortlist.present)
    column = shortlist.column[row, at]
    values = feature_values(ranker.catalogue, ranker.recipes, candidates, ranker.weights, row, column)
    label = values[:, FEATURES.index("blend")] + random.normal(0, 0.3, len(values))
    data = lightgbm.Dataset(values, label, feature_name=list(FEATURES))
    rules = {"objective": "regression", "num_leaves": 15, "feature_fraction": 0.7, "num_threads": 1, "verbose": -1}
    return lightgbm.train(rules, data, trees).model_to_string()


def behaviors_table(users: int, recipes: int, random: np.random.Generator) -> pa.Table:
    """30 behaviours on recipes and two searches a user, over two weeks."""
    recipe = (random.integers(0, recipes // GROUP, (users, 1)) * GROUP) + random.integers(0, GROUP, (users, EVENTS))
    on_recipe = users * EVENTS
    count = on_recipe + users * 2
    names = ["recipe_view", "recipe_view", "recipe_view", "recipe_favorite", "shopping_list_add", "recipe_cooked"]
    seconds = random.integers(0, 14 * 86_400, count)
    searched = np.char.mod("ingredient %d", random.integers(0, INGREDIENTS, users * 2)).tolist()
    user = np.concatenate([np.repeat(np.arange(users), EVENTS), np.repeat(np.arange(users), 2)])
    return pa.table(
        {
            "user_id": np.char.mod("u%07d", user).tolist(),
            "event_id": np.char.mod("%09d", np.arange(count)).tolist(),
            "event_name": np.array(names)[random.integers(0, len(names), on_recipe)].tolist() + ["search"] * users * 2,
            "recipe_id": recipe_names(recipe.ravel()) + [None] * users * 2,
            "detail": [None] * on_recipe + searched,
            "occurred_at": pa.array(np.datetime64(NOW, "us") - seconds.astype("timedelta64[s]")),
        }
    )


def medians(repetitions: int, **calls: Callable[[], object]) -> dict[str, float]:
    """Median seconds of each call."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in taken.items()}


def measure(user_count: int, recipe_count: int, repetitions: int, trees: int) -> dict[str, float]:
    """All figures of one run."""
    random = np.random.default_rng(1)
    weights = load_weights()
    table = recipes_table(recipe_count, random)
    catalogue = Catalogue.from_arrow(table)
    artifact = model(recipe_count, random)
    counts = {"decayed_count": random.pareto(1.2, recipe_count), "decayed_at": [NOW] * recipe_count}
    live = pa.table({"recipe_id": catalogue.recipe_ids, **counts})
    behaviors = behaviors_table(user_count, recipe_count, random)
    profiles = build_profiles(behaviors, catalogue, weights, NOW)

    ranker = Ranker.of(profiles, catalogue, live, artifact, weights, NOW)
    with_model = replace(artifact, model=reranker(ranker, trees, random))
    interest = ranker.users.interest
    parts = [interest[at : at + 512] for at in range(0, user_count, 512)]

    def product() -> int:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return sum(threads.map(lambda part: (part @ artifact.neighbours).nnz, parts))

    taken = medians(
        repetitions,
        rank=lambda: rank(profiles, catalogue, live, artifact, weights, NOW),
        rank_with_model=lambda: rank(profiles, catalogue, live, with_model, weights, NOW),
        product=product,
        build_profiles=lambda: build_profiles(behaviors, catalogue, weights, NOW),
        catalogue=lambda: Catalogue.from_arrow(table),
    )
    return {
        "users": user_count,
        "recipes": recipe_count,
        "candidates_per_user": round(product() / user_count),
        "rank_users_per_second": round(user_count / taken["rank"]),
        "rank_with_reranker_users_per_second": round(user_count / taken["rank_with_model"]),
        "reranker_trees": trees,
        "product_alone_users_per_second": round(user_count / taken["product"]),
        "rank_time_by_product_time": round(taken["rank"] / taken["product"], 2),
        "build_profiles_users_per_second": round(user_count / taken["build_profiles"]),
        "catalogue_seconds": round(taken["catalogue"], 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--recipes", type=int, default=100_000)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures = measure(given.users, given.recipes, given.repetitions, given.trees)
    if given.json:
        print(json.dumps(figures))
    else:
        for name, figure in figures.items():
            print(f"{name.replace('_', ' '):36}{figure:>12,}")


if __name__ == "__main__":
    main()
