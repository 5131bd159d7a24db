"""The external source of an environment: whether it is asked now, and what the ledger keeps of it.

Here: from the settings to a recommender behind a circuit breaker whose state is computed from ops.external_calls.
Not here: requests and deadlines (recommender.py, deadline.py), or writing the ledger: the step's transaction does.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.sources.breaker import Breaker, Call, State
from kurashiru_pipeline.sources.recommender import ExternalRecommender, Suggestions
from kurashiru_pipeline.warehouse.base import Warehouse

_FIELDS: list[Any] = [
    pa.field("batch_id", pa.int64()),
    pa.field("source", pa.string()),
    pa.field("breaker", pa.string()),
    pa.field("asked_count", pa.int64()),
    pa.field("answered_count", pa.int64()),
    pa.field("failed_count", pa.int64()),
    pa.field("late_count", pa.int64()),
    pa.field("unknown_count", pa.int64()),
    pa.field("seconds", pa.float64()),
    pa.field("error", pa.string()),
    pa.field("called_at", pa.timestamp("us")),
]
_CALL_SCHEMA = pa.schema(_FIELDS)


@dataclass(frozen=True)
class Consultation:
    """What a source had to say about one micro-batch.

    Attributes:
        source: name of the recommender.
        allowed: what the breaker let through.
        state: the breaker's state afterwards.
        called_at: when it was asked (naive UTC).
    """

    source: str
    allowed: State
    state: State
    called_at: datetime
    suggestions: Suggestions

    @property
    def figures(self) -> Mapping[str, int | float | str]:
        """What is shown of it."""
        said = self.suggestions
        return {
            "asked": said.asked_count,
            "answered": said.answered_count,
            "failed": said.failed_count,
            "late": said.late_count,
            "unknown_recipes": said.unknown_count,
            "seconds": round(said.seconds, 3),
            "breaker": str(self.state),
        }

    def ledger_row(self, batch_id: int) -> pa.Table:
        """The row of ops.external_calls."""
        said = self.suggestions
        row = {
            "batch_id": batch_id,
            "source": self.source,
            "breaker": str(self.allowed),
            "asked_count": said.asked_count,
            "answered_count": said.answered_count,
            "failed_count": said.failed_count,
            "late_count": said.late_count,
            "unknown_count": said.unknown_count,
            "seconds": said.seconds,
            "error": said.error or None,
            "called_at": self.called_at,
        }
        return pa.Table.from_pylist([row], schema=_CALL_SCHEMA)


class Standing(TypedDict):
    """How a source stands: its breaker now, and what became of the last micro-batch it was asked about."""

    source: str
    breaker: str
    last_asked: int | None
    last_answered: int | None


class ExternalSource:
    """A recommender behind its breaker.

    Args:
        warehouse: whose ledger tells how the last calls went.
        count: recipes asked for a user.
        recent_recipes: how many of the profile's recipes are told of a user, the strongest first.
        deadline_seconds: what a micro-batch waits for it at most.
        clock: now, naive UTC.
    """

    def __init__(
        self,
        warehouse: Warehouse,
        recommender: ExternalRecommender,
        breaker: Breaker,
        *,
        count: int,
        recent_recipes: int,
        deadline_seconds: float,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._warehouse = warehouse
        self._recommender = recommender
        self._breaker = breaker
        self._count = count
        self._recent_recipes = recent_recipes
        self._deadline_seconds = deadline_seconds
        self._clock = clock

    def consult(self, profiles: pa.Table, catalogue: Catalogue) -> Consultation:
        """Ask about the users of these profiles, as far as the breaker lets it."""
        calls = self._last_calls()
        called_at = self._clock()
        allowed = self._breaker.state(calls, called_at)
        said = Suggestions.none()
        if allowed is not State.OPEN:
            said = self._recommender.recommend(
                self._told(profiles),
                catalogue,
                count=self._count,
                seconds=self._deadline_seconds,
                is_probe=allowed is State.HALF_OPEN,
            )
        if said.asked_count:
            calls = [Call(called_at, allowed, said.asked_count, said.answered_count), *calls]
        state = self._breaker.state(calls, called_at)
        return Consultation(self._recommender.name, allowed, state, called_at, said)

    def standing(self) -> Standing:
        """How it stands, by the ledger; asks nobody."""
        calls = self._last_calls()
        return {
            "source": self._recommender.name,
            "breaker": str(self._breaker.state(calls, self._clock())),
            "last_asked": calls[0].asked_count if calls else None,
            "last_answered": calls[0].answered_count if calls else None,
        }

    def _told(self, profiles: pa.Table) -> pa.Table:
        """What the service is told of the users."""
        users = profiles.select(["user_id"])
        if not self._recent_recipes:
            return users
        recipes: Any = pc.list_slice(profiles["recipe_ids"], 0, self._recent_recipes)
        return users.append_column("recent_recipe_ids", recipes)

    def _last_calls(self) -> list[Call]:
        rows = self._warehouse.fetch(
            "last_external_calls", source=self._recommender.name, at_most=self._breaker.failures
        ).to_pylist()
        return [Call(**{**row, "breaker": State(row["breaker"])}) for row in rows]


def open_source(warehouse: Warehouse, settings: Settings) -> ExternalSource | None:
    """The source that the settings ask for, None for none. Nothing is connected to yet.

    Raises:
        ConfigurationError: a setting is missing or wrong.
    """
    if settings.text("KURASHIRU_EXTERNAL_SOURCE") == "none":
        return None
    from kurashiru_pipeline.serving.dynamodb import is_loopback  # noqa: PLC0415 - botocore, for who asks
    from kurashiru_pipeline.sources.sagemaker import SageMakerRecommender  # noqa: PLC0415

    endpoint = settings.text("KURASHIRU_EXTERNAL_ENDPOINT")
    if not endpoint:
        message = (
            "KURASHIRU_EXTERNAL_SOURCE=sagemaker needs the name of an endpoint; "
            "for example: export KURASHIRU_EXTERNAL_ENDPOINT=kurashiru-recommender"
        )
        raise ConfigurationError(message)
    url = settings.text("KURASHIRU_EXTERNAL_URL")
    if url.startswith("http://") and not is_loopback(url):
        message = (
            f"KURASHIRU_EXTERNAL_URL={url} would send users' ids in the clear; only a stand-in on this machine goes "
            "without TLS; for example: export KURASHIRU_EXTERNAL_URL=https://..."
        )
        raise ConfigurationError(message)
    deadline = settings.integer("KURASHIRU_EXTERNAL_DEADLINE_MS", minimum=1, maximum=60_000) / 1000
    recommender = SageMakerRecommender(
        endpoint,
        region=settings.text("KURASHIRU_AWS_REGION"),
        url=url,
        answer_seconds=deadline,
        users_per_request=settings.integer("KURASHIRU_EXTERNAL_BATCH_USERS", minimum=1, maximum=5_000),
        concurrency=settings.integer("KURASHIRU_EXTERNAL_CONCURRENCY", minimum=1, maximum=64),
    )
    breaker = Breaker(
        failures=settings.integer("KURASHIRU_EXTERNAL_FAILURES", minimum=1),
        pause=timedelta(seconds=settings.integer("KURASHIRU_EXTERNAL_PAUSE_SECONDS")),
    )
    return ExternalSource(
        warehouse,
        recommender,
        breaker,
        count=settings.integer("KURASHIRU_EXTERNAL_COUNT", minimum=1, maximum=1_000),
        recent_recipes=settings.integer("KURASHIRU_EXTERNAL_RECIPES"),
        deadline_seconds=deadline,
    )
