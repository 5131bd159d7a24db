"""Sensor and job are tested on both engines; `-m stand_in` selects those on Snowflake's stand-in."""

import pytest


@pytest.fixture(params=["ducklake", pytest.param("snowflake", marks=pytest.mark.stand_in)])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)
