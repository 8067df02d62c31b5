"""How long to wait before a process is started again."""

FIRST_S = 0.5
LONGEST_S = 30.0
STABLE_S = 60.0


class Backoff:
    """
    Waits of FIRST_S, doubled each time up to LONGEST_S: 0.5, 1, 2, 4, 8, 16, 30, 30 seconds.

    A process that lived for STABLE_S begins anew: its end is news, not the same trouble again.
    """

    def __init__(self) -> None:
        self._next_s = FIRST_S

    def after(self, lived_s: float) -> float:
        """Return the seconds to wait after a process ended that had lived for *lived_s*."""
        if lived_s >= STABLE_S:
            self._next_s = FIRST_S
        wait_s = self._next_s
        self._next_s = min(self._next_s * 2, LONGEST_S)
        return wait_s

    def reset(self) -> None:
        """Begin anew: somebody asked for it."""
        self._next_s = FIRST_S
