"""The sweep: every second, what still waits in the outbox goes to Kafka, and how much waits is looked at."""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from infra.logs import get_logger
from infra.metrics import OUTBOX_OLDEST_SECONDS, OUTBOX_ROWS
from ingest.accept import Accepted
from ingest.relay import Broker, Marker
from ingest.store import Backlog
from schemas.errors import TransientError
from schemas.limits import REQUESTS_PER_RECORD_MAX

INTERVAL_S = 1.0
# What could not be published is tried again after this; the lease itself is for a process that died.
RETRY_S = 5.0
# Counting a long backlog takes this share of the time, as long as the count is never older than that.
_COUNTING_SHARE = 0.05
_COUNT_AGE_S_MAX = 10.0

log = get_logger()


class Outbox(Protocol):
    """The rows that Kafka has not acknowledged."""

    async def lease(self, rows_max: int) -> list[Accepted]:
        """Take rows that wait too long; nobody else gets them for a while."""

    async def release(self, ids: Sequence[UUID], *, again_after_s: float) -> None:
        """Give leased rows back."""

    async def backlog(self, rows_max: int) -> Backlog:
        """Say what waits, counted up to *rows_max*."""


class Gate:
    """Whether there is room in the outbox for more."""

    def __init__(self, *, rows_max: int, age_s_max: float) -> None:
        self._rows_max = rows_max
        self._age_s_max = age_s_max
        self.full = False

    @property
    def count_to(self) -> int:
        """No need to count further than this."""
        return self._rows_max + 1

    def look(self, backlog: Backlog) -> None:
        """Open or close the gate."""
        OUTBOX_ROWS.set(backlog.rows)
        OUTBOX_OLDEST_SECONDS.set(backlog.oldest_s)
        full = backlog.rows > self._rows_max or backlog.oldest_s > self._age_s_max
        if full != self.full:
            log.warning("outbox_gate_moved", full=full, rows=backlog.rows, oldest_s=round(backlog.oldest_s, 1))
        self.full = full


class Sweep:
    """Publishes what was left behind, by whichever process. Any number of them may run."""

    def __init__(self, outbox: Outbox, broker: Broker, marker: Marker, gate: Gate) -> None:
        self._outbox = outbox
        self._broker = broker
        self._marker = marker
        self._gate = gate
        self._ending = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin."""
        self._tasks = [asyncio.create_task(self._sweep()), asyncio.create_task(self._count())]

    async def stop(self, timeout_s: float) -> None:
        """Finish the batch at hand, for at most *timeout_s*, and end; rows left leased are free when that runs out."""
        self._ending.set()
        if self._tasks:
            _, running = await asyncio.wait(self._tasks, timeout=timeout_s)
            for task in running:
                task.cancel()

    async def _rest(self, wait_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                await self._ending.wait()

    async def sweep_once(self) -> int:
        """
        Publish up to one record's worth of rows that wait too long.

        Delivery: at least once. No row lock is held while the broker is waited for, only a lease.
        Returns:
            Rows taken; fewer than REQUESTS_PER_RECORD_MAX means that there are no more.
        Raises:
            TransientError: the ledger is away.
        """
        rows = await self._outbox.lease(REQUESTS_PER_RECORD_MAX)
        if not rows:
            return 0
        published = await self._broker.publish(rows)
        await self._marker.mark(published, path="sweep")
        log.info("outbox_swept", rows=len(rows), published=len(published))
        done = {each.id for each in published}
        left = [row.notification.id for row in rows if row.notification.id not in done]
        if left:
            await self._outbox.release(left, again_after_s=RETRY_S)
            return 0
        return len(rows)

    async def _sweep(self) -> None:
        while not self._ending.is_set():
            full = False
            try:
                full = await self.sweep_once() == REQUESTS_PER_RECORD_MAX
            except TransientError as error:
                log.warning("sweep_failed", error=str(error))
            except Exception:
                log.exception("sweep_broke")
            if not full:
                await self._rest(INTERVAL_S)

    async def _count(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._ending.is_set():
            begun = loop.time()
            took = 0.0
            try:
                self._gate.look(await self._outbox.backlog(self._gate.count_to))
                took = loop.time() - begun
            except TransientError:
                pass  # said by the sweep; the last count stands
            except Exception:
                log.exception("count_broke")
            await self._rest(min(max(INTERVAL_S, took / _COUNTING_SHARE), _COUNT_AGE_S_MAX))
