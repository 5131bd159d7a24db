"""The model artifact: what is saved comes back, and damage is told with the command that mends it."""

from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.artifact import (
    ARRAYS,
    MANIFEST,
    MEND,
    POINTER,
    InService,
    ModelArtifact,
    in_service,
    load_artifact,
    load_promoted,
    load_twin,
    promote,
    promoted_version,
    put_in_service,
    save_artifact,
)
from kurashiru_pipeline.core.canary import Canary
from kurashiru_pipeline.core.model import BLEND_SCALE
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.ranking import rank
from kurashiru_pipeline.errors import ConfigurationError
from tests.kitchen import NOW, behaviors_table, catalogue, did, model, popularity, recipe, reranker, weights

MODEL = model({("a", "b"): 0.5, ("b", "卵焼き"): 0.25}, {"a": 3.0})


def same(one: ModelArtifact, other: ModelArtifact) -> bool:
    return (
        (one.version, one.metadata, one.learned, one.model)
        == (other.version, other.metadata, other.learned, other.model)
        and one.recipe_ids.tolist() == other.recipe_ids.tolist()
        and one.popularity.tolist() == other.popularity.tolist()
        and one.interactions.tolist() == other.interactions.tolist()
        and one.neighbours.toarray().tolist() == other.neighbours.toarray().tolist()
    )


names = st.text("abc", min_size=1, max_size=2)


@given(st.dictionaries(st.tuples(names, names), st.floats(2**-10, 1, width=32), max_size=9))
def test_what_is_saved_comes_back(tmp_path_factory: pytest.TempPathFactory, transitions: dict) -> None:
    saved = replace(model(transitions, {"a": 2.0}, {"a": 5.0}), learned={"blend.rules": 0.3}, model="tree 木")
    loaded = load_artifact(save_artifact(saved, tmp_path_factory.mktemp("models")))
    assert same(loaded, saved)
    assert loaded.neighbours.dtype == np.float32


def test_what_comes_back_ranks_as_what_was_saved(tmp_path: Path) -> None:
    learned = {"blend.standing_popularity": 1.0, "blend.rules": 0.3, BLEND_SCALE: 0.5}
    saved = model({("a", "b"): 0.5, ("b", "c"): 0.25}, {"a": 3.0}, {"c": 7.0, "d": 2.0}, learned)
    saved = replace(saved, model=reranker(standing_popularity=1.0, rules=-0.5))
    loaded = load_artifact(save_artifact(saved, tmp_path))
    dishes, rules = catalogue(*(recipe(name) for name in "abcdef")), weights()
    profiles = build_profiles(behaviors_table(did("u", "recipe_view", "a")), dishes, rules, NOW)
    made, expected, plain = (
        rank(profiles, dishes, popularity(), artifact, rules, NOW)
        for artifact in (loaded, saved, replace(saved, learned={}, model=""))
    )
    assert made.equals(expected)
    assert not made.equals(plain)


def test_a_model_of_nothing(tmp_path: Path) -> None:
    assert same(load_artifact(save_artifact(model({}), tmp_path)), model({}))


def test_arrays_are_a_plain_npz(tmp_path: Path) -> None:
    with np.load(save_artifact(MODEL, tmp_path) / ARRAYS, allow_pickle=False) as arrays:
        assert sorted(arrays) == [
            "indices",
            "interactions",
            "model",
            "offsets",
            "popularity",
            "recipe_ids",
            "values",
        ]


def test_metadata_is_in_the_manifest(tmp_path: Path) -> None:
    saved = replace(MODEL, version="v1", metadata={"metrics": {"ndcg": 0.1}})
    folder = save_artifact(saved, tmp_path)
    manifest = orjson.loads((folder / MANIFEST).read_bytes())
    assert manifest["metadata"] == {"metrics": {"ndcg": 0.1}}
    assert (manifest["recipes"], manifest["neighbours"]) == (3, 2)
    assert load_artifact(folder).metadata == saved.metadata


