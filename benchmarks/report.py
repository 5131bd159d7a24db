"""Results as a page with tables and plots, for a person to read.

Here: Markdown and SVG from a results document; what docs/performance.md has between two marks:

    kurashiru bench --size medium --write-docs                              # measures, then writes
    python -m benchmarks.report docs/performance/results.json --write       # only writes

Not here: what was measured and how (the scenarios), the table on a terminal (terminal.py).
"""

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import scenarios
from kurashiru_pipeline.errors import KurashiruError

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- benchmarks/report.py: begin -->\n", "<!-- benchmarks/report.py: end -->"
COLOURS = (
    "#e0642f",
    "#4a6fa5",
    "#7a9e4b",
    "#9aa3ad",
    "#8a5a9e",
    "#c9a227",
    "#3f9c9c",
    "#a5583f",
    "#2b2f33",
    "#d08fb0",
)
_INK, _GRID = "#2b2f33", "#dfe3e6"
_SIGNS = {">=": "≥", "<=": "≤", "==": "="}
_MANY = 40  # points from which a line is plotted without marks
_FEW, _LONG_RANGE = 8, 30  # so few numbers on the x axis, and so far apart, stand on a logarithmic scale


def write(document: Mapping[str, Any], folder: Path) -> Path:
    """Write the report into a folder: report.md, a plot for each series, results.json. Returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(document, indent=2), encoding="utf-8")
    _write_plots(document, folder)
    page = folder / "report.md"
    page.write_text(f"# Benchmark, size {document['size']}\n\n{content(document, '')}", encoding="utf-8")
    return page


def add_to_page(document: Mapping[str, Any], page: Path = PAGE) -> None:
    """Put the results into docs/performance.md; scenarios that did not run stay as they were.

    Those of another machine or of other versions do not: figures of one page can be compared.

    Raises:
        KurashiruError: a scenario broke.
    """
    broken = [scenario["name"] for scenario in document["scenarios"] if scenario["error"]]
    if broken:
        raise KurashiruError(f"{page.name} is as it was: {', '.join(broken)} broke; mend it, then go on with --resume")
    results = page.with_suffix("") / "results.json"
    kept = json.loads(results.read_bytes()) if results.exists() else None
    if kept is not None and _ground(kept) == _ground(document):
        document = _merged(kept, document)
    write_page(document, page)


def _ground(document: Mapping[str, Any]) -> Any:
    """What it ran on and with."""
    machine = {name: of for name, of in document["machine"].items() if name != "load_average"}
    return machine, document["versions"], document["peers"]


def _merged(kept: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The new results, and of the kept ones the scenarios that the new ones lack."""
    ran = {scenario["name"] for scenario in new["scenarios"]}
    of_both = {
        part: [*new[part], *(one for one in kept[part] if one[by] not in ran)]
        for part, by in (("scenarios", "name"), ("figures", "scenario"), ("series", "scenario"))
    }
    of_both["scenarios"].sort(key=lambda scenario: scenarios.ORDER.index(scenario["name"]))
    return {**new, **of_both}


def write_page(document: Mapping[str, Any], page: Path = PAGE) -> None:
    """Put the results into docs/performance.md, and them and their plots into the folder beside it."""
    text = page_with(page.read_text(encoding="utf-8"), content(document, f"{page.stem}/"))
    folder = page.with_suffix("")
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.svg"):
        old.unlink()
    _write_plots(document, folder)
    (folder / "results.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    page.write_text(text, encoding="utf-8")


def content(document: Mapping[str, Any], plots: str) -> str:
    """Machine, goals, tables and plots in Markdown; the plots' files are linked with `plots` before their names."""
    return "\n".join([_about(document), *_goals(document), *_scenarios(document, plots)])


def page_with(text: str, content: str) -> str:
    """The page with `content` between its marks.

    Raises:
        ValueError: it lacks the marks.
    """
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        message = f"{PAGE} lacks the lines {BEGIN.strip()} and {END}"
        raise ValueError(message)
    return f"{before}{BEGIN}{content}{END}{after}"


def number(value: float | None) -> str:
    """Three significant figures, or all of those before the point."""
    if value is None:
        return "-"
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:,.{max(digits, 0)}f}"


def measured(figure: Mapping[str, Any]) -> str:
    """Value and unit."""
    return f"{number(figure['value'])} {figure['unit'] if figure['value'] is not None else ''}".strip()


def spread(figure: Mapping[str, Any]) -> str:
    """Least and greatest value."""
    return "" if figure["spread"] is None else f"{number(figure['spread'][0])} - {number(figure['spread'][1])}"


def goal(figure: Mapping[str, Any]) -> str:
    """The comparison and its bound; nothing where there is no goal."""
    if figure["goal"] is None:
        return ""
    sign, _, bound = figure["goal"].partition(" ")
    return f"{_SIGNS.get(sign, sign)} {float(bound):,.4g}"


def verdict(figure: Mapping[str, Any]) -> str:
    """Whether the goal is reached, in a word; nothing where there is no goal or no value."""
    return {True: "yes", False: "no", None: ""}[figure["reached"]]


