"""The report a product person reads: what was found, in plain words and pictures.

Here: headings, sentences and which figures they show; the page is one file and loads nothing.
Not here: figures (results.py), how pictures look (charts.py), and the page's frame (report.html).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import orjson

from kurashiru_pipeline.evaluation.baselines import BASELINES
from kurashiru_pipeline.evaluation.charts import Bar, bars, curve, pairs
from kurashiru_pipeline.evaluation.kernel import VARIANTS

PAGE, FIGURES = "report.html", "results.json"
_TAGS_SHOWN, _LEAST_QUERIES = 20, 20
_TAG = "tag: "

PROTOCOLS = {
    "next-item": (
        "A list is asked for before every step of a user, and the profile knows everything up to that step: "
        "this is how a near-real-time system works. The list is right if it holds the very next recipe."
    ),
    "top-n": (
        "A list is asked for once a user, at the cut, and is held against everything the user took afterwards: "
        "this is how a nightly system works."
    ),
}


@dataclass(frozen=True)
class Section:
    """A heading that is a question, what the picture shows, and the picture."""

    heading: str
    text: str
    picture: str = ""


@dataclass(frozen=True)
class Chapter:
    """All about one protocol."""

    protocol: str
    text: str
    headline: str
    data: dict[str, Any]
    documents: list[dict[str, Any]]
    sections: list[Section]


def write_report(folder: Path, runs: Sequence[tuple[dict[str, Any], list[dict[str, Any]]]], command: str) -> Path:
    """Write the page and the figures behind it, and return the page.

    Args:
        folder: made when missing; an older report in it is replaced.
        runs: description and documents (results.py) of each protocol.
        command: what to type to get the same again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    document = {"command": command, "runs": [{"data": data, "models": models} for data, models in runs]}
    (folder / FIGURES).write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY))
    frame = (files("kurashiru_pipeline.evaluation") / PAGE).read_text(encoding="utf-8")
    page = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(frame)
    chapters = [chapter(data, models) for data, models in runs]
    path = folder / PAGE
    path.write_text(page.render(chapters=chapters, command=command, figures=FIGURES), encoding="utf-8")
    return path


def chapter(data: dict[str, Any], models: list[dict[str, Any]]) -> Chapter:
    """Everything about one protocol, in words and pictures."""
    protocol = models[0]["protocol"]
    ours = next((model for model in models if model["model"] in VARIANTS), models[0])
    others = [model for model in models if model["model"] in BASELINES and model is not ours]
    best = max(others, key=lambda model: float(model["ndcg_at_10"]), default=None)
    what = "the next recipe" if protocol == "next-item" else "what the user took later"
    sections = [
        Section(
            f"How often is {what} in the list?",
            "Share of the wanted recipes that are among the first ten. Thin lines: 95 % intervals, told by users.",
            bars(_bars(models, "recall"), "share found among the first ten (Recall@10)"),
        ),
        Section(
            "How high does it stand?",
            "The same, but a place further down counts less: 1 on top, 0.5 on the third place, 0.29 on the tenth.",
            bars(_bars(models, "ndcg"), "quality of the order (NDCG@10)"),
        ),
    ]
    if len(ours.get("lag", ())) > 1:
        sections.append(_delay_section(ours, models))
    untold = "" if data["tags"] else " The recipes of this data have no tags, so that nothing can be told."
    sections += [
        Section(
            "Is the list varied?",
            "How unlike each other the recipes of one list are, by their tags: 0 is ten times the same kind, 1 is ten "
            f"kinds that share nothing.{untold}",
            bars(_bars(models, "diversity"), "variety within a list (mean 1 - Jaccard of tags)"),
        ),
        Section(
            "Does everybody get the same list?",
            "Share of the catalogue that stands in anybody's list. Where it is near 0, all users see the same few "
            "recipes.",
            bars(_bars(models, "coverage"), "share of the catalogue shown to anybody (coverage)"),
        ),
    ]
    if biased := [model for model in models if model["popularity_bias_ci"]]:
        sections.append(
            Section(
                "Are popular recipes pushed?",
                "How popular the listed recipes are compared with those that users then took: 1 is alike, 2 is twice "
                "as popular as what people want.",
                bars(_bars(biased, "popularity_bias"), "popularity of the lists / popularity of what was taken"),
            )
        )
    if best is not None:
        sections += _segment_sections(ours, best)
    return Chapter(protocol, PROTOCOLS[protocol], _headline(protocol, ours, best), data, models, sections)


