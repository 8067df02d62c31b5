"""Mails as people read them."""

from email.message import EmailMessage

from hypothesis import given
from hypothesis import strategies as st

from infra.mailbox.reading import read_mail


def test_both_bodies_and_the_attachment_are_found():
    mail = EmailMessage()
    mail["Subject"] = "Un billón"
    mail.set_content("Hola, señora\n")
    mail.add_alternative("<p>Hola</p>", subtype="html")
    mail.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="año.pdf")
    read = read_mail(mail.as_bytes())
    assert ("Subject", "Un billón") in read.headers
    assert read.text == "Hola, señora\n"
    assert read.html == "<p>Hola</p>\n"
    assert read.attachments == ["año.pdf"]


def test_headers_keep_their_order_and_their_repeats():
    read = read_mail(b"Received: a\r\nReceived: b\r\n c\r\nX: d\r\n\r\nbody\r\n")
    assert read.headers == [("Received", "a"), ("Received", "b c"), ("X", "d")]


def test_raw_utf8_headers_are_shown():
    assert read_mail("Subject: señora\r\n\r\n".encode()).headers == [("Subject", "señora")]


def test_an_unknown_charset_is_read_as_utf8():
    assert read_mail(b"Content-Type: text/plain; charset=nosuch\r\n\r\nhola\r\n").text == "hola\r\n"


def test_a_charset_that_is_none_is_read_as_utf8():
    assert read_mail(b"Content-Type: text/plain; charset=hex\r\n\r\nhola\r\n").text == "hola\r\n"


def test_a_mail_without_text_says_so():
    read = read_mail(b"Content-Type: image/png\r\n\r\nxx")
    assert (read.text, read.html, read.attachments) == (None, None, ["image/png"])


def test_a_mail_nested_a_thousandfold_is_shown_as_source():
    layers = b"".join(b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n) for n in range(2000))
    read = read_mail(layers + b"Content-Type: text/plain\r\n\r\ndeep\r\n")
    assert read.text is None or "multipart" in read.text


@given(st.binary(max_size=600))
def test_no_bytes_break_it(mail):
    read = read_mail(mail)
    for text in (
        read.text or "",
        read.html or "",
        *read.attachments,
        *(part for field in read.headers for part in field),
    ):
        text.encode()


@given(st.text(max_size=60), st.text(max_size=60), st.sampled_from(["plain", "html", "x/y", "plain; charset=utf-16"]))
def test_no_headers_break_it(subject, filename, kind):
    head = f'Subject: {subject}\r\nContent-Type: text/{kind}; name="{filename}"\r\n\r\n{subject}'
    read = read_mail(head.encode("utf-8", "replace"))
    assert all(isinstance(name, str) for name, _ in read.headers)
