"""Where profiles and lists are computed: in this process, or in the warehouse.

Here: what each way reads, and the script that writes its result in the step's transaction.
Not here: the mathematics (core/, the same for both ways), the functions in the warehouse (snowpark/), the steps.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from kurashiru_pipeline.core.artifact import ModelArtifact, load_promoted, promoted_version
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.events import MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.core.items import DEFAULT_USER, content_hash
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.ranking import default_list, rank
from kurashiru_pipeline.core.weights import Weights
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.realtime.ledger import MicroBatch
from kurashiru_pipeline.warehouse.base import Parameter, Transaction, Warehouse


@dataclass(frozen=True)
class Computed:
    """A result, ready to be written.

    Attributes:
        script: writes it, in the step's transaction.
        inputs: Arrow tables the script reads.
        figures: what is shown of it, and checked.
        failed: (user, error) of users the kernel could not answer for; what they had stays.
    """

    script: str
    inputs: Mapping[str, pa.Table] = field(default_factory=dict)
    figures: Mapping[str, int] = field(default_factory=dict)
    failed: tuple[tuple[str, str], ...] = ()


class Kernel(ABC):
    """The kernel of an environment: profiles of the touched users, then their lists."""

    @abstractmethod
    def profiles(self, batch: MicroBatch) -> Computed:
        """Profiles of the users the micro-batch touched."""

    @abstractmethod
    def lists(self, batch: MicroBatch) -> Computed:
        """Lists of these users, and of users without one of their own; read popularity as it is now."""

    @abstractmethod
    def version(self) -> str | None:
        """Version of the model in service; None before the first promotion."""


class ProcessKernel(Kernel):
    """Arrow out of the warehouse, the kernel here, Arrow back."""

    def __init__(self, warehouse: Warehouse, settings: Settings, weights: Weights) -> None:
        self._warehouse = warehouse
        self._settings = settings
        self._weights = weights
        self._artifact: ModelArtifact | None = None

    def profiles(self, batch: MicroBatch) -> Computed:
        behaviors = self._warehouse.fetch(
            "batch_behaviors", batch_id=batch.batch_id, meaningful_event_names=MEANINGFUL_EVENT_NAMES
        )
        profiles = build_profiles(behaviors, self._catalogue(), self._weights, batch.watermark_at)
        return Computed("replace_profiles", {"incoming_profiles": profiles})

    def lists(self, batch: MicroBatch) -> Computed:
        catalogue = self._catalogue()
        popularity = self._warehouse.fetch("popularity")
        artifact = self._promoted_artifact()
        length = self._settings.integer("KURASHIRU_LIST_LENGTH", minimum=1)
        profiles = self._warehouse.fetch("batch_profiles", batch_id=batch.batch_id)
        at = batch.watermark_at
        lists = rank(profiles, catalogue, popularity, artifact, self._weights, at, list_length=length)
        default = default_list(catalogue, popularity, artifact, self._weights, at, list_length=length)
        lists = pa.concat_tables([lists, default])
        listed, reasons = _lists_of(lists, "recipe_ids"), _lists_of(lists, "reasons")
        hashes = list(map(content_hash, listed, reasons))
        lists = lists.append_column("content_hash", pa.array(hashes, pa.string()))
        figures = {
            "users": len(listed) - 1,
            "recipes_listed": sum(map(len, listed)),
            "empty_lists": sum(not recipe_ids for recipe_ids in listed),
            "repeated_recipes": sum(len(recipe_ids) - len(set(recipe_ids)) for recipe_ids in listed),
        }
        return Computed("replace_recommendations", {"incoming_recommendations": lists}, figures)

    def version(self) -> str | None:
        return promoted_version(self._settings.folder("KURASHIRU_MODELS"))

    def _catalogue(self) -> Catalogue:
        return Catalogue.from_arrow(self._warehouse.fetch("recipes"))

    def _promoted_artifact(self) -> ModelArtifact | None:
        version = self.version()
        if version is None:
            self._artifact = None
        elif self._artifact is None or self._artifact.version != version:
            self._artifact = load_promoted(self._settings.folder("KURASHIRU_MODELS"))
        return self._artifact


class WarehouseKernel(Kernel):
    """The same kernel as vectorised functions of the warehouse: no row of a user leaves it."""

    def __init__(self, warehouse: Warehouse, settings: Settings) -> None:
        self._warehouse = warehouse
        self._settings = settings

    def profiles(self, batch: MicroBatch) -> Computed:
        failed = self._compute(
            batch,
            "snowflake/unload_recipes",
            "snowflake/compute_profiles",
            meaningful_event_names=MEANINGFUL_EVENT_NAMES,
        )
        return Computed("snowflake/replace_profiles", failed=failed)

    def lists(self, batch: MicroBatch) -> Computed:
        length = self._settings.integer("KURASHIRU_LIST_LENGTH", minimum=1)
        failed = self._compute(
            batch,
            "snowflake/unload_recipes",
            "snowflake/unload_popularity",
            "snowflake/compute_lists",
            default_user=DEFAULT_USER,
            list_length=length,
        )
        [figures] = self._warehouse.fetch("snowflake/list_figures").to_pylist()
        return Computed("snowflake/replace_recommendations", figures=figures, failed=failed)

    def version(self) -> str | None:
        promoted = self._warehouse.fetch("snowflake/promoted_version").to_pylist()
        return promoted[0]["version"] if promoted else None

    def _compute(self, batch: MicroBatch, *scripts: str, **parameters: Parameter) -> tuple[tuple[str, str], ...]:
        """Unload what the functions read, then compute into a work table, before the transaction that writes the
        result: it holds no lock meanwhile.
        """

        def body(transaction: Transaction) -> None:
            as_of = batch.watermark_at.isoformat()
            for script in scripts:
                transaction.run(script, batch_id=batch.batch_id, as_of=as_of, **parameters)

        self._warehouse.transact(body, work_tables="snowflake/kernel_work_tables")
        errors = self._warehouse.fetch("snowflake/kernel_errors").to_pylist()
        return tuple((row["user_id"], row["error"]) for row in errors)


def open_kernel(warehouse: Warehouse, settings: Settings, weights: Weights) -> Kernel:
    """The kernel that the settings ask for.

    Raises:
        ConfigurationError: the engine has no functions written in Python.
    """
    if settings.text("KURASHIRU_KERNEL") == "process":
        return ProcessKernel(warehouse, settings, weights)
    if warehouse.engine != "snowflake":
        message = (
            f"KURASHIRU_KERNEL=warehouse needs KURASHIRU_ENGINE=snowflake, not {warehouse.engine}; "
            "for the kernel in this process: export KURASHIRU_KERNEL=process"
        )
        raise ConfigurationError(message)
    return WarehouseKernel(warehouse, settings)


def _lists_of(table: pa.Table, column: str) -> list[list[str]]:
    values: list[Any] = table[column].to_pylist()
    return values
