"""
Whose a notification is. Pure.

To read its status, which holds no address and no text, it is enough that it is no other client's: what has no client
came by the contact form or by Kafka. To change it, or to have it sent again, it must not be another service's either,
by what its record says of its producer: one key must not call off what another service asked for.
"""

from collections.abc import Mapping
from typing import Any

from ingest.contact import CONTACT_CLIENT


def may_read(row: Mapping[str, Any], client: str) -> bool:
    """Return whether *client* may read the notification that *row* (with its `client`) is of."""
    return row["client"] in (None, client)


def may_change(row: Mapping[str, Any], client: str) -> bool:
    """Return whether *client* may change the notification that *row* (with its `client` and `producer`) is of."""
    return row["client"] == client or (row["client"] is None and row["producer"] in (None, CONTACT_CLIENT, client))


def nobody_elses(client: str, *, table: str = "notifications") -> str:
    """
    Return the predicate: of what has no client, whether *client* may change it.

    Args:
        client: what stands for the client in the statement, such as $2.
        table: the name under which the row stands there.
    """
    return f"({table}.producer IS NULL OR {table}.producer IN ({client}, '{CONTACT_CLIENT}'))"


def changeable(client: str, *, table: str = "notifications") -> str:
    """Return `may_change` as a predicate; the arguments are those of `nobody_elses`."""
    return f"({table}.client = {client} OR {table}.client IS NULL AND {nobody_elses(client, table=table)})"
