"""How the mailbox is used in its tests: an SMTP client, and a mail to send with it."""

import contextlib
from email.message import EmailMessage

import aiosmtplib

HOST = "127.0.0.1"
SENDER = "relevo@example.org"


def mail_of(number: int, subject: str = "", body: str = "Hola, señal ñ\n.\n..dos\n") -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = SENDER, "ana@example.org", subject or f"Señal {number}"
    mail["Message-ID"], mail["X-Notification-Id"] = f"<{number}@relevo.test>", f"id-{number}"
    mail.set_content(body)
    return mail


@contextlib.asynccontextmanager
async def client_of(port: int, timeout_s: float = 10.0, **options):
    options.setdefault("start_tls", False)
    client = aiosmtplib.SMTP(hostname=HOST, port=port, timeout=timeout_s, **options)
    await client.connect()
    try:
        yield client
    finally:
        client.close()


async def send(client, recipient: str, mail: EmailMessage | None = None) -> None:
    await client.send_message(mail or mail_of(1), sender=SENDER, recipients=[recipient])
