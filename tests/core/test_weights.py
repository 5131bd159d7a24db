"""Weights: the file of the package is valid, and a wrong one is refused by key and range."""

from pathlib import Path

import pytest
import yaml

from kurashiru_pipeline.core.weights import DEFAULT_SOURCE, Weights, load_weights
from kurashiru_pipeline.errors import ConfigurationError


def written(folder: Path, **changes: object) -> Path:
    given = yaml.safe_load(DEFAULT_SOURCE.read_text(encoding="utf-8"))
    for name, value in changes.items():
        section, _, key = name.partition("__")
        if key:
            given[section][key] = value
        else:
            given[section] = value
    path = folder / "weights.yaml"
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    return path


def test_the_file_of_the_package_is_valid() -> None:
    assert load_weights().diversity.quota == 0.95


def test_another_file_is_read(tmp_path: Path) -> None:
    assert load_weights(written(tmp_path, blend__taste=0.7)).blend.taste == 0.7


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"diversity__quota": 1.5}, ["diversity.quota", "number above 0 to 1", "1.5"]),
        ({"profile__length": 0}, ["profile.length", "whole number from 1 to 1000"]),
        ({"blend__rules": "much"}, ["blend.rules", "number from 0 to 10", "much"]),
        ({"blend__luck": 1.0}, ["blend.luck", "not permitted"]),
        ({"cool_down": {"viewed_days": 1.0}}, ["cool_down.cooked_days", "required", "number above 0 to 365"]),
        ({"list_length": 2.5}, ["list_length", "whole number from 1 to 100"]),
        ({"blend__taste": float("nan")}, ["blend.taste"]),
    ],
)
def test_a_wrong_key_is_named_with_its_range(tmp_path: Path, changes: dict[str, object], told: list[str]) -> None:
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigurationError) as error:
        load_weights(path)
    for part in [str(path), *told]:
        assert part in str(error.value)


def test_all_wrong_keys_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_weights(written(tmp_path, diversity__quota=0, fresh__days=-1))
    assert "diversity.quota" in str(error.value)
    assert "fresh.days" in str(error.value)


@pytest.mark.parametrize("content", ["a: [", "", "- 1", "\xff"])
def test_no_weights_at_all(tmp_path: Path, content: str) -> None:
    path = tmp_path / "weights.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"weights\.yaml"):
        load_weights(path)
    with pytest.raises(ConfigurationError, match=r"none\.yaml"):
        load_weights(tmp_path / "none.yaml")


def test_scores_fit_their_sort_keys() -> None:
    """ranking.py reserves bits for seven sources of weight 10 at most."""
    sources = Weights.model_fields["blend"].annotation.model_fields
    assert len(sources) == 7
    assert all(10 in [getattr(rule, "le", None) for rule in field.metadata] for field in sources.values())
