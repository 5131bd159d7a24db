"""`kurashiru bench`: runs, failures, interrupts, results, report. Nothing here asserts how fast anything is."""

import io
import json
import os
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest
from click.testing import CliRunner, Result
from one_scenario import FIGURE, SERIES
from rich.console import Console

from benchmarks import __main__ as child
from benchmarks import command, machine, report, runner, scenarios
from benchmarks.figures import Context, Figure, Outcome, Series, Size, in_turns, median_and_spread
from benchmarks.runner import Run, run_all
from benchmarks.terminal import Monitor, figures_table
from kurashiru_pipeline import environment
from kurashiru_pipeline.cli import cli
from kurashiru_pipeline.errors import ConfigurationError, KurashiruError

FIGURE_KEYS = {"name", "value", "unit", "spread", "goal", "reached", "note", "scenario"}


class Diary:
    """A watch that notes what it is told, and interrupts at a word."""

    def __init__(self, interrupt_at: str | None = None) -> None:
        self.notes: list[tuple[str, str]] = []
        self._interrupt_at = interrupt_at

    def began(self, name: str) -> None:
        self.notes.append((name, "began"))

    def moved(self, name: str, share: float, what: str, seconds_left: float) -> None:
        assert 0 <= share <= 1
        assert seconds_left >= 0
        if what == self._interrupt_at:
            raise KeyboardInterrupt

    def ended(self, name: str, seconds: float, error: str | None) -> None:
        self.notes.append((name, error or "ended"))

    def kept(self, name: str) -> None:
        self.notes.append((name, "kept"))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    program = (sys.executable, str(Path(__file__).with_name("one_scenario.py")))
    monkeypatch.setattr(runner, "PROGRAM", program)
    titles = dict.fromkeys(("start", "recommend", "micro_batch", "dbt", "day"), "a title")
    monkeypatch.setattr(scenarios, "titles", lambda: titles)


def make_run(folder: Path, *names: str, is_resumed: bool = False) -> Run:
    return Run(Size.SMALL, names, folder, is_resumed, "kurashiru bench --size small")


@pytest.fixture
def document(tmp_path: Path) -> dict:
    return run_all(make_run(tmp_path / "bench", "start", "recommend"), Diary())


# --- figures


@pytest.mark.parametrize(
    ("goal", "value", "reached"),
    [
        (">= 0.5", 0.5, True),
        (">= 0.5", 0.49, False),
        ("<= 15", 15, True),
        ("<= 15", 15.1, False),
        ("> 3", 3, False),
        ("< 0.01", 0.009, True),
        ("== 0", 0, True),
        ("<= 15", None, None),
        (None, 15, None),
    ],
)
def test_reached_follows_from_goal_and_value(goal: str | None, value: float | None, reached: bool | None) -> None:
    assert Figure("f", value, "s", goal=goal).reached is reached


@pytest.mark.parametrize("goal", ["15", "fast", "=> 3", ">= three", ""])
def test_a_goal_that_is_none_is_refused(goal: str) -> None:
    with pytest.raises(ValueError, match="a goal is one of"):
        Figure("f", 1.0, "s", goal=goal)


def test_calls_take_turns_and_their_spread_is_told() -> None:
    called: list[str] = []
    taken = in_turns(3, ours=lambda: called.append("ours"), theirs=lambda: called.append("theirs"))
    assert called == ["ours", "theirs"] * 3
    assert {name: len(seconds) for name, seconds in taken.items()} == {"ours": 3, "theirs": 3}
    assert median_and_spread([3.0, 1.0, 2.0]) == (2.0, (1.0, 3.0))


# --- a run


def test_results_have_everything_a_reader_needs(document: dict, tmp_path: Path) -> None:
    assert document == json.loads((tmp_path / "bench" / "results.json").read_text())
    assert {"machine", "versions", "peers", "date", "command", "size", "figures", "series", "scenarios"} == set(
        document
    )
    assert all(set(figure) == FIGURE_KEYS for figure in document["figures"])
    assert {"cores", "memory_gb", "processor", "system", "python", "load_average"} == set(document["machine"])
    assert document["versions"].keys() >= {"duckdb", "pyarrow", "dagster"}
    assert os.uname().nodename not in json.dumps(document["machine"])


