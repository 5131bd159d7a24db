"""Learning: what worlds with a known truth teach, what of it is kept, and that nothing later is looked at."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kurashiru_pipeline.core import learning
from kurashiru_pipeline.core.columns import MICROS_PER_DAY, micros
from kurashiru_pipeline.core.learning import LENGTH, ShownLists, Window, learn
from kurashiru_pipeline.core.metrics import mean_and_error
from kurashiru_pipeline.core.model import BLEND_SCALE
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.ranking import rank
from kurashiru_pipeline.core.training import Counts, Learned, make_artifact
from kurashiru_pipeline.core.transitions import TransitionCounts
from kurashiru_pipeline.core.weights import Weights
from tests.kitchen import NOW, behaviors_table, catalogue, recipe, weights

RECIPES, USERS, DAYS = 60, 30, 20
START = NOW - timedelta(days=DAYS)
CUTS = (10, 13, 16, 20)
TAGS = ("quick", "cheap", "light", "party")
DISHES = [recipe(f"r{nth:02d}", TAGS[nth % 4]) for nth in range(RECIPES)]
NAMES = [dish["recipe_id"] for dish in DISHES]

DIAL = "diversity.dials.home"

View = tuple[int, int, float]
"""User, recipe, and days since START."""


def world(step: Callable[[np.random.Generator, list[int]], int], seed: int = 0) -> list[View]:
    """Users who view a recipe a day, chosen by `step` from their past."""
    random = np.random.default_rng(seed)
    views: list[View] = []
    for user in range(USERS):
        past: list[int] = []
        for day in range(DAYS):
            past.append(int(step(random, past)))
            views.append((user, past[-1], day + random.random()))
    return views


def windows_of(views: Sequence[View], cuts: Sequence[float] = CUTS, rules: Weights | None = None) -> list[Window]:
    """The views between each two cuts, asked for with what was known at the first of them."""
    views = sorted(views, key=lambda view: view[2])
    user, seen = (np.array([view[field] for view in views], np.int64) for field in (0, 1))
    at = micros(START) + np.array([int(view[2] * MICROS_PER_DAY) for view in views])
    transitions = TransitionCounts(user, seen, at, RECIPES)
    return [window_of(user, seen, at, transitions, start, end, rules or weights()) for start, end in pairwise(cuts)]


def window_of(  # noqa: PLR0917 - what happened, when it is cut, by which rules
    user: np.ndarray,
    seen: np.ndarray,
    at: np.ndarray,
    transitions: TransitionCounts,
    start: float,
    end: float,
    rules: Weights,
) -> Window:
    as_of = START + timedelta(days=start)
    transitions.follow(micros(as_of))
    before = at < micros(as_of)
    days = (micros(as_of) - at[before]) / MICROS_PER_DAY

    def counted(half_life: float) -> np.ndarray:
        return np.bincount(seen[before], weights=0.5 ** (days / half_life), minlength=RECIPES)

    rows, targets, asked_by = [], [], []
    for query in np.flatnonzero(~before & (at < micros(START + timedelta(days=end)))):
        past = np.flatnonzero(user[:query] == user[query])
        if not len(past):
            continue
        targets.append(NAMES[seen[query]])
        asked_by.append(f"u{user[query]:02d}")
        rows += [
            {
                "user_id": f"q{query:05d}",
                "event_id": f"e{event:05d}",
                "event_name": "recipe_view",
                "recipe_id": NAMES[seen[event]],
                "occurred_at": as_of - timedelta(microseconds=int(at[query] - at[event])),
            }
            for event in past
        ]
    kitchen = catalogue(*DISHES)
    behaviors = pa.Table.from_pylist(rows, schema=behaviors_table().schema)
    queries = build_profiles(behaviors, kitchen, rules, as_of)
    queries = queries.append_column("asked_by", pa.array(asked_by, pa.string()))
    queries = queries.append_column("target", pa.array(targets, pa.string()))
    live = {"recipe_id": NAMES, "decayed_count": counted(rules.popularity.half_life_days)}
    counts = Counts(
        pa.array(NAMES), transitions.forward.tocsr(), transitions.live.tocsr(), counted(np.inf), counted(14.0)
    )
    return Window(
        queries,
        kitchen,
        pa.table(live | {"decayed_at": pa.array([as_of] * RECIPES, pa.timestamp("us"))}),
        counts,
        as_of,
    )


def lists(window: Window, rules: Weights, learned: Learned, dial: float | None = None) -> list[list[str]]:
    """What the kernel lists for the queries of a window."""
    values = learned.values | ({} if dial is None else {DIAL: dial})
    artifact = make_artifact(window.counts, rules, version="v1", learned=replace(learned, values=values))
    made = rank(window.queries, window.catalogue, window.popularity, artifact, rules, window.as_of, list_length=LENGTH)
    return made["recipe_ids"].to_pylist()


def gains(window: Window, rules: Weights, learned: Learned, dial: float | None = None) -> np.ndarray:
    made, targets = lists(window, rules, learned, dial), window.queries["target"].to_pylist()
    return np.array(
        [1 / np.log2(some.index(one) + 2) if one in some else 0.0 for some, one in zip(made, targets, strict=True)]
    )


def ndcg(windows: Sequence[Window], rules: Weights, learned: Learned, dial: float | None = None) -> float:
    return float(np.concatenate([gains(window, rules, learned, dial) for window in windows]).mean())


# Worlds


def repeats(random: np.random.Generator, past: list[int]) -> int:
    """Four favourites, again and again."""
    if len(past) < 4 or random.random() < 0.15:
        return int(random.integers(RECIPES))
    return past[int(random.integers(4))]


def never_again(random: np.random.Generator, past: list[int]) -> int:
    return int(random.choice(np.setdiff1d(np.arange(RECIPES), past)))


POPULARITY = 1 / np.arange(1, RECIPES + 1)


def popular(random: np.random.Generator, past: list[int]) -> int:
    return int(random.choice(RECIPES, p=POPULARITY / POPULARITY.sum()))


def by_chance(random: np.random.Generator, past: list[int]) -> int:
    return int(random.integers(RECIPES))


def chain(random: np.random.Generator, past: list[int]) -> int:
    """Each recipe has one that follows it."""
    return (past[-1] * 7 + 1) % RECIPES if past and random.random() < 0.8 else int(random.integers(RECIPES))


def of_one_taste(random: np.random.Generator, past: list[int]) -> int:
    """Always something new with the tag of the first one."""
    alike = np.arange(past[0] % len(TAGS), RECIPES, len(TAGS)) if past else np.arange(RECIPES)
    fresh = np.setdiff1d(alike, past)
    return int(random.choice(fresh if len(fresh) else alike))


WORLDS = {step.__name__: step for step in (repeats, never_again, popular, by_chance, chain, of_one_taste)}


@functools.cache
def windows_in(name: str) -> list[Window]:
    return windows_of(world(WORLDS[name]))


@functools.cache
def learned_in(name: str, least: float = 0.75) -> Learned:
    return learn(windows_in(name), weights(diversity={"least": least}), with_model=False)


def blend(name: str) -> dict[str, float]:
    return {key.partition(".")[2]: value for key, value in learned_in(name).values.items() if key.startswith("blend.")}


def test_repeats_pay_where_users_repeat() -> None:
    made = blend("repeats")
    assert made["repeats"] > 0
    assert made["repeats"] + made["seen"] > 1
    (window, *_) = windows_in("repeats")
    own = [
        set(past) & set(listed[:4])
        for past, listed in zip(
            window.queries["recipe_ids"].to_pylist(), lists(window, weights(), learned_in("repeats"), 0.0), strict=True
        )
    ]
    assert np.mean([len(some) for some in own]) > 3.5


def test_repeats_do_not_pay_where_nobody_repeats() -> None:
    made = blend("never_again")
    assert made["seen"] < 0
    assert made["seen"] + made["repeats"] < -1
    (window, *_) = windows_in("never_again")
    listed = lists(window, weights(), learned_in("never_again"), 0.0)
    assert not any(
        set(past) & set(made) for past, made in zip(window.queries["recipe_ids"].to_pylist(), listed, strict=True)
    )


def test_popularity_pays_where_all_is_popularity() -> None:
    made = blend("popular")
    popularity = sum(made.pop(name) for name in ("live_popularity", "trained_popularity", "standing_popularity"))
    assert popularity > sum(map(abs, made.values()))


def test_rules_pay_where_one_recipe_follows_another() -> None:
    values = learned_in("chain").values
    assert max(abs(value) for name, value in blend("chain").items() if name != "rules") < 0.5
    assert values["transitions.reverse_share"] == 0.2  # the least that is tried: the chain goes one way
    assert values[BLEND_SCALE] > learned_in("by_chance").values[BLEND_SCALE]


@pytest.mark.parametrize("name", list(WORLDS))
def test_what_is_learned_is_never_worse_than_the_start_on_its_own_windows(name: str) -> None:
    windows = windows_in(name)
    assert ndcg(windows, weights(), learned_in(name), 0.0) >= ndcg(windows, weights(), Learned(), 0.0)


@pytest.mark.parametrize("name", ["repeats", "never_again", "popular", "chain"])
def test_what_is_learned_holds_in_the_days_after(name: str) -> None:
    later = windows_of(world(WORLDS[name], seed=1))
    assert ndcg(later, weights(), learned_in(name), 0.0) > 1.05 * ndcg(later, weights(), Learned(), 0.0)


# The dial


def loss(windows: Sequence[Window], learned: Learned, dial: float) -> tuple[float, float]:
    """What a dial loses of NDCG, as a share, and the standard error of that."""
    whole, kept = (np.concatenate([gains(window, weights(), learned, at) for window in windows]) for at in (0.0, dial))
    users = np.concatenate([window.queries["asked_by"].to_numpy() for window in windows])
    lost, error = mean_and_error(whole - kept, np.unique(users, return_inverse=True)[1])
    return lost / whole.mean(), error / whole.mean()


@pytest.mark.parametrize("name", ["repeats", "never_again", "popular", "chain", "of_one_taste"])
def test_the_dial_keeps_to_the_budget_in_days_that_learning_has_not_seen(name: str) -> None:
    *earlier, later = windows_in(name)
    learned = learn(earlier, weights(diversity={"least": 0.0}), with_model=False)
    lost, error = loss([later], learned, learned.values[DIAL])
    assert lost <= weights().diversity.loss_budget + 2 * error


def test_the_dial_is_judged_by_a_blend_that_has_not_seen_the_answers() -> None:
    learned = learned_in("by_chance")  # what a blend says of these it knows by heart
    figures, by_heart = learned.figures, ndcg(windows_in("by_chance"), weights(), learned, 0.0)
    by_chance_alone = (1 / np.log2(np.arange(LENGTH) + 2)).sum() / RECIPES
    assert figures["undiversified_ndcg"] < by_heart
    assert figures["undiversified_ndcg"] <= by_chance_alone


def test_a_dial_that_pays_only_in_the_windows_a_blend_has_learned_by_heart_is_not_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each block of windows is foretold by what is learned of the others: what costs there ends the turning."""
    windows, blends = windows_in("of_one_taste"), []
    fitted = learning._fit_blend

    def without_taste(some: Sequence[Window], *args: Any) -> Any:
        gained, values = fitted(some, *args)
        blends.append([window.as_of for window in some])
        return gained, values if len(some) == len(windows) else values | {"blend.taste": 0.0}

    by_taste, _ = learning._choose_dial(windows, weights(), learned_in("of_one_taste").values)
    monkeypatch.setattr(learning, "_fit_blend", without_taste)
    by_others, _ = learning._choose_dial(windows, weights(), learned_in("of_one_taste").values)
    moments = [window.as_of for window in windows]
    assert blends == [[moment for moment in moments if moment != left_out] for left_out in moments]
    assert by_others[DIAL] > by_taste[DIAL]


