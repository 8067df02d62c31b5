"""Validation has room for everybody: who sends slowly, or much, waits for nobody but for itself."""

import asyncio
import json

import pytest
from aiohttp.test_utils import make_mocked_request

from ingest import validate
from ingest.access import Access
from ingest.validate import RECORDS_PER_CLIENT_MAX, Validation

ACCESS = Access({"billing": ("billing-key",), "shop": ("shop-key",)}, open_on_loopback=False)


def asked(key):
    return make_mocked_request("POST", "/api/validate", headers={"Authorization": f"Bearer {key}"})


@pytest.fixture
def uploads(monkeypatch):
    """How many bodies of the shop are being read; they never end."""
    reading = []

    async def read(request, *, bytes_max):
        assert bytes_max > 1024
        if "shop" in request.headers["Authorization"]:
            reading.append(request)
            await asyncio.Event().wait()
        return b"[]"

    monkeypatch.setattr(validate, "read_body", read)
    return reading


async def test_slow_uploads_of_one_client_hold_up_no_other_and_are_bounded(uploads):
    validation = Validation(ACCESS)
    slow = [asyncio.create_task(validation.validate(asked("shop-key"))) for _ in range(9)]
    async with asyncio.timeout(5):
        answer = await validation.validate(asked("billing-key"))
    assert json.loads(answer.body)["items"]
    assert len(uploads) == RECORDS_PER_CLIENT_MAX
    for each in slow:
        each.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
