"""Limits: who is within passes, who is not is told when, and nobody is turned away for an outage of ours."""

import asyncio
from types import SimpleNamespace

import pytest
from multidict import CIMultiDict

from ingest.peers import Peers
from ingest.problems import ProblemError
from ingest.rate_limit import OPEN_S, Rate, RateLimits
from schemas.errors import TransientError
from schemas.limits import BATCH_ITEMS_MAX


class FakeBuckets:
    """Lets `room` units through, and then answers with a wait; an error in place of the room is raised."""

    def __init__(self, room=1_000_000):
        self.room = room
        self.calls = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def charge(self, charges):
        self.calls.append(charges)
        await self.gate.wait()
        if isinstance(self.room, Exception):
            raise self.room
        waits = []
        for each in charges:
            fits = each.cost <= self.room
            self.room -= each.cost if fits else 0
            waits.append(0 if fits else 2_000_001)
        return waits


def limits_of(buckets, *, notify_per_s=0.0, contact_per_min=0, orders_per_min=0, development=False):
    return RateLimits(
        buckets,
        Peers(["10.0.0.0/8"]),
        notify_per_s=notify_per_s,
        contact_per_min=contact_per_min,
        orders_per_min=orders_per_min,
        open_on_loopback=development,
    )


def forwarded(*lines):
    return CIMultiDict([("X-Forwarded-For", line) for line in lines])


async def refusal(call):
    with pytest.raises(ProblemError) as refused:
        await call
    assert refused.value.code == "rate_limited"
    return int(refused.value.headers["Retry-After"])


async def test_where_no_limit_is_set_nobody_is_asked():
    buckets = FakeBuckets(room=0)
    limits = limits_of(buckets)
    await limits.of_client("billing", cost=100)
    await limits.of_visitor(CIMultiDict(), "203.0.113.5")
    assert not buckets.calls


async def test_who_is_beyond_the_limit_is_told_when_there_is_room_in_whole_seconds():
    limits = limits_of(FakeBuckets(room=100), notify_per_s=10)
    await limits.of_client("billing", cost=99)
    assert await refusal(limits.of_client("billing", cost=2)) == 3
    await limits.of_client("billing")


async def test_orders_have_a_limit_of_their_own_but_in_development():
    buckets = FakeBuckets(room=1)
    limits = limits_of(buckets, notify_per_s=10, orders_per_min=60)
    await limits.of_order("billing")
    assert await refusal(limits.of_order("billing")) == 3
    assert {each.rate.name for charges in buckets.calls for each in charges} == {"orders"}
    await limits_of(FakeBuckets(room=0), orders_per_min=60, development=True).of_order("local")
    await limits_of(FakeBuckets(room=0)).of_order("billing")


async def test_who_comes_at_the_same_time_is_asked_for_in_one_call():
    buckets = FakeBuckets()
    limits = limits_of(buckets, notify_per_s=10, contact_per_min=5)
    buckets.gate.clear()
    tasks = [asyncio.create_task(limits.of_client("first"))]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(limits.of_client(f"c{number}")) for number in range(50)]
    tasks += [asyncio.create_task(limits.of_visitor(CIMultiDict(), "203.0.113.5"))]
    await asyncio.sleep(0.01)
    buckets.gate.set()
    await asyncio.gather(*tasks)
    assert [len(charges) for charges in buckets.calls] == [1, 51]


@pytest.mark.parametrize("failure", ["away", "silent"])
async def test_everybody_passes_while_nobody_counts_and_only_the_first_waits(failure, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr("ingest.rate_limit.time", SimpleNamespace(monotonic=lambda: clock[0]))
    buckets = FakeBuckets(room=TransientError("away"))
    if failure == "silent":
        buckets.gate.clear()
    limits = limits_of(buckets, notify_per_s=10)
    for _ in range(5):
        await limits.of_client("billing")
    assert len(buckets.calls) == 1
    # It is asked again after a while, and back as soon as there is an answer.
    clock[0] += OPEN_S
    buckets.room = 0
    buckets.gate.set()
    await asyncio.sleep(0)
    await refusal(limits.of_client("billing"))


async def test_visitors_are_counted_by_address_and_not_by_proxy():
    buckets = FakeBuckets()
    limits = limits_of(buckets, contact_per_min=5)
    for headers, peer in (
        (CIMultiDict(), "203.0.113.5"),
        (forwarded("198.51.100.1"), "203.0.113.5"),
        (forwarded("198.51.100.1"), "10.0.0.1"),
        (CIMultiDict(), "2001:db8:1:2:3::4"),
        (CIMultiDict(), "127.0.0.1"),
    ):
        await limits.of_visitor(headers, peer)
    asked = [charge.who for (charge,) in buckets.calls]
    assert asked == ["203.0.113.5", "203.0.113.5", "198.51.100.1", "2001:db8:1:2::/64", "127.0.0.1"]
    assert {(charge.rate.name, charge.cost) for (charge,) in buckets.calls} == {("contact", 1)}


async def test_in_development_this_very_machine_is_not_counted():
    buckets = FakeBuckets(room=0)
    limits = limits_of(buckets, contact_per_min=5, notify_per_s=5, development=True)
    for peer in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        await limits.of_visitor(CIMultiDict(), peer)
    assert not buckets.calls
    await refusal(limits.of_visitor(forwarded("127.0.0.1"), "127.0.0.1"))
    await refusal(limits.of_visitor(forwarded("127.0.0.1"), "10.0.0.1"))
    await refusal(limits.of_visitor(CIMultiDict(), "192.168.1.5"))
    # A limit for services was asked for, so it counts for all of them.
    await refusal(limits.of_client("local"))


@pytest.mark.parametrize(
    ("rate", "interval_us", "burst"),
    [
        (Rate.per("notify", 10, 1), 100_000, 10),
        (Rate.per("notify", 0.5, 1), 2_000_000, 1),
        (Rate.per("notify", 1_000_000, 1), 1, 1_000_000),
        (Rate.per("contact", 60, 60), 1_000_000, 60),
        (Rate.per("notify", 1, 1, burst_min=100), 1_000_000, 100),
    ],
    ids=["10 a second", "one in 2 s", "a million", "60 a minute", "a batch"],
)
def test_a_rate_is_an_interval_and_what_may_come_at_once(rate, interval_us, burst):
    assert (rate.interval_us, rate.burst) == (interval_us, burst)


async def test_a_whole_batch_fits_under_any_limit():
    buckets = FakeBuckets()
    await limits_of(buckets, notify_per_s=0.1).of_client("billing", cost=BATCH_ITEMS_MAX)
    assert buckets.calls[0][0].rate.burst >= BATCH_ITEMS_MAX
