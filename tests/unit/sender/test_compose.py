"""The bytes of a mail: what a reader gets back, and what no input can add. The email package is the oracle."""

from email import message_from_bytes
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTPUTF8
from email.utils import format_datetime

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


TEXTS = st.one_of(
    TEXT,
    # Lines of every length around the limits, of few characters, so that dots, blanks and boundaries stand at ends.
    st.lists(st.text("a. \t=-_ñ字", max_size=90), min_size=1, max_size=12).map("\r\n".join).filter(str.strip),
    st.text("ab .\n\r", min_size=1, max_size=60).filter(str.strip),
    st.text("x" * 9 + " ", min_size=900, max_size=3000).filter(str.strip),
)
SUBJECTS = st.one_of(
    LINE,
    st.text("a =?ñ_", min_size=1, max_size=200).filter(str.strip),
    st.text("abcdefg ", min_size=60, max_size=998).filter(str.strip),
    st.sampled_from(["=?utf-8?q?a?=", "x" * 998, "😀" * 249, " a ", "a" + " " * 200 + "b", "a" * 70 + " " + "b" * 70]),
)
ADDRESSES = st.sampled_from(
    ["receiver@example.org", "o'brien+x@sub.example.org", "a" * 64 + "@example.org", "josé@example.org"]
)
MAILS = st.builds(
    make_notification,
    subject=SUBJECTS,
    body=TEXTS,
    html=st.none() | TEXTS,
    to=ADDRESSES,
    reply_to=st.none() | ADDRESSES,
)


def by_the_package(notification):
    """The same mail as the email package builds, writes and reads it."""
    content = notification.content
    mail = EmailMessage(policy=SMTPUTF8.clone(cte_type="7bit"))
    mail["From"] = Address("Relevo, S. A.", "relevo", "example.org")
    mail["To"] = _parts(content.to)
    mail["Subject"] = content.subject
    mail["Date"] = format_datetime(ACCEPTED_AT)
    mail["Message-ID"] = f"<{notification.id}@example.org>"
    if content.reply_to is not None:
        mail["Reply-To"] = _parts(content.reply_to)
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Notification-Id"] = str(notification.id)
    mail.set_content(content.body)
    if content.html is not None:
        mail.add_alternative(content.html, subtype="html")
        mail.set_boundary(f"=_{notification.id.hex}")
    return message_from_bytes(mail.as_bytes(), policy=SMTPUTF8)


def _parts(text):
    local, _, domain = text.rpartition("@")
    return Address("", local, domain)


def as_read(mail):
    """What a reader gets: the headers, and the text of every part, however it was encoded."""
    apart = {"Subject", "Content-Transfer-Encoding"}
    headers = sorted((name, str(value)) for name, value in mail.items() if name not in apart)
    parts = [part for part in mail.walk() if not part.is_multipart()]
    return headers, [(part.get_content_type(), part.get_content().replace("\r\n", "\n")) for part in parts]


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


@given(MAILS)
def test_the_reader_gets_what_the_email_package_would_have_sent(notification):
    raw, mail = read_back(notification)
    assert as_read(mail) == as_read(by_the_package(notification))
    # The package loses blanks at folds, and takes what looks encoded for encoded. Nothing of that here.
    assert mail["Subject"] == notification.content.subject
    assert not mail.defects
    assert composer.compose(notification, ACCEPTED_AT) == raw


@given(MAILS)
def test_on_the_wire_are_lines_that_every_relay_takes(notification):
    raw, _ = read_back(notification)
    lines = raw.split(b"\r\n")
    assert lines.pop() == b""
    assert not any(b"\n" in line or b"\r" in line for line in lines)
    assert max(map(len, lines)) <= 998
    if not needs_smtputf8(notification):
        assert raw.isascii()
    end_of_headers = lines.index(b"")
    # A line of blanks alone would end the headers for some readers.
    assert all(line.strip() for line in lines[:end_of_headers])
    assert all(len(line) <= 76 for line in lines[:end_of_headers] if b"=?utf-8?" in line)


@given(MAILS.filter(lambda notification: notification.content.html is not None))
def test_no_text_ends_its_part(notification):
    boundary = f"--=_{notification.id.hex}"
    inside = make_notification(
        id=notification.id, body=f"a\n{boundary}--\nb", html=notification.content.html + f"\n{boundary}\n"
    )
    _, mail = read_back(inside)
    text, html = mail.iter_parts()
    assert text.get_content() == f"a\r\n{boundary}--\r\nb\r\n"
    assert html.get_content().replace("\r\n", "\n").rstrip("\n").endswith(boundary)


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
