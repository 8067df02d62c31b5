"""How far the consumer groups have come, as the broker knows it."""

from confluent_kafka import Consumer, TopicPartition

from schemas.topics import DEDUPLICATED, PIPELINE_GROUP, REQUESTED, SENDER_GROUP

TOPIC_OF = {PIPELINE_GROUP: REQUESTED, SENDER_GROUP: DEDUPLICATED}


def committed(bootstrap: str, group: str) -> dict[int, int]:
    """Return the committed offset of each partition of the topic that *group* reads; 0 where there is none."""
    return {partition: offset for partition, (offset, _) in _offsets(bootstrap, group).items()}


def lag(bootstrap: str, group: str) -> int:
    """Return how many records *group* has not committed yet."""
    return sum(end - max(offset, 0) for offset, end in _offsets(bootstrap, group).values())


def _offsets(bootstrap: str, group: str) -> dict[int, tuple[int, int]]:
    topic = TOPIC_OF[group]
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False})
    try:
        partitions = consumer.list_topics(topic.name, timeout=10).topics[topic.name].partitions
        asked = [TopicPartition(topic.name, partition) for partition in partitions]
        found = {}
        for each in consumer.committed(asked, timeout=10):
            low, end = consumer.get_watermark_offsets(TopicPartition(topic.name, each.partition), timeout=10)
            found[each.partition] = (each.offset if each.offset >= 0 else low, end)
        return found
    finally:
        consumer.close()
