"""The application: which path is whose, in both spellings, and the server around it."""

import asyncio
from collections.abc import Awaitable, Mapping
from typing import cast

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from infra.logs import get_logger
from ingest.batch import Batches
from ingest.contract import Contract
from ingest.cors import Cors
from ingest.exchange import Answering, Frame, Traffic, documented, framed, request_id_of
from ingest.handlers import Api, Health, Pages
from ingest.problems import Problem, problem_response
from ingest.reading import Reading
from ingest.replay_handlers import Replays
from ingest.scheduling import Scheduling
from ingest.stats import Stats
from ingest.validate import Validation
from ingest.webhooks import WebhookApi

# Above what proxies keep a connection for; also the longest that a head may take to arrive.
_KEEPALIVE_S = 75.0
# A client that is told 413 in the middle of its body may not read it if the connection is cut at once.
_LINGERING_S = 2.0
STOP_S_MAX = 10.0
# What is still under way after that is cut off.
_CUT_S_MAX = 0.5

log = get_logger()


class Straight:
    """
    The way of those requests of which there are thousands a second: from the server to their handler, in the frame.

    Everything else goes through the application, whose search for the route costs as much as half of a handler; these
    too, where their path is spelled otherwise, or has a query.
    """

    def __init__(self, frame: Frame, handlers: Mapping[str, Answering]) -> None:
        self._frame = frame
        self._handlers = {
            spelling: (handler, documented(path))
            for path, handler in handlers.items()
            for spelling in (path.rstrip("/"), f"{path.rstrip('/')}/")
        }

    def answer(self, request: web.BaseRequest, otherwise: Handler) -> Awaitable[web.StreamResponse]:
        """Return the answer to *request*, which *otherwise* gives if this is not its way."""
        found = self._handlers.get(request.raw_path) if request.method == hdrs.METH_POST else None
        assert isinstance(request, web.Request), "the application makes them"
        if found is None:
            return otherwise(request)
        handler, route = found
        return self._frame.answer(request, handler, route)


STRAIGHT = web.AppKey("straight", Straight)


def make_app(
    *,
    api: Api,
    batches: Batches,
    reading: Reading,
    scheduling: Scheduling,
    replays: Replays,
    validation: Validation,
    stats: Stats,
    webhooks: WebhookApi,
    contract: Contract,
    health: Health,
    pages: Pages,
    cors: Cors,
    traffic: Traffic,
) -> web.Application:
    """Return the application with every route that openapi.yaml names."""
    frame = Frame(cors, traffic)
    app = web.Application(middlewares=[framed(frame)])
    app[STRAIGHT] = Straight(
        frame, {"/api/contact/": api.contact, "/api/notify/": api.notify, "/api/notify/batch": batches.notify}
    )
    by_path: dict[str, dict[str, Handler]] = {}
    for method, path, handler in (
        (hdrs.METH_GET, "/healthz", health.healthz),
        (hdrs.METH_GET, "/livez", health.livez),
        (hdrs.METH_GET, "/readyz", health.readyz),
        (hdrs.METH_POST, "/api/contact/", _as_handler(api.contact)),
        (hdrs.METH_POST, "/api/notify/", _as_handler(api.notify)),
        (hdrs.METH_POST, "/api/notify/batch", _as_handler(batches.notify)),
        (hdrs.METH_GET, "/api/notifications", reading.page),
        (hdrs.METH_GET, "/api/notifications/{id}", reading.status),
        (hdrs.METH_DELETE, "/api/notifications/{id}", scheduling.cancel),
        (hdrs.METH_PATCH, "/api/notifications/{id}", scheduling.reschedule),
        (hdrs.METH_POST, "/api/replays", replays.order),
        (hdrs.METH_GET, "/api/replays", replays.page),
        (hdrs.METH_GET, "/api/replays/{id}", replays.status),
        (hdrs.METH_DELETE, "/api/replays/{id}", replays.cancel),
        (hdrs.METH_POST, "/api/validate", validation.validate),
        (hdrs.METH_GET, "/api/stats", stats.stats),
        (hdrs.METH_PUT, "/api/webhook", webhooks.set),
        (hdrs.METH_GET, "/api/webhook", webhooks.show),
        (hdrs.METH_DELETE, "/api/webhook", webhooks.remove),
        (hdrs.METH_POST, "/api/webhook/rotate", webhooks.rotate),
        (hdrs.METH_POST, "/api/webhook/test", webhooks.test),
        (hdrs.METH_POST, "/api/webhook/resend", webhooks.resend),
        (hdrs.METH_GET, "/api/webhook/deliveries", webhooks.deliveries),
        (hdrs.METH_GET, "/schemas/{name}", contract.schema),
        (hdrs.METH_GET, "/asyncapi.yaml", contract.asyncapi),
        (hdrs.METH_GET, "/openapi.yaml", pages.openapi),
        (hdrs.METH_GET, "/docs", pages.docs),
    ):
        by_path.setdefault(path, {})[method] = handler
    for path, handlers in by_path.items():
        _add(app, path, handlers)
    return app


