"""dbt models as Dagster assets.

Here: how a dbt node is named, grouped and owned in Dagster, and the two ways dbt is run: hourly and for past days.
Not here: SQL (dbt_project/) or how dbt is started (prepare.py).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg
import orjson
from dagster_dbt import DagsterDbtTranslator, DbtProject, dbt_assets

from kurashiru_pipeline.analytics.prepare import DbtCli
from kurashiru_pipeline.analytics.warehouse import POOL, AnalyticsWarehouse
from kurashiru_pipeline.catalog import Group

GROUPS = {
    "ops": Group.RECOMMENDATION,
    "staging": Group.STAGING,
    "intermediate": Group.MARTS,
    "marts": Group.MARTS,
}
# Unit tests judge the SQL, not the data: they run in `make test`.
BUILD = ("build", "--exclude-resource-type", "unit_test")
BACKFILL_DAYS = dg.DailyPartitionsDefinition(start_date="2024-01-01", end_offset=1)


class KurashiruTranslator(DagsterDbtTranslator):  # type: ignore[misc]
    """Asset keys are [schema, table] as models and sources declare them, so they are equal in every environment."""

    def __init__(self, engine: str) -> None:
        super().__init__()
        self._engine = engine

    def get_asset_spec(self, manifest: Mapping[str, Any], unique_id: str, project: DbtProject | None) -> dg.AssetSpec:
        node = self.get_resource_props(manifest, unique_id)
        is_source = node["resource_type"] == "source"
        schema = node["schema"] if is_source else node["config"]["schema"]
        kind = "view" if node["config"].get("materialized") == "view" else "table"
        spec: dg.AssetSpec = super().get_asset_spec(manifest, unique_id, project)
        return spec.replace_attributes(
            description=node["description"].strip(),
            key=dg.AssetKey([schema, node["name"]]),
            group_name=GROUPS[schema].value,
            kinds={"dbt", self._engine, kind},
        )


def build_dbt_assets(project: DbtProject, engine: str) -> tuple[dg.AssetsDefinition, dg.JobDefinition]:
    """The models as assets, and the job that fills past days again."""
    translator = KurashiruTranslator(engine)

    @dbt_assets(  # type: ignore[untyped-decorator]
        manifest=project.manifest_path,
        project=project,
        dagster_dbt_translator=translator,
        name="dbt_build",
        pool=POOL,
    )
    def dbt_build(context: dg.AssetExecutionContext, dbt: DbtCli, warehouse: AnalyticsWarehouse) -> Iterator[Any]:
        """Build what has arrived since the last run.

        A dbt test that fails with severity `error` fails the run and keeps every model downstream of the tested one
        as it was; a failing test with severity `warn` is shown on its asset check and stops nothing.
        """
        with warehouse.writing(context.log):
            yield from dbt.cli([*BUILD], context=context).stream()

    @dg.op(pool=POOL, out=dg.Out(dg.Nothing))
    def backfill_day(context: dg.OpExecutionContext, dbt: DbtCli, warehouse: AnalyticsWarehouse) -> Iterator[Any]:
        """Delete one UTC day from every incremental model and fill it again from staging."""
        window = context.partition_time_window
        days = {"start_date": window.start.date().isoformat(), "end_date": window.end.date().isoformat()}
        arguments = [*BUILD, "--vars", orjson.dumps(days).decode()]
        with warehouse.writing(context.log):
            yield from dbt.cli(
                arguments, manifest=project.manifest_path, dagster_dbt_translator=translator, context=context
            ).stream()
        yield dg.Output(None)

    @dg.job(
        partitions_def=BACKFILL_DAYS,
        executor_def=dg.in_process_executor,
        description="Read past days again, after a repair of staging or a change of SQL. One run per UTC day.",
    )
    def analytics_backfill() -> None:
        backfill_day()

    return dbt_build, analytics_backfill
