"""A peer's process: started once, its imports done, then asked for one turn after another.

Here: starting a script of benchmarks/peers with the peers' Python, asking, answers. Not here: the scripts, which import
what the package does not have.
"""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

_SCRIPTS = Path(__file__).parent / "peers"


class Peer:
    """A script that says a line of JSON when it is ready, and answers each line with one."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._answer()

    @classmethod
    @contextmanager
    def started(cls, python: Path, script: str, *arguments: object) -> Iterator[Self]:
        """The script, named as in benchmarks/peers, for as long as the context lasts."""
        command = [str(python), str(_SCRIPTS / script), *map(str, arguments)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                yield cls(process)
            finally:
                process.terminate()

    def ask(self, line: str = "") -> dict[str, Any]:
        """Its answer, once it has done what the line says.

        Raises:
            OSError: it ended; the log has why.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            command = " ".join(map(str, self._process.args)) if isinstance(self._process.args, list) else ""
            raise OSError(f"the peer ended: {command}; its error is above")
        answer: dict[str, Any] = json.loads(line)
        return answer
