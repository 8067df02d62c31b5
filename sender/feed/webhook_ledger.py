"""The SQL of webhooks as the feed sees them, one named method for each statement."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from infra.postgres import fetch
from schemas.results import now
from schemas.webhooks import DeliveryState
from sender.feed.webhook_answers import Verdict

# A claim whose process is gone is claimed again after that; above the longest attempt and the writing of its outcome.
LEASE_S = 60.0

_WATCHED = "SELECT id, client, statuses FROM webhooks WHERE removed_at IS NULL"

# From before its webhook was made a client wants nothing, but two clocks may differ a little. What is older than what
# is kept had its row, which is deleted: read again, because a group lost its offsets, it is not new.
_WRITE = """
INSERT INTO webhook_deliveries (webhook, event_id, notification_id, type, body, occurred_at, next_attempt_at)
SELECT webhook, event_id, notification_id, type, body, occurred_at, now()
FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[], $6::timestamptz[])
    AS given (webhook, event_id, notification_id, type, body, occurred_at)
JOIN webhooks ON webhooks.id = webhook AND removed_at IS NULL
WHERE occurred_at >= created_at - interval '1 minute' AND occurred_at >= now() - $7::interval
ON CONFLICT DO NOTHING
RETURNING event_id
"""

_DUE = """
SELECT id FROM webhooks
WHERE removed_at IS NULL AND disabled_at IS NULL AND client = ANY ($1::text[]) AND EXISTS (
    SELECT FROM webhook_deliveries WHERE webhook = id AND state = 'pending' AND next_attempt_at <= now()
)
"""

_CLAIM = """
WITH due AS MATERIALIZED (
    SELECT event_id, url, secret, CASE WHEN previous_until > now() THEN previous_secret END AS previous_secret
    FROM webhook_deliveries JOIN webhooks ON id = webhook
    WHERE webhook = $1 AND state = 'pending' AND next_attempt_at <= now() AND removed_at IS NULL AND disabled_at IS NULL
      AND client = ANY ($4::text[])
    ORDER BY next_attempt_at LIMIT $2 FOR NO KEY UPDATE OF webhook_deliveries SKIP LOCKED
)
UPDATE webhook_deliveries AS d SET attempt = attempt + 1, next_attempt_at = now() + $3
FROM due WHERE d.webhook = $1 AND d.event_id = due.event_id AND d.state = 'pending'
RETURNING d.event_id, d.attempt, d.body, due.url, due.secret, due.previous_secret
"""

# Delivered is delivered, whoever has claimed it since. Any other outcome of a claim that is not the last one is void.
_SETTLE = """
WITH settled AS (
    UPDATE webhook_deliveries SET
        state = $4, next_attempt_at = CASE WHEN $4 = 'pending' THEN now() + $5 END, answered_at = now(), answer = $6
    WHERE webhook = $1 AND event_id = $2 AND state = 'pending' AND (attempt = $3 OR $4 = 'delivered')
    RETURNING event_id
), told AS (
    UPDATE webhooks SET failing_since = CASE WHEN $4 = 'delivered' THEN NULL ELSE now() END
    WHERE id = $1 AND (failing_since IS NULL) <> ($4 = 'delivered')
)
SELECT event_id FROM settled
"""

# Not when its client has set another address since the attempt began.
_DISABLE = """
UPDATE webhooks SET disabled_at = now(), disabled_why = $3
WHERE id = $1 AND url = $2 AND disabled_at IS NULL AND removed_at IS NULL RETURNING id
"""

_TROUBLES = """
SELECT
    count(*) FILTER (WHERE has_key AND disabled_at IS NOT NULL) AS disabled,
    count(*) FILTER (WHERE has_key AND disabled_at IS NULL AND failing_since < now() - $1::interval) AS failing,
    count(*) FILTER (WHERE NOT has_key) AS keyless,
    coalesce(extract(epoch FROM
        now() - min(oldest.occurred_at) FILTER (WHERE has_key AND disabled_at IS NULL)), 0) AS oldest_s
