"""Profiles: what each behaviour adds, and that neither row order nor company matters."""

import math
from collections import defaultdict
from datetime import timedelta
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.catalogue import MAIN_INGREDIENTS
from kurashiru_pipeline.core.profiles import ACTION_OF_EVENT, PROFILE_SCHEMA, build_profiles
from kurashiru_pipeline.core.weights import Weights
from tests.kitchen import NOW, behaviors_table, catalogue, did, preferences, recipe, weights

KITCHEN = [
    recipe("curry", "time_saving savings", "onion carrot beef rice"),
    recipe("omelette", "time_saving", "egg onion"),
    recipe("salad", "", "tomato"),
    recipe("gone", "savings", "egg", is_deleted=True),
]
CATALOGUE = catalogue(*KITCHEN)


def profile(*behaviors: dict[str, Any], rules: Weights | None = None, stated: pa.Table | None = None) -> dict[str, Any]:
    (made,) = build_profiles(behaviors_table(*behaviors), CATALOGUE, rules or weights(), NOW, stated).to_pylist()
    return made


def interest(made: dict[str, Any], column: str = "recipe_weights") -> dict[str, float]:
    return dict(zip(made["recipe_ids"], made[column], strict=True))


def test_newer_behaviours_weigh_more() -> None:
    made = profile(did("u", "recipe_view", "curry", days_ago=2), did("u", "recipe_view", "salad", days_ago=1))
    assert interest(made) == pytest.approx({"salad": 0.5, "curry": 0.5 * 0.5 ** (1 / 2)})


def test_actions_weigh_differently_and_add_up() -> None:
    made = profile(did("u", "recipe_cooked", "curry", days_ago=1), did("u", "recipe_view", "curry"))
    assert interest(made) == pytest.approx({"curry": 0.5 + 3 * 0.5 ** (1 / 2)})
    assert made["recipe_actions"] == ["cooked"]


def test_impressions_and_unknown_events_weigh_nothing() -> None:
    made = profile(did("u", "recipe_impression", "curry"), did("u", "recipe_shared", "salad"))
    assert made["recipe_ids"] == made["ingredients"] == made["tastes"] == []
    assert made["user_id"] == "u"


def test_only_the_newest_behaviours_count() -> None:
    rules = weights(profile={"length": 1})
    made = profile(did("u", "recipe_view", "curry", days_ago=1), did("u", "recipe_view", "salad"), rules=rules)
    assert interest(made) == {"salad": 0.5, "curry": 0.0}
    assert made["cooldowns"] == pytest.approx([0, 0.75])


def test_an_unfavourite_takes_the_favourite_back() -> None:
    liked = did("u", "recipe_favorite", "curry", days_ago=3)
    undone = did("u", "recipe_unfavorite", "curry", days_ago=2)
    assert profile(liked, undone)["recipe_ids"] == []
    assert profile(liked, undone, did("u", "recipe_favorite", "curry"))["recipe_actions"] == ["favorited"]
    assert profile(liked, did("u", "recipe_unfavorite", "salad", days_ago=2))["recipe_ids"] == ["curry"]
    assert profile(liked, did("u", "recipe_view", "curry", days_ago=4), undone)["recipe_actions"] == ["viewed"]


def test_cool_down_after_viewing_and_cooking() -> None:
    made = profile(
        did("u", "recipe_cooked", "curry", days_ago=3),
        did("u", "recipe_view", "omelette", days_ago=0.5),
        did("u", "recipe_favorite", "salad"),
    )
    assert dict(zip(made["recipe_ids"], made["cooldowns"], strict=True)) == pytest.approx(
        {"curry": 0.5, "omelette": 0.5, "salad": 1.0}
    )


def test_ages_are_since_the_newest_behaviour() -> None:
    made = profile(
        did("u", "recipe_cooked", "curry", days_ago=3),
        did("u", "recipe_view", "curry", days_ago=0.5),
        did("u", "recipe_impression", "curry"),
        did("u", "recipe_favorite", "salad", days_ago=30 / 86_400),
    )
    assert interest(made, "recipe_ages") == pytest.approx({"curry": 43_200, "salad": 30})


