"""Ranking: what each rule does to a list, and that the fast kernel equals a slow and obvious one."""

import math
from collections import defaultdict
from datetime import timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from kurashiru_pipeline.core import ranking
from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.core.catalogue import MAIN_INGREDIENTS, Catalogue
from kurashiru_pipeline.core.columns import product
from kurashiru_pipeline.core.profiles import ACTION_OF_EVENT, build_profiles
from kurashiru_pipeline.core.ranking import default_list, rank
from kurashiru_pipeline.core.weights import Weights
from tests.kitchen import LONG_AGO, NOW, behaviors_table, catalogue, did, model, popularity, recipe, weights

DISHES = [recipe(name) for name in "abcdef"]


def listed(
    *behaviors: dict[str, Any],
    dishes: list[dict[str, Any]] = DISHES,
    live: pa.Table | None = None,
    artifact: ModelArtifact | None = None,
    rules: Weights | None = None,
    **options: Any,
) -> dict[str, Any]:
    """The list of the one user of these behaviours, or of nobody."""
    rules = rules or weights()
    kitchen, live = catalogue(*dishes), popularity() if live is None else live
    if not behaviors:
        return default_list(kitchen, live, artifact, rules, NOW, **options).to_pylist()[0]
    profiles = build_profiles(behaviors_table(*behaviors), kitchen, rules, NOW)
    return rank(profiles, kitchen, live, artifact, rules, NOW, **options).to_pylist()[0]


def reasons(made: dict[str, Any]) -> dict[str, str]:
    return dict(zip(made["recipe_ids"], made["reasons"], strict=True))


def scores(made: dict[str, Any]) -> dict[str, float]:
    return dict(zip(made["recipe_ids"], made["scores"], strict=True))


def test_what_followed_others_follows_you() -> None:
    followed = model({("a", "c"): 0.2, ("a", "e"): 0.9, ("b", "d"): 1.0})
    made = listed(did("u", "recipe_view", "a"), artifact=followed, live=popularity(b=9, f=5))
    assert made["recipe_ids"][:2] == ["e", "b"]
    assert reasons(made)["e"] == reasons(made)["c"] == "viewed:a"
    assert made["algorithm"] == "m1"


def test_newer_behaviours_lead() -> None:
    followed = model({("a", "c"): 0.5, ("b", "d"): 0.5})
    made = listed(did("u", "recipe_view", "a", days_ago=1), did("u", "recipe_view", "b"), artifact=followed)
    assert made["recipe_ids"][:2] == ["d", "c"]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ("recipe_view", "viewed:a"),
        ("recipe_favorite", "favorited:a"),
        ("recipe_cooked", "cooked:a"),
        ("shopping_list_add", "listed:a"),
    ],
)
def test_a_reason_names_the_action(event: str, reason: str) -> None:
    assert reasons(listed(did("u", event, "a"), artifact=model({("a", "c"): 1.0})))["c"] == reason


def test_a_reason_names_the_recipe_that_adds_most() -> None:
    followed = model({("a", "d"): 0.9, ("b", "d"): 0.8, ("c", "d"): 0.1})
    steps = [did("u", "recipe_view", name, days_ago=age) for name, age in (("a", 3), ("b", 2), ("c", 1))]
    assert reasons(listed(*steps, artifact=followed))["d"] == "viewed:b"
    assert reasons(listed(*steps, did("u", "recipe_cooked", "a", days_ago=4), artifact=followed))["d"] == "cooked:a"


def test_without_anything_the_list_is_in_the_order_of_ids() -> None:
    made = listed()
    assert made["user_id"] == "#default"
    assert made["recipe_ids"] == list("abcdef")
    assert set(made["reasons"]) == {"popular"}
    assert made["algorithm"] == "popular"


