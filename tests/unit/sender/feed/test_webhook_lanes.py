"""Lanes: a receiver that is slow or dead slows nobody, and is not beaten while it lies on the ground."""

import asyncio
from collections import defaultdict
from uuid import UUID

import pytest

from infra.background import Background
from infra.health import Readiness
from schemas.errors import TransientError
from schemas.identity import new_id
from schemas.webhooks import DeliveryState
from sender.feed import webhook_lanes
from sender.feed.webhook_answers import Answer
from sender.feed.webhook_lanes import WIDTH, Lanes
from sender.feed.webhook_ledger import Claim

GOOD, BAD, GONE = Answer("http_200", 200), Answer("http_503", 503), Answer("http_410", 410)


class FakeLedger:
    """Deliveries in memory; what is postponed is due again when its wait is over."""

    def __init__(self, **deliveries: int) -> None:
        self.ids = {name: UUID(int=place) for place, name in enumerate(deliveries, 1)}
        self.pending = {self.ids[name]: [(new_id(), 0, 0.0) for _ in range(n)] for name, n in deliveries.items()}
        self.settled: dict[UUID, list[tuple[UUID, DeliveryState, int]]] = defaultdict(list)
        self.disabled: set[UUID] = set()
        self.away = 0

    def state(self, name: str) -> list[DeliveryState]:
        return [state for _, state, _ in self.settled[self.ids[name]]]

    def _due(self, webhook: UUID) -> list:
        now = asyncio.get_running_loop().time()
        return [] if webhook in self.disabled else [each for each in self.pending[webhook] if each[2] <= now]

    async def due(self):
        return [webhook for webhook in self.pending if self._due(webhook)]

    async def claim(self, webhook, *, rows_max):
        taken = self._due(webhook)[:rows_max]
        for each in taken:
            self.pending[webhook].remove(each)
        return [Claim(webhook, event, attempt + 1, b"{}", "https://x", ("whsec_",)) for event, attempt, _ in taken]

    async def settle(self, claim, verdict):
        if self.away:
            self.away -= 1
            raise TransientError("away")
        if verdict.state is DeliveryState.PENDING:
            at = asyncio.get_running_loop().time() + verdict.wait_s
            self.pending[claim.webhook].append((claim.event_id, claim.attempt, at))
        else:
            self.settled[claim.webhook].append((claim.event_id, verdict.state, claim.attempt))
        return True

    async def disable(self, claim, _why):
        self.disabled.add(claim.webhook)
        return True


class Receivers:
    """Answers by webhook; counts attempts, and how many were under way at once."""

    def __init__(self, **answers) -> None:
        self.answers = answers
        self.attempts: dict[UUID, int] = defaultdict(int)
        self.under_way: dict[UUID, int] = defaultdict(int)
        self.most: dict[UUID, int] = defaultdict(int)
        self.ids: dict[UUID, str] = {}

    async def post(self, claim):
        self.attempts[claim.webhook] += 1
        self.under_way[claim.webhook] += 1
        self.most[claim.webhook] = max(self.most[claim.webhook], self.under_way[claim.webhook])
        try:
            answer = self.answers[self.ids[claim.webhook]]
            return await answer() if callable(answer) else answer
        finally:
            self.under_way[claim.webhook] -= 1


@pytest.fixture
async def start(monkeypatch):
    monkeypatch.setattr(webhook_lanes, "LOOK_INTERVAL_S", 0.01)
    monkeypatch.setattr(webhook_lanes, "REST_S_MIN", 0.01)
    background = Background(readiness := Readiness())
    started = []

    def begin(ledger, receivers, *, waits_s=(0.02, 0.02, 0.02)):
        receivers.ids = {webhook: name for name, webhook in ledger.ids.items()}
        lanes = Lanes(ledger, receivers, readiness, background, waits_s=waits_s)
        started.append(lanes)
        return lanes

    begin.readiness = readiness
    yield begin
    for lanes in started:
        await lanes.drain()
    await background.stop()


async def until(check):
    async with asyncio.timeout(5):
        while not check():  # noqa: ASYNC110 -- what it looks at tells nobody when it changes
            await asyncio.sleep(0.005)


async def hang():
    await asyncio.sleep(60)


