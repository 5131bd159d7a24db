"""The model artifact: what training hands to the near-real-time path, on disk and in memory.

Here: its arrays, how a version is saved, read and checked, and the pointer to the version in service and its canary.
Not here: how the arrays are learned (training.py) or used (ranking.py), and whether a version deserves promotion.
"""

import hashlib
import io
import os
import re
import shutil
import tempfile
import zipfile
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.lib import format as npy
from numpy.typing import NDArray
from scipy import sparse

from kurashiru_pipeline.core.canary import Canary
from kurashiru_pipeline.core.columns import Floats
from kurashiru_pipeline.errors import ConfigurationError

ARRAYS, MANIFEST, POINTER, TWIN = "artifact.npz", "manifest.json", "promoted.json", "twin"
MEND = "dagster asset materialize -m kurashiru_pipeline.analytics.definitions --select 'group:model'"

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, eq=False)
class ModelArtifact:
    """One trained version over R recipes.

    `neighbours` is a canonical (R, R) CSR float32 matrix, row i holding the recipes that follow recipe i and how
    strongly; `popularity` (decayed) and `interactions` (of all time) are (R,), any unit. `learned` holds weights by
    their dotted names in weights.yaml, whose place they take; `model` is the text of a LightGBM re-ranker over
    scoring.FEATURES; both may be empty. `metadata` must be JSON.
    """

    version: str
    recipe_ids: NDArray[np.str_]
    neighbours: Any
    popularity: Floats
    interactions: Floats
    learned: dict[str, float] = field(default_factory=dict)
    model: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class InService:
    """What the near-real-time path ranks with.

    Attributes:
        version: the champion; None before the first promotion.
        canary: the challenger beside it, if there is one.
    """

    version: str | None = None
    canary: Canary | None = None

    @property
    def mark(self) -> str:
        """What goes into the content hash of the lists: see Canary.mark; nothing without a canary."""
        return self.canary.mark if self.canary else ""


def save_artifact(artifact: ModelArtifact, models: Path, twin: ModelArtifact | None = None) -> Path:
    """Write `models/<version>/`, whole or not at all, and return it.

    Args:
        twin: the same training without the hold-out days, by which later versions compare themselves with this one.

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
        _write(artifact, draft, has_twin=twin is not None)
        if twin is not None:
            (draft / TWIN).mkdir()
            _write(twin, draft / TWIN)
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
            interactions=arrays["interactions"],
            learned=manifest["learned"],
            model=arrays["model"].tobytes().decode(),
            metadata=manifest["metadata"],
        )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise _broken(folder, error) from error


def promote(models: Path, version: str) -> None:
    """Put a version in service, and nothing beside it: a canary next to the version before ends by it."""
    put_in_service(models, InService(version))


def put_in_service(models: Path, service: InService) -> None:
    """Point `promoted.json` at what is to serve, in one step.

    Raises:
        ConfigurationError: a version is not there or its arrays differ from its manifest; the pointer stays.
    """
    if service.version is None:
        message = "no model is in service that a challenger could stand beside: kurashiru model promote VERSION"
        raise ConfigurationError(message)
    _check(_folder(models, service.version))
    document: dict[str, Any] = {"version": service.version}
    if service.canary is not None:
        _check(_folder(models, service.canary.version))
        document["canary"] = asdict(service.canary)
    draft = models / f".{POINTER}.{os.getpid()}"
    draft.write_bytes(orjson.dumps(document))
    draft.replace(models / POINTER)


def in_service(models: Path) -> InService:
    """What is in service, from one reading of the pointer.

    Raises:
        ConfigurationError: the pointer cannot be read.
    """
    pointer = models / POINTER
    try:
        document = orjson.loads(pointer.read_bytes())
        canary = document.get("canary")
        if canary is not None:
            canary = Canary(canary["version"], canary["share"], datetime.fromisoformat(canary["started_at"]))
        return InService(str(document["version"]), canary)
    except FileNotFoundError:
        return InService()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(pointer, error) from error


def promoted_version(models: Path) -> str | None:
    """The version in service, None before the first promotion.

    Raises:
        ConfigurationError: the pointer cannot be read.
    """
    return in_service(models).version


def load_promoted(models: Path) -> ModelArtifact | None:
    """The artifact in service, None before the first promotion.

    Raises:
        ConfigurationError: the pointer or the artifact it names is missing or damaged.
    """
    version = promoted_version(models)
    return None if version is None else load_artifact(_folder(models, version))


def load_twin(folder: Path) -> ModelArtifact | None:
    """The twin saved with a version, None if it has none.

    Raises:
        ConfigurationError: it is damaged.
    """
    return load_artifact(folder / TWIN) if (folder / TWIN).exists() else None


def _check(folder: Path) -> None:
    try:
        manifest = orjson.loads((folder / MANIFEST).read_bytes())
        if manifest["sha256"] != _digest(folder / ARRAYS):
            raise ValueError(f"{ARRAYS} differs from the check sum in {MANIFEST}")
    except (OSError, ValueError, KeyError) as error:
        raise _broken(folder, error) from error


def _write(artifact: ModelArtifact, folder: Path, *, has_twin: bool = False) -> None:
    neighbours = artifact.neighbours
    np.savez(
        folder / ARRAYS,
        recipe_ids=np.char.encode(artifact.recipe_ids, "utf-8"),
        popularity=np.asarray(artifact.popularity, dtype=np.float64),
        interactions=np.asarray(artifact.interactions, dtype=np.float64),
        offsets=neighbours.indptr,
        indices=neighbours.indices,
        values=np.asarray(neighbours.data, dtype=np.float32),
        model=np.frombuffer(artifact.model.encode(), dtype=np.uint8),
    )
    manifest = {
        "version": artifact.version,
        "sha256": _digest(folder / ARRAYS),
        "recipes": len(artifact.recipe_ids),
        "neighbours": int(neighbours.nnz),
        "learned": artifact.learned,
        "has_twin": has_twin,
        "metadata": artifact.metadata,
    }
    (folder / MANIFEST).write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))


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
