"""
The topic catalogue: every topic that relevo reads or writes, as code.

Nothing is auto-created. `relevo topics apply` makes the broker look like this list, and each service
checks the list against the broker before it starts, because a topic that is missing at start would be
consumed by nobody, silently, for ever.
"""

from dataclasses import dataclass
from typing import Literal

DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True)
class Topic:
    """
    One topic as it must exist on the broker.

    partitions is a lower bound once data is in it (Kafka can add partitions, never take one away).
    retention_ms and cleanup_policy are the Kafka topic settings of the same names; -1: for ever.
    """

    name: str
    partitions: int
    retention_ms: int
    cleanup_policy: Literal["delete", "compact"]
    holds: str
    record_bytes_max: int = 8 * 1024 * 1024  # a full array of ordinary requests is larger than the default, 1 MiB

    def config(self) -> dict[str, str]:
        """Return the topic settings as Kafka spells them; what is not here keeps the broker's default."""
        return {
            "cleanup.policy": self.cleanup_policy,
            "retention.ms": str(self.retention_ms),
            "max.message.bytes": str(self.record_bytes_max),
        }


REQUESTED = Topic(
    name="notifications.requested",
    partitions=6,
    retention_ms=7 * DAY_MS,
    cleanup_policy="delete",
    holds="requests as accepted by ingest or produced by services: one JSON object or an array of up to 500",
)
DEDUPLICATED = Topic(
    name="notifications.deduplicated",
    partitions=6,
    retention_ms=7 * DAY_MS,
    cleanup_policy="delete",
    holds="each request once (copies are possible and harmless), key = notification id",
)
RESULTS = Topic(
    name="notifications.results",
    partitions=6,
    retention_ms=30 * DAY_MS,
    cleanup_policy="delete",
    holds="what happened: every state change of every id, and rejections; key = notification id",
)
STATUS = Topic(
    name="notifications.status",
    partitions=6,
    retention_ms=-1,
    cleanup_policy="compact",
    holds="the latest result of every notification; key = notification id",
)
DEAD_LETTERS = Topic(
    name="notifications.dlq",
    partitions=1,
    retention_ms=90 * DAY_MS,
    cleanup_policy="delete",
    holds="records that could not be read, byte for byte, with the reason in dlq-* headers",
    # The largest requested record and our headers: a dead letter that cannot be written would block its partition.
    record_bytes_max=REQUESTED.record_bytes_max + 64 * 1024,
)

TOPICS: tuple[Topic, ...] = (REQUESTED, DEDUPLICATED, RESULTS, STATUS, DEAD_LETTERS)

# The consumer groups: how far each service has come on its topic.
PIPELINE_GROUP = "relevo.pipeline"  # reads notifications.requested
SENDER_GROUP = "relevo.sender"  # reads notifications.deduplicated
# The feed reads notifications.results in three groups, so that none of its works holds up another.
FEED_STATUS_GROUP = "relevo.feed.status"
FEED_STATISTICS_GROUP = "relevo.feed.statistics"
FEED_WEBHOOKS_GROUP = "relevo.feed.webhooks"

GROUPS: dict[str, Topic] = {
    PIPELINE_GROUP: REQUESTED,
    SENDER_GROUP: DEDUPLICATED,
    FEED_STATUS_GROUP: RESULTS,
    FEED_STATISTICS_GROUP: RESULTS,
    FEED_WEBHOOKS_GROUP: RESULTS,
}

RECORD_BYTES_MAX = max(topic.record_bytes_max for topic in TOPICS)
