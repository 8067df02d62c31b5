"""
Kafka: does it answer, are the topics as the catalogue wants them and safe, how far behind are the services.

Nothing about a group is asked as an administrator; infra.positions says why.
"""

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, ClusterMetadata, ConfigResource, ResourceType

from infra.cli.checks.finding import ANSWER_S_MAX, Finding, Report, info, ok, problem, warning
from infra.cli.where import Place
from infra.positions import Positions
from schemas.errors import TransientError
from schemas.topics import GROUPS, TOPICS, Topic

_SETTING = "RELEVO_KAFKA_BOOTSTRAP"


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
        for finding in judge_topics(found, place.settings.topic_replication, brokers=len(metadata.brokers)):
            report(finding)
        positions = Positions(bootstrap, answer_s_max=ANSWER_S_MAX)
        for group, topic in GROUPS.items():
            if topic.name in found:
                report(_look_at_group(admin, positions, group, topic))
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
    configs = {resource.name: future.result(timeout=ANSWER_S_MAX) for resource, future in asked.items()}
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


def judge_topics(found: Mapping[str, Found], replication: int, *, brokers: int) -> Iterator[Finding]:
    """
    Compare the topics with the catalogue; one finding for all when there is nothing to say.

    Args:
        replication: what RELEVO_TOPIC_REPLICATION asks for.
        brokers: how many there are. With one there is nothing to choose; with several, a topic should survive one.
    """
    findings = [finding for topic in TOPICS for finding in _judge(topic, found.get(topic.name), replication)]
    yield from findings
    if brokers > 1:
        for topic in TOPICS:
            if topic.name in found:
                yield from _judge_survival(f"topic {topic.name}", found[topic.name])
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


def _judge_survival(check: str, found: Found) -> Iterator[Finding]:
    """Say what would be lost, or could be, with any one of several brokers."""
    in_sync_min = int(found.config.get("min.insync.replicas", "1"))
    if found.replication == 1:
        yield warning(
            check,
            "has 1 replica: what is on a broker that dies is lost with it, or waits until it is back",
            "Add replicas with Kafka's kafka-reassign-partitions.sh, three for each partition, then run "
            "`relevo topics apply`; and set RELEVO_TOPIC_REPLICATION=3.",
        )
    elif in_sync_min < 2:
        third = "" if found.replication > 2 else "Add a third replica with Kafka's kafka-reassign-partitions.sh. "
        yield warning(
            check,
            f"min.insync.replicas is {in_sync_min}: what was acknowledged may be on one broker only, and die with it",
            f"{third}Run `relevo topics apply`: it sets 2 where there are three replicas.",
        )


def _look_at_group(admin: AdminClient, positions: Positions, group: str, topic: Topic) -> Finding:
    try:
        stands = positions.stand_blocking(group, topic)
        members = _members(admin, group)
    except (KafkaException, TransientError) as error:
        # Kafka answers, but not about groups: it has just started, or we may not ask.
        return info(f"group {group}", f"cannot be seen: {error}")
    behind = sum(stand.end - stand.committed for stand in stands.values())
    return info(f"group {group}", f"{_count(behind, 'record')} behind on {topic.name}, {_count(members, 'member')}")


def _members(admin: AdminClient, group: str) -> int:
    # Deprecated in favour of describe_consumer_groups, which is what may end the process: see above.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        found = admin.list_groups(group, timeout=ANSWER_S_MAX)
    return sum(len(each.members) for each in found)  # of a group that never was there is no entry


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
