"""Dagster resources of the near-real-time location.

Here: opening what a run needs, and closing it again, whatever happens.
Not here: what is done with it. Nothing is opened or read while definitions load.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse import Warehouse, open_warehouse


class PipelineResource(dg.ConfigurableResource[MicroBatchPipeline]):
    """The micro-batch pipeline over the environment's warehouse, which it holds as the only writer for the run."""

    environment: str
    variables: dict[str, str] | None = None

    def settings(self) -> Settings:
        """Settings of the environment; `variables`, where given, stand in for the process's own."""
        return Settings.load(Environment(self.environment), self.variables)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[MicroBatchPipeline]:
        settings = self.settings()

        def say(holder: str) -> None:
            if context.log is not None:
                context.log.info(f"waiting for the lake: {holder} is writing")

        with open_warehouse(settings, on_wait=say, run_id=_run_id(context)) as warehouse:
            yield MicroBatchPipeline(warehouse, settings, lambda: RecommendationTable.from_settings(settings))


class ReaderResource(dg.ConfigurableResource[Warehouse]):
    """The environment's warehouse, for looking only: it waits for no writer and holds none up."""

    environment: str
    variables: dict[str, str] | None = None

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Warehouse]:
        settings = Settings.load(Environment(self.environment), self.variables)
        with open_warehouse(settings, read_only=True, run_id=_run_id(context)) as warehouse:
            yield warehouse


def _run_id(context: dg.InitResourceContext) -> str | None:
    return None if context.run is None else context.run.run_id
