"""The model artifact: what training hands to the near-real-time path, on disk and in memory.

Here: its arrays, how a version is saved, read and checked, and the pointer to the version in service.
Not here: how the arrays are learned (training.py) or used (ranking.py), and whether a version deserves promotion.
"""

import hashlib
import io
import os
import re
import shutil
import tempfile
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.lib import format as npy
from numpy.typing import NDArray
from scipy import sparse

from kurashiru_pipeline.core.columns import Floats
from kurashiru_pipeline.errors import ConfigurationError

ARRAYS, MANIFEST, POINTER = "artifact.npz", "manifest.json", "promoted.json"
MEND = "dagster asset materialize -m kurashiru_pipeline.analytics.definitions --select 'group:model'"

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class ModelArtifact:
    """One trained version over R recipes.

    `neighbours` is a canonical (R, R) CSR float32 matrix, row i holding the recipes that follow recipe i and how
    strongly; `popularity` is (R,), any unit; `metadata` must be JSON.
    """

    version: str
    recipe_ids: NDArray[np.str_]
    neighbours: Any
    popularity: Floats
    metadata: dict[str, Any] = field(default_factory=dict)


def save_artifact(artifact: ModelArtifact, models: Path) -> Path:
    """Write `models/<version>/`, whole or not at all, and return it.

    Raises:
        ConfigurationError: the version is no folder name, or is there already.
    """
    folder = _folder(models, artifact.version)
    if folder.exists():
        message = f"model version {artifact.version} exists already in {models}; a version is written once"
        raise ConfigurationError(message)
    models.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=models))
    try:
        neighbours = artifact.neighbours
        np.savez(
            draft / ARRAYS,
            recipe_ids=np.char.encode(artifact.recipe_ids, "utf-8"),
            popularity=np.asarray(artifact.popularity, dtype=np.float64),
            offsets=neighbours.indptr,
            indices=neighbours.indices,
            values=np.asarray(neighbours.data, dtype=np.float32),
        )
        manifest = {
            "version": artifact.version,
            "sha256": _digest(draft / ARRAYS),
            "recipes": len(artifact.recipe_ids),
            "neighbours": int(neighbours.nnz),
            "metadata": artifact.metadata,
        }
        (draft / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        draft.chmod(0o755)
        draft.rename(folder)
    except BaseException:
        shutil.rmtree(draft)
        raise
    return folder


def load_artifact(folder: Path) -> ModelArtifact:
    """Read a saved version; damage to its arrays is found by their check sums.

    Raises:
        ConfigurationError: a file is missing or damaged; the message names the command that mends it.
    """
    try:
        manifest = orjson.loads((folder / MANIFEST).read_bytes())
        arrays = _read_arrays(folder / ARRAYS)
        recipes = len(arrays["recipe_ids"])
        neighbours = sparse.csr_array(
            (arrays["values"], arrays["indices"], arrays["offsets"]), shape=(recipes, recipes)
        )
        neighbours.has_canonical_format = True
        return ModelArtifact(
            version=manifest["version"],
            recipe_ids=np.char.decode(arrays["recipe_ids"], "utf-8"),
            neighbours=neighbours,
            popularity=arrays["popularity"],
            metadata=manifest["metadata"],
        )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _broken(folder, error) from error


def promote(models: Path, version: str) -> None:
    """Point `promoted.json` at a version, in one step.

    Raises:
        ConfigurationError: the version is not there or its arrays differ from its manifest; the pointer stays.
    """
    folder = _folder(models, version)
    try:
        manifest = orjson.loads((folder / MANIFEST).read_bytes())
        if manifest["sha256"] != _digest(folder / ARRAYS):
            raise ValueError(f"{ARRAYS} differs from the check sum in {MANIFEST}")
    except (OSError, ValueError, KeyError) as error:
        raise _broken(folder, error) from error
    draft = models / f".{POINTER}.{os.getpid()}"
    draft.write_bytes(orjson.dumps({"version": version}))
    draft.replace(models / POINTER)


def promoted_version(models: Path) -> str | None:
    """The version in service, None before the first promotion.

    Raises:
        ConfigurationError: the pointer cannot be read.
    """
    pointer = models / POINTER
    try:
        version = orjson.loads(pointer.read_bytes())["version"]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _broken(pointer, error) from error
    return str(version)


def load_promoted(models: Path) -> ModelArtifact | None:
    """The artifact in service, None before the first promotion.

    Raises:
        ConfigurationError: the pointer or the artifact it names is missing or damaged.
    """
    version = promoted_version(models)
    return None if version is None else load_artifact(_folder(models, version))


def _folder(models: Path, version: str) -> Path:
    if not _VERSION.fullmatch(version):
        message = f"{version!r} is no model version; use 1 to 64 of A-Z a-z 0-9 _ . -, not starting with one of _ . -"
        raise ConfigurationError(message)
    return models / version


def _broken(path: Path, error: Exception) -> ConfigurationError:
    return ConfigurationError(f"the model artifact {path} cannot be used: {error}; make it anew with: {MEND}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_arrays(path: Path) -> dict[str, Any]:
    """The arrays of an npz: what np.load returns, some times faster, since each is read in one piece."""
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            reader = io.BytesIO(content)
            npy.read_magic(reader)
            shape, _, dtype = npy.read_array_header_1_0(reader)
            arrays[name.removesuffix(".npy")] = np.frombuffer(content, dtype, offset=reader.tell()).reshape(shape)
    return arrays
