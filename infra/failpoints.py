"""
Failpoints: named places between two effects, where a test can make the process die, hang or break.

Off unless RELEVO_FAILPOINT names one. Random kills seldom hit the window between two effects; these always do.
"""

import os
import signal
import time

# Each name says what has just happened. Together they are every step between two effects.
NAMES = (
    "ingest.after_commit",  # rows are durable, nobody was answered, nothing is published
    "ingest.before_publish",  # the record is made, the broker has not seen it
    "ingest.after_publish",  # the broker has acknowledged it, the rows still stand in the outbox
    "pipeline.after_claim",
    "pipeline.after_forward",  # acknowledged by the broker; neither marked done nor committed
    "pipeline.after_done",  # marked done; the offset is not committed
    "sender.after_enrol",
    "sender.after_rcpt",  # the recipient was accepted; nothing is claimed
    "sender.after_claim",  # claimed; the relay has no message
    "sender.after_dot",  # the message is on its way; no answer was read
    "sender.after_250",  # the answer was read; the ledger does not know it
    "sender.after_outcome",  # the ledger knows; the result is not published
    "sender.after_result",  # published; the offset is not complete
    "sender.before_commit",  # complete; the offset is not committed
    "feed.before_commit",  # results are handled by one reader; their offsets are not committed
    "feed.after_webhooks_written",  # deliveries are durable; the offsets of their results are not committed
    "feed.after_webhook_answer",  # a receiver has the event; its delivery still stands as pending
)


class FailpointError(Exception):
    """Raised where a test asked for it; stands for a bug of ours."""


_armed: dict[str, tuple[str, int]] = {}


def arm(text: str) -> None:
    """
    Switch on what *text* says: `name:action` or `name:action:n`, separated by commas.

    Actions: kill (SIGKILL to itself), hang (the whole process, for ever), raise. n: at the n-th time, 1 by default;
    raise then goes on raising.
    Raises:
        ValueError: an unknown name or action.
    """
    _armed.clear()
    _armed.update(parse(text))


def parse(text: str) -> dict[str, tuple[str, int]]:
    """
    Return what *text* says: name to (action, n).

    Raises:
        ValueError: an unknown name or action, or n is no number.
    """
    found = {}
    for part in filter(None, text.split(",")):
        name, _, rest = part.partition(":")
        action, _, count = rest.partition(":")
        if name not in NAMES or action not in {"kill", "hang", "raise"} or not (count or "1").isdecimal():
            raise ValueError("must be name:action or name:action:n; infra/failpoints.py has the names")
        found[name] = (action, int(count or 1))
    return found


def hit(name: str) -> None:
    """Do what was asked for at *name*; usually nothing."""
    if not _armed or name not in _armed:
        return
    action, left = _armed[name]
    if left > 1:
        _armed[name] = (action, left - 1)
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "hang":
        time.sleep(3600)
    raise FailpointError(name)
