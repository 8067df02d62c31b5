"""The table of replies, row by row (reference: RFC 5321, RFC 3463, RFC 4954)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.limits import SMTP_TEXT_CHARS_MAX
from sender.replies import Phase, Verdict, clean_reply, judge_reply, judge_silence

A, T, P, C, U = Verdict.ACCEPTED, Verdict.TRANSIENT, Verdict.PERMANENT, Verdict.CONFIGURATION, Verdict.UNREACHABLE


@pytest.mark.parametrize(
    ("phase", "code", "text", "verdict"),
    [
        (Phase.DOT, 250, "2.0.0 OK queued as 4F1", A),
        (Phase.RCPT, 251, "will forward", A),
        (Phase.CONNECT, 554, "5.7.1 blocked", C),
        (Phase.CONNECT, 421, "busy", U),
        (Phase.CONNECT, 450, "later", U),
        (Phase.TLS, 454, "TLS not available", U),
        (Phase.TLS, 502, "not implemented", C),
        (Phase.AUTH, 454, "4.7.0 temporary authentication failure", U),
        (Phase.AUTH, 535, "5.7.8 bad credentials", C),
        (Phase.AUTH, 530, "authentication required", C),
        (Phase.AUTH, 534, "5.7.9 mechanism too weak", C),
        (Phase.AUTH, 538, "5.7.11 encryption required", C),
        (Phase.MAIL, 530, "5.7.0 must issue STARTTLS first", C),
        (Phase.MAIL, 550, "5.7.1 sender refused", C),
        (Phase.MAIL, 553, "5.1.8 bad sender domain", C),
        (Phase.MAIL, 452, "4.3.1 insufficient storage", T),
        (Phase.MAIL, 552, "5.3.4 message too big", P),
        (Phase.RCPT, 450, "4.2.1 mailbox busy", T),
        (Phase.RCPT, 451, "4.7.1 greylisted", T),
        (Phase.RCPT, 452, "4.5.3 too many recipients", T),
        (Phase.RCPT, 550, "5.1.1 no such user", P),
        (Phase.RCPT, 553, "5.1.3 bad address", P),
        (Phase.RCPT, 552, "5.2.2 mailbox full", T),
        (Phase.RCPT, 525, "5.7.13 account disabled", P),
        (Phase.RCPT, 550, "5.7.1 policy", P),
        (Phase.RCPT, 550, "sending rate limit exceeded", T),
        (Phase.RCPT, 550, "5.7.1 rate limit exceeded", P),  # the enhanced code is exact
        (Phase.RCPT, 550, "no enhanced code", P),
        (Phase.RCPT, 450, "no enhanced code", T),
        (Phase.RCPT, 550, "4.2.1 the codes disagree", T),
        (Phase.RCPT, 450, "5.1.1 the codes disagree", P),
        (Phase.DATA, 554, "5.5.1 no valid recipients", P),
        (Phase.DATA, 451, "local error", T),
        (Phase.DOT, 451, "4.3.0 refused explicitly", T),
        (Phase.DOT, 421, "closing, not taken", T),
        (Phase.DOT, 554, "5.7.1 spam", P),
        (Phase.DOT, 552, "5.3.4 message too big", P),
    ],
)
def test_a_reply_means(phase, code, text, verdict):
    judgement = judge_reply(phase, code, text)
    assert judgement.verdict is verdict
    assert judgement.code == f"smtp_{code}"
    assert judgement.smtp_code == code


SILENCES = ["timeout", "connection_lost", "connection_refused", "dns_failure", "unreadable_reply", "out_of_step"]
BEFORE_A_TRANSACTION = [Phase.CONNECT, Phase.TLS, Phase.AUTH]


@pytest.mark.parametrize("phase", BEFORE_A_TRANSACTION)
@pytest.mark.parametrize("code", SILENCES)
def test_a_relay_that_is_away_is_waited_for_and_nobody_pays(phase, code):
    assert judge_silence(phase, code).verdict is U


@pytest.mark.parametrize("phase", [Phase.MAIL, Phase.RCPT, Phase.DATA])
@pytest.mark.parametrize("code", SILENCES)
def test_silence_before_the_message_is_safe_to_try_again(phase, code):
    assert judge_silence(phase, code).verdict is T


def test_silence_after_the_message_is_in_doubt_and_nothing_else():
    assert {judge_silence(Phase.DOT, code).verdict for code in SILENCES} == {Verdict.IN_DOUBT}


def test_a_certificate_that_does_not_fit_stops_the_channel():
    assert judge_silence(Phase.TLS, "tls_failure").verdict is C


def test_expired_password_is_not_a_bounce():
    assert judge_reply(Phase.AUTH, 535, "5.7.8 expired").verdict is not P


@given(st.sampled_from(Phase), st.integers(200, 599), st.text())
def test_every_reply_has_a_verdict_and_only_2yz_is_acceptance(phase, code, text):
    verdict = judge_reply(phase, code, text).verdict
    assert (verdict is A) == (code < 300)
    # An explicit reply is never in doubt: that is for silence.
    assert verdict is not Verdict.IN_DOUBT


@given(st.text())
def test_what_a_relay_says_is_kept_short_clean_and_without_addresses(text):
    kept = clean_reply(550, text + " <secret.person@example.org> \x1b[31m\r\n")
    assert len(kept) <= SMTP_TEXT_CHARS_MAX
    assert kept.isprintable() or not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in kept)
    assert "secret.person" not in kept
