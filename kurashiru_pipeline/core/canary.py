"""A canary: a share of the users gets the challenger's lists, and their clicks decide.

Here: who is in which arm, and what the clicks so far say, however often one looks.
Not here: the ranking of an arm (realtime/kernel.py), counting its clicks (dbt: marts.canary_days), and what is done
about it (analytics/canary_assets.py).
"""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np

from kurashiru_pipeline.core.columns import Bools
from kurashiru_pipeline.core.weights import CanaryRules
from kurashiru_pipeline.errors import ConfigurationError

CONFIDENCE = 0.95
LARGEST_SHARE = 0.5
_MISMATCH = 1000.0
_PRIOR_USERS = 100.0


class ArmName(StrEnum):
    """The two arms, as marts.canary_days names them."""

    CHAMPION = "champion"
    CHALLENGER = "challenger"


@dataclass(frozen=True)
class Canary:
    """A challenger beside the model in service.

    Attributes:
        version: the challenger.
        share: of the users, above 0 and at most LARGEST_SHARE.
        started_at: naive UTC; together with the version it names the canary.
    """

    version: str
    share: float
    started_at: datetime

    def __post_init__(self) -> None:
        if not 0 < self.share <= LARGEST_SHARE:
            message = f"a canary takes a share of the users above 0 and at most {LARGEST_SHARE}, not {self.share}"
            raise ConfigurationError(message)

    @property
    def threshold(self) -> str:
        """Eight hexadecimal digits: users whose own are below it are the challenger's.

        A user's digits are the first eight of md5("<version>:<user_id>"). Text is compared, in the order of ASCII, so
        Python, DuckDB and Snowflake agree without any number of 32 bits. Another challenger draws other users.
        """
        return f"{round(self.share * 2**32):08x}"

    @property
    def mark(self) -> str:
        """What goes into the content hash of every list of both arms, so that each user's first list of the canary is
        delivered even if it is the one before; otherwise only the arm that changes something would be counted."""
        return f"{self.version} {self.started_at.isoformat()}"

    def is_challenger(self, user_ids: Iterable[str]) -> Bools:
        """Which of the users get the challenger's lists."""
        threshold, start = self.threshold, hashlib.md5(f"{self.version}:".encode(), usedforsecurity=False)

        def digits(user_id: str) -> str:
            hashed = start.copy()
            hashed.update(user_id.encode())
            return hashed.hexdigest()[:8]

        return np.array([digits(user_id) < threshold for user_id in user_ids], dtype=bool)


@dataclass(frozen=True)
class Arm:
    """Impressions and clicked impressions of an arm, summed over its users, with the sums of squares that say how much
    the users differ. Defaults: nobody was shown anything."""

    users: int = 0
    impressions: int = 0
    clicks: int = 0
    squared_impressions: float = 0.0
    impressions_by_clicks: float = 0.0
    squared_clicks: float = 0.0

    @property
    def ctr(self) -> float | None:
        """Clicked impressions by impressions."""
        return self.clicks / self.impressions if self.impressions else None

    @property
    def variance(self) -> float:
        """Of the click-through rate, with users as clusters: U / (U - 1) * sum over users of (clicks - ctr *
        impressions)^2 / impressions^2. Infinite with fewer than two users.

        The delta method of a ratio of sums: Deng, Knoblich and Lu, Applying the Delta Method in Metric Analytics, 2018.
        """
        if self.users < 2 or self.ctr is None:
            return math.inf
        squares = (
            self.squared_clicks - 2 * self.ctr * self.impressions_by_clicks + self.ctr**2 * self.squared_impressions
        )
        return self.users / (self.users - 1) * max(squares, 0.0) / self.impressions**2


class Outcome(StrEnum):
    """What is to be done."""

    TOO_EARLY = "too_early"
    GOES_ON = "goes_on"
    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"
    MISMATCH = "mismatch"

    @property
    def ends(self) -> bool:
        """Whether the challenger is taken away from its users."""
        return self in {Outcome.WORSE, Outcome.UNDECIDED, Outcome.MISMATCH}


_SAYS = {
    Outcome.TOO_EARLY: "keep going",
    Outcome.GOES_ON: "keep going",
    Outcome.BETTER: "challenger better",
    Outcome.WORSE: "challenger worse, so the canary ends",
    Outcome.UNDECIDED: "nothing decided in the time set, so the canary ends",
    Outcome.MISMATCH: "the arms cannot be compared, so the canary ends",
}


