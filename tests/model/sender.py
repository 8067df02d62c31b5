"""The sender in the model: the real consumer and deliverer, and a relay that does what it is told to."""

import asyncio
import re
from collections.abc import Callable
from typing import TYPE_CHECKING
from uuid import UUID

from aiokafka import TopicPartition

from infra.background import Background
from infra.progress import Worked
from schemas.topics import DEDUPLICATED
from sender.channel import Channel
from sender.compose import Composer
from sender.consumer import DeduplicatedConsumer
from sender.deliver import Deliverer
from sender.ladder import Ladder
from tests.fakes import ACCEPTED, IN_DOUBT, PERMANENT, TRANSIENT, UNREACHABLE
from tests.model.process import Worker

if TYPE_CHECKING:
    from tests.model.world import World

_MESSAGE_ID = re.compile(rb"^Message-ID: <([0-9a-f-]{36})@", re.MULTILINE)

# What the relay does: its judgement, whether before the claim, whether it keeps the mail.
REPLIES = {
    "accepted": (ACCEPTED, False, True),
    "unreachable": (UNREACHABLE, True, False),
    "refused at RCPT": (TRANSIENT, True, False),
    "refused at RCPT for good": (PERMANENT, True, False),
    "refused at DATA": (TRANSIENT, False, False),
    "refused at DATA for good": (PERMANENT, False, False),
    "silent, kept": (IN_DOUBT, False, True),
    "silent, not kept": (IN_DOUBT, False, False),
}


class Sender(Worker):
    topic = DEDUPLICATED.name

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        self.ledger = world.make_ledger()
        self.ledger.leases.add(self.ledger.worker)
        self.paused: set[TopicPartition] = set()
        self._revoking: set[int] = set()
        deliverer = Deliverer(
            relay=self,
            ledger=_GatedLedger(self),
            lease=self,
            publisher=self,
            channel=Channel(self._probe, self.readiness),
            composer=Composer("relevo@example.org", ""),
            ladder=Ladder(1.0, (2.0,), 1e9),
        )
        background = Background(self.readiness)
        self.consumer = DeduplicatedConsumer(
            self,
            deliverer,
            _GatedLedger(self),
            self,
            self.readiness,
            background,
            Worked(),
            in_flight_max=4,
            hash_key=b"",
        )
        self.run(self.consumer.run(asyncio.Event()))

    @property
    def holds(self) -> bool:
        return self.ledger.worker in self.ledger.leases

    def assign(self, topic: str, partition: int) -> None:
        # As aiokafka does: a partition that comes back is not paused, whatever it was before.
        self.paused.discard(TopicPartition(topic, partition))
        super().assign(topic, partition)

    def revoke(self, topic: str, partition: int, then: Callable[[], None]) -> None:
        if self.frozen or not self.alive:
            # Thrown out: it learns of it later, and whoever has the partition now does not wait.
            self.positions.pop(partition, None)
            then()
            return
        self._revoking.add(partition)

        def done(_task: object) -> None:
            self._revoking.discard(partition)
            self.positions.pop(partition, None)
            then()

        revoked = {TopicPartition(topic, partition)}
        self.run(self.consumer.on_partitions_revoked(revoked)).add_done_callback(done)
        self.world.loop.run_idle()

    # the Kafka consumer, as aiokafka has it

    def subscribe(self, topics, listener) -> None:
        assert topics == [self.topic]

    def assignment(self):
        return {TopicPartition(self.topic, partition) for partition in self.positions}

    def pause(self, *partitions) -> None:
        self.paused |= set(partitions)

    def resume(self, *partitions) -> None:
        self.paused -= set(partitions)

    async def getmany(self, *, timeout_ms, max_records):
        await self.gate()
        readable = self.assignment() - self.paused - {TopicPartition(self.topic, each) for each in self._revoking}
        found = {place: self.fetch(place.partition) for place in sorted(readable)}
        return {place: records for place, records in found.items() if records}

    async def commit(self, offsets) -> None:
        for place, offset in offsets.items():
            await self.commit_one(place.partition, offset)

    # the relay

    async def send(self, mail, before_message):
        await self.gate()
        judgement, early, kept = REPLIES[self.world.replies.popleft() if self.world.replies else "accepted"]
        if early:
            return judgement
        if not await before_message():
            return None
        await self.gate()
        if kept:
            found = _MESSAGE_ID.search(mail.message)
            assert found is not None
            self.world.sink[UUID(found.group(1).decode())] += 1
        await self.gate()
        return judgement

    async def _probe(self):
        await self.gate()
        return ACCEPTED

    # the publisher of results

    async def publish(self, change) -> None:
        async def tell():
            self.world.tell(change.id, change.seq, change.state)

        async def mark():
            self.world.mark_told(change.id, change.seq)

        await self.do(tell)
        await self.do(mark)


class _GatedLedger:
    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def __getattr__(self, name: str):
        method = getattr(self._sender.ledger, name)
        return lambda *arguments: self._sender.do(lambda: method(*arguments))
