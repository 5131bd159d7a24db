"""The patterns of an event, as SQL and simulator use them."""

import re
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kurashiru_pipeline.core.events import (
    EVENT_NAME_PATTERN,
    EVENT_NAMES,
    ID_PATTERN,
    REJECT_REASONS,
    TIME_PATTERN,
    UUID_PATTERN,
)

# Matched whole, by every engine.
ALL = {"uuid": UUID_PATTERN, "id": ID_PATTERN, "name": EVENT_NAME_PATTERN, "time": TIME_PATTERN}


def matches(kind: str, text: str) -> bool:
    return re.fullmatch(ALL[kind], text) is not None


@given(st.uuids())
def test_every_uuid_fits_in_either_case(value: object) -> None:
    assert matches("uuid", str(value))
    assert matches("uuid", str(value).upper())


@given(st.datetimes(min_value=datetime(1, 1, 1)))
def test_every_moment_fits_with_any_number_of_decimals(moment: datetime) -> None:
    text = moment.isoformat(timespec="microseconds")
    for length in (len(text), len(text) - 1, len(text) - 3, len(text) - 7):
        assert matches("time", f"{text[:length]}Z")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("uuid", ""),
        ("uuid", "0f8fad5bd9cb469fa165708672896bf1"),
        ("uuid", "{0f8fad5b-d9cb-469f-a165-708672896bf1}"),
        ("uuid", "0f8fad5b-d9cb-469f-a165-708672896bfg"),
        ("uuid", "0f8fad5b-d9cb-469f-a165-708672896bf1\n"),
        ("id", ""),
        ("id", "a" * 65),
        ("id", "a b"),
        ("id", "a,b"),
        ("id", "a\n"),
        ("id", "é"),
        ("id", "#default"),
        ("name", ""),
        ("name", "a" * 65),
        ("name", "a\nb"),
        ("time", "2026-11-23T09:30:00"),
        ("time", "2026-11-23 09:30:00Z"),
        ("time", "2026-11-23T24:00:00Z"),
        ("time", "2026-11-23T09:30:00.Z"),
        ("time", "2026-11-23T09:30:00.1234567Z"),
        ("time", "2026-11-23T09:30:00+00:00"),
    ],
)
def test_what_does_not_fit(kind: str, text: str) -> None:
    assert not matches(kind, text)


def test_limits_are_inclusive() -> None:
    assert matches("id", "a")
    assert matches("id", "Az09_-" + "a" * 58)
    assert matches("name", "a")
    assert matches("name", "鶏" * 64)


def test_names_and_reasons_are_distinct_and_fit_their_own_pattern() -> None:
    assert len(set(EVENT_NAMES)) == len(EVENT_NAMES)
    assert len(set(REJECT_REASONS)) == len(REJECT_REASONS)
    assert all(matches("name", name) for name in EVENT_NAMES)
