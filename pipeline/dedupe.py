"""
The use case: a batch of records in; forwards, rejections and marks out. Knows no Faust.

Crash thinking, step by step, for a process that dies
  before the claim        nothing happened; the records come again and are NEW
  after the claim         they come again, find their own claim (REPLAY), and are forwarded
  after the forward       the same, one copy more in the topic; the ledger absorbs it
  after `done`            they come again and are dropped (DUPLICATE): their forward is in the topic
  after the offset commit nothing comes again, nothing is left to do
No step loses; only the last two drop.

When nearly nothing can be read (see pipeline.dead_letter_limit), the batch at hand is neither claimed nor written nor
acknowledged, and nothing behind it is read, until a person has looked and starts the process again.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, Protocol, TypeVar

from opentelemetry.trace import Span, SpanKind

from infra.failpoints import hit
from infra.health import Readiness
from infra.logs import get_logger
from infra.metrics import DEAD_LETTERS_STOPPED, DEDUPED, REJECTED
from infra.patience import until_through
from infra.record_writer import Outgoing
from infra.telemetry import is_recorded, messaging, start_span, trace_id_of, traceparent_of
from pipeline.dead_letter_limit import DeadLetterLimit
from pipeline.table import Answer, Claim
from schemas import results, topics
from schemas.dead_letters import Origin, dead_letter_headers
from schemas.errors import FieldError
from schemas.identity import fingerprint
from schemas.messages import Notification, Result, Source
from schemas.records import (
    DOOR_HEADER,
    Header,
    Rejection,
    encode_deduplicated,
    encode_forwarded,
    encode_result_record,
    header,
    read_requested,
    trace_context,
)
from schemas.results import FirstResults
from schemas.topics import Topic

log = get_logger()

Outcome = TypeVar("Outcome")

# A step that takes longer than this waits for a server that is away.
ANSWER_S_MAX = 5.0


# Dropping is the only step that cannot be made good, so nothing else is.
DROPPED = frozenset({Answer.DUPLICATE})


class Table(Protocol):
    """What is needed of the Redis-backed table; see pipeline.table.RedisTable."""

    async def claim(self, claims: Sequence[Claim]) -> list[Answer]: ...
    async def complete(self, claims: Sequence[Claim]) -> None: ...


class Writer(Protocol):
    """What is needed of the producer; see infra.record_writer.RecordWriter."""

    async def write(self, topic: Topic, records: Sequence[Outgoing]) -> None: ...
    async def write_by_key(self, topic: Topic, records: Sequence[Outgoing]) -> None: ...


@dataclass(frozen=True, slots=True)
class Incoming:
    """One record of notifications.requested as the broker gave it. timestamp_ms: Unix milliseconds."""

    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[Header, ...]


@dataclass(slots=True)
class Item:
    """A notification on its way through: where it stood, its claim, and its span when its trace is sampled."""

    notification: Notification
    source: Source
    accepted_ms: int
    claim: Claim
    span: Span | None


class Deduplicator:
    """
    Forwards each id once, as far as the table can tell, and rejects what cannot be read.

    Args:
        hash_key: for recipient_hash in results; empty: none is made.
        readiness: turns red while a server that is needed is away, and for good when the limit is reached.
        dead_letter_ratio_max: the share of dead letters above which it stops.
    """

    def __init__(
        self, table: Table, writer: Writer, readiness: Readiness, *, hash_key: bytes, dead_letter_ratio_max: float
    ) -> None:
        self._table = table
        self._writer = writer
        self._readiness = readiness
        self._hash_key = hash_key
        self._limit = DeadLetterLimit(dead_letter_ratio_max)
        DEAD_LETTERS_STOPPED.set(0)

    async def process(self, records: Sequence[Incoming]) -> None:
        """
        Take *records* to where they can be acknowledged: forwarded, dropped as duplicates, or dead-lettered.

        Waits for as long as Redis or Kafka is away; raises nothing for it, and returns only when all is done. When
        nearly nothing can be read it never returns.
        Delivery: at least once. Order: that of the records.
        """
        items: list[Item] = []
        rejected: list[tuple[Incoming, list[Rejection]]] = []
        for record in records:
            found, refused = self._read(record)
            items += found
            if refused:
                rejected.append((record, refused))
            self._limit.judge(readable=len(found), dead=bool(refused))
        if self._limit.tripped:
            await self._stop(records, rejected)

        answers = await self._until_done("redis", lambda: self._table.claim([item.claim for item in items]))
        hit("pipeline.after_claim")
        for answer in set(answers):
            DEDUPED.labels(answer.name.lower()).inc(answers.count(answer))
        forwarded = []
        for item, answer in zip(items, answers, strict=True):
            if _is_rejected(item, answer):
                rejected.append((_record_of(item.source, records), [_conflict(item)]))
            elif answer not in DROPPED:
                forwarded.append(item)

        for _, rejections in rejected:
            for rejection in rejections:
                REJECTED.labels(rejection.code).inc()
        sending = _begin_sending(forwarded)
        await self._until_done("kafka", lambda: self._write(forwarded, _merged(rejected)))
        hit("pipeline.after_forward")
        for span in sending:
            span.end()
        await self._until_done("redis", lambda: self._table.complete([item.claim for item in forwarded]))
        hit("pipeline.after_done")
        _end_spans(items, answers)

    async def _stop(self, records: Sequence[Incoming], rejected: list[tuple[Incoming, list[Rejection]]]) -> None:
        """Leave everything where it is, say so, and wait until the process is ended."""
        DEAD_LETTERS_STOPPED.set(1)
        self._readiness.red(
            "dead_letters", "nearly nothing can be read, so nothing is dead-lettered or read on; see the log"
        )
        codes = Counter(error.code for _, rejections in rejected for each in rejections for error in each.errors)
        log.error(
            "dead_letter_limit_reached",
            from_here=sorted(_first_offsets(records).items()),
            codes=dict(codes.most_common(5)),
            remedy="see what changed, here or at the producers, and start the pipeline again; "
            "RELEVO_DEAD_LETTER_RATIO_MAX=1 lets it dead-letter everything",
        )
        await asyncio.Event().wait()

    def _read(self, record: Incoming) -> tuple[list[Item], list[Rejection]]:
        door = _door(record)
        try:
            items, rejections = [], []
            for found in read_requested(record.value, record.headers, at=_asked_at(record)):
                if isinstance(found, Rejection):
                    rejections.append(found)
                    continue
                index, notification = found
                items.append(_item(notification, Source(door, record.partition, record.offset, index), record))
        except Exception:
            # Our bug, met on one record. Raising would hold up its partition for ever, and dropping would lose it.
            log.exception("record_not_understood", partition=record.partition, offset=record.offset)
            return [], [Rejection(0, None, "internal", (FieldError("", "internal", "relevo could not read this"),))]
        return items, rejections

    async def _write(self, items: list[Item], rejected: list[tuple[Incoming, list[Rejection]]]) -> None:
        now = datetime.now(UTC)
        forwards, told = self._forwards(items, now)
        for record, rejections in rejected:
            told += [Outgoing(*encode_result_record(_rejected(record, rejection, now))) for rejection in rejections]
        # All three at once: none needs another to come first, and none counts before all are acknowledged.
        await asyncio.gather(
            self._writer.write(topics.DEDUPLICATED, forwards),
            self._writer.write(topics.DEAD_LETTERS, [_dead_letter(record, why) for record, why in rejected]),
            self._writer.write_by_key(topics.RESULTS, told),
        )

    def _forwards(self, items: list[Item], now: datetime) -> tuple[list[Outgoing], list[Outgoing]]:
        """Return the forward of each item, and the result that tells of it."""
        forwards, told = [], []
        forwarded, firsts = encode_forwarded(now), FirstResults(now, self._hash_key)
        for item in items:
            notification, source, accepted_ms = item.notification, item.source, item.accepted_ms
            key, value, headers = encode_deduplicated(notification, source, forwarded)
            forwards.append(Outgoing(key, value, headers, accepted_ms))
            trace_id = trace_id_of(notification.traceparent)
            told.append(Outgoing(*firsts.encode(notification, key, source, accepted_ms, trace_id)))
        return forwards, told

    async def _until_done(self, server: str, step: Callable[[], Awaitable[Outcome]]) -> Outcome:
        """Repeat *step* until it is through. Each step may be repeated; see the crash thinking above."""

        def red(_error: object = None) -> None:
            self._readiness.red(server, "does not answer")

        # A producer does not fail while its broker is away, it waits: that is told, too.
        late = asyncio.get_running_loop().call_later(ANSWER_S_MAX, red)
        try:
            outcome = await until_through(server, step, on_failure=red)
        finally:
            late.cancel()
        self._readiness.green(server)
        return outcome


def _asked_at(record: Incoming) -> datetime | None:
    # -1: the record has no time of its own.
    return None if record.timestamp_ms < 0 else results.moment(record.timestamp_ms)


def _is_rejected(item: Item, answer: Answer) -> bool:
    # What ingest accepted is in the ledger, and the ledger judges it. Rejecting it here could lose it: a producer
    # sends content A under an id, it is forwarded; before the sender has enrolled it, ingest accepts content B under
    # the same id; the sender finds B in the ledger and rejects A. B must not be rejected, too.
    return answer is Answer.CONFLICT and item.source.door == "kafka"


def _item(notification: Notification, source: Source, record: Incoming) -> Item:
    claim = Claim(notification.id, fingerprint(notification.content), source.coordinates())
    if notification.traceparent is not None and not is_recorded(notification.traceparent):
        return Item(notification, source, record.timestamp_ms, claim, None)
    span = start_span(
        f"process {topics.REQUESTED.name}",
        SpanKind.CONSUMER,
        parent=notification.traceparent,
        attributes=messaging(
            "process",
            topics.REQUESTED.name,
            consumer__group__name=topics.PIPELINE_GROUP,
            destination__partition__id=str(record.partition),
            kafka__offset=record.offset,
            message__id=str(notification.id),
        ),
    )
    # What follows belongs below this span; where nobody records, the context goes on as it came.
    if span.is_recording() or notification.traceparent is None:
        notification = replace(notification, traceparent=traceparent_of(span))
    return Item(notification, source, record.timestamp_ms, claim, span if span.is_recording() else None)


def _begin_sending(items: list[Item]) -> list[Span]:
    """Begin a span for each sampled forward; what comes after the hop belongs below it."""
    begun = []
    for item in items:
        if item.span is not None:
            notification = item.notification
            span = start_span(
                f"send {topics.DEDUPLICATED.name}",
                SpanKind.PRODUCER,
                parent=notification.traceparent,
                attributes=messaging("send", topics.DEDUPLICATED.name, message__id=str(notification.id)),
            )
            item.notification = replace(notification, traceparent=traceparent_of(span))
            begun.append(span)
    return begun


def _end_spans(items: list[Item], answers: list[Answer]) -> None:
    for item, answer in zip(items, answers, strict=True):
        if item.span is not None:
            item.span.set_attribute("relevo.dedupe.answer", answer.name.lower())
            item.span.end()


def _conflict(item: Item) -> Rejection:
    error = FieldError("/id", "idempotency_conflict", "this id was already used for other content; take a new one")
    notification = item.notification
    return Rejection(item.source.index, notification.id, "idempotency_conflict", (error,), notification.producer)


def _record_of(source: Source, records: Sequence[Incoming]) -> Incoming:
    return next(each for each in records if (each.partition, each.offset) == (source.partition, source.offset))


def _first_offsets(records: Sequence[Incoming]) -> dict[int, int]:
    first: dict[int, int] = {}
    for record in records:
        first.setdefault(record.partition, record.offset)
    return first


def _merged(rejected: list[tuple[Incoming, list[Rejection]]]) -> list[tuple[Incoming, list[Rejection]]]:
    """One dead letter for each record, however many of its items are bad."""
    merged: dict[tuple[int, int], tuple[Incoming, list[Rejection]]] = {}
    for record, rejections in rejected:
        merged.setdefault((record.partition, record.offset), (record, []))[1].extend(rejections)
    return list(merged.values())


def _dead_letter(record: Incoming, rejections: list[Rejection]) -> Outgoing:
    origin = Origin(topics.REQUESTED.name, record.partition, record.offset, record.timestamp_ms)
    message = "; ".join(
        f"[{rejection.index}] " + ", ".join(f"{error.pointer or '/'} {error.detail}" for error in rejection.errors)
        for rejection in rejections
    )
    headers = dead_letter_headers(origin, record.headers, rejections[0].code, message)
    return Outgoing(record.key, record.value, headers)


def _rejected(record: Incoming, rejection: Rejection, now: datetime) -> Result:
    return results.rejection(
        rejection,
        _source(record, rejection.index),
        came_at=results.moment(record.timestamp_ms),
        occurred_at=now,
        trace_id=trace_id_of(trace_context(record.headers)),
    )


def _source(record: Incoming, index: int) -> Source:
    return Source(_door(record), record.partition, record.offset, index)


def _door(record: Incoming) -> Literal["http", "kafka"]:
    return "http" if header(record.headers, DOOR_HEADER) == "http" else "kafka"
