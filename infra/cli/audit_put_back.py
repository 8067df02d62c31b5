"""
`relevo audit --put-back`: what the pipeline forwarded and no sender ever got is forwarded once more.

An id that came by Kafka is in no ledger before a sender has enrolled it; if its record of notifications.deduplicated
is lost before that, the reconciler has nothing to put back. But the result that tells of it names the place on
notifications.requested where its request still lies. From there it goes straight to notifications.deduplicated: on
notifications.requested its own `done` mark would drop it. Once too often is harmless, since the ledger decides.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from infra.cli.output import CommandError, Exit
from infra.positions import Positions
from infra.postgres import fetch, open_pool
from infra.record_writer import Outgoing, RecordWriter
from schemas.errors import TransientError
from schemas.messages import Source
from schemas.records import (
    Rejection,
    encode_deduplicated,
    encode_forwarded,
    read_requested,
)
from schemas.topics import DEDUPLICATED, PIPELINE_GROUP, REQUESTED, SENDER_GROUP, Topic

ROWS_MAX = 500

# How long to wait for the services: first until they have worked through what Kafka had, then until the ledger knows
# what was put back.
PASSED_S_MAX = 30.0
KNOWN_S_MAX = 30.0
_PAUSE_S = 0.5
_ANSWER_S_MAX = 10.0


@dataclass(frozen=True, slots=True)
class PutBack:
    """
    What was done about ids that the pipeline told of and the ledger did not know.

    written: forwarded once more, and acknowledged by the broker. known: what the ledger knows by now, whoever brought
    it there. gone: what is not on notifications.requested any more.
    """

    written: tuple[str, ...]
    known: frozenset[str]
    gone: tuple[str, ...]


async def put_back(bootstrap: str, dsn: str, lost: Mapping[str, Source]) -> PutBack:
    """
    Forward each of *lost* once more, and wait until the ledger knows it. Repeatable.

    Args:
        lost: for each id, where on notifications.requested it stood. None that a sender had begun with: its mail may
            be out, and a ledger that has lost it cannot absorb the copy.
    Raises:
        CommandError: the services have not worked through what Kafka has; what seems lost may only be waiting.
        TransientError: a server does not answer. Some may have been put back.
    """
    if not lost:
        return PutBack((), frozenset(), ())
    positions = Positions(bootstrap)
    # In this order: what the pipeline forwarded until it had passed lies before where the senders must pass.
    await _require_passed(positions, PIPELINE_GROUP, REQUESTED)
    await _require_passed(positions, SENDER_GROUP, DEDUPLICATED)
    pool = await open_pool(dsn, name="relevo-audit", connections_max=1)
    writer = RecordWriter(bootstrap, name="relevo-audit")
    try:
        missing = sorted(lost.keys() - await known_of(pool, lost))
        written: set[str] = set()
        for begin in range(0, len(missing), ROWS_MAX):
            some = {each: lost[each] for each in missing[begin : begin + ROWS_MAX]}
            found = await asyncio.to_thread(_read, bootstrap, some)
            await writer.write(DEDUPLICATED, list(found.values()))
            written |= found.keys()

        async def all_known() -> bool:
            return written <= await known_of(pool, written)

        await _within(KNOWN_S_MAX, all_known)
        known = await known_of(pool, lost)
    finally:
        await writer.close()
        await pool.close()
    return PutBack(tuple(sorted(written)), frozenset(known), tuple(each for each in missing if each not in written))


async def known_of(pool: asyncpg.Pool, ids: Collection[str]) -> set[str]:
    """Return those of *ids* that the ledger knows."""
    rows = await fetch(
        pool, "SELECT id::text FROM notifications WHERE id = ANY ($1::uuid[])", [UUID(each) for each in ids]
    )
    return {row["id"] for row in rows}


async def _require_passed(positions: Positions, group: str, topic: Topic) -> None:
    ends = await positions.ends(topic)
    if not await _within(PASSED_S_MAX, lambda: positions.passed(group, topic, ends)):
        raise CommandError(
            Exit.FAILED,
            "not_passed",
            f"{group} has not worked through {topic.name}, so what is missing may only wait there; nothing was done.",
            "`relevo doctor` shows how far behind it is, and what is not ready. Run this again when it has caught up.",
        )


async def _within(seconds: float, done: Callable[[], Awaitable[bool]]) -> bool:
    until = asyncio.get_running_loop().time() + seconds
    while not await done():
        if asyncio.get_running_loop().time() > until:
            return False
        await asyncio.sleep(_PAUSE_S)
    return True


def _read(bootstrap: str, wanted: Mapping[str, Source]) -> dict[str, Outgoing]:
    """Read the requests of *wanted*, and return the record that forwards each; of those that are still there."""
    by_place: defaultdict[tuple[int, int], list[tuple[str, Source]]] = defaultdict(list)
    for each, source in wanted.items():
        by_place[source.partition, source.offset].append((each, source))
    found = {}
    reader = _open(bootstrap)
    try:
        for (partition, offset), items in sorted(by_place.items()):
            record = _record_at(reader, partition, offset)
            if record is not None:
                found.update(_forwards(record, items))
    finally:
        reader.close()
    return found


def _forwards(record: Message, items: list[tuple[str, Source]]) -> dict[str, Outgoing]:
    headers: Any = record.headers() or ()  # a list of pairs, whatever its type says
    read = read_requested(record.value(), headers)
    notifications = dict(each for each in read if not isinstance(each, Rejection))
    _, timestamp_ms = record.timestamp()
    forwarded = encode_forwarded(datetime.now(UTC))
    found = {}
    for each, source in items:
        notification = notifications.get(source.index)
        if notification is not None and str(notification.id) == each:
            found[each] = Outgoing(*encode_deduplicated(notification, source, forwarded), timestamp_ms=timestamp_ms)
    return found


def _open(bootstrap: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "client.id": "relevo-audit",
            # Demanded by the library; without a subscription and without commits the broker never hears of it.
            "group.id": "relevo.audit",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "log_level": 0,
        }
    )


def _record_at(reader: Consumer, partition: int, offset: int) -> Message | None:
    """Return the record that stands there; None: it does not any more."""
    reader.assign([TopicPartition(REQUESTED.name, partition, offset)])
    record = reader.poll(_ANSWER_S_MAX)
    if record is None:
        raise TransientError("Kafka does not answer")
    problem = record.error()
    if problem is None:
        return record if record.offset() == offset else None
    if problem.code() in {KafkaError._AUTO_OFFSET_RESET, KafkaError._PARTITION_EOF}:  # noqa: SLF001 -- the library's own names
        return None
    raise TransientError(f"Kafka: {problem.name()}")
