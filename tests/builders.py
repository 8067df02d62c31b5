"""One obvious valid object per contract, to be changed where a test cares."""

from datetime import UTC, datetime
from uuid import uuid4

from schemas.identity import fingerprint
from schemas.messages import Content, Notification, Source
from sender.ledger import Enrolment

# Long ago: what tests write into the ledger by hand is in no window that an audit looks at.
ACCEPTED_AT = datetime(2025, 1, 24, 12, 0, tzinfo=UTC)


def make_content(**changes):
    return Content(**({"to": "receiver@example.org", "subject": "Alerta", "body": "Se ha detectado."} | changes))


def make_notification(**changes):
    identity = changes.pop("id", None) or uuid4()
    about = {name: changes.pop(name, None) for name in ("traceparent", "producer", "replay_of")}
    return Notification(identity, make_content(**changes), **about)


def make_enrolment(**changes):
    notification = make_notification(**changes)
    return Enrolment(notification, Source("kafka", 3, 912, 0), fingerprint(notification.content), "a hash", ACCEPTED_AT)
