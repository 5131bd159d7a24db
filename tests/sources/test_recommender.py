"""Requests of some users each, and what of the answers can be used."""

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kurashiru_pipeline.sources.recommender import SUGGESTION_SCHEMA, ExternalRecommender, Living, Suggestions, usable
from tests.kitchen import catalogue, recipe

CATALOGUE = catalogue(*(recipe(name, "savings") for name in ("r1", "r2", "r3", "r4")), recipe("gone", is_deleted=True))


def table(*rows: tuple[str, list[str], list[float]]) -> pa.Table:
    return pa.Table.from_pylist(
        [dict(zip(SUGGESTION_SCHEMA.names, row, strict=True)) for row in rows], schema=SUGGESTION_SCHEMA
    )


def users(count: int) -> pa.Table:
    return pa.table({"user_id": [f"u{number}" for number in range(count)]})


class Told(ExternalRecommender):
    """Answers as it is told to."""

    name = "told"

    def __init__(self, answer: Callable[[list[str]], pa.Table], size: int = 3, concurrency: int = 2) -> None:
        super().__init__(users_per_request=size, concurrency=concurrency)
        self.answer = answer
        self.asked: list[list[str]] = []

    def request(self, users: pa.Table, count: int) -> pa.Table:
        names: list[Any] = users["user_id"].to_pylist()
        self.asked.append(names)
        return self.answer(names)


def everybody(names: list[str]) -> pa.Table:
    return table(*((name, ["r2", "r1"], [0.9, 0.3]) for name in names))


def ask(recommender: ExternalRecommender, asked: pa.Table, seconds: float = 10, **options: Any) -> Suggestions:
    return recommender.recommend(asked, CATALOGUE, count=3, seconds=seconds, **options)


def counts(said: Suggestions) -> tuple[int, int, int, int]:
    assert said.asked_count == said.answered_count + said.failed_count + said.late_count
    return said.asked_count, said.answered_count, said.failed_count, said.late_count


def test_every_user_is_named_in_one_request() -> None:
    told = Told(everybody)
    said = ask(told, users(8))
    assert sorted(told.asked) == [["u0", "u1", "u2"], ["u3", "u4", "u5"], ["u6", "u7"]]
    assert counts(said) == (8, 8, 0, 0)
    assert said.table == table(*((f"u{number}", ["r2", "r1"], [0.9, 0.3]) for number in range(8)))
    assert (said.error, said.unknown_count) == ("", 0)


def test_a_probe_is_one_request() -> None:
    told = Told(everybody)
    assert counts(ask(told, users(8), is_probe=True)) == (3, 3, 0, 0)
    assert told.asked == [["u0", "u1", "u2"]]


def test_nobody_to_ask_about() -> None:
    told = Told(everybody)
    said = ask(told, users(0))
    assert (counts(said), told.asked, said.table) == ((0, 0, 0, 0), [], SUGGESTION_SCHEMA.empty_table())


def test_a_failed_request_costs_its_own_users_only() -> None:
    def some(names: list[str]) -> pa.Table:
        if "u3" in names:
            raise ConnectionError("nobody\nthere")
        return everybody(names)

    said = ask(Told(some), users(8))
    assert counts(said) == (8, 5, 3, 0)
    assert said.table["user_id"].to_pylist() == ["u0", "u1", "u2", "u6", "u7"]
    assert said.error == "1 of 3 requests: ConnectionError: nobody there"


def test_the_most_frequent_error_is_told() -> None:
    def fail(names: list[str]) -> pa.Table:
        if "u0" in names:
            raise ValueError
        raise ConnectionError("x" * 1000)

    said = ask(Told(fail, concurrency=9), users(9))
    assert said.error.startswith("2 of 3 requests: ConnectionError: xxx")
    assert len(said.error) == 300
    assert ask(Told(fail), users(1)).error == "1 of 1 requests: ValueError:"


def test_what_is_given_up_has_failed() -> None:
    def fail(names: list[str]) -> pa.Table:
        time.sleep(0.01)
        raise ConnectionError("down")

    told = Told(fail)
    assert counts(ask(told, users(3000))) == (3000, 0, 3000, 0)
    assert len(told.asked) < 10, "of a thousand requests"


