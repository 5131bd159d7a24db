"""The learned step: a LightGBM re-ranker over the kernel's shortlist, which says what to add to the blend.

Here: its features, which all exist at serving time, and how a shortlist is scored with it.
Not here: training (learning.py), candidates and sources (scoring.py), rules after it (ranking.py).
"""

from functools import lru_cache
from typing import Any

import numpy as np

from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import Floats, Ints
from kurashiru_pipeline.core.scoring import PARTS, SOURCES, Candidates, Recipes, blend_weights, source_values
from kurashiru_pipeline.core.weights import Weights
from kurashiru_pipeline.errors import ConfigurationError

OURS = ("leftovers", "external")
"""Sources that no behaviour teaches: they are added after the model, with the weights of weights.yaml."""

LEARNABLE = tuple(name for name in SOURCES if name not in OURS)
FEATURES = (*LEARNABLE, *PARTS, "cool_down", "own_age", "recipe_age", "gap", "own_recipes", "blend")

BLEND_SCALE = "model.blend_scale"
"""Name under which an artifact's learned values tell how much the blend counts beside the model: log-odds a unit."""

_KEPT = 4


def feature_values(  # noqa: PLR0917 - as source_values is called, and the weights
    catalogue: Catalogue, recipes: Recipes, candidates: Candidates, weights: Weights, row: Ints, column: Ints
) -> Floats:
    """(N, features) values of FEATURES of N candidates; ages and gap are logarithms of hours, the gap to the user's
    newest behaviour. The candidates must have been scored with their parts.
    """
    sources = source_values(catalogue, recipes, candidates, row, column, LEARNABLE)
    place = candidates.place(row, column)
    cool_down = candidates.cool_down[row, place]
    personal = column < candidates.personal
    assert candidates.parts is not None
    parts = candidates.parts[row, np.minimum(column, candidates.personal - 1)] * personal[:, None]
    age = candidates.age[row, place]
    known = np.isfinite(candidates.age)
    newest = np.min(candidates.age, axis=1, initial=np.inf)
    blend = (sources * blend_weights(weights, LEARNABLE)).sum(axis=1) * cool_down
    others = [
        cool_down,
        _log_hours(age),
        np.log1p(recipes.age[candidates.recipe[row, column]]),
        _log_hours(newest)[row],
        np.log1p(known.sum(axis=1))[row],
        blend,
    ]
    return np.concatenate([sources, parts, np.stack(others, axis=1)], axis=1)


def predicted(model: str, features: Floats) -> Floats:
    """(N,) the model's score of each candidate; higher is better, the unit has no meaning.

    Raises:
        ConfigurationError: the model was trained on other features than these.
    """
    scores: Floats = _booster(model).predict(features, raw_score=True, num_threads=1)
    return scores


def contributions(model: str, features: Floats) -> Floats:
    """(N, features + 1) what each of FEATURES adds to `predicted`, and last what every candidate starts from.

    TreeSHAP: Lundberg et al., From local explanations to global understanding with explainable AI for trees, 2020.
    """
    shares: Floats = _booster(model).predict(features, pred_contrib=True, num_threads=1)
    return shares


@lru_cache(_KEPT)
def _booster(model: str) -> Any:
    import lightgbm  # noqa: PLC0415 - half a second, and only where a model is in service

    booster = lightgbm.Booster(model_str=model)
    if tuple(booster.feature_name()) != FEATURES:
        message = (
            "the re-ranker of the model artifact was trained on other features than this version computes; train anew: "
            "dagster asset materialize -m kurashiru_pipeline.analytics.definitions --select 'group:model'"
        )
        raise ConfigurationError(message)
    return booster


def _log_hours(seconds: Floats) -> Floats:
    """Logarithm of hours; what never happened is ten years ago."""
    return np.log(np.minimum(seconds / 3600, 87_600.0) + 1 / 3600)
