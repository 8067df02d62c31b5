"""
A whole relevo without a socket and without time: the real use cases over fakes, one effect at a time.

Every effect of a process (a statement, a record, a word to the relay) waits at a gate before it happens and again
before its answer is seen. Whoever plays decides whose gate opens next, and may kill a process at any gate; so every
interleaving and every crash between two effects is one sequence of choices. The clock moves only when it is told to.
"""

import asyncio
import contextvars
import re
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from types import SimpleNamespace
from uuid import UUID

import orjson
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, KafkaError, RequestTimedOutError

from infra.background import Background
from infra.health import Readiness
from infra.progress import Worked
from ingest.accept import Accepted, Acceptor, Known, Submission
from ingest.relay import Marker, Relay
from ingest.store import Published
from ingest.sweep import Gate, Sweep
from pipeline import dedupe
from schemas.errors import TransientError
from schemas.identity import fingerprint
from schemas.messages import Notification, Source
from schemas.records import DOOR_HEADER, encode_request, encode_requested, encode_source
from schemas.states import TERMINAL
from schemas.topics import DEAD_LETTERS, DEDUPLICATED, REQUESTED, RESULTS
from sender.channel import Channel
from sender.compose import Composer
from sender.consumer import DeduplicatedConsumer
from sender.deliver import Deliverer
from sender.ladder import Ladder
from sender.ledger import Enrolment
from tests.builders import make_notification
from tests.fakes import ACCEPTED, IN_DOUBT, PERMANENT, TRANSIENT, UNREACHABLE, FakeLedger, FakeTable

PARTITIONS = 2
FETCH_MAX = 3
_MESSAGE_ID = re.compile(rb"^Message-ID: <([0-9a-f-]{36})@", re.MULTILINE)

# What the relay does: its judgement, whether before the claim, whether it keeps the mail.
REPLIES = {
    "accepted": (ACCEPTED, False, True),
    "unreachable": (UNREACHABLE, True, False),
    "refused at RCPT": (TRANSIENT, True, False),
    "refused at RCPT for good": (PERMANENT, True, False),
    "refused at DATA": (TRANSIENT, False, False),
    "refused at DATA for good": (PERMANENT, False, False),
    "silent, kept": (IN_DOUBT, False, True),
    "silent, not kept": (IN_DOUBT, False, False),
}

_PROCESS: "contextvars.ContextVar[Process]" = contextvars.ContextVar("process")


