"""The cap on what the relay is offered: kept in every second, by all senders together, and little of it wasted."""

import asyncio
from bisect import bisect_left

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.settings import RelayAddress
from schemas.errors import TransientError
from sender.relay_rate import CATCH_UP_S, RelayRate
from sender.replies import Phase, judge_silence
from sender.smtp import Relay
from sender.transaction import Mail, Stop

LEASE_S = 15.0


class Time:
    """A clock that stands still until somebody sleeps, and then may be late."""

    def __init__(self, monkeypatch, lateness_s=()):
        self.now = 1000.0
        self._lateness_s = iter(lateness_s)
        monkeypatch.setattr("sender.relay_rate.asyncio.sleep", self.sleep)

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        # Never by nothing, as rounding would have it where what is left is less than a clock can tell.
        self.now += max(seconds, 1e-6) + next(self._lateness_s, 0.0)


class Senders:
    def __init__(self, count=1):
        self.count = count

    async def __call__(self):
        if self.count is None:
            raise TransientError("away")
        return self.count


def made(clock, senders, rate_per_s):
    return RelayRate(senders, rate_per_s=rate_per_s, lease_s=LEASE_S, clock=clock)


def most_in_a_second(moments):
    """Return the largest number of *moments* in any half-open second."""
    moments = sorted(moments)
    # Times are added up from fractions: a hair's breadth is no second.
    return max(bisect_left(moments, moment + 1 - 1e-9) - at for at, moment in enumerate(moments))


async def take(rate, clock, turns):
    moments = []
    for _ in range(turns):
        await rate.look()
        await rate.turn()
        moments.append(clock.now)
    return moments


@given(
    rate_per_s=st.floats(1, 500),
    lateness_s=st.lists(st.floats(0, 0.3), max_size=40),
    pauses_s=st.lists(st.floats(0, 5), max_size=10),
)
def test_no_second_sees_more_however_late_and_uneven_the_turns_are(rate_per_s, lateness_s, pauses_s):
    async def play():
        with pytest.MonkeyPatch.context() as monkeypatch:
            clock = Time(monkeypatch, lateness_s)
            rate = made(clock, Senders(), rate_per_s)
            moments = []
            for pause_s in (0.0, *pauses_s):
                clock.now += pause_s
                moments += await take(rate, clock, 40)
            return moments

    moments = asyncio.run(play())
    assert most_in_a_second(moments) <= -(-rate_per_s // 1)


async def test_a_second_has_nearly_as_many_as_are_allowed(monkeypatch):
    clock = Time(monkeypatch, [0.002] * 10_000)
    rate = made(clock, Senders(), 100)
    await rate.look()
    moments = await take(rate, clock, 500)
    assert 5.0 < moments[-1] - moments[0] <= 5.0 * (1 + CATCH_UP_S) + 0.01


async def test_what_was_not_used_is_not_saved_up(monkeypatch):
    clock = Time(monkeypatch)
    rate = made(clock, Senders(), 10)
    await rate.look()
    clock.now += LEASE_S - 1
    assert most_in_a_second(await take(rate, clock, 30)) <= 10


async def test_several_senders_share_it(monkeypatch):
    clock = Time(monkeypatch)
    rate = made(clock, senders := Senders(), 10)
    await rate.look()
    alone = await take(rate, clock, 20)
    senders.count = 4
    await rate.look()
    shared = await take(rate, clock, 20)
    assert alone[-1] - alone[0] == pytest.approx(1.9 * (1 + CATCH_UP_S))
    assert shared[-1] - shared[1] == pytest.approx(18 * 0.4 * (1 + CATCH_UP_S))


async def test_who_joins_others_waits_until_they_have_counted_him(monkeypatch):
    clock = Time(monkeypatch)
    rate = made(clock, Senders(2), 1000)
    began = clock.now
    await rate.look()
    clock.now += 5
    await rate.look()
    clock.now += 5
    await rate.look()
    await rate.turn()
    assert clock.now == began + LEASE_S


async def test_a_count_that_is_as_old_as_a_lease_gives_no_turns(monkeypatch):
    clock = Time(monkeypatch)
    rate = made(clock, senders := Senders(), 1000)
    await rate.look()
    senders.count = None
    with pytest.raises(TransientError):
        await rate.look()
    await rate.turn()
    clock.now += LEASE_S
    began, slept = clock.now, clock.sleep

    async def sleep(seconds):
        await slept(seconds)
        if clock.now > began + 3:
            senders.count = 1
            await rate.look()

    monkeypatch.setattr("sender.relay_rate.asyncio.sleep", sleep)
    await rate.turn()
    assert clock.now > began + 3


async def test_nobody_has_a_turn_before_the_first_count():
    rate = RelayRate(Senders(), rate_per_s=1000, lease_s=LEASE_S)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(rate.turn(), 0.05)


async def test_who_is_cancelled_in_line_uses_nothing_up():
    rate = RelayRate(Senders(), rate_per_s=20, lease_s=LEASE_S)
    await rate.look()
    await rate.turn()
    waiting = [asyncio.create_task(rate.turn()) for _ in range(200)]
    await asyncio.sleep(0)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    # Two hundred turns would be ten seconds.
    await asyncio.wait_for(rate.turn(), 2)


class Turns:
    def __init__(self):
        self.taken = 0

    async def turn(self):
        self.taken += 1


MAIL = Mail("relevo@example.org", "receiver@example.org", b"Subject: s\r\n\r\nb\r\n", smtputf8=False)


def offer(relay):
    async def go_on():
        return True

    return asyncio.create_task(relay.send(MAIL, go_on))


async def test_a_turn_is_taken_with_a_connection_in_hand_and_not_in_line_for_one(monkeypatch):
    turns = Turns()
    relay = Relay(RelayAddress.parse("smtp://127.0.0.1:1"), connections_max=1, ca_file=None, rate=turns)
    hanging = asyncio.Event()

    async def connect(_place):
        await hanging.wait()
        raise Stop(judge_silence(Phase.CONNECT, "timeout"))

    monkeypatch.setattr(relay, "_connect", connect)
    both = [offer(relay), offer(relay)]
    await asyncio.sleep(0.01)
    assert turns.taken == 1
    hanging.set()
    await asyncio.gather(*both)
    assert turns.taken == 2


async def test_who_is_cancelled_waiting_for_a_turn_gives_the_connection_back():
    relay = Relay(
        RelayAddress.parse("smtp://127.0.0.1:1"),
        connections_max=1,
        ca_file=None,
        rate=RelayRate(Senders(), rate_per_s=1000, lease_s=LEASE_S),
    )
    for _ in range(3):  # nobody was counted yet, so there are no turns
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(offer(relay), 0.02)
    assert len(relay._free) == 1