def test_popular_recipes_lead_and_popularity_fades() -> None:
    assert listed(live=popularity(d=4, b=9))["recipe_ids"][:2] == ["b", "d"]
    old = pa.table({"recipe_id": ["b"], "decayed_count": [9.0], "decayed_at": [NOW - timedelta(days=2)]})
    live = pa.concat_tables([old.cast(popularity().schema), popularity(d=4)])
    assert listed(live=live)["recipe_ids"][:2] == ["d", "b"]


def test_trained_popularity_counts_without_live() -> None:
    made = listed(artifact=model({}, {"c": 5.0, "zz": 9.0}))
    assert made["recipe_ids"][0] == "c"
    assert (made["algorithm"], reasons(made)["c"]) == ("m1", "popular")


def test_tastes_lift_recipes_of_their_tags() -> None:
    dishes = [
        recipe("a", "savings"),
        recipe("b", "microwave"),
        recipe("c", "savings microwave"),
        recipe("d", "savings"),
    ]
    made = listed(did("u", "recipe_favorite", "a", days_ago=30), dishes=dishes, rules=weights(blend={"repeats": 0.0}))
    assert made["recipe_ids"][-1] == "b"
    assert made["recipe_ids"].index("d") < made["recipe_ids"].index("c")
    assert reasons(made)["d"] == reasons(made)["c"] == "taste:savings"


def test_leftovers_lift_recipes_that_use_them() -> None:
    dishes = [recipe("a", "", "egg rice"), recipe("b", "", "leek"), recipe("c", "", "rice salt oil leek")]
    made = listed(did("u", "search", detail="leek"), dishes=dishes, live=popularity(a=1))
    assert made["recipe_ids"] == ["b", "a", "c"]  # the fourth ingredient of c is not a main one
    assert reasons(made)["b"] == "ingredient:leek"
    assert listed(did("u", "search", detail="leek", days_ago=3), dishes=dishes)["recipe_ids"] == ["a", "b", "c"]


def test_leftovers_bring_in_recipes_that_nothing_else_does() -> None:
    dishes = [*DISHES, recipe("z", "", "leek")]
    rules = weights(candidates={"popular": 3})
    assert "z" not in listed(dishes=dishes, rules=rules)["recipe_ids"]
    assert listed(did("u", "search", detail="leek"), dishes=dishes, rules=rules)["recipe_ids"][0] == "z"


def test_tastes_bring_in_recipes_that_nothing_else_does() -> None:
    dishes = [*DISHES, recipe("y", "savings"), recipe("z", "savings")]
    rules = weights(candidates={"popular": 3})
    assert "z" not in listed(dishes=dishes, rules=rules)["recipe_ids"]
    assert "z" in listed(did("u", "recipe_view", "y"), dishes=dishes, rules=rules)["recipe_ids"]


def test_cool_down_is_soft_and_ends() -> None:
    followed = model({("a", "b"): 1.0, ("a", "c"): 0.5})
    seen = did("u", "recipe_favorite", "a")
    cooked = [seen, did("u", "recipe_cooked", "b", days_ago=0.001)]
    assert listed(seen, artifact=followed)["recipe_ids"][0] == "b"
    just = listed(*cooked, artifact=followed)
    assert just["recipe_ids"][0] == "c"
    assert 0 < scores(just)["b"] < 0.01
    later = listed(seen, did("u", "recipe_cooked", "b", days_ago=30), artifact=followed)
    assert later["recipe_ids"][0] == "b"


def test_viewing_cools_for_hours_and_cooking_for_days() -> None:
    live = popularity(a=1, b=1)
    made = listed(did("u", "recipe_view", "a", days_ago=1), did("u", "recipe_cooked", "b", days_ago=1.1), live=live)
    assert scores(made)["a"] > scores(made)["b"]


def test_own_recipes_come_back_after_their_cool_down() -> None:
    made = listed(did("u", "recipe_cooked", "e", days_ago=30))
    assert made["recipe_ids"][0] == "e"
    assert made["reasons"][0] == "cooked:e"


