"""
The relay over SMTP: connections that are reused, and one transaction at a time on each.

Whether "try again" or "in doubt" is right depends on how far a conversation had come when the connection was lost. So
the steps of a transaction are taken here, one by one, although where the relay offers PIPELINING (RFC 2920) all that
comes before the message goes out in one piece.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, replace

from infra.failpoints import hit
from infra.settings import RelayAddress, SmtpMode
from sender.conversation import (
    Conversation,
    ConversationLostError,
    Reply,
    UnreadableReplyError,
    open_conversation,
)
from sender.replies import Judgement, Phase, Verdict, judge_reply, judge_silence

# RFC 5321 4.5.3.2 grants minutes for each step. Before the message is on its way, giving up early costs a retry and
# frees the slot. After the final dot, giving up early costs a mail in doubt: there we wait the full ten minutes.
CONNECT_S_MAX = 10.0
COMMAND_S_MAX = 20.0
DOT_S_MAX = 600.0

# Relays close idle connections after minutes; we leave before they do.
IDLE_S_MAX = 30.0

# What goes on after each step of the envelope; anything else ends the transaction.
_GOES_ON: dict[Phase, frozenset[int]] = {
    Phase.MAIL: frozenset({250}),
    Phase.RCPT: frozenset({250, 251}),
    Phase.DATA: frozenset({354}),
}


@dataclass(frozen=True, slots=True)
class Mail:
    """What goes over the wire: the envelope and the bytes of the message, CRLF line ends, not dot-stuffed."""

    sender: str
    recipient: str
    message: bytes
    smtputf8: bool


class _Stop(Exception):  # noqa: N818 -- not an error: it carries the judgement that ended a conversation
    def __init__(self, judgement: Judgement) -> None:
        super().__init__(judgement.code)
        self.judgement = judgement


class _Stale(_Stop):
    """A connection that had been idle was dead: no word of this transaction was heard."""


class Relay:
    """
    The relay. Its failures come back as judgements, never as exceptions.

    Args:
        connections_max: open at the same time; transactions beyond it wait for a free one.
        ca_file: certificate authorities to trust; None: the system's.
    """

    def __init__(self, address: RelayAddress, *, connections_max: int, ca_file: str | None) -> None:
        self.address = address
        self._free = asyncio.Semaphore(connections_max)
        self._idle: list[Conversation] = []
        self._tls = ssl.create_default_context(cafile=ca_file)

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Return a context that waits for a free connection and holds it: one transaction at a time in each."""
        return self._free

    async def send(self, mail: Mail, before_message: Callable[[], Awaitable[bool]]) -> Judgement | None:
        """
        Offer *mail* to the relay in one transaction: MAIL, RCPT, DATA, *before_message*, the message. Inside a `slot`.

        Delivery: at most once. A connection that turns out to be dead before MAIL is answered is replaced once.
        Args:
            before_message: called when the relay is ready for the message, before a byte of it is sent. False: do not
                send. What it raises goes on to the caller; the transaction is abandoned.
        Returns:
            The judgement on the last reply; None when *before_message* said no.
        """
        try:
            try:
                return await self._transact(await self._take(), mail, before_message)
            except _Stale:
                # A new connection is never stale: this is the last try.
                return await self._transact(await self._connect(), mail, before_message)
        except _Stop as stop:
            return stop.judgement

    async def probe(self, sender: str) -> Judgement:
        """Ask the relay whether it takes us and our sender address, without a notification."""
        async with self._free:
            try:
                conversation = await self._connect()
                with _dropping(conversation), _judging(Phase.MAIL):
                    reply = await conversation.ask(f"MAIL FROM:<{sender}>".encode(), COMMAND_S_MAX)
                await self._reset(conversation)
                return judge_reply(Phase.MAIL, reply.code, reply.text)
            except _Stop as stop:
                return stop.judgement

    async def close(self) -> None:
        """Say goodbye on every idle connection."""
        while self._idle:
            await self._idle.pop().leave(1.0)

    async def _transact(
        self, conversation: Conversation, mail: Mail, before_message: Callable[[], Awaitable[bool]]
    ) -> Judgement | None:
        if mail.smtputf8 and "SMTPUTF8" not in conversation.extensions:
            self._keep(conversation)
            return Judgement(Verdict.PERMANENT, "smtputf8_not_offered")
        try:
            refusal, ready = await _envelope(conversation, mail)
            if refusal is None:
                if not await before_message():
                    # RFC 5321 has no word for taking back what has had its 354: only leaving without the dot does.
                    conversation.drop()
                    return None
                reply = await _hand_over(conversation, mail.message)
        except BaseException:
            conversation.drop()
            raise
        judgement = refusal or _judge(Phase.DOT, reply)
        if judgement.smtp_code in {None, 421} or (refusal and ready):
            # It is out of step, or leaves, or waits for a message although it refused us.
            conversation.drop()
        elif refusal:
            await self._reset(conversation)
        else:
            self._keep(conversation)
        return judgement

    async def _take(self) -> Conversation:
        while self._idle:
            conversation = self._idle.pop()
            if conversation.in_order and time.monotonic() - conversation.idle_since < IDLE_S_MAX:
                return conversation
            conversation.drop()
        return await self._connect()

    async def _connect(self) -> Conversation:
        address = self.address
        encrypted = address.mode is SmtpMode.TLS
        with _judging(Phase.TLS if encrypted else Phase.CONNECT):
            conversation = await open_conversation(
                address.host, address.port, self._tls if encrypted else None, CONNECT_S_MAX
            )
        with _dropping(conversation):
            with _judging(Phase.CONNECT):
                _expect(220, Phase.CONNECT, await conversation.reply(CONNECT_S_MAX))
                await self._greet(conversation)
            if address.mode is SmtpMode.STARTTLS:
                with _judging(Phase.TLS):
                    if "STARTTLS" not in conversation.extensions:
                        raise _Stop(judge_silence(Phase.TLS, "tls_failure"))
                    _expect(220, Phase.TLS, await conversation.start_tls(self._tls, address.host, COMMAND_S_MAX))
                    await self._greet(conversation)
            if address.user is not None and address.password is not None:
                with _judging(Phase.AUTH):
                    reply = await conversation.log_in(address.user, address.password, COMMAND_S_MAX)
                    if reply is None:
                        raise _Stop(Judgement(Verdict.CONFIGURATION, "not_supported"))
                    _expect(235, Phase.AUTH, reply)
        return conversation

    async def _greet(self, conversation: Conversation) -> None:
        _expect(250, Phase.CONNECT, await conversation.greet(socket.gethostname(), COMMAND_S_MAX))

    async def _reset(self, conversation: Conversation) -> None:
        try:
            with _dropping(conversation):
                reply = await conversation.ask(b"RSET", COMMAND_S_MAX)
        except _SILENCES:
            return
        if reply.code == 250:
            self._keep(conversation)
        else:
            conversation.drop()

    def _keep(self, conversation: Conversation) -> None:
        if conversation.in_order:
            conversation.idle_since = time.monotonic()
            self._idle.append(conversation)
        else:
            conversation.drop()


