"""
A crash at each step between two effects: the process dies exactly there, comes back, and the result is right.

Random kills seldom hit these windows.
"""

from contextlib import contextmanager, suppress
from uuid import uuid4

import pytest

from infra.failpoints import NAMES
from tests.bench.sides import query
from tests.lag import TOPIC_OF, lag
from tests.processes import eventually
from tests.relevo import address

# Between the claim and the recorded outcome nobody else can tell whether the mail went out: in doubt, not twice.
IN_DOUBT = {"sender.after_claim": 0, "sender.after_dot": 1, "sender.after_250": 1}


_UNPUBLISHED = "SELECT count(*) FROM notifications WHERE published_at IS NULL"


@contextmanager
def dying_at(relevo, name, action="kill"):
    """In place of the service that *name* belongs to, one that dies there; afterwards the service is back."""
    module = name.split(".")[0]
    service = getattr(relevo, module)
    # A record that the death before left behind would be the doomed one's end before it is even ready; so would one
    # that only the sweep publishes.
    eventually(lambda: not query(relevo.servers.postgres_dsn, _UNPUBLISHED)[0][0], 40)
    eventually(lambda: not any(lag(relevo.servers.kafka_bootstrap, group) for group in TOPIC_OF), 30)
    assert service.stop() == 0
    doomed = relevo.service(module, RELEVO_FAILPOINT=f"{name}:{action}")
    try:
        doomed.start()
        yield doomed
        eventually(lambda: not doomed.alive, 20)
    finally:
        doomed.kill()
        service.start()


def offer(relevo, module, **fields):
    """One notification, so that nothing else is under way; perhaps without an answer, when ingest dies under it."""
    identity = str(uuid4())
    request = {"id": identity, "to": address(), "subject": "s", "body": "b"} | fields
    if module != "ingest":
        relevo.produce(request)
        return identity
    with suppress(OSError):
        relevo.post("/api/notify/", request)
    return identity


def settled(relevo, identity, within_s):
    def look():
        found = relevo.status(identity)
        assert found.get("terminal"), found
        return found

    return eventually(look, within_s, 0.1)


# What the feed does is no step on the way of a mail: tests/e2e/test_feed.py.
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("feed.")])
def test_a_death_there_loses_nothing_and_sends_nothing_twice(relevo, name):
    module = name.split(".")[0]
    with dying_at(relevo, name):
        identity = offer(relevo, module)
    # The lease of the tests is 5 s; in doubt comes within 20 s of its end.
    found = settled(relevo, identity, 25)
    assert found["status"] == ("in_doubt" if name in IN_DOUBT else "sent")
    assert relevo.mailbox.counts().get(identity, 0) == IN_DOUBT.get(name, 1)

    def told_once():
        terminal = [event["status"] for event in relevo.results(identity) if event["terminal"]]
        assert terminal == [found["status"]]
        return True

    eventually(told_once, 20)


@pytest.mark.parametrize("name", list(IN_DOUBT))
def test_who_asked_for_it_gets_one_more_mail_with_the_same_message_id(relevo, name):
    with dying_at(relevo, name):
        identity = offer(relevo, "sender", on_doubt="resend")
    found = settled(relevo, identity, 45)
    assert found["status"] == "sent"
    assert [step["step"] for step in found["timeline"]][-2:] == ["retrying", "sent"]
    mails = relevo.mailbox.messages(notification_id=identity)
    assert len(mails) == 1 + IN_DOUBT[name]
    assert {mail["message_id"] for mail in mails} == {f"<{identity}@example.org>"}


def test_a_death_before_the_claim_waits_for_no_lease(relevo):
    with dying_at(relevo, "sender.after_rcpt"):
        identity = offer(relevo, "sender")
    # relevo.sender is ready again: from here on it is a matter of fetching and sending.
    assert settled(relevo, identity, 4)["status"] == "sent"
