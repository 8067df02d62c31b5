"""Asking what the stream would say to a record, without producing it. Nothing is stored, nothing is sent."""

import asyncio
from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from ingest.access import Access
from ingest.requests import read_body
from schemas.messages import Notification
from schemas.records import TRACEPARENT_HEADER, Header, Rejection, read_requested
from schemas.results import now
from schemas.topics import REQUESTED

# How many records are judged at the same time: each may have 8 MiB, and at worst some twenty times that meanwhile.
RECORDS_MAX = 2
# How many one client may have in hand. Reading one takes as long as its sender likes, up to the time that a body has:
# who is slow holds up nobody else.
RECORDS_PER_CLIENT_MAX = 2


class Validation:
    """Judges records as the pipeline does, by the very same function."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._room = asyncio.Semaphore(RECORDS_MAX)
        # As many as there are clients, which settings name.
        self._rooms: dict[str, asyncio.Semaphore] = {}

    async def validate(self, request: web.Request) -> web.Response:
        """POST /api/validate: the body is a record's value, whatever it is; its CloudEvents attributes are headers."""
        client = self._access.client_of(request.headers, request.remote)
        headers = record_headers(request)
        async with self._rooms.setdefault(client, asyncio.Semaphore(RECORDS_PER_CLIENT_MAX)):
            value = await read_body(request, bytes_max=REQUESTED.record_bytes_max)
            async with self._room:
                # In a thread: a record of 8 MiB takes a second to judge, and nobody else shall wait for that.
                verdicts = await asyncio.to_thread(_judge, value, headers)
        return web.Response(body=verdicts, headers={"Content-Type": "application/json"})


def record_headers(request: web.Request) -> list[Header]:
    """
    Return what the headers of *request* would be as those of a record: the trace context, and each ce-* as ce_*.

    Source: the HTTP and Kafka protocol bindings of CloudEvents 1.0, sections 3.1.3 and 3.2.3.
    """
    return [
        (name.lower().replace("ce-", "ce_", 1), value.encode("utf-8", "surrogateescape"))
        for name, value in request.headers.items()
        if name.lower().startswith("ce-") or name.lower() == TRACEPARENT_HEADER
    ]


def _judge(value: bytes, headers: Sequence[Header]) -> bytes:
    return orjson.dumps({"items": [_verdict(each) for each in read_requested(value, headers, at=now())]})


def _verdict(found: tuple[int, Notification] | Rejection) -> dict[str, Any]:
    if not isinstance(found, Rejection):
        index, notification = found
        return {"index": index, "id": str(notification.id), "verdict": "accepted"}
    return {
        "index": found.index,
        "id": None if found.id is None else str(found.id),
        "verdict": "rejected",
        "code": found.code,
        "errors": [{"pointer": error.pointer, "code": error.code, "detail": error.detail} for error in found.errors],
    }