def test_the_dial_is_turned_as_far_as_the_budget_surely_goes() -> None:
    sure = learned_in("of_one_taste", least=0.0)
    figures, budget = sure.figures, weights().diversity.loss_budget
    assert 0 < sure.values[DIAL] == figures["dial"] <= learned_in("popular").values[DIAL]
    lost = figures["undiversified_ndcg"] - figures["dial_ndcg"]
    assert lost + figures["dial_loss_error"] <= budget * figures["undiversified_ndcg"]
    assert figures["dial_diversity"] > figures["undiversified_diversity"]
    assert loss(windows_in("of_one_taste"), sure, 2 * sure.values[DIAL])[0] > budget


def test_lists_that_are_too_much_alike_need_no_certainty() -> None:
    unsure = learned_in("by_chance", least=1.0)
    assert unsure.values[DIAL] > learned_in("by_chance", least=0.0).values[DIAL]
    figures, budget = unsure.figures, weights().diversity.loss_budget
    assert figures["undiversified_ndcg"] - figures["dial_ndcg"] <= budget * figures["undiversified_ndcg"]


def test_one_user_alone_proves_no_dial() -> None:
    alone = [
        replace(window, queries=window.queries.set_column(at, "asked_by", pa.array(["u"] * len(window.queries))))
        for window in windows_in("of_one_taste")
        for at in [window.queries.column_names.index("asked_by")]
    ]
    assert learn(alone, weights(diversity={"least": 0.0}), with_model=False).values[DIAL] == 0