def summary(document: Mapping[str, Any]) -> str:
    """How many goals are reached, and what failed."""
    verdicts = [figure["reached"] for figure in document["figures"] if figure["reached"] is not None]
    unmeasured = sum(figure["goal"] is not None and figure["value"] is None for figure in document["figures"])
    failed = [one["name"] for one in document["scenarios"] if one["error"]]
    parts = [f"{sum(verdicts)} of {len(verdicts)} goals reached"]
    if unmeasured:
        parts.append(f"{unmeasured} not measured")
    if failed:
        parts.append(f"failed: {', '.join(failed)}")
    return "; ".join(parts)


def _about(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    load = machine["load_average"]
    versions = {**document["versions"], **{f"{name} (peer)": of for name, of in document["peers"].items()}}
    lines = [
        f"- {summary(document)}; last run: `{document['command']}`",
        f"- {machine['cores']} cores ({machine['processor']}), {machine['memory_gb']:.0f} GB of memory, "
        f"{machine['system']}, Python {machine['python']}",
        f"- load average {load['before']} before, {load['after']} after",
        f"- {', '.join(f'{name} {of}' for name, of in versions.items())}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _goals(document: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (f"`{figure['name']}`", measured(figure), spread(figure), goal(figure), verdict(figure), figure["scenario"])
        for figure in document["figures"]
        if figure["goal"] is not None
    ]
    if rows:
        yield "## Goals\n"
        yield _table(("figure", "value", "spread", "goal", "reached", "scenario"), rows)


def _scenarios(document: Mapping[str, Any], plots: str) -> Iterator[str]:
    for scenario in document["scenarios"]:
        name = scenario["name"]
        yield (
            f"## {name}\n\n{_sentence(scenario['title'])}. Size {scenario['size']}, {scenario['date'][:10]}, "
            f"{scenario['seconds']:,.0f} s; load average {scenario['load_before']} before.\n"
        )
        if scenario["error"]:
            yield f"Failed: `{scenario['error']}`\n"
        rows = [
            (
                f"`{figure['name']}`",
                measured(figure),
                spread(figure),
                goal(figure),
                verdict(figure),
                figure["note"].replace("|", "\\|"),
            )
            for figure in document["figures"]
            if figure["scenario"] == name
        ]
        if rows:
            yield _table(("figure", "value", "spread", "goal", "reached", "what limits it"), rows)
        for series in document["series"]:
            if series["scenario"] == name:
                yield f"![{_sentence(series['title'])}]({plots}{_file(series)})\n"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", "---:", "---:", "---:", "---", "---"], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _file(series: Mapping[str, Any]) -> str:
    return f"{series['scenario']}_{series['name']}.svg"


def _write_plots(document: Mapping[str, Any], folder: Path) -> None:
    for series in document["series"]:
        plot(series, folder / _file(series))


def plot(series: Mapping[str, Any], target: Path) -> None:
    """One plot as a file; words on the x axis give bars, numbers give lines."""
    import matplotlib as mpl  # noqa: PLC0415  a table needs no half second of imports
    from matplotlib.figure import Figure  # noqa: PLC0415

    # The same results give the same bytes, so that a page written anew differs only where figures do.
    with mpl.rc_context(
        {"svg.hashsalt": series["name"], "svg.fonttype": "none", "font.size": 9, "axes.edgecolor": _GRID}
    ):
        figure = Figure(figsize=(8.2, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.set_prop_cycle(color=COLOURS)
        if len(series["x"]) == 1 or any(isinstance(value, str) for value in series["x"]):
            _bars(axes, series)
        else:
            _lines(axes, series)
        axes.set_title(_sentence(series["title"]), loc="left", color=_INK, fontsize=10)
        axes.set_ylabel(series["y_label"], color=_INK)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=_INK, length=0)
        if len(series["y"]) > 1:
            axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
        figure.savefig(target, metadata={"Date": None} if target.suffix == ".svg" else None)


def _lines(axes: Any, series: Mapping[str, Any]) -> None:
    for name, values in series["y"].items():
        axes.plot(
            series["x"], values, marker="" if len(values) > _MANY else "o", markersize=4, linewidth=1.4, label=name
        )
    axes.grid(color=_GRID, linewidth=0.8)
    axes.set_xlabel(series["x_label"], color=_INK)
    least, greatest = min(series["x"]), max(series["x"])
    if len(series["x"]) <= _FEW and least > 0 and greatest / least >= _LONG_RANGE:
        axes.set_xscale("log")
        axes.set_xticks(series["x"], [f"{value:,g}" for value in series["x"]])
        axes.minorticks_off()
    else:
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")


def _bars(axes: Any, series: Mapping[str, Any]) -> None:
    width = 0.8 / len(series["y"])
    for place, (name, values) in enumerate(series["y"].items()):
        left = [at - 0.4 + width * (place + 0.5) for at in range(len(values))]
        drawn = axes.bar(left, values, width=width * 0.92, label=name)
        axes.bar_label(drawn, [number(value) for value in values], fontsize=7, color=_INK, padding=2)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    names = [value.replace("_", "\n") if isinstance(value, str) else f"{value:,g}" for value in series["x"]]
    axes.set_xticks(range(len(names)), names)
    axes.set_xlabel(series["x_label"], color=_INK)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of a run")
    parser.add_argument("--write", action="store_true", help="Write the results into docs/performance.md.")
    given = parser.parse_args()
    document = json.loads(given.results.read_bytes())
    if given.write:
        write_page(document)
    else:
        print(content(document, ""))


if __name__ == "__main__":
    main()
