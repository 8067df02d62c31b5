"""The mailbox as a whole: its options, and how SMTP, HTTP and the store start and stop together."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from infra.mailbox import api, page
from infra.mailbox.scenarios import Script
from infra.mailbox.smtp import Connection, Login, MailHandler, connection_factory
from infra.mailbox.store import MailStore
from schemas.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
# Of each of the two servers: SIGTERM must have ended everything within a second.
_STOP_S_MAX = 0.4
_BODY_BYTES_MAX = 64 * 1024


@dataclass(frozen=True, slots=True)
class KeyPair:
    """PEM files of a server's certificate, with its chain, and of its private key."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class MailboxOptions:
    """
    How to run a mailbox.

    folder: where the mails are kept; nobody else may use it.
    host: of both ports. Anybody who reaches it can read all mails: loopback, or a network of containers.
    smtp_port, http_port: 0 takes a free one.
    starttls: offer it. tls: TLS from the first byte. At most one of the two.
    login: require it; with starttls only after the handshake. None: nobody needs to log in, or can.
    """

    folder: Path
    host: str = LOOPBACK
    smtp_port: int = 0
    http_port: int = 0
    starttls: KeyPair | None = None
    tls: KeyPair | None = None
    login: Login | None = None


@dataclass(frozen=True, slots=True)
class Mailbox:
    """A running mailbox, with the ports that it really has."""

    store: MailStore
    script: Script
    smtp_port: int
    http_port: int


@contextlib.asynccontextmanager
async def run_mailbox(options: MailboxOptions) -> AsyncIterator[Mailbox]:
    """
    Run a mailbox in the current event loop; the end of the block closes all connections and lets go of the folder.

    Raises:
        ConfigurationError: a certificate, a key or the folder cannot be used; the sentence says why.
        OSError: a port is taken, or the folder cannot be written.
    """
    script = Script()
    with contextlib.closing(MailStore(options.folder)) as store:
        async with _smtp_server(options, store, script) as smtp_port, _http_server(options, store, script) as http_port:
            yield Mailbox(store, script, smtp_port, http_port)


@contextlib.asynccontextmanager
async def _smtp_server(options: MailboxOptions, store: MailStore, script: Script) -> AsyncIterator[int]:
    connections: set[Connection] = set()
    handler = MailHandler(store, script, options.login)
    server = await asyncio.get_running_loop().create_server(
        connection_factory(handler, connections, _server_context(options.starttls)),
        options.host,
        options.smtp_port,
        ssl=_server_context(options.tls),
        backlog=1024,
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        if ending := [connection.hang_up() for connection in list(connections)]:
            await asyncio.wait(ending, timeout=_STOP_S_MAX)


@contextlib.asynccontextmanager
async def _http_server(options: MailboxOptions, store: MailStore, script: Script) -> AsyncIterator[int]:
    app = web.Application(client_max_size=_BODY_BYTES_MAX)
    app.add_routes([*api.routes(store, script), *page.routes(store)])
    runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=_STOP_S_MAX)
    try:
        await runner.setup()
        await web.TCPSite(runner, options.host, options.http_port).start()
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _server_context(pair: KeyPair | None) -> ssl.SSLContext | None:
    if pair is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(pair.certificate, pair.key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(f"cannot use {pair.certificate} with {pair.key}: {error}") from error
    return context
