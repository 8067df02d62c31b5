"""
What operators, clocks and brokers do to a system that runs: copies and time, and never a second mail.

On servers that no other test uses: partitions are added here, groups deleted, records taken away.
"""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from uuid import UUID, uuid4

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions

from infra.kafka import apply_topics
from infra.migrate import upgrade
from infra.positions import Positions
from infra.stack import servers as local_servers
from schemas.identity import contact_id
from schemas.topics import DEDUPLICATED, PIPELINE_GROUP, REQUESTED, RESULTS, SENDER_GROUP
from tests.lag import committed, lag
from tests.load import Load, sent_once
from tests.processes import ServiceProcess, eventually
from tests.relevo import Relevo, address

DONE_S_MAX = 60

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def own_servers(request, tmp_path_factory):
    if request.config.getoption("--servers") == "containers":
        from tests import containers

        running = containers.start()
    else:
        running = local_servers.start(tmp_path_factory.mktemp("operators"))
    try:
        apply_topics(running.kafka_bootstrap, replication=1)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, upgrade(running.postgres_dsn)).result()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def relevo(own_servers, mailbox, tmp_path_factory):
    recipients = f"{address()},{address('550')},{address()}"
    running = Relevo(own_servers, mailbox, tmp_path_factory.mktemp("relevo"), RELEVO_CONTACT_RECIPIENTS=recipients)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.fixture
def admin(own_servers):
    return AdminClient({"bootstrap.servers": own_servers.kafka_bootstrap})


def request_for(**changes):
    return {"id": str(uuid4()), "to": address(), "subject": "s", "body": "b"} | changes


def produce_to(relevo, topic, partition, value, headers=()):
    producer = Producer({"bootstrap.servers": relevo.servers.kafka_bootstrap})
    producer.produce(topic.name, value, partition=partition, headers=list(headers))
    assert producer.flush(15) == 0


def ends(relevo, topic):
    return asyncio.run(Positions(relevo.servers.kafka_bootstrap).ends(topic))


def no_lag(relevo):
    found = {group: lag(relevo.servers.kafka_bootstrap, group) for group in (PIPELINE_GROUP, SENDER_GROUP)}
    assert not any(found.values()), found
    return True


def all_sent_once(relevo, ids):
    counts = relevo.mailbox.counts()
    waiting = [each for each in ids if each not in counts]
    assert not waiting, f"{len(waiting)} of {len(ids)} wait"
    assert {counts[each] for each in ids} == {1}
    return True


def test_the_same_id_in_every_partition_at_once_is_one_mail(relevo):
    requests = [request_for() for _ in range(10)]
    producer = Producer({"bootstrap.servers": relevo.servers.kafka_bootstrap})
    for each in requests:
        for partition in range(REQUESTED.partitions):
            producer.produce(REQUESTED.name, json.dumps(each).encode(), partition=partition)
    assert producer.flush(15) == 0
    ids = [each["id"] for each in requests]
    eventually(lambda: all_sent_once(relevo, ids), 30)
    eventually(lambda: no_lag(relevo), 30, 0.5)
    assert all_sent_once(relevo, ids)
    for each in ids:
        assert [event["status"] for event in relevo.results(each) if event["terminal"]] == ["sent"]


def test_one_refused_recipient_of_a_contact_message_costs_the_others_nothing(relevo):
    status, answer, _ = relevo.post("/api/contact/", {"name": "Ana", "email": "ana@example.com", "message": "Hola"})
    assert status == 202
    ids = [str(contact_id(UUID(answer["id"]), place)) for place in range(3)]
    for each, state in zip(ids, ("sent", "bounced", "sent"), strict=True):
        assert relevo.wait_for(each, state)["attempt"] == 1
    counts = relevo.mailbox.counts()
    assert [counts.get(each, 0) for each in ids] == [1, 0, 1]


def test_a_dead_letter_that_is_put_back_twice_sends_nothing_a_second_time(relevo):
    good = [request_for(), request_for()]
    raw = json.dumps([good[0], {"id": "x"}, good[1]]).encode()
    at = relevo.produce(raw)
    ids = [each["id"] for each in good]
    eventually(lambda: all_sent_once(relevo, ids))
    eventually(lambda: relevo.rejections_at(*at))
    for turn in (1, 2):
        [*_, letter] = [each for each in relevo.dead_letters() if each.value() == raw]
        again = relevo.produce(letter.value(), key=letter.key(), headers=letter.headers())
        eventually(lambda again=again: relevo.rejections_at(*again))
        letters = [each for each in relevo.dead_letters() if each.value() == raw]
        assert len(letters) == turn + 1, "it is as bad as before, and says so each time"
    eventually(lambda: no_lag(relevo), 30, 0.5)
    assert all_sent_once(relevo, ids)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("pipeline.after_claim", "agent"), ("pipeline.after_forward", "agent"), ("sender.after_enrol", "deliver")],
)
def test_a_bug_there_turns_red_and_passes_nothing_over(relevo, name, reason):
    module = name.partition(".")[0]
    group = {"pipeline": PIPELINE_GROUP, "sender": SENDER_GROUP}[module]
    bootstrap = relevo.servers.kafka_bootstrap
    eventually(lambda: no_lag(relevo), 30, 0.5)
    before = committed(bootstrap, group)
    service = getattr(relevo, module)
    assert service.stop() == 0
    broken = relevo.service(module, RELEVO_FAILPOINT=f"{name}:raise")
    try:
        broken.start()
        identity = relevo.notify()
        eventually(lambda: reason in broken.readiness()[1].get("reasons", {}), 20)
        time.sleep(2)  # longer than from one commit to the next
        assert committed(bootstrap, group) == before
    finally:
        broken.stop()
        service.start()
    assert relevo.wait_for(identity, "sent", 30)["attempt"] == 1
    assert relevo.mailbox.counts()[identity] == 1


