"""
Natural batching: whoever is free takes everything that waits. No timer, so a lone item waits for nobody, unless who
writes would rather have fewer writes than early ones.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Generic, TypeVar

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batcher(Generic[Item, Answer]):
    """
    Turns many small writes into few large ones.

    While a write is under way, what comes in queues up; the next write takes all of it. Under load the batches
    grow by themselves, at rest each item is written at once. A second writer begins only when a whole batch waits: two
    that share a trickle would write it in twice as many statements.

    Args:
        write: gets items of 1 to rows_max rows, returns an answer for each, in order. What it raises, every item of
            that batch gets raised, and nothing else.
        writers: writes under way at the same time, at most.
        size: how many rows one item is, where it may be several; None: one. An item is never cut;
            one that is more than rows_max is written alone.
        linger_s: how long an item may wait for others, before the write of less than a whole batch.
    Order: items are taken in the order of their submission; with one writer they are written in it.
    """

    def __init__(
        self,
        write: Callable[[list[Item]], Awaitable[Sequence[Answer]]],
        *,
        rows_max: int,
        writers: int,
        size: Callable[[Item], int] | None = None,
        linger_s: float = 0.0,
    ) -> None:
        self._write = write
        self._rows_max = rows_max
        self._writers = writers
        self._size = size
        self._linger_s = linger_s
        self._free = writers
        self._waiting: deque[tuple[Item, int, asyncio.Future[Answer]]] = deque()
        self._rows_waiting = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item, *, timeout_s: float | None = None) -> Answer:
        """
        Have *item* written and return its answer.

        A caller that is cancelled takes back what no write has begun with; the rest may be written all the same.
        Args:
            timeout_s: how long to wait at most; None: as long as it takes.
        Raises:
            TimeoutError: as after a cancellation, it may be written or not.
        """
        answer = self.enqueue(item)
        if timeout_s is None:
            return await answer
        # A timer alone: asyncio.timeout also watches the task, which costs more than the rest of this method.
        late = asyncio.get_running_loop().call_later(timeout_s, _give_up, answer)
        try:
            return await answer
        finally:
            late.cancel()

    def enqueue(self, item: Item) -> asyncio.Future[Answer]:
        """
        Have *item* written, and return where its answer will be: for who submits many and waits for them together.

        What is enqueued without an await in between is written together, up to rows_max. Cancelling the future takes
        the item back, as above.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        rows = 1 if self._size is None else self._size(item)
        self._waiting.append((item, rows, answer))
        self._rows_waiting += rows
        if self._free == self._writers or (self._free and self._rows_waiting >= self._rows_max):
            self._free -= 1
            task = asyncio.create_task(self._drain())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return answer

    async def _drain(self) -> None:
        try:
            while self._waiting:
                if self._linger_s and self._rows_waiting < self._rows_max:
                    await asyncio.sleep(self._linger_s)
                await self._write_one_batch()
        finally:
            self._free += 1

    async def _write_one_batch(self) -> None:
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        room = self._rows_max
        while self._waiting:
            item, rows, waiting = self._waiting[0]
            # After an outage the queue is full of what nobody waits for any more.
            wanted = not waiting.done()
            if batch and (room <= 0 or (wanted and rows > room)):
                break
            self._waiting.popleft()
            self._rows_waiting -= rows
            if wanted:
                batch.append((item, waiting))
                room -= rows
        if not batch:
            return
        try:
            answers = await self._write([item for item, _ in batch])
            assert len(answers) == len(batch), "an answer for each item"
        except BaseException as error:
            for _, waiting in batch:
                if not waiting.done():
                    waiting.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
            if not isinstance(error, Exception):
                raise
            return
        for (_, waiting), answer in zip(batch, answers, strict=True):
            if not waiting.done():
                waiting.set_result(answer)


def _give_up(answer: "asyncio.Future[Any]") -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
