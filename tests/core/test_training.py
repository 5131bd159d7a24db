"""Training: the formula, the cut to the best neighbours, and the metrics of next-item queries."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.artifact import ModelArtifact, load_artifact, save_artifact
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.ranking import rank
from kurashiru_pipeline.core.training import evaluate_next_item, train_artifact
from kurashiru_pipeline.core.weights import Weights
from tests.kitchen import NOW, behaviors_table, catalogue, did, model, popularity, recipe, weights


def transitions_table(*rows: tuple[str, str, float]) -> pa.Table:
    schema = pa.schema([("from_recipe_id", pa.string()), ("to_recipe_id", pa.string()), ("weight", pa.float64())])
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema=schema)


def counted(**interactions: float) -> pa.Table:
    names = list(interactions)
    return pa.table(
        {
            "recipe_id": pa.array(names, pa.string()),
            "interactions": pa.array(interactions.values(), pa.float64()),
            "popularity": pa.array(range(len(names)), pa.float64()),
        }
    )


def trained(transitions: pa.Table, recipes: pa.Table, rules: Weights | None = None) -> ModelArtifact:
    return train_artifact(transitions, recipes, rules or weights(), version="v1", metadata={"rows": len(transitions)})


def neighbours(artifact: ModelArtifact) -> dict[tuple[str, str], float]:
    pairs = artifact.neighbours.tocoo()
    names = artifact.recipe_ids.tolist()
    return {
        (names[row], names[column]): float(value) for row, column, value in zip(*pairs.coords, pairs.data, strict=True)
    }


def test_popular_recipes_follow_less() -> None:
    made = trained(transitions_table(("a", "b", 2.0), ("a", "c", 2.0)), counted(b=95, a=4, c=11))
    assert neighbours(made) == pytest.approx(
        {("a", "b"): 2 / (9**0.5 * 100**0.3), ("a", "c"): 2 / (9**0.5 * 16**0.3)}, rel=1e-6
    )
    assert made.recipe_ids.tolist() == ["a", "b", "c"]
    assert made.popularity.tolist() == [1, 0, 2]
    assert (made.version, made.metadata) == ("v1", {"rows": 2})


def test_a_recipe_does_not_follow_itself() -> None:
    assert neighbours(trained(transitions_table(("a", "a", 5.0), ("a", "b", 1.0)), counted(a=1, b=1))).keys() == {
        ("a", "b")
    }


pairs = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("abcdef"), st.sampled_from([0.5, 1.0, 2.0])), max_size=30
)


@given(pairs, st.integers(1, 4))
def test_the_best_neighbours_are_kept(rows: list[tuple[str, str, float]], most: int) -> None:
    rules = weights(transitions={"neighbours": most})
    made = trained(transitions_table(*rows), counted(**dict.fromkeys("abcdef", 3)), rules)
    total: dict[tuple[str, str], float] = {}
    for source, target, weight in rows:
        if source != target:
            total[source, target] = total.get((source, target), 0) + weight
    expected = {}
    for name in "abcdef":
        followers = sorted((pair for pair in total if pair[0] == name), key=lambda pair: (-total[pair], pair))
        expected |= {pair: total[pair] / (8**0.5 * 8**0.3) for pair in followers[:most]}
    assert neighbours(made) == pytest.approx(expected, rel=1e-6)
    assert made.neighbours.has_canonical_format
    assert made.neighbours.indices.dtype == np.int32


def test_nothing_to_learn_from(tmp_path: Any) -> None:
    made = trained(transitions_table(), counted())
    assert neighbours(load_artifact(save_artifact(made, tmp_path))) == {}


@pytest.mark.parametrize(
    ("rows", "recipes", "told"),
    [
        ([("a", "x", 1.0)], counted(a=1), "1 of 1 transitions"),
        ([("a", "b", 0.0)], counted(a=1, b=1), "positive"),
        ([("a", "b", math.nan)], counted(a=1, b=1), "positive"),
        ([], pa.concat_tables([counted(a=1), counted(a=1)]), "once each"),
    ],
)
def test_wrong_input_is_refused(rows: list[tuple[str, str, float]], recipes: pa.Table, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        trained(transitions_table(*rows), recipes)


DISHES = [recipe(name) for name in "abcdefgh"]


def queries(*targets: str) -> pa.Table:
    """Users u0, u1 ... who viewed recipe a and then `targets`."""
    behaviors = behaviors_table(*(did(f"u{number}", "recipe_view", "a") for number in range(len(targets))))
    return build_profiles(behaviors, catalogue(*DISHES), weights(), NOW).append_column("target", pa.array(targets))


def test_metrics_of_a_model_that_knows() -> None:
    knows = model({("a", "g"): 1.0, ("a", "h"): 0.5})
    made = evaluate_next_item(
        queries("g", "h", "g", "zz"), catalogue(*DISHES), popularity(), knows, weights(), NOW, length=2
    )
    gains = [1, 1 / math.log2(3), 1, 0]
    assert made["queries"] == 4
    assert made["ndcg"] == pytest.approx(sum(gains) / 4)
    assert made["ndcg_error"] == pytest.approx(np.std(gains) / 2)
    assert made["recall"] == 0.75
    assert made["coverage"] == 2 / 8


def test_a_model_beats_no_model() -> None:
    asked = queries(*"ghhg")
    without = evaluate_next_item(asked, catalogue(*DISHES), popularity(), None, weights(), NOW, length=3)
    knows = trained(transitions_table(("a", "g", 3.0), ("a", "h", 2.0)), counted(a=5, g=5, h=5))
    assert without["ndcg"] == 0
    assert evaluate_next_item(asked, catalogue(*DISHES), popularity(), knows, weights(), NOW, length=3)["recall"] == 1


def test_no_queries() -> None:
    made = evaluate_next_item(queries(), catalogue(*DISHES), popularity(), None, weights(), NOW)
    assert made == {"queries": 0, "ndcg": 0, "ndcg_error": 0, "recall": 0, "coverage": 0}


def test_a_trained_model_explains_its_lists() -> None:
    knows = trained(transitions_table(("a", "g", 3.0)), counted(a=5, g=5))
    profiles = build_profiles(behaviors_table(did("u", "recipe_cooked", "a")), catalogue(*DISHES), weights(), NOW)
    (made,) = rank(profiles, catalogue(*DISHES), popularity(), knows, weights(), NOW).to_pylist()
    assert (made["recipe_ids"][0], made["reasons"][0], made["algorithm"]) == ("g", "cooked:a", "v1")
