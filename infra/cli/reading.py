"""Reading a topic without belonging to a group: each partition, from its start or from now on, nothing committed."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from uuid import uuid4

import orjson
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from infra.cli.output import say
from schemas.errors import ConfigurationError, TransientError
from schemas.topics import Topic

ANSWER_S_MAX = 5.0
_POLL_S = 0.2
_RECORDS_MAX = 500


@dataclass(frozen=True, slots=True)
class Read:
    """One record as it stands on the topic. timestamp_ms: Unix milliseconds, None when it has none."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]

    def parsed(self) -> Any:
        """Return the value as JSON; None when it is none."""
        try:
            return orjson.loads(self.value or b"")
        except orjson.JSONDecodeError:
            return None


class TopicReader:
    """
    Reads *topic*.

    bounds has, for each partition, its first offset and the one after its last when this was opened.
    Args:
        partitions: only these; None: all that there are now.
    Raises, when opened:
        TransientError: Kafka does not answer.
        ConfigurationError: there is no such topic.
    """

    def __init__(
        self, bootstrap: str, topic: Topic, *, from_start: bool, partitions: Collection[int] | None = None
    ) -> None:
        self.bounds: dict[int, tuple[int, int]] = {}
        self._away = False
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "client.id": "relevo-cli",
                # Demanded by the library; without a subscription and without commits the broker never hears of it.
                "group.id": f"relevo.cli.{uuid4()}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "allow.auto.create.topics": False,
                "reconnect.backoff.max.ms": 1_000,
                "log_level": 0,
                "error_cb": self._note,
            }
        )
        try:
            self._consumer.assign(self._positions(topic, from_start=from_start, partitions=partitions))
        except KafkaException as error:
            self._consumer.close()
            raise TransientError(f"Kafka at {bootstrap} cannot be reached: {error.args[0].str()}") from error
        except ConfigurationError:
            self._consumer.close()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self._consumer.close()

    def read(self) -> Iterable[Read]:
        """Return what came within a moment, perhaps nothing."""
        found = []
        for message in self._consumer.consume(_RECORDS_MAX, _POLL_S):
            error = message.error()
            if error is None:
                self._away = False
                found.append(_read(message))
            elif error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise ConfigurationError("The topic is gone: run `relevo topics apply`.")
            # Everything else the library retries by itself, for ever.
        return found

    def _positions(self, topic: Topic, *, from_start: bool, partitions: Collection[int] | None) -> list[TopicPartition]:
        found = self._consumer.list_topics(topic.name, timeout=ANSWER_S_MAX).topics[topic.name]
        if found.error is not None:
            raise ConfigurationError(f"Topic {topic.name} does not exist: run `relevo topics apply`.")
        positions = []
        for number in found.partitions if partitions is None else partitions:
            place = TopicPartition(topic.name, number)
            # Asked now, not "end": the library would find out later, and skip what comes in between.
            first, end = self._consumer.get_watermark_offsets(place, timeout=ANSWER_S_MAX)
            self.bounds[number] = first, end
            positions.append(TopicPartition(topic.name, number, first if from_start else end))
        return positions

    def _note(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN and not self._away:  # noqa: SLF001 -- the library's own spelling
            self._away = True
            say("Kafka does not answer; waiting for it.")


def _read(message: Message) -> Read:
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None, "it has no error, so it has a place"
    assert partition is not None, "see above"
    assert offset is not None, "see above"
    headers: Any = message.headers() or ()  # a list of pairs, whatever its type says
    kind, timestamp_ms = message.timestamp()
    return Read(
        topic=topic,
        partition=partition,
        offset=offset,
        timestamp_ms=timestamp_ms if kind else None,
        key=message.key(),
        value=message.value(),
        headers=tuple(headers),
    )
