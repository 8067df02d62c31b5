"""
Webhooks: results as signed HTTP requests to their producers, in the form of Standard Webhooks 1.0. Pure.

Source: https://github.com/standard-webhooks/standard-webhooks, spec/standard-webhooks.md.
"""

import base64
import hashlib
import hmac
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from schemas.records import timestamp
from schemas.states import TERMINAL, State

SECRET_PREFIX = "whsec_"  # noqa: S105 -- what a secret begins with, not one
SECRET_BYTES = 32  # the specification allows 24 to 64

URL_CHARS_MAX = 2048

# How long the secret before a rotation still signs.
PREVIOUS_SECRET_S = 24 * 60 * 60

TEST_TYPE = "webhook.test"

# Told unless a webhook says otherwise: what is final, and what was refused.
DEFAULT_STATUSES: tuple[State, ...] = tuple(state for state in State if state in TERMINAL)
# A claim is told to nobody, so no result has it.
STATUSES: tuple[State, ...] = tuple(state for state in State if state is not State.SENDING)

# Strict, so that no two readers of an address can take it for different ones: no user, no fragment, no backslash, no
# blank, nothing beyond ASCII. Whatever the host is called, what counts are the addresses that it resolves to.
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9.])?|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[1-9][0-9]{0,4}))?(?P<path>[/?][A-Za-z0-9._~:/?\[\]@!$&'()*+,;=%-]*)?"
)
# Below 1024 are the doors of mail servers and the like, which could be talked into something.
_PORT_OWN_MIN = 1024
_PORTS = {"https": 443, "http": 80}


class DeliveryState(StrEnum):
    """Where the delivery of one event to one webhook is."""

    PENDING = "pending"  # to be delivered, now or later
    DELIVERED = "delivered"  # the receiver answered 2xx
    FAILED = "failed"  # refused for good, or every retry is spent; `resend` makes it pending again


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where a webhook goes: the address as it was given, and what it names. host: without the brackets of IPv6."""

    url: str
    host: str
    port: int


def read_url(given: object, *, plain_allowed: bool) -> Receiver:
    """
    Return the receiver that *given* names.

    What its host resolves to is not looked at here; see infra.egress.
    Args:
        plain_allowed: whether http:// will do.
    Raises:
        ValueError: it names none. The sentence is for people and does not repeat the input.
    """
    found = _URL.fullmatch(given) if isinstance(given, str) and len(given) <= URL_CHARS_MAX else None
    if found is None:
        raise ValueError(
            "must look like https://host/path, without user, password, fragment or characters that need escaping"
        )
    scheme = found["scheme"]
    if scheme == "http" and not plain_allowed:
        raise ValueError("must begin with https://")
    port = int(found["port"] or _PORTS[scheme])
    if port != _PORTS[scheme] and not _PORT_OWN_MIN <= port <= 65_535:
        raise ValueError(f"must have no port, port {_PORTS[scheme]}, or one from {_PORT_OWN_MIN} to 65535")
    return Receiver(found[0], found["host"].strip("[]"), port)


def new_secret() -> str:
    """Return a new secret, `whsec_` and base64."""
    return SECRET_PREFIX + base64.b64encode(os.urandom(SECRET_BYTES)).decode()


def signed_headers(*, event_id: str, attempted_at: datetime, body: bytes, secrets: Sequence[str]) -> dict[str, str]:
    """
    Return the three headers that make *body* a webhook.

    Args:
        event_id: the same at each attempt, so that receivers can fold copies away.
        attempted_at: of this attempt; receivers refuse what is older than some minutes.
        secrets: at least one; during a rotation there are two, and a receiver that knows either is content.
    """
    assert secrets, "an unsigned webhook is none"
    moment = str(int(attempted_at.timestamp()))
    signed = b".".join((event_id.encode(), moment.encode(), body))
    signatures = [
        base64.b64encode(hmac.new(_key(secret), signed, hashlib.sha256).digest()).decode() for secret in secrets
    ]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": moment,
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def event_type(status: State) -> str:
    """Return the type of the webhook that tells of *status*."""
    return f"notification.{status}"


def event_body(event: str, occurred_at: datetime, data: bytes) -> bytes:
    """
    Return the body of a webhook, made once and the same at each attempt.

    Args:
        data: JSON; of a result the value of its record, byte for byte.
    """
    return b'{"type":"%b","timestamp":"%b","data":%b}' % (event.encode(), timestamp(occurred_at).encode(), data)


def _key(secret: str) -> bytes:
    return base64.b64decode(secret.removeprefix(SECRET_PREFIX))
