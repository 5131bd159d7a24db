"""The scenarios as the command finds them, and what those of the whole pipeline make of their load."""

import gzip
import json
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from benchmarks import scenarios
from benchmarks.day import Slice, State
from benchmarks.figures import Size
from benchmarks.micro_batch import spread_over
from kurashiru_pipeline.realtime.drain import Tally


def test_every_scenario_has_a_title_that_fits_a_line() -> None:
    assert list(scenarios.titles()) == list(scenarios.ORDER)
    assert [title for title in scenarios.titles().values() if not 10 < len(title) < 100 or title.endswith(".")] == []


@pytest.mark.parametrize("name", scenarios.ORDER)
def test_every_scenario_can_be_loaded(name: str) -> None:
    assert callable(scenarios.load(name))


def test_what_a_scenario_takes_grows_with_the_size() -> None:
    for name in scenarios.ORDER:
        for of in (scenarios.usual_seconds, scenarios.disk_gb):
            sizes = [of(name, size) for size in Size]
            assert sizes == sorted(sizes)


def test_only_the_day_goes_on_where_it_was() -> None:
    assert [name for name in scenarios.ORDER if scenarios.is_resumable(name)] == ["day"]


def test_the_worst_minute_has_every_user_and_the_same_events(tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.gz" for number in range(2)]
    for number, path in enumerate(files):
        lines = [json.dumps({"event_id": f"{number}-{at}", "user_id": "one"}) for at in range(50)]
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
    spread_over(files, [f"u{number}" for number in range(40)])
    events = [json.loads(line) for path in files for line in gzip.decompress(path.read_bytes()).splitlines()]
    assert {event["event_id"] for event in events} == {f"{number}-{at}" for number in range(2) for at in range(50)}
    assert set(Counter(event["user_id"] for event in events).values()) == {2, 3}


def test_a_day_goes_on_from_its_state(tmp_path: Path) -> None:
    state = State.of(tmp_path, timedelta(hours=2))
    part = Slice(landed=True)
    part.add(Tally(batch_count=1, line_count=10, seconds={"load": 1.0, "stage": 2.0}))
    part.add(Tally(batch_count=2, line_count=20, seconds={"load": 0.5}))
    state.slices.append(part)
    state.save()
    again = State.of(tmp_path, timedelta(hours=2))
    assert again == state
    assert (part.counts["line_count"], part.counts["batch_count"], part.total) == (30, 3, 3.5)
    assert again.began_at < datetime(2100, 1, 1)