@dataclass(frozen=True)
class Verdict:
    """What the clicks so far say.

    Attributes:
        difference: click-through rate of the challenger minus that of the champion; None before both showed something.
        low: lower end of its interval, which holds at every look at once.
        high: upper end.
        mismatch: how many times likelier the numbers of users are if the shares are other than set.
        sentence: for a person.
    """

    outcome: Outcome
    challenger: Arm
    champion: Arm
    difference: float | None
    low: float
    high: float
    mismatch: float
    sentence: str


def judge_canary(canary: Canary, challenger: Arm, champion: Arm, rules: CanaryRules, now: datetime) -> Verdict:
    """What to do about a canary; may be asked at any time, and as often as one likes.

    Args:
        challenger: everything its users were shown since the canary began.
        champion: likewise.
        rules: least numbers of users, the effect looked for, the longest time.
        now: naive UTC.
    """
    mismatch = sample_ratio_evidence(challenger.users, champion.users, canary.share)
    difference, low, high = None, -1.0, 1.0
    if challenger.ctr is not None and champion.ctr is not None:
        difference = challenger.ctr - champion.ctr
        half = sequential_half_width(challenger.variance + champion.variance, rules.effect)
        low, high = max(difference - half, -1.0), min(difference + half, 1.0)
    fact = f"its click-through rate differs by {low:+.2%} to {high:+.2%}"
    outcome = Outcome.BETTER if low > 0 else Outcome.WORSE if high < 0 else Outcome.GOES_ON
    if min(challenger.users, champion.users) < rules.min_users:
        outcome = Outcome.TOO_EARLY
        fact = (
            f"{challenger.users:,} users of the challenger and {champion.users:,} of the champion saw their lists, "
            f"{rules.min_users:,} of each are needed"
        )
    if mismatch >= _MISMATCH:
        outcome = Outcome.MISMATCH
        fact = (
            f"{challenger.users:,} of {challenger.users + champion.users:,} users are the challenger's instead of "
            f"{canary.share:.1%}: lists or events of one arm are lost"
        )
    if not outcome.ends and outcome is not Outcome.BETTER and now - canary.started_at > timedelta(days=rules.days):
        outcome = Outcome.UNDECIDED
    sentence = f"{_SAYS[outcome]}: {fact}"
    if outcome is Outcome.BETTER:
        sentence += f". Put it in service: kurashiru model promote {canary.version}"
    return Verdict(outcome, challenger, champion, difference, low, high, mismatch, sentence)


def sequential_half_width(variance: float, effect: float) -> float:
    """Half the width of an interval around an estimate that holds at all looks at once.

    The mixture sequential probability ratio test with a normal mixture of standard deviation `effect`, turned round:
    theta is in it while sqrt(V / (V + t^2)) * exp(t^2 (estimate - theta)^2 / (2 V (V + t^2))) < 1 / alpha. It is
    narrowest, for its level, where the true effect is about `effect`. (Robbins, 1970; Johari, Koomen, Pekelis and
    Walsh, Always Valid Inference, 2022; for estimated variances Waudby-Smith et al., Time-Uniform Central Limit Theory
    and Asymptotic Confidence Sequences, 2024: valid as the number of users grows, hence `min_users`.)

    Args:
        variance: V, of the estimate.
        effect: t, what the difference is thought to be, as large.
    """
    if not math.isfinite(variance):
        return math.inf
    if variance == 0:
        return 0.0
    wider = variance + effect**2
    return math.sqrt(variance * wider / effect**2 * (2 * math.log(1 / (1 - CONFIDENCE)) + math.log(wider / variance)))


def sample_ratio_evidence(challengers: int, champions: int, share: float) -> float:
    """How many times likelier these numbers of users are under some share other than `share` than under `share`.

    Bayes factor with a beta distribution around the share that weighs 100 users. Under the right share it exceeds x at
    any time with a probability of at most 1 / x. (Lindon and Malek, Anytime-Valid Inference for Multinomial Count Data,
    2022.)
    """
    one, other = _PRIOR_USERS * share, _PRIOR_USERS * (1 - share)
    logarithm = (
        _log_beta(one + challengers, other + champions)
        - _log_beta(one, other)
        - challengers * math.log(share)
        - champions * math.log1p(-share)
    )
    return math.exp(min(logarithm, 700.0))


def _log_beta(one: float, other: float) -> float:
    return math.lgamma(one) + math.lgamma(other) - math.lgamma(one + other)
