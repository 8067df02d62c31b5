"""Producing one record to notifications.requested, as any service would."""

from typing import Any

from confluent_kafka import KafkaException

from infra.kafka import open_relay_producer
from schemas.errors import ConfigurationError, TransientError
from schemas.messages import Notification
from schemas.records import encode_requested
from schemas.topics import REQUESTED

_ANSWER_S_MAX = 10.0


def produce(bootstrap: str, notification: Notification) -> tuple[int, int]:
    """
    Produce *notification* with its id as the key, and return partition and offset once the brokers have it.

    Raises:
        TransientError: Kafka did not acknowledge it; it may have it all the same.
        ConfigurationError: there is no such topic.
    """
    producer = open_relay_producer(bootstrap, name="relevo-cli")
    reports: list[tuple[Any, Any]] = []
    try:
        if producer.list_topics(REQUESTED.name, timeout=_ANSWER_S_MAX).topics[REQUESTED.name].error is not None:
            raise ConfigurationError(f"Topic {REQUESTED.name} does not exist: run `relevo topics apply`.")
        producer.produce(
            REQUESTED.name,
            encode_requested([notification]),
            str(notification.id).encode(),
            on_delivery=lambda error, record: reports.append((error, record)),
        )
        producer.flush(_ANSWER_S_MAX)
    except KafkaException as error:
        raise TransientError(f"Kafka at {bootstrap} cannot be reached: {error.args[0].str()}.") from error
    if not reports or reports[0][0] is not None:
        why = f"did not answer within {_ANSWER_S_MAX:.0f} s" if not reports else f"says {reports[0][0].str()}"
        raise TransientError(
            f"Kafka at {bootstrap} {why}; it may have the record all the same. "
            f"Sending it again with --id {notification.id} is safe."
        )
    record = reports[0][1]
    return record.partition(), record.offset()
