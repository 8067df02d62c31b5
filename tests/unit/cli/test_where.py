"""Where the servers are: environment, else stack.json, else defaults."""

import json
import os

import pytest

from infra.cli.where import find_place, without_password
from infra.settings import Profile
from infra.stack.home import Home
from infra.stack.wanted import Wanted
from schemas.errors import ConfigurationError

STACK = {
    "ingest_url": "http://127.0.0.1:9002",
    "kafka_bootstrap": "127.0.0.1:9192",
    "postgres_dsn": "postgresql://relevo:secret@127.0.0.1:5532/relevo",
    "redis_url": "redis://127.0.0.1:6479/0",
    "smtp_url": "smtp://127.0.0.1:1125",
    "mailbox_url": None,
    "processes": {},
}


@pytest.fixture
def home(tmp_path, monkeypatch):
    for name in [name for name in os.environ if name.startswith("RELEVO_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RELEVO_HOME", str(tmp_path))
    return tmp_path


def write(home, stack=STACK, settings=None):
    (home / "stack.json").write_text(json.dumps(stack))
    if settings is not None:
        Wanted("1", settings).save(Home(home))


def test_without_a_stack_the_defaults_hold(home):
    place = find_place({})
    assert place.settings.kafka_bootstrap == "127.0.0.1:9092"
    assert place.settings.profile is Profile.PRODUCTION
    assert place.door_url == "http://127.0.0.1:8002"
    assert not place.from_stack
    assert place.origin("RELEVO_KAFKA_BOOTSTRAP") == "the default of RELEVO_KAFKA_BOOTSTRAP"


def test_a_local_stack_says_where_everything_is_and_is_for_development(home):
    write(home)
    place = find_place({})
    settings = place.settings
    assert (settings.kafka_bootstrap, settings.postgres_dsn) == (STACK["kafka_bootstrap"], STACK["postgres_dsn"])
    assert (settings.redis_url, settings.smtp_url) == (STACK["redis_url"], STACK["smtp_url"])
    assert place.door_url == STACK["ingest_url"]
    assert settings.profile is Profile.DEVELOPMENT
    assert place.origin("RELEVO_REDIS_URL") == str(home / "stack.json")
    assert "make up" in place.remedy("RELEVO_REDIS_URL")


def test_the_environment_takes_precedence_one_by_one(home):
    write(home)
    place = find_place({"RELEVO_KAFKA_BOOTSTRAP": "kafka:9092", "RELEVO_PROFILE": "production", "RELEVO_REDIS_URL": ""})
    assert place.settings.kafka_bootstrap == "kafka:9092"
    assert place.settings.profile is Profile.PRODUCTION
    assert place.settings.redis_url == STACK["redis_url"]
    assert "RELEVO_KAFKA_BOOTSTRAP" not in place.from_stack
    assert place.remedy("RELEVO_KAFKA_BOOTSTRAP") == "Start it, or correct RELEVO_KAFKA_BOOTSTRAP."


def test_the_settings_that_the_stack_was_started_with_count(home):
    keys = "shop:01234567890123456789"
    write(home, settings={"RELEVO_API_KEYS": keys, "RELEVO_SENDERS": "2", "OTEL_SERVICE_NAME": "x"})
    assert find_place({}).settings.api_keys == (keys,)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}"])
def test_a_stack_file_that_says_nothing_is_no_stack(home, text):
    (home / "stack.json").write_text(text)
    assert find_place({}).settings.kafka_bootstrap == "127.0.0.1:9092"


def test_a_setting_that_makes_no_sense_is_named(home):
    with pytest.raises(ConfigurationError, match="RELEVO_HTTP_PORT"):
        find_place({"RELEVO_HTTP_PORT": "many"})


def test_a_stack_of_somebody_else_is_said_to_be_so(home, monkeypatch):
    write(home)

    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied", str(home / "stack.json"))

    monkeypatch.setattr("pathlib.Path.read_text", refuse)
    with pytest.raises(ConfigurationError, match="RELEVO_HOME"):
        find_place({})


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@host:5432/db?ssl=x", "postgresql://host:5432/db"),
        ("smtps://user:pass@mail.example.org", "smtps://mail.example.org"),
        ("redis://:p@[::1]:6379/0", "redis://[::1]:6379/0"),
    ],
)
def test_an_address_is_shown_without_its_password(url, shown):
    assert without_password(url) == shown
