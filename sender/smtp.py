"""
The relay over SMTP: connections that are reused, and one transaction at a time on each.

aiosmtplib speaks the protocol. What it does not tell, and what decides between "try again" and "in doubt", is how far
a conversation had come when the connection was lost; so the steps of a transaction are taken here, one by one.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass

import aiosmtplib
from aiosmtplib.protocol import PERIOD_REGEX, normalize_message_line_endings

from infra.failpoints import hit
from infra.settings import RelayAddress, SmtpMode
from sender.replies import Judgement, Phase, Verdict, judge_reply, judge_silence

# RFC 5321 4.5.3.2 grants minutes for each step. Before the message is on its way, giving up early costs a retry and
# frees the slot. After the final dot, giving up early costs a mail in doubt: there we wait the full ten minutes.
CONNECT_S_MAX = 10.0
COMMAND_S_MAX = 20.0
DOT_S_MAX = 600.0

# Relays close idle connections after minutes; we leave before they do.
IDLE_S_MAX = 30.0


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


@dataclass(slots=True)
class _Connection:
    client: aiosmtplib.SMTP
    idle_since: float
    used: bool = False


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
        self._idle: list[_Connection] = []
        self._tls = ssl.create_default_context(cafile=ca_file)

    def slot(self) -> AbstractAsyncContextManager[None]:
        """Return a context that waits for a free connection and holds it: one transaction at a time in each."""
        return self._free

    async def send(self, mail: Mail, before_data: Callable[[], Awaitable[bool]]) -> Judgement | None:
        """
        Offer *mail* to the relay in one transaction: MAIL, RCPT, *before_data*, DATA. Inside a `slot`.

        Delivery: at most once. A connection that turns out to be dead before RCPT is answered is replaced once.
        Args:
            before_data: called when the recipient was accepted, before the message could be. False: do not send.
                What it raises goes on to the caller; the transaction is abandoned.
        Returns:
            The judgement on the last reply; None when *before_data* said no.
        """
        try:
            connection = await self._take()
            try:
                return await self._transact(connection, mail, before_data)
            except _Stale:
                connection.client.close()
                # A new connection is never stale: this is the last try.
                return await self._transact(await self._connect(), mail, before_data)
        except _Stop as stop:
            return stop.judgement

    async def probe(self, sender: str) -> Judgement:
        """Ask the relay whether it takes us and our sender address, without a notification."""
        async with self._free:
            try:
                connection = await self._connect()
                with _judging(Phase.MAIL):
                    reply = await connection.client.execute_command(
                        b"MAIL", f"FROM:<{sender}>".encode(), timeout=COMMAND_S_MAX
                    )
                await self._reset(connection)
                return judge_reply(Phase.MAIL, reply.code, reply.message)
            except _Stop as stop:
                return stop.judgement

    async def close(self) -> None:
        """Say goodbye on every idle connection."""
        while self._idle:
            await _quit(self._idle.pop())

    async def _transact(
        self, connection: _Connection, mail: Mail, before_data: Callable[[], Awaitable[bool]]
    ) -> Judgement | None:
        client = connection.client
        try:
            if mail.smtputf8 and not client.supports_extension("smtputf8"):
                await self._keep(connection)
                return Judgement(Verdict.PERMANENT, "smtputf8_not_offered")
            reused, connection.used = connection.used, True
            await self._envelope(client, mail, reused=reused)
            try:
                go_on = await before_data()
            except BaseException:
                client.close()
                raise
            if not go_on:
                await self._reset(connection)
                return None
            with _judging(Phase.DATA):
                reply = await client.execute_command(b"DATA", timeout=COMMAND_S_MAX)
            if reply.code != 354:
                raise _Stop(_refusal(Phase.DATA, reply))
            with _judging(Phase.DOT):
                reply = await _send_message(client, mail.message)
        except _Stale:
            raise
        except _Stop as stop:
            # Refused in words: the connection is in order, only this transaction is over.
            if stop.judgement.smtp_code in {None, 421}:
                client.close()
            else:
                await self._reset(connection)
            return stop.judgement
        judgement = judge_reply(Phase.DOT, reply.code, reply.message)
        await self._keep(connection)
        return judgement

    async def _envelope(self, client: aiosmtplib.SMTP, mail: Mail, *, reused: bool) -> None:
        options = (b"SMTPUTF8",) if mail.smtputf8 else ()
        encoding = "utf-8" if mail.smtputf8 else "ascii"
        try:
            with _judging(Phase.MAIL):
                reply = await client.execute_command(
                    b"MAIL", b"FROM:<" + mail.sender.encode(encoding) + b">", *options, timeout=COMMAND_S_MAX
                )
        except _Stop as stop:
            raise (_Stale if reused else _Stop)(stop.judgement) from None
        if reply.code == 421 and reused:
            raise _Stale(judge_reply(Phase.MAIL, reply.code, reply.message))
        if reply.code != 250:
            raise _Stop(_refusal(Phase.MAIL, reply))
        with _judging(Phase.RCPT):
            reply = await client.execute_command(
                b"RCPT", b"TO:<" + mail.recipient.encode(encoding) + b">", timeout=COMMAND_S_MAX
            )
        if reply.code not in {250, 251}:
            raise _Stop(_refusal(Phase.RCPT, reply))

    async def _take(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.client.is_connected and time.monotonic() - connection.idle_since < IDLE_S_MAX:
                return connection
            connection.client.close()
        return await self._connect()

    async def _connect(self) -> _Connection:
        address = self.address
        client = aiosmtplib.SMTP(
            hostname=address.host,
            port=address.port,
            timeout=CONNECT_S_MAX,
            use_tls=address.mode is SmtpMode.TLS,
            start_tls=False,  # by hand below, to know which step failed
            tls_context=self._tls if address.mode is SmtpMode.TLS else None,
            local_hostname=socket.gethostname(),
        )
        try:
            with _judging(Phase.TLS if address.mode is SmtpMode.TLS else Phase.CONNECT):
                await client.connect()
                await client.ehlo(timeout=COMMAND_S_MAX)
            if address.mode is SmtpMode.STARTTLS:
                if not client.supports_extension("starttls"):
                    raise _Stop(judge_silence(Phase.TLS, "tls_failure"))
                with _judging(Phase.TLS):
                    await client.starttls(tls_context=self._tls, timeout=COMMAND_S_MAX)
                    await client.ehlo(timeout=COMMAND_S_MAX)
            if address.user is not None and address.password is not None:
                with _judging(Phase.AUTH):
                    await client.login(address.user, address.password, timeout=COMMAND_S_MAX)
        except BaseException:
            client.close()
            raise
        return _Connection(client, time.monotonic())

    async def _reset(self, connection: _Connection) -> None:
        try:
            reply = await connection.client.execute_command(b"RSET", timeout=COMMAND_S_MAX)
        except (aiosmtplib.SMTPException, OSError):
            connection.client.close()
            return
        if reply.code == 250:
            await self._keep(connection)
        else:
            connection.client.close()

    async def _keep(self, connection: _Connection) -> None:
        if connection.client.is_connected:
            connection.idle_since = time.monotonic()
            self._idle.append(connection)


class _Stale(_Stop):
    """A connection that had been idle was dead: no word of this transaction was heard."""


async def _send_message(client: aiosmtplib.SMTP, message: bytes) -> aiosmtplib.SMTPResponse:
    protocol = client.protocol
    if protocol is None:
        raise aiosmtplib.SMTPServerDisconnected("connection lost after 354")
    # RFC 5321 4.5.2 (transparency); only CRLF ends a line, so that no lone CR or LF can smuggle in a dot of its own.
    stuffed = PERIOD_REGEX.sub(b"..", normalize_message_line_endings(message))
    protocol.write(stuffed + b".\r\n")
    hit("sender.after_dot")
    try:
        return await protocol.read_response(timeout=DOT_S_MAX)
    except BaseException:
        client.close()
        raise


def _refusal(phase: Phase, reply: aiosmtplib.SMTPResponse) -> Judgement:
    judgement = judge_reply(phase, reply.code, reply.message)
    if judgement.verdict is Verdict.ACCEPTED:
        # A 2yz where only another would let us go on: the relay is out of step. Nothing was handed over.
        return Judgement(Verdict.TRANSIENT, "out_of_step", judgement.smtp)
    return judgement


@contextmanager
def _judging(phase: Phase) -> Iterator[None]:
    """Turn what the library raises in *phase* into a judgement."""
    try:
        yield
    except aiosmtplib.SMTPResponseException as error:
        raise _Stop(judge_reply(phase, error.code, error.message)) from None
    except ssl.SSLError:
        raise _Stop(judge_silence(Phase.TLS, "tls_failure")) from None
    except socket.gaierror:
        raise _Stop(judge_silence(phase, "dns_failure")) from None
    except (aiosmtplib.SMTPTimeoutError, TimeoutError):
        raise _Stop(judge_silence(phase, "timeout")) from None
    except (aiosmtplib.SMTPConnectError, ConnectionRefusedError) as error:
        tls = isinstance(error.__cause__, ssl.SSLError)
        raise _Stop(
            judge_silence(Phase.TLS, "tls_failure") if tls else judge_silence(phase, "connection_refused")
        ) from None
    except (aiosmtplib.SMTPServerDisconnected, OSError):
        raise _Stop(judge_silence(phase, "connection_lost")) from None
    except aiosmtplib.SMTPException:
        # What is left is about capabilities: no AUTH offered, say.
        raise _Stop(Judgement(Verdict.CONFIGURATION, "not_supported")) from None


async def _quit(connection: _Connection) -> None:
    try:
        await connection.client.quit(timeout=1.0)
    except (aiosmtplib.SMTPException, OSError):
        connection.client.close()
