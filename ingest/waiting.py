"""
Waiting: any number of callers wait for notifications to be finished, and one task asks the ledger for all of them.

It asks only while somebody waits, in one statement for all ids, and holds no connection in between.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from infra.logs import get_logger
from infra.metrics import HTTP_WAITING
from schemas.errors import TransientError

WAIT_S_MAX = 60
WAITERS_MAX = 1_000

INTERVAL_S = 0.1
# Asking takes this share of the time at most, however long it takes.
_ASKING_SHARE = 0.2
# After a failure, for whatever reason.
_RETRY_S = 1.0

log = get_logger()


@dataclass(eq=False, slots=True)
class _Waiter:
    id: UUID
    gone: Callable[[], bool]
    over: asyncio.Event


class Waiting:
    """
    Those who wait.

    Args:
        terminal: returns those of the given ids that have reached a terminal state; may raise TransientError.
        waiters_max: how many may wait at the same time.
    """

    def __init__(
        self, terminal: Callable[[Sequence[UUID]], Awaitable[Collection[UUID]]], *, waiters_max: int = WAITERS_MAX
    ) -> None:
        self._terminal = terminal
        self._waiters_max = waiters_max
        self._waiters: set[_Waiter] = set()
        self._asking: asyncio.Task[None] | None = None
        self._ended = False

    @property
    def full(self) -> bool:
        """Whether nobody else may wait now."""
        return len(self._waiters) >= self._waiters_max

    async def until_terminal(self, notification_id: UUID, *, within_s: float, gone: Callable[[], bool]) -> None:
        """
        Return when the notification has reached a terminal state, when *within_s* seconds are over, or at the end.

        The caller looks for itself which of these it was.
        Args:
            gone: whether the one who asked is no longer there; then there is nothing to wait for.
        """
        if self._ended:
            return
        waiter = _Waiter(notification_id, gone, asyncio.Event())
        self._waiters.add(waiter)
        HTTP_WAITING.set(len(self._waiters))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await waiter.over.wait()
        finally:
            self._waiters.discard(waiter)
            HTTP_WAITING.set(len(self._waiters))

    async def end(self) -> None:
        """Let all go that wait, and nobody wait from now on: this process is about to end."""
        self._ended = True
        for waiter in self._waiters:
            waiter.over.set()
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def _ask(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiters:
            begun = loop.time()
            try:
                finished = await self._terminal(list({waiter.id for waiter in self._waiters}))
            except TransientError as error:
                log.warning("waiting_postponed", error=str(error), waiters=len(self._waiters))
                await asyncio.sleep(_RETRY_S)
                continue
            except Exception:
                # A bug of ours. Those who wait get the status as it is when their time is over.
                log.exception("waiting_broke")
                await asyncio.sleep(_RETRY_S)
                continue
            for waiter in self._waiters:
                if waiter.id in finished or waiter.gone():
                    waiter.over.set()
            await asyncio.sleep(max(INTERVAL_S, (loop.time() - begun) / _ASKING_SHARE))
