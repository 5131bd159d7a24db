"""The vectorised handlers: what they answer is the process kernel's answer, to the last digit and in any batches."""

import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from kurashiru_pipeline.core import ranking
from kurashiru_pipeline.core.artifact import MANIFEST
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.impersonal import impersonal_profiles, rank_by_surface
from kurashiru_pipeline.core.items import DEFAULT_USER, content_hash
from kurashiru_pipeline.core.profiles import PROFILE_SCHEMA, build_profiles
from kurashiru_pipeline.core.ranking import rank
from kurashiru_pipeline.core.segments import PLATFORM_SEGMENTS, TAG_SEGMENTS
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.snowpark import handlers
from tests.kitchen import NOW, popularity, recipe, recipes_table
from tests.snowpark.functions import imported, stand_in_functions
from tests.snowpark.scene import AS_OF, Scene, make_scene, write_ndjson

Answers = list[dict[str, Any]]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.fixture(scope="module")
def kernel_profiles(scene: Scene) -> Any:
    catalogue = Catalogue.from_arrow(scene.recipes)
    return build_profiles(scene.behaviors, catalogue, load_weights(), NOW, scene.preferences)


@pytest.fixture(scope="module")
def profiles(scene: Scene) -> Answers:
    return build(scene.build_rows())


def build(rows: list[tuple[Any, ...]]) -> Answers:
    call, _ = stand_in_functions(None)["RECOMMENDATION.BUILD_PROFILE"]
    return call(rows)


def ranked(rows: list[tuple[Any, ...]], artifact: Path | None) -> Answers:
    call, _ = stand_in_functions(artifact)["RECOMMENDATION.RANK_RECIPES"]
    return call(rows)


def kernel_lists(scene: Scene, profiles: Any, *, with_model: bool, length: int = 10) -> Answers:
    catalogue, artifact = Catalogue.from_arrow(scene.recipes), scene.artifact if with_model else None
    lists = rank(profiles, catalogue, scene.live_popularity, artifact, load_weights(), NOW, list_length=length)
    return with_hashes(lists)


def with_hashes(lists: Any) -> Answers:
    return [
        {**row, "content_hash": content_hash(row["recipe_ids"], row["reasons"])}
        for row in lists.drop_columns(["user_id"]).to_pylist()
    ]


def test_profiles_are_the_kernels(scene: Scene, profiles: Answers, kernel_profiles: Any) -> None:
    assert list(profiles[0]) == PROFILE_SCHEMA.names
    expected = kernel_profiles.to_pylist()
    assert [{**profile, "as_of": datetime.fromisoformat(profile["as_of"])} for profile in profiles] == expected
    assert len(profiles) == 40
    assert sum(bool(profile["ingredients"]) for profile in profiles) > 10


@pytest.mark.parametrize("with_model", [True, False])
def test_lists_are_the_kernels(scene: Scene, profiles: Answers, kernel_profiles: Any, with_model: bool) -> None:
    made = ranked(scene.rank_rows(profiles), scene.artifact_folder if with_model else None)
    assert made == kernel_lists(scene, kernel_profiles, with_model=with_model)
    assert {answer["algorithm"] for answer in made} == {"m1" if with_model else "popular"}


def test_lists_without_a_user_are_the_kernels(scene: Scene, profiles: Answers) -> None:
    names = [DEFAULT_USER, *PLATFORM_SEGMENTS[:4], *TAG_SEGMENTS]
    expected = rank_by_surface(
        impersonal_profiles(names, NOW),
        Catalogue.from_arrow(scene.recipes),
        scene.live_popularity,
        scene.segment_popularity,
        scene.artifact,
        load_weights(),
        NOW,
        list_length=10,
    )
    rows = [
        {"user_id": name, **({"tastes": [TAG_SEGMENTS[name]], "taste_weights": [1.0]} if name in TAG_SEGMENTS else {})}
        for name in names
    ]
    users = ranked(scene.rank_rows(profiles[:5]), scene.artifact_folder)
    made = ranked(scene.rank_rows([*profiles[:2], *rows, *profiles[2:5]]), scene.artifact_folder)
    assert [*made[:2], *made[-3:]] == users
    assert made[2:-3] == with_hashes(expected)
    assert len({answer["content_hash"] for answer in made[2:6]}) == 4, "every segment has its own"


