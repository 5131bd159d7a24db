"""The replay: what was known at a moment of the past, and nothing else."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from kurashiru_pipeline.core.profiles import build_profiles
from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.evaluation.interactions import Interactions
from kurashiru_pipeline.evaluation.queries import Protocol, ask, split
from kurashiru_pipeline.evaluation.replay import LESSONS, UPDATES, Pace, PairCounts, Replay, moment
from tests.evaluation.small_world import DAY, START, World, recipes, world

SECOND = 1_000_000


@pytest.fixture(scope="module")
def replay() -> Replay:
    return Replay(world().interactions(), load_weights())


def test_a_profile_is_the_one_its_user_had_then(replay: Replay) -> None:
    """Asked at another moment, with its past moved along, it says the same as if made at the time."""
    past, cuts = replay.interactions, split(replay.interactions)
    queries = ask(past, Protocol.NEXT_ITEM, cuts.test_from, cuts.end, 40)
    made = replay.profiles(queries, past.catalogue, cuts.test_from)
    for nth in (0, 7, len(queries) - 1):
        rows = past.by_user[past.user_starts[queries.user[nth]] :][: queries.known[nth]][-50:]
        behaviors: dict[str, Any] = {
            "user_id": ["them"] * len(rows),
            "event_id": [f"e{999 - place:03d}" for place in range(len(rows))],
            "event_name": past.event_names.take(rows),
            "recipe_id": past.catalogue.recipe_ids.take(past.recipe[rows]),
            "detail": past.details.take(rows),
            "occurred_at": pa.array(past.at[rows], pa.timestamp("us")),
        }
        then = build_profiles(pa.table(behaviors), past.catalogue, replay.weights, moment(int(queries.at[nth])))
        names = [name for name in then.column_names if name not in {"user_id", "as_of"}]
        assert made.select(names).slice(nth, 1).to_pylist() == then.select(names).to_pylist()


def test_a_profile_is_made_from_the_newest_behaviours(replay: Replay) -> None:
    past, cuts = replay.interactions, split(replay.interactions)
    queries = ask(past, Protocol.TOP_N, cuts.test_from, cuts.end, 99)
    short = replace(replay, recent=3).profiles(queries, past.catalogue, cuts.test_from)
    assert max(len(row) for row in short["recipe_ids"].to_pylist()) <= 3
    assert len(short) == len(queries)


def test_whoever_is_not_known_yet_has_an_empty_profile(replay: Replay) -> None:
    past, cuts = replay.interactions, split(replay.interactions)
    queries = ask(past, Protocol.NEXT_ITEM, cuts.test_from, cuts.end, 20)
    late = queries.delayed(past, 1e6).of(np.arange(4))
    forgotten = replace(late, known=np.array([late.known[0], 0, late.known[2], 0]))
    made = replay.profiles(forgotten, past.catalogue, cuts.test_from)
    assert [bool(row) for row in made["recipe_ids"].to_pylist()] == [True, False, True, False]
    assert made["user_id"].to_pylist() == sorted(made["user_id"].to_pylist())


def test_statistics_end_strictly_before_the_moment() -> None:
    rows = World(["ann"] * 4, ["r01", "r02", "r01", "r03"], [START, START + DAY, START + 2 * DAY, START + 2 * DAY])
    replay = Replay(rows.interactions(), load_weights())
    at = (START + 2 * DAY) * SECOND
    view = replay.weights.actions.recipe_view
    assert replay.popularity(at).to_pylist() == [
        {"recipe_id": "r01", "decayed_count": pytest.approx(view / 4), "decayed_at": moment(at)},
        {"recipe_id": "r02", "decayed_count": pytest.approx(view / 2), "decayed_at": moment(at)},
    ]
    assert replay.counts(at).sum() == 2
    assert replay.counted(at, half_life_days=2.0)[:3].tolist() == pytest.approx([0, 0.5, 0.5**0.5])
    pairs = PairCounts(replay.interactions, most_steps=20)
    assert pairs.follow(replay.before(at)).toarray()[1, 2] == 1
    assert pairs.follow(replay.before(at + 1)).toarray()[1:3, 1:4].tolist() == [[0.5, 1, 1 / 3 + 1], [1, 0, 0.5]]


def test_a_recipe_is_there_from_its_publication_or_first_behaviour_on() -> None:
    behaviors: dict[str, Any] = {
        "user_id": ["ann"] * 2,
        "event_name": ["recipe_view"] * 2,
        "recipe_id": ["r01", "unlisted"],
        "detail": pa.nulls(2, pa.string()),
        "at": np.array([START, START + DAY]) * SECOND,
    }
    table = recipes(4)
    published: Any = pa.array([None, None, (START + DAY) * SECOND, None], pa.timestamp("us"))
    table = table.set_column(table.column_names.index("published_at"), "published_at", published)
    replay = Replay(Interactions.of(pa.table(behaviors), table, "test", ()), load_weights())
    names = replay.interactions.catalogue.recipe_ids.to_pylist()

    def known(at: int) -> dict[str, int]:
        found = replay.catalogue(at * SECOND)
        return {name: int(found.published[nth]) // SECOND for nth, name in enumerate(names) if found.alive[nth]}

    assert known(START) == {"r00": 0, "r01": 0, "r03": 0}
    assert known(START + 1) == {"r00": 0, "r01": START, "r03": 0}
    assert known(START + DAY + 1) == {
        "r00": 0, "r01": START, "r02": START + DAY, "r03": 0, "unlisted": START + DAY,
    }  # fmt: skip


def test_buckets_hold_every_query_and_know_nothing_newer(replay: Replay) -> None:
    past, cuts = replay.interactions, split(replay.interactions)
    queries = ask(past, Protocol.NEXT_ITEM, cuts.test_from, cuts.end, 10_000)
    found = Pace(past, refit_every=80).buckets(queries, cuts.test_from)
    assert sorted(np.concatenate([bucket.rows for bucket in found]).tolist()) == list(range(len(queries)))
    refits = sorted({bucket.refit_at for bucket in found})
    assert refits[0] == cuts.test_from
    for bucket in found:
        assert bucket.refit_at <= bucket.as_of <= queries.at[bucket.rows].min()
        grown = replay.before(bucket.as_of) - replay.before(bucket.refit_at)
        assert grown <= 80
    assert all(75 <= replay.before(later) - replay.before(at) <= 85 for at, later in itertools.pairwise(refits))
    assert len(found) > len(refits) * UPDATES / 2


def test_edges_do_not_depend_on_what_comes_later(replay: Replay) -> None:
    past, cuts = replay.interactions, split(replay.interactions)
    queries = ask(past, Protocol.NEXT_ITEM, cuts.test_from, cuts.end, 10_000)
    half = replay.before((cuts.test_from + cuts.end) // 2)
    whole = world()
    cut = World(whole.user[:half], whole.item[:half], whole.ts[:half]).interactions()
    first = queries.of(queries.at < past.at[half])
    pairs = zip(
        Pace(cut, 80).buckets(first, cuts.test_from), Pace(past, 80).buckets(queries, cuts.test_from), strict=False
    )
    told = [(a.as_of == b.as_of, a.refit_at == b.refit_at) for a, b in pairs]
    assert len(told) > UPDATES
    assert all(same for pair in told for same in pair)


def test_lessons_end_where_the_test_begins(replay: Replay) -> None:
    cuts = split(replay.interactions)
    spans = Pace(replay.interactions, refit_every=100).lessons(cuts.test_from)
    assert len(spans) == LESSONS
    assert spans[-1][1] == cuts.test_from
    sizes = [replay.before(end) - replay.before(begin) for begin, end in spans]
    assert max(sizes) - min(sizes) <= 10
    assert sum(sizes) == pytest.approx(0.7 * replay.before(cuts.test_from), abs=10)
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(spans))
