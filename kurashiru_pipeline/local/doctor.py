"""Checks of the set-up, each with the command that mends it; `kurashiru doctor` prints them.

Here: what can be wrong with this machine, this installation and this home folder.
Not here: the quality of the data (asset checks), or mending.
"""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib import metadata
from pathlib import Path

import duckdb
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from kurashiru_pipeline.clock import utc_now
from kurashiru_pipeline.core.artifact import load_promoted
from kurashiru_pipeline.environment import PROJECT_ROOT, Settings
from kurashiru_pipeline.errors import KurashiruError
from kurashiru_pipeline.findings import Check, Finding, examine
from kurashiru_pipeline.local.processes import ProcessGroup, answers, require_free_port
from kurashiru_pipeline.local.stack import AWS, DAGSTER, Service
from kurashiru_pipeline.warehouse.base import storage_findings
from kurashiru_pipeline.warehouse.ducklake import attach, connect
from kurashiru_pipeline.warehouse.ducklake_upkeep import read_state

FREE_BYTES_WANTED = 2 * 1024**3
_EARLIEST_NOW = datetime(2026, 1, 1, tzinfo=UTC)
_CLOCK_TOLERANCE = timedelta(minutes=5)
_LONGEST_WITHOUT_UPKEEP = timedelta(days=2)


def checks(settings: Settings) -> list[Finding]:
    """Look at everything, however much is broken."""
    places = {
        "home": settings.home,
        "lake": settings.folder("KURASHIRU_LAKE"),
        "models": settings.folder("KURASHIRU_MODELS"),
    }
    return examine(settings, [replace(check, mend=check.mend.format(**places)) for check in _CHECKS])


def _python(settings: Settings) -> str:
    version = ".".join(str(part) for part in sys.version_info[:3])
    wanted = metadata.metadata("kurashiru_pipeline")["Requires-Python"]
    if version not in SpecifierSet(wanted):
        message = f"Python {version} is not {wanted}"
        raise KurashiruError(message)
    return f"Python {version}"


def _packages(settings: Settings) -> str:
    differing = []
    locked = _locked_packages(PROJECT_ROOT / "requirements.lock")
    for name, version in locked.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            installed = "none"
        if installed != version:
            differing.append(f"{name} {installed} instead of {version}")
    if differing:
        shown = ", ".join(differing[:5]) + (" and more" if len(differing) > 5 else "")
        message = f"{len(differing)} packages differ from requirements.lock: {shown}"
        raise KurashiruError(message)
    return f"all {len(locked)} as in requirements.lock"


def _settings(settings: Settings) -> str:
    settings.check()
    return f"complete for environment {settings.environment}"


def _home(settings: Settings) -> str:
    folder = _nearest_folder(settings.home)
    if not folder.is_dir():
        message = f"{folder} is not a folder, so {settings.home} cannot be one"
        raise KurashiruError(message)
    probe = folder / ".kurashiru-doctor"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        message = f"cannot write {folder}: {error.strerror}"
        raise KurashiruError(message) from error
    return f"{settings.home} can be written"


def _disk(settings: Settings) -> str:
    free = shutil.disk_usage(_nearest_folder(settings.home)).free
    if free < FREE_BYTES_WANTED:
        message = f"{_gigabytes(free)} free for {settings.home}; {_gigabytes(FREE_BYTES_WANTED)} are wanted"
        raise KurashiruError(message)
    return f"{_gigabytes(free)} free"


def _clock(settings: Settings) -> str:
    now = datetime.now(tz=UTC)
    if now < _EARLIEST_NOW:
        message = f"the clock says {now:%Y-%m-%d}; events would be rejected as coming from the future"
        raise KurashiruError(message)
    for path in settings.folder("KURASHIRU_LAKE").glob("*/catalog.sqlite"):
        written = datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)
        if written - now > _CLOCK_TOLERANCE:
            message = f"the clock says {now:%Y-%m-%d %H:%M}, but {path} was written {written:%Y-%m-%d %H:%M} (UTC)"
            raise KurashiruError(message)
    return f"{now:%Y-%m-%d %H:%M} UTC"


def _duckdb(settings: Settings) -> str:
    try:
        with connect():
            return f"DuckDB {duckdb.__version__} loads its extensions"
    except duckdb.Error as error:
        message = f"DuckDB {duckdb.__version__} cannot load its extensions: {error}"
        raise KurashiruError(message) from error


def _landing(settings: Settings) -> str:
    place = settings.text("KURASHIRU_LANDING")
    if "://" in place:
        return f"{place} (loaded by Snowpipe)"
    if not settings.landing.exists():
        return f"{settings.landing} is not there yet"
    try:
        next(settings.landing.iterdir(), None)
    except OSError as error:
        message = f"cannot read {settings.landing}: {error.strerror}"
        raise KurashiruError(message) from error
    return f"{settings.landing} can be read"