def test_a_scenario_that_fails_is_told_and_the_next_goes_on(document: dict, tmp_path: Path) -> None:
    failed, passed = document["scenarios"]
    assert failed["error"].startswith("ValueError: no such thing (exit status 3; all of it in ")
    assert "Traceback" in (tmp_path / "bench" / "start.log").read_text()
    assert passed["error"] is None
    assert [figure["scenario"] for figure in document["figures"]] == ["recommend"]
    assert report.summary(document) == "1 of 1 goals reached; failed: start"


def test_a_scenario_that_is_killed_is_told(tmp_path: Path) -> None:
    document = run_all(make_run(tmp_path, "dbt"), Diary())
    assert "ended by signal 9" in document["scenarios"][0]["error"]


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    run_all(make_run(tmp_path, "micro_batch"), Diary())
    assert list((tmp_path / "work").iterdir()) == []
    left = int((tmp_path / "left").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(left) and psutil.Process(left).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "a process that the scenario started still runs"
        time.sleep(0.02)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_all(make_run(tmp_path, "recommend", "day"), Diary(interrupt_at="half"))
    assert (tmp_path / "recommend.json").exists()
    assert (tmp_path / "work" / "day" / "state").read_text() == "interrupted"

    diary = Diary()
    document = run_all(make_run(tmp_path, "recommend", "day", is_resumed=True), diary)
    assert diary.notes == [("recommend", "kept"), ("day", "began"), ("day", "ended")]
    assert [figure["note"] for figure in document["figures"]] == ["", "went on"]


def test_a_run_that_is_not_resumed_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "work" / "recommend").mkdir(parents=True)
    (tmp_path / "work" / "recommend" / "state").write_text("old")
    run_all(make_run(tmp_path, "recommend"), Diary())
    diary = Diary()
    document = run_all(make_run(tmp_path, "recommend"), diary)
    assert diary.notes == [("recommend", "began"), ("recommend", "ended")]
    assert document["figures"][0]["note"] == ""


def test_what_failed_is_run_again_by_resume(tmp_path: Path) -> None:
    run_all(make_run(tmp_path, "start"), Diary())
    diary = Diary()
    run_all(make_run(tmp_path, "start", is_resumed=True), diary)
    assert diary.notes[0] == ("start", "began")


def test_two_runs_in_one_folder_are_refused(tmp_path: Path) -> None:
    class Second(Diary):
        def began(self, name: str) -> None:
            with pytest.raises(KurashiruError, match="another benchmark works in"):
                run_all(make_run(tmp_path, "recommend"), Diary())
            super().began(name)

    second = Second()
    run_all(make_run(tmp_path, "recommend"), second)
    assert second.notes == [("recommend", "began"), ("recommend", "ended")]


def test_too_little_room_is_told_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = scenarios.disk_gb("day", Size.FULL)
    monkeypatch.setattr(scenarios, "_DISK_GB", {"": (1, 1, 1), "day": (1, 1, 1e9)})
    run = Run(Size.FULL, ("recommend", "day"), tmp_path, False, "")
    with pytest.raises(ConfigurationError, match=r"scenario day in size full needs .* GB are free at .*KURASHIRU_HOME"):
        runner.require_space(run)
    assert needed > 10


# --- one scenario