def test_counts_are_of_repeats_however_long_ago() -> None:
    steps = [did("u", "recipe_view", "curry", days_ago=10 * number) for number in (1, 2, 3)]
    rules = weights(profile={"length": 1, "count_half_life": 2.0})
    made = profile(*steps, did("u", "recipe_cooked", "salad"), rules=rules)
    assert interest(made, "recipe_counts") == pytest.approx({"salad": 1, "curry": 0.5**0.5 + 0.5 + 0.5**1.5})
    assert made["recipe_weights"] == [3.0, 0.0]


def test_daytimes_are_near_the_time_of_day() -> None:
    made = profile(
        did("u", "recipe_view", "curry", days_ago=7),
        did("u", "recipe_view", "curry", days_ago=6 + 2 / 24),
        did("u", "recipe_view", "salad", days_ago=6 - 2 / 24),
        did("u", "recipe_view", "omelette", days_ago=0.5),
    )
    near = math.exp(-1)
    assert interest(made, "recipe_daytimes") == pytest.approx(
        {"curry": 1 + near, "salad": near, "omelette": 0}, abs=1e-9
    )


def test_older_recipes_follow_those_of_more_and_newer_behaviours_first() -> None:
    steps = [
        did("u", "recipe_view", "salad"),
        did("u", "recipe_view", "gone", days_ago=1),
        did("u", "recipe_view", "curry", days_ago=2),
        did("u", "recipe_view", "omelette", days_ago=3),
        did("u", "recipe_view", "omelette", days_ago=4),
    ]
    made = profile(*steps, rules=weights(profile={"length": 1}))
    assert made["recipe_ids"] == ["salad", "omelette", "gone", "curry"]


def test_what_weighs_nothing_is_no_behaviour() -> None:
    rules = weights(actions={"recipe_view": 0.0})
    assert profile(did("u", "recipe_view", "curry"), rules=rules)["recipe_ids"] == []


def test_tastes_are_shares_of_tags() -> None:
    made = profile(did("u", "recipe_view", "omelette"), rules=weights(profile={"taste_half_life": 1.0}))
    assert (made["tastes"], made["taste_weights"]) == (["time_saving"], [1.0])
    made = profile(did("u", "recipe_cooked", "curry"), did("u", "recipe_view", "salad"))
    assert (made["tastes"], made["taste_weights"]) == (["savings", "time_saving"], [0.5, 0.5])


def test_stated_tastes_weigh_as_one_behaviour_until_there_are_more() -> None:
    said = preferences(u=["savings", "unheard_of"])
    assert profile(stated=said)["tastes"] == ["savings"]
    made = profile(did("u", "recipe_view", "omelette"), stated=said)
    assert dict(zip(made["tastes"], made["taste_weights"], strict=True)) == pytest.approx(
        {"savings": 1 / 1.5, "time_saving": 0.5 / 1.5}
    )
    strong = profile(did("u", "recipe_cooked", "omelette"), stated=preferences(u=["savings", "time_saving"]))
    assert (strong["tastes"], strong["taste_weights"]) == (["time_saving", "savings"], [3.5 / 4, 0.5 / 4])


def test_users_who_only_stated_a_taste_have_a_profile() -> None:
    said = preferences(v=["savings"], t=[], u=["time_saving"])
    made = build_profiles(behaviors_table(did("u", "recipe_view", "salad")), CATALOGUE, weights(), NOW, said)
    assert made["user_id"].to_pylist() == ["t", "u", "v"]
    assert made["recipe_ids"].to_pylist() == [[], ["salad"], []]
    assert made["tastes"].to_pylist() == [[], ["time_saving"], ["savings"]]


def test_leftovers_come_from_searches_and_shopping_lists_and_fade() -> None:
    made = profile(
        did("u", "search", detail="Egg tomato", days_ago=1),
        did("u", "shopping_list_add", detail="carrot", days_ago=0.5),
        did("u", "search", detail="beef", days_ago=2.1),
        did("u", "search", detail="eggplant"),
        did("u", "search"),
    )
    assert made["ingredients"] == ["carrot", "egg", "tomato"]
    assert made["ingredient_weights"] == pytest.approx([0.75, 0.5, 0.5])


def test_a_listed_recipe_leaves_its_main_ingredients() -> None:
    made = profile(did("u", "shopping_list_add", "curry"))
    assert made["ingredients"] == ["beef", "carrot", "onion"]
    assert made["recipe_actions"] == ["listed"]
    assert profile(did("u", "shopping_list_add", "curry", detail="egg"))["ingredients"] == ["egg"]


