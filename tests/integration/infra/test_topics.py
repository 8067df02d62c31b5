"""The broker's topics are made like the catalogue, and nothing an operator did is undone."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from uuid import uuid4

import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from infra import kafka
from infra.kafka import apply_topics, find_topic_problems, require_topics
from infra.stack.ports import free_port
from schemas.errors import ConfigurationError, TransientError
from schemas.topics import TOPICS


@pytest.fixture
def admin(servers):
    return AdminClient({"bootstrap.servers": servers.kafka_bootstrap})


@pytest.fixture
def catalogue(admin, monkeypatch):
    """The catalogue under names of its own, none of which exists."""
    prefix = uuid4().hex[:8]
    topics = tuple(replace(topic, name=f"{prefix}.{topic.name}") for topic in TOPICS)
    monkeypatch.setattr(kafka, "TOPICS", topics)
    yield topics
    for future in admin.delete_topics([topic.name for topic in topics]).values():
        future.exception()


def resource(topic, **changes):
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in changes.items()]
    return ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)


def config_of(admin, topic):
    (future,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, topic.name)]).values()
    return {name: entry.value for name, entry in future.result().items()}


def partitions_of(admin, topic):
    return len(admin.list_topics(topic.name, timeout=10).topics[topic.name].partitions)


def test_what_is_missing_is_made_as_the_catalogue_says(servers, admin, catalogue):
    assert [(found.topic, found.problem) for found in find_topic_problems(servers.kafka_bootstrap)] == [
        (topic.name, "does not exist") for topic in catalogue
    ]
    done = apply_topics(servers.kafka_bootstrap, replication=1)
    assert done == [(topic.name, "created") for topic in catalogue]
    assert find_topic_problems(servers.kafka_bootstrap) == []
    for topic in catalogue:
        assert partitions_of(admin, topic) == topic.partitions
        assert topic.config().items() <= config_of(admin, topic).items()
    assert apply_topics(servers.kafka_bootstrap, replication=1) == [(topic.name, "unchanged") for topic in catalogue]


def test_too_few_partitions_are_found_and_added_too_many_are_left(servers, admin, catalogue):
    few, many = catalogue[0], catalogue[1]
    for future in admin.create_topics([NewTopic(few.name, 2, 1), NewTopic(many.name, many.partitions + 3, 1)]).values():
        future.result()
    problems = {found.topic: found.problem for found in find_topic_problems(servers.kafka_bootstrap)}
    assert problems[few.name] == f"has 2 partitions, not {few.partitions}"
    assert many.name not in problems
    done = dict(apply_topics(servers.kafka_bootstrap, replication=1))
    assert (done[few.name], done[many.name]) == ("partitions added", "unchanged")
    assert partitions_of(admin, few) == few.partitions
    assert partitions_of(admin, many) == many.partitions + 3


def test_an_operators_other_settings_stay_and_ours_are_mended(servers, admin, catalogue):
    apply_topics(servers.kafka_bootstrap, replication=1)
    topic = catalogue[0]
    changes = {"min.compaction.lag.ms": "12345", "segment.bytes": "10485760", "retention.ms": "60000"}
    for future in admin.incremental_alter_configs([resource(topic, **changes)]).values():
        future.result()
    apply_topics(servers.kafka_bootstrap, replication=1)
    found = config_of(admin, topic)
    assert (found["min.compaction.lag.ms"], found["segment.bytes"]) == ("12345", "10485760")
    assert found["retention.ms"] == str(topic.retention_ms)


def test_two_who_apply_at_once_do_not_disturb_each_other(servers, admin, catalogue):
    with ThreadPoolExecutor(4) as pool:
        runs = [pool.submit(apply_topics, servers.kafka_bootstrap, replication=1) for _ in range(4)]
    assert all(len(run.result()) == len(catalogue) for run in runs)
    assert find_topic_problems(servers.kafka_bootstrap) == []


def test_what_kafka_refuses_is_told_with_the_topic(servers, catalogue):
    with pytest.raises(ConfigurationError, match=f"^Kafka refuses topic {catalogue[0].name}: .*[Rr]eplication"):
        apply_topics(servers.kafka_bootstrap, replication=3)


async def test_a_service_does_not_start_without_its_topics(servers, catalogue):
    with pytest.raises(ConfigurationError, match=r"does not exist: run `relevo topics apply`$"):
        await require_topics(servers.kafka_bootstrap)
    await asyncio.to_thread(apply_topics, servers.kafka_bootstrap, replication=1)
    await require_topics(servers.kafka_bootstrap)


def test_a_broker_that_is_away_is_a_passing_error(monkeypatch):
    monkeypatch.setattr(kafka, "ADMIN_TIMEOUT_S", 0.5)
    nobody = f"127.0.0.1:{free_port()}"
    with pytest.raises(TransientError, match="Kafka cannot be reached"):
        find_topic_problems(nobody)
    with pytest.raises(TransientError, match="Kafka cannot be reached"):
        apply_topics(nobody, replication=1)
