"""
The relay over SMTP: a bounded number of connections, reused, with one transaction after the other on each.

Whoever finds all of them taken stands in line. When a message goes out on a connection, the envelope of the next in
line goes out in the same piece where the relay takes commands in groups: its answers come with the answer to that
message, and a mail costs one round trip and one packet each way instead of two (RFC 2920 3.1).
"""

import asyncio
import socket
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from infra.settings import RelayAddress, SmtpMode
from sender.conversation import Conversation, open_conversation
from sender.replies import Judgement, Phase, Verdict, judge_reply, judge_silence
from sender.transaction import (
    COMMAND_S_MAX,
    SILENCES,
    Mail,
    Stale,
    Stop,
    envelope_of,
    expect,
    hand_over,
    is_pipelined,
    judging,
    offer_envelope,
)

CONNECT_S_MAX = 10.0

# Relays close idle connections after minutes; we leave before they do.
IDLE_S_MAX = 30.0

# A relay may think about a message for minutes. Whose envelope went out behind it waits for it no longer than this.
BEHIND_S_MAX = 1.0


@dataclass(slots=True, eq=False)
class _Place:
    """
    One of the connections that may be open.

    conversation: None: there is none now. dropped: the one before, which may not be closed yet.
    """

    conversation: Conversation | None = None
    dropped: Conversation | None = None

    def drop(self) -> None:
        if self.conversation is not None:
            self.conversation.drop()
            self.conversation, self.dropped = None, self.conversation

    async def wait_closed(self) -> None:
        """Return when another connection may be opened without being one too many."""
        if self.dropped is not None:
            await self.dropped.wait_closed()
            self.dropped = None


@dataclass(slots=True, eq=False)
class _Offer:
    """
    One transaction, from the line to its end.

    mail: None: a probe, which has no envelope to send ahead. turn: done when it has its place. envelope_is_out: behind
    the message before it on that place. successor: whose envelope went out behind this one. spoilt: that one did not
    wait, so the connection is out of step.
    """

    mail: Mail | None
    place: _Place | None = None
    turn: "asyncio.Future[None] | None" = None
    envelope_is_out: bool = False
    successor: "_Offer | None" = None
    spoilt: bool = False

    @property
    def gone(self) -> bool:
        """Whether nobody waits for its turn any more."""
        return self.turn is not None and self.turn.done()


class RatePort(Protocol):
    """What is needed of the cap on mails per second; see sender.relay_rate.RelayRate."""

    async def turn(self) -> None: ...


