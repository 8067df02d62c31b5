"""Kafka: clients with every option that matters spelled out, and the topics as code."""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.codec import lz4_encode
from aiokafka.errors import KafkaError as AioKafkaError
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
    TopicMetadata,
)

from infra import membership
from schemas.errors import ConfigurationError, TransientError
from schemas.topics import RECORD_BYTES_MAX, TOPICS, Topic

membership.install()

# aiokafka has no setting for it and takes 9, which makes records no smaller than 1 does and costs twenty times as much.
lz4_encode.__defaults__ = (1,)

ADMIN_TIMEOUT_S = 10.0

# A broker that does not answer for so long is taken for gone, and another one is asked. One that is frozen, or whose
# machine is, keeps its connections open: nothing but this ends the wait for it, and what waits is a third of all
# partitions. The defaults of the clients are 40 and 60 s.
SILENCE_MS_MAX = 8_000
# Who leads which partition is asked this often anyway (by default every 300 s). Leaders move 2-9 s after a broker has
# fallen silent; then only what was already under way to it waits for SILENCE_MS_MAX.
METADATA_AGE_MS_MAX = 3_000
# A batch of aiokafka lives as long as its broker may be away. It has taken its sequence number, so one that is given up
# leaves a gap, and the broker refuses every later record of this producer for its partition (OutOfOrderSequenceNumber).
_BATCH_LIFE_MS = 24 * 60 * 60 * 1000
# How long the broker itself waits for its replicas before it says so.
_ACKNOWLEDGE_MS_MAX = 6_000

# What a caller of aiokafka may try again.
TRANSIENT = (AioKafkaError, OSError, TimeoutError)


def open_relay_producer(bootstrap: str, *, name: str) -> Producer:
    """
    Return the producer of the relay: idempotent, and batching behind an explicit flush.

    linger keeps what is produced together in few requests; `flush()` overrides it, so nobody waits 5 ms for it.
    """
    return Producer(
        {
            "bootstrap.servers": bootstrap,
            "client.id": name,
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": 5,
            # The sweep takes what expires here; below its lease, so that nobody publishes a row twice for this.
            "delivery.timeout.ms": 60_000,
            # Below FLUSH_S of ingest.publisher: what was sent to a frozen broker is sent to the next leader before the
            # thread gives it up to the sweep.
            "socket.timeout.ms": 4_000,
            "topic.metadata.refresh.interval.ms": METADATA_AGE_MS_MAX,
            "reconnect.backoff.max.ms": 1_000,  # by default 10 s: so long would a broker that is back be left alone
            "message.max.bytes": RECORD_BYTES_MAX,
            "compression.type": "lz4",
            "partitioner": "murmur2_random",  # the same as the Java client and aiokafka
            # It would write to standard error, in a format of its own, several lines a second while Kafka is away; a
            # logger of ours would be served only while something is published. What fails is in the reports.
            "log_level": 0,
        }
    )


