"""
The SQL of scheduling: calling a notification off, and putting it off, until somebody has claimed it.

Each is one conditional update and its event in one statement. The claim (sender/ledger.py) is one, too, of the same
row: of the two, one comes first, and the other finds that it came too late.
"""

import asyncio
from datetime import datetime
from uuid import UUID

import asyncpg

from infra.postgres import fetch, open_pool
from ingest.ownership import changeable
from schemas.states import State, sql_states, states_before

# Each is an event for all that read the results.
RESCHEDULINGS_MAX = 100

_CONNECTIONS_MAX = 2


# What was handed over once, its answer unseen, is not called off: nobody could say that it was never sent. Their events
# name no worker: a sweep of the senders publishes them, at once.
_CANCEL = f"""
WITH moved AS (
    UPDATE notifications
    SET state = '{State.CANCELLED}', seq = seq + 1, finished_at = now(), next_attempt_at = NULL,
        publish_after = CASE WHEN published_at IS NULL THEN publish_after END
    WHERE id = $1 AND {changeable("$2")} AND state IN ({sql_states(states_before(State.CANCELLED))})
      AND doubts = 0
    RETURNING id, seq, attempt, test
), told AS (
    INSERT INTO events (notification_id, seq, status, attempt, reason_class, reason_code, occurred_at)
    SELECT id, seq, '{State.CANCELLED}', attempt, 'called_off', 'cancelled', now() FROM moved
)
SELECT test FROM moved
"""

# What is queued is on its way: it is not brought forward, only put off. The lease of whoever is putting it back ends,
# lest it keep the new time from being met.
_RESCHEDULE = f"""
WITH moved AS (
    UPDATE notifications
    SET state = '{State.SCHEDULED}', seq = seq + 1, next_attempt_at = greatest($3::timestamptz, now()),
        publish_after = CASE WHEN published_at IS NULL THEN publish_after END
    WHERE id = $1 AND {changeable("$2")} AND state IN ({sql_states(states_before(State.SCHEDULED))})
      AND (state <> '{State.QUEUED}' OR $3 > now())
      AND (expires_at IS NULL OR expires_at > greatest($3, now()))
      AND seq <= {RESCHEDULINGS_MAX}
    RETURNING id, seq, attempt
), told AS (
    INSERT INTO events (notification_id, seq, status, attempt, reason_class, reason_code, occurred_at)
    SELECT id, seq, '{State.SCHEDULED}', attempt, 'asked', 'rescheduled', now() FROM moved
)
SELECT id FROM moved
"""


class SchedulingStore:
    """
    Changes when, and whether, notifications are sent.

    Both methods raise TransientError when the server is away, slow or broke off; whether they did it is then not known,
    and each may be called again.
    """

    def __init__(self, dsn: str, *, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    async def cancel(self, notification_id: UUID, client: str) -> bool | None:
        """
        Call *notification_id* off, if *client* may and nobody has claimed it.

        Returns:
            Whether its recipient is the simulator's. None: nothing was done.
        """
        rows = await fetch(await self._opened(), _CANCEL, notification_id, client)
        return bool(rows[0]["test"]) if rows else None

    async def reschedule(self, notification_id: UUID, client: str, due_at: datetime | None) -> bool:
        """
        Have *notification_id* sent at *due_at*, if *client* may and nobody has claimed it; None, or a past time: now.

        False: nothing was done; also when it is on its way already and was not to be put off.
        """
        return bool(await fetch(await self._opened(), _RESCHEDULE, notification_id, client, due_at))

    async def close(self) -> None:
        """Disconnect; what runs is broken off."""
        if self._pool is not None:
            self._pool.terminate()

    async def _opened(self) -> asyncpg.Pool:
        # At the first call: most processes never get one.
        async with self._opening:
            if self._pool is None:
                self._pool = await open_pool(
                    self._dsn, name=f"{self._name}-scheduling", connections_max=_CONNECTIONS_MAX
                )
            return self._pool
