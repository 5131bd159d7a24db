"""The source of the settings: off by default, clear when they are wrong; who is told what; what is shown of it."""

from datetime import datetime, timedelta
from typing import Any, cast

import dagster as dg
import pyarrow as pa
import pytest

from kurashiru_pipeline.core.weights import load_weights
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError
from kurashiru_pipeline.realtime.checks import external_source_answers
from kurashiru_pipeline.realtime.kernel import ProcessKernel, WarehouseKernel, open_kernel
from kurashiru_pipeline.realtime.micro_batch import StepResult
from kurashiru_pipeline.sources.breaker import State
from kurashiru_pipeline.sources.recommender import SUGGESTION_SCHEMA, Suggestions
from kurashiru_pipeline.sources.source import Consultation, ExternalSource, open_source
from kurashiru_pipeline.warehouse.base import Warehouse
from tests.kitchen import catalogue, recipe
from tests.sources.service import ENDPOINT, Service

NOW = datetime(2026, 11, 23, 9, 30)
ON = {
    "KURASHIRU_EXTERNAL_SOURCE": "sagemaker",
    "KURASHIRU_EXTERNAL_ENDPOINT": ENDPOINT,
    "KURASHIRU_EXTERNAL_DEADLINE_MS": "20000",
}
PROFILES = pa.table({"user_id": ["u1", "u2"], "recipe_ids": [["r1", "r2", "r3"], []], "more": [1, 2]})


class Ledger:
    """As much of a warehouse as a source reads: its own last calls."""

    engine = "snowflake"

    def __init__(self, *calls: dict[str, Any]) -> None:
        self.calls = list(calls)
        self.asked: list[dict[str, Any]] = []

    def fetch(self, script: str, **parameters: Any) -> pa.Table:
        assert script == "last_external_calls"
        self.asked.append(parameters)
        return pa.Table.from_pylist(self.calls[: parameters["at_most"]])


def source(ledger: Ledger, **variables: str) -> ExternalSource:
    opened = open_source(cast("Warehouse", ledger), Settings.load(Environment.LOCAL, {**ON, **variables}))
    assert opened is not None
    opened._clock = lambda: NOW
    return opened


def failed(seconds_ago: float) -> dict[str, Any]:
    return {
        "called_at": NOW - timedelta(seconds=seconds_ago),
        "breaker": "closed",
        "asked_count": 2,
        "answered_count": 0,
    }


