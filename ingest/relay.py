"""
The relay: from the ledger to notifications.requested.

Fast path: what was just committed, within a millisecond. Sweep (`ingest.sweep`): what the fast path did not take,
did not bring through, or left behind when its process died. A row leaves the outbox only when the broker has
acknowledged its record, so it can be published twice, never not at all.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol
from uuid import UUID

from infra.batching import Batcher
from infra.logs import get_logger
from infra.metrics import PUBLISHED
from ingest.accept import Accepted
from ingest.publisher import FLUSH_S
from ingest.store import FAST_PATH_S, Published
from schemas.errors import TransientError
from schemas.limits import REQUESTS_PER_RECORD_MAX

ROWS_WAITING_MAX = 20_000
CHARS_WAITING_MAX = 64 * 1024 * 1024

_MARK_BATCHES_MAX = 8  # in one statement, each of up to as many rows as a record carries
_MARK_TRIES = 5
_MARK_WAIT_S = 0.05

log = get_logger()


class Broker(Protocol):
    """Where notifications are published."""

    async def publish(self, rows: Sequence[Accepted]) -> list[Published]:
        """Publish *rows*; return those that are acknowledged."""


class Outbox(Protocol):
    """What remembers which rows are still to be published."""

    async def mark_published(self, rows: Sequence[Published]) -> set[UUID]:
        """Take *rows* out; return those that are out now."""


class Marker:
    """Takes published rows out of the outbox, in few statements."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._batches: Batcher[Sequence[Published], set[UUID]] = Batcher(
            self._write, rows_max=_MARK_BATCHES_MAX, writers=1
        )

    async def mark(self, rows: Sequence[Published], *, path: str) -> None:
        """
        Take *rows* out of the outbox; what cannot be is published again by the sweep, which is harmless.

        Args:
            path: for the metric, fast or sweep.
        """
        PUBLISHED.labels(path).inc(len(rows))
        waiting = rows
        for _ in range(_MARK_TRIES):
            try:
                marked = await self._batches.submit(waiting)
            except TransientError as error:
                log.warning("mark_failed", rows=len(waiting), error=str(error))
            else:
                waiting = [row for row in waiting if row.id not in marked]
            if not waiting:
                return
            # Whoever held the row holds it for one statement.
            await asyncio.sleep(_MARK_WAIT_S)
        log.warning("mark_given_up", rows=len(waiting))

    async def _write(self, batches: list[Sequence[Published]]) -> list[set[UUID]]:
        marked = await self._outbox.mark_published([row for batch in batches for row in batch])
        return [marked] * len(batches)


class Relay:
    """
    The fast path. Bounded: what finds no room stays in the outbox, where the sweep finds it.

    Order: none promised.
    """

    def __init__(self, broker: Broker, marker: Marker) -> None:
        self._broker = broker
        self._marker = marker
        self._waiting: deque[Accepted] = deque()
        self._chars = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._marking: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to publish."""
        self._task = asyncio.create_task(self._run())

    async def stop(self, timeout_s: float) -> None:
        """Publish what waits, for at most *timeout_s*, and end. The rest stays in the outbox."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
                await asyncio.gather(*self._marking)
        except TimeoutError:
            log.warning("relay_left_rows", rows=len(self._waiting))
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def offer(self, rows: Sequence[Accepted]) -> None:
        """Take *rows* if there is room."""
        chars = sum(map(_chars, rows))
        if len(self._waiting) + len(rows) > ROWS_WAITING_MAX or self._chars + chars > CHARS_WAITING_MAX:
            return
        if rows:
            self._waiting.extend(rows)
            self._chars += chars
            self._idle.clear()
            self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._take():
                try:
                    published = await self._broker.publish(batch)
                except Exception:
                    # Ours to mend; until then the sweep has these rows, and the next batch must go out.
                    log.exception("relay_broke", rows=len(batch))
                    continue
                if published:
                    task = asyncio.create_task(self._marker.mark(published, path="fast"))
                    self._marking.add(task)
                    task.add_done_callback(self._marking.discard)
            self._idle.set()

    def _take(self) -> list[Accepted]:
        """
        Return the next rows to publish: as many as one record carries.

        Those that a sweep may have taken by the time the broker answers are its own: dropped here.
        """
        oldest = datetime.now(UTC) - timedelta(seconds=FAST_PATH_S - FLUSH_S)
        batch: list[Accepted] = []
        while self._waiting and len(batch) < REQUESTS_PER_RECORD_MAX:
            row = self._waiting.popleft()
            self._chars -= _chars(row)
            if row.accepted_at > oldest:
                batch.append(row)
        return batch


def _chars(row: Accepted) -> int:
    content = row.notification.content
    return len(content.body) + len(content.html or "")
