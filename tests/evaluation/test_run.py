"""Whole evaluations: what they tell, that the future changes nothing, and that the kernel is the one that serves."""

import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from kurashiru_pipeline.cli import cli
from kurashiru_pipeline.core import learning, profiles, ranking
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.evaluation import kernel, replay, run
from kurashiru_pipeline.evaluation.interactions import Interactions
from kurashiru_pipeline.evaluation.queries import Protocol, split
from kurashiru_pipeline.evaluation.results import description, documents, segments
from kurashiru_pipeline.evaluation.run import MODELS, Evaluation, Plan, chosen_models, evaluate
from tests.evaluation.small_world import DAY, START, World, world

VALIDATION, TEST = START + 40 * DAY, START + 46 * DAY
FAST = ("popular", "recent-popular", "repeat-last", "sequential-rules", "sar")


@pytest.fixture(scope="module", autouse=True)
def short_lessons() -> Iterator[None]:
    """Learning tries two values of two weights and boosts five rounds: the same steps, in a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning, "_SEARCHED", {"interest.session": (0.0, 1.0), "transitions.live_share": (0.0, 1.0)})
        patch.setattr(learning, "_ROUNDS", (2, 5))
        yield


def evaluated(
    interactions: Interactions,
    models: tuple[str, ...] = MODELS,
    protocol: Protocol = Protocol.NEXT_ITEM,
    **options: Any,
) -> Evaluation:
    cuts = split(interactions, str(VALIDATION), str(TEST))
    plan = Plan(protocol, models, **{"refit_every": 160, **options})
    return evaluate(interactions, cuts, plan, load_weights(), lambda *_: None)


@pytest.fixture(scope="module")
def small() -> Interactions:
    return world().interactions()


@pytest.fixture(scope="module")
def whole(small: Interactions) -> Evaluation:
    """All models, the kernel with all it can learn from so little."""
    return evaluated(small)


def test_every_model_answers_the_same_queries(small: Interactions, whole: Evaluation) -> None:
    told = documents(whole, small)
    assert [document["model"] for document in told] == list(MODELS)
    names = {
        "model", "protocol", "ndcg_at_10", "ndcg_ci", "recall_at_10", "mrr", "coverage_at_10", "diversity_at_10",
        "novelty", "fit_seconds", "users_per_second", "popularity_bias", "segments", "queries",
    }  # fmt: skip
    for document in told:
        assert document.keys() >= names
        assert document["ndcg_ci"][0] <= document["ndcg_at_10"] <= document["ndcg_ci"][1]
        assert document["queries"] == len(whole.queries) > 100
    json.dumps(told, allow_nan=False)


def test_what_can_be_learned_is_learned(small: Interactions, whole: Evaluation) -> None:
    """Courses follow each other: rules find them, popularity does not."""
    quality = {document["model"]: document["ndcg_at_10"] for document in documents(whole, small)}
    assert quality["sequential-rules"] > 2 * quality["popular"]
    assert quality["kernel"] > 2 * quality["popular"]
    best = max(value for name, value in quality.items() if not name.startswith("kernel"))
    told = {document["model"]: document.get("versus_best_baseline") for document in documents(whole, small)}
    assert told["kernel"]["ndcg_difference"] == pytest.approx(quality["kernel"] - best)


def test_a_late_profile_finds_less(whole: Evaluation) -> None:
    """Steps are a minute apart, so that five minutes late misses the session."""
    lag = {seconds: float(judged.ndcg.mean()) for seconds, judged in whole.results[0].by_lag.items()}
    assert list(lag) == [0, 1, 10, 60, 300]
    assert lag[0] == lag[1] == lag[10] == whole.results[0].judged.ndcg.mean()
    assert lag[300] < 0.8 * lag[0]


def test_segments_say_who_and_what(small: Interactions, whole: Evaluation) -> None:
    found = segments(small, whole)
    queries = whole.queries
    assert found.keys() == {
        "new users", "heavy users", "taken before", "new to the user",
        "tag: quick", "tag: spicy", "tag: hearty", "tag: light",
    }  # fmt: skip
    assert (found["new users"] == (queries.earlier < 10)).all()
    assert 0.05 < found["heavy users"].mean() < 0.4
    for nth in range(0, len(queries), 25):
        rows = small.by_user[small.user_starts[queries.user[nth]] :][: queries.known[nth]]
        target = queries.targets[nth]
        assert found["taken before"][nth] == (target in small.recipe[rows])
        tags = set(small.catalogue.tags.take(small.catalogue.tags_of(np.array([target]))[1]).to_pylist())
        assert {name for name in ("quick", "spicy", "hearty", "light") if found[f"tag: {name}"][nth]} == tags


def test_top_n_asks_everybody_once(small: Interactions) -> None:
    found = evaluated(small, FAST, Protocol.TOP_N)
    told = description(found, small)
    assert told["queries"] == told["asked_users"] == len(set(found.queries.user.tolist()))
    assert told["targets"] > 2 * told["queries"]
    assert "taken before" not in segments(small, found)
    quality = {document["model"]: document["recall_at_10"] for document in documents(found, small)}
    assert max(quality.values()) > 0.2


Change = Callable[[np.random.Generator, list[Any], list[Any], list[Any]], tuple[list[Any], list[Any], list[Any]]]


def _shuffled(generator: np.random.Generator, user: list[Any], item: list[Any], ts: list[Any]) -> tuple[Any, Any, Any]:
    return user, generator.permutation(item).tolist(), ts


def _of_other_users(generator: np.random.Generator, user: list[Any], item: list[Any], ts: list[Any]) -> tuple[Any, ...]:
    return generator.permutation(user).tolist(), item, ts


def _moved(generator: np.random.Generator, user: list[Any], item: list[Any], ts: list[Any]) -> tuple[Any, Any, Any]:
    later = sorted(generator.integers(ts[0] + 1, ts[-1] + 30 * DAY, len(ts)).tolist())
    return user, item, later


def _of_one_recipe(generator: np.random.Generator, user: list[Any], item: list[Any], ts: list[Any]) -> tuple[Any, ...]:
    return user, ["r13"] * len(item), ts


@pytest.mark.parametrize("change", [_shuffled, _of_other_users, _moved, _of_one_recipe])
def test_the_future_changes_nothing(whole: Evaluation, change: Change) -> None:
    """Whatever happens after a moment, lists and figures of the queries up to it stay what they are."""
    rows = world()
    moment = START + 53 * DAY
    first = int(np.searchsorted(rows.ts, moment, side="right"))
    generator = np.random.default_rng(4)
    parts = change(generator, rows.user[first:], rows.item[first:], rows.ts[first:])
    user, item, ts = (
        before[:first] + after for before, after in zip((rows.user, rows.item, rows.ts), parts, strict=True)
    )
    changed = evaluated(World(user, item, ts).interactions())

    asked = whole.queries.at <= moment * 1_000_000
    again = changed.queries.at <= moment * 1_000_000
    assert 50 < asked.sum() == again.sum()
    assert asked.sum() < len(whole.queries)
    assert len(changed.results) == len(MODELS)
    for before, after in zip(whole.results, changed.results, strict=True):
        assert np.array_equal(before.judged.recipes[asked], after.judged.recipes[again]), before.model
        for figure in ("ndcg", "recall", "reciprocal_rank", "diversity", "novelty"):
            assert np.array_equal(getattr(before.judged, figure)[asked], getattr(after.judged, figure)[again]), (
                before.model,
                figure,
            )
        assert before.details.get("learned") == after.details.get("learned")
    late, late_again = whole.results[0].by_lag[60.0], changed.results[0].by_lag[60.0]
    assert np.array_equal(late.recipes[asked], late_again.recipes[again])


def test_the_past_does_change_something(whole: Evaluation) -> None:
    """The counterpart of the test above: it would notice."""
    rows = world()
    first = int(np.searchsorted(rows.ts, START + 44 * DAY))
    item = [*rows.item[:first], *np.random.default_rng(4).permutation(rows.item[first:]).tolist()]
    changed = evaluated(World(rows.user, item, rows.ts).interactions(), FAST)
    before = {result.model: result for result in whole.results}
    assert all(
        not np.array_equal(before[result.model].judged.recipes, result.judged.recipes) for result in changed.results
    )


def test_the_kernel_is_the_one_that_serves(small: Interactions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluation ranks with core.ranking.rank over core.profiles.build_profiles, and with nothing else."""
    assert kernel.rank is ranking.rank
    assert replay.build_profiles is profiles.build_profiles
    calls: list[int] = []

    def counted(*given: Any, **options: Any) -> Any:
        calls.append(len(given[0]))
        return ranking.rank(*given, **options)

    monkeypatch.setattr(kernel, "rank", counted)
    found = evaluated(small, ("kernel",), lags=(0.0,))
    assert sum(calls) >= len(found.queries)


