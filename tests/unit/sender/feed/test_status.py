"""The projection of the latest state: whatever comes in whatever order, what is written last is the latest."""

import asyncio
import json
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import TransientError
from schemas.messages import Reason
from schemas.states import State
from schemas.topics import STATUS
from sender.changes import Unpublished
from sender.feed.status import StatusProjection
from tests.fakes import FakeWriter
from tests.results import AT, as_record, make_change, make_rejection

IDS = [UUID(int=number) for number in range(1, 4)]
STATES = [State.QUEUED, State.RETRYING, State.RETRYING, State.RETRYING, State.SENT]


def result_at(notification_id, seq):
    return make_change(id=notification_id, seq=seq, status=STATES[seq - 1])


def change_at(notification_id, seq):
    return Unpublished(
        id=notification_id,
        seq=seq,
        state=STATES[seq - 1],
        attempt=1,
        reason=Reason("ok", "sent", "250 ok"),
        channel="email",
        source=None,
        recipient_hash=None,
        accepted_at=AT,
        occurred_at=AT,
        traceparent=None,
        metadata=None,
        producer=None,
        replay_of=None,
        test=False,
    )


class Ledger:
    """What the ledger knows: the number of the last change of each id. That it is queued is no event there."""

    def __init__(self):
        self.seqs = {}

    async def latest(self, ids):
        return {each: change_at(each, self.seqs[each]) for each in ids if self.seqs.get(each, 1) > 1}


def latest_on(writer):
    """What compaction would keep."""
    return {each.key.decode(): json.loads(each.value)["seq"] for each in writer.on(STATUS)}


@given(st.lists(st.integers(1, len(STATES)), min_size=1, max_size=len(IDS)), st.data())
def test_shuffled_and_repeated_results_end_at_the_latest_of_each_id(lengths, data):
    events = [(IDS[at], seq) for at, length in enumerate(lengths) for seq in range(1, length + 1)]
    copies = data.draw(st.lists(st.sampled_from(events), max_size=10))
    order = data.draw(st.permutations(events + copies))
    size = data.draw(st.integers(1, 6))
    ledger, writer = Ledger(), FakeWriter()
    projection = StatusProjection(ledger, writer)

    async def feed():
        for begin in range(0, len(order), size):
            batch = order[begin : begin + size]
            for identity, seq in batch:
                # A change is in the ledger before its result is anywhere.
                ledger.seqs[identity] = max(seq, ledger.seqs.get(identity, 0))
            await projection.handle([as_record(result_at(*each)) for each in batch])

    asyncio.run(feed())
    assert latest_on(writer) == {str(IDS[at]): length for at, length in enumerate(lengths)}


async def test_a_result_of_an_id_that_no_sender_has_enrolled_yet_is_written_as_it_is():
    writer = FakeWriter()
    record = as_record(result_at(IDS[0], 1))
    await StatusProjection(Ledger(), writer).handle([record])
    [(_, written)] = writer.written
    assert (written.key, written.value, tuple(written.headers)) == (record.key, record.value, record.headers)


async def test_what_the_ledger_makes_of_a_change_is_the_result_that_its_sender_publishes():
    ledger, writer = Ledger(), FakeWriter()
    ledger.seqs[IDS[0]] = 5
    await StatusProjection(ledger, writer).handle([as_record(result_at(IDS[0], 2))])
    [written] = writer.on(STATUS)
    told = json.loads(written.value)
    assert (told["seq"], told["status"], told["event_id"]) == (5, "sent", str(result_at(IDS[0], 5).event_id))
    assert dict(written.headers).keys() >= {"ce_id", "ce_type"}


async def test_rejections_and_what_is_no_result_are_left_out():
    writer = FakeWriter()
    odd = [
        as_record(make_rejection()),
        as_record(make_rejection(notification_id=IDS[0])),
        as_record(b"\xff"),
        as_record(None),
    ]
    await StatusProjection(Ledger(), writer).handle([*odd, as_record(result_at(IDS[1], 1))])
    assert latest_on(writer) == {str(IDS[1]): 1}


async def test_who_wakes_up_with_an_old_result_in_hand_puts_the_newer_one_back():
    """It had asked the ledger; its successor wrote the next result; then its own write arrived."""
    ledger, writer = Ledger(), FakeWriter()
    frozen, written = asyncio.Event(), asyncio.Event()

    class Slow:
        async def write_by_key(self, topic, records):
            if not written.is_set():
                frozen.set()
                await written.wait()
            await writer.write_by_key(topic, records)

    ledger.seqs[IDS[0]] = 2
    old = asyncio.create_task(StatusProjection(ledger, Slow()).handle([as_record(result_at(IDS[0], 2))]))
    await frozen.wait()
    ledger.seqs[IDS[0]] = 3
    await StatusProjection(ledger, writer).handle([as_record(result_at(IDS[0], 3))])
    written.set()
    await old
    assert [json.loads(each.value)["seq"] for each in writer.on(STATUS)] == [3, 2, 3]


async def test_while_kafka_is_away_nothing_counts_as_handled():
    writer = FakeWriter()
    writer.away = 1
    projection = StatusProjection(Ledger(), writer)
    with pytest.raises(TransientError):
        await projection.handle([as_record(result_at(IDS[0], 1))])
    await projection.handle([as_record(result_at(IDS[0], 1))])
    assert latest_on(writer) == {str(IDS[0]): 1}
