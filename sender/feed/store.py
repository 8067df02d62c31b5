"""The feed's SQL, one named method for each statement."""

from collections.abc import Sequence
from uuid import UUID

import asyncpg

from infra.postgres import fetch
from sender.changes import CHANGE_COLUMNS, Unpublished, change_of_row
from sender.feed.results import ResultRecord

# An id whose last change has no event of its own (it is queued) is not in the answer.
_LATEST = f"""
SELECT {CHANGE_COLUMNS}
FROM notifications AS n JOIN events AS e ON e.notification_id = n.id AND e.seq = n.seq
WHERE n.id = ANY ($1::uuid[])
"""

# What is counted for the first time, and its counting, are one statement: whoever comes again, after a crash or as a
# frozen process that wakes up, adds nothing. Both inserts in one order: of two processes, one waits for the other.
_COUNT = """
WITH given AS (
    SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::text[], $4::text[], $5::text[])
        AS given (event_id, occurred_at, status, channel, producer)
), fresh AS (
    INSERT INTO counted_events (event_id) SELECT event_id FROM given ORDER BY event_id
    ON CONFLICT (event_id) DO NOTHING
    RETURNING event_id
), counted AS (
    INSERT INTO outcome_counts AS known (producer, hour, status, channel, count)
    SELECT producer, date_trunc('hour', occurred_at, 'UTC') AS hour, status, channel, count(*)
    FROM given JOIN fresh USING (event_id)
    GROUP BY 1, 2, 3, 4 ORDER BY 1, 2, 3, 4
    ON CONFLICT (producer, hour, status, channel) DO UPDATE SET count = known.count + excluded.count
)
SELECT count(*) FROM fresh
"""

_FORGET = """
WITH old AS (
    SELECT event_id FROM counted_events
    WHERE counted_at < now() - make_interval(secs => $1) ORDER BY counted_at LIMIT $2
), gone AS (
    DELETE FROM counted_events WHERE event_id IN (SELECT event_id FROM old) RETURNING 1
)
SELECT count(*) FROM gone
"""


class FeedStore:
    """
    What the feed keeps, and what it asks the ledger.

    Every method raises TransientError when the database is away; what writes may be called again.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def latest(self, ids: Sequence[UUID]) -> dict[UUID, Unpublished]:
        """Return the last change of each of *ids* that has one; those that are queued, or unknown, are left out."""
        return {row["notification_id"]: change_of_row(row) for row in await fetch(self._pool, _LATEST, list(ids))}

    async def count(self, results: Sequence[ResultRecord]) -> int:
        """
        Add each of *results* to its counter, unless its event was counted before.

        Args:
            results: no two of one event.
        Returns:
            How many were new.
        """
        rows = await fetch(
            self._pool,
            _COUNT,
            [each.event_id for each in results],
            [each.occurred_at for each in results],
            [each.status for each in results],
            [each.channel for each in results],
            [each.producer or "" for each in results],
        )
        return int(rows[0]["count"])

    async def forget_counted(self, *, older_than_s: float, rows_max: int) -> int:
        """Forget which events were counted more than *older_than_s* ago, up to *rows_max*; returns how many."""
        return int((await fetch(self._pool, _FORGET, older_than_s, rows_max))[0]["count"])
