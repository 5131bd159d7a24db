"""The warehouse port and its engines; open_warehouse() is the only door the rest of the tree uses."""

from collections.abc import Callable

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.warehouse.base import Warehouse

__all__ = ["Warehouse", "open_warehouse"]


def open_warehouse(
    settings: Settings,
    *,
    read_only: bool = False,
    on_wait: Callable[[str], object] | None = None,
    run_id: str | None = None,
) -> Warehouse:
    """Warehouse of the environment, with its objects in place. Close it, or use it as a context manager.

    Args:
        read_only: for sensors, status and reports; needs no lock and sees committed work only.
        on_wait: told who holds the lake, when a writer has to wait for another.
        run_id: the Dagster run that asks, for query tags and the writer's name.

    Raises:
        ConfigurationError: a setting is missing or wrong, or what the engine needs is not there.
        TransientError: the engine cannot be reached, or another writer did not finish in time.
    """
    settings.check()
    engine = settings.text("KURASHIRU_ENGINE")
    if engine == "ducklake":
        from kurashiru_pipeline.warehouse.ducklake import DuckLakeWarehouse  # noqa: PLC0415

        return DuckLakeWarehouse.open(settings, read_only=read_only, on_wait=on_wait)
    if engine == "snowflake":
        from kurashiru_pipeline.warehouse.snowflake import SnowflakeWarehouse  # noqa: PLC0415

        return SnowflakeWarehouse.open(settings, read_only=read_only, on_wait=on_wait, run_id=run_id)
    message = f"KURASHIRU_ENGINE={engine!r} is not an engine; use one of: ducklake, snowflake"
    raise ConfigurationError(message)
