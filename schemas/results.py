"""Making results: what each change of state, and each rejection, looks like on notifications.results."""

from datetime import UTC, datetime
from typing import Any, Literal, cast
from uuid import UUID

import orjson

from schemas.addresses import is_simulated
from schemas.cloud_events import event_headers, shared_headers
from schemas.identity import recipient_hash, rejection_event_id, result_event_id, result_event_text
from schemas.messages import Notification, Reason, Result, Source
from schemas.records import (
    EVENT_HEADERS,
    RESULT_SCHEMA,
    Header,
    Rejection,
    result_fields,
    timestamp,
    understood,
)
from schemas.states import TERMINAL, State


def change(
    *,
    id: UUID,  # noqa: A002 -- the field's name in the contract
    seq: int,
    status: State,
    reason: Reason | None,
    attempt: int,
    channel: str,
    source: Source | None,
    recipient_hash: str | None,
    accepted_at: datetime,
    occurred_at: datetime,
    trace_id: str | None,
    metadata: dict[str, Any] | None,
    producer: str | None,
    replay_of: UUID | None,
    test: bool,
) -> Result:
    """Return the result that tells of change number *seq* of one notification's state."""
    return Result(
        event_id=result_event_id(id, seq),
        id=id,
        seq=seq,
        status=status,
        terminal=status in TERMINAL,
        reason=reason,
        attempt=attempt,
        channel=channel,
        source=source,
        recipient_hash=recipient_hash,
        accepted_at=accepted_at,
        occurred_at=occurred_at,
        duration_ms=_since_ms(accepted_at, occurred_at),
        trace_id=trace_id,
        metadata=metadata,
        producer=producer,
        replay_of=replay_of,
        test=test,
    )


class FirstResults:
    """
    Makes the first result of each notification of a batch: `queued`, or `scheduled` where it is for later.

    The same as `encode_result_record` makes of the same change, for a third of the work: most of it is the same for
    all of them.

    Args:
        occurred_at: of all of them.
        hash_key: for recipient_hash; empty: none is made.
    """

    def __init__(self, occurred_at: datetime, hash_key: bytes) -> None:
        self._occurred_at = occurred_at
        self._hash_key = hash_key
        self._accepted: dict[int, tuple[datetime, str, int]] = {}
        # Of none of them. What differs is filled in for each.
        self._fields = result_fields(
            change(
                id=UUID(int=0),
                seq=1,
                status=State.QUEUED,
                reason=None,
                attempt=0,
                channel="email",
                source=None,
                recipient_hash=None,
                accepted_at=occurred_at,
                occurred_at=occurred_at,
                trace_id=None,
                metadata=None,
                producer=None,
                replay_of=None,
                test=False,
            )
        )
        self._shared = {
            status: shared_headers(EVENT_HEADERS, status, self._fields["occurred_at"])
            for status in (State.QUEUED, State.SCHEDULED)
        }

    def encode(
        self, notification: Notification, key: bytes, source: Source, accepted_ms: int, trace_id: str | None
    ) -> tuple[bytes, bytes, list[Header]]:
        """
        Return key, value and headers of one record of notifications.results.

        Args:
            key: the notification's id as text.
            accepted_ms: Unix milliseconds, of its record: whether it is for later is judged by it, so that a copy says
                the same.
        """
        accepted_at, accepted, duration_ms = self._accepted_at(accepted_ms)
        content = notification.content
        waits = content.scheduled_for is not None and content.scheduled_for > accepted_at
        status = State.SCHEDULED if waits else State.QUEUED
        notification_id = key.decode()
        event_id = result_event_text(notification_id, 1)
        fields = self._fields
        fields["event_id"] = event_id
        fields["id"] = notification_id
        fields["status"] = status
        fields["channel"] = content.channel
        fields["source"] = source.as_json()
        fields["recipient_hash"] = recipient_hash(content.to, self._hash_key)
        fields["accepted_at"] = accepted
        fields["duration_ms"] = duration_ms
        fields["trace_id"] = trace_id
        fields["metadata"] = content.metadata
        fields["producer"] = notification.producer
        fields["replay_of"] = None if notification.replay_of is None else str(notification.replay_of)
        fields["test"] = is_simulated(content.to)
        return key, orjson.dumps(fields), event_headers(self._shared[status], event_id, key)

    def _accepted_at(self, accepted_ms: int) -> tuple[datetime, str, int]:
        known = self._accepted.get(accepted_ms)
        if known is None:
            accepted_at = moment(accepted_ms)
            known = accepted_at, timestamp(accepted_at), _since_ms(accepted_at, self._occurred_at)
            self._accepted[accepted_ms] = known
        return known


def rejection(
    rejected: Rejection, source: Source, *, came_at: datetime, occurred_at: datetime, trace_id: str | None
) -> Result:
    """
    Return the result that tells a producer that its item at *source* did not become a notification.

    Its seq is 0, below that of any change: folding by id never lets a rejection hide a notification. A conflict is
    not terminal, because the id belongs to the notification that came first.
    """
    kind: Literal["conflict", "invalid"] = "conflict" if rejected.code == "idempotency_conflict" else "invalid"
    return Result(
        event_id=rejection_event_id(source.coordinates()),
        id=rejected.id,
        seq=0,
        status=State.REJECTED,
        terminal=kind == "invalid",
        reason=Reason(kind, rejected.code),
        attempt=0,
        channel="email",
        source=source,
        recipient_hash=None,
        accepted_at=came_at,
        occurred_at=occurred_at,
        duration_ms=_since_ms(came_at, occurred_at),
        trace_id=trace_id,
        metadata=None,
        producer=rejected.producer,
        errors=tuple(
            {"pointer": error.pointer, "code": error.code, "detail": error.detail} for error in rejected.errors
        ),
    )


def parse_result(value: bytes | None) -> dict[str, Any]:
    """
    Read the value of one record of notifications.results, which may be of a newer minor version.

    Returns:
        The object as it is. Of its fields only `schema` was looked at.
    Raises:
        ValueError: it is no result, or one of another major version; does not repeat what it holds.
    """
    try:
        result = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        raise ValueError("not JSON") from None
    version = result.get("schema") if isinstance(result, dict) else None
    if not isinstance(version, str) or not understood(version, RESULT_SCHEMA):
        raise ValueError("not a result, or of a version that is not known here")
    return cast("dict[str, Any]", result)


_TIMESTAMP_MS_MAX = 253_402_300_799_000  # the end of the year 9999, where datetime ends


def moment(timestamp_ms: int) -> datetime:
    """
    Return the moment that a record's timestamp, in Unix milliseconds, names.

    A producer sets it as it likes, and -1 means none: what no calendar holds becomes the nearest moment that one does.
    """
    return datetime.fromtimestamp(min(max(timestamp_ms, 0), _TIMESTAMP_MS_MAX) / 1000, UTC)


def now() -> datetime:
    """Return the present moment, aware, in UTC."""
    return datetime.now(UTC)


def _since_ms(begin: datetime, end: datetime) -> int:
    # A producer's clock may be ahead of ours; nothing takes less than no time.
    return max(0, round((end - begin).total_seconds() * 1000))
