"""What an external recommender is: it is told users, and answers with a ranked list for each.

Here: the interface, cutting users into requests, and what of the answers can be used.
Not here: a service's protocol (sagemaker.py), or whether it is asked at all (source.py).
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from time import monotonic
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import Ints, flatten, lists, strings, take, to_numpy
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.sources.deadline import Outcome, ask_in_time

_FIELDS: list[Any] = [
    pa.field("user_id", pa.string()),
    pa.field("recipe_ids", pa.list_(pa.string())),
    pa.field("scores", pa.list_(pa.float64())),
]
SUGGESTION_SCHEMA = pa.schema(_FIELDS)
"""One row a user: recipes and their scores, the higher the better, lists of one length."""

_LONGEST_ERROR = 300


@dataclass(frozen=True)
class Suggestions:
    """What a service had to say in time: asked = answered + failed + late.

    Attributes:
        table: SUGGESTION_SCHEMA, best first, living recipes of the catalogue only, each once a user.
        asked_count: users it was to be asked about.
        answered_count: those answered in time, perhaps without a usable recipe.
        failed_count: those whose request failed, or whose answer left them out.
        late_count: those without an answer when the time was up.
        unknown_count: recipes answered that the catalogue does not know, or that are deleted.
        seconds: from the first request to the last answer waited for.
        error: the most frequent error, "" without one.
    """

    table: pa.Table
    asked_count: int = 0
    answered_count: int = 0
    failed_count: int = 0
    late_count: int = 0
    unknown_count: int = 0
    seconds: float = 0.0
    error: str = ""

    @classmethod
    def none(cls) -> "Suggestions":
        """Nobody was asked about."""
        return cls(SUGGESTION_SCHEMA.empty_table())


@dataclass(frozen=True)
class Living:
    """The living recipes of a catalogue, for many look-ups: Arrow would hash all of them again for each request."""

    recipe_ids: Any
    places: Mapping[str, int]

    @classmethod
    def of(cls, catalogue: Catalogue) -> "Living":
        recipe_ids = take(catalogue.recipe_ids, np.flatnonzero(catalogue.alive))
        names = recipe_ids.to_numpy(zero_copy_only=False)
        return cls(recipe_ids, dict(zip(names, range(len(names)), strict=True)))

    def index_of(self, recipe_ids: Any) -> Ints:
        """(N,) place of each recipe id, -1 for the unknown and the deleted."""
        encoded = strings(recipe_ids).dictionary_encode()
        names = encoded.dictionary.to_numpy(zero_copy_only=False)
        places = np.fromiter(map(self.places.get, names, repeat(-1)), np.int64, len(names))
        found: Ints = places[encoded.indices.to_numpy()]
        return found


@dataclass(frozen=True)
class Part:
    """Usable answers to one request."""

    table: pa.Table
    answered_count: int
    unknown_count: int


class ExternalRecommender(ABC):
    """A service that recommends recipes.

    Args:
        users_per_request: users named in one request.
        concurrency: requests under way at a time.
    """

    def __init__(self, *, users_per_request: int, concurrency: int) -> None:
        self._users_per_request = users_per_request
        self._concurrency = concurrency

    @property
    @abstractmethod
    def name(self) -> str:
        """What the ledger calls it. Another endpoint has another name, and so a breaker of its own."""

    @abstractmethod
    def request(self, users: pa.Table, count: int) -> pa.Table:
        """Make one request; called from several threads at a time.

        Args:
            users: user_id and recipe_ids (what they showed interest in, the strongest first), at most
                `users_per_request` rows.
            count: recipes wanted a user.

        Returns:
            SUGGESTION_SCHEMA in any order; whom it leaves out is not answered. Scores are finite and not negative.

        Raises:
            Exception: whatever goes wrong, with a message for people; these users are not answered.
        """

    def recommend(
        self, users: pa.Table, catalogue: Catalogue, *, count: int, seconds: float, is_probe: bool = False
    ) -> Suggestions:
        """Ask about all users, in as many requests as it takes. Never raises what is the service's doing.

        Args:
            users: as for `request`, any number of rows, each user once.
            catalogue: recipes that may be suggested.
            count: recipes wanted a user.
            seconds: after so long what is there counts, and the rest is late.
            is_probe: make one request only.
        """
        started = monotonic()
        size = self._users_per_request
        requests = [users.slice(start, size) for start in range(0, len(users), size)][: 1 if is_probe else None]
        ask = partial(self._usable, Living.of(catalogue), count)
        outcome = ask_in_time(ask, requests, threads=self._concurrency, seconds=seconds)
        parts = [outcome.answers[number] for number in sorted(outcome.answers)]
        asked = sum(map(len, requests))
        answered = sum(part.answered_count for part in parts)
        heard = outcome.answers.keys() | outcome.errors.keys()
        unheard = sum(len(request) for number, request in enumerate(requests) if number not in heard)
        late = 0 if outcome.given_up else unheard
        return Suggestions(
            table=pa.concat_tables([SUGGESTION_SCHEMA.empty_table(), *(part.table for part in parts)]),
            asked_count=asked,
            answered_count=answered,
            failed_count=asked - answered - late,
            late_count=late,
            unknown_count=sum(part.unknown_count for part in parts),
            seconds=monotonic() - started,
            error=_said(outcome, len(requests)),
        )

    def _usable(self, living: Living, count: int, users: pa.Table) -> Part:
        return usable(self.request(users, count), users["user_id"], living, count)


def usable(answers: pa.Table, user_ids: Any, living: Living, count: int) -> Part:
    """Of answers, what can be used: the users asked about, their best `count` living recipes, each once."""
    found = pc.index_in(strings(user_ids), strings(answers["user_id"])).drop_null()
    answers = answers.take(found)
    row, recipe_ids = flatten(answers["recipe_ids"])
    scores = to_numpy(pc.list_flatten(answers["scores"].combine_chunks()), 0.0)
    recipe = living.index_of(recipe_ids)
    known = recipe >= 0
    unknown = int(len(known) - known.sum())

    row, recipe, scores = row[known], recipe[known], scores[known]
    order = np.lexsort((recipe, -scores, row))
    row, recipe, scores = row[order], recipe[order], scores[order]
    first = np.sort(np.unique(row * len(living.recipe_ids) + recipe, return_index=True)[1])
    row, recipe, scores = row[first], recipe[first], scores[first]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    row, recipe, scores = row[place < count], recipe[place < count], scores[place < count]

    listed, row = np.unique(row, return_inverse=True)
    columns: list[Any] = [
        take(strings(answers["user_id"]), listed),
        lists(row, len(listed), take(living.recipe_ids, recipe)),
        lists(row, len(listed), scores),
    ]
    return Part(pa.Table.from_arrays(columns, schema=SUGGESTION_SCHEMA), len(answers), unknown)


def _said(outcome: Outcome[Part], request_count: int) -> str:
    """The most frequent error, and of how many requests it is the error."""
    texts = Counter(map(_text, outcome.errors.values()))
    if not texts:
        return ""
    [(text, times)] = texts.most_common(1)
    return f"{times} of {request_count} requests: {text}"[:_LONGEST_ERROR]


def _text(error: Exception) -> str:
    text = str(error) if isinstance(error, KurashiruError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
