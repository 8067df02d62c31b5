"""Who is stuck, and who only has to wait. The clock is a fake one; the broker is a dict."""

import asyncio
import random

import pytest

from infra import metrics
from infra.health import Readiness
from infra.positions import Stand
from infra.progress import LOOK_EVERY_S, SILENT_S_MAX, STALLED_S, ProgressWatch, Worked
from schemas.errors import TransientError
from schemas.topics import REQUESTED


class Broker:
    def __init__(self, partitions=3):
        self.committed = dict.fromkeys(range(partitions), 0)
        self.ends = dict.fromkeys(range(partitions), 0)
        self.away = False
        self.hollow = False

    async def stand(self, _group, _topic):
        if self.away:
            raise TransientError("Kafka: away")
        return {each: Stand(self.committed[each], self.ends[each]) for each in self.ends}

    async def has_record(self, _topic, _partition, offset, end):
        assert offset < end
        return not self.hollow


class Bench:
    def __init__(self, worked=None, assigned=None):
        self.now = 1000.0
        self.broker, self.readiness = Broker(), Readiness()
        self.watch = ProgressWatch(
            self.broker,
            self.readiness,
            group="g",
            topic=REQUESTED,
            assigned=lambda: assigned or set(),
            worked=worked,
            clock=lambda: self.now,
        )

    async def pass_time(self, seconds, meanwhile=lambda: None):
        """Let time pass, look by look; return whether it was red at any of them."""
        red = False
        for _ in range(round(seconds / LOOK_EVERY_S)):
            self.now += LOOK_EVERY_S
            meanwhile()
            await self.watch.look()
            red = red or "progress" in self.readiness.reasons
        return red

    @property
    def red(self):
        return "progress" in self.readiness.reasons


@pytest.fixture
def logged(monkeypatch):
    from infra import progress

    found = []
    monkeypatch.setattr(progress.log, "error", lambda event, **fields: found.append((event, fields)), raising=False)
    return found


async def test_an_idle_system_stays_green_for_ever():
    bench = Bench()
    bench.broker.ends = {0: 7, 1: 0, 2: 912}
    bench.broker.committed = {0: 7, 1: 0, 2: 912}
    assert not await bench.pass_time(3600)


async def test_nobody_at_work_turns_red_within_thirty_seconds_and_green_when_it_goes_on(logged):
    bench = Bench()
    bench.broker.ends[1] = 1
    assert await bench.pass_time(27)
    assert bench.red
    assert metrics.STALLED_PARTITIONS._value.get() == 1
    await bench.pass_time(600)
    [(event, fields)] = logged
    assert (event, fields["stuck_at"]) == ("progress_stalled", [(1, 0)])
    assert any("test_progress.py" in each for each in fields["stacks"])
    bench.broker.committed[1] = 1
    await bench.pass_time(3)
    assert not bench.red
    assert metrics.STALLED_PARTITIONS._value.get() == 0
    # Another time is another episode.
    bench.broker.ends[1] = 2
    await bench.pass_time(30)
    assert len(logged) == 2


async def test_a_big_backlog_that_moves_is_green_whatever_its_order():
    bench = Bench()
    bench.broker.ends = {0: 4000, 1: 4000, 2: 4000}

    # One partition after the other, each for minutes.
    def one_after_the_other():
        for each in range(3):
            if bench.broker.committed[each] < bench.broker.ends[each]:
                bench.broker.committed[each] += 50
                return

    assert not await bench.pass_time(3 * 80 * LOOK_EVERY_S, one_after_the_other)
    assert bench.broker.committed == bench.broker.ends


async def test_a_backlog_that_grows_faster_than_it_is_worked_off_is_green():
    bench = Bench()
    rng = random.Random(4)
    turns = []

    def busy():
        # Each in its turn, for a while, in an order that changes.
        for each in range(3):
            bench.broker.ends[each] += 100
        if not turns:
            turns.extend(each for each in rng.sample(range(3), 3))
        each = turns.pop()
        bench.broker.committed[each] = min(bench.broker.ends[each], bench.broker.committed[each] + 150)

    assert not await bench.pass_time(600, busy)


async def test_a_partition_that_is_left_out_is_red_while_the_others_go_on():
    bench = Bench()

    def all_but_one():
        for each in range(3):
            bench.broker.ends[each] += 10
        bench.broker.committed[0] = bench.broker.ends[0]
        bench.broker.committed[2] = bench.broker.ends[2]

    assert await bench.pass_time(27, all_but_one)


