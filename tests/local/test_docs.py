"""The pages name only what is there."""

import re

import pytest

from kurashiru_pipeline.cli import cli
from kurashiru_pipeline.environment import PROJECT_ROOT, SETTINGS

PAGES = ["README.md", *(f"docs/{page.name}" for page in sorted((PROJECT_ROOT / "docs").glob("*.md")))]


def _text(page: str) -> str:
    return (PROJECT_ROOT / page).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    named = set(re.findall(r"(?:`|^|&& |/)kurashiru ([a-z][a-z-]+)", _text(page), re.MULTILINE))
    assert named <= set(cli.commands)


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", _text("Makefile"), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)|^make ([a-z]+)", _text(page), re.MULTILINE))
    assert {first or second for first, second in named} <= targets


@pytest.mark.parametrize("page", PAGES)
def test_settings_exist(page: str) -> None:
    known = {setting.variable for setting in SETTINGS} | {"KURASHIRU_ENV", "KURASHIRU_DBT_SCHEMA_PREFIX"}
    assert set(re.findall(r"KURASHIRU_[A-Z_]+[A-Z]", _text(page))) <= known


@pytest.mark.parametrize("page", PAGES)
def test_files_exist(page: str) -> None:
    folder = (PROJECT_ROOT / page).parent
    links = re.findall(r"\]\(([^)#:]+)\)", _text(page))
    assert [link for link in links if not (folder / link).exists()] == []


def test_the_lock_names_no_index() -> None:
    assert re.findall(r"https?://|file:|--index|--find-links", _text("requirements.lock")) == []
