"""
When an attempt that failed for a passing reason is followed by another. Pure.

First the burst: a few tries, seconds apart, while the record is in hand. Then the ladder: waits of minutes and hours,
in the ledger, so that they survive every restart. A relay that names a delay gets it.
"""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

# The first try and three retries.
BURST_ATTEMPTS = 4

# What a relay names up to this is waited for in hand; more goes to the ledger.
IN_HAND_S_MAX = 30.0

_UNITS_S = {"s": 1.0, "sec": 1.0, "second": 1.0, "m": 60.0, "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0}
_NAMED_DELAY = re.compile(
    r"\b(?:in|after|for|wait)\s+(?:about\s+|at\s+least\s+)?(\d{1,6})\s*(seconds?|secs?|s|minutes?|mins?|m|hours?|h)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Again:
    """Another attempt, after wait_s seconds; parked: it waits in the ledger and not in hand."""

    wait_s: float
    parked: bool


@dataclass(frozen=True, slots=True)
class Ladder:
    """
    The schedule.

    burst_wait_s: between the tries of the burst. steps_s: the waits after it, the last one repeated; empty: the burst
    is all. within_s: no attempt begins later than this after acceptance, except in the burst.
    """

    burst_wait_s: float
    steps_s: tuple[float, ...]
    within_s: float

    def after(self, attempt: int, *, accepted_at: datetime, now: datetime, named_s: float | None) -> Again | None:
        """
        Return when the attempt after number *attempt*, which has just failed, is due; None: never, it has failed.

        Args:
            named_s: the delay that the relay named, if it did (`named_delay_s`); it counts where it is the longer.
        """
        if attempt < BURST_ATTEMPTS:
            wait_s = max(self.burst_wait_s, named_s or 0.0)
            if wait_s <= IN_HAND_S_MAX:
                return Again(wait_s, parked=False)
        elif not self.steps_s:
            return None
        else:
            step = min(attempt - BURST_ATTEMPTS, len(self.steps_s) - 1)
            wait_s = max(self.steps_s[step], named_s or 0.0)
        if now + timedelta(seconds=wait_s) > accepted_at + timedelta(seconds=self.within_s):
            return None
        return Again(wait_s, parked=True)


def named_delay_s(reply: str | None) -> float | None:
    """Return the delay that a reply names, as in "try again in 300 seconds"; None: it names none, or over a day."""
    found = _NAMED_DELAY.search(reply) if reply else None
    if found is None:
        return None
    unit = found.group(2).lower()
    delay_s = float(found.group(1)) * _UNITS_S[unit if unit in _UNITS_S else unit.rstrip("s")]
    return delay_s if delay_s <= 86_400 else None
