"""What the kernel is held against: our own plain recommenders, and those of a well-kept library.

Here: each baseline's statistics and scores, and whether it hides what the user took before.
Not here: what they may know (replay.py gives it, the same as the kernel's), and the comparison (run.py).

Formulas and parameters are the ones of the literature, fixed here: they do not follow the kernel's weights.
"""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from kurashiru_pipeline.core.columns import MICROS_PER_DAY, Floats, Ints, csr, ranges, starts
from kurashiru_pipeline.evaluation.interactions import Interactions
from kurashiru_pipeline.evaluation.queries import Queries
from kurashiru_pipeline.evaluation.replay import PairCounts, Replay

Scores = NDArray[np.float32]

MOST_EASE_RECIPES = 5_000
_CHUNK_CELLS = 2**23


@dataclass(frozen=True)
class Own:
    """Interactions of Q queries' users before each query, one after the other, a query's newest last.

    Attributes:
        query: (N,) whose.
        recipe: (N,) positions in the catalogue.
        back: (N,) how many interactions later the query came, 0 for the newest.
        age: (N,) days before the query.
        size: Q.
    """

    query: Ints
    recipe: Ints
    back: Ints
    age: Floats
    size: int

    @classmethod
    def of(cls, interactions: Interactions, queries: Queries) -> "Own":
        rows = interactions.by_user[ranges(interactions.user_starts[queries.user], queries.known)]
        query = np.repeat(np.arange(len(queries)), queries.known)
        counts = interactions.tells_interest[rows]
        rows, query = rows[counts], query[counts]
        last = starts(np.bincount(query, minlength=len(queries)))[1:]
        return cls(
            query=query,
            recipe=interactions.recipe[rows],
            back=last[query] - 1 - np.arange(len(rows)),
            age=np.maximum(queries.at[query] - interactions.at[rows], 0) / MICROS_PER_DAY,
            size=len(queries),
        )

    def matrix(self, weights: Floats, width: int) -> Any:
        """(Q, width) CSR float32 of the weights of each interaction, summed by recipe."""
        offsets = starts(np.bincount(self.query, minlength=self.size))
        made = csr(weights.astype(np.float32), self.recipe, offsets, width)
        made.sum_duplicates()
        return made


