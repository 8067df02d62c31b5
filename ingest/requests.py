"""Requests: reading a body safely. No more of it than is allowed, and no longer than is allowed."""

import asyncio
from typing import Any

from aiohttp import hdrs, web

from ingest.problems import ProblemError
from schemas.json_text import parse_json
from schemas.limits import HTTP_BODY_BYTES_MAX

BODY_S_MAX = 10.0


async def read_json(request: web.Request) -> Any:
    """
    Read the body, no more of it than is allowed and no longer than is allowed, and parse it.

    Raises:
        ProblemError: unsupported_media_type, body_too_large, body_timeout or bad_request.
        InvalidRequestError: invalid_json.
    """
    # Before a byte is read: a compressed body of a megabyte may hold a gigabyte.
    if hdrs.CONTENT_ENCODING in request.headers or not _is_json(request):
        raise ProblemError("unsupported_media_type")
    if (request.content_length or 0) > HTTP_BODY_BYTES_MAX:
        raise ProblemError("body_too_large")
    if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        async with asyncio.timeout(BODY_S_MAX):
            return parse_json(await _read_bytes(request))
    except TimeoutError:
        raise ProblemError("body_timeout") from None
    except web.RequestPayloadError:
        raise ProblemError("bad_request") from None


def _is_json(request: web.Request) -> bool:
    return request.content_type == "application/json" and (request.charset or "utf-8").lower() in {"utf-8", "utf8"}


async def _read_bytes(request: web.Request) -> bytes:
    body = bytearray()
    while chunk := await request.content.readany():
        body += chunk
        if len(body) > HTTP_BODY_BYTES_MAX:
            raise ProblemError("body_too_large")
    return bytes(body)
