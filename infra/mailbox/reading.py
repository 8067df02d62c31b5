"""A mail as people read it: its headers decoded, its text, its HTML. Pure, and prepared for hostile mails."""

from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message
from email.policy import compat32

from infra.mailbox.head import clean, decode_field

# What is opened of a mail with very many parts.
_PARTS_MAX = 100


@dataclass(frozen=True, slots=True)
class ReadMail:
    """
    The contents of a mail; every string can be encoded as UTF-8.

    headers: in their order, decoded, unfolded. text, html: the first part of each kind; None when there is none.
    attachments: what the other parts call themselves.
    """

    headers: list[tuple[str, str]]
    text: str | None
    html: str | None
    attachments: list[str]


def read_mail(mail: bytes) -> ReadMail:
    """Read a mail. Never raises: of what cannot be understood it shows the source as text."""
    try:
        # compat32: the newer policies parse addresses and dates too, and raise on many that are broken.
        return _read(message_from_bytes(mail, policy=compat32))
    except Exception:  # noqa: BLE001 -- the parser's own bugs and a mail nested thousandfold must not close the page
        return ReadMail(headers=[], text=mail.decode("utf-8", "replace"), html=None, attachments=[])


def _read(message: "Message[str, str]") -> ReadMail:
    text: str | None = None
    html: str | None = None
    attachments: list[str] = []
    for number, part in enumerate(message.walk()):
        if number >= _PARTS_MAX:
            break
        if part.is_multipart():
            continue
        kind = part.get_content_type()
        attached = part.get_content_disposition() == "attachment"
        if kind == "text/plain" and text is None and not attached:
            text = _content(part)
        elif kind == "text/html" and html is None and not attached:
            html = _content(part)
        else:
            attachments.append(decode_field(clean(part.get_filename() or kind)))
    # raw_items: items() turns a value that is raw UTF-8 into replacement characters.
    headers = [(clean(name), _field(str(value))) for name, value in message.raw_items()]
    return ReadMail(headers=headers, text=text, html=html, attachments=attachments)


def _content(part: "Message[str, str]") -> str:
    payload = part.get_payload(decode=True)
    content = payload if isinstance(payload, bytes) else b""
    try:
        return clean(content.decode(part.get_content_charset("utf-8"), "replace"))
    except (LookupError, ValueError):  # a charset that nobody knows, or that is no text encoding
        return content.decode("utf-8", "replace")


def _field(value: str) -> str:
    return decode_field(clean(value.replace("\r", "").replace("\n", "")))
