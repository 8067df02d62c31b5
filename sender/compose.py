"""From content to the bytes of a mail. Pure: the same notification always gives the same bytes."""

from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, SMTPUTF8
from email.utils import format_datetime
from uuid import UUID

from schemas.messages import Notification

# 7bit: quoted-printable or base64 where needed, so that it does not matter whether a relay offers 8BITMIME.
_ASCII = SMTP.clone(cte_type="7bit")
_UTF8 = SMTPUTF8.clone(cte_type="7bit")


class Composer:
    """
    Makes mails from one sender address.

    Args:
        address: the sender, also the envelope sender, where reports of failure go.
        name: beside it in From; may be empty.
    """

    def __init__(self, address: str, name: str) -> None:
        self.address = address
        self._from = _address(address, name)
        self._domain = address.rpartition("@")[2]

    def message_id(self, notification_id: UUID) -> str:
        """Return the Message-ID: the same at every attempt, so that a copy can be recognised as one."""
        return f"<{notification_id}@{self._domain}>"

    def compose(self, notification: Notification, accepted_at: datetime) -> bytes:
        """
        Return the mail as it goes over the wire, before dot-stuffing: CRLF line ends, header lines below 998 octets.

        Date is the moment of acceptance, not of the attempt: part of being the same bytes every time.
        Raises:
            ValueError: a header field holds what no header can; validation lets nothing such through.
        Source: RFC 5322, RFC 6532 where an address is beyond ASCII; RFC 3834 for Auto-Submitted.
        """
        content = notification.content
        mail = EmailMessage(policy=_UTF8 if needs_smtputf8(notification) else _ASCII)
        mail["From"] = self._from
        mail["To"] = _address(content.to)
        mail["Subject"] = content.subject
        mail["Date"] = format_datetime(accepted_at)
        mail["Message-ID"] = self.message_id(notification.id)
        if content.reply_to is not None:
            mail["Reply-To"] = _address(content.reply_to)
        mail["Auto-Submitted"] = "auto-generated"
        mail["X-Notification-Id"] = str(notification.id)
        mail.set_content(content.body)
        if content.html is not None:
            mail.add_alternative(content.html, subtype="html")
            # Python draws the boundary at random, which would make every attempt another mail.
            mail.set_boundary(f"=_{notification.id.hex}")
        return mail.as_bytes()


def needs_smtputf8(notification: Notification) -> bool:
    """Whether an address is beyond ASCII, so that only a relay with SMTPUTF8 (RFC 6531) can take the mail."""
    content = notification.content
    return not (content.to.isascii() and (content.reply_to or "").isascii())


def _address(address: str, name: str = "") -> Address:
    # In parts, which are validated already: taken whole, a local part beyond ASCII (RFC 6531) is called a defect.
    local, _, domain = address.rpartition("@")
    return Address(name, local, domain)
