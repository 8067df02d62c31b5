"""What a receiver's answer means, and when the next attempt is due."""

import math
from datetime import UTC, datetime

import pytest

from infra.settings import Settings
from schemas.webhooks import DeliveryState
from sender.feed.webhook_answers import JITTER, Answer, judge, read_retry_after

WAITS_S = Settings().webhook_waits_s
NOW = datetime(2026, 11, 24, 13, 0, tzinfo=UTC)


def verdict(status=None, *, attempt=1, retry_after_s=None, chance=0.5, code="timeout"):
    answer = Answer(code if status is None else f"http_{status}", status, retry_after_s)
    return judge(answer, attempt=attempt, waits_s=WAITS_S, chance=chance)


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_delivered(status):
    assert verdict(status).state is DeliveryState.DELIVERED


@pytest.mark.parametrize("status", [301, 302, 307, 308, 401, 403, 404, 405, 408, 429, 500, 502, 503, 504, 599, None])
def test_a_receiver_in_trouble_is_asked_again_and_left_alone_for_a_moment(status):
    found = verdict(status)
    assert (found.state, found.wait_s, found.resting) == (DeliveryState.PENDING, WAITS_S[0], True)


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422])
def test_what_is_said_about_one_event_holds_up_no_other(status):
    found = verdict(status)
    assert (found.state, found.wait_s, found.resting) == (DeliveryState.PENDING, WAITS_S[0], False)


@pytest.mark.parametrize("status", [302, 400, 401, 404, 503, None])
def test_after_the_schedule_it_has_failed_whatever_it_was(status):
    assert verdict(status, attempt=len(WAITS_S)).state is DeliveryState.PENDING
    assert verdict(status, attempt=len(WAITS_S) + 1).state is DeliveryState.FAILED


def test_gone_disables_the_webhook_and_its_event_waits():
    found = verdict(410)
    assert (found.state, found.disables) == (DeliveryState.PENDING, True)


def test_the_schedule_reaches_over_a_day_and_then_it_has_failed():
    assert 0.95 * 86_400 < sum(WAITS_S) < 1.05 * 86_400
    waits = [verdict(503, attempt=attempt).wait_s for attempt in range(1, len(WAITS_S) + 1)]
    assert waits == list(WAITS_S)
    assert verdict(503, attempt=len(WAITS_S) + 1).state is DeliveryState.FAILED


def test_what_failed_together_does_not_come_back_together():
    assert verdict(503, chance=0.0).wait_s == pytest.approx(WAITS_S[0] * (1 - JITTER))
    assert verdict(503, chance=1.0).wait_s == pytest.approx(WAITS_S[0] * (1 + JITTER))


def test_retry_after_is_kept_but_neither_shortens_nor_puts_off_for_ever():
    assert verdict(429, retry_after_s=60.0).wait_s == 60.0
    assert verdict(429, retry_after_s=0.0).wait_s == WAITS_S[0]
    assert verdict(503, retry_after_s=math.inf).wait_s == max(WAITS_S)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Tue, 24 Nov 2026 13:02:00 GMT", 120.0),
        ("Tue, 24 Nov 2026 13:02:00 -0000", 120.0),
        ("Tue, 24 Nov 2026 12:00:00 GMT", 0.0),
        ("9" * 400, math.inf),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        (None, None),
    ],
)
def test_retry_after_is_read_in_both_forms_and_nonsense_is_none(text, seconds):
    assert read_retry_after(text, NOW) == seconds