async def test_a_partition_that_is_left_out_is_red_though_the_others_have_nothing_to_do():
    bench = Bench()
    bench.broker.ends = {0: 10, 1: 10, 2: 10}

    def all_but_one():
        bench.broker.committed[0] = bench.broker.committed[2] = 10

    assert await bench.pass_time(27, all_but_one)


async def test_a_slow_record_below_finished_ones_is_green():
    worked = Worked()
    bench = Bench(worked)
    bench.broker.ends = {0: 100, 1: 0, 2: 0}
    # All are begun; the first is slow, so that nothing is committed.
    worked.begun(0, 100)
    assert not await bench.pass_time(600)


async def test_a_full_hand_that_still_finishes_something_is_green_and_one_that_does_not_is_red():
    worked = Worked()
    bench = Bench(worked)
    bench.broker.ends = {0: 5000, 1: 0, 2: 0}
    worked.begun(0, 1000)
    assert not await bench.pass_time(600, lambda: worked.moved(0))
    assert await bench.pass_time(27)


async def test_what_somebody_else_tells_is_not_told_again_and_counts_no_time():
    bench = Bench()
    bench.broker.ends[0] = 5
    bench.readiness.red("redis", "does not answer")
    assert not await bench.pass_time(600)
    bench.readiness.green("redis")
    assert not await bench.pass_time(STALLED_S - LOOK_EVERY_S)
    assert await bench.pass_time(2 * LOOK_EVERY_S)


async def test_a_broker_that_is_away_is_told_as_such_and_counts_no_time():
    bench = Bench()
    bench.broker.ends[0] = 5
    bench.broker.away = True
    assert not await bench.pass_time(600)
    assert bench.readiness.reasons.keys() == {"broker"}
    bench.broker.away = False
    assert not await bench.pass_time(STALLED_S - LOOK_EVERY_S)
    assert not bench.readiness.reasons
    # One answer that is late is no outage.
    bench.broker.away = True
    await bench.pass_time(SILENT_S_MAX - LOOK_EVERY_S)
    assert not bench.readiness.reasons


async def test_offsets_without_records_are_not_waited_for(logged):
    bench = Bench()
    bench.broker.ends[0] = 5
    bench.broker.hollow = True
    assert not await bench.pass_time(600)
    bench.broker.hollow = False
    assert not await bench.pass_time(600), "nothing new came"
    bench.broker.ends[0] = 6
    assert await bench.pass_time(27)
    assert logged[0][1]["stuck_at"] == [(0, 5)]


async def test_partitions_of_others_are_theirs_unless_one_has_none():
    bench = Bench(assigned={1})
    bench.broker.ends = {0: 5, 1: 0, 2: 5}
    assert not await bench.pass_time(600)
    spare = Bench(assigned=set())
    spare.broker.ends = {0: 5, 1: 0, 2: 5}
    assert await spare.pass_time(27), "nobody is at work"


async def test_a_stack_is_told_to_its_end_through_generators_and_awaitables():
    from infra.stacks import describe_stacks

    async def innermost():
        yield await asyncio.sleep(60)

    class Awaitable:
        def __await__(self):
            return self.through().__await__()

        async def through(self):
            async for _ in innermost():
                pass

    async def outermost():
        await Awaitable()

    task = asyncio.create_task(outermost())
    await asyncio.sleep(0)
    try:
        [line] = [each for each in describe_stacks() if "outermost" in each]
    finally:
        task.cancel()
    calls = [each.split()[-1] for each in line.partition("task: ")[2].split(" < ")]
    assert calls == ["sleep", "innermost", "through", "outermost"]


async def test_the_stacks_are_bounded_and_hold_no_values():
    from infra.stacks import STACKS_MAX, describe_stacks

    async def waits_for(canary):
        await asyncio.sleep(60 if canary else 1)

    tasks = [asyncio.create_task(waits_for(f"canary{n}@example.org"), name=f"canary{n}") for n in range(500)]
    await asyncio.sleep(0)
    try:
        lines = describe_stacks()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert len(lines) <= STACKS_MAX + 1
    [waiting] = [each for each in lines if "waits_for" in each]
    assert waiting.startswith("500 x task: ")
    assert "canary" not in "".join(lines)
    assert any(each.startswith("1 x thread: ") and "describe_stacks" in each for each in lines)
