"""Repeats found among the ids beside the lake are those the lake would have found, whatever happens to the files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kurashiru_pipeline.warehouse.event_ids import FAN_IN, EventIds, Pending, Staged

_SECOND = 1_000_000

# Few first halves, so that ids differ in their second half alone, and few ids, so that they come again.
_IDS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=12)
_BATCHES = st.lists(
    st.tuples(_IDS, st.sampled_from(["kept", "rolled back", "killed", "all lost", "one lost"]), st.integers(1, 6)),
    max_size=24,
)


class _Lake:
    """What was staged: the slow, obvious version."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, tuple[int, int], int]] = []

    def staged(self, since: int) -> Callable[[int, int], Staged]:
        return lambda first, last: _staged(
            [(id_, at) for batch, id_, at in self.rows if first <= batch <= last and at >= since]
        )

    def repeats(self, ids: list[tuple[int, int]], since: int) -> list[bool]:
        seen = {id_ for _, id_, at in self.rows if at >= since}
        flags = []
        for id_ in ids:
            flags.append(id_ in seen)
            seen.add(id_)
        return flags


def _staged(rows: list[tuple[tuple[int, int], int]]) -> Staged:
    return Staged(
        np.array([high for (high, _), _ in rows], dtype=np.uint64),
        np.array([low for (_, low), _ in rows], dtype=np.uint64),
        np.array([at for _, at in rows], dtype=np.int64),
    )


def _stage(lake: _Lake, event_ids: EventIds, batch_id: int, ids: list[tuple[int, int]], window: int) -> Pending:
    """One micro-batch, loaded at the second of its number; its rows are committed when the caller adds them."""
    now = batch_id * _SECOND
    since = now - window * _SECOND
    flags, pending = event_ids.repeats(batch_id, _staged([(id_, now) for id_ in ids]), since, lake.staged(since))
    assert flags.tolist() == lake.repeats(ids, since)
    return pending


@settings(max_examples=150, deadline=None)
@given(batches=_BATCHES)
def test_repeats_are_those_of_the_lake(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[list[tuple[int, int]], str, int]]
) -> None:
    folder, lake = tmp_path_factory.mktemp("ids"), _Lake()
    batch_id = 1
    for ids, fate, window in batches:
        event_ids = EventIds(folder)
        flags = lake.repeats(ids, (batch_id - window) * _SECOND)
        pending = _stage(lake, event_ids, batch_id, ids, window)
        if fate == "rolled back":
            continue
        lake.rows += [
            (batch_id, id_, batch_id * _SECOND) for id_, is_repeat in zip(ids, flags, strict=True) if not is_repeat
        ]
        if fate != "killed":
            event_ids.add(pending)
        files = sorted(folder.glob("*.ids"))
        for path in files if fate == "all lost" else files[:1] if fate == "one lost" else []:
            path.unlink()
        batch_id += 1


def test_files_stay_few_and_what_grew_old_goes(tmp_path: Path) -> None:
    lake, event_ids = _Lake(), EventIds(tmp_path)
    most = 0
    for batch_id in range(1, 400):
        ids = [(batch_id, low) for low in range(5)]
        pending = _stage(lake, event_ids, batch_id, ids, window=100)
        lake.rows += [(batch_id, id_, batch_id * _SECOND) for id_ in ids]
        event_ids.add(pending)
        most = max(most, len(list(tmp_path.glob("*.ids"))))
    assert most <= 4 * FAN_IN
    assert sum(path.stat().st_size for path in tmp_path.glob("*.ids")) < 24 * 5 * 400


def test_a_file_that_is_cut_short_is_named_with_what_mends_it(tmp_path: Path) -> None:
    lake = _Lake()
    pending = _stage(lake, EventIds(tmp_path), 1, [(1, 1)], window=5)
    EventIds(tmp_path).add(pending)
    [path] = tmp_path.glob("*.ids")
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(OSError, match=r"is not a whole file of event ids; remove it"):
        _stage(lake, EventIds(tmp_path), 2, [(1, 1)], window=5)
