"""Puts the analytics location together.

Here: which assets, checks, jobs, schedules and resources an environment has.
Not here: what any of them does. Loading opens no connection and needs no secret, in every environment.
"""

from typing import Any

import dagster as dg

from kurashiru_pipeline.analytics import model_assets
from kurashiru_pipeline.analytics.dbt_assets import build_dbt_assets
from kurashiru_pipeline.analytics.maintenance import analytics_maintenance
from kurashiru_pipeline.analytics.prepare import DbtCli, dbt_project
from kurashiru_pipeline.analytics.warehouse import AnalyticsWarehouse
from kurashiru_pipeline.environment import Environment, Settings


def build_definitions(environment: Environment, **resource_overrides: Any) -> dg.Definitions:
    """Definitions of one environment, some resources replaced by name (`dbt`, `warehouse`, `io_manager`).

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
        "warehouse": analytics_warehouse(settings),
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


def analytics_warehouse(settings: Settings) -> AnalyticsWarehouse:
    """The engine's implementation, closed until a step uses it."""
    # Importing Snowflake's takes seconds, so only where it is used.
    if settings.text("KURASHIRU_ENGINE") == "snowflake":
        from kurashiru_pipeline.analytics.snowflake import SnowflakeAnalytics  # noqa: PLC0415

        return SnowflakeAnalytics(environment=settings.environment)
    from kurashiru_pipeline.analytics.ducklake import DuckLakeAnalytics  # noqa: PLC0415

    return DuckLakeAnalytics(environment=settings.environment)
