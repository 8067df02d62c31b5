"""What a second `make up` adds to the first, and which settings make no sense."""

import pytest

from infra.stack.home import Home
from infra.stack.wanted import Wanted
from schemas.errors import ConfigurationError


@pytest.fixture
def home(tmp_path):
    return Home(tmp_path)


def wanted(before=None, **environment):
    return Wanted.from_environment(before, environment)


def came_up(request, home):
    request.save_as_up(home)
    return Wanted.load(home)


def test_what_a_second_call_does_not_mention_stays(home):
    first = came_up(wanted(RELEVO_SENDERS="3", RELEVO_HTTP_PORT="8010"), home)
    second = wanted(first, RELEVO_HTTP_PORT="8011")
    assert (second.senders, second.http_port) == (3, 8011)


def test_settings_that_did_not_work_are_not_carried_on(home):
    first = came_up(wanted(RELEVO_SENDERS="3"), home)
    did_not_work = wanted(first, RELEVO_PROFILE="production")
    did_not_work.save(home)
    assert wanted(Wanted.load(home)).settings == {"RELEVO_SENDERS": "3"}


def test_an_empty_setting_is_forgotten(home):
    assert wanted(came_up(wanted(RELEVO_SENDERS="3"), home), RELEVO_SENDERS="").senders == 1


def test_what_differs_from_process_to_process_is_never_passed_on():
    kept = wanted(RELEVO_HOME="/x", RELEVO_OPS_PORT="1", RELEVO_INSTANCE="x", OTEL_SERVICE_NAME="y", PATH="/bin")
    assert kept.settings == {"OTEL_SERVICE_NAME": "y"}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("RELEVO_SENDERS", "0"),
        ("RELEVO_SENDERS", "many"),
        ("RELEVO_PIPELINES", "-1"),
        ("RELEVO_BROKERS", "8"),
        ("RELEVO_HTTP_PORT", "65536"),
        ("RELEVO_SNEDERS", "3"),
    ],
)
def test_nonsense_is_refused_by_name(setting, value):
    with pytest.raises(ConfigurationError, match=setting):
        wanted(**{setting: value})


def test_it_is_kept_for_this_user_only(home):
    asked = wanted(RELEVO_API_KEYS="shop:0123456789abcdefghij")
    asked.save(home)
    assert Wanted.load(home) == asked
    assert home.wanted_file.stat().st_mode & 0o077 == 0
    assert asked.api_key() == "0123456789abcdefghij"
