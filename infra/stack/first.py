"""The first notification: one request through the whole path, to see that it works."""

import json
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from infra.stack.following import NotUpError
from infra.stack.plan import ask
from infra.stack.wanted import Wanted
from schemas.states import TERMINAL

_RECEIVER = "newcomer@example.com"
_ANSWER_S_MAX = 30.0


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of it. took_s is from the request to the answer that the relay has it."""

    notification_id: str
    status: str
    took_s: float
    receiver: str = _RECEIVER


def send_first(ingest_url: str, wanted: Wanted) -> Sent:
    """
    Send one notification and wait for its outcome.

    Raises:
        NotUpError: it was refused, or there is no outcome in time; says how far it came.
    """
    request = {
        "to": _RECEIVER,
        "subject": "relevo works",
        "body": "This mail went through ingest, PostgreSQL, Kafka, the pipeline with its table in Redis, and a sender.",
    }
    key = wanted.api_key()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
    began_s = time.monotonic()
    status, answer = ask(ingest_url, "POST", "/api/notify/", body=json.dumps(request).encode(), headers=headers)
    if status != HTTPStatus.ACCEPTED:
        raise NotUpError(f"The first notification was not accepted: {status} {answer.decode(errors='replace')[:500]}")
    notification_id = json.loads(answer)["id"]
    found: dict[str, Any] = {}
    while time.monotonic() - began_s < _ANSWER_S_MAX:
        status, answer = ask(ingest_url, "GET", f"/api/notifications/{notification_id}", headers=headers)
        if status == HTTPStatus.OK:
            found = json.loads(answer)
            if found["status"] in TERMINAL:
                return Sent(notification_id, found["status"], time.monotonic() - began_s)
        time.sleep(0.05)
    raise NotUpError(
        f"The first notification {notification_id} has no outcome after {_ANSWER_S_MAX:.0f} s; "
        f"it stands at {found.get('status') or f'HTTP status {status}'!r}. `make logs` shows what the services say."
    )
