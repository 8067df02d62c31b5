"""
Lanes: each webhook is served by a task of its own, so that a receiver that is slow or dead slows nobody else.

A receiver in trouble is asked with one delivery at a time and with growing pauses: what waits behind that one burns no
attempt, and when it answers again the lane is as wide as ever.
"""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol
from uuid import UUID

from infra.background import Background
from infra.failpoints import hit
from infra.health import Readiness
from infra.logs import get_logger
from infra.metrics import WEBHOOK_DELIVERIES
from infra.patience import until_through
from schemas.errors import TransientError
from schemas.webhooks import DeliveryState
from sender.feed.webhook_answers import Answer, Verdict, judge
from sender.feed.webhook_ledger import Claim, WebhookLedger
from sender.feed.webhook_post import ATTEMPT_S_MAX

log = get_logger()

# Attempts under way to one receiver, from one process.
WIDTH = 8

LOOK_INTERVAL_S = 1.0

REST_S_MIN = 0.25
REST_S_MAX = 30.0

# An attempt that is under way when the service ends, and the writing of its outcome.
DRAIN_S_MAX = ATTEMPT_S_MAX + 2.0


class Attempts(Protocol):
    """What is needed of the client; see sender.feed.webhook_post.Poster."""

    async def post(self, claim: Claim) -> Answer: ...


class Lanes:
    """
    Delivers what is due, webhook by webhook.

    Delivery: at least once. An attempt whose outcome was not written is made again when its lease has run out, with the
    same webhook-id. Order: none; receivers look at seq.
    Args:
        waits_s: see webhook_answers.judge.
    """

    def __init__(
        self,
        ledger: WebhookLedger,
        attempts: Attempts,
        readiness: Readiness,
        background: Background,
        *,
        waits_s: Sequence[float],
    ) -> None:
        self._ledger = ledger
        self._attempts = attempts
        self._readiness = readiness
        self._waits_s = waits_s
        self._lanes: dict[UUID, asyncio.Task[None]] = {}
        # Turns in a row that found the receiver in trouble; none: it is well.
        self._troubles: dict[UUID, int] = {}
        self._broken: set[UUID] = set()
        self._stop = asyncio.Event()
        background.start("webhook_lanes", self.look, every_s=LOOK_INTERVAL_S)

    async def drain(self) -> None:
        """Begin nothing new, and wait for what is under way, at most DRAIN_S_MAX; the rest its lease gives back."""
        self._stop.set()
        if self._lanes:
            await asyncio.wait(self._lanes.values(), timeout=DRAIN_S_MAX)
        for lane in self._lanes.values():
            lane.cancel()
        await asyncio.gather(*self._lanes.values(), return_exceptions=True)

    async def look(self) -> None:
        """Serve whoever has something due; done every LOOK_INTERVAL_S, and by who has written something new."""
        for webhook in await self._ledger.due():
            if webhook not in self._lanes and not self._stop.is_set():
                self._lanes[webhook] = asyncio.create_task(self._serve(webhook))

    async def _serve(self, webhook: UUID) -> None:
        try:
            while not self._stop.is_set() and await self._turn(webhook):
                await self._rest(webhook)
        except TransientError as error:
            log.warning("webhook_lane_postponed", webhook=str(webhook), error=str(error))
        except Exception:
            # Its claims come back when their lease has run out, and the lane with them.
            self._broken.add(webhook)
            self._readiness.red("webhook_delivery", "broke; see the log")
            log.exception("webhook_lane_broke", webhook=str(webhook))
        else:
            self._broken.discard(webhook)
            if not self._broken:
                self._readiness.green("webhook_delivery")
        finally:
            del self._lanes[webhook]

    async def _turn(self, webhook: UUID) -> bool:
        """Make the attempts of one turn; False: nothing is due."""
        claims = await self._ledger.claim(webhook, rows_max=1 if webhook in self._troubles else WIDTH)
        verdicts = await asyncio.gather(*map(self._deliver, claims))
        if any(verdict.state is DeliveryState.DELIVERED for verdict in verdicts):
            self._troubles.pop(webhook, None)
        elif any(verdict.resting for verdict in verdicts):
            self._troubles[webhook] = self._troubles.get(webhook, 0) + 1
        return bool(claims)

    async def _rest(self, webhook: UUID) -> None:
        troubles = self._troubles.get(webhook, 0)
        if troubles:
            pause_s = min(REST_S_MAX, REST_S_MIN * 2.0 ** min(troubles, 20))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stop.wait()

    async def _deliver(self, claim: Claim) -> Verdict:
        answer = await self._attempts.post(claim)
        verdict = judge(answer, attempt=claim.attempt, waits_s=self._waits_s, chance=random.random())
        if verdict.disables and await self._until_written(lambda: self._ledger.disable(claim, answer.code)):
            log.warning("webhook_disabled", webhook=str(claim.webhook), why=answer.code)
        # If the process dies here, the same is delivered again, under the same webhook-id.
        hit("feed.after_webhook_answer")
        if await self._until_written(lambda: self._ledger.settle(claim, verdict)):
            WEBHOOK_DELIVERIES.labels("postponed" if verdict.state is DeliveryState.PENDING else verdict.state).inc()
            if verdict.state is DeliveryState.FAILED:
                log.warning(
                    "webhook_delivery_failed",
                    webhook=str(claim.webhook),
                    event_id=str(claim.event_id),
                    attempt=claim.attempt,
                    answer=answer.code,
                )
        return verdict

    async def _until_written(self, write: Callable[[], Awaitable[bool]]) -> bool:
        return await until_through("webhook_outcome", write, give_up=self._stop.is_set)
