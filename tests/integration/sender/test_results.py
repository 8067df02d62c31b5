"""Publishing what happened, on the real ledger: nothing that it knows stays unpublished."""

import asyncio
import json
from datetime import UTC, datetime

import pytest

from infra.background import Background
from infra.health import Readiness
from infra.postgres import open_pool
from schemas.identity import new_id
from schemas.messages import Reason
from schemas.states import State
from schemas.topics import RESULTS
from sender import results as publishing
from sender.ledger import Ledger, Outcome
from sender.results import ResultPublisher
from tests.builders import make_enrolment
from tests.fakes import FakeWriter

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.fixture
async def pool(servers):
    opened = await open_pool(servers.postgres_dsn, name="test", connections_max=4)
    yield opened
    await opened.execute("DELETE FROM workers")
    await opened.close()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(publishing, "SWEEP_AFTER_S", 0.0)
    monkeypatch.setattr(publishing, "SWEEP_INTERVAL_S", 0.01)


@pytest.fixture
async def background():
    running = Background(Readiness())
    yield running
    await running.stop()


async def told(writer, identity):
    async with asyncio.timeout(10):
        while True:
            found = [json.loads(each.value) for each in writer.on(RESULTS)]
            if found := [each for each in found if each["id"] == str(identity)]:
                return found
            await asyncio.sleep(0.01)


async def test_an_abandoned_claim_is_told_by_whoever_sweeps(pool, quick, background):
    dead = Ledger(pool, worker=new_id(), worker_name="dead")
    enrolment = make_enrolment(traceparent=TRACEPARENT)
    identity = enrolment.notification.id
    await dead.renew_lease(60)
    await dead.enrol([enrolment])
    assert await dead.claim(identity, 1)
    await dead.end_lease()
    alive = Ledger(pool, worker=new_id(), worker_name="alive")
    assert await alive.give_up_abandoned(grace_s=0) == [State.IN_DOUBT]
    writer = FakeWriter()
    ResultPublisher(writer, alive, background)
    [result] = await told(writer, identity)
    assert (result["status"], result["terminal"], result["reason"]["code"]) == ("in_doubt", True, "worker_lost")
    assert result["trace_id"] == TRACEPARENT.split("-")[1]


async def test_an_event_whose_publisher_died_is_swept_once(pool, quick, background):
    ledger = Ledger(pool, worker=new_id(), worker_name="one")
    enrolment = make_enrolment()
    identity = enrolment.notification.id
    await ledger.enrol([enrolment])
    why = Reason("permanent", "smtp_550", "550 no")
    await ledger.record(Outcome(identity, 1, False, State.BOUNCED, why, 5, datetime.now(UTC)))
    writer = FakeWriter()
    ResultPublisher(writer, ledger, background)
    [result] = await told(writer, identity)
    await asyncio.sleep(0.1)
    assert result["seq"] == 2
    assert len(await told(writer, identity)) == 1


async def test_the_sweep_outlives_a_broker_that_is_away(pool, quick, background):
    ledger = Ledger(pool, worker=new_id(), worker_name="one")
    enrolment = make_enrolment()
    await ledger.enrol([enrolment])
    why = Reason("permanent", "smtp_550", "550 no")
    await ledger.record(Outcome(enrolment.notification.id, 1, False, State.BOUNCED, why, 5, datetime.now(UTC)))
    writer = FakeWriter()
    writer.away = 3
    ResultPublisher(writer, ledger, background)
    assert await told(writer, enrolment.notification.id)