def test_a_version_is_written_once_and_whole(tmp_path: Path) -> None:
    save_artifact(MODEL, tmp_path)
    with pytest.raises(ConfigurationError, match="m1 exists already"):
        save_artifact(MODEL, tmp_path)
    unwritable = replace(MODEL, version="m2", metadata={"no json": object()})
    with pytest.raises(TypeError):
        save_artifact(unwritable, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["m1"]


@pytest.mark.parametrize("version", ["", "../m1", ".m1", "a b", "x" * 65])
def test_a_version_is_a_plain_name(tmp_path: Path, version: str) -> None:
    with pytest.raises(ConfigurationError, match="no model version"):
        save_artifact(replace(MODEL, version=version), tmp_path)
    with pytest.raises(ConfigurationError, match="no model version"):
        promote(tmp_path, version)


def test_promotion_points_at_a_version(tmp_path: Path) -> None:
    assert promoted_version(tmp_path) is None
    assert load_promoted(tmp_path / "nowhere") is None
    save_artifact(MODEL, tmp_path)
    assert load_promoted(tmp_path) is None
    promote(tmp_path, "m1")
    assert promoted_version(tmp_path) == "m1"
    promoted = load_promoted(tmp_path)
    assert promoted is not None
    assert same(promoted, MODEL)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m1", POINTER]


def test_a_missing_or_damaged_version_is_not_promoted(tmp_path: Path) -> None:
    save_artifact(MODEL, tmp_path)
    promote(tmp_path, "m1")
    with pytest.raises(ConfigurationError, match="m2"):
        promote(tmp_path, "m2")
    (tmp_path / "m1").rename(tmp_path / "m3")
    arrays = tmp_path / "m3" / ARRAYS
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"?")
    with pytest.raises(ConfigurationError, match="check sum"):
        promote(tmp_path, "m3")
    assert promoted_version(tmp_path) == "m1"


def test_a_version_keeps_its_twin(tmp_path: Path) -> None:
    twin = replace(MODEL, popularity=MODEL.popularity * 0.5)
    folder = save_artifact(MODEL, tmp_path, twin)
    assert same(load_artifact(folder), MODEL)
    kept = load_twin(folder)
    assert kept is not None
    assert same(kept, twin)
    assert load_twin(save_artifact(replace(MODEL, version="m2"), tmp_path)) is None


def test_a_canary_stands_beside_a_version_until_the_next_promotion(tmp_path: Path) -> None:
    canary = Canary("m2", 0.05, datetime(2026, 11, 23, 9, 30, 0, 123456))
    for version in ("m1", "m2"):
        save_artifact(replace(MODEL, version=version), tmp_path)
    with pytest.raises(ConfigurationError, match="kurashiru model promote"):
        put_in_service(tmp_path, InService(None, canary))
    put_in_service(tmp_path, InService("m1", canary))
    assert in_service(tmp_path) == InService("m1", canary)
    with pytest.raises(ConfigurationError, match="m3"):
        put_in_service(tmp_path, InService("m1", replace(canary, version="m3")))
    assert in_service(tmp_path).canary == canary
    promote(tmp_path, "m2")
    assert in_service(tmp_path) == InService("m2")


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(bytes(content))


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (ARRAYS, Path.unlink),
        (ARRAYS, flip),
        (ARRAYS, shorten),
        (MANIFEST, Path.unlink),
        (MANIFEST, shorten),
    ],
)
def test_a_broken_artifact_in_service_names_the_command_that_mends_it(tmp_path: Path, name: str, damage) -> None:
    save_artifact(MODEL, tmp_path)
    promote(tmp_path, "m1")
    damage(tmp_path / "m1" / name)
    with pytest.raises(ConfigurationError) as error:
        load_promoted(tmp_path)
    assert MEND in str(error.value)
    assert str(tmp_path / "m1") in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null", b'{"version": "m1", "canary": {"version": "m2"}}'])
def test_a_broken_pointer_names_the_command_that_mends_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / POINTER).write_bytes(content)
    with pytest.raises(ConfigurationError) as error:
        promoted_version(tmp_path)
    assert MEND in str(error.value)
