"""The dbt project made ready to run: its target, its variables, its manifest.

Here: everything that is asked of dbt outside a model file.
Not here: the assets made of its models (dbt_assets.py).
"""

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

from dagster_dbt import DbtCliResource, DbtProject
from packaging.version import Version, parse

from kurashiru_pipeline.environment import PROJECT_ROOT, Environment, Settings
from kurashiru_pipeline.errors import ConfigurationError

PROJECT_FOLDER = PROJECT_ROOT / "dbt_project"
RUNS_FOLDER = "dbt"
_SNOWFLAKE_VARIABLES = (
    "KURASHIRU_SNOWFLAKE_ACCOUNT",
    "KURASHIRU_SNOWFLAKE_USER",
    "KURASHIRU_SNOWFLAKE_AUTHENTICATOR",
    "KURASHIRU_SNOWFLAKE_ANALYTICS_WAREHOUSE",
    "KURASHIRU_SNOWFLAKE_DATABASE",
)
_KEY_VARIABLES = ("KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH", "KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PASSPHRASE")


def dbt_variables(settings: Settings) -> dict[str, str]:
    """Variables that profiles.yml and the models read, for the settings' engine.

    Raises:
        ConfigurationError: the environment requires one that is not set.
    """
    names = ["KURASHIRU_RECENT_BEHAVIORS"]
    if settings.text("KURASHIRU_ENGINE") == "ducklake":
        lake = {"KURASHIRU_LAKE": str(settings.folder("KURASHIRU_LAKE"))}
    else:
        lake = {"KURASHIRU_ENV": settings.environment}
        names += _SNOWFLAKE_VARIABLES
        if settings.text("KURASHIRU_SNOWFLAKE_AUTHENTICATOR") == "key_pair":
            names += _KEY_VARIABLES
    return lake | {name: settings.text(name) for name in names}


class DbtCli(DbtCliResource):  # type: ignore[misc]
    """dbt's command line with the variables of the environment; needs none of them before it runs."""

    environment: str
    variables: dict[str, str] | None = None

    @classmethod
    def of(cls, project: DbtProject, environment: Environment, variables: Mapping[str, str] | None = None) -> "DbtCli":
        """dbt of this installation, whatever PATH says."""
        executable = Path(sys.executable).with_name("dbt")
        given = None if variables is None else dict(variables)
        return cls(project_dir=project, dbt_executable=executable, environment=environment, variables=given)

    def settings(self) -> Settings:
        """Settings of the environment; `variables`, where given, stand in for the process's own."""
        return Settings.load(Environment(self.environment), self.variables)

    def cli(self, args: Sequence[str], **options: Any) -> Any:
        """Start dbt; see DbtCliResource.cli. What a run leaves behind goes to {KURASHIRU_HOME}/dbt/<run id>."""
        settings = self.settings()
        context = options.get("context")
        if context is not None:
            options.setdefault("target_path", settings.home / RUNS_FOLDER / context.run.run_id)
        with _exported(dbt_variables(settings)):
            return super().cli(args, **options)

    @cached_property
    def _cli_version(self) -> Version:
        # The base asks `dbt --version`, which takes seconds and asks the package index for news.
        return parse(version("dbt-core"))


def dbt_project(settings: Settings) -> DbtProject:
    """The project with its manifest; under `dagster dev` one that is older than its sources is made anew.

    Raises:
        ConfigurationError: the manifest is missing.
    """
    project = DbtProject(PROJECT_FOLDER, profiles_dir=PROJECT_FOLDER, target=settings.text("KURASHIRU_ENGINE"))
    if project.preparer.using_dagster_dev() and _is_stale(project.manifest_path):
        prepare_manifest(settings)
    if not project.manifest_path.exists():
        message = f"{project.manifest_path} is missing; make it: make setup (or: kurashiru prepare)"
        raise ConfigurationError(message)
    return project


def prepare_manifest(settings: Settings) -> None:
    """Parse the project into target/manifest.json. Needs no connection, no secret and no existing lake."""
    # Keys, tests and descriptions are the same for both engines; this target is parsed without a secret.
    project = DbtProject(PROJECT_FOLDER, profiles_dir=PROJECT_FOLDER, target="ducklake")
    embedded = {**settings.environ, "KURASHIRU_ENGINE": "ducklake"}
    dbt = DbtCli.of(project, settings.environment, embedded)
    dbt.cli(["parse", "--quiet"], target_path=project.target_path).wait()


def _is_stale(manifest: Path) -> bool:
    if not manifest.exists():
        return True
    sources = [
        path
        for folder in ("", "macros/", "models/**/", "tests/**/")
        for suffix in ("sql", "yml")
        for path in PROJECT_FOLDER.glob(f"{folder}*.{suffix}")
    ]
    return max(path.stat().st_mtime for path in sources) > manifest.stat().st_mtime


@contextmanager
def _exported(variables: Mapping[str, str]) -> Iterator[None]:
    """Variables in this process's environment for as long as a child takes them over."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
