"""
The tables: the ledger, which is the truth about every id, and what hangs on it.

`notifications` holds facts and no personal data; `contents` holds what is to be sent, is written once and
never updated, so that the rows that change stay small. No foreign keys between them: one statement writes both
rows, nothing deletes one alone, and the check would cost as much as the insert. `events` is the timeline of each
id and, where published_at is null, the outbox of notifications.results. `workers` holds the leases of the senders.
`outcome_counts` and `counted_events` are the feed's: statistics, made of results alone.
`webhooks` says which client wants its results where, and `webhook_deliveries` how far each of them has come.
"""

from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from schemas.states import IN_LEDGER, RARE, State
from schemas.stored import RECIPIENT_KEY
from schemas.webhooks import DeliveryState

_MOMENT = sa.DateTime(timezone=True)


_NEWEST_FIRST = (sa.text("accepted_at DESC"), sa.text("id DESC"))


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
        # Lists, newest first (ingest/list_store.py): of a client, or of nobody's;
        sa.Index("notifications_listed", "client", *_NEWEST_FIRST),
        # of one state, except for those that every notification goes through, which would pay for it each time;
        sa.Index(
            "notifications_listed_by_state",
            *("client", "state", *_NEWEST_FIRST),
            postgresql_where=sa.text(_one_of("state", RARE)),
        ),
        # of one producer of the Kafka door; what came over HTTP has its client for one.
        sa.Index(
            "notifications_listed_by_producer",
            *("producer", *_NEWEST_FIRST),
            postgresql_where=sa.text("client IS NULL AND producer IS NOT NULL"),
        ),
        # The replays of an original.
        sa.Index("notifications_replays", "replay_of", postgresql_where=sa.text("replay IS NOT NULL")),
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
    """
    What is to be sent, and to whom: the personal data, apart from the ledger, written once.

    accepted_at: as in notifications, for lists of what went to one recipient.
    """

    __tablename__ = "contents"
    __table_args__ = (
        # By a number and not by the address: it is a third of its size, and may stand in a cursor, which comes back in
        # addresses of pages.
        sa.Index(
            "contents_listed",
            *(sa.text(RECIPIENT_KEY), sa.text("accepted_at DESC"), sa.text("notification_id DESC")),
        ),
    )

    notification_id: UUID = Field(primary_key=True)
    recipient: str
    subject: str
    body: str
    html: str | None = None
    reply_to: str | None = None
    accepted_at: datetime = Field(sa_type=_MOMENT, sa_column_kwargs={"server_default": sa.func.now()})


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


class ReplayRow(SQLModel, table=True):
    """
    One order to replay, which is its own audit: who ordered what, why, when, and what came of it (ingest/replays.py).

    asked_by: the person, as the client names them. selection: what was asked for. position: how far it came; the next
    batch is due at next_at. replayed: notifications made; skipped: candidates passed over, by reason.
    """

    __tablename__ = "replays"
    __table_args__ = (
        sa.CheckConstraint(_one_of("state", ("running", "cancelled", "done")), name="state_is_known"),
        sa.Index("replays_due", "next_at", postgresql_where=sa.text("state = 'running'")),
        sa.Index("replays_listed", "client", sa.text("created_at DESC"), sa.text("id DESC")),
    )

    id: UUID = Field(primary_key=True)
    client: str
    asked_by: str | None = None
    reason: str | None = None
    force: bool
    rate_per_s: int
    selection: dict[str, Any] = Field(sa_type=sa.JSON)
    fingerprint: bytes
    state: str = Field(default="running", sa_column_kwargs={"server_default": "running"})
    position: dict[str, Any] = Field(sa_type=sa.JSON)
    replayed: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    skipped: dict[str, int] = Field(sa_type=sa.JSON)
    created_at: datetime = Field(sa_type=_MOMENT, sa_column_kwargs={"server_default": sa.func.now()})
    next_at: datetime = Field(sa_type=_MOMENT, sa_column_kwargs={"server_default": sa.func.now()})
    finished_at: datetime | None = Field(default=None, sa_type=_MOMENT)


class HandledRow(SQLModel, table=True):
    """
    A dead letter that somebody has dealt with: put back on its topic, or given up for a reason.

    partition, offset: on notifications.dlq. written_at: the timestamp of that record, so that a topic that was made
    anew, whose offsets begin at 0 again, has none that is handled.
    """

    __tablename__ = "dead_letters_handled"
    __table_args__ = (sa.CheckConstraint(_one_of("action", ("replayed", "discarded")), name="action_is_known"),)

    partition: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})
    offset: int = Field(primary_key=True, sa_type=sa.BigInteger, sa_column_kwargs={"autoincrement": False})
    written_at: datetime = Field(primary_key=True, sa_type=_MOMENT)
    action: str
    handled_by: str
    reason: str | None = None
    handled_at: datetime = Field(sa_type=_MOMENT, sa_column_kwargs={"server_default": sa.func.now()})


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


