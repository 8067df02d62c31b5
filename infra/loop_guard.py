"""
A watch over the event loop itself: when it no longer turns, nothing that runs in it can say so.

The operators' door does not answer then, which is red for whoever asks. Where it stands is told by a thread of
CPython's that needs neither the loop nor the interpreter's lock: the stacks of all threads, as text, on standard error.
"""

import asyncio
import faulthandler
import sys
import time

from infra.logs import get_logger

log = get_logger()

BLOCKED_S = 20.0
TURN_S = 1.0


class LoopGuard:
    """Has the stacks written when the loop has not turned for BLOCKED_S; once for each time it stands still."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._task = asyncio.create_task(self._run())

    def stop(self) -> None:
        """Cease to watch."""
        if self._task is not None:
            self._task.cancel()
        faulthandler.cancel_dump_traceback_later()

    async def _run(self) -> None:
        while True:
            faulthandler.dump_traceback_later(BLOCKED_S, file=sys.__stderr__ or sys.stderr)
            before = time.monotonic()
            await asyncio.sleep(TURN_S)
            late_s = time.monotonic() - before - TURN_S
            if late_s > TURN_S:
                log.warning("loop_blocked", seconds=round(late_s, 1))
