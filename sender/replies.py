"""
What a relay's reply, or its silence, means for one notification. Pure: one table, no I/O.

Every sign of the relay leads to exactly one verdict. Where the enhanced status code (RFC 3463) and the
basic one disagree, the enhanced one counts: it is the more exact.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from schemas.addresses import without_addresses
from schemas.limits import SMTP_TEXT_CHARS_MAX


class Verdict(StrEnum):
    """What to do now."""

    ACCEPTED = "accepted"  # the relay took responsibility
    TRANSIENT = "transient"  # refused for a passing reason, or never got to hear it: try again
    UNREACHABLE = "unreachable"  # the relay never heard of this notification: wait for it, no attempt was made
    PERMANENT = "permanent"  # refused for good: never try again
    CONFIGURATION = "configuration"  # not this notification's fault: stop the channel, a person must act
    IN_DOUBT = "in_doubt"  # handed over, and no answer was seen: never try again by ourselves
    SUPPRESSED = "suppressed"  # a recipient that is not written to: not the relay's word, it was never asked


class Phase(StrEnum):
    """How far the conversation had come."""

    CONNECT = "connect"  # up to and including the banner
    TLS = "tls"
    AUTH = "auth"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"  # the command, up to the first byte of the message
    DOT = "dot"  # the message is on its way: only an explicit refusal says that it was not taken


@dataclass(frozen=True, slots=True)
class Judgement:
    """
    A verdict and its grounds.

    code: stable, for programs: smtp_ and the three digits, or what happened instead of a reply.
    smtp: the relay's words for people, clean and bounded; None when it said nothing.
    smtp_code: its three digits; None when it said nothing.
    """

    verdict: Verdict
    code: str
    smtp: str | None = None
    smtp_code: int | None = None


_ENHANCED = re.compile(r"\s*([245])\.(\d{1,3})\.(\d{1,3})\b")

# Some relays refuse with 550 what they would take in a minute. Only without an enhanced code, which would be exact.
_RATE_LIMITED = re.compile(
    r"rate limit|frequency limit|too many (?:messages|connections|requests)|try again later", re.IGNORECASE
)

# (phase, basic code) whose meaning is not that of its first digit.
_BASIC: dict[tuple[Phase, int], Verdict] = {
    (Phase.CONNECT, 554): Verdict.CONFIGURATION,  # RFC 5321 3.1: no mail service for us here; often a blocked address
    (Phase.AUTH, 530): Verdict.CONFIGURATION,  # RFC 4954 6: authentication required
    (Phase.AUTH, 534): Verdict.CONFIGURATION,
    (Phase.AUTH, 535): Verdict.CONFIGURATION,
    (Phase.AUTH, 538): Verdict.CONFIGURATION,
    (Phase.MAIL, 530): Verdict.CONFIGURATION,
    (Phase.MAIL, 550): Verdict.CONFIGURATION,  # our sender address is refused: it would be for every mail
    (Phase.MAIL, 553): Verdict.CONFIGURATION,
    (Phase.RCPT, 530): Verdict.CONFIGURATION,
}

# (subject.detail) of enhanced codes, RFC 3463 and the IANA registry, whose meaning is not that of their first digit.
_ENHANCED_DETAIL: dict[str, Verdict] = {
    "2.2": Verdict.TRANSIENT,  # mailbox full: it may be emptied, also when the relay says 5.2.2
}

_SUBJECT_OF_MESSAGE = "6"  # 5.6.x: the content; 3.4 is its size
_SIZE = "3.4"

# Before a transaction begins, everything is about us or the relay: no notification was even named. A refusal for good
# needs a person, one for now needs patience, and neither is an attempt.
_ABOUT_US = frozenset({Phase.CONNECT, Phase.TLS, Phase.AUTH})


def judge_reply(phase: Phase, code: int, text: str) -> Judgement:
    """
    Decide what a reply means.

    Args:
        phase: of the command that it answers.
        code: three digits, 200 to 599.
        text: its words, as they came.
    Source: RFC 5321 4.2 and 4.2.1, RFC 3463, RFC 4954 6.
    """
    return Judgement(_verdict(phase, code, text), f"smtp_{code}", clean_reply(code, text), code)


def _verdict(phase: Phase, code: int, text: str) -> Verdict:
    if code == 421:  # RFC 5321 3.8: it closes the connection, whatever it was asked; also after the dot: not taken
        return _passing(phase)
    if 200 <= code < 300:
        return Verdict.ACCEPTED
    enhanced = _ENHANCED.match(text)
    first_digit = enhanced.group(1) if enhanced else str(code)[0]
    detail = f"{enhanced.group(2)}.{enhanced.group(3)}" if enhanced else ""
    if first_digit == "4":
        return _passing(phase)
    if detail in _ENHANCED_DETAIL:
        return _ENHANCED_DETAIL[detail]
    if phase is Phase.MAIL and (detail == _SIZE or detail.startswith(f"{_SUBJECT_OF_MESSAGE}.") or code == 552):
        return Verdict.PERMANENT
    if (phase, code) in _BASIC:
        return _BASIC[phase, code]
    if phase in _ABOUT_US:
        return Verdict.CONFIGURATION
    if not enhanced and _RATE_LIMITED.search(text):
        return Verdict.TRANSIENT
    return Verdict.PERMANENT


def _passing(phase: Phase) -> Verdict:
    return Verdict.UNREACHABLE if phase in _ABOUT_US else Verdict.TRANSIENT


def judge_silence(phase: Phase, code: str) -> Judgement:
    """
    Decide what it means that no reply came: a refused or lost connection, or a time limit that ran out.

    Args:
        phase: of what was being waited for.
        code: what happened: connection_refused, connection_lost, timeout, dns_failure, tls_failure, or, where something
            came that answers nothing, unreadable_reply or out_of_step.
    Source: RFC 5321 4.2.5: only the reply to the final dot tells whether the message was taken.
    """
    if phase is Phase.DOT:
        return Judgement(Verdict.IN_DOUBT, code)
    # A certificate that does not fit, or a relay that offers no STARTTLS: never fall back to clear text.
    if phase is Phase.TLS and code == "tls_failure":
        return Judgement(Verdict.CONFIGURATION, code)
    return Judgement(_passing(phase), code)


_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")


def clean_reply(code: int, text: str) -> str:
    """
    Return a reply fit to be stored and shown: one line, no controls, no addresses, at most 512 characters.

    What a relay says is hostile input, and it likes to repeat the recipient.
    """
    return without_addresses(_CONTROLS.sub(" ", f"{code} {text[:2000]}").strip())[:SMTP_TEXT_CHARS_MAX]
