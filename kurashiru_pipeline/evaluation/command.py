"""`kurashiru evaluate` from its arguments to its results.

Here: reading, running each protocol, writing the report, and the command that does the same again.
Not here: options and tables on the screen (cli.py).
"""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.evaluation.interactions import Interactions, read_files
from kurashiru_pipeline.evaluation.lake import read_lake
from kurashiru_pipeline.evaluation.queries import Protocol, Split, split
from kurashiru_pipeline.evaluation.report import write_report
from kurashiru_pipeline.evaluation.results import description, documents
from kurashiru_pipeline.evaluation.run import LAGS, OnProgress, Plan, chosen_models, evaluate


@dataclass(frozen=True)
class Request:
    """What a person typed.

    Attributes:
        interactions: a file; None: the warehouse of the settings, from `since` on.
        models: names; None: all that can run.
        recent: behaviours a profile of the kernel is made from; None: 1,000, or of the warehouse what the settings say.
        report: folder of the report; None: a new one below KURASHIRU_HOME.
    """

    interactions: Path | None = None
    items: Path | None = None
    since: datetime | None = None
    min_rating: float | None = None
    protocols: tuple[Protocol, ...] = (Protocol.NEXT_ITEM,)
    models: tuple[str, ...] | None = None
    validation_from: str | None = None
    test_from: str | None = None
    lags: tuple[float, ...] = LAGS
    most_queries: int = 20_000
    refit_every: int | None = None
    recent: int | None = None
    seed: int = 0
    report: Path | None = None


@dataclass(frozen=True)
class Outcome:
    """What came out: a document a protocol and model, what to know about it, the page, and how to get it again."""

    documents: list[dict[str, Any]]
    descriptions: list[dict[str, Any]]
    notes: tuple[str, ...]
    page: Path
    command: str


def run(request: Request, settings: Settings, on_note: Callable[[str], None], on_progress: OnProgress) -> Outcome:
    """Do what was asked.

    Raises:
        KurashiruError: files or arguments do not allow it.
    """
    if request.interactions is None:
        interactions = read_lake(settings, request.since)
    else:
        interactions = read_files(request.interactions, request.items, request.min_rating)
    cuts = split(interactions, request.validation_from, request.test_from)
    models, left_out = chosen_models(request.models, len(interactions.catalogue.recipe_ids))
    notes = (*interactions.notes, *left_out)
    for note in notes:
        on_note(note)
    weights, recent = load_weights(), request.recent or _recent(request, settings)
    runs = []
    for protocol in dict.fromkeys(request.protocols):
        plan = Plan(
            protocol,
            models,
            lags=tuple(sorted({0.0, *request.lags})),
            most_queries=request.most_queries,
            refit_every=request.refit_every,
            recent=recent,
            seed=request.seed,
        )
        found = evaluate(interactions, cuts, plan, weights, on_progress)
        runs.append((description(found, interactions), documents(found, interactions)))
    command = command_line(request, cuts)
    page = write_report(request.report or _folder(settings, interactions), runs, command)
    every = [document for _, models_found in runs for document in models_found]
    return Outcome(every, [data for data, _ in runs], notes, page, command)


def _recent(request: Request, settings: Settings) -> int:
    """A file is the whole past; the pipeline remembers what it is set to."""
    return settings.integer("KURASHIRU_RECENT_BEHAVIORS", minimum=1) if request.interactions is None else 1_000


def command_line(request: Request, cuts: Split) -> str:
    """The command that gives the same results again, with the moments of the split in it."""
    given: dict[str, Any] = {
        "--interactions": request.interactions,
        "--items": request.items,
        "--since": request.since.isoformat() if request.since else None,
        "--min-rating": request.min_rating,
        "--validation-from": _seconds(cuts.validation_from),
        "--test-from": _seconds(cuts.test_from),
        "--models": ",".join(request.models) if request.models else None,
        "--lags": ",".join(f"{lag:g}" for lag in request.lags) if request.lags != LAGS else None,
        "--queries": request.most_queries,
        "--refit-every": request.refit_every,
        "--recent": request.recent,
        "--seed": request.seed,
    }
    words = ["kurashiru", "evaluate", *([] if request.interactions else ["--from-lake"])]
    words += [str(word) for name, value in given.items() if value is not None for word in (name, value)]
    return shlex.join([*words, *(word for protocol in request.protocols for word in ("--protocol", protocol))])


def _seconds(moment: int) -> str:
    """Microseconds since 1970 as seconds, exactly."""
    whole, rest = divmod(moment, 1_000_000)
    return f"{whole}.{rest:06d}" if rest else str(whole)


def _folder(settings: Settings, interactions: Interactions) -> Path:
    name = re.sub(r"[^A-Za-z0-9]+", "-", interactions.source).strip("-")
    return settings.home / "evaluations" / f"{utc_now():%Y%m%dT%H%M%S}-{name}"
