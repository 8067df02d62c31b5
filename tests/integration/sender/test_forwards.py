"""Where a notification was forwarded is noted with its first attempt, and stays as it was."""

from datetime import UTC, datetime, timedelta

import pytest

from infra.postgres import open_pool
from schemas.identity import new_id
from schemas.messages import Forward, Reason
from schemas.states import State
from sender.ledger import Ledger, Outcome
from tests.builders import make_enrolment

AT = datetime(2026, 11, 24, 12, 0, 0, 123456, tzinfo=UTC)
FIRST = Forward(AT, 4, 377)
LATER = Forward(AT + timedelta(minutes=5), 5, 2**40)
WHY = Reason("permanent", "smtp_550", "550 no")


@pytest.fixture
async def pool(servers):
    made = await open_pool(servers.postgres_dsn, name="test", connections_max=2)
    yield made
    await made.execute("DELETE FROM workers")
    await made.close()


@pytest.fixture
async def ledger(pool):
    made = Ledger(pool, worker=new_id(), worker_name="one")
    await made.renew_lease(60)
    return made


async def enrolled(ledger):
    enrolment = make_enrolment()
    await ledger.enrol([enrolment])
    return enrolment.notification.id


def outcome(identity, attempt, *, claimed, forward=None, state=State.RETRYING):
    return Outcome(identity, attempt, claimed, state, WHY, 12, datetime.now(UTC), forward=forward)


async def noted(pool, identity):
    row = await pool.fetchrow(
        "SELECT deduplicated_at, deduplicated_partition, deduplicated_offset FROM notifications WHERE id = $1", identity
    )
    return None if row[0] is None else Forward(*row)


async def test_the_claim_notes_it_and_a_later_one_does_not_change_it(ledger, pool):
    identity = await enrolled(ledger)
    assert await ledger.claim(identity, 1, FIRST)
    assert await noted(pool, identity) == FIRST
    assert await ledger.claim(identity, 1, LATER)  # a claim finds itself, by a copy
    await ledger.record(outcome(identity, 1, claimed=True))
    assert await ledger.claim(identity, 2, LATER)
    assert await noted(pool, identity) == FIRST


async def test_an_attempt_that_ends_before_its_claim_notes_it_too(ledger, pool):
    identity = await enrolled(ledger)
    await ledger.record(outcome(identity, 1, claimed=False, forward=FIRST))
    assert await noted(pool, identity) == FIRST
    await ledger.record(outcome(identity, 2, claimed=False, forward=LATER, state=State.BOUNCED))
    assert await noted(pool, identity) == FIRST


async def test_a_claim_that_is_refused_notes_nothing(ledger, pool):
    identity = await enrolled(ledger)
    await ledger.end_lease()
    assert not await ledger.claim(identity, 1, FIRST)
    assert await noted(pool, identity) is None


async def test_a_record_of_the_first_version_says_nothing_and_is_sent_all_the_same(ledger, pool):
    identity = await enrolled(ledger)
    assert await ledger.claim(identity, 1, None)
    await ledger.record(outcome(identity, 1, claimed=True, state=State.SENT))
    assert await noted(pool, identity) is None
