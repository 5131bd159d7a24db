"""The warehouse as analytics sees it, whichever engine runs.

Here: what dbt's assets and the model's assets ask of it, and the upkeep of model versions.
Not here: an engine (ducklake.py, snowflake.py), dbt's own connection (dbt_project/profiles.yml), or the near-real-time
path's port (kurashiru_pipeline/warehouse).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from logging import Logger
from typing import Any

import dagster as dg
import pyarrow as pa

from kurashiru_pipeline.core.artifact import InService, ModelArtifact
from kurashiru_pipeline.core.canary import Canary
from kurashiru_pipeline.core.gate import Record, version_before
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.warehouse.base import MaintenanceReport

POOL = "analytics_lake"
KEPT_VERSIONS = 24
CANARY_DAYS_TABLE = "marts.canary_days"
_COUNT, _SUM = pa.int64(), pa.float64()
_CANARY_DAY: dict[str, Any] = {
    "shown_on": pa.date32(),
    "arm": pa.string(),
    "users": _COUNT,
    "impressions": _COUNT,
    "clicks": _COUNT,
    "squared_impressions": _SUM,
    "impressions_by_clicks": _SUM,
    "squared_clicks": _SUM,
}
CANARY_DAYS = pa.schema(list(_CANARY_DAY.items()))
"""What an arm came to by the end of a day: the sums of core.canary.Arm."""


class AnalyticsWarehouse(dg.ConfigurableResource["AnalyticsWarehouse"], ABC):
    """Marts to learn from, and the model versions learned from them. Opened by the steps, never while definitions load.

    A version is saved whole, never changed, and named so that a later one sorts after an earlier one.
    """

    environment: str
    variables: dict[str, str] | None = None

    def settings(self) -> Settings:
        """Settings of the environment; `variables`, where given, stand in for the process's own."""
        return Settings.load(Environment(self.environment), self.variables)

    @abstractmethod
    def writing(self, log: Logger) -> AbstractContextManager[object]:
        """Be the only writer of what analytics makes.

        Raises:
            TransientError: another analytics run still writes after half an hour.
        """

    @abstractmethod
    def train(self, version: str, champion: ModelArtifact | None) -> ModelArtifact | None:
        """Learn from the marts as they are now, judge against a saved version, and save the artifact.

        Args:
            champion: None: the kernel without a model.

        Returns:
            The artifact; None if there is nothing to learn from.
        """

    @abstractmethod
    def artifact(self, version: str) -> ModelArtifact:
        """A saved version.

        Raises:
            ConfigurationError: it is missing or damaged.
        """

    @abstractmethod
    def in_service(self) -> InService:
        """The version in service, and the canary beside it."""

    @abstractmethod
    def put_in_service(self, service: InService) -> None:
        """Have the next micro-batch rank with saved versions.

        Raises:
            ConfigurationError: a version is missing or damaged, or none is named; nothing changes.
        """

    @abstractmethod
    def history(self) -> list[Record]:
        """What was done to the model in service, the oldest first."""

    @abstractmethod
    def record(self, record: Record) -> None:
        """Add to the history."""

    @abstractmethod
    def canary_days(self, canary: Canary) -> pa.Table:
        """Rows of marts.canary_days of one canary, by day: CANARY_DAYS."""

    @abstractmethod
    def saved_versions(self) -> list[str]:
        """All saved versions, the oldest first."""

    @abstractmethod
    def remove_version(self, version: str) -> None:
        """Forget a saved version."""

    @abstractmethod
    def maintain(
        self, on_wait: Callable[[str], object], on_progress: Callable[[str], object] | None = None
    ) -> MaintenanceReport | None:
        """Upkeep of the storage, as the only writer, who gives way between small pieces of work.

        Args:
            on_wait: told who writes, when there is somebody to wait for.
            on_progress: told what a piece of work has done.

        Returns:
            None where the engine does it by itself.

        Raises:
            TransientError: another analytics run still writes after half an hour.
        """

    def champion(self, log: Logger) -> ModelArtifact | None:
        """The artifact in service; None without one, or where it cannot be read: then nothing is ranked by it either,
        and a new one is judged as a first one."""
        version = self.in_service().version
        try:
            return None if version is None else self.artifact(version)
        except ConfigurationError as error:
            log.warning(f"judged against the kernel without a model, for that in service cannot be read: {error}")
            return None

    def remove_old_versions(self) -> list[str]:
        """Remove the versions that are neither among the newest nor in service, nor were before; say which."""
        service = self.in_service()
        kept = {service.version, version_before(self.history()), service.canary.version if service.canary else None}
        old = [version for version in self.saved_versions()[:-KEPT_VERSIONS] if version not in kept]
        for version in old:
            self.remove_version(version)
        return old
