"""The publisher on a real broker: what it could not bring through is not reported, and is nobody else's harm."""

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from infra.stack.ports import free_port
from ingest import publisher as publishing
from ingest.publisher import Publisher
from schemas.records import decode_requested
from schemas.topics import REQUESTED
from tests.relevo import read_topic
from tests.unit.ingest.fakes import make_accepted


@pytest.fixture
def make(servers):
    """Return a function: settings of the client -> publisher."""
    made = []
    original = publishing.open_relay_producer

    def one(bootstrap=servers.kafka_bootstrap, **options):
        publisher = Publisher(bootstrap, name="test")
        if options:
            publisher._producer = Producer({"bootstrap.servers": bootstrap, "log_level": 0} | options)
        else:
            publisher._producer = original(bootstrap, name="test")
        made.append(publisher)
        return publisher

    yield one
    for each in made:
        each.close()


@pytest.fixture
def lone_records(monkeypatch):
    """One record for each row."""
    monkeypatch.setattr(publishing, "REQUESTS_PER_RECORD_MAX", 1)


def on_the_topic(servers, rows):
    wanted = {row.notification.id for row in rows}
    found = []
    for record in read_topic(servers.kafka_bootstrap, REQUESTED.name):
        items = [each[1].id for each in decode_requested(record.value(), None) if isinstance(each, tuple)]
        found += [each for each in items if each in wanted]
    return found


async def test_a_broker_that_never_answers_is_reported_as_nothing_in_time(make, monkeypatch):
    monkeypatch.setattr(publishing, "FLUSH_S", 0.3)
    monkeypatch.setattr(publishing, "_PURGE_S", 0.2)
    publisher = make(f"127.0.0.1:{free_port()}")
    assert await publisher.publish([make_accepted() for _ in range(3)]) == []
    assert len(publisher._producer) == 0, "memory stays flat while the broker is away"


async def test_a_full_queue_of_the_client_loses_nothing_and_the_next_batch_goes_out(make, servers, lone_records):
    publisher = make(**{"queue.buffering.max.messages": 10, "linger.ms": 1000})
    rows = [make_accepted() for _ in range(50)]
    left, turns = rows, 0
    while left:
        turns += 1
        assert turns < 20, f"{len(left)} rows are never published"
        done = {each.id for each in await publisher.publish(left)}
        left = [row for row in left if row.notification.id not in done]
    assert set(on_the_topic(servers, rows)) == {row.notification.id for row in rows}


async def test_a_row_that_no_record_can_carry_leaves_its_neighbours_alone(make, servers, lone_records):
    publisher = make(**{"message.max.bytes": 4000})
    rows = [make_accepted() for _ in range(4)]
    rows.insert(2, make_accepted(body="x" * 8000))
    done = {each.id for each in await publisher.publish(rows)}
    assert done == {row.notification.id for row in rows} - {rows[2].notification.id}


async def test_a_client_that_has_given_up_for_good_is_replaced(make):
    class GivenUp:
        """What librdkafka is after the broker lost records that it had acknowledged: no call ever works again."""

        def produce(self, *_arguments, **_options):
            raise KafkaException(KafkaError(KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER, "lost", fatal=True))

        def flush(self, _timeout_s):
            return 0

    publisher = make()
    publisher._producer = GivenUp()
    rows = [make_accepted()]
    assert await publisher.publish(rows) == []
    assert [each.id for each in await publisher.publish(rows)] == [rows[0].notification.id]
