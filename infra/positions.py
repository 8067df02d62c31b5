"""Where topics end and where consumer groups stand, as the broker says: never a client's own view of it."""

import asyncio
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from schemas.errors import TransientError
from schemas.topics import Topic

ANSWER_S_MAX = 10.0

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Stand:
    """How far a group is in one partition: the next offset to read, and the one after the last record."""

    committed: int
    end: int


class Positions:
    """
    Asks the broker.

    Every method raises TransientError when it does not answer.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "socket.timeout.ms": 5_000})

    async def ends(self, topic: Topic) -> dict[int, int]:
        """Return for each partition that ever had a record and still may have one: the offset after its last one."""
        return await asyncio.to_thread(self._ends, topic)

    async def passed(self, group: str, topic: Topic, ends: dict[int, int]) -> bool:
        """Tell whether *group* has committed everything before *ends* of each partition."""
        committed = await asyncio.to_thread(self._committed, group, topic, list(ends))
        return all(committed.get(partition, -1) >= end for partition, end in ends.items())

    async def stand(self, group: str, topic: Topic) -> dict[int, Stand]:
        """Return how far *group* is in each partition; where it has committed nothing, it is at the first record."""
        return await asyncio.to_thread(self._stand, group, topic)

    async def has_record(self, topic: Topic, partition: int, offset: int, end: int) -> bool:
        """Tell whether there is a record to be read from *offset* on and before *end*: not every offset is one."""
        return await asyncio.to_thread(self._has_record, topic, partition, offset, end)

    def _stand(self, group: str, topic: Topic) -> dict[int, Stand]:
        bounds = self._bounds(topic)
        committed = self._committed(group, topic, list(bounds))
        return {number: Stand(max(committed.get(number, -1), first), end) for number, (first, end) in bounds.items()}

    def _has_record(self, topic: Topic, partition: int, offset: int, end: int) -> bool:
        reader = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "relevo.progress",  # asked for by the library, joined by nobody
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        try:
            reader.assign([TopicPartition(topic.name, partition, offset)])
            record = reader.poll(ANSWER_S_MAX)
        except KafkaException as error:
            raise _away(error) from error
        finally:
            reader.close()
        if record is None:
            raise TransientError("Kafka does not answer")
        problem, found = record.error(), record.offset()
        if problem is not None and problem.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001 -- the library's own name for it
            raise TransientError(f"Kafka: {problem.name()}")
        return problem is None and found is not None and found < end

    def _ends(self, topic: Topic) -> dict[int, int]:
        # An empty partition has nothing to pass, and perhaps no committed offset to say so.
        return {number: end for number, (first, end) in self._bounds(topic).items() if end > first}

    def _bounds(self, topic: Topic) -> dict[int, tuple[int, int]]:
        try:
            metadata = self._admin.list_topics(topic.name, timeout=ANSWER_S_MAX).topics[topic.name]
            places = [TopicPartition(topic.name, number) for number in metadata.partitions]
            firsts = self._offsets(places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # has no types
            ends = self._offsets(places, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # has no types
        except KafkaException as error:
            raise _away(error) from error
        return {number: (firsts[number], end) for number, end in ends.items()}

    def _offsets(self, places: list[TopicPartition], which: OffsetSpec) -> dict[int, int]:
        asked = self._admin.list_offsets(dict.fromkeys(places, which), request_timeout=ANSWER_S_MAX)
        return {place.partition: _answer(future).offset for place, future in asked.items()}

    def _committed(self, group: str, topic: Topic, partitions: list[int]) -> dict[int, int]:
        places = [TopicPartition(topic.name, number) for number in partitions]
        if not places:
            return {}
        asked = ConsumerGroupTopicPartitions(group, places)
        try:
            answer = _answer(self._admin.list_consumer_group_offsets([asked], request_timeout=ANSWER_S_MAX)[group])
        except KafkaException as error:
            raise _away(error) from error
        return {place.partition: place.offset for place in answer.topic_partitions}


def _answer(future: "Future[Answer]") -> Answer:
    try:
        return future.result(timeout=ANSWER_S_MAX)
    except TimeoutError as error:
        raise TransientError("Kafka does not answer") from error


def _away(error: KafkaException) -> TransientError:
    return TransientError(f"Kafka: {error.args[0].name()}")
