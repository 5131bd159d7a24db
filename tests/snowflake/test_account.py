"""The deployed account, and a process of its own that dies."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.snowflake.account import deployed, variables
from tests.snowflake.ask import column, run, value
from tests.snowflake.stand_in import StandIn

pytestmark = pytest.mark.stand_in

_PROJECT = Path(__file__).resolve().parents[2]


def test_the_account_is_deployed_once(tmp_path: Path) -> None:
    with deployed(tmp_path / "home", tmp_path / "landing") as account:
        session = account.connect(database="KURASHIRU", schema="OPS", warehouse="W")
        assert value(session, "select fence from writer_lease where name = 'realtime'") == 0
        assert len(column(session, "show pipes in schema raw")) == 3
        assert account.statements[0].sql.startswith("select fence")
        recorded = list(account.recorded)
        assert any(statement.startswith("create role") for statement in recorded)
        run(session, "update writer_lease set fence = 7")
    with deployed(tmp_path / "home", tmp_path / "landing") as account:
        session = account.connect(database="KURASHIRU", schema="OPS", warehouse="W")
        assert value(session, "select fence from writer_lease") == 7
        assert account.recorded == recorded


_DIES = """
import os, signal, sys
from pathlib import Path
from tests.snowflake.stand_in import StandIn

account = StandIn(Path(sys.argv[1]), landing=Path(sys.argv[2]))
account.run_script(
    "create schema raw; create table raw.t (id int); create stream raw.s on table raw.t append_only = true;"
    "create table raw.staged (id int); insert into raw.t values (1), (2);"
)
session = account.connect(database="KURASHIRU", schema="RAW", warehouse="W")
for sql in ("insert into t values (3)", "begin", "insert into staged select id from s", "insert into t values (4)"):
    session.cursor().execute(sql)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_committed_outlives_kill_9(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _DIES, str(tmp_path / "home"), str(tmp_path / "landing")]
    died = subprocess.run(command, cwd=_PROJECT, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    with StandIn(tmp_path / "home", landing=tmp_path / "landing") as account:
        session = account.connect(database="KURASHIRU", schema="RAW", warehouse="W")
        assert column(session, "select id from t order by id") == [1, 2, 3]
        assert column(session, "select id from s order by id") == [1, 2, 3]
        assert value(session, "select count(*) from staged") == 0


def test_a_command_over_the_stand_in(tmp_path: Path) -> None:
    """`kurashiru` in a process of its own, over the account kept in a folder."""
    command = [
        sys.executable, "-m", "tests.snowflake.process", str(tmp_path / "account"), str(tmp_path / "landing"),
        "--setup", "tests.snowflake.test_account:leave_a_mark", "--", "env", "--json",
    ]  # fmt: skip
    environment = {**os.environ, **variables(tmp_path / "home")}
    done = subprocess.run(command, cwd=_PROJECT, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["KURASHIRU_ENGINE"] == "snowflake"
    with deployed(tmp_path / "account", tmp_path / "landing") as account:
        session = account.connect(database="KURASHIRU", warehouse="W")
        assert value(session, "select holder from ops.writer_lease") == "mark"


def leave_a_mark(account: StandIn) -> None:
    """What `--setup` names in the test above."""
    account.run_script("update ops.writer_lease set holder = 'mark'")
