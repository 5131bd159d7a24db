"""Where profiles and lists are computed: in this process, or in the warehouse.

Here: what each way reads, and the script that writes its result in the step's transaction.
Not here: the mathematics (core/, the same for both ways), the functions in the warehouse (snowpark/), the steps.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from kurashiru_pipeline.core.artifact import InService, ModelArtifact, in_service, load_artifact
from kurashiru_pipeline.core.canary import Canary
from kurashiru_pipeline.core.catalogue import Catalogue
from kurashiru_pipeline.core.columns import strings, unrolled
from kurashiru_pipeline.core.events import MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.core.impersonal import impersonal_profiles, rank_by_surface
from kurashiru_pipeline.core.item_columns import content_hashes
from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.ranking import rank
from kurashiru_pipeline.core.vocabulary import numbered
from kurashiru_pipeline.core.weights import Weights
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.realtime.ledger import MicroBatch
from kurashiru_pipeline.realtime.segments import due_lists
from kurashiru_pipeline.sources.source import Consultation, open_source
from kurashiru_pipeline.warehouse.base import Parameter, Transaction, Warehouse


@dataclass(frozen=True)
class Computed:
    """A result, ready to be written.

    Attributes:
        script: writes it, in the step's transaction.
        inputs: Arrow tables the script reads.
        figures: what is shown of it, and checked.
        ranked_by: the models that made the lists.
        failed: (user, error) of users the kernel could not answer for; what they had stays.
        external: what an external source had to say, if there is one; its ledger row is among the inputs.
    """

    script: str
    inputs: Mapping[str, pa.Table] = field(default_factory=dict)
    figures: Mapping[str, int] = field(default_factory=dict)
    failed: tuple[tuple[str, str], ...] = ()
    ranked_by: InService = field(default_factory=InService)
    external: Consultation | None = None


class Kernel(ABC):
    """The kernel of an environment: profiles of the touched users, then their lists."""

    @abstractmethod
    def profiles(self, batch: MicroBatch) -> Computed:
        """Profiles of the users the micro-batch touched."""

    @abstractmethod
    def lists(self, batch: MicroBatch) -> Computed:
        """Lists of these users, and of users without one of their own; read popularity as it is now."""

    @abstractmethod
    def in_service(self) -> InService:
        """The model in service, and the challenger beside it."""


class ProcessKernel(Kernel):
    """Arrow out of the warehouse, the kernel here, Arrow back."""

    def __init__(self, warehouse: Warehouse, settings: Settings, weights: Weights) -> None:
        self._warehouse = warehouse
        self._settings = settings
        self._weights = weights
        self._loaded: dict[str, ModelArtifact] = {}
        self._recipes: tuple[object, Catalogue] | None = None
        self._source = open_source(warehouse, settings)

    def profiles(self, batch: MicroBatch) -> Computed:
        behaviors, preferences = (
            self._warehouse.fetch(script, batch_id=batch.batch_id, meaningful_event_names=MEANINGFUL_EVENT_NAMES)
            for script in ("batch_behaviors", "batch_preferences")
        )
        profiles = build_profiles(behaviors, self._catalogue(), self._weights, batch.watermark_at, preferences)
        return Computed("replace_profiles", {"incoming_profiles": profiles})

    def lists(self, batch: MicroBatch) -> Computed:
        catalogue = self._catalogue()
        popularity = self._warehouse.fetch("popularity")
        service = self.in_service()
        length = self._settings.integer("KURASHIRU_LIST_LENGTH", minimum=1)
        profiles = self._warehouse.fetch("batch_profiles", batch_id=batch.batch_id)
        at = batch.watermark_at
        external = None if self._source is None else self._source.consult(profiles, catalogue)
        suggestions = None if external is None else external.suggestions.table
        arms = self._arms(service, profiles)
        of_arms = [
            rank(
                its_profiles,
                catalogue,
                popularity,
                artifact,
                self._weights,
                at,
                list_length=length,
                suggestions=suggestions,
            )
            for artifact, its_profiles in arms
        ]
        champion, _ = arms[0]
        names = due_lists(self._warehouse, self._weights, at)
        of_nobody = rank_by_surface(
            impersonal_profiles(names, at),
            catalogue,
            popularity,
            self._warehouse.fetch("segment_popularity", segments=names),
            champion,
            self._weights,
            at,
            list_length=length,
        )
        lists = pa.concat_tables([*of_arms, of_nobody])
        lists = lists.append_column("content_hash", content_hashes(lists["recipe_ids"], lists["reasons"]))
        figures = {
            "users": len(profiles),
            "segment_lists": len(names) - 1,
            "challenger_users": sum(len(its_profiles) for _, its_profiles in arms[1:]),
            **_list_figures(lists["recipe_ids"]),
        }
        inputs = {"incoming_recommendations": lists}
        if external is not None:
            inputs["incoming_external_calls"] = external.ledger_row(batch.batch_id)
        return Computed("replace_recommendations", inputs, figures, ranked_by=service, external=external)

    def in_service(self) -> InService:
        return in_service(self._settings.folder("KURASHIRU_MODELS"))

    def _catalogue(self) -> Catalogue:
        """The recipes as they are now, read anew when they changed."""
        signature = self._warehouse.fetch("recipes_signature").to_pylist()
        if self._recipes is None or self._recipes[0] != signature:
            self._recipes = signature, Catalogue.from_arrow(self._warehouse.fetch("recipes"))
        return self._recipes[1]

    def _arms(self, service: InService, profiles: pa.Table) -> list[tuple[ModelArtifact | None, pa.Table]]:
        """Each model with the profiles it ranks for, the champion first."""
        if service.canary is None:
            return [(self._artifact(service.version), profiles)]
        is_challenger = pa.array(service.canary.is_challenger(strings(profiles["user_id"]).to_pylist()))
        return [
            (self._artifact(service.version), profiles.filter(pc.invert(is_challenger))),
            (self._challenger(service.canary.version), profiles.filter(is_challenger)),
        ]

    def _artifact(self, version: str | None) -> ModelArtifact | None:
        """A version, read once."""
        if version is None:
            return None
        if version not in self._loaded:
            self._loaded[version] = load_artifact(self._settings.folder("KURASHIRU_MODELS") / version)
        return self._loaded[version]

    def _challenger(self, version: str) -> ModelArtifact | None:
        try:
            return self._artifact(version)
        except ConfigurationError as error:
            message = f"the canary cannot go on: {error}; or end it with: kurashiru model canary --stop"
            raise ConfigurationError(message) from error


class WarehouseKernel(Kernel):
    """The same kernel as vectorised functions of the warehouse: no row of a user leaves it."""

    def __init__(self, warehouse: Warehouse, settings: Settings, weights: Weights) -> None:
        self._warehouse = warehouse
        self._settings = settings
        self._weights = weights

    def profiles(self, batch: MicroBatch) -> Computed:
        failed = self._compute(
            batch,
            "snowflake/unload_recipes",
            "snowflake/compute_profiles",
            meaningful_event_names=MEANINGFUL_EVENT_NAMES,
        )
        return Computed("snowflake/replace_profiles", failed=failed)

    def lists(self, batch: MicroBatch) -> Computed:
        service = self.in_service()
        arms = ["snowflake/compute_lists"] + (["snowflake/compute_challenger_lists"] if service.canary else [])
        names = due_lists(self._warehouse, self._weights, batch.watermark_at)
        parameters: dict[str, Parameter] = {
            "impersonal_profiles": _json(impersonal_profiles(names, batch.watermark_at)),
            "segments": names,
            "list_length": self._settings.integer("KURASHIRU_LIST_LENGTH", minimum=1),
            "challenger_version": service.canary.version if service.canary else "",
            "challenger_threshold": service.canary.threshold if service.canary else "",
        }
        failed = self._compute(batch, "snowflake/unload_recipes", "snowflake/unload_popularity", *arms, **parameters)
        [figures] = self._warehouse.fetch("snowflake/list_figures", **parameters).to_pylist()
        figures["segment_lists"] = len(names) - 1
        return Computed("snowflake/replace_recommendations", figures=figures, ranked_by=service, failed=failed)

    def in_service(self) -> InService:
        rows = self._warehouse.fetch("snowflake/model_in_service").to_pylist()
        if not rows:
            return InService(None)
        [row] = rows
        if row["challenger_version"] is None:
            return InService(row["version"])
        return InService(row["version"], Canary(row["challenger_version"], row["share"], row["started_at"]))

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
    if settings.text("KURASHIRU_EXTERNAL_SOURCE") != "none":
        message = (
            "an external source is asked by the kernel in the run, not by the one in the warehouse: "
            "export KURASHIRU_KERNEL=process, or export KURASHIRU_EXTERNAL_SOURCE=none"
        )
        raise ConfigurationError(message)
    return WarehouseKernel(warehouse, settings, weights)


def _json(profiles: pa.Table) -> str:
    rows = [{**row, "as_of": row["as_of"].isoformat()} for row in profiles.to_pylist()]
    return orjson.dumps(rows).decode()


def _list_figures(recipe_ids: Any) -> dict[str, int]:
    """What is checked of a column of lists."""
    offsets, values = unrolled(recipe_ids)
    _, recipe = numbered(strings(values))
    sizes = np.diff(offsets)
    entries = np.sort(np.repeat(np.arange(len(sizes)), sizes) * (recipe.max(initial=0) + 1) + recipe)
    return {
        "recipes_listed": len(recipe),
        "empty_lists": int((sizes == 0).sum()),
        "repeated_recipes": int((np.diff(entries) == 0).sum()),
    }
