"""The model artifact: what is saved comes back, and damage is told with the command that mends it."""

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
    ModelArtifact,
    load_artifact,
    load_promoted,
    promote,
    promoted_version,
    save_artifact,
)
from kurashiru_pipeline.errors import ConfigurationError
from tests.kitchen import model

MODEL = model({("a", "b"): 0.5, ("b", "卵焼き"): 0.25}, {"a": 3.0})


def same(one: ModelArtifact, other: ModelArtifact) -> bool:
    return (
        (one.version, one.metadata) == (other.version, other.metadata)
        and one.recipe_ids.tolist() == other.recipe_ids.tolist()
        and one.popularity.tolist() == other.popularity.tolist()
        and one.neighbours.toarray().tolist() == other.neighbours.toarray().tolist()
    )


names = st.text("abc", min_size=1, max_size=2)


@given(st.dictionaries(st.tuples(names, names), st.floats(2**-10, 1, width=32), max_size=9))
def test_what_is_saved_comes_back(tmp_path_factory: pytest.TempPathFactory, transitions: dict) -> None:
    saved = model(transitions, {"a": 2.0})
    loaded = load_artifact(save_artifact(saved, tmp_path_factory.mktemp("models")))
    assert same(loaded, saved)
    assert loaded.neighbours.dtype == np.float32


def test_a_model_of_nothing(tmp_path: Path) -> None:
    assert same(load_artifact(save_artifact(model({}), tmp_path)), model({}))


def test_arrays_are_a_plain_npz(tmp_path: Path) -> None:
    with np.load(save_artifact(MODEL, tmp_path) / ARRAYS, allow_pickle=False) as arrays:
        assert sorted(arrays) == ["indices", "offsets", "popularity", "recipe_ids", "values"]


def test_metadata_is_in_the_manifest(tmp_path: Path) -> None:
    saved = ModelArtifact("v1", MODEL.recipe_ids, MODEL.neighbours, MODEL.popularity, {"metrics": {"ndcg": 0.1}})
    folder = save_artifact(saved, tmp_path)
    manifest = orjson.loads((folder / MANIFEST).read_bytes())
    assert manifest["metadata"] == {"metrics": {"ndcg": 0.1}}
    assert (manifest["recipes"], manifest["neighbours"]) == (3, 2)
    assert load_artifact(folder).metadata == saved.metadata


def test_a_version_is_written_once_and_whole(tmp_path: Path) -> None:
    save_artifact(MODEL, tmp_path)
    with pytest.raises(ConfigurationError, match="m1 exists already"):
        save_artifact(MODEL, tmp_path)
    unwritable = ModelArtifact("m2", MODEL.recipe_ids, MODEL.neighbours, MODEL.popularity, {"no json": object()})
    with pytest.raises(TypeError):
        save_artifact(unwritable, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["m1"]


@pytest.mark.parametrize("version", ["", "../m1", ".m1", "a b", "x" * 65])
def test_a_version_is_a_plain_name(tmp_path: Path, version: str) -> None:
    with pytest.raises(ConfigurationError, match="no model version"):
        save_artifact(ModelArtifact(version, MODEL.recipe_ids, MODEL.neighbours, MODEL.popularity), tmp_path)
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


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b"null"])
def test_a_broken_pointer_names_the_command_that_mends_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / POINTER).write_bytes(content)
    with pytest.raises(ConfigurationError) as error:
        promoted_version(tmp_path)
    assert MEND in str(error.value)