def test_a_list_mixes_primary_tags() -> None:
    dishes = [recipe(f"s{number}", "savings") for number in range(6)] + [
        recipe(f"t{number}", "microwave") for number in range(7)
    ]
    live = popularity(**{f"s{number}": 100 for number in range(6)}, **{f"t{number}": 80 for number in range(7)})
    even = listed(dishes=dishes, live=live, rules=weights(diversity={"quota": 1.0}))
    mixed = listed(dishes=dishes, live=live)
    assert [name[0] for name in even["recipe_ids"][:6]] == ["s"] * 6
    assert {name[0] for name in mixed["recipe_ids"][:4]} == {"s", "t"}
    assert mixed["scores"][0] == even["scores"][0]


def test_new_recipes_have_their_slots() -> None:
    dishes = [
        *DISHES,
        recipe("x", "savings", days_old=12),
        recipe("y", "savings", days_old=13),
        recipe("z", days_old=13.5),
    ]
    live = popularity(**dict.fromkeys("abcdef", 1.0))
    none = listed(dishes=dishes, live=live, list_length=4, rules=weights(fresh={"min_slots": 0}))
    some = listed(dishes=dishes, live=live, list_length=4)
    assert none["recipe_ids"] == list("abcd")
    assert some["recipe_ids"] == ["a", "b", "x", "y"]
    assert reasons(some)["x"] == "new:savings"
    assert listed(dishes=dishes, live=live, list_length=1)["recipe_ids"] == ["x"]


def test_new_recipes_beyond_the_shortlist_have_their_slots() -> None:
    dishes = [*DISHES, recipe("x", "savings", days_old=13)]
    rules = weights(list_length=3, diversity={"shortlist": 3}, fresh={"min_slots": 1})
    assert listed(dishes=dishes, live=popularity(**dict.fromkeys("abcdef", 1.0)), rules=rules)["recipe_ids"] == [
        "a",
        "b",
        "x",
    ]


def test_a_new_recipe_without_tags_is_not_said_to_be_new_in_any() -> None:
    assert reasons(listed(dishes=[recipe("x", days_old=1)])) == {"x": "popular"}


def test_deleted_and_unknown_recipes_are_never_listed() -> None:
    dishes = [recipe("a"), recipe("b", "savings", "egg", is_deleted=True), recipe("c", days_old=1)]
    followed = model({("a", "b"): 1.0, ("a", "lost"): 1.0, ("b", "c"): 0.5}, {"b": 5.0, "lost": 9.0})
    history = [did("u", "recipe_view", name) for name in ("a", "b", "lost")] + [did("u", "search", detail="egg")]
    made = listed(*history, dishes=dishes, artifact=followed, live=popularity(b=9, lost=9))
    assert sorted(made["recipe_ids"]) == ["a", "c"]
    assert reasons(made)["c"] == "viewed:b"


def test_empty_catalogue_and_empty_profiles() -> None:
    assert listed(did("u", "recipe_view", "a"), dishes=[], artifact=model({("a", "b"): 1.0}))["recipe_ids"] == []
    assert listed(dishes=[recipe("a", is_deleted=True)])["recipe_ids"] == []
    nobody = build_profiles(behaviors_table(), catalogue(*DISHES), weights(), NOW)
    made = rank(nobody, catalogue(*DISHES), popularity(), None, weights(), NOW)
    assert made.num_rows == 0
    assert made.column_names == ["user_id", "recipe_ids", "scores", "reasons", "algorithm"]


def test_a_user_without_usable_behaviours_gets_the_default_list() -> None:
    made = listed(did("u", "recipe_impression", "a"), live=popularity(c=1))
    assert made["recipe_ids"] == listed(live=popularity(c=1))["recipe_ids"]


def test_list_length() -> None:
    assert len(listed(rules=weights(list_length=2))["recipe_ids"]) == 2
    assert len(listed(list_length=3)["recipe_ids"]) == 3


def test_a_catalogue_beyond_the_sort_keys_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranking, "_RECIPES", 5)
    with pytest.raises(ValueError, match="up to 5 recipes, not 6"):
        listed()