def test_one_window_alone_sets_no_dial() -> None:
    (window, *_) = windows_in("repeats")
    assert DIAL not in learn([window], weights(), with_model=False).values


# What may be learned


@pytest.mark.parametrize(
    ("free", "name"),
    [
        ([], "repeats"),
        (["interest"], "repeats"),
        (["interest.session"], "repeats"),
        (["blend"], "repeats"),
        (["transitions"], "chain"),
        (["diversity.dials.home"], "repeats"),
    ],
)
def test_only_what_is_free_is_learned(free: list[str], name: str) -> None:
    rules = weights(learned=free)
    values = learn(windows_in(name), rules, with_model=False).values
    assert all(any(f"{name}.".startswith(f"{one}.") for one in free) for name in values.keys() - {BLEND_SCALE})
    assert bool(values) == bool(free)
    changed = rules.with_learned(values).model_dump()
    assert {name for name, value in rules.model_dump().items() if changed[name] != value} <= {
        name.partition(".")[0] for name in free
    }


@pytest.mark.parametrize("queries", [0, 40, 99])
def test_too_few_queries_teach_nothing(queries: int) -> None:
    (window, *_) = windows_in("repeats")
    several = pa.concat_tables([window.queries] * 2)
    windows = [replace(window, queries=several.slice(0, queries)), replace(window, queries=several.slice(0, 0))]
    assert learn(windows, weights()) == Learned(figures={"learning_queries": queries})
    assert learn([], weights()) == Learned(figures={"learning_queries": 0})


