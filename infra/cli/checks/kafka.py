"""Kafka: does it answer, is each topic as the catalogue wants it, how far behind are the services."""

from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, OffsetSpec, ResourceType

from infra.cli.checks.finding import ANSWER_S_MAX, Finding, Report, info, ok, problem
from infra.cli.where import Place
from schemas.topics import DEDUPLICATED, PIPELINE_GROUP, REQUESTED, SENDER_GROUP, TOPICS, Topic

_SETTING = "RELEVO_KAFKA_BOOTSTRAP"

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Found:
    """
    One topic as it is on the brokers.

    replication is that of its partition with the fewest replicas. leaderless and lagging count partitions that nobody
    leads, and those with a replica that is not in sync.
    """

    partitions: int
    replication: int
    leaderless: int
    lagging: int
    config: Mapping[str, str]


def check_kafka(place: Place, report: Report) -> None:
    """Look at Kafka."""
    bootstrap = place.settings.kafka_bootstrap
    admin = AdminClient(
        {
            "bootstrap.servers": bootstrap,
            "client.id": "relevo-doctor",
            "log_level": 0,
            "socket.timeout.ms": int(ANSWER_S_MAX * 1000),
        }
    )
    try:
        metadata = admin.list_topics(timeout=ANSWER_S_MAX)
        report(ok("kafka", f"{_count(len(metadata.brokers), 'broker')} at {bootstrap}"))
        found = _topics(admin, metadata)
        for finding in judge_topics(found, place.settings.topic_replication):
            report(finding)
        for group, topic in ((PIPELINE_GROUP, REQUESTED), (SENDER_GROUP, DEDUPLICATED)):
            if topic.name in found:
                report(_look_at_group(admin, group, topic, found[topic.name].partitions))
    except KafkaException as error:
        where = f"{bootstrap} ({place.origin(_SETTING)})"
        report(problem("kafka", f"{where} does not answer: {error.args[0].str()}", place.remedy(_SETTING)))
    except TimeoutError:
        report(problem("kafka", f"{bootstrap} stopped answering; it may hang", place.remedy(_SETTING)))


def _topics(admin: AdminClient, metadata: ClusterMetadata) -> dict[str, Found]:
    names = [topic.name for topic in TOPICS if topic.name in metadata.topics]
    if not names:
        return {}
    asked = admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, name) for name in names], request_timeout=ANSWER_S_MAX
    )
    configs = {resource.name: _answer(future) for resource, future in asked.items()}
    return {
        name: Found(
            partitions=len(metadata.topics[name].partitions),
            replication=min(len(each.replicas) for each in metadata.topics[name].partitions.values()),
            leaderless=sum(each.leader < 0 for each in metadata.topics[name].partitions.values()),
            lagging=sum(len(each.isrs) < len(each.replicas) for each in metadata.topics[name].partitions.values()),
            config={entry.name: str(entry.value) for entry in configs[name].values()},
        )
        for name in names
    }


def judge_topics(found: Mapping[str, Found], replication: int) -> Iterator[Finding]:
    """Compare the topics with the catalogue; one finding for all when there is nothing to say."""
    findings = [finding for topic in TOPICS for finding in _judge(topic, found.get(topic.name), replication)]
    yield from findings
    if all(finding.grade != "problem" for finding in findings):
        yield ok("kafka topics", f"all {len(TOPICS)} topics are as the catalogue wants them")


def _judge(topic: Topic, found: Found | None, replication: int) -> Iterator[Finding]:
    check, apply = f"topic {topic.name}", "Run `relevo topics apply`."
    if found is None:
        yield problem(check, "does not exist", apply)
        return
    if found.partitions < topic.partitions:
        yield problem(check, f"has {_count(found.partitions, 'partition')}, not {topic.partitions}", apply)
    elif found.partitions > topic.partitions:
        yield info(check, f"has {found.partitions} partitions, more than the {topic.partitions} of the catalogue")
    if found.replication < replication:
        yield problem(
            check,
            f"has {_count(found.replication, 'replica')}, and RELEVO_TOPIC_REPLICATION is {replication}",
            "Add replicas with Kafka's kafka-reassign-partitions.sh, or correct the setting.",
        )
    for name, wanted in topic.config().items():
        if (value := found.config.get(name)) != wanted:
            yield problem(check, f"{name} is {value}, not {wanted}", apply)
    if found.leaderless:
        yield problem(
            check, f"nobody leads {_count(found.leaderless, 'partition')}", "Start the brokers that are missing."
        )
    elif found.lagging:
        detail = f"{_count(found.lagging, 'partition')} with a replica that is not in sync"
        yield problem(check, detail, "Start the broker that is missing, or wait until it has caught up.")


def _look_at_group(admin: AdminClient, group: str, topic: Topic, partitions: int) -> Finding:
    try:
        return _lag(admin, group, topic, partitions)
    except KafkaException as error:
        # Kafka answers, but not about groups: it has just started, or we may not ask.
        return info(f"group {group}", f"cannot be seen: {error.args[0].str() or error.args[0].name()}")


def _lag(admin: AdminClient, group: str, topic: Topic, partitions: int) -> Finding:
    places = [TopicPartition(topic.name, number) for number in range(partitions)]
    members = len(_answer(admin.describe_consumer_groups([group], request_timeout=ANSWER_S_MAX)[group]).members)
    asked = ConsumerGroupTopicPartitions(group, places)
    committed = _answer(admin.list_consumer_group_offsets([asked], request_timeout=ANSWER_S_MAX)[group])
    firsts = _offsets(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # has no types
    ends = _offsets(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # has no types
    # A group that has committed nothing yet begins at the start.
    at = {place.partition: place.offset for place in committed.topic_partitions if place.offset >= 0}
    behind = sum(ends[number] - max(at.get(number, 0), firsts[number]) for number in ends)
    return info(f"group {group}", f"{_count(behind, 'record')} behind on {topic.name}, {_count(members, 'member')}")


def _offsets(admin: AdminClient, places: list[TopicPartition], which: OffsetSpec) -> dict[int, int]:
    asked = admin.list_offsets(dict.fromkeys(places, which), request_timeout=ANSWER_S_MAX)
    return {place.partition: _answer(future).offset for place, future in asked.items()}


def _answer(future: "Future[Answer]") -> Answer:
    return future.result(timeout=ANSWER_S_MAX)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
