"""The pipeline's own behaviours as interactions."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from kurashiru_pipeline.core.events import MEANINGFUL_EVENT_NAMES
from kurashiru_pipeline.environment import Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.evaluation.lake import read_lake
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.realtime.drain import drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline


@pytest.mark.parametrize("engine", ["ducklake", pytest.param("snowflake", marks=pytest.mark.stand_in)])
def test_what_was_staged_is_what_is_evaluated(
    settings: Settings, open_pipeline: Callable[..., MicroBatchPipeline]
) -> None:
    manifest = simulate(settings.landing, events=1_500, users=60, recipes=50, duplicates=0.05, malformed=0.02, seed=3)
    pipeline = open_pipeline()
    drain(pipeline, lambda *_: None)
    pipeline.warehouse.close()

    found = read_lake(settings)
    names = Counter(found.event_names.to_pylist())
    assert names == Counter({name: manifest["events_by_name"][name] for name in MEANINGFUL_EVENT_NAMES})
    assert (found.at[1:] >= found.at[:-1]).all()
    assert found.source == f"the {settings.environment} warehouse"
    searches = found.details.filter(pc.equal(found.event_names, pa.scalar("search")))
    assert searches.null_count == 0
    assert len(found.catalogue.recipe_ids) == 50
    assert found.catalogue.tags.to_pylist()
    assert (found.published > 0).all()
    middle = datetime(1970, 1, 1) + timedelta(microseconds=int(found.at[len(found.at) // 2]))
    later = read_lake(settings, middle)
    assert len(later.at) == (found.at >= found.at[len(found.at) // 2]).sum()


def test_an_empty_lake_says_how_to_fill_it(
    settings: Settings, open_pipeline: Callable[..., MicroBatchPipeline]
) -> None:
    open_pipeline().warehouse.close()
    with pytest.raises(ConfigurationError, match="has no behaviours; land some with kurashiru simulate"):
        read_lake(settings)