class OutcomeCountRow(SQLModel, table=True):
    """How many results of one kind occurred within one hour; producer is empty where a result names none."""

    __tablename__ = "outcome_counts"
    # Updated all the time, and the number is in no index.
    __table_args__ = ({"postgresql_with": {"fillfactor": "50"}},)

    # In this order: a client reads its own, over some hours.
    producer: str = Field(primary_key=True)
    hour: datetime = Field(primary_key=True, sa_type=_MOMENT)
    status: str = Field(primary_key=True)
    channel: str = Field(primary_key=True)
    count: int = Field(sa_type=sa.BigInteger)


class CountedEventRow(SQLModel, table=True):
    """A result that is in outcome_counts, for as long as it, or a copy of it, may be read again."""

    __tablename__ = "counted_events"
    __table_args__ = (sa.Index("counted_events_by_age", "counted_at"),)

    event_id: UUID = Field(primary_key=True)
    counted_at: datetime = Field(sa_type=_MOMENT, sa_column_kwargs={"server_default": sa.func.now()})


class WebhookRow(SQLModel, table=True):
    """
    Where a client wants its results.

    previous_secret signs beside secret until previous_until. failing_since: no attempt has succeeded since then; null:
    the last one did. disabled_at, disabled_why: its deliveries wait until the client sets it again. removed_at: it is
    gone, and its deliveries are being deleted.
    """

    __tablename__ = "webhooks"
    __table_args__ = (
        sa.Index("webhooks_of_client", "client", unique=True, postgresql_where=sa.text("removed_at IS NULL")),
    )

    id: UUID = Field(primary_key=True)
    client: str
    url: str
    statuses: list[str] = Field(sa_type=sa.ARRAY(sa.String))
    secret: str
    previous_secret: str | None = None
    previous_until: datetime | None = Field(default=None, sa_type=_MOMENT)
    created_at: datetime = Field(sa_type=_MOMENT, sa_column_kwargs={"server_default": sa.func.now()})
    failing_since: datetime | None = Field(default=None, sa_type=_MOMENT)
    disabled_at: datetime | None = Field(default=None, sa_type=_MOMENT)
    disabled_why: str | None = None
    removed_at: datetime | None = Field(default=None, sa_type=_MOMENT)


class WebhookDeliveryRow(SQLModel, table=True):
    """
    One event on its way to one webhook; body is what is signed and sent, the same at each attempt.

    attempt: how many were begun. next_attempt_at: not before then; while an attempt is under way, its lease; null when
    the state is final. answer: what came of the last attempt that ended at answered_at, such as http_503.
    """

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        sa.CheckConstraint(_one_of("state", tuple(DeliveryState)), name="delivery_state_is_known"),
        # What each webhook has to do next.
        sa.Index("webhook_deliveries_due", "webhook", "next_attempt_at", postgresql_where=sa.text("state = 'pending'")),
        # Lists, windows to be sent again, and what is old enough to be deleted; lists of what has not arrived.
        sa.Index("webhook_deliveries_listed", "webhook", sa.text("occurred_at DESC"), sa.text("event_id DESC")),
        sa.Index(
            "webhook_deliveries_undelivered",
            *("webhook", "state", sa.text("occurred_at DESC"), sa.text("event_id DESC")),
            postgresql_where=sa.text("state <> 'delivered'"),
        ),
        sa.Index("webhook_deliveries_of_notification", "notification_id"),
    )

    webhook: UUID = Field(primary_key=True)
    event_id: UUID = Field(primary_key=True)
    notification_id: UUID | None = None
    type: str
    body: bytes
    occurred_at: datetime = Field(sa_type=_MOMENT)
    state: str = Field(default=DeliveryState.PENDING, sa_column_kwargs={"server_default": DeliveryState.PENDING.value})
    attempt: int = Field(default=0, sa_type=sa.SmallInteger, sa_column_kwargs={"server_default": "0"})
    next_attempt_at: datetime | None = Field(default=None, sa_type=_MOMENT)
    answered_at: datetime | None = Field(default=None, sa_type=_MOMENT)
    answer: str | None = None


METADATA = SQLModel.metadata
