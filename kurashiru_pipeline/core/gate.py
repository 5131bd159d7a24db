"""The gate between a newly trained model and service.

Here: the candidate and the model in service judged on the same hold-out queries, and what follows from the figures.
Not here: training (candidate.py), metrics (metrics.py), who is told and what is promoted (analytics/model_assets.py).

Judging belongs to training, because it needs the marts. Its figures are kept in the candidate's metadata, and the
decision is made from them alone, on every engine.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

import orjson
import pyarrow as pa

from kurashiru_pipeline.core.artifact import MEND, InService, ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.metrics import Judged, difference, judge, summary
from kurashiru_pipeline.core.ranking import rank
from kurashiru_pipeline.core.weights import Promotion, Weights
from kurashiru_pipeline.errors import ConfigurationError

LENGTH = 10
NO_MODEL = "the kernel without a model"

Judgement = dict[str, Any]
"""What `judge_holdout` found, as JSON: `champion` (version or null), `neighbours`, `queries`, and if there were any:
`users`, `challenger` and `in_service` (each `seen` and `unseen`: metrics.summary), `without_model` (likewise), and the
paired differences of NDCG `seen`, `unseen` (challenger - champion) and `kept` (challenger - its twin), each
[mean, low, high]."""


@dataclass(frozen=True)
class Contender:
    """A model as it would serve, and its twin, which was not shown the hold-out days. Without both: no model."""

    artifact: ModelArtifact | None = None
    twin: ModelArtifact | None = None

    @property
    def unseen(self) -> ModelArtifact | None:
        """What is compared fairly on the hold-out days. A version saved without a twin stands in for it; it may have
        seen those days, which speaks for it."""
        return self.artifact if self.twin is None else self.twin


@dataclass(frozen=True)
class Holdout:
    """Queries from the days kept back, all asked at one moment.

    Attributes:
        queries: rows of profiles.PROFILE_SCHEMA with `target`, the recipe that came next, and `asked_by`, the user.
        popularity: what ranking.rank takes as live popularity, from before those days.
        interactions: recipe_id, interactions from before those days.
    """

    queries: pa.Table
    popularity: pa.Table
    interactions: pa.Table
    as_of: datetime


class Kind(StrEnum):
    """What a candidate is to the model in service."""

    FIRST = "first model"
    REFRESH = "same recipe, learned anew"
    RECIPE = "another recipe"


@dataclass(frozen=True)
class Ground:
    """One thing that was looked at, and what was found, for a person."""

    name: str
    is_met: bool
    sentence: str


@dataclass(frozen=True)
class Decision:
    """Whether a candidate goes into service, and why."""

    candidate: str
    champion: str | None
    kind: Kind
    grounds: tuple[Ground, ...]

    @property
    def is_promoted(self) -> bool:
        return all(ground.is_met for ground in self.grounds)

    @property
    def sentence(self) -> str:
        """One line: what was decided, and what stood against it."""
        against = "; ".join(ground.sentence for ground in self.grounds if not ground.is_met)
        return f"not promoted ({self.kind}): {against}" if against else f"promoted ({self.kind})"


def recipe_digest(weights: Weights, code: str) -> str:
    """What two artifacts have in common that differ only in the data they were learned from.

    Args:
        code: version of the code that trains and ranks.
    """
    rules = weights.model_dump(exclude={"promotion", "canary", "segments"})  # what no ranking for a user depends on
    content = orjson.dumps([rules, code], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()[:16]


def judge_holdout(
    holdout: Holdout | None, catalogue: Catalogue, weights: Weights, challenger: Contender, champion: Contender
) -> Judgement:
    """Figures of both on the same queries, through the kernel that serves.

    Two comparisons, because the model in service was trained an hour ago and has seen most of the hold-out days. Twins
    are fair judges of a recipe: neither has seen them. The models themselves have both seen them, and say whether what
    would serve is sound. (A twin against a model that has seen the days would lose to it every hour.)

    Args:
        holdout: None where the history is too short to keep days back.
        champion: what is in service; an empty one is the kernel without a model.
    """
    found: Judgement = {
        "champion": champion.artifact.version if champion.artifact else None,
        "neighbours": int(challenger.artifact.neighbours.nnz) if challenger.artifact else 0,
        "queries": 0,
    }
    if holdout is None or not len(holdout.queries):
        return found

    def judged(artifact: ModelArtifact | None) -> Judged:
        lists = rank(
            holdout.queries, catalogue, holdout.popularity, artifact, weights, holdout.as_of, list_length=LENGTH
        )
        return judge(lists, holdout.queries, catalogue, holdout.interactions, LENGTH)

    seen, in_service = judged(challenger.artifact), judged(champion.artifact)
    unseen = judged(challenger.unseen)
    fair = in_service if champion.twin is None else judged(champion.twin)
    return found | {
        "queries": len(holdout.queries),
        "users": len(set(seen.user.tolist())),
        "without_model": summary(judged(None)),
        "challenger": {"seen": summary(seen), "unseen": summary(unseen)},
        "in_service": {"seen": summary(in_service), "unseen": summary(fair)},
        "seen": list(asdict(difference(seen, in_service)).values()),
        "unseen": list(asdict(difference(unseen, fair)).values()),
        "kept": list(asdict(difference(seen, unseen)).values()),
    }


def decide(
    candidate: str,
    metadata: Mapping[str, Any],
    service: InService,
    champion: Mapping[str, Any] | None,
    *,
    rules: Promotion,
    hold: str | None,
) -> Decision:
    """Whether a candidate goes into service.

    Another recipe, and the first model, has to beat what is in service by more than the interval; the same recipe
    learned anew must not be worse. Neither may narrow the lists beyond the limits. Without enough queries a refresh
    and a first model go in unless what there is speaks against them, since models have to follow the stream.

    Args:
        candidate: its version.
        metadata: its `recipe` and `judgement`.
        champion: metadata of the version in service; None without one.
        hold: why nothing may be promoted at all (see `hold`).
    """
    judgement: Judgement = metadata["judgement"]
    kind = Kind.FIRST if champion is None else Kind.REFRESH if _is_same(metadata, champion) else Kind.RECIPE
    grounds = [_ground("model", judgement["neighbours"] > 0, "it knows {} neighbours", judgement["neighbours"])]
    against = judgement["champion"]
    grounds.append(
        Ground(
            "champion",
            against == service.version,
            f"it was judged against {against or NO_MODEL}"
            + ("" if against == service.version else f", but {service.version or NO_MODEL} is in service: {MEND}"),
        )
    )
    if hold is not None:
        grounds.append(Ground("hold", False, hold))
    grounds += _figures(judgement, kind, rules)
    return Decision(candidate, service.version, kind, tuple(grounds))


def _is_same(metadata: Mapping[str, Any], champion: Mapping[str, Any]) -> bool:
    return "recipe" in champion and metadata["recipe"] == champion["recipe"]


def _ground(name: str, is_met: bool, sentence: str, *figures: Any) -> Ground:
    return Ground(name, is_met, sentence.format(*figures))


def _figures(judgement: Judgement, kind: Kind, rules: Promotion) -> list[Ground]:
    queries, needed = judgement["queries"], rules.min_queries
    is_enough = queries >= needed
    said = f"{queries:,} hold-out queries of {needed:,} needed"
    if kind is not Kind.RECIPE and not is_enough:
        said += ", so only what is clearly worse is refused"
    grounds = [Ground("queries", is_enough or kind is not Kind.RECIPE, said)]
    if not queries:
        return grounds

    mean, low, high = judgement["seen" if kind is Kind.REFRESH else "unseen"]
    other = judgement["champion"] or NO_MODEL
    by = f"NDCG@{LENGTH} differs from that of {other} by {mean:+.4f} ({low:+.4f} to {high:+.4f})"
    if not is_enough:
        grounds.append(Ground("ndcg", high >= 0, by))
    elif kind is Kind.REFRESH:
        least = -rules.refresh_loss * judgement["in_service"]["seen"]["ndcg_at_10"]
        grounds.append(Ground("ndcg", high >= 0 and low >= least, f"{by}; at worst {least:+.4f} is allowed"))
    else:
        grounds.append(Ground("ndcg", low > 0, f"{by}; it has to be better by more than the interval"))
    mean, low, high = judgement["kept"]
    grounds.append(
        Ground(
            "soundness",
            high >= 0,
            f"having seen the hold-out days changes its NDCG@{LENGTH} by {mean:+.4f} ({low:+.4f} to {high:+.4f})",
        )
    )
    for name, limit in (("coverage", rules.coverage), ("diversity", rules.diversity)):
        # Any personal list is narrower than the popular one for all, so a first model has no such limit on diversity.
        share = 0.0 if kind is Kind.FIRST and name == "diversity" else limit
        challenger, champion = (judgement[who]["seen"][f"{name}_at_10"] for who in ("challenger", "in_service"))
        grounds.append(
            _ground(
                name,
                challenger >= share * champion,
                "{} {:.3f}, that of {} {:.3f}; at least {:.2f} of it is needed",
                name,
                challenger,
                other,
                champion,
                share,
            )
        )
    return grounds


class Action(StrEnum):
    """What is written down in the history of the model in service."""

    PROMOTED = "promoted"
    REFUSED = "refused"
    PROMOTED_BY_HAND = "promoted_by_hand"
    ROLLED_BACK = "rolled_back"
    CANARY_STARTED = "canary_started"
    CANARY_STOPPED = "canary_stopped"


@dataclass(frozen=True)
class Record:
    """One line of the history: what was done to a version, when (naive UTC), why, and by which figures (JSON)."""

    recorded_at: datetime
    action: Action
    version: str
    reason: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """One line."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, line: bytes) -> "Record":
        """The opposite of `to_json`.

        Raises:
            ConfigurationError: the line is none.
        """
        try:
            row = orjson.loads(line)
            return cls(
                **row | {"recorded_at": datetime.fromisoformat(row["recorded_at"]), "action": Action(row["action"])}
            )
        except (ValueError, KeyError, TypeError) as error:
            message = f"the history of the model has a line that cannot be read ({error}); remove it: {line[:80]!r}"
            raise ConfigurationError(message) from error


