"""
The use case: one notification, from where the ledger says it stands to a terminal state.

Crash thinking, for a process that dies
  before the claim       the relay has no message, and forgets the rest; the record comes again
  after the claim        the mail may be out or not; when our lease has run out, it ends in doubt
  after the relay's 250  the same: the answer died with us
  after the outcome      the ledger knows; its event is swept up and published
  after the publication  the record comes again, finds a terminal state, and is acknowledged without a word to SMTP
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Literal, Protocol
from uuid import UUID

import tenacity
from opentelemetry.trace import SpanKind

from infra.failpoints import hit
from infra.logs import get_logger
from infra.metrics import END_TO_END_SECONDS, attempts, outcomes
from infra.patience import until_through
from infra.telemetry import fail_span, is_recorded, start_span
from schemas.addresses import is_simulated
from schemas.messages import Forward, Reason
from schemas.states import TERMINAL, State
from sender.changes import Unpublished
from sender.channel import STOPS, Channel
from sender.compose import Composer, needs_smtputf8
from sender.ladder import Again, Ladder, named_delay_s
from sender.ledger import Enrolment, Outcome, Standing
from sender.parking import Expired
from sender.replies import Judgement, Verdict
from sender.simulator import SimulatedRelay
from sender.transaction import Mail

log = get_logger()

RETRY_JITTER = 0.1  # of the wait, both ways

# How often to look whether another worker has settled what it had claimed.
SETTLED_POLL_S = 1.0


class RelayPort(Protocol):
    """What is needed of the relay; see sender.smtp.Relay."""

    async def send(self, mail: Mail, before_message: Callable[[], Awaitable[bool]]) -> Judgement | None: ...


class LedgerPort(Protocol):
    """What is needed of the ledger; see sender.ledger.Ledger."""

    async def standing(self, notification_id: UUID) -> Standing | None: ...
    async def claim(self, notification_id: UUID, attempt: int, forward: Forward | None) -> bool: ...
    async def unclaim(self, notification_id: UUID, attempt: int) -> None: ...
    async def record(self, outcome: Outcome) -> int | None: ...
    async def expire(self, notification_id: UUID) -> Expired | None: ...


class LeasePort(Protocol):
    """What is needed of the lease; see sender.lease.Lease."""

    @property
    def holds(self) -> bool: ...


class PublisherPort(Protocol):
    """What is needed of the publisher; see sender.results.ResultPublisher."""

    async def publish(self, change: Unpublished) -> None: ...


@dataclass(slots=True)
class Delivery:
    """
    One notification being delivered.

    critical: between the claim and the recorded outcome. It is not interrupted there: nobody else could tell what
    came of it.
    """

    enrolment: Enrolment
    standing: Standing
    critical: bool = False

    @property
    def simulated(self) -> bool:
        """Whether it goes to the simulator and not to the relay."""
        return is_simulated(self.enrolment.notification.content.to)


class _StillTransientError(Exception):
    """The attempt failed for a passing reason, the ledger knows, and another one is due after wait_s seconds."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"again after {wait_s:g} s")
        self.wait_s = wait_s


