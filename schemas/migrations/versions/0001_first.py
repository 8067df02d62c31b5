"""The first tables: notifications, contents, events, workers, contact_messages."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_IN_LEDGER = "('queued', 'sending', 'retrying', 'sent', 'failed', 'bounced', 'in_doubt')"


def _moment(name: str, *, nullable: bool = False) -> "sa.Column[object]":
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def upgrade() -> None:
    """Create everything; the meaning of each column stands in schemas.tables."""
    op.create_table(
        "notifications",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(), server_default="queued", nullable=False),
        sa.Column("attempt", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("seq", sa.SmallInteger(), server_default="1", nullable=False),
        sa.Column("door", sa.String(), nullable=False),
        sa.Column("client", sa.String()),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("recipient_hash", sa.String()),
        sa.Column("metadata", JSONB()),
        sa.Column("traceparent", sa.String()),
        sa.Column("source_partition", sa.Integer()),
        sa.Column("source_offset", sa.BigInteger()),
        sa.Column("source_index", sa.SmallInteger()),
        _moment("accepted_at"),
        _moment("published_at", nullable=True),
        _moment("publish_after", nullable=True),
        sa.Column("worker", sa.Uuid()),
        _moment("finished_at", nullable=True),
        sa.CheckConstraint(f"state IN {_IN_LEDGER}", name="state_is_known"),
        sa.CheckConstraint("door IN ('http', 'kafka')", name="door_is_known"),
        postgresql_with={"fillfactor": "70"},
    )
    op.create_index(
        "notifications_unpublished",
        "notifications",
        ["publish_after"],
        postgresql_where=sa.text("published_at IS NULL"),
    )
    op.create_index("notifications_claimed", "notifications", ["worker"], postgresql_where=sa.text("state = 'sending'"))
    op.create_table(
        "contents",
        sa.Column("notification_id", sa.Uuid(), primary_key=True),
        sa.Column("recipient", sa.String(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        sa.Column("body", sa.String(), nullable=False),
        sa.Column("html", sa.String()),
        sa.Column("reply_to", sa.String()),
    )
    op.create_table(
        "events",
        sa.Column("notification_id", sa.Uuid(), primary_key=True),
        sa.Column("seq", sa.SmallInteger(), primary_key=True, autoincrement=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("attempt", sa.SmallInteger(), nullable=False),
        sa.Column("worker", sa.String()),
        sa.Column("reason_class", sa.String(), nullable=False),
        sa.Column("reason_code", sa.String(), nullable=False),
        sa.Column("smtp", sa.String()),
        sa.Column("attempt_ms", sa.Integer()),
        _moment("occurred_at"),
        _moment("published_at", nullable=True),
        sa.CheckConstraint(f"status IN {_IN_LEDGER}", name="status_is_known"),
    )
    op.create_index("events_unpublished", "events", ["occurred_at"], postgresql_where=sa.text("published_at IS NULL"))
    op.create_table(
        "workers",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False),
        _moment("started_at"),
        _moment("lease_until"),
    )
    op.create_index("ix_workers_lease_until", "workers", ["lease_until"])
    op.create_table(
        "contact_messages",
        sa.Column("id", sa.Uuid(), primary_key=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("email", sa.String(), nullable=False),
        sa.Column("message", sa.String(), nullable=False),
        _moment("received_at"),
    )
