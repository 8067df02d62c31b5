"""The simulator: each recipient its outcome, by the real way of deciding, and never a word to the relay."""

import asyncio
import contextlib

import pytest

from infra.metrics import ATTEMPTS, END_TO_END_SECONDS, OUTCOMES
from schemas.addresses import SIMULATED, Scenario
from schemas.states import State
from sender import simulator
from tests.builders import make_enrolment
from tests.fakes import CONFIGURATION
from tests.unit.sender.test_deliver import EARLY, Bench

BURST = [(State.RETRYING, 1), (State.RETRYING, 2), (State.RETRYING, 3)]

TOLD = {
    Scenario.OK: [(State.SENT, 1)],
    Scenario.RETRY_OK: [(State.RETRYING, 1), (State.SENT, 2)],
    Scenario.TEMPFAIL: [*BURST, (State.FAILED, 4)],
    Scenario.PERMFAIL: [(State.BOUNCED, 1)],
    Scenario.SLOW: [(State.SENT, 1)],
    Scenario.IN_DOUBT: [(State.IN_DOUBT, 1)],
    Scenario.SUPPRESSED: [(State.SUPPRESSED, 1)],
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(simulator, "SLOW_S", 0.01)


def to(scenario):
    return make_enrolment(to=f"sim+{scenario}@simulator.invalid")


@pytest.mark.parametrize("scenario", Scenario)
async def test_each_recipient_gets_its_outcome_and_the_relay_hears_nothing(scenario):
    bench = Bench(steps_s=(60.0,))
    delivery = await bench.deliver(to(scenario))
    assert bench.told == TOLD[scenario]
    assert delivery.standing.terminal
    assert all(change.test for change in bench.publisher.published)
    assert bench.relay.offered == 0


async def test_only_what_is_handed_over_is_claimed():
    claimed = {}
    for scenario in Scenario:
        bench = Bench()
        claims = []
        claim = bench.ledger.claim

        async def noted(*arguments, claim=claim, claims=claims):
            claims.append(arguments[1])
            return await claim(*arguments)

        bench.ledger.claim = noted
        await bench.deliver(to(scenario))
        claimed[scenario] = claims
    assert claimed == {
        Scenario.OK: [1],
        Scenario.RETRY_OK: [2],
        Scenario.TEMPFAIL: [],
        Scenario.PERMFAIL: [],
        Scenario.SLOW: [1],
        Scenario.IN_DOUBT: [1],
        Scenario.SUPPRESSED: [],
    }


async def test_in_doubt_stays_so_when_it_is_sent_once_more():
    bench = Bench()
    enrolment = make_enrolment(to="sim+in-doubt@simulator.invalid", on_doubt="resend")
    await bench.deliver(enrolment)
    await bench.ledger.take_due()
    await bench.deliver(enrolment)
    assert bench.told == [(State.RETRYING, 1), (State.IN_DOUBT, 2)]


async def test_capitals_in_the_recipient_change_nothing():
    bench = Bench()
    await bench.deliver(make_enrolment(to="Sim+PermFail@simulator.invalid"))
    assert bench.told == [(State.BOUNCED, 1)]


async def test_a_stopped_channel_holds_up_no_simulated_one():
    bench = Bench((CONFIGURATION, EARLY))
    bench.probes = [CONFIGURATION] * 1000
    real = asyncio.create_task(bench.deliverer.deliver(await bench.enrol()))
    async with asyncio.timeout(10):
        while "smtp" not in bench.readiness.reasons:  # noqa: ASYNC110 -- the state is the fact to wait for
            await asyncio.sleep(0)
    for scenario in Scenario:
        await bench.deliver(to(scenario))
    assert not real.done()
    real.cancel()
    await asyncio.gather(real, return_exceptions=True)
    await bench.channel.close()


async def test_a_simulated_one_waits_for_no_connection():
    bench = Bench()

    @contextlib.asynccontextmanager
    async def taken():
        await asyncio.Event().wait()
        yield

    bench.relay.slot = taken
    await bench.deliver(to(Scenario.OK))
    assert bench.told == [(State.SENT, 1)]


async def test_no_simulated_failure_stops_the_channel():
    bench = Bench()
    for scenario in Scenario:
        await bench.deliver(to(scenario))
    assert bench.readiness.reasons == {}
    delivery = await bench.deliver()
    assert delivery.standing.state is State.SENT


async def test_a_slow_one_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(simulator, "SLOW_S", 3600.0)
    bench = Bench()
    slow = asyncio.create_task(bench.deliverer.deliver(await bench.enrol(to(Scenario.SLOW))))
    await asyncio.sleep(0)
    await bench.deliver()
    await bench.deliver(to(Scenario.OK))
    assert not slow.done()
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)


async def test_the_metrics_of_production_do_not_count_what_is_simulated():
    def counts():
        return [
            sample.value
            for metric in (ATTEMPTS, OUTCOMES, END_TO_END_SECONDS)
            for each in metric.collect()
            for sample in each.samples
            if not sample.name.endswith("_created")
        ]

    bench = Bench()
    await bench.deliver()
    before = counts()
    for scenario in Scenario:
        await bench.deliver(to(scenario))
    assert counts() == before
    await bench.deliver()
    assert counts() != before


def test_every_scenario_has_one_recipient():
    assert sorted(SIMULATED.values()) == sorted(Scenario)