def open_producer(bootstrap: str, *, name: str, linger_ms: int) -> AIOKafkaProducer:
    """Return an idempotent asyncio producer; a record that is awaited is on every in-sync replica."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        client_id=name,
        enable_idempotence=True,
        acks="all",
        linger_ms=linger_ms,
        request_timeout_ms=_BATCH_LIFE_MS,
        metadata_max_age_ms=METADATA_AGE_MS_MAX,
        max_request_size=RECORD_BYTES_MAX,
        # What is written to one partition at once should be one batch: the next one waits until this one is answered.
        max_batch_size=1024 * 1024,
        compression_type="lz4",
    )
    # One option stands for three times: how long a batch lives, how long a broker may be silent, and how long it may
    # wait for its replicas. The second and the third must be short, and the first must not.
    producer.client._request_timeout_ms = SILENCE_MS_MAX  # noqa: SLF001 -- the constructor has one option for all three
    producer._sender._request_timeout_ms = _ACKNOWLEDGE_MS_MAX  # noqa: SLF001 -- as for the line above
    return producer


async def start_consumer(bootstrap: str, *, group: str, name: str, static: bool) -> AIOKafkaConsumer:
    """
    Return a started consumer in *group* that is subscribed to nothing yet and commits only what it is told to.

    Args:
        static: whether *name* is a stable name, under which a restarted process takes its partitions back at once.
            Of two that live under it, one ends; see infra.membership.
    Raises:
        TransientError: Kafka cannot be reached.
    """
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        client_id=name,
        group_id=group,
        group_instance_id=name if static else None,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        session_timeout_ms=10_000,
        heartbeat_interval_ms=2_000,
        max_poll_interval_ms=300_000,
        rebalance_timeout_ms=20_000,
        # Also that of the request to join, which a rebalance may outlast: it is then simply made again.
        request_timeout_ms=SILENCE_MS_MAX,
        metadata_max_age_ms=METADATA_AGE_MS_MAX,
        fetch_max_wait_ms=500,
        max_partition_fetch_bytes=RECORD_BYTES_MAX,
    )
    try:
        await consumer.start()
    except TRANSIENT as error:
        await consumer.stop()
        raise TransientError(f"Kafka cannot be reached: {type(error).__name__}") from error
    return consumer


@dataclass(frozen=True, slots=True)
class TopicFinding:
    """What is wrong with one topic on the broker, and what to do about it."""

    topic: str
    problem: str
    remedy: str


def _admin(bootstrap: str) -> AdminClient:
    return AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "socket.timeout.ms": 5_000})


def _topics_found(admin: AdminClient) -> dict[str, TopicMetadata]:
    try:
        return dict(admin.list_topics(timeout=ADMIN_TIMEOUT_S).topics)
    except KafkaException as error:
        raise TransientError(f"Kafka cannot be reached: {error.args[0].str()}") from error


def _partition_counts(admin: AdminClient) -> dict[str, int]:
    return {name: len(metadata.partitions) for name, metadata in _topics_found(admin).items()}


def find_topic_problems(bootstrap: str) -> list[TopicFinding]:
    """
    Compare the catalogue with the broker. Blocks.

    Returns:
        One finding per topic that is missing or has too few partitions; empty: all is well.
    Raises:
        TransientError: Kafka cannot be reached.
    """
    counts = _partition_counts(_admin(bootstrap))
    findings = []
    for topic in TOPICS:
        count = counts.get(topic.name)
        if count is None:
            findings.append(TopicFinding(topic.name, "does not exist", "run `relevo topics apply`"))
        elif count < topic.partitions:
            findings.append(
                TopicFinding(topic.name, f"has {count} partitions, not {topic.partitions}", "run `relevo topics apply`")
            )
    return findings


def apply_topics(bootstrap: str, *, replication: int) -> list[tuple[str, str]]:
    """
    Make the broker's topics like the catalogue: create, add partitions, set their settings. Blocks. Repeatable.

    Never takes a partition or a topic away. What it made is there for everyone when it returns. A topic with three
    replicas or more takes a record only when two brokers have it: no single one can lose what was acknowledged.
    Returns:
        (topic, what was done: created, partitions added or unchanged), in the order of the catalogue.
    Raises:
        TransientError: Kafka cannot be reached.
        ConfigurationError: Kafka refuses; says why.
    """
    admin = _admin(bootstrap)
    found = _topics_found(admin)
    done = []
    for topic in TOPICS:
        before = found.get(topic.name)
        count = None if before is None else len(before.partitions)
        config = topic.config() | _in_sync(replication if before is None else _replicas(before))
        try:
            if count is None:
                _create(admin, NewTopic(topic.name, topic.partitions, replication, config=config))
            elif count < topic.partitions:
                _wait(admin.create_partitions([NewPartitions(topic.name, topic.partitions)]).values())
            _set_config(admin, topic, config)
        except KafkaException as error:
            raise ConfigurationError(f"Kafka refuses topic {topic.name}: {error.args[0].str()}") from error
        what = "created" if count is None else "partitions added" if count < topic.partitions else "unchanged"
        done.append((topic.name, what))
    _wait_until_seen(admin)
    return done


def _replicas(found: TopicMetadata) -> int:
    return min(len(partition.replicas) for partition in found.partitions.values())


def _in_sync(replicas: int) -> dict[str, str]:
    # By what a topic has, not by what is asked for now: with one replica and this setting, it would take nothing.
    return {"min.insync.replicas": "2"} if replicas >= 3 else {}


def _wait_until_seen(admin: AdminClient) -> None:
    # The broker answers before it shows what it made; a service that starts in between would find a topic missing.
    deadline = time.monotonic() + ADMIN_TIMEOUT_S
    while True:
        counts = _partition_counts(admin)
        if all(counts.get(topic.name, 0) >= topic.partitions for topic in TOPICS):
            return
        if time.monotonic() > deadline:
            raise TransientError(f"Kafka does not show its new topics after {ADMIN_TIMEOUT_S:.0f} s")
        time.sleep(0.05)


def _create(admin: AdminClient, new: NewTopic) -> None:
    try:
        _wait(admin.create_topics([new]).values())
    except KafkaException as error:
        # Somebody else who applied the same catalogue was quicker.
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise


def _wait(futures: Iterable[Any]) -> None:
    for future in futures:
        future.result(timeout=ADMIN_TIMEOUT_S)


def _set_config(admin: AdminClient, topic: Topic, config: Mapping[str, str]) -> None:
    # Incremental: settings that an operator made for other reasons stay as they are.
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in config.items()]
    resource = ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)
    _wait(admin.incremental_alter_configs([resource]).values())


async def require_topics(bootstrap: str) -> None:
    """
    Check that every topic is there before anything consumes.

    A topic that is missing when Faust starts is consumed by nobody, silently, for ever.
    Raises:
        ConfigurationError: names the topic and the command that helps.
        TransientError: Kafka cannot be reached.
    """
    findings = await asyncio.to_thread(find_topic_problems, bootstrap)
    if findings:
        first = findings[0]
        raise ConfigurationError(f"topic {first.topic} {first.problem}: {first.remedy}")
