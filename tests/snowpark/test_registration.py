"""What registration asks of an account, as Snowpark writes it: statements and uploads are caught on their way."""

from collections.abc import Iterator
from unittest import mock

import pytest
from snowflake.snowpark import Session
from snowflake.snowpark._internal.server_connection import ServerConnection

from kurashiru_pipeline.snowpark.packaging import PACKAGES
from kurashiru_pipeline.snowpark.registration import register_challenger, register_functions, register_training


class Account:
    """A session whose statements and uploads are written down instead of sent."""

    def __init__(self) -> None:
        connection = mock.create_autospec(ServerConnection)
        connection._conn = mock.Mock()
        connection._telemetry_client = mock.Mock()
        connection._thread_safe_session_enabled = False
        self.session = Session(connection)
        self.statements: list[str] = []
        self.uploads: dict[str, bytes] = {}
        self.session._run_query = lambda query, **_: self.statements.append(" ".join(query.split()))
        self.session._resolve_packages = lambda packages, **_: list(packages)
        self.session._file = mock.Mock()
        self.session._file.put_stream = lambda stream, place, **_: self.uploads.update({place: stream.read()})

    @property
    def created(self) -> list[str]:
        return [statement for statement in self.statements if statement.startswith("CREATE")]


@pytest.fixture
def account() -> Iterator[Account]:
    account = Account()
    yield account
    account.session.close()


def test_functions_are_permanent_and_named_by_the_zip(account: Account) -> None:
    register_functions(account.session, "v7")
    [code] = account.uploads
    assert code.startswith("@model.code/")
    assert code.endswith("/kurashiru_kernel.zip")
    build, ranked = account.created
    packages = ",".join(f"'{package}'" for package in PACKAGES)
    signature = "recommendation.build_profile(arg1 STRING,arg2 ARRAY,arg3 ARRAY,arg4 STRING,arg5 STRING)"
    assert build.startswith(
        f"CREATE OR REPLACE FUNCTION {signature} COPY GRANTS RETURNS VARIANT LANGUAGE PYTHON VOLATILE"
    )
    assert f"IMPORTS=('{code}') PACKAGES=({packages}) HANDLER='kurashiru_kernel.build_profile'" in build
    signature = "recommendation.rank_recipes(arg1 OBJECT,arg2 STRING,arg3 STRING,arg4 STRING,arg5 BIGINT)"
    assert signature in ranked
    artifact = "'@model.artifacts/v7/artifact.npz','@model.artifacts/v7/manifest.json'"
    assert f"IMPORTS=({artifact},'{code}')" in ranked
    assert ranked.endswith("HANDLER='kurashiru_kernel.rank_recipes'")
    assert not [statement for statement in account.created if "TEMPORARY" in statement]


def test_without_a_model_functions_carry_none(account: Account) -> None:
    register_functions(account.session, None)
    assert not [statement for statement in account.created if "model.artifacts" in statement]


def test_a_challenger_is_the_same_handler_with_another_model(account: Account) -> None:
    register_challenger(account.session, "v8")
    [statement] = account.created
    assert "FUNCTION recommendation.rank_challenger(arg1 OBJECT,arg2 STRING,arg3 STRING,arg4 STRING" in statement
    assert "'@model.artifacts/v8/artifact.npz','@model.artifacts/v8/manifest.json'" in statement
    assert statement.endswith("HANDLER='kurashiru_kernel.rank_recipes'")


def test_the_procedure_runs_with_its_owners_rights(account: Account) -> None:
    register_training(account.session)
    [statement] = account.created
    assert statement.startswith("CREATE OR REPLACE PROCEDURE model.train(arg1 STRING,arg2 STRING) COPY GRANTS RETURNS")
    assert statement.endswith("HANDLER='kurashiru_kernel.train' EXECUTE AS OWNER")


def test_the_same_code_goes_to_the_same_place(account: Account) -> None:
    register_functions(account.session, "v7")
    register_functions(account.session, "v8")
    register_training(account.session)
    assert len(account.uploads) == 1
