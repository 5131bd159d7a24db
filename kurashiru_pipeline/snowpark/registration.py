"""Making the kernel's functions and the training procedure in Snowflake.

Here: what is uploaded where, signatures, and which artifact the functions carry.
Not here: the handlers (handlers.py, training.py), or when this is done (analytics/snowflake.py, at promotion).

The functions have no state, so replacing them is how a version comes into service: a statement that runs goes on with
the old one. Code and artifacts lie in folders named by their version, which are never written again.
"""

import io
from hashlib import sha256

from snowflake.snowpark import Session
from snowflake.snowpark.types import (
    ArrayType,
    LongType,
    MapType,
    PandasDataFrameType,
    PandasSeriesType,
    StringType,
    VariantType,
)

from kurashiru_pipeline.core.artifact import ARRAYS, MANIFEST
from kurashiru_pipeline.snowpark.packaging import MODULE, PACKAGES, kernel_zip
from kurashiru_pipeline.snowpark.training import ARTIFACTS

CODE = "@model.code"
TRAINING_PROCEDURE = "model.train"

_TEXT = StringType()
_SIGNATURES = {
    "build_profile": {
        "user_id": _TEXT,
        "behaviors": ArrayType(),
        "preferred_tags": ArrayType(),
        "recipes_url": _TEXT,
        "as_of": _TEXT,
    },
    "rank_recipes": {
        "profile": MapType(),
        "recipes_url": _TEXT,
        "popularity_url": _TEXT,
        "as_of": _TEXT,
        "list_length": LongType(),
    },
}


def register_functions(session: Session, version: str | None, *, is_permanent: bool = True) -> None:
    """Make recommendation.build_profile and recommendation.rank_recipes, or replace them.

    Args:
        version: folder below @model.artifacts with what rank_recipes ranks by; None: no model, popular lists.
        is_permanent: False only where permanent ones cannot be made (Snowpark's local testing).
    """
    code = _upload_code(session)
    for name in _SIGNATURES:
        _register(session, code, name, name, version, is_permanent=is_permanent)


def register_challenger(session: Session, version: str, *, is_permanent: bool = True) -> None:
    """Make recommendation.rank_challenger, or replace it: rank_recipes by the version that a canary tries."""
    code = _upload_code(session)
    _register(session, code, "rank_challenger", "rank_recipes", version, is_permanent=is_permanent)


def _register(session: Session, code: str, name: str, handler: str, version: str | None, *, is_permanent: bool) -> None:
    arguments = _SIGNATURES[handler]
    artifact: list[str | tuple[str, str]] = []
    if version is not None and "profile" in arguments:
        artifact += [f"{ARTIFACTS}/{version}/{part}" for part in (ARRAYS, MANIFEST)]
    session.udf.register_from_file(
        file_path=code,
        func_name=handler,
        return_type=PandasSeriesType(VariantType()),
        input_types=[PandasDataFrameType(list(arguments.values()))],
        name=f"recommendation.{name}",
        is_permanent=is_permanent,
        stage_location=CODE,
        imports=artifact,
        packages=list(PACKAGES),
        replace=True,
        copy_grants=True,
        comment=f"model {version or 'none'}, code {code}",
    )


def register_training(session: Session, *, is_permanent: bool = True) -> None:
    """Make the procedure model.train(version varchar, champion varchar), or replace it; see training.train."""
    session.sproc.register_from_file(
        file_path=_upload_code(session),
        func_name="train",
        return_type=_TEXT,
        input_types=[_TEXT, _TEXT],
        name=TRAINING_PROCEDURE,
        is_permanent=is_permanent,
        stage_location=CODE,
        imports=[],
        packages=list(PACKAGES),
        replace=True,
        copy_grants=True,
    )


def _upload_code(session: Session) -> str:
    """Put our code on its stage, unless it is there; its path."""
    content = kernel_zip()
    path = f"{CODE}/{sha256(content).hexdigest()[:16]}/{MODULE}.zip"
    session.file.put_stream(io.BytesIO(content), path, auto_compress=False)
    return path
