"""One user's recommendations as served, with titles and reasons in words.

Here: reading the DynamoDB item as the API does, and naming what it points at.
Not here: ranking, or the read API itself (serving/api.py).
"""

from collections.abc import Iterable, Mapping
from typing import Any

from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.segments import fallbacks
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse import Warehouse, open_warehouse

_PHRASES = {
    "viewed": "because you viewed {}",
    "favorited": "because you favourited {}",
    "cooked": "because you cooked {}",
    "listed": "because it goes with {} on your shopping list",
    "ingredient": "uses the {} you have left",
    "taste": "for your taste in {}",
    "new": "new in {}",
    "external": "picked for you",
    "popular": "popular now",
}
_PHRASES_OF_ITSELF = {
    "viewed": "you viewed it before",
    "favorited": "one of your favourites",
    "cooked": "you cooked it before",
    "listed": "it is on your shopping list",
}
"""Of the reasons about recipes, where a recipe is its own."""


def look_up(settings: Settings, user_id: str, *, platform: str | None = None, tag: str | None = None) -> dict[str, Any]:
    """A user's list from DynamoDB: version, algorithm, generated_at, fallback, list (whose it is), recipes (id, title,
    score, reason).

    Args:
        platform, tag: by what a user without a list is served, as the API does.

    Raises:
        KurashiruError: neither the user nor `#default` has a list.
    """
    table = RecommendationTable.from_settings(settings)
    now = utc_now()
    found = table.read_first([user_id, *fallbacks(now, platform=platform, tag=tag)], now)
    if found is None:
        message = f"no recommendations for {user_id!r} and no default list yet; run: kurashiru drain"
        raise KurashiruError(message)
    anchors = anchors_of(entry.reason for entry in found.entries)
    with open_warehouse(settings, read_only=True) as warehouse:
        titles = read_titles(warehouse, {entry.recipe_id for entry in found.entries} | anchors)
    return {
        "user_id": user_id,
        "fallback": found.user_id != user_id,
        "list": found.user_id,
        "version": found.version,
        "algorithm": found.algorithm,
        "generated_at": found.generated_at.isoformat(sep=" "),
        "recipes": [
            {
                "recipe_id": entry.recipe_id,
                "title": titles.get(entry.recipe_id, entry.recipe_id),
                "score": entry.score,
                "reason": entry.reason,
                "because": in_words(entry.recipe_id, entry.reason, titles),
            }
            for entry in found.entries
        ],
    }


def in_words(recipe_id: str, reason: str, titles: Mapping[str, str]) -> str:
    """A recipe's reason code as a sentence for a person."""
    kind, _, what = reason.partition(":")
    if what == recipe_id and kind in _PHRASES_OF_ITSELF:
        return _PHRASES_OF_ITSELF[kind]
    shown = titles.get(what, what) if _is_about_recipe(reason) else what.replace("_", " ")
    return _PHRASES[kind].format(shown)


def anchors_of(reasons: Iterable[str]) -> set[str]:
    """The recipes that reason codes name."""
    return {reason.partition(":")[2] for reason in reasons if _is_about_recipe(reason)}


def read_titles(warehouse: Warehouse, recipe_ids: set[str]) -> dict[str, str]:
    """Titles by recipe id; recipes that are not there are left out."""
    rows = warehouse.fetch("recipe_titles", recipe_ids=sorted(recipe_ids)).to_pylist() if recipe_ids else []
    return {row["recipe_id"]: row["title"] for row in rows}


def _is_about_recipe(reason: str) -> bool:
    return reason.partition(":")[0] in _PHRASES_OF_ITSELF
