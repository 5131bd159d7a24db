"""The near-real-time definitions of an environment, from parts that tests can swap.

Here: which assets, sensors, schedules and resources an environment has.
Not here: what they do. Building opens no connection and needs no secret.
"""

from typing import Any

import dagster as dg

from kurashiru_pipeline.catalog import MICRO_BATCH_JOB
from kurashiru_pipeline.environment import Environment
from kurashiru_pipeline.realtime.assets import PROMOTED_ARTIFACT_SPEC, build_micro_batches, reconcile
from kurashiru_pipeline.realtime.ingestion import build_observation
from kurashiru_pipeline.realtime.maintenance import build_schedules, maintenance_job, realtime_upkeep
from kurashiru_pipeline.realtime.resources import PipelineResource, ReaderResource
from kurashiru_pipeline.realtime.sensors import build_stream_sensor


def build_definitions(environment: Environment, **resource_overrides: Any) -> dg.Definitions:
    """Definitions of the near-real-time location.

    Args:
        resource_overrides: `pipeline` and `reader`, in place of the environment's own resources.
    """
    pipeline = resource_overrides.get("pipeline", PipelineResource(environment=environment))
    reader = resource_overrides.get("reader", ReaderResource(environment=environment, variables=pipeline.variables))
    settings = pipeline.settings()
    engine = settings.text("KURASHIRU_ENGINE")
    is_running = settings.text("KURASHIRU_SENSORS") == "running"
    # Where the warehouse loads events by itself, they are only looked at here.
    loads_events = engine == "ducklake"
    micro_batches = build_micro_batches(loads_events=loads_events)
    job = dg.define_asset_job(
        MICRO_BATCH_JOB,
        selection=dg.AssetSelection.assets(micro_batches) - dg.AssetSelection.checks(reconcile),
        executor_def=dg.in_process_executor,
        description="From landed files (or the stream) to DynamoDB, micro-batch after micro-batch while there is work.",
        # A failed run is not started again by the daemon: the sensor asks for the next, and knows how often it failed.
        tags={"dagster/max_retries": "0", "dagster/priority": "10"},
    )
    observed: list[Any] = []
    jobs: list[Any] = [job, maintenance_job]
    schedules = build_schedules(pipeline.settings, is_running=is_running)
    if not loads_events:
        raw, observation_job, observation_schedule = build_observation(is_running=is_running)
        observed.append(raw)
        jobs.append(observation_job)
        schedules.append(observation_schedule)
    tables = dg.map_asset_specs(lambda spec: _on(engine, spec), [micro_batches, realtime_upkeep, *observed])
    return dg.Definitions(
        assets=[*tables, PROMOTED_ARTIFACT_SPEC],
        asset_checks=[reconcile],
        jobs=jobs,
        sensors=[build_stream_sensor(MICRO_BATCH_JOB, pipeline.settings, is_running=is_running)],
        schedules=schedules,
        resources={"pipeline": pipeline, "reader": reader},
    )


def _on(engine: str, spec: dg.AssetSpec) -> dg.AssetSpec:
    """The spec with the engine its table is kept in."""
    return spec.replace_attributes(kinds={engine if kind == "ducklake" else kind for kind in spec.kinds})
