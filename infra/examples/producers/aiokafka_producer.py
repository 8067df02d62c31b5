"""
Ask for one notification from Kafka, and learn at once whether the request was taken. With aiokafka.

    python aiokafka_producer.py 127.0.0.1:9092 receiver@example.org "Alerta" "Se ha detectado."

Needs nothing else of relevo. Exit code 0: taken; 1: rejected, and why; 2: nobody said anything in time.
"""

import asyncio
import json
import sys
import uuid

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.errors import KafkaError

REQUESTED, RESULTS = "notifications.requested", "notifications.results"
ANSWER_S_MAX = 30.0


async def produce(bootstrap: str, request: dict[str, str]) -> None:
    """Return when the broker has it. What fails is produced again as it is: the same id makes a copy harmless."""
    while True:
        async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True) as producer:
            try:
                await producer.send_and_wait(REQUESTED, json.dumps(request).encode(), request["id"].encode())
            except KafkaError:
                await asyncio.sleep(1)
            else:
                return


async def first_result(consumer: AIOKafkaConsumer, notification_id: str) -> dict[str, object]:
    """Return the first result of *notification_id*."""
    while True:
        record = await consumer.getone()
        if record.key == notification_id.encode():
            result: dict[str, object] = json.loads(record.value)
            return result


async def main(bootstrap: str, to: str, subject: str, body: str) -> int:
    """Ask, and tell the answer."""
    request = {"id": str(uuid.uuid4()), "producer": "example", "to": to, "subject": subject, "body": body}
    async with AIOKafkaConsumer(RESULTS, bootstrap_servers=bootstrap, group_id=None) as consumer:
        # Before anything is asked for: nothing about it can be missed.
        await consumer.seek_to_end()
        await produce(bootstrap, request)
        try:
            result = await asyncio.wait_for(first_result(consumer, request["id"]), ANSWER_S_MAX)
        except TimeoutError:
            print(f"{request['id']}: no answer", file=sys.stderr)
            return 2
    print(json.dumps(result))
    return 1 if result["status"] == "rejected" else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:5])))