def test_answers_that_nobody_could_foretell_teach_nothing() -> None:
    lost = [
        replace(window, queries=window.queries.set_column(window.queries.num_columns - 1, "target", names))
        for window in windows_in("repeats")
        for names in [pa.array(["lost"] * len(window.queries))]
    ]
    made = learn(lost, weights())
    assert not any(name.startswith("blend.") for name in made.values)
    assert (made.model, made.figures["model_kept"]) == ("", False)


def test_learning_tells_its_steps() -> None:
    steps: list[str] = []
    learn(windows_in("repeats"), weights(learned=["blend"]), with_model=False, on_step=steps.append)
    assert steps
    assert not any("re-ranker" in step for step in steps)


# The re-ranker


def sessions(own_first_until: float = DAYS, seed: int = 0) -> list[View]:
    """Users who begin each day with a favourite and go on to something new; from a day on the other way round.

    No blend can tell that, for it adds sources up: it takes the gap and what was seen together.
    """
    random = np.random.default_rng(seed)
    views: list[View] = []
    for user in range(20):
        favourites = random.choice(RECIPES, 3, replace=False)
        past: list[int] = []
        for day in range(DAYS):
            begin = day + 0.9 * random.random()
            for nth in range(3):
                fresh = np.setdiff1d(np.arange(RECIPES), [*past, *favourites])
                is_own = (nth == 0) == (day < own_first_until) or not len(fresh)
                past.append(int(random.choice(favourites if is_own else fresh)))
                views.append((user, past[-1], begin + 0.002 * nth))
    return views