def _as_handler(answering: Answering) -> Handler:
    # The frame takes documents too, which aiohttp's type of a handler does not know.
    return cast("Handler", answering)


def _add(app: web.Application, path: str, handlers: Mapping[str, Handler]) -> None:
    """Add *path* with its handlers by method."""
    all_of_them = {hdrs.METH_HEAD: handlers[hdrs.METH_GET], **handlers} if hdrs.METH_GET in handlers else handlers
    allowed = ", ".join(sorted({hdrs.METH_OPTIONS, *all_of_them}))

    async def options(_request: web.Request) -> web.Response:
        return web.Response(status=204, headers={hdrs.ALLOW: allowed})

    bare = path.rstrip("/")
    # Both spellings, no redirect: a client that follows one with GET would lose its body.
    for spelling in (bare, f"{bare}/"):
        resource = app.router.add_resource(spelling)
        resource.add_route(hdrs.METH_OPTIONS, options, expect_handler=_expect_later)
        for method, handler in all_of_them.items():
            resource.add_route(method, handler, expect_handler=_expect_later)


async def _expect_later(_request: web.Request) -> None:
    """Say nothing yet: "100 Continue" comes from whoever wants the body, after a look at the rest of the head."""


class _Protocol(web.RequestHandler):
    """One connection. What is not even HTTP gets a problem document too, instead of a page that repeats it."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        log.info("request_malformed", status=status, error=type(exc).__name__, part=bool(message))
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        response = problem_response(
            Problem("bad_request" if status < 500 else "internal_error"),
            instance="/",
            request_id=request_id_of(None),
            trace_id=None,
        )
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class Door(web.AppRunner):
    """The public door: listens, and ends without cutting off who is being served."""

    def __init__(self, app: web.Application, traffic: Traffic) -> None:
        self._traffic = traffic
        super().__init__(
            app,
            access_log=None,
            handle_signals=False,
            shutdown_timeout=_CUT_S_MAX,
            keepalive_timeout=_KEEPALIVE_S,
            lingering_time=_LINGERING_S,
            # A compressed body is refused; it must not be unpacked while it is thrown away.
            auto_decompress=False,
        )

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        straight, otherwise = self.app[STRAIGHT], server.request_handler

        def answer(request: web.BaseRequest) -> Awaitable[web.StreamResponse]:
            return straight.answer(request, otherwise)

        return _Server(
            answer,
            request_factory=server.request_factory,
            loop=asyncio.get_running_loop(),
            **self._kwargs,
        )

    async def open(self, host: str, port: int) -> int:
        """
        Listen; 0 takes a free port.

        Returns:
            The port.
        Raises:
            OSError: the port is taken.
        """
        await self.setup()
        await web.TCPSite(self, host, port, backlog=1024).start()
        return int(self.addresses[0][1])

    async def close(self) -> None:
        """Take no new connection, answer what is under way within STOP_S_MAX, and end."""
        for site in self.sites:
            await site.stop()
        # aiohttp's own shutdown stops reading at once, so a request whose body is still coming would be cut off.
        await self._traffic.end(STOP_S_MAX)
        await self.cleanup()
