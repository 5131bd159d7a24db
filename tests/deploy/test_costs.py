"""The cost page shows what its script computes, and the arithmetic is right where it can be checked by hand."""

from dataclasses import replace

import pytest

from benchmarks.costs import BEGIN, CREDITS_AN_HOUR, PAGE, Costs, Design, Traffic, page_with, tables


def test_page_and_script_agree() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert BEGIN in text
    assert page_with(text, tables(Costs())) == text, "write the page anew: python -m benchmarks.costs --write"


def test_a_page_without_its_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks the lines"):
        page_with("nothing", "tables")


def test_known_figures() -> None:
    costs = Costs()
    assert costs.gigabytes == 300
    assert costs.snowpipe_credits == pytest.approx(1.11)
    assert costs.warehouse_hours == 24, "a micro-batch a minute never lets the warehouse suspend itself"
    one_event_a_user = Traffic(events_a_day=1_000, users_a_day=1_000, sessions_a_user=1, session_seconds=0)
    assert replace(costs, traffic=one_event_a_user).writes == 1_000


def test_a_session_shorter_than_the_interval_is_touched_once_or_twice() -> None:
    traffic = Traffic(users_a_day=1, sessions_a_user=1, session_seconds=60)
    assert traffic.touches_a_day(interval=60) == 2
    assert traffic.touches_a_day(interval=600) == pytest.approx(1.1)


def test_a_wake_up_costs_at_least_a_minute() -> None:
    idle = Design(interval_seconds=3_600, queries=0, auto_suspend_seconds=0)
    nothing = Traffic(events_a_day=0, users_a_day=0)
    costs = Costs(traffic=nothing, design=idle)
    assert costs.warehouse_hours == pytest.approx(24 / 60)
    assert costs.pipeline_credits == pytest.approx(24 / 60 * CREDITS_AN_HOUR["XSMALL"])


def test_firehose_rounds_records_not_events() -> None:
    def gib(**changes: int) -> float:
        costs = Costs(design=Design(**changes))
        return costs.firehose / costs.prices.firehose_gib

    assert gib() == pytest.approx(300e6 * 5_120 / 2**30)
    assert gib(events_a_record=5) == pytest.approx(gib() / 5)
    assert gib(events_a_record=6) == pytest.approx(gib() / 6 * 2)
