"""Work that is done again and again beside the main work, and must neither die silently nor take anything along."""

import asyncio
from collections.abc import Awaitable, Callable

from infra.health import Readiness
from infra.logs import get_logger
from schemas.errors import TransientError

log = get_logger()


class Background:
    """
    Runs turns of work in tasks of their own until it is stopped.

    A turn that fails is followed by the next one. A server that is away (TransientError) is a log line; anything
    else is a bug of ours: it is logged with its traceback and turns readiness red until a turn goes well.
    """

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, name: str, turn: Callable[[], Awaitable[None]], *, every_s: float) -> None:
        """Begin: a pause of *every_s* seconds, then a turn, and so on."""
        self._tasks.append(asyncio.create_task(self._run(name, turn, every_s)))

    async def stop(self) -> None:
        """End where it stands."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()

    async def _run(self, name: str, turn: Callable[[], Awaitable[None]], every_s: float) -> None:
        while True:
            await asyncio.sleep(every_s)
            try:
                await turn()
            except TransientError as error:
                log.warning("turn_postponed", work=name, error=str(error))
            except Exception:
                self._readiness.red(name, "broke; see the log")
                log.exception("turn_broke", work=name)
            else:
                self._readiness.green(name)
