"""Settings: a value or a clear error for each of them, in every environment."""

import re
from pathlib import Path

import pytest

from kurashiru_pipeline.environment import PROJECT_ROOT, SETTINGS, Environment, Required, Setting, Settings
from kurashiru_pipeline.errors import ConfigurationError

VARIABLES = [setting.variable for setting in SETTINGS]
INTEGERS = {setting.variable for setting in SETTINGS if isinstance(setting.local, str) and setting.local.isdecimal()}


def local(**variables: str) -> Settings:
    return Settings.load(Environment.LOCAL, variables)


def test_unset_means_local() -> None:
    assert Environment.current({}) is Environment.LOCAL
    assert Environment.current({"KURASHIRU_ENV": ""}) is Environment.LOCAL
    assert Settings.load(environ={}).environment is Environment.LOCAL


@pytest.mark.parametrize("name", ["local", "staging", "production"])
def test_an_environment_is_named(name: str) -> None:
    assert Settings.load(environ={"KURASHIRU_ENV": name}).environment == name


@pytest.mark.parametrize("name", ["prod", "Production", " local", "qa"])
def test_an_unknown_environment_names_the_valid_ones(name: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"KURASHIRU_ENV='{name}'.* local, staging, production"):
        Environment.current({"KURASHIRU_ENV": name})


def test_the_process_s_own_variables_count_when_none_are_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KURASHIRU_ENV", "staging")
    monkeypatch.setenv("KURASHIRU_LIST_LENGTH", "7")
    settings = Settings.load()
    assert (settings.environment, settings.integer("KURASHIRU_LIST_LENGTH")) == (Environment.STAGING, 7)


def test_variables_are_distinct_and_explained() -> None:
    assert len(set(VARIABLES)) == len(VARIABLES)
    for setting in SETTINGS:
        assert setting.variable.startswith("KURASHIRU_")
        assert setting.meaning


def test_no_setting_is_dead() -> None:
    code = "".join(
        path.read_text(encoding="utf-8")
        for folder in ("kurashiru_pipeline", "dbt_project", "deploy")
        for path in (PROJECT_ROOT / folder).rglob("*")
        if path.suffix in {".py", ".yml", ".yaml", ".sql"} and "target" not in path.parts
    )
    for variable in VARIABLES:
        assert code.count(f"{variable}") > 1, variable


@pytest.mark.parametrize("environment", Environment)
@pytest.mark.parametrize("setting", SETTINGS, ids=VARIABLES)
def test_every_setting_has_a_value_or_says_how_to_give_it_one(setting: Setting, environment: Environment) -> None:
    settings = Settings.load(environment, {})
    default = setting.default(environment)
    if isinstance(default, Required):
        assert default.example
        expected = f"{setting.variable} .*must be set in {environment}; .*export {setting.variable}={default.example}"
        with pytest.raises(ConfigurationError, match=expected):
            settings.text(setting.variable)
    else:
        assert "{" not in settings.text(setting.variable)
    assert not settings.is_explicit(setting.variable)
    value = setting.example or "given"
    given = Settings.load(environment, {setting.variable: value})
    assert given.text(setting.variable) == value
    assert given.is_explicit(setting.variable)


@pytest.mark.parametrize("setting", [setting for setting in SETTINGS if setting.form], ids=lambda one: one.variable)
def test_a_value_of_the_wrong_form_is_refused_with_an_example(setting: Setting) -> None:
    wrong = "no such value!\n"
    settings = local(**{setting.variable: wrong})
    expected = f"{setting.variable}='no such value!.*export {setting.variable}={re.escape(setting.example)}"
    with pytest.raises(ConfigurationError, match=expected):
        settings.text(setting.variable)
    assert "wrong form" in {name: value for name, value, _ in settings.rows()}[setting.variable]
    for environment in Environment:
        default = setting.default(environment)
        given = default.example if isinstance(default, Required) else default
        assert not given or "{" in given or re.fullmatch(setting.form, given), environment


PRODUCTION = {
    "KURASHIRU_LANDING": "s3://kurashiru-landing",
    "KURASHIRU_SNOWFLAKE_ACCOUNT": "myorg-production",
    "KURASHIRU_SNOWFLAKE_PRIVATE_KEY_PATH": "/run/secrets/key.p8",
}


def test_local_is_complete_as_it_is() -> None:
    local().check()


@pytest.mark.parametrize("environment", [Environment.STAGING, Environment.PRODUCTION])
def test_production_names_everything_that_is_missing_or_wrong(environment: Environment) -> None:
    Settings.load(environment, PRODUCTION).check()
    for variable in PRODUCTION:
        rest = {name: value for name, value in PRODUCTION.items() if name != variable}
        with pytest.raises(
            ConfigurationError, match=rf"{variable} .*must be set in {environment}; .*export {variable}="
        ):
            Settings.load(environment, rest).check()
    wrong = {"KURASHIRU_SNOWFLAKE_ACCOUNT": "short", "KURASHIRU_SENSORS": "on"}
    settings = Settings.load(environment, {**PRODUCTION, **wrong})
    with pytest.raises(ConfigurationError, match=r"(?s)KURASHIRU_SENSORS='on'.*KURASHIRU_SNOWFLAKE_ACCOUNT='short'"):
        settings.check()


