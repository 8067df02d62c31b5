"""The page for people: whatever is in a mail, it is shown as text or in a cage."""

import pytest

from tests.integration.mailbox.client import client_of, mail_of, send

EVIL = "<script>alert(1)</script><img src=http://example.org/x>"


@pytest.fixture
async def hostile_mail(own_mailbox):
    mail = mail_of(1, subject=EVIL, body=EVIL)
    mail.add_alternative(EVIL, subtype="html")
    async with client_of(own_mailbox.smtp_port) as client:
        await send(client, "ana@example.org", mail)


@pytest.mark.parametrize("path", ["/", "/messages/1"])
async def test_a_hostile_mail_is_shown_as_text(hostile_mail, http, path):
    async with http.get(path) as answer:
        text = await answer.text()
        assert answer.status == 200
        assert EVIL not in text
        assert "&lt;script&gt;alert(1)" in text
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'; ")


async def test_the_html_of_a_mail_is_caged(hostile_mail, http):
    async with http.get("/messages/1") as answer:
        assert 'sandbox="" referrerpolicy="no-referrer" src="/messages/1/html"></iframe>' in await answer.text()
    async with http.get("/messages/1/html") as answer:
        assert EVIL in await answer.text()
        policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("sandbox; default-src 'none'; ")
    assert "script-src" not in policy
    assert "allow-" not in policy


async def test_a_search_is_kept_in_its_field_and_says_how_much_it_found(own_mailbox, http):
    async with client_of(own_mailbox.smtp_port) as client:
        for recipient in ("ana+news@example.org", "eva@example.org"):
            await send(client, recipient)
    async with http.get("/", params={"search": "ana+"}) as answer:
        text = await answer.text()
    assert 'value="ana+"' in text
    assert "1 of 2 mails" in text
    assert "eva@example.org" not in text


@pytest.mark.parametrize("path", ["/messages/1", "/messages/1/html"])
async def test_the_page_says_when_there_is_no_such_mail(http, path):
    async with http.get(path) as answer:
        assert answer.status == 404
        assert answer.content_type == "text/html"
