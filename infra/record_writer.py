"""Writing records: each call returns when the broker has acknowledged all of them, in few requests."""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from struct import unpack_from
from typing import Any, NamedTuple

from aiokafka import AIOKafkaProducer

from infra.kafka import TRANSIENT, open_producer
from schemas.errors import TransientError
from schemas.records import Header
from schemas.topics import Topic

# A backlog comes in batches of thousands, and one that went to one partition whole would be one reader's work alone.
# So many records pay for a request of their own a hundred times over.
TOGETHER_RECORDS_MAX = 500


class Outgoing(NamedTuple):
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
        self._replacing = asyncio.Lock()

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

    async def _sound(self) -> AIOKafkaProducer:
        """
        Return a producer that has lost nothing yet.

        A batch that was given up has taken its sequence number, and the broker refuses every later record of the same
        producer for that partition: after a failure it is replaced.
        """
        async with self._replacing:
            if self._producer is None:
                await self.open()
            assert self._producer is not None, "it was just opened"
            return self._producer

    async def _give_up(self, producer: AIOKafkaProducer) -> None:
        # Of several writes that fail together the first one ends it.
        if self._producer is producer:
            await self.close()

    async def close(self) -> None:
        """Disconnect. What is not acknowledged by now was never reported as written."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()

    async def write(self, topic: Topic, records: Sequence[Outgoing]) -> None:
        """
        Write *records* to the next partition in turn: one request instead of one for each partition.

        More than TOGETHER_RECORDS_MAX are split evenly among as few partitions as that takes. For topics whose readers
        do not need equal keys to share a partition.
        Delivery: at least once; a call that failed may have written any of them, and is repeated as a whole.
        Order: that of *records* within each partition.
        Raises:
            TransientError: not all were acknowledged.
        """
        if not records:
            return

        def in_turn(partitions: int) -> Mapping[int, Sequence[Outgoing]]:
            # From anywhere: several that start together, or again and again, must not all begin at the first one.
            first = self._next_partition.get(topic.name, random.randrange(partitions))
            shares = min(partitions, -(-len(records) // TOGETHER_RECORDS_MAX))
            self._next_partition[topic.name] = (first + shares) % partitions
            share = -(-len(records) // shares)
            starts = range(0, len(records), share)
            return {(first + at) % partitions: records[start : start + share] for at, start in enumerate(starts)}

        await self._write(topic, in_turn)

    async def write_by_key(self, topic: Topic, records: Sequence[Outgoing]) -> None:
        """
        Write *records*, each to the partition that its key names, as every Kafka client by default would (murmur2).

        Delivery and errors as for `write`. Order: that of *records*, for equal keys.
        """
        if not records:
            return

        def by_key(partitions: int) -> Mapping[int, Sequence[Outgoing]]:
            placed: defaultdict[int, list[Outgoing]] = defaultdict(list)
            for record in records:
                placed[(_murmur2(record.key or b"") & 0x7FFFFFFF) % partitions].append(record)
            return placed

        await self._write(topic, by_key)

    async def _write(self, topic: Topic, place: Callable[[int], Mapping[int, Sequence[Outgoing]]]) -> None:
        producer = await self._sound()
        try:
            # As the broker has them, not as the catalogue asks for them at least: an operator may have added some,
            # and every other client would place a key by the real number.
            partitions = len(await producer.partitions_for(topic.name))
            sent = []
            for partition, records in place(partitions).items():
                for batch in _batches(producer, records):
                    sent.append(await producer.send_batch(batch, topic.name, partition=partition))  # noqa: PERF401 -- in order, one by one
            await asyncio.gather(*sent)
        except TRANSIENT as error:
            await self._give_up(producer)
            raise TransientError(f"Kafka: {type(error).__name__}") from error


_SEED, _FACTOR, _32_BITS = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


def _murmur2(key: bytes) -> int:
    """Return the hash by which Kafka clients place a key: that of aiokafka, which goes byte by byte, word by word."""
    words = len(key) // 4
    found = _SEED ^ len(key)
    for word in unpack_from(f"<{words}I", key):
        mixed = word * _FACTOR & _32_BITS
        found = found * _FACTOR & _32_BITS ^ (mixed ^ mixed >> 24) * _FACTOR & _32_BITS
    if rest := key[4 * words :]:
        found = (found ^ int.from_bytes(rest, "little")) * _FACTOR & _32_BITS
    found = (found ^ found >> 13) * _FACTOR & _32_BITS
    return found ^ found >> 15


def _batches(producer: AIOKafkaProducer, records: Sequence[Outgoing]) -> list[Any]:
    batch = producer.create_batch()
    batches = [batch]
    for key, value, headers, timestamp_ms in records:
        listed = list(headers)
        if batch.append(key=key, value=value, timestamp=timestamp_ms, headers=listed) is None:
            batch = producer.create_batch()
            batches.append(batch)
            # The first record of a batch always fits, whatever its size.
            appended = batch.append(key=key, value=value, timestamp=timestamp_ms, headers=listed)
            assert appended is not None, "an empty batch takes any record"
    return batches
