"""The near-real-time definitions of an environment, from parts that tests can swap.

Here: which assets, sensors, schedules and resources an environment has.
Not here: what they do. Building opens no connection and needs no secret.
"""

from typing import Any

import dagster as dg

from kurashiru_pipeline.catalog import MICRO_BATCH_JOB
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.realtime.assets import (
    LANDED_SPECS,
    MICRO_BATCH_ASSETS,
    PROMOTED_ARTIFACT_SPEC,
    load,
    reconcile,
)
from kurashiru_pipeline.realtime.maintenance import build_schedules, maintenance_job
from kurashiru_pipeline.realtime.resources import PipelineResource
from kurashiru_pipeline.realtime.sensors import build_stream_sensor


def build_definitions(environment: Environment, **resource_overrides: Any) -> dg.Definitions:
    """Definitions of the near-real-time location.

    Args:
        resource_overrides: `pipeline`, in place of the environment's own resource.
    """
    resource = resource_overrides.get("pipeline", PipelineResource(environment=environment))
    defaults = Settings(environment, {})
    # Where the warehouse loads by itself, the landed tables are made elsewhere.
    loads_files = defaults.text("KURASHIRU_ENGINE") == "ducklake"
    steps = [load, *MICRO_BATCH_ASSETS] if loads_files else [*MICRO_BATCH_ASSETS]
    external = [] if loads_files else [*LANDED_SPECS]
    job = dg.define_asset_job(
        MICRO_BATCH_JOB,
        selection=dg.AssetSelection.assets(*steps) - dg.AssetSelection.checks(reconcile),
        executor_def=dg.in_process_executor,
        description="One micro-batch from landed files (or the stream) to DynamoDB.",
    )
    is_running = defaults.text("KURASHIRU_SENSORS") == "running"
    return dg.Definitions(
        assets=[*steps, *external, PROMOTED_ARTIFACT_SPEC],
        asset_checks=[reconcile],
        jobs=[job, maintenance_job],
        sensors=[build_stream_sensor(MICRO_BATCH_JOB, resource.settings, is_running=is_running)],
        schedules=build_schedules(is_running=is_running),
        resources={"pipeline": resource},
    )
