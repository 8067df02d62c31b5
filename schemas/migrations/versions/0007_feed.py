"""What the feed keeps: statistics, and which events are in them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two tables that nothing else refers to."""
    op.create_table(
        "outcome_counts",
        sa.Column("producer", sa.String(), nullable=False),
        sa.Column("hour", sa.DateTime(timezone=True), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("channel", sa.String(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("producer", "hour", "status", "channel"),
        # Updated all the time, and the number is in no index.
        postgresql_with={"fillfactor": "50"},
    )
    op.create_table(
        "counted_events",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("counted_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index("counted_events_by_age", "counted_events", ["counted_at"])
