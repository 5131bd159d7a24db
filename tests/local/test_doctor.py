import os
import re
import shutil
import socket
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from kurashiru_pipeline.environment import PROJECT_ROOT, Settings
from kurashiru_pipeline.local import doctor
from kurashiru_pipeline.local.doctor import Finding
from kurashiru_pipeline.local.processes import HOST, ProcessGroup
from kurashiru_pipeline.warehouse import open_warehouse


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A fresh home, and ports that are free."""
    variables = {"KURASHIRU_HOME": str(tmp_path / "home")}
    for variable in ("KURASHIRU_AWS_PORT", "KURASHIRU_DAGSTER_PORT"):
        with socket.create_server((HOST, 0)) as server:
            variables[variable] = str(server.getsockname()[1])
    return Settings.load(environ=variables)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder of our own, complete as far as the checks look."""
    root = tmp_path / "project"
    models, target = root / "dbt_project" / "models", root / "dbt_project" / "target"
    models.mkdir(parents=True)
    target.mkdir()
    shutil.copy(PROJECT_ROOT / "requirements.lock", root)
    (models / "dim_recipes.sql").touch()
    (target / "manifest.json").touch()
    monkeypatch.setattr(doctor, "PROJECT_ROOT", root)
    return root


def changed(settings: Settings, **variables: str) -> Settings:
    return Settings.load(environ={**settings.environ, **variables})


def findings(settings: Settings) -> dict[str, Finding]:
    return {finding.name: finding for finding in doctor.checks(settings)}


def only_failure(settings: Settings) -> Finding:
    [finding] = [finding for finding in doctor.checks(settings) if not finding.ok]
    return finding


def test_a_fresh_set_up_is_fine_and_stays_untouched(settings: Settings, project: Path) -> None:
    assert [finding for finding in doctor.checks(settings) if not finding.ok or finding.mend] == []
    assert not settings.home.exists()


def test_a_lake_in_use_is_fine(settings: Settings, project: Path) -> None:
    open_warehouse(settings).close()

    found = findings(settings)

    assert found["realtime lake"].ok
    assert "opens" in found["realtime lake"].detail
    assert all(finding.ok for finding in found.values())


def other_version(settings: Settings, project: Path) -> Settings:
    lock = project / "requirements.lock"
    lock.write_text(lock.read_text().replace(f"orjson=={metadata.version('orjson')}", "orjson==0.0.1"))
    return settings


def missing_package(settings: Settings, project: Path) -> Settings:
    with (project / "requirements.lock").open("a") as lock:
        lock.write("not-a-package-of-ours==1.0 ; python_version >= '3.11' \\\n")
    return settings


def home_below_a_file(settings: Settings, project: Path) -> Settings:
    home = project / "requirements.lock" / "home"
    return changed(settings, KURASHIRU_HOME=str(home), KURASHIRU_MODELS=str(project / "models"))


def garbage_lake(settings: Settings, project: Path) -> Settings:
    lake = settings.home / "lake" / "realtime"
    lake.mkdir(parents=True)
    (lake / "catalog.sqlite").write_bytes(b"no catalogue" * 1000)
    return settings


def lake_from_the_future(settings: Settings, project: Path) -> Settings:
    open_warehouse(settings).close()
    os.utime(settings.home / "lake" / "realtime" / "catalog.sqlite", (4e9, 4e9))
    return settings


def landing_is_a_file(settings: Settings, project: Path) -> Settings:
    return changed(settings, KURASHIRU_LANDING=str(project / "requirements.lock"))


def no_manifest(settings: Settings, project: Path) -> Settings:
    (project / "dbt_project" / "target" / "manifest.json").unlink()
    return settings


def old_manifest(settings: Settings, project: Path) -> Settings:
    os.utime(project / "dbt_project" / "target" / "manifest.json", (0, 0))
    return settings


def damaged_model_pointer(settings: Settings, project: Path) -> Settings:
    models = settings.home / "models"
    models.mkdir(parents=True)
    (models / "promoted.json").write_text("{")
    return settings


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (other_version, ("packages", "orjson .* instead of 0.0.1", "make setup")),
        (missing_package, ("packages", "not-a-package-of-ours none instead of 1.0", "make setup")),
        (home_below_a_file, ("home folder", "is not a folder", "export KURASHIRU_HOME=")),
        (garbage_lake, ("realtime lake", "cannot be opened", "mv .*/home/lake .*/home/lake.broken")),
        (lake_from_the_future, ("clock", "was written 2096", "set the system clock")),
        (landing_is_a_file, ("landing folder", "cannot read .*requirements.lock", "export KURASHIRU_LANDING=")),
        (no_manifest, ("dbt manifest", "manifest.json is missing", "kurashiru prepare")),
        (old_manifest, ("dbt manifest", "older than dim_recipes.sql", "kurashiru prepare")),
        (damaged_model_pointer, ("model", "promoted.json", "rm .*/promoted.json")),
    ],
)
def test_what_is_broken_is_found_with_the_command_that_mends_it(
    settings: Settings,
    project: Path,
    spoil: Callable[[Settings, Path], Settings],
    expected: tuple[str, str, str],
) -> None:
    finding = only_failure(spoil(settings, project))

    name, detail, mend = expected
    assert finding.name == name
    assert_matches(detail, finding.detail)
    assert_matches(mend, finding.mend)


def assert_matches(pattern: str, text: str | None) -> None:
    assert text is not None
    assert re.search(pattern, text), text


def test_a_full_disk_is_found(settings: Settings, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "FREE_BYTES_WANTED", 2**80)

    assert only_failure(settings).name == "disk space"


def test_missing_settings_of_production_are_named(settings: Settings, project: Path) -> None:
    found = findings(changed(settings, KURASHIRU_ENV="production"))

    assert not found["settings"].ok
    assert "export KURASHIRU_LANDING=s3://" in found["settings"].detail


def test_a_setting_of_the_wrong_form_is_named_with_an_example(settings: Settings, project: Path) -> None:
    found = findings(changed(settings, KURASHIRU_DAGSTER_PORT="three thousand"))

    assert not found["settings"].ok
    assert "export KURASHIRU_DAGSTER_PORT=3000" in found["settings"].detail
    assert not found["dagster"].ok


def test_a_port_taken_by_a_stranger_is_found(settings: Settings, project: Path) -> None:
    with socket.create_server((HOST, settings.integer("KURASHIRU_AWS_PORT"))):
        finding = only_failure(settings)

    assert finding.name == "emulated AWS"
    assert f"(pid {os.getpid()})" in finding.detail


def test_a_process_of_the_stack_that_died_is_found(settings: Settings, project: Path) -> None:
    group = ProcessGroup(settings.home)
    with group.exclusive():
        record = group.start("aws", ["false"], port=1, environ=os.environ, folder=project)

    finding = only_failure(settings)

    assert finding.name == "emulated AWS"
    assert record.log in finding.detail
    assert finding.mend == "kurashiru down && kurashiru up"
