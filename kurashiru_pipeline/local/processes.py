"""Background processes that outlive the command that started them.

Here: start, find, stop and wait for a process of the local stack, and the record of what was started.
Not here: which processes there are (stack.py).
"""

import fcntl
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
import psutil

from kurashiru_pipeline.errors import ConfigurationError, KurashiruError

HOST = "127.0.0.1"
_MARKER = "KURASHIRU_STACK_PROCESS"
_LOG_TAIL_LINES = 20
_KILL_SECONDS = 5.0


@dataclass(frozen=True)
class ProcessRecord:
    """What was started. `pid` counts only together with `seconds_after_boot`, since numbers are reused."""

    name: str
    pid: int
    seconds_after_boot: float
    started_at: str
    command: tuple[str, ...]
    port: int
    log: str


class ProcessGroup:
    """The background processes that belong to one home folder.

    A process is known by a variable in its environment, which all its descendants inherit: so those are found
    too, even if the record is missing because the command that was to write it got killed.
    """

    def __init__(self, home: Path) -> None:
        self.home = home.resolve()
        self.state_file = self.home / "stack.json"

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other commands from starting or stopping processes of this home meanwhile.

        Raises:
            ConfigurationError: the home folder cannot be written.
            KurashiruError: another command is at it.
        """
        try:
            (self.home / "logs").mkdir(parents=True, exist_ok=True)
            lock = (self.home / "stack.lock").open("a")
        except OSError as error:
            message = f"cannot write {self.home}: {error.strerror}; make it writable or set KURASHIRU_HOME"
            raise ConfigurationError(message) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                message = f"another `kurashiru up` or `down` is at work on {self.home}; wait until it has ended"
                raise KurashiruError(message) from None
            yield

    def records(self) -> dict[str, ProcessRecord]:
        """What was started and not stopped since, by name; the process itself may have died."""
        try:
            rows = orjson.loads(self.state_file.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            message = f"cannot read {self.state_file}: {error.strerror}; make it readable or set KURASHIRU_HOME"
            raise ConfigurationError(message) from error
        except orjson.JSONDecodeError as error:
            message = f"{self.state_file} is not valid JSON ({error}); mend it with: rm {self.state_file}"
            raise KurashiruError(message) from None
        return {row["name"]: ProcessRecord(**{**row, "command": tuple(row["command"])}) for row in rows}

    def start(
        self, name: str, command: Sequence[str], *, port: int, environ: Mapping[str, str], folder: Path
    ) -> ProcessRecord:
        """Start `command` in its own session, its output in {home}/logs/{name}.log, and record it."""
        log = self.home / "logs" / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**environ, _MARKER: f"{self.home}:{name}"},
                cwd=folder,
            )
        record = ProcessRecord(
            name=name,
            pid=process.pid,
            seconds_after_boot=_seconds_after_boot(psutil.Process(process.pid)),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            command=tuple(command),
            port=port,
            log=str(log),
        )
        self._save({**self.records(), name: record})
        return record

    def members(self, name: str) -> list[psutil.Process]:
        """The living processes of `name`: the one started and all that descend from it."""
        record = self.records().get(name)
        marker = f"{self.home}:{name}"
        found = []
        for process in psutil.process_iter():
            try:
                is_ours = process.environ().get(_MARKER) == marker or _is(process, record)
                if is_ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # gone meanwhile, or somebody else's: not ours in either case
        return found

    def is_running(self, name: str) -> bool:
        """Whether the process that was started is alive; its descendants alone do not count."""
        record = self.records().get(name)
        return record is not None and any(_is(process, record) for process in self.members(name))

    def stop(self, name: str, *, grace_seconds: float) -> int:
        """Ask all processes of `name` to end, kill those left after `grace_seconds`, forget the record.

        Returns:
            How many processes were running.

        Raises:
            KurashiruError: some process survived being killed.
        """
        members = self.members(name)
        stopped = len(members)
        _signal(members, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        quiet_looks = 0
        while quiet_looks < 2:  # one is not enough: amid exec, a process has no environment to be known by
            overdue = time.monotonic() - deadline
            if members and overdue > _KILL_SECONDS:
                numbers = ", ".join(str(process.pid) for process in members)
                message = f"cannot stop {name}: processes {numbers} survive SIGKILL"
                raise KurashiruError(message)
            if overdue > 0:
                _signal(members, signal.SIGKILL)
            time.sleep(0.05)
            members = self.members(name)
            quiet_looks = 0 if members else quiet_looks + 1
        remaining = {key: record for key, record in self.records().items() if key != name}
        if remaining:
            self._save(remaining)
        else:
            self.state_file.unlink(missing_ok=True)
        return stopped

    def wait_for_port(self, record: ProcessRecord, *, timeout_seconds: float) -> None:
        """Wait until the process of `record` accepts connections on its port.

        Raises:
            KurashiruError: it died, or the time is over; the end of its log is in the message.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            self.require_running(record)
            if answers(record.port):
                return
            if time.monotonic() > deadline:
                message = f"{record.name} does not answer on port {record.port} after {timeout_seconds:.0f} s"
                raise KurashiruError(f"{message}\n{log_tail(record)}")
            time.sleep(0.05)

    def require_running(self, record: ProcessRecord) -> None:
        """Raise a KurashiruError with the end of the log if the process of `record` has died."""
        if not self.is_running(record.name):
            raise KurashiruError(f"{record.name} died while starting\n{log_tail(record)}")

    def _save(self, records: Mapping[str, ProcessRecord]) -> None:
        partial = self.state_file.with_suffix(".partial")
        rows = [asdict(record) for record in records.values()]
        partial.write_bytes(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
        partial.replace(self.state_file)


def answers(port: int) -> bool:
    """Whether something accepts connections on a loopback port."""
    try:
        with socket.create_connection((HOST, port), timeout=1):
            return True
    except OSError:
        return False


def require_free_port(port: int, *, purpose: str, variable: str, flag: str) -> None:
    """Check that a loopback port can be listened on.

    Raises:
        ConfigurationError: it cannot; names who holds it, as far as the system tells, and what to change.
    """
    problem = ""
    if answers(port):  # a listener on all addresses would not stop our own binding on some systems
        problem = "is taken"
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError as error:
                problem = f"cannot be used ({error.strerror})"
    if problem:
        holder = port_holder(port)
        message = (
            f"port {port} for {purpose} {problem}{f' by {holder}' if holder else ''}; "
            f"choose another with {flag} or {variable}"
        )
        raise ConfigurationError(message)


def port_holder(port: int) -> str | None:
    """Name and number of the process that listens on a port, or None where the system does not tell."""
    try:
        for connection in psutil.net_connections("tcp"):
            is_listener = connection.status == psutil.CONN_LISTEN and port in connection.laddr
            if is_listener and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except (psutil.AccessDenied, psutil.NoSuchProcess):
        return None
    return None


def log_tail(record: ProcessRecord) -> str:
    """The last lines of a process's log, introduced by the log's path."""
    lines = Path(record.log).read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
    return "\n".join([f"the end of {record.log}:", *lines])


def _signal(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        try:
            process.send_signal(number)  # psutil checks that the number was not reused since it was found
        except psutil.NoSuchProcess:
            continue


def _is(process: psutil.Process, record: ProcessRecord | None) -> bool:
    return (
        record is not None
        and process.pid == record.pid
        and abs(_seconds_after_boot(process) - record.seconds_after_boot) < 0.005
    )


def _seconds_after_boot(process: psutil.Process) -> float:
    """When a process was created. Counted from the boot, it stays the same when the clock is set."""
    return process.create_time() - psutil.boot_time()