# The slow kernel: one user, plain Python


def slow_list(
    profile: dict[str, Any],
    dishes: list[dict[str, Any]],
    live: dict[str, float],
    artifact: ModelArtifact | None,
    rules: Weights,
) -> list[tuple[str, float, str]]:
    """(recipe, score, reason) of one profile's list, by the description of the rules."""
    known = {dish["recipe_id"]: dish for dish in dishes}
    alive = {name: dish for name, dish in known.items() if not dish["is_deleted"]}
    blend = rules.blend
    trained = {} if artifact is None else dict(zip(artifact.recipe_ids.tolist(), artifact.popularity, strict=True))
    live_part, trained_part = slow_root(live, alive), slow_root(trained, alive)
    age = {name: (NOW - dish["published_at"]) / timedelta(days=1) for name, dish in alive.items()}
    popular = {n: blend.live_popularity * live_part[n] + blend.trained_popularity * trained_part[n] for n in alive}
    newness = {n: blend.fresh * 0.5 ** (age[n] / rules.fresh.half_life_days) for n in alive}
    is_new = {n: age[n] <= rules.fresh.days for n in alive}
    best = sorted(alive, key=lambda n: (-(popular[n] + newness[n]), n))

    own = dict(zip(profile["recipe_ids"], profile["recipe_weights"], strict=True))
    actions = dict(zip(profile["recipe_ids"], profile["recipe_actions"], strict=True))
    cool = dict(zip(profile["recipe_ids"], profile["cooldowns"], strict=True))
    left = dict(zip(profile["ingredients"], profile["ingredient_weights"], strict=True))
    tastes = dict(zip(profile["tastes"], profile["taste_weights"], strict=True))

    follows, anchor = slow_rules({n: w for n, w in own.items() if n in known}, own, artifact, rules)
    follows = dict(sorted(follows.items(), key=lambda pair: (-pair[1], pair[0]))[: rules.candidates.rules])
    follows = {name: value for name, value in follows.items() if name in alive}
    strongest = max(follows.values(), default=1)

    few, each = rules.candidates.strongest, rules.candidates.each
    candidates = {name for name in own if name in alive} | set(follows)
    candidates |= set(best[: rules.candidates.popular]) | set([n for n in best if is_new[n]][: rules.candidates.fresh])
    for tag in profile["tastes"][:few]:
        candidates |= set([n for n in best if tag in alive[n]["value_tags"]][:each])
    for item in profile["ingredients"][:few]:
        candidates |= set([n for n in best if item in alive[n]["ingredients"][:MAIN_INGREDIENTS]][:each])

    def likeness(tags: list[str]) -> float:
        return sum(tastes.get(tag, 0.0) for tag in tags) / math.sqrt(max(len(tags), 1))

    closest = max([likeness(dish["value_tags"]) for dish in dishes], default=0) or 1
    heaviest = max([weight for name, weight in own.items()], default=0) or 1
    sources = {}
    for name in candidates:
        tags, main = alive[name]["value_tags"], alive[name]["ingredients"][:MAIN_INGREDIENTS]
        liked = min(tags, key=lambda tag: (-tastes.get(tag, 0.0), tag), default="")
        most = max(main, key=lambda item: left.get(item, 0.0), default="")
        primary = slow_primary(alive[name], alive)
        sources[name] = [
            (blend.rules * follows.get(name, 0.0) / strongest, f"{actions.get(anchor.get(name))}:{anchor.get(name)}"),
            (blend.leftovers * min(1.0, sum(left.get(item, 0.0) for item in main)), f"ingredient:{most}"),
            (blend.taste * likeness(tags) / closest, f"taste:{liked}"),
            (blend.repeats * own.get(name, 0.0) / heaviest, f"{actions.get(name)}:{name}"),
            (newness[name] if tags else 0.0, f"new:{primary}"),
            (popular[name], "popular"),
        ]
    score = {}
    for name, parts in sources.items():
        total = sum(value for value, _ in parts) + (0.0 if alive[name]["value_tags"] else newness[name])
        score[name] = round(total * cool.get(name, 1.0), 6)

    ranked = sorted(score, key=lambda n: (-score[n], n))
    length, slots = rules.list_length, rules.fresh.min_slots
    most = max(rules.diversity.shortlist, length)
    shortlist = ranked[:most] + [n for n in ranked[most:] if is_new[n]][:slots]
    before: dict[str, int] = defaultdict(int)
    final = {}
    for name in shortlist:
        primary = slow_primary(alive[name], alive)
        final[name] = round(score[name] * rules.diversity.quota ** before[primary], 6)
        before[primary] += 1
    order = sorted(shortlist, key=lambda n: -final[n])
    reserved = [n for n in order if is_new[n]][: min(slots, length)]
    others = [n for n in order if n not in reserved][: length - len(reserved)]
    chosen = [n for n in order if n in reserved or n in others]

    def reason(name: str) -> str:
        value, text = max(sources[name], key=lambda part: part[0])
        return text if value > 0 else "popular"

    return [(name, final[name], reason(name)) for name in chosen]


