"""The handlers as functions of the stand-in: rows of decoded JSON in, JSON values out, through real pandas frames.

Here: what Snowflake does around a vectorised handler (frames, import directory, values that pass through JSON).
Not here: expectations.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pandas as pd

from kurashiru_pipeline.snowpark import handlers

IMPORT_DIRECTORY = "snowflake_import_directory"

Call = Callable[[list[tuple]], list[Any]]


def stand_in_functions(artifact: Path | None) -> dict[str, tuple[Call, int]]:
    """(call, arity) of each warehouse function, by the name that `StandIn.register_function` takes.

    Args:
        artifact: folder of the artifact the functions are registered with (`models/<version>`); None: without one.
    """
    return {
        "RECOMMENDATION.BUILD_PROFILE": (partial(_call, handlers.build_profile, artifact), 5),
        "RECOMMENDATION.RANK_RECIPES": (partial(_call, handlers.rank_recipes, artifact), 5),
    }


def challenger_function(artifact: Path) -> tuple[Call, int]:
    """RECOMMENDATION.RANK_CHALLENGER, likewise."""
    return partial(_call, handlers.rank_recipes, artifact), 5


def _call(handler: Callable[[pd.DataFrame], pd.Series], artifact: Path | None, rows: list[tuple]) -> list[Any]:
    if not rows:
        return []
    # A scoped URL names its statement, so no file is met again under the name of one read before.
    handlers._catalogue.cache_clear()
    handlers._popularity.cache_clear()
    with imported(artifact):
        answers = handler(pd.DataFrame(rows))
    return orjson.loads(orjson.dumps(answers.tolist()))


@contextmanager
def imported(folder: Path | None) -> Iterator[None]:
    """A process of Snowflake's in which the files of `folder` were imported."""
    with TemporaryDirectory() as nothing:
        before = sys._xoptions.get(IMPORT_DIRECTORY)
        sys._xoptions[IMPORT_DIRECTORY] = str(folder or nothing)
        try:
            yield
        finally:
            if before is None:
                del sys._xoptions[IMPORT_DIRECTORY]
            else:
                sys._xoptions[IMPORT_DIRECTORY] = before
