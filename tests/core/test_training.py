"""Training: what counts are refused, the similarity formula, the cut to the best neighbours, and the artifact."""

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
from kurashiru_pipeline.core.training import Counts, Learned, make_artifact
from kurashiru_pipeline.core.weights import Weights
from tests.kitchen import NOW, behaviors_table, catalogue, did, popularity, recipe, weights

_TRANSITIONS = pa.schema(
    [
        ("from_recipe_id", pa.string()),
        ("to_recipe_id", pa.string()),
        ("weight", pa.float64()),
        ("live_weight", pa.float64()),
    ]
)
FORWARDS = {"reverse_share": 0.0, "live_share": 0.0}

Transition = tuple[str, str, float, float]


def transitions_table(*rows: Transition) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(_TRANSITIONS.names, row, strict=True)) for row in rows], schema=_TRANSITIONS)


def counted(**interactions: float) -> pa.Table:
    names = list(interactions)
    return pa.table(
        {
            "recipe_id": pa.array(names, pa.string()),
            "interactions": pa.array(interactions.values(), pa.float64()),
            "popularity": pa.array(range(len(names)), pa.float64()),
        }
    )


def trained(*rows: Transition, recipes: pa.Table, learned: Learned | None = None, **rules: Any) -> ModelArtifact:
    counts = Counts.of(transitions_table(*rows), recipes)
    return make_artifact(
        counts, weights(transitions=rules), version="v1", learned=learned, metadata={"rows": len(rows)}
    )


def neighbours(artifact: ModelArtifact) -> dict[tuple[str, str], float]:
    pairs = artifact.neighbours.tocoo()
    names = artifact.recipe_ids.tolist()
    return {
        (names[row], names[column]): float(value) for row, column, value in zip(*pairs.coords, pairs.data, strict=True)
    }


def test_popular_recipes_follow_less() -> None:
    made = trained(("a", "b", 2.0, 0.0), ("a", "c", 2.0, 0.0), recipes=counted(b=95, a=4, c=11), **FORWARDS)
    assert neighbours(made) == pytest.approx(
        {("a", "b"): 2 / (9**0.5 * 100**0.3), ("a", "c"): 2 / (9**0.5 * 16**0.3)}, rel=1e-6
    )
    assert made.recipe_ids.tolist() == ["a", "b", "c"]
    assert made.popularity.tolist() == [1, 0, 2]
    assert made.interactions.tolist() == [4, 95, 11]
    assert (made.version, made.metadata, made.learned, made.model) == ("v1", {"rows": 2}, {}, "")


def test_a_pair_counts_backwards_by_its_share() -> None:
    rows = [("a", "b", 2.0, 0.0), ("b", "a", 1.0, 0.0), ("b", "c", 4.0, 0.0)]
    made = neighbours(trained(*rows, recipes=counted(a=3, b=3, c=3), reverse_share=0.5))
    scale = 8**0.8
    expected = {("a", "b"): 2.5, ("b", "a"): 2.0, ("b", "c"): 4.0, ("c", "b"): 2.0}
    assert made == pytest.approx({pair: count / scale for pair, count in expected.items()}, rel=1e-6)


def test_what_follows_of_late_counts_beside() -> None:
    rows = [("a", "b", 2.0, 0.0), ("a", "c", 1.0, 0.5)]
    recipes = counted(a=3, b=3, c=3)
    of_all_time = neighbours(trained(*rows, recipes=recipes, **FORWARDS))
    of_late = neighbours(trained(*rows, recipes=recipes, reverse_share=0.0, live_share=4.0))
    assert of_all_time["a", "b"] > of_all_time["a", "c"]
    assert of_late["a", "b"] < of_late["a", "c"] == pytest.approx(3 / 8**0.8)


def test_a_recipe_does_not_follow_itself() -> None:
    rows = [("a", "a", 5.0, 5.0), ("a", "b", 1.0, 0.0)]
    assert neighbours(trained(*rows, recipes=counted(a=1, b=1), **FORWARDS)).keys() == {("a", "b")}


def test_equals_are_kept_in_the_order_of_their_ids() -> None:
    rows = [("a", name, 1.0, 0.0) for name in "febdc"]
    made = trained(*rows, recipes=counted(**dict.fromkeys("abcdef", 3)), neighbours=3, **FORWARDS)
    assert list(neighbours(made)) == [("a", "b"), ("a", "c"), ("a", "d")]


