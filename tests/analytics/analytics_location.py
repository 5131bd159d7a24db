"""The analytics location over a lake of its own: its jobs on a Dagster instance, and dbt by hand.

Here: what runs things as production does. Not here: what is in the lake (analytics_lake.py).
"""

from pathlib import Path

import dagster as dg

from kurashiru_pipeline.analytics.build import build_definitions
from kurashiru_pipeline.analytics.ducklake import DuckLakeAnalytics
from kurashiru_pipeline.analytics.prepare import DbtCli, dbt_project
from kurashiru_pipeline.environment import Environment, Settings


class Location:
    """Definitions of the local environment with `settings` in place of the process's own."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.settings = settings
        self._instance = instance
        self._dbt = DbtCli.of(dbt_project(settings), settings.environment, settings.environ)
        warehouse = DuckLakeAnalytics(environment=settings.environment, variables=dict(settings.environ))
        self._definitions = build_definitions(Environment.LOCAL, dbt=self._dbt, warehouse=warehouse)

    @property
    def models(self) -> Path:
        return self.settings.folder("KURASHIRU_MODELS")

    def run(self, job: str, partition: str | None = None) -> dg.ExecuteInProcessResult:
        """Run a job to its end, failed or not."""
        definition = self._definitions.resolve_job_def(job)
        return definition.execute_in_process(instance=self._instance, raise_on_error=False, partition_key=partition)

    def dbt(self, *arguments: str) -> None:
        """Run dbt; raises with dbt's own words when it fails."""
        (self.settings.folder("KURASHIRU_LAKE") / "analytics" / "data").mkdir(parents=True, exist_ok=True)
        # One target folder for all, so that only the first run parses.
        self._dbt.cli(list(arguments), target_path=self.settings.home / "target").wait()


def materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    """Keys of the assets a run made."""
    return {event.asset_key.to_user_string() for event in result.get_asset_materialization_events() if event.asset_key}