def _lake(name: str) -> Callable[[Settings], str]:
    def look(settings: Settings) -> str:
        lake = settings.folder("KURASHIRU_LAKE") / name
        if not (lake / "catalog.sqlite").exists():
            return "not there yet"
        try:
            with connect() as connection:
                attach(connection, lake, "lake", read_only=True)
                [tables] = connection.execute(
                    "select count(*) from duckdb_tables() where database_name = 'lake'"
                ).fetchall()
        except duckdb.Error as error:
            message = f"{lake} cannot be opened: {error}"
            raise KurashiruError(message) from error
        return f"{lake} opens, {tables[0]} tables"

    return look


def _upkeep(name: str) -> Callable[[Settings], str]:
    def look(settings: Settings) -> str:
        lake = settings.folder("KURASHIRU_LAKE") / name
        if not (lake / "catalog.sqlite").exists():
            return "not there yet"
        try:
            with connect() as connection:
                attach(connection, lake, "lake", read_only=True)
                state = read_state(connection, "lake", lake)
        except duckdb.Error:
            return "the lake does not open"
        findings = storage_findings(state.snapshots, state.files)
        waited = None if state.last is None else utc_now() - state.last.finished_at
        if state.is_due and waited is not None and waited > _LONGEST_WITHOUT_UPKEEP:
            findings.append(f"written since the last upkeep, {waited.days} days ago")
        if findings:
            raise KurashiruError("; ".join(findings))
        since = "none yet" if waited is None else f"the last {waited.total_seconds() / 3600:.1f} h ago"
        return f"{state.snapshots:,} snapshots, {state.files:,} files; upkeep: {since}"

    return look


def _manifest(settings: Settings) -> str:
    project = PROJECT_ROOT / "dbt_project"
    manifest = project / "target" / "manifest.json"
    if not manifest.exists():
        message = f"{manifest} is missing; the analytics location needs it"
        raise KurashiruError(message)
    parsed_at = manifest.stat().st_mtime
    newer = [path.name for path in (project / "models").glob("**/*.*") if path.stat().st_mtime > parsed_at]
    if newer:
        message = f"{manifest} is older than {', '.join(sorted(newer)[:3])}"
        raise KurashiruError(message)
    return f"{manifest.relative_to(PROJECT_ROOT)} is up to date"


def _model(settings: Settings) -> str:
    artifact = load_promoted(settings.folder("KURASHIRU_MODELS"))
    return "none promoted yet; popular recipes are served" if artifact is None else f"{artifact.version} loads"


def _service(service: Service) -> Callable[[Settings], str]:
    def look(settings: Settings) -> str:
        port = settings.integer(service.port_variable)
        group = ProcessGroup(settings.home)
        record = group.records().get(service.name)
        if record is None:
            if port:
                require_free_port(port, purpose=service.purpose, variable=service.port_variable, flag=service.port_flag)
            return "not running" + (f"; port {port} is free" if port else "")
        if not group.is_running(service.name):
            message = f"{service.purpose} was started {record.started_at} and has died; its log: {record.log}"
            raise KurashiruError(message)
        if not answers(record.port):
            message = f"{service.purpose} runs (pid {record.pid}) but port {record.port} does not answer"
            raise KurashiruError(message)
        return f"answers on port {record.port}"

    return look


_CHECKS = (
    Check("python", _python, "make clean setup PYTHON=python3.12"),
    Check("packages", _packages, "make setup"),
    Check("settings", _settings, "kurashiru env"),
    Check("home folder", _home, "export KURASHIRU_HOME=<a folder of your own>"),
    Check("disk space", _disk, "export KURASHIRU_HOME=<a folder on a larger disk>"),
    Check("clock", _clock, "set the system clock"),
    Check("duckdb", _duckdb, "kurashiru prepare"),
    Check("landing folder", _landing, "export KURASHIRU_LANDING=<a folder you can read>"),
    Check("realtime lake", _lake("realtime"), "mv {lake} {lake}.broken && kurashiru drain"),
    Check("analytics lake", _lake("analytics"), "mv {lake}/analytics {lake}/analytics.broken"),
    Check("realtime upkeep", _upkeep("realtime"), "kurashiru maintain"),
    Check("analytics upkeep", _upkeep("analytics"), "kurashiru maintain --lake analytics"),
    Check("dbt manifest", _manifest, "kurashiru prepare"),
    Check("model", _model, "rm {models}/promoted.json"),
    Check("emulated AWS", _service(AWS), "kurashiru down && kurashiru up"),
    Check("dagster", _service(DAGSTER), "kurashiru down && kurashiru up"),
)


def _locked_packages(lock: Path) -> dict[str, str]:
    """Name to version of every package the lock wants on this machine."""
    locked = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if line[:1].isalnum():
            requirement = Requirement(line.rstrip("\\ "))
            if requirement.marker is None or requirement.marker.evaluate():
                locked[requirement.name] = str(requirement.specifier).removeprefix("==")
    return locked


def _nearest_folder(path: Path) -> Path:
    """`path` itself, or where it would be made: the closest of its parents that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _gigabytes(count: int) -> str:
    return f"{count / 1024**3:.1f} GiB"
