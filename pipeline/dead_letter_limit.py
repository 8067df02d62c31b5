"""
When to stop dead-lettering: nearly nothing can be read any more, so it is not the records that are wrong.

A producer that was deployed wrong, or a relevo that was, would empty the whole topic into the dead letters, and every
rejection would tell its sender something that is not true. Pure: no I/O, no clock.
"""

from collections import deque

# How much is looked at before anything is decided, and how far back. Large, because the two mistakes cost differently:
# to stop too late is so many dead letters, which can be replayed; to stop for the burst of one bad producer in a quiet
# minute is every notification of everybody else.
WINDOW = 1500


class DeadLetterLimit:
    """
    Judges the last WINDOW requests and dead letters.

    What can be read counts by request, what cannot by record, because that is what a dead letter is: one array of 500
    bad items is one dead letter, and no reason to stop. A conflict can be read. Once tripped it stays so; whoever
    looked into it starts the process again, with a fresh window.

    Args:
        ratio_max: the share of dead letters above which it trips; 1: never.
    """

    def __init__(self, ratio_max: float) -> None:
        self._ratio_max = ratio_max
        self._window: deque[bool] = deque()
        self._dead = 0
        self._tripped = False

    @property
    def tripped(self) -> bool:
        """Whether nothing may be dead-lettered, nor acknowledged, until somebody has looked."""
        return self._tripped

    def judge(self, *, readable: int, dead: bool) -> None:
        """Count one record: how many of its items can be read, and whether it is to become a dead letter."""
        # More than a window of them would push each other out.
        for unreadable in (False,) * min(readable, WINDOW) + (True,) * dead:
            self._window.append(unreadable)
            self._dead += unreadable
            if len(self._window) > WINDOW:
                self._dead -= self._window.popleft()
        if len(self._window) == WINDOW and self._dead > self._ratio_max * WINDOW:
            self._tripped = True
