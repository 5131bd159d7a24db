"""Functions and procedure as they are registered, run by Snowpark's local testing: the zip and the artifact come from
stages, and the handlers read the artifact from the import directory.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest
from snowflake.snowpark import Session
from snowflake.snowpark.functions import call_udf, col
from snowflake.snowpark.types import ArrayType, DataType, LongType, MapType, StringType, StructField, StructType

from kurashiru_pipeline.core.artifact import ARRAYS, MANIFEST, ModelArtifact, load_artifact, load_twin
from kurashiru_pipeline.core.candidate import TRAINING_TABLES, TRANSITIONS, train_candidate
from kurashiru_pipeline.core.gate import Contender
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.snowpark import handlers, registration
from kurashiru_pipeline.snowpark.training import read_table
from tests.snowpark.functions import stand_in_functions
from tests.snowpark.marts import save_tables, training_tables
from tests.snowpark.scene import Scene, make_scene

register_functions = partial(registration.register_functions, is_permanent=False)
register_training = partial(registration.register_training, is_permanent=False)


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session.builder.config("local_testing", True).create()
    yield session
    session.close()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("scene"))


@pytest.mark.parametrize("with_model", [True, False])
def test_registered_functions_answer_as_the_handlers(session: Session, scene: Scene, with_model: bool) -> None:
    version = scene.artifact.version if with_model else None
    for file in scene.artifact_folder.iterdir():
        session.file.put(str(file), f"@model.artifacts/{scene.artifact.version}", auto_compress=False)
    register_functions(session, version)
    rows = scene.build_rows()[:6]
    profiles = called(
        session, "build_profile", rows, [StringType(), ArrayType(), ArrayType(), StringType(), StringType()]
    )
    functions = stand_in_functions(scene.artifact_folder if with_model else None)
    assert profiles == functions["RECOMMENDATION.BUILD_PROFILE"][0](rows)

    rows = scene.rank_rows(profiles)
    types = [MapType(), StringType(), StringType(), StringType(), LongType()]
    lists = called(session, "rank_recipes", rows, types)
    assert lists == functions["RECOMMENDATION.RANK_RECIPES"][0](rows)
    assert lists[0]["algorithm"] == ("m1" if with_model else "popular")


def called(session: Session, function: str, rows: list[tuple[Any, ...]], types: list[DataType]) -> list[Any]:
    """What the registered function answers.

    Local testing calls a vectorised function once a row, with bare values instead of a frame: put back into one here.
    """
    schema = StructType([StructField(f"ARGUMENT_{place}", kind) for place, kind in enumerate(types)])
    arguments = session.create_dataframe(rows, schema=schema)
    handler = getattr(handlers, function)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(handlers, function, lambda *values: handler(pd.DataFrame([values])).iloc[0])
        answers = arguments.select(call_udf(f"recommendation.{function}", *map(col, schema.names))).collect()
    return [orjson.loads(answer) if isinstance(answer, str) else answer for (answer,) in answers]


def test_marts_are_read_as_they_are(session: Session) -> None:
    tables = training_tables()
    save_tables(session, tables)
    for name, schema in TRAINING_TABLES.items():
        made = read_table(session, name, schema)
        assert made.schema == schema
        assert made.to_pylist() == tables[name].to_pylist()


def test_numbers_may_be_decimals_and_arrays_json(session: Session) -> None:
    frame = pd.DataFrame({"NUMBER": [np.int64(3), None], "WORDS": ['["a", "b"]', None]}, dtype=object)

    class Table:
        def select(self, *names: str) -> "Table":
            return self

        def to_pandas(self) -> pd.DataFrame:
            return frame

    class Reader:
        def table(self, name: str) -> Table:
            return Table()

    schema = pa.schema([("number", pa.float64()), ("words", pa.list_(pa.string()))])
    made = read_table(Reader(), "t", schema)  # type: ignore[arg-type]
    assert made.to_pylist() == [{"number": 3.0, "words": ["a", "b"]}, {"number": None, "words": None}]


def test_the_procedure_saves_what_training_in_process_makes(session: Session, tmp_path: Path) -> None:
    tables = training_tables()
    save_tables(session, tables)
    register_training(session)
    champion = Contender()
    for version, against in (("v1", ""), ("v2", "v1")):
        manifest = orjson.loads(session.call(registration.TRAINING_PROCEDURE, version, against))
        expected = train_candidate(tables, load_weights(), version, champion)
        assert expected is not None
        assert manifest["version"] == version
        assert manifest["metadata"] == expected.artifact.metadata
        assert manifest["metadata"]["judgement"]["champion"] == (against or None)
        assert manifest["metadata"]["judgement"]["queries"] == 40
        for part in ("", "/twin"):
            for name in (ARRAYS, MANIFEST):
                session.file.get(f"@model.artifacts/{version}{part}/{name}", f"{tmp_path}/{version}{part}")
        champion = Contender(load_artifact(tmp_path / version), load_twin(tmp_path / version))
        same(champion.artifact, expected.artifact)
        same(champion.twin, expected.twin)


def test_the_procedure_has_nothing_to_learn_from(session: Session) -> None:
    tables = training_tables()
    save_tables(session, tables | {TRANSITIONS: tables[TRANSITIONS].slice(0, 0)})
    register_training(session)
    assert session.call(registration.TRAINING_PROCEDURE, "v1", "") == "null"


def same(made: ModelArtifact | None, expected: ModelArtifact | None) -> None:
    assert made is not None
    assert expected is not None
    assert made.version == expected.version
    assert made.recipe_ids.tolist() == expected.recipe_ids.tolist()
    assert made.popularity.tolist() == expected.popularity.tolist()
    assert (made.neighbours != expected.neighbours).nnz == 0
    assert made.metadata == expected.metadata
