"""The feed on real servers: what it counts and remembers, and how its readers go on."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import RebalanceInProgressError

from infra.background import Background
from infra.health import Readiness
from infra.metrics import FEED_LAG
from infra.postgres import open_pool
from infra.record_writer import Outgoing, RecordWriter
from schemas.errors import TransientError
from schemas.identity import new_id
from schemas.messages import Reason
from schemas.records import encode_result_record
from schemas.states import State
from schemas.topics import RESULTS
from sender.feed import reader as reader_module
from sender.feed.reader import ResultsReader
from sender.feed.results import read_result
from sender.feed.statistics import FORGET_ROWS_MAX, Statistics
from sender.feed.store import FeedStore
from sender.ledger import Ledger, Outcome
from tests.builders import make_enrolment
from tests.integration.ingest.process import make_database
from tests.results import AT, as_record, make_change, make_rejection


@pytest.fixture(scope="module")
def database(servers):
    return asyncio.run(make_database(servers.postgres_dsn))


@pytest.fixture
async def pool(database):
    opened = await open_pool(database, name="test", connections_max=4)
    yield opened
    await opened.execute("TRUNCATE outcome_counts, counted_events")
    await opened.close()


async def counts(pool):
    rows = await pool.fetch("SELECT * FROM outcome_counts ORDER BY status")
    return [(row["hour"], row["status"], row["channel"], row["producer"], row["count"]) for row in rows]


HOUR = AT.replace(minute=0)


async def test_each_event_is_counted_once_however_often_and_by_whomever_it_is_read(pool):
    read = [read_result(as_record(make_change(producer="billing"))) for _ in range(50)]
    read.append(read_result(as_record(make_rejection())))
    store = FeedStore(pool)
    added = await asyncio.gather(*(store.count(some) for some in (read, read[::-1], read[10:40])))
    assert sum(added) == len(read)
    assert await store.count(read) == 0
    assert await counts(pool) == [(HOUR, "rejected", "email", "", 1), (HOUR, "sent", "email", "billing", 50)]


async def test_a_database_that_breaks_off_has_counted_all_or_nothing(pool):
    read = [read_result(as_record(make_change())) for _ in range(3)]
    await pool.execute("ALTER TABLE outcome_counts ADD CONSTRAINT no_room CHECK (count < 3)")
    store = FeedStore(pool)
    with pytest.raises(Exception, match="no_room"):
        await store.count(read)
    await pool.execute("ALTER TABLE outcome_counts DROP CONSTRAINT no_room")
    assert await store.count(read) == 3


async def test_what_is_forgotten_stays_in_the_counts(pool):
    store, background = FeedStore(pool), Background(Readiness())
    old, new = (read_result(as_record(make_change())) for _ in range(2))
    await store.count([old])
    await pool.execute("UPDATE counted_events SET counted_at = now() - interval '60 days'")
    await store.count([new])
    await Statistics(store, background)._forget()
    assert [row["event_id"] for row in await pool.fetch("SELECT event_id FROM counted_events")] == [new.event_id]
    assert await counts(pool) == [(HOUR, "sent", "email", "", 2)]
    assert await store.forget_counted(older_than_s=0, rows_max=FORGET_ROWS_MAX) == 1
    await background.stop()


async def test_the_latest_change_is_what_the_ledger_has_last(pool):
    ledger = Ledger(pool, worker=new_id(), worker_name="one")
    queued, bounced = make_enrolment(), make_enrolment(producer="billing")
    await ledger.enrol([queued, bounced])
    identity = bounced.notification.id
    why = Reason("permanent", "smtp_550", "550 no")
    await ledger.record(Outcome(identity, 1, False, State.BOUNCED, why, 5, datetime.now(UTC)))
    found = await FeedStore(pool).latest([queued.notification.id, identity, uuid4()])
    assert found.keys() == {identity}
    assert (found[identity].seq, found[identity].state, found[identity].producer) == (2, State.BOUNCED, "billing")


async def write(servers, ids):
    writer = RecordWriter(servers.kafka_bootstrap, name="test")
    await writer.write_by_key(RESULTS, [Outgoing(*encode_result_record(make_change(id=each))) for each in ids])
    await writer.close()


class Reading:
    """A reader that runs, of a group of its own."""

    def __init__(self, servers, group):
        self.seen = []
        self.refusals = []
        self.readiness = Readiness()
        self.background = Background(self.readiness)
        self.stop = asyncio.Event()
        self.reader = ResultsReader(
            servers.kafka_bootstrap,
            group=group,
            name="test",
            handle=self.handle,
            readiness=self.readiness,
            background=self.background,
            static=False,
        )
        self.task = asyncio.create_task(self.reader.run(self.stop))

    async def handle(self, records):
        if self.refusals:
            raise self.refusals.pop(0)
        self.seen += [record.key.decode() for record in records]

    async def until(self, truth):
        async with asyncio.timeout(30):
            while not truth(self):
                assert not self.task.done(), self.task
                await asyncio.sleep(0.02)

    async def end(self):
        self.stop.set()
        await asyncio.wait_for(self.task, 15)
        await self.background.stop()


async def test_a_reader_hands_on_what_failed_again_and_goes_on_where_it_stood(servers):
    group = f"test.{uuid4()}.reader"
    ids = {str(uuid4()) for _ in range(20)}
    await write(servers, ids)
    reading = Reading(servers, group)
    assert reading.readiness.reasons == {"reader": "no partition assigned yet"}
    reading.refusals = [TransientError("Postgres: away"), RuntimeError("a bug"), TransientError("Postgres: away")]
    await reading.until(lambda each: ids <= set(each.seen))
    assert not reading.refusals
    assert not reading.readiness.reasons
    await reading.end()

    more = {str(uuid4()) for _ in range(5)}
    await write(servers, more)
    again = Reading(servers, group)
    await again.until(lambda each: more <= set(each.seen))
    assert not ids & set(again.seen)
    await again.end()


async def test_a_bug_turns_it_red_and_passes_nothing_over(servers):
    identity = str(uuid4())
    await write(servers, [identity])
    reading = Reading(servers, f"test.{uuid4()}.reader")
    reading.refusals = [RuntimeError("a bug")] * 10_000
    await reading.until(lambda each: "a bug of ours" in each.readiness.reasons.get("reader", ""))
    assert not reading.seen
    reading.refusals.clear()
    await reading.until(lambda each: identity in each.seen)
    assert not reading.readiness.reasons
    await reading.end()


async def test_told_to_stop_it_leaves_what_it_could_not_hand_on(servers):
    group, identity = f"test.{uuid4()}.reader", str(uuid4())
    await write(servers, [identity])
    reading = Reading(servers, group)
    reading.refusals = [TransientError("away")] * 10_000
    await reading.until(lambda each: "reader" in each.readiness.reasons and len(each.refusals) < 10_000)
    await reading.end()
    assert not reading.seen
    again = Reading(servers, group)
    await again.until(lambda each: identity in each.seen)
    await again.end()


def _furthest(committed):
    return {tp: max(each.get(tp, 0) for each in committed) for each in committed for tp in each}


async def test_a_refused_commit_is_made_up_for_though_nothing_more_comes(servers, monkeypatch):
    refused, committed = [], []
    commit = AIOKafkaConsumer.commit

    async def refusing(consumer, offsets):
        if len(refused) < 2:
            refused.append(offsets)
            raise RebalanceInProgressError
        await commit(consumer, offsets)
        committed.append(offsets)

    monkeypatch.setattr(AIOKafkaConsumer, "commit", refusing)
    group, identity = f"test.{uuid4()}.reader", str(uuid4())
    await write(servers, [identity])
    reading = Reading(servers, group)
    await reading.until(lambda each: identity in each.seen and len(refused) == 2)
    # What others left on the topic may have come meanwhile, and then goes along.
    await reading.until(lambda _: all(_furthest(committed).get(tp, 0) >= at for tp, at in refused[0].items()))
    await reading.end()


async def test_what_waits_is_told_and_then_nothing_waits(servers, monkeypatch):
    monkeypatch.setattr(reader_module, "LAG_INTERVAL_S", 0.05)
    group = f"test.{uuid4()}.lagging"
    reading = Reading(servers, group)
    reading.refusals = [TransientError("away")] * 10_000
    await write(servers, [str(uuid4()) for _ in range(3)])
    await reading.until(lambda _: FEED_LAG.labels("lagging")._value.get() >= 3)
    reading.refusals.clear()
    await reading.until(lambda _: FEED_LAG.labels("lagging")._value.get() == 0)
    await reading.end()
