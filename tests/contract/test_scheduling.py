"""One suite over the real ledger, with what ingest changes in it, and the fake: schedules, expiry, calling off."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from infra.postgres import open_pool
from ingest.scheduling_store import RESCHEDULINGS_MAX, SchedulingStore
from schemas.identity import new_id
from schemas.messages import Reason
from schemas.states import State
from sender.ledger import Ledger, Outcome
from sender.parking import Expired, Parking
from tests.builders import make_enrolment
from tests.fakes import FakeLedger
from tests.integration.ingest.process import make_database

LATER = timedelta(hours=1)


@pytest.fixture(scope="module")
def database(servers):
    """A ledger of its own: whoever runs beside the tests would take what is due, too."""
    # In a thread: an asynchronous fixture asks for this one from inside its loop.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, make_database(servers.postgres_dsn)).result()


@pytest.fixture(params=["fake", "real"])
async def place(request):
    """Two workers over one ledger, and what ingest does to its rows."""
    if request.param == "fake":
        one = FakeLedger()
        workers, changes, parking = (one, one.beside()), one, _FakeParking(one)
        closing = ()
    else:
        dsn = request.getfixturevalue("database")
        pool = await open_pool(dsn, name="test", connections_max=4)
        workers = tuple(Ledger(pool, worker=new_id(), worker_name=name) for name in ("one", "two"))
        changes = _AsOneClient(SchedulingStore(dsn, name="test"))
        parking = Parking(pool)
        closing = (changes.store.close, pool.close)
    for worker in workers:
        await worker.renew_lease(60)
    yield SimpleNamespace(one=workers[0], other=workers[1], changes=changes, parking=parking)
    for close in closing:
        await close()


class _FakeParking:
    def __init__(self, ledger):
        self.expire, self.take_due = ledger.expire_parked, ledger.take_due


class _AsOneClient:
    def __init__(self, store):
        self.store = store

    async def cancel(self, notification_id):
        return await self.store.cancel(notification_id, "billing") is not None

    async def reschedule(self, notification_id, due_at):
        return await self.store.reschedule(notification_id, "billing", due_at)


async def enrolled(place, **changes):
    enrolment = make_enrolment(**changes)
    await place.one.enrol([enrolment])
    return enrolment.notification.id


async def expiring(place, **changes):
    """Enrol what expires in a moment."""
    return await enrolled(place, expires_at=now() + timedelta(seconds=0.4), **changes)


async def until_expired(place, identity):
    for _ in range(500):
        if (await place.one.standing(identity)).expired:
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it does not expire")


def now():
    return datetime.now(UTC)


def outcome(identity, attempt, state, *, claimed=True, doubt=False, next_attempt_at=None):
    why = Reason("transient", "smtp_451", "451 later")
    return Outcome(identity, attempt, claimed, state, why, 12, now(), next_attempt_at=next_attempt_at, doubt=doubt)


async def test_what_is_for_later_waits_in_the_ledger_and_cannot_be_claimed(place):
    identity = await enrolled(place, scheduled_for=now() + LATER)
    standing = await place.one.standing(identity)
    assert (standing.state, standing.parked, standing.attempt) == (State.SCHEDULED, True, 0)
    assert not await place.one.claim(identity, 1)


async def test_a_time_that_has_passed_means_now(place):
    identity = await enrolled(place, scheduled_for=now() - LATER)
    standing = await place.one.standing(identity)
    assert (standing.state, standing.parked) == (State.QUEUED, False)
    assert await place.one.claim(identity, 1)


@pytest.mark.parametrize("scheduled", [True, False], ids=["scheduled", "queued"])
async def test_what_was_cancelled_can_never_be_claimed(place, scheduled):
    identity = await enrolled(place, scheduled_for=now() + LATER if scheduled else None)
    assert await place.changes.cancel(identity)
    assert not await place.changes.cancel(identity)
    assert not await place.one.claim(identity, 1)
    assert await place.one.record(outcome(identity, 1, State.BOUNCED, claimed=False)) is None
    standing = await place.one.standing(identity)
    assert (standing.state, standing.terminal, standing.attempt) == (State.CANCELLED, True, 0)


async def test_what_was_claimed_is_neither_cancelled_nor_put_off(place):
    identity = await enrolled(place)
    assert await place.one.claim(identity, 1)
    assert not await place.changes.cancel(identity)
    assert not await place.changes.reschedule(identity, now() + LATER)
    assert await place.one.record(outcome(identity, 1, State.SENT)) == 2
    assert not await place.changes.cancel(identity)


async def test_what_waits_for_another_attempt_can_be_cancelled_and_not_put_off(place):
    identity = await enrolled(place)
    parked = outcome(identity, 1, State.RETRYING, claimed=False, next_attempt_at=now() + LATER)
    await place.one.record(parked)
    assert not await place.changes.reschedule(identity, now() + LATER)
    assert await place.changes.cancel(identity)
    standing = await place.one.standing(identity)
    assert (standing.state, standing.attempt, standing.parked) == (State.CANCELLED, 1, False)


async def test_what_may_have_been_sent_is_not_called_off(place):
    identity = await enrolled(place, on_doubt="resend")
    await place.one.claim(identity, 1)
    await place.one.record(outcome(identity, 1, State.RETRYING, doubt=True, next_attempt_at=now() + LATER))
    assert not await place.changes.cancel(identity)


async def test_what_is_put_off_in_the_hands_of_a_worker_loses_its_claim_and_its_outcome(place):
    identity = await enrolled(place)
    assert await place.changes.reschedule(identity, now() + LATER)
    assert not await place.one.claim(identity, 1)
    # The relay had refused its recipient for now, before the claim: that must not bring it forward.
    soon = outcome(identity, 1, State.RETRYING, claimed=False, next_attempt_at=now() + timedelta(seconds=1))
    assert await place.one.record(soon) is None
    standing = await place.one.standing(identity)
    assert (standing.state, standing.parked, standing.attempt) == (State.SCHEDULED, True, 0)


async def test_what_is_brought_forward_to_now_can_be_claimed(place):
    identity = await enrolled(place, scheduled_for=now() + LATER)
    assert await place.changes.reschedule(identity, None)
    assert await place.one.claim(identity, 1)


async def test_what_is_on_its_way_is_not_brought_forward(place):
    identity = await enrolled(place)
    assert not await place.changes.reschedule(identity, None)
    assert (await place.one.standing(identity)).state is State.QUEUED


async def test_nothing_is_put_off_beyond_the_time_it_has(place):
    identity = await enrolled(place, scheduled_for=now() + LATER, expires_at=now() + 2 * LATER)
    assert not await place.changes.reschedule(identity, now() + 3 * LATER)
    assert await place.changes.reschedule(identity, now() + 1.5 * LATER)


async def test_what_ran_out_of_time_is_not_claimed_and_ends_once(place):
    identity = await expiring(place)
    await until_expired(place, identity)
    assert not await place.one.claim(identity, 1)
    assert await place.one.expire(identity) == Expired(State.EXPIRED, test=False)
    assert await place.other.expire(identity) is None
    standing = await place.one.standing(identity)
    assert (standing.state, standing.attempt) == (State.EXPIRED, 0)


async def test_what_has_time_left_is_not_ended(place):
    identity = await enrolled(place, expires_at=now() + LATER)
    assert await place.one.expire(identity) is None
    assert await place.one.claim(identity, 1)


async def test_a_claim_whose_answer_came_too_late_is_ended_by_who_made_it_alone(place):
    identity = await expiring(place)
    assert await place.one.claim(identity, 1)
    await until_expired(place, identity)
    assert not await place.one.claim(identity, 1)
    assert await place.other.expire(identity) is None
    assert await place.one.expire(identity) == Expired(State.EXPIRED, test=False)
    assert (await place.one.standing(identity)).attempt == 0


async def test_what_waits_for_its_next_attempt_ends_when_its_time_runs_out(place):
    identity = await expiring(place)
    await place.one.record(outcome(identity, 1, State.RETRYING, claimed=False, next_attempt_at=now() + LATER))
    await until_expired(place, identity)
    assert await place.parking.expire(rows_max=500) == [Expired(State.EXPIRED, test=False)]
    standing = await place.one.standing(identity)
    assert (standing.state, standing.attempt) == (State.EXPIRED, 1)


async def test_what_was_handed_over_unseen_and_has_no_time_for_a_copy_stays_in_doubt(place):
    identity = await expiring(place, on_doubt="resend")
    await place.one.claim(identity, 1)
    await place.one.record(outcome(identity, 1, State.RETRYING, doubt=True, next_attempt_at=now() + LATER))
    await until_expired(place, identity)
    assert await place.parking.expire(rows_max=500) == [Expired(State.IN_DOUBT, test=False)]


async def test_what_is_due_is_put_back_whatever_it_waited_for(place):
    due = await enrolled(place, scheduled_for=now() + timedelta(seconds=0.3))
    assert (await place.one.standing(due)).parked
    for _ in range(500):
        if await place.parking.take_due(rows_max=500, lease_s=30):
            break
        await asyncio.sleep(0.02)
    assert await place.one.claim(due, 1)


async def test_nobody_sees_or_changes_what_is_another_clients(database):
    pool = await open_pool(database, name="test", connections_max=1)
    ledger, store = Ledger(pool, worker=new_id(), worker_name="one"), SchedulingStore(database, name="test")
    enrolment = make_enrolment()
    identity = enrolment.notification.id
    await ledger.enrol([enrolment])
    await pool.execute("UPDATE notifications SET client = 'shop' WHERE id = $1", identity)
    assert await store.cancel(identity, "billing") is None
    assert not await store.reschedule(identity, "billing", now() + LATER)
    assert await store.cancel(identity, "shop") is False
    await store.close()
    await pool.close()


@pytest.mark.parametrize(("producer", "theirs"), [("billing", True), ("contact", True), (None, True), ("crm", False)])
async def test_what_came_by_kafka_is_changed_by_its_producer_alone_if_it_names_one(database, producer, theirs):
    pool = await open_pool(database, name="test", connections_max=1)
    ledger, store = Ledger(pool, worker=new_id(), worker_name="one"), SchedulingStore(database, name="test")
    enrolment = make_enrolment()
    identity = enrolment.notification.id
    await ledger.enrol([enrolment])
    await pool.execute("UPDATE notifications SET producer = $2 WHERE id = $1", identity, producer)
    assert await store.reschedule(identity, "billing", now() + LATER) is theirs
    assert await store.cancel(identity, "billing") is (False if theirs else None)
    await store.close()
    await pool.close()


async def test_a_notification_is_put_off_a_bounded_number_of_times(database):
    pool = await open_pool(database, name="test", connections_max=1)
    ledger, store = Ledger(pool, worker=new_id(), worker_name="one"), SchedulingStore(database, name="test")
    enrolment = make_enrolment()
    await ledger.enrol([enrolment])
    done = [await store.reschedule(enrolment.notification.id, "shop", now() + LATER) for _ in range(102)]
    assert done == [True] * RESCHEDULINGS_MAX + [False] * 2
    await store.close()
    await pool.close()


async def test_the_event_of_what_was_called_off_waits_for_nobody(database):
    """A worker publishes what it wrote itself, and is given time for it. Of this there is no such worker."""
    pool = await open_pool(database, name="test", connections_max=1)
    ledger, store = Ledger(pool, worker=new_id(), worker_name="one"), SchedulingStore(database, name="test")
    enrolment = make_enrolment()
    identity = enrolment.notification.id
    await ledger.enrol([enrolment])
    await store.reschedule(identity, "shop", now() + LATER)
    await store.cancel(identity, "shop")
    told = [each for each in await ledger.unpublished(older_than_s=60, rows_max=500) if each.id == identity]
    assert [(each.seq, each.state, each.reason) for each in told] == [
        (2, State.SCHEDULED, Reason("asked", "rescheduled")),
        (3, State.CANCELLED, Reason("called_off", "cancelled")),
    ]
    await store.close()
    await pool.close()
