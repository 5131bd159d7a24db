"""The gate: what goes into service through the real kernel, what does not, and what is said of it."""

import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest

from kurashiru_pipeline.core.artifact import InService, ModelArtifact
from kurashiru_pipeline.core.canary import Canary
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.gate import (
    NO_MODEL,
    Action,
    Contender,
    Decision,
    Holdout,
    Kind,
    Record,
    decide,
    hold,
    judge_holdout,
    recipe_digest,
    version_before,
)
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.errors import ConfigurationError
from tests.kitchen import NOW, behaviors_table, catalogue, did, model, popularity, recipe, weights

TAGS = ("time_saving", "savings", "microwave", "weight_loss", "baby_food")
NAMES = [f"r{number:02d}" for number in range(60)]
RULES = load_weights().promotion
NOBODY = Contender()


@pytest.fixture(scope="module")
def recipes() -> Catalogue:
    return catalogue(*(recipe(name, TAGS[number % len(TAGS)]) for number, name in enumerate(NAMES)))


@pytest.fixture(scope="module")
def holdout(recipes: Catalogue) -> Holdout:
    """80 users, each asked four times; whoever looked at a recipe looks at the next one, mostly."""
    rng = random.Random(4)
    asked: list[dict[str, str]] = []
    behaviors = []
    for number in range(320):
        query, at = f"q{number:03d}", rng.randrange(len(NAMES))
        behaviors += [
            did(query, "recipe_view", NAMES[at], days_ago=0.001),
            did(query, "recipe_view", rng.choice(NAMES), days_ago=2),
        ]
        target = NAMES[(at + 1) % len(NAMES)] if rng.random() < 0.8 else rng.choice(NAMES)
        asked.append({"target": target, "asked_by": f"u{number % 80}"})
    queries = build_profiles(behaviors_table(*behaviors), recipes, weights(), NOW)
    for name in ("target", "asked_by"):
        queries = queries.append_column(name, pa.array([row[name] for row in asked]))
    interactions = pa.table({"recipe_id": NAMES, "interactions": [float(60 - n) for n in range(60)]})
    live = popularity(**{name: 60.0 - number for number, name in enumerate(NAMES)})
    return Holdout(queries, live, interactions, NOW)


def steps(known: int = len(NAMES), noise: float = 0.0) -> ModelArtifact:
    """A model that knows the next step from the first recipes, and guesses about the others."""
    rng = random.Random(known)
    transitions = {
        (name, NAMES[(at + 1) % len(NAMES)] if at < known else rng.choice(NAMES)): 1.0 + noise * rng.random()
        for at, name in enumerate(NAMES)
    }
    return model({pair: weight for pair, weight in transitions.items() if pair[0] != pair[1]})


GOOD, HALF, WORSE = steps(), steps(30), steps(0)
POPULAR_ONLY = model({(name, popular): 1.0 for name in NAMES for popular in NAMES[:12] if name != popular})


def decided(
    recipes: Catalogue,
    holdout: Holdout | None,
    challenger: ModelArtifact,
    champion: ModelArtifact | None,
    *,
    is_same_recipe: bool,
    twins: tuple[ModelArtifact, ModelArtifact] | None = None,
) -> Decision:
    """What the gate makes of two models; both were learned without the hold-out days, unless twins are given."""
    challenger = replace(challenger, version="v2")
    champion = None if champion is None else replace(champion, version="v1")
    own, other = twins or (challenger, champion)
    judgement = judge_holdout(holdout, recipes, weights(), Contender(challenger, own), Contender(champion, other))
    return decide(
        "v2",
        {"recipe": "A" if is_same_recipe else "B", "judgement": judgement},
        InService("v1" if champion else None),
        {"recipe": "A"} if champion else None,
        rules=RULES,
        hold=None,
    )


def unmet(decision: Decision) -> set[str]:
    return {ground.name for ground in decision.grounds if not ground.is_met}


@pytest.mark.parametrize("is_same_recipe", [True, False])
def test_a_worse_model_stays_out(recipes: Catalogue, holdout: Holdout, is_same_recipe: bool) -> None:
    decision = decided(recipes, holdout, WORSE, GOOD, is_same_recipe=is_same_recipe)
    assert not decision.is_promoted
    assert "ndcg" in unmet(decision)
    assert "NDCG@10 differs from that of v1 by -0." in decision.sentence


@pytest.mark.parametrize("champion", [GOOD, HALF, None])
@pytest.mark.parametrize("is_same_recipe", [True, False])
def test_a_popular_only_model_stays_out(
    recipes: Catalogue, holdout: Holdout, champion: ModelArtifact | None, is_same_recipe: bool
) -> None:
    decision = decided(recipes, holdout, POPULAR_ONLY, champion, is_same_recipe=is_same_recipe)
    assert not decision.is_promoted
    assert "coverage" in unmet(decision)
    assert ("ndcg" in unmet(decision)) is (champion is not None)


