"""
Progress, not presence: a consumer that holds partitions, and no longer works on them, is not ready.

What is waiting is asked of the broker, never of the client whose own view may be what is wrong. A process that lives,
answers, and does nothing (a dead agent, a stuck loop, a partition that stays paused) turns readiness red, and the
stacks of all its tasks and threads are logged, once for each time. While something else is known to be wrong, nobody
counts: an outage is told by whoever met it.
"""

import time
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from infra.background import Background
from infra.health import Readiness
from infra.logs import get_logger
from infra.metrics import STALLED_PARTITIONS
from infra.positions import Stand
from infra.stacks import describe_stacks
from schemas.errors import TransientError
from schemas.topics import Topic

log = get_logger()

# Together below the 30 s within which it must be known.
STALLED_S = 20.0
LOOK_EVERY_S = 5.0
# Longer than one broker of several needs to be replaced.
SILENT_S_MAX = 15.0

Clock = Callable[[], float]


class PositionsPort(Protocol):
    """What is needed of the broker; see infra.positions.Positions."""

    async def stand(self, group: str, topic: Topic) -> dict[int, Stand]: ...
    async def has_record(self, topic: Topic, partition: int, offset: int, end: int) -> bool: ...


class Worked:
    """
    What a consumer has done, beyond the offsets that it has committed.

    For one whose committed offset stands still while a slow record below many finished ones is worked on.
    """

    def __init__(self) -> None:
        self._next: dict[int, int] = {}
        self._moves: dict[int, int] = {}

    def begun(self, partition: int, next_offset: int) -> None:
        """Note that everything before *next_offset* is in somebody's hand."""
        self._next[partition] = next_offset
        self.moved(partition)

    def moved(self, partition: int) -> None:
        """Note that something was finished, or another step of it taken."""
        self._moves[partition] = self._moves.get(partition, 0) + 1

    def position(self, partition: int, committed: int) -> int:
        """Return the first offset of *partition* that nobody has begun with."""
        return max(committed, self._next.get(partition, 0))

    def moves(self, partition: int) -> int:
        """Return a number that changes whenever something moves."""
        return self._moves.get(partition, 0)


@dataclass(slots=True)
class _Mark:
    """
    A partition that waits: since when without a move, how far it was then, and where all partitions ended.

    turn_since: since when nothing that had been there before is left that could come first; None: not yet.
    """

    since: float
    position: int
    moves: int
    ends: Mapping[int, int]
    turn_since: float | None = None


class Stalls:
    """
    Tells a partition that is stuck from one whose turn has not come. Pure but for the clock it is given.

    A partition is stuck when its records wait for STALLED_S without any of them being taken, while nothing else moves
    either, or after it was passed over: what came later elsewhere was taken, or all that waited elsewhere was. A
    backlog that is worked off partition by partition is neither.
    """

    def __init__(self, worked: Worked, clock: Clock) -> None:
        self._worked = worked
        self._clock = clock
        self._marks: dict[int, _Mark] = {}
        self._moved_at: dict[int, float] = {}
        self._seen: dict[int, tuple[int, int]] = {}

    def excuse(self) -> None:
        """Begin to count anew."""
        self._marks.clear()

    def look(self, stands: Mapping[int, Stand]) -> dict[int, int]:
        """Take note of where the partitions stand now; return those that are stuck, and where."""
        now = self._clock()
        positions = {each: self._worked.position(each, stand.committed) for each, stand in stands.items()}
        ends = {each: stand.end for each, stand in stands.items()}
        for each, position in positions.items():
            seen = position, self._worked.moves(each)
            if self._seen.get(each, seen) != seen:
                self._moved_at[each] = now
            self._seen[each] = seen
            mark = self._marks.get(each)
            if ends[each] <= position:
                self._marks.pop(each, None)
            elif mark is None or (mark.position, mark.moves) != seen:
                self._marks[each] = _Mark(now, *seen, ends)
        for gone in self._marks.keys() - stands.keys():
            del self._marks[gone]
        return {each: mark.position for each, mark in self._marks.items() if self._stuck(each, mark, positions, now)}

    def _stuck(self, partition: int, mark: _Mark, positions: Mapping[int, int], now: float) -> bool:
        others = positions.keys() - {partition}
        ahead = [positions[each] - mark.ends.get(each, positions[each]) for each in others]
        if mark.turn_since is None and (any(each > 0 for each in ahead) or all(each >= 0 for each in ahead)):
            mark.turn_since = now
        if mark.turn_since is not None and now - mark.turn_since >= STALLED_S:
            return True
        nothing_moved = all(self._moved_at.get(each, mark.since) <= mark.since for each in others)
        return nothing_moved and now - mark.since >= STALLED_S


class ProgressWatch:
    """
    Asks the broker every few seconds whether records wait for *group*, and whether it works on them.

    Args:
        assigned: the partitions that this process has to work on. While it has none, those of the whole group count:
            somebody should be at work on them.
    """

    def __init__(
        self,
        positions: PositionsPort,
        readiness: Readiness,
        *,
        group: str,
        topic: Topic,
        assigned: Callable[[], AbstractSet[int]],
        worked: Worked | None = None,
        clock: Clock = time.monotonic,
    ) -> None:
        self._positions = positions
        self._readiness = readiness
        self._group = group
        self._topic = topic
        self._assigned = assigned
        self._clock = clock
        self._stalls = Stalls(worked or Worked(), clock)
        self._heard_at = clock()
        self._hollow: dict[int, int] = {}
        self._told = False

    def start(self, background: Background) -> None:
        """Begin to look."""
        background.start("progress_watch", self.look, every_s=LOOK_EVERY_S)

    async def look(self) -> None:
        """Look once."""
        try:
            stands = await self._positions.stand(self._group, self._topic)
        except TransientError:
            # Without the broker there is nothing to work on, and nobody to say how much.
            self._stalls.excuse()
            if self._clock() - self._heard_at > SILENT_S_MAX:
                self._readiness.red("broker", "Kafka does not say what is waiting")
            return
        self._heard_at = self._clock()
        self._readiness.green("broker")
        if self._readiness.reasons.keys() - {"progress"}:
            self._stalls.excuse()
            return
        mine = self._assigned() or stands.keys()
        found = self._stalls.look({each: self._seen(each, stands[each]) for each in mine if each in stands})
        stuck = {each: offset for each, offset in found.items() if await self._is_real(each, offset, stands[each].end)}
        STALLED_PARTITIONS.set(len(stuck))
        if not stuck:
            self._readiness.green("progress")
            self._told = False
        elif not self._told:
            self._told = True
            self._readiness.red("progress", "records wait and nothing is done; the stacks are in the log")
            log.error("progress_stalled", stuck_at=sorted(stuck.items()), stacks=describe_stacks())

    def _seen(self, partition: int, stand: Stand) -> Stand:
        # Up to there nothing can be read, though offsets are taken.
        hollow = self._hollow.get(partition, 0)
        return Stand(max(stand.committed, hollow), stand.end)

    async def _is_real(self, partition: int, offset: int, end: int) -> bool:
        """Tell whether there is a record to be read: the marks that transactions leave take an offset, too."""
        if self._told or await self._positions.has_record(self._topic, partition, offset, end):
            return True
        self._hollow[partition] = end
        return False
