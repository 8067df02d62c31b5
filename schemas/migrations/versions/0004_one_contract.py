"""Scheduling, expiry, producers, replays, test recipients, and the second hop; four more states."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_IN_LEDGER = (
    "('queued', 'scheduled', 'sending', 'retrying', 'sent', 'failed', 'bounced', 'in_doubt', 'suppressed', 'expired', "
    "'cancelled')"
)


def upgrade() -> None:
    """
    Add columns that are null or have a constant default, which rewrite no table, and admit the new states.

    The wider checks are added without looking at the rows that are there, which all satisfied the narrower ones.
    """
    for name in ("scheduled_for", "expires_at", "deduplicated_at"):
        op.add_column("notifications", sa.Column(name, sa.DateTime(timezone=True)))
    op.add_column("notifications", sa.Column("producer", sa.String()))
    op.add_column("notifications", sa.Column("replay_of", sa.Uuid()))
    op.add_column("notifications", sa.Column("replay", sa.Uuid()))
    op.add_column("notifications", sa.Column("test", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.add_column("notifications", sa.Column("deduplicated_partition", sa.Integer()))
    op.add_column("notifications", sa.Column("deduplicated_offset", sa.BigInteger()))
    for table, column in (("notifications", "state"), ("events", "status")):
        op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {column}_is_known")
        op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {column}_is_known CHECK ({column} IN {_IN_LEDGER}) NOT VALID")
        op.execute(f"ALTER TABLE {table} VALIDATE CONSTRAINT {column}_is_known")