def test_more_queries_than_wanted_are_drawn_by_user(small: Interactions, whole: Evaluation) -> None:
    found = evaluated(small, ("popular",), most_queries=60)
    assert len(found.queries) <= 60
    every = np.isin(whole.queries.user, found.queries.user)
    assert np.array_equal(whole.results[MODELS.index("popular")].judged.recipes[every], found.results[0].judged.recipes)


def test_models_are_chosen_by_name() -> None:
    assert chosen_models(None, 40) == (MODELS, ())
    names, left_out = chosen_models(None, 9_999)
    assert "ease" not in names
    assert left_out[0].startswith("left out: ease inverts a matrix")
    assert chosen_models(("popular", "sar", "popular"), 40) == (("popular", "sar"), ())
    with pytest.raises(ConfigurationError, match="--models: there is no model 'magic'; there are kernel, "):
        chosen_models(("magic",), 40)
    with pytest.raises(ConfigurationError, match="--models: ease inverts"):
        chosen_models(("ease",), 9_999)


def test_nobody_to_ask_is_an_error() -> None:
    rows = world(users=5, sessions=1)
    cuts = split(rows.interactions())
    with pytest.raises(ConfigurationError, match=r"nobody can be asked.*--test-from"):
        evaluate(rows.interactions(), cuts, Plan(Protocol.NEXT_ITEM, ("popular",)), load_weights(), lambda *_: None)


