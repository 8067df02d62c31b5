"""The handlers: HTTP only. They read the request, call the use case and say its answer in HTTP."""

import orjson
from aiohttp import hdrs, web

from infra.health import DependencyHealth, Readiness
from infra.telemetry import trace_id_of
from ingest.accept import Acceptor, Answer, Submission, Verdict
from ingest.access import Access
from ingest.contact import RECEIVED
from ingest.exchange import EXCHANGE, Exchange
from ingest.problems import ProblemError
from ingest.requests import read_json
from ingest.store import Store
from ingest.submissions import submission_of_contact, submission_of_notify
from ingest.sweep import Gate
from ingest.timeline import path_of, status_document
from schemas.validation import read_id


def _json(document: object, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(document), status=status, headers={"Content-Type": "application/json", **(headers or {})}
    )


class Api:
    """The API: accepting, and what became of it."""

    def __init__(
        self, *, acceptor: Acceptor, gate: Gate, store: Store, access: Access, contact_recipients: tuple[str, ...]
    ) -> None:
        self._acceptor = acceptor
        self._gate = gate
        self._store = store
        self._access = access
        self._contact_recipients = contact_recipients

    async def contact(self, request: web.Request) -> web.Response:
        """POST /api/contact/."""
        exchange = request[EXCHANGE]
        submission = submission_of_contact(
            await read_json(request),
            keys=request.headers.getall("Idempotency-Key", ()),
            recipients=self._contact_recipients,
            traceparent=exchange.traceparent,
        )
        answer = await self._accept(submission, exchange)
        return _json(
            {"status": "queued", "message": RECEIVED, "id": str(answer.id)}, status=202, headers=_replayed(answer)
        )

    async def notify(self, request: web.Request) -> web.Response:
        """POST /api/notify/."""
        exchange = request[EXCHANGE]
        # Before the body: who may not ask is not read.
        client = self._access.client_of(request.headers, request.remote)
        submission = submission_of_notify(
            await read_json(request),
            keys=request.headers.getall("Idempotency-Key", ()),
            client=client,
            traceparent=exchange.traceparent,
        )
        answer = await self._accept(submission, exchange)
        return _json(
            {
                "status": "queued",
                "id": str(answer.id),
                "trace_id": trace_id_of(answer.traceparent) or exchange.trace_id,
                "links": {"self": path_of(answer.id)},
            },
            status=202,
            headers={hdrs.LOCATION: path_of(answer.id), **_replayed(answer)},
        )

    async def status(self, request: web.Request) -> web.Response:
        """GET /api/notifications/{id}."""
        client = self._access.client_of(request.headers, request.remote)
        try:
            notification_id = read_id(request.match_info["id"])
        except ValueError:
            raise ProblemError("not_found") from None
        request[EXCHANGE].notification_id = notification_id
        history = await self._store.history(notification_id)
        if not history or history[0]["client"] not in (None, client):
            raise ProblemError("not_found")
        return _json(status_document(history))

    async def _accept(self, submission: Submission, exchange: Exchange) -> Answer:
        exchange.notification_id = submission.first.id
        if self._gate.full:
            raise ProblemError("outbox_full")
        answer = await self._acceptor.accept(submission)
        if answer.verdict is Verdict.CONFLICT:
            raise ProblemError("idempotency_conflict")
        return answer


def _replayed(answer: Answer) -> dict[str, str]:
    return {"Idempotency-Replayed": "true"} if answer.verdict is Verdict.REPLAYED else {}


class Health:
    """What machines ask: is everything there, does the process live, does it accept."""

    def __init__(self, dependencies: DependencyHealth, readiness: Readiness) -> None:
        self._dependencies = dependencies
        self._readiness = readiness

    async def healthz(self, _request: web.Request) -> web.Response:
        """GET /healthz: the three servers, as they were at most a second ago."""
        up = self._dependencies.up()
        well = all(up.values())
        return _json({"status": "ok" if well else "unavailable", **up}, status=200 if well else 503)

    async def livez(self, _request: web.Request) -> web.Response:
        """GET /livez: this process turns."""
        return _json({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """GET /readyz: it can accept. Kafka and Redis may be away for that."""
        reasons = self._readiness.reasons
        if reasons:
            return _json({"status": "unavailable", "reasons": reasons}, status=503)
        return _json({"status": "ok"})


class Pages:
    """The contract, for machines and for people."""

    def __init__(self, contract: bytes, page: bytes, content_policy: str) -> None:
        self._contract = contract
        self._page = page
        self._content_policy = content_policy

    async def openapi(self, _request: web.Request) -> web.Response:
        """GET /openapi.yaml."""
        return web.Response(body=self._contract, headers={"Content-Type": "application/yaml; charset=utf-8"})

    async def docs(self, _request: web.Request) -> web.Response:
        """GET /docs."""
        return web.Response(
            body=self._page,
            headers={"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": self._content_policy},
        )
