"""One user's list explained, and what it would become: read from the warehouse, ranked as a micro-batch ranks.

Here: what `kurashiru explain` and `kurashiru whatif` read, and the answers they give. Nothing is written anywhere.
Not here: the mathematics (core/explain.py), how answers look (display.py), the list as served (lookup.py).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

import pyarrow as pa

from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.artifact import ModelArtifact, load_artifact
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.events import ID_PATTERN, MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.core.explain import Explanation, Move, explain, moves
from kurashiru_pipeline.core.impersonal import impersonal_profiles
from kurashiru_pipeline.core.items import DEFAULT_USER, Recommendation, build_item, decode_item
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.ranking import Surface, rank
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.realtime.kernel import open_kernel
from kurashiru_pipeline.realtime.lookup import anchors_of, in_words, read_titles
from kurashiru_pipeline.realtime.micro_batch import pending_work
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.sources.source import ExternalSource, open_source
from kurashiru_pipeline.warehouse import Warehouse, open_warehouse

EVENTS = MEANINGFUL_EVENT_NAMES
"""What a micro-batch remembers of a user, and so what can be asked about."""

_SEARCH = "search"
_SUGGESTED_RECIPES = 5
_TEXTS: list[Any] = [
    pa.field(name, pa.string()) for name in ("user_id", "event_id", "event_name", "recipe_id", "detail")
]
_BEHAVIORS = pa.schema([*_TEXTS, pa.field("occurred_at", pa.timestamp("us"))])


@dataclass(frozen=True)
class Behavior:
    """One remembered behaviour.

    Attributes:
        seconds_ago: before the moment of the explanation.
        weight: of its recipe in the profile, if this is the newest behaviour on it; None for the others, and for
            behaviours without a recipe.
        followed: how much recipes that follow its recipe are looked for, the largest 1; None likewise.
        cool_down: factor of its recipe's score; None likewise.
    """

    event_name: str
    recipe_id: str | None
    detail: str | None
    occurred_at: datetime
    seconds_ago: float
    weight: float | None
    followed: float | None
    cool_down: float | None


@dataclass(frozen=True)
class UserExplanation:
    """The answer to `kurashiru explain`.

    Attributes:
        is_known: whether there is anything to rank by; if not, the list is that of `#default`.
        behaviors: newest first.
        delivered: the list that readers get, their own or None.
        differences: why the list as it would be now is not the one delivered; empty if it is.
        titles: of every recipe that is named.
    """

    user_id: str
    is_known: bool
    behaviors: Sequence[Behavior]
    stated_tastes: Sequence[str]
    explanation: Explanation
    delivered: Recommendation | None
    differences: Sequence[str]
    titles: Mapping[str, str]

    def document(self, limit: int) -> dict[str, Any]:
        """For a machine: everything, of the recipes left out `limit`."""
        explanation = asdict(self.explanation)
        explanation["dropped"] = explanation["dropped"][:limit]
        delivered = self.delivered
        return {
            "user_id": self.user_id,
            "is_known": self.is_known,
            "behaviors": [asdict(behavior) for behavior in self.behaviors],
            "stated_tastes": list(self.stated_tastes),
            **explanation,
            "dropped_count": len(self.explanation.dropped),
            "now": shown(_rows(self.explanation), self.titles),
            "delivered": None
            if delivered is None
            else {
                "version": delivered.version,
                "generated_at": delivered.generated_at,
                "algorithm": delivered.algorithm,
                "recipes": shown([entry[:2] for entry in delivered.entries], self.titles),
            },
            "is_delivered": not self.differences,
            "differences": list(self.differences),
            "titles": dict(self.titles),
        }


@dataclass(frozen=True)
class Hypothetical:
    """A behaviour that has not happened: an event of EVENTS on a recipe, or a search for a text."""

    event_name: str
    recipe_id: str | None = None
    detail: str | None = None


@dataclass(frozen=True)
class WhatIf:
    """The answer to `kurashiru whatif`.

    Attributes:
        is_known: whether there was anything to rank by before; if not, `before` is the list of `#default`.
        as_of: the moment, the watermark of the newest micro-batch.
        before: (recipe, reason) in the order of the list; `after` likewise.
        moves: in the order of `after`, then what is gone.
    """

    user_id: str
    is_known: bool
    as_of: datetime
    events: Sequence[Hypothetical]
    algorithm: str
    before: Sequence[tuple[str, str]]
    after: Sequence[tuple[str, str]]
    moves: Sequence[Move]
    titles: Mapping[str, str]

    def document(self) -> dict[str, Any]:
        """For a machine."""
        return {
            "user_id": self.user_id,
            "is_known": self.is_known,
            "as_of": self.as_of,
            "events": [asdict(event) for event in self.events],
            "algorithm": self.algorithm,
            "before": shown(self.before, self.titles),
            "after": shown(self.after, self.titles),
            "moves": [
                {**asdict(move), "title": self.titles.get(move.recipe_id, move.recipe_id)} for move in self.moves
            ],
        }


def explain_user(settings: Settings, user_id: str) -> UserExplanation:
    """Why a user's list is as it is, as of the newest micro-batch.

    Raises:
        KurashiruError: the id is none, or there was no micro-batch yet.
    """
    with open_warehouse(settings, read_only=True) as warehouse:
        kitchen = _Kitchen(warehouse, settings)
        user = _User.read(warehouse, user_id)
        profile, surface = kitchen.profile(user.behaviors, user)
        explanation = explain(
            profile,
            kitchen.catalogue,
            kitchen.popularity,
            kitchen.artifact(user_id if user.is_known else DEFAULT_USER),
            kitchen.weights,
            kitchen.as_of,
            list_length=kitchen.list_length,
            suggestions=kitchen.suggestions(profile) if user.is_known else None,
            surface=surface,
        )
        delivered = _delivered(settings, user_id if user.is_known else DEFAULT_USER)
        named = {left.recipe_id for left in explanation.dropped} | _named_in(_rows(explanation))
        named |= {recipe_id for recipe_id in user.behaviors["recipe_id"].to_pylist() if recipe_id is not None}
        if delivered is not None:
            named |= _named_in([entry[:2] for entry in delivered.entries])
        return UserExplanation(
            user_id=user_id,
            is_known=user.is_known,
            behaviors=_behaviors(user.behaviors, explanation),
            stated_tastes=user.preferred_tags,
            explanation=explanation,
            delivered=delivered,
            differences=kitchen.differences(explanation, delivered),
            titles=read_titles(warehouse, named),
        )


def what_if(settings: Settings, user_id: str, events: Sequence[Hypothetical], *, minutes_ago: float = 0.0) -> WhatIf:
    """How a user's list would change if they did something, the last of it `minutes_ago`.

    Raises:
        KurashiruError: there is no such id or recipe; the user was erased; there was no micro-batch yet.
    """
    with open_warehouse(settings, read_only=True) as warehouse:
        kitchen = _Kitchen(warehouse, settings)
        user = _User.read(warehouse, user_id)
        if user.is_erased:
            message = (
                f"user {user_id} was erased: what they do is neither kept nor used, and readers are served a default"
            )
            raise KurashiruError(message)
        _check_recipes(warehouse, kitchen.catalogue, events)
        added = _rows_of(events, user_id, kitchen.as_of - timedelta(minutes=minutes_ago))
        together = pa.concat_tables([user.behaviors, added.cast(user.behaviors.schema)])
        newest = together.sort_by([("occurred_at", "descending"), ("event_id", "ascending")])
        kept = newest.slice(0, settings.integer("KURASHIRU_RECENT_BEHAVIORS", minimum=1))
        before = kitchen.ranked(user.behaviors, user)
        after = kitchen.ranked(kept, user, popularity=kitchen.popularity_with(added))
        return WhatIf(
            user_id=user_id,
            is_known=user.is_known,
            as_of=kitchen.as_of,
            events=events,
            algorithm=str(after["algorithm"][0]),
            before=_listed(before),
            after=_listed(after),
            moves=moves(before["recipe_ids"][0].as_py(), after["recipe_ids"][0].as_py()),
            titles=read_titles(
                warehouse,
                _named_in([*_listed(before), *_listed(after)])
                | {event.recipe_id for event in events if event.recipe_id is not None},
            ),
        )


def hypothetical(events: Sequence[str], recipe_ids: Sequence[str], queries: Sequence[str]) -> list[Hypothetical]:
    """Behaviours from the arguments of a command: each search takes the next query, every other event the next recipe.

    Raises:
        KurashiruError: an event is none, or there are not as many recipes or queries as events take.
    """
    for event in events:
        if event not in EVENTS:
            message = f"{event!r} is no behaviour that lists are made from; use one of: {', '.join(EVENTS)}"
            raise KurashiruError(message)
    searches = sum(event == _SEARCH for event in events)
    if not events or len(recipe_ids) != len(events) - searches or len(queries) != searches:
        message = (
            f"{len(events)} events, {len(recipe_ids)} recipes and {len(queries)} queries do not go together: give each "
            "search its --query TEXT and every other --event NAME its --recipe ID, in the same order"
        )
        raise KurashiruError(message)
    recipe, query = iter(recipe_ids), iter(queries)
    return [
        Hypothetical(event, detail=next(query)) if event == _SEARCH else Hypothetical(event, next(recipe))
        for event in events
    ]


def shown(listed: Iterable[tuple[str, str]], titles: Mapping[str, str]) -> list[dict[str, Any]]:
    """(recipe, reason) pairs with title and reason in words, as `recipes` of lookup.look_up."""
    return [
        {
            "recipe_id": recipe_id,
            "title": titles.get(recipe_id, recipe_id),
            "reason": reason,
            "because": in_words(recipe_id, reason, titles),
        }
        for recipe_id, reason in listed
    ]


@dataclass(frozen=True)
class _User:
    """What the warehouse knows of a user."""

    user_id: str
    behaviors: pa.Table
    account: pa.Table

    @classmethod
    def read(cls, warehouse: Warehouse, user_id: str) -> "_User":
        if not re.fullmatch(ID_PATTERN, user_id):
            raise KurashiruError(f"{user_id!r} is no user id; an id is 1 to 64 of A-Z a-z 0-9 _ -")
        return cls(
            user_id,
            warehouse.fetch("user_behaviors", user_id=user_id),
            warehouse.fetch("user_account", user_id=user_id),
        )

    @property
    def is_erased(self) -> bool:
        return any(self.account["is_deleted"].to_pylist())

    @property
    def preferred_tags(self) -> list[str]:
        if self.is_erased or not len(self.account):
            return []
        return self.account["preferred_tags"][0].as_py() or []

    @property
    def is_known(self) -> bool:
        """Whether a list of their own would be made of it."""
        return bool(len(self.behaviors) or self.preferred_tags)


class _Kitchen:
    """What a micro-batch would rank with, as of the newest one."""

    def __init__(self, warehouse: Warehouse, settings: Settings) -> None:
        self._warehouse, self._settings = warehouse, settings
        [last] = warehouse.fetch("last_batch").to_pylist()
        if last["batch_id"] is None:
            raise KurashiruError("there was no micro-batch yet, so nobody has a list; run: kurashiru drain")
        self.batch_id: int = last["batch_id"]
        self.as_of: datetime = last["watermark_at"]
        self.weights = load_weights()
        self.catalogue = Catalogue.from_arrow(warehouse.fetch("recipes"))
        self.popularity = warehouse.fetch("popularity")
        self.list_length = settings.integer("KURASHIRU_LIST_LENGTH", minimum=1)

    def artifact(self, user_id: str) -> ModelArtifact | None:
        """The model that ranks for a user: the one in service, or the canary beside it."""
        service = open_kernel(self._warehouse, self._settings, self.weights).in_service()
        version = service.version
        if service.canary is not None and user_id != DEFAULT_USER and service.canary.is_challenger([user_id])[0]:
            version = service.canary.version
        return None if version is None else _load(self._settings, version)

    def profile(self, behaviors: pa.Table, user: _User) -> tuple[pa.Table, Surface]:
        """A user's profile and the surface of their list; nobody's if there is nothing to make one from."""
        if not len(behaviors) and not user.preferred_tags:
            return impersonal_profiles([DEFAULT_USER], self.as_of), "default"
        preferences = None if user.is_erased else user.account.select(["user_id", "preferred_tags"])
        return build_profiles(behaviors, self.catalogue, self.weights, self.as_of, preferences), "home"

    def ranked(self, behaviors: pa.Table, user: _User, popularity: pa.Table | None = None) -> pa.Table:
        """The row of ranking.rank for a user who did this."""
        profile, surface = self.profile(behaviors, user)
        is_somebody = surface == "home"
        return rank(
            profile,
            self.catalogue,
            self.popularity if popularity is None else popularity,
            self.artifact(user.user_id if is_somebody else DEFAULT_USER),
            self.weights,
            self.as_of,
            list_length=self.list_length,
            suggestions=self.suggestions(profile) if is_somebody else None,
            surface=surface,
        )

    def suggestions(self, profile: pa.Table) -> pa.Table | None:
        """What an external source says of a profile now, where one is set up and its breaker lets it be asked."""
        if self._source is None:
            return None
        return self._source.consult(profile, self.catalogue).suggestions.table

    def popularity_with(self, added: pa.Table) -> pa.Table:
        """Live popularity with what these behaviours would add to it; a recipe may have two rows, which add up."""
        weights = self.weights.actions.model_dump()
        gains = [
            {
                "recipe_id": row["recipe_id"],
                "decayed_count": weights[row["event_name"]],
                "decayed_at": row["occurred_at"],
            }
            for row in added.to_pylist()
            if row["event_name"] in weights and row["recipe_id"] is not None
        ]
        return pa.concat_tables([self.popularity, pa.Table.from_pylist(gains, schema=self.popularity.schema)])

    def differences(self, explanation: Explanation, delivered: Recommendation | None) -> list[str]:
        """Why the list as it would be now is not the one that readers get; empty if it is."""
        if delivered is None or delivered.is_deleted:
            return ["no list of their own has been delivered", *self._waiting()]
        if _as_delivered(explanation, delivered) == [entry[:2] for entry in delivered.entries]:
            return []
        found = self._waiting()
        if delivered.algorithm != explanation.algorithm:
            found.append(f"the model was {delivered.algorithm} then and is {explanation.algorithm} now")
        made = self._warehouse.fetch("user_list", user_id=delivered.user_id).to_pylist()
        since = self.batch_id - (made[0]["batch_id"] if made else delivered.version)
        if since > 0:
            found.append(
                f"{_counted(since, 'micro-batch', 'micro-batches')} without this user since: what is popular has moved "
                "on, and cool-downs and newness have faded"
            )
        if self._source is not None:
            found.append("the external source may have answered otherwise")
        return found or ["the catalogue, the weights or this program have changed since"]

    def _waiting(self) -> list[str]:
        waiting = pending_work(self._warehouse, self._settings)
        return [f"what came in has not been worked off: {waiting}"] if waiting else []

    @cached_property
    def _source(self) -> ExternalSource | None:
        return open_source(self._warehouse, self._settings)


def _load(settings: Settings, version: str) -> ModelArtifact:
    """A version below KURASHIRU_MODELS; on Snowflake it is brought there from its stage."""
    folder = settings.folder("KURASHIRU_MODELS") / version
    if settings.text("KURASHIRU_ENGINE") == "snowflake" and not folder.exists():
        from kurashiru_pipeline.analytics.snowflake import SnowflakeAnalytics  # noqa: PLC0415 - takes seconds

        analytics = SnowflakeAnalytics(environment=settings.environment, variables=dict(settings.environ))
        return analytics.artifact(version)
    return load_artifact(folder)


def _delivered(settings: Settings, user_id: str) -> Recommendation | None:
    """The current item of a user."""
    found = RecommendationTable.from_settings(settings).read(user_id)
    return found if found is not None and found.is_current(utc_now()) else None


def _as_delivered(explanation: Explanation, delivered: Recommendation) -> list[tuple[str, str]]:
    """The list as its item would hold it: long lists lose their tail, long names their end."""
    if not explanation.picks:
        return []
    item = build_item(
        delivered.user_id,
        recipe_ids=explanation.recipe_ids,
        reasons=explanation.reasons,
        scores=explanation.scores,
        algorithm=explanation.algorithm,
        version=delivered.version,
        generated_at=delivered.generated_at,
        expires_at=delivered.expires_at,
    )
    return [entry[:2] for entry in decode_item(item).entries]


def _behaviors(behaviors: pa.Table, explanation: Explanation) -> list[Behavior]:
    """Behaviours, newest first, each recipe's figures with the newest one on it."""
    profile = explanation.profile
    figures = dict(
        zip(
            profile["recipe_ids"],
            zip(profile["recipe_weights"], explanation.followed, profile["cooldowns"], strict=True),
            strict=True,
        )
    )
    return [
        Behavior(
            row["event_name"],
            row["recipe_id"],
            row["detail"],
            row["occurred_at"],
            max((explanation.as_of - row["occurred_at"]).total_seconds(), 0.0),
            *figures.pop(row["recipe_id"], (None, None, None)),
        )
        for row in behaviors.to_pylist()
    ]


