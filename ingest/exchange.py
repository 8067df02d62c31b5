"""
Exchanges: what is kept of one request while it is answered, and the frame around every handler.

The frame gives each request an id and a span, turns every error into a problem document, and leaves one log line
when the request came and one when it was answered.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from random import getrandbits
from uuid import UUID

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from opentelemetry.trace import Span, SpanKind

from infra.logs import get_logger
from infra.metrics import http_requests, http_seconds
from infra.telemetry import fail_span, start_span, traceparent_of
from ingest.answers import Document
from ingest.cors import Cors
from ingest.problems import problem_of, problem_response

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"})

# Server: which library answers is nobody's business.
# Content-Security-Policy: answers of the API are data; should a browser ever render one, it loads and runs nothing.
_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Server": "relevo",
    "Content-Security-Policy": _CONTENT_POLICY,
}

# Who may call it from a page elsewhere, and whose trace context is only pointed to, not continued.
PUBLIC_ROUTE = "/api/contact/"
# Asked for several times a second by machines: neither logged nor traced.
_QUIET_ROUTES = frozenset({"/healthz", "/livez", "/readyz"})

log = get_logger()


@dataclass(slots=True)
class Exchange:
    """
    One request and its answer.

    route: the path's template, "unknown" when there is none. traceparent: what is to continue below this request.
    span and trace_id: None where nothing is traced. notification_id: set by the handler that knows it.
    """

    method: str
    route: str
    request_id: str
    span: Span | None
    traceparent: str
    trace_id: str | None
    notification_id: UUID | None = None
    begun: float = field(default_factory=time.perf_counter)


EXCHANGE = web.RequestKey("exchange", Exchange)

# What a handler may return: a document becomes a response here.
Answering = Callable[[web.Request], Awaitable[web.StreamResponse | Document]]


class Traffic:
    """The requests under way, and whether this is the end: then each answer is its connection's last."""

    def __init__(self) -> None:
        self._under_way = 0
        self._none = asyncio.Event()
        self._none.set()
        self.ending = False

    def __enter__(self) -> None:
        """One more."""
        self._under_way += 1
        if self._under_way == 1:
            self._none.clear()

    def __exit__(self, *_what: object) -> None:
        """One less."""
        self._under_way -= 1
        if not self._under_way:
            self._none.set()

    async def end(self, timeout_s: float) -> None:
        """Wait until none is under way, for at most *timeout_s*."""
        self.ending = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._none.wait()


def request_id_of(given: str | None) -> str:
    """Return *given* if it is an id that may stand in a header and a log, else a new one."""
    return given if given is not None and _REQUEST_ID.fullmatch(given) else f"{getrandbits(64):016x}"


def route_of(request: web.Request) -> str:
    """Return the template of the request's path in its documented spelling, or "unknown"."""
    resource = request.match_info.route.resource
    return "unknown" if resource is None else documented(resource.canonical)


def documented(canonical: str) -> str:
    """Return the spelling of *canonical*, with or without its last slash, that openapi.yaml uses."""
    bare = canonical.rstrip("/")
    return f"{bare}/" if bare in {"/api/contact", "/api/notify"} else bare


class Frame:
    """What is around every handler."""

    def __init__(self, cors: Cors, traffic: Traffic) -> None:
        self._cors = cors
        self._traffic = traffic

    async def answer(self, request: web.Request, handler: Answering, route: str) -> web.StreamResponse:
        """Return what *handler* answers to *request*, or the problem that it raised, with the headers that all have."""
        exchange = _begin(request, route)
        request[EXCHANGE] = exchange
        traffic = self._traffic
        error_type = None
        with traffic:
            try:
                answer = await handler(request)
            except Exception as error:
                # Whatever it is, the client gets a problem document.
                problem = problem_of(error)
                error_type = problem.code
                if problem.code == "internal_error":
                    log.exception("request_broke", request_id=exchange.request_id)
                answer = problem_response(
                    problem,
                    instance=request.rel_url.raw_path,
                    request_id=exchange.request_id,
                    trace_id=exchange.trace_id,
                )
            response = self._dressed(request, answer, exchange)
            _end(exchange, response.status, error_type)
        if traffic.ending:
            response.force_close()
        return response

    def _dressed(
        self, request: web.Request, answer: web.StreamResponse | Document, exchange: Exchange
    ) -> web.StreamResponse:
        more = {"X-Request-ID": exchange.request_id, **_HEADERS}
        if exchange.route == PUBLIC_ROUTE:
            more |= self._cors.headers(request.headers.get(hdrs.ORIGIN), preflight=request.method == hdrs.METH_OPTIONS)
        if isinstance(answer, Document):
            return answer.response(request, more)
        headers = answer.headers
        # A page has a policy of its own.
        policy = headers.get("Content-Security-Policy", _CONTENT_POLICY)
        headers.update(more)
        headers["Content-Security-Policy"] = policy
        return answer


def framed(frame: Frame) -> Middleware:
    """Return the middleware that frames every handler."""

    @web.middleware
    async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await frame.answer(request, handler, route_of(request))

    return around


def _begin(request: web.Request, route: str) -> Exchange:
    request_id = request_id_of(request.headers.get("X-Request-ID"))
    method = request.method if request.method in _KNOWN_METHODS else "_OTHER"
    if route in _QUIET_ROUTES:
        return Exchange(method, route, request_id, None, "", None)
    span = _start_span(request, method, route)
    traceparent = traceparent_of(span)
    # It was made here, so its trace id is where it has to be.
    trace_id = traceparent[3:35]
    log.info("request_received", method=method, route=route, request_id=request_id, trace_id=trace_id)
    return Exchange(method, route, request_id, span, traceparent, trace_id)


def _start_span(request: web.Request, method: str, route: str) -> Span:
    given = request.headers.get("traceparent")
    trusted = route != PUBLIC_ROUTE
    return start_span(
        f"{'HTTP' if method == '_OTHER' else method} {route}",
        SpanKind.SERVER,
        parent=given if trusted else None,
        links=() if trusted else (given,),
        attributes=lambda: {
            "http.request.method": method,
            "http.route": route,
            # The path holds an id at most; the query is not repeated, somebody may put anything there.
            "url.path": request.rel_url.raw_path[:200],
            "url.scheme": request.scheme,
        },
    )


def _end(exchange: Exchange, status: int, error_type: str | None) -> None:
    duration_s = time.perf_counter() - exchange.begun
    http_requests(exchange.route, status).inc()
    http_seconds(exchange.route).observe(duration_s)
    span = exchange.span
    if span is None:
        return
    span.set_attribute("http.response.status_code", status)
    if exchange.notification_id is not None and span.is_recording():
        span.set_attribute("relevo.notification.id", str(exchange.notification_id))
    if status >= 500:
        fail_span(span, error_type or str(status))
    span.end()
    log.info(
        "request_answered",
        method=exchange.method,
        route=exchange.route,
        status=status,
        duration_ms=round(duration_s * 1000, 3),
        request_id=exchange.request_id,
        trace_id=exchange.trace_id,
        notification_id=exchange.notification_id,
    )
