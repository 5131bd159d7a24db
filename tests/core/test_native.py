"""Compiled functions: they equal their Python source, are kept where there is room, refuse arrays of another kind."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from kurashiru_pipeline.core import native
from kurashiru_pipeline.core.kernels import lists, text
from kurashiru_pipeline.core.native import compiled
from kurashiru_pipeline.core.scoring import PARTS, SOURCES
from kurashiru_pipeline.core.vocabulary import Vocabulary, layout, numbered

WORDS = ["egg", "", "eggs", "卵", "leek", "a" * 300]


def test_the_places_of_the_sources_are_those_of_the_kernel() -> None:
    places = [
        "RULES",
        "LIVE",
        "TRAINED",
        "STANDING",
        "TASTE",
        "INGREDIENTS",
        "AUTHORS",
        "FRESH",
        "REPEATS",
        "DAYTIME",
        "SEEN",
        "LEFTOVERS",
        "EXTERNAL",
    ]
    assert [getattr(lists, name) for name in places] == list(range(lists.SOURCE_COUNT))
    assert [name.lower().removesuffix("_popularity") for name in SOURCES] == [name.lower() for name in places]
    assert len(PARTS) == lists.PART_COUNT


def test_words_are_found() -> None:
    texts = pa.array([*reversed(WORDS), None, "egg ", "lee", None])
    expected = [WORDS.index(text) if text in WORDS else -1 for text in texts.to_pylist()]
    words = Vocabulary(pa.array(WORDS))
    assert words.find(texts).tolist() == expected
    assert words.find(texts.slice(2, 5)).tolist() == expected[2:7]
    assert words.find(pa.chunked_array([texts, texts])).tolist() == expected * 2
    assert Vocabulary(pa.array([], pa.string())).find(texts).tolist() == [-1] * len(texts)


@pytest.mark.parametrize("count", [0, 1, 5, 5000])
def test_texts_are_numbered_in_order(count: int) -> None:
    texts = [f"{number * 7919 % max(count // 2, 1):x}" for number in range(count)]
    words, number = numbered(pa.array(texts, pa.string()))
    assert words.to_pylist() == sorted(set(texts))
    assert [words[int(at)].as_py() for at in number] == texts


def test_compiled_equals_python() -> None:
    random = np.random.default_rng(3)
    prior, main = random.normal(0, 1, 60).round(1), random.integers(-1, 4, (60, 3))
    tag_offsets, tags = np.arange(61) * 2, random.integers(0, 5, 120)
    given = (prior, random.random(60) < 0.9, random.random(60) < 0.3, tag_offsets, tags, main)
    results = []
    for function in (compiled(lists.best_recipes), lists.best_recipes):
        made = np.full(10, -1), np.full(4, -1), np.full((6, 5), -1), np.full((5, 5), -1)
        function(*given, *made)
        results.append([part.tolist() for part in made])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    "found",
    [np.zeros(2, np.int32), np.zeros((1, 2), np.int64), np.zeros(4, np.int64)[::2]],
    ids=["type", "shape", "gaps"],
)
def test_arrays_of_another_kind_are_refused(found: np.ndarray) -> None:
    table = (*layout(pa.array(["a"])), np.full(16, -1, np.int32))
    with pytest.raises(TypeError, match="found must be a contiguous 1-d array of int64"):
        compiled(text.find_words)(*table, *layout(pa.array(["a", "b"])), found)


def test_everything_is_made_ahead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(native, "_compile", lambda _: b"code")
    modules = {path.stem for path in Path(lists.__file__).parent.glob("*.py")} - {"__init__"}
    assert native.prepare() == dict.fromkeys(modules, True)
    assert native.prepare() == dict.fromkeys(modules, False)


def test_object_code_is_kept_and_an_older_one_goes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made: list[str] = []

    def compile_(module: ModuleType) -> bytes:
        made.append(module.__name__)
        return b"code"

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setattr(native, "_compile", compile_)
    monkeypatch.setattr(native.inspect, "getsource", lambda _: "one")
    assert [native._object_code(text) for _ in range(2)] == [(b"code", True), (b"code", False)]
    monkeypatch.setattr(native.inspect, "getsource", lambda _: "two")
    assert native._object_code(text) == (b"code", True)
    assert (len(made), len(list((tmp_path / "kept").iterdir()))) == (2, 1)


def test_without_room_it_is_compiled_each_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    monkeypatch.setattr(native, "_compile", lambda _: b"code")
    assert [native._object_code(text) for _ in range(2)] == [(b"code", True)] * 2


def test_a_process_that_finds_its_code_needs_no_numba() -> None:
    compiled(text.find_words)
    program = (
        "import sys, pyarrow as pa\n"
        "from kurashiru_pipeline.core import profiles, ranking\n"
        "print('llvmlite' in sys.modules)\n"
        "from kurashiru_pipeline.core.vocabulary import Vocabulary\n"
        "print(Vocabulary(pa.array(['a', 'b'])).find(pa.array(['b', 'c'])).tolist(), 'numba' in sys.modules)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert ran.stdout.splitlines() == ["False", "[1, -1] False"]
