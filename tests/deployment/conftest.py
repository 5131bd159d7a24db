"""Settings of production whose Snowflake is the stand-in and whose DynamoDB is emulated, and the account deployed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kurashiru_pipeline.deployment import scripts
from kurashiru_pipeline.deployment.snowflake import apply_migrations
from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from tests.deployment import administration
from tests.deployment.administration import Administration
from tests.snowflake import account as stand_in_account
from tests.snowflake.stand_in import StandIn


@pytest.fixture
def variables(tmp_path: Path, aws_endpoint: str) -> dict[str, str]:
    return {
        **stand_in_account.variables(tmp_path / "home"),
        "KURASHIRU_DYNAMODB_ENDPOINT": aws_endpoint,
        "KURASHIRU_DYNAMODB_TABLE": f"recommendations-{tmp_path.name[-40:]}",
    }


@pytest.fixture
def settings(variables: dict[str, str]) -> Settings:
    return Settings.load(Environment.PRODUCTION, variables)


@pytest.fixture
def account(settings: Settings, tmp_path: Path) -> Iterator[StandIn]:
    """A new account: the stand-in, with nothing deployed."""
    with StandIn(tmp_path / "account", landing=tmp_path / "landing") as stand_in:
        yield stand_in


@pytest.fixture
def administered(account: StandIn) -> Administration:
    """The new account, with an administration that can be asked."""
    return administration.install(account)


@pytest.fixture(scope="session")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Folder of an account that was bootstrapped, then deployed by schemachange, and what it only recorded."""
    home = tmp_path_factory.mktemp("deployment")
    settings = Settings.load(Environment.PRODUCTION, stand_in_account.variables(home / "home"))
    with StandIn(home / "account", landing=home / "landing") as account:
        administration.install(account)
        account.run_script(scripts.bootstrap(settings).sql)
        apply_migrations(settings, None, lambda _: None)
        recorded = list(account.recorded)
    return home / "account", recorded


@pytest.fixture
def administered_deployment(deployment: tuple[Path, list[str]], tmp_path: Path) -> Iterator[Administration]:
    """A copy of the deployed account."""
    home, recorded = deployment
    shutil.copytree(home, tmp_path / "account")
    with StandIn(tmp_path / "account", landing=tmp_path / "landing") as account:
        account.recorded = list(recorded)
        yield administration.install(account)


@pytest.fixture
def deployed(administered_deployment: Administration, settings: Settings) -> StandIn:
    """A deployed account of the test's own, and its DynamoDB table."""
    RecommendationTable.from_settings(settings).ensure_exists(create=True)
    return administered_deployment.account
