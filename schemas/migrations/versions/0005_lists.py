"""Lists of notifications, page by page."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_RARE = "('scheduled', 'retrying', 'failed', 'bounced', 'in_doubt', 'suppressed', 'expired', 'cancelled')"


def upgrade() -> None:
    """
    Add the indexes that lists are read from, and to contents the moment that its index is ordered by.

    Locks `contents` for reading and writing and `notifications` for writing until it is done: seconds for a million
    rows. Meanwhile accepting answers 503 and deliveries wait; nothing is lost. Where that is too long, make the three
    indexes of `notifications` beforehand, by hand, with CREATE INDEX CONCURRENTLY and the same names: they are found.
    """
    _create(
        "notifications_listed",
        "notifications",
        ["client", sa.text("accepted_at DESC"), sa.text("id DESC")],
    )
    _create(
        "notifications_listed_by_state",
        "notifications",
        ["client", "state", sa.text("accepted_at DESC"), sa.text("id DESC")],
        where=f"state IN {_RARE}",
    )
    _create(
        "notifications_listed_by_producer",
        "notifications",
        ["producer", sa.text("accepted_at DESC"), sa.text("id DESC")],
        where="client IS NULL AND producer IS NOT NULL",
    )
    op.add_column(
        "contents",
        sa.Column("accepted_at", sa.DateTime(timezone=True), server_default=sa.func.now(), nullable=False),
    )
    op.execute("UPDATE contents SET accepted_at = n.accepted_at FROM notifications AS n WHERE n.id = notification_id")
    _create(
        "contents_listed",
        "contents",
        [
            sa.text("hashtextextended(lower(recipient), 0)"),
            sa.text("accepted_at DESC"),
            sa.text("notification_id DESC"),
        ],
    )


def _create(name: str, table: str, columns: "list[str | sa.TextClause]", where: str | None = None) -> None:
    condition = None if where is None else sa.text(where)
    op.create_index(name, table, columns, postgresql_where=condition, if_not_exists=True)
