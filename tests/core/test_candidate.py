"""A candidate: trained from the marts, judged on interactions that training did not see."""

import pyarrow as pa
import pytest

from kurashiru_pipeline.core.candidate import (
    HOLDOUT_BEHAVIORS,
    STATISTICS,
    TRANSITIONS,
    Holdout,
    evaluate_holdout,
    objection,
    train_candidate,
)
from kurashiru_pipeline.core.training import train_artifact
from tests.kitchen import weights
from tests.snowpark.marts import NAMES, training_tables

Tables = dict[str, pa.Table]


@pytest.fixture
def tables() -> Tables:
    return training_tables()


def test_the_artifact_learns_from_everything(tables: Tables) -> None:
    candidate = train_candidate(tables, weights(), "v1")
    assert candidate is not None
    whole = train_artifact(tables[TRANSITIONS], tables[STATISTICS], weights(), version="v1", metadata={})
    assert (candidate.neighbours != whole.neighbours).nnz == 0
    assert candidate.version == "v1"
    assert candidate.metadata["transitions"] == len(tables[TRANSITIONS])
    assert candidate.metadata["weights"] == weights().model_dump()
    assert objection(candidate) is None


def test_steps_that_training_saw_before_are_foretold(tables: Tables) -> None:
    holdout = evaluate_holdout(tables, weights())
    assert holdout.queries == 40
    assert holdout.ndcg is not None
    assert holdout.ndcg_without_model is not None
    assert holdout.ndcg > 0.5 > holdout.ndcg_without_model
    assert holdout.is_passed


def test_weights_of_the_days_kept_back_do_not_count(tables: Tables) -> None:
    """Backwards steps have weight only in those days, however much."""
    backwards = [
        {"from_recipe_id": after, "to_recipe_id": name, "weight": 1e6, "holdout_weight": 0.0}
        for name, after in zip(NAMES, NAMES[2:], strict=False)
    ]
    schema = tables[TRANSITIONS].schema
    more = pa.concat_tables([tables[TRANSITIONS], pa.Table.from_pylist(backwards, schema=schema)])
    assert evaluate_holdout(tables | {TRANSITIONS: more}, weights()) == evaluate_holdout(tables, weights())


def test_what_cannot_be_asked_does_not_hold_a_model_back(tables: Tables) -> None:
    unasked = tables | {HOLDOUT_BEHAVIORS: tables[HOLDOUT_BEHAVIORS].slice(0, 0)}
    assert evaluate_holdout(unasked, weights()) == Holdout()
    candidate = train_candidate(unasked, weights(), "v1")
    assert candidate is not None
    assert candidate.metadata["holdout"]["is_passed"]


def test_nothing_to_learn_from(tables: Tables) -> None:
    assert train_candidate(tables | {TRANSITIONS: tables[TRANSITIONS].slice(0, 0)}, weights(), "v1") is None


@pytest.mark.parametrize(("ndcg", "without", "is_passed"), [(0.2, 0.1, True), (0.1, 0.1, True), (0.1, 0.2, False)])
def test_a_model_must_be_as_good_as_none(ndcg: float, without: float, is_passed: bool) -> None:
    assert Holdout(queries=9, ndcg=ndcg, ndcg_without_model=without).is_passed is is_passed
