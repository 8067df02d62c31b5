"""Three brokers: any one of them dies or freezes under load, and it costs seconds; nothing is lost or sent twice."""

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from infra.kafka import apply_topics
from infra.migrate import upgrade
from infra.stack import servers as local_servers
from schemas.topics import PIPELINE_GROUP, SENDER_GROUP, TOPICS
from tests.load import Load, arrivals, sent_once
from tests.processes import eventually
from tests.relevo import Relevo

log = logging.getLogger(__name__)

PER_S = 50
# Longer than what is promised: a client that waited for a frozen broker to wake up would be found out.
AWAY_S = 31.0
DELIVERING_AGAIN_S_MAX = 30.0


@pytest.fixture(scope="module")
def cluster(request, tmp_path_factory):
    if request.config.getoption("--servers") == "containers":
        pytest.skip("the cluster of three is the local stack's")
    with local_servers.start(tmp_path_factory.mktemp("cluster"), brokers=3) as running:
        apply_topics(running.kafka_bootstrap, replication=3)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, upgrade(running.postgres_dsn)).result()
        yield running


@pytest.fixture(scope="module")
def relevo(cluster, mailbox, tmp_path_factory):
    running = Relevo(cluster, mailbox, tmp_path_factory.mktemp("relevo"))
    try:
        running.start()
        yield running
    finally:
        running.stop()


def ask(cluster):
    return AdminClient({"bootstrap.servers": cluster.kafka_bootstrap, "log_level": 0, "socket.timeout.ms": 3000})


def in_sync(cluster):
    topics = ask(cluster).list_topics(timeout=5).topics.values()
    return all(len(partition.isrs) == 3 for topic in topics for partition in topic.partitions.values())


def coordinator(cluster, group):
    admin = ask(cluster)  # kept in a name: the answer never comes to a client that is gone
    return f"kafka-{admin.describe_consumer_groups([group])[group].result(10).coordinator.id}"


def test_every_topic_has_three_copies_of_which_two_must_be_written(cluster, relevo):
    admin = ask(cluster)
    found = admin.list_topics(timeout=5).topics
    # Kafka's own too: a group whose offsets were on one broker would die with it.
    assert {len(part.replicas) for topic in found.values() for part in topic.partitions.values()} == {3}
    names = [*(topic.name for topic in TOPICS), "__consumer_offsets"]
    for future in admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names]).values():
        assert future.result(5)["min.insync.replicas"].value == "2"


@pytest.mark.timeout(200)
@pytest.mark.parametrize(
    ("fault", "group"), [("kill", PIPELINE_GROUP), ("pause", SENDER_GROUP), ("pause", PIPELINE_GROUP)]
)
def test_delivering_goes_on_without_one_broker(cluster, relevo, fault, group):
    eventually(lambda: in_sync(cluster), 60, 0.5)
    victim = coordinator(cluster, group)
    with Load(relevo, per_s=PER_S) as load:
        time.sleep(3)
        fault_at = time.time()
        (cluster.kill if fault == "kill" else cluster.pause)(victim)
        try:
            time.sleep(AWAY_S)
            found = arrivals(relevo)
        finally:
            cluster.start(victim) if fault == "kill" else cluster.resume(victim)
        accepted = load.accepted
    # Every id of the first second after the fault, so those of every partition.
    first = [each for each, at in accepted.items() if fault_at < at < fault_at + 1]
    assert first
    waiting = [each for each in first if each not in found]
    assert not waiting, f"{len(waiting)} of {len(first)} were not sent within {AWAY_S} s of the fault"
    latest_s = max(found[each] - fault_at for each in first)
    assert latest_s < DELIVERING_AGAIN_S_MAX
    log.info("%s of %s: all of the next second's were sent within %.1f s", fault, victim, latest_s)
    sent_once(relevo, load.accepted, 90)
    assert all(service.alive for service in relevo.services)
