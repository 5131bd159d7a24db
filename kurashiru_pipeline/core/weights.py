"""The rules and weights of the recommender, as validated data.

Here: their names, meanings and allowed ranges, and how `weights.yaml` is read.
Not here: the formulas that use them (profiles.py, ranking.py, training.py).
"""

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kurashiru_pipeline.errors import ConfigurationError

# A resource and not a path, for inside Snowflake this package is imported from a zip file.
DEFAULT_SOURCE = files("kurashiru_pipeline.core") / "weights.yaml"


MAIN_INGREDIENTS = 3
"""How many of a recipe's ingredients, which come main one first, count as its main ones."""

LARGEST_SCORE = 64
"""No blended score is larger, so that it fits into a sort key."""


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Actions(_Section):
    """How much one behaviour says about its user's interest; every other behaviour weighs nothing."""

    recipe_view: float = Field(ge=0, le=100)
    shopping_list_add: float = Field(ge=0, le=100)
    recipe_favorite: float = Field(ge=0, le=100)
    recipe_cooked: float = Field(ge=0, le=100)


class Profile(_Section):
    """How a user's past is summed up. Half-lives count behaviours back from the newest."""

    length: int = Field(ge=1, le=1000)
    half_life: float = Field(gt=0, le=1000)
    count_half_life: float = Field(gt=0, le=1000)
    daytime_hours: float = Field(gt=0, le=24)
    least_share: float = Field(ge=0, le=1)
    taste_half_life: float = Field(gt=0, le=1000)
    stated_taste: float = Field(ge=0, le=1000)
    leftovers_hours: float = Field(gt=0, le=720)


class Interest(_Section):
    """How an own recipe counts as a starting point of transitions: by behaviours back, by time, by repeats, and for
    being the newest."""

    recent: float = Field(ge=0, le=10)
    session: float = Field(ge=0, le=10)
    steady: float = Field(ge=0, le=10)
    newest: float = Field(ge=0, le=10)


class Blend(_Section):
    """Weight of each source, every one scaled to at most 1 a user; below 0 a source speaks against a recipe."""

    rules: float = Field(ge=0, le=10)
    live_popularity: float = Field(ge=-10, le=10)
    trained_popularity: float = Field(ge=-10, le=10)
    standing_popularity: float = Field(ge=-10, le=10)
    taste: float = Field(ge=-10, le=10)
    ingredients: float = Field(ge=-10, le=10)
    authors: float = Field(ge=-10, le=10)
    fresh: float = Field(ge=-10, le=10)
    repeats: float = Field(ge=-10, le=10)
    daytime: float = Field(ge=-10, le=10)
    seen: float = Field(ge=-10, le=10)
    leftovers: float = Field(ge=0, le=10)
    external: float = Field(ge=0, le=10)


class Popularity(_Section):
    """How fast live popularity fades."""

    half_life_days: float = Field(gt=0, le=365)


class CoolDown(_Section):
    """Half-lives, in days, of the soft cool-down after a recipe was viewed or cooked."""

    viewed_days: float = Field(gt=0, le=365)
    cooked_days: float = Field(gt=0, le=365)


class Fresh(_Section):
    """What counts as new, how fast newness fades, and the share of every list that is kept for new recipes."""

    days: float = Field(ge=0, le=365)
    half_life_days: float = Field(gt=0, le=365)
    min_share: float = Field(ge=0, le=1)


class Limits(_Section):
    """How many recipes of one author, and of one primary tag, a list may hold."""

    per_author: int = Field(ge=1, le=1000)
    per_tag: int = Field(ge=1, le=1000)


class Exclude(_Section):
    """Recipes that are never listed: by id, by author, by value tag."""

    recipes: list[str] = Field(max_length=10_000)
    authors: list[str] = Field(max_length=10_000)
    tags: list[str] = Field(max_length=100)


class Dials(_Section):
    """Diversity of each surface, from 0 (by score alone) to 1: people's own lists, #default, and segments' lists."""

    home: float = Field(ge=0, le=1)
    default: float = Field(ge=0, le=1)
    segment: float = Field(ge=0, le=1)


class Diversity(_Section):
    """Re-ranking of the `shortlist` by maximal marginal relevance.

    Learning may give away `loss_budget` of NDCG for variety: surely, or, as long as lists have less intra-list
    diversity than `least`, as far as it can tell.
    """

    dials: Dials
    loss_budget: float = Field(ge=0, le=1)
    least: float = Field(ge=0, le=1)
    shortlist: int = Field(ge=1, le=1000)


class Candidates(_Section):
    """How many recipes each source puts forward for a user."""

    rules: int = Field(ge=1, le=1000)
    own: int = Field(ge=1, le=1000)
    popular: int = Field(ge=1, le=1000)
    fresh: int = Field(ge=0, le=1000)
    strongest: int = Field(ge=0, le=20)
    each: int = Field(ge=1, le=100)