class Baseline(ABC):
    """A recommender that learns from the past alone and answers queries from their user's own interactions.

    It learns anew with every refit, or, where that is quick, with every bucket (`is_followed_closely`). `hides` are
    its choices of whether a list may hold what the user took before; the better one on the validation span is taken.
    """

    name: ClassVar[str]
    is_followed_closely: ClassVar[bool] = False
    hides: ClassVar[tuple[bool, ...]] = (True, False)

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.size = len(replay.interactions.catalogue.recipe_ids)

    @abstractmethod
    def learn(self, as_of: int) -> None:
        """Learn from everything before a moment; moments do not go back."""

    @abstractmethod
    def scores(self, own: Own) -> Scores:
        """(Q, R) scores; what has 0 or less is no candidate."""

    def lists(self, queries: Queries, hides_seen: bool, length: int) -> Ints:
        """(Q, length) positions in the catalogue, best first, equals by id, -1 where there is no candidate."""
        return self._lists(queries, (hides_seen,), length)[hides_seen]

    def both_lists(self, queries: Queries, length: int) -> dict[bool, Ints]:
        """The same for every choice of `hides`."""
        return self._lists(queries, self.hides, length)

    def _lists(self, queries: Queries, hides: tuple[bool, ...], length: int) -> dict[bool, Ints]:
        made: dict[bool, list[Ints]] = {hide: [np.zeros((0, length), np.int64)] for hide in hides}
        step = max(1, _CHUNK_CELLS // max(self.size, 1))
        for start in range(0, len(queries), step):
            own = Own.of(self.replay.interactions, queries.of(np.arange(start, min(start + step, len(queries)))))
            scores = self.scores(own)
            for hide in sorted(hides):  # False first: hiding changes the scores
                if hide:
                    scores[own.query, own.recipe] = 0
                made[hide].append(_best(scores, length))
        return {hide: np.concatenate(parts) for hide, parts in made.items()}


class Popular(Baseline):
    """How often each recipe was taken, ever."""

    name = "popular"
    is_followed_closely = True

    def learn(self, as_of: int) -> None:
        self.popularity = self.replay.counts(as_of)

    def scores(self, own: Own) -> Scores:
        return np.repeat(self.popularity.astype(np.float32)[None, :], own.size, axis=0)


class RecentPopular(Popular):
    """The same with a half-life of one day."""

    name = "recent-popular"
    half_life_days = 1.0

    def learn(self, as_of: int) -> None:
        total = self.replay.counted(as_of, self.half_life_days)
        self.popularity = total / max(total.max(initial=0), np.finfo(float).tiny)


class RepeatLast(Baseline):
    """The user's own recipes, the most recent first."""

    name = "repeat-last"
    hides = (False,)

    def learn(self, as_of: int) -> None:
        """Nothing: it is all in the query."""

    def scores(self, own: Own) -> Scores:
        scores = np.zeros((own.size, self.size), np.float32)
        np.maximum.at(scores, (own.query, own.recipe), (1 / (own.back + 1)).astype(np.float32))
        return scores


class _ItemItem(Baseline):
    """Sum over the user's recipes of weight * similarity, a (R, R) sparse or dense matrix."""

    similarity: Any

    @abstractmethod
    def weigh(self, own: Own) -> Floats:
        """(N,) weight of each own interaction."""

    def scores(self, own: Own) -> Scores:
        found = own.matrix(self.weigh(own), self.size) @ self.similarity
        return cast("Scores", found.toarray() if sparse.issparse(found) else found)


class SequentialRules(_ItemItem):
    """What followed the user's last recipes: pairs weighted 1 / gap, popularity damped, a half-life of two events.

    c(a, b) sums 1 / gap over pairs at most 20 interactions apart, half of it backwards; similarity
    c / ((n_a + 5)^0.5 * (n_b + 5)^0.3), the 200 best b of each a. (Ludewig and Jannach, 2018: sequential rules.)
    """

    name = "sequential-rules"
    steps, neighbours, half_life, most_own = 20, 200, 2.0, 30

    def __init__(self, replay: Replay) -> None:
        super().__init__(replay)
        self._pairs = PairCounts(replay.interactions, self.steps)

    def learn(self, as_of: int) -> None:
        forward = self._pairs.follow(self.replay.before(as_of))
        counts = self.replay.counts(as_of) + 5
        both = (forward + 0.5 * forward.T).tocsr()
        similarity = sparse.diags_array(counts**-0.5) @ both @ sparse.diags_array(counts**-0.3)
        self.similarity = _strongest(similarity.tocsr(), self.neighbours)

    def weigh(self, own: Own) -> Floats:
        return np.where(own.back < self.most_own, 0.5 ** (own.back / self.half_life), 0.0)


class Sar(_ItemItem):
    """Affinity with a half-life of 30 days times the Jaccard index of co-occurrence (Microsoft's SAR)."""

    name = "sar"
    half_life_days = 30.0

    def learn(self, as_of: int) -> None:
        taken = _taken(self.replay, as_of)
        together = (taken.T @ taken).tocoo()
        counts = together.diagonal()
        row, column = together.coords
        jaccard = together.data / (counts[row] + counts[column] - together.data)
        self.similarity = sparse.csr_array((jaccard.astype(np.float32), (row, column)), shape=together.shape)

    def weigh(self, own: Own) -> Floats:
        return np.asarray(0.5 ** (own.age / self.half_life_days))


class Ease(_ItemItem):
    """Linear autoencoder in closed form (Steck, 2019), lambda 500."""

    name = "ease"
    penalty = 500.0

    def learn(self, as_of: int) -> None:
        taken = _taken(self.replay, as_of)
        gram = (taken.T @ taken).toarray().astype(np.float64)
        gram[np.diag_indices(self.size)] += self.penalty
        inverse = np.linalg.inv(gram)
        weights = inverse / -np.diag(inverse)
        weights[np.diag_indices(self.size)] = 0
        self.similarity = weights.astype(np.float32)

    def weigh(self, own: Own) -> Floats:
        return np.ones(len(own.query))

    def scores(self, own: Own) -> Scores:
        taken = own.matrix(self.weigh(own), self.size)
        taken.data[:] = 1
        return cast("Scores", taken @ self.similarity)


class _Implicit(Baseline):
    """An item-item recommender of the library `implicit`, with its defaults and 200 neighbours."""

    recommender: str

    def learn(self, as_of: int) -> None:
        nearest_neighbours = import_module("implicit.nearest_neighbours")  # an optional extra
        self._model: Any = getattr(nearest_neighbours, self.recommender)(K=200)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Method expects CSR input")  # of its own conversions
            self._model.fit(sparse.csr_matrix(_taken(self.replay, as_of)), show_progress=False)

    def _lists(self, queries: Queries, hides: tuple[bool, ...], length: int) -> dict[bool, Ints]:
        own = Own.of(self.replay.interactions, queries)
        taken = sparse.csr_matrix(own.matrix(np.ones(len(own.query)), self.size))
        made = {}
        for hide in hides:
            found, scores = self._model.recommend(
                np.arange(len(queries)), taken, N=length, filter_already_liked_items=hide
            )
            made[hide] = np.where(scores > 0, found, -1).astype(np.int64).reshape(len(queries), -1)
        return made

    def scores(self, own: Own) -> Scores:
        raise NotImplementedError("the library makes the lists itself")


class ImplicitCosine(_Implicit):
    name = "implicit-cosine"
    recommender = "CosineRecommender"


class ImplicitBm25(_Implicit):
    name = "implicit-bm25"
    recommender = "BM25Recommender"


BASELINES: Mapping[str, type[Baseline]] = {
    kind.name: kind
    for kind in (Popular, RecentPopular, RepeatLast, SequentialRules, Sar, Ease, ImplicitCosine, ImplicitBm25)
}


def unavailable(name: str, recipes: int) -> str | None:
    """Why a baseline cannot run here, with the command that mends it; None if it can."""
    if name == Ease.name and recipes > MOST_EASE_RECIPES:
        return f"{name} inverts a matrix of all recipes: at most {MOST_EASE_RECIPES:,}, and there are {recipes:,}"
    if issubclass(BASELINES[name], _Implicit) and find_spec("implicit") is None:
        return f"{name} needs the library implicit: pip install 'kurashiru_pipeline[baselines]'"
    return None


def _taken(replay: Replay, as_of: int) -> Any:
    """(U, R) CSR float32: 1 for each recipe a user took before a moment."""
    past, end = replay.interactions, replay.before(as_of)
    counts = past.tells_interest[:end]
    width = len(past.catalogue.recipe_ids)
    pairs = np.unique(past.user[:end][counts] * width + past.recipe[:end][counts])
    user, recipe = np.divmod(pairs, width)
    offsets = starts(np.bincount(user, minlength=len(past.user_ids)))
    return csr(np.ones(len(recipe), np.float32), recipe, offsets, width)


def _strongest(matrix: Any, most: int) -> Any:
    """The largest values of each row of a CSR matrix, as float32."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    order = np.lexsort((-matrix.data, row))
    kept = np.sort(order[np.arange(len(order)) - matrix.indptr[row] < most])
    offsets = starts(np.bincount(row[kept], minlength=matrix.shape[0]))
    return csr(matrix.data[kept].astype(np.float32), matrix.indices[kept], offsets, matrix.shape[1])


def _best(scores: Scores, length: int) -> Ints:
    """(Q, length) columns of the largest positive scores, best first, equals by number, then -1."""
    width = min(length, scores.shape[1])
    found = np.sort(np.argpartition(-scores, width - 1, axis=1)[:, :width], axis=1)
    value = np.take_along_axis(scores, found, axis=1)
    order = np.argsort(-value, axis=1, kind="stable")
    found, value = np.take_along_axis(found, order, axis=1), np.take_along_axis(value, order, axis=1)
    lists = np.full((len(scores), length), -1, dtype=np.int64)
    lists[:, :width] = np.where(value > 0, found, -1)
    return lists
