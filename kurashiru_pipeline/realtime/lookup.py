"""One user's recommendations as served, with titles and reasons in words.

Here: reading the DynamoDB item as the API does, and naming what it points at.
Not here: ranking, or the read API itself (serving/api.py).
"""

from typing import Any

from kurashiru_pipeline.clock import utc_now
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
    "popular": "popular now",
}
_ABOUT_RECIPES = ("viewed", "favorited", "cooked", "listed")


def look_up(settings: Settings, user_id: str) -> dict[str, Any]:
    """A user's list from DynamoDB: version, algorithm, generated_at, fallback, recipes (id, title, score, reason).

    Raises:
        KurashiruError: neither the user nor `#default` has a list.
    """
    table = RecommendationTable.from_settings(settings)
    found = table.read_or_default(user_id, utc_now())
    if found is None:
        message = f"no recommendations for {user_id!r} and no default list yet; run: kurashiru drain"
        raise KurashiruError(message)
    anchors = {entry.reason.partition(":")[2] for entry in found.entries if _is_about_recipe(entry.reason)}
    with open_warehouse(settings, read_only=True) as warehouse:
        titles = _titles(warehouse, {entry.recipe_id for entry in found.entries} | anchors)
    return {
        "user_id": user_id,
        "fallback": found.user_id != user_id,
        "version": found.version,
        "algorithm": found.algorithm,
        "generated_at": found.generated_at.isoformat(sep=" "),
        "recipes": [
            {
                "recipe_id": entry.recipe_id,
                "title": titles.get(entry.recipe_id, entry.recipe_id),
                "score": entry.score,
                "reason": entry.reason,
                "because": in_words(entry.reason, titles),
            }
            for entry in found.entries
        ],
    }


def in_words(reason: str, titles: dict[str, str]) -> str:
    """A reason code as a sentence for a person."""
    kind, _, what = reason.partition(":")
    shown = titles.get(what, what) if _is_about_recipe(reason) else what.replace("_", " ")
    return _PHRASES[kind].format(shown)


def _is_about_recipe(reason: str) -> bool:
    return reason.partition(":")[0] in _ABOUT_RECIPES


def _titles(warehouse: Warehouse, recipe_ids: set[str]) -> dict[str, str]:
    rows = warehouse.fetch("recipe_titles", recipe_ids=sorted(recipe_ids)).to_pylist()
    return {row["recipe_id"]: row["title"] for row in rows}
