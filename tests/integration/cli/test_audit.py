"""What the account finds missing is put back from where its request still lies, and what cannot be is said."""

import asyncio
import json
import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from infra.cli import audit_put_back
from infra.kafka import apply_topics
from infra.migrate import upgrade
from infra.positions import Positions
from infra.postgres import open_pool
from schemas import results
from schemas.messages import Source
from schemas.records import decode_deduplicated, encode_result
from schemas.states import State
from schemas.topics import DEDUPLICATED, PIPELINE_GROUP, REQUESTED, RESULTS, SENDER_GROUP
from sender.ledger import Ledger
from tests.builders import make_enrolment
from tests.integration.cli.commands import Command
from tests.relevo import read_topic

ACCEPTED_MS = int((time.time() - 3600) * 1000)
TOPICS = (REQUESTED, DEDUPLICATED, RESULTS)


class Kafka:
    """What the pipeline and the senders left there: requests, results, and how far each has come."""

    def __init__(self, bootstrap):
        self.bootstrap = bootstrap

    def request(self, *items):
        """Return partition and offset of one request for each of *items*, or of an array of them."""
        value = items[0] if len(items) == 1 else list(items)
        return self.produce(REQUESTED, json.dumps(value).encode(), timestamp=ACCEPTED_MS)

    def tell(self, notification_id, partition, offset, index=0, *, seq=1, status=State.QUEUED):
        result = results.change(
            id=UUID(notification_id),
            seq=seq,
            status=status,
            reason=None,
            attempt=seq - 1,
            channel="email",
            source=Source("kafka", partition, offset, index),
            recipient_hash=None,
            accepted_at=results.moment(ACCEPTED_MS),
            occurred_at=datetime.now(UTC),
            trace_id=None,
            metadata=None,
            producer=None,
            replay_of=None,
            test=False,
        )
        self.produce(RESULTS, encode_result(result), key=notification_id.encode())

    def all_passed(self, *groups):
        for group, topic in ((PIPELINE_GROUP, REQUESTED), (SENDER_GROUP, DEDUPLICATED)):
            if group in groups:
                consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": group})
                places = [TopicPartition(topic.name, *each) for each in self._ends(topic).items()]
                if places:
                    consumer.commit(offsets=places, asynchronous=False)
                consumer.close()

    def empty(self, *topics):
        """Take away what lies there now, as retention does."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        places = [TopicPartition(topic.name, *each) for topic in topics for each in self._ends(topic).items()]
        for future in admin.delete_records(places).values() if places else ():
            future.result(10)

    def forwarded(self):
        return {
            str(notification.id): (notification.content.subject, source, record.timestamp()[1])
            for record in read_topic(self.bootstrap, DEDUPLICATED.name)
            for notification, source in [decode_deduplicated(record.value(), record.headers())]
        }

    def _ends(self, topic):
        return asyncio.run(Positions(self.bootstrap).ends(topic))

    def produce(self, topic, value, **given):
        reports = []
        producer = Producer({"bootstrap.servers": self.bootstrap})
        producer.produce(topic.name, value, on_delivery=lambda _error, record: reports.append(record), **given)
        assert producer.flush(15) == 0
        return reports[0].partition(), reports[0].offset()


@pytest.fixture
def kafka(own_servers, monkeypatch):
    # Nobody comes: there are no services.
    monkeypatch.setattr(audit_put_back, "PASSED_S_MAX", 0.0)
    monkeypatch.setattr(audit_put_back, "KNOWN_S_MAX", 0.0)
    apply_topics(own_servers.kafka_bootstrap, replication=1)
    found = Kafka(own_servers.kafka_bootstrap)
    found.empty(*TOPICS)
    yield found
    found.empty(*TOPICS)


@pytest.fixture
def audit(environment, fresh_database):
    asyncio.run(upgrade(fresh_database))
    return Command(environment | {"RELEVO_POSTGRES_DSN": fresh_database})


def request(**changes):
    return {"id": str(uuid4()), "to": "receiver@example.org", "subject": "Alerta", "body": "Hola"} | changes


def test_what_is_missing_is_put_back_from_where_it_lay_and_stays_a_gap_until_a_sender_has_it(kafka, audit):
    lone, first, bad, last = request(), request(), request(to="nobody"), request(subject="last")
    at, there = kafka.request(lone), kafka.request(first, bad, last)
    kafka.tell(lone["id"], *at)
    kafka.tell(first["id"], *there, 0)
    kafka.tell(last["id"], *there, 2)
    kafka.all_passed(PIPELINE_GROUP, SENDER_GROUP)
    ids = sorted(each["id"] for each in (lone, first, last))

    found = audit.json("audit", code=1)
    assert sorted(found["ids"]["gap"]) == ids
    assert kafka.forwarded() == {}

    found = audit.json("audit", "--put-back", code=1)
    assert found["put_back"]["ids"] == {"written": ids, "gone": [], "begun": []}
    assert found["put_back"]["known"] == 0
    assert kafka.forwarded() == {
        lone["id"]: ("Alerta", Source("kafka", *at, 0), ACCEPTED_MS),
        first["id"]: ("Alerta", Source("kafka", *there, 0), ACCEPTED_MS),
        last["id"]: ("last", Source("kafka", *there, 2), ACCEPTED_MS),
    }


@pytest.mark.parametrize("passed", [(), (PIPELINE_GROUP,), (SENDER_GROUP,)])
def test_what_may_only_be_waiting_is_not_put_back(kafka, audit, passed):
    lost = request()
    kafka.tell(lost["id"], *kafka.request(lost))
    kafka.produce(DEDUPLICATED, b"another one")
    kafka.all_passed(*passed)
    found = audit.json("audit", "--put-back", code=1)
    assert found["error"]["code"] == "not_passed"
    assert [record.value() for record in read_topic(kafka.bootstrap, DEDUPLICATED.name)] == [b"another one"]


def test_what_cannot_be_put_back_is_said(kafka, audit):
    gone, begun, other = request(), request(), request()
    there = kafka.request(gone)
    kafka.tell(gone["id"], *there)
    kafka.empty(REQUESTED)
    kafka.tell(begun["id"], *kafka.request(begun))
    # A sender has had it: if the ledger does not know it, its mail may be out all the same.
    kafka.tell(begun["id"], *there, seq=2, status=State.RETRYING)
    # Where it is said to have stood stands something else.
    kafka.tell(other["id"], *kafka.request(request()))
    kafka.all_passed(PIPELINE_GROUP, SENDER_GROUP)
    found = audit.json("audit", "--put-back", code=1)
    assert found["put_back"]["ids"] == {
        "written": [],
        "gone": sorted([gone["id"], other["id"]]),
        "begun": [begun["id"]],
    }
    assert kafka.forwarded() == {}
    said = audit.run("audit", "--put-back", code=1)
    assert "not put back: 1, a sender had begun with them" in said
    assert "not put back: 2, their requests are not on notifications.requested any more" in said
    assert "The account does not come out even." in said


def test_what_is_known_by_now_is_no_gap_any_more(kafka, audit, fresh_database, monkeypatch):
    lost = request()
    kafka.tell(lost["id"], *kafka.request(lost))
    kafka.all_passed(PIPELINE_GROUP, SENDER_GROUP)
    writing = audit_put_back.RecordWriter.write

    async def write_and_enrol(self, topic, records):
        await writing(self, topic, records)
        pool = await open_pool(fresh_database, name="test", connections_max=1)
        await Ledger(pool, worker=uuid4(), worker_name="test").enrol([make_enrolment(id=UUID(lost["id"]))])
        await pool.close()

    monkeypatch.setattr(audit_put_back.RecordWriter, "write", write_and_enrol)
    found = audit.json("audit", "--put-back")
    assert (found["gap"], found["put_back"]["known"], found["balanced"]) == (1, 1, True)
    found = audit.json("audit", "--put-back")
    assert (found["gap"], found["put_back"]["written"], found["balanced"]) == (0, 0, True)
    assert "put back on notifications.deduplicated: 0" in audit.run("audit", "--put-back")