def test_a_key_is_needed_for_key_pairs_only() -> None:
    keyless = {name: value for name, value in PRODUCTION.items() if not name.endswith("KEY_PATH")}
    identity = {**keyless, "KURASHIRU_SNOWFLAKE_AUTHENTICATOR": "workload_identity"}
    Settings.load(Environment.PRODUCTION, identity).check()


def test_only_deploy_needs_what_only_deploy_reads() -> None:
    settings = Settings.load(Environment.PRODUCTION, PRODUCTION)
    with pytest.raises(ConfigurationError, match=r"KURASHIRU_AWS_API_URL .*must be set"):
        settings.check("deploy")
    values = {name: value for name, value, _ in settings.rows()}
    assert values["KURASHIRU_AWS_API_URL"] == "(needed by kurashiru deploy)"
    assert "(must be set)" not in values.values()


def test_local_needs_nothing() -> None:
    assert all(isinstance(setting.local, str) for setting in SETTINGS)


def test_production_shares_no_place_with_another_environment() -> None:
    for variable in ("KURASHIRU_LANDING", "KURASHIRU_DYNAMODB_TABLE", "KURASHIRU_SNOWFLAKE_DATABASE"):
        setting = next(setting for setting in SETTINGS if setting.variable == variable)
        assert setting.production != setting.staging, variable


def test_an_empty_variable_is_an_unset_one() -> None:
    assert local(KURASHIRU_LIST_LENGTH="").integer("KURASHIRU_LIST_LENGTH") == 20


def test_an_unknown_setting_is_a_programming_error() -> None:
    with pytest.raises(KeyError):
        local().text("KURASHIRU_NO_SUCH_SETTING")


@pytest.mark.parametrize("value", ["x", "1.5", "", "-1", "1e3"])
def test_whole_numbers_are_checked(value: str) -> None:
    settings = local(KURASHIRU_MAX_BATCH_LINES=value or " ")
    with pytest.raises(
        ConfigurationError, match=r"KURASHIRU_MAX_BATCH_LINES=.* export KURASHIRU_MAX_BATCH_LINES=500000"
    ):
        settings.integer("KURASHIRU_MAX_BATCH_LINES")


def test_a_whole_number_has_a_minimum() -> None:
    assert local(KURASHIRU_LIST_LENGTH="1").integer("KURASHIRU_LIST_LENGTH", minimum=1) == 1
    with pytest.raises(ConfigurationError, match="at least 1"):
        local(KURASHIRU_LIST_LENGTH="0").integer("KURASHIRU_LIST_LENGTH", minimum=1)


@pytest.mark.parametrize("environment", Environment)
def test_defaults_that_look_like_numbers_are(environment: Environment) -> None:
    assert INTEGERS
    for variable in INTEGERS:
        assert Settings.load(environment, {}).integer(variable) >= 0


def test_flags_are_true_or_false() -> None:
    assert local(KURASHIRU_DYNAMODB_CREATE="TRUE").flag("KURASHIRU_DYNAMODB_CREATE")
    assert not local(KURASHIRU_DYNAMODB_CREATE="false").flag("KURASHIRU_DYNAMODB_CREATE")
    with pytest.raises(ConfigurationError, match="KURASHIRU_DYNAMODB_CREATE='yes' is not of the right form"):
        local(KURASHIRU_DYNAMODB_CREATE="yes").flag("KURASHIRU_DYNAMODB_CREATE")


def test_folders_follow_home(tmp_path: Path) -> None:
    settings = local(KURASHIRU_HOME=str(tmp_path))
    assert settings.home == tmp_path
    assert settings.landing == tmp_path / "landing"
    assert settings.folder("KURASHIRU_LAKE") == tmp_path / "lake"
    assert local(KURASHIRU_HOME="state").home == PROJECT_ROOT / "state"
    assert local(KURASHIRU_HOME="~/state").home == Path.home() / "state"
    assert local(KURASHIRU_HOME=str(tmp_path), KURASHIRU_LANDING="landed").landing == PROJECT_ROOT / "landed"


def test_a_bucket_is_no_landing_folder() -> None:
    with pytest.raises(ConfigurationError, match="s3://bucket is not a local folder"):
        _ = local(KURASHIRU_LANDING="s3://bucket").landing


def test_the_endpoint_follows_the_port() -> None:
    assert local(KURASHIRU_AWS_PORT="7777").text("KURASHIRU_DYNAMODB_ENDPOINT") == "http://127.0.0.1:7777"


@pytest.mark.parametrize("environment", Environment)
def test_the_table_shows_every_setting_and_no_secret(environment: Environment) -> None:
    secrets = {setting.variable: f"secret of {setting.variable}" for setting in SETTINGS if setting.secret}
    assert secrets
    rows = Settings.load(environment, {**secrets, "KURASHIRU_HOME": "/home of it"}).rows()
    assert [variable for variable, _, _ in rows] == VARIABLES
    values = {variable: value for variable, value, _ in rows}
    assert values["KURASHIRU_HOME"] == "/home of it"
    assert {values[variable] for variable in secrets} == {"****"}
    assert "secret of" not in str(rows)
    for setting in SETTINGS:
        if isinstance(setting.default(environment), Required):
            assert values[setting.variable] == ("(needed by kurashiru deploy)" if setting.purpose else "(must be set)")
    unset = {variable: value for variable, value, _ in Settings.load(environment, {}).rows()}
    assert {unset[variable] for variable in secrets} == {""}