def test_a_scenario_tells_progress_and_its_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(context: Context) -> Outcome:
        context.progress(0.5, "half")
        assert (context.size, context.folder, context.peers) == (Size.MEDIUM, tmp_path, None)
        return Outcome([Figure("f", 1.0, "s", (1.0, 2.0), "<= 3")], [Series("s", "S", "x", "y", [1], {"a": [2.0]})])

    monkeypatch.setattr(scenarios, "load", lambda name: measure)
    listen, tell = os.pipe()
    outcome = tmp_path / "outcome.json"
    arguments = ["", "start", "--size", "medium", "--folder", str(tmp_path), "--outcome", str(outcome)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--progress", str(tell)])
    child.main()
    with os.fdopen(listen) as told:
        assert json.loads(told.read()) == [0.5, "half"]
    kept = json.loads(outcome.read_text())
    assert set(kept["figures"][0]) == FIGURE_KEYS - {"scenario"}
    assert kept["figures"][0]["reached"] is True
    assert kept["series"][0]["y"] == {"a": [2.0]}


# --- the report


def test_the_report_is_a_page_with_plots(document: dict, tmp_path: Path) -> None:
    page = report.write(document, tmp_path / "report")
    text = page.read_text()
    assert "| `ratio` | 2.00 x | 1.50 - 2.50 | ≥ 1 | yes |  |" in text
    assert "Failed: `ValueError: no such thing" in text
    assert "![A line](recommend_line.svg)" in text
    assert ElementTree.parse(page.parent / "recommend_line.svg").getroot().tag.endswith("svg")
    assert json.loads((page.parent / "results.json").read_text()) == document


def test_the_same_results_give_the_same_plot(tmp_path: Path) -> None:
    words = {**SERIES, "x": ["load", "stage", "collect"], "y": {"a": [1.0, 2.0, 3.0], "b": [3.0, 2.0, 1.0]}}
    far = {**SERIES, "x": [1, 10, 300]}
    for series in (words, far):
        plots = [tmp_path / "one.svg", tmp_path / "other.svg"]
        for path in plots:
            report.plot({"scenario": "recommend", **series}, path)
        assert plots[0].read_bytes() == plots[1].read_bytes()


def test_the_page_of_the_docs_keeps_what_is_written_by_hand(document: dict, tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"by hand\n{report.BEGIN}old{report.END}\nby hand too\n")
    report.write_page(document, page)
    text = page.read_text()
    assert text.startswith("by hand\n")
    assert text.endswith("by hand too\n")
    assert "old" not in text
    assert (tmp_path / "performance" / "recommend_line.svg").exists()
    with pytest.raises(ValueError, match="lacks the lines"):
        report.page_with("by hand", "new")


@pytest.fixture
def page(tmp_path: Path) -> Path:
    page = tmp_path / "performance.md"
    page.write_text(f"{report.BEGIN}{report.END}")
    return page


def names_of(page: Path) -> list[str]:
    results = json.loads((page.with_suffix("") / "results.json").read_text())
    assert {figure["scenario"] for figure in results["figures"]} == {one["name"] for one in results["scenarios"]}
    return [scenario["name"] for scenario in results["scenarios"]]


def test_the_page_keeps_scenarios_that_did_not_run_again(tmp_path: Path, page: Path) -> None:
    report.add_to_page(run_all(make_run(tmp_path / "first", "micro_batch"), Diary()), page)
    report.add_to_page(run_all(make_run(tmp_path / "more", "recommend"), Diary()), page)
    assert names_of(page) == ["recommend", "micro_batch"]
    again = run_all(make_run(tmp_path / "again", "micro_batch"), Diary())
    again["figures"][0]["value"] = 7.0
    report.add_to_page(again, page)
    assert names_of(page) == ["recommend", "micro_batch"]
    goals, *tables = page.read_text().split("## ")[1:]
    assert ("| 2.00 x |" in goals, "| 7.00 x |" in goals) == (True, True)
    assert [("| 2.00 x |" in table, "| 7.00 x |" in table) for table in tables] == [(True, False), (False, True)]
    assert len(list((tmp_path / "performance").glob("*.svg"))) == 2

    report.add_to_page({**again, "versions": {**again["versions"], "duckdb": "0.1"}}, page)
    assert names_of(page) == ["micro_batch"]


def test_the_page_takes_no_broken_run(document: dict, page: Path) -> None:
    with pytest.raises(KurashiruError, match=r"performance.md is as it was: start broke; .* --resume"):
        report.add_to_page(document, page)
    assert page.read_text() == f"{report.BEGIN}{report.END}"


def test_docs_performance_is_what_its_results_give() -> None:
    text = report.PAGE.read_text(encoding="utf-8")
    results = json.loads((report.PAGE.with_suffix("") / "results.json").read_bytes())
    written = report.page_with(text, report.content(results, "performance/"))
    assert written == text, "write the page anew: python -m benchmarks.report docs/performance/results.json --write"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0"), (0.01234, "0.0123"), (1.5, "1.50"), (99.96, "100.0"), (123.4, "123"), (55_000.4, "55,000")],
)
def test_numbers_have_three_figures(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_plain_lines_where_nobody_watches(document: dict) -> None:
    out = io.StringIO()
    console = Console(file=out, width=120)
    with Monitor(console) as monitor:
        monitor.began("day")
        monitor.moved("day", 0.5, "half", 90.0)
        monitor.ended("day", 12.0, None)
        monitor.ended("dbt", 100.0, "ValueError: [brackets]")
    console.print(figures_table(document))
    assert out.getvalue().startswith("day: 12 s\ndbt: FAILED after 0:01:40: ValueError: [brackets]\n")
    assert "1 of 1 goals reached" in out.getvalue()


def test_a_busy_machine_is_told() -> None:
    assert machine.busy_warning(0.0) is None
    assert "the machine is busy: load average 99.0" in str(machine.busy_warning(99.0))


# --- the command


def bench(*arguments: str, home: Path) -> Result:
    return CliRunner().invoke(cli, ["bench", *arguments], env={"KURASHIRU_HOME": str(home)})


def test_the_command_prints_results_and_says_when_a_scenario_broke(tmp_path: Path) -> None:
    folder = tmp_path / "report"
    passed = bench("--only", "recommend", "--json", "--report", str(folder), home=tmp_path)
    assert passed.exit_code == 0, passed.output
    assert json.loads(passed.stdout)["figures"] == [{**FIGURE, "scenario": "recommend"}]
    assert "kurashiru bench --size small --only recommend" in (folder / "report.md").read_text()
    broken = bench("--only", "start", home=tmp_path)
    assert broken.exit_code == 1
    assert "ValueError: no such thing" in broken.output


def test_an_interrupt_tells_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Monitor, "moved", Diary(interrupt_at="half").moved)
    interrupted = bench("--only", "day", home=tmp_path)
    assert interrupted.exit_code == 1  # click's runner; as a program it is 130
    assert "to go on: kurashiru bench --size small --only day --resume" in interrupted.output


def test_scenarios_are_listed(tmp_path: Path) -> None:
    listed = json.loads(bench("--list", "--json", "--size", "full", home=tmp_path).stdout)
    assert [row["name"] for row in listed] == list(scenarios.titles())
    assert all(row["seconds"] > 0 and row["disk_gb"] > 0 for row in listed)
    assert "a title" in bench("--list", home=tmp_path).stdout


def test_an_unknown_scenario_is_named(tmp_path: Path) -> None:
    result = bench("--only", "speed", home=tmp_path)
    assert isinstance(result.exception, ConfigurationError)
    assert "no scenario speed; there are: start, recommend" in str(result.exception)


def test_without_a_clone_it_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "PROJECT_ROOT", tmp_path)
    result = bench("--list", home=tmp_path)
    assert isinstance(result.exception, ConfigurationError)
    assert "git clone" in str(result.exception)
    assert "make bench" in str(result.exception)


def test_a_run_says_what_it_needs(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=200)
    command.run_scenarios(
        tmp_path, "small", ["recommend"], is_resumed=False, report_folder=None, is_for_docs=False, console=console
    )
    assert "recommend: at most 1 GB of disk under" in out.getvalue()