def test_whoever_is_not_answered_in_time_is_late() -> None:
    release = threading.Event()

    def slow(names: list[str]) -> pa.Table:
        if "u0" not in names:
            release.wait(60)
        return everybody(names)

    said = ask(Told(slow), users(8), seconds=0.3)
    release.set()
    assert counts(said) == (8, 3, 0, 5)
    assert 0.3 <= said.seconds < 10


def test_whom_an_answer_leaves_out_is_not_answered() -> None:
    said = ask(Told(lambda names: everybody([*names[:1], "stranger"])), users(3))
    assert counts(said) == (3, 1, 2, 0)
    assert said.table["user_id"].to_pylist() == ["u0"]


def use(answers: pa.Table, *names: str, count: int = 3) -> tuple[list[tuple[Any, ...]], int, int]:
    part = usable(answers, pa.chunked_array([pa.array(names, pa.string())]), Living.of(CATALOGUE), count)
    assert part.table.schema == SUGGESTION_SCHEMA
    return [tuple(row.values()) for row in part.table.to_pylist()], part.answered_count, part.unknown_count


def test_unknown_and_deleted_recipes_are_counted_and_left_out() -> None:
    rows, answered, unknown = use(table(("u1", ["gone", "r1", "never"], [3, 2, 1]), ("u2", ["gone"], [1])), "u1", "u2")
    assert rows == [("u1", ["r1"], [2.0])]
    assert (answered, unknown) == (2, 3), "a user with nothing usable was answered all the same"


def test_lists_are_best_first_each_recipe_once_and_no_longer_than_asked() -> None:
    answers = table(("u1", ["r1", "r3", "r1", "r4", "r2"], [0.1, 0.5, 0.9, 0.5, 0.2]), ("u2", [], []))
    assert use(answers, "u1", "u2")[0] == [("u1", ["r1", "r3", "r4"], [0.9, 0.5, 0.5])]
    assert use(answers, "u1", count=1)[0] == [("u1", ["r1"], [0.9])]


def test_of_a_user_answered_twice_the_first_answer_counts() -> None:
    answers = table(("u1", ["r1"], [1]), ("u2", ["r2"], [1]), ("u1", ["r3"], [1]))
    assert use(answers, "u2", "u1")[0] == [("u2", ["r2"], [1.0]), ("u1", ["r1"], [1.0])]


def test_an_answer_about_nobody() -> None:
    assert use(SUGGESTION_SCHEMA.empty_table(), "u1") == ([], 0, 0)
    assert use(table(("stranger", ["r1"], [1])), "u1") == ([], 0, 0)


def test_an_empty_catalogue_knows_no_recipe() -> None:
    part = usable(table(("u1", ["r1"], [1])), pa.chunked_array([["u1"]]), Living.of(catalogue()), 3)
    assert (part.table.num_rows, part.unknown_count) == (0, 1)


@pytest.mark.parametrize("seed", range(5))
def test_use_against_plain_python(seed: int) -> None:
    random = np.random.default_rng(seed)
    names = ["r1", "r2", "r3", "r4", "gone", "never"]
    rows = [
        (
            f"u{user}",
            [names[at] for at in random.integers(0, 6, size)],
            random.integers(0, 4, size).astype(float).tolist(),
        )
        for user, size in enumerate(random.integers(0, 9, 40))
    ]
    random.shuffle(rows)
    asked = [f"u{user}" for user in random.permutation(45)[:30]]
    found, answered, unknown = use(table(*rows), *asked, count=2)
    by_user = {user: (recipes, scores) for user, recipes, scores in rows}
    expected, strangers = [], 0
    for user in asked:
        best: dict[str, float] = {}
        for name, score in zip(*by_user.get(user, ((), ())), strict=True):
            strangers += name in {"gone", "never"}
            if name not in {"gone", "never"}:
                best[name] = max(score, best.get(name, 0.0))
        ordered = sorted(best.items(), key=lambda pair: (-pair[1], pair[0]))[:2]
        if ordered:
            expected.append((user, [name for name, _ in ordered], [score for _, score in ordered]))
    assert found == expected
    assert answered == sum(user in by_user for user in asked)
    assert unknown == strangers