names = st.sampled_from("abcdef")
numbers = st.sampled_from([0.25, 0.5, 1.0, 2.0])
pairs = st.dictionaries(st.tuples(names, names), st.tuples(numbers, st.sampled_from([0.0, 0.5, 2.0])), max_size=30)
interactions = st.fixed_dictionaries(dict.fromkeys("abcdef", st.sampled_from([0.0, 1.0, 7.0, 100.0])))
rules = st.fixed_dictionaries(
    {
        "neighbours": st.integers(1, 6),
        "damping": st.sampled_from([1.0, 5.0]),
        "from_power": st.sampled_from([0.0, 0.5, 1.0]),
        "to_power": st.sampled_from([0.0, 0.3]),
        "reverse_share": st.sampled_from([0.0, 0.5, 1.0]),
        "live_share": st.sampled_from([0.0, 1.0, 4.0]),
    }
)


@given(pairs, interactions, rules)
def test_neighbours_are_by_the_formula(
    rows: dict[tuple[str, str], tuple[float, float]], counts: dict[str, float], given_rules: dict[str, Any]
) -> None:
    made = trained(*((*pair, *both) for pair, both in rows.items()), recipes=counted(**counts), **given_rules)
    by = weights(transitions=given_rules).transitions

    def forwards(source: str, target: str) -> float:
        of_all_time, live = rows.get((source, target), (0.0, 0.0))
        return of_all_time + by.live_share * live

    expected = {}
    for source in "abcdef":
        followers = {}
        for target in "abcdef":
            both = forwards(source, target) + by.reverse_share * forwards(target, source)
            damped = (counts[source] + by.damping) ** by.from_power * (counts[target] + by.damping) ** by.to_power
            if source != target and both:
                followers[target] = both / damped
        best = sorted(followers, key=lambda target: (-np.float32(followers[target]), target))[: by.neighbours]
        expected |= {(source, target): followers[target] for target in best}
    assert neighbours(made) == pytest.approx(expected, rel=1e-6)
    assert made.neighbours.has_canonical_format
    assert made.neighbours.indices.dtype == np.int32
    assert made.neighbours.dtype == np.float32


def test_counts_answer_under_any_rules() -> None:
    counts = Counts.of(transitions_table(("a", "b", 2.0, 1.0)), counted(a=3, b=3))

    def value(rules: Weights) -> float:
        return float(counts.neighbours(rules.transitions)[0, 1])

    one, other = weights(), weights(transitions={"live_share": 1.0})
    assert [value(one), value(other), value(one)] == pytest.approx([2 / 8**0.8, 3 / 8**0.8, 2 / 8**0.8], rel=1e-6)


def test_learned_weights_of_transitions_are_those_of_the_neighbours() -> None:
    learned = Learned({"transitions.reverse_share": 0.0, "blend.taste": 0.7}, model="trees", figures={"rounds": 3})
    made = trained(("a", "b", 2.0, 0.0), recipes=counted(a=3, b=3), learned=learned, reverse_share=1.0)
    assert neighbours(made).keys() == {("a", "b")}
    assert (made.learned, made.model) == (learned.values, "trees")


def test_nothing_to_learn_from(tmp_path: Any) -> None:
    assert neighbours(load_artifact(save_artifact(trained(recipes=counted()), tmp_path))) == {}


@pytest.mark.parametrize(
    ("rows", "recipes", "told"),
    [
        ([("a", "x", 1.0, 0.0)], counted(a=1), "1 of 1 transitions"),
        ([("x", "a", 1.0, 0.0), ("a", "a", 1.0, 0.0)], counted(a=1), "1 of 2 transitions"),
        ([("a", "b", 0.0, 0.0)], counted(a=1, b=1), "positive"),
        ([("a", "b", math.nan, 0.0)], counted(a=1, b=1), "positive"),
        ([("a", "b", None, 0.0)], counted(a=1, b=1), "positive"),
        ([("a", "b", 1.0, -0.5)], counted(a=1, b=1), "live weight 0 or more"),
        ([("a", "b", 1.0, math.inf)], counted(a=1, b=1), "live weight 0 or more"),
        ([], pa.concat_tables([counted(a=1), counted(a=1)]), "once each"),
        ([], counted(a=1).set_column(0, "recipe_id", pa.array([None], pa.string())), "none without id"),
    ],
)
def test_wrong_input_is_refused(rows: list[Transition], recipes: pa.Table, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Counts.of(transitions_table(*rows), recipes)


def test_a_trained_model_explains_its_lists() -> None:
    dishes = catalogue(*(recipe(name) for name in "abcdefgh"))
    knows = trained(("a", "g", 3.0, 0.0), recipes=counted(a=5, g=5))
    profiles = build_profiles(behaviors_table(did("u", "recipe_cooked", "a")), dishes, weights(), NOW)
    (made,) = rank(profiles, dishes, popularity(), knows, weights(), NOW).to_pylist()
    assert (made["recipe_ids"][0], made["reasons"][0], made["algorithm"]) == ("g", "cooked:a", "v1")
