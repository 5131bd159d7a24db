"""Users a second of the kernel, beside the sparse product at its heart, `implicit` and plain SQL.

People move within groups of 1,200 recipes, so that 30 recent behaviours and 200 neighbours a recipe put forward about
1,000 different candidates a user. All four multiply the same rows of interest by the same matrix of neighbours. The
product alone stops there; `implicit` and SQL keep the 40 best of each user; the kernel goes on to whole lists: other
sources of candidates, scores, shortlist, re-ranking, limits, reasons. The re-ranker's trees are grown on the features
of the shortlists themselves. Not here: whether the lists are any good (kurashiru evaluate).
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import lightgbm
import numpy as np
import pyarrow as pa
from scipy import sparse

from benchmarks.figures import Context, Figure, Outcome, Series, Size, in_turns, median_and_spread
from benchmarks.peer import Peer
from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import csr
from kurashiru_pipeline.core.model import FEATURES, feature_values
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.ranking import Ranker, rank
from kurashiru_pipeline.core.weights import load_weights

TITLE = "Recommend: the kernel against the bare product, implicit and SQL"

GROUP, NEIGHBOURS, EVENTS, INGREDIENTS, AUTHORS, KEPT = 1200, 200, 30, 500, 2000, 40
TAGS = np.array(["time_saving", "savings", "microwave", "weight_loss", "baby_food", "entertainment"])
NOW = datetime(2026, 11, 23, 12)
FEW = 5
PRODUCT = f"""
select user_id, arg_max(recipe, strength, {KEPT}) as recipes
from (
    select interest.user_id, neighbours.follower as recipe, sum(interest.weight * neighbours.weight) as strength
    from interest inner join neighbours on interest.recipe = neighbours.recipe
    group by all
)
group by user_id
"""
START = """
import json, time
import numpy, pyarrow.compute
began = time.perf_counter()
from kurashiru_pipeline.core import profiles, ranking
imported = time.perf_counter()
from kurashiru_pipeline.core.kernels import lists, profiles, text
from kurashiru_pipeline.core.native import compiled
for function in (text.find_words, profiles.profile_users, lists.list_users):
    compiled(function)