def _steps(mail: Mail) -> Sequence[tuple[Phase, bytes]]:
    option = " SMTPUTF8" if mail.smtputf8 else ""
    encoding = "utf-8" if mail.smtputf8 else "ascii"
    return (
        (Phase.MAIL, f"MAIL FROM:<{mail.sender}>{option}\r\n".encode(encoding)),
        (Phase.RCPT, f"RCPT TO:<{mail.recipient}>\r\n".encode(encoding)),
        (Phase.DATA, b"DATA\r\n"),
    )


async def _envelope(conversation: Conversation, mail: Mail) -> tuple[Judgement | None, bool]:
    """
    Send MAIL, RCPT and DATA, and read every reply that they have.

    Returns:
        The first refusal, None when all is well; and whether the relay now waits for a message.
    Raises:
        _Stale: the connection had been used before, and turned out to be dead.
    """
    reused, conversation.used = conversation.used, True
    steps = _steps(mail)
    grouped = "PIPELINING" in conversation.extensions
    refusal: Judgement | None = None
    phase, code = Phase.MAIL, 0
    try:
        if grouped:
            conversation.write(b"".join([command for _, command in steps]))
        for phase, command in steps:
            if not grouped:
                conversation.write(command)
            reply = await conversation.reply(COMMAND_S_MAX)
            code = reply.code
            if code == 421 and reused and phase is Phase.MAIL:
                raise _Stale(_judge(phase, reply))
            if refusal is None and code not in _GOES_ON[phase]:
                refusal = _judge(phase, reply)
                if not grouped:
                    break
    except _SILENCES as error:
        if reused and phase is Phase.MAIL:
            raise _Stale(_silence(phase, error)) from None
        # The first refusal counts, whatever came of the replies behind it.
        raise _Stop(refusal or _silence(phase, error)) from None
    return refusal, code == 354


