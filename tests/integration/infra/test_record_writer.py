"""What the writer writes, a real broker gives back byte for byte, in the partition where it belongs."""

import asyncio
import os
import time
from collections import Counter
from uuid import uuid4

import pytest
from aiokafka.partitioner import DefaultPartitioner
from confluent_kafka import TIMESTAMP_CREATE_TIME, KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from infra.record_writer import TOGETHER_RECORDS_MAX, Outgoing, RecordWriter
from infra.stack.ports import free_port
from schemas.dead_letters import Origin, dead_letter_headers
from schemas.errors import TransientError
from schemas.topics import REQUESTED, Topic
from tests.processes import eventually
from tests.relevo import read_topic


@pytest.fixture
def topic(servers):
    """A topic of its own, as large as the real ones."""
    made = Topic(f"test.{uuid4().hex[:8]}", 6, REQUESTED.retention_ms, "delete", "a test")
    admin = AdminClient({"bootstrap.servers": servers.kafka_bootstrap})
    for future in admin.create_topics([NewTopic(made.name, made.partitions, 1, config=made.config())]).values():
        future.result()
    yield made
    for future in admin.delete_topics([made.name]).values():
        future.result()


@pytest.fixture
async def writer(servers):
    opened = RecordWriter(servers.kafka_bootstrap, name="test")
    await opened.open()
    yield opened
    await opened.close()


def read(servers, topic):
    def look():
        try:
            return [read_topic(servers.kafka_bootstrap, topic.name)]
        except KafkaException as error:
            # A topic this young may not have its leaders everywhere.
            if error.args[0].code() != KafkaError.NOT_LEADER_FOR_PARTITION:
                raise
            return None

    return eventually(look)[0]


async def test_one_write_goes_to_one_partition_in_order_and_the_next_to_the_next(servers, topic, writer):
    for turn in range(8):
        await writer.write(topic, [Outgoing(None, f"{turn}-{number}".encode()) for number in range(50)])
    found = {}
    for record in read(servers, topic):
        found.setdefault(record.partition(), []).append(record.value().decode())
    first = next(partition for partition, values in found.items() if values[0] == "0-0")
    for at in range(6):
        turns = [turn for turn in range(8) if turn % 6 == at]
        assert found[(first + at) % 6] == [f"{turn}-{number}" for turn in turns for number in range(50)]


async def test_a_large_batch_is_spread_over_as_few_partitions_as_it_takes(servers, topic, writer):
    values = [str(number).encode() for number in range(2 * TOGETHER_RECORDS_MAX + 1)]
    await writer.write(topic, [Outgoing(None, value) for value in values])
    await writer.write(topic, [Outgoing(None, b"next")])
    found = {}
    for record in read(servers, topic):
        found.setdefault(record.partition(), []).append(record.value())
    assert sorted(len(each) for each in found.values()) == [1, 333, 334, 334]
    first = next(partition for partition, values in found.items() if values[0] == b"0")
    assert [value for at in range(4) for value in found[(first + at) % 6]] == [*values, b"next"]


async def test_a_key_lies_where_every_other_client_would_put_it(servers, topic, writer):
    keys = [str(uuid4()).encode() for _ in range(300)] + [b"a", b"\xff\x80\x00", "ñ".encode(), b"x" * 1000]
    await writer.write_by_key(topic, [Outgoing(key, b"ours") for key in keys])
    other = Producer({"bootstrap.servers": servers.kafka_bootstrap, "partitioner": "murmur2_random"})
    for key in keys:
        other.produce(topic.name, b"theirs", key)
    assert other.flush(15) == 0
    places = {b"ours": {}, b"theirs": {}}
    for record in read(servers, topic):
        places[record.value()][record.key()] = record.partition()
    aiokafkas = {key: DefaultPartitioner()(key, list(range(6)), list(range(6))) for key in keys}
    assert places[b"ours"] == places[b"theirs"] == aiokafkas
    assert len(Counter(aiokafkas.values())) == 6


