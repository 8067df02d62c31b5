"""
Records: how messages become Kafka keys, values and headers, and how they are read back.

notifications.requested      value: one request, or an array of up to 500; key: free
notifications.deduplicated   value: one request; key: its id; timestamp: when it was accepted; headers relevo-source and
                             relevo-deduplicated-at, which records of the first version lack
notifications.results        value: one result; key: its id; headers: those of a CloudEvent
notifications.dlq            see schemas.dead_letters
"""

import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from uuid import UUID

import orjson

from schemas.cloud_events import (
    TRACEPARENT_ATTRIBUTE,
    CloudEvent,
    constant_headers,
    event_headers,
    read_cloud_event,
    shared_headers,
)
from schemas.errors import FieldError, InvalidRequestError
from schemas.json_text import parse_items, parse_json
from schemas.limits import REQUESTS_PER_RECORD_MAX
from schemas.messages import Notification, Result, Source, trusted_content
from schemas.moments import read_moment
from schemas.validation import read_content, read_id, read_producer

Header = tuple[str, bytes]

TRACEPARENT_HEADER = "traceparent"  # W3C Trace Context
DOOR_HEADER = "relevo-door"  # set by ingest; a record without it came from a producer
SOURCE_HEADER = "relevo-source"  # "door partition offset index" of the request on notifications.requested
# When it was put on notifications.deduplicated, in Unix microseconds. A header of its own: a sender of the first
# version takes nothing but those four words for a source.
FORWARDED_HEADER = "relevo-deduplicated-at"

REQUEST_SCHEMA = "notifications.requested/1"
RESULT_SCHEMA = "notifications.results/1"

# The names ($id) of their JSON Schema files in schemas/contract/.
REQUEST_SCHEMA_ID = "urn:relevo:schema:notifications.requested:1"
RESULT_SCHEMA_ID = "urn:relevo:schema:notifications.results:1"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

# The form of a W3C traceparent; what it names is read in infra.telemetry. Anything else is as good as none: it would
# be stored, and a NUL in it alone would be refused by Postgres for ever.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?:-[\x21-\x7e]{0,200})?")


@dataclass(frozen=True, slots=True)
class Rejection:
    """
    An item of a record that cannot become a notification.

    index: its place in the array, 0 for a lone object or when the whole record is unreadable.
    id, producer: None when not even that could be read.
    """

    index: int
    id: UUID | None
    code: str
    errors: tuple[FieldError, ...]
    producer: str | None = None


def encode_request(notification: Notification) -> dict[str, Any]:
    """Return the JSON object that stands for *notification* on a topic; absent means default."""
    content = notification.content
    request: dict[str, Any] = {
        "id": str(notification.id),
        "to": content.to,
        "subject": content.subject,
        "body": content.body,
    }
    if content.html is not None:
        request["html"] = content.html
    if content.reply_to is not None:
        request["reply_to"] = content.reply_to
    if content.metadata is not None:
        request["metadata"] = content.metadata
    if content.channel != "email":
        request["channel"] = content.channel
    if content.on_doubt != "hold":
        request["on_doubt"] = content.on_doubt
    if content.scheduled_for is not None:
        request["scheduled_for"] = _exactly(content.scheduled_for)
    if content.expires_at is not None:
        request["expires_at"] = _exactly(content.expires_at)
    if notification.producer is not None:
        request["producer"] = notification.producer
    if notification.replay_of is not None:
        request["replay_of"] = str(notification.replay_of)
    return request


def encode_requested(notifications: Sequence[Notification]) -> bytes:
    """
    Return the value of one record of notifications.requested.

    A lone notification is a lone object, whose trace context belongs into the header; in an array each item
    carries its own.
    """
    assert 1 <= len(notifications) <= REQUESTS_PER_RECORD_MAX
    if len(notifications) == 1:
        return orjson.dumps(encode_request(notifications[0]))
    items = []
    for notification in notifications:
        item = encode_request(notification)
        if notification.traceparent is not None:
            item["traceparent"] = notification.traceparent
        items.append(item)
    return orjson.dumps(items)


def read_requested(
    value: bytes | None, headers: Sequence[Header], *, at: datetime | None = None
) -> list[tuple[int, Notification] | Rejection]:
    """
    Read one record of notifications.requested, its headers too; see `decode_requested`.

    A CloudEvent of a version that we do not know is refused as a whole.
    Args:
        at: what the record's timestamp says; None: its schedule's horizon is not judged.
    """
    try:
        event = read_cloud_event(headers) if headers else None
    except InvalidRequestError as invalid:
        return [Rejection(0, None, invalid.code, tuple(invalid.errors))]
    # What ingest accepted was judged there, by its own clock, and must not be refused for being a moment older here.
    return decode_requested(
        value, trace_context(headers), event, at=None if header(headers, DOOR_HEADER) == "http" else at
    )


def trace_context(headers: Sequence[Header]) -> str | None:
    """Return the trace context of a record, well-formed or not: its own header, or that of its CloudEvent."""
    found = header(headers, TRACEPARENT_HEADER)
    return header(headers, TRACEPARENT_ATTRIBUTE) if found is None else found


