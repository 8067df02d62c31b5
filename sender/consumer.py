"""
The consumer: polls, bounds what is in flight, commits what is complete, and never waits inside the poll loop.

A record is one task, from its enrolment to its terminal state. A slow or retrying one holds up nobody: the others go
on, and only the committed offset stays below it.
"""

import asyncio
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol
from uuid import UUID

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from opentelemetry.trace import SpanKind

from infra.background import Background
from infra.failpoints import hit
from infra.health import Readiness
from infra.logs import get_logger
from infra.metrics import IN_FLIGHT
from infra.patience import until_through
from infra.progress import Worked
from infra.record_writer import Outgoing
from infra.telemetry import is_recorded, messaging, span, trace_id_of, traceparent_of
from schemas import results, topics
from schemas.dead_letters import Origin, dead_letter_headers
from schemas.errors import FieldError
from schemas.identity import fingerprint, recipient_hash
from schemas.messages import Forward
from schemas.records import Rejection, decode_deduplicated, decode_forwarded, encode_result_record
from schemas.topics import DEDUPLICATED, SENDER_GROUP, Topic
from sender.deliver import Deliverer, Delivery
from sender.ledger import ENROL_ROWS_MAX, Enrolment, Standing
from sender.watermark import Watermark

log = get_logger()

POLL_MS = 250

# With little room left, so long for more of it: records are taken up in few statements rather than one by one.
ROOM_S = 0.02
COMMIT_INTERVAL_S = 1.0

# Records of a partition that may be complete above one that is not, before the partition is paused.
SPAN_RECORDS_MAX = 100_000

# How long a revoked partition's claimed deliveries may take to end; below the group's rebalance timeout. What takes
# longer goes on: its claim keeps the next owner from sending.
REVOKE_S_MAX = 10.0


class LedgerPort(Protocol):
    """What is needed of the ledger; see sender.ledger.Ledger."""

    async def enrol(self, enrolments: Sequence[Enrolment]) -> dict[UUID, Standing]: ...


class WriterPort(Protocol):
    """What is needed of the producer; see infra.record_writer.RecordWriter."""

    async def write(self, topic: Topic, records: Sequence[Outgoing]) -> None: ...
    async def write_by_key(self, topic: Topic, records: Sequence[Outgoing]) -> None: ...


