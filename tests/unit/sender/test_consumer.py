"""The consumer over a fake group: who is slow holds up nobody, and what is given back is sent by one of two."""

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace

import orjson
import pytest
from aiokafka import TopicPartition

from infra import patience
from infra.background import Background
from infra.health import Readiness
from infra.progress import Worked
from schemas.records import encode_request, encode_source
from schemas.topics import DEAD_LETTERS, DEDUPLICATED
from sender import consumer as consuming
from sender import deliver as delivering
from sender.channel import Channel
from sender.compose import Composer
from sender.consumer import DeduplicatedConsumer
from sender.deliver import Deliverer
from sender.ladder import IN_HAND_S_MAX, Ladder
from tests.builders import make_enrolment
from tests.fakes import ACCEPTED, TRANSIENT, FakeLedger, FakeWriter

PARTITION = TopicPartition(DEDUPLICATED.name, 0)
# Longer than any test here, and still waited for in hand.
RETRY_S = IN_HAND_S_MAX


class FakeKafka:
    """One partition of a group: what is in it, how often it was asked for, what was committed."""

    def __init__(self, records):
        self.waiting = list(records)
        self.polls = 0
        self.paused = set()
        self.committed = None

    def subscribe(self, topics, listener):
        assert topics == [DEDUPLICATED.name]

    def assignment(self):
        return {PARTITION}

    def pause(self, *partitions):
        self.paused |= set(partitions)

    def resume(self, *partitions):
        self.paused -= set(partitions)

    async def getmany(self, *, timeout_ms, max_records):
        self.polls += 1
        await asyncio.sleep(0)
        if self.paused or not self.waiting:
            return {}
        taken, self.waiting = self.waiting[:max_records], self.waiting[max_records:]
        return {PARTITION: taken}

    async def commit(self, offsets):
        self.committed = offsets[PARTITION]


class ScriptedRelay:
    """
    Takes everything, but for the recipients that a test names.

    refused: refused for a passing reason, every time. slow_before, slow_after: not answered before `free` is set, at
    RCPT or at the final dot.
    """

    def __init__(self):
        self.refused, self.slow_before, self.slow_after = set(), set(), set()
        self.free = asyncio.Event()
        self.taken = []
        self.reached = set()

    async def send(self, mail, before_message):
        if mail.recipient in self.refused:
            return TRANSIENT
        if mail.recipient in self.slow_before:
            self.reached.add(mail.recipient)
            await self.free.wait()
        if not await before_message():
            return None
        self.taken.append(mail.recipient)
        if mail.recipient in self.slow_after:
            self.reached.add(mail.recipient)
            await self.free.wait()
        return ACCEPTED


class Lease:
    holds = True


class Publisher:
    async def publish(self, change):
        await asyncio.sleep(0)


class Bench:
    """A consumer that has *count* records before it, to n0@example.org and so on."""

    def __init__(self, count, *, in_flight_max=1000):
        self.enrolments = [make_enrolment(to=f"n{n}@example.org") for n in range(count)]
        self.kafka = FakeKafka(_record(n, each) for n, each in enumerate(self.enrolments))
        self.ledger, self.relay, self.writer = FakeLedger(), ScriptedRelay(), FakeWriter()
        self.ledger.leases.add(self.ledger.worker)
        self.readiness = Readiness()
        self.background = Background(self.readiness)
        deliverer = Deliverer(
            relay=self.relay,
            ledger=self.ledger,
            lease=Lease(),
            publisher=Publisher(),
            channel=Channel(lambda: None, self.readiness),
            composer=Composer("relevo@example.org", ""),
            ladder=Ladder(RETRY_S, (), 1e9),
        )
        self.consumer = DeduplicatedConsumer(
            self.kafka,
            deliverer,
            self.ledger,
            self.writer,
            self.readiness,
            self.background,
            Worked(),
            in_flight_max=in_flight_max,
            hash_key=b"",
        )
        self.stop = asyncio.Event()

    @asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.consumer.run(self.stop))
        try:
            yield self
        finally:
            self.relay.free.set()
            self.stop.set()
            async with asyncio.timeout(10):
                await task
            await self.background.stop()

    async def until(self, truth):
        async with asyncio.timeout(10):
            while not truth():  # noqa: ASYNC110 -- the state is the fact to wait for
                await asyncio.sleep(0.001)

    def state(self, n):
        return self.ledger.rows[self.enrolments[n].notification.id]["state"]


