"""
Rate limits at the door: how many notifications a client, and how many contact messages an address, may bring, and how
many orders that make work beyond their own size a client may give.

What was used is kept in Redis, so that all processes count together; whoever asks at the same moment asks in one call.
A limit is no reason to turn anybody away for an outage: while Redis does not answer everybody passes, and is counted.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from multidict import MultiMapping

from infra.batching import Batcher
from infra.metrics import RATE_LIMIT_OPEN, RATE_LIMITED
from infra.redis import TRANSIENT, open_redis
from ingest.peers import Peers, household_of
from ingest.problems import ProblemError
from schemas.errors import TransientError
from schemas.limits import BATCH_ITEMS_MAX

# Nobody waits longer for a limit.
ANSWER_S_MAX = 0.1
# After a call that failed everybody passes for so long, without a wait: then one call asks again.
OPEN_S = 1.0
CHARGES_PER_CALL_MAX = 500


@dataclass(frozen=True, slots=True)
class Rate:
    """So many in the long run, one every interval_us microseconds, and at most *burst* at once."""

    name: str
    interval_us: int
    burst: int

    @classmethod
    def per(cls, name: str, count: float, seconds: float, *, burst_min: int = 1) -> Self:
        """Return the rate of *count*, above 0, in *seconds*, which may also come all at once."""
        return cls(name, max(1, round(seconds * 1_000_000 / count)), max(math.ceil(count), burst_min))


@dataclass(frozen=True, slots=True)
class Charge:
    """Somebody who wants *cost* of a rate: all of it or nothing."""

    rate: Rate
    who: str
    cost: int


class Buckets(Protocol):
    """Where it is kept how much everybody has used."""

    async def charge(self, charges: Sequence[Charge]) -> Sequence[int]:
        """
        Take each charge, in order, if there is room for it.

        Returns:
            For each charge 0, or the microseconds after which there will be room; then nothing was taken.
        Raises:
            TransientError: no answer came; the charges may have been taken or not.
        """


# The generic cell rate algorithm (ITU-T I.371, annex A): of each bucket only the moment is kept at which it will be
# empty again. The clock is the server's, one for all processes. A moment that lies further ahead than the burst reaches
# is of other settings, or of a clock that was set back.
#   KEYS[i]  the bucket      ARGV[3i-2] interval in microseconds, ARGV[3i-1] burst, ARGV[3i] cost
_CHARGE = """
local clock = redis.call('TIME')
local now = clock[1] * 1000000 + clock[2]
local waits = {}
for i, key in ipairs(KEYS) do
  local interval, reach = tonumber(ARGV[3 * i - 2]), ARGV[3 * i - 2] * ARGV[3 * i - 1]
  local empty = math.min(math.max(tonumber(redis.call('GET', key) or now), now), now + reach)
  local after = empty + interval * ARGV[3 * i]
  if after - now <= reach then
    redis.call('SET', key, string.format('%.0f', after), 'PX', math.ceil((after - now) / 1000))
    waits[i] = 0
  else
    waits[i] = after - now - reach
  end
end
return waits
"""


class RedisBuckets:
    """Buckets in Redis or Valkey, under `relevo:rate:`; each is forgotten when it is empty again."""

    def __init__(self, url: str, *, name: str) -> None:
        self._redis = open_redis(url, name=name, timeout_s=ANSWER_S_MAX)
        self._charge = self._redis.register_script(_CHARGE)

    async def open(self) -> None:
        """Connect ahead of the first caller, if Redis is there."""
        with contextlib.suppress(*TRANSIENT):
            await self._redis.ping()

    async def close(self) -> None:
        """Disconnect. What was used stays used."""
        await self._redis.aclose()

    async def charge(self, charges: Sequence[Charge]) -> Sequence[int]:
        """Take the charges in one atomic call; see `Buckets.charge`."""
        arguments = [number for each in charges for number in (each.rate.interval_us, each.rate.burst, each.cost)]
        try:
            waits: list[int] = await self._charge(
                keys=[f"relevo:rate:{each.rate.name}:{each.who}" for each in charges], args=arguments
            )
        except TRANSIENT as error:
            raise TransientError(f"Redis: {type(error).__name__}") from error
        return waits


class RateLimits:
    """
    Lets through what is within its rate.

    Args:
        notify_per_s: notifications of one client in a second; 0: no limit.
        contact_per_min: contact messages of one address in a minute; 0: no limit.
        orders_per_min: orders of one client in a minute, each of which may speak of thousands; 0: no limit.
        open_on_loopback: whether contact messages from this very machine, and any orders, are not counted.
    """

    def __init__(
        self,
        buckets: Buckets,
        peers: Peers,
        *,
        notify_per_s: float,
        contact_per_min: int,
        orders_per_min: int,
        open_on_loopback: bool,
    ) -> None:
        # A whole batch must fit, or it could never be sent.
        self._notify = Rate.per("notify", notify_per_s, 1, burst_min=BATCH_ITEMS_MAX) if notify_per_s else None
        self._contact = Rate.per("contact", contact_per_min, 60) if contact_per_min else None
        counted = orders_per_min and not open_on_loopback
        self._orders = Rate.per("orders", orders_per_min, 60) if counted else None
        self._peers = peers
        self._open_on_loopback = open_on_loopback
        self._open_until_s = 0.0
        # One writer: what comes while a call is under way goes into the next one.
        self._calls: Batcher[Charge, int] = Batcher(buckets.charge, rows_max=CHARGES_PER_CALL_MAX, writers=1)

    async def of_client(self, client: str, *, cost: int = 1) -> None:
        """
        Return when *client* may bring *cost* notifications now, at most ANSWER_S_MAX later.

        Raises:
            ProblemError: rate_limited, with Retry-After; nothing was charged.
        """
        if self._notify is not None:
            await self._pass(Charge(self._notify, client, cost))

    async def of_order(self, client: str) -> None:
        """
        Return when *client* may give one more order now, at most ANSWER_S_MAX later.

        Raises:
            ProblemError: rate_limited, with Retry-After; nothing was charged.
        """
        if self._orders is not None:
            await self._pass(Charge(self._orders, client, 1))

    async def of_visitor(self, headers: MultiMapping[str], peer: str | None) -> None:
        """
        Return when the caller may bring a contact message now.

        Args and errors as for `Peers.address_of` and `of_client`.
        """
        if self._contact is None:
            return
        address = self._peers.address_of(headers, peer)
        # Whatever came through a proxy is not from this machine, wherever the proxy is.
        forwarded = "X-Forwarded-For" in headers or "Forwarded" in headers
        if self._open_on_loopback and not forwarded and address is not None and address.is_loopback:
            return
        await self._pass(Charge(self._contact, household_of(address), 1))

    async def _pass(self, charge: Charge) -> None:
        if time.monotonic() < self._open_until_s:
            RATE_LIMIT_OPEN.labels(charge.rate.name).inc()
            return
        try:
            async with asyncio.timeout(ANSWER_S_MAX):
                wait_us = await self._calls.submit(charge)
        except (TimeoutError, TransientError):
            self._open_until_s = time.monotonic() + OPEN_S
            RATE_LIMIT_OPEN.labels(charge.rate.name).inc()
            return
        if wait_us:
            RATE_LIMITED.labels(charge.rate.name).inc()
            raise ProblemError("rate_limited", headers={"Retry-After": str(math.ceil(wait_us / 1_000_000))})