SESSION_CUTS = (8, 10, 12, 14)
NOTHING_FREE: dict[str, Any] = {"learned": [], "diversity": {"dials": {"home": 0.0}}}


@functools.cache
def learned_in_sessions() -> Learned:
    return learn(windows_of(sessions(), SESSION_CUTS), weights(**NOTHING_FREE))


def test_a_reranker_that_foretells_the_newest_window_better_is_kept() -> None:
    learned, rules = learned_in_sessions(), weights(**NOTHING_FREE)
    assert learned.model
    assert learned.figures["model_kept"]
    assert learned.figures["model_ndcg"] > 2 * learned.figures["blend_ndcg"]
    assert learned.figures["model_learned_from"] == "next items"
    newest = windows_of(sessions(), SESSION_CUTS)[-1:]
    assert learned.figures["blend_ndcg"] == pytest.approx(ndcg(newest, rules, Learned()))
    later = windows_of(sessions(seed=1), (14, 17))
    assert ndcg(later, rules, learned) > 2 * ndcg(later, rules, Learned())


def test_a_reranker_that_foretells_the_newest_window_worse_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "_ROUNDS", (200,))  # enough to learn by heart what no longer holds
    made = learn(windows_of(sessions(own_first_until=12), SESSION_CUTS), weights(**NOTHING_FREE))
    assert (made.values, made.model, made.figures["model_kept"]) == ({}, "", False)
    assert made.figures["model_ndcg"] < made.figures["blend_ndcg"]


def test_a_reranker_is_learned_beside_the_blend() -> None:
    rules = weights(**NOTHING_FREE | {"learned": ["blend"]})
    learned = learn(windows_of(sessions(), SESSION_CUTS), rules)
    later, alone = windows_of(sessions(seed=1), (14, 17)), replace(learned, model="")
    assert ndcg(later, rules, learned) > 1.05 * ndcg(later, rules, alone) > ndcg(later, rules, Learned())


@functools.cache
def shown_world(seed: int = 0) -> tuple[list[Window], np.ndarray, ShownLists]:
    """A screen that has shown popular recipes on top, whose clicks come from their places, while people like others.

    Returns:
        Windows whose answers are recipes people like, whether they like each recipe, and the lists shown.
    """
    random = np.random.default_rng(seed)
    by_popularity = random.permutation(RECIPES)
    is_liked = by_popularity >= 2 * RECIPES // 3
    liked = np.array(NAMES)[is_liked]
    windows = []
    for window in windows_of(world(by_chance, seed), (10, 13, 16)):
        answers = pa.array(random.choice(liked, len(window.queries)))
        live = window.popularity.set_column(1, "decayed_count", pa.array(np.exp(-by_popularity / 10)))
        queries = window.queries.set_column(window.queries.num_columns - 1, "target", answers)
        windows.append(replace(window, queries=queries, popularity=live))
    asked = pa.concat_tables([windows[0].queries] * 6).drop_columns(["target"])
    shown, clicked = [], []
    for _ in range(len(asked)):
        some = random.choice(RECIPES, 10, replace=False)
        some = some[np.argsort(by_popularity[some] + random.normal(0, 20, 10))]
        clicks = random.random(10) < np.where(is_liked[some], 0.9, 0.35) / (1 + np.arange(10))
        clicks[0] |= not clicks.any()
        shown.append([NAMES[at] for at in some])
        clicked.append(clicks.tolist())
    places = pa.array([list(range(10))] * len(asked))
    return windows, is_liked, ShownLists(replace(windows[0], queries=asked), pa.array(shown), places, pa.array(clicked))


