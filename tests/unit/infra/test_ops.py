"""The operators' door."""

import aiohttp
import pytest

from infra.health import Readiness
from infra.ops import OpsServer


@pytest.fixture
async def door():
    readiness = Readiness("start")
    server = OpsServer(readiness)
    port = await server.start("127.0.0.1", 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client:
        yield readiness, client, port
    await server.stop()


async def test_readiness_tells_its_reasons(door):
    readiness, client, _ = door
    async with client.get("/readyz") as answer:
        assert (answer.status, await answer.json()) == (503, {"ready": False, "reasons": {"start": "starting"}})
    readiness.green("start")
    async with client.get("/readyz") as answer:
        assert (answer.status, await answer.json()) == (200, {"ready": True, "reasons": {}})


async def test_who_is_not_ready_lives_all_the_same(door):
    _, client, _ = door
    async with client.get("/livez") as answer:
        assert (answer.status, await answer.json()) == (200, {"status": "ok"})


async def test_the_metrics_are_prometheus_text(door):
    _, client, _ = door
    async with client.get("/metrics") as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/plain; version=")
        assert "# TYPE relevo_accepted_total counter" in await answer.text()


async def test_nothing_else_is_there(door):
    _, client, _ = door
    async with client.get("/") as answer:
        assert answer.status == 404
    async with client.post("/readyz") as answer:
        assert answer.status == 405


async def test_a_port_that_is_taken_is_an_os_error(door):
    _, _, port = door
    second = OpsServer(Readiness())
    with pytest.raises(OSError, match="address already in use"):
        await second.start("127.0.0.1", port)
    await second.stop()