def _record(offset, enrolment):
    notification = enrolment.notification
    return SimpleNamespace(
        topic=DEDUPLICATED.name,
        partition=0,
        offset=offset,
        timestamp=1_790_000_000_000,
        key=str(notification.id).encode(),
        value=orjson.dumps(encode_request(notification)),
        headers=[encode_source(enrolment.source)],
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(consuming, "COMMIT_INTERVAL_S", 0.005)
    monkeypatch.setattr(delivering, "SETTLED_POLL_S", 0.001)


async def test_one_that_waits_for_its_retry_holds_up_none_of_a_hundred():
    bench = Bench(100)
    bench.relay.refused = {"n0@example.org"}
    async with bench.running():
        await bench.until(lambda: len(bench.relay.taken) == 99)
        assert bench.state(0) == "retrying"
        assert all(bench.state(n) == "sent" for n in range(1, 100))


async def test_nothing_above_one_that_is_not_complete_is_committed():
    bench = Bench(20)
    bench.relay.slow_before = {"n7@example.org"}
    async with bench.running():
        await bench.until(lambda: len(bench.relay.taken) == 19)
        await bench.until(lambda: bench.kafka.committed == 7)
        await asyncio.sleep(0.05)
        assert bench.kafka.committed == 7, "whoever comes after us begins with the one that is missing"
        bench.relay.free.set()
        await bench.until(lambda: bench.kafka.committed == 20)


async def test_while_the_relay_hangs_polling_goes_on_and_nothing_more_is_taken():
    bench = Bench(50, in_flight_max=5)
    bench.relay.slow_before = {f"n{n}@example.org" for n in range(50)}
    async with bench.running():
        await bench.until(lambda: len(bench.relay.reached) == 5)
        polls = bench.kafka.polls
        # Who does not poll is thrown out of the group, and its records are sent by two.
        await bench.until(lambda: bench.kafka.polls > polls + 100)
        assert bench.kafka.paused == {PARTITION}
        assert len(bench.kafka.waiting) == 45
        bench.relay.free.set()
        await bench.until(lambda: len(bench.relay.taken) == 50)


async def test_whoever_waits_for_room_is_woken_when_there_is_some(monkeypatch):
    monkeypatch.setattr(consuming, "ROOM_S", 3600.0)
    bench = Bench(50, in_flight_max=5)
    async with bench.running():
        await bench.until(lambda: bench.kafka.committed == 50)


async def test_little_room_is_filled_all_the_same_after_a_moment():
    bench = Bench(50, in_flight_max=40)
    # So many hang that a quarter of the room is never free.
    bench.relay.slow_before = {f"n{n}@example.org" for n in range(35)}
    async with bench.running():
        await bench.until(lambda: len(bench.relay.taken) == 15)


async def test_while_the_ledger_is_away_polling_goes_on_and_nothing_is_sent(monkeypatch):
    monkeypatch.setattr(patience, "WAIT_S_MAX", 0.01)
    bench = Bench(3)
    bench.ledger.away = 10**9
    async with bench.running():
        await bench.until(lambda: bench.kafka.polls > 100)
        assert bench.relay.taken == []
        bench.ledger.away = 0
        await bench.until(lambda: bench.kafka.committed == 3)


async def test_of_what_is_given_back_the_claimed_is_ended_and_the_rest_is_left_to_the_next_owner():
    bench = Bench(3)
    bench.relay.slow_before, bench.relay.slow_after = {"n1@example.org"}, {"n2@example.org"}
    async with bench.running():
        await bench.until(lambda: len(bench.relay.reached) == 2 and bench.state(0) == "sent")
        revoking = asyncio.create_task(bench.consumer.on_partitions_revoked({PARTITION}))
        await asyncio.sleep(0.02)
        assert not revoking.done(), "the claimed one is waited for"
        bench.relay.free.set()
        async with asyncio.timeout(5):
            await revoking
        assert (bench.state(1), bench.state(2)) == ("queued", "sent")
        assert sorted(bench.relay.taken) == ["n0@example.org", "n2@example.org"]
        assert bench.kafka.committed == 1, "the next owner begins with what was not sent"
        bench.kafka.waiting = [_record(n, bench.enrolments[n]) for n in (1, 2)]
        await bench.until(lambda: bench.state(1) == "sent")
        assert sorted(bench.relay.taken) == [f"n{n}@example.org" for n in range(3)]


async def test_a_stranger_on_the_topic_is_a_dead_letter_and_committed_when_the_broker_has_it():
    bench = Bench(2)
    bench.kafka.waiting[0].value = b"not ours"
    bench.writer.away = 10**9
    async with bench.running():
        await asyncio.sleep(0.05)
        assert bench.kafka.committed is None
        bench.writer.away = 0
        await bench.until(lambda: bench.kafka.committed == 2)
        assert [letter.value for letter in bench.writer.on(DEAD_LETTERS)] == [b"not ours"]
        assert bench.relay.taken == ["n1@example.org"]
