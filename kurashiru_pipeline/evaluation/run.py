"""One evaluation from beginning to end: every model answers the same queries with the same knowledge.

Here: what is run and in which order.
Not here: the models (kernel.py, baselines.py), the metrics (core/metrics.py), and how results are told (results.py).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa

from kurashiru_pipeline.core.columns import Ints, lists, take
from kurashiru_pipeline.core.metrics import Judged, judge
from kurashiru_pipeline.core.weights import Weights
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.evaluation.baselines import BASELINES, Baseline, unavailable
from kurashiru_pipeline.evaluation.interactions import Interactions
from kurashiru_pipeline.evaluation.kernel import VARIANTS, Kernel
from kurashiru_pipeline.evaluation.queries import Protocol, Queries, Split, ask
from kurashiru_pipeline.evaluation.replay import Bucket, Pace, Replay

LENGTH = 10
LAGS = (0.0, 1.0, 10.0, 60.0, 300.0)
MODELS = (*VARIANTS, *BASELINES)
_VALIDATION_REFITS, _LEAST_GROWTH = 6, 0.01
_WINDOW_QUERIES, _EVERY_QUERY = 1_500, 10**9

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, the steps done, and all steps."""


@dataclass(frozen=True)
class Plan:
    """What is asked of an evaluation.

    Attributes:
        models: by name, in the order of the results.
        lags: seconds by which the profile is late; judged of the first kernel among the models.
        most_queries: about how many queries a protocol; beyond, users are drawn.
        refit_every: interactions between two refits; None: see `pace`.
        recent: behaviours a profile of the kernel is made from, the newest.
    """

    protocol: Protocol
    models: tuple[str, ...]
    lags: tuple[float, ...] = LAGS
    most_queries: int = 20_000
    refit_every: int | None = None
    recent: int = 1_000
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """One model under one protocol.

    Attributes:
        fit_seconds: to learn once from all that was before the last refit, and what was learned before the test.
        users_per_second: lists a second, all queries in one call.
        by_lag: the same queries to a profile that is late by so many seconds.
        details: what was chosen on the validation span, for people.
    """

    model: str
    judged: Judged
    fit_seconds: float
    users_per_second: float
    by_lag: Mapping[float, Judged] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """All results under one protocol, with what they rest on."""

    plan: Plan
    cuts: Split
    pace: Pace
    queries: Queries
    results: tuple[Result, ...]


