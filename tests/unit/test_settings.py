"""Settings: where they come from, how they are shown, and what is said of those that cannot be used."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from imgsim.core.errors import SettingsError
from imgsim.settings import Settings, describe, load_settings, mask_url, masked_values

Write = Callable[[str], Path]


@pytest.fixture(autouse=True)
def _only_the_environment_of_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in os.environ:
        if name.startswith("IMGSIM_"):
            monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path) -> Write:
    def write(text: str) -> Path:
        path = tmp_path / "imgsim.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def refusal(config: Path | None = None) -> str:
    with pytest.raises(SettingsError) as raised:
        load_settings(config)
    return raised.value.message


def shown(settings: Settings) -> dict[str, str]:
    return {key: value for key, value, _ in describe(settings)}


# where they come from


def test_the_command_line_wins_over_the_environment_over_the_file_over_the_defaults(
    toml: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toml("port = 1\nhost = '127.0.0.2'\n[jobs]\nlease_seconds = 11\nmax_attempts = 12\nconcurrency = 13")
    monkeypatch.setenv("IMGSIM_PORT", "2")
    monkeypatch.setenv("IMGSIM_JOBS__MAX_ATTEMPTS", "22")
    monkeypatch.setenv("IMGSIM_JOBS__CONCURRENCY", "23")

    settings = load_settings(config, {"port": 3, "jobs": {"concurrency": 33}})

    assert (settings.port, settings.host) == (3, "127.0.0.2")
    assert (settings.jobs.lease_seconds, settings.jobs.max_attempts, settings.jobs.concurrency) == (11, 22, 33)
    assert settings.jobs.reconcile_seconds == Settings.model_construct().jobs.reconcile_seconds


def test_the_file_may_be_named_in_the_environment(toml: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSIM_CONFIG", str(toml("port = 1234")))

    assert load_settings().port == 1234


def test_a_file_on_the_command_line_wins_over_the_one_in_the_environment(
    toml: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGSIM_CONFIG", "/nowhere.toml")

    assert load_settings(toml("port = 1234")).port == 1234


def test_without_the_environment_no_variable_counts(toml: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSIM_CONFIG", str(toml("port = 1234")))
    monkeypatch.setenv("IMGSIM_DATABASE__URL", "postgresql://me@host/other")
    monkeypatch.setenv("IMGSIM_OF_ANOTHER", "x")
    assert load_settings(environment=False).model_dump() == Settings.model_construct().model_dump()
    own = toml("port = 4321")
    assert load_settings(own, {"host": "::1"}, environment=False).port == 4321


@pytest.mark.parametrize("value", ["a,b", " a , b ,", '["a", "b"]', ' ["a","b"]'])
def test_lists_in_the_environment_are_json_or_have_commas(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("IMGSIM_AUTH__KEYS", value)
    monkeypatch.setenv("IMGSIM_PLUGINS__DISABLED", value)

    settings = load_settings()

    assert [key.get_secret_value() for key in settings.auth.keys] == ["a", "b"]
    assert settings.plugins.disabled == ("a", "b")


def test_an_empty_list_in_the_environment_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSIM_AUTH__KEYS", "")

    assert load_settings().auth.keys == ()


def test_the_settings_of_one_stage_come_from_file_and_environment(toml: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSIM_PIPELINE__STAGES__EMBED__RETRIES", "3")

    stages = load_settings(toml("[pipeline.stages.embed]\ntimeout_seconds = 5\n[pipeline.stages.x]\n")).pipeline.stages

    assert (stages["embed"].timeout_seconds, stages["embed"].retries) == (5, 3)
    assert (stages["x"].timeout_seconds, stages["x"].retries) == (None, None)


def test_embedded_parts_lie_in_the_data_directory_unless_told_otherwise(tmp_path: Path) -> None:
    settings = load_settings(overrides={"data_dir": tmp_path, "objects": {"url": "file:///elsewhere"}})

    assert settings.part_url("objects") == "file:///elsewhere"
    assert settings.part_url("database") == f"sqlite://{tmp_path}/imgsim.sqlite"
    assert settings.part_url("vectors") == f"qdrant-edge://{tmp_path}/vectors"


def test_a_tilde_in_the_data_directory_is_home(toml: Write) -> None:
    assert load_settings(toml("data_dir = '~/pictures'")).data_dir == Path.home() / "pictures"


def test_settings_do_not_change() -> None:
    settings = load_settings()

    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1
    with pytest.raises(ValueError, match="frozen"):
        settings.jobs.max_attempts = 1


# how they are shown


def test_every_setting_has_a_default_and_a_sentence() -> None:
    rows = list(describe(load_settings()))

    assert len(rows) > 25
    for key, value, sentence in rows:
        assert value != "", key
        assert sentence.endswith("."), key
        assert len(sentence) > 15, key


def test_what_is_shown_is_toml_that_gives_the_same_settings(toml: Write) -> None:
    settings = load_settings(
        overrides={
            "data_dir": '/tmp/a "b" \\ ä 😀',
            "plugins": {"disabled": ("x", "y")},
            "pipeline": {"stages": {"embed": {"timeout_seconds": 1.5}}},
        }
    )
    text = "\n".join(f"{key} = {value}" for key, value in shown(settings).items())

    assert tomllib.loads(text)["plugins"]["disabled"] == ["x", "y"]
    assert load_settings(toml(text)).model_dump() == settings.model_dump()


def test_values_for_programs_are_what_json_has() -> None:
    values = masked_values(load_settings())

    assert values["port"] == 8000
    assert values["auth.allow_open"] is False
    assert values["plugins.disabled"] == []
    assert json.loads(json.dumps(values)) == values


def test_secrets_and_passwords_are_masked_wherever_they_are_shown() -> None:
    settings = load_settings(
        overrides={"auth": {"keys": ("hunter2",)}, "database": {"url": "postgresql://me:hunter2@db/imgsim"}}
    )

    assert "hunter2" not in repr(list(describe(settings)))
    assert "hunter2" not in repr(masked_values(settings))
    assert "hunter2" not in repr(settings.auth)
    assert shown(settings)["database.url"] == '"postgresql://me:**********@db/imgsim"'


def test_a_password_in_the_query_of_a_url_is_shown_nowhere() -> None:
    url = "postgresql://db/imgsim?user=me&password=hunter2"
    settings = load_settings(overrides={"database": {"url": url}})

    assert "hunter2" not in repr(list(describe(settings)))
    assert "hunter2" not in repr(masked_values(settings))


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("redis://:pw@host:6379/0", "redis://:**********@host:6379/0"),
        ("postgresql://me:p@ss:w@host/db", "postgresql://me:**********@host/db"),
        ("http://host:8000/a@b", "http://host:8000/a@b"),
        ("s3://bucket?endpoint=http://me:pw@minio:9000", "s3://bucket?endpoint=http://me:**********@minio:9000"),
        ("sqlite:///a/b.sqlite", "sqlite:///a/b.sqlite"),
        ("postgresql://host/db?user=me&password=p@s:s", "postgresql://host/db?user=me&password=**********"),
        ("postgresql://host/db?sslPassword=pw&ssl=require", "postgresql://host/db?sslPassword=**********&ssl=require"),
        ("redis://me:pw@host/0?db=1&password=pw#x", "redis://me:**********@host/0?db=1&password=**********#x"),
        (
            "http://host/?access_token=a.b&client_secret=c",
            "http://host/?access_token=**********&client_secret=**********",
        ),
        ("https://qdrant:6333?api-key=abc", "https://qdrant:6333?api-key=**********"),
        ("postgresql://me@host/db?statement_cache_size=0", "postgresql://me@host/db?statement_cache_size=0"),
        ("postgresql://host/password=x?user=token", "postgresql://host/password=x?user=token"),
    ],
)
def test_only_the_password_of_a_url_is_masked(url: str, masked: str) -> None:
    assert mask_url(url) == masked


# what is said of those that cannot be used


def test_a_misspelt_key_in_the_file_names_the_near_one_and_those_there_are(toml: Write) -> None:
    message = refusal(toml("[jobs]\nlease_second = 3"))

    assert message.startswith("There is no setting jobs.lease_second. Did you mean jobs.lease_seconds? Valid: jobs.url")
    assert "jobs.max_attempts" in message


def test_a_misspelt_section_in_the_file_names_the_near_one(toml: Write) -> None:
    assert "There is no setting job. " in (message := refusal(toml("[job]\nlease_seconds = 3")))
    assert "jobs" in message


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("IMGSIM_JOBS_LEASE_SECONDS", "IMGSIM_JOBS__LEASE_SECONDS"),
        ("IMGSIM_PORTT", "IMGSIM_PORT"),
        ("IMGSIM_DATADIR", "IMGSIM_DATA_DIR"),
    ],
)
def test_a_misspelt_environment_variable_names_the_near_one(
    monkeypatch: pytest.MonkeyPatch, name: str, near: str
) -> None:
    monkeypatch.setenv(name, "3")

    assert refusal().startswith(f"The environment variable {name} names no setting. Did you mean {near}? Valid: ")


def test_a_misspelt_key_of_a_section_in_the_environment_names_the_near_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGSIM_JOBS__LEASE_SECOND", "3")

    assert "no setting jobs.lease_second. Did you mean jobs.lease_seconds?" in refusal()


def test_several_mistakes_are_told_at_once(toml: Write) -> None:
    message = refusal(toml("port = 'many'\n[jobs]\nmax_attempts = 0"))

    assert "The setting port cannot be used" in message
    assert "The setting jobs.max_attempts cannot be used" in message


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("IMGSIM_PORT", "many", ["port", "integer", "'many'"]),
        ("IMGSIM_PORT", "70000", ["port", "65535", "'70000'"]),
        ("IMGSIM_JOBS__LEASE_SECONDS", "0", ["jobs.lease_seconds", "greater than 0"]),
        ("IMGSIM_JOBS__LEASE_SECONDS", "inf", ["jobs.lease_seconds", "finite"]),
        ("IMGSIM_LOG__LEVEL", "loud", ["log.level", "debug|info|warning|error", "'loud'"]),
        ("IMGSIM_AUTH__ALLOW_OPEN", "perhaps", ["auth.allow_open", "boolean"]),
        ("IMGSIM_JOBS", "5", ["jobs", "'5'"]),
        ("IMGSIM_PLUGINS__DISABLED", '["a"', ["plugins.disabled", "begins like a JSON list"]),
        ("IMGSIM_PIPELINE__STAGES__EMBED__RETRIES", "-1", ["pipeline.stages.embed.retries", "'-1'"]),
    ],
)
def test_a_value_of_the_wrong_kind_names_the_setting_the_limit_and_the_value(
    monkeypatch: pytest.MonkeyPatch, key: str, value: str, words: list[str]
) -> None:
    monkeypatch.setenv(key, value)

    message = refusal()

    for word in words:
        assert word in message
    assert message.startswith(f"The setting {words[0]} cannot be used: ")


@pytest.mark.parametrize("value", ['["hunter2"', '[["hunter2"]]'])
def test_a_secret_that_cannot_be_used_is_not_shown(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("IMGSIM_AUTH__KEYS", value)

    assert "auth.keys" in (message := refusal())
    assert "hunter2" not in message


def test_a_file_that_is_not_there_says_so(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.toml") == (
        f"The settings file {tmp_path}/no.toml cannot be read: No such file or directory."
    )


def test_a_file_that_is_not_toml_says_where(toml: Write) -> None:
    path = toml("port = \n")

    assert refusal(path).startswith(f"The settings file {path} is not TOML: Invalid value (at line 1")


def test_a_file_that_is_not_text_says_so(tmp_path: Path) -> None:
    (path := tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")

    assert "is not TOML" in refusal(path)
