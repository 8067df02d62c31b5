"""
Dead letters: the headers that say where a record stood before, and why it stands on notifications.dlq now.

Key, value and the headers it came with stay as they were.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from schemas.records import Header, header


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a dead letter stood before: topic, partition, offset, and its timestamp in Unix milliseconds."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int


DEAD_LETTER_MESSAGE_BYTES_MAX = 1024


def _cut(message: str) -> bytes:
    return message.encode()[:DEAD_LETTER_MESSAGE_BYTES_MAX].decode(errors="ignore").encode()


# What a dead letter has behind the headers it came with, in this order.
_DEAD_LETTER_HEADERS = (
    *("dlq-original-topic", "dlq-original-partition", "dlq-original-offset", "dlq-original-timestamp"),
    *("dlq-reason", "dlq-message", "dlq-attempts"),
)
_ATTEMPTS_HEADER = "dlq-attempts"
_ATTEMPTS_DIGITS_MAX = 6


def dead_letter_headers(origin: Origin, headers: Iterable[Header], reason: str, message: str) -> list[Header]:
    """
    Return the headers of a dead letter: those it came with, then why and from where.

    A record that was put back carries how often it was a dead letter before (`put_back_headers`); that is counted on.
    Args:
        reason: a stable code, such as invalid_json.
        message: for people, cut to 1 KiB; it holds no input. A header too large would make the dead letter itself
            unwritable, for ever.
    """
    came_with = list(headers)
    before = _attempts(came_with)
    values = (
        *(origin.topic.encode(), str(origin.partition).encode(), str(origin.offset).encode()),
        *(str(origin.timestamp_ms).encode(), reason.encode(), _cut(message), str(before + 1).encode()),
    )
    return [*(came_with[:-1] if before else came_with), *zip(_DEAD_LETTER_HEADERS, values, strict=True)]


def put_back_headers(headers: Sequence[Header]) -> list[Header]:
    """
    Return the headers with which a dead letter goes back to where it was: those it came with, and how often it came.

    Raises:
        ValueError: it is no dead letter of ours.
    """
    names = tuple(name for name, _ in headers[-len(_DEAD_LETTER_HEADERS) :])
    if names != _DEAD_LETTER_HEADERS or not _attempts(headers):
        raise ValueError("it does not have the headers of a dead letter")
    return [*headers[: -len(_DEAD_LETTER_HEADERS)], headers[-1]]


def read_origin(headers: Sequence[Header]) -> Origin:
    """
    Return where a dead letter stood before.

    Raises:
        ValueError: its headers do not say.
    """
    topic, *numbers = (header(headers, name) for name in _DEAD_LETTER_HEADERS[:4])
    if topic is None or not all(number is not None and number.lstrip("-").isdecimal() for number in numbers):
        raise ValueError("it does not have the headers of a dead letter")
    partition, offset, timestamp_ms = (int(number or 0) for number in numbers)
    return Origin(topic, partition, offset, timestamp_ms)


def _attempts(headers: Sequence[Header]) -> int:
    """Return what the last header says, if it counts attempts; 0: it does not."""
    name, value = headers[-1] if headers else ("", b"")
    counts = name == _ATTEMPTS_HEADER and value is not None and value.isdigit() and len(value) <= _ATTEMPTS_DIGITS_MAX
    return int(value) if counts else 0
