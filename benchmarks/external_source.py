"""Users a second through an external recommender, on loopback: what the pipeline itself spends on asking.

Run it from the project: `python -m benchmarks.external_source [--users N] [--milliseconds N] [--json]`. The service is
a process of its own that answers with the same recipes for everybody, each request after so many milliseconds; so
the seconds are those of JSON, HTTP, signatures and threads, on a machine that the service shares.
"""

import argparse
import json
import time
from multiprocessing import get_context
from multiprocessing.connection import Connection

import numpy as np
import orjson
import pyarrow as pa

from kurashiru_pipeline.sources.sagemaker import SageMakerRecommender
from tests.kitchen import catalogue, recipe
from tests.sources.service import ENDPOINT, Reply, Service, Users

RECIPES, COUNT, USERS_PER_REQUEST, CONCURRENCY = 50_000, 50, 500, 8


def recipe_names() -> list[str]:
    return [f"r{number:07d}" for number in range(RECIPES)]


def serve(told: Connection, milliseconds: float) -> None:
    """Run the service until the other end of `told` is closed; its address goes through it first."""
    listed = orjson.dumps(recipe_names()[:: RECIPES // COUNT])
    scores = orjson.dumps((1 / np.arange(1, COUNT + 1)).tolist())

    def behave(number: int, users: Users) -> Reply:
        parts = (
            b'{"user_id":"%s","recipe_ids":%s,"scores":%s}\n' % (user["user_id"].encode(), listed, scores)
            for user in users
        )
        return Reply(body=b"".join(parts), delay=milliseconds / 1000)

    with Service() as service:
        service.behave = behave
        told.send(service.url)
        try:
            told.recv()
        except EOFError:
            return


def measure(user_count: int, milliseconds: float) -> dict[str, float]:
    """All figures of one run."""
    recipes = catalogue(*map(recipe, recipe_names()))
    users = pa.table({"user_id": [f"u{number:07d}" for number in range(user_count)]})
    processes = get_context("spawn")
    here, there = processes.Pipe()
    process = processes.Process(target=serve, args=(there, milliseconds), daemon=True)
    process.start()
    there.close()
    recommender = SageMakerRecommender(
        ENDPOINT,
        region="ap-northeast-1",
        url=here.recv(),
        answer_seconds=60,
        users_per_request=USERS_PER_REQUEST,
        concurrency=CONCURRENCY,
    )
    first = recommender.recommend(users.slice(0, 1), recipes, count=COUNT, seconds=60)
    spent = time.process_time()
    said = recommender.recommend(users, recipes, count=COUNT, seconds=600)
    spent = time.process_time() - spent
    here.close()
    process.join()
    assert said.answered_count == user_count, said.error
    return {
        "users": user_count,
        "requests": -(-user_count // USERS_PER_REQUEST),
        "milliseconds_a_request": milliseconds,
        "first_request_seconds": round(first.seconds, 2),
        "seconds": round(said.seconds, 2),
        "users_per_second": round(user_count / said.seconds),
        "own_processor_seconds": round(spent, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=130_000)
    parser.add_argument("--milliseconds", type=float, default=50)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    figures = measure(given.users, given.milliseconds)
    if given.json:
        print(json.dumps(figures))
    else:
        for name, figure in figures.items():
            print(f"{name.replace('_', ' '):34}{figure:>12,}")


if __name__ == "__main__":
    main()
