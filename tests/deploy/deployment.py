"""A whole deployment on loopback: the processes of compose.yaml, started by its own commands, without containers.

Here: code servers, daemon and web server over production's dagster.yaml and workspace.yaml; ports chosen freely.
Not here: PostgreSQL (postgres.py) and the emulated AWS (conftest.py).
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg
import yaml
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._grpc.client import DagsterGrpcClient

from kurashiru_pipeline.environment import PROJECT_ROOT

T = TypeVar("T")
COMPOSE: dict[str, Any] = yaml.safe_load((PROJECT_ROOT / "deploy/docker/compose.yaml").read_text(encoding="utf-8"))
WORKSPACE: dict[str, Any] = yaml.safe_load((PROJECT_ROOT / "deploy/dagster/workspace.yaml").read_text(encoding="utf-8"))
_IMAGE_WORKSPACE = "/opt/kurashiru/deploy/dagster/workspace.yaml"
_PATIENCE_SECONDS = 240.0


class Deployment:
    """Services of compose.yaml as processes of this machine, each the leader of a group of its own."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        servers = [entry["grpc_server"] for entry in WORKSPACE["load_from"]]
        self.code_servers = {server["host"] for server in servers}
        self.ports = {name: _free_port() for name in (*self.code_servers, "webserver")}
        self._folder = folder
        tools = str(Path(sys.executable).parent)
        self._environ = {
            **os.environ,
            **variables,
            "PATH": os.pathsep.join([tools, os.environ.get("PATH", os.defpath)]),
        }
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        entries = [
            {"grpc_server": {**server, "host": "127.0.0.1", "port": self.ports[server["host"]]}} for server in servers
        ]
        self.workspace = folder / "workspace.yaml"
        self.workspace.write_text(yaml.safe_dump({"load_from": entries}), encoding="utf-8")

    def __enter__(self) -> "Deployment":
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self._running)):
            self.kill(name)

    def start(self, service: str) -> None:
        """Start a service and, if it is a code server, wait until it answers."""
        with self._log(service).open("ab") as log:
            self._running[service] = subprocess.Popen(
                self.on_loopback(service, COMPOSE["services"][service]["command"]),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=PROJECT_ROOT,
                env=self._environ,
            )
        if service in self.code_servers:
            self.wait_for(f"{service} to answer", lambda: self._answers(service))

    def ask_to_stop(self, service: str) -> None:
        """What `docker compose stop` and Kubernetes send first, to the first process alone."""
        self._running[service].send_signal(signal.SIGTERM)

    def kill(self, service: str) -> None:
        """End a service as a lost container does: every process of it, at once."""
        process = self._running.pop(service)
        with suppress(ProcessLookupError):  # all of it had ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def has_ended(self, service: str) -> bool:
        return self._running[service].poll() is not None

    def is_healthy(self, service: str) -> bool:
        """Run the service's health check as compose.yaml, or else the Dockerfile, has it."""
        check = COMPOSE["services"][service].get("healthcheck", {"test": ["CMD", *IMAGE_HEALTHCHECK]})
        command = self.on_loopback(service, check["test"][1:])
        done = subprocess.run(
            command, env=self._environ, cwd=PROJECT_ROOT, capture_output=True, check=False, timeout=60
        )
        return done.returncode == 0

    def on_loopback(self, service: str, command: list[str]) -> list[str]:
        """The command with this machine's address, port and workspace in place of the container's."""
        port = str(self.ports.get(service, 0))
        changes = {"0.0.0.0": "127.0.0.1", "4000": port, "3000": port, _IMAGE_WORKSPACE: str(self.workspace)}
        changed = [changes.get(part, part).replace("127.0.0.1:3000", f"127.0.0.1:{port}") for part in command]
        return [sys.executable, *changed[1:]] if changed[0] == "python" else changed

    def wait_for(self, what: str, look: Callable[[], T], seconds: float = _PATIENCE_SECONDS) -> T:
        """The first answer of `look` that is something.

        Raises:
            TimeoutError: it stays away, or a service died; with the ends of all logs.
        """
        deadline = time.monotonic() + seconds
        while True:
            found = look()
            if found:
                return found
            if time.monotonic() > deadline:
                logs = "\n".join(
                    f"--- {name}\n" + "\n".join(self._log(name).read_text(errors="replace").splitlines()[-15:])
                    for name in self._running
                )
                message = f"waited {seconds:.0f} s for {what}\n{logs}"
                raise TimeoutError(message)
            time.sleep(0.1)

    def _answers(self, service: str) -> bool:
        client = DagsterGrpcClient(host="127.0.0.1", port=self.ports[service])
        try:
            client.ping("")
        except DagsterUserCodeUnreachableError:
            if self.has_ended(service):
                message = f"{service} died:\n{self._log(service).read_text(errors='replace')}"
                raise RuntimeError(message) from None
            return False
        return True

    def _log(self, service: str) -> Path:
        return self._folder / f"{service}.log"


def _healthcheck_of_the_image() -> list[str]:
    text = (PROJECT_ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
    command: list[str] = yaml.safe_load(text.split("HEALTHCHECK", 1)[1].split("CMD", 1)[1].splitlines()[0])
    return command


IMAGE_HEALTHCHECK = _healthcheck_of_the_image()


def runs_of(instance: dg.DagsterInstance, job_name: str, *statuses: dg.DagsterRunStatus) -> list[dg.DagsterRun]:
    """Runs of a job, newest first; of any status where none is named."""
    return list(instance.get_runs(dg.RunsFilter(job_name=job_name, statuses=list(statuses) or None)))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
