"""
One SMTP connection: commands out, replies in, and what the other side offers. What a reply means is decided elsewhere.

Nothing that a relay writes is trusted: lines and replies are bounded, and what is no reply ends the connection.
"""

import asyncio
import re
import ssl
from base64 import b64encode
from collections import deque
from typing import NamedTuple, cast

# RFC 5321 4.5.3.1.5 has 512 octets for a line; some relays are more talkative. No EHLO has a hundred lines.
LINE_BYTES_MAX = 4096
LINES_MAX = 100

# RFC 5321 4.2: three digits, and behind a blank the text; a hyphen instead says that another line follows.
_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)


class Reply(NamedTuple):
    """code: 200 to 599. text: its words, lines separated by newlines."""

    code: int
    text: str


class UnreadableReplyError(Exception):
    """The other side does not speak SMTP (any more); the connection is closed."""


class ConversationLostError(Exception):
    """The connection is closed, and no further reply will come."""


class Conversation(asyncio.Protocol):
    """
    A client's side of one connection. Use `open_conversation`.

    extensions: what EHLO offers, by keyword in capitals, with its parameters. idle_since: by the loop's clock, when the
    last transaction ended. used: whether there was one.
    """

    def __init__(self) -> None:
        self.extensions: dict[str, str] = {}
        self.idle_since = 0.0
        self.used = False
        self._loop = asyncio.get_running_loop()
        self._closed = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._code = b""
        self._lines: list[bytes] = []
        self._replies: deque[Reply] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self._end: Exception | None = None

    @property
    def in_order(self) -> bool:
        """Whether it is open, and every word from the other side was the answer to something that was read."""
        if self._end is not None or self._transport is None or self._transport.is_closing():
            return False
        return not (self._replies or self._received or self._lines)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self._finish(ConversationLostError(type(error).__name__ if error else "closed"))
        self._closed.set()

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        if self._end is not None:
            return
        received = self._received
        received += data
        begin = 0
        while (end := received.find(b"\n", begin)) >= 0:
            self._line(bytes(received[begin:end]).removesuffix(b"\r"))
            begin = end + 1
        del received[:begin]
        if len(received) > LINE_BYTES_MAX:
            self._unreadable()
        if self._waiting is not None and self._replies and not self._waiting.done():
            self._waiting.set_result(None)

    def write(self, data: bytes) -> None:
        """
        Send *data*, whole lines.

        Raises:
            ConversationLostError: the connection was closed before; nothing of it was sent.
        """
        if self._end is not None or self._transport is None or self._transport.is_closing():
            raise self._end or ConversationLostError("closed")
        self._transport.write(data)

    async def reply(self, timeout_s: float) -> Reply:
        """
        Return the next reply.

        Raises:
            TimeoutError: none came within *timeout_s* seconds.
            ConversationLostError, UnreadableReplyError: none will come.
        """
        if not self._replies:
            if self._end is not None:
                raise self._end
            self._waiting = waiting = self._loop.create_future()
            timer = self._loop.call_later(timeout_s, _time_out, waiting)
            try:
                await waiting
            finally:
                timer.cancel()
                self._waiting = None
        return self._replies.popleft()

    async def ask(self, command: bytes, timeout_s: float) -> Reply:
        """Send one command, without its line end, and return the reply to it. Raises as `write` and `reply` do."""
        self.write(command + b"\r\n")
        return await self.reply(timeout_s)

    async def greet(self, hostname: str, timeout_s: float) -> Reply:
        """Say EHLO, and note what is offered when the answer is 250. Raises as `ask` does."""
        self.extensions = {}
        reply = await self.ask(b"EHLO " + hostname.encode("ascii", "replace"), timeout_s)
        if reply.code == 250:
            for line in reply.text.split("\n")[1:]:
                # RFC 4954 writes "AUTH PLAIN"; an early draft had "AUTH=PLAIN", and some offer both.
                keyword, _, parameters = line.strip().upper().replace("AUTH=", "AUTH ", 1).partition(" ")
                self.extensions[keyword] = f"{self.extensions.get(keyword, '')} {parameters}".strip()
        return reply

    async def start_tls(self, context: ssl.SSLContext, hostname: str, timeout_s: float) -> Reply:
        """
        Say STARTTLS and, when the answer is 220, encrypt. Greet again afterwards: nothing from before counts.

        Raises:
            ssl.SSLError: the handshake failed; the connection is closed.
            UnreadableReplyError: something came in clear behind the 220: somebody between us and the relay would have
                it taken for the relay's (CVE-2011-0411).
        """
        reply = await self.ask(b"STARTTLS", timeout_s)
        if reply.code != 220:
            return reply
        if not self.in_order:
            raise self._unreadable()
        assert self._transport is not None
        encrypted = await self._loop.start_tls(
            self._transport, self, context, server_hostname=hostname, ssl_handshake_timeout=timeout_s
        )
        if encrypted is None:
            raise ConversationLostError("closed")
        self._transport = encrypted
        return reply

    async def log_in(self, user: str, password: str, timeout_s: float) -> Reply | None:
        """
        Authenticate with PLAIN (RFC 4616) or, where only that is offered, LOGIN; 235 is success. Raises as `ask` does.

        Returns:
            The last reply; None: neither is offered.
        """
        offered = self.extensions.get("AUTH", "").split()
        if "PLAIN" in offered:
            return await self.ask(b"AUTH PLAIN " + b64encode(f"\0{user}\0{password}".encode()), timeout_s)
        if "LOGIN" not in offered:
            return None
        reply = await self.ask(b"AUTH LOGIN", timeout_s)
        for answer in (user, password):
            if reply.code != 334:
                break
            reply = await self.ask(b64encode(answer.encode()), timeout_s)
        return reply

    def drop(self) -> None:
        """Close at once: what was not sent yet never is."""
        self._finish(ConversationLostError("dropped"))
        if self._transport is not None:
            self._transport.abort()

    async def wait_closed(self) -> None:
        """Return when it is closed, after `drop`: that takes the event loop another turn."""
        await self._closed.wait()

    async def leave(self, timeout_s: float) -> None:
        """Say goodbye, wait a moment for the answer, and close."""
        try:
            await self.ask(b"QUIT", timeout_s)
        except (TimeoutError, ConversationLostError, UnreadableReplyError):
            pass
        finally:
            self.drop()

    def _line(self, line: bytes) -> None:
        found = _LINE.fullmatch(line)
        if found is None or len(line) > LINE_BYTES_MAX:
            self._unreadable()
            return
        code, separator, text = found.groups(b"")
        if self._lines or separator == b"-":
            if len(self._lines) >= LINES_MAX or (self._lines and code != self._code):
                self._unreadable()
                return
            self._code = code
            self._lines.append(text)
            if separator == b"-":
                return
            text = b"\n".join(self._lines)
            self._lines.clear()
        if self._end is None:
            self._replies.append(Reply(int(code), text.decode("utf-8", "replace")))

    def _unreadable(self) -> UnreadableReplyError:
        error = UnreadableReplyError()
        self._finish(error)
        self.drop()
        return error

    def _finish(self, end: Exception) -> None:
        if self._end is None:
            self._end = end
        if self._waiting is not None and not self._waiting.done():
            if self._replies:
                self._waiting.set_result(None)
            else:
                self._waiting.set_exception(self._end)


def _time_out(waiting: "asyncio.Future[None]") -> None:
    if not waiting.done():
        waiting.set_exception(TimeoutError())


async def open_conversation(host: str, port: int, tls: ssl.SSLContext | None, timeout_s: float) -> Conversation:
    """
    Connect; the greeting of the other side is the first reply.

    Args:
        tls: encrypt from the first byte; None: do not.
    Raises:
        TimeoutError: not within *timeout_s* seconds.
        OSError: nobody there, or, as ssl.SSLError, not who it should be.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        _, conversation = await loop.create_connection(
            Conversation, host, port, ssl=tls, server_hostname=host if tls else None
        )
    return conversation