class Crash(BaseException):
    """What SIGKILL looks like from inside."""


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still."""

    now = 1000.0

    def time(self) -> float:
        return self.now

    def run_idle(self) -> None:
        """Run what can run without the clock moving."""
        for _ in range(10_000):
            self.call_soon(self.stop)
            self.run_forever()
            if not self._ready and not (self._scheduled and self._scheduled[0]._when <= self.now):
                return
        raise AssertionError("something runs for ever without waiting")


class Process:
    """One process: what it does stops at gates, and what it holds in memory dies with it."""

    def __init__(self, world: "World", name: str) -> None:
        self.world, self.name = world, name
        self.alive, self.frozen = True, False
        self.gates: deque[asyncio.Future[None]] = deque()
        self.tasks: set[asyncio.Task] = set()
        self.trouble: deque[str] = deque()
        self.readiness = Readiness()

    def run(self, work) -> asyncio.Task:
        context = contextvars.copy_context()
        context.run(_PROCESS.set, self)
        return self.world.loop.create_task(work, context=context)

    async def gate(self) -> None:
        if self.alive:
            free = self.world.loop.create_future()
            self.gates.append(free)
            try:
                await free
            finally:
                if free in self.gates:
                    self.gates.remove(free)
        if not self.alive:
            raise Crash

    async def do(self, effect: Callable[[], Awaitable]):
        """Have an effect. Trouble: refused (it did not happen) or deaf (it did, and the answer is lost)."""
        await self.gate()
        trouble = self.trouble.popleft() if self.trouble else ""
        if trouble == "refused":
            raise TransientError("refused")
        answer = await effect()
        await self.gate()
        if trouble == "deaf":
            raise TransientError("the answer is lost")
        return answer

    def open(self, which: int) -> None:
        """Open one gate, if there is one."""
        if self.gates and not self.frozen:
            self.gates[which % len(self.gates)].set_result(None)
            del self.gates[which % len(self.gates)]
            self.world.loop.run_idle()

    def kill(self) -> None:
        self.alive = False
        for task in list(self.tasks):
            task.cancel()
        self.world.loop.run_idle()

    def revoke(self, topic: str, partition: int, then: Callable[[], None]) -> None:
        """Give a partition back, then call *then*."""
        then()

    def assign(self, topic: str, partition: int) -> None:
        pass


class Ingest(Process):
    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        marker = Marker(self)
        self.relay = Relay(self, marker)
        self.acceptor = Acceptor(self, self.relay)
        self.sweep = Sweep(self, self, marker, Gate(rows_max=1000, age_s_max=1e6))
        self.run(self.relay.start())

    def accept(self, notification: Notification) -> None:
        async def client() -> None:
            await self.acceptor.accept(Submission((notification,), None))
            self.world.acknowledged.add(notification.id)

        self.run(client())
        self.world.loop.run_idle()

    # the ledger and the outbox, as ingest sees them

    async def insert(self, submissions, accepted_at):
        async def write():
            fresh = set()
            for submission in submissions:
                notification = submission.first
                if notification.id not in self.world.ledger.rows:
                    await self.world.enrol_from_ingest(notification, accepted_at)
                    fresh.add(notification.id)
            return fresh

        return await self.do(write)

    async def find(self, ids):
        async def read():
            rows = self.world.ledger.rows
            return {each: Known(rows[each]["fingerprint"], None, None) for each in ids if each in rows}

        return await self.do(read)

    async def publish(self, rows):
        async def write():
            value = encode_requested([row.notification for row in rows])
            return self.world.append(REQUESTED.name, None, value, [(DOOR_HEADER, b"http")])

        try:
            partition, offset = await self.do(write)
        except TransientError:
            return []
        moment = datetime.now(UTC)
        return [Published(row.notification.id, moment, partition, offset, index) for index, row in enumerate(rows)]

    async def mark_published(self, rows):
        async def write():
            for row in rows:
                self.world.outbox.pop(row.id, None)
            return {row.id for row in rows}

        return await self.do(write)

    async def lease(self, rows_max):
        async def read():
            return list(self.world.outbox.values())[:rows_max]

        return await self.do(read)

    async def release(self, ids, *, again_after_s):
        """Nothing is leased here: two sweeps at a time are worse than what can happen."""


class Worker(Process):
    """A process with partitions of one topic. Reads from what was committed."""

    topic = ""

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        self.positions: dict[int, int] = {}

    def assign(self, topic: str, partition: int) -> None:
        self.positions[partition] = self.world.committed[topic, partition]

    def fetch(self, partition: int) -> list[SimpleNamespace]:
        first = self.positions[partition]
        records = self.world.topics[self.topic][partition][first : first + FETCH_MAX]
        self.positions[partition] += len(records)
        return records

    async def commit_one(self, partition: int, offset: int) -> None:
        async def write():
            if self.world.owners[self.topic, partition] is not self:
                raise CommitFailedError("not ours any more")
            self.world.commit(self.topic, partition, offset)

        try:
            await self.do(write)
        except TransientError as error:
            raise RequestTimedOutError from error

    # the producer

    async def write(self, topic, records):
        async def effect():
            for record in records:
                self.world.append(topic.name, record.key, record.value, record.headers)

        await self.do(effect)

    write_by_key = write


class Pipeline(Worker):
    topic = REQUESTED.name

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        self.deduplicator = dedupe.Deduplicator(self, self, self.readiness, hash_key=b"", dead_letter_ratio_max=1.0)
        self.run(self._work())

    def revoke(self, topic: str, partition: int, then: Callable[[], None]) -> None:
        self.positions.pop(partition, None)
        then()

    async def _work(self) -> None:
        while True:
            await self.gate()
            read = {partition: self.fetch(partition) for partition in list(self.positions)}
            batch = [
                dedupe.Incoming(each.partition, each.offset, each.timestamp, each.key, each.value, tuple(each.headers))
                for records in read.values()
                for each in records
            ]
            if not batch:
                continue
            await self.deduplicator.process(batch)
            for partition, records in read.items():
                if records:
                    await self._commit(partition, records[-1].offset + 1)

    async def _commit(self, partition: int, offset: int) -> None:
        """As Faust does: again and again, as long as the partition is ours."""
        while True:
            try:
                await self.commit_one(partition, offset)
            except CommitFailedError:
                return
            except KafkaError:
                continue
            else:
                return

    # the table

    async def claim(self, claims):
        return await self.do(lambda: self.world.table.claim(claims))

    async def complete(self, claims):
        await self.do(lambda: self.world.table.complete(claims))


class Sender(Worker):
    topic = DEDUPLICATED.name

    def __init__(self, world: "World", name: str) -> None:
        super().__init__(world, name)
        self.ledger = world.make_ledger()
        self.ledger.leases.add(self.ledger.worker)
        self.paused: set[TopicPartition] = set()
        self._revoking: set[int] = set()
        deliverer = Deliverer(
            relay=self,
            ledger=_GatedLedger(self),
            lease=self,
            publisher=self,
            channel=Channel(self._probe, self.readiness),
            composer=Composer("relevo@example.org", ""),
            ladder=Ladder(1.0, (2.0,), 1e9),
        )
        background = Background(self.readiness)
        self.consumer = DeduplicatedConsumer(
            self,
            deliverer,
            _GatedLedger(self),
            self,
            self.readiness,
            background,
            Worked(),
            in_flight_max=4,
            hash_key=b"",
        )
        self.run(self.consumer.run(asyncio.Event()))

    @property
    def holds(self) -> bool:
        return self.ledger.worker in self.ledger.leases

    def revoke(self, topic: str, partition: int, then: Callable[[], None]) -> None:
        if self.frozen or not self.alive:
            # Thrown out: it learns of it later, and whoever has the partition now does not wait.
            self.positions.pop(partition, None)
            then()
            return
        self._revoking.add(partition)

        def done(_task: object) -> None:
            self._revoking.discard(partition)
            self.positions.pop(partition, None)
            then()

        revoked = {TopicPartition(topic, partition)}
        self.run(self.consumer.on_partitions_revoked(revoked)).add_done_callback(done)
        self.world.loop.run_idle()

    # the Kafka consumer, as aiokafka has it

    def subscribe(self, topics, listener) -> None:
        assert topics == [self.topic]

    def assignment(self):
        return {TopicPartition(self.topic, partition) for partition in self.positions}

    def pause(self, *partitions) -> None:
        self.paused |= set(partitions)

    def resume(self, *partitions) -> None:
        self.paused -= set(partitions)

    async def getmany(self, *, timeout_ms, max_records):
        await self.gate()
        readable = self.assignment() - self.paused - {TopicPartition(self.topic, each) for each in self._revoking}
        found = {place: self.fetch(place.partition) for place in sorted(readable)}
        return {place: records for place, records in found.items() if records}

    async def commit(self, offsets) -> None:
        for place, offset in offsets.items():
            await self.commit_one(place.partition, offset)

    # the relay

    @asynccontextmanager
    async def slot(self):
        yield

    async def send(self, mail, before_data):
        await self.gate()
        judgement, early, kept = REPLIES[self.world.replies.popleft() if self.world.replies else "accepted"]
        if early:
            return judgement
        if not await before_data():
            return None
        await self.gate()
        if kept:
            found = _MESSAGE_ID.search(mail.message)
            assert found is not None
            self.world.sink[UUID(found.group(1).decode())] += 1
        await self.gate()
        return judgement

    async def _probe(self):
        await self.gate()
        return ACCEPTED

    # the publisher of results

    async def publish(self, change) -> None:
        async def tell():
            self.world.tell(change.id, change.seq, change.state)

        async def mark():
            self.world.mark_told(change.id, change.seq)

        await self.do(tell)
        await self.do(mark)


class _GatedLedger:
    def __init__(self, sender: Sender) -> None:
        self._sender = sender

    def __getattr__(self, name: str):
        method = getattr(self._sender.ledger, name)
        return lambda *arguments: self._sender.do(lambda: method(*arguments))


class World:
    """What survives every process: topics, offsets, the ledger, the table, the sink. And who runs now."""

    def __init__(self, ledger: type[FakeLedger] = FakeLedger) -> None:
        self.loop = Loop()
        self.loop.set_task_factory(self._make_task)
        self.loop.set_exception_handler(self._note)
        self.broken: list[str] = []
        self.topics = {topic.name: [[] for _ in range(PARTITIONS)] for topic in (REQUESTED, DEDUPLICATED)}
        self._turn: Counter[str] = Counter()
        self.committed = {(topic, partition): 0 for topic in self.topics for partition in range(PARTITIONS)}
        self.table = FakeTable()
        self._make = ledger
        self.ledger = ledger()
        self.outbox: dict[UUID, Accepted] = {}
        self.sink: Counter[UUID] = Counter()
        self.replies: deque[str] = deque()
        self.told: defaultdict[UUID, dict[int, str]] = defaultdict(dict)
        self.dead_letters: list[bytes] = []
        self.notifications: dict[UUID, Notification] = {}
        self.acknowledged: set[UUID] = set()
        self.poison: list[bytes] = []
        self.gone: set[UUID] = set()
        self.owners: dict[tuple[str, int], Process] = {}
        self.processes: dict[str, Process] = {}
        for name, kind in (("ingest", Ingest), ("p1", Pipeline), ("p2", Pipeline), ("s1", Sender), ("s2", Sender)):
            self.processes[name] = kind(self, name)
        for topic, names in ((REQUESTED.name, ("p1", "p2")), (DEDUPLICATED.name, ("s1", "s2"))):
            for partition, name in enumerate(names):
                self.move(topic, partition, name)
        self.loop.run_idle()

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
        self.loop.run_idle()
        self.loop.close()

    # -- what processes do to it -------------------------------------------------------------------------------------

    def make_ledger(self) -> FakeLedger:
        return self._make(self.ledger.rows, self.ledger.events, self.ledger.leases)

    async def enrol_from_ingest(self, notification: Notification, accepted_at: datetime) -> None:
        source = Source("http", 0, 0, 0)
        await self.ledger.enrol([Enrolment(notification, source, fingerprint(notification.content), None, accepted_at)])
        self.outbox[notification.id] = Accepted(notification, accepted_at)

    def append(self, topic: str, key, value, headers) -> tuple[int, int]:
        if topic == RESULTS.name:
            result = orjson.loads(value)
            if result["status"] != "rejected":
                self.tell(UUID(result["id"]), result["seq"], result["status"])
            return 0, 0
        if topic == DEAD_LETTERS.name:
            self.dead_letters.append(value)
            return 0, 0
        partition = self._turn[topic] % PARTITIONS
        self._turn[topic] += 1
        log = self.topics[topic][partition]
        log.append(
            SimpleNamespace(
                topic=topic,
                partition=partition,
                offset=len(log),
                timestamp=1_790_000_000_000,
                key=key,
                value=value,
                headers=list(headers),
            )
        )
        return partition, len(log) - 1

    def tell(self, notification_id: UUID, seq: int, status: str) -> None:
        known = self.told[notification_id].setdefault(seq, str(status))
        assert known == status, f"one event id, two events: {known} and {status}"

    def mark_told(self, notification_id: UUID, seq: int) -> None:
        for event in self.ledger.events:
            if (event["id"], event["seq"]) == (notification_id, seq):
                event["published"] = True

    def commit(self, topic: str, partition: int, offset: int) -> None:
        """Note a committed offset, and that nothing below it is left undone."""
        for record in self.topics[topic][partition][self.committed[topic, partition] : offset]:
            if topic == REQUESTED.name:
                self._check_forwarded(record)
            else:
                self._check_done(record)
        self.committed[topic, partition] = max(self.committed[topic, partition], offset)

    def _check_forwarded(self, record: SimpleNamespace) -> None:
        if record.value in self.poison:
            assert record.value in self.dead_letters, "G5: a bad record was passed over"
            return
        items = orjson.loads(record.value)
        for item in items if isinstance(items, list) else [items]:
            assert item["id"] in self._forwarded(), f"G1: {item['id']} was passed over and never forwarded"

    def _check_done(self, record: SimpleNamespace) -> None:
        each = UUID(record.key.decode())
        row = self.ledger.rows.get(each)
        done = row is not None and (row["state"] in TERMINAL or row["parked"] or self._is_read_again(record))
        assert done, f"G1: offset {record.offset} was committed and {each} is not done: {row}"

    def _is_read_again(self, record: SimpleNamespace) -> bool:
        return any(
            other.key == record.key and other is not record
            for partition in range(PARTITIONS)
            for other in self.topics[record.topic][partition][self.committed[record.topic, partition] :]
        )

    def _forwarded(self) -> set[str]:
        return {record.key.decode() for log in self.topics[DEDUPLICATED.name] for record in log}

    # -- what is done to it ------------------------------------------------------------------------------------------

    def new(self, **changes) -> Notification:
        notification = make_notification(id=UUID(int=len(self.notifications) + 1, version=4), **changes)
        self.notifications[notification.id] = notification
        return notification

    def produce(self, notifications: list[Notification]) -> None:
        """Acknowledged by the broker."""
        self.append(REQUESTED.name, None, encode_requested(notifications), [])
        self.acknowledged |= {each.id for each in notifications}

    def produce_poison(self, value: bytes) -> None:
        self.poison.append(value)
        self.append(REQUESTED.name, None, value, [])

    def crash(self, name: str) -> None:
        """Kill a process and start it again; its partitions are its successor's."""
        old = self.processes[name]
        old.kill()
        if isinstance(old, Sender):
            self.gone.add(old.ledger.worker)
        fresh = self.processes[name] = type(old)(self, name)
        for (topic, partition), owner in list(self.owners.items()):
            if owner is old:
                self.owners[topic, partition] = fresh
                fresh.assign(topic, partition)
        self.loop.run_idle()

    def move(self, topic: str, partition: int, to: str) -> None:
        """Rebalance: give a partition to another worker."""
        before = self.owners.get((topic, partition))

        def assign() -> None:
            owner = self.processes[to]
            if self.owners.get((topic, partition)) is before:
                self.owners[topic, partition] = owner
                owner.assign(topic, partition)

        if before is None:
            assign()
        elif before is not self.processes[to]:
            before.revoke(topic, partition, assign)

    def expire_leases(self) -> None:
        """The leases of the dead and the frozen run out, and others end what they had claimed."""
        frozen = {each.ledger.worker for each in self.senders() if each.frozen}
        self.ledger.leases -= self.gone | frozen
        self._now(self.ledger.give_up_abandoned(grace_s=0))

    def put_back_due(self) -> None:
        for each in self._now(self.ledger.take_due()):
            source = encode_source(Source("kafka", 0, 0, 0))
            value = orjson.dumps(encode_request(self.notifications[each]))
            self.append(DEDUPLICATED.name, str(each).encode(), value, [source])

    def sweep_events(self) -> None:
        for event in self.ledger.events:
            if not event["published"]:
                self.tell(event["id"], event["seq"], event["status"])
                event["published"] = True

    def thaw(self, sender: Sender) -> None:
        sender.frozen = False
        self.ledger.leases.add(sender.ledger.worker)

    def senders(self) -> list[Sender]:
        return [each for each in self.processes.values() if isinstance(each, Sender)]

    def pass_time(self, seconds: float) -> None:
        self.loop.now += seconds
        self.loop.run_idle()

    # -- the promises ------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """What must hold at every moment."""
        assert not self.broken, self.broken
        for each, count in self.sink.items():
            allowed = 2 if self.notifications[each].content.on_doubt == "resend" else 1
            assert count <= allowed, f"G2: {count} mails for {each}"
        for each in self.ledger.rows:
            ends = self.ledger.terminal_events(each)
            assert len(ends) <= 1, f"G3: {each} ended {ends}"

    def drain(self) -> None:
        """Heal everything, let it run out, and see that every promise was kept."""
        for sender in self.senders():
            self.thaw(sender)
        self.replies.clear()
        for process in self.processes.values():
            process.trouble.clear()
        for _ in range(400):
            self.expire_leases()
            self.put_back_due()
            self.sweep_events()
            if not self._left():
                break
            if self.outbox:
                ingest = self.processes["ingest"]
                assert isinstance(ingest, Ingest)
                ingest.run(ingest.sweep.sweep_once())
            for process in self.processes.values():
                for _ in range(30):
                    process.open(0)
            self.pass_time(2.0)
        assert not self._left(), f"G1: stuck, {self._left()}"
        self.check()
        for each in self.acknowledged | self.ledger.rows.keys():
            self._check_end(each)
        assert set(self.poison) <= set(self.dead_letters), "G5: a bad record vanished"

    def _check_end(self, each: UUID) -> None:
        row = self.ledger.rows.get(each)
        assert row is not None, f"G1: {each} was accepted, and nobody knows it"
        state = row["state"]
        assert state in TERMINAL, f"G1: {each} is {state}"
        assert state != "sent" or self.sink[each], f"G1: {each} is said to be sent"
        assert state in {"sent", "in_doubt"} or not self.sink[each] or row["doubts"], f"G3: {each} is {state}, and sent"
        ends = [status for status in self.told[each].values() if status in TERMINAL]
        assert ends == [state], f"G3: the topic says {ends} of {each}, the ledger {state}"

    def _left(self) -> str:
        open_rows = [str(each) for each, row in self.ledger.rows.items() if row["state"] not in TERMINAL]
        behind = {place: offset for place, offset in self.committed.items() if offset < len(self._log(place))}
        untold = [event for event in self.ledger.events if not event["published"]]
        parts = [(open_rows, "open"), (behind, "uncommitted"), (untold, "untold"), (self.outbox, "in the outbox")]
        return ", ".join(f"{len(found)} {what}" for found, what in parts if found)

    def _log(self, place: tuple[str, int]) -> list[SimpleNamespace]:
        return self.topics[place[0]][place[1]]

    def _now(self, call):
        return self.loop.run_until_complete(call)

    def _make_task(self, loop, work, **options) -> asyncio.Task:
        context = options.get("context")
        owner = _PROCESS.get(None) if context is None else context.get(_PROCESS)
        task = asyncio.Task(work, loop=loop, **options)
        if owner is not None:
            owner.tasks.add(task)
            task.add_done_callback(owner.tasks.discard)
            task.add_done_callback(self._look_at)
        return task

    def _look_at(self, task: asyncio.Task) -> None:
        """A promise broken inside a process counts; a client that was refused does not."""
        if not task.cancelled() and isinstance(error := task.exception(), AssertionError):
            self.broken.append(str(error))

    def _note(self, _loop, context) -> None:
        if isinstance(error := context.get("exception"), AssertionError):
            self.broken.append(str(error))