def chosen_models(given: Sequence[str] | None, recipes: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The models to run, and why others are left out.

    Args:
        given: names; None: all that can run here.

    Raises:
        ConfigurationError: a name is unknown, or a model that was asked for cannot run here.
    """
    unknown = [name for name in given or () if name not in MODELS]
    if unknown:
        raise ConfigurationError(f"--models: there is no model {unknown[0]!r}; there are {', '.join(MODELS)}")
    reasons = {name: unavailable(name, recipes) for name in BASELINES}
    if given is not None:
        if stopped := [reason for name in given if (reason := reasons.get(name))]:
            raise ConfigurationError(f"--models: {stopped[0]}")
        return tuple(dict.fromkeys(given)), ()
    left_out = tuple(f"left out: {reason}" for reason in reasons.values() if reason)
    return tuple(name for name in MODELS if not reasons.get(name)), left_out


def evaluate(
    interactions: Interactions, cuts: Split, plan: Plan, weights: Weights, on_progress: OnProgress
) -> Evaluation:
    """Let every model of the plan answer the queries of the test span.

    Raises:
        ConfigurationError: nobody can be asked in the test span.
    """
    return _Run(interactions, cuts, plan, weights, on_progress).evaluation()


class _Run:
    def __init__(
        self, interactions: Interactions, cuts: Split, plan: Plan, weights: Weights, on_progress: OnProgress
    ) -> None:
        self.plan, self.cuts = plan, cuts
        self.replay = Replay(interactions, weights, plan.recent)
        self.pace = Pace(interactions, plan.refit_every or _refit_every(self.replay, cuts))
        self.queries = self._ask(cuts.test_from, cuts.end, plan.most_queries)
        if not len(self.queries):
            message = (
                "nobody can be asked: no user has 5 interactions before the test span and one in it; "
                "give an earlier or later cut with --test-from, or more data"
            )
            raise ConfigurationError(message)
        self.buckets = self._buckets(self.queries, cuts.test_from)
        self.on_progress, self.done = on_progress, 0
        baselines = [name for name in plan.models if name in BASELINES]
        self.kernels = [name for name in plan.models if name in VARIANTS]
        self.total = len(baselines) * (len(self.buckets) + 1)
        self.lags = plan.lags if plan.protocol is Protocol.NEXT_ITEM and self.kernels else ()
        self.total += len(self.buckets) * len(
            {(name, 0.0) for name in self.kernels} | {(self.kernels[0], lag) for lag in self.lags}
        )

    def evaluation(self) -> Evaluation:
        found = {name: self._baseline(BASELINES[name](self.replay)) for name in self.plan.models if name in BASELINES}
        found |= self._kernels()
        results = tuple(found[name] for name in self.plan.models)
        return Evaluation(self.plan, self.cuts, self.pace, self.queries, results)

    def _ask(self, start: int, end: int, most: int) -> Queries:
        return ask(self.replay.interactions, self.plan.protocol, start, end, most, self.plan.seed)

    def _buckets(self, queries: Queries, start: int) -> list[Bucket]:
        if self.plan.protocol is Protocol.TOP_N:
            return [Bucket(start, start, np.arange(len(queries)))]
        return self.pace.buckets(queries, start)

    def _show(self, what: str) -> None:
        self.on_progress(what, self.done, self.total)

    def _step(self, what: str) -> None:
        self._show(what)
        self.done += 1

    def _baseline(self, baseline: Baseline) -> Result:
        self._step(baseline.name)
        hides = self._better_hiding(baseline)
        made = np.full((len(self.queries), LENGTH), -1, dtype=np.int64)
        learned_at, fits = -1, []
        for bucket in self.buckets:
            self._step(baseline.name)
            moment = bucket.as_of if baseline.is_followed_closely else bucket.refit_at
            if moment != learned_at:
                began = perf_counter()
                baseline.learn(moment)
                fits.append(perf_counter() - began)
                learned_at = moment
            made[bucket.rows] = baseline.lists(self.queries.of(bucket.rows), hides, LENGTH)
        began = perf_counter()
        baseline.lists(self.queries, hides, LENGTH)
        speed = len(self.queries) / (perf_counter() - began)
        return Result(
            model=baseline.name,
            judged=self._judge(self.queries, made),
            fit_seconds=float(np.mean(fits)),
            users_per_second=speed,
            details={"refits": len(fits), "hides_seen": hides},
        )

    def _better_hiding(self, baseline: Baseline) -> bool:
        """Whether to hide what was seen: what found more on the validation span, with the knowledge of its start."""
        if len(baseline.hides) == 1:
            return baseline.hides[0]
        queries = self._ask(self.cuts.validation_from, self.cuts.test_from, self.plan.most_queries)
        baseline.learn(self.cuts.validation_from)
        found = baseline.both_lists(queries, LENGTH)
        quality = {hide: float(self._judge(queries, made).ndcg.sum()) for hide, made in found.items()}
        return max(quality, key=lambda hide: (quality[hide], hide))

    def _kernels(self) -> dict[str, Result]:
        if not self.kernels:
            return {}
        kernel = Kernel(self.replay)
        windows = [kernel.window(*window, _WINDOW_QUERIES) for window in self._windows()]
        kernel.learn(windows, lambda step: self._show(f"kernel: {step}"))
        answers: dict[tuple[str, float], list[pa.Table]] = {(name, 0.0): [] for name in self.kernels}
        answers |= {(self.kernels[0], lag): [] for lag in self.lags}
        delayed = {lag: self.queries.delayed(self.replay.interactions, lag) for _, lag in answers}
        for bucket in self.buckets:
            known = kernel.know(bucket)
            for (name, lag), made in answers.items():
                self._step(f"{name}, {lag:g} s late" if lag else name)
                made.append(kernel.lists(known, delayed[lag].of(bucket.rows), name, LENGTH))
        order = np.argsort(np.concatenate([bucket.rows for bucket in self.buckets]))
        judged = {
            asked: self._judge_lists(self.queries, pa.concat_tables(made).take(order))
            for asked, made in answers.items()
        }
        return {
            name: Result(
                model=name,
                judged=judged[name, 0.0],
                fit_seconds=kernel.fit_seconds(name),
                users_per_second=kernel.speed(known, self.queries, name, LENGTH),
                by_lag={lag: found for (asked, lag), found in judged.items() if asked == name and self.lags},
                details={
                    "refits": len(kernel.refit_seconds),
                    "learning_windows": len(windows),
                    "learned": kernel.learned.values,
                    "learning": kernel.learned.figures,
                },
            )
            for name in self.kernels
        }

    def _windows(self) -> Iterator[tuple[Bucket, Queries]]:
        """What the kernel learns from: spans before the test, each with the knowledge of its start."""
        for start, end in self.pace.lessons(self.cuts.test_from):
            horizon = self.cuts.test_from if self.plan.protocol is Protocol.TOP_N else end
            queries = self._ask(start, horizon, _EVERY_QUERY)
            yield Bucket(start, start, np.arange(len(queries))), queries

    def _judge(self, queries: Queries, made: Ints) -> Judged:
        ids = self.replay.interactions.catalogue.recipe_ids
        row, _ = np.nonzero(made >= 0)
        listed = pa.table({"recipe_ids": lists(row, len(made), take(ids, made[made >= 0]))})
        return self._judge_lists(queries, listed)

    def _judge_lists(self, queries: Queries, listed: pa.Table) -> Judged:
        past, at = self.replay.interactions, self.cuts.test_from
        query, target = queries.one_target_each()
        asked = pa.table(
            {
                "asked_by": take(past.user_ids, queries.user),
                "targets": lists(query, len(queries), take(past.catalogue.recipe_ids, target)),
            }
        )
        known = pa.table({"recipe_id": past.catalogue.recipe_ids, "interactions": self.replay.counts(at)})
        return judge(listed, asked, past.catalogue, known, LENGTH)


def _refit_every(replay: Replay, cuts: Split) -> int:
    """Six refits over the validation span, but none before the past has grown by a hundredth."""
    before, since = replay.counts(cuts.validation_from).sum(), replay.counts(cuts.test_from).sum()
    return max(int((since - before) / _VALIDATION_REFITS), int(since * _LEAST_GROWTH), 1)
