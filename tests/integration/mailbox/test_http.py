"""The mailbox over HTTP: what was kept, and the scenario of the whole relay."""

import hashlib

import aiosmtplib
import pytest

from infra.mailbox.scenarios import parse_scenario
from tests.integration.mailbox.client import SENDER, client_of, mail_of, send


async def test_the_whole_relay_can_be_told_to_refuse(own_mailbox, http):
    async def tell(**wanted):
        async with http.post("/api/scenario", json=wanted) as answer:
            assert answer.status == 200
            return await answer.json()

    async with client_of(own_mailbox.smtp_port) as client:
        assert await tell(scenario="451x1") == {"scenario": "451x1", "sender": None, "accepting": True}
        with pytest.raises(aiosmtplib.SMTPRecipientsRefused):
            await send(client, "ana@example.org")
        await send(client, "ana@example.org")

        assert (await tell(scenario="dot550"))["scenario"] == "dot550"
        with pytest.raises(aiosmtplib.SMTPDataError):
            await send(client, "ana@example.org")
        await send(client, "ana+slowrcpt0@example.org")
        await tell(scenario=None)

        assert (await tell(sender="550"))["sender"] == "550"
        with pytest.raises(aiosmtplib.SMTPSenderRefused):
            await send(client, "ana@example.org")
        await tell(sender=None)
        await send(client, "ana@example.org")

        assert (await tell(accepting=False))["accepting"] is False
        with pytest.raises(aiosmtplib.SMTPConnectResponseError, match="421"):
            async with client_of(own_mailbox.smtp_port):
                pass
        with pytest.raises(aiosmtplib.SMTPSenderRefused, match="421"):
            await send(client, "ana@example.org")
    await tell(accepting=True)
    async with client_of(own_mailbox.smtp_port) as client:
        await send(client, "ana@example.org")
    assert len(own_mailbox.store) == 4


@pytest.mark.parametrize(
    "wanted",
    [
        *({}, [], {"scenario": "nonsense"}, {"scenario": "451x0"}, {"sender": "dot550"}, {"accepting": 1}),
        *({"scenario": None, "accepting": "no"}, {"scenario": None, "times": 3}),
    ],
)
async def test_a_mistaken_order_is_refused_and_changes_nothing(own_mailbox, http, wanted):
    own_mailbox.script.relay = parse_scenario("552")
    async with http.post("/api/scenario", json=wanted) as answer:
        assert answer.status == 400
        assert "error" in await answer.json()
    async with http.get("/api/scenario") as answer:
        assert await answer.json() == {"scenario": "552", "sender": None, "accepting": True}


async def test_a_form_of_another_site_cannot_set_a_scenario(own_mailbox, http):
    form = {"Content-Type": "text/plain"}
    async with http.post("/api/scenario", data=b'{"accepting": false}', headers=form) as answer:
        assert answer.status == 400
    assert own_mailbox.script.accepting


async def test_a_mail_is_kept_byte_for_byte_and_shown(own_mailbox, http):
    mail = mail_of(7)
    mail.add_alternative("<p onclick=x>Hola</p>", subtype="html")
    async with client_of(own_mailbox.smtp_port) as client:
        await client.send_message(mail, sender=SENDER, recipients=["ana@example.org", "leo@example.org"])
    async with http.get("/api/messages") as answer:
        (listed,) = await answer.json()
    async with http.get("/api/messages/1/raw") as answer:
        raw = await answer.read()
        assert answer.content_type == "message/rfc822"
    async with http.get("/api/messages/1") as answer:
        shown = await answer.json()
    assert (listed["n"], listed["message_id"], listed["notification_id"]) == (1, "<7@relevo.test>", "id-7")
    assert (listed["mail_from"], listed["subject"]) == (SENDER, "Señal 7")
    assert listed["rcpt_to"] == ["ana@example.org", "leo@example.org"]
    assert (listed["size_bytes"], listed["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
    assert listed.items() <= shown.items()
    assert shown["text"].splitlines() == ["Hola, señal ñ", ".", "..dos"], "dots at the start of a line survive"
    assert shown["html"].strip() == "<p onclick=x>Hola</p>"
    assert ["Subject", "Señal 7"] in shown["headers"]


async def test_mails_are_found_counted_and_deleted(own_mailbox, http):
    async def ask(path: str):
        async with http.get(path) as answer:
            assert answer.status == 200
            return await answer.json()

    async with client_of(own_mailbox.smtp_port) as client:
        await send(client, "ana+tag@example.org", mail_of(1))
        await send(client, "eva@example.org", mail_of(2))
        await send(client, "eva@example.org", mail_of(2))
    for query in (
        *("to=ANA%2Btag@example.org", "to=ana+tag@example.org", "search=a%2Bt", "notification_id=id-1"),
        *("message_id=1@relevo.test", "to=ana%2Btag@example.org&notification_id=id-1"),
    ):
        assert [mail["n"] for mail in await ask(f"/api/messages?{query}")] == [1], query
    assert [mail["n"] for mail in await ask("/api/messages?to=eva@example.org&limit=1")] == [3]
    assert await ask("/api/messages?to=eva@example.org&notification_id=id-1") == []
    assert await ask("/api/counts") == {"id-1": 1, "id-2": 2}
    assert await ask("/readyz") == {"ready": True, "mails": 3}
    async with http.delete("/api/messages") as answer:
        assert await answer.json() == {"deleted": 3}
    assert await ask("/api/messages") == []


@pytest.mark.parametrize("path", ["/api/messages/1", "/api/messages/1/raw"])
async def test_a_mail_that_is_not_there_is_said(http, path):
    async with http.get(path) as answer:
        assert answer.status == 404
        assert await answer.json() == {"error": "there is no mail 1"}


@pytest.mark.parametrize("limit", ["0", "-1", "x", "10001"])
async def test_a_limit_out_of_range_is_said(http, limit):
    async with http.get("/api/messages", params={"limit": limit}) as answer:
        assert answer.status == 400
        assert "limit" in (await answer.json())["error"]