def test_an_empty_model_stays_out_even_as_the_first(recipes: Catalogue, holdout: Holdout) -> None:
    for asked in (holdout, None):
        decision = decided(recipes, asked, model({}), None, is_same_recipe=False)
        assert not decision.is_promoted
        assert "model" in unmet(decision)


@pytest.mark.parametrize(("champion", "kind"), [(HALF, Kind.RECIPE), (None, Kind.FIRST)])
def test_a_better_model_goes_in(
    recipes: Catalogue, holdout: Holdout, champion: ModelArtifact | None, kind: Kind
) -> None:
    decision = decided(recipes, holdout, GOOD, champion, is_same_recipe=False)
    assert decision.is_promoted
    assert (decision.kind, decision.sentence) == (kind, f"promoted ({kind})")


def test_an_equal_model_goes_in_only_as_a_refresh(recipes: Catalogue, holdout: Holdout) -> None:
    equal = steps(noise=0.1)
    assert decided(recipes, holdout, equal, GOOD, is_same_recipe=True).is_promoted
    decision = decided(recipes, holdout, equal, GOOD, is_same_recipe=False)
    assert unmet(decision) == {"ndcg"}
    assert "it has to be better by more than the interval" in decision.sentence


def test_a_refresh_is_not_refused_because_the_model_in_service_has_seen_the_days(
    recipes: Catalogue, holdout: Holdout
) -> None:
    """Both know the days, their twins do not; the candidate's twin alone would lose to the model in service."""
    assert decided(recipes, holdout, GOOD, GOOD, is_same_recipe=True, twins=(HALF, HALF)).is_promoted
    unfair = judge_holdout(holdout, recipes, weights(), Contender(GOOD, HALF), Contender(GOOD))
    assert unfair["unseen"][2] < 0, "so it would be refused every hour"


def test_another_recipe_is_judged_on_days_it_has_not_seen(recipes: Catalogue, holdout: Holdout) -> None:
    """It learned the hold-out days by heart, and is no better without them."""
    decision = decided(recipes, holdout, GOOD, HALF, is_same_recipe=False, twins=(HALF, HALF))
    assert unmet(decision) == {"ndcg"}


def test_a_version_without_a_twin_stands_in_for_it(recipes: Catalogue, holdout: Holdout) -> None:
    judgement = judge_holdout(holdout, recipes, weights(), Contender(GOOD, GOOD), Contender(HALF))
    assert judgement["in_service"]["seen"] == judgement["in_service"]["unseen"]


def test_a_model_that_forgot_what_its_twin_knew_is_broken(recipes: Catalogue, holdout: Holdout) -> None:
    """The refresh is as bad as what is in service, so nothing else could tell."""
    decision = decided(recipes, holdout, HALF, HALF, is_same_recipe=True, twins=(GOOD, GOOD))
    assert unmet(decision) == {"soundness"}


@pytest.mark.parametrize(
    ("challenger", "champion", "is_same_recipe", "is_promoted"),
    [
        (GOOD, None, False, True),
        (GOOD, HALF, True, True),
        (GOOD, HALF, False, False),
    ],
)
def test_without_queries_only_a_first_model_and_a_refresh_go_in(
    recipes: Catalogue,
    challenger: ModelArtifact,
    champion: ModelArtifact | None,
    is_same_recipe: bool,
    is_promoted: bool,
) -> None:
    decision = decided(recipes, None, challenger, champion, is_same_recipe=is_same_recipe)
    assert decision.is_promoted is is_promoted
    assert unmet(decision) == (set() if is_promoted else {"queries"})
    said = next(ground.sentence for ground in decision.grounds if ground.name == "queries")
    assert said.startswith("0 hold-out queries of 200 needed")


def test_few_queries_refuse_only_what_is_clearly_worse(recipes: Catalogue, holdout: Holdout) -> None:
    few = replace(holdout, queries=holdout.queries.slice(0, 60))
    assert decided(recipes, few, GOOD, HALF, is_same_recipe=True).is_promoted
    assert "ndcg" in unmet(decided(recipes, few, WORSE, GOOD, is_same_recipe=True))
    assert unmet(decided(recipes, few, GOOD, HALF, is_same_recipe=False)) == {"queries"}


def judgement(**changes: Any) -> dict[str, Any]:
    """Figures by hand: alike in everything, and better by the interval."""
    side = {"seen": {"ndcg_at_10": 0.2, "coverage_at_10": 0.5, "diversity_at_10": 0.8}}
    found = {"champion": "v1", "neighbours": 5, "queries": 500, "users": 90, "challenger": side, "in_service": side}
    return found | {"seen": [0.0, -0.001, 0.001], "unseen": [0.01, 0.001, 0.02], "kept": [0.1, 0.1, 0.1]} | changes


def narrowed(name: str, value: float) -> dict[str, Any]:
    seen = judgement()["challenger"]["seen"] | {name: value}
    return judgement(challenger={"seen": seen})


