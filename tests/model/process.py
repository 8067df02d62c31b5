"""
Processes whose every effect waits at a gate, and a clock that stands still.

Every effect (a statement, a record, a word to the relay) waits at a gate before it happens and again before its answer
is seen. Whoever plays decides whose gate opens next, and may kill a process at any gate; so every interleaving and
every crash between two effects is one sequence of choices.
"""

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING

from aiokafka.errors import CommitFailedError, RequestTimedOutError

from infra.health import Readiness
from schemas.errors import TransientError

if TYPE_CHECKING:
    from tests.model.world import World

FETCH_MAX = 3

PROCESS: "contextvars.ContextVar[Process]" = contextvars.ContextVar("process")


class Crash(BaseException):
    """What SIGKILL looks like from inside."""


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def run_idle(self) -> None:
        """Run what can run without the clock moving."""
        for _ in range(10_000):
            self.call_soon(self.stop)
            self.run_forever()
            if not self._ready and not (self._scheduled and self._scheduled[0]._when <= self.now):
                return
        raise AssertionError("something runs for ever without waiting")


class Process:
    """One process: what it does stops at gates, and what it holds in memory dies with it."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.alive, self.frozen = True, False
        self.gates: deque[asyncio.Future[None]] = deque()
        self.tasks: set[asyncio.Task] = set()
        self.trouble: deque[str] = deque()
        self.readiness = Readiness()

    def run(self, work) -> asyncio.Task:
        context = contextvars.copy_context()
        context.run(PROCESS.set, self)
        return self.world.loop.create_task(work, context=context)

    async def gate(self) -> None:
        if self.alive:
            free = self.world.loop.create_future()
            self.gates.append(free)
            try:
                await free
            finally:
                if free in self.gates:
                    self.gates.remove(free)
        if not self.alive:
            raise Crash

    async def do(self, effect: Callable[[], Awaitable]):
        """Have an effect. Trouble: refused (it did not happen) or deaf (it did, and the answer is lost)."""
        await self.gate()
        trouble = self.trouble.popleft() if self.trouble else ""
        if trouble == "refused":
            raise TransientError("refused")
        answer = await effect()
        await self.gate()
        if trouble == "deaf":
            raise TransientError("the answer is lost")
        return answer

    def open(self, which: int) -> None:
        """Open one gate, if there is one."""
        if self.gates and not self.frozen:
            self.gates[which % len(self.gates)].set_result(None)
            del self.gates[which % len(self.gates)]
            self.world.loop.run_idle()

    def kill(self) -> None:
        self.alive = False
        for task in list(self.tasks):
            task.cancel()
        self.world.loop.run_idle()

    def revoke(self, topic: str, partition: int, then: Callable[[], None]) -> None:
        """Give a partition back, then call *then*."""
        then()

    def assign(self, topic: str, partition: int) -> None:
        pass


class Worker(Process):
    """A process with partitions of one topic. Reads from what was committed."""

    topic = ""

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        self.positions: dict[int, int] = {}

    def assign(self, topic: str, partition: int) -> None:
        self.positions[partition] = self.world.committed[topic, partition]

    def fetch(self, partition: int) -> list[SimpleNamespace]:
        first = self.positions[partition]
        records = self.world.topics[self.topic][partition][first : first + FETCH_MAX]
        self.positions[partition] += len(records)
        return records

    async def commit_one(self, partition: int, offset: int) -> None:
        async def write():
            if self.world.owners[self.topic, partition] is not self:
                raise CommitFailedError("not ours any more")
            self.world.commit(self.topic, partition, offset)

        try:
            await self.do(write)
        except TransientError as error:
            raise RequestTimedOutError from error

    # the producer

    async def write(self, topic, records):
        async def effect():
            for record in records:
                self.world.append(topic.name, record.key, record.value, record.headers)

        await self.do(effect)

    write_by_key = write
