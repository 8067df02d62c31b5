"""Keep metadata as it was given: jsonb gives 10000000000000000 back for 1e16, which is other content."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Change the type of one column; rewrites the table."""
    op.execute("ALTER TABLE notifications ALTER COLUMN metadata TYPE json USING metadata::json")