@pytest.mark.parametrize("size", [1, 7, 39])
def test_a_row_does_not_depend_on_its_batch(scene: Scene, profiles: Answers, size: int) -> None:
    rows = scene.build_rows()
    random.Random(size).shuffle(rows)
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    made = [answer for batch in batches for answer in build(batch)]
    assert sorted(made, key=lambda profile: profile["user_id"]) == profiles

    whole = ranked(scene.rank_rows(profiles), scene.artifact_folder)
    at = list(range(len(profiles)))
    random.Random(size).shuffle(at)
    for start in range(0, len(at), size):
        chosen = at[start : start + size]
        made = ranked(scene.rank_rows([profiles[place] for place in chosen]), scene.artifact_folder)
        assert made == [whole[place] for place in chosen]


def test_a_user_may_stand_in_several_rows(scene: Scene) -> None:
    first, second = scene.build_rows()[:2]
    again = ("user-00", second[1], *first[2:])
    one, other, twice = build([first, again, first])
    assert one == twice == build([first])[0]
    assert other == {**build([second])[0], "user_id": "user-00"}


def test_rows_may_speak_of_different_moments_and_files(scene: Scene, tmp_path: Path) -> None:
    write_ndjson(recipes_table(recipe("recipe-00", "savings")), tmp_path / "few.ndjson")
    row = scene.build_rows()[0]
    elsewhere = (*row[:3], str(tmp_path / "few.ndjson"), "2026-11-30T00:00:00")
    assert build([row, elsewhere, row]) == [build([row])[0], build([elsewhere])[0], build([row])[0]]
    assert build([row]) != build([elsewhere])


def test_frames_as_snowflake_encodes_them(scene: Scene, profiles: Answers) -> None:
    rows = scene.build_rows()
    frame = pd.DataFrame(rows).astype({0: "string", 3: "string", 4: "string"})
    frame.index = pd.RangeIndex(100, 100 + len(rows))
    with imported(scene.artifact_folder):
        made = handlers.build_profile(frame)
        assert made.tolist() == profiles
        assert made.index.equals(frame.index)
        frame = pd.DataFrame(scene.rank_rows(profiles)).astype({1: "string", 2: "string", 3: "string", 4: "Int64"})
        lists = handlers.rank_recipes(frame).tolist()
        frame.loc[frame.index[0], 4] = pd.NA
        longest = handlers.rank_recipes(frame).tolist()
    assert lists == ranked(scene.rank_rows(profiles), scene.artifact_folder)
    assert len(longest[0]["recipe_ids"]) == load_weights().list_length > len(lists[0]["recipe_ids"])
    assert longest[1:] == lists[1:]


def test_handlers_say_that_they_take_frames() -> None:
    for handler in (handlers.build_profile, handlers.rank_recipes):
        assert handler._sf_vectorized_input is pd.DataFrame  # type: ignore[attr-defined]


@pytest.mark.parametrize("nothing", [None, []])
def test_nobody_did_or_said_anything(scene: Scene, nothing: object) -> None:
    row = scene.build_rows()[1]
    made, other = build([("new", nothing, nothing, *row[3:]), row])
    lists: dict[str, Any] = {name: [] for name in PROFILE_SCHEMA.names}
    assert made == lists | {"user_id": "new", "as_of": "2026-11-23T09:30:00.000000"}
    assert other == build([row])[0]
    assert ranked(scene.rank_rows([made]), None) == ranked(scene.rank_rows([{}]), None)


def test_who_only_said_something_has_a_taste(scene: Scene) -> None:
    row = scene.build_rows()[1]
    made, other = build([("new", None, ["savings", "unknown"], *row[3:]), row])
    assert (made["tastes"], made["taste_weights"]) == (["savings"], [1.0])
    assert other == build([row])[0]


def test_a_table_without_rows_has_no_file(scene: Scene, profiles: Answers) -> None:
    row = ranked([(profiles[0], scene.recipes_url, None, AS_OF, 5)], None)[0]
    catalogue = Catalogue.from_arrow(scene.recipes)
    none = popularity()
    one = build_profiles(scene.behaviors, catalogue, load_weights(), NOW, scene.preferences).slice(0, 1)
    assert [row] == with_hashes(rank(one, catalogue, none, None, load_weights(), NOW, list_length=5))
    assert ranked([(profiles[0], None, None, AS_OF, 5)], None)[0]["recipe_ids"] == []


def test_an_empty_file_is_no_rows(tmp_path: Path, profiles: Answers) -> None:
    (tmp_path / "recipes.ndjson").write_bytes(b"")
    assert ranked([(profiles[0], str(tmp_path / "recipes.ndjson"), "", AS_OF, 5)], None)[0]["recipe_ids"] == []


BAD_PASTS = {
    "not a list": "recipe_view",
    "not objects": [["recipe_view"]],
    "a number for an id": [{"event_id": 7, "event_name": "search", "occurred_at": AS_OF}],
    "no time": [{"event_id": "e", "event_name": "recipe_view", "recipe_id": "recipe-00"}],
    "a time that is none": [{"event_id": "e", "event_name": "search", "occurred_at": "yesterday"}],
}


