"""The full load of 300 million events a day, made by the simulator, and a pipeline set up to take it.

Here: settings, users who have registered and have their lists, a model in service, a minute of events, DuckDB's bare
reading of the same files as the floor. Not here: what is measured with it (micro_batch.py, day.py).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np

from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.artifact import ModelArtifact, promote, save_artifact
from kurashiru_pipeline.core.columns import csr
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.local.catalogue import make_recipes
from kurashiru_pipeline.local.simulate import simulate
from kurashiru_pipeline.realtime.drain import Tally, drain
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse import open_warehouse

EVENTS_A_DAY = 300_000_000
EVENTS_A_MINUTE = 208_000
FILE_LINES = 10_400
NEIGHBOURS = 200
SETTLED_SEED = 1_000_000

T = TypeVar("T")


def settings_of(home: Path, endpoint: str, **variables: int) -> Settings:
    """Settings of a local pipeline in `home` that delivers to `endpoint`; `variables` are named without KURASHIRU_."""
    given = {f"KURASHIRU_{name}": str(value) for name, value in variables.items()}
    return Settings.load(
        Environment.LOCAL, {"KURASHIRU_HOME": str(home), "KURASHIRU_DYNAMODB_ENDPOINT": endpoint, **given}
    )


@contextmanager
def open_pipeline(settings: Settings) -> Iterator[MicroBatchPipeline]:
    """The pipeline over its lake, for as long as the context lasts."""
    with open_warehouse(settings) as warehouse:
        yield MicroBatchPipeline(warehouse, settings, lambda: RecommendationTable.from_settings(settings))


def in_another_process(call: Callable[..., T], *arguments: Any) -> T:
    """What `call` returns from a process of its own: its memory does not count as ours."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(call, *arguments).result()


def this_hour() -> datetime:
    """Its beginning, naive UTC."""
    return utc_now().replace(minute=0, second=0, microsecond=0)


def settle(settings: Settings, users: int, recipes: int, until: datetime) -> Tally:
    """Put a model in service, and have users and recipes there before the load begins, with lists by preferences.

    Args:
        until: when the load begins, UTC.
    """
    put_model_in_service(settings, recipes)
    simulate(settings.landing, events=1_000, users=users, recipes=recipes, days=1, until=until, seed=SETTLED_SEED)
    with open_pipeline(settings) as pipeline:
        return drain(pipeline, lambda step, tally: None)


def land_minutes(settings: Settings, minutes: int, until: datetime, *, users: int, recipes: int, share: float) -> None:
    """Land `share` of `minutes` of full load, in files of a twentieth of a minute."""
    simulate(
        settings.landing,
        events=round(EVENTS_A_MINUTE * share) * minutes,
        users=users,
        recipes=recipes,
        days=minutes / 1440,
        until=until,
        file_lines=round(FILE_LINES * share),
    )


def put_model_in_service(settings: Settings, recipes: int) -> None:
    """A model in which each recipe is followed by its 200 nearest on the simulator's shelf.

    It is what training finds after a long time: most visitors go from a recipe to one beside it.
    """
    made = make_recipes(recipes)
    shelf = np.lexsort((made.age, made.dish, made.main))
    near = min(NEIGHBOURS // 2, (recipes - 1) // 2)
    steps = np.concatenate((np.arange(-near, 0), np.arange(1, near + 1)))
    column = shelf[(np.arange(recipes)[:, None] + steps) % recipes][np.argsort(shelf)]
    value = np.tile((1.0 / np.abs(steps)).astype(np.float32), recipes)
    order = np.argsort(column, axis=1)
    column, value = np.take_along_axis(column, order, 1), np.take_along_axis(value.reshape(column.shape), order, 1)
    neighbours = csr(value.ravel(), column.ravel(), np.arange(0, column.size + 1, len(steps)), recipes)
    neighbours.has_canonical_format = True
    artifact = ModelArtifact(
        version="benchmark",
        recipe_ids=np.array(made.recipe_ids),
        neighbours=neighbours,
        popularity=made.popularity,
        interactions=made.popularity,
    )
    models = settings.folder("KURASHIRU_MODELS")
    save_artifact(artifact, models)
    promote(models, artifact.version)


def event_files(folder: Path) -> list[Path]:
    """Files of events below a folder, in the order they were delivered."""
    return sorted(folder.rglob("kurashiru-events-*.gz"), key=lambda path: path.name)


def bare_read(files: Sequence[Path]) -> int:
    """The floor of taking files in: DuckDB reads their lines, typed, into memory. Returns how many."""
    columns = {
        "event_id": "UUID",
        "event_name": "VARCHAR",
        "user_id": "VARCHAR",
        "session_id": "VARCHAR",
        "recipe_id": "VARCHAR",
        "occurred_at": "TIMESTAMP",
        "platform": "VARCHAR",
        "app_version": "VARCHAR",
        "properties": "JSON",
    }
    with duckdb.connect() as connection:
        connection.execute("set enable_progress_bar = false")
        connection.execute(
            "CREATE TABLE events AS FROM read_json($files, format = 'newline_delimited', columns = $columns)",
            {"files": [str(path) for path in files], "columns": columns},
        )
        [(count,)] = connection.execute("SELECT count(*) FROM events").fetchall()
        return int(count)


def minutes_before(moment: datetime, minutes: float) -> datetime:
    return moment - timedelta(minutes=minutes)
