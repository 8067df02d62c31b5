"""The topic catalogue and the bounds that hang together with it."""

from infra.settings import Settings
from schemas import limits
from schemas.dead_letters import DEAD_LETTER_MESSAGE_BYTES_MAX
from schemas.topics import DEAD_LETTERS, DEDUPLICATED, RECORD_BYTES_MAX, REQUESTED, RESULTS, TOPICS


def test_the_topics_are_those_of_the_contract():
    assert [topic.name for topic in TOPICS] == [
        "notifications.requested",
        "notifications.deduplicated",
        "notifications.results",
        "notifications.status",
        "notifications.dlq",
    ]


def test_the_settings_are_spelled_as_kafka_spells_them():
    assert REQUESTED.config() == {
        "cleanup.policy": "delete",
        "retention.ms": "604800000",
        "max.message.bytes": "8388608",
    }


def test_whatever_was_read_can_be_forwarded_and_dead_lettered():
    # Forwarded, a request gains a header; dead-lettered, a record gains our headers.
    assert DEDUPLICATED.record_bytes_max >= REQUESTED.record_bytes_max
    room = DEAD_LETTERS.record_bytes_max - max(REQUESTED.record_bytes_max, DEDUPLICATED.record_bytes_max)
    assert room > DEAD_LETTER_MESSAGE_BYTES_MAX + 1024
    assert max(topic.record_bytes_max for topic in TOPICS) == RECORD_BYTES_MAX


def test_dead_letters_outlive_what_they_came_from():
    assert DEAD_LETTERS.retention_ms > REQUESTED.retention_ms
    assert RESULTS.retention_ms > REQUESTED.retention_ms


def test_an_id_is_remembered_for_longer_than_its_record_can_be_read_again():
    assert Settings.model_fields["dedupe_window_s"].default * 1000 > REQUESTED.retention_ms


def test_the_largest_http_request_fits_into_a_record():
    # In JSON one byte of it may become six: a control character in a metadata name, say.
    assert REQUESTED.record_bytes_max > 6 * limits.HTTP_BODY_BYTES_MAX
