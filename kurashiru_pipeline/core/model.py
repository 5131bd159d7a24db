"""The learned step: a LightGBM re-ranker over the kernel's shortlist, which says what to add to the blend.

Here: its features, which all exist at serving time, and how a shortlist is scored with it: LightGBM trains the trees,
but to walk through them kernels/trees.py is faster, and half a second sooner loaded.
Not here: training (learning.py), candidates and sources (scoring.py), rules after it (ranking.py).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from kurashiru_pipeline.core.columns import Floats, FloatTable, Ints, Words
from kurashiru_pipeline.core.kernels import lists, trees
from kurashiru_pipeline.core.kernels.lists import ModelDesk, RecipeArrays
from kurashiru_pipeline.core.kernels.trees import Ensemble
from kurashiru_pipeline.core.native import compiled
from kurashiru_pipeline.core.scoring import PARTS, SOURCES, Candidates, blend_weights
from kurashiru_pipeline.core.weights import Weights
from kurashiru_pipeline.errors import ConfigurationError

OURS = ("leftovers", "external")
"""Sources that no behaviour teaches: they are added after the model, with the weights of weights.yaml."""

LEARNABLE = tuple(name for name in SOURCES if name not in OURS)
LEARNABLE_AT = np.array([SOURCES.index(name) for name in LEARNABLE])
FEATURES = (*LEARNABLE, *PARTS, "cool_down", "own_age", "recipe_age", "gap", "own_recipes", "blend")

BLEND_SCALE = "model.blend_scale"
"""Name under which an artifact's learned values tell how much the blend counts beside the model: log-odds a unit."""

_KEPT = 4


def feature_values(
    recipes: RecipeArrays, candidates: Candidates, weights: Weights, row: Ints, column: Ints
) -> FloatTable:
    """(N, features) values of FEATURES of N candidates; ages and gap are logarithms of hours, the gap to the user's
    newest behaviour. The candidates must have been scored with their parts.
    """
    values = np.empty((len(row), len(FEATURES)))
    compiled(lists.feature_values)(
        candidates.start,
        np.ascontiguousarray(row),
        np.ascontiguousarray(column),
        recipes,
        candidates.users,
        blend_weights(weights),
        LEARNABLE_AT,
        candidates.scratch,
        candidates.table,
        candidates.parts,
        np.empty(len(SOURCES)),
        values,
    )
    return values


def model_desk(shortlist: int) -> ModelDesk:
    """Scratch to score shortlists of so many candidates with a model."""
    return ModelDesk(
        row=np.empty(shortlist, np.int64),
        column=np.empty(shortlist, np.int64),
        sources=np.empty((shortlist, len(SOURCES))),
        features=np.empty((shortlist, len(FEATURES))),
        scores=np.empty(shortlist),
        values=np.zeros(len(FEATURES) * trees.ROWS_AT_ONCE),
        leaves=np.empty(trees.ROWS_AT_ONCE, np.uint64),
    )


def predicted(model: str, features: FloatTable) -> Floats:
    """(N,) the model's score of each candidate; higher is better, the unit has no meaning.

    Raises:
        ConfigurationError: the model was trained on other features than these, or is of another kind.
    """
    scores = np.empty(len(features))
    scratch = np.zeros(features.shape[1] * trees.ROWS_AT_ONCE), np.empty(trees.ROWS_AT_ONCE, np.uint64)
    compiled(trees.predict)(features, ensemble(model), *scratch, scores)
    return scores


def contributions(model: str, features: FloatTable) -> Floats:
    """(N, features + 1) what each of FEATURES adds to `predicted`, and last what every candidate starts from.

    TreeSHAP: Lundberg et al., From local explanations to global understanding with explainable AI for trees, 2020.
    """
    shares: Floats = _booster(model).predict(features, pred_contrib=True, num_threads=1)
    return shares


