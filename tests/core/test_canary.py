"""A canary: the same arms on both engines, and a test that may be looked at all the time."""

import math
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import duckdb
import numpy as np
import pytest

from kurashiru_pipeline.core.canary import (
    Arm,
    Canary,
    Outcome,
    Verdict,
    judge_canary,
    sample_ratio_evidence,
    sequential_half_width,
)
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.errors import ConfigurationError
from tests.kitchen import NOW
from tests.snowflake.account import deployed

CANARY = Canary("20261123T093000Z-1a2b3c4d", 0.05, NOW)
RULES = load_weights().canary
USERS = [f"user-{number}" for number in range(20_000)]


def test_users_stay_in_their_arm_and_a_larger_share_takes_no_one_away() -> None:
    few = CANARY.is_challenger(USERS)
    assert (few == CANARY.is_challenger(USERS)).all()
    many = Canary(CANARY.version, 0.2, NOW + timedelta(days=1)).is_challenger(USERS)
    assert many[few].all()
    assert abs(few.mean() - 0.05) < 0.006
    assert abs(many.mean() - 0.2) < 0.012


def test_another_challenger_draws_other_users() -> None:
    other = Canary("another", 0.05, NOW).is_challenger(USERS)
    assert (other & CANARY.is_challenger(USERS)).mean() < 0.006


def _duckdb(sql: str, _: Path) -> list[tuple[str]]:
    return duckdb.sql(sql).fetchall()


def _snowflake(sql: str, folder: Path) -> list[tuple[str]]:
    with deployed(folder / "account", folder / "landing") as account:
        connection = account.connect(database="KURASHIRU", warehouse="KURASHIRU_PIPELINE", schema="OPS")
        try:
            rows: list[tuple[str]] = connection.cursor().execute(sql).fetchall()
            return rows
        finally:
            connection.close()


@pytest.mark.parametrize("ask", [_duckdb, pytest.param(_snowflake, marks=pytest.mark.stand_in)])
@pytest.mark.parametrize("share", [0.05, 0.5])
def test_sql_draws_the_same_users(ask: Callable[[str, Path], list[tuple[str]]], share: float, tmp_path: Path) -> None:
    canary = replace(CANARY, share=share)
    users = [*USERS[:500], "利用者-1", "A_b-9"]
    values = ", ".join(f"('{user}')" for user in users)
    found = ask(
        f"select user_id from (values {values}) as users (user_id) "
        f"where substr(md5('{canary.version}:' || user_id), 1, 8) < '{canary.threshold}'",
        tmp_path,
    )
    drawn = canary.is_challenger(users)
    assert {user for (user,) in found} == {user for user, is_drawn in zip(users, drawn, strict=True) if is_drawn}
    assert drawn.any()


@pytest.mark.parametrize("share", [0.0, -0.1, 0.51, 1.0, math.nan])
def test_a_share_is_a_minority(share: float) -> None:
    with pytest.raises(ConfigurationError, match=r"at most 0\.5"):
        Canary("v", share, NOW)


def arm(impressions: np.ndarray, clicks: np.ndarray) -> Arm:
    seen = impressions > 0
    n, c = impressions[seen], clicks[seen]
    return Arm(len(n), int(n.sum()), int(c.sum()), float(n @ n), float(n @ c), float(c @ c))


def even(users: int, ctr: float, impressions: int = 20) -> Arm:
    """Every user was shown as much, and clicked as the next one or not at all."""
    rng = np.random.default_rng(users)
    return arm(np.full(users, float(impressions)), rng.binomial(impressions, ctr, users).astype(float))


def judged(challenger: Arm, champion: Arm, *, share: float = 0.5, days: float = 1.0) -> Verdict:
    canary = Canary("v2", share, NOW)
    return judge_canary(canary, challenger, champion, RULES, NOW + timedelta(days=days))


