"""Where topics end and where consumer groups stand, as the broker says: never a client's own view of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas.errors import TransientError
from schemas.topics import Topic

ANSWER_S_MAX = 10.0

# The library asks for a name even where no group is meant.
_NO_GROUP = "relevo.positions"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Stand:
    """How far a group is in one partition: the next offset to read, and the one after the last record."""

    committed: int
    end: int


class Positions:
    """
    Asks the broker. One question at a time.

    Every method raises TransientError when it does not answer.

    As a consumer that joins no group, and never as an administrator: librdkafka ends the whole process by an assertion
    when the answer to an administrator comes after it was given up, and that is what an outage of Kafka brings
    (confluentinc/librdkafka#3663, #4605).

    Args:
        answer_s_max: for one answer of a broker; a method may need several.
    """

    def __init__(self, bootstrap: str, *, answer_s_max: float = ANSWER_S_MAX) -> None:
        self._bootstrap = bootstrap
        self._answer_s_max = answer_s_max
        self._readers: dict[str, Consumer] = {}

    async def ends(self, topic: Topic) -> dict[int, int]:
        """Return for each partition that ever had a record and still may have one: the offset after its last one."""
        return await asyncio.to_thread(self._ends, topic)

    async def passed(self, group: str, topic: Topic, ends: dict[int, int]) -> bool:
        """Tell whether *group* has committed everything before *ends* of each partition."""
        committed = await asyncio.to_thread(self._committed, group, topic, list(ends))
        return all(committed.get(partition, -1) >= end for partition, end in ends.items())

    async def stand(self, group: str, topic: Topic) -> dict[int, Stand]:
        """Return how far *group* is in each partition; where it has committed nothing, it is at the first record."""
        return await asyncio.to_thread(self.stand_blocking, group, topic)

    async def has_record(self, topic: Topic, partition: int, offset: int, end: int) -> bool:
        """Tell whether there is a record to be read from *offset* on and before *end*: not every offset is one."""
        return await asyncio.to_thread(self._has_record, topic, partition, offset, end)

    def stand_blocking(self, group: str, topic: Topic) -> dict[int, Stand]:
        """As `stand`, for who has no event loop."""
        bounds = self._bounds(topic)
        committed = self._committed(group, topic, list(bounds))
        return {number: Stand(max(committed.get(number, -1), first), end) for number, (first, end) in bounds.items()}

    def _has_record(self, topic: Topic, partition: int, offset: int, end: int) -> bool:
        reader = self._open(_NO_GROUP)
        try:
            reader.assign([TopicPartition(topic.name, partition, offset)])
            record = reader.poll(self._answer_s_max)
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
        reader = self._reader(_NO_GROUP)
        partitions = _asked(
            lambda: reader.list_topics(topic.name, timeout=self._answer_s_max).topics[topic.name].partitions
        )
        return {number: self._bounds_of(reader, TopicPartition(topic.name, number)) for number in partitions}

    def _bounds_of(self, reader: Consumer, place: TopicPartition) -> tuple[int, int]:
        bounds = _asked(lambda: reader.get_watermark_offsets(place, timeout=self._answer_s_max))
        if bounds is None:
            raise TransientError("Kafka does not answer")
        return bounds

    def _committed(self, group: str, topic: Topic, partitions: list[int]) -> dict[int, int]:
        places = [TopicPartition(topic.name, number) for number in partitions]
        if not places:
            return {}
        reader = self._reader(group)
        return {
            each.partition: each.offset for each in _asked(lambda: reader.committed(places, timeout=self._answer_s_max))
        }

    def _reader(self, group: str) -> Consumer:
        if group not in self._readers:
            self._readers[group] = self._open(group)
        return self._readers[group]

    def _open(self, group: str) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": group,  # whose offsets are asked for; who subscribes to nothing joins nothing
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "auto.offset.reset": "earliest",
                "socket.timeout.ms": 5_000,
                "log_level": 0,
            }
        )


def _asked(question: Callable[[], Answer]) -> Answer:
    try:
        return question()
    except KafkaException as error:
        raise _away(error) from error


def _away(error: KafkaException) -> TransientError:
    return TransientError(f"Kafka: {error.args[0].name()}")
