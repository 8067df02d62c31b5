"""The bytes of a mail: what a reader gets back, and what no input can add."""

from email import message_from_bytes
from email.policy import SMTPUTF8

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.addresses import check_address
from sender.compose import Composer, needs_smtputf8
from tests.builders import ACCEPTED_AT, make_notification

composer = Composer("relevo@example.org", "Relevo, S. A.")

LINE = st.text(st.characters(blacklist_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=300).filter(str.strip)
TEXT = st.text(st.characters(blacklist_categories=("Cc", "Cs"), whitelist_characters="\t\n"), min_size=1).filter(
    str.strip
)


def read_back(notification):
    raw = composer.compose(notification, ACCEPTED_AT)
    return raw, message_from_bytes(raw, policy=SMTPUTF8)


def test_carries_what_a_mail_needs():
    notification = make_notification(reply_to="ana@example.com")
    raw, mail = read_back(notification)
    assert mail["From"] == '"Relevo, S. A." <relevo@example.org>'
    assert mail["To"] == "receiver@example.org"
    assert mail["Reply-To"] == "ana@example.com"
    assert mail["Message-ID"] == f"<{notification.id}@example.org>"
    assert mail["X-Notification-Id"] == str(notification.id)
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Date"].datetime == ACCEPTED_AT
    assert mail.get_content() == "Se ha detectado.\r\n"
    assert raw.endswith(b"\r\n")


def test_html_stands_beside_the_text():
    _, mail = read_back(make_notification(html="<p>hola</p>"))
    assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]


def test_every_attempt_is_the_same_mail():
    notification = make_notification(html="<p>ñ</p>", body="ñandú")
    assert composer.compose(notification, ACCEPTED_AT) == composer.compose(notification, ACCEPTED_AT)


def test_only_addresses_beyond_ascii_need_smtputf8():
    assert not needs_smtputf8(make_notification(subject="ñ"))
    assert needs_smtputf8(make_notification(to="josé@example.org"))


@given(LINE, TEXT)
def test_the_reader_gets_what_was_asked_and_no_header_more(subject, body):
    raw, mail = read_back(make_notification(subject=subject, body=body))
    # White space at a fold is the reader's to fold; what is written between is not.
    assert "".join(str(mail["Subject"]).split()) == "".join(subject.split())
    assert mail.get_content().replace("\r\n", "\n").rstrip("\n") == body.rstrip("\n")
    assert len(mail.keys()) == 10
    # On the wire: CRLF only, seven bits, and no line longer than SMTP takes.
    assert raw.isascii()
    assert b"\n" not in raw.replace(b"\r\n", b"")
    assert b"\r" not in raw.replace(b"\r\n", b"")
    assert max(map(len, raw.split(b"\r\n"))) <= 998


@pytest.mark.parametrize("address", ["josé@example.org", "josé.ñandú@bücher.example", "用户@例子.example"])
def test_an_address_beyond_ascii_is_written_as_it_is(address):
    address = check_address(address)
    raw, mail = read_back(make_notification(to=address, reply_to=address, subject="ñ"))
    assert (mail["To"], mail["Reply-To"]) == (address, address)
    assert f"To: {address}".encode() in raw
