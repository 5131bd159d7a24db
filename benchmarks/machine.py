"""What a run of the benchmark ran on, and what it took of it.

Here: cores, memory, processor, system, load, and the versions of what does the work. Nothing names the machine.
Not here: what was measured.
"""

import os
import platform
import resource
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

PACKAGES = (
    "kurashiru_pipeline",
    "boto3",
    "dagster",
    "dbt-core",
    "dbt-duckdb",
    "duckdb",
    "lightgbm",
    "moto",
    "numba",
    "numpy",
    "orjson",
    "pyarrow",
    "scipy",
)
PEER_PACKAGES = ("awswrangler", "boto3", "dlt", "duckdb", "implicit")
_BUSY = 0.25  # of the cores, before the benchmark itself does anything


def describe() -> dict[str, Any]:
    """Cores, memory, processor and system."""
    return {
        "cores": usable_cores(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "processor": _processor(),
        "system": _system(),
        "python": platform.python_version(),
    }


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def load_average() -> float:
    """Of the last minute."""
    return round(os.getloadavg()[0], 2)


def peak_memory_gb() -> float:
    """The most memory this process has had at once, resident."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def busy_warning(load: float) -> str | None:
    """What to tell a person when the machine has other work, or None."""
    cores = usable_cores()
    if load <= cores * _BUSY:
        return None
    return (
        f"the machine is busy: load average {load:.1f} on {cores} cores before the start. "
        "Ratios within a run still mean something, seconds do not"
    )


def versions() -> dict[str, str]:
    """Versions of what does the work; a package that is not installed is left out."""
    return _versions(PACKAGES, None)


def peer_versions(python: Path) -> dict[str, str]:
    """Versions of the peers, in the environment of that interpreter."""
    return _versions(PEER_PACKAGES, [str(folder) for folder in python.parent.parent.glob("lib/python*/site-packages")])


def _versions(packages: tuple[str, ...], path: list[str] | None) -> dict[str, str]:
    found = {}
    for name in packages:
        installed = metadata.distributions(name=name) if path is None else metadata.distributions(name=name, path=path)
        for distribution in installed:
            found[name] = distribution.version
            break
    return found


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _system() -> str:
    try:
        release = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        release = platform.release()
    return f"{platform.system()}, {release}, {platform.machine()}"