@pytest.mark.parametrize(
    ("found", "is_same_recipe", "ground"),
    [
        (judgement(), False, None),
        (judgement(), True, None),
        (judgement(unseen=[0.01, -0.0001, 0.02]), False, "ndcg"),
        (judgement(unseen=[-0.01, -0.02, -0.001]), True, None),
        (judgement(seen=[-0.001, -0.011, 0.01]), True, "ndcg"),
        (judgement(seen=[-0.001, -0.009, 0.01]), True, None),
        (judgement(seen=[-0.002, -0.003, -0.001]), True, "ndcg"),
        (narrowed("coverage_at_10", 0.46), True, None),
        (narrowed("coverage_at_10", 0.44), True, "coverage"),
        (narrowed("coverage_at_10", 0.44), False, "coverage"),
        (narrowed("diversity_at_10", 0.77), False, None),
        (narrowed("diversity_at_10", 0.75), False, "diversity"),
        (judgement(queries=199), False, "queries"),
        (judgement(champion="v0"), True, "champion"),
        (judgement(kept=[-0.1, -0.2, -0.01]), True, "soundness"),
    ],
)
def test_each_limit_alone_keeps_a_model_out(found: dict[str, Any], is_same_recipe: bool, ground: str | None) -> None:
    metadata = {"recipe": "A" if is_same_recipe else "B", "judgement": found}
    decision = decide("v2", metadata, InService("v1"), {"recipe": "A"}, rules=RULES, hold=None)
    assert unmet(decision) == ({ground} if ground else set())


def test_a_model_judged_against_another_one_is_trained_anew() -> None:
    metadata = {"recipe": "A", "judgement": judgement(champion=None)}
    decision = decide("v2", metadata, InService("v1"), {"recipe": "A"}, rules=RULES, hold=None)
    assert f"judged against {NO_MODEL}, but v1 is in service: dagster asset materialize" in decision.sentence


def test_a_version_of_before_there_were_recipes_is_another_recipe() -> None:
    metadata = {"recipe": "A", "judgement": judgement()}
    assert decide("v2", metadata, InService("v1"), {}, rules=RULES, hold=None).kind is Kind.RECIPE


def test_limits_of_the_gate_are_no_part_of_a_recipe() -> None:
    digest = recipe_digest(weights(), "1")
    assert recipe_digest(weights(promotion={"coverage": 0.5}, canary={"days": 1.0}), "1") == digest
    assert recipe_digest(weights(blend={"taste": 0.9}), "1") != digest
    assert recipe_digest(weights(), "2") != digest


def history(*acts: tuple[Action, str]) -> list[Record]:
    return [
        Record(NOW + timedelta(hours=number), action, version, "why") for number, (action, version) in enumerate(acts)
    ]


P, R, H, B = Action.PROMOTED, Action.REFUSED, Action.PROMOTED_BY_HAND, Action.ROLLED_BACK


@pytest.mark.parametrize(
    ("acts", "before"),
    [
        ([], None),
        ([(P, "v1")], None),
        ([(P, "v1"), (P, "v2"), (R, "v3")], "v1"),
        ([(P, "v1"), (P, "v2"), (P, "v3"), (B, "v2")], "v1"),
        ([(P, "v1"), (P, "v2"), (B, "v1")], None),
        ([(P, "v1"), (P, "v2"), (B, "v1"), (H, "v1"), (P, "v3")], "v1"),
        ([(P, "v1"), (H, "v0"), (P, "v2")], "v0"),
    ],
)
def test_where_a_rollback_goes(acts: list[tuple[Action, str]], before: str | None) -> None:
    assert version_before(history(*acts)) == before


def test_what_was_taken_out_does_not_come_back_by_itself() -> None:
    promoted, rolled = [(P, "v1"), (P, "v2")], [(P, "v1"), (P, "v2"), (B, "v1"), (R, "v3")]
    assert hold(InService("v2"), history(*promoted)) is None
    held = hold(InService("v1"), history(*rolled))
    assert held is not None
    assert "kurashiru model promote v1" in held
    decision = decide(
        "v4", {"recipe": "A", "judgement": judgement()}, InService("v1"), {"recipe": "A"}, rules=RULES, hold=held
    )
    assert unmet(decision) == {"hold"}
    assert hold(InService("v1"), history(*rolled, (H, "v1"))) is None


def test_nothing_changes_beside_a_canary() -> None:
    held = hold(InService("v1", Canary("v2", 0.1, NOW)), history((P, "v1")))
    assert held is not None
    assert "kurashiru model canary --stop" in held


def test_a_line_of_the_history_comes_back() -> None:
    record = Record(NOW, P, "v1", "weil 卵", {"queries": 3})
    assert Record.from_json(record.to_json()) == record
    with pytest.raises(ConfigurationError, match="remove it"):
        Record.from_json(b'{"action": "danced"}')
