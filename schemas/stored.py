"""Stored: from rows of the ledger back to the messages that they were made from. One place for both services."""

from typing import Any, Protocol

from schemas.messages import Notification, trusted_content

# What `stored_notification` needs, by table; scheduled_for is what was asked for, so that the fingerprint stays.
NOTIFICATION_COLUMNS = (
    *("id", "channel", "metadata", "traceparent", "on_doubt", "scheduled_for", "expires_at"),
    *("producer", "replay_of", "accepted_at"),
)
# A recipient as a number of 64 bits, without regard to case; that two share one does not happen by chance. Here and not
# beside its index, because SQLAlchemy takes a service 26 MB that it does not need.
RECIPIENT_KEY = "hashtextextended(lower(recipient), 0)"

CONTENT_COLUMNS = ("recipient", "subject", "body", "html", "reply_to")


class Row(Protocol):
    """A row of a database: its columns by name."""

    def __getitem__(self, column: str, /) -> Any: ...


def stored_notification(row: Row) -> Notification:
    """Return the notification that *row* holds: NOTIFICATION_COLUMNS and CONTENT_COLUMNS, and whatever else."""
    return Notification(
        id=row["id"],
        # Validated when it was accepted; it is not judged twice.
        content=trusted_content(
            {
                "to": row["recipient"],
                "subject": row["subject"],
                "body": row["body"],
                "html": row["html"],
                "reply_to": row["reply_to"],
                "metadata": row["metadata"],
                "channel": row["channel"],
                "on_doubt": row["on_doubt"],
                "scheduled_for": row["scheduled_for"],
                "expires_at": row["expires_at"],
            }
        ),
        traceparent=row["traceparent"],
        producer=row["producer"],
        replay_of=row["replay_of"],
    )
