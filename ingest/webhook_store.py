"""The SQL of webhooks as their clients see them, one named method for each statement."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import asyncpg

from infra.postgres import fetch, open_pool
from ingest.webhook_requests import DeliveryQuery, Resend, Wanted
from schemas.identity import new_id
from schemas.webhooks import PREVIOUS_SECRET_S, TEST_TYPE, DeliveryState, event_body

RESEND_ROWS_MAX = 5_000

_CONNECTIONS_MAX = 2

# Setting it again enables it: whoever does has looked after its receiver.
_SET = """
INSERT INTO webhooks (id, client, url, statuses, secret) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (client) WHERE removed_at IS NULL DO UPDATE SET
    url = excluded.url, statuses = excluded.statuses, failing_since = NULL, disabled_at = NULL, disabled_why = NULL
RETURNING *
"""

_FIND = "SELECT * FROM webhooks WHERE client = $1 AND removed_at IS NULL"

# Its deliveries are deleted by the feed, in small batches.
_REMOVE = """
UPDATE webhooks SET removed_at = now(), secret = '', previous_secret = NULL WHERE client = $1 AND removed_at IS NULL
"""

_ROTATE = """
UPDATE webhooks SET previous_secret = secret, previous_until = now() + $3, secret = $2
WHERE client = $1 AND removed_at IS NULL RETURNING *
"""

_TEST = """
INSERT INTO webhook_deliveries (webhook, event_id, type, body, occurred_at, next_attempt_at)
SELECT id, $2, $3, $4, $5, now() FROM webhooks WHERE client = $1 AND removed_at IS NULL
RETURNING event_id
"""

# What is pending is on its way already: it is left as it is, with whoever has claimed it.
_RESEND_IDS = """
UPDATE webhook_deliveries SET state = 'pending', attempt = 0, next_attempt_at = now()
WHERE webhook = $1 AND notification_id = ANY($2::uuid[]) AND state = ANY($3::text[])
RETURNING event_id
"""

_RESEND_WINDOW = """
WITH found AS MATERIALIZED (
    SELECT event_id, occurred_at, row_number() OVER (ORDER BY occurred_at, event_id) AS place
    FROM webhook_deliveries
    WHERE webhook = $1 AND occurred_at >= $2 AND occurred_at < $3 AND state = ANY($4::text[])
    ORDER BY occurred_at, event_id LIMIT $5 + 1
), sent AS (
    UPDATE webhook_deliveries AS d SET state = 'pending', attempt = 0, next_attempt_at = now()
    FROM found WHERE d.webhook = $1 AND d.event_id = found.event_id AND place <= $5 AND d.state = ANY($4::text[])
    RETURNING d.event_id
)
SELECT (SELECT count(*) FROM sent) AS deliveries, (SELECT occurred_at FROM found WHERE place > $5) AS next_from
"""

# A place that is no longer there ends the list, instead of beginning it once more.
_PAGE = """
SELECT event_id, notification_id, type, occurred_at, state, attempt, next_attempt_at, answered_at, answer
FROM webhook_deliveries
WHERE webhook = $1 {matching} AND (occurred_at, event_id) < (
    CASE WHEN $2::uuid IS NULL THEN 'infinity' ELSE coalesce((
        SELECT before.occurred_at FROM webhook_deliveries AS before WHERE before.webhook = $1 AND before.event_id = $2
    ), '-infinity') END::timestamptz,
    coalesce($2, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
)
ORDER BY occurred_at DESC, event_id DESC LIMIT $3
"""
_PAGE_OF_ALL = _PAGE.format(matching="")
# The second condition says the same to the planner, which knows that index by it.
_PAGES = {
    state: _PAGE.format(
        matching=f"AND state = '{state}'" + ("" if state is DeliveryState.DELIVERED else " AND state <> 'delivered'")
    )
    for state in DeliveryState
}


@dataclass(frozen=True, slots=True)
class Webhook:
    """
    A webhook as its client may see it.

    previous_secret_until: the secret before the last rotation signs, too, until then; None: there is none.
    """

    id: UUID
    url: str
    statuses: tuple[str, ...]
    created_at: datetime
    previous_secret_until: datetime | None
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_why: str | None


@dataclass(frozen=True, slots=True)
class Resent:
    """How many deliveries are pending again, and where the window goes on; None: that was all of it."""

    deliveries: int
    next_from: datetime | None = None


class WebhookStore:
    """
    Webhooks as ingest sees them.

    Every method raises TransientError when the server is away, slow or broke off.
    """

    def __init__(self, dsn: str, *, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    async def close(self) -> None:
        """Disconnect; what runs is broken off."""
        if self._pool is not None:
            self._pool.terminate()

    async def set(self, client: str, wanted: Wanted, *, secret: str) -> tuple[Webhook, bool]:
        """Make or change the webhook of *client*. True: it is new, and *secret* is its secret."""
        own_id = new_id()
        (row,) = await self._fetch(
            _SET, own_id, client, wanted.receiver.url, [status.value for status in wanted.statuses], secret
        )
        return _webhook(row), row["id"] == own_id

    async def find(self, client: str) -> Webhook | None:
        """Return the webhook of *client*; None: there is none."""
        return _only(await self._fetch(_FIND, client))

    async def remove(self, client: str) -> None:
        """Remove the webhook of *client*, if there is one."""
        await self._fetch(_REMOVE, client)

    async def rotate(self, client: str, *, secret: str) -> Webhook | None:
        """Sign with *secret* from now on, and for PREVIOUS_SECRET_S with the one before, too; None: no webhook."""
        return _only(await self._fetch(_ROTATE, client, secret, timedelta(seconds=PREVIOUS_SECRET_S)))

    async def add_test(self, client: str, event_id: UUID, at: datetime) -> bool:
        """Have an event delivered that means nothing; False: no webhook."""
        return bool(await self._fetch(_TEST, client, event_id, TEST_TYPE, event_body(TEST_TYPE, at, b"{}"), at))

    async def resend(self, webhook: UUID, wanted: Resend) -> Resent:
        """Have what *wanted* says delivered again, of a window up to RESEND_ROWS_MAX from its beginning."""
        states = [DeliveryState.FAILED.value, *([] if wanted.failed_only else [DeliveryState.DELIVERED.value])]
        if wanted.ids:
            return Resent(len(await self._fetch(_RESEND_IDS, webhook, wanted.ids, states)))
        window = (wanted.since, wanted.until)
        row = (await self._fetch(_RESEND_WINDOW, webhook, *window, states, RESEND_ROWS_MAX))[0]
        return Resent(row["deliveries"], row["next_from"])

    async def deliveries(self, webhook: UUID, query: DeliveryQuery) -> Sequence[asyncpg.Record]:
        """Return one page, and one row more if there is another page."""
        sql = _PAGE_OF_ALL if query.state is None else _PAGES[query.state]
        return await self._fetch(sql, webhook, query.after, query.limit + 1)

    async def _fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        return await fetch(await self._opened(), sql, *arguments)

    async def _opened(self) -> asyncpg.Pool:
        # With the first question: most installations have no webhooks, and need no connections for them.
        async with self._opening:
            if self._pool is None:
                self._pool = await open_pool(self._dsn, name=f"{self._name}-webhooks", connections_max=_CONNECTIONS_MAX)
            return self._pool


def _only(rows: Sequence[asyncpg.Record]) -> Webhook | None:
    return _webhook(rows[0]) if rows else None


def _webhook(row: asyncpg.Record) -> Webhook:
    return Webhook(
        id=row["id"],
        url=row["url"],
        statuses=tuple(row["statuses"]),
        created_at=row["created_at"],
        previous_secret_until=row["previous_until"],
        failing_since=row["failing_since"],
        disabled_at=row["disabled_at"],
        disabled_why=row["disabled_why"],
    )
