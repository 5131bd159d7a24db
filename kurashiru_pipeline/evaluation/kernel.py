"""The kernel under evaluation: the very functions of the near-real-time path, given what was known then.

Here: what the kernel has in hand at each moment of the past, what it learns from, the variants compared, their lists.
Not here: profiles, scores and lists (core/profiles.py, core/ranking.py), training (core/training.py, core/learning.py).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
import pyarrow as pa

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import take
from kurashiru_pipeline.core.learning import Window, learn
from kurashiru_pipeline.core.ranking import rank
from kurashiru_pipeline.core.training import Counts, Learned, make_artifact
from kurashiru_pipeline.core.transitions import TransitionCounts
from kurashiru_pipeline.evaluation.queries import Queries
from kurashiru_pipeline.evaluation.replay import Bucket, Replay, moment

KERNEL, RULES, UNDIVERSIFIED = "kernel", "kernel-rules", "kernel-undiversified"
VARIANTS: Mapping[str, str] = {
    KERNEL: "as it is served: learned weights, learned re-ranker, diversity",
    RULES: "without the learned re-ranker",
    UNDIVERSIFIED: "by score alone, without diversity",
}
POPULARITY_HALF_LIFE_DAYS = 7.0
"""Of the artifact's popularity, as dbt_project.yml has it."""
_DIAL = "diversity.dials.home"
_FEW = 1_000


@dataclass(frozen=True)
class Known:
    """What the kernel has in hand in one bucket."""

    bucket: Bucket
    catalogue: Catalogue
    popularity: pa.Table
    counts: Counts


class Kernel:
    """Follows the stream: what it knows goes forward in time, and transitions are counted on at each refit."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.learned = Learned()
        self.refit_seconds: list[float] = []
        self.learning_seconds: dict[str, float] = {}
        past, rows = replay.interactions, replay.interactions.tells_interest
        self._transitions = TransitionCounts(
            past.user[rows], past.recipe[rows], past.at[rows], len(past.catalogue.recipe_ids)
        )
        self._counts: tuple[int, Counts] | None = None
        self._artifact: tuple[Counts, ModelArtifact] | None = None

    def know(self, bucket: Bucket) -> Known:
        """What is known in a bucket; they must come in the order of time."""
        if self._counts is None or self._counts[0] != bucket.refit_at:
            began = perf_counter()
            self._counts = bucket.refit_at, self._count(bucket.refit_at)
            self.refit_seconds.append(perf_counter() - began)
        catalogue, popularity = self.replay.catalogue(bucket.as_of), self.replay.popularity(bucket.as_of)
        return Known(bucket, catalogue, popularity, self._counts[1])

    def window(self, bucket: Bucket, queries: Queries, most: int) -> Window:
        """Queries to learn from, one row a target, evenly chosen where there are more than `most`."""
        known = self.know(bucket)
        query, target = queries.one_target_each()
        chosen = np.arange(0, len(query), max(-(-len(query) // most), 1))
        asking, row = np.unique(query[chosen], return_inverse=True)
        past = self.replay.interactions
        profiles = self.replay.profiles(queries.of(asking), known.catalogue, bucket.as_of).take(row)
        asked = profiles.append_column("target", take(past.catalogue.recipe_ids, target[chosen]))
        asked = asked.append_column("asked_by", take(past.user_ids, queries.user[query[chosen]]))
        return Window(asked, known.catalogue, known.popularity, known.counts, moment(bucket.as_of))

    def learn(self, windows: Sequence[Window], on_step: Callable[[str], None]) -> None:
        """Set what the lists are made with from now on."""
        began, name = perf_counter(), "beginning"

        def step(next_name: str) -> None:
            nonlocal began, name
            now = perf_counter()
            self.learning_seconds[name] = now - began
            began, name = now, next_name
            on_step(next_name)

        self.learned = learn(windows, self.replay.weights, on_step=step)
        step("")

    def lists(self, known: Known, queries: Queries, variant: str, length: int) -> pa.Table:
        """The kernel's answer (ranking.rank) to queries of the bucket."""
        return self._rank(self.replay.profiles(queries, known.catalogue, known.bucket.as_of), known, variant, length)

    def speed(self, known: Known, queries: Queries, variant: str, length: int) -> float:
        """Lists a second out of profiles, in one call, as a micro-batch has it."""
        profiles = self.replay.profiles(queries, known.catalogue, known.bucket.as_of)
        self._rank(profiles.slice(0, 1), known, variant, length)  # what is loaded once
        began = perf_counter()
        self._rank(profiles, known, variant, length)
        return len(profiles) / (perf_counter() - began)

    def fit_seconds(self, variant: str) -> float:
        """One refit, and what was learned before the test."""
        parts = self.learning_seconds.items()
        learning = sum(seconds for name, seconds in parts if variant != RULES or "re-ranker" not in name)
        return learning + sum(self.refit_seconds) / max(len(self.refit_seconds), 1)

    def _rank(self, profiles: pa.Table, known: Known, variant: str, length: int) -> pa.Table:
        return rank(
            profiles,
            known.catalogue,
            known.popularity,
            self._variant(known.counts, variant),
            self.replay.weights,
            moment(known.bucket.as_of),
            list_length=length,
            is_threaded=len(profiles) > _FEW,  # for few, threads cost more than they bring; the lists are the same
        )

    def _variant(self, counts: Counts, variant: str) -> ModelArtifact:
        if self._artifact is None or self._artifact[0] is not counts:
            began = perf_counter()
            made = make_artifact(counts, self.replay.weights, version="evaluation", learned=self.learned)
            self._artifact = counts, made
            self.refit_seconds[-1] += perf_counter() - began
        artifact = self._artifact[1]
        if variant == RULES:
            return replace(artifact, model="")
        if variant == UNDIVERSIFIED:
            return replace(artifact, learned={**artifact.learned, _DIAL: 0.0})
        return artifact

    def _count(self, as_of: int) -> Counts:
        self._transitions.follow(as_of)
        return Counts(
            recipe_ids=self.replay.interactions.catalogue.recipe_ids,
            forward=self._transitions.forward,
            live=self._transitions.live,
            interactions=self.replay.counts(as_of),
            popularity=self.replay.counted(as_of, POPULARITY_HALF_LIFE_DAYS),
        )
