"""Later attempts on the real ledger, while Kafka and PostgreSQL come and go."""

import asyncio
from datetime import UTC, datetime

import pytest

from infra.background import Background
from infra.health import Readiness
from infra.postgres import open_pool
from infra.record_writer import RecordWriter
from infra.stack.ports import free_port
from schemas.errors import TransientError
from schemas.identity import new_id
from schemas.messages import Reason
from schemas.states import State
from sender.ledger import Ledger, Outcome
from sender.parking import Parking
from sender.putting_back import DueAttempts
from tests.builders import make_enrolment
from tests.fakes import FakeWriter
from tests.integration.ingest.process import make_database
from tests.slow_proxy import SlowProxy


@pytest.fixture
async def pool(servers):
    """A ledger of its own: whoever runs beside the tests would take what is due, too."""
    opened = await open_pool(await make_database(servers.postgres_dsn), name="test", connections_max=2)
    yield opened
    await opened.close()


async def parked(ledger):
    enrolment = make_enrolment()
    identity = enrolment.notification.id
    await ledger.enrol([enrolment])
    now = datetime.now(UTC)
    refused = Reason("transient", "smtp_451")
    await ledger.record(Outcome(identity, 1, False, State.RETRYING, refused, 12, now, next_attempt_at=now))
    return identity


async def test_while_kafka_is_away_nothing_that_is_due_is_held(pool):
    ledger = Ledger(pool, worker=new_id(), worker_name="one")
    identity = await parked(ledger)
    nobody = RecordWriter(f"127.0.0.1:{free_port()}", name="test")
    background = Background(Readiness())
    with pytest.raises(TransientError):
        await DueAttempts(Parking(pool), nobody, background).turn()
    writer = FakeWriter()
    await DueAttempts(Parking(pool), writer, background).turn()
    assert [record.key.decode() for _, record in writer.written] == [str(identity)]
    await background.stop()


async def test_what_kafka_has_is_not_put_back_again_when_its_lease_ends(pool, monkeypatch):
    """It is due until a sender claims it, which with a slow relay may take long."""
    monkeypatch.setattr("sender.putting_back.LEASE_S", 0.1)
    await parked(Ledger(pool, worker=new_id(), worker_name="one"))
    writer, background = FakeWriter(), Background(Readiness())
    attempts = DueAttempts(Parking(pool), writer, background)
    await attempts.turn()
    await asyncio.sleep(0.2)
    await attempts.turn()
    assert len(writer.written) == 1
    await background.stop()


async def test_what_was_tried_while_it_was_put_back_is_not_made_to_wait_for_that(pool):
    """Between the acknowledgement of its record and the word that Kafka has it, a sender was faster."""
    ledger = Ledger(pool, worker=new_id(), worker_name="one")
    parking, identity = Parking(pool), await parked(ledger)
    await ledger.renew_lease(60)
    taken = await parking.take_due(rows_max=10, lease_s=60)
    assert await ledger.claim(identity, 2)
    now, refused = datetime.now(UTC), Reason("transient", "smtp_451")
    await ledger.record(Outcome(identity, 2, True, State.RETRYING, refused, 12, now, next_attempt_at=now))
    await parking.hold(taken, hold_s=900)
    assert len(await parking.take_due(rows_max=10, lease_s=60)) == 1


async def test_what_a_lost_worker_had_is_due_at_once_however_lately_it_was_put_back(pool):
    ledger = Ledger(pool, worker=new_id(), worker_name="one")
    parking, identity = Parking(pool), await parked(ledger)
    await pool.execute("UPDATE notifications SET on_doubt = 'resend' WHERE id = $1", identity)
    await ledger.renew_lease(60)
    await parking.hold(await parking.take_due(rows_max=10, lease_s=60), hold_s=900)
    assert await ledger.claim(identity, 2)
    await ledger.end_lease()
    await asyncio.sleep(0.01)
    await ledger.give_up_abandoned(grace_s=0)
    assert len(await parking.take_due(rows_max=10, lease_s=60)) == 1


async def test_what_is_given_back_keeps_its_place_in_the_outbox(pool):
    """It was accepted over HTTP and tried before ingest had noted that Kafka has it."""
    ledger = Ledger(pool, worker=new_id(), worker_name="one")
    parking, identity = Parking(pool), await parked(ledger)
    await pool.execute("UPDATE notifications SET published_at = NULL WHERE id = $1", identity)
    assert len(await parking.take_due(rows_max=10, lease_s=60)) == 1
    assert await parking.take_due(rows_max=10, lease_s=60) == []
    await parking.give_back([identity])
    assert await pool.fetchval("SELECT publish_after <= now() FROM notifications WHERE id = $1", identity)
    assert len(await parking.take_due(rows_max=10, lease_s=60)) == 1


async def test_a_question_to_a_server_that_hangs_can_be_broken_off(servers):
    """As a revoked partition does it, which its next owner waits for."""
    host, _, port = servers.postgres_dsn.rpartition("@")[2].partition("/")[0].partition(":")
    proxy = SlowProxy(host, int(port))
    proxy.start()
    dsn = servers.postgres_dsn.replace(f"@{host}:{port}", f"@127.0.0.1:{proxy.port}")
    pool = await open_pool(dsn, name="test", connections_max=1)
    try:
        ledger = Ledger(pool, worker=new_id(), worker_name="one")
        proxy.silent = True
        asking = asyncio.create_task(ledger.standing(new_id()))
        await asyncio.sleep(0.2)
        asking.cancel()
        done, _ = await asyncio.wait({asking}, timeout=2)
        assert done, "it still waits for the server"
        proxy.silent = False
        assert await ledger.standing(new_id()) is None
    finally:
        pool.terminate()
        proxy.stop()
