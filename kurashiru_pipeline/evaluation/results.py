"""What came out, as plain data: figures, segments, comparisons and what they rest on.

Here: the document `--json` prints and the report is drawn from.
Not here: the metrics themselves (core/metrics.py), pictures and words (report.py).
"""

import platform
from importlib.metadata import version
from typing import Any

import numpy as np

from kurashiru_pipeline.core.columns import Bools
from kurashiru_pipeline.core.metrics import difference, summary
from kurashiru_pipeline.evaluation.baselines import BASELINES
from kurashiru_pipeline.evaluation.interactions import Interactions
from kurashiru_pipeline.evaluation.queries import Protocol, Queries, text_of
from kurashiru_pipeline.evaluation.run import Evaluation, Result

NEW_USER_EVENTS = 10
HEAVY_SHARE = 0.1
MOST_TAGS = 40


def documents(evaluation: Evaluation, interactions: Interactions) -> list[dict[str, Any]]:
    """One a model, in the order of the plan, under the keys docs/recommendations.md explains."""
    parts = segments(interactions, evaluation)
    baselines = [result for result in evaluation.results if result.model in BASELINES]
    best = max(baselines, key=lambda result: float(result.judged.ndcg.mean()), default=None)
    return [_document(result, evaluation, parts, best) for result in evaluation.results]


def _document(result: Result, evaluation: Evaluation, parts: dict[str, Bools], best: Result | None) -> dict[str, Any]:
    document: dict[str, Any] = {
        "model": result.model,
        "protocol": str(evaluation.plan.protocol),
        **summary(result.judged),
        "fit_seconds": round(result.fit_seconds, 3),
        "users_per_second": round(result.users_per_second, 1),
        **result.details,
    }
    if result.by_lag:
        document["lag"] = [{"seconds": lag, **_short(summary(judged))} for lag, judged in sorted(result.by_lag.items())]
    document["segments"] = {
        name: _short(summary(result.judged.of(queries))) for name, queries in parts.items() if queries.any()
    }
    if best is not None and best is not result:
        found = difference(result.judged, best.judged)
        document["versus_best_baseline"] = {
            "model": best.model,
            "ndcg_difference": found.mean,
            "ci": [found.low, found.high],
            "share": found.mean / float(best.judged.ndcg.mean()) if best.judged.ndcg.any() else None,
        }
    return document


def _short(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: figures[name] for name in ("queries", "users", "ndcg_at_10", "ndcg_ci", "recall_at_10", "recall_ci")}


def segments(interactions: Interactions, evaluation: Evaluation) -> dict[str, Bools]:
    """(Q,) queries of each segment: new and heavy users, repeats, and the value tags of the targets.

    New users have fewer than 10 earlier interactions at the query; heavy users are the tenth of those asked with the
    most at their first query. Of the tags, the ones wanted most are told.
    """
    queries = evaluation.queries
    first = np.full(len(interactions.user_ids), np.iinfo(np.int64).max)
    np.minimum.at(first, queries.user, queries.earlier)
    heavy = np.quantile(first[np.unique(queries.user)], 1 - HEAVY_SHARE, method="higher") if len(queries) else 0
    parts = {
        "new users": queries.earlier < NEW_USER_EVENTS,
        "heavy users": first[queries.user] >= heavy,
    }
    if evaluation.plan.protocol is Protocol.NEXT_ITEM:
        again = is_repeat(interactions, queries)
        parts |= {"taken before": again, "new to the user": ~again}
    query, target = queries.one_target_each()
    row, tag = interactions.catalogue.tags_of(target)
    asked = np.bincount(tag, minlength=len(interactions.catalogue.tags))
    names = interactions.catalogue.tags.to_pylist()
    for wanted in np.argsort(-asked, kind="stable")[:MOST_TAGS].tolist():
        if asked[wanted]:
            has_tag = np.zeros(len(queries), dtype=bool)
            has_tag[query[row[tag == wanted]]] = True
            parts[f"tag: {names[wanted]}"] = has_tag
    return parts


def is_repeat(interactions: Interactions, queries: Queries) -> Bools:
    """(Q,) whether the user took the (one) target before."""
    size = len(interactions.catalogue.recipe_ids) + 1
    rows = interactions.by_user
    pairs, first = np.unique(interactions.user[rows] * size + interactions.recipe[rows] + 1, return_index=True)
    at = np.searchsorted(pairs, queries.user * size + queries.targets + 1)
    earlier: Bools = first[at] - interactions.user_starts[queries.user] < queries.known
    return earlier


def description(evaluation: Evaluation, interactions: Interactions) -> dict[str, Any]:
    """The data, the split and the queries, for people and for a run to be repeated."""
    queries, cuts = evaluation.queries, evaluation.cuts
    target = queries.targets
    has_before = queries.known > 0
    newest = interactions.by_user[interactions.user_starts[queries.user] + np.maximum(queries.known - 1, 0)]
    gaps = (queries.at - interactions.at[newest])[has_before] / 1e6
    unseen = interactions.first_seen[target] >= cuts.test_from
    document: dict[str, Any] = {
        "protocol": str(evaluation.plan.protocol),
        "source": interactions.source,
        "notes": list(interactions.notes),
        "interactions": int(interactions.tells_interest.sum()),
        "users": len(interactions.user_ids),
        "recipes": len(interactions.catalogue.recipe_ids),
        "tags": len(interactions.catalogue.tags),
        "from": text_of(cuts.start),
        "validation_from": text_of(cuts.validation_from),
        "test_from": text_of(cuts.test_from),
        "to": text_of(cuts.end),
        "queries": len(queries),
        "asked_users": len(np.unique(queries.user)),
        "targets": len(target),
        "median_gap_seconds": float(np.median(gaps)) if len(gaps) else None,
        "share_of_new_recipes": float(unseen.mean()),
        "refit_every": evaluation.pace.refit_every,
        "recent": evaluation.plan.recent,
        "seed": evaluation.plan.seed,
        "python": platform.python_version(),
        "version": version("kurashiru_pipeline"),
    }
    if evaluation.plan.protocol is Protocol.NEXT_ITEM:
        document["share_of_repeats"] = float(is_repeat(interactions, queries).mean())
    return document
