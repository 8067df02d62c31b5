"""The publisher: notifications to notifications.requested, and the broker's word on each. Runs in one thread."""

from asyncio import get_running_loop
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer
from opentelemetry.trace import Span, SpanKind

from infra.failpoints import hit
from infra.kafka import open_relay_producer
from infra.logs import get_logger
from infra.telemetry import fail_span, messaging, read_traceparent, start_span, traceparent_of
from ingest.accept import Accepted
from ingest.store import Published
from schemas.limits import REQUESTS_PER_RECORD_MAX
from schemas.messages import Notification
from schemas.records import DOOR_HEADER, TRACEPARENT_HEADER, Header, encode_requested
from schemas.topics import RECORD_BYTES_MAX, REQUESTED

# The thread waits no longer for one batch: what the broker has not acknowledged by then is left to the sweep.
FLUSH_S = 5.0
_PURGE_S = 1.0

# Thrown away by us, because it was not acknowledged in time.
_PURGED = frozenset({KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT})  # noqa: SLF001 -- so they are called

# Room for headers and for what the protocol adds.
_VALUE_BYTES_MAX = RECORD_BYTES_MAX - 64 * 1024

log = get_logger()


@dataclass(slots=True)
class _Record:
    """One record under way, and what the broker said of it."""

    rows: Sequence[Accepted]
    value: bytes
    headers: list[Header]
    partition: int = -1
    offset: int = -1
    error: str | None = "no acknowledgement in time"

    def reported(self, error: Any, message: Any) -> None:
        if error is None:
            self.error, self.partition, self.offset = None, message.partition(), message.offset()
        elif error.code() not in _PURGED:
            self.error = error.str()


class Publisher:
    """
    Publishes batches, one after the other, in a thread of its own.

    Delivery: at least once. What is reported as published is on every in-sync replica; what is not may be there too.
    The thread is never blocked for longer than about FLUSH_S, and keeps nothing of what it could not publish.
    """

    def __init__(self, bootstrap: str, *, name: str) -> None:
        self._bootstrap = bootstrap
        self._name = name
        self._producer: Producer | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="publisher")

    async def publish(self, rows: Sequence[Accepted]) -> list[Published]:
        """
        Publish *rows*, as few records as their size allows, to one partition.

        The timestamp of a record is when the first of its rows was accepted; the ledger has that of each.
        Returns:
            Those that the broker acknowledged. Never raises for a broker that is away.
        """
        return await get_running_loop().run_in_executor(self._thread, self._publish, rows)

    def warm_up(self) -> None:
        """Begin to connect, in the thread: the first record would otherwise wait a second for its producer id."""
        self._thread.submit(self._connect)

    def close(self) -> None:
        """Take no more. Does not wait: what is under way was never reported as published."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _connect(self) -> None:
        # Asks for the topic's partitions too. Kafka may be away; then the first record asks.
        with suppress(KafkaException):
            self._opened().list_topics(REQUESTED.name, timeout=FLUSH_S)

    def _opened(self) -> Producer:
        if self._producer is None:
            self._producer = open_relay_producer(self._bootstrap, name=self._name)
        return self._producer

    def _publish(self, rows: Sequence[Accepted]) -> list[Published]:
        spans = [_start_span(row.notification) for row in rows]
        travelling = [_under(row, span) for row, span in zip(rows, spans, strict=True)]
        published = self._publish_records(list(_records(travelling)))
        done = {each.id for each in published}
        for row, span in zip(rows, spans, strict=True):
            if span is not None:
                if row.notification.id not in done:
                    fail_span(span, "not_acknowledged")
                span.end()
        return published

    def _publish_records(self, records: list[_Record]) -> list[Published]:
        try:
            producer = self._opened()
            hit("ingest.before_publish")
            for record in records:
                self._produce(producer, record)
            if producer.flush(FLUSH_S):
                # Memory stays flat while the broker is away. A record that arrives all the same is a harmless copy.
                producer.purge()
                producer.flush(_PURGE_S)
        except KafkaException as error:
            log.warning("publish_failed", error=str(error))
        hit("ingest.after_publish")
        moment = datetime.now(UTC)
        refused = {record.error for record in records if record.error is not None}
        if refused:
            log.warning("publish_failed", error=sorted(refused), records=len(records))
        return [
            Published(row.notification.id, moment, record.partition, record.offset, index)
            for record in records
            if record.error is None
            for index, row in enumerate(record.rows)
        ]

    def _produce(self, producer: Producer, record: _Record) -> None:
        try:
            producer.produce(
                REQUESTED.name,
                value=record.value,
                headers=list(record.headers),
                timestamp=int(record.rows[0].accepted_at.timestamp() * 1000),
                on_delivery=record.reported,
            )
        except (KafkaException, BufferError) as error:
            # Its own fault, or no room for it now. Its neighbours go on, and the flush makes room again.
            record.error = str(error)
            if isinstance(error, KafkaException) and error.args[0].fatal():
                # This client will never publish again: the next batch gets another one.
                self._producer = None


def _start_span(notification: Notification) -> Span | None:
    """Return a span for the sending of *notification* if its trace is recorded at all; others cost nothing."""
    parent = read_traceparent(notification.traceparent)
    if parent is None or not parent.trace_flags.sampled:
        return None
    return start_span(
        f"send {REQUESTED.name}",
        SpanKind.PRODUCER,
        parent=notification.traceparent,
        attributes=messaging("send", REQUESTED.name, message__id=str(notification.id)),
    )


def _under(row: Accepted, span: Span | None) -> Accepted:
    """Return *row* with the context that travels on: the span's, so that what follows hangs below it."""
    if span is None:
        return row
    return replace(row, notification=replace(row.notification, traceparent=traceparent_of(span)))


def _records(rows: Sequence[Accepted]) -> Iterator[_Record]:
    """Cut *rows* into records that the broker takes: halves, as long as one is too large."""
    value = encode_requested([row.notification for row in rows]) if len(rows) <= REQUESTS_PER_RECORD_MAX else None
    if value is None or (len(value) > _VALUE_BYTES_MAX and len(rows) > 1):
        middle = len(rows) // 2
        yield from _records(rows[:middle])
        yield from _records(rows[middle:])
        return
    headers: list[Header] = [("content-type", b"application/json"), (DOOR_HEADER, b"http")]
    traceparent = rows[0].notification.traceparent
    if len(rows) == 1 and traceparent is not None:
        headers.append((TRACEPARENT_HEADER, traceparent.encode()))
    yield _Record(rows, value, headers)
