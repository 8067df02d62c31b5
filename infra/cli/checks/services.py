"""The services, and whatever else the local stack runs: alive, ready, and if not, why."""

import http.client
import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from infra.cli.checks.finding import Finding, Report, info, ok, problem
from infra.cli.lines import printable
from infra.cli.where import Place

READY_S_MAX = 1.5
_SERVERS = frozenset({"RELEVO_KAFKA_BOOTSTRAP", "RELEVO_POSTGRES_DSN", "RELEVO_REDIS_URL"})


def check_services(place: Place, report: Report) -> None:
    """Look at the processes of the local stack; where there is none, at the door."""
    if not place.stack.get("processes"):
        report(judge_door(place.door_url, ask_ready(place.door_url)))
        return
    from infra.cli.checks.processes import look_at_processes  # noqa: PLC0415 -- needs psutil, which only a local stack has

    for finding in look_at_processes(place, used=bool(place.from_stack & _SERVERS)):
        report(finding)


def ask_ready(url: str) -> tuple[int, dict[str, Any]]:
    """Ask GET /readyz there. Returns its status, 0 when nobody answers, and the reasons why it is not ready."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=READY_S_MAX)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        document = json.loads(answer.read())
        return answer.status, document.get("reasons") or {} if isinstance(document, dict) else {}
    except (OSError, http.client.HTTPException, ValueError):
        return 0, {}
    finally:
        connection.close()


def judge_door(url: str, ready: tuple[int, Mapping[str, Any]]) -> Finding:
    """Say what the answer of /readyz at the door means where no local stack is known."""
    status, reasons = ready
    match status:
        case http.HTTPStatus.OK:
            return ok("ingest", f"{url} accepts")
        case http.HTTPStatus.SERVICE_UNAVAILABLE:
            return problem("ingest", f"{url} accepts nothing: {sentence(reasons)}", "Mend what it names.")
    return info("ingest", f"no ingest answers at {url}; it may be elsewhere")


def sentence(reasons: Mapping[str, Any]) -> str:
    """Return the reasons of /readyz for people."""
    return printable("; ".join(f"{what}: {why}" for what, why in reasons.items())) or "it does not say why"