FROM webhooks CROSS JOIN LATERAL (SELECT client = ANY ($2::text[]) AS has_key) AS access LEFT JOIN LATERAL (
    SELECT occurred_at FROM webhook_deliveries
    WHERE webhook = id AND state = 'pending' ORDER BY occurred_at, event_id LIMIT 1
) AS oldest ON true
WHERE removed_at IS NULL
"""

_ALL = "SELECT id, removed_at IS NOT NULL AS removed FROM webhooks"

# By an array: a join would be planned for a tenth of the table.
_DELETE_OLD = """
DELETE FROM webhook_deliveries WHERE webhook = $1 AND event_id = ANY(ARRAY(
    SELECT event_id FROM webhook_deliveries
    WHERE webhook = $1 AND occurred_at < $2 ORDER BY occurred_at, event_id LIMIT $3
)) RETURNING state
"""
_END_OF_TIME = datetime.max.replace(tzinfo=UTC)

# An hour later: a batch that was being written when it was removed is written by then, and swept.
_FORGET = "DELETE FROM webhooks WHERE id = $1 AND removed_at < now() - interval '1 hour'"


@dataclass(frozen=True, slots=True)
class Watched:
    """A webhook, and which statuses it wants to be told of."""

    id: UUID
    statuses: frozenset[str]


@dataclass(frozen=True, slots=True)
class NewDelivery:
    """An event that a webhook is to be told of. notification_id: None for a rejection without one."""

    webhook: UUID
    event_id: UUID
    notification_id: UUID | None
    type: str
    body: bytes
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class Claim:
    """
    An attempt that is ours for LEASE_S. secrets: one, or two during a rotation. attempt: 1 for the first.

    What a traceback must not show is not shown; addresses of receivers may hold a token.
    """

    webhook: UUID
    event_id: UUID
    attempt: int
    body: bytes = field(repr=False)
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Troubles:
    """
    Webhooks that are disabled, those that have been failing for long, and the age of the oldest event that waits.

    keyless: those whose client has no key any more; they count as nothing else. The age, in seconds, is that of enabled
    webhooks; 0: nothing waits.
    """

    disabled: int
    failing: int
    keyless: int
    oldest_s: float


class WebhookLedger:
    """
    Every method raises TransientError when the server is away, slow or broke off.

    Args:
        clients: who has a key. To others nothing is delivered: who may not ask for results is not told of them. Their
            events are written and wait, so that a key that comes back finds them.
    """

    def __init__(self, pool: asyncpg.Pool, *, kept_s: float, clients: Collection[str]) -> None:
        self._pool = pool
        self._clients = sorted(clients)
        self._kept = timedelta(seconds=kept_s)

    async def watched(self) -> Mapping[str, Watched]:
        """Return the webhook of each client that has one."""
        return {
            row["client"]: Watched(row["id"], frozenset(row["statuses"])) for row in await fetch(self._pool, _WATCHED)
        }

    async def write(self, new: Sequence[NewDelivery]) -> int:
        """Write what is not there yet; repeatable. Returns how many were new."""
        written = await fetch(
            self._pool,
            _WRITE,
            [each.webhook for each in new],
            [each.event_id for each in new],
            [each.notification_id for each in new],
            [each.type for each in new],
            [each.body for each in new],
            [each.occurred_at for each in new],
            self._kept,
        )
        return len(written)

    async def due(self) -> Collection[UUID]:
        """Return the webhooks that have something to be delivered now."""
        return [row["id"] for row in await fetch(self._pool, _DUE, self._clients)]

    async def claim(self, webhook: UUID, *, rows_max: int) -> list[Claim]:
        """Take up to *rows_max* deliveries that are due; for LEASE_S nobody else does. Counts the attempt."""
        return [
            Claim(
                webhook=webhook,
                event_id=row["event_id"],
                attempt=row["attempt"],
                body=row["body"],
                url=row["url"],
                secrets=tuple(secret for secret in (row["secret"], row["previous_secret"]) if secret is not None),
            )
            for row in await fetch(self._pool, _CLAIM, webhook, rows_max, timedelta(seconds=LEASE_S), self._clients)
        ]

    async def settle(self, claim: Claim, verdict: Verdict) -> bool:
        """Write what came of *claim*; repeatable. False: it is somebody else's by now, or was settled before."""
        settled = await fetch(
            self._pool,
            _SETTLE,
            claim.webhook,
            claim.event_id,
            claim.attempt,
            verdict.state.value,
            timedelta(seconds=verdict.wait_s),
            verdict.code,
        )
        return bool(settled)

    async def disable(self, claim: Claim, why: str) -> bool:
        """Deliver nothing more to the webhook of *claim* until its client sets it again; True: it was enabled."""
        return bool(await fetch(self._pool, _DISABLE, claim.webhook, claim.url, why))

    async def troubles(self, *, failing_s: float) -> Troubles:
        """Return what an operator should know; failing counts after *failing_s* without success."""
        row = (await fetch(self._pool, _TROUBLES, timedelta(seconds=failing_s), self._clients))[0]
        return Troubles(row["disabled"], row["failing"], row["keyless"], max(0.0, float(row["oldest_s"])))

    async def delete_old(self, *, rows_max: int) -> int:
        """
        Delete what is older than what is kept, and what belongs to removed webhooks, at most *rows_max* of each.

        Returns:
            How many of them had not been delivered, or given up, before.
        """
        waited = 0
        kept_from = now() - self._kept
        for row in await fetch(self._pool, _ALL):
            webhook, removed = row["id"], row["removed"]
            deleted = await fetch(self._pool, _DELETE_OLD, webhook, _END_OF_TIME if removed else kept_from, rows_max)
            if not removed:
                waited += sum(each["state"] == DeliveryState.PENDING for each in deleted)
            elif not deleted:
                await fetch(self._pool, _FORGET, webhook)
        return waited
