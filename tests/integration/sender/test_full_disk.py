"""A PostgreSQL whose disk is full while outcomes are to be written: they wait, and are written once."""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from infra.postgres import open_pool
from schemas.errors import TransientError
from schemas.identity import new_id
from schemas.messages import Reason
from schemas.states import State
from sender.ledger import Ledger, Outcome
from tests.builders import make_enrolment
from tests.integration.ingest.process import make_database

# What the server says when it cannot extend a file.
DISK_FULL = """
CREATE FUNCTION no_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER no_room AFTER INSERT ON events EXECUTE FUNCTION no_room();
"""


@pytest.fixture(scope="module")
def database(servers):
    return asyncio.run(make_database(servers.postgres_dsn))


async def test_an_outcome_waits_for_room_and_leaves_nothing_half_written(database):
    sql = await asyncpg.connect(database)
    pool = await open_pool(database, name="test", connections_max=2)
    ledger = Ledger(pool, worker=new_id(), worker_name="one")
    await ledger.renew_lease(60)
    enrolment = make_enrolment()
    identity = enrolment.notification.id
    await ledger.enrol([enrolment])
    assert await ledger.claim(identity, 1)
    outcome = Outcome(identity, 1, True, State.SENT, Reason("accepted", "smtp_250", "250 OK"), 5, datetime.now(UTC))
    await sql.execute(DISK_FULL)
    for _ in range(2):
        with pytest.raises(TransientError):
            await ledger.record(outcome)
    assert await sql.fetchval("SELECT state FROM notifications WHERE id = $1", identity) == "sending"
    await sql.execute("DROP FUNCTION no_room CASCADE")
    assert await ledger.record(outcome) == 2
    assert await sql.fetchval("SELECT count(*) FROM events WHERE notification_id = $1", identity) == 1
    await pool.close()
    await sql.close()
