"""Reading one record of notifications.results as its other readers do: from the contract alone."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from aiokafka import ConsumerRecord

from infra.logs import get_logger
from infra.metrics import FEED_UNREADABLE
from schemas.limits import PRODUCER_CHARS_MAX
from schemas.results import parse_result

log = get_logger()

_WORD_CHARS_MAX = 64


@dataclass(frozen=True, slots=True)
class ResultRecord:
    """
    One result as it was read.

    record: as it came, byte for byte. result: its value, parsed; the fields beside it are those that were checked.
    id: None for a rejection whose id could not be read. seq: 0 for a rejection.
    """

    record: ConsumerRecord
    result: dict[str, Any]
    event_id: UUID
    id: UUID | None
    seq: int
    status: str
    channel: str
    producer: str | None
    occurred_at: datetime
    test: bool


def readable(records: Iterable[ConsumerRecord], reader: str) -> list[ResultRecord]:
    """Return those that are results; the others are logged, counted and passed over: they block nobody."""
    found = []
    for record in records:
        try:
            found.append(read_result(record))
        except ValueError as error:
            FEED_UNREADABLE.labels(reader).inc()
            place = {"partition": record.partition, "offset": record.offset}
            log.warning("result_unreadable", reader=reader, why=str(error), **place)
    return found


def read_result(record: ConsumerRecord) -> ResultRecord:
    """
    Read one record. Fields that we do not know are left in *result*; a newer minor version is read.

    Raises:
        ValueError: it is no result, or one of another major version; does not repeat what it holds.
    """
    result = parse_result(record.value)
    seq, test = result.get("seq"), result.get("test", False)
    if type(seq) is not int or not 0 <= seq <= 32_767 or not isinstance(test, bool):
        raise ValueError("seq or test is not what it must be")
    producer = result.get("producer")
    notification_id = None if result.get("id") is None else _uuid(result, "id")
    if seq > 0 and notification_id is None:
        raise ValueError("a change without an id")
    return ResultRecord(
        record=record,
        result=result,
        event_id=_uuid(result, "event_id"),
        id=notification_id,
        seq=seq,
        status=_word(result, "status"),
        channel=_word(result, "channel"),
        producer=None if producer is None else _word(result, "producer", PRODUCER_CHARS_MAX),
        occurred_at=_moment(result, "occurred_at"),
        test=test,
    )


def _uuid(result: dict[str, Any], name: str) -> UUID:
    try:
        return UUID(result[name])
    except (KeyError, ValueError, TypeError, AttributeError):
        raise ValueError(f"{name} is no UUID") from None


def _word(result: dict[str, Any], name: str, chars_max: int = _WORD_CHARS_MAX) -> str:
    found = result.get(name)
    # A NUL would be refused by Postgres for ever, and surrogates cannot come: they are no UTF-8.
    if not isinstance(found, str) or not 0 < len(found) <= chars_max or "\x00" in found:
        raise ValueError(f"{name} is no word")
    return found


def _moment(result: dict[str, Any], name: str) -> datetime:
    try:
        moment = datetime.fromisoformat(result[name])
    except (KeyError, ValueError, TypeError):
        raise ValueError(f"{name} is no time") from None
    if moment.tzinfo is None:
        raise ValueError(f"{name} has no offset from UTC")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{name} is no time") from None
