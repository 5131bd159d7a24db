"""The warehouse as analytics sees it, whichever engine runs.

Here: what dbt's assets and the model's assets ask of it, and the upkeep of model versions.
Not here: an engine (ducklake.py, snowflake.py), dbt's own connection (dbt_project/profiles.yml), or the near-real-time
path's port (kurashiru_pipeline/warehouse).
"""

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from logging import Logger

import dagster as dg

from kurashiru_pipeline.core.artifact import ModelArtifact
from kurashiru_pipeline.environment import Environment, Settings

POOL = "analytics_lake"
KEPT_VERSIONS = 24


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
    def writing(self, log: Logger) -> AbstractContextManager[None]:
        """Be the only writer of what analytics makes.

        Raises:
            TransientError: another analytics run still writes after half an hour.
        """

    @abstractmethod
    def train(self, version: str) -> ModelArtifact | None:
        """Learn from the marts as they are now and save the artifact; None if there is nothing to learn from."""

    @abstractmethod
    def artifact(self, version: str) -> ModelArtifact:
        """A saved version.

        Raises:
            ConfigurationError: it is missing or damaged.
        """

    @abstractmethod
    def promoted_version(self) -> str | None:
        """The version in service, None before the first promotion."""

    @abstractmethod
    def promote(self, version: str) -> None:
        """Put a saved version in service: the next micro-batch ranks with it."""

    @abstractmethod
    def saved_versions(self) -> list[str]:
        """All saved versions, the oldest first."""

    @abstractmethod
    def remove_version(self, version: str) -> None:
        """Forget a saved version."""

    @abstractmethod
    def maintain(self) -> None:
        """Upkeep of the storage that the engine does not do by itself."""

    def remove_old_versions(self) -> list[str]:
        """Remove the versions that are neither in service nor among the newest, and say which."""
        in_service = self.promoted_version()
        old = [version for version in self.saved_versions()[:-KEPT_VERSIONS] if version != in_service]
        for version in old:
            self.remove_version(version)
        return old
