"""Weights: the file of the package is valid, and a wrong one is refused by key and range."""

from pathlib import Path

import pytest
import yaml

from kurashiru_pipeline.core.weights import DEFAULT_SOURCE, load_weights
from kurashiru_pipeline.errors import ConfigurationError
from tests.kitchen import weights


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
    assert load_weights().blend.rules == 1.0


def test_another_file_is_read(tmp_path: Path) -> None:
    assert load_weights(written(tmp_path, blend__taste=0.7)).blend.taste == 0.7


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"diversity__dials": {"home": 1.5, "default": 0, "segment": -1}},
            ["diversity.dials.home", "number from 0 to 1", "1.5", "diversity.dials.segment"],
        ),
        ({"popularity__half_life_days": 0.0}, ["popularity.half_life_days", "number above 0 to 365", "0.0"]),
        ({"blend__seen": -10.5}, ["blend.seen", "number from -10 to 10", "-10.5"]),
        ({"blend__leftovers": -0.1}, ["blend.leftovers", "number from 0 to 10", "-0.1"]),
        ({"transitions__live_share": 101.0}, ["transitions.live_share", "number from 0 to 100"]),
        ({"limits__per_author": 0}, ["limits.per_author", "whole number from 1 to 1000"]),
        ({"fresh__min_share": 1.1}, ["fresh.min_share", "number from 0 to 1"]),
        ({"exclude__tags": "meat"}, ["exclude.tags", "list"]),
        ({"learned": ["blend.luck"]}, ["learned", "blend.luck"]),
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
        load_weights(written(tmp_path, diversity__loss_budget=2.0, fresh__days=-1.0))
    assert "diversity.loss_budget" in str(error.value)
    assert "fresh.days" in str(error.value)


@pytest.mark.parametrize("content", ["a: [", "", "- 1", "\xff"])
def test_no_weights_at_all(tmp_path: Path, content: str) -> None:
    path = tmp_path / "weights.yaml"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"weights\.yaml"):
        load_weights(path)
    with pytest.raises(ConfigurationError, match=r"none\.yaml"):
        load_weights(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["interest", "blend.taste", "diversity.dials.home", "diversity.dials"])
def test_weights_and_sections_may_be_learned(tmp_path: Path, name: str) -> None:
    assert load_weights(written(tmp_path, learned=[name])).learned == [name]


@pytest.mark.parametrize(
    "name", ["", "luck", "blend.luck", "blend.taste.more", "list_length", "learned", "exclude.tags", "blend."]
)
def test_what_is_no_weight_cannot_be_learned(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        load_weights(written(tmp_path, learned=["blend", name]))
    assert f"learned: there is no weight or section named {name!r}" in str(error.value)


def test_scores_have_a_bound(tmp_path: Path) -> None:
    within = dict.fromkeys(["rules", "taste", "repeats"], 10.0) | {"seen": -10.0, "leftovers": 4.0, "ingredients": 3.0}
    none = dict.fromkeys(load_weights().blend.model_dump(), 0.0)
    assert load_weights(written(tmp_path, blend=none | within | {"authors": -3.0})).blend.seen == -10
    with pytest.raises(ConfigurationError, match=r"blend: the weights add up to 64\.5, more than the 64"):
        load_weights(written(tmp_path, blend=none | within | {"authors": -3.5}))


def test_learned_values_take_the_place_of_what_is_free() -> None:
    rules = weights(learned=["blend.taste", "interest", "diversity.dials.home"])
    values = {"blend.taste": -0.7, "blend.rules": 9.0, "interest.steady": 0.4, "diversity.dials.home": 0.1}
    values |= {"diversity.dials.default": 0.9, "blend.taste_of_old": 1.0}
    made = rules.with_learned(values)
    assert made == weights(
        learned=rules.learned, blend={"taste": -0.7}, interest={"steady": 0.4}, diversity={"dials": {"home": 0.1}}
    )
    assert rules.with_learned({}) == rules


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"blend.taste": 10.5}, ["blend.taste", "number from -10 to 10", "10.5"]),
        ({"blend.rules": -0.1}, ["blend.rules", "number from 0 to 10", "-0.1"]),
        ({"interest.newest": float("nan")}, ["interest.newest"]),
        ({"diversity.dials.home": 2.0}, ["diversity.dials.home", "number from 0 to 1"]),
        ({"blend.luck": 1.0}, ["blend.luck", "not permitted"]),
    ],
)
def test_learned_values_out_of_range_are_refused(values: dict[str, float], told: list[str]) -> None:
    with pytest.raises(ConfigurationError) as error:
        weights().with_learned(values)
    for part in ["the learned weights of the artifact", *told]:
        assert part in str(error.value)
