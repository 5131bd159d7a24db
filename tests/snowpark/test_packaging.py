"""The zip file with our code: the same bytes for the same code, and complete without the rest of the project."""

import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import kurashiru_pipeline
from kurashiru_pipeline.snowpark.packaging import MODULE, PACKAGES, kernel_zip
from tests.snowpark.scene import make_scene

ALONE = """
import json, sys
place, folder, recipes, popularity = sys.argv[1:]
sys.path.insert(0, place)
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__name__", "").lower()]
sys._xoptions["snowflake_import_directory"] = folder
import kurashiru_kernel
import pandas
ours = [module for name, module in sys.modules.items() if name.startswith("kurashiru")]
assert len(ours) > 10 and all(place in module.__file__ for module in ours), ours
rows = [("u", [{"event_id": "e", "event_name": "recipe_view", "recipe_id": "recipe-00",
                "occurred_at": "2026-11-23T09:00:00"}], ["savings"], recipes, "2026-11-23T09:30:00")]
profile = kurashiru_kernel.build_profile(pandas.DataFrame(rows))[0]
answer = kurashiru_kernel.rank_recipes(pandas.DataFrame([(profile, recipes, popularity, rows[0][4], 3)]))[0]
heavy = {"dagster", "dbt", "duckdb"} & set(sys.modules)
print(json.dumps({"answer": answer, "train": kurashiru_kernel.train.__module__, "heavy": sorted(heavy)}))
"""


def test_equal_code_is_an_equal_zip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = kernel_zip()
    shutil.copytree(Path(kurashiru_pipeline.__file__).parent, tmp_path / "kurashiru_pipeline")
    for path in (tmp_path / "kurashiru_pipeline").rglob("*.py"):
        os.utime(path, (1, 1))
        path.chmod(0o600)
    monkeypatch.setattr(kurashiru_pipeline, "__file__", str(tmp_path / "kurashiru_pipeline" / "__init__.py"))
    assert kernel_zip() == made
    weights = tmp_path / "kurashiru_pipeline" / "core" / "weights.yaml"
    weights.write_text(weights.read_text() + "# changed\n")
    assert kernel_zip() != made


def test_the_zip_holds_what_the_handlers_need_and_no_more(tmp_path: Path) -> None:
    names = zipfile.ZipFile(_written(kernel_zip(), tmp_path)).namelist()
    assert {f"{MODULE}.py", "kurashiru_pipeline/core/weights.yaml"} < set(names)
    assert {Path(name).parent.as_posix() for name in names} == {
        ".",
        "kurashiru_pipeline",
        "kurashiru_pipeline/core",
        "kurashiru_pipeline/core/kernels",
        "kurashiru_pipeline/snowpark",
    }


def test_the_zip_is_enough(tmp_path: Path) -> None:
    scene = make_scene(tmp_path)
    place = _written(kernel_zip(), tmp_path)
    arguments = [place, scene.artifact_folder, scene.recipes_url, scene.popularity_url]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *map(str, arguments)], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0, done.stderr
    assert '"algorithm": "m1"' in done.stdout
    assert '"train": "kurashiru_pipeline.snowpark.training"' in done.stdout
    assert '"heavy": []' in done.stdout


def test_the_packages_are_those_tested_here() -> None:
    for package in map(Requirement, PACKAGES):
        assert package.specifier.contains(version(package.name)), package


def _written(content: bytes, folder: Path) -> Path:
    path = folder / f"{MODULE}.zip"
    path.write_bytes(content)
    return path
