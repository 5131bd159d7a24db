"""What Snowflake's Python is given: our code as one zip file, and the packages it needs.

Here: the zip (the same bytes for the same code) and the package list.
Not here: where the zip goes and who imports it (registration.py).
"""

import io
import zipfile
from pathlib import Path

import kurashiru_pipeline

MODULE = "kurashiru_kernel"
"""Module and file name of the zip: a handler of a staged file is named <file>.<function>."""

PACKAGES = (
    "lightgbm>=4,<5",
    "numba>=0.60,<1",
    "numpy>=2,<3",
    "orjson>=3.9,<4",
    "pandas>=2.2,<4",
    "pyarrow>=16",
    "pydantic>=2.7,<3",
    "pyyaml>=6,<7",
    "scipy>=1.13,<2",
    "snowflake-snowpark-python>=1.30,<2",
)
"""Snowflake resolves these from its own channel, once, when a function is made. Which versions that channel holds was
never checked against an account; registration fails with the name of a package it does not find."""

_ENTRY = """\
from kurashiru_pipeline.snowpark.handlers import build_profile, rank_recipes
from kurashiru_pipeline.snowpark.training import train

__all__ = ["build_profile", "rank_recipes", "train"]
"""
_PARTS = (
    "__init__.py",
    "errors.py",
    "core/*.py",
    "core/kernels/*.py",
    "core/weights.yaml",
    "snowpark/__init__.py",
    "snowpark/handlers.py",
    "snowpark/training.py",
)
_TIME = (1980, 1, 1, 0, 0, 0)


def kernel_zip() -> bytes:
    """The zip file; equal code gives equal bytes, so its digest is the version of the code."""
    package = Path(kurashiru_pipeline.__file__).parent
    sources = {path.relative_to(package.parent).as_posix(): path for part in _PARTS for path in package.glob(part)}
    contents = {name: path.read_bytes() for name, path in sources.items()} | {f"{MODULE}.py": _ENTRY.encode()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return file.getvalue()
