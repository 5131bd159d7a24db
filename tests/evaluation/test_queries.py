"""The split and the queries: who is asked, when, and what is known then."""

import numpy as np
import pyarrow as pa
import pytest

from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.evaluation.interactions import Interactions
from kurashiru_pipeline.evaluation.queries import Protocol, Queries, ask, split, text_of
from tests.evaluation.small_world import START, recipes, world

SECOND = 1_000_000


def past(*rows: tuple[str, str, float]) -> Interactions:
    """Of (user, recipe, seconds), in any order."""
    behaviors = pa.table(
        {
            "user_id": [row[0] for row in rows],
            "event_name": ["recipe_view" if row[1] else "search" for row in rows],
            "recipe_id": [row[1] or None for row in rows],
            "detail": pa.nulls(len(rows), pa.string()),
            "at": np.array([round(row[2] * SECOND) for row in rows]),
        }
    )
    return Interactions.of(behaviors, recipes(), "test", ())


def told(interactions: Interactions, queries: Queries) -> list[tuple[str, float, int, int, list[str]]]:
    """User, seconds, known, earlier and targets of each query."""
    names = interactions.catalogue.recipe_ids.to_pylist()
    return [
        (
            interactions.user_ids[int(queries.user[nth])].as_py(),
            queries.at[nth] / SECOND,
            int(queries.known[nth]),
            int(queries.earlier[nth]),
            [names[target] for target in queries.targets[queries.offsets[nth] : queries.offsets[nth + 1]]],
        )
        for nth in range(len(queries))
    ]


REGULAR = [("ann", f"r0{number}", float(number)) for number in range(8)]


def test_the_profile_grows_with_every_event() -> None:
    found = past(*REGULAR, ("ann", "r09", 9))
    assert told(found, ask(found, Protocol.NEXT_ITEM, 6 * SECOND, 99 * SECOND, 100)) == [
        ("ann", 6, 6, 6, ["r06"]),
        ("ann", 7, 7, 7, ["r07"]),
        ("ann", 9, 8, 8, ["r09"]),
    ]


def test_top_n_asks_once_for_the_whole_future() -> None:
    found = past(*REGULAR, ("ann", "r07", 9), ("ann", "r01", 10))
    assert told(found, ask(found, Protocol.TOP_N, 6 * SECOND, 99 * SECOND, 100)) == [
        ("ann", 6, 6, 6, ["r01", "r06", "r07"])
    ]


def test_users_with_fewer_than_five_earlier_events_are_not_asked() -> None:
    found = past(
        *REGULAR[:4], ("ann", "r05", 6), *(("bob", "r01", second / 10) for second in range(5)), ("bob", "r02", 7)
    )
    assert [row[0] for row in told(found, ask(found, Protocol.NEXT_ITEM, 5 * SECOND, 99 * SECOND, 100))] == ["bob"]


def test_searches_are_known_but_neither_count_nor_are_foretold() -> None:
    found = past(*REGULAR, ("ann", "", 7.5), ("ann", "", 8.5), ("ann", "r09", 9))
    assert told(found, ask(found, Protocol.NEXT_ITEM, 8 * SECOND, 99 * SECOND, 100)) == [("ann", 9, 10, 8, ["r09"])]


def test_at_most_twenty_targets_a_user_the_first_ones() -> None:
    found = past(*((user, f"r{number:02d}", number) for number in range(40) for user in ("ann", "bob")))
    queries = ask(found, Protocol.NEXT_ITEM, 10 * SECOND, 99 * SECOND, 100)
    assert np.bincount(queries.user).tolist() == [20, 20]
    assert queries.at.max() == 29 * SECOND


def test_equal_times_keep_the_order_of_the_source() -> None:
    found = past(*REGULAR, ("ann", "r11", 9), ("ann", "r10", 9))
    assert [row[2:] for row in told(found, ask(found, Protocol.NEXT_ITEM, 9 * SECOND, 99 * SECOND, 9))] == [
        (8, 8, ["r11"]),
        (9, 9, ["r10"]),
    ]


def test_a_late_profile_lacks_the_newest_events() -> None:
    found = past(*REGULAR, ("ann", "r09", 17), ("bob", "r01", 16))
    queries = ask(found, Protocol.NEXT_ITEM, 17 * SECOND, 99 * SECOND, 100)
    known = {seconds: queries.delayed(found, seconds).known.tolist() for seconds in (0, 1, 10, 11, 12.5, 300)}
    assert known == {0: [8], 1: [8], 10: [8], 11: [7], 12.5: [5], 300: [0]}


def test_who_is_drawn_depends_on_seed_and_names_alone() -> None:
    found = world().interactions()
    cuts = split(found)
    every = ask(found, Protocol.NEXT_ITEM, cuts.test_from, cuts.end, 10_000)
    some = ask(found, Protocol.NEXT_ITEM, cuts.test_from, cuts.end, 100)
    assert 60 < len(some) <= 100
    drawn = set(some.user.tolist())
    assert [int((every.user == user).sum()) for user in sorted(drawn)] == np.bincount(some.user)[sorted(drawn)].tolist()
    other = ask(found, Protocol.NEXT_ITEM, cuts.test_from, cuts.end, 100, seed=1)
    assert set(other.user.tolist()) != drawn


def test_the_default_split_is_by_share_of_events() -> None:
    found = past(*(("ann", "r01", number) for number in range(100)))
    cuts = split(found)
    assert (cuts.start, cuts.validation_from, cuts.test_from, cuts.end) == (
        0,
        70 * SECOND,
        80 * SECOND,
        99 * SECOND + 1,
    )


@pytest.mark.parametrize("given", ["2023-11-20", "2023-11-20T00:00:00", "1700438400", "1700438400.0"])
def test_a_cut_is_a_date_or_seconds(given: str) -> None:
    found = world().interactions()
    assert text_of(split(found, given, "2023-12-20").validation_from) == "2023-11-20T00:00:00"


@pytest.mark.parametrize(
    ("validation", "test", "message"),
    [
        ("soon", None, "--validation-from 'soon' is no moment; give a date"),
        ("2023-12-20", "2023-12-01", "validation 2023-12-20T00:00:00 < test 2023-12-01T00:00:00"),
        (str(START - 99), None, "must follow each other"),
        (None, "2031-01-01", "--validation-from and --test-from"),
    ],
)
def test_cuts_that_cannot_be_are_errors(validation: str | None, test: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        split(world().interactions(), validation, test)
