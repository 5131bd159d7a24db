"""Puts the analytics location together.

Here: which assets, checks, jobs, schedules and resources an environment has.
Not here: what any of them does. Loading opens no connection and needs no secret, in every environment.
"""

from typing import Any

import dagster as dg

from kurashiru_pipeline.analytics import model_assets
from kurashiru_pipeline.analytics.dbt_assets import build_dbt_assets
from kurashiru_pipeline.analytics.lake import AnalyticsLake
from kurashiru_pipeline.analytics.maintenance import analytics_maintenance
from kurashiru_pipeline.analytics.prepare import DbtCli, dbt_project
from kurashiru_pipeline.environment import Environment, Settings


def build_definitions(environment: Environment, **resource_overrides: Any) -> dg.Definitions:
    """Definitions of one environment, some resources replaced by name (`dbt`, `lake`, `snowflake`, `io_manager`).

    Raises:
        ConfigurationError: the dbt manifest is missing; the message names the command that makes it.
    """
    settings = Settings.load(environment)
    engine = settings.text("KURASHIRU_ENGINE")
    project = dbt_project(settings)
    dbt_build, analytics_backfill = build_dbt_assets(project, engine)
    candidate, promoted = model_assets.candidate_artifact, model_assets.promoted_artifact
    checks = [model_assets.is_servable, model_assets.beats_no_model, model_assets.is_loadable]

    hourly = dg.define_asset_job(
        "analytics_hourly",
        selection=dg.AssetSelection.assets(dbt_build, candidate, promoted),
        executor_def=dg.in_process_executor,
        description="dbt build, then train, judge and promote the model.",
    )
    status = (
        dg.DefaultScheduleStatus.RUNNING
        if settings.text("KURASHIRU_SENSORS") == "running"
        else dg.DefaultScheduleStatus.STOPPED
    )
    resources = {
        "dbt": DbtCli.of(project, environment),
        "lake": AnalyticsLake(environment=environment),
        **(_snowflake_resources(settings) if engine == "snowflake" else {}),
    }
    return dg.Definitions(
        assets=[dbt_build, candidate, promoted],
        asset_checks=checks,
        jobs=[hourly, analytics_backfill, analytics_maintenance],
        schedules=[
            dg.ScheduleDefinition(job=hourly, cron_schedule="5 * * * *", default_status=status),
            dg.ScheduleDefinition(job=analytics_maintenance, cron_schedule="35 3 * * *", default_status=status),
        ],
        resources=resources | resource_overrides,
    )


def _snowflake_resources(settings: Settings) -> dict[str, Any]:
    # Importing takes seconds, so only where it is used.
    from dagster_snowflake import SnowflakeResource  # noqa: PLC0415

    return {
        "snowflake": SnowflakeResource(
            account=dg.EnvVar("KURASHIRU_SNOWFLAKE_ACCOUNT"),
            user=dg.EnvVar("KURASHIRU_SNOWFLAKE_USER"),
            private_key_path=dg.EnvVar("KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH"),
            role=settings.text("KURASHIRU_SNOWFLAKE_ROLE"),
            warehouse=settings.text("KURASHIRU_SNOWFLAKE_WAREHOUSE"),
            database=settings.text("KURASHIRU_SNOWFLAKE_DATABASE"),
        )
    }
