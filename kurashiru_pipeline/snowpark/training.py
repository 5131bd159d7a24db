"""Training inside Snowflake: the handler of the stored procedure model.train.

Here: reading the marts through Snowpark, and saving the artifact on its stage.
Not here: what is learned and how it is judged (core/candidate.py), or who calls the procedure (analytics/snowflake.py).
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson
import pandas as pd
import pyarrow as pa
from snowflake.snowpark import Session

from kurashiru_pipeline.core.artifact import ARRAYS, MANIFEST, TWIN, load_artifact, load_twin, save_artifact
from kurashiru_pipeline.core.candidate import TRAINING_TABLES, train_candidate
from kurashiru_pipeline.core.gate import Contender
from kurashiru_pipeline.core.weights import load_weights

ARTIFACTS = "@model.artifacts"
"""Stage of the artifacts: a folder a version, with the files of core/artifact.py."""


def train(session: Session, version: str, champion: str) -> str:
    """Learn from the marts, judge against a saved version, and save the artifact as @model.artifacts/<version>/.

    Args:
        champion: the version to judge against; empty: the kernel without a model.

    Returns:
        The artifact's manifest as JSON; "null" if there is nothing to learn from yet.
    """
    tables = {name: read_table(session, name, schema) for name, schema in TRAINING_TABLES.items()}
    with TemporaryDirectory() as models:
        contender = _contender(session, champion, Path(models)) if champion else Contender()
        candidate = train_candidate(tables, load_weights(), version, contender)
        if candidate is None:
            return "null"
        folder = save_artifact(candidate.artifact, Path(models), candidate.twin)
        twin = (f"{TWIN}/{ARRAYS}", f"{TWIN}/{MANIFEST}") if candidate.twin else ()
        for name in (*twin, ARRAYS, MANIFEST):  # a version is there once its manifest is
            with (folder / name).open("rb") as file:
                session.file.put_stream(file, f"{ARTIFACTS}/{version}/{name}", auto_compress=False)
        return (folder / MANIFEST).read_text()


def _contender(session: Session, version: str, models: Path) -> Contender:
    """A version and its twin from the stage, by way of files below `models`."""
    folder = models / version

    def fetch(part: Path) -> None:
        part.mkdir()
        for name in (ARRAYS, MANIFEST):
            place = f"{ARTIFACTS}/{(part / name).relative_to(models).as_posix()}"
            with session.file.get_stream(place) as file:
                (part / name).write_bytes(file.read())

    fetch(folder)
    if orjson.loads((folder / MANIFEST).read_bytes()).get("has_twin"):
        fetch(folder / TWIN)
    return Contender(load_artifact(folder), load_twin(folder))


def read_table(session: Session, name: str, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` of a table, in its types."""
    frame = session.table(name).select(*schema.names).to_pandas()
    return pa.table([_column(frame[field.name.upper()], field.type) for field in schema], schema=schema)


def _column(values: pd.Series, kind: Any) -> Any:
    if values.empty:  # of no type in particular
        return pa.array([], kind)
    if pa.types.is_list(kind):  # an ARRAY comes as JSON text, a missing one may come as NaN
        given = (None if isinstance(value, float) else value for value in values)
        return pa.array([orjson.loads(value) if isinstance(value, str) else value for value in given], kind)
    if pa.types.is_floating(kind):  # a NUMBER may come as Decimal
        values = values.astype("float64")
    return pa.array(values, kind, from_pandas=True)
