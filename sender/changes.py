"""
Changes of state, as the ledger keeps them for the results topic: the outbox of this service.

An event that no `published_at` stands beside may not be on the topic.
"""

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from schemas.messages import Reason, Source
from schemas.states import State


class Unpublished(NamedTuple):
    """A change of state that the ledger knows and the results topic may not."""

    id: UUID
    seq: int
    state: State
    attempt: int
    reason: Reason
    channel: str
    source: Source | None
    recipient_hash: str | None
    accepted_at: datetime
    occurred_at: datetime
    traceparent: str | None
    metadata: dict[str, Any] | None
    producer: str | None
    replay_of: UUID | None
    test: bool


MARK_PUBLISHED = """
UPDATE events SET published_at = now()
FROM unnest($1::uuid[], $2::smallint[]) AS given (id, seq)
WHERE events.notification_id = given.id AND events.seq = given.seq
  -- Not `published_at IS NULL`: for that the planner would rather read all that is unpublished, however much that is.
  AND (published_at IS NULL) IS TRUE
"""

# What `change_of_row` reads: of events as e, and of notifications as n.
CHANGE_COLUMNS = """e.notification_id, e.seq, e.status, e.attempt, e.reason_class, e.reason_code, e.smtp, e.occurred_at,
    n.channel, n.door, n.source_partition, n.source_offset, n.source_index, n.recipient_hash, n.accepted_at,
    n.traceparent, n.metadata, n.producer, n.replay_of, n.test"""

UNPUBLISHED = f"""
SELECT {CHANGE_COLUMNS}
FROM events AS e JOIN notifications AS n ON n.id = e.notification_id
WHERE e.published_at IS NULL AND (e.worker IS NULL OR e.occurred_at < now() - make_interval(secs => $1))
ORDER BY e.occurred_at
LIMIT $2
"""


def change_of_row(row: asyncpg.Record) -> Unpublished:
    """Return the change of state that a row of CHANGE_COLUMNS tells of."""
    source = None
    if row["source_offset"] is not None:
        source = Source(row["door"], row["source_partition"], row["source_offset"], row["source_index"])
    return Unpublished(
        id=row["notification_id"],
        seq=row["seq"],
        state=State(row["status"]),
        attempt=row["attempt"],
        reason=Reason(row["reason_class"], row["reason_code"], row["smtp"]),
        channel=row["channel"],
        source=source,
        recipient_hash=row["recipient_hash"],
        accepted_at=row["accepted_at"],
        occurred_at=row["occurred_at"],
        traceparent=row["traceparent"],
        metadata=row["metadata"],
        producer=row["producer"],
        replay_of=row["replay_of"],
        test=row["test"],
    )
