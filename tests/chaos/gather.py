"""Gathering the facts: what the sink, the ledger and the topics have. Reads only, and from the outside only."""

import asyncio
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
from confluent_kafka import Consumer, KafkaException, TopicPartition

from schemas.topics import DEAD_LETTERS, DEDUPLICATED, PIPELINE_GROUP, REQUESTED, RESULTS, SENDER_GROUP
from tests.chaos.checker import TERMINAL, Facts, Told
from tests.chaos.load import Book
from tests.processes import get_json

READ_S_MAX = 180.0
STILL_S = 4.0
# Asked for by GET, one by one.
SHOWN_MAX = 300


def _consumer(bootstrap: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"chaos-{uuid4()}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.message.max.bytes": 8 * 1024 * 1024,
            "reconnect.backoff.max.ms": 1000,
            "log_level": 0,
        }
    )


class Tail:
    """Follows the results topic beside the run: which ids have come to their end. Survives outages of Kafka."""

    def __init__(self, bootstrap: str, partitions: int = RESULTS.partitions) -> None:
        self.ended: dict[str, str] = {}
        self._bootstrap = bootstrap
        self._partitions = partitions
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        consumer = _consumer(self._bootstrap)
        consumer.assign([TopicPartition(RESULTS.name, partition, 0) for partition in range(self._partitions)])
        while not self._stopping.is_set():
            for record in consumer.consume(500, 0.2):
                if record.error() is None:
                    result = orjson.loads(record.value())
                    if result["terminal"] and result["status"] != "rejected":
                        self.ended[result["id"]] = result["status"]
        consumer.close()


def records(bootstrap: str, topic: str) -> Iterator[Any]:
    """Give every record of *topic* up to its present end."""
    consumer = _consumer(bootstrap)
    try:
        ends: dict[int, int] = {}
        for partition in consumer.list_topics(topic, timeout=20).topics[topic].partitions:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)
            if high > low:
                ends[partition] = high
        consumer.assign([TopicPartition(topic, partition, 0) for partition in ends])
        deadline = time.monotonic() + READ_S_MAX
        while ends:
            assert time.monotonic() < deadline, f"{topic} could not be read to its end"
            for record in consumer.consume(1000, 0.2):
                if record.error() is not None:
                    raise KafkaException(record.error())
                yield record
                if record.offset() + 1 >= ends.get(record.partition(), 0):
                    ends.pop(record.partition(), None)
    finally:
        consumer.close()


def mails(folder: Path) -> dict[str, list[str]]:
    """Return the Message-IDs of each notification's mails, from the index that the mailbox keeps."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    with (folder / "mails.jsonl").open("rb") as lines:
        for line in lines:
            mail = orjson.loads(line)
            found[mail["notification_id"] or "no id"].append(mail["message_id"])
    return dict(found)


def ask(dsn: str, sql: str, *arguments: object) -> list[Any]:
    """Ask PostgreSQL one question."""

    async def once() -> list[Any]:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return await connection.fetch(sql, *arguments, timeout=60)
        finally:
            await connection.close()

    return asyncio.run(once())


def lag(bootstrap: str) -> int:
    """Return how many records the two services have not committed yet."""
    behind = 0
    for group, topic in ((PIPELINE_GROUP, REQUESTED), (SENDER_GROUP, DEDUPLICATED)):
        consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group, "log_level": 0})
        try:
            partitions = [TopicPartition(topic.name, partition) for partition in range(topic.partitions)]
            for committed in consumer.committed(partitions, timeout=10):
                low, high = consumer.get_watermark_offsets(committed, timeout=10)
                behind += high - (committed.offset if committed.offset >= 0 else low)
        finally:
            consumer.close()
    return behind


def unsettled(dsn: str, bootstrap: str, book: Book, ended: dict[str, str], *, without: Collection[str] = ()) -> str:
    """Return a sentence about what is still under way; empty: nothing. without: ids that do not count."""
    left_out = [UUID(each) for each in without]
    counted = ask(dsn, "SELECT state, count(*) AS n FROM notifications WHERE id <> ALL ($1) GROUP BY state", left_out)
    under_way = {row["state"]: row["n"] for row in counted if row["state"] not in TERMINAL}
    parts = [f"{n} {state}" for state, n in under_way.items()]
    if not parts:
        known = {str(row["id"]) for row in ask(dsn, "SELECT id FROM notifications WHERE id <> ALL ($1)", left_out)}
        missing, untold = len(book.acknowledged - known), len(known - ended.keys())
        parts += [f"{missing} without a row"] if missing else []
        parts += [f"{untold} untold"] if untold else []
    if behind := lag(bootstrap):
        parts.append(f"{behind} records uncommitted")
    return ", ".join(parts)


def wait_until_settled(
    dsn: str,
    bootstrap: str,
    book: Book,
    tail: Tail,
    *,
    within_s: float,
    say: Callable[[str], None],
    end_hanging: Callable[[], None],
) -> bool:
    """
    Wait until nothing is under way. False: something still is after *within_s*.

    Args:
        end_hanging: called when nothing but mails that are being sent has moved for a while: some of them wait ten
            minutes for the answer to their final dot.
    """
    deadline = time.monotonic() + within_s
    last, since = "", time.monotonic()
    while True:
        try:
            left = unsettled(dsn, bootstrap, book, tail.ended)
        except (OSError, asyncpg.PostgresError, KafkaException) as error:
            left = f"an answer: {type(error).__name__}"
        if not left:
            return True
        if time.monotonic() > deadline:
            say(f"still {left}")
            return False
        if left != last:
            say(f"waiting for {left}")
            last, since = left, time.monotonic()
        elif "sending" in left and time.monotonic() - since > STILL_S:
            end_hanging()
            since = time.monotonic()
        time.sleep(1.0)


def gather(
    *, bootstrap: str, dsn: str, url: str, mail_folder: Path, book: Book, without: Collection[str] = ()
) -> Facts:
    """
    Gather everything. Only when nothing writes any more.

    Args:
        without: ids of an earlier run on the same servers; left out.
    """
    told: dict[str, Told] = {}
    for record in records(bootstrap, RESULTS.name):
        result = orjson.loads(record.value())
        if result["id"] not in without:
            told[result["event_id"]] = Told(
                result["id"] or "no id", result["seq"], result["status"], result["terminal"]
            )
    keys = (record.key().decode() for record in records(bootstrap, DEDUPLICATED.name))
    rows = ((str(row["id"]), row["state"]) for row in ask(dsn, "SELECT id, state FROM notifications"))
    ledger = {each: state for each, state in rows if each not in without}
    # Every id, one way or another: the last ones are those that lived through the most.
    sample = sorted(ledger, key=lambda each: UUID(each).int)[:: max(1, len(ledger) // SHOWN_MAX)]
    shown = {each: get_json(f"{url}/api/notifications/{each}", 10)[1].get("status", "nothing") for each in sample}
    return Facts(
        offered=book.offered,
        acknowledged=frozenset(book.acknowledged),
        mails={each: copies for each, copies in mails(mail_folder).items() if each not in without},
        ledger=ledger,
        results=list(told.values()),
        shown=shown,
        forwarded=Counter(each for each in keys if each not in without),
        poison=list(book.poison),
        dead_letters=[record.value() for record in records(bootstrap, DEAD_LETTERS.name)],
        anomalies=list(book.anomalies),
    )
