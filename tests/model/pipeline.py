"""The pipeline in the model: the real deduplicator between two topics, committing as Faust does."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from aiokafka.errors import CommitFailedError, KafkaError

from pipeline import dedupe
from schemas.topics import REQUESTED
from tests.model.process import Worker

if TYPE_CHECKING:
    from tests.model.world import World


class Pipeline(Worker):
    topic = REQUESTED.name

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        self.deduplicator = dedupe.Deduplicator(self, self, self.readiness, hash_key=b"", dead_letter_ratio_max=1.0)
        self.run(self._work())

    def revoke(self, topic: str, partition: int, then: Callable[[], None]) -> None:
        self.positions.pop(partition, None)
        then()

    async def _work(self) -> None:
        while True:
            await self.gate()
            read = {partition: self.fetch(partition) for partition in list(self.positions)}
            batch = [
                dedupe.Incoming(each.partition, each.offset, each.timestamp, each.key, each.value, tuple(each.headers))
                for records in read.values()
                for each in records
            ]
            if not batch:
                continue
            await self.deduplicator.process(batch)
            for partition, records in read.items():
                if records:
                    await self._commit(partition, records[-1].offset + 1)

    async def _commit(self, partition: int, offset: int) -> None:
        """As Faust does: again and again, as long as the partition is ours."""
        while True:
            try:
                await self.commit_one(partition, offset)
            except CommitFailedError:
                return
            except KafkaError:
                continue
            else:
                return

    # the table

    async def claim(self, claims):
        return await self.do(lambda: self.world.table.claim(claims))

    async def complete(self, claims):
        await self.do(lambda: self.world.table.complete(claims))
