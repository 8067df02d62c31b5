"""
One transaction with a relay: MAIL, RCPT, DATA, the message, and what each reply to them means for it.

Whether "try again" or "in doubt" is right depends on how far a conversation had come when the connection was lost. So
the steps are taken here, one by one, although where the relay offers PIPELINING (RFC 2920) all that comes before the
message goes out in one piece, and behind the message before it when there is one.
"""

import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from infra.failpoints import hit
from sender.conversation import Conversation, ConversationLostError, Reply, UnreadableReplyError
from sender.replies import Judgement, Phase, judge_reply, judge_silence

# RFC 5321 4.5.3.2 grants minutes for each step. Before the message is on its way, giving up early costs a retry and
# frees the connection. After the final dot, giving up early costs a mail in doubt: there we wait the full ten minutes.
COMMAND_S_MAX = 20.0
DOT_S_MAX = 600.0

# What goes on after each step of the envelope; anything else ends the transaction.
_GOES_ON: dict[Phase, frozenset[int]] = {
    Phase.MAIL: frozenset({250}),
    Phase.RCPT: frozenset({250, 251}),
    Phase.DATA: frozenset({354}),
}


@dataclass(slots=True)
class Mail:
    """
    What goes over the wire: the envelope and the bytes of the message, CRLF line ends, not dot-stuffed.

    begun_at: when its transaction began, by time.monotonic(); None: it has not.
    """

    sender: str
    recipient: str
    message: bytes
    smtputf8: bool
    begun_at: float | None = None


class Stop(Exception):  # noqa: N818 -- not an error: it carries the judgement that ended a conversation
    """A conversation ended with *judgement*."""

    def __init__(self, judgement: Judgement) -> None:
        super().__init__(judgement.code)
        self.judgement = judgement


class Stale(Stop):
    """A connection that had been used before was dead: no word of this transaction was heard."""


def is_pipelined(conversation: Conversation) -> bool:
    """Whether the relay takes commands in groups (RFC 2920)."""
    return "PIPELINING" in conversation.extensions


def envelope_of(mail: Mail) -> bytes:
    """Return MAIL, RCPT and DATA as one group."""
    return b"".join([command for _, command in _steps(mail)])


def _steps(mail: Mail) -> Sequence[tuple[Phase, bytes]]:
    option = " SMTPUTF8" if mail.smtputf8 else ""
    encoding = "utf-8" if mail.smtputf8 else "ascii"
    return (
        (Phase.MAIL, f"MAIL FROM:<{mail.sender}>{option}\r\n".encode(encoding)),
        (Phase.RCPT, f"RCPT TO:<{mail.recipient}>\r\n".encode(encoding)),
        (Phase.DATA, b"DATA\r\n"),
    )


async def offer_envelope(conversation: Conversation, mail: Mail, *, is_out: bool) -> tuple[Judgement | None, bool]:
    """
    Send MAIL, RCPT and DATA, and read every reply that they have.

    Args:
        is_out: they were sent already, behind another message that has its answer.
    Returns:
        The first refusal, None when all is well; and whether the relay now waits for a message.
    Raises:
        Stale: the connection had been used before, and turned out to be dead.
        Stop: it was lost or made no sense.
    """
    reused, conversation.used = conversation.used, True
    grouped = is_pipelined(conversation)
    refusal: Judgement | None = None
    phase, code = Phase.MAIL, 0
    try:
        if grouped and not is_out:
            conversation.write(envelope_of(mail))
        for phase, command in _PHASES if grouped else _steps(mail):
            if not grouped:
                conversation.write(command)
            reply = await conversation.reply(COMMAND_S_MAX)
            code = reply.code
            if code == 421 and reused and phase is Phase.MAIL:
                raise Stale(judge(phase, reply))
            if refusal is None and code not in _GOES_ON[phase]:
                refusal = judge(phase, reply)
                if not grouped:
                    break
    except SILENCES as error:
        if reused and phase is Phase.MAIL:
            raise Stale(_silence(phase, error)) from None
        # The first refusal counts, whatever came of the replies behind it.
        raise Stop(refusal or _silence(phase, error)) from None
    return refusal, code == 354


# As of _steps, for what is out already.
_PHASES: Sequence[tuple[Phase, bytes]] = tuple((phase, b"") for phase in _GOES_ON)


async def hand_over(conversation: Conversation, message: bytes, behind: bytes) -> Judgement:
    """
    Send the message to a relay that waits for it, and return what its answer means.

    Args:
        behind: the envelope of the next mail, which goes out in the same piece (RFC 2920 3.1 allows it); may be empty.
    Raises:
        Stop: there was no answer.
    """
    phase = Phase.DATA
    try:
        if not conversation.in_order:
            # It left, or says that it will, while we were claiming: it has nothing of the message, and gets nothing.
            raise ConversationLostError
        conversation.write(on_the_wire(message, behind))
        phase = Phase.DOT
        hit("sender.after_dot")
        return judge(Phase.DOT, await conversation.reply(DOT_S_MAX))
    except SILENCES as error:
        raise Stop(_silence(phase, error)) from None


def on_the_wire(message: bytes, behind: bytes = b"") -> bytes:
    """Return *message* with its dots doubled and the final one behind it (RFC 5321 4.5.2), and then *behind*."""
    if not message.count(b"\n") == message.count(b"\r") == message.count(b"\r\n"):
        # Only CRLF ends a line, so that no lone CR or LF can smuggle in a dot of its own.
        message = b"\r\n".join((*message.splitlines(), b""))
    if not message.endswith(b"\r\n"):
        message += b"\r\n"
    stuffed = message.replace(b"\r\n.", b"\r\n..")
    return b"".join((b"." if stuffed.startswith(b".") else b"", stuffed, b".\r\n", behind))


def expect(code: int, phase: Phase, reply: Reply) -> None:
    """Raise Stop unless *reply* has *code*."""
    if reply.code != code:
        raise Stop(judge(phase, reply))


def judge(phase: Phase, reply: Reply) -> Judgement:
    """Judge a reply that ends a transaction, or a connection before there was one."""
    judgement = judge_reply(phase, reply.code, reply.text)
    # RFC 5321 4.3.2: to the dot, 250 alone is a yes. A 221 of one that leaves is none.
    if reply.code >= 400 or (phase is Phase.DOT and reply.code == 250):
        return judgement
    # A 2yz where only another would let us go on, or a 3yz: the relay is out of step.
    return replace(judge_silence(phase, "out_of_step"), smtp=judgement.smtp)


@contextmanager
def judging(phase: Phase) -> Iterator[None]:
    """Turn into Stop what ends a conversation in *phase* without a word."""
    try:
        yield
    except SILENCES as error:
        raise Stop(_silence(phase, error)) from None


# Of OSError, only those that come from opening and encrypting a connection.
SILENCES = (OSError, ConversationLostError, UnreadableReplyError)


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