async def test_a_receiver_that_hangs_holds_up_no_other(start, monkeypatch):
    monkeypatch.setattr(webhook_lanes, "DRAIN_S_MAX", 0.05)
    ledger = FakeLedger(dead=20, alive=20)
    start(ledger, receivers := Receivers(dead=hang, alive=GOOD))
    await until(lambda: ledger.state("alive") == [DeliveryState.DELIVERED] * 20)
    assert ledger.state("dead") == []
    assert receivers.most[ledger.ids["dead"]] == WIDTH


async def test_each_event_is_delivered_once_when_all_goes_well(start):
    ledger = FakeLedger(alive=50)
    start(ledger, receivers := Receivers(alive=GOOD))
    await until(lambda: len(ledger.state("alive")) == 50)
    assert receivers.attempts[ledger.ids["alive"]] == 50
    assert len({event for event, _, _ in ledger.settled[ledger.ids["alive"]]}) == 50


async def test_a_receiver_in_trouble_is_asked_one_by_one_and_what_waits_burns_no_attempt(start, monkeypatch):
    monkeypatch.setattr(webhook_lanes, "REST_S_MIN", 0.05)
    ledger = FakeLedger(down=1000)
    start(ledger, receivers := Receivers(down=BAD), waits_s=(60.0,))
    await until(lambda: receivers.attempts[ledger.ids["down"]] > WIDTH + 2)
    # Its rests double: of a thousand hardly one in a hundred was tried.
    untouched = [each for each in ledger.pending[ledger.ids["down"]] if each[1] == 0]
    assert len(untouched) >= 1000 - WIDTH - 4


async def test_when_it_answers_again_everything_arrives_and_the_lane_is_wide_again(start):
    ledger = FakeLedger(down=40)
    receivers = Receivers(down=BAD)
    start(ledger, receivers, waits_s=(0.05,) * 200)
    await until(lambda: receivers.attempts[ledger.ids["down"]] > WIDTH + 1)
    receivers.most.clear()

    async def slowly():
        await asyncio.sleep(0.01)
        return GOOD

    receivers.answers["down"] = slowly
    await until(lambda: len(ledger.state("down")) == 40)
    assert set(ledger.state("down")) == {DeliveryState.DELIVERED}
    assert receivers.most[ledger.ids["down"]] == WIDTH


async def test_after_the_last_wait_it_has_failed(start):
    ledger = FakeLedger(down=1)
    start(ledger, receivers := Receivers(down=BAD), waits_s=(0.01, 0.01))
    await until(lambda: ledger.state("down") == [DeliveryState.FAILED])
    assert receivers.attempts[ledger.ids["down"]] == 3


async def test_gone_ends_all_attempts_and_loses_nothing(start):
    ledger = FakeLedger(gone=30)
    start(ledger, receivers := Receivers(gone=GONE))
    await until(lambda: ledger.disabled and not any(receivers.under_way.values()))
    await asyncio.sleep(0.1)
    assert receivers.attempts[ledger.ids["gone"]] <= WIDTH
    assert len(ledger.pending[ledger.ids["gone"]]) == 30


async def test_an_outcome_that_cannot_be_written_is_written_later(start):
    ledger = FakeLedger(alive=1)
    ledger.away = 3
    start(ledger, receivers := Receivers(alive=GOOD))
    await until(lambda: ledger.state("alive") == [DeliveryState.DELIVERED])
    assert receivers.attempts[ledger.ids["alive"]] == 1


async def test_a_bug_in_one_lane_turns_red_and_the_others_go_on(start):
    async def broken():
        raise LookupError

    ledger = FakeLedger(broken=1, alive=30)
    start(ledger, Receivers(broken=broken, alive=GOOD))
    await until(lambda: len(ledger.state("alive")) == 30 and "webhook_delivery" in start.readiness.reasons)


async def test_the_end_waits_for_what_is_under_way_and_begins_nothing(start):
    ledger = FakeLedger(slow=20)
    let_go = asyncio.Event()

    async def slow():
        await let_go.wait()
        return GOOD

    lanes = start(ledger, receivers := Receivers(slow=slow))
    await until(lambda: receivers.under_way[ledger.ids["slow"]] == WIDTH)
    ending = asyncio.create_task(lanes.drain())
    await asyncio.sleep(0.02)
    assert not ending.done()
    let_go.set()
    await ending
    assert ledger.state("slow") == [DeliveryState.DELIVERED] * WIDTH
    assert len(ledger.pending[ledger.ids["slow"]]) == 20 - WIDTH