class Relay:
    """
    The relay. Its failures come back as judgements, never as exceptions.

    Args:
        connections_max: open at the same time; transactions beyond it stand in line.
        ca_file: certificate authorities to trust; None: the system's.
        rate: hands out turns to offer a mail; None: as many as the connections can take. A probe needs none.
    """

    def __init__(
        self, address: RelayAddress, *, connections_max: int, ca_file: str | None, rate: RatePort | None = None
    ) -> None:
        self.address = address
        self._rate = rate
        self._free = [_Place() for _ in range(connections_max)]
        self._line: deque[_Offer] = deque()
        self._tls = ssl.create_default_context(cafile=ca_file)

    async def send(self, mail: Mail, before_message: Callable[[], Awaitable[bool]]) -> Judgement | None:
        """
        Offer *mail* to the relay in one transaction: MAIL, RCPT, DATA, *before_message*, the message.

        Delivery: at most once. A connection that turns out to be dead before MAIL is answered is replaced once.
        Order: who came first has the first turn, unless a slow answer keeps the connection before it.
        Args:
            mail: gets its begun_at when its turn has come.
            before_message: called when the relay is ready for the message, before a byte of it is sent. False: do not
                send. What it raises goes on to the caller; the transaction is abandoned.
        Returns:
            The judgement on the last reply; None when *before_message* said no.
        """
        offer = _Offer(mail)
        try:
            place = await self._turn(offer)
            if self._rate is not None:
                # With the connection in hand: turns that pile up in front of connections which hang would come out
                # all at once.
                await self._rate.turn()
            mail.begun_at = time.monotonic()
            try:
                return await self._transact(offer, place, mail, before_message)
            except Stale:
                # A new connection is never stale: this is the last try.
                return await self._transact(offer, place, mail, before_message)
        except Stop as stop:
            return stop.judgement
        finally:
            self._leave(offer)

    async def probe(self, sender: str) -> Judgement:
        """Ask the relay whether it takes us and our sender address, without a notification, on a new connection."""
        offer = _Offer(None)
        try:
            place = await self._turn(offer)
            place.drop()
            conversation = await self._connect(place)
            with _dropping(place), judging(Phase.MAIL):
                reply = await conversation.ask(f"MAIL FROM:<{sender}>".encode(), COMMAND_S_MAX)
            await _reset(place)
            return judge_reply(Phase.MAIL, reply.code, reply.text)
        except Stop as stop:
            return stop.judgement
        finally:
            self._leave(offer)

    async def close(self) -> None:
        """Say goodbye on every idle connection."""
        for place in self._free:
            conversation, place.conversation = place.conversation, None
            if conversation is not None:
                await conversation.leave(1.0)

    async def _turn(self, offer: _Offer) -> _Place:
        """Return a place as soon as there is one for *offer*."""
        if self._free:
            offer.place = self._free.pop()
        else:
            offer.turn = asyncio.get_running_loop().create_future()
            self._line.append(offer)
            await offer.turn
        assert offer.place is not None, "whose turn it is has a place"
        return offer.place

    def _leave(self, offer: _Offer) -> None:
        """Hand the place of *offer* on, with whatever connection it has."""
        place, offer.place = offer.place, None
        if place is None:
            return
        successor, offer.successor = offer.successor, None
        if offer.spoilt or offer.envelope_is_out or (successor is not None and successor.gone):
            # Answers will come that nobody reads. Only now: the answer to our own message was still to come.
            place.drop()
        if place.conversation is not None:
            place.conversation.idle_since = time.monotonic()
        if successor is not None and not successor.gone:
            successor.envelope_is_out = place.conversation is not None
            self._begin(successor, place)
        else:
            self._give(place)

    def _give(self, place: _Place) -> None:
        while self._line:
            offer = self._line.popleft()
            if not offer.gone:
                self._begin(offer, place)
                return
        self._free.append(place)

    def _begin(self, offer: _Offer, place: _Place) -> None:
        offer.place = place
        assert offer.turn is not None, "whoever got its place at once never stood in line"
        offer.turn.set_result(None)

    def _send_ahead(self, offer: _Offer, conversation: Conversation) -> bytes:
        """Return the envelope of the next in line, which goes out behind the message of *offer*; empty: none does."""
        while self._line and self._line[0].gone:
            self._line.popleft()
        # Where the rate is capped, an envelope goes out when it has its turn, and not before.
        if not self._line or self._rate is not None or not is_pipelined(conversation):
            return b""
        mail = self._line[0].mail
        if mail is None or not _can_take(conversation, mail):
            return b""
        offer.successor = self._line.popleft()
        return envelope_of(mail)

    def _part(self, offer: _Offer) -> None:
        """Let the one behind *offer* go elsewhere: the relay takes its time with this message."""
        successor, offer.successor = offer.successor, None
        if successor is None:
            return
        offer.spoilt = True
        if successor.gone:
            return
        if self._free:
            self._begin(successor, self._free.pop())
        else:
            self._line.appendleft(successor)

    async def _transact(
        self, offer: _Offer, place: _Place, mail: Mail, before_message: Callable[[], Awaitable[bool]]
    ) -> Judgement | None:
        is_out, offer.envelope_is_out = offer.envelope_is_out, False
        conversation = place.conversation if is_out else await self._conversation(place)
        assert conversation is not None, "an envelope went out on some connection"
        if not _can_take(conversation, mail):
            return Judgement(Verdict.PERMANENT, "smtputf8_not_offered")
        with _dropping(place):
            refusal, ready = await offer_envelope(conversation, mail, is_out=is_out)
            if refusal is None:
                if not await before_message():
                    # RFC 5321 has no word for taking back what has had its 354: only leaving without the dot does.
                    place.drop()
                    return None
                judgement = await self._hand_over(offer, conversation, mail)
            else:
                judgement = refusal
        if judgement.smtp_code in {None, 421} or (refusal and ready):
            # It is out of step, or leaves, or waits for a message although it refused us.
            place.drop()
        elif refusal:
            await _reset(place)
        return judgement

    async def _hand_over(self, offer: _Offer, conversation: Conversation, mail: Mail) -> Judgement:
        behind = self._send_ahead(offer, conversation)
        if not behind:
            return await hand_over(conversation, mail.message, b"")
        timer = asyncio.get_running_loop().call_later(BEHIND_S_MAX, self._part, offer)
        try:
            return await hand_over(conversation, mail.message, behind)
        finally:
            timer.cancel()

    async def _conversation(self, place: _Place) -> Conversation:
        conversation = place.conversation
        if conversation is not None:
            if conversation.in_order and time.monotonic() - conversation.idle_since < IDLE_S_MAX:
                return conversation
            place.drop()
        return await self._connect(place)

    async def _connect(self, place: _Place) -> Conversation:
        await place.wait_closed()
        address = self.address
        encrypted = address.mode is SmtpMode.TLS
        with judging(Phase.TLS if encrypted else Phase.CONNECT):
            conversation = await open_conversation(
                address.host, address.port, self._tls if encrypted else None, CONNECT_S_MAX
            )
        place.conversation = conversation
        with _dropping(place):
            with judging(Phase.CONNECT):
                expect(220, Phase.CONNECT, await conversation.reply(CONNECT_S_MAX))
                await _greet(conversation)
            if address.mode is SmtpMode.STARTTLS:
                with judging(Phase.TLS):
                    if "STARTTLS" not in conversation.extensions:
                        raise Stop(judge_silence(Phase.TLS, "tls_failure"))
                    expect(220, Phase.TLS, await conversation.start_tls(self._tls, address.host, COMMAND_S_MAX))
                    await _greet(conversation)
            if address.user is not None and address.password is not None:
                with judging(Phase.AUTH):
                    reply = await conversation.log_in(address.user, address.password, COMMAND_S_MAX)
                    if reply is None:
                        raise Stop(Judgement(Verdict.CONFIGURATION, "not_supported"))
                    expect(235, Phase.AUTH, reply)
        conversation.idle_since = time.monotonic()
        return conversation


def _can_take(conversation: Conversation, mail: Mail) -> bool:
    return not mail.smtputf8 or "SMTPUTF8" in conversation.extensions


async def _greet(conversation: Conversation) -> None:
    expect(250, Phase.CONNECT, await conversation.greet(socket.gethostname(), COMMAND_S_MAX))


async def _reset(place: _Place) -> None:
    assert place.conversation is not None, "what refused us is still there"
    try:
        with _dropping(place):
            reply = await place.conversation.ask(b"RSET", COMMAND_S_MAX)
    except SILENCES:
        return
    if reply.code != 250:
        place.drop()


@contextmanager
def _dropping(place: _Place) -> Iterator[None]:
    """Close the connection when what is done on it ends otherwise than by returning."""
    try:
        yield
    except BaseException:
        place.drop()
        raise
