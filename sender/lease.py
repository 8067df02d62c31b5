"""
The worker's lease: who holds one is alive, and only who is sure of its own may send.

A claim says which worker has it. When that worker's lease has run out, nobody is left who could tell what came of the
attempt, and it ends in doubt. A worker that was frozen for longer than its lease wakes up thinking that all is well;
so it looks at its own clock before the last step.
"""

import contextlib
import time

from infra.background import Background
from infra.health import Readiness
from infra.logs import get_logger
from infra.metrics import OUTCOMES
from schemas.errors import TransientError
from schemas.states import TERMINAL
from sender.ledger import Ledger

log = get_logger()

# Leases are renewed three times in their length, so that two renewals may fail.
RENEWALS_PER_LEASE = 3

# A sender that has just seen Postgres return may still have outcomes to write for what it had claimed. Others wait
# this long after the lease's end before they call its claims abandoned.
GRACE_S = 5.0


class Lease:
    """
    Keeps this worker's lease in the ledger, and knows whether it holds.

    Args:
        lease_s: its length, from each renewal.
    """

    def __init__(self, ledger: Ledger, readiness: Readiness, background: Background, *, lease_s: float) -> None:
        self._ledger = ledger
        self._readiness = readiness
        self._background = background
        self._lease_s = lease_s
        self._until = 0.0

    @property
    def holds(self) -> bool:
        """Whether the lease is good for another tenth of its length, by this machine's own clock."""
        return time.monotonic() < self._until - self._lease_s / 10

    async def start(self) -> None:
        """
        Take the lease, and keep it.

        Raises:
            TransientError: Postgres does not answer.
        """
        await self._renew()
        every_s = self._lease_s / RENEWALS_PER_LEASE
        self._background.start("renew_lease", self._renew, every_s=every_s)
        self._background.start("look_after_others", self._look_after_others, every_s=every_s)

    async def end(self) -> None:
        """Give the lease back, when nothing is left to renew it. Only when no claim is open."""
        self._until = 0.0
        with contextlib.suppress(TransientError):
            await self._ledger.end_lease()

    async def _renew(self) -> None:
        # From before the question: the database counts from when it answers, which is later.
        asked = time.monotonic()
        try:
            await self._ledger.renew_lease(self._lease_s)
        except TransientError:
            self._readiness.red("postgres", "does not answer")
            raise
        self._until = asked + self._lease_s
        self._readiness.green("postgres")

    async def _look_after_others(self) -> None:
        states = await self._ledger.give_up_abandoned(grace_s=GRACE_S)
        for state in states:
            if state in TERMINAL:
                OUTCOMES.labels(state.value).inc()
        if states:
            log.error("claims_abandoned", notifications=len(states))
