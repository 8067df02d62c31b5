"""
The few header fields that the index needs, and how header text becomes readable. Pure.

They are read without parsing the mail: it is done for every one that comes in.
"""

import re
from dataclasses import dataclass
from email.errors import HeaderParseError
from email.header import decode_header, make_header

# A header field is hostile input and may be folded over megabytes; the index keeps this much of it.
FIELD_CHARS_MAX = 1000

_FIELDS = re.compile(
    rb"^(message-id|x-notification-id|subject)[ \t]*:[ \t]*([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)",
    re.IGNORECASE | re.MULTILINE,
)
_FOLD = re.compile(rb"\r\n(?=[ \t])")


@dataclass(frozen=True, slots=True)
class MailHead:
    """What a mail says of itself; each at most FIELD_CHARS_MAX characters. subject is not decoded yet."""

    message_id: str | None
    notification_id: str | None
    subject: str


def read_head(mail: bytes) -> MailHead:
    """
    Read the fields of a mail; of one that occurs twice the first.

    Args:
        mail: as it came over SMTP, with CRLF.
    """
    end = mail.find(b"\r\n\r\n")
    found: dict[bytes, str] = {}
    for match in _FIELDS.finditer(mail, 0, len(mail) if end < 0 else end):
        # A character has up to 4 bytes.
        value = _FOLD.sub(b"", match[2]).strip()[: 4 * FIELD_CHARS_MAX]
        found.setdefault(match[1].lower(), value.decode("utf-8", "replace")[:FIELD_CHARS_MAX])
    return MailHead(
        message_id=found.get(b"message-id"),
        notification_id=found.get(b"x-notification-id"),
        subject=found.get(b"subject", ""),
    )


def decode_field(value: str) -> str:
    """Decode the encoded words of a header field (RFC 2047). What cannot be decoded stays as it is."""
    if "=?" not in value:
        return value
    try:
        decoded = str(make_header(decode_header(value)))
    except (HeaderParseError, LookupError, ValueError):
        return value
    # An empty answer is none: broken base64 decodes to nothing.
    return clean(decoded) or value


def clean(text: str) -> str:
    """
    Make text fit for JSON and pages, which cannot carry lone surrogates.

    They come from bytes outside of ASCII, which aiosmtpd and the email package hand on so (here they become UTF-8
    again, or a replacement character), and from a few charsets.
    """
    if text.isascii():
        return text
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
