"""
Health: whether a service can do its work, and whether the servers it needs answer.

Answers come from memory, so they are quick even while a server hangs; a prober keeps the memory fresh.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from infra.metrics import DEPENDENCY_UP, READY

Probe = Callable[[], Awaitable[None]]

PROBE_INTERVAL_S = 0.5
PROBE_TIMEOUT_S = 2.0
# Nothing heard for this long counts as no. Above one interval and one ordinary answer, below the second that
# the contract allows an answer to be old.
ANSWER_AGE_S_MAX = 1.0


class Readiness:
    """Why this process should get no work just now. No reasons: it is ready."""

    def __init__(self, *reasons: str) -> None:
        self._reasons: dict[str, str] = dict.fromkeys(reasons, "starting")
        READY.set(not self._reasons)

    def red(self, what: str, why: str) -> None:
        """Say that *what* is not in order; stays until `green`."""
        self._reasons[what] = why
        READY.set(0)

    def green(self, what: str) -> None:
        """Take back what was said of *what*."""
        self._reasons.pop(what, None)
        READY.set(not self._reasons)

    @property
    def reasons(self) -> dict[str, str]:
        """What is not in order, and why; empty: ready."""
        return dict(self._reasons)


class DependencyHealth:
    """
    Asks each server again and again whether it answers, each in a task of its own: one that hangs delays no other.

    Args:
        probes: per server, a coroutine that returns when it answers and raises when it does not. A probe that does
            not come back within a second counts as no, and is given up after two.
    """

    def __init__(self, probes: Mapping[str, Probe]) -> None:
        self._probes = probes
        self._answered_at: dict[str, float] = {}
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Begin to ask. Waits for nobody."""
        self._tasks = [asyncio.create_task(self._watch(name, probe)) for name, probe in self._probes.items()]

    async def stop(self) -> None:
        """Cease to ask."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def up(self) -> dict[str, bool]:
        """Return of each server whether it answered within the last second."""
        now = time.monotonic()
        return {name: now - self._answered_at.get(name, -ANSWER_AGE_S_MAX) < ANSWER_AGE_S_MAX for name in self._probes}

    async def _watch(self, name: str, probe: Probe) -> None:
        while True:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    await probe()
                self._answered_at[name] = time.monotonic()
                DEPENDENCY_UP.labels(name).set(1)
            except Exception:  # noqa: BLE001 -- whatever it is, the server does not answer
                self._answered_at.pop(name, None)
                DEPENDENCY_UP.labels(name).set(0)
            await asyncio.sleep(PROBE_INTERVAL_S)
