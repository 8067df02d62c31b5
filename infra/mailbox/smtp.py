"""
The SMTP side: aiosmtpd speaks the protocol, this module decides what is answered.

Non-obvious, all seen with aiosmtpd 1.4.6:
- A connection's coroutine that ends as cancelled closes the connection without another reply. There is no other way
  for a hook to do so: what a hook returns is always sent.
- When the client closes its side, that coroutine is cancelled, wherever it waits. So a mail is kept before anything
  else is awaited: a client that gives up on a late reply has its mail kept all the same.
- Without TLS required for it, AUTH is offered even if nobody can log in; the hook of EHLO takes it out.
- PIPELINING is safe, though aiosmtpd does not offer it by itself: commands are read from one buffer, one after the
  other, and STARTTLS throws away what came before the handshake (keeping it would be the hole of CVE-2011-0411).
"""

import asyncio
import hmac
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from infra.mailbox.scenarios import Act, Scenario, Script, Step
from infra.mailbox.store import MailStore, StoreFullError

MAIL_BYTES_MAX = 10 * 1024 * 1024
# RFC 5321 4.5.3.1.8 asks for 100 at least.
RECIPIENTS_MAX = 1000
# Each may hold one mail in memory while it comes in.
CONNECTIONS_MAX = 500
# RFC 5321 4.5.3.2.7 asks a server to wait 5 minutes for the next command.
IDLE_S_MAX = 300.0

HOSTNAME = "mailbox.relevo.test"
# Where one of these is in an address, it is not of the plain form `local@domain`.
_NEEDS_GRAMMAR = frozenset('"\\()<>,;:[] \t')
_GOODBYE = "421 4.3.2 Service not available, closing transmission channel"

# It logs every command and, with the scenarios, many a warning about what is wanted here.
logging.getLogger("mail.log").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class Login:
    """The one name and password that the mailbox takes."""

    user: str
    password: str

    def check(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _mechanism: str, given: LoginPassword
    ) -> AuthResult:
        """Answer aiosmtpd's question whether somebody may log in."""
        right = hmac.compare_digest(given.login, self.user.encode()) & hmac.compare_digest(
            given.password, self.password.encode()
        )
        return AuthResult(success=right, handled=False, auth_data=given)


