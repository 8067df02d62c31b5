"""What was taken to be put back and was not written is free again at once, where that is known."""

import asyncio
from datetime import UTC, datetime

import pytest
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from infra.background import Background
from infra.health import Readiness
from infra.metrics import OUTCOMES, UNACCOUNTED
from schemas.errors import TransientError
from schemas.messages import Source
from schemas.records import decode_deduplicated
from schemas.states import State
from sender.parking import Expired, Waiting
from sender.putting_back import LEASE_S, DueAttempts, Reconciler
from tests.builders import ACCEPTED_AT, make_notification


class Ledger:
    """Rows that are due or forgotten; `leased` are those that somebody has taken."""

    def __init__(self, count):
        source = Source("kafka", 3, 912, 0)
        self.rows = [Waiting(make_notification(), source, ACCEPTED_AT, ACCEPTED_AT) for _ in range(count)]
        self.leased, self.held = set(), []
        self.late = []
        self.away = False

    async def expire(self, *, rows_max):
        late, self.late = self.late[:rows_max], self.late[rows_max:]
        return late

    async def take_due(self, *, rows_max, lease_s):
        taken = [each for each in self.rows if each.notification.id not in self.leased][:rows_max]
        self.leased |= {each.notification.id for each in taken}
        return taken

    async def take_forgotten(self, *, before, rows_max, lease_s):
        assert before < datetime.now(UTC)
        return await self.take_due(rows_max=rows_max, lease_s=lease_s)

    async def hold(self, put_back, *, hold_s):
        assert hold_s > LEASE_S
        if self.away:
            raise TransientError("Postgres: away")
        self.held += [each.notification.id for each in put_back]

    async def give_back(self, ids):
        if self.away:
            raise TransientError("Postgres: away")
        self.leased -= set(ids)


class Writer:
    """Fails with what *causes* name, in turn, as the producer does; then it writes."""

    def __init__(self, *causes):
        self.causes = list(causes)
        self.written = []

    async def write(self, topic, records):
        if self.causes:
            raise TransientError("Kafka") from self.causes.pop(0)
        self.written += [decode_deduplicated(each.value, each.headers)[0].id for each in records]


class Passed:
    async def ends(self, topic):
        return {0: 1}

    async def passed(self, group, topic, ends):
        return True


def due(ledger, writer):
    return DueAttempts(ledger, writer, Background(Readiness()))


@pytest.fixture(autouse=True)
async def only_turns_of_ours(monkeypatch):
    monkeypatch.setattr(Background, "start", lambda *_given, **_options: None)


async def test_what_could_not_be_written_is_put_back_by_the_next_turn():
    ledger, writer = Ledger(3), Writer(KafkaConnectionError(), KafkaConnectionError())
    attempts = due(ledger, writer)
    for _ in range(2):
        with pytest.raises(TransientError):
            await attempts.turn()
        assert ledger.leased == set()
        assert ledger.held == []
    await attempts.turn()
    assert writer.written == ledger.held == [each.notification.id for each in ledger.rows]


async def test_what_may_have_been_written_waits_for_the_end_of_its_lease():
    ledger, writer = Ledger(3), Writer(MessageSizeTooLargeError())
    attempts = due(ledger, writer)
    with pytest.raises(TransientError):
        await attempts.turn()
    await attempts.turn()
    assert len(ledger.leased) == 3
    assert writer.written == ledger.held == []


async def test_what_cannot_be_given_back_waits_for_the_end_of_its_lease():
    ledger, writer = Ledger(1), Writer(KafkaConnectionError())
    ledger.away = True
    with pytest.raises(TransientError):
        await due(ledger, writer).turn()
    assert len(ledger.leased) == 1


async def test_what_was_put_back_and_cannot_be_held_is_told_and_free_when_its_lease_ends():
    ledger, writer = Ledger(1), Writer()
    ledger.away = True
    with pytest.raises(TransientError):
        await due(ledger, writer).turn()
    assert len(writer.written) == len(ledger.leased) == 1


async def test_what_was_forgotten_stays_an_alert_until_it_is_put_back():
    ledger, writer = Ledger(2), Writer(*[KafkaConnectionError()] * 2)
    reconciler = Reconciler(ledger, writer, Passed(), Background(Readiness()))
    for _ in range(2):
        with pytest.raises(TransientError):
            await reconciler.turn()
        assert UNACCOUNTED._value.get() == 2
    await reconciler.turn()
    assert len(writer.written) == 2
    await reconciler.turn()
    assert UNACCOUNTED._value.get() == 0


async def test_a_turn_that_is_broken_off_under_way_gives_nothing_back():
    ledger, writer = Ledger(1), Writer()
    writing = asyncio.Event()

    async def hang(_topic, _records):
        writing.set()
        await asyncio.Event().wait()

    writer.write = hang
    turn = asyncio.create_task(due(ledger, writer).turn())
    await writing.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert len(ledger.leased) == 1


async def test_what_ran_out_of_time_is_ended_first_and_counted_but_for_what_is_simulated():
    ledger, writer = Ledger(1), Writer()
    ledger.late = [Expired(State.EXPIRED, test=False), Expired(State.EXPIRED, test=True)]
    before = OUTCOMES.labels("expired")._value.get()
    await due(ledger, writer).turn()
    assert ledger.late == []
    assert len(writer.written) == 1
    assert OUTCOMES.labels("expired")._value.get() == before + 1