def _headline(protocol: str, ours: dict[str, Any], best: dict[str, Any] | None) -> str:
    found, quality = f"{ours['recall_at_10']:.1%}", f"NDCG@10 {ours['ndcg_at_10']:.4f}"
    told = (
        f"In {found} of the cases the next recipe is among the first ten of {ours['model']} ({quality})"
        if protocol == "next-item"
        else f"The first ten of {ours['model']} hold {found} of the recipes taken later ({quality})"
    )
    versus = ours.get("versus_best_baseline")
    if best is None or versus is None or versus["share"] is None:
        return f"{told}."
    low, high = versus["ci"]
    better, direction = versus["ndcg_difference"], "better" if versus["ndcg_difference"] >= 0 else "worse"
    sure = "beyond chance" if low > 0 or high < 0 else "which may be chance"
    return (
        f"{told}: {abs(versus['share']):.1%} {direction} than the best of the others, {versus['model']} "
        f"({best['ndcg_at_10']:.4f}), {sure} (difference {better:+.4f}, 95 %: {low:+.4f} to {high:+.4f})."
    )


def _delay_section(ours: dict[str, Any], models: list[dict[str, Any]]) -> Section:
    lags = ours["lag"]
    at_once = float(lags[0]["ndcg_at_10"])
    minute = next((lag for lag in lags if lag["seconds"] == 60), lags[-1])
    lost = 1 - float(minute["ndcg_at_10"]) / at_once if at_once else 0.0
    popular = next((model for model in models if model["model"] == "popular"), None)
    return Section(
        "How much does a minute's delay cost?",
        f"The same model and the same questions, but the profile learns of each step late. "
        f"{minute['seconds']:g} seconds cost {lost:.1%} of the quality.",
        curve(
            [lag["seconds"] for lag in lags],
            [_bar(lag, "ndcg", ours["model"], is_ours=True) for lag in lags],
            None if popular is None else _bar(popular, "ndcg", "popular", is_ours=False),
            "quality of the order (NDCG@10)",
        ),
    )


def _segment_sections(ours: dict[str, Any], best: dict[str, Any]) -> list[Section]:
    names = [name for name, found in ours["segments"].items() if found["queries"] >= _LEAST_QUERIES]
    groups = [name for name in names if not name.startswith(_TAG)]
    tags = [name for name in names if name.startswith(_TAG)][:_TAGS_SHOWN]
    made = []
    for heading, text, chosen in (
        (
            "For whom does it work?",
            "New users did fewer than ten things before; heavy users are the busiest tenth. A recipe may have been "
            "taken before, or be new to its user.",
            groups,
        ),
        ("For which kinds of recipes?", "By the tags of the recipe that was wanted, the most wanted first.", tags),
    ):
        if chosen:
            mine, theirs = (
                [_bar(side["segments"][name], "ndcg", side["model"], is_ours=side is ours) for name in chosen]
                for side in (ours, best)
            )
            labels = [f"{name.removeprefix(_TAG)} ({ours['segments'][name]['queries']:,})" for name in chosen]
            made.append(Section(heading, text, pairs(labels, mine, theirs, "quality of the order (NDCG@10)")))
    return made


def _bars(models: list[dict[str, Any]], metric: str) -> list[Bar]:
    made = [_bar(model, metric, model["model"], is_ours=model["model"] in VARIANTS) for model in models]
    return sorted(made, key=lambda bar: -bar.value)


def _bar(figures: dict[str, Any], metric: str, name: str, *, is_ours: bool) -> Bar:
    value = figures[metric if metric in figures else f"{metric}_at_10"]
    low, high = figures[f"{metric}_ci"]
    return Bar(name, float(value), float(low), float(high), is_ours)
