"""The relay: a row leaves the outbox when, and only when, the broker has it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from ingest.relay import ROWS_WAITING_MAX, Marker, Relay
from ingest.store import FAST_PATH_S, Backlog
from ingest.sweep import Gate, Sweep
from schemas.errors import TransientError
from tests.unit.ingest.fakes import FakeBroker, FakeOutbox, make_accepted


@pytest.fixture
def broker():
    return FakeBroker()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr("ingest.relay._MARK_WAIT_S", 0)


async def relayed(broker, outbox, rows):
    relay = Relay(broker, Marker(outbox))
    relay.offer(rows)
    await relay.start()
    await relay.stop(5.0)


async def test_what_is_committed_together_is_one_record(broker):
    rows = [make_accepted() for _ in range(3)]
    outbox = FakeOutbox(rows)
    await relayed(broker, outbox, rows)
    assert broker.records == [rows]
    assert not outbox.waiting


async def test_a_record_carries_at_most_500(broker):
    rows = [make_accepted() for _ in range(1201)]
    outbox = FakeOutbox(rows)
    await relayed(broker, outbox, rows)
    assert [len(record) for record in broker.records] == [500, 500, 201]
    assert not outbox.waiting


async def test_what_the_broker_did_not_acknowledge_stays_in_the_outbox(broker):
    rows = [make_accepted()]
    outbox = FakeOutbox(rows)
    broker.down = True
    await relayed(broker, outbox, rows)
    assert len(outbox.waiting) == 1


async def test_a_row_that_somebody_holds_is_marked_a_moment_later(broker):
    rows = [make_accepted() for _ in range(2)]
    outbox = FakeOutbox(rows)
    outbox.held = {rows[0].notification.id: 3}
    await relayed(broker, outbox, rows)
    assert not outbox.waiting


async def test_an_outbox_that_is_away_keeps_its_rows_and_stops_nobody(broker):
    rows = [make_accepted()]
    outbox = FakeOutbox(rows)
    outbox.down = True
    await relayed(broker, outbox, rows)
    assert len(outbox.waiting) == 1


async def test_beyond_its_bound_rows_are_left_to_the_sweep(broker):
    relay = Relay(broker, Marker(FakeOutbox()))
    row = make_accepted()
    relay.offer([row] * ROWS_WAITING_MAX)
    relay.offer([make_accepted()])
    await relay.start()
    await relay.stop(5.0)
    assert sum(map(len, broker.records)) == ROWS_WAITING_MAX


async def test_large_bodies_fill_it_sooner(broker):
    relay = Relay(broker, Marker(FakeOutbox()))
    for _ in range(2000):
        relay.offer([make_accepted(body="x" * 60_000)])
    await relay.start()
    await relay.stop(5.0)
    assert sum(map(len, broker.records)) == 64 * 1024 * 1024 // 60_000


async def test_rows_that_a_sweep_may_have_by_now_are_its_own(broker):
    old = make_accepted(datetime.now(UTC) - timedelta(seconds=FAST_PATH_S - 1))
    new = make_accepted()
    await relayed(broker, FakeOutbox([old, new]), [old, new])
    assert broker.records == [[new]]


async def test_a_defect_in_publishing_does_not_end_the_relay():
    class Broken(FakeBroker):
        async def publish(self, rows):
            if not self.records:
                self.records.append([])
                raise ZeroDivisionError
            return await super().publish(rows)

    broker, outbox = Broken(), FakeOutbox()
    relay = Relay(broker, Marker(outbox))
    await relay.start()
    relay.offer([make_accepted()])
    await asyncio.sleep(0.01)
    row = make_accepted()
    relay.offer([row])
    await relay.stop(5.0)
    assert broker.records[-1] == [row]


async def test_a_sweep_publishes_what_was_left_behind(broker):
    outbox = FakeOutbox([make_accepted() for _ in range(700)])
    sweep = Sweep(outbox, broker, Marker(outbox), Gate(rows_max=10, age_s_max=10))
    assert [await sweep.sweep_once() for _ in range(3)] == [500, 200, 0]
    assert not outbox.waiting


async def test_a_sweep_that_cannot_publish_gives_its_rows_back(broker):
    outbox = FakeOutbox([make_accepted()])
    broker.down = True
    sweep = Sweep(outbox, broker, Marker(outbox), Gate(rows_max=10, age_s_max=10))
    assert await sweep.sweep_once() == 0
    assert outbox.released == list(outbox.waiting)


async def test_a_sweep_says_that_the_ledger_is_away(broker):
    outbox = FakeOutbox([make_accepted()])
    outbox.down = True
    with pytest.raises(TransientError):
        await Sweep(outbox, broker, Marker(outbox), Gate(rows_max=10, age_s_max=10)).sweep_once()


@pytest.mark.parametrize(
    ("rows", "oldest_s", "full"), [(0, 0, False), (10, 0, False), (11, 0, True), (1, 10.5, True), (1, 9.5, False)]
)
def test_the_gate_closes_on_count_and_on_age_and_opens_again(rows, oldest_s, full):
    gate = Gate(rows_max=10, age_s_max=10.0)
    assert gate.count_to == 11
    gate.look(Backlog(rows, oldest_s))
    assert gate.full is full
    gate.look(Backlog(0, 0.0))
    assert gate.full is False
