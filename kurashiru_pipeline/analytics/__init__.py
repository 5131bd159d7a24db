"""The analytics code location: dbt from staging to marts, the model trained from them, maintenance, schedules.

Here: what may take minutes and may import what it likes; `analytics_warehouse` is the door to its engines.
Not here: the path from an event to DynamoDB (realtime/); it imports nothing of this package.
"""

from typing import TYPE_CHECKING

from kurashiru_pipeline.environment import Settings

if TYPE_CHECKING:
    from kurashiru_pipeline.analytics.warehouse import AnalyticsWarehouse


def analytics_warehouse(settings: Settings) -> "AnalyticsWarehouse":
    """The engine's implementation, closed until something is asked of it."""
    # Importing Snowflake's takes seconds, so only where it is used.
    if settings.text("KURASHIRU_ENGINE") == "snowflake":
        from kurashiru_pipeline.analytics.snowflake import SnowflakeAnalytics  # noqa: PLC0415

        return SnowflakeAnalytics(environment=settings.environment)
    from kurashiru_pipeline.analytics.ducklake import DuckLakeAnalytics  # noqa: PLC0415

    return DuckLakeAnalytics(environment=settings.environment)