@pytest.mark.parametrize("said", [7, [7], ["savings", 7]])
def test_preferences_that_cannot_be_read_harm_nobody_else(scene: Scene, profiles: Answers, said: object) -> None:
    rows = scene.build_rows()
    rows.insert(17, ("broken", None, said, *rows[0][3:]))
    made = build(rows)
    assert made.pop(17)["error"].startswith("user 'broken': ")
    assert made == profiles


@pytest.mark.parametrize("past", BAD_PASTS.values(), ids=BAD_PASTS)
def test_a_past_that_cannot_be_read_harms_nobody_else(scene: Scene, profiles: Answers, past: object) -> None:
    rows = scene.build_rows()
    rows.insert(17, ("broken", past, *rows[0][2:]))
    made = build(rows)
    answer = made.pop(17)
    assert answer["user_id"] == "broken"
    assert answer["error"].startswith("user 'broken': ")
    assert made == profiles


def test_a_row_without_user_is_answered(scene: Scene) -> None:
    row = scene.build_rows()[0]
    nobody, other = build([(None, *row[1:]), row])
    assert nobody == {"user_id": None, "error": "user None: TypeError: user_id must be text"}
    assert other == build([row])[0]


BAD_PROFILES = {
    "null": None,
    "text": "profile",
    "lists of different lengths": {"recipe_ids": ["recipe-00"], "recipe_weights": [1.0, 2.0]},
    "a null in a list": {"tastes": [None], "taste_weights": [1.0]},
    "a weight that is none": {"tastes": ["savings"], "taste_weights": ["much"]},
    "a weight that is not finite": {"tastes": ["savings"], "taste_weights": ["nan"]},
    "a number for a recipe": {
        "recipe_ids": [7],
        "recipe_weights": [1.0],
        "recipe_actions": ["viewed"],
        **{name: [1.0] for name in ("cooldowns", "recipe_ages", "recipe_counts", "recipe_daytimes")},
    },
}


@pytest.mark.parametrize("profile", BAD_PROFILES.values(), ids=BAD_PROFILES)
def test_a_profile_that_cannot_be_read_harms_nobody_else(scene: Scene, profiles: Answers, profile: Any) -> None:
    broken = {"user_id": "broken", **profile} if isinstance(profile, dict) else profile
    made = ranked(scene.rank_rows([*profiles[:20], broken, *profiles[20:], broken]), None)
    for answer in (made.pop(20), made.pop()):
        assert answer.keys() == {"user_id", "error"}
        assert answer["user_id"] == ("broken" if isinstance(profile, dict) else None)
    assert made == ranked(scene.rank_rows(profiles), None)


def test_decimals_may_come_as_text(scene: Scene, profiles: Answers) -> None:
    texts = {**profiles[0], "recipe_weights": [repr(weight) for weight in profiles[0]["recipe_weights"]]}
    assert ranked(scene.rank_rows([texts]), None) == ranked(scene.rank_rows(profiles[:1]), None)


def test_what_all_rows_share_must_be_right(scene: Scene, profiles: Answers, tmp_path: Path) -> None:
    row = scene.build_rows()[0]
    with pytest.raises(FileNotFoundError):
        build([(*row[:3], str(tmp_path / "gone"), AS_OF)])
    with pytest.raises(ValueError, match="isoformat"):
        build([(*row[:4], "today")])
    write_ndjson(recipes_table(recipe("a"), recipe("a")), tmp_path / "twice.ndjson")
    with pytest.raises(ValueError, match="each recipe_id once"):
        ranked([(profiles[0], str(tmp_path / "twice.ndjson"), None, AS_OF, 5)], None)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / MANIFEST).write_text("{}")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        ranked(scene.rank_rows(profiles), damaged)


def test_a_kernel_that_takes_nobody_is_not_the_rows_fault(
    scene: Scene, profiles: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranking, "_RECIPES", 3)
    with pytest.raises(ValueError, match="the kernel ranks up to 3 recipes"):
        ranked(scene.rank_rows(profiles), None)


def test_files_are_read_once_a_process(scene: Scene, profiles: Answers, tmp_path: Path) -> None:
    path = tmp_path / "recipes.ndjson"
    write_ndjson(scene.recipes, path)
    frame = pd.DataFrame([(profiles[0], str(path), None, AS_OF, 5)])
    with imported(None):
        first = handlers.rank_recipes(frame).tolist()
        path.unlink()
        assert handlers.rank_recipes(frame).tolist() == first