async def test_equal_keys_keep_their_order(servers, topic, writer):
    records = [Outgoing(f"key-{number % 7}".encode(), str(number).encode()) for number in range(700)]
    await writer.write_by_key(topic, records)
    found = {}
    for record in read(servers, topic):
        found.setdefault(record.key(), []).append(int(record.value()))
    assert found == {f"key-{rest}".encode(): list(range(rest, 700, 7)) for rest in range(7)}


async def test_a_dead_letter_is_what_it_was_byte_for_byte(servers, topic, writer):
    bodies = [(None, None), (None, b""), (b"", None), (b"", b""), (b"\x00\xff", os.urandom(1000)), (b"k", b"\xff" * 10)]
    came = [("x", b"\xff\x00"), ("x", b"again"), ("empty", b""), ("null", None), ("ñ", b"")]
    headers = dead_letter_headers(Origin("notifications.requested", 3, 912, 5), came, "invalid_json", "broken")
    await writer.write(topic, [Outgoing(key, value, headers) for key, value in bodies])
    found = read(servers, topic)
    assert [(record.key(), record.value()) for record in found] == bodies
    assert all(record.headers() == headers for record in found)


async def test_a_timestamp_survives_and_without_one_it_is_now(servers, topic, writer):
    before = int(time.time() * 1000)
    stamps = [1_700_000_000_123, None, 0, before - 1]
    await writer.write(topic, [Outgoing(b"k", b"v", (), stamp) for stamp in stamps])
    found = [record.timestamp() for record in read(servers, topic)]
    assert {kind for kind, _ in found} == {TIMESTAMP_CREATE_TIME}
    assert [found[place][1] for place in (0, 2, 3)] == [1_700_000_000_123, 0, before - 1]
    assert before <= found[1][1] <= time.time() * 1000 + 1


async def test_a_record_of_seven_megabytes_passes_and_so_do_its_neighbours(servers, topic, writer):
    # Random bytes: nothing that compression makes small.
    large = os.urandom(7 * 1024 * 1024)
    await writer.write(topic, [Outgoing(b"1", b"before"), Outgoing(b"2", large), Outgoing(b"3", b"after")])
    await writer.write_by_key(topic, [Outgoing(b"4", large)])
    assert {record.key(): record.value() for record in read(servers, topic)} == {
        b"1": b"before",
        b"2": large,
        b"3": b"after",
        b"4": large,
    }


async def test_a_batch_larger_than_a_request_is_split_and_arrives_in_order(servers, topic, writer):
    records = [Outgoing(b"same", number.to_bytes(4, "big") + os.urandom(2000)) for number in range(1000)]
    await writer.write_by_key(topic, records)
    assert [record.value() for record in read(servers, topic)] == [record.value for record in records]


async def test_writing_nothing_is_nothing(servers, topic, writer):
    await writer.write(topic, [])
    await writer.write_by_key(topic, [])
    assert read(servers, topic) == []


async def test_a_broker_that_is_away_is_a_passing_error():
    unopened = RecordWriter(f"127.0.0.1:{free_port()}", name="test")
    with pytest.raises(TransientError, match="Kafka cannot be reached"):
        await unopened.open()
    await unopened.close()


async def test_what_the_broker_refuses_is_told_and_the_next_write_goes_through(servers, topic, writer):
    admin = AdminClient({"bootstrap.servers": servers.kafka_bootstrap})
    entry = ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)
    small = Outgoing(b"1", b"small")

    # Random bytes: nothing that compression makes small.
    def large():
        return Outgoing(b"2", os.urandom(2000))

    async def until_refused():
        while True:  # the broker says yes to a setting before it heeds it
            await writer.write(topic, [large()])

    with pytest.raises(TransientError, match="MessageSizeTooLargeError"):
        await asyncio.wait_for(until_refused(), 10)
    for write in (writer.write, writer.write_by_key):
        with pytest.raises(TransientError, match="MessageSizeTooLargeError"):
            await write(topic, [large()])
        await write(topic, [small])
    assert [record.value() for record in read(servers, topic) if record.key() == b"1"] == [b"small"] * 2
