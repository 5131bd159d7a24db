"""The engines under test: settings for each, and accounts of Snowflake's stand-in, one for each home.

Here: what a test needs so that the same code runs on DuckLake and on the stand-in, in the way of production.
Not here: the stand-in itself (tests/snowflake), or expectations.
"""

import gzip
import io
import json
import shutil
from base64 import b64encode
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import snowflake.connector

from kurashiru_pipeline.environment import Environment, Settings
from kurashiru_pipeline.serving.dynamodb import RecommendationTable
from kurashiru_pipeline.serving.lambda_handler import answer_request
from kurashiru_pipeline.warehouse import snowflake_lease
from tests.snowflake.account import deployed
from tests.snowflake.stand_in import StandIn
from tests.snowpark.functions import stand_in_functions

SNOWFLAKE = {
    "KURASHIRU_ENGINE": "snowflake",
    "KURASHIRU_KERNEL": "warehouse",
    "KURASHIRU_REFLECT": "external_function",
    "KURASHIRU_SNOWFLAKE_ACCOUNT": "myorg-stand_in",
    "KURASHIRU_SNOWFLAKE_USER": "SVC_KURASHIRU",
    "KURASHIRU_SNOWFLAKE_AUTHENTICATOR": "workload_identity",
    "KURASHIRU_SNOWFLAKE_ROLE": "KURASHIRU_ORCHESTRATOR",
    "KURASHIRU_SNOWFLAKE_WAREHOUSE": "KURASHIRU_PIPELINE",
    "KURASHIRU_SNOWFLAKE_ANALYTICS_WAREHOUSE": "KURASHIRU_ANALYTICS",
    "KURASHIRU_SNOWFLAKE_DATABASE": "KURASHIRU",
}
"""Turn local settings into those of production's way: the kernel and the delivery in the warehouse."""


class Accounts:
    """While entered, `snowflake.connector.connect` opens a session of the account in use.

    Settings with a home of their own have an account of their own, deployed when it is first used.

    Attributes:
        put_items: the external function of each home's account.
    """

    def __init__(self, template: Path) -> None:
        self._template = template
        self.put_items: dict[Path, PutItems] = {}
        self._accounts: dict[Path, StandIn] = {}
        self._current: StandIn | None = None
        self._patch = patch.object(snowflake.connector, "connect", self._connect)

    def __enter__(self) -> "Accounts":
        self._patch.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._patch.stop()
        self.close()

    def close(self) -> None:
        """Let go of the accounts' files, as a process that ends."""
        for account in self._accounts.values():
            account.close()
        self._accounts.clear()
        self._current = None

    def use(self, settings: Settings) -> StandIn:
        """The account of these settings, from now on the one that is connected to."""
        home = settings.home / "account"
        if home not in self._accounts:
            if not home.exists():
                home.parent.mkdir(parents=True, exist_ok=True)
                shutil.copytree(self._template, home)
            self._accounts[home] = deployed(home, settings.landing)
            self.put_items[settings.home] = register_functions(self._accounts[home], settings)
        self._current = self._accounts[home]
        return self._current

    def _connect(self, **options: Any) -> Any:
        assert self._current is not None, "no account is in use"
        return self._current.connect(**options)


def make_template(folder: Path) -> Path:
    """A deployed account, closed, to make others from."""
    deployed(folder, folder.parent / "no-landing").close()
    return folder


def register_functions(account: StandIn, settings: Settings, artifact: Path | None = None) -> "PutItems":
    """The kernel's functions and the external function, as promotion and deployment would make them."""
    for name, (call, arity) in stand_in_functions(artifact).items():
        account.register_function(name, call, arity)
    put_items = PutItems(settings)
    account.register_function("SERVING.PUT_ITEMS", put_items, 3, batch_rows=40, shuffle_seed=1, repeat_every=7)
    return put_items


class PutItems:
    """Snowflake's side of the external function: rows to a request, the Lambda function's response to values.

    Attributes:
        before_request: called before each request, to count them or to die.
        seconds: what Lambda's clock leaves for the writes of a request.
    """

    def __init__(self, settings: Settings) -> None:
        self.before_request: Callable[[], None] = lambda: None
        self.seconds = 20.0
        self._table = RecommendationTable.from_settings(settings)

    def __call__(self, rows: list[tuple[Any, ...]]) -> list[Any]:
        self.before_request()
        body = json.dumps({"data": [[number, *row] for number, row in enumerate(rows)]}).encode()
        request = {
            "httpMethod": "POST",
            "headers": {
                "content-encoding": "gzip",
                "sf-external-function-format": "json",
                "sf-external-function-format-version": "1.0",
                "sf-external-function-query-batch-id": "stand-in",
            },
            "isBase64Encoded": True,
            "body": b64encode(gzip.compress(body)).decode(),
        }
        with redirect_stdout(io.StringIO()):  # its log
            response = answer_request(request, self._table, self.seconds)
        if response["statusCode"] != 200:
            message = (
                "Request failed for external function PUT_ITEMS with remote service error: "
                f"{response['statusCode']} '{response['body']}'"
            )
            raise RuntimeError(message)
        answers = json.loads(response["body"])["data"]
        assert [number for number, _ in answers] == list(range(len(rows)))
        return [value for _, value in answers]


def register_from_environment(account: StandIn) -> None:
    """For tests.snowflake.process: functions over the process's own settings, and leases of the dead that end soon."""
    snowflake_lease.LEASE_SECONDS = snowflake_lease._LOOK_SECONDS = 0.2
    register_functions(account, Settings.load(Environment.LOCAL))
