"""Ingest in the model: the real acceptor, relay and sweep over a ledger and an outbox in memory."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ingest.accept import Acceptor, Known, Submission
from ingest.relay import Marker, Relay
from ingest.store import Published
from ingest.sweep import Gate, Sweep
from schemas.errors import TransientError
from schemas.messages import Notification
from schemas.records import DOOR_HEADER, encode_requested
from schemas.topics import REQUESTED
from tests.model.process import Process

if TYPE_CHECKING:
    from tests.model.world import World


class Ingest(Process):
    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        marker = Marker(self)
        self.relay = Relay(self, marker)
        self.acceptor = Acceptor(self, self.relay)
        self.sweep = Sweep(self, self, marker, Gate(rows_max=1000, age_s_max=1e6))
        self.run(self.relay.start())

    def accept(self, notification: Notification) -> None:
        async def client() -> None:
            await self.acceptor.accept(Submission((notification,), None))
            self.world.acknowledged.add(notification.id)

        self.run(client())
        self.world.loop.run_idle()

    # the ledger and the outbox, as ingest sees them

    async def insert(self, submissions, accepted_at):
        async def write():
            fresh = set()
            for submission in submissions:
                notification = submission.first
                if notification.id not in self.world.ledger.rows:
                    await self.world.enrol_from_ingest(notification, accepted_at)
                    fresh.add(notification.id)
            return fresh

        return await self.do(write)

    async def find(self, ids):
        async def read():
            rows = self.world.ledger.rows
            return {
                each: Known(rows[each]["fingerprint"], None, None, rows[each]["accepted_at"])
                for each in ids
                if each in rows
            }

        return await self.do(read)

    async def publish(self, rows):
        async def write():
            value = encode_requested([row.notification for row in rows])
            return self.world.append(REQUESTED.name, None, value, [(DOOR_HEADER, b"http")])

        try:
            partition, offset = await self.do(write)
        except TransientError:
            return []
        moment = datetime.now(UTC)
        return [Published(row.notification.id, moment, partition, offset, index) for index, row in enumerate(rows)]

    async def mark_published(self, rows):
        async def write():
            for row in rows:
                self.world.outbox.pop(row.id, None)
            return {row.id for row in rows}

        return await self.do(write)

    async def lease(self, rows_max):
        async def read():
            return list(self.world.outbox.values())[:rows_max]

        return await self.do(read)

    async def release(self, ids, *, again_after_s):
        """Nothing is leased here: two sweeps at a time are worse than what can happen."""