class Connection(SMTP):
    """One client. Registers itself in *connections* while it is there."""

    def __init__(self, handler: "MailHandler", connections: set["Connection"], starttls: ssl.SSLContext | None) -> None:
        login = handler.login
        super().__init__(
            handler,
            data_size_limit=MAIL_BYTES_MAX,
            enable_SMTPUTF8=True,
            hostname=HOSTNAME,  # its default asks the DNS for each connection
            ident="ESMTP relevo mailbox",
            tls_context=starttls,
            timeout=IDLE_S_MAX,
            auth_require_tls=starttls is not None,
            auth_exclude_mechanism=() if login else ("LOGIN", "PLAIN"),
            authenticator=login.check if login else None,
            loop=asyncio.get_running_loop(),
        )
        # Set afterwards: its constructor warns about a login without STARTTLS, which is right on loopback and in TLS.
        self._auth_required = login is not None
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop, after STARTTLS once more."""
        super().connection_made(transport)
        self._connections.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self._connections.discard(self)
        super().connection_lost(error)

    def hang_up(self) -> "asyncio.Task[None]":
        """
        Close the connection at once.

        Returns:
            What still ends because of it.
        """
        transport = self.transport
        if isinstance(transport, asyncio.WriteTransport):
            transport.abort()
        ending = self._handler_coroutine
        assert ending is not None  # made with the connection, before it is registered
        ending.cancel()
        return ending

    def _getaddr(self, arg: str) -> tuple[str | None, str | None]:
        # The plain form without the email package's grammar, which takes half of the time that a mail costs.
        address, closing, rest = arg[1:].partition(">")
        if arg[0:1] == "<" and closing and address.count("@") == 1 and not set(address) & _NEEDS_GRAMMAR:
            return address, rest
        found: tuple[str | None, str | None] = super()._getaddr(arg)
        return found

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802 -- aiosmtpd finds commands by their names
        """Take the mail; or, where a scenario says so, close the connection in the middle of it."""
        if not arg and self.envelope is not None and self.envelope.rcpt_tos:
            scenario = self.event_handler.script.next_at(Step.DATA, self.envelope.rcpt_tos)
            if scenario is not None:
                await self.push("354 End data with <CR><LF>.<CR><LF>")
                await self._reader.read(1)
                _close()
        await super().smtp_DATA(arg)


class MailHandler:
    """What is answered, to all connections. The names of its methods are aiosmtpd's."""

    def __init__(self, store: MailStore, script: Script, login: Login | None) -> None:
        self.script = script
        self.login = login
        self._store = store

    async def handle_EHLO(  # noqa: N802 -- aiosmtpd finds hooks by their names
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        """Offer what is really there."""
        session.host_name = hostname
        kept = [line for line in responses if self.login or not line.startswith("250-AUTH")]
        return [kept[0], "250-PIPELINING", *kept[1:]]

    async def handle_MAIL(  # noqa: N802 -- see handle_EHLO
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Begin a mail."""
        if not self.script.accepting:
            await _say_goodbye(server, _GOODBYE)
        refusal = self.script.next_for_sender()
        if refusal is not None:
            return await _refuse(server, refusal)
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 2.1.0 OK"

    async def handle_RCPT(  # noqa: N802 -- see handle_EHLO
        self, server: SMTP, _session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """Take a recipient, or refuse it as its scenario says."""
        if len(envelope.rcpt_tos) >= RECIPIENTS_MAX:
            return "452 4.5.3 Too many recipients"
        scenario = self.script.next_at(Step.RCPT, [address])
        if scenario is not None and scenario.act is Act.REFUSE:
            return await _refuse(server, scenario)
        if scenario is not None:
            await asyncio.sleep(scenario.delay_s)
        envelope.rcpt_tos.append(address)
        envelope.rcpt_options.extend(options)
        return "250 2.1.5 OK"

    async def handle_DATA(  # noqa: N802 -- see handle_EHLO
        self, server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        """Keep a mail that came in whole, and answer as its scenario says."""
        scenario = self.script.next_at(Step.DOT, envelope.rcpt_tos)
        if scenario is not None and scenario.act is Act.REFUSE:
            return await _refuse(server, scenario)
        mail, mail_from = envelope.original_content, envelope.mail_from
        assert mail is not None  # aiosmtpd calls this hook after both
        assert mail_from is not None
        try:
            # aiosmtpd's grammar reads the empty sender, that of bounces, as "<>".
            n = self._store.append("" if mail_from == "<>" else mail_from, envelope.rcpt_tos, mail)
        except StoreFullError:
            return "452 4.3.1 The mailbox is full; empty it with DELETE /api/messages"
        except OSError as error:
            return f"452 4.3.1 Cannot write: {error.strerror}"
        if scenario is not None:
            await _answer_late(scenario)
        return f"250 2.0.0 OK: kept as {n}"


class Refusal(asyncio.Protocol):
    """A connection that is told 421 instead of the banner."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(f"{_GOODBYE}\r\n".encode())
        transport.close()


def connection_factory(
    handler: MailHandler, connections: set[Connection], starttls: ssl.SSLContext | None
) -> Callable[[], asyncio.BaseProtocol]:
    """Return what the event loop calls for each new connection."""

    def make() -> Any:
        if not handler.script.accepting or len(connections) >= CONNECTIONS_MAX:
            return Refusal()
        return Connection(handler, connections, starttls)

    return make


def _close() -> NoReturn:
    # See "Non-obvious": the way to close without a reply.
    raise asyncio.CancelledError


async def _say_goodbye(server: SMTP, reply: str) -> NoReturn:
    await server.push(reply)
    _close()


async def _refuse(server: SMTP, scenario: Scenario) -> str:
    if scenario.closes:
        await _say_goodbye(server, scenario.reply)
    return scenario.reply


async def _answer_late(scenario: Scenario) -> None:
    if scenario.act is Act.DROP:
        _close()
    if scenario.act is Act.HANG:
        await asyncio.Event().wait()  # until the client leaves, or IDLE_S_MAX closes the connection
    await asyncio.sleep(scenario.delay_s)