def test_progress_ends_at_the_end(small: Interactions) -> None:
    steps: list[tuple[str, int, int]] = []
    plan = Plan(Protocol.NEXT_ITEM, ("kernel-rules", "popular"), lags=(0.0, 60.0), refit_every=160)
    evaluate(small, split(small), plan, load_weights(), lambda *step: steps.append(step))
    done = [step[1] for step in steps]
    assert done == sorted(done)
    assert steps[-1][1] == steps[-1][2] - 1
    assert {total for _, _, total in steps} == {steps[0][2]}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return world().write(tmp_path)


@pytest.fixture
def kurashiru(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("KURASHIRU_HOME", str(tmp_path / "home"))
    return lambda *arguments: CliRunner().invoke(cli, ["evaluate", *map(str, arguments)], catch_exceptions=False)


def test_the_command_prints_json_writes_the_report_and_can_be_repeated(
    files: tuple[Path, Path], kurashiru: Callable[..., Result], tmp_path: Path
) -> None:
    arguments = ("--interactions", files[0], "--items", files[1], "--models", "sequential-rules,popular")
    both = ("--protocol", "next-item", "--protocol", "top-n")
    first = json.loads(kurashiru(*arguments, *both, "--json", "--report", tmp_path / "report").stdout)
    assert [(document["protocol"], document["model"]) for document in first] == [
        ("next-item", "sequential-rules"), ("next-item", "popular"),
        ("top-n", "sequential-rules"), ("top-n", "popular"),
    ]  # fmt: skip
    page = (tmp_path / "report" / "report.html").read_text()
    for heading in ("How often is the next recipe in the list?", "Is the list varied?", "For whom does it work?"):
        assert heading in page
    assert set(re.findall("https?://[a-z0-9.]+", page)) <= {"http://www.w3.org"}  # names, not addresses
    figures = json.loads((tmp_path / "report" / "results.json").read_text())
    assert figures["command"] in page.replace("&#39;", "'")
    assert figures["runs"][0]["data"]["queries"] == first[0]["queries"]

    program, command, *words = shlex.split(figures["command"])
    assert (program, command) == ("kurashiru", "evaluate")
    again = json.loads(kurashiru(*words, "--json").stdout)
    timed = {"fit_seconds", "users_per_second"}
    assert [{name: value for name, value in document.items() if name not in timed} for document in again] == [
        {name: value for name, value in document.items() if name not in timed} for document in first
    ]
    assert list((tmp_path / "home" / "evaluations").glob("*-interactions-csv/report.html"))


def test_the_command_prints_a_table(files: tuple[Path, Path], kurashiru: Callable[..., Result]) -> None:
    shown = kurashiru("--interactions", files[0], "--models", "popular,repeat-last")
    assert shown.exit_code == 0
    assert "next-item: " in shown.stdout
    assert "repeat-last" in shown.stdout
    assert "again: kurashiru evaluate --interactions" in shown.stdout
    assert "no items were given" in shown.stderr
    assert "report: " in shown.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give either --interactions FILE [--items FILE] or --from-lake"),
        (("--interactions", "E", "--from-lake"), "give either"),
        (("--from-lake", "--min-rating", "3"), "--min-rating belong to --interactions"),
        (("--interactions", "E", "--since", "2026-11-01"), "--since belongs to --from-lake"),
        (("--interactions", "E", "--lags", "0,soon"), "--lags '0,soon' must be numbers of seconds"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    files: tuple[Path, Path], kurashiru: Callable[..., Result], arguments: tuple[str, ...], message: str
) -> None:
    refused = kurashiru(*(files[0] if word == "E" else word for word in arguments))
    assert refused.exit_code == 2
    assert message in " ".join(refused.output.split())


def test_help_names_every_model() -> None:
    shown = CliRunner().invoke(cli, ["evaluate", "--help"]).output
    assert [name for name in run.MODELS if name not in shown] == []
