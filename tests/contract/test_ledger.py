"""One suite over the ledger in PostgreSQL and the fake that unit tests use: they must not drift apart."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from infra.postgres import open_pool
from schemas.errors import TransientError
from schemas.identity import new_id
from schemas.messages import Reason, Source
from schemas.states import State
from sender.ledger import Ledger, Outcome
from tests.builders import ACCEPTED_AT, make_enrolment
from tests.fakes import FakeLedger

WHY = Reason("accepted", "smtp_250", "250 OK")


@pytest.fixture(params=["fake", "real"])
async def two(request):
    """Two workers over one ledger."""
    if request.param == "fake":
        one = FakeLedger()
        yield one, one.beside()
        return
    servers = request.getfixturevalue("servers")
    pool = await open_pool(servers.postgres_dsn, name="test", connections_max=4)
    yield Ledger(pool, worker=new_id(), worker_name="one"), Ledger(pool, worker=new_id(), worker_name="two")
    await pool.execute("DELETE FROM workers")
    await pool.close()


def outcome(notification_id, attempt, state, *, claimed=True):
    return Outcome(notification_id, attempt, claimed, state, WHY, 12, datetime.now(UTC))


async def enrolled(ledger):
    enrolment = make_enrolment(metadata={"order": 42, "urgent": True})
    await ledger.enrol([enrolment])
    return enrolment.notification.id


async def test_enrolling_is_repeatable_and_keeps_what_came_first(two):
    one, other = two
    enrolment = make_enrolment()
    standing = (await one.enrol([enrolment, enrolment]))[enrolment.notification.id]
    assert (standing.state, standing.attempt, standing.accepted_at) == (State.QUEUED, 0, ACCEPTED_AT)
    changed = replace(enrolment, fingerprint=b"other content...", accepted_at=datetime.now(UTC))
    assert (await other.enrol([changed]))[enrolment.notification.id] == standing


async def test_who_only_says_that_it_came_over_http_is_enrolled_all_the_same(two):
    one, other = two
    enrolment = replace(make_enrolment(), source=Source("http", 0, 1, 2))
    by_kafka = make_enrolment()
    standings = await one.enrol([enrolment, by_kafka])
    assert {each.state for each in standings.values()} == {State.QUEUED}
    assert len(standings) == 2
    assert await other.enrol([enrolment, by_kafka]) == standings


async def test_of_two_workers_one_gets_the_claim(two):
    one, other = two
    await one.renew_lease(60)
    await other.renew_lease(60)
    identity = await enrolled(one)
    assert await one.claim(identity, 1)
    assert not await other.claim(identity, 1)
    assert not await other.claim(identity, 2)
    assert (await other.standing(identity)).state is State.SENDING


async def test_a_claim_finds_itself(two):
    one, _ = two
    await one.renew_lease(60)
    identity = await enrolled(one)
    assert await one.claim(identity, 1)
    assert await one.claim(identity, 1)
    # Asked outside an attempt, a claim of ours is an attempt that was not made.
    standing = await one.standing(identity)
    assert (standing.state, standing.attempt) == (State.RETRYING, 0)


async def test_a_claim_that_is_given_back_can_be_taken_by_the_other(two):
    one, other = two
    await one.renew_lease(60)
    await other.renew_lease(60)
    identity = await enrolled(one)
    assert await one.claim(identity, 1)
    await other.unclaim(identity, 1)
    assert not await other.claim(identity, 1), "it was not the other's to give back"
    await one.unclaim(identity, 1)
    await one.unclaim(identity, 1)
    assert await other.claim(identity, 1)
    await one.unclaim(identity, 1)
    assert await other.record(outcome(identity, 1, State.SENT)) == 2


async def test_without_a_lease_nothing_is_claimed(two):
    one, _ = two
    identity = await enrolled(one)
    assert not await one.claim(identity, 1)
    await one.renew_lease(60)
    await one.end_lease()
    assert not await one.claim(identity, 1)


async def test_an_outcome_is_written_once_and_found_again(two):
    one, _ = two
    await one.renew_lease(60)
    identity = await enrolled(one)
    await one.claim(identity, 1)
    assert await one.record(outcome(identity, 1, State.SENT)) == 2
    assert await one.record(outcome(identity, 1, State.SENT)) == 2
    standing = await one.standing(identity)
    assert (standing.state, standing.attempt, standing.terminal) == (State.SENT, 1, True)


async def test_a_terminal_state_does_not_change(two):
    one, other = two
    await one.renew_lease(60)
    await other.renew_lease(60)
    identity = await enrolled(one)
    await one.claim(identity, 1)
    await one.record(outcome(identity, 1, State.SENT))
    assert not await other.claim(identity, 2)
    assert await other.record(outcome(identity, 2, State.FAILED, claimed=False)) is None
    assert (await one.standing(identity)).state is State.SENT


async def test_an_attempt_that_failed_before_its_claim_counts_once(two):
    one, other = two
    identity = await enrolled(one)
    assert await one.record(outcome(identity, 1, State.RETRYING, claimed=False)) == 2
    # A copy elsewhere, one step behind: that attempt is over.
    assert await other.record(outcome(identity, 1, State.BOUNCED, claimed=False)) is None
    assert await other.record(outcome(identity, 2, State.BOUNCED, claimed=False)) == 3


async def test_somebody_elses_claim_takes_no_outcome_from_us(two):
    one, other = two
    await one.renew_lease(60)
    identity = await enrolled(one)
    await one.claim(identity, 1)
    assert await other.record(outcome(identity, 1, State.SENT)) is None
    assert await other.record(outcome(identity, 1, State.BOUNCED, claimed=False)) is None


async def test_what_is_claimed_by_nobody_alive_ends_in_doubt(two):
    one, other = two
    await one.renew_lease(60)
    await other.renew_lease(60)
    identity = await enrolled(one)
    await one.claim(identity, 1)
    assert await other.give_up_abandoned(grace_s=0) == []
    await one.end_lease()
    assert await other.give_up_abandoned(grace_s=0) == [State.IN_DOUBT]
    assert (await other.standing(identity)).state is State.IN_DOUBT
    # The worker was only slow, and knows better, too late.
    assert await one.record(outcome(identity, 1, State.SENT)) is None


async def test_an_unknown_id_has_no_standing(two):
    assert await two[0].standing(new_id()) is None


async def test_changes_wait_for_their_publication(servers):
    pool = await open_pool(servers.postgres_dsn, name="test", connections_max=2)
    ledger = Ledger(pool, worker=new_id(), worker_name="one")
    identity = await enrolled(ledger)
    await ledger.record(outcome(identity, 1, State.BOUNCED, claimed=False))
    [change] = [each for each in await ledger.unpublished(older_than_s=0, rows_max=500) if each.id == identity]
    assert (change.seq, change.state, change.metadata) == (2, State.BOUNCED, {"order": 42, "urgent": True})
    assert change.source is not None
    assert change.source.coordinates() == "3:912:0"
    await ledger.mark_published([(identity, 2)])
    assert identity not in {each.id for each in await ledger.unpublished(older_than_s=0, rows_max=500)}
    await pool.close()


async def test_nobody_there_is_a_transient_error():
    with pytest.raises(TransientError):
        await open_pool("postgresql://relevo@127.0.0.1:1/relevo", name="test", connections_max=1)
