"""Where topics end and groups stand, as a real broker says."""

import asyncio
import contextlib
from dataclasses import replace
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra.positions import Positions, Stand
from infra.stack.ports import free_port
from schemas.errors import TransientError
from schemas.topics import REQUESTED


@pytest.fixture
def topic(servers):
    """A topic of its own with two partitions."""
    admin = AdminClient({"bootstrap.servers": servers.kafka_bootstrap})
    made = replace(REQUESTED, name=f"{uuid4().hex[:8]}.positions")
    for future in admin.create_topics([NewTopic(made.name, 2, 1)]).values():
        future.result(15)
    yield made
    for future in admin.delete_topics([made.name]).values():
        future.exception()


def produce(servers, topic, count, **options):
    producer = Producer({"bootstrap.servers": servers.kafka_bootstrap} | options)
    if options:
        producer.init_transactions()
        producer.begin_transaction()
    for n in range(count):
        producer.produce(topic.name, b"%d" % n, partition=0)
    if options:
        producer.commit_transaction()
    assert producer.flush(15) == 0


def commit(servers, topic, group, offset):
    consumer = Consumer({"bootstrap.servers": servers.kafka_bootstrap, "group.id": group})
    consumer.commit(offsets=[TopicPartition(topic.name, 0, offset)], asynchronous=False)
    consumer.close()


async def stands(positions, group, topic, committed, end):
    """Wait until *group* stands so in partition 0; a broker that has just begun to keep it says so first."""
    async with asyncio.timeout(15):
        while True:
            with contextlib.suppress(TransientError):
                if await positions.stand(group, topic) == {0: Stand(committed, end), 1: Stand(0, 0)}:
                    return
            await asyncio.sleep(0.1)


async def test_a_group_stands_where_it_committed_or_at_the_first_record(servers, topic):
    positions, group = Positions(servers.kafka_bootstrap), uuid4().hex
    await stands(positions, group, topic, 0, 0)
    produce(servers, topic, 5)
    await stands(positions, group, topic, 0, 5)
    commit(servers, topic, group, 3)
    await stands(positions, group, topic, 3, 5)


async def test_an_offset_that_holds_no_record_is_told_from_one_that_does(servers, topic):
    positions = Positions(servers.kafka_bootstrap)
    produce(servers, topic, 3, **{"transactional.id": uuid4().hex})
    # Three records, and the mark of the transaction.
    end = 4
    await stands(positions, "g", topic, 0, end)
    assert await positions.has_record(topic, 0, 2, end)
    assert not await positions.has_record(topic, 0, 3, end)


async def test_a_broker_that_is_not_there_is_transient(topic):
    positions = Positions(f"127.0.0.1:{free_port()}", answer_s_max=1.0)
    with pytest.raises(TransientError):
        await positions.stand("g", topic)
    with pytest.raises(TransientError):
        await positions.has_record(topic, 0, 0, 1)
