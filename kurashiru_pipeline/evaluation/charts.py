"""The report's pictures, as SVG that stands in the page itself.

Here: how bars, points and curves look.
Not here: what they mean (report.py). Matplotlib is imported when the first picture is drawn.
"""

import io
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

OURS, OTHERS, INK, GRID = "#e0642f", "#9aa3ad", "#2b2f33", "#dfe3e6"
_WIDTH = 8.2


@dataclass(frozen=True)
class Bar:
    """One figure with its interval; `is_ours` colours it."""

    name: str
    value: float
    low: float
    high: float
    is_ours: bool


def bars(items: Sequence[Bar], label: str) -> str:
    """Horizontal bars with intervals, in the given order from the top."""
    figure, axes = _figure(0.34 * len(items) + 0.75)
    place = np.arange(len(items))[::-1]
    value = np.array([item.value for item in items])
    error = np.abs(np.array([[item.value - item.low, item.high - item.value] for item in items])).T
    colours = [OURS if item.is_ours else OTHERS for item in items]
    axes.barh(place, value, xerr=error, color=colours, height=0.68, error_kw={"ecolor": INK, "elinewidth": 1})
    highest = max(float(np.max([item.high for item in items], initial=0.0)), 1e-9)
    for item, at in zip(items, place, strict=True):
        axes.text(item.high + highest * 0.012, at, f"{item.value:.3f}", va="center", color=INK, fontsize=8)
    axes.set_yticks(place, [item.name for item in items])
    axes.set_xlim(0, highest * 1.1)
    axes.grid(axis="x", color=GRID)
    axes.set_xlabel(label)
    return _svg(figure)


def pairs(names: Sequence[str], ours: Sequence[Bar], others: Sequence[Bar], label: str) -> str:
    """Two points a row with their intervals: ours and the one it is held against."""
    figure, axes = _figure(0.3 * len(names) + 1.0)
    place = np.arange(len(names))[::-1]
    for items, colour, shift in ((others, OTHERS, -0.13), (ours, OURS, 0.13)):
        value = np.array([item.value for item in items])
        error = np.abs(np.array([[item.value - item.low, item.high - item.value] for item in items])).T
        axes.errorbar(value, place + shift, xerr=error, fmt="o", color=colour, markersize=4.5, linewidth=1.2)
        axes.plot([], [], "o", color=colour, label=items[0].name)
    axes.set_yticks(place, names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    axes.set_xlim(left=0)
    axes.grid(axis="x", color=GRID)
    axes.set_xlabel(label)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return _svg(figure)


def curve(seconds: Sequence[float], items: Sequence[Bar], floor: Bar | None, label: str) -> str:
    """A figure at growing delays, and the level of a model that knows nothing of the user."""
    figure, axes = _figure(3.0)
    place = np.arange(len(seconds))
    axes.fill_between(place, [item.low for item in items], [item.high for item in items], color=OURS, alpha=0.18, lw=0)
    axes.plot(place, [item.value for item in items], "o-", color=OURS, label=items[0].name)
    for item, at in zip(items, place, strict=True):
        axes.annotate(
            f"{item.value:.3f}", (at, item.value), (0, 7), textcoords="offset points", ha="center", fontsize=8
        )
    if floor is not None:
        axes.axhline(floor.value, color=OTHERS, linestyle="--", label=floor.name)
    axes.set_xticks(place, [_delay(value) for value in seconds])
    axes.set_ylim(0, max(item.high for item in items) * 1.15 or 1.0)
    axes.grid(axis="y", color=GRID)
    axes.set_ylabel(label)
    axes.legend(frameon=False, fontsize=8)
    return _svg(figure)


def _delay(seconds: float) -> str:
    if seconds < 60:
        return "at once" if not seconds else f"{seconds:g} s"
    return f"{seconds / 60:g} min" if seconds < 3600 else f"{seconds / 3600:g} h"


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # noqa: PLC0415 - half a second, and only the report needs it

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=INK)
    return figure, axes


def _svg(figure: Any) -> str:
    """The picture as an element; texts stay texts, so that any script is shown in the reader's own fonts."""
    from matplotlib import rc_context  # noqa: PLC0415 - see _figure

    content = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "kurashiru"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # only their width is guessed
        figure.savefig(content, format="svg", metadata={"Date": None})
    text = re.sub("<metadata>.*?</metadata>", "", content.getvalue(), flags=re.DOTALL)
    return text[text.index("<svg") :]
