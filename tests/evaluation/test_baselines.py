"""Baselines: each formula on numbers small enough to work out, and the choice of hiding what was seen."""

import importlib.util
from typing import Any

import numpy as np
import pytest

from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.evaluation import baselines
from kurashiru_pipeline.evaluation.baselines import BASELINES, Baseline, Own, unavailable
from kurashiru_pipeline.evaluation.queries import Protocol, Queries, ask
from kurashiru_pipeline.evaluation.replay import Replay
from tests.evaluation.small_world import DAY, START, World, world

SECOND = 1_000_000
ROWS = [
    ("ann", "r01", 0), ("ann", "r02", 1), ("ann", "r01", 2), ("ann", "r03", 3), ("ann", "r04", 30),
    ("bob", "r02", 1), ("bob", "r04", 2), ("bob", "r05", 3), ("bob", "r02", 4), ("bob", "r04", 5),
    ("ann", "r06", 40), ("bob", "r07", 40),
]  # fmt: skip
NOW = (START + 40 * DAY) * SECOND


@pytest.fixture(scope="module")
def replay() -> Replay:
    rows = sorted(ROWS, key=lambda row: row[2])
    days = World([row[0] for row in rows], [row[1] for row in rows], [START + row[2] * DAY for row in rows])
    return Replay(days.interactions(), load_weights())


@pytest.fixture(scope="module")
def queries(replay: Replay) -> Queries:
    """Ann and Bob at day 40, five interactions each before."""
    return ask(replay.interactions, Protocol.NEXT_ITEM, NOW, NOW + 1, 10)


def learned(replay: Replay, name: str) -> Any:
    made: Baseline = BASELINES[name](replay)
    made.learn(NOW)
    return made


def lists(replay: Replay, queries: Queries, name: str, *, hides: bool) -> list[list[str]]:
    names = replay.interactions.catalogue.recipe_ids.to_pylist()
    made = learned(replay, name).lists(queries, hides, 4)
    return [[names[place] for place in row if place >= 0] for row in made.tolist()]


def test_popularity_counts_or_fades(replay: Replay, queries: Queries) -> None:
    assert lists(replay, queries, "popular", hides=False) == [["r02", "r04", "r01", "r03"]] * 2
    assert lists(replay, queries, "popular", hides=True) == [["r05"], ["r01", "r03"]]
    assert lists(replay, queries, "recent-popular", hides=False)[0] == ["r04", "r02", "r03", "r05"]


def test_the_last_repeat_comes_first(replay: Replay, queries: Queries) -> None:
    assert lists(replay, queries, "repeat-last", hides=False) == [["r04", "r03", "r01", "r02"], ["r04", "r02", "r05"]]


def test_sequential_rules_weigh_pairs_by_their_gap(replay: Replay, queries: Queries) -> None:
    made = learned(replay, "sequential-rules")
    assert made.similarity.toarray()[2, 4] == pytest.approx(
        (_pairs("r02", "r04") + 0.5 * _pairs("r04", "r02")) / ((3 + 5) ** 0.5 * (3 + 5) ** 0.3)
    )
    assert _pairs("r02", "r04") == pytest.approx(1 / 3 + 1 + 1 / 4 + 1)
    own = Own.of(replay.interactions, queries)
    assert made.weigh(own)[own.query == 0].tolist() == pytest.approx([0.5**2, 0.5**1.5, 0.5, 0.5**0.5, 1])


def _pairs(first: str, second: str) -> float:
    """Sum over users of 1 / gap, counted by hand."""
    total = 0.0
    for user in ("ann", "bob"):
        taken = [item for name, item, day in sorted(ROWS, key=lambda row: row[2]) if name == user and day < 40]
        total += sum(
            1 / (later - at)
            for at, item in enumerate(taken)
            for later in range(at + 1, len(taken))
            if item == first and taken[later] == second
        )
    return total


def test_sar_is_affinity_times_jaccard(replay: Replay, queries: Queries) -> None:
    made = learned(replay, "sar")
    assert made.similarity.toarray()[2, 1:6].tolist() == pytest.approx([1 / 2, 1, 1 / 2, 1, 1 / 2])
    own = Own.of(replay.interactions, queries)
    score = made.scores(own)
    ages = {"r01": [40, 38], "r02": [39], "r03": [37], "r04": [10]}
    affinity = {name: sum(0.5 ** (age / 30) for age in days) for name, days in ages.items()}
    expected = 0.5 * affinity["r02"] + 0.5 * affinity["r04"]
    assert score[0, 5] == pytest.approx(expected, rel=1e-5)


def test_ease_solves_its_equations(replay: Replay) -> None:
    """Each column is the ridge regression of a recipe on all others."""
    weights = learned(replay, "ease").similarity.astype(float)
    taken = np.zeros((2, len(replay.interactions.catalogue.recipe_ids)))
    for name, item, day in ROWS:
        if day < 40:
            taken[("ann", "bob").index(name), int(item[1:])] = 1
    others = [place for place in range(taken.shape[1]) if place != 4]
    gram = taken[:, others].T @ taken[:, others] + 500 * np.eye(len(others))
    assert weights[others, 4] == pytest.approx(np.linalg.solve(gram, taken[:, others].T @ taken[:, 4]), abs=1e-8)
    assert weights[4, 4] == 0


def test_the_librarys_cosine_is_the_cosine(replay: Replay, queries: Queries) -> None:
    assert lists(replay, queries, "implicit-cosine", hides=True)[0] == ["r05"]
    assert set(lists(replay, queries, "implicit-bm25", hides=True)[1]) <= {"r01", "r03"}


@pytest.mark.parametrize("name", BASELINES)
def test_no_list_repeats_or_holds_what_must_be_hidden(name: str) -> None:
    replay = Replay(world().interactions(), load_weights())
    at = (START + 45 * DAY) * SECOND
    queries = ask(replay.interactions, Protocol.NEXT_ITEM, at, at + 15 * DAY * SECOND, 60)
    made = BASELINES[name](replay)
    made.learn(at)
    own = Own.of(replay.interactions, queries)
    for hides, found in made.both_lists(queries, 10).items():
        assert np.array_equal(found, made.lists(queries, hides, 10))
        for nth, row in enumerate(found.tolist()):
            listed = [place for place in row if place >= 0]
            assert len(set(listed)) == len(listed)
            if hides:
                assert not set(listed) & set(own.recipe[own.query == nth].tolist())
    assert (found >= 0).any()


def test_what_cannot_run_says_how_to_mend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert unavailable("ease", 5_000) is None
    assert "at most 5,000" in str(unavailable("ease", 5_001))
    assert unavailable("implicit-bm25", 10) is None
    real = importlib.util.find_spec
    monkeypatch.setattr(baselines, "find_spec", lambda name: None if name == "implicit" else real(name))
    assert "pip install 'kurashiru_pipeline[baselines]'" in str(unavailable("implicit-bm25", 10))