def slow_root(counts: dict[str, float], alive: dict[str, Any]) -> dict[str, float]:
    largest = max([count for name, count in counts.items() if name in alive], default=0) or 1
    return {name: math.sqrt(counts.get(name, 0.0) / largest) for name in alive}


def slow_primary(dish: dict[str, Any], alive: dict[str, Any]) -> str:
    def rarity(tag: str) -> tuple[int, str]:
        return sum(tag in other["value_tags"] for other in alive.values()), tag

    return min(dish["value_tags"], key=rarity, default="")


def slow_rules(
    known: dict[str, float], own: dict[str, float], artifact: ModelArtifact | None, rules: Weights
) -> tuple[dict[str, float], dict[str, str]]:
    """Strength of each recipe that follows the user's own ones, in the precision of the model, and its anchor."""
    total: dict[str, np.float32] = defaultdict(np.float32)
    anchor: dict[str, str] = {}
    most: dict[str, float] = {}
    if artifact is None:
        return {}, {}
    names = artifact.recipe_ids.tolist()
    least = max(rules.profile.least_share * max(own.values(), default=0), np.finfo(np.float32).tiny)
    for name, weight in known.items():
        if name not in names or weight < least:
            continue
        row = artifact.neighbours[[names.index(name)]].tocoo()
        for column, value in zip(row.col, row.data, strict=True):
            part = np.float32(weight) * value
            total[names[column]] += part
            if part > most.get(names[column], 0):
                most[names[column]], anchor[names[column]] = part, name
    return {name: float(value) for name, value in total.items()}, anchor


names = st.sampled_from("abcdefgh")
tag_sets = st.lists(st.sampled_from(["quick", "cheap", "light"]), max_size=3, unique=True).map(" ".join)
ingredient_sets = st.lists(st.sampled_from(["egg", "leek", "rice", "tofu", "beef"]), max_size=4, unique=True).map(
    " ".join
)
kitchens = st.lists(
    st.builds(
        recipe,
        names,
        tag_sets,
        ingredient_sets,
        days_old=st.sampled_from([1.0, 10.0, 100.0, LONG_AGO]),
        is_deleted=st.sampled_from([False, False, False, True]),
    ),
    max_size=8,
    unique_by=lambda dish: dish["recipe_id"],
)
histories = st.lists(
    st.builds(
        did,
        st.sampled_from(["u1", "u2", "u3"]),
        st.sampled_from([*ACTION_OF_EVENT, "search"]),
        st.sampled_from([*"abcdefgh", "lost"]),
        days_ago=st.sampled_from([0.0, 0.125, 1.0, 1.5, 9.0]),
        detail=st.sampled_from([None, None, "egg", "leek tofu"]),
    ),
    max_size=20,
)
transitions = st.dictionaries(st.tuples(names, names), st.sampled_from([0.125, 0.25, 0.3, 0.7, 1.0]), max_size=25)
rulebooks = st.builds(
    weights,
    list_length=st.integers(1, 8),
    fresh=st.fixed_dictionaries({"min_slots": st.integers(0, 3)}),
    diversity=st.fixed_dictionaries({"shortlist": st.integers(1, 6), "quota": st.sampled_from([0.5, 0.95, 1.0])}),
    profile=st.fixed_dictionaries({"least_share": st.sampled_from([0.0, 0.01, 0.5])}),
    candidates=st.fixed_dictionaries(
        {
            "rules": st.integers(1, 8),
            "popular": st.integers(1, 5),
            "fresh": st.integers(0, 3),
            "strongest": st.integers(0, 2),
            "each": st.integers(1, 3),
        }
    ),
)
counts = st.dictionaries(names, st.sampled_from([1.0, 2.0, 5.0]))


