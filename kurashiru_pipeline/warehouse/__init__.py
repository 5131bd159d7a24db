"""The warehouse port and its engines; open_warehouse() is the only door the rest of the tree uses."""

from collections.abc import Callable

from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError, EngineNotBuiltError
from kurashiru_pipeline.warehouse.base import Warehouse

__all__ = ["Warehouse", "open_warehouse"]


def open_warehouse(
    settings: Settings, *, read_only: bool = False, on_wait: Callable[[str], object] | None = None
) -> Warehouse:
    """Warehouse of the environment, with its objects in place. Close it, or use it as a context manager.

    Args:
        read_only: for sensors, status and reports; needs no lock and sees committed work only.
        on_wait: told who holds the lake, when a writer has to wait for another.

    Raises:
        EngineNotBuiltError: the engine is planned but not part of this version.
        ConfigurationError: no such engine.
    """
    engine = settings.text("KURASHIRU_ENGINE")
    if engine == "ducklake":
        from kurashiru_pipeline.warehouse.ducklake import DuckLakeWarehouse  # noqa: PLC0415

        return DuckLakeWarehouse.open(settings, read_only=read_only, on_wait=on_wait)
    if engine == "snowflake":
        message = (
            "KURASHIRU_ENGINE=snowflake: this version has no Snowflake engine yet. Missing are "
            "kurashiru_pipeline/warehouse/snowflake.py (the Warehouse port of warehouse/base.py) and "
            "kurashiru_pipeline/sql/macros/snowflake.sql (the twin of ducklake.sql). "
            "To run the embedded engine here: export KURASHIRU_ENGINE=ducklake"
        )
        raise EngineNotBuiltError(message)
    message = f"KURASHIRU_ENGINE={engine!r} is not an engine; use one of: ducklake, snowflake"
    raise ConfigurationError(message)