@lru_cache(_KEPT)
def _booster(model: str) -> Any:
    import lightgbm  # noqa: PLC0415 - half a second, and only explanations need it

    booster = lightgbm.Booster(model_str=model)
    _check_features(booster.feature_name())
    return booster


@lru_cache(_KEPT)
def ensemble(model: str) -> Ensemble:
    """The trees of a LightGBM model's text, none of the empty one.

    Raises:
        ConfigurationError: the model was trained on other features than these, or is of another kind.
    """
    if not model:
        return Ensemble(np.zeros(1, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.uint64), np.zeros(0))
    head, *blocks = model.split("\nTree=")
    _check_features(_members(head)["feature_names"].split())
    if "average_output" in head.splitlines():
        raise _unfit("is a mean of trees, not their sum")
    offsets: list[int] = [0]
    features: list[Ints] = []
    thresholds: list[Floats] = []
    left_out: list[Words] = []
    values: list[Floats] = []
    for block in blocks:
        tree = _members(block.partition("\nend of trees")[0])
        leaves = int(tree["num_leaves"])
        splits = leaves - 1
        takes_0_as_missing = (_numbers(tree, "decision_type", splits, np.int64) >> 2 & 3 == 1).any()
        if tree["num_cat"] != "0" or tree.get("is_linear", "0") != "0" or takes_0_as_missing:
            raise _unfit("has a tree that is not made of plain comparisons")
        if leaves > trees.MOST_LEAVES:
            raise _unfit(f"has a tree of {leaves} leaves, more than {trees.MOST_LEAVES}")
        features.append(_numbers(tree, "split_feature", splits, np.int64))
        thresholds.append(_numbers(tree, "threshold", splits, np.float64))
        left = _numbers(tree, "left_child", splits, np.int64)
        order, masks = _leaves_from_left(left, _numbers(tree, "right_child", splits, np.int64))
        left_out.append(masks)
        places = np.zeros(trees.MOST_LEAVES)
        leaf_values = _numbers(tree, "leaf_value", leaves, np.float64)
        for nth, leaf in enumerate(order):
            places[(((1 << nth) * trees.DE_BRUIJN) & (2**64 - 1)) >> 58] = leaf_values[leaf]
        values.append(places)
        offsets.append(offsets[-1] + splits)
    return Ensemble(
        np.array(offsets),
        np.concatenate([np.zeros(0, np.int64), *features]),
        np.concatenate([np.zeros(0), *thresholds]),
        np.concatenate([np.zeros(0, np.uint64), *left_out]),
        np.concatenate([np.zeros(0), *values]),
    )


def _leaves_from_left(left: Ints, right: Ints) -> tuple[list[int], Words]:
    """The leaves of a tree from left to right, and for each node the bits of those that are not to its left.

    Children are numbers of nodes, or of leaves, as ~leaf.
    """
    order: list[int] = []
    masks = np.zeros(len(left), np.uint64)

    def walk(child: int) -> None:
        if child < 0:
            order.append(~child)
            return
        first = len(order)
        walk(int(left[child]))
        to_its_left = (1 << len(order)) - (1 << first)
        masks[child] = np.uint64((2**64 - 1) ^ to_its_left)
        walk(int(right[child]))

    walk(0 if len(left) else ~0)
    return order, masks


def _members(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _numbers(tree: dict[str, str], name: str, count: int, kind: type) -> Any:
    """Values of a tree's member; a tree of one leaf has no splits to tell of."""
    values: Any = np.array(tree[name].split() if count else [], dtype=kind)
    if len(values) != count:
        raise _unfit(f"is damaged: {name} holds {len(values)} values, not {count}")
    return values


def _check_features(names: Sequence[str]) -> None:
    if tuple(names) != FEATURES:
        raise _unfit("was trained on other features than this version computes")


def _unfit(what: str) -> ConfigurationError:
    return ConfigurationError(
        f"the re-ranker of the model artifact {what}; train anew: "
        "dagster asset materialize -m kurashiru_pipeline.analytics.definitions --select 'group:model'"
    )
