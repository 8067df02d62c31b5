"""What to try next, with the addresses of this stack."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from schemas.topics import RESULTS

_TEXT = """\
Try it:
  curl -X GET  {door}/healthz/
  curl -X POST {door}/api/contact/ -H "Content-Type: application/json" -d '{{"name": "Elon Musk", "email": "elon@xcorp.com", "message": "Necesito un billón de notificaciones."}}'
  curl -X POST {door}/api/notify/  -H "Content-Type: application/json" -d '{{"to": "receiver@example.com", "subject": "Alerta de Sistema", "body": "Se ha detectado una actividad inusual en el puerto 8000."}}'

Look at it:
  {mails:<43} the mails
  {docs:<43} the HTTP interface
  {tail:<43} the outcomes, as they come, from Kafka's topic {results}
  {status:<43} what runs; `make logs` and `make logs S=sender` show what it says
  {down:<43} ends it all, and leaves the data
"""  # noqa: E501 -- the lines are to be copied as they stand


def what_next(contents: Mapping[str, Any]) -> str:
    """Return the text for the contents of stack.json."""
    door = f"http://localhost:{urlsplit(str(contents['ingest_url'])).port}"
    return _TEXT.format(
        door=door,
        mails=contents.get("mailbox_url") or "(they go to the relay of RELEVO_SMTP_URL)",
        docs=f"{door}/docs",
        results=RESULTS.name,
        tail=".venv/bin/relevo tail",
        status="make status",
        down="make down",
    )
