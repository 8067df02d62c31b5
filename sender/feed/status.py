"""
notifications.status: the latest result of every notification, under its id, on a compacted topic.

Results come in any order: a sweep may publish the second change after the third. Compaction keeps what was written
last, so what was written last must be the latest. The number of the last change of each id is not kept here a second
time: the ledger has it, and the change itself. So whatever result of an id is read, what the ledger knows by now is
written, or the result itself where it knows less (a request that no sender has enrolled yet).

Two processes may be at work on one id for a moment: one that was frozen, or whose broker was away, wakes up with an old
result in its hands and writes it after its successor has written a newer one. So whoever has written looks once more,
and again until it finds that it has written the latest; whoever writes last of all is thereby right.
"""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from aiokafka import ConsumerRecord

from infra.record_writer import Outgoing
from schemas.records import encode_result_record
from schemas.topics import STATUS, Topic
from sender.changes import Unpublished
from sender.feed.results import ResultRecord, readable
from sender.results import result_of


class Store(Protocol):
    """What is needed of the ledger; see sender.feed.store.FeedStore."""

    async def latest(self, ids: Sequence[UUID]) -> dict[UUID, Unpublished]: ...


class Writer(Protocol):
    """What is needed of the producer; see infra.record_writer.RecordWriter."""

    async def write_by_key(self, topic: Topic, records: Sequence[Outgoing]) -> None: ...


class StatusProjection:
    """
    Writes notifications.status from the results.

    Delivery: at least once; a repeat writes the same or something newer. Rejections are no state of a notification and
    are left out: most have no id, and a conflict's id belongs to another. Those of test recipients are written, marked.
    """

    def __init__(self, store: Store, writer: Writer) -> None:
        self._store = store
        self._writer = writer

    async def handle(self, records: Sequence[ConsumerRecord]) -> None:
        """
        See to it that the topic has the latest of every id in *records*.

        Raises:
            TransientError: some of them may be written; call again.
        """
        told: dict[UUID, ResultRecord] = {}
        for each in readable(records, "status"):
            if each.seq > 0 and each.id is not None and (each.id not in told or each.seq > told[each.id].seq):
                told[each.id] = each
        written = dict.fromkeys(told, 0)
        while newer := await self._newer_than(written, told):
            await self._writer.write_by_key(STATUS, [record for _, record in newer.values()])
            written |= {notification_id: seq for notification_id, (seq, _) in newer.items()}

    async def _newer_than(
        self, written: dict[UUID, int], told: dict[UUID, ResultRecord]
    ) -> dict[UUID, tuple[int, Outgoing]]:
        if not written:
            return {}
        changes = await self._store.latest(list(written))
        found = {}
        for notification_id, seq in written.items():
            change, result = changes.get(notification_id), told[notification_id]
            if change is not None and change.seq > max(seq, result.seq):
                found[notification_id] = change.seq, _told_by(change)
            elif result.seq > seq:
                record = result.record
                found[notification_id] = result.seq, Outgoing(record.key, record.value, list(record.headers))
        return found


def _told_by(change: Unpublished) -> Outgoing:
    return Outgoing(*encode_result_record(result_of(change), change.traceparent))
