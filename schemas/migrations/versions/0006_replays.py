"""Orders to replay, and which dead letters were dealt with."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_MOMENT = sa.DateTime(timezone=True)


def upgrade() -> None:
    """Add two tables that nothing else refers to, and an index that holds replays only, so it is empty now."""
    op.create_table(
        "replays",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("client", sa.String(), nullable=False),
        sa.Column("asked_by", sa.String()),
        sa.Column("reason", sa.String()),
        sa.Column("force", sa.Boolean(), nullable=False),
        sa.Column("rate_per_s", sa.Integer(), nullable=False),
        sa.Column("selection", sa.JSON(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.String(), server_default="running", nullable=False),
        sa.Column("position", sa.JSON(), nullable=False),
        sa.Column("replayed", sa.Integer(), server_default="0", nullable=False),
        sa.Column("skipped", sa.JSON(), nullable=False),
        sa.Column("created_at", _MOMENT, server_default=sa.func.now(), nullable=False),
        sa.Column("next_at", _MOMENT, server_default=sa.func.now(), nullable=False),
        sa.Column("finished_at", _MOMENT),
        sa.PrimaryKeyConstraint("id"),
        sa.CheckConstraint("state IN ('running', 'cancelled', 'done')", name="state_is_known"),
    )
    op.create_index("replays_due", "replays", ["next_at"], postgresql_where=sa.text("state = 'running'"))
    op.create_index("replays_listed", "replays", ["client", sa.text("created_at DESC"), sa.text("id DESC")])
    op.create_table(
        "dead_letters_handled",
        sa.Column("partition", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("offset", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("written_at", _MOMENT, nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("handled_by", sa.String(), nullable=False),
        sa.Column("reason", sa.String()),
        sa.Column("handled_at", _MOMENT, server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("partition", "offset", "written_at"),
        sa.CheckConstraint("action IN ('replayed', 'discarded')", name="action_is_known"),
    )
    op.create_index(
        "notifications_replays", "notifications", ["replay_of"], postgresql_where=sa.text("replay IS NOT NULL")
    )