def decode_requested(
    value: bytes | None, traceparent: str | None, event: CloudEvent | None = None, *, at: datetime | None = None
) -> list[tuple[int, Notification] | Rejection]:
    """
    Read one record of notifications.requested, item by item: a bad item never takes its neighbours along.

    Args:
        value: the record's value.
        traceparent: the record's own trace context; an item that carries one has its own.
        event: the CloudEvent that the record is. Its source is the producer of items that name none, its id that of a
            lone request that has none.
        at: from when on the horizon of a schedule counts; None: that is not judged. Of the record, and never the
            present: a record that is read again must be judged as it was the first time.
    Returns:
        For each item, in order: (index, notification), or why it cannot be one. Never empty: a record that is
        unreadable as a whole is one Rejection.
    """
    try:
        if not value:
            raise _invalid("empty", "the record has no value; send one request or an array of requests")
        try:
            parsed = parse_json(value)
        except InvalidRequestError:
            parsed = parse_items(value)
            if parsed is None:
                raise
        if not isinstance(parsed, list):
            return [_decode_item(0, parsed, traceparent, event, at)]
        if not parsed:
            raise _invalid("empty", "the array has no items")
        if len(parsed) > REQUESTS_PER_RECORD_MAX:
            raise _invalid("too_many", f"an array may carry at most {REQUESTS_PER_RECORD_MAX} requests")
    except InvalidRequestError as invalid:
        return [Rejection(0, None, invalid.code, tuple(invalid.errors))]
    if event is not None:
        # It names one request; of several, each names itself.
        event = replace(event, id="")
    return [_decode_item(index, item, traceparent, event, at) for index, item in enumerate(parsed)]


def _decode_item(
    index: int, item: object, traceparent: str | None, event: CloudEvent | None, at: datetime | None
) -> tuple[int, Notification] | Rejection:
    if isinstance(item, InvalidRequestError):
        return Rejection(index, None, item.code, tuple(item.errors))
    found: UUID | None = None
    producer: str | None = None
    replay_of: UUID | None = None
    errors: list[FieldError] = []
    if isinstance(item, dict):
        named = item.get("producer")
        try:
            producer = read_producer(event.source if named is None and event is not None else named)
        except ValueError as error:
            errors.append(
                FieldError("", "invalid_producer", f"the header ce_source {error}; or name the producer in the request")
                if named is None
                else FieldError("/producer", "invalid_producer", str(error))
            )
        if "replay_of" in item:
            with suppress(ValueError):
                # Written by relevo alone; from elsewhere it is a field like any other that nobody knows.
                replay_of = read_id(item["replay_of"])
        try:
            found = read_id(event.id if event is not None and event.id and "id" not in item else item.get("id"))
        except ValueError as error:
            errors.append(
                FieldError("/id", "invalid_uuid", str(error))
                if "id" in item
                else FieldError("/id", "required", "is required")
            )
        version = item.get("schema", REQUEST_SCHEMA)
        if version != REQUEST_SCHEMA and not (isinstance(version, str) and understood(version, REQUEST_SCHEMA)):
            errors.append(
                FieldError("/schema", "unknown_version", f"must be {REQUEST_SCHEMA} or a minor version of it")
            )
        own = item.get("traceparent")
        if isinstance(own, str):
            traceparent = own
    try:
        content = read_content(item, accepts=None, at=at)
    except InvalidRequestError as invalid:
        errors += invalid.errors
    if errors or found is None:
        return Rejection(index, found, "invalid_request", tuple(errors), producer)
    return index, Notification(found, content, _well_formed(traceparent), producer, replay_of)


def _well_formed(traceparent: str | None) -> str | None:
    return traceparent if traceparent is not None and _TRACEPARENT.fullmatch(traceparent) else None


def understood(version: str, schema: str) -> bool:
    """Tell whether whoever knows *schema* can read a record of *version*: of the same major version."""
    # The name has a dot, too.
    name, _, number = version.rpartition("/")
    return f"{name}/{number.split('.')[0]}" == schema


def _invalid(code: str, detail: str) -> InvalidRequestError:
    return InvalidRequestError("invalid_request", [FieldError("", code, detail)])


def encode_source(source: Source) -> Header:
    """Return the header that says where a deduplicated notification came from."""
    return SOURCE_HEADER, f"{source.door} {source.partition} {source.offset} {source.index}".encode()


def decode_source(headers: Iterable[Header]) -> Source:
    """
    Read the header that `encode_source` wrote.

    Raises:
        ValueError: it is missing or malformed. Only relevo writes this topic, so somebody else did.
    """
    text = header(headers, SOURCE_HEADER)
    if text is None:
        raise ValueError(f"the record has no {SOURCE_HEADER} header")
    door, partition, offset, index = text.split(" ")
    return Source("http" if door == "http" else "kafka", int(partition), int(offset), int(index))


