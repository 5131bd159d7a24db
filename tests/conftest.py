"""Shared fixtures: settings in a temporary home, an emulated DynamoDB on loopback, a pipeline over both."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.realtime.micro_batch import MicroBatchPipeline
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.warehouse import open_warehouse
from tests.engines import SNOWFLAKE, Accounts, make_template

_ENGINE = re.compile(r"\[(?P<engine>ducklake|snowflake)\b")


@pytest.fixture(scope="session")
def aws_endpoint() -> Iterator[str]:
    """A DynamoDB over HTTP, on a port of its own."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    yield f"http://127.0.0.1:{port}"
    server.stop()


@pytest.fixture
def engine() -> str:
    """The engine under test; folders whose tests run on both make it a parameter."""
    return "ducklake"


@pytest.fixture(scope="session")
def account_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("snowflake") / "account")


@pytest.fixture
def accounts(engine: str, request: pytest.FixtureRequest) -> Iterator[Accounts | None]:
    """Accounts of Snowflake's stand-in, where that is the engine."""
    if engine == "ducklake":
        yield None
        return
    with Accounts(request.getfixturevalue("account_template")) as entered:
        yield entered


@pytest.fixture
def variables(tmp_path: Path, aws_endpoint: str, accounts: Accounts | None) -> dict[str, str]:
    """Variables of a local environment that touches nothing outside the test."""
    chosen = {
        "KURASHIRU_HOME": str(tmp_path / "home"),
        "KURASHIRU_DYNAMODB_ENDPOINT": aws_endpoint,
        "KURASHIRU_DYNAMODB_TABLE": f"recommendations-{tmp_path.name[-40:]}",
        "KURASHIRU_LINGER_SECONDS": "0",
        **(SNOWFLAKE if accounts is not None else {}),
    }
    if accounts is not None:
        accounts.use(Settings.load(Environment.LOCAL, chosen))
    return chosen


@pytest.fixture
def settings(variables: dict[str, str]) -> Settings:
    return Settings.load(Environment.LOCAL, variables)


@pytest.fixture
def open_pipeline(settings: Settings, accounts: Accounts | None) -> Iterator[Callable[..., MicroBatchPipeline]]:
    """Opens the pipeline as a new process would; whatever is still open is closed at the end."""
    opened: list[MicroBatchPipeline] = []

    def open_one(**changes: str) -> MicroBatchPipeline:
        while opened:
            opened.pop().warehouse.close()
        chosen = Settings.load(Environment.LOCAL, {**settings.environ, **changes})
        if accounts is not None:
            accounts.use(chosen)
        warehouse = open_warehouse(chosen)
        opened.append(MicroBatchPipeline(warehouse, chosen, lambda: RecommendationTable.from_settings(chosen)))
        return opened[-1]

    yield open_one
    for pipeline in opened:
        pipeline.warehouse.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share a dbt build stay on one worker, so that it is built once."""
    for item in items:
        if "analytics" in item.path.parts:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Which engine the pipeline's tests ran on."""
    outcomes = Counter(
        (match["engine"], outcome)
        for outcome in ("passed", "failed", "error")
        for report in terminalreporter.getreports(outcome)
        if (
            match := re.match(
                r"tests/(pipeline|realtime|warehouse)/.*\[(?P<engine>ducklake|snowflake)\b", report.nodeid
            )
        )
    )
    for (engine, outcome), count in sorted(outcomes.items()):
        where = "Snowflake's stand-in" if engine == "snowflake" else "DuckLake"
        terminalreporter.write_line(f"tests that run on both engines, on {where}: {count} {outcome}")