def learned_from(shown: ShownLists, windows: Sequence[Window]) -> tuple[Learned, float]:
    """What is learned, and which share of the lists of the newest window people like."""
    _, is_liked, _ = shown_world()
    learned = learn(windows, weights(**NOTHING_FREE), shown=[shown])
    listed = [name for made in lists(windows[-1], weights(**NOTHING_FREE), learned) for name in made]
    return learned, float(np.mean([is_liked[NAMES.index(name)] for name in listed]))


def test_clicks_for_a_place_on_the_screen_are_not_taken_for_liking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "MIN_SHOWN_LISTS", 500)
    windows, is_liked, shown = shown_world()
    clicks = [
        name
        for names, of in zip(shown.recipe_ids.to_pylist(), shown.clicked.to_pylist(), strict=True)
        for name, clicked in zip(names, of, strict=True)
        if clicked
    ]
    assert np.mean([is_liked[NAMES.index(name)] for name in clicks]) < 0.4
    learned, share = learned_from(shown, windows)
    assert learned.figures["model_learned_from"] == "impressions"
    assert learned.figures["clicked_lists"] == len(shown.recipe_ids) >= 500
    assert learned.figures["model_kept"]
    assert share > 0.7
    blind = replace(shown, positions=pa.array([[0] * 10] * len(shown.recipe_ids)))
    without, share_without = learned_from(blind, windows)
    assert without.figures["model_ndcg"] < 0.5 * learned.figures["model_ndcg"]
    assert share_without < 0.4


def test_too_few_shown_lists_leave_next_items_to_teach() -> None:
    windows, _, shown = shown_world()
    assert len(shown.recipe_ids) < learning.MIN_SHOWN_LISTS
    learned, _ = learned_from(shown, windows)
    assert learned == replace(
        learn(windows, weights(**NOTHING_FREE)), figures=learned.figures | {"clicked_lists": len(shown.recipe_ids)}
    )
    assert learned.figures["model_learned_from"] == "next items"


# Nothing later


def test_what_happens_after_the_windows_changes_nothing() -> None:
    changed = [
        (user, (seen * 11 + 5) % RECIPES if day >= SESSION_CUTS[-1] else seen, day) for user, seen, day in sessions()
    ]
    assert changed != sessions()
    assert learn(windows_of(changed, SESSION_CUTS), weights(**NOTHING_FREE)) == learned_in_sessions()
    assert learned_in_sessions().model


def test_what_happens_in_a_window_changes_no_earlier_one() -> None:
    views = world(repeats)
    changed = [(user, (seen * 11 + 5) % RECIPES if day >= CUTS[1] else seen, day) for user, seen, day in views]
    made, other = windows_of(views), windows_of(changed)
    for field in ("queries", "popularity"):
        assert getattr(made[0], field).equals(getattr(other[0], field))
        assert not getattr(made[2], field).equals(getattr(other[2], field))
    for field in ("forward", "live"):
        assert (getattr(made[1].counts, field) != getattr(other[1].counts, field)).nnz == 0
        assert (getattr(made[2].counts, field) != getattr(other[2].counts, field)).nnz > 0
    assert made[1].counts.interactions.tolist() == other[1].counts.interactions.tolist()
