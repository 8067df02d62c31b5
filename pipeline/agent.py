"""
The agent: from the stream to the deduplicator, and back to the offsets.

Two facts of Faust decide its shape. An agent that raises acknowledges what it had, so nothing leaves the loop but
success. And a timer for batches adds half of itself to every record, so there is none: the stream fills a list, and
whoever has processed one batch takes everything that has gathered meanwhile.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable
from typing import Any, cast

import faust
from faust.types import EventT, StreamT

from infra.health import Readiness
from infra.logs import get_logger
from pipeline.dedupe import Deduplicator, Incoming
from schemas.records import Header
from schemas.topics import REQUESTED

log = get_logger()

# Records, each of which may carry 500 requests.
BATCH_RECORDS_MAX = 200
GATHERED_RECORDS_MAX = 400
# Some two thousand ordinary requests: one call of Redis, which does nothing else meanwhile and must answer in time.
BATCH_BYTES_MAX = 1024 * 1024

# After a bug that stopped a batch: time for a person to see it, without burning a core.
BUG_PAUSE_S = 5.0


class Batches:
    """
    What the agent's stream has gathered and nobody has processed yet.

    An event is acknowledged only after its batch is processed, in the order of the stream. Faust commits, for each
    partition, up to the first event that is not acknowledged.
    """

    def __init__(self, deduplicator: Deduplicator, readiness: Readiness) -> None:
        self._deduplicator = deduplicator
        self._readiness = readiness
        self._gathered: deque[tuple[StreamT[bytes], EventT[bytes]]] = deque()
        self._filled = asyncio.Event()
        self._drained = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to process."""
        self._task = asyncio.create_task(self._run())
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """End where it stands. What was not acknowledged comes again after the next start."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def put(self, stream: StreamT[bytes], event: EventT[bytes]) -> None:
        """Hand over one event; waits while GATHERED_RECORDS_MAX are waiting."""
        self._gathered.append((stream, event))
        self._filled.set()
        while len(self._gathered) >= GATHERED_RECORDS_MAX:
            self._drained.clear()
            await self._drained.wait()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._readiness.red("agent", "ended; see the log")
            log.error("batches_ended", exc_info=task.exception())

    def _next_batch(self) -> list[tuple[StreamT[bytes], EventT[bytes]]]:
        """Return what has gathered, up to the first record that reaches one of the bounds."""
        batch, size = [], 0
        for stream, event in self._gathered:
            batch.append((stream, event))
            size += len(event.message.value or b"")
            if len(batch) == BATCH_RECORDS_MAX or size >= BATCH_BYTES_MAX:
                break
        return batch

    async def _run(self) -> None:
        while True:
            await self._filled.wait()
            batch = self._next_batch()
            try:
                await self._deduplicator.process([_incoming(event) for _, event in batch])
            except Exception:
                # A bug of ours. Neither skipped, which would lose the batch, nor raised, which would end the agent
                # while the process stays: it stays unacknowledged, is tried again, and readiness tells.
                self._readiness.red("agent", "a batch cannot be processed; see the log")
                log.exception("batch_broke", records=len(batch))
                await asyncio.sleep(BUG_PAUSE_S)
                continue
            self._readiness.green("agent")
            for stream, event in batch:
                self._gathered.popleft()
                await stream.ack(event)
            if not self._gathered:
                self._filled.clear()
            self._drained.set()


def declare_agent(app: faust.App, batches: Batches) -> None:
    """
    Declare the one agent of the app.

    concurrency stays 1: with more, Faust's commit passes an event that is still being processed.
    """
    requested = app.topic(
        REQUESTED.name, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw"
    )

    @app.agent(requested, concurrency=1, name="dedupe")
    async def dedupe(stream: StreamT[Any]) -> None:
        # Not acknowledged by the stream when it moves on: `Batches` does it when the work is done.
        unacknowledged = cast("faust.Stream[bytes]", stream).noack()
        async for event in unacknowledged.events():
            await batches.put(unacknowledged, event)


def _incoming(event: EventT[bytes]) -> Incoming:
    message = event.message
    return Incoming(
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=round(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=_headers(message.headers),
    )


def _headers(given: object) -> tuple[Header, ...]:
    # aiokafka gives a list of pairs, in which a name may stand twice; Faust's types also allow a mapping and None.
    if isinstance(given, dict):
        given = given.items()
    return tuple(given) if isinstance(given, Iterable) else ()
