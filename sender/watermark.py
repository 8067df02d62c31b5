"""
Which offset may be committed: for each partition, the lowest one that is not complete. Pure.

Committing the highest completed offset instead would lose everything slower than it when the process dies.
"""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class _Partition:
    """Offsets in the order in which they came, which is rising; `complete` holds those done out of turn."""

    begun: deque[int] = field(default_factory=deque)
    complete: set[int] = field(default_factory=set)
    committable: int | None = None


class Watermark:
    """Keeps, for each partition, what was begun and what of it is complete."""

    def __init__(self) -> None:
        self._partitions: dict[int, _Partition] = {}

    def begin(self, partition: int, offset: int) -> None:
        """Note that *offset* is being worked on. Offsets of a partition rise, except that a rewind starts it anew."""
        state = self._partitions.setdefault(partition, _Partition())
        if state.begun and offset <= state.begun[-1]:
            state = self._partitions[partition] = _Partition()
        state.begun.append(offset)

    def complete(self, partition: int, offset: int) -> None:
        """Note that nothing is left to do for *offset*. Of a partition or offset that was let go: no effect."""
        state = self._partitions.get(partition)
        if state is None or not state.begun or not state.begun[0] <= offset <= state.begun[-1]:
            return
        state.complete.add(offset)
        while state.begun and state.begun[0] in state.complete:
            state.complete.discard(state.begun[0])
            # Committing means: the next one to read.
            state.committable = state.begun.popleft() + 1

    def take_committable(self) -> dict[int, int]:
        """Return what may be committed and was not taken yet: partition to the offset to read next."""
        taken = {}
        for partition, state in self._partitions.items():
            if state.committable is not None:
                taken[partition] = state.committable
                state.committable = None
        return taken

    def put_back(self, offsets: dict[int, int]) -> None:
        """Take back what `take_committable` gave: it could not be committed. A partition that was let go: no effect."""
        for partition, offset in offsets.items():
            state = self._partitions.get(partition)
            if state is not None:
                state.committable = max(offset, state.committable or 0)

    def span(self, partition: int) -> int:
        """Return how many records of *partition* were begun since the lowest that is not complete."""
        state = self._partitions.get(partition)
        return len(state.begun) if state else 0

    def forget(self, partition: int) -> None:
        """Let go of a partition: it belongs to somebody else now."""
        self._partitions.pop(partition, None)
