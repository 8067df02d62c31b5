"""What a client of the mailbox sees: each scenario, what is taken and what is not."""

import asyncio
import time

import aiosmtplib
import pytest

from infra.mailbox.smtp import MAIL_BYTES_MAX
from infra.mailbox.store import Query
from tests.integration.mailbox.client import HOST, SENDER, client_of, mail_of, send

NOBODY_ANSWERS_S = 0.5


@pytest.mark.parametrize(
    ("scenario", "codes", "reply"),
    [
        ("451x2", [451, 451, 250], "4.7.1"),
        ("451", [451, 451, 451], "4.7.1"),
        ("550", [550, 550], "5.1.1"),
        ("552", [552], "5.2.2"),
        ("dot451x1", [451, 250], "4.3.0"),
        ("dot550", [550, 550], "5.7.1"),
    ],
)
async def test_a_scenario_refuses_as_often_as_it_says(own_mailbox, scenario, codes, reply):
    seen, texts = [], []
    async with client_of(own_mailbox.smtp_port) as client:
        for _ in codes:
            try:
                await send(client, f"ana+{scenario}@example.org")
                seen.append(250)
            except aiosmtplib.SMTPRecipientsRefused as error:
                seen.append(error.recipients[0].code)
                texts.append(error.recipients[0].message)
            except aiosmtplib.SMTPDataError as error:
                seen.append(error.code)
                texts.append(error.message)
    assert seen == codes
    assert all(text.startswith(reply) for text in texts)
    assert len(own_mailbox.store) == codes.count(250), "only what was accepted is kept"


@pytest.mark.parametrize("scenario", ["421", "dot421"])
async def test_421_closes_the_connection(own_mailbox, scenario):
    async with client_of(own_mailbox.smtp_port) as client:
        with pytest.raises((aiosmtplib.SMTPRecipientsRefused, aiosmtplib.SMTPDataError), match="421"):
            await send(client, f"ana+{scenario}@example.org")
        with pytest.raises(aiosmtplib.SMTPServerDisconnected):
            await client.noop()
    assert len(own_mailbox.store) == 0


@pytest.mark.parametrize("scenario", ["slowrcpt1", "slowdot1"])
async def test_a_slow_scenario_answers_late_and_keeps_the_mail(own_mailbox, scenario):
    async with client_of(own_mailbox.smtp_port) as client:
        began = time.monotonic()
        await send(client, f"ana+{scenario}@example.org")
        assert time.monotonic() - began >= 1.0
    assert len(own_mailbox.store) == 1


@pytest.mark.parametrize(("scenario", "kept"), [("dropdata", 0), ("dropdot", 1)])
async def test_a_dropping_scenario_closes_without_a_reply(own_mailbox, scenario, kept):
    async with client_of(own_mailbox.smtp_port) as client:
        with pytest.raises(aiosmtplib.SMTPServerDisconnected):
            await send(client, f"ana+{scenario}@example.org")
    assert len(own_mailbox.store) == kept


@pytest.mark.parametrize("scenario", ["hangdot", "slowdot60"])
async def test_the_mail_is_kept_though_the_client_gives_up(own_mailbox, scenario):
    async with client_of(own_mailbox.smtp_port, timeout_s=NOBODY_ANSWERS_S) as client:
        with pytest.raises(aiosmtplib.SMTPTimeoutError):
            await send(client, f"ana+{scenario}@example.org")
    assert len(own_mailbox.store) == 1


async def test_pipelined_commands_are_answered_in_their_order(own_mailbox):
    reader, writer = await asyncio.open_connection(HOST, own_mailbox.smtp_port)
    writer.write(b"EHLO x\r\n")
    while (await reader.readline())[:4] != b"250 ":
        pass
    group = b"MAIL FROM:<a@x>\r\nRCPT TO:<b@x>\r\nRCPT TO:<c+550@x>\r\nDATA\r\n"
    writer.write(group)
    codes = [(await reader.readline())[:3] for _ in range(4)]
    writer.write(b"Subject: 1\r\n\r\none\r\n.\r\n" + group)
    codes += [(await reader.readline())[:3] for _ in range(5)]
    writer.write(b"Subject: 2\r\n\r\ntwo\r\n.\r\nQUIT\r\n")
    codes += [(await reader.readline())[:3] for _ in range(2)]
    writer.close()
    once = [b"250", b"250", b"550", b"354"]
    assert codes == [*once, b"250", *once, b"250", b"221"]
    assert [found.subject for found in own_mailbox.store.find(Query())] == ["2", "1"]


async def test_addresses_and_bytes_beyond_ascii_are_taken(own_mailbox):
    async with client_of(own_mailbox.smtp_port) as client:
        await client.ehlo()
        assert client.supports_extension("smtputf8")
        assert client.supports_extension("8bitmime")
        assert client.supports_extension("size")
        raw = "Subject: ñ\r\n\r\nbytes: \u00ff\r\n".encode()
        await client.sendmail("a@example.org", ["ñandú@ejemplo.org"], raw, mail_options=["SMTPUTF8", "BODY=8BITMIME"])
    assert own_mailbox.store.raw(1) == raw
    assert own_mailbox.store.summary(1).rcpt_to == ["ñandú@ejemplo.org"]


async def test_the_sender_of_a_bounce_is_empty(own_mailbox):
    async with client_of(own_mailbox.smtp_port) as client:
        await client.sendmail("", ["ana@example.org"], b"Subject: bounce\r\n\r\n")
    assert own_mailbox.store.summary(1).mail_from == ""


async def test_a_mail_that_says_that_it_is_too_large_is_refused_at_once(own_mailbox):
    async with client_of(own_mailbox.smtp_port) as client:
        await client.ehlo()
        with pytest.raises(aiosmtplib.SMTPSenderRefused, match="552"):
            await client.mail(SENDER, options=[f"SIZE={MAIL_BYTES_MAX + 1}"])


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"x" * 1001 + b"\r\n", 500), ((b"x" * 998 + b"\r\n") * (MAIL_BYTES_MAX // 1000 + 1), 552)],
    ids=["line", "mail"],
)
async def test_a_mail_beyond_the_limits_is_refused_and_the_connection_goes_on(own_mailbox, body, code):
    async with client_of(own_mailbox.smtp_port, timeout_s=30.0) as client:
        await client.ehlo()
        await client.mail(SENDER)
        await client.rcpt("ana@example.org")
        with pytest.raises(aiosmtplib.SMTPDataError) as refusal:
            await client.data(b"Subject: big\r\n\r\n" + body)
        assert refusal.value.code == code
        await send(client, "ana@example.org", mail_of(2))
    assert [found.notification_id for found in own_mailbox.store.find(Query())] == ["id-2"]


async def test_a_mail_as_large_as_allowed_is_kept(own_mailbox):
    mail = (b"x" * 998 + b"\r\n") * (MAIL_BYTES_MAX // 1000)
    async with client_of(own_mailbox.smtp_port, timeout_s=30.0) as client:
        await client.sendmail(SENDER, ["ana@example.org"], mail)
    assert own_mailbox.store.raw(1) == mail