@settings(max_examples=200, deadline=None)
@given(kitchens, histories, counts, st.none() | st.builds(model, transitions, counts), rulebooks)
def test_fast_equals_slow_together_and_one_by_one(
    dishes: list[dict[str, Any]],
    history: list[dict[str, Any]],
    live: dict[str, float],
    artifact: ModelArtifact | None,
    rules: Weights,
) -> None:
    kitchen: Catalogue = catalogue(*dishes)
    profiles = build_profiles(behaviors_table(*history), kitchen, rules, NOW)
    together = rank(profiles, kitchen, popularity(**live), artifact, rules, NOW)
    assert together["user_id"].equals(profiles["user_id"])
    for at, profile in enumerate(profiles.to_pylist()):
        made = together.slice(at, 1)
        assert rank(profiles.slice(at, 1), kitchen, popularity(**live), artifact, rules, NOW).equals(made)
        (row,) = made.to_pylist()
        slow = slow_list(profile, dishes, live, artifact, rules)
        assert row["recipe_ids"] == [name for name, _, _ in slow]
        assert row["scores"] == pytest.approx([score for _, score, _ in slow], abs=2e-6)
        assert row["reasons"] == [reason for _, _, reason in slow]


def test_neither_chunks_nor_threads_change_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    size, users = 300, 80
    names = [f"r{number:03d}" for number in range(size)]
    tags = ["quick", "cheap", "light", "party"]
    kitchen = catalogue(
        *(recipe(n, " ".join(random.choice(tags, 2, replace=False)), days_old=number) for number, n in enumerate(names))
    )
    pairs = {(str(a), str(b)): float(random.random()) for a, b in random.choice(names, (6000, 2))}
    followed = model(pairs, dict.fromkeys(names, 1.0))
    events = [
        did(f"u{number % users:02d}", "recipe_view", str(random.choice(names)), days_ago=number / 400)
        for number in range(2000)
    ]
    profiles = build_profiles(behaviors_table(*events), kitchen, weights(), NOW)
    made = rank(profiles, kitchen, popularity(), followed, weights(), NOW)
    monkeypatch.setattr(ranking, "_CHUNK", 7)
    assert rank(profiles, kitchen, popularity(), followed, weights(), NOW).equals(made)
    backwards = pa.array(np.arange(users)[::-1])
    assert rank(profiles.take(backwards), kitchen, popularity(), followed, weights(), NOW).equals(made.take(backwards))


@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.integers(1, 40))
def test_the_sparse_product_is_that_of_scipy(seed: int, height: int, width: int) -> None:
    random = np.random.default_rng(seed)
    left, right = (
        sparse.random_array(shape, density=0.2, format="csr", dtype=np.float32, rng=random)
        for shape in ((height, 25), (25, width))
    )
    offsets, columns, values = product(left, right)
    ours = sparse.csr_array((values, columns, offsets), shape=(height, width)).toarray()
    assert np.array_equal(ours, (left @ right).toarray())
