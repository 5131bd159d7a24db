"""Puts the analytics location together.

Here: which assets, checks, jobs, schedules and resources an environment has.
Not here: what any of them does. Loading opens no connection and needs no secret, in every environment.
"""

from typing import Any

import dagster as dg

from kurashiru_pipeline.analytics import analytics_warehouse, canary_assets, model_assets
from kurashiru_pipeline.analytics.dbt_assets import build_dbt_assets
from kurashiru_pipeline.analytics.maintenance import analytics_maintenance, analytics_upkeep, run_history
from kurashiru_pipeline.analytics.prepare import DbtCli, dbt_project
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
    models = [model_assets.candidate_artifact, model_assets.promoted_artifact, canary_assets.canary_decision]
    checks = [
        model_assets.is_servable,
        model_assets.beats_no_model,
        model_assets.is_loadable,
        canary_assets.does_no_harm,
    ]

    hourly = dg.define_asset_job(
        "analytics_hourly",
        selection=dg.AssetSelection.assets(dbt_build, *models),
        executor_def=dg.in_process_executor,
        description="dbt build, then train, judge and promote the model, and judge the canary.",
    )
    # The engine's own name stands on what is done to its storage.
    upkeep = dg.map_asset_specs(
        lambda spec: spec.replace_attributes(kinds={engine if kind == "ducklake" else kind for kind in spec.kinds}),
        [analytics_upkeep, run_history],
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
        assets=[dbt_build, *models, *upkeep],
        asset_checks=checks,
        jobs=[hourly, analytics_backfill, analytics_maintenance],
        schedules=[
            dg.ScheduleDefinition(job=hourly, cron_schedule="5 * * * *", default_status=status),
            dg.ScheduleDefinition(job=analytics_maintenance, cron_schedule="35 3 * * *", default_status=status),
        ],
        resources=resources | resource_overrides,
    )
