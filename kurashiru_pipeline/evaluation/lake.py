"""The pipeline's own behaviours as interactions: `kurashiru evaluate --from-lake`.

Here: which rows of the warehouse are read, on either engine.
Not here: files (interactions.py), and the warehouse (kurashiru_pipeline/warehouse).
"""

from datetime import datetime

import pyarrow as pa

from kurashiru_pipeline.core.columns import column_micros
from kurashiru_pipeline.core.events import MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.evaluation.interactions import RECIPE_SCHEMA, Interactions
from kurashiru_pipeline.warehouse import open_warehouse

_LONG_AGO = datetime(1970, 1, 1)  # noqa: DTZ001 - the warehouse's times are naive UTC


def read_lake(settings: Settings, since: datetime | None = None) -> Interactions:
    """All staged behaviours, those of erased users left out, and the catalogue as it is now.

    They are read from staging, which both engines keep in full: dbt's intermediate.int_behaviors_deduplicated holds the
    same rows, but only up to the last hourly build. Recipes deleted since are taken as alive, for nothing says when
    they went.

    Args:
        since: behaviours from this moment on (naive UTC); all by default.

    Raises:
        ConfigurationError: there are no behaviours.
    """
    with open_warehouse(settings, read_only=True) as warehouse:
        behaviors = warehouse.fetch(
            "evaluation_behaviors",
            meaningful_event_names=MEANINGFUL_EVENT_NAMES,
            occurred_since=since or _LONG_AGO,
        )
        recipes = warehouse.fetch("evaluation_recipes").select(RECIPE_SCHEMA.names).cast(RECIPE_SCHEMA)
    if not len(behaviors):
        message = (
            f"the warehouse of {settings.environment} has no behaviours"
            f"{f' since {since:%Y-%m-%dT%H:%M:%S}' if since else ''}; "
            "land some with kurashiru simulate or kurashiru replay, then: kurashiru drain"
        )
        raise ConfigurationError(message)
    notes = ("recipes deleted since are taken as alive",)
    source = f"the {settings.environment} warehouse"
    at = pa.array(column_micros(behaviors["occurred_at"]))
    return Interactions.of(behaviors.append_column("at", at), recipes, source, notes)