class Transitions(_Section):
    """Training: similarity c / ((n_from + damping)^from_power * (n_to + damping)^to_power), the best kept.

    c is the count forwards + reverse_share * backwards, of all time + live_share * of late.
    """

    neighbours: int = Field(ge=1, le=1000)
    damping: float = Field(gt=0, le=1000)
    from_power: float = Field(ge=0, le=1)
    to_power: float = Field(ge=0, le=1)
    reverse_share: float = Field(ge=0, le=1)
    live_share: float = Field(ge=0, le=100)


class Promotion(_Section):
    """What keeps a newly trained model from service (gate.py). Shares are of what the model in service reaches."""

    min_queries: int = Field(ge=1, le=1_000_000)
    refresh_loss: float = Field(ge=0, le=1)
    coverage: float = Field(ge=0, le=2)
    diversity: float = Field(ge=0, le=2)


class CanaryRules(_Section):
    """When a canary is decided (canary.py)."""

    min_users: int = Field(ge=2, le=10_000_000)
    effect: float = Field(gt=0, le=1)
    days: float = Field(gt=0, le=365)


class Segments(_Section):
    """Popularity of segments (segments.py), and when their lists are made anew."""

    half_life_days: float = Field(gt=0, le=365)
    prior: float = Field(ge=0, le=1_000_000)
    renew_share: float = Field(gt=0, le=1)
    renew_hours: float = Field(gt=0, le=720)


class Weights(_Section):
    """All rules and weights; `weights.yaml` says what each one does."""

    list_length: int = Field(ge=1, le=100)
    actions: Actions
    profile: Profile
    interest: Interest
    blend: Blend
    learned: list[str]
    popularity: Popularity
    cool_down: CoolDown
    fresh: Fresh
    limits: Limits
    exclude: Exclude
    diversity: Diversity
    candidates: Candidates
    transitions: Transitions
    promotion: Promotion
    canary: CanaryRules
    segments: Segments

    @model_validator(mode="after")
    def _learned_names_exist(self) -> "Weights":
        for name in self.learned:
            value: Any = self
            for part in name.split("."):
                value = getattr(value, part, None)
            if not isinstance(value, float | _Section):
                raise ValueError(f"learned: there is no weight or section named {name!r}")
        return self

    @model_validator(mode="after")
    def _scores_stay_within_bounds(self) -> "Weights":
        weights = self.blend.model_dump()
        ingredients = abs(weights["leftovers"]) + abs(weights["ingredients"])  # of each of the main ingredients
        total = sum(map(abs, weights.values())) + (MAIN_INGREDIENTS - 1) * ingredients
        if total > LARGEST_SCORE:
            raise ValueError(f"blend: the weights add up to {total:g}, more than the {LARGEST_SCORE} a score may have")
        return self

    def may_learn(self, name: str) -> bool:
        """Whether training may set the weight of this dotted name."""
        return any(name == free or name.startswith(f"{free}.") for free in self.learned)

    def with_learned(self, values: Mapping[str, float]) -> "Weights":
        """These weights with learned values, by dotted name, in the place of those that `learned` gives free.

        Raises:
            ConfigurationError: a value is out of its range: the artifact that brings it was learned under other rules.
        """
        plain = self.model_dump()
        for name, value in values.items():
            if not self.may_learn(name):
                continue
            *path, last = name.split(".")
            section = plain
            for part in path:
                section = section[part]
            section[last] = value
        return _validated(plain, "the learned weights of the artifact")


def load_weights(path: Path | None = None) -> Weights:
    """Weights of a YAML file, by default the one of the package.

    Raises:
        ConfigurationError: the file cannot be read, or a key is missing, unknown or out of its range; every such
            key is named.
    """
    source = DEFAULT_SOURCE if path is None else path
    try:
        given = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        message = f"cannot read the weights file {source}: {error}"
        raise ConfigurationError(message) from error
    return _validated(given, str(source))


def _validated(given: Any, source: str) -> Weights:
    try:
        return Weights.model_validate(given)
    except ValidationError as error:
        problems = "\n".join(f"  {_explain(problem)}" for problem in error.errors())
        message = f"{source} is not a valid weights file; mend these keys:\n{problems}"
        raise ConfigurationError(message) from None


def _explain(problem: Any) -> str:
    """One line on a wrong key: its dotted name, what is wrong, and the range it may have."""
    name = ".".join(str(part) for part in problem["loc"]) or "(whole file)"
    allowed = _allowed(problem["loc"])
    return f"{name}: {problem['msg']}, not {problem['input']!r}{f' (allowed: {allowed})' if allowed else ''}"


def _allowed(location: tuple[str | int, ...]) -> str:
    section: Any = Weights
    bounds: dict[str, float] = {}
    for part in location:
        field = getattr(section, "model_fields", {}).get(part)
        if field is None:
            return ""
        section = field.annotation
        bounds = {
            limit: getattr(rule, limit)
            for rule in field.metadata
            for limit in ("gt", "ge", "le")
            if hasattr(rule, limit)
        }
    if not bounds:
        return ""
    lowest = f"above {bounds['gt']}" if "gt" in bounds else f"from {bounds['ge']}"
    kind = "whole number" if section is int else "number"
    return f"{kind} {lowest} to {bounds['le']}"