class Deliverer:
    """
    Delivers notifications, any number at the same time.

    Args:
        ladder: when a passing failure is followed by another attempt.
    """

    def __init__(
        self,
        *,
        relay: RelayPort,
        ledger: LedgerPort,
        lease: LeasePort,
        publisher: PublisherPort,
        channel: Channel,
        composer: Composer,
        ladder: Ladder,
    ) -> None:
        self._relay = relay
        self._ledger = ledger
        self._lease = lease
        self._publisher = publisher
        self._channel = channel
        self._composer = composer
        self._ladder = ladder
        # Whoever tests against the simulator does not wait for a day.
        self._simulated_ladder = replace(ladder, steps_s=())
        self._in_hand: dict[UUID, asyncio.Event] = {}

    async def deliver(self, delivery: Delivery) -> None:
        """
        Bring *delivery* to a terminal state, or to where it waits in the ledger for a later attempt.

        Returns only when the ledger says so and, if that was done here, the results topic has the event, or for what
        ran out of time, which is swept up, will have it. Waits out every outage, but not beyond expires_at; a
        cancellation outside the critical part leaves nothing half done.
        """
        notification_id = delivery.enrolment.notification.id
        # A copy of the same notification, or one that was revoked from us and came back: one at a time.
        while other := self._in_hand.get(notification_id):
            await other.wait()
            await self._look_up(delivery)
        done = self._in_hand[notification_id] = asyncio.Event()
        try:
            while not delivery.standing.terminal and not delivery.standing.parked:
                if not await self._go_on(delivery):
                    # Somebody else has it, or it was called off or put off. Acknowledging now, without a look, would
                    # strand it if they are dead.
                    await asyncio.sleep(SETTLED_POLL_S)
                    await self._look_up(delivery)
        finally:
            del self._in_hand[notification_id]
            done.set()

    async def _go_on(self, delivery: Delivery) -> bool:
        """Try until a terminal state, or end what has no time left. False: where it stands must be looked up."""
        if delivery.standing.state is State.SENDING:
            return False
        if delivery.standing.expired:
            return await self._expire(delivery)
        return await self._burst(delivery)

    async def _expire(self, delivery: Delivery) -> bool:
        notification_id = delivery.enrolment.notification.id
        expired = await until_through("expire", lambda: self._ledger.expire(notification_id))
        if expired is None:
            return False
        count_expired([expired])
        delivery.standing = replace(delivery.standing, state=expired.state)
        return True

    async def _burst(self, delivery: Delivery) -> bool:
        """Try until a terminal state. False: an attempt was not ours to make."""
        # Nearly all end with the first attempt, and then the apparatus would cost more than the mail.
        try:
            return await self._attempt(delivery)
        except _StillTransientError as error:
            await asyncio.sleep(_jittered(error.wait_s))
        again = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_StillTransientError),
            # How many there are is the ladder's to say, and it counts those before a restart: the ledger knows them.
            stop=tenacity.stop_never,
            wait=_named_wait,
            reraise=True,
        )
        won: bool = await again(self._attempt, delivery)
        return won

    async def _attempt(self, delivery: Delivery) -> bool:
        number = delivery.standing.attempt + 1
        relay: RelayPort = SimulatedRelay(number) if delivery.simulated else self._relay
        while True:
            if relay is self._relay and not await self._channel_opens(delivery):
                return False
            judgement, attempt_ms = await self._offer(delivery, number, relay)
            if judgement is None:
                return False
            if judgement.verdict not in STOPS:
                break
            # Not its fault: the attempt does not count, and is made again when the channel is open.
            assert not delivery.critical, "a claimed attempt ends in an outcome of its own"
            self._channel.stop(judgement)
        outcome, again = self._outcome(delivery, number, judgement, attempt_ms)
        hit("sender.after_250")
        seq = await until_through("outcome", lambda: self._ledger.record(outcome))
        delivery.critical = False
        if seq is None:
            # Our lease ran out under way and others ended it in doubt; what the ledger says stands.
            log.error("outcome_too_late", notification_id=str(outcome.id), state=outcome.state)
            return False
        hit("sender.after_outcome")
        await self._tell(delivery, outcome, seq)
        hit("sender.after_result")
        delivery.standing = replace(
            delivery.standing,
            state=outcome.state,
            attempt=number,
            parked=again is not None and again.parked,
            doubts=delivery.standing.doubts + outcome.doubt,
        )
        if again is not None and not again.parked:
            raise _StillTransientError(again.wait_s)
        return True

    async def _channel_opens(self, delivery: Delivery) -> bool:
        """Wait until the channel is open. False: the time of *delivery* ran out first."""
        expires_at = delivery.enrolment.notification.content.expires_at
        if expires_at is None:
            await self._channel.wait_open()
            return True
        try:
            async with asyncio.timeout((expires_at - datetime.now(UTC)).total_seconds()):
                await self._channel.wait_open()
        except TimeoutError:
            return False
        return True

    def _outcome(
        self, delivery: Delivery, number: int, judgement: Judgement, attempt_ms: int
    ) -> tuple[Outcome, Again | None]:
        now = datetime.now(UTC)
        state, again = self._next(delivery, number, judgement, now)
        parked_until = now + timedelta(seconds=_jittered(again.wait_s)) if again and again.parked else None
        outcome = Outcome(
            id=delivery.enrolment.notification.id,
            attempt=number,
            claimed=delivery.critical,
            state=state,
            reason=Reason(_KINDS[judgement.verdict], judgement.code, judgement.smtp),
            attempt_ms=attempt_ms,
            occurred_at=now,
            next_attempt_at=parked_until,
            doubt=judgement.verdict is Verdict.IN_DOUBT,
            forward=None if delivery.critical else _first_forward(delivery, number),
        )
        return outcome, again

    def _next(self, delivery: Delivery, number: int, judgement: Judgement, now: datetime) -> tuple[State, Again | None]:
        again: Again | None = None
        if judgement.verdict is Verdict.TRANSIENT:
            ladder = self._simulated_ladder if delivery.simulated else self._ladder
            again = ladder.after(
                number,
                # What was for later has its day of retries from when it was due, not from when it was asked for.
                accepted_at=max(
                    delivery.standing.accepted_at,
                    delivery.enrolment.notification.content.scheduled_for or delivery.standing.accepted_at,
                ),
                now=now,
                named_s=named_delay_s(judgement.smtp),
            )
            return (State.RETRYING if again else State.FAILED), again
        if judgement.verdict is Verdict.IN_DOUBT and self._is_resent(delivery):
            # Through the ledger, so that it survives us; the same Message-ID lets the receiver see that it is a copy.
            again = Again(self._ladder.burst_wait_s, parked=True)
            return State.RETRYING, again
        return _STATES[judgement.verdict], None

    def _is_resent(self, delivery: Delivery) -> bool:
        return delivery.enrolment.notification.content.on_doubt == "resend" and delivery.standing.doubts == 0

    async def _offer(self, delivery: Delivery, number: int, relay: RelayPort) -> tuple[Judgement | None, int]:
        """Return what the relay made of it, None when it was not ours to send, and how long that took, in ms."""
        notification = delivery.enrolment.notification

        async def claim() -> bool:
            hit("sender.after_rcpt")
            # From here on a cancellation must wait: the claim may be written although its answer never comes.
            delivery.critical = True
            won = self._lease.holds and await until_through(
                "claim", lambda: self._ledger.claim(notification.id, number, _first_forward(delivery, number))
            )
            # The claim may have taken long. A frozen worker that wakes up here finds its lease gone.
            if won and not self._lease.holds:
                log.error("lease_lost_before_message", notification_id=str(notification.id))
                # Whoever has its record by now would wait for as long as this process lives.
                await until_through("unclaim", lambda: self._ledger.unclaim(notification.id, number))
                won = False
            delivery.critical = won
            hit("sender.after_claim")
            return won

        mail = Mail(
            sender=self._composer.address,
            recipient=notification.content.to,
            message=self._composer.compose(notification, delivery.standing.accepted_at),
            smtputf8=needs_smtputf8(notification),
        )
        if is_recorded(notification.traceparent):
            judgement = await self._send_traced(relay, mail, claim, notification.traceparent, number)
        else:
            judgement = await relay.send(mail, claim)
        if judgement is not None and relay is self._relay:
            attempts(judgement.verdict).inc()
        # Not the time in line before it.
        return judgement, 0 if mail.begun_at is None else round((time.monotonic() - mail.begun_at) * 1000)

    async def _send_traced(
        self, relay: RelayPort, mail: Mail, claim: Callable[[], Awaitable[bool]], traceparent: str | None, number: int
    ) -> Judgement | None:
        span = start_span(
            "smtp send",
            SpanKind.CLIENT,
            parent=traceparent,
            attributes={"network.protocol.name": "smtp", "relevo.attempt": number},
        )
        try:
            judgement = await relay.send(mail, claim)
            if judgement is not None:
                if judgement.smtp_code is not None:
                    span.set_attribute("smtp.response.status_code", judgement.smtp_code)
                if judgement.verdict is not Verdict.ACCEPTED:
                    fail_span(span, judgement.code)
            return judgement
        finally:
            span.end()

    async def _tell(self, delivery: Delivery, outcome: Outcome, seq: int) -> None:
        enrolment = delivery.enrolment
        change = Unpublished(
            id=outcome.id,
            seq=seq,
            state=outcome.state,
            attempt=outcome.attempt,
            reason=outcome.reason,
            channel=enrolment.notification.content.channel,
            source=enrolment.source,
            recipient_hash=enrolment.recipient_hash,
            accepted_at=delivery.standing.accepted_at,
            occurred_at=outcome.occurred_at,
            traceparent=enrolment.notification.traceparent,
            metadata=enrolment.notification.content.metadata,
            producer=enrolment.notification.producer,
            replay_of=enrolment.notification.replay_of,
            test=delivery.simulated,
        )
        # What was sent has its timeline in the ledger, and its publication counts it in the log.
        if outcome.state is not State.SENT:
            log.info(
                "attempt_ended",
                notification_id=str(outcome.id),
                state=outcome.state,
                attempt=outcome.attempt,
                code=outcome.reason.code,
                duration_ms=outcome.attempt_ms,
            )
        if not change.test:
            _count(change)
        await until_through("publish", lambda: self._publisher.publish(change))

    async def _look_up(self, delivery: Delivery) -> None:
        notification_id = delivery.enrolment.notification.id
        standing = await until_through("standing", lambda: self._ledger.standing(notification_id))
        assert standing is not None, "an enrolled notification is in the ledger"
        delivery.standing = standing