def encode_forwarded(at: datetime) -> Header:
    """Return the header that says since when a record stands on notifications.deduplicated."""
    return FORWARDED_HEADER, str((at - _EPOCH) // _MICROSECOND).encode()


def decode_forwarded(headers: Iterable[Header]) -> datetime | None:
    """Read the header that `encode_forwarded` wrote; None: there is none, as in the first version, or it is none."""
    text = header(headers, FORWARDED_HEADER)
    if text is None:
        return None
    try:
        return _EPOCH + int(text) * _MICROSECOND
    except (ValueError, OverflowError):
        return None


def header(headers: Iterable[Header], name: str) -> str | None:
    """Return the last header called *name* as text; None: there is none, or it is not UTF-8."""
    found = None
    for each, value in headers:
        if each == name:
            found = value
    if found is None:
        return None
    try:
        return found.decode("utf-8")
    except UnicodeDecodeError:
        return None


def encode_deduplicated(
    notification: Notification, source: Source, forwarded: Header | None = None
) -> tuple[bytes, bytes, list[Header]]:
    """
    Return key, value and headers of one record of notifications.deduplicated.

    Args:
        forwarded: what `encode_forwarded` makes of this moment, one for all records of a batch; None: left out.
    """
    headers = [encode_source(source)]
    if forwarded is not None:
        headers.append(forwarded)
    if notification.traceparent is not None:
        headers.append((TRACEPARENT_HEADER, notification.traceparent.encode()))
    request = encode_request(notification)
    return request["id"].encode(), orjson.dumps(request), headers


def _exactly(moment: datetime) -> str:
    # To the microsecond: it counts for the fingerprint, which is the same before and behind a topic.
    return moment.isoformat().replace("+00:00", "Z")


def _moment(text: str | None) -> datetime | None:
    return None if text is None else read_moment(text)


_TEXTS = ("id", "to", "subject", "body")


def decode_deduplicated(value: bytes, headers: Sequence[Header]) -> tuple[Notification, Source]:
    """
    Read one record of notifications.deduplicated.

    Raises:
        ValueError: it is not one that relevo wrote.
    """
    request = orjson.loads(value)
    if not isinstance(request, dict) or not all(isinstance(request.get(name), str) for name in _TEXTS):
        raise ValueError("not a request")
    notification = Notification(
        id=UUID(request["id"]),
        # Validated before it was forwarded; it is not judged twice.
        content=trusted_content(
            {
                "to": request["to"],
                "subject": request["subject"],
                "body": request["body"],
                "html": request.get("html"),
                "reply_to": request.get("reply_to"),
                "metadata": request.get("metadata"),
                "channel": request.get("channel", "email"),
                "on_doubt": request.get("on_doubt", "hold"),
                "scheduled_for": _moment(request.get("scheduled_for")),
                "expires_at": _moment(request.get("expires_at")),
            }
        ),
        traceparent=_well_formed(header(headers, TRACEPARENT_HEADER)),
        producer=request.get("producer"),
        replay_of=UUID(request["replay_of"]) if "replay_of" in request else None,
    )
    return notification, decode_source(headers)


# Of every result, whatever it says.
EVENT_HEADERS = constant_headers(RESULT_SCHEMA_ID)


def encode_result_record(result: Result, traceparent: str | None = None) -> tuple[bytes, bytes, list[Header]]:
    """
    Return key, value and headers of one record of notifications.results.

    Args:
        traceparent: the trace context that its readers should continue.
    """
    fields = result_fields(result)
    event_id: str = fields["event_id"]
    subject = None if fields["id"] is None else fields["id"].encode()
    headers = event_headers(shared_headers(EVENT_HEADERS, result.status, fields["occurred_at"]), event_id, subject)
    if traceparent is not None:
        headers.append((TRACEPARENT_HEADER, traceparent.encode()))
    # Where no id could be read, the event's own is the key.
    return subject or event_id.encode(), orjson.dumps(fields), headers


def encode_result(result: Result) -> bytes:
    """Return the value of one record of notifications.results."""
    return encode_result_record(result)[1]


def result_fields(result: Result) -> dict[str, Any]:
    """Return the JSON object that stands for *result* on a topic."""
    reason = result.reason
    return {
        "schema": RESULT_SCHEMA,
        # As text: a database driver's own kind of UUID is none to the encoder.
        "event_id": str(result.event_id),
        "id": None if result.id is None else str(result.id),
        "seq": result.seq,
        "status": result.status,
        "terminal": result.terminal,
        "reason": None if reason is None else {"class": reason.kind, "code": reason.code, "smtp": reason.smtp},
        "attempt": result.attempt,
        "channel": result.channel,
        "source": None if result.source is None else result.source.as_json(),
        "recipient_hash": result.recipient_hash,
        "accepted_at": timestamp(result.accepted_at),
        "occurred_at": timestamp(result.occurred_at),
        "duration_ms": result.duration_ms,
        "trace_id": result.trace_id,
        "metadata": result.metadata,
        "producer": result.producer,
        "replay_of": None if result.replay_of is None else str(result.replay_of),
        "test": result.test,
        **({"errors": result.errors} if result.errors else {}),
    }


# What is written together was accepted, and happened, at few moments.
@lru_cache(maxsize=1024)
def timestamp(moment: datetime) -> str:
    """Return *moment* as RFC 3339 in UTC with milliseconds, the only form of time that relevo writes."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
