"""One notification, to a terminal state. The contract suite holds the fakes to the real thing."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from infra.health import Readiness
from schemas.errors import TransientError
from schemas.states import State
from sender import channel as channels
from sender import deliver as delivering
from sender.channel import Channel
from sender.compose import Composer
from sender.deliver import Deliverer, Delivery
from sender.ladder import Ladder
from sender.replies import Judgement, Verdict
from tests.builders import make_enrolment
from tests.fakes import (
    ACCEPTED,
    CONFIGURATION,
    IN_DOUBT,
    PERMANENT,
    TRANSIENT,
    UNREACHABLE,
    FakeLedger,
    FakeRelay,
)

EARLY, LATE = True, False


class Lease:
    holds = True


class Publisher:
    def __init__(self):
        self.published = []

    async def publish(self, change):
        self.published.append(change)


class Bench:
    """A deliverer over fakes."""

    def __init__(self, *script, ledger=None, steps_s=()):
        self.ledger = ledger or FakeLedger()
        self.ledger.leases.add(self.ledger.worker)
        self.relay = FakeRelay(*script)
        self.lease = Lease()
        self.publisher = Publisher()
        self.readiness = Readiness()
        self.probes = [CONFIGURATION, ACCEPTED]
        self.channel = Channel(self._probe, self.readiness)
        self.deliverer = Deliverer(
            relay=self.relay,
            ledger=self.ledger,
            lease=self.lease,
            publisher=self.publisher,
            channel=self.channel,
            composer=Composer("relevo@example.org", ""),
            ladder=Ladder(0.001, steps_s, 86_400.0),
        )

    async def _probe(self):
        return self.probes.pop(0) if self.probes else ACCEPTED

    async def enrol(self, enrolment=None):
        enrolment = enrolment or make_enrolment()
        standing = (await self.ledger.enrol([enrolment]))[enrolment.notification.id]
        return Delivery(enrolment, standing)

    async def deliver(self, enrolment=None):
        delivery = await self.enrol(enrolment)
        async with asyncio.timeout(10):
            await self.deliverer.deliver(delivery)
        return delivery

    @property
    def told(self):
        return [(change.state, change.attempt) for change in self.publisher.published]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(delivering, "SETTLED_POLL_S", 0.001)
    monkeypatch.setattr(channels, "PROBE_WAIT_S_MIN", 0.001)


async def test_what_the_relay_takes_is_sent_once_and_told_once():
    bench = Bench()
    delivery = await bench.deliver()
    assert delivery.standing.state is State.SENT
    assert bench.relay.taken == ["receiver@example.org"]
    assert bench.told == [(State.SENT, 1)]


@pytest.mark.parametrize("when", [EARLY, LATE])
async def test_two_passing_refusals_then_accepted_is_sent_at_the_third_attempt(when):
    bench = Bench((TRANSIENT, when), (TRANSIENT, when))
    await bench.deliver()
    assert bench.told == [(State.RETRYING, 1), (State.RETRYING, 2), (State.SENT, 3)]


@pytest.mark.parametrize("when", [EARLY, LATE])
async def test_the_first_try_and_three_retries_then_failed(when):
    bench = Bench(*[(TRANSIENT, when)] * 9)
    await bench.deliver()
    assert bench.told == [(State.RETRYING, 1), (State.RETRYING, 2), (State.RETRYING, 3), (State.FAILED, 4)]
    assert bench.relay.offered == 4


@pytest.mark.parametrize("due_ago", [timedelta(seconds=1), None])
async def test_the_day_of_retries_begins_when_a_schedule_is_due(due_ago):
    scheduled_for = None if due_ago is None else datetime.now(UTC) - due_ago
    bench = Bench(*[(TRANSIENT, EARLY)] * 4, steps_s=(60.0,))
    # Accepted long ago, see tests.builders: without a schedule the day is over.
    await bench.deliver(make_enrolment(scheduled_for=scheduled_for))
    assert bench.told[-1] == (State.FAILED if due_ago is None else State.RETRYING, 4)


@pytest.mark.parametrize("when", [EARLY, LATE])
async def test_a_refusal_for_good_is_never_tried_again(when):
    bench = Bench((PERMANENT, when))
    await bench.deliver()
    assert bench.told == [(State.BOUNCED, 1)]
    assert bench.relay.offered == 1


async def test_silence_after_the_message_is_never_tried_again():
    bench = Bench((IN_DOUBT, LATE))
    await bench.deliver()
    assert bench.told == [(State.IN_DOUBT, 1)]
    assert bench.relay.offered == 1


async def test_a_finished_id_is_acknowledged_without_a_word_to_the_relay():
    bench = Bench()
    enrolment = make_enrolment()
    await bench.deliver(enrolment)
    await bench.deliver(enrolment)
    assert bench.relay.offered == 1
    assert len(bench.told) == 1


async def test_attempts_from_before_a_restart_count():
    first = Bench((TRANSIENT, EARLY))
    enrolment = make_enrolment()
    delivery = await first.enrol(enrolment)
    with pytest.raises(delivering._StillTransientError):
        await first.deliverer._attempt(delivery)
    again = Bench(*[(TRANSIENT, EARLY)] * 9, ledger=first.ledger.beside())
    await again.deliver(enrolment)
    assert again.told == [(State.RETRYING, 2), (State.RETRYING, 3), (State.FAILED, 4)]


async def test_copies_in_one_process_are_one_mail():
    bench = Bench()
    enrolment = make_enrolment()
    deliveries = [await bench.enrol(enrolment) for _ in range(5)]
    async with asyncio.timeout(10):
        await asyncio.gather(*(bench.deliverer.deliver(each) for each in deliveries))
    assert bench.relay.taken == ["receiver@example.org"]
    assert {each.standing.state for each in deliveries} == {State.SENT}


async def test_copies_in_two_processes_are_one_mail():
    one = Bench()
    other = Bench(ledger=one.ledger.beside())
    enrolment = make_enrolment()
    deliveries = [await one.enrol(enrolment), await other.enrol(enrolment)]
    async with asyncio.timeout(10):
        await asyncio.gather(one.deliverer.deliver(deliveries[0]), other.deliverer.deliver(deliveries[1]))
    assert len(one.relay.taken) + len(other.relay.taken) == 1
    assert {each.standing.state for each in deliveries} == {State.SENT}


async def test_what_a_dead_worker_had_claimed_is_left_to_end_in_doubt():
    dead = FakeLedger()
    dead.leases.add(dead.worker)
    enrolment = make_enrolment()
    await dead.enrol([enrolment])
    assert await dead.claim(enrolment.notification.id, 1)
    bench = Bench(ledger=dead.beside())
    delivery = await bench.enrol(enrolment)
    task = asyncio.create_task(bench.deliverer.deliver(delivery))
    await asyncio.sleep(0.02)
    assert not task.done(), "acknowledging it now would strand it"
    dead.leases.discard(dead.worker)
    assert await bench.ledger.give_up_abandoned(grace_s=0) == [State.IN_DOUBT]
    async with asyncio.timeout(10):
        await task
    assert bench.relay.taken == []
    assert delivery.standing.state is State.IN_DOUBT


async def test_a_worker_that_is_not_sure_of_its_lease_does_not_send():
    bench = Bench()
    bench.lease.holds = False
    delivery = await bench.enrol()
    task = asyncio.create_task(bench.deliverer.deliver(delivery))
    await asyncio.sleep(0.02)
    assert bench.relay.taken == []
    bench.lease.holds = True
    async with asyncio.timeout(10):
        await task
    assert bench.relay.taken == ["receiver@example.org"]


async def test_a_worker_that_was_frozen_after_its_claim_does_not_send_and_makes_the_same_attempt_later():
    bench = Bench()
    claim = bench.ledger.claim

    async def frozen_claim(*arguments):
        won = await claim(*arguments)
        bench.lease.holds = False
        return won

    bench.ledger.claim = frozen_claim
    delivery = await bench.enrol()
    task = asyncio.create_task(bench.deliverer.deliver(delivery))
    await asyncio.sleep(0.02)
    assert bench.relay.taken == []
    # Somebody else may have its record by now, and must not have to wait until we end.
    row = bench.ledger.rows[delivery.enrolment.notification.id]
    assert (row["state"], row["attempt"], row["worker"]) == (State.RETRYING, 0, None)
    bench.ledger.claim, bench.lease.holds = claim, True
    async with asyncio.timeout(10):
        await task
    assert bench.told == [(State.SENT, 1)]


async def test_an_outcome_that_comes_after_the_lease_ran_out_changes_nothing():
    bench = Bench()

    async def others_gave_it_up():
        bench.ledger.leases.discard(bench.ledger.worker)
        await bench.ledger.beside().give_up_abandoned(grace_s=0)

    bench.relay.before_answer = others_gave_it_up
    delivery = await bench.deliver()
    assert delivery.standing.state is State.IN_DOUBT
    assert bench.ledger.terminal_events(delivery.enrolment.notification.id) == [State.IN_DOUBT]
    assert bench.told == []


async def test_bad_credentials_stop_the_channel_and_burn_nobodys_attempt():
    bench = Bench((CONFIGURATION, EARLY))
    delivery = await bench.enrol()
    task = asyncio.create_task(bench.deliverer.deliver(delivery))
    async with asyncio.timeout(10):
        while "smtp" not in bench.readiness.reasons:  # noqa: ASYNC110 -- the state is the fact to wait for
            await asyncio.sleep(0)
        await task
    assert bench.told == [(State.SENT, 1)]
    assert bench.readiness.reasons == {}


async def test_a_relay_that_is_away_burns_nobodys_attempt():
    bench = Bench((UNREACHABLE, EARLY), (UNREACHABLE, EARLY))
    bench.probes = [UNREACHABLE, UNREACHABLE, ACCEPTED, ACCEPTED]
    await bench.deliver()
    assert bench.told == [(State.SENT, 1)]
    assert bench.readiness.reasons == {}


@pytest.mark.parametrize("when", [EARLY, LATE])
async def test_past_the_burst_it_waits_in_the_ledger_and_the_record_is_done(when):
    bench = Bench(*[(TRANSIENT, when)] * 4, steps_s=(60.0, 300.0))
    enrolment = replace(make_enrolment(), accepted_at=datetime.now(UTC))
    delivery = await bench.deliver(enrolment)
    assert bench.told == [(State.RETRYING, 1), (State.RETRYING, 2), (State.RETRYING, 3), (State.RETRYING, 4)]
    assert delivery.standing.parked
    # A copy of the record meanwhile has nothing to do.
    await bench.deliver(enrolment)
    assert bench.relay.offered == 4
    # Its time has come: one attempt a step.
    assert await bench.ledger.take_due() == [enrolment.notification.id]
    await bench.deliver(enrolment)
    assert bench.told[4:] == [(State.SENT, 5)]


async def test_a_day_after_acceptance_no_later_attempt_begins():
    bench = Bench(*[(TRANSIENT, EARLY)] * 9, steps_s=(60.0,))
    delivery = await bench.deliver(replace(make_enrolment(), accepted_at=datetime.now(UTC) - timedelta(days=1)))
    assert bench.told[-1] == (State.FAILED, 4)
    assert delivery.standing.terminal


async def test_a_delay_that_the_relay_names_is_honoured():
    wait = Judgement(Verdict.TRANSIENT, "smtp_451", "451 4.7.1 greylisted, try again in 300 seconds", 451)
    bench = Bench((wait, EARLY), steps_s=(60.0,))
    delivery = await bench.deliver(replace(make_enrolment(), accepted_at=datetime.now(UTC)))
    assert bench.told == [(State.RETRYING, 1)]
    assert delivery.standing.parked


@pytest.mark.parametrize("twice", [False, True])
async def test_who_asked_for_it_gets_what_is_in_doubt_once_more_and_not_a_third_time(twice):
    bench = Bench((IN_DOUBT, LATE), (IN_DOUBT if twice else ACCEPTED, LATE))
    enrolment = make_enrolment(on_doubt="resend")
    delivery = await bench.deliver(enrolment)
    assert (delivery.standing.state, delivery.standing.parked) == (State.RETRYING, True)
    await bench.ledger.take_due()
    await bench.deliver(enrolment)
    assert bench.told == [(State.RETRYING, 1), (State.IN_DOUBT if twice else State.SENT, 2)]
    await bench.deliver(enrolment)
    assert bench.relay.offered == 2


async def test_a_dead_workers_claim_is_sent_once_more_for_who_asked_for_it():
    dead = FakeLedger()
    dead.leases.add(dead.worker)
    enrolment = make_enrolment(on_doubt="resend")
    await dead.enrol([enrolment])
    await dead.claim(enrolment.notification.id, 1)
    dead.leases.clear()
    bench = Bench(ledger=dead.beside())
    await bench.ledger.give_up_abandoned(grace_s=0)
    await bench.ledger.take_due()
    await bench.deliver(enrolment)
    assert bench.told == [(State.SENT, 2)]


async def test_an_outage_of_the_ledger_at_any_step_costs_time_only():
    for step in range(4):
        bench = Bench()
        delivery = await bench.enrol()
        bench.relay.script = []
        if step == 0:
            bench.ledger.away = 3
        else:
            bench.relay.before_answer = lambda bench=bench, step=step: _away(bench, step)
        async with asyncio.timeout(10):
            await bench.deliverer.deliver(delivery)
        assert bench.told == [(State.SENT, 1)]
        assert bench.relay.taken == ["receiver@example.org"]


async def _away(bench, times):
    bench.ledger.away = times


async def test_between_claim_and_outcome_a_delivery_is_critical():
    bench = Bench()
    delivery = await bench.enrol()
    seen = []

    async def look():
        seen.append(delivery.critical)

    bench.relay.before_answer = look
    await bench.deliverer.deliver(delivery)
    assert seen == [True]
    assert not delivery.critical


def in_seconds(seconds):
    return datetime.now(UTC) + timedelta(seconds=seconds)


async def test_what_is_for_later_is_left_in_the_ledger():
    bench = Bench()
    delivery = await bench.deliver(make_enrolment(scheduled_for=in_seconds(60)))
    assert (delivery.standing.state, delivery.standing.parked) == (State.SCHEDULED, True)
    assert bench.relay.offered == 0
    await bench.ledger.take_due()
    await bench.deliver(delivery.enrolment)
    assert bench.told == [(State.SENT, 1)]


@pytest.mark.parametrize("change", ["cancelled", "put off"])
@pytest.mark.parametrize("script", [(), ((TRANSIENT, EARLY),)], ids=["taken", "refused before the claim"])
async def test_what_changes_while_it_is_offered_is_not_sent_and_not_told(change, script):
    bench = Bench(*script)
    delivery = await bench.enrol()
    identity = delivery.enrolment.notification.id
    send = bench.relay.send

    async def meanwhile(mail, before_data):
        if change == "cancelled":
            await bench.ledger.cancel(identity)
        else:
            await bench.ledger.reschedule(identity, in_seconds(60))
        return await send(mail, before_data)

    bench.relay.send = meanwhile
    async with asyncio.timeout(10):
        await bench.deliverer.deliver(delivery)
    assert delivery.standing.state is (State.CANCELLED if change == "cancelled" else State.SCHEDULED)
    assert bench.relay.taken == []
    assert bench.told == []


async def test_what_has_run_out_of_time_is_ended_without_a_word_to_the_relay():
    bench = Bench()
    delivery = await bench.deliver(make_enrolment(expires_at=in_seconds(-1)))
    assert delivery.standing.state is State.EXPIRED
    assert bench.relay.offered == 0
    # The sweep tells of it: its event is of nobody who is about to publish it.
    assert bench.told == []
    assert bench.ledger.terminal_events(delivery.enrolment.notification.id) == [State.EXPIRED]


async def test_what_runs_out_of_time_while_the_relay_is_away_does_not_wait_for_it():
    bench = Bench((UNREACHABLE, EARLY))
    bench.probes = [UNREACHABLE] * 1_000_000
    delivery = await bench.deliver(make_enrolment(expires_at=in_seconds(0.05)))
    assert delivery.standing.state is State.EXPIRED
    assert bench.relay.taken == []
    await bench.channel.close()


async def test_a_claim_whose_answer_is_lost_until_it_is_too_late_ends_as_expired():
    bench = Bench()
    enrolment = make_enrolment(expires_at=in_seconds(0.05))
    delivery = await bench.enrol(enrolment)
    claim = bench.ledger.claim

    async def deaf(identity, attempt, forward=None):
        if await claim(identity, attempt, forward):
            await asyncio.sleep(0.1)
            raise TransientError("Postgres: the connection broke off")
        return False

    bench.ledger.claim = deaf
    async with asyncio.timeout(10):
        await bench.deliverer.deliver(delivery)
    assert bench.relay.taken == []
    assert (bench.ledger.rows[enrolment.notification.id]["state"], bench.told) == (State.EXPIRED, [])


async def test_between_two_attempts_it_can_be_called_off():
    bench = Bench((TRANSIENT, LATE))
    delivery = await bench.enrol()
    tell = bench.publisher.publish

    async def publish(change):
        await tell(change)
        await bench.ledger.cancel(change.id)

    bench.publisher.publish = publish
    async with asyncio.timeout(10):
        await bench.deliverer.deliver(delivery)
    assert bench.told == [(State.RETRYING, 1)]
    assert bench.relay.taken == []
    assert bench.ledger.terminal_events(delivery.enrolment.notification.id) == [State.CANCELLED]
