"""The header fields of the index."""

from hypothesis import given
from hypothesis import strategies as st

from infra.mailbox.head import FIELD_CHARS_MAX, MailHead, decode_field, read_head


def test_the_fields_are_found_however_they_are_written():
    mail = b"SUBJECT:  hi\r\nmessage-id:\r\n <1@x>\r\nX-NOTIFICATION-ID: 0190\r\n\r\nbody\r\n"
    assert read_head(mail) == MailHead("<1@x>", "0190", "hi")


def test_a_body_is_no_header():
    mail = b"From: a@x\r\n\r\nMessage-ID: <1@x>\r\nSubject: no\r\n"
    assert read_head(mail) == MailHead(None, None, "")


def test_a_field_that_only_ends_alike_is_another():
    assert read_head(b"X-Message-ID: <1@x>\r\nX-Subject: no\r\n\r\n") == MailHead(None, None, "")


def test_of_a_field_that_occurs_twice_the_first_counts():
    assert read_head(b"Message-ID: <1@x>\r\nMessage-ID: <2@x>\r\n\r\n").message_id == "<1@x>"


def test_a_field_is_bounded():
    mail = b"Subject: " + b"\r\n aaaaaaaaa" * 100_000 + b"\r\n\r\n"
    assert len(read_head(mail).subject) == FIELD_CHARS_MAX


def test_a_subject_is_decoded():
    assert decode_field("=?utf-8?q?Un_bill=C3=B3n?=") == "Un billón"
    assert decode_field("=?utf-8?b?8J+mng==?= langosta") == "🦞 langosta"


def test_what_cannot_be_decoded_stays():
    assert decode_field("=?nosuchcharset?q?a?=") == "=?nosuchcharset?q?a?="
    assert decode_field("=?utf-8?b?!?=") == "=?utf-8?b?!?="


@given(st.binary(max_size=400))
def test_no_bytes_break_it(mail):
    head = read_head(mail)
    for value in (head.message_id or "", head.notification_id or "", head.subject, decode_field(head.subject)):
        value.encode()


@given(st.text(max_size=60).map(lambda text: f"=?{text}?="))
def test_no_encoded_word_breaks_it(value):
    decode_field(value.encode("utf-8", "replace").decode()).encode()
