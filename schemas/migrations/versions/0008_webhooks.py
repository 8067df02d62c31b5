"""Webhooks: where each client wants its results, and the deliveries of them."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add two tables that nothing else refers to."""
    op.create_table(
        "webhooks",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("url", sa.String(), nullable=False),
        sa.Column("statuses", sa.ARRAY(sa.String()), nullable=False),
        sa.Column("secret", sa.String(), nullable=False),
        sa.Column("previous_secret", sa.String()),
        sa.Column("previous_until", _MOMENT),
        sa.Column("created_at", _MOMENT, server_default=sa.func.now(), nullable=False),
        sa.Column("failing_since", _MOMENT),
        sa.Column("disabled_at", _MOMENT),
        sa.Column("disabled_why", sa.String()),
        sa.Column("removed_at", _MOMENT),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index(
        "webhooks_of_client", "webhooks", ["client"], unique=True, postgresql_where=sa.text("removed_at IS NULL")
    )
    op.create_table(
        "webhook_deliveries",
        sa.Column("webhook", sa.Uuid(), nullable=False),
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("notification_id", sa.Uuid()),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("occurred_at", _MOMENT, nullable=False),
        sa.Column("state", sa.String(), server_default="pending", nullable=False),
        sa.Column("attempt", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("next_attempt_at", _MOMENT),
        sa.Column("answered_at", _MOMENT),
        sa.Column("answer", sa.String()),
        sa.PrimaryKeyConstraint("webhook", "event_id"),
        sa.CheckConstraint("state IN ('pending', 'delivered', 'failed')", name="delivery_state_is_known"),
    )
    op.create_index(
        "webhook_deliveries_due",
        "webhook_deliveries",
        ["webhook", "next_attempt_at"],
        postgresql_where=sa.text("state = 'pending'"),
    )
    newest_first = (sa.text("occurred_at DESC"), sa.text("event_id DESC"))
    op.create_index("webhook_deliveries_listed", "webhook_deliveries", ["webhook", *newest_first])
    op.create_index(
        "webhook_deliveries_undelivered",
        "webhook_deliveries",
        ["webhook", "state", *newest_first],
        postgresql_where=sa.text("state <> 'delivered'"),
    )
    op.create_index("webhook_deliveries_of_notification", "webhook_deliveries", ["notification_id"])
