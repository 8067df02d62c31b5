"""The SQL of orders to replay: written, found, listed, called off, done batch by batch, and counted beforehand."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from infra.postgres import fetch, open_pool, transaction
from ingest.replay_batch import ORDER_COLUMNS, Advance, advance, judge, take
from ingest.replay_candidates import Position, candidates
from ingest.replays import OrderState, Wanted
from schemas.errors import TransientError

_COUNTED_ROWS_MAX = 5_000

POSTPONED_S = 15.0

_NO_ORDER = UUID(int=0)
_REPLAYED = "replayed"

# For the batches, for counts and for requests: apart from those of accepting.
_CONNECTIONS_MAX = 3

_CREATE = f"""
INSERT INTO replays (id, client, asked_by, reason, force, rate_per_s, selection, fingerprint, position, skipped)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, '{{}}', '{{}}')
ON CONFLICT (id) DO NOTHING
RETURNING {ORDER_COLUMNS}
"""

_FIND = f"SELECT {ORDER_COLUMNS} FROM replays WHERE id = $1 AND client = $2"

_PAGE = f"""
SELECT {ORDER_COLUMNS} FROM replays
WHERE client = $1 AND ($2::uuid IS NULL OR (created_at, id) < (SELECT created_at, id FROM replays WHERE id = $2))
ORDER BY created_at DESC, id DESC LIMIT $3
"""

_CANCEL = f"""
UPDATE replays SET state = '{OrderState.CANCELLED}', finished_at = now()
WHERE id = $1 AND client = $2 AND state = '{OrderState.RUNNING}'
"""

_POSTPONE = "UPDATE replays SET next_at = now() + make_interval(secs => $2::float8) WHERE id = $1"


@dataclass(frozen=True, slots=True)
class Count:
    """What an order would do. complete: everything was looked at."""

    replayed: int
    skipped: Mapping[str, int]
    complete: bool


class ReplayStore:
    """
    The ledger as replays read and write it.

    Every method raises TransientError when the server is away, slow or broke off.
    """

    def __init__(self, dsn: str, *, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._pool: asyncpg.Pool | None = None

    async def open(self) -> None:
        """Connect. Until then every method raises TransientError."""
        if self._pool is None:
            self._pool = await open_pool(self._dsn, name=f"{self._name}-replays", connections_max=_CONNECTIONS_MAX)

    async def close(self) -> None:
        """Disconnect; what runs is broken off, and rolled back."""
        if self._pool is not None:
            self._pool.terminate()

    async def create(self, order: UUID, client: str, wanted: Wanted) -> asyncpg.Record | None:
        """Write an order and return its row; None: there is one of this id already, and nothing was written."""
        chosen = (wanted.asked_by, wanted.reason, wanted.force, wanted.rate_per_s, wanted.selection.as_json())
        rows = await self._fetch(_CREATE, order, client, *chosen, wanted.fingerprint())
        return rows[0] if rows else None

    async def find(self, order: UUID, client: str) -> asyncpg.Record | None:
        """Return the row of an order of *client*."""
        rows = await self._fetch(_FIND, order, client)
        return rows[0] if rows else None

    async def page(self, client: str, *, after: UUID | None, rows: int) -> Sequence[asyncpg.Record]:
        """Return up to *rows* orders of *client*, newest first, that are older than *after*; None: the newest."""
        return await self._fetch(_PAGE, client, after, rows)

    async def cancel(self, order: UUID, client: str) -> None:
        """
        End an order that runs; one that has ended stays as it is.

        Waits for the batch under way. What is put on its way by then goes on; after the return nothing more is.
        """
        await self._fetch(_CANCEL, order, client)

    async def advance(self) -> Advance | None:
        """
        Do one batch of an order that is due, in one transaction; None: none is, or others have them in hand.

        Returns when it is committed; the notifications that it made are in the outbox then. An order whose batch fails
        is put off for POSTPONED_S, so that it is in nobody's way.
        """
        order = None
        try:
            async with transaction(self._connected()) as connection:
                order = await take(connection)
                return None if order is None else await advance(connection, order)
        except Exception:
            if order is not None:
                with suppress(TransientError):
                    await self._fetch(_POSTPONE, order["id"], POSTPONED_S)
            raise

    async def count(self, client: str, wanted: Wanted, *, within_s: float) -> Count:
        """
        Say what an order would do now, and do nothing. It looks at as many as it can *within_s*.

        A connection is held for one page at a time: counts of several clients take turns, and hold up no batch.
        """
        loop = asyncio.get_running_loop()
        counts: Counter[str] = Counter()
        position: Position = {}
        until: datetime | None = None
        deadline = loop.time() + within_s
        while True:
            async with transaction(self._connected()) as connection:
                if until is None:
                    until = await connection.fetchval("SELECT now()")
                    assert until is not None, "it is always some time"
                page = await candidates(
                    connection, wanted.selection, client, position, until=until, rows=_COUNTED_ROWS_MAX
                )
                verdicts = await judge(connection, page, order=_NO_ORDER, force=wanted.force)
            counts.update(skip or _REPLAYED for _, skip, _ in verdicts)
            if page.last or loop.time() > deadline:
                return Count(counts.pop(_REPLAYED, 0), counts, complete=page.last)
            position = page.candidates[-1].position

    def _connected(self) -> asyncpg.Pool:
        if self._pool is None:
            raise TransientError("not connected yet")
        return self._pool

    async def _fetch(self, sql: str, *arguments: object) -> list[asyncpg.Record]:
        return await fetch(self._connected(), sql, *arguments)