def test_unknown_and_deleted_recipes() -> None:
    made = profile(did("u", "recipe_view", "lost"), did("u", "shopping_list_add", "missing"))
    assert made["recipe_ids"] == ["missing", "lost"]
    assert made["tastes"] == made["ingredients"] == []
    assert profile(did("u", "recipe_view", "gone"))["tastes"] == ["savings"]


def test_events_from_the_future_are_as_of_now() -> None:
    made = profile(did("u", "recipe_view", "curry", days_ago=-0.5), did("u", "search", detail="egg", days_ago=-0.5))
    assert made["cooldowns"] == [0.0]
    assert made["ingredient_weights"] == [1.0]


def test_no_behaviours_no_profiles() -> None:
    assert build_profiles(behaviors_table(), CATALOGUE, weights(), NOW).schema == PROFILE_SCHEMA
    assert build_profiles(behaviors_table(did("u", "recipe_view", "a")), catalogue(), weights(), NOW).num_rows == 1


behaviors = st.lists(
    st.builds(
        did,
        st.sampled_from(["u1", "u2", "u3"]),
        st.sampled_from([*ACTION_OF_EVENT, "recipe_unfavorite", "search", "recipe_impression"]),
        st.sampled_from(["curry", "omelette", "salad", "gone", "lost", None]),
        days_ago=st.sampled_from([0.0, 0.25, 1.0, 1.5, 3.0]),
        detail=st.sampled_from([None, "egg", "onion beef", "nothing"]),
    ),
    max_size=25,
)


def slow_profile(
    rows: list[dict[str, Any]], catalogue_rows: list[dict[str, Any]], rules: Weights, said: list[str]
) -> dict[str, Any]:
    """One user's profile, the obvious way; rows with event_id."""
    known = {row["recipe_id"]: row for row in catalogue_rows}
    newest_first = sorted(
        sorted(rows, key=lambda row: row["event_id"]), key=lambda row: row["occurred_at"], reverse=True
    )
    counted, undone = [], set()
    for row in newest_first:
        name, of_recipe = row["event_name"], row["recipe_id"]
        if of_recipe is None:
            continue
        if name == "recipe_unfavorite":
            undone.add(of_recipe)
        elif name in ACTION_OF_EVENT and not (name == "recipe_favorite" and of_recipe in undone):
            counted.append(row)
    counted = [row for row in counted if getattr(rules.actions, row["event_name"]) > 0]
    recipes: dict[str, dict[str, Any]] = {}
    taste: dict[str, float] = defaultdict(float)
    half_life = {"recipe_view": rules.cool_down.viewed_days, "recipe_cooked": rules.cool_down.cooked_days}
    for back, row in enumerate(counted):
        name, of_recipe = row["event_name"], row["recipe_id"]
        age = NOW - row["occurred_at"]
        hours = age / timedelta(hours=1) % 24
        action = getattr(rules.actions, name) if back < rules.profile.length else 0.0
        one = action * 0.5 ** (back / rules.profile.half_life)
        made = recipes.setdefault(
            of_recipe,
            {"weight": 0.0, "strongest": -1.0, "cool": 1.0, "age": age.total_seconds(), "count": 0.0, "daytime": 0.0},
        )
        made["weight"] += one
        if one > made["strongest"]:
            made["strongest"], made["action"] = one, ACTION_OF_EVENT[name]
        if name in half_life:
            made["cool"] = min(made["cool"], 1 - 0.5 ** (age / timedelta(days=1) / half_life[name]))
        made["count"] += 0.5 ** (back / rules.profile.count_half_life)
        made["daytime"] += math.exp(-((min(hours, 24 - hours) / rules.profile.daytime_hours) ** 2))
        for tag in known.get(of_recipe, {}).get("value_tags", []):
            taste[tag] += action * 0.5 ** (back / rules.profile.taste_half_life)
    said = [tag for tag in said if any(tag in row["value_tags"] for row in catalogue_rows)]
    for tag in said:
        taste[tag] += rules.profile.stated_taste / len(said)
    total = sum(taste.values())
    return {
        "recipes": recipes,
        "ingredients": slow_leftovers(rows, catalogue_rows, rules),
        "tastes": {tag: share / total for tag, share in taste.items() if share > 0},
    }


