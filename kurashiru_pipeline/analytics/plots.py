"""Figures as pictures for the Dagster UI.

Here: what the gate and a canary found, drawn.
Not here: the figures (core/gate.py, core/canary.py), or when they are shown (model_assets.py, canary_assets.py).
matplotlib is imported when something is drawn, since loading the location must stay fast.
"""

import base64
import io
from collections.abc import Sequence
from datetime import date
from typing import TYPE_CHECKING, Any

from kurashiru_pipeline.core.canary import Verdict
from kurashiru_pipeline.core.gate import LENGTH, NO_MODEL, Judgement
from kurashiru_pipeline.core.weights import Promotion

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CHALLENGER, _CHAMPION, _NONE = "#d1495b", "#2e4057", "#9a9a9a"


def judgement_plot(judgement: Judgement, rules: Promotion, candidate: str) -> str:
    """Markdown with a picture: NDCG of candidate, model in service and no model, then coverage and diversity with the
    least that is allowed."""
    champion = judgement["champion"] or NO_MODEL
    at = f"at_{LENGTH}"
    figure = _figure(10.0, 3.2)
    accuracy, coverage, diversity = figure.subplots(1, 3)
    rows = [
        (f"{candidate}\n(hold-out kept from it)", judgement["challenger"]["unseen"], _CHALLENGER),
        (f"{champion}\n(hold-out kept from it)", judgement["in_service"]["unseen"], _CHAMPION),
        (f"{candidate}\n(as it would serve)", judgement["challenger"]["seen"], _CHALLENGER),
        (f"{champion}\n(as it serves)", judgement["in_service"]["seen"], _CHAMPION),
        (NO_MODEL, judgement["without_model"], _NONE),
    ]
    if judgement["champion"] is None:
        rows = [rows[0], rows[2], rows[4]]
    _points(accuracy, rows, f"ndcg_{at}", "ndcg_ci")
    accuracy.set_title(f"NDCG@{LENGTH}, 95 % intervals", fontsize=9)
    sides = [
        ("candidate", judgement["challenger"]["seen"], _CHALLENGER),
        ("in service", judgement["in_service"]["seen"], _CHAMPION),
    ]
    for axes, name, limit in ((coverage, "coverage", rules.coverage), (diversity, "diversity", rules.diversity)):
        _points(axes, sides, f"{name}_{at}", f"{name}_ci")
        axes.axvline(limit * judgement["in_service"]["seen"][f"{name}_{at}"], color=_NONE, linestyle="--")
        axes.set_title(f"{name}, least allowed dashed", fontsize=9)
    return _markdown(figure, "the candidate and the model in service on the same hold-out queries")


def canary_plot(days: Sequence[date], verdicts: Sequence[Verdict]) -> str:
    """Markdown with a picture: click-through rate of both arms, and their difference with its interval, as they were at
    the end of each day."""
    figure = _figure(8.0, 3.2)
    rates, differences = figure.subplots(1, 2)
    for name, color in (("challenger", _CHALLENGER), ("champion", _CHAMPION)):
        rates.plot(days, [getattr(verdict, name).ctr for verdict in verdicts], color=color, marker="o", label=name)
    rates.set_title("click-through rate since the canary began", fontsize=9)
    rates.legend(fontsize=8)
    differences.axhline(0.0, color=_NONE)
    differences.fill_between(
        days,
        [verdict.low for verdict in verdicts],
        [verdict.high for verdict in verdicts],
        color=_CHALLENGER,
        alpha=0.25,
    )
    differences.plot(days, [verdict.difference for verdict in verdicts], color=_CHALLENGER, marker="o")
    differences.set_title("challenger - champion, interval that holds at every look", fontsize=9)
    figure.autofmt_xdate()
    return _markdown(figure, "click-through rates of the arms by day")


def _points(axes: Any, rows: Sequence[tuple[str, dict[str, Any], str]], mean: str, interval: str) -> None:
    """One line a row, the first on top: mean and interval of a metrics.summary."""
    for place, (_, figures, color) in enumerate(reversed(rows)):
        low, high = figures[interval]
        axes.plot([low, high], [place, place], color=color)
        axes.plot(figures[mean], place, color=color, marker="o")
    axes.set_yticks(range(len(rows)), [name for name, _, _ in reversed(rows)], fontsize=7)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_ylim(-0.5, len(rows) - 0.5)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second

    return Figure(figsize=(width, height), layout="constrained")


def _markdown(figure: "Figure", title: str) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return f"![{title}](data:image/png;base64,{base64.b64encode(file.getvalue()).decode()})"
