"""TLS and login: what a client must do, and what it cannot do."""

import asyncio
import contextlib
import ssl

import aiosmtplib
import pytest

from infra.mailbox.server import MailboxOptions, run_mailbox
from infra.mailbox.smtp import Login
from tests.integration.mailbox.client import HOST, client_of, send

LOGIN = Login("relevo", "sécret")


@pytest.mark.parametrize("mechanism", ["LOGIN", "PLAIN"])
@pytest.mark.parametrize("kind", ["starttls", "tls", "clear"])
async def test_who_must_log_in_can_do_so(tmp_path, key_pair, trust, kind, mechanism):
    secure = {kind: key_pair} if kind != "clear" else {}
    how = {"use_tls": kind == "tls", "start_tls": kind == "starttls", "tls_context": trust}
    async with run_mailbox(MailboxOptions(folder=tmp_path, login=LOGIN, **secure)) as mailbox:
        async with client_of(mailbox.smtp_port, **how) as client:
            with pytest.raises(aiosmtplib.SMTPSenderRefused, match="530"):
                await send(client, "ana@example.org")
            log_in = client.auth_login if mechanism == "LOGIN" else client.auth_plain
            with pytest.raises(aiosmtplib.SMTPAuthenticationError, match="535"):
                await log_in("relevo", "wrong")
            await log_in("relevo", "sécret")
            await send(client, "ana@example.org")
        assert len(mailbox.store) == 1


async def test_no_login_before_starttls(tmp_path, key_pair):
    options = MailboxOptions(folder=tmp_path, login=LOGIN, starttls=key_pair)
    async with run_mailbox(options) as mailbox, client_of(mailbox.smtp_port) as client:
        await client.ehlo()
        assert not client.supports_extension("auth")
        with pytest.raises(aiosmtplib.SMTPException, match="538"):
            await client.auth_plain("relevo", "sécret")


async def test_a_mailbox_without_a_login_offers_none(own_mailbox):
    async with client_of(own_mailbox.smtp_port) as client:
        await client.ehlo()
        assert not client.supports_extension("auth")


async def test_a_certificate_that_nobody_trusts_is_seen(tmp_path, key_pair):
    async with run_mailbox(MailboxOptions(folder=tmp_path, starttls=key_pair)) as mailbox:
        with pytest.raises((aiosmtplib.SMTPException, ssl.SSLError)):
            async with client_of(mailbox.smtp_port, start_tls=True):
                pass


async def test_what_was_sent_before_the_handshake_is_thrown_away(tmp_path, key_pair, trust):
    async with run_mailbox(MailboxOptions(folder=tmp_path, starttls=key_pair)) as mailbox:
        reader, writer = await asyncio.open_connection(HOST, mailbox.smtp_port)
        await reader.readline()
        writer.write(b"EHLO x\r\n")
        while (await reader.readline())[:4] != b"250 ":
            pass
        writer.write(b"STARTTLS\r\nNOOP injected\r\n")
        assert (await reader.readline())[:3] == b"220"
        # The injected NOOP may reach the handshake, which then fails; what must not come is its 250.
        with contextlib.suppress(ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
            await writer.start_tls(trust, server_hostname=HOST)
            writer.write(b"EHLO x\r\n")
            assert (await reader.readline())[:4] == b"250-"
        writer.close()