def version_before(history: Sequence[Record]) -> str | None:
    """The version to which a rollback goes: the one that was in service before the present one was put there.

    A rollback takes its version away again, so rolling back twice goes back two versions. None: there is none.
    """
    served: list[str] = []
    for record in history:
        if record.action is Action.ROLLED_BACK:
            del served[-1:]
        elif record.action in {Action.PROMOTED, Action.PROMOTED_BY_HAND} and served[-1:] != [record.version]:
            served.append(record.version)
    return served[-2] if len(served) > 1 else None


def hold(service: InService, history: Sequence[Record]) -> str | None:
    """Why nothing may be promoted by itself at present, None if it may.

    The arms of a canary stay as they are to its end. After a rollback a person decides what comes next, or the next
    hour would bring back what was taken out.
    """
    if service.canary is not None:
        return f"a canary of {service.canary.version} is running; to end it: kurashiru model canary --stop"
    changes = [record for record in history if record.action in _CHANGES]
    if changes and changes[-1].action is Action.ROLLED_BACK:
        return (
            f"service was rolled back to {changes[-1].version}; "
            f"to go on from there: kurashiru model promote {changes[-1].version}"
        )
    return None


_CHANGES = {Action.PROMOTED, Action.PROMOTED_BY_HAND, Action.ROLLED_BACK}