class DeduplicatedConsumer(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """
    Reads notifications.deduplicated and has each record delivered.

    Args:
        in_flight_max: records that are worked on at the same time.
        hash_key: for recipient_hash; empty: none is made.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        deliverer: Deliverer,
        ledger: LedgerPort,
        writer: WriterPort,
        readiness: Readiness,
        background: Background,
        worked: Worked,
        *,
        in_flight_max: int,
        hash_key: bytes,
    ) -> None:
        self._consumer = consumer
        self._deliverer = deliverer
        self._ledger = ledger
        self._writer = writer
        self._readiness = readiness
        self._background = background
        self._worked = worked
        self._in_flight_max = in_flight_max
        self._room_min = max(1, min(ENROL_ROWS_MAX, in_flight_max // 4))
        self._roomy = asyncio.Event()
        self._hash_key = hash_key
        self._watermark = Watermark()
        self._tasks: defaultdict[int, dict[asyncio.Task[None], Delivery | None]] = defaultdict(dict)
        self._in_flight = 0
        self._paused: set[TopicPartition] = set()
        IN_FLIGHT.set_function(lambda: self._in_flight)

    async def run(self, stop: asyncio.Event) -> None:
        """
        Poll until *stop*, then give back what can be given back, end what is claimed, and commit.

        Raises:
            KafkaError: of a kind that another poll does not mend.
        """
        self._consumer.subscribe([DEDUPLICATED.name], listener=self)
        self._background.start("commit", self._commit, every_s=COMMIT_INTERVAL_S)
        try:
            while not stop.is_set():
                await self._poll()
        finally:
            await self._end_tasks(set(self._tasks))
            await self._commit()

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        """Give *revoked* back: end what is claimed, drop what is not, commit what is complete."""
        partitions = {tp.partition for tp in revoked}
        await self._end_tasks(partitions)
        await self._commit()
        for partition in partitions:
            self._watermark.forget(partition)
        self._paused -= revoked

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        """Note what is ours now; nothing to fetch back, the truth is in the ledger."""
        log.info("partitions_assigned", partitions=sorted(tp.partition for tp in assigned))
        self._readiness.green("assignment")

    async def _poll(self) -> None:
        if self._room < self._room_min:
            await self._wait_for_room()
        self._pause_and_resume()
        room = max(1, min(ENROL_ROWS_MAX, self._room))
        # When full, everything is paused: no reason to wait for records.
        fetched = await self._consumer.getmany(timeout_ms=POLL_MS if self._room > 0 else 0, max_records=room)
        for tp, records in fetched.items():
            self._worked.begun(tp.partition, records[-1].offset + 1)
            for record in records:
                self._watermark.begin(tp.partition, record.offset)
            self._in_flight += len(records)
            # Not awaited: while Postgres is away, polling goes on, and with it our place in the group.
            self._begin(tp.partition, self._take_up(records), None)

    @property
    def _room(self) -> int:
        return self._in_flight_max - self._in_flight

    async def _wait_for_room(self) -> None:
        self._roomy.clear()
        timer = asyncio.get_running_loop().call_later(ROOM_S, self._roomy.set)
        try:
            await self._roomy.wait()
        finally:
            timer.cancel()

    def _pause_and_resume(self) -> None:
        """Paused partitions are not fetched, but polling goes on: a consumer that does not poll is thrown out."""
        full = self._room <= 0
        assigned = self._consumer.assignment()
        to_pause = {tp for tp in assigned if full or self._watermark.span(tp.partition) > SPAN_RECORDS_MAX}
        if resumed := (self._paused & assigned) - to_pause:
            self._consumer.resume(*resumed)
        if paused := to_pause - self._paused:
            self._consumer.pause(*paused)
        self._paused = to_pause

    def _begin(self, partition: int, work: Coroutine[Any, Any, None], delivery: Delivery | None) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._tasks[partition][task] = delivery
        task.add_done_callback(self._tasks[partition].pop)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception:
            # A bug of ours. The offset stays, so nothing is lost; readiness tells, and a restart tries again.
            self._readiness.red("deliver", "a record cannot be processed; see the log")
            log.exception("record_broke")

    async def _take_up(self, records: Sequence[ConsumerRecord]) -> None:
        """Enrol a fetched batch in one statement, then deliver each record in a task of its own."""
        readable: list[tuple[ConsumerRecord, Enrolment]] = []
        for record in records:
            enrolment = self._read(record)
            if enrolment is None:
                await self._dead_letter(record, "unreadable", "not a record that relevo wrote")
                self._complete(record)
            else:
                readable.append((record, enrolment))
        if not readable:
            return
        standings = await until_through("enrol", lambda: self._ledger.enrol([each for _, each in readable]))
        hit("sender.after_enrol")
        for record, enrolment in readable:
            standing = standings[enrolment.notification.id]
            if standing.fingerprint != enrolment.fingerprint:
                self._begin(record.partition, self._reject(record, enrolment), None)
            else:
                delivery = Delivery(enrolment, standing)
                self._begin(record.partition, self._deliver(record, delivery), delivery)

    async def _deliver(self, record: ConsumerRecord, delivery: Delivery) -> None:
        if is_recorded(delivery.enrolment.notification.traceparent):
            await self._deliver_traced(record, delivery)
        else:
            await self._deliverer.deliver(delivery)
        self._complete(record)

    async def _deliver_traced(self, record: ConsumerRecord, delivery: Delivery) -> None:
        notification = delivery.enrolment.notification
        attributes = messaging(
            "process",
            DEDUPLICATED.name,
            consumer__group__name=SENDER_GROUP,
            destination__partition__id=str(record.partition),
            kafka__offset=record.offset,
            message__id=str(notification.id),
        )
        with span(
            f"process {DEDUPLICATED.name}", SpanKind.CONSUMER, parent=notification.traceparent, attributes=attributes
        ) as made:
            if made.is_recording():
                below = replace(notification, traceparent=traceparent_of(made))
                delivery.enrolment = replace(delivery.enrolment, notification=below)
            await self._deliverer.deliver(delivery)

    async def _reject(self, record: ConsumerRecord, enrolment: Enrolment) -> None:
        """The id stands for other content: the table in Redis had forgotten it, the ledger has not."""
        why = FieldError("/id", "idempotency_conflict", "this id was already used for other content; take a new one")
        notification = enrolment.notification
        rejection = Rejection(
            enrolment.source.index, notification.id, "idempotency_conflict", (why,), notification.producer
        )
        result = results.rejection(
            rejection,
            enrolment.source,
            came_at=enrolment.accepted_at,
            occurred_at=results.now(),
            trace_id=trace_id_of(notification.traceparent),
        )
        await self._dead_letter(record, rejection.code, why.detail)
        told = Outgoing(*encode_result_record(result))
        await until_through("reject", lambda: self._writer.write_by_key(topics.RESULTS, [told]))
        self._complete(record)

    async def _dead_letter(self, record: ConsumerRecord, reason: str, message: str) -> None:
        origin = Origin(record.topic, record.partition, record.offset, record.timestamp)
        headers = dead_letter_headers(origin, record.headers, reason, message)
        letter = Outgoing(record.key, record.value, headers)
        await until_through("dead_letter", lambda: self._writer.write(topics.DEAD_LETTERS, [letter]))

    def _read(self, record: ConsumerRecord) -> Enrolment | None:
        try:
            notification, source = decode_deduplicated(record.value, record.headers)
        except (ValueError, KeyError, TypeError):
            return None
        forwarded_at = decode_forwarded(record.headers)
        return Enrolment(
            notification=notification,
            source=source,
            fingerprint=fingerprint(notification.content),
            recipient_hash=recipient_hash(notification.content.to, self._hash_key),
            accepted_at=results.moment(record.timestamp),
            forward=None if forwarded_at is None else Forward(forwarded_at, record.partition, record.offset),
        )

    def _complete(self, record: ConsumerRecord) -> None:
        self._in_flight -= 1
        if self._room >= self._room_min:
            self._roomy.set()
        self._watermark.complete(record.partition, record.offset)
        self._worked.moved(record.partition)

    async def _end_tasks(self, partitions: set[int]) -> None:
        """Cancel what has claimed nothing; wait for the rest, within reason."""
        tasks = [(task, delivery) for partition in partitions for task, delivery in self._tasks[partition].items()]
        idle = [task for task, delivery in tasks if delivery is None or not delivery.critical]
        for task in idle:
            task.cancel()
        if idle:
            await asyncio.wait(idle)
        claimed = [task for task, _ in tasks if not task.done()]
        if claimed:
            log.info("waiting_for_claimed", notifications=len(claimed))
            await asyncio.wait(claimed, timeout=REVOKE_S_MAX)
        self._in_flight = sum(1 for tasks_of in self._tasks.values() for task in tasks_of if not task.done())

    async def _commit(self) -> None:
        offsets = {
            TopicPartition(DEDUPLICATED.name, partition): offset
            for partition, offset in self._watermark.take_committable().items()
        }
        assigned = self._consumer.assignment()
        offsets = {tp: offset for tp, offset in offsets.items() if tp in assigned}
        if not offsets:
            return
        hit("sender.before_commit")
        try:
            await self._consumer.commit(offsets)
        except KafkaError as error:
            # Ordinary during a rebalance. What is read again finds its state in the ledger; and a partition that is
            # quiet from now on must be committed all the same, or its lag would stand still for ever.
            self._watermark.put_back({tp.partition: offset for tp, offset in offsets.items()})
            log.warning("commit_refused", error=type(error).__name__, partitions=len(offsets))