async def _hand_over(conversation: Conversation, message: bytes) -> Reply:
    """Send the message to a relay that waits for it, and return its answer."""
    phase = Phase.DATA
    try:
        if not conversation.in_order:
            # It left, or says that it will, while we were claiming: it has nothing of the message, and gets nothing.
            raise ConversationLostError
        conversation.write(_on_the_wire(message))
        phase = Phase.DOT
        hit("sender.after_dot")
        return await conversation.reply(DOT_S_MAX)
    except _SILENCES as error:
        raise _Stop(_silence(phase, error)) from None


def _on_the_wire(message: bytes) -> bytes:
    """Return *message* with its dots doubled and the final one behind it (RFC 5321 4.5.2)."""
    if not message.count(b"\n") == message.count(b"\r") == message.count(b"\r\n"):
        # Only CRLF ends a line, so that no lone CR or LF can smuggle in a dot of its own.
        message = b"\r\n".join((*message.splitlines(), b""))
    if not message.endswith(b"\r\n"):
        message += b"\r\n"
    stuffed = message.replace(b"\r\n.", b"\r\n..")
    return b"".join((b"." if stuffed.startswith(b".") else b"", stuffed, b".\r\n"))


def _expect(code: int, phase: Phase, reply: Reply) -> None:
    if reply.code != code:
        raise _Stop(_judge(phase, reply))


def _judge(phase: Phase, reply: Reply) -> Judgement:
    """Judge a reply that ends a transaction, or a connection before there was one."""
    judgement = judge_reply(phase, reply.code, reply.text)
    # RFC 5321 4.3.2: to the dot, 250 alone is a yes. A 221 of one that leaves is none.
    if reply.code >= 400 or (phase is Phase.DOT and reply.code == 250):
        return judgement
    # A 2yz where only another would let us go on, or a 3yz: the relay is out of step.
    return replace(judge_silence(phase, "out_of_step"), smtp=judgement.smtp)


@contextmanager
def _dropping(conversation: Conversation) -> Iterator[None]:
    """Close the connection when what is done on it ends otherwise than by returning."""
    try:
        yield
    except BaseException:
        conversation.drop()
        raise


@contextmanager
def _judging(phase: Phase) -> Iterator[None]:
    """Turn into a judgement what ends a conversation in *phase* without a word."""
    try:
        yield
    except _SILENCES as error:
        raise _Stop(_silence(phase, error)) from None


# Of OSError, only those that come from opening and encrypting a connection.
_SILENCES = (OSError, ConversationLostError, UnreadableReplyError)


def _silence(phase: Phase, error: Exception) -> Judgement:
    if isinstance(error, ssl.SSLError):
        return judge_silence(Phase.TLS, "tls_failure")
    if isinstance(error, TimeoutError):
        return judge_silence(phase, "timeout")
    if isinstance(error, socket.gaierror):
        return judge_silence(phase, "dns_failure")
    if isinstance(error, UnreadableReplyError):
        return judge_silence(phase, "unreadable_reply")
    lost = isinstance(error, ConversationLostError | ConnectionResetError | ConnectionAbortedError)
    return judge_silence(phase, "connection_lost" if lost else "connection_refused")
