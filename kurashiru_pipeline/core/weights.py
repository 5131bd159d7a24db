"""The rules and weights of the recommender, as validated data.

Here: their names, meanings and allowed ranges, and how `weights.yaml` is read.
Not here: the formulas that use them (profiles.py, ranking.py, training.py).
"""

from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kurashiru_pipeline.errors import ConfigurationError

# A resource and not a path, for inside Snowflake this package is imported from a zip file.
DEFAULT_SOURCE = files("kurashiru_pipeline.core") / "weights.yaml"


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
    least_share: float = Field(ge=0, le=1)
    taste_half_life: float = Field(gt=0, le=1000)
    leftovers_hours: float = Field(gt=0, le=720)


class Blend(_Section):
    """Weight of each source, every one scaled to at most 1 a user."""

    rules: float = Field(ge=0, le=10)
    live_popularity: float = Field(ge=0, le=10)
    trained_popularity: float = Field(ge=0, le=10)
    taste: float = Field(ge=0, le=10)
    fresh: float = Field(ge=0, le=10)
    repeats: float = Field(ge=0, le=10)
    leftovers: float = Field(ge=0, le=10)


class Popularity(_Section):
    """How fast live popularity fades."""

    half_life_days: float = Field(gt=0, le=365)


class CoolDown(_Section):
    """Half-lives, in days, of the soft cool-down after a recipe was viewed or cooked."""

    viewed_days: float = Field(gt=0, le=365)
    cooked_days: float = Field(gt=0, le=365)


class Fresh(_Section):
    """What counts as new, how fast newness fades, and how many new recipes every list holds."""

    days: float = Field(ge=0, le=365)
    half_life_days: float = Field(gt=0, le=365)
    min_slots: int = Field(ge=0, le=100)


class Diversity(_Section):
    """Re-ranking: the n-th recipe (from 0) of one primary tag among the `shortlist` keeps quota^n of its score."""

    quota: float = Field(gt=0, le=1)
    shortlist: int = Field(ge=1, le=1000)


class Candidates(_Section):
    """How many recipes each source puts forward for a user."""

    rules: int = Field(ge=1, le=1000)
    popular: int = Field(ge=1, le=1000)
    fresh: int = Field(ge=0, le=1000)
    strongest: int = Field(ge=0, le=20)
    each: int = Field(ge=1, le=100)


class Transitions(_Section):
    """Training: similarity c / ((n_from + damping)^from_power * (n_to + damping)^to_power), the best kept."""

    neighbours: int = Field(ge=1, le=1000)
    damping: float = Field(gt=0, le=1000)
    from_power: float = Field(ge=0, le=1)
    to_power: float = Field(ge=0, le=1)


class Weights(_Section):
    """All rules and weights; `weights.yaml` says what each one does."""

    list_length: int = Field(ge=1, le=100)
    actions: Actions
    profile: Profile
    blend: Blend
    popularity: Popularity
    cool_down: CoolDown
    fresh: Fresh
    diversity: Diversity
    candidates: Candidates
    transitions: Transitions


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