def _rows_of(events: Sequence[Hypothetical], user_id: str, newest_at: datetime) -> pa.Table:
    """Behaviours a second apart, the last one at `newest_at`."""
    rows = [
        {
            "user_id": user_id,
            "event_id": f"what-if-{number}",
            "event_name": event.event_name,
            "recipe_id": event.recipe_id,
            "detail": event.detail,
            "occurred_at": newest_at - timedelta(seconds=len(events) - 1 - number),
        }
        for number, event in enumerate(events)
    ]
    return pa.Table.from_pylist(rows, schema=_BEHAVIORS)


def _check_recipes(warehouse: Warehouse, catalogue: Catalogue, events: Sequence[Hypothetical]) -> None:
    asked = [event.recipe_id for event in events if event.recipe_id is not None]
    for recipe_id, at in zip(asked, catalogue.index_of(pa.array(asked, pa.string())), strict=True):
        if at < 0:
            found = warehouse.fetch("find_recipes", word=recipe_id, at_most=_SUGGESTED_RECIPES).to_pylist()
            near = "; ".join(f"{row['recipe_id']} ({row['title']})" for row in found)
            message = f"there is no recipe {recipe_id!r}; " + (
                f"those with it in their title or id: {near}"
                if near
                else "to find one, give a word of its title in the place of the id"
            )
            raise KurashiruError(message)


def _rows(explanation: Explanation) -> list[tuple[str, str]]:
    return list(zip(explanation.recipe_ids, explanation.reasons, strict=True))


def _listed(ranked: pa.Table) -> list[tuple[str, str]]:
    return list(zip(ranked["recipe_ids"][0].as_py(), ranked["reasons"][0].as_py(), strict=True))


def _named_in(listed: Iterable[tuple[str, str]]) -> set[str]:
    listed = list(listed)
    return {recipe_id for recipe_id, _ in listed} | anchors_of(reason for _, reason in listed)


def _counted(count: int, one: str, many: str) -> str:
    return f"{count:,} {one if count == 1 else many}"
