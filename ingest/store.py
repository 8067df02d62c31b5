"""The store: all SQL of this service, one named function for each query."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from infra.postgres import LOOKUPS, fetch, open_pool
from ingest.accept import WRITERS, Accepted, Known, Submission
from ingest.timeline import REASON_COLUMNS, SUMMARY_COLUMNS
from schemas.addresses import is_simulated
from schemas.errors import TransientError
from schemas.identity import fingerprint, recipient_hash
from schemas.states import State
from schemas.stored import CONTENT_COLUMNS, NOTIFICATION_COLUMNS, stored_notification

# The time that the fast path has to itself before a sweep takes a row for forgotten.
FAST_PATH_S = 10.0
# The time that one sweep has; above the producer's delivery timeout.
SWEEP_LEASE_S = 90.0

_CONNECTIONS_MAX = 4  # for everything but accepting, which has its own

# What is for later waits in the ledger from the beginning, by whichever of the two clocks is behind: never early.
# IS TRUE keeps the planner from turning IN into a join, which would look at each row for each row: a table of hashes it
# is then, whatever number of rows the plan was made for.
_INSERT = f"""
WITH given AS (
    SELECT *,
        CASE WHEN scheduled_for > least($14, now()) THEN '{State.SCHEDULED}' ELSE '{State.QUEUED}' END AS state,
        CASE WHEN scheduled_for > least($14, now()) THEN scheduled_for END AS due_at
    FROM unnest(
        $1::uuid[], $2::uuid[], $3::bytea[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[],
        $9::text[], $10::text[], $11::text[], $12::text[], $13::text[], $20::text[], $21::timestamptz[],
        $22::timestamptz[], $23::text[], $24::bool[]
    ) AS given (
        id, decided_by, fingerprint, client, channel, recipient_hash, metadata, traceparent,
        recipient, subject, body, html, reply_to, on_doubt, scheduled_for, expires_at, producer, test
    )
), firsts AS (
    INSERT INTO notifications
        (id, fingerprint, door, client, channel, recipient_hash, metadata, traceparent, on_doubt, accepted_at,
         publish_after, scheduled_for, expires_at, producer, test, state, next_attempt_at)
    SELECT id, fingerprint, 'http', client, channel, recipient_hash, metadata::json, traceparent, on_doubt, $14, $15,
        scheduled_for, expires_at, producer, test, state, due_at
    FROM given WHERE id = decided_by
    ON CONFLICT (id) DO NOTHING RETURNING id
), others AS (
    INSERT INTO notifications
        (id, fingerprint, door, client, channel, recipient_hash, metadata, traceparent, on_doubt, accepted_at,
         publish_after, scheduled_for, expires_at, producer, test, state, next_attempt_at)
    SELECT id, fingerprint, 'http', client, channel, recipient_hash, metadata::json, traceparent, on_doubt, $14, $15,
        scheduled_for, expires_at, producer, test, state, due_at
    FROM given WHERE id <> decided_by AND (decided_by IN (SELECT id FROM firsts)) IS TRUE
    ON CONFLICT (id) DO NOTHING RETURNING id
), fresh AS (
    SELECT id FROM firsts UNION ALL SELECT id FROM others
), content AS (
    INSERT INTO contents (notification_id, recipient, subject, body, html, reply_to, accepted_at)
    SELECT id, recipient, subject, body, html, reply_to, $14 FROM given WHERE (id IN (SELECT id FROM fresh)) IS TRUE
), contact AS (
    INSERT INTO contact_messages (id, name, email, message, received_at)
    SELECT id, name, email, message, $14
    FROM unnest($16::uuid[], $17::text[], $18::text[], $19::text[]) AS form (id, name, email, message)
    WHERE (id IN (SELECT id FROM firsts)) IS TRUE
)
SELECT id FROM fresh
"""

_FIND = "SELECT id, fingerprint, client, traceparent, accepted_at FROM notifications WHERE id = ANY($1::uuid[])"

_LEASE = f"""
WITH due AS MATERIALIZED (
    SELECT id FROM notifications WHERE published_at IS NULL AND publish_after < now()
    ORDER BY publish_after LIMIT $1 FOR NO KEY UPDATE SKIP LOCKED
), leased AS (
    UPDATE notifications AS n SET publish_after = now() + $2 FROM due WHERE n.id = due.id
    RETURNING {", ".join(f"n.{column}" for column in NOTIFICATION_COLUMNS)}
)
SELECT leased.*, {", ".join(CONTENT_COLUMNS)}
FROM leased JOIN contents ON contents.notification_id = leased.id
"""

_RELEASE = "UPDATE notifications SET publish_after = now() + $2 WHERE id = ANY($1::uuid[]) AND published_at IS NULL"

# SKIP LOCKED: whoever waits for nobody's row lock can be in no deadlock. The sender claims the same rows in the
# same milliseconds, in an order of its own.
_MARK = """
WITH mine AS MATERIALIZED (
    SELECT given.*
    FROM unnest($1::uuid[], $2::timestamptz[], $3::int[], $4::bigint[], $5::smallint[])
        AS given (id, published_at, source_partition, source_offset, source_index)
    JOIN notifications USING (id)
    FOR NO KEY UPDATE OF notifications SKIP LOCKED
), marked AS (
    UPDATE notifications AS n SET
        published_at = mine.published_at,
        -- It is nobody's lease any more. Left behind, it would keep a scheduled one from being put back in time.
        publish_after = NULL,
        source_partition = mine.source_partition,
        source_offset = mine.source_offset,
        source_index = mine.source_index
    FROM mine
    -- Not `published_at IS NULL`: for that the planner would rather read all of the outbox, however long it is.
    WHERE n.id = mine.id AND (n.published_at IS NULL) IS TRUE
)
SELECT id FROM mine
"""

_BACKLOG = """
SELECT count(*) AS rows, min(accepted_at) AS oldest_at, now() AS now
FROM (SELECT accepted_at FROM notifications WHERE published_at IS NULL LIMIT $1) AS waiting
"""

# One statement, so that the row and its events are of one moment.
_HISTORY = f"""
SELECT {", ".join(f"notifications.{column}" for column in SUMMARY_COLUMNS)},
    notifications.published_at, source_partition, source_offset, source_index,
    deduplicated_at, deduplicated_partition, deduplicated_offset,
    events.seq AS event_seq, status, events.attempt AS event_attempt, events.worker AS event_worker,
    {", ".join(REASON_COLUMNS)}, attempt_ms, occurred_at
FROM notifications LEFT JOIN events ON notification_id = id
WHERE id = $1 ORDER BY events.seq
"""

_HAS_TABLES = "SELECT to_regclass('contact_messages') IS NOT NULL AS has_tables"


@dataclass(frozen=True, slots=True)
class Published:
    """Where on notifications.requested one notification stands since published_at."""

    id: UUID
    published_at: datetime
    partition: int
    offset: int
    index: int


@dataclass(frozen=True, slots=True)
class Backlog:
    """What waits for Kafka: how many (counted up to a bound), and for how many seconds the oldest does."""

    rows: int
    oldest_s: float


class Store:
    """
    The ledger as ingest sees it.

    Every method raises TransientError when the server is away, slow or broke off; for those that write, it is
    then not known whether they did.
    """

    def __init__(self, dsn: str, *, name: str, hash_key: bytes) -> None:
        self._dsn = dsn
        self._name = name
        self._hash_key = hash_key
        self._accepting: asyncpg.Pool | None = None
        self._others: asyncpg.Pool | None = None

    async def open(self) -> None:
        """
        Connect. Until then every method raises TransientError.

        Raises:
            TransientError: the server cannot be reached, or has no tables yet.
        """
        if self._others is None:
            self._others = await open_pool(
                self._dsn, name=self._name, connections_max=_CONNECTIONS_MAX, settings=LOOKUPS
            )
        if not (await self._fetch(self._others, _HAS_TABLES))[0]["has_tables"]:
            raise TransientError("Postgres has no tables yet: run `relevo db upgrade`")
        self._accepting = await open_pool(
            self._dsn, name=f"{self._name}-accept", connections_max=WRITERS, settings=LOOKUPS
        )

    async def close(self) -> None:
        """Disconnect; what runs is broken off."""
        for pool in (self._accepting, self._others):
            if pool is not None:
                pool.terminate()

    async def insert(self, submissions: Sequence[Submission], accepted_at: datetime) -> Collection[UUID]:
        """Write what is new in one statement, which is one transaction; see `accept.Ledger.insert`."""
        rows = [(each, one.first.id, one.client) for one in submissions for each in one.notifications]
        contents = [notification.content for notification, _, _ in rows]
        contacts = [(one.first.id, one.contact) for one in submissions if one.contact is not None]
        found = await self._fetch(
            self._accepting,
            _INSERT,
            [notification.id for notification, _, _ in rows],
            [decided_by for _, decided_by, _ in rows],
            [fingerprint(content) for content in contents],
            [client for _, _, client in rows],
            [content.channel for content in contents],
            [recipient_hash(content.to, self._hash_key) for content in contents],
            _column([None if each.metadata is None else orjson.dumps(each.metadata).decode() for each in contents]),
            [notification.traceparent for notification, _, _ in rows],
            [content.to for content in contents],
            [content.subject for content in contents],
            [content.body for content in contents],
            _column([content.html for content in contents]),
            _column([content.reply_to for content in contents]),
            accepted_at,
            accepted_at + timedelta(seconds=FAST_PATH_S),
            [first for first, _ in contacts],
            [form.name for _, form in contacts],
            [form.email for _, form in contacts],
            [form.message for _, form in contacts],
            [content.on_doubt for content in contents],
            _column([content.scheduled_for for content in contents]),
            _column([content.expires_at for content in contents]),
            [notification.producer for notification, _, _ in rows],
            [is_simulated(content.to) for content in contents],
        )
        if len(found) == len(rows):
            # All of them, nearly always: then no id of the answer need be compared with ours.
            return {notification.id for notification, _, _ in rows}
        return {row["id"] for row in found}

    async def find(self, ids: Sequence[UUID]) -> dict[UUID, Known]:
        """Return what is known of *ids*; see `accept.Ledger.find`."""
        found = await self._fetch(self._accepting, _FIND, ids)
        return {
            row["id"]: Known(row["fingerprint"], row["client"], row["traceparent"], row["accepted_at"]) for row in found
        }

    async def lease(self, rows_max: int) -> list[Accepted]:
        """
        Take up to *rows_max* rows that wait too long for Kafka; for SWEEP_LEASE_S nobody else does.

        Never a cursor "id > last": T1 draws id 7, T2 draws id 8 and commits, we publish 8 and remember it, T1
        commits. Row 7 would never be read again.
        """
        found = await self._fetch(self._others, _LEASE, rows_max, timedelta(seconds=SWEEP_LEASE_S))
        return [Accepted(stored_notification(row), row["accepted_at"]) for row in found]

    async def release(self, ids: Sequence[UUID], *, again_after_s: float) -> None:
        """Give leased rows back: they could not be published, and may be tried again after *again_after_s*."""
        await self._fetch(self._others, _RELEASE, ids, timedelta(seconds=again_after_s))

    async def mark_published(self, rows: Sequence[Published]) -> set[UUID]:
        """
        Take *rows* out of the outbox.

        Returns:
            Those that are out of it now. Of the others somebody held the row; ask again.
        """
        found = await self._fetch(
            self._others,
            _MARK,
            [row.id for row in rows],
            [row.published_at for row in rows],
            [row.partition for row in rows],
            [row.offset for row in rows],
            [row.index for row in rows],
        )
        # As many as were asked for are all of them, as above.
        return {row.id for row in rows} if len(found) == len(rows) else {row["id"] for row in found}

    async def backlog(self, rows_max: int) -> Backlog:
        """Return what waits for Kafka, counted up to *rows_max*."""
        row = (await self._fetch(self._others, _BACKLOG, rows_max))[0]
        oldest_at = row["oldest_at"]
        return Backlog(row["rows"], 0.0 if oldest_at is None else max(0.0, (row["now"] - oldest_at).total_seconds()))

    async def history(self, notification_id: UUID) -> list[dict[str, Any]]:
        """Return one row for each event of one notification, one without an event if it has none; empty: unknown."""
        return [dict(row) for row in await self._fetch(self._others, _HISTORY, notification_id)]

    async def _fetch(self, pool: asyncpg.Pool | None, query: str, *arguments: Any) -> list[asyncpg.Record]:
        if pool is None:
            raise TransientError("not connected yet")
        return await fetch(pool, query, *arguments)


def _column(values: list[Any]) -> list[Any]:
    # unnest() fills up with NULL what is shorter than its neighbours, so nothing need be encoded to say nothing.
    return [] if values.count(None) == len(values) else values
