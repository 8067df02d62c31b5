"""Writing records: each call returns when the broker has acknowledged all of them, in few requests."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2

from infra.kafka import TRANSIENT, open_producer
from schemas.errors import TransientError
from schemas.records import Header
from schemas.topics import Topic


@dataclass(frozen=True, slots=True)
class Outgoing:
    """
    One record to write.

    timestamp_ms: Unix milliseconds; None: the moment of writing.
    """

    key: bytes | None
    value: bytes | None
    headers: Sequence[Header] = ()
    timestamp_ms: int | None = None


class RecordWriter:
    """
    An idempotent producer that is asked for whole batches.

    The broker's work is per request, whatever is inside, so what is written together goes out together.
    """

    def __init__(self, bootstrap: str, *, name: str) -> None:
        self._bootstrap = bootstrap
        self._name = name
        self._next_partition: dict[str, int] = {}
        self._producer: AIOKafkaProducer | None = None

    async def open(self) -> None:
        """
        Connect.

        Raises:
            TransientError: Kafka cannot be reached.
        """
        producer = open_producer(self._bootstrap, name=self._name, linger_ms=0)
        try:
            await producer.start()
        except TRANSIENT as error:
            await producer.stop()
            raise TransientError(f"Kafka cannot be reached: {type(error).__name__}") from error
        self._producer = producer

    async def close(self) -> None:
        """Disconnect. What is not acknowledged by now was never reported as written."""
        if self._producer is not None:
            await self._producer.stop()

    async def write(self, topic: Topic, records: Sequence[Outgoing]) -> None:
        """
        Write *records* to one partition, the next one in turn: one request instead of one for each partition.

        For topics whose readers do not need equal keys to share a partition.
        Delivery: at least once; a call that failed may have written any of them, and is repeated as a whole.
        Order: that of *records*.
        Raises:
            TransientError: not all were acknowledged.
        """
        if not records:
            return
        partition = self._next_partition.get(topic.name, 0)
        self._next_partition[topic.name] = (partition + 1) % await self._partitions(topic)
        await self._write(topic, {partition: records})

    async def write_by_key(self, topic: Topic, records: Sequence[Outgoing]) -> None:
        """
        Write *records*, each to the partition that its key names, as every Kafka client by default would (murmur2).

        Delivery and errors as for `write`. Order: that of *records*, for equal keys.
        """
        if not records:
            return
        partitions = await self._partitions(topic)
        placed: defaultdict[int, list[Outgoing]] = defaultdict(list)
        for record in records:
            placed[(murmur2(record.key or b"") & 0x7FFFFFFF) % partitions].append(record)
        await self._write(topic, placed)

    async def _write(self, topic: Topic, placed: Mapping[int, Sequence[Outgoing]]) -> None:
        try:
            sent = []
            for partition, records in placed.items():
                for batch in self._batches(records):
                    sent.append(await self._send(topic, partition, batch))  # noqa: PERF401 -- in order, one by one
            await asyncio.gather(*sent)
        except TRANSIENT as error:
            raise TransientError(f"Kafka: {type(error).__name__}") from error

    async def _partitions(self, topic: Topic) -> int:
        # As the broker has them, not as the catalogue asks for them at least: an operator may have added some, and
        # every other client would place a key by the real number.
        assert self._producer is not None, "opened before it is used"
        try:
            return len(await self._producer.partitions_for(topic.name))
        except TRANSIENT as error:
            raise TransientError(f"Kafka: {type(error).__name__}") from error

    def _batches(self, records: Sequence[Outgoing]) -> list[Any]:
        assert self._producer is not None, "opened before it is used"
        batch = self._producer.create_batch()
        batches = [batch]
        for record in records:
            if not _append(batch, record):
                batch = self._producer.create_batch()
                batches.append(batch)
                # The first record of a batch always fits, whatever its size.
                appended = _append(batch, record)
                assert appended, "an empty batch takes any record"
        return batches

    async def _send(self, topic: Topic, partition: int, batch: Any) -> "asyncio.Future[Any]":
        assert self._producer is not None, "opened before it is used"
        future: asyncio.Future[Any] = await self._producer.send_batch(batch, topic.name, partition=partition)
        return future


def _append(batch: Any, record: Outgoing) -> bool:
    appended = batch.append(
        key=record.key, value=record.value, timestamp=record.timestamp_ms, headers=list(record.headers)
    )
    return appended is not None
