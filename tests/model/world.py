"""
A whole relevo without a socket and without time: the real use cases over fakes, one effect at a time.

Here is what survives every process, what may be done to it, and what was promised. What stops at gates and dies at any
of them: process.py, ingest.py, pipeline.py, sender.py. The clock moves only when it is told to.
"""

import asyncio
from collections import Counter, defaultdict, deque
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID

import orjson

from ingest.accept import Accepted
from schemas.identity import fingerprint
from schemas.messages import Notification, Source
from schemas.records import encode_deduplicated, encode_requested
from schemas.states import TERMINAL
from schemas.topics import DEAD_LETTERS, DEDUPLICATED, REQUESTED, RESULTS
from sender.ledger import Enrolment
from tests.builders import make_notification
from tests.fakes import FakeLedger, FakeTable
from tests.model.ingest import Ingest
from tests.model.pipeline import Pipeline
from tests.model.process import PROCESS, Loop, Process
from tests.model.sender import Sender

PARTITIONS = 2


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
        self.cancelled: set[UUID] = set()
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

    def change_when(self, each: UUID, change: str) -> None:
        """Do to a notification what its client, or time itself, does to it."""
        later = datetime.now(UTC) + timedelta(days=1)
        if change == "cancel":
            if self._now(self.ledger.cancel(each)):
                self.cancelled.add(each)
        elif change == "run out of time":
            self.ledger.rows[each]["expires_at"] = datetime.now(UTC) - timedelta(seconds=1)
        else:
            self._now(self.ledger.reschedule(each, later if change == "put off" else None))

    def put_back_due(self) -> None:
        self._now(self.ledger.expire_parked())
        for each in self._now(self.ledger.take_due()):
            self.append(DEDUPLICATED.name, *encode_deduplicated(self.notifications[each], Source("kafka", 0, 0, 0)))

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
        for each in self.cancelled:
            assert not self.sink[each], f"G2: {each} was cancelled, and sent"
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
        owner = PROCESS.get(None) if context is None else context.get(PROCESS)
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
