"""What a doctor says: one finding a check, with what mends it.

Here: the form of checks and findings, and looking at everything however much is broken.
Not here: what to look at (local/doctor.py, deployment/doctor.py) or how findings are shown (cli.py).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from kurashiru_pipeline.errors import KurashiruError

T = TypeVar("T")


@dataclass(frozen=True)
class Finding:
    """Outcome of one check; `mend` is the command or statement to type when it is not ok."""

    name: str
    ok: bool
    detail: str
    mend: str | None


class BrokenError(KurashiruError):
    """Something is not as it should be; `mend` says what to type, where it is more than the check's own."""

    def __init__(self, detail: str, mend: str | None = None) -> None:
        super().__init__(detail)
        self.mend = mend


@dataclass(frozen=True)
class Check(Generic[T]):
    """One thing to look at. `look` says what it found, or raises a KurashiruError; `mend` is then the command."""

    name: str
    look: Callable[[T], str]
    mend: str


def examine(subject: T, checks: Iterable[Check[T]]) -> list[Finding]:
    """A finding for every check, in order; one that fails does not keep the others from being made."""
    findings = []
    for check in checks:
        try:
            findings.append(Finding(check.name, True, check.look(subject), None))
        except KurashiruError as error:
            mend = error.mend if isinstance(error, BrokenError) and error.mend else check.mend
            findings.append(Finding(check.name, False, str(error), mend))
    return findings
