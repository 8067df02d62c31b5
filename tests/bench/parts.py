"""
The parts of a measurement: what is done to one side in one turn, and what is checked before its figure counts.

    P1 accept    single requests, as fast as they are answered; nobody delivers meanwhile
    P2 batches   the same in requests of 100
    P3 drain     a backlog, from the first mail to the last
    P4 sustained accept and deliver at once, with a bound on what is under way, so that the lag cannot grow
    P5 latency   from the moment a request was due to the sink's 250, at a given pace
    P6 rest      memory after all that, and the CPU of a stack that has nothing to do
"""

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.ground import Ground
from tests.bench.machine import Cost, Meter, memory_of_tree

BATCH = 100
# Under way at once in P4: less than a second of it, so that the lag cannot grow.
OUTSTANDING = {"relevo": 1_000, "peer": 300}
DUPLICATES = 0.05


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long and how much: seconds of each part, notifications to drain by side."""

    accept_s: float
    sustained_s: float
    latency_s: float
    idle_s: float
    drain: dict[str, int]
    paces: tuple[int, ...]


QUICK = Sizes(3, 6, 5, 5, {"relevo": 10_000, "celery-tuned": 1_000, "celery-default": 500, "bullmq": 5_000}, (50, 1000))
FULL = Sizes(
    *(6, 60, 20, 20),
    {"relevo": 100_000, "celery-tuned": 8_000, "celery-default": 3_000, "bullmq": 30_000},
    (50, 150, 1000),
)
# Above what Celery can take at all.
PEER_PACE_MAX = 150


@dataclass(slots=True)
class Turn:
    """One side's figures in one turn. problems: why they do not count, if they do not."""

    side: str
    figures: dict[str, Any]
    cost: Cost | None = None
    cost_per: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def cpu_us(self) -> float | None:
        """CPU time per notification, microseconds, all processes of the side."""
        return None if self.cost is None or not self.cost_per else 1e6 * self.cost.total_s / self.cost_per


