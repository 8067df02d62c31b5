"""
CloudEvents 1.0 in binary mode: the attributes travel as headers of a record, its value stays plain JSON.

A record is one when it has the header ce_specversion; without it the other ce_* headers mean nothing. Structured mode,
where the value is an envelope, is not read.
Source: CloudEvents 1.0.2 and its Kafka protocol binding, sections 3.2 and 3.3.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from schemas.errors import FieldError, InvalidRequestError
from schemas.states import State

Header = tuple[str, bytes]

SPEC_VERSION = "1.0"
SOURCE = "urn:relevo"  # of every event that relevo writes

TRACEPARENT_ATTRIBUTE = "ce_traceparent"  # its distributed tracing extension

_READ = {"ce_specversion", "ce_id", "ce_source"}


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """What is read of an event's attributes. id: "" when it has none. source: None when it has none."""

    id: str
    source: str | None


def read_cloud_event(headers: Iterable[Header]) -> CloudEvent | None:
    """
    Return the event that a record's headers make of it; None: it is none.

    Raises:
        InvalidRequestError: of a version of CloudEvents whose rules we do not know.
    """
    found = {name: value for name, value in headers if name in _READ}
    if "ce_specversion" not in found:
        return None
    major, _, _ = _text(found["ce_specversion"]).partition(".")
    if major != SPEC_VERSION[0]:
        raise InvalidRequestError(
            "invalid_request",
            [FieldError("", "unknown_version", "the header ce_specversion must be 1.0 or a later minor version of it")],
        )
    return CloudEvent(_text(found.get("ce_id")), _text(found.get("ce_source")) or None)


def _text(value: bytes | None) -> str:
    # What is not UTF-8 becomes a text that no check lets through.
    return "" if value is None else value.decode("utf-8", "replace")


_TYPES = {state: f"relevo.notification.{state}".encode() for state in State}


def shared_headers(constant: tuple[Header, ...], status: State, occurred_at: str) -> tuple[Header, ...]:
    """
    Return the headers that all events of one kind have that happened at one moment.

    Args:
        constant: what is the same for all events of a topic; see `constant_headers`.
        status: names the type, as in relevo.notification.sent.
        occurred_at: RFC 3339.
    """
    return *constant, ("ce_type", _TYPES[status]), ("ce_time", occurred_at.encode())


def event_headers(shared: tuple[Header, ...], event_id: str, subject: bytes | None) -> list[Header]:
    """
    Return the headers of one event of ours.

    Args:
        shared: see `shared_headers`.
        subject: the notification's id as text; None: the event is about none that has one.
    """
    headers = [*shared, ("ce_id", event_id.encode())]
    if subject is not None:
        headers.append(("ce_subject", subject))
    return headers


def constant_headers(schema_id: str) -> tuple[Header, ...]:
    """Return the headers that all events have whose value follows the schema called *schema_id*."""
    return (
        ("ce_specversion", SPEC_VERSION.encode()),
        ("ce_source", SOURCE.encode()),
        ("ce_dataschema", schema_id.encode()),
        ("content-type", b"application/json"),
    )
