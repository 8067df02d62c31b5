"""
The tables: the ledger, which is the truth about every id, and what hangs on it.

`notifications` holds facts and no personal data; `contents` holds what is to be sent, is written once and
never updated, so that the rows that change stay small. No foreign keys between them: one statement writes both
rows, nothing deletes one alone, and the check would cost as much as the insert. `events` is the timeline of each
id and, where published_at is null, the outbox of notifications.results. `workers` holds the leases of the senders.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from schemas.states import IN_LEDGER, State

_MOMENT = sa.DateTime(timezone=True)


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(str(value)) for value in values)})"


class NotificationRow(SQLModel, table=True):
    """
    One notification, by whichever door it came. For the HTTP door the row is its own outbox entry.

    source_partition, source_offset and source_index say where on notifications.requested it stands; null until
    ingest has published it. publish_after: not before this moment may a sweep publish it (again); it is the
    lease of whoever is publishing now. seq: the number of the last event. attempt: how many were begun.
    worker: who claimed it, while state is sending. next_attempt_at: it waits in the ledger until then; null: a record
    of Kafka has it. doubts: how often its answer was not seen; on_doubt says whether that may be followed by another
    attempt. scheduled_for: as its request said, and never changed, because it counts for the fingerprint: when it is
    really due stands in next_attempt_at. expires_at: not sent from then on. producer: which service asked for it.
    replay_of: the notification that this one makes up for; replay: the order (see replays) that made it. test: its
    recipient is the simulator's. deduplicated_*: where and since when it stands on notifications.deduplicated, as
    whoever claimed it read it there.
    """

    __tablename__ = "notifications"
    __table_args__ = (
        sa.CheckConstraint(_one_of("state", IN_LEDGER), name="state_is_known"),
        sa.CheckConstraint(_one_of("door", ("http", "kafka")), name="door_is_known"),
        sa.CheckConstraint(_one_of("on_doubt", ("hold", "resend")), name="on_doubt_is_known"),
        # The outbox: only rows that still wait are in it, so it is as small as the backlog.
        sa.Index("notifications_unpublished", "publish_after", postgresql_where=sa.text("published_at IS NULL")),
        # What a dead worker left behind.
        sa.Index("notifications_claimed", "worker", postgresql_where=sa.text(f"state = '{State.SENDING}'")),
        # What waits for a later attempt, and what is not finished.
        sa.Index("notifications_parked", "next_attempt_at", postgresql_where=sa.text("next_attempt_at IS NOT NULL")),
        sa.Index("notifications_open", "accepted_at", postgresql_where=sa.text("finished_at IS NULL")),
        # Updated several times in a short life: leave room on the page, so that most updates touch no index.
        {"postgresql_with": {"fillfactor": "70"}},
    )

    id: UUID = Field(primary_key=True)
    fingerprint: bytes
    state: str = Field(default=State.QUEUED, sa_column_kwargs={"server_default": State.QUEUED.value})
    attempt: int = Field(default=0, sa_type=sa.SmallInteger, sa_column_kwargs={"server_default": "0"})
    seq: int = Field(default=1, sa_type=sa.SmallInteger, sa_column_kwargs={"server_default": "1"})
    door: str
    client: str | None = None
    channel: str
    recipient_hash: str | None = None
    metadata_: dict[str, Any] | None = Field(default=None, sa_column=sa.Column("metadata", sa.JSON))
    traceparent: str | None = None
    source_partition: int | None = None
    source_offset: int | None = Field(default=None, sa_type=sa.BigInteger)
    source_index: int | None = Field(default=None, sa_type=sa.SmallInteger)
    accepted_at: datetime = Field(sa_type=_MOMENT)
    published_at: datetime | None = Field(default=None, sa_type=_MOMENT)
    publish_after: datetime | None = Field(default=None, sa_type=_MOMENT)
    worker: UUID | None = None
    finished_at: datetime | None = Field(default=None, sa_type=_MOMENT)
    next_attempt_at: datetime | None = Field(default=None, sa_type=_MOMENT)
    on_doubt: str = Field(default="hold", sa_column_kwargs={"server_default": "hold"})
    doubts: int = Field(default=0, sa_type=sa.SmallInteger, sa_column_kwargs={"server_default": "0"})
    scheduled_for: datetime | None = Field(default=None, sa_type=_MOMENT)
    expires_at: datetime | None = Field(default=None, sa_type=_MOMENT)
    producer: str | None = None
    replay_of: UUID | None = None
    replay: UUID | None = None
    test: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})
    deduplicated_at: datetime | None = Field(default=None, sa_type=_MOMENT)
    deduplicated_partition: int | None = None
    deduplicated_offset: int | None = Field(default=None, sa_type=sa.BigInteger)


class ContentRow(SQLModel, table=True):
    """What is to be sent, and to whom: the personal data, apart from the ledger, written once."""

    __tablename__ = "contents"

    notification_id: UUID = Field(primary_key=True)
    recipient: str
    subject: str
    body: str
    html: str | None = None
    reply_to: str | None = None


class EventRow(SQLModel, table=True):
    """One change of one notification's state. event_id of the result is made from (notification_id, seq)."""

    __tablename__ = "events"
    __table_args__ = (
        sa.CheckConstraint(_one_of("status", IN_LEDGER), name="status_is_known"),
        sa.Index("events_unpublished", "occurred_at", postgresql_where=sa.text("published_at IS NULL")),
    )

    notification_id: UUID = Field(primary_key=True)
    seq: int = Field(primary_key=True, sa_type=sa.SmallInteger, sa_column_kwargs={"autoincrement": False})
    status: str
    attempt: int = Field(sa_type=sa.SmallInteger)
    worker: str | None = None
    reason_class: str
    reason_code: str
    smtp: str | None = None
    attempt_ms: int | None = None
    occurred_at: datetime = Field(sa_type=_MOMENT)
    published_at: datetime | None = Field(default=None, sa_type=_MOMENT)


class WorkerRow(SQLModel, table=True):
    """A sender process and the lease it renews. After lease_until its claims are nobody's any more."""

    __tablename__ = "workers"

    id: UUID = Field(primary_key=True)
    name: str
    started_at: datetime = Field(sa_type=_MOMENT)
    lease_until: datetime = Field(sa_type=_MOMENT, index=True)


class ContactMessageRow(SQLModel, table=True):
    """A visitor's message as it was sent; id is the id of its first notification."""

    __tablename__ = "contact_messages"

    id: UUID = Field(primary_key=True)
    name: str
    email: str
    message: str
    received_at: datetime = Field(sa_type=_MOMENT)


METADATA = SQLModel.metadata