@pytest.mark.parametrize(
    ("challenger", "champion", "days", "outcome", "says"),
    [
        (Arm(), Arm(), 0.1, Outcome.TOO_EARLY, "keep going: 0 users of the challenger"),
        (even(150, 0.9), even(160, 0.1), 1, Outcome.TOO_EARLY, "200 of each are needed"),
        (even(900, 0.1), even(910, 0.1), 1, Outcome.GOES_ON, "keep going: its click-through rate differs by -"),
        (even(900, 0.14), even(910, 0.1), 1, Outcome.BETTER, "kurashiru model promote v2"),
        (even(900, 0.06), even(910, 0.1), 1, Outcome.WORSE, "challenger worse, so the canary ends"),
        (even(900, 0.1), even(910, 0.1), 15, Outcome.UNDECIDED, "nothing decided in the time set"),
        (even(150, 0.9), even(160, 0.1), 15, Outcome.UNDECIDED, "so the canary ends"),
        (even(900, 0.14), even(910, 0.1), 15, Outcome.BETTER, "challenger better"),
        (even(600, 0.14), even(910, 0.1), 1, Outcome.MISMATCH, "600 of 1,510 users are the challenger's"),
        (Arm(), even(300, 0.1), 1, Outcome.MISMATCH, "the arms cannot be compared"),
    ],
)
def test_what_is_done_is_said(challenger: Arm, champion: Arm, days: float, outcome: Outcome, says: str) -> None:
    verdict = judged(challenger, champion, days=days)
    assert verdict.outcome is outcome
    assert says in verdict.sentence
    assert verdict.outcome.ends == ("canary ends" in verdict.sentence)
    assert verdict.low <= (verdict.difference or 0.0) <= verdict.high


def test_users_and_not_impressions_are_the_evidence() -> None:
    """The same clicks from fewer users, each of whom clicks on all or nothing, say less."""
    rng = np.random.default_rng(3)
    alike = arm(np.full(1000, 20.0), rng.binomial(20, 0.1, 1000).astype(float))
    apart = arm(np.full(1000, 20.0), 20.0 * rng.binomial(1, 0.1, 1000))
    assert apart.variance > 10 * alike.variance
    assert Arm(users=1, impressions=9).variance == math.inf


def test_the_variance_is_that_of_repeated_draws() -> None:
    rng = np.random.default_rng(8)
    drawn = []
    for _ in range(400):
        shown = 1.0 + rng.poisson(rng.lognormal(1, 1, 300))
        clicked = rng.binomial(shown.astype(int), rng.beta(2, 18, 300)).astype(float)
        drawn.append(arm(shown, clicked))
    rates = [one.ctr for one in drawn if one.ctr is not None]
    assert np.mean([one.variance for one in drawn]) == pytest.approx(np.var(rates), rel=0.2)


def looked_at_all_the_time(seed: int, *, lift: float, looks: int = 60, users: int = 1200) -> tuple[bool, bool]:
    """Whether a canary ever was decided, by the sequential interval and by the plain one of 1.96 standard errors.

    Users come at any time, some much oftener than others, each with a click rate of their own; after every look they
    may come again.
    """
    rng = np.random.default_rng(seed)
    is_challenger = rng.random(users) < 0.5
    entry, activity = rng.integers(0, looks, users), rng.lognormal(0, 1.2, users)
    rate = np.clip(rng.beta(2, 18, users) + lift * is_challenger, 0, 1)
    shown, clicked = np.zeros(users), np.zeros(users)
    is_decided = is_decided_plainly = False
    for look in range(looks):
        impressions = 6 * rng.poisson(activity * 8 / looks) * (entry <= look)
        shown += impressions
        clicked += rng.binomial(impressions, rate)
        challenger = arm(shown[is_challenger], clicked[is_challenger])
        champion = arm(shown[~is_challenger], clicked[~is_challenger])
        if min(challenger.users, champion.users) < 100 or challenger.ctr is None or champion.ctr is None:
            continue
        difference, variance = abs(challenger.ctr - champion.ctr), challenger.variance + champion.variance
        is_decided |= difference > sequential_half_width(variance, RULES.effect)
        is_decided_plainly |= difference > 1.96 * math.sqrt(variance)
    return is_decided, is_decided_plainly


def test_looking_all_the_time_does_not_find_what_is_not_there() -> None:
    sequential, plain = np.mean([looked_at_all_the_time(seed, lift=0.0) for seed in range(200)], axis=0)
    assert sequential <= 0.05
    assert plain > 0.12, "so that the test can fail: this is what eyeballing would do"


def test_what_is_there_is_found() -> None:
    found = [looked_at_all_the_time(seed, lift=0.04)[0] for seed in range(40)]
    assert np.mean(found) > 0.8


def test_numbers_of_users_alarm_only_when_they_are_wrong() -> None:
    """Looked at after every user: the right share hardly ever alarms, a share that loses one in five soon does."""
    rng = np.random.default_rng(2)

    def alarms(true_share: float) -> bool:
        drawn = np.cumsum(rng.random(4000) < true_share)
        return any(
            sample_ratio_evidence(int(drawn[count - 1]), count - int(drawn[count - 1]), 0.2) >= 100
            for count in range(50, 4001, 50)
        )

    assert np.mean([alarms(0.2) for _ in range(200)]) <= 0.01
    assert all(alarms(0.16) for _ in range(20))
