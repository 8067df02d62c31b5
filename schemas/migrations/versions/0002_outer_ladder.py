"""The outer ladder, resending what is in doubt, and finding what nobody works on."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add columns with constant defaults, which rewrite no table, and two partial indexes over what is still open."""
    op.add_column("notifications", sa.Column("next_attempt_at", sa.DateTime(timezone=True)))
    op.add_column("notifications", sa.Column("on_doubt", sa.String(), server_default="hold", nullable=False))
    op.add_column("notifications", sa.Column("doubts", sa.SmallInteger(), server_default="0", nullable=False))
    op.create_check_constraint("on_doubt_is_known", "notifications", "on_doubt IN ('hold', 'resend')")
    op.create_index(
        "notifications_parked",
        "notifications",
        ["next_attempt_at"],
        postgresql_where=sa.text("next_attempt_at IS NOT NULL"),
    )
    op.create_index(
        "notifications_open", "notifications", ["accepted_at"], postgresql_where=sa.text("finished_at IS NULL")
    )
