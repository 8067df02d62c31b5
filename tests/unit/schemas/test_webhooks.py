"""Webhooks: signed as the package of the standard expects, sent to addresses that can be read in one way only."""

from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from schemas.results import now
from schemas.states import TERMINAL, State
from schemas.webhooks import (
    DEFAULT_STATUSES,
    SECRET_PREFIX,
    STATUSES,
    event_body,
    new_secret,
    read_url,
    signed_headers,
)

BODY = event_body("notification.sent", datetime(2026, 11, 24, 13, 39, 1, 302000, UTC), '{"subject":"añ😀"}'.encode())
EVENT = "01a20dc8-0209-7264-868b-fc6a26c24d36"


def signed(*secrets, body=BODY, at=None):
    return signed_headers(event_id=EVENT, attempted_at=at or now(), body=body, secrets=secrets)


def test_the_package_of_the_standard_accepts_what_is_signed_here():
    secret = new_secret()
    told = Webhook(secret).verify(BODY, signed(secret))
    assert told == {"type": "notification.sent", "timestamp": "2026-11-24T13:39:01.302Z", "data": {"subject": "añ😀"}}


def test_what_the_package_signs_is_letter_by_letter_what_is_signed_here():
    secret, at = new_secret(), datetime(2026, 11, 24, tzinfo=UTC)
    assert signed(secret, at=at)["webhook-signature"] == Webhook(secret).sign(EVENT, at, BODY.decode())


def test_one_byte_of_the_body_the_id_or_the_time_changed_is_refused():
    secret = new_secret()
    headers = signed(secret)
    for body, changed in (
        (BODY + b" ", {}),
        (BODY, {"webhook-id": EVENT.replace("0", "1")}),
        (BODY, {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}),
    ):
        with pytest.raises(WebhookVerificationError):
            Webhook(secret).verify(body, headers | changed)


def test_during_a_rotation_either_secret_verifies_and_no_other():
    new, old, foreign = new_secret(), new_secret(), new_secret()
    headers = signed(new, old)
    assert headers["webhook-signature"].count("v1,") == 2
    assert Webhook(new).verify(BODY, headers) == Webhook(old).verify(BODY, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(foreign).verify(BODY, headers)


def test_the_time_is_that_of_the_attempt_so_an_old_event_is_not_taken_for_a_replay():
    secret = new_secret()
    with pytest.raises(WebhookVerificationError, match="too old"):
        Webhook(secret).verify(BODY, signed(secret, at=now() - timedelta(minutes=6)))
    Webhook(secret).verify(BODY, signed(secret))


def test_no_two_secrets_are_alike_and_each_is_long_enough():
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    assert all(len(secret) == len(SECRET_PREFIX) + 44 for secret in secrets)


def test_a_webhook_is_told_of_what_is_final_and_never_of_claims():
    assert set(DEFAULT_STATUSES) == TERMINAL
    assert State.REJECTED in DEFAULT_STATUSES
    assert set(State) - set(STATUSES) == {State.SENDING}


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("https://hooks.example.com", "hooks.example.com", 443),
        ("https://hooks.example.com:8443/a/b?c=%20d&e=[1]", "hooks.example.com", 8443),
        ("https://hooks.example.com:443/a@b", "hooks.example.com", 443),
        ("https://[2606:4700::1111]:8443/", "2606:4700::1111", 8443),
        ("https://xn--bcher-kva.example/?q", "xn--bcher-kva.example", 443),
    ],
)
def test_an_address_is_read_as_it_stands(text, host, port):
    found = read_url(text, plain_allowed=False)
    assert (found.url, found.host, found.port) == (text, host, port)


@pytest.mark.parametrize(
    "text",
    [
        "http://hooks.example.com/",
        "ftp://hooks.example.com/",
        "hooks.example.com",
        "//hooks.example.com/",
        "https:///path",
        "https://user@hooks.example.com/",
        "https://user:password@hooks.example.com/",
        "https://public.example.com@127.0.0.1/",
        "https://hooks.example.com/#fragment",
        "https://hooks.example.com\\@127.0.0.1/",
        "https://hooks.example.com/a b",
        "https://hooks.example.com/\r\nHost: x",
        "https://hooks.example.com/\n",
        "https://hooks.exämple.com/",
        "https://\uff11\uff12\uff17.0.0.1/",
        "https://hooks.example.com:0/",
        "https://hooks.example.com:25/",
        "https://hooks.example.com:080/",
        "https://hooks.example.com:65536/",
        "https://hooks.example.com:/",
        "https://[fe80::1%25eth0]/",
        "https://-/",
        "https://" + "a" * 2100 + ".example.com/",
        "",
        None,
        7,
        ["https://hooks.example.com"],
    ],
)
def test_what_could_be_read_in_two_ways_is_refused_without_repeating_it(text):
    with pytest.raises(ValueError, match=r"^must ") as refused:
        read_url(text, plain_allowed=False)
    assert not text or str(text) not in str(refused.value)


def test_plain_http_is_for_development_only():
    assert read_url("http://localhost:8080/", plain_allowed=True).port == 8080
    assert read_url("http://localhost/", plain_allowed=True).port == 80
    with pytest.raises(ValueError, match="https://"):
        read_url("http://localhost:8080/", plain_allowed=False)