print(json.dumps([imported - began, time.perf_counter() - imported]))
"""


@dataclass(frozen=True)
class _Plan:
    """How much of everything; peers that are much slower get fewer users."""

    users: int
    recipes: int
    peer_users: int
    sql_users: int
    trees: int
    repetitions: int


_PLANS = {
    Size.SMALL: _Plan(4_000, 12_000, 2_000, 500, 50, 2),
    Size.MEDIUM: _Plan(20_000, 100_000, 5_000, 20_000, 100, 5),
    Size.FULL: _Plan(65_000, 100_000, 20_000, 20_000, 100, 7),
}


def run(context: Context) -> Outcome:
    """The scenario."""
    plan, random, weights = _PLANS[context.size], np.random.default_rng(1), load_weights()
    context.progress(0.0, "making recipes, users and a model")
    catalogue = Catalogue.from_arrow(recipes_table(plan.recipes, random))
    artifact = model(plan.recipes, random)
    counts = {"decayed_count": random.pareto(1.2, plan.recipes), "decayed_at": [NOW] * plan.recipes}
    live = pa.table({"recipe_id": catalogue.recipe_ids, **counts})
    behaviors = behaviors_table(plan.users, plan.recipes, random)
    profiles = build_profiles(behaviors, catalogue, weights, NOW)
    ranker = Ranker.of(profiles, catalogue, live, artifact, weights, NOW)
    with_model = replace(artifact, model=reranker(ranker, plan.trees, random))
    interest = interest_of(ranker)
    parts = [interest[at : at + 512] for at in range(0, plan.users, 512)]

    def product() -> int:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            return sum(threads.map(lambda part: (part @ artifact.neighbours).nnz, parts))

    with ExitStack() as stack:
        connection = stack.enter_context(sql_product(interest[: plan.sql_users], artifact.neighbours))
        calls: dict[str, tuple[int, Callable[[], object]]] = {
            "rules": (plan.users, lambda: rank(profiles, catalogue, live, artifact, weights, NOW)),
            "reranker": (plan.users, lambda: rank(profiles, catalogue, live, with_model, weights, NOW)),
            "product": (plan.users, product),
            "sql": (plan.sql_users, lambda: connection.execute(PRODUCT).to_arrow_table()),
            "profiles": (plan.users, lambda: build_profiles(behaviors, catalogue, weights, NOW)),
            "few": (FEW, lambda: rank(profiles.slice(0, FEW), catalogue, live, artifact, weights, NOW)),
            "few_profiles": (
                FEW,
                lambda: build_profiles(behaviors.slice(0, FEW * EVENTS), catalogue, weights, NOW),
            ),
        }
        if context.peers is not None:
            save_for_implicit(context.folder, interest[: plan.peer_users], artifact.neighbours)
            peer = stack.enter_context(Peer.started(context.peers, "implicit_recommend.py", context.folder, KEPT))
            calls["implicit"] = plan.peer_users, peer.ask
        taken: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(plan.repetitions + 1):
            context.progress(0.2 + 0.7 * turn / (plan.repetitions + 1), "ranking, in turns with everything beside it")
            for name, seconds in in_turns(1, **{name: call for name, (_, call) in calls.items()}).items():
                taken[name] += seconds if turn else []  # in the first, memory is touched and caches fill
    speeds = {name: [calls[name][0] / seconds for seconds in times] for name, times in taken.items()}
    context.progress(0.95, "starting processes")
    starts = [_start() for _ in range(plan.repetitions)]
    context.progress(1.0, "done")
    return _outcome(context, plan, product() / plan.users, speeds, taken, starts)


def _outcome(  # noqa: PLR0917 - what was measured
    context: Context,
    plan: _Plan,
    candidates: float,
    speeds: dict[str, list[float]],
    taken: dict[str, list[float]],
    starts: list[tuple[float, float]],
) -> Outcome:
    said = f"{plan.recipes:,} recipes, {candidates:,.0f} candidates a user"

    def goal(text: str) -> str | None:
        return None if context.size is Size.SMALL else text

    def figure(name: str, values: list[float], unit: str, bound: str | None = None, note: str = "") -> Figure:
        value, spread = median_and_spread(values)
        return Figure(name, value, unit, spread, bound, note)

    def ratio(name: str, others: list[float], bound: str, note: str) -> Figure:
        values = [ours / theirs for ours, theirs in zip(speeds["rules"], others, strict=True)]
        return figure(name, values, "times", goal(bound), note)

    figures = [
        figure("recommend_users_per_s", speeds["rules"], "users/s", goal(">= 50000"), f"rules, whole lists; {said}"),
        figure(
            "recommend_reranker_users_per_s",
            speeds["reranker"],
            "users/s",
            None,
            f"with a re-ranker of {plan.trees} trees",
        ),
        figure("recommend_product_users_per_s", speeds["product"], "users/s", None, "SciPy's product alone, all cores"),
        ratio("recommend_vs_product", speeds["product"], ">= 0.3", "the kernel does the product and all that follows"),
        figure(
            "recommend_sql_users_per_s",
            speeds["sql"],
            "users/s",
            None,
            f"join, group by, {KEPT} best; {plan.sql_users:,} users",
        ),
        ratio("recommend_vs_sql", speeds["sql"], ">= 25", "DuckDB, all cores each, the same product"),
    ]
    if (peer := speeds.get("implicit")) is None:
        figures.append(Figure("recommend_vs_implicit", None, "times", goal=goal(">= 3"), note="make peers"))
    else:
        figures += [
            figure("recommend_implicit_users_per_s", peer, "users/s", None, f"{KEPT} best; {plan.peer_users:,} users"),
            ratio("recommend_vs_implicit", peer, ">= 3", "item-item recommend, all cores each, the same product"),
        ]
    figures += [
        figure(
            "build_profiles_users_per_s", speeds["profiles"], "users/s", goal(">= 100000"), f"{EVENTS} behaviours each"
        ),
        figure("recommend_few_seconds", taken["few"], "s", goal("<= 0.05"), f"one call for {FEW} users"),
        figure("build_profiles_few_seconds", taken["few_profiles"], "s", None, f"one call for {FEW} users"),
        figure("kernel_import_seconds", [imported for imported, _ in starts], "s", None, "beyond NumPy and Arrow"),
        figure("kernel_load_seconds", [loaded for _, loaded in starts], "s", None, "compiled code, in a new process"),
    ]
    shown = {"kernel": "rules", "kernel with re-ranker": "reranker", "product alone": "product", "DuckDB": "sql"}
    medians = {label: median_and_spread(speeds[name])[0] for label, name in shown.items()}
    if peer is not None:
        medians["implicit"] = median_and_spread(peer)[0]
    bars = Series("speeds", TITLE, "", "users/s", list(medians), {"users/s": list(medians.values())})
    return Outcome(figures, [bars])


def interest_of(ranker: Ranker) -> Any:
    """(users, recipes) CSR of the kernel's interest: what each user's own recipes weigh as starting points."""
    users = ranker.users
    count = users.interest_offsets[-1]
    return csr(users.interest[:count], users.interest_row[:count], users.interest_offsets, len(ranker.recipes.of_model))


def sql_product(interest: Any, neighbours: Any) -> duckdb.DuckDBPyConnection:
    """A database that holds both matrices as tables."""
    connection = duckdb.connect()
    for name, matrix, row, column in (
        ("interest", interest, "user_id", "recipe"),
        ("neighbours", neighbours, "recipe", "follower"),
    ):
        rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int32), np.diff(matrix.indptr))
        connection.register("given", pa.table({row: rows, column: matrix.indices, "weight": matrix.data}))
        connection.execute(f"create table {name} as from given")
        connection.unregister("given")
    return connection


def save_for_implicit(folder: Path, interest: Any, neighbours: Any) -> None:
    """Both matrices as peers/implicit_recommend.py reads them."""
    for name, matrix in (("interest", interest), ("neighbours", neighbours)):
        sparse.save_npz(folder / f"{name}.npz", sparse.csr_matrix(matrix), compressed=False)


def _start() -> tuple[float, float]:
    """Seconds that a new process takes to import the kernel, and to load its compiled code."""
    done = subprocess.run([sys.executable, "-c", START], check=True, capture_output=True, text=True)
    imported, loaded = json.loads(done.stdout)
    return imported, loaded


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
    values = feature_values(ranker.recipes, candidates, ranker.weights, row, column)
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
