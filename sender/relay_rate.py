"""
The cap on what the relay is offered in a second, over all senders together.

Each sender takes an equal share: the cap divided by the number of leases that are good, its own among them. Nobody
hands out shares; everybody counts the same table. Whoever joins counts himself at once and the others count him at
their next look, so he waits for as long as a lease lasts before his first turn: by then every other sender has either
looked again or lost its lease, and with it the right to send. What is not used because a share lies idle, or because a
dead sender's lease still runs, is lost; the cap is kept.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from infra.background import Background

LOOKS_PER_LEASE = 3

# A turn that could not be taken in time may be made up for, by so much: timers and a busy loop are late by
# milliseconds. Everything is that much slower instead, so that no second sees more than the cap.
CATCH_UP_S = 0.05

_STALE_POLL_S = _LOOK_POLL_S = 0.1


class RelayRate:
    """
    Hands out turns: in any second at most *rate_per_s* over all senders, rounded up by one for each, evenly spaced.

    Args:
        count_senders: how many leases are good now; may raise TransientError.
        lease_s: the length of a lease. A count that is older gives no turns.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        count_senders: Callable[[], Awaitable[int]],
        *,
        rate_per_s: float,
        lease_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._count_senders = count_senders
        self._rate_per_s = rate_per_s
        self._lease_s = lease_s
        self._clock = clock
        self._in_line = asyncio.Lock()
        self._pause_s = 0.0  # from one turn to the next; 0: nobody was counted yet
        self._counted_until = 0.0
        self._next = 0.0

    def start(self, background: Background) -> None:
        """Count again and again. The own lease must be held already, or two that join might miss each other."""
        background.start("share_relay_rate", self._look_if_due, every_s=_LOOK_POLL_S)

    async def _look_if_due(self) -> None:
        # Often, or the first count, which everybody waits for, would be late by a third of a lease.
        if self._clock() >= self._counted_until - self._lease_s * (1 - 1 / LOOKS_PER_LEASE):
            await self.look()

    async def look(self) -> None:
        """
        Count the senders, and take the share that is left for this one.

        Raises:
            TransientError: nobody could be counted; the share of before is good for as long as a lease.
        """
        asked = self._clock()
        senders = max(1, await self._count_senders())
        if not self._pause_s:
            self._next = asked if senders == 1 else asked + self._lease_s
        self._pause_s = (1 + CATCH_UP_S) * senders / self._rate_per_s
        self._counted_until = asked + self._lease_s

    async def turn(self) -> None:
        """
        Return when one more mail may be offered. First come, first served; whoever is cancelled uses no turn up.

        Call it last before the transaction, with the connection in hand: a turn that is taken and kept back would
        come on top of a later one. Hold no claim meanwhile; this may take long.
        """
        async with self._in_line:
            while (wait_s := self._wait_s()) > 0:  # noqa: ASYNC110 -- it is the time that is waited for
                await asyncio.sleep(wait_s)
            self._next = max(self._next, self._clock() - CATCH_UP_S) + self._pause_s

    def _wait_s(self) -> float:
        now = self._clock()
        return self._next - now if now < self._counted_until else _STALE_POLL_S