_STATES: dict[Verdict, State] = {
    Verdict.ACCEPTED: State.SENT,
    Verdict.PERMANENT: State.BOUNCED,
    Verdict.IN_DOUBT: State.IN_DOUBT,
    Verdict.SUPPRESSED: State.SUPPRESSED,
}
_KINDS: dict[Verdict, Literal["accepted", "permanent", "unknown", "transient", "called_off"]] = {
    Verdict.ACCEPTED: "accepted",
    Verdict.PERMANENT: "permanent",
    Verdict.IN_DOUBT: "unknown",
    Verdict.TRANSIENT: "transient",
    Verdict.SUPPRESSED: "called_off",
}


def count_expired(ended: Sequence[Expired]) -> None:
    """Count *ended* in the metrics of production, and tell the log."""
    for each in ended:
        if not each.test:
            outcomes(each.state).inc()
    if ended:
        log.info("notifications_expired", notifications=len(ended))


def _count(change: Unpublished) -> None:
    """Count *change* in the metrics of production, where what is simulated would mislead."""
    if change.state in TERMINAL:
        outcomes(change.state).inc()
    if change.state is State.SENT:
        END_TO_END_SECONDS.observe((change.occurred_at - change.accepted_at).total_seconds())


def _first_forward(delivery: Delivery, number: int) -> Forward | None:
    # Of a later attempt the ledger knows it already, and the record at hand may be one that was put back.
    return delivery.enrolment.forward if number == 1 else None


def _named_wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, _StillTransientError), "nothing else is retried"
    return _jittered(error.wait_s)


def _jittered(wait_s: float) -> float:
    """Return *wait_s* +- RETRY_JITTER: a relay that comes back is not hit by all at once."""
    return wait_s * random.uniform(1 - RETRY_JITTER, 1 + RETRY_JITTER)
