"""
From content to the bytes of a mail. Pure: the same notification always gives the same bytes.

The bytes are written directly: building and serialising the objects of the email package costs as much as handing
the mail to the relay ten times over. What the package makes of the same content is what tests compare with.
"""

import re
from binascii import b2a_base64, b2a_qp
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from functools import lru_cache
from uuid import UUID

from schemas.messages import Notification

# RFC 5322 2.1.1: what a line should have at most; RFC 2047 2: and what one with an encoded word must.
LINE_BYTES_MAX = 78
_ENCODED_LINE_BYTES_MAX = 76
_ENCODED_WORD = b"=?utf-8?b?%s?="
_BASE64_LINE_BYTES = 76

# What is written as it is: visible ASCII with blanks between, and nothing that a reader would take for encoded.
_PLAIN = re.compile(r"(?!.*=\?)[!-~](?:[ -~]*[!-~])?")
_BLANKS_AND_WORD = re.compile(" *[^ ]+")
_ASCII = bytes(range(0x80))


class Composer:
    """
    Makes mails from one sender address.

    Args:
        address: the sender, also the envelope sender, where reports of failure go.
        name: beside it in From; may be empty.
    """

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self._from = _from_line(address, name)
        self._domain = address.rpartition("@")[2]

    def message_id(self, notification_id: UUID) -> str:
        """Return the Message-ID: the same at every attempt, so that a copy can be recognised as one."""
        return f"<{notification_id}@{self._domain}>"

    def compose(self, notification: Notification, accepted_at: datetime) -> bytes:
        """
        Return the mail as it goes over the wire, before dot-stuffing: CRLF line ends, lines below 998 octets.

        Seven bits but for addresses beyond ASCII, so that it does not matter whether a relay offers 8BITMIME. Date is
        the moment of acceptance, not of the attempt: part of being the same bytes every time.
        Source: RFC 5322, RFC 2045 to 2047, RFC 6532 where an address is beyond ASCII; RFC 3834 for Auto-Submitted.
        """
        content = notification.content
        reply_to = "" if content.reply_to is None else f"Reply-To: {content.reply_to}\r\n"
        names = (
            f"Date: {_date(accepted_at)}\r\n"
            f"Message-ID: {self.message_id(notification.id)}\r\n"
            f"{reply_to}"
            "Auto-Submitted: auto-generated\r\n"
            f"X-Notification-Id: {notification.id}\r\n"
            "MIME-Version: 1.0\r\n"
        )
        return b"".join(
            (
                self._from,
                # In one piece: RFC 6532 has no other form for an address beyond ASCII.
                f"To: {content.to}\r\n".encode(),
                _header_line(b"Subject: ", content.subject),
                names.encode(),
                *_entity(content.body, content.html, notification.id),
            )
        )


def needs_smtputf8(notification: Notification) -> bool:
    """Whether an address is beyond ASCII, so that only a relay with SMTPUTF8 (RFC 6531) can take the mail."""
    content = notification.content
    return not (content.to.isascii() and (content.reply_to or "").isascii())


# Many are accepted in one moment.
_date = lru_cache(maxsize=256)(format_datetime)


def _from_line(address: str, name: str) -> bytes:
    # Once for each process, so the package may do it. The address in parts, which are validated already.
    local, _, domain = address.rpartition("@")
    mail = EmailMessage(policy=SMTP if address.isascii() else SMTPUTF8)
    mail["From"] = Address(name, local, domain)
    return mail.as_bytes().removesuffix(b"\r\n")


def _header_line(name: bytes, text: str) -> bytes:
    """Return the field with *text*, which is one line without controls: as it is, folded, or encoded."""
    if _PLAIN.fullmatch(text):
        plain = name + text.encode("ascii")
        if len(plain) <= LINE_BYTES_MAX:
            return plain + b"\r\n"
        folded = _folded(name, text)
        if folded is not None:
            return folded
    return _encoded(name, text)


def _folded(name: bytes, text: str) -> bytes | None:
    """Return the field folded before blanks, so that unfolding gives *text* back; None: a word is too long."""
    lines, line = [], name
    for piece in _BLANKS_AND_WORD.findall(text):
        encoded = piece.encode("ascii")
        if len(encoded) > LINE_BYTES_MAX:
            return None
        if len(line) + len(encoded) > LINE_BYTES_MAX and line is not name:
            lines.append(line)
            line = b""
        line += encoded
    return b"\r\n".join((*lines, line, b""))


def _encoded(name: bytes, text: str) -> bytes:
    """Return the field in encoded words of whole characters (RFC 2047 5); a reader drops the folds between them."""
    words = []
    room = _room(len(name))
    begin = size = 0
    for at, char in enumerate(text):
        char_bytes = 1 if char < "\x80" else 2 if char < "\u0800" else 3 if char < "\U00010000" else 4
        if size + char_bytes > room:
            words.append(_ENCODED_WORD % b2a_base64(text[begin:at].encode(), newline=False))
            room = _room(1)
            begin, size = at, 0
        size += char_bytes
    words.append(_ENCODED_WORD % b2a_base64(text[begin:].encode(), newline=False))
    return name + b"\r\n ".join(words) + b"\r\n"


def _room(line_bytes: int) -> int:
    """Return how many octets of text an encoded word can carry on a line that has *line_bytes* already."""
    return (_ENCODED_LINE_BYTES_MAX - line_bytes - len(_ENCODED_WORD % b"")) // 4 * 3


def _entity(body: str, html: str | None, notification_id: UUID) -> tuple[bytes, ...]:
    """Return what describes the content, the empty line, and the content: one part, or two to choose from."""
    if html is None:
        return _part(b"plain", body, b"")
    # Of the id, and not drawn at random: that would make every attempt another mail.
    boundary = f"=_{notification_id.hex}".encode()
    return (
        b'Content-Type: multipart/alternative; boundary="%s"\r\n\r\n--%s\r\n' % (boundary, boundary),
        *_part(b"plain", body, boundary),
        b"\r\n--%s\r\n" % boundary,
        *_part(b"html", html, boundary),
        b"\r\n--%s--\r\n" % boundary,
    )


def _part(subtype: bytes, text: str, boundary: bytes) -> tuple[bytes, bytes]:
    encoding, encoded = _transfer_encoded(text, boundary)
    head = b'Content-Type: text/%s; charset="utf-8"\r\nContent-Transfer-Encoding: %s\r\n\r\n' % (subtype, encoding)
    return head, encoded


def _transfer_encoded(text: str, boundary: bytes) -> tuple[bytes, bytes]:
    """
    Return the encoding's name, and *text* in it, each line ended by CRLF.

    Args:
        boundary: must not stand in it; empty: there is none.
    """
    lines = text.encode().splitlines()
    plain = b"\r\n".join((*lines, b""))
    beyond_ascii = len(plain.translate(None, _ASCII))
    # A boundary can stand in text that is written as it is; in an encoded one its "=" and "_" never follow each other.
    if not beyond_ascii and max(map(len, lines)) <= LINE_BYTES_MAX and not (boundary and boundary in plain):
        return b"7bit", plain
    # Quoted-printable makes three octets of one, base64 four of three: whichever is shorter.
    if beyond_ascii * 6 > len(plain):
        whole = b2a_base64(plain, newline=False)
        starts = range(0, len(whole), _BASE64_LINE_BYTES)
        return b"base64", b"\r\n".join((*(whole[at : at + _BASE64_LINE_BYTES] for at in starts), b""))
    return b"quoted-printable", b2a_qp(plain)