class Parts:
    """The parts, on one ground."""

    def __init__(self, ground: Ground, sizes: Sizes) -> None:
        self.ground, self.sizes = ground, sizes
        self.by_name: dict[str, Callable[[Any], Turn]] = {
            "P1": self.accept,
            "P2": self.batches,
            "P3": self.drain,
            "P4": self.sustained,
        }

    def _meter(self, side: Any) -> Meter:
        return Meter(side.parts(), [self.ground.sink.process.pid])

    def _load(self, side: Any, **order: object) -> tuple[dict[str, Any], list[tuple[str, int]]]:
        full = {"shape": side.shape, "port": side.port, "key": side.key, "path": side.notify_path} | order
        return self.ground.load(**({"connections": side.connections} | full))

    def accept(self, side: Any) -> Turn:
        """P1."""
        return self._accept(side, side.notify_path, 1, side.connections)

    def batches(self, side: Any) -> Turn:
        """P2."""
        return self._accept(side, side.batch_path, BATCH, 8)

    def _accept(self, side: Any, path: str, batch: int, connections: int) -> Turn:
        side.workers_down()
        self.ground.sink.ask("reset")
        meter = self._meter(side)
        said, ids = self._load(side, path=path, batch=batch, connections=connections, seconds=self.sizes.accept_s)
        cost = meter.stop()
        turn = Turn(side.name, {"rate_per_s": len(ids) / said["seconds"], **said}, cost, len(ids))
        side.workers_up()
        self._check(side, turn, ids, said)
        return turn

    def drain(self, side: Any, count: int = 0) -> Turn:
        """P3. Its rate does not depend on its length, so each side gets one that it ends in reasonable time."""
        count = count or self.sizes.drain[side.name]
        side.workers_down()
        self.ground.sink.ask("reset")
        if side.name == "bullmq":
            side.fill(count)
            ids = []
        else:
            batched = {"path": side.batch_path, "batch": BATCH, "connections": 4}
            _, ids = self._load(side, count=count, seconds=300, **batched)
            count = len(ids)
        side.workers_up()
        deadline = time.monotonic() + 90
        while not self.ground.sink.count and time.monotonic() < deadline:
            time.sleep(0.005)
        before = self.ground.sink.count
        meter = self._meter(side)
        found = self.ground.sink.wait_for(count, 600)
        cost = meter.stop()
        seconds = max(1e-9, (found["last_ns"] - found["first_ns"]) / 1e9)
        turn = Turn(side.name, {"rate_per_s": found["count"] / seconds, "count": count}, cost, found["count"] - before)
        if found["count"] != count:
            turn.problems.append(f"{found['count']} of {count} mails")
        if ids:
            self._check(side, turn, ids, {"answers": {"202": 1}})
        else:
            side.workers_down()
        return turn

    def sustained(self, side: Any) -> Turn:
        """P4. Five requests in a hundred are an earlier one again, where the side says that it recognises them."""
        side.settle()
        self.ground.sink.ask("reset")
        meter = self._meter(side)
        said, ids = self._load(
            side,
            seconds=self.sizes.sustained_s,
            outstanding_max=OUTSTANDING[side.shape],
            duplicates=DUPLICATES if side.name == "relevo" else 0.0,
        )
        cost = meter.stop()
        taken = said["taken_at_end"]
        turn = Turn(side.name, {"rate_per_s": taken / said["seconds"], **said}, cost, taken)
        self._check(side, turn, ids, said)
        return turn

    def latency(self, side: Any, pace: int) -> Turn:
        """P5."""
        side.settle()
        self.ground.sink.ask("reset")
        seconds = self.sizes.latency_s
        said, ids = self._load(side, seconds=seconds, rate_per_s=float(pace), connections=64)
        turn = Turn(side.name, {})
        arrived = self._check(side, turn, ids, said)
        waits = sorted((arrived[each] - due) / 1e6 for each, due in ids if each in arrived)
        # The first second warms up.
        waits = sorted((arrived[each] - due) / 1e6 for each, due in ids[pace:] if each in arrived)
        if waits:
            turn.figures = {
                "pace_per_s": pace,
                "p50_ms": waits[len(waits) // 2],
                "p99_ms": waits[int(len(waits) * 0.99)],
                "max_ms": waits[-1],
                "count": len(waits),
            }
        return turn

    def rest(self, side: Any) -> dict[str, Any]:
        """P6."""
        side.settle()
        time.sleep(2)
        memory = {name: sum(memory_of_tree(pid) for pid in pids) for name, pids in side.parts().items()}
        meter = self._meter(side)
        time.sleep(self.sizes.idle_s)
        cost = meter.stop()
        idle = {name: spent / cost.seconds for name, spent in cost.cpu_s.items()}
        return {
            "memory_mib": {name: round(each, 1) for name, each in memory.items()},
            "idle_cores": {name: round(each, 4) for name, each in idle.items()},
        }

    def _check(self, side: Any, turn: Turn, ids: list[tuple[str, int]], said: dict[str, Any]) -> dict[str, int]:
        """Wait until all is through: each 202 has a row, one mail and one terminal result; nothing else is a mail."""
        refused = {status: count for status, count in said["answers"].items() if status != "202"}
        if refused:
            turn.problems.append(f"answers {refused}")
        self.ground.sink.wait_for(len(ids), 300)
        side.settle()
        taken = self.ground.sink.taken(Path(self.ground.home) / "taken")
        mails = Counter(each for each, _ in taken)
        asked = {each for each, _ in ids}
        wrong = {count for each, count in mails.items() if count != 1} | ({0} if asked - mails.keys() else set())
        if wrong:
            turn.problems.append(
                f"mails per id: {sorted(wrong)}; {len(asked - mails.keys())} of {len(asked)} without a mail"
            )
        if strangers := mails.keys() - asked:
            turn.problems.append(f"{len(strangers)} mails that nobody asked for")
        if (sent := side.sent(list(asked))) != len(asked):
            turn.problems.append(f"{sent} of {len(asked)} are sent, says the ledger")
        return dict(taken)
