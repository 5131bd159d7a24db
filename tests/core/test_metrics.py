"""Metrics: the formulas on lists small enough to count, intervals that cover, and paired differences."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.metrics import Judged, difference, judge, summary
from tests.kitchen import catalogue, recipe

KITCHEN = catalogue(
    recipe("curry", "quick spicy"),
    recipe("stew", "quick hearty"),
    recipe("salad", "light"),
    recipe("soup"),
    recipe("toast"),
    recipe("gone", "quick", is_deleted=True),
)
PAST = pa.table({"recipe_id": ["curry", "stew", "salad", "soup"], "interactions": [7.0, 3.0, 1.0, 0.0]})


def judged(*answers: tuple[str, list[str], list[str]], length: int = 10) -> Judged:
    """Of (user, list, targets)."""
    texts: Any = pa.list_(pa.string())
    lists = pa.table({"recipe_ids": pa.array([answer[1] for answer in answers], texts)})
    queries = pa.table(
        {
            "asked_by": pa.array([answer[0] for answer in answers], pa.string()),
            "targets": pa.array([answer[2] for answer in answers], texts),
        }
    )
    return judge(lists, queries, KITCHEN, PAST, length)


def test_a_target_earns_by_its_place() -> None:
    found = judged(
        ("ann", ["curry", "stew"], ["curry"]),
        ("ann", ["curry", "stew"], ["stew"]),
        ("bob", ["curry", "stew"], ["salad"]),
        ("bob", [], ["salad"]),
    )
    assert found.ndcg.tolist() == pytest.approx([1, 1 / math.log2(3), 0, 0])
    assert found.recall.tolist() == [1, 1, 0, 0]
    assert found.reciprocal_rank.tolist() == [1, 0.5, 0, 0]


def test_one_target_column_says_the_same_as_lists_of_one() -> None:
    lists = pa.table({"recipe_ids": [["curry", "stew"], ["soup", "curry"]]})
    queries = pa.table({"asked_by": ["ann", "bob"], "target": ["stew", "unheard-of"]})
    assert judge(lists, queries, KITCHEN, PAST).ndcg.tolist() == pytest.approx([1 / math.log2(3), 0])


def test_several_targets_are_held_against_the_best_list_there_could_be() -> None:
    found = judged(("ann", ["salad", "curry", "stew"], ["curry", "stew", "curry", "unheard-of"]))
    assert found.recall.tolist() == pytest.approx([2 / 3])
    best = 1 + 1 / math.log2(3) + 1 / 2
    assert found.ndcg.tolist() == pytest.approx([(1 / math.log2(3) + 1 / 2) / best])


def test_places_beyond_the_length_do_not_count() -> None:
    found = judged(("ann", ["salad", "curry", "stew"], ["stew", "curry", "soup"]), length=2)
    assert found.recall.tolist() == pytest.approx([1 / 3])
    assert found.ndcg.tolist() == pytest.approx([(1 / math.log2(3)) / (1 + 1 / math.log2(3))])
    assert found.listed.tolist() == [1 if name in {"salad", "curry"} else 0 for name in KITCHEN.recipe_ids.to_pylist()]


def test_diversity_is_the_mean_distance_of_tag_sets() -> None:
    found = judged(
        ("ann", ["curry", "stew", "salad"], []),  # 1 - 1/3, 1, 1
        ("ann", ["soup", "toast"], []),  # both without tags: alike
        ("ann", ["soup", "curry"], []),
        ("ann", ["curry"], []),
    )
    assert found.diversity.tolist() == pytest.approx([(2 / 3 + 1 + 1) / 3, 0, 1, 0])


def test_novelty_and_popularity_come_from_shares_of_the_past() -> None:
    found = judged(("ann", ["curry", "toast"], ["stew"]))
    total = 7 + 3 + 1 + 0 + 6  # one for each of the six recipes
    assert found.novelty.tolist() == pytest.approx([-(math.log2(8 / total) + math.log2(1 / total)) / 2])
    assert found.popularity.tolist() == pytest.approx([(8 + 1) / 2 / total])
    assert summary(found)["popularity_bias"] == pytest.approx((8 + 1) / 2 / 4)


def test_coverage_counts_living_recipes_in_any_list() -> None:
    found = summary(judged(("ann", ["curry", "stew"], []), ("bob", ["stew", "soup"], [])))
    assert found["coverage_at_10"] == pytest.approx(3 / 5)
    assert found["coverage_ci"][0] <= 3 / 5 <= found["coverage_ci"][1]


def test_summary_names_every_metric_with_its_interval() -> None:
    found = summary(judged(("ann", ["curry"], ["curry"]), ("bob", ["stew"], ["curry"])))
    assert (found["queries"], found["users"]) == (2, 2)
    names = ("ndcg_at_10", "recall_at_10", "mrr", "coverage_at_10", "diversity_at_10", "novelty", "popularity_bias")
    for name in names:
        low, high = found[name.removesuffix("_at_10") + "_ci"]
        assert 0 <= low <= found[name] <= high, name


def test_one_user_says_nothing_about_others() -> None:
    found = summary(judged(("ann", ["curry"], ["curry"]), ("ann", ["curry"], ["curry"])))
    assert found["ndcg_at_10"] == 1
    assert found["ndcg_ci"] == [0, 1]
    assert found["coverage_ci"] == [0, 1]
    assert found["popularity_bias_ci"] is None


def test_no_query_is_no_error() -> None:
    found = summary(judged())
    assert (found["queries"], found["ndcg_at_10"], found["ndcg_ci"]) == (0, 0, [0, 1])
    assert found["popularity_bias"] is None


def test_intervals_hold_the_true_mean_nineteen_times_of_twenty() -> None:
    """Users of unlike skill with unlike numbers of queries: what an interval that forgets them gets wrong."""
    generator = np.random.default_rng(7)
    held = 0
    for _ in range(400):
        size = generator.integers(1, 20, 40)
        user = np.repeat(np.arange(40), size)
        skill = generator.uniform(0.1, 0.5, 40)[user]
        made = _judged(user, (generator.random(len(user)) < skill).astype(float))
        low, high = summary(made)["ndcg_ci"]
        held += low <= 0.3 <= high
    assert 0.92 <= held / 400 <= 0.98


def test_a_difference_is_paired() -> None:
    """Queries differ far more than the models do, and still the small gain is seen."""
    generator = np.random.default_rng(3)
    user = np.repeat(np.arange(50), 4)
    level = generator.random(200) * 0.9
    champion = _judged(user, level)
    better = difference(_judged(user, level + 0.02 + generator.normal(0, 0.02, 200)), champion)
    assert better.low > 0
    assert better.low < better.mean < better.high
    assert better.mean == pytest.approx(0.02, abs=0.006)
    same = difference(champion, champion)
    assert (same.mean, same.low, same.high) == (0, 0, 0)


def test_a_difference_needs_the_same_queries_and_two_users() -> None:
    ann = judged(("ann", ["curry"], ["curry"]))
    assert difference(ann, ann).low == -1
    with pytest.raises(ValueError, match="same queries"):
        difference(ann, judged(("ann", ["curry"], ["curry"]), ("bob", ["curry"], ["curry"])))


def test_lists_without_queries_are_refused() -> None:
    with pytest.raises(ValueError, match="1 lists for 0 queries"):
        judge(
            pa.table({"recipe_ids": [["curry"]]}),
            pa.table({"asked_by": pa.array([], pa.string()), "target": pa.array([], pa.string())}),
            KITCHEN,
            PAST,
        )


answers = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob", "cat"]),
        st.lists(st.sampled_from(["curry", "stew", "salad", "soup", "toast"]), unique=True, max_size=5),
        st.lists(st.sampled_from(["curry", "stew", "salad", "unheard-of"]), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=8,
)


@given(answers, st.integers(1, 4))
def test_figures_agree_with_counting_by_hand(rows: list[tuple[str, list[str], list[str]]], length: int) -> None:
    found = judged(*rows, length=length)
    for number, (_, listed, targets) in enumerate(rows):
        wanted, shown = set(targets), listed[:length]
        gain = sum(1 / math.log2(place + 2) for place, name in enumerate(shown) if name in wanted)
        ideal = sum(1 / math.log2(place + 2) for place in range(min(len(wanted), length)))
        places = [place + 1 for place, name in enumerate(shown) if name in wanted]
        assert found.ndcg[number] == pytest.approx(gain / ideal)
        assert found.recall[number] == pytest.approx(len(places) / len(wanted))
        assert found.reciprocal_rank[number] == pytest.approx(1 / places[0] if places else 0)
    half = found.of(np.arange(len(rows)) % 2 == 0)
    assert half.ndcg.tolist() == found.ndcg[::2].tolist()
    assert half.listed.sum() == sum(len(listed[:length]) for _, listed, _ in rows[::2])


def _judged(user: Any, ndcg: Any) -> Judged:
    """Lists of nothing with a given NDCG."""
    none = np.zeros(len(user))
    return Judged(
        user=user,
        ndcg=ndcg,
        recall=none,
        reciprocal_rank=none,
        diversity=none,
        novelty=none,
        popularity=none,
        target_popularity=none,
        recipes=np.full((len(user), 10), -1),
        alive=np.ones(3, dtype=bool),
    )
