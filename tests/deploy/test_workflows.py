"""The workflows are whole and name only what is there; the smoke run does nothing where there is no account."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from kurashiru_pipeline.cli import cli
from kurashiru_pipeline.environment import PROJECT_ROOT, SETTINGS, Environment, Settings

FOLDER = PROJECT_ROOT / ".github" / "workflows"
# YAML 1.1 reads the key `on` as true.
WORKFLOWS: dict[str, dict[Any, Any]] = {
    path.name: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.yml"))
}
MAKE_TARGETS = set(re.findall(r"^([a-z]+):", (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def _jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, workflow in WORKFLOWS.items():
        for job, definition in workflow["jobs"].items():
            yield f"{name}:{job}", definition


JOBS = dict(_jobs())


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_has_little_rights_and_a_trigger(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow[True]
    assert workflow["permissions"]["contents"] == "read"
    assert "write-all" not in str(workflow["permissions"])


@pytest.mark.parametrize("name", JOBS)
def test_every_job_ends_and_every_step_does_one_thing(name: str) -> None:
    job = JOBS[name]
    assert job["runs-on"] == "ubuntu-latest"
    assert 0 < job["timeout-minutes"] <= 60
    for step in job["steps"]:
        assert ("run" in step) != ("uses" in step), step
        assert "uses" not in step or re.fullmatch(r"[\w.-]+/[\w./-]+@v\d+", step["uses"]), step


@pytest.mark.parametrize("name", JOBS)
def test_commands_files_and_settings_exist(name: str) -> None:
    job = JOBS[name]
    script = "\n".join(step["run"] for step in job["steps"] if "run" in step)
    assert set(re.findall(r"(?<![\w/-])make ([a-z]+)", script)) <= MAKE_TARGETS
    assert set(re.findall(r"(?:^|[\s/])kurashiru ([a-z][a-z-]+)", script, re.MULTILINE)) <= set(cli.commands)
    for path in re.findall(r"(?<![\w/.-])((?:deploy|\.ci|tests|dbt_project)/[\w./-]+)", script):
        assert (PROJECT_ROOT / path).exists(), path
    for step in job["steps"]:
        for named in (step.get("working-directory"), step.get("with", {}).get("file")):
            assert named is None or (PROJECT_ROOT / named).exists(), named
    known = {setting.variable for setting in SETTINGS} | {"KURASHIRU_ENV", "KURASHIRU_IMAGE_TAG"}
    known.add("KURASHIRU_DBT_SCHEMA_PREFIX")
    assert set(re.findall(r"KURASHIRU_[A-Z_]+[A-Z]", yaml.safe_dump(job))) <= known


def test_a_smoke_run_gives_the_settings_that_staging_and_production_need() -> None:
    job = JOBS["smoke.yml:smoke"]
    script = "\n".join(step["run"] for step in job["steps"] if "run" in step)
    names = {*job["env"], *re.findall(r"export (KURASHIRU_\w+)", script)}
    given = {setting.variable: setting.example or "x" for setting in SETTINGS if setting.variable in names}
    given["KURASHIRU_LANDING"] = "s3://bucket"
    for environment in (Environment.STAGING, Environment.PRODUCTION):
        Settings.load(environment, given).check("deploy")


@pytest.mark.parametrize("job", ["build", "clean_up"])
def test_a_pull_request_meets_an_account_only_from_a_branch_of_this_repository(job: str) -> None:
    condition = JOBS[f"snowflake-pull-request.yml:{job}"]["if"]
    assert "vars.KURASHIRU_SNOWFLAKE_ACCOUNT != ''" in condition
    assert "github.event.pull_request.head.repo.full_name == github.repository" in condition


def test_a_smoke_run_without_secrets_does_nothing() -> None:
    looks, *others = JOBS["smoke.yml:smoke"]["steps"]
    assert looks["id"] == "account"
    for step in others:
        assert step["if"] in {"steps.account.outputs.exists", "always()"}
        assert step["if"] != "always()" or step["run"].startswith("rm -f")
