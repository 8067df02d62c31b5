"""What a receiver's answer means for a delivery, and when it is tried again. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from schemas.webhooks import DeliveryState

GONE = 410
# Said about this very event: the receiver is well, and the next event may please it.
_ABOUT_THE_EVENT = frozenset({400, 409, 413, 415, 422})

# So that what failed together does not come back together.
JITTER = 0.1


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What came of one attempt.

    status: of HTTP; None: there was no answer, and code says why. code: stable and without anything of the receiver's
    own, such as http_503 or timeout. retry_after_s: how long it asked us to wait; None: it did not.
    """

    code: str
    status: int | None = None
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What becomes of a delivery.

    wait_s: until the next attempt, if the state is pending. disables: its webhook gets nothing more. resting: the
    receiver is in trouble and is better left alone for a moment.
    """

    state: DeliveryState
    code: str
    wait_s: float = 0.0
    disables: bool = False
    resting: bool = False


def judge(answer: Answer, *, attempt: int, waits_s: Sequence[float], chance: float) -> Verdict:
    """
    Decide what *answer* means.

    Args:
        attempt: that it was, 1 for the first.
        waits_s: after each attempt; behind the last one there is no other. Each is varied by JITTER.
        chance: from 0 to 1.
    Whatever is not 2xx is tried again: a 401, a 404 or a redirect is what a mistake in the receiver's routing looks
    like, which somebody mends within the day of the schedule; an event that was given up would be lost by then.
    Source: Standard Webhooks 1.0, "Deliverability and reliability"; RFC 9110 15.5.11 (410).
    """
    status = answer.status
    if status is not None and 200 <= status < 300:
        return Verdict(DeliveryState.DELIVERED, answer.code)
    wait_s = waits_s[min(attempt, len(waits_s)) - 1] * (1 + JITTER * (2 * chance - 1))
    if status == GONE:
        # The event waits with all others: who sets the webhook again gets it.
        return Verdict(DeliveryState.PENDING, answer.code, wait_s, disables=True)
    resting = status not in _ABOUT_THE_EVENT
    if attempt > len(waits_s):
        return Verdict(DeliveryState.FAILED, answer.code, resting=resting)
    # Never earlier than asked, but nobody puts us off for longer than we would wait by ourselves.
    asked_s = min(answer.retry_after_s or 0.0, max(waits_s))
    return Verdict(DeliveryState.PENDING, answer.code, max(wait_s, asked_s), resting=resting)


def read_retry_after(text: str | None, now: datetime) -> float | None:
    """
    Return the seconds that a Retry-After header asks for, at least 0; None: there is none, or it makes no sense.

    Source: RFC 9110 10.2.3.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text) if len(text) <= 9 else math.inf
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())