@pytest.mark.parametrize("topic", [REQUESTED, DEDUPLICATED], ids=lambda topic: topic.name)
def test_what_a_broker_lost_of_what_was_accepted_is_found_and_sent(relevo, admin, topic):
    reader = relevo.pipeline if topic is REQUESTED else relevo.sender
    assert reader.stop() == 0
    before = sum(ends(relevo, topic).values())
    ids = [relevo.notify() for _ in range(10)]
    eventually(lambda: all(len(relevo.status(each)["timeline"]) >= 2 for each in ids), 20, 0.2)
    eventually(lambda: sum(ends(relevo, topic).values()) > before)
    time.sleep(1)
    gone = [TopicPartition(topic.name, partition, end) for partition, end in ends(relevo, topic).items()]
    for future in admin.delete_records(gone).values():
        future.result(10)
    reader.start()
    eventually(lambda: all_sent_once(relevo, ids), DONE_S_MAX, 0.5)


def accepted_at_last(relevo, scenario=""):
    """Offer as clients do: where what waits for Kafka is taken for an hour old, the answer is 503, come again."""
    request = request_for(to=address(scenario))

    def offer():
        status, answer, _ = relevo.post("/api/notify/", request)
        assert status == 202, answer
        return True

    eventually(offer, 20, 0.2)
    return request["id"]


@pytest.mark.parametrize("skew_s", [3600, -3600])
@pytest.mark.parametrize("name", ["sender", "ingest"])
def test_a_clock_that_is_an_hour_off_sends_nothing_twice(relevo, tmp_path, name, skew_s):
    service = getattr(relevo, name)
    assert service.stop() == 0
    environment = relevo.environment | {"RELEVO_INSTANCE": name, "SKEWED": name, "SKEW_S": str(skew_s)}
    skewed = ServiceProcess("tests.skewed", environment, tmp_path / "skewed.log")
    # Beside it one whose clock is right, with work of the same kind.
    other = relevo.service("sender", "sender-2")
    try:
        skewed.start()
        other.start()
        ids = [accepted_at_last(relevo) for _ in range(40)] + [accepted_at_last(relevo, "451x1") for _ in range(5)]
        for _ in range(10):
            relevo.produce(each := request_for())
            ids.append(each["id"])
        eventually(lambda: all_sent_once(relevo, ids), DONE_S_MAX, 0.5)
        # Two looks of the reconciler, who compares moments.
        time.sleep(12)
        eventually(lambda: no_lag(relevo), 30, 0.5)
        assert all_sent_once(relevo, ids)
        assert {relevo.status(each)["status"] for each in ids} == {"sent"}
    finally:
        skewed.stop()
        other.stop()
        service.start()


def test_a_pipeline_that_was_frozen_past_its_session_forwards_nothing_that_is_sent_twice(relevo):
    other = relevo.service("pipeline", "pipeline-2")
    other.start()
    try:
        with Load(relevo, per_s=40) as load:
            time.sleep(4)
            relevo.pipeline.pause()
            try:
                # Its session lasts 12 s; then the other one has all partitions.
                time.sleep(18)
            finally:
                relevo.pipeline.resume()
            time.sleep(8)
        sent_once(relevo, load.accepted, DONE_S_MAX)
        # Also by the broker's account: what it believes to have committed counts for nothing.
        eventually(lambda: no_lag(relevo), 30, 0.5)
    finally:
        other.stop()


def test_partitions_that_are_added_under_load_are_read_and_lose_nothing(relevo, admin):
    more = REQUESTED.partitions + 3
    with Load(relevo, per_s=40) as load:
        time.sleep(3)
        grown = [NewPartitions(topic.name, more) for topic in (REQUESTED, DEDUPLICATED, RESULTS)]
        for future in admin.create_partitions(grown).values():
            future.result(10)
        time.sleep(10)
        there = [request_for() for _ in range(REQUESTED.partitions, more)]
        for partition, each in enumerate(there, REQUESTED.partitions):
            produce_to(relevo, REQUESTED, partition, json.dumps(each).encode())
        time.sleep(3)
    eventually(lambda: all_sent_once(relevo, [each["id"] for each in there]), DONE_S_MAX, 0.5)
    sent_once(relevo, load.accepted, DONE_S_MAX)
    eventually(lambda: no_lag(relevo), 30, 0.5)


def test_groups_without_offsets_read_everything_again_and_send_only_what_is_new(relevo, admin):
    eventually(lambda: no_lag(relevo), 30, 0.5)
    before = relevo.mailbox.counts()
    for service in (relevo.pipeline, relevo.sender):
        assert service.stop() == 0
    new = [request_for() for _ in range(10)]
    for each in new:
        relevo.produce(each)
    ids = [each["id"] for each in new] + [relevo.notify() for _ in range(10)]

    def deleted(group):
        # Members with a name of their own are kept for as long as their session lasts.
        return admin.delete_consumer_groups([group])[group].exception(10) is None

    for group in (PIPELINE_GROUP, SENDER_GROUP):
        eventually(lambda group=group: deleted(group), 30, 0.5)
    relevo.pipeline.start()
    relevo.sender.start()
    eventually(lambda: all_sent_once(relevo, ids), DONE_S_MAX, 0.5)
    eventually(lambda: no_lag(relevo), DONE_S_MAX, 0.5)
    after = relevo.mailbox.counts()
    again = {each: after[each] for each, count in before.items() if after[each] != count}
    assert again == {}
