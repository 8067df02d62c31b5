"""The operators' door of each service: /livez, /readyz, /metrics, on an address that the public does not reach."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from infra.health import Readiness


class OpsServer:
    """
    A small HTTP server beside the service's own work.

    /livez: 200 while the event loop turns. /readyz: 200, or 503 with the reasons. /metrics: Prometheus text.
    """

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness
        app = web.Application()
        app.add_routes(
            [
                web.get("/livez", self._livez),
                web.get("/readyz", self._readyz),
                web.get("/metrics", self._metrics),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False)

    async def start(self, host: str, port: int) -> int:
        """
        Listen; 0 takes a free port.

        Returns:
            The port.
        Raises:
            OSError: the port is taken.
        """
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _livez(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        reasons = self._readiness.reasons
        return web.json_response({"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
