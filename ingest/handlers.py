"""The handlers: HTTP only. They read the request, call the use case and say its answer in HTTP."""

import orjson
from aiohttp import hdrs, web

from infra.health import DependencyHealth, Readiness
from infra.telemetry import trace_id_of
from ingest.accept import Acceptor, Answer, Submission, Verdict
from ingest.access import Access
from ingest.answers import Document, json_response
from ingest.contact import RECEIVED
from ingest.exchange import EXCHANGE, Exchange
from ingest.problems import ProblemError
from ingest.rate_limit import RateLimits
from ingest.requests import read_json
from ingest.submissions import submission_of_contact, submission_of_notify
from ingest.sweep import Gate
from ingest.timeline import path_of


class Api:
    """The API: accepting."""

    def __init__(
        self,
        *,
        acceptor: Acceptor,
        gate: Gate,
        access: Access,
        limits: RateLimits,
        contact_recipients: tuple[str, ...],
    ) -> None:
        self._acceptor = acceptor
        self._gate = gate
        self._access = access
        self._limits = limits
        self._contact_recipients = contact_recipients

    async def contact(self, request: web.Request) -> Document:
        """POST /api/contact/."""
        exchange = request[EXCHANGE]
        await self._limits.of_visitor(request.headers, request.remote)
        submission = submission_of_contact(
            await read_json(request),
            keys=request.headers.getall("Idempotency-Key", ()),
            recipients=self._contact_recipients,
            traceparent=exchange.traceparent,
        )
        answer = await self._accept(submission, exchange)
        said = {"status": "queued", "message": RECEIVED, "id": answer.id}
        return Document(orjson.dumps(said), 202, _replayed(answer))

    async def notify(self, request: web.Request) -> Document:
        """POST /api/notify/."""
        exchange = request[EXCHANGE]
        # Before the body: who may not ask is not read.
        client = self._access.client_of(request.headers, request.remote)
        await self._limits.of_client(client)
        submission = submission_of_notify(
            await read_json(request),
            keys=request.headers.getall("Idempotency-Key", ()),
            client=client,
            traceparent=exchange.traceparent,
        )
        answer = await self._accept(submission, exchange)
        identity = str(answer.id)
        path = path_of(identity)
        trace_id = exchange.trace_id
        if answer.verdict is not Verdict.NEW:
            trace_id = trace_id_of(answer.traceparent) or trace_id
        said = {"status": answer.status, "id": identity, "trace_id": trace_id, "links": {"self": path}}
        return Document(orjson.dumps(said), 202, {hdrs.LOCATION: path, **_replayed(answer)})

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
        return json_response({"status": "ok" if well else "unavailable", **up}, status=200 if well else 503)

    async def livez(self, _request: web.Request) -> web.Response:
        """GET /livez: this process turns."""
        return json_response({"status": "ok"})

    async def readyz(self, _request: web.Request) -> web.Response:
        """GET /readyz: it can accept. Kafka and Redis may be away for that."""
        reasons = self._readiness.reasons
        if reasons:
            return json_response({"status": "unavailable", "reasons": reasons}, status=503)
        return json_response({"status": "ok"})


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
