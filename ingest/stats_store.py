"""The SQL of statistics: reading what the feed has counted."""

import asyncio

import asyncpg

from infra.postgres import fetch, open_pool
from ingest.contact import CONTACT_CLIENT
from ingest.stats import GROUPINGS, StatsQuery

_CONNECTIONS_MAX = 2

# As with a status, a client sees what is its own, and what is nobody's: the contact form's, and what names no producer.
_COUNTS = """
SELECT {columns}, sum(count)::bigint AS count
FROM outcome_counts
WHERE producer IN ($1, $5, '') AND hour >= $2 AND hour < $3
GROUP BY {columns} ORDER BY {columns}
LIMIT $4
"""


class StatsStore:
    """Reads the counts, over connections of its own: a long question holds up nobody who is accepted."""

    def __init__(self, dsn: str, *, name: str) -> None:
        self._dsn = dsn
        self._name = name
        self._pool: asyncpg.Pool | None = None
        self._opening = asyncio.Lock()

    async def counts(self, query: StatsQuery, client: str, *, rows_max: int) -> list[asyncpg.Record]:
        """
        Return the sums of *query* that *client* may see, at most *rows_max*, in order.

        Raises:
            TransientError: the server is away or slow.
        """
        assert set(query.by) <= set(GROUPINGS), "they are put into the statement as they are"
        sql = _COUNTS.format(columns=", ".join(query.by))
        return await fetch(await self._opened(), sql, client, query.begin, query.end, rows_max, CONTACT_CLIENT)

    async def close(self) -> None:
        """Disconnect; what runs is broken off."""
        if self._pool is not None:
            self._pool.terminate()

    async def _opened(self) -> asyncpg.Pool:
        # At the first question: most processes are never asked.
        async with self._opening:
            if self._pool is None:
                self._pool = await open_pool(self._dsn, name=f"{self._name}-stats", connections_max=_CONNECTIONS_MAX)
            return self._pool
