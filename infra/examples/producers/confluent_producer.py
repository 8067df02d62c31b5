"""
Ask for one notification from Kafka, and learn at once whether the request was taken. With confluent-kafka.

    python confluent_producer.py 127.0.0.1:9092 receiver@example.org "Alerta" "Se ha detectado."

Needs nothing else of relevo. Exit code 0: taken; 1: rejected, and why; 2: nobody said anything in time.
"""

import json
import sys
import time
import uuid
from collections.abc import Callable

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

REQUESTED, RESULTS = "notifications.requested", "notifications.results"
ANSWER_S_MAX = 30.0


def open_results(bootstrap: str) -> Consumer:
    """Stand at the end of the results, before anything is asked for: nothing about it can be missed."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": f"example-{uuid.uuid4()}"})
    partitions = consumer.list_topics(RESULTS, timeout=10).topics[RESULTS].partitions
    ends = [(each, consumer.get_watermark_offsets(TopicPartition(RESULTS, each), timeout=10)[1]) for each in partitions]
    consumer.assign([TopicPartition(RESULTS, partition, end) for partition, end in ends])
    return consumer


def produce(bootstrap: str, request: dict[str, str]) -> None:
    """Return when the broker has it. What fails is produced again as it is: the same id makes a copy harmless."""
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all", "enable.idempotence": True})
    reports: list[KafkaError | None] = []

    def report(error: KafkaError | None, _record: Message) -> None:
        reports.append(error)

    while not reports or reports[-1] is not None:
        producer.produce(REQUESTED, json.dumps(request).encode(), request["id"].encode(), on_delivery=report)
        producer.flush()


def first_result(consumer: Consumer, wanted: Callable[[bytes | None], bool]) -> dict[str, object] | None:
    """Return the first result whose key is *wanted*."""
    deadline = time.monotonic() + ANSWER_S_MAX
    while time.monotonic() < deadline:
        record = consumer.poll(0.5)
        if record is not None and record.error() is None and wanted(record.key()):
            result: dict[str, object] = json.loads(record.value() or b"")
            return result
    return None


def main(bootstrap: str, to: str, subject: str, body: str) -> int:
    """Ask, and tell the answer."""
    request = {"id": str(uuid.uuid4()), "producer": "example", "to": to, "subject": subject, "body": body}
    consumer = open_results(bootstrap)
    try:
        produce(bootstrap, request)
        result = first_result(consumer, lambda key: key == request["id"].encode())
    finally:
        consumer.close()
    if result is None:
        print(f"{request['id']}: no answer", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 1 if result["status"] == "rejected" else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