def slow_leftovers(
    rows: list[dict[str, Any]], catalogue_rows: list[dict[str, Any]], rules: Weights
) -> dict[str, float]:
    known = {row["recipe_id"]: row for row in catalogue_rows}
    left: dict[str, float] = {}
    names = {item for row in catalogue_rows for item in row["ingredients"]}
    for row in rows:
        fade = 1 - (NOW - row["occurred_at"]) / timedelta(hours=rules.profile.leftovers_hours)
        if fade <= 0 or row["event_name"] not in {"search", "shopping_list_add"}:
            continue
        if row["detail"] is not None:
            items = [word for word in row["detail"].split() if word in names]
        elif row["event_name"] == "shopping_list_add":
            items = known.get(row["recipe_id"], {}).get("ingredients", [])[:MAIN_INGREDIENTS]
        else:
            items = []
        for item in items:
            left[item] = max(left.get(item, 0.0), fade)
    return left


rulebooks = st.builds(
    weights,
    actions=st.fixed_dictionaries({"recipe_view": st.sampled_from([0.0, 0.5])}),
    profile=st.fixed_dictionaries(
        {
            "length": st.integers(1, 6),
            "count_half_life": st.sampled_from([2.0, 20.0]),
            "stated_taste": st.sampled_from([0.0, 1.0]),
        }
    ),
)
stated = st.dictionaries(
    st.sampled_from(["u1", "u3", "u9"]),
    st.lists(st.sampled_from(["savings", "time_saving", "unheard_of"]), max_size=3, unique=True),
)
FIELDS = {
    "recipe_weights": "weight",
    "recipe_actions": "action",
    "cooldowns": "cool",
    "recipe_ages": "age",
    "recipe_counts": "count",
    "recipe_daytimes": "daytime",
}


@given(behaviors, rulebooks, st.none() | stated, st.randoms(use_true_random=False))
def test_fast_equals_slow_in_any_order(
    rows: list[dict[str, Any]], rules: Weights, said: dict[str, list[str]] | None, random: Random
) -> None:
    table, preferred = behaviors_table(*rows), None if said is None else preferences(**said)
    said = said or {}
    made = build_profiles(table, CATALOGUE, rules, NOW, preferred)
    order = list(range(len(rows)))
    random.shuffle(order)
    assert build_profiles(table.take(pa.array(order, pa.int64())), CATALOGUE, rules, NOW, preferred).equals(made)

    by_user = defaultdict(list)
    for row in table.to_pylist():
        by_user[row["user_id"]].append(row)
    assert made["user_id"].to_pylist() == sorted({*by_user, *said})
    for profile_row in made.to_pylist():
        user = profile_row["user_id"]
        one = table.filter(pa.compute.equal(table["user_id"], user))
        stated_by_one = None if user not in said else preferences(**{user: said[user]})
        assert build_profiles(one, CATALOGUE, rules, NOW, stated_by_one).to_pylist() == [profile_row]
        slow = slow_profile(by_user[user], KITCHEN, rules, said.get(user, []))
        assert set(profile_row["recipe_ids"]) == set(slow["recipes"])
        for column, field in FIELDS.items():
            for name, value in zip(profile_row["recipe_ids"], profile_row[column], strict=True):
                expected = slow["recipes"][name][field]
                assert value == (expected if isinstance(expected, str) else pytest.approx(expected))
        strength = [
            (-weight, -count, name)
            for name, weight, count in zip(
                *(profile_row[column] for column in ("recipe_ids", "recipe_weights", "recipe_counts")), strict=True
            )
        ]
        assert strength == sorted(strength)
        left = dict(zip(profile_row["ingredients"], profile_row["ingredient_weights"], strict=True))
        assert left == pytest.approx(slow["ingredients"])
        tastes = dict(zip(profile_row["tastes"], profile_row["taste_weights"], strict=True))
        assert tastes == pytest.approx(slow["tastes"])
        for column in ("ingredient_weights", "taste_weights"):
            assert profile_row[column] == sorted(profile_row[column], reverse=True)


def test_the_type_of_an_empty_column_does_not_matter() -> None:
    table = behaviors_table(did("u", "recipe_view", "curry"))
    table = table.set_column(4, "detail", pa.nulls(1))
    assert build_profiles(table, CATALOGUE, weights(), NOW)["recipe_ids"].to_pylist() == [["curry"]]
