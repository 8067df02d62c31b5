"""Dry runs: each client has one at a time, and waits for nobody else's."""

import asyncio

import pytest
from aiohttp.test_utils import make_mocked_request

from ingest import replay_handlers
from ingest.access import Access
from ingest.problems import ProblemError
from ingest.replay_handlers import Replays
from ingest.replay_store import Count


class Limits:
    def __init__(self):
        self.charged = []

    async def of_order(self, client):
        self.charged.append(client)


class Store:
    """Counts until it is told to end."""

    def __init__(self):
        self.end = asyncio.Event()

    async def count(self, client, _wanted, *, within_s):
        assert within_s > 0
        if client == "shop":
            await self.end.wait()
        return Count(1, {}, complete=True)


@pytest.fixture(autouse=True)
def body(monkeypatch):
    async def read(_request):
        return {"status": ["failed"], "dry_run": True}

    monkeypatch.setattr(replay_handlers, "read_json", read)


def asked(client):
    return make_mocked_request("POST", "/api/replays", headers={"Authorization": f"Bearer {client}-key"})


async def test_a_client_has_one_dry_run_at_a_time_and_holds_up_nobody_else():
    access = Access({"billing": ("billing-key",), "shop": ("shop-key",)}, open_on_loopback=False)
    store, limits = Store(), Limits()
    replays = Replays(store, access, limits)
    first = asyncio.create_task(replays.order(asked("shop")))
    await asyncio.sleep(0)
    with pytest.raises(ProblemError, match="rate_limited") as refused:
        await replays.order(asked("shop"))
    assert int(refused.value.headers["Retry-After"]) > 0
    async with asyncio.timeout(5):
        assert (await replays.order(asked("billing"))).status == 200
    store.end.set()
    assert (await first).status == 200
    assert (await replays.order(asked("shop"))).status == 200, "its room is free again"
    assert limits.charged == ["shop", "shop", "billing", "shop"]