@pytest.mark.parametrize("environment", Environment)
def test_it_is_off_by_default(environment: Environment) -> None:
    assert open_source(cast("Warehouse", None), Settings.load(environment, {})) is None


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"KURASHIRU_EXTERNAL_SOURCE": "personalize"}, "KURASHIRU_EXTERNAL_SOURCE='personalize'.*none, or sagemaker"),
        ({"KURASHIRU_EXTERNAL_ENDPOINT": ""}, "export KURASHIRU_EXTERNAL_ENDPOINT=kurashiru-recommender"),
        ({"KURASHIRU_EXTERNAL_ENDPOINT": "No_Name"}, "KURASHIRU_EXTERNAL_ENDPOINT='No_Name'.*lower case"),
        ({"KURASHIRU_EXTERNAL_URL": "127.0.0.1:8750"}, "KURASHIRU_EXTERNAL_URL=.* export"),
        ({"KURASHIRU_EXTERNAL_URL": "http://runtime.internal"}, "in the clear.*https://"),
        ({"KURASHIRU_EXTERNAL_DEADLINE_MS": "0"}, "DEADLINE_MS='0' must be .* at least 1 and at most 60000"),
        ({"KURASHIRU_EXTERNAL_DEADLINE_MS": "60001"}, "DEADLINE_MS='60001' must be .* at most 60000"),
        ({"KURASHIRU_EXTERNAL_DEADLINE_MS": "2s"}, "KURASHIRU_EXTERNAL_DEADLINE_MS='2s'"),
        ({"KURASHIRU_EXTERNAL_BATCH_USERS": "5001"}, "at most 5000"),
        ({"KURASHIRU_EXTERNAL_CONCURRENCY": "0"}, "at least 1"),
        ({"KURASHIRU_EXTERNAL_COUNT": "0"}, "at least 1"),
        ({"KURASHIRU_EXTERNAL_FAILURES": "0"}, "at least 1"),
        ({"KURASHIRU_EXTERNAL_PAUSE_SECONDS": "-1"}, "KURASHIRU_EXTERNAL_PAUSE_SECONDS='-1'"),
        ({"KURASHIRU_EXTERNAL_RECIPES": "some"}, "KURASHIRU_EXTERNAL_RECIPES='some'"),
    ],
)
def test_a_wrong_setting_is_a_clear_error(variables: dict[str, str], complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        source(Ledger(), **variables)


def kernel(**variables: str) -> object:
    ledger = cast("Warehouse", Ledger())
    return open_kernel(ledger, Settings.load(Environment.LOCAL, variables), load_weights())


def test_the_kernel_in_the_warehouse_asks_nobody() -> None:
    assert isinstance(kernel(**ON), ProcessKernel)
    assert isinstance(kernel(KURASHIRU_KERNEL="warehouse"), WarehouseKernel)
    with pytest.raises(ConfigurationError, match=r"export KURASHIRU_KERNEL=process, or .*EXTERNAL_SOURCE=none"):
        kernel(**ON, KURASHIRU_KERNEL="warehouse")


@pytest.mark.parametrize(
    ("recipes", "told"),
    [
        ("0", [{"user_id": "u1"}, {"user_id": "u2"}]),
        ("2", [{"user_id": "u1", "recent_recipe_ids": ["r1", "r2"]}, {"user_id": "u2", "recent_recipe_ids": []}]),
    ],
)
def test_no_more_is_told_of_a_user_than_the_settings_say(recipes: str, told: list[dict[str, Any]]) -> None:
    with Service() as service:
        asked = source(Ledger(), KURASHIRU_EXTERNAL_URL=service.url, KURASHIRU_EXTERNAL_RECIPES=recipes)
        consultation = asked.consult(PROFILES, catalogue(recipe("r1")))
        assert service.requests == [[{**user, "count": 50} for user in told]]
    assert consultation.suggestions.answered_count == 2
    assert (consultation.allowed, consultation.state) == (State.CLOSED, State.CLOSED)


def test_an_open_breaker_asks_nobody() -> None:
    ledger = Ledger(*[failed(1)] * 5)
    with Service() as service:
        asked = source(ledger, KURASHIRU_EXTERNAL_URL=service.url).consult(PROFILES, catalogue(recipe("r1")))
        assert service.requests == []
    assert (asked.allowed, asked.state) == (State.OPEN, State.OPEN)
    assert asked.suggestions == Suggestions.none()
    assert ledger.asked == [{"source": f"sagemaker:{ENDPOINT}", "at_most": 3}]


def test_how_it_stands_is_read_without_asking() -> None:
    with Service() as service:
        never = source(Ledger(), KURASHIRU_EXTERNAL_URL=service.url).standing()
        down = source(Ledger(*[failed(1)] * 3), KURASHIRU_EXTERNAL_URL=service.url).standing()
        assert service.requests == []
    name = f"sagemaker:{ENDPOINT}"
    assert never == {"source": name, "breaker": "closed", "last_asked": None, "last_answered": None}
    assert down == {"source": name, "breaker": "open", "last_asked": 2, "last_answered": 0}


def test_a_half_open_one_asks_once_and_closes() -> None:
    with Service() as service:
        asked = source(
            Ledger(*[failed(60)] * 3), KURASHIRU_EXTERNAL_URL=service.url, KURASHIRU_EXTERNAL_BATCH_USERS="1"
        ).consult(PROFILES, catalogue(recipe("r1")))
        assert service.requests == [[{"user_id": "u1", "count": 50}]]
    assert (asked.allowed, asked.state) == (State.HALF_OPEN, State.CLOSED)
    assert asked.suggestions.table["user_id"].to_pylist() == ["u1"]


def test_a_micro_batch_without_users_changes_no_breaker() -> None:
    with Service() as service:
        opened = source(Ledger(*[failed(60)] * 3), KURASHIRU_EXTERNAL_URL=service.url)
        asked = opened.consult(PROFILES.slice(0, 0), catalogue())
        assert service.requests == []
    assert (asked.suggestions.asked_count, asked.state) == (0, State.HALF_OPEN)


def consultation(state: State, error: str = "") -> Consultation:
    said = Suggestions(SUGGESTION_SCHEMA.empty_table(), 4, 1, 2, 1, 7, 0.12345, error)
    return Consultation("sagemaker:x", State.CLOSED, state, NOW, said)


def test_the_ledger_and_the_figures_say_what_happened() -> None:
    asked = consultation(State.OPEN, "1 of 2 requests: down")
    [row] = asked.ledger_row(7).to_pylist()
    counts = {"asked_count": 4, "answered_count": 1, "failed_count": 2, "late_count": 1, "unknown_count": 7}
    assert row == counts | {
        "batch_id": 7,
        "source": "sagemaker:x",
        "breaker": "closed",
        "seconds": 0.12345,
        "error": "1 of 2 requests: down",
        "called_at": NOW,
    }
    assert asked.figures == {
        "asked": 4,
        "answered": 1,
        "failed": 2,
        "late": 1,
        "unknown_recipes": 7,
        "seconds": 0.123,
        "breaker": "open",
    }


@pytest.mark.parametrize(
    ("external", "passed", "description"),
    [
        (None, True, "none was asked"),
        (consultation(State.CLOSED), True, None),
        (consultation(State.CLOSED, "1 of 2 requests: down"), True, "1 of 2 requests: down"),
        (consultation(State.OPEN, "2 of 2 requests: down"), False, "2 of 2 requests: down"),
        (consultation(State.OPEN), False, "ops.external_calls"),
        (consultation(State.HALF_OPEN), False, "ops.external_calls"),
    ],
)
def test_the_check_warns_unless_the_breaker_is_closed(
    external: Consultation | None, passed: bool, description: str | None
) -> None:
    check = external_source_answers(StepResult(1, external=external))
    assert check.passed is passed
    assert check.severity is dg.AssetCheckSeverity.WARN or external is None
    assert (description or "") in (check.description or "")
